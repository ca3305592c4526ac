"""Raw maps -> post-processing in the study's one order -> histograms of every image -> one tidy table. No network."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress, groupby
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from dgl_lib import metrics
from dgl_lib.data.records import Dataset, Record
from dgl_lib.errors import UserError
from dgl_lib.evaluate.raw import Maps, in_parts, parts_folder
from dgl_lib.maps import centred_gaussian, close, minmax, multiscale, to_uint8
from dgl_lib.several import CORES

#: Maps (H, W) of a size that look at no image.
BASELINES: dict[str, Callable[[tuple[int, int]], torch.Tensor]] = {
    "whole_image": torch.ones,
    "centred_gaussian": centred_gaussian,
}
#: Score of each image at every threshold, (images, 256) in 0..1 or NaN, from histograms (images, 4, 256).
MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "iou": metrics.iou,
    "miou": metrics.miou,
    "precision": metrics.precision,
    "recall_part": partial(metrics.recall, region=metrics.PART),
    "recall_rest": partial(metrics.recall, region=metrics.REST),
}
Setting = tuple[tuple[float, ...], float]  # scales, and the closing kernel as a fraction of the side
SINGLE: tuple[float, ...] = (1.0,)
AT_ONCE = 1000  # images
Choices = Mapping[tuple[Any, ...], tuple[int, float]]  # by a row's values: its threshold, and its mean IoU there


@dataclass(frozen=True)
class Scores:
    """Histograms of every row (method, layer and setting) on every image."""

    rows: pd.DataFrame  # columns method, layer, scales, kernel
    hist: Sequence[np.ndarray]  # of each row, (images, 4, 256) int32: ``metrics.histograms`` of every image
    names: list[str]  # of the images
    labels: np.ndarray  # (images,) int64
    has_part: np.ndarray  # (images,) bool, whether an image's telling part is known

    def __iter__(self) -> Iterator[Self]:
        """``AT_ONCE`` images at a time, so that what is made of them part by part takes no more memory for more."""
        for start in range(0, max(1, len(self.names)), AT_ONCE):
            yield self.at(slice(start, start + AT_ONCE))

    def at(self, images: slice) -> Self:
        """The scores of these images, no copies."""
        of = {name: getattr(self, name)[images] for name in ("names", "labels", "has_part")}
        return replace(self, hist=[hist[images] for hist in self.hist], **of)

    def find(self, **wanted: object) -> np.ndarray:
        """The histograms (images, 4, 256) of the one row with these values. UserError unless exactly one has them."""
        found = np.flatnonzero(np.logical_and.reduce([self.rows[key] == value for key, value in wanted.items()]))
        if len(found) != 1:
            raise UserError(f"{len(found)} rows with {wanted}, exactly one needed")
        return self.hist[found[0]]

    def join(self, other: Self) -> Self:
        """The rows of both, no copies. A row that both have stands once. UserError: they are of other images."""
        if self.names != other.names:
            raise UserError("scores of different images cannot stand in one table")
        new = ~pd.MultiIndex.from_frame(other.rows).isin(pd.MultiIndex.from_frame(self.rows))
        rows = pd.concat([self.rows, other.rows[new]], ignore_index=True)
        return replace(self, rows=rows, hist=[*self.hist, *compress(other.hist, new)])

    def table(self, chosen: Choices) -> pd.DataFrame:
        """One row an image, method, layer and setting: the image's scores at the threshold that is chosen.
        Columns: method, layer, scales, kernel, threshold (0..255), image, label; iou, miou, precision, recall_part,
        recall_rest in percent. NaN where there is nothing to measure, such as a part that is not known."""
        table, rows = [], cast(list[Any], self.rows.to_dict("records"))
        for row, hist in zip(rows, self.hist, strict=True):
            t, _ = chosen[tuple(row.values())]
            cells = {name: 100 * curve(hist)[:, t] for name, curve in MEASURES.items()}
            cells |= {f"recall_{of}": np.where(self.has_part, cells[f"recall_{of}"], np.nan) for of in ("part", "rest")}
            table.append(pd.DataFrame({**row, "threshold": t, "image": self.names, "label": self.labels, **cells}))
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
    ``maps`` are raw maps by scale. Each of ``settings``, scales and closing kernel, makes a row for every layer of each
    of ``methods`` (None: all). Maps and masks are compared at a square of side ``size``, or as LID does at the
    photograph's own size (None). Parts are kept in ``folder`` below a name made of all that determines them. Images
    without an object are left out and counted in a warning. UserError: no image, or no mask."""
    what = f"{dataset.name} {dataset.split}"
    if not len(dataset):
        raise UserError(f"{what}: no image given, at least one needed")
    pairs = [pair for pair in next(iter(maps.values())).maps if methods is None or pair[0] in methods]
    maps, settings = {scale: m.only(pairs) for scale, m in maps.items()}, list(dict.fromkeys(settings))
    rows = [(*pair, name_scales(scales), kernel) for pair in pairs for scales, kernel in settings]
    rows += [(name, "", "", 0.0) for name in BASELINES]

    def counted(those: Sequence[range]) -> Iterator[dict[str, np.ndarray]]:
        for part in those:
            images = [_histograms(dataset[i], i, maps, settings, size) for i in part]
            every = {name: np.array([counts[name] for counts in images]) for name in images[0]}
            there = every["hist"][:, 0, [metrics.REST, metrics.PART]].any((1, 2))  # (images,), object pixels that count
            yield {name: values[there] for name, values in every.items()}

    parts = None
    if folder is not None:  # hashing takes a while
        hashed = hashlib.sha256()
        for scale, (pair, m) in ((scale, one) for scale, of in maps.items() for one in of.maps.items()):
            hashed.update(f"{scale} {pair} {m.shape} {m.dtype}".encode())
            hashed.update(np.ascontiguousarray(m).data)
        facts = {"data": dataset.digest, "maps": hashed.hexdigest(), "settings": settings, "size": size}
        facts["images"] = "with an object"  # parts that were kept before hold the others too
        parts = parts_folder(folder, "scores", facts)
    found = in_parts(len(dataset), counted, parts, f"scoring {what}", progress)
    image = found["image"]
    if left_out := len(dataset) - len(image):
        warnings.warn(f"{what}: {left_out} images without an object left out", stacklevel=2)
    table = pd.DataFrame(rows, columns=["method", "layer", "scales", "kernel"])
    hist = list(found["hist"].swapaxes(0, 1))  # rows, (images, 4, 256) each
    return Scores(table, hist, [dataset.names[i] for i in image], dataset.labels[image], found["has_part"])


def _histograms(
    record: Record, i: int, maps: dict[float, Maps], settings: Sequence[Setting], size: int | None
) -> dict[str, Any]:
    """Image i's histograms (rows, 4, 256) int32, and whether its part is known, with its number."""

    def sized(pixels: np.ndarray | None) -> np.ndarray | None:
        if pixels is None or size is None:
            return pixels
        copy = torch.from_numpy(pixels.astype(np.float32))[None, None]  # kept masks are read-only
        return torch.nn.functional.interpolate(copy, size=(size, size), mode="nearest-exact")[0, 0].numpy() > 0.5

    if (mask := sized(record.mask)) is None:
        raise UserError(f"{record.name}: no mask, one is needed to score pixels")
    ignore, part = sized(record.ignore), sized(record.part)
    if size is not None and record.stored:
        mask = np.any([sized(one) for one in record.stored[0]], axis=0)  # type: ignore[arg-type]
        ignore = None if record.stored[1] is None else sized(record.stored[1]) & ~mask
    of_image = [{s: m.maps[pair][i] for s, m in maps.items()} for pair in next(iter(maps.values())).maps]
    hist = np.zeros((len(of_image) * len(settings) + len(BASELINES), 4, 256), np.int32)
    # Neighbours of one shape are post-processed together, a few MB at a time.
    several = max(1, 2**20 // mask.size)
    shapes = [(k // several, [m.shape for m in by_scale.values()]) for k, by_scale in enumerate(of_image)]
    for _, group in groupby(range(len(of_image)), key=shapes.__getitem__):
        together = list(group)
        stacks = {s: torch.from_numpy(np.stack([of_image[k][s] for k in together])) for s in maps}  # (n, h, w) each
        merged = {scales: multiscale([stacks[s] for s in scales], mask.shape) for scales in {s for s, _ in settings}}
        for j, (scales, kernel) in enumerate(settings):
            for k, q in zip(together, to_uint8(minmax(close(merged[scales], kernel))), strict=True):
                hist[k * len(settings) + j] = metrics.histograms(q, mask, ignore, part)
    for row, baseline in enumerate(BASELINES.values(), start=-len(BASELINES)):
        hist[row] = metrics.histograms(to_uint8(baseline(mask.shape)), mask, ignore, part)
    return {"hist": hist, "has_part": part is not None, "image": i}


def each_image(images: range, of: Callable[[int], Any], what: str = "", progress: bool = False) -> list[Any]:
    """``of`` each image, several at a time: OpenCV and torch let go of the interpreter while they work."""
    with ThreadPoolExecutor(min(4, CORES)) as pool:
        return list(tqdm(pool.map(of, images), total=len(images), desc=what, unit="image", disable=not progress))


def name_scales(scales: Sequence[float]) -> str:
    """A setting's scales as they stand in tables: ``"0.75+1+1.25"``."""
    return "+".join(f"{s:g}" for s in scales)


def mean_iou(hist: np.ndarray, *, ignore_is_object: bool = False) -> np.ndarray:
    """The images' mean IoU at every threshold (256,), from histograms (images, 4, 256)."""
    few = (hist[k : k + AT_ONCE] for k in range(0, len(hist), AT_ONCE))
    return sum(metrics.iou(some, ignore_is_object=ignore_is_object).sum(0) for some in few) / len(hist)


def choose(hist: np.ndarray) -> int:
    """The one threshold with the best mean IoU over the (validation) images; hist (images, 4, 256)."""
    return int(mean_iou(hist).argmax())


def choices(val: Iterable[Scores]) -> Choices:
    """The one threshold of each row with the best mean IoU over (validation) images, which may come part by part.
    UserError: there is no image with an object."""
    total: Any = 0
    count, rows = 0, []
    for part in val:
        total = total + np.stack([metrics.iou(hist).sum(0) for hist in part.hist])  # rows x 256
        count, rows = count + len(part.names), list(part.rows.itertuples(index=False, name=None))
    if not count:
        raise UserError("no mask holds an object pixel, at least one needed")
    return {row: (int(curve.argmax()), curve.max()) for row, curve in zip(rows, total / count, strict=True)}


def better_baseline(val: Scores) -> str:
    """The trivial baseline, "whole_image" or "centred_gaussian", with the higher mean IoU on validation."""
    return max(BASELINES, key=lambda name: mean_iou(val.find(method=name)).max())


def per_image(val: Scores, images: Scores, row: Mapping[Any, Any], measure: str = "iou") -> np.ndarray:
    """One row's ``measure`` (of ``MEASURES``) of each image (images,), percent, at the threshold chosen on ``val``."""
    t = choose(val.find(**row))
    return 100 * np.concatenate([MEASURES[measure](part.find(**row))[:, t] for part in images])


def report(val: Iterable[Scores], test: Iterable[Scores]) -> pd.DataFrame:
    """Every row's test scores in percent at the threshold chosen on validation, one line for each row of ``test``.
    Both may come part by part, and one part is held at a time. Columns: method, layer, scales, kernel; threshold
    (0..255) and val_iou at it; iou, the mean over test images, with low and high, its 95 % bootstrap interval;
    iou_pooled; miou, precision, recall_part and recall_rest, means over images; and test_peak, which LID's protocol
    takes, with its test_peak_threshold chosen on test."""
    chosen, values, table = choices(val), [], []
    sums: Any = 0
    counts: Any = 0
    pooled: Any = 0
    curves: Any = 0
    for part in test:
        cells = part.table(chosen)[[*MEASURES]].to_numpy().reshape(len(part.rows), len(part.names), len(MEASURES))
        values.append(cells[..., 0].copy())  # rows x images, of IoU
        sums, counts = sums + np.nansum(cells, 1), counts + np.isfinite(cells).sum(1)  # rows x measures
        curves = curves + np.stack([metrics.iou(hist).sum(0) for hist in part.hist])  # rows x 256
        pooled = pooled + np.stack([hist.sum(0) for hist in part.hist])  # rows x 4 x 256
        rows = cast(list[Any], part.rows.to_dict("records"))
    means = np.where(counts, sums, np.nan) / counts.clip(1)  # a part may be known of no image
    for row, iou, mean, curve, hist in zip(rows, np.concatenate(values, axis=1), means, curves, pooled, strict=True):
        t, val_iou = chosen[tuple(row.values())]
        found, peak = metrics.bootstrap(iou), metrics.Curve(curve / len(iou))
        row |= {"threshold": t, "val_iou": 100 * val_iou, "iou": found.mean, "low": found.low, "high": found.high}
        row |= {"iou_pooled": 100 * metrics.iou(hist)[t]}
        row |= dict(zip([*MEASURES][1:], mean[1:], strict=True))
        table.append(row | {"test_peak": 100 * peak.peak, "test_peak_threshold": peak.threshold})
    return pd.DataFrame(table)
