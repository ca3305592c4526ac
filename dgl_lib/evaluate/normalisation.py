"""Normalisation as a studied choice: every method under each of ``WAYS``, the same for all of them."""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dgl_lib import metrics
from dgl_lib.data.records import Dataset
from dgl_lib.evaluate.compare import select
from dgl_lib.evaluate.raw import Maps, Pair
from dgl_lib.evaluate.scores import each_image
from dgl_lib.files import kept, key_of
from dgl_lib.maps import PAS, normalise, resize, to_uint8

FORMAT = 1  # raised when what is kept on disk changes its meaning
#: Normalisations and their percentile (0 where there is none); "ivr" chooses among its own on validation.
WAYS = [("minmax", 0.0), ("max", 0.0), ("pas", PAS), *(("ivr", p) for p in (0.15, 0.3, 0.45, 0.6, 0.75))]


def normalised(
    dataset: Dataset, maps: Maps, pairs: Sequence[Pair], folder: Path, *, progress: bool = False
) -> dict[Pair, np.ndarray]:
    """IoU at 256 thresholds of every image in each of ``WAYS``, (ways, images, 256) float32; kept in ``folder``.
    Raw map -> bilinear resize to the photograph -> normalise -> ``round(255 m)``. For "minmax" this is the study's own
    order at one scale without closing, as min-max before a bilinear resize changes it by a factor and a constant."""

    @cache
    def record(i: int) -> tuple[np.ndarray, np.ndarray | None]:
        one = dataset[i]
        assert one.mask is not None
        return one.mask, one.ignore

    def curves(m: np.ndarray, i: int) -> np.ndarray:
        mask, ignore = record(i)
        resized = resize(torch.from_numpy(m[i]), mask.shape)
        q = (to_uint8(normalise(resized, how, percentile=p)) for how, p in WAYS)
        return np.stack([metrics.iou(metrics.histograms(one, mask, ignore)) for one in q]).astype(np.float32)

    def compute(pair: Pair) -> dict[str, np.ndarray]:
        of, what = partial(curves, maps.maps[pair]), f"normalisations, {pair[0]}, {dataset.split}"
        return {"iou": np.stack(each_image(range(len(dataset)), of, what, progress), 1)}

    facts = {"data": dataset.digest, "ways": WAYS, "format": FORMAT}
    files = {pair: folder / f"normalised-{key_of(facts, [maps.maps[pair]])}.npz" for pair in pairs}
    return {pair: kept(file, partial(compute, pair))["iou"] for pair, file in files.items()}


def sweep(val: Mapping[Pair, np.ndarray], test: Mapping[Pair, np.ndarray], pairs: Sequence[Pair]) -> pd.DataFrame:
    """Every method under every normalisation and percentile, its threshold chosen on validation (percent).
    Columns: method, layer, normalisation, percentile, threshold, val_iou, iou, low, high, test_peak."""
    table = []
    for pair, (k, (how, percentile)) in product(pairs, enumerate(WAYS)):
        before, after = (curves[pair][k].astype(np.float64).mean(0) for curves in (val, test))
        t = int(before.argmax())
        found = metrics.bootstrap(100 * test[pair][k, :, t])
        which = {"method": pair[0], "layer": pair[1], "normalisation": how, "percentile": percentile}
        cells = {"threshold": t, "val_iou": 100 * before[t], "iou": found.mean, "low": found.low, "high": found.high}
        table.append({**which, **cells, "test_peak": 100 * after.max()})
    return pd.DataFrame(table)


def normalisations(swept: pd.DataFrame, test: Mapping[Pair, np.ndarray], chosen: pd.DataFrame) -> pd.DataFrame:
    """Each method under each normalisation, its percentile chosen on validation, with its place among the methods.
    A baseline is not normalised: its line is the same under each. Columns: ``sweep``'s, ``select``'s, kind; change,
    change_low, change_high, change_verdict (points, paired, against min-max); rank (by test IoU, of methods only)."""
    table = select(swept, by=["method", "normalisation"])
    table["kind"] = table["method"].map(chosen.set_index("method")["kind"])
    changes, images = [], {}
    for line in table.to_dict("records"):
        way = WAYS.index((line["normalisation"], line["percentile"]))
        values = 100 * test[line["method"], line["layer"]][way, :, line["threshold"]].astype(np.float64)
        images[line["method"], line["normalisation"]] = values
        change = metrics.bootstrap(values - images[line["method"], "minmax"])
        changes.append({**change.cells("change"), "change_verdict": change.verdict()})
    table = table.join(pd.DataFrame(changes))
    methods = table[table["kind"] == "method"]
    table["rank"] = methods["iou"].round(1).groupby(methods["normalisation"]).rank(ascending=False, method="min")
    trivial = chosen.loc[chosen["kind"] == "baseline", [name for name in table if name in chosen]]
    return pd.concat([table, *(trivial.assign(normalisation=how) for how in dict(WAYS))], ignore_index=True)
