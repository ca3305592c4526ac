"""Choosing on validation, once and for everybody, and paired differences on test, image by image."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from dgl_lib import metrics
from dgl_lib.errors import UserError
from dgl_lib.evaluate.raw import Maps, column
from dgl_lib.evaluate.scores import BASELINES, Scores, per_image
from dgl_lib.localize import CONTROLS
from dgl_lib.metrics import bootstrap


def select(
    table: pd.DataFrame, by: Sequence[str] = ("method",), *, val: str = "val_iou", peak: str = "test_peak"
) -> pd.DataFrame:
    """The row of each group with the best validation score ``val``, the first where several tie, groups in their order.
    ``table`` holds a row for each candidate, as ``report`` gives them, and ``by`` names the groups. Added columns are
    ``candidates``, their number, and ``test_best``, the highest ``peak`` among them: what choosing on test would
    promise. UserError: a missing column, no row, or a validation score that is no number."""
    if missing := [name for name in (*by, val, peak) if name not in table]:
        raise UserError(f"columns {', '.join(missing)} missing, given are {', '.join(map(str, table.columns))}")
    if table.empty:
        raise UserError("selection: no candidate given, at least one needed")
    if not np.isfinite(table[val]).all():
        raise UserError(f"{val}: {(~np.isfinite(table[val])).sum()} of {len(table)} values are no numbers")
    table = table.reset_index(drop=True)
    groups = table.groupby(list(by), sort=False, dropna=False)
    counts, best = groups.size().to_numpy(), groups[peak].max().to_numpy()
    return table.loc[groups[val].idxmax()].assign(candidates=counts, test_best=best).reset_index(drop=True)


def with_parts(val: Scores, test: Scores, at_least: int = 30) -> tuple[Scores, str]:
    """The images whose telling part is known, and where they are from: "test", or "validation" if test has too few.
    Thresholds come from validation, so on its images they are a little too kind, to every method alike."""
    images, where = (test, "test") if test.has_part.sum() >= at_least else (val, "validation")
    keep = np.flatnonzero(images.has_part)
    names = [images.names[i] for i in keep]
    hist = [of_row[keep] for of_row in images.hist]
    return Scores(images.rows, hist, names, images.labels[keep], images.has_part[keep]), where


def image_table(val: Scores, test: Scores, classes: Sequence[str]) -> pd.DataFrame:
    """One line a test image: what every map scores there, so that any comparison can be made without the network.
    Columns: image, class, area (the object's share of the pixels that count, percent), then one for each row of the
    scores, named by ``column``: IoU in percent at the row's own threshold, chosen on validation."""
    pixels = test.hist[0].sum(-1)  # images x regions
    area = 100 * (pixels[:, metrics.REST] + pixels[:, metrics.PART]) / pixels[:, : metrics.IGNORE].sum(1)
    table: dict[str, Any] = {"image": test.names, "class": [classes[label] for label in test.labels], "area": area}
    return pd.DataFrame(table | {column(row): per_image(val, test, row) for row in val.rows.to_dict("records")})


def log_p_c(maps: Maps, labels: np.ndarray) -> np.ndarray:
    """log p_c of each image's label, (images,) float64: p_c itself is 1 for many, their order is not."""
    logits = maps.logits.astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    return logits[np.arange(len(labels)), labels] - np.log(np.exp(logits).sum(1))


def recalls(val: Scores, images: Scores, rows: Sequence[Mapping[Any, Any]]) -> pd.DataFrame:
    """How much of the telling part and of the rest each row finds, how precisely, and "gap": part minus rest, paired.
    Columns: method, layer, measure (recall_rest, recall_part, precision, gap), mean, low, high (percent), images."""
    names = [{"method": row["method"], "layer": row["layer"]} for row in rows]
    every = product(range(len(names)), ("recall_rest", "recall_part", "precision"))
    found = {(k, measure): per_image(val, images, names[k], measure) for k, measure in every}
    found |= {(k, "gap"): found[k, "recall_part"] - found[k, "recall_rest"] for k in range(len(names))}
    return pd.DataFrame([{**names[k], "measure": m, **bootstrap(values).row()} for (k, m), values in found.items()])


def choose_layers(scores: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Each method at the layer with its highest IoU on validation, the best method first.
    ``scores`` are the ``report`` of one setting, and ``images`` the ``image_table`` of the same scores. Columns: kind
    (method, control, baseline), those of ``scores``, and the paired gain in test IoU (points) over the trivial baseline
    that is better on validation: over, over_low, over_high, over_verdict."""
    table = select(scores).drop(columns=["candidates", "test_best"])
    table = table.sort_values("val_iou", ascending=False, kind="stable").reset_index(drop=True)
    kinds = dict.fromkeys(CONTROLS, "control") | dict.fromkeys(BASELINES, "baseline")
    table.insert(0, "kind", [kinds.get(method, "method") for method in table["method"]])
    trivial = images[table.loc[table["kind"] == "baseline", "method"].iloc[0]]
    over = [bootstrap(images[column(row)] - trivial) for row in table.to_dict("records")]
    return table.join(pd.DataFrame([{**one.cells("over"), "over_verdict": one.verdict()} for one in over]))


def gains(chosen: pd.DataFrame, images: pd.DataFrame, layer: str) -> pd.DataFrame:
    """DGL minus every other map: paired differences in test IoU, points. DGL stands at its chosen layer, and on
    ``layer``. The other stands at its own chosen layer ("own"), and on DGL's ("same") where it exists there; CAM does
    on the last layer only. Columns: dgl_layer, at (own, same), method, layer, mean, low, high, images, verdict."""
    own, table = dict(zip(chosen["method"], chosen["layer"], strict=True)), []
    for dgl_layer, method, at in product(dict.fromkeys([own["dgl"], layer]), own, ("own", "same")):
        row = {"method": method, "layer": own[method] if at == "own" else dgl_layer}
        if method != "dgl" and column(row) in images:
            gain = bootstrap(images[f"dgl {dgl_layer}"] - images[column(row)])
            table.append({"dgl_layer": dgl_layer, "at": at, **row, **gain.row(), "verdict": gain.verdict()})
    return pd.DataFrame(table)


def gradient_share(both: np.ndarray, term: np.ndarray) -> np.ndarray:
    """cov(term, both) / var(both) over the cells of each map (images, h, w): a term's share of DGL's map, (images,).
    The shares of the two terms sum to 1. One is negative where it works against the map. NaN: a constant map."""
    both, term = (m.reshape(len(m), -1).astype(np.float64) for m in (both, term))
    both, term = (m - m.mean(1, keepdims=True) for m in (both, term))
    variance = (both**2).sum(1)
    return np.where(variance > 0, (term * both).sum(1) / np.where(variance > 0, variance, 1), np.nan)
