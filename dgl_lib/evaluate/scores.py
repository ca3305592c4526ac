"""Raw maps -> post-processing in the study's one order -> histograms of every image -> one tidy table.

The network is not needed here. Everything that is chosen or compared later follows from the histograms.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from dgl_lib import metrics
from dgl_lib.data.records import Dataset, Record
from dgl_lib.errors import UserError
from dgl_lib.evaluate.raw import Maps, in_parts, parts_folder
from dgl_lib.maps import centred_gaussian, close, fuse, minmax, multiscale, to_uint8, whole_image

BASELINES = {"whole_image": whole_image, "centred_gaussian": centred_gaussian}
#: Score of each image at every threshold, (images, 256) in 0..1, from histograms (images, 4, 256).
MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "iou": metrics.iou,
    "recall_rest": partial(metrics.recall, region=metrics.REST),
    "recall_part": partial(metrics.recall, region=metrics.PART),
    "precision": metrics.precision,
}
#: The scales of a setting, and its closing kernel as a fraction of the side.
Setting = tuple[tuple[float, ...], float]
SINGLE: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Scores:
    """Histograms of every row (a method, layer and setting) and image.

    Attributes:
        rows: (rows) with columns method, layer, scales, kernel.
        hist: (rows, images, 4, 256) int32, regions as ``metrics.REGIONS``.
        names, labels: of the images, in order.
        has_part: (images) bool, whether the telling part is known.
    """

    rows: pd.DataFrame
    hist: np.ndarray
    names: list[str]
    labels: np.ndarray
    has_part: np.ndarray

    def find(self, **wanted: object) -> np.ndarray:
        """The histograms (images, 4, 256) of the one row with these values. UserError unless exactly one has them."""
        found = np.flatnonzero(np.logical_and.reduce([self.rows[key] == value for key, value in wanted.items()]))
        if len(found) != 1:
            raise UserError(f"{len(found)} rows with {wanted}, exactly one needed")
        return self.hist[found[0]]

    def where(self, wanted: Sequence[bool] | np.ndarray | pd.Series) -> Scores:
        """The rows for which ``wanted`` is true."""
        keep = np.flatnonzero(wanted)
        rows = self.rows.iloc[keep].reset_index(drop=True)
        return Scores(rows, self.hist[keep], self.names, self.labels, self.has_part)

    def join(self, other: Scores) -> Scores:
        """Both tables' rows, of the same images."""
        if self.names != other.names:
            raise UserError("scores of different images cannot stand in one table")
        rows = pd.concat([self.rows, other.rows], ignore_index=True)
        return Scores(rows, np.concatenate([self.hist, other.hist]), self.names, self.labels, self.has_part)

    def table(self, val: Scores) -> pd.DataFrame:
        """One row an image, method, layer and setting: the image's scores at the threshold chosen on ``val``.

        Returns:
            columns method, layer, scales, kernel, threshold (0..255), image, label; iou, miou, precision, recall_part,
            recall_rest in percent. NaN where there is nothing to measure, such as a part that is not known.
        """
        table = []
        for i, row in enumerate(self.rows.to_dict("records")):
            which: dict[str, Any] = {str(key): value for key, value in row.items()}
            t, hist = choose(val.find(**which)), self.hist[i]
            cells = {name: 100 * curve(hist)[:, t] for name, curve in (MEASURES | {"miou": metrics.miou}).items()}
            for name in ("recall_part", "recall_rest"):
                cells[name] = np.where(self.has_part, cells[name], np.nan)
            order = ["iou", "miou", "precision", "recall_part", "recall_rest"]
            images = {"image": self.names, "label": self.labels}
            table.append(pd.DataFrame({**which, "threshold": t, **images, **{name: cells[name] for name in order}}))
        return pd.concat(table, ignore_index=True)


def score(
    dataset: Dataset,
    maps: dict[float, Maps],
    settings: Sequence[Setting] = ((SINGLE, 0.0),),
    *,
    methods: Sequence[str] | None = None,
    size: int | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Scores:
    """Post-process every map in the study's one order and count its pixels. The two trivial baselines come along.

    Args:
        maps: raw maps by scale.
        settings: (scales, closing kernel) pairs, one row each for every method and layer.
        methods: which of the maps' methods to score; None for all.
        size: side of the square that maps and masks are compared at; None for the photograph's own size, as LID does.
        folder: where parts are kept, below a name made of all that determines them. None keeps nothing.

    An image whose mask holds no object pixel has nothing to be found. It is left out, and a warning counts such images.

    Raises:
        UserError: no image, a record without a mask, or no image with an object.
    """
    what = f"{dataset.name} {dataset.split}"
    if not len(dataset):
        raise UserError(f"{what}: no image given, at least one needed")
    pairs = [pair for pair in next(iter(maps.values())).maps if methods is None or pair[0] in methods]
    rows = [
        {"method": method, "layer": layer, "scales": name_scales(scales), "kernel": kernel}
        for method, layer in pairs
        for scales, kernel in settings
    ]
    rows += [{"method": name, "layer": "", "scales": "", "kernel": 0.0} for name in BASELINES]

    def counted(indices: range) -> dict[str, np.ndarray]:
        images = [_histograms(dataset[i], i, maps, settings, pairs, size) for i in indices]
        hist, has_object, has_part = map(np.array, zip(*images, strict=True))
        return {"hist": hist, "has_object": has_object, "has_part": has_part}

    parts = None
    if folder is not None:
        facts = {"data": dataset.digest, "maps": _fingerprint(maps, pairs), "settings": settings, "size": size}
        parts = parts_folder(folder, "scores", facts)
    found = in_parts(len(dataset), counted, parts, f"scoring {what}", progress)
    there, has_part = found["has_object"], found["has_part"]
    if not there.any():
        raise UserError(f"{what}: no mask holds an object pixel, at least one needed")
    if not there.all():
        warnings.warn(f"{what}: {(~there).sum()} images without an object left out", stacklevel=2)
    names = [name for name, here in zip(dataset.names, there, strict=True) if here]
    hist = np.ascontiguousarray(found.pop("hist").swapaxes(0, 1)[:, there])
    return Scores(pd.DataFrame(rows), hist, names, dataset.labels[there], has_part[there])


def _histograms(
    record: Record,
    i: int,
    maps: dict[float, Maps],
    settings: Sequence[Setting],
    pairs: Sequence[tuple[str, str]],
    size: int | None,
) -> tuple[np.ndarray, bool, bool]:
    """Image i's histograms (rows, 4, 256) int32, 0 without an object; whether it has one; whether its part is known."""
    if record.mask is None:
        raise UserError(f"{record.name}: no mask, one is needed to score pixels")
    mask, ignore, part = (_at_size(m, size) for m in (record.mask, record.ignore, record.part))
    assert mask is not None
    hist = np.zeros((len(pairs) * len(settings) + len(BASELINES), 4, 256), np.int32)
    if not mask.any():
        return hist, False, part is not None
    for together in _batches([tuple(maps[s].maps[pair].shape for s in maps) for pair in pairs], mask.size):
        by_scale = {s: np.stack([maps[s].maps[pairs[k]][i] for k in together]) for s in maps}
        for j, processed in enumerate(_process(by_scale, settings, mask.shape)):
            for k, q in zip(together, to_uint8(processed), strict=True):
                hist[k * len(settings) + j] = metrics.histograms(q, mask, ignore, part)
    for row, baseline in enumerate(BASELINES.values(), start=len(hist) - len(BASELINES)):
        hist[row] = metrics.histograms(to_uint8(baseline(mask.shape)), mask, ignore, part)
    return hist, True, part is not None


def _batches(shapes: Sequence[object], pixels: int) -> Iterator[list[int]]:
    """Indices of maps that can be post-processed together: of one shape, a few MB of ``pixels`` each at a time."""
    count = max(1, 2**20 // pixels)
    for shape in dict.fromkeys(shapes):
        alike = [k for k, other in enumerate(shapes) if other == shape]
        yield from (alike[start : start + count] for start in range(0, len(alike), count))


def _process(
    by_scale: dict[float, np.ndarray], settings: Sequence[Setting], size: tuple[int, int]
) -> Iterator[torch.Tensor]:
    """One image's maps (maps, h, w) under each setting, (maps, H, W) in 0..1. Shared scales are merged once."""
    merged: dict[tuple[float, ...], torch.Tensor] = {}
    for scales, _ in settings:
        if scales not in merged:
            merged[scales] = multiscale([torch.from_numpy(by_scale[s]) for s in scales], size)
    return (minmax(close(merged[scales], kernel)) for scales, kernel in settings)


def _at_size(pixels: np.ndarray | None, size: int | None) -> np.ndarray | None:
    """A mask at ``size`` x ``size``, by nearest neighbour; as it is for None."""
    if pixels is None or size is None:
        return pixels
    as_float = torch.from_numpy(pixels.astype(np.float32))[None, None]  # a copy: kept masks are read-only
    return nn.functional.interpolate(as_float, size=(size, size), mode="nearest-exact")[0, 0].numpy() > 0.5


def _fingerprint(maps: dict[float, Maps], pairs: Sequence[tuple[str, str]]) -> str:
    """SHA-256 of these pairs' maps at every scale, with their names."""
    hashed = hashlib.sha256()
    for scale, at_scale in maps.items():
        for pair in pairs:
            m = np.ascontiguousarray(at_scale.maps[pair])
            hashed.update(f"{scale} {pair} {m.shape} {m.dtype}".encode())
            hashed.update(m.data)
    return hashed.hexdigest()


def each_image(count: int, of: Callable[[int], Any], what: str, progress: bool) -> list[Any]:
    """``of`` each image, several at a time: OpenCV and torch let go of the interpreter while they work."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(tqdm(pool.map(of, range(count)), total=count, desc=what, unit="image", disable=not progress))


def name_scales(scales: Sequence[float]) -> str:
    """A setting's scales as they stand in tables: ``"0.75+1+1.25"``."""
    return "+".join(f"{s:g}" for s in scales)


def fusions(enhanced: np.ndarray, selected: np.ndarray) -> dict[str, np.ndarray]:
    """Readings (b) and (c) of "both branches fused": mean and maximum of the two branches' min-maxed maps."""
    pair = [torch.from_numpy(enhanced), torch.from_numpy(selected)]
    return {"fused_mean": fuse(pair, "mean").numpy(), "fused_max": fuse(pair, "max").numpy()}


# --------------------------------------------------------------------------------------- one threshold, one table


def choose(hist: np.ndarray) -> int:
    """The one threshold with the best mean IoU over the (validation) images; hist (images, 4, 256)."""
    return int(metrics.iou(hist).mean(0).argmax())


def per_image(val: Scores, images: Scores, row: dict[str, Any], measure: str = "iou") -> np.ndarray:
    """One row's score of each image (images,) in percent, at the row's own threshold, chosen on ``val`` by IoU.

    ``measure`` is a key of ``MEASURES``. NaN where an image has nothing to measure, such as a part of no pixels.
    """
    return 100 * MEASURES[measure](images.find(**row))[:, choose(val.find(**row))]


def report(val: Scores, test: Scores) -> pd.DataFrame:
    """Every row's test scores in percent at the threshold chosen on validation, with 95 % bootstrap intervals.

    Columns: method, layer, scales, kernel; ``threshold`` (0..255) and ``val_iou`` at it; ``iou``, ``low``, ``high``
    (foreground IoU, mean over test images); ``iou_pooled``; ``miou`` (over object and background, mean over images);
    ``precision``, ``recall_part``, ``recall_rest``. ``test_peak`` and ``test_peak_threshold`` are what LID's protocol
    takes, and have names of their own because they are chosen on test.
    """
    table = []
    for i, row in enumerate(val.rows.to_dict("records")):
        hist = test.find(**{str(key): value for key, value in row.items()})
        t = choose(val.hist[i])
        curve = metrics.iou(hist)
        found, peak = metrics.bootstrap(curve[:, t]), metrics.Curve(curve.mean(0))
        part = hist[test.has_part]
        table.append(
            {
                **row,
                "threshold": t,
                "val_iou": 100 * metrics.iou(val.hist[i])[:, t].mean(),
                "iou": 100 * found.mean,
                "low": 100 * found.low,
                "high": 100 * found.high,
                "iou_pooled": 100 * metrics.iou(hist.sum(0))[t],
                "miou": 100 * metrics.miou(hist)[:, t].mean(),
                "precision": 100 * _mean(metrics.precision(hist)[:, t]),
                "recall_part": 100 * _mean(metrics.recall(part, metrics.PART)[:, t]),
                "recall_rest": 100 * _mean(metrics.recall(part, metrics.REST)[:, t]),
                "test_peak": 100 * peak.peak,
                "test_peak_threshold": peak.threshold,
            }
        )
    return pd.DataFrame(table)


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are numbers; NaN where none is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def gain(val: Scores, test: Scores, row: dict[str, Any], over: dict[str, Any]) -> metrics.Interval:
    """Paired gain in mean test IoU (points) of ``row`` over another, each at its own validation-chosen threshold."""
    a, b = (MEASURES["iou"](test.find(**r))[:, choose(val.find(**r))] for r in (row, over))
    return metrics.bootstrap(100 * (a - b))
