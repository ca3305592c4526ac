"""Box scores and PxAP image by image, and their one table: every score of every method, thresholds from validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dgl_lib import metrics
from dgl_lib.data.records import Dataset, Subset
from dgl_lib.evaluate.raw import Maps
from dgl_lib.evaluate.scores import BASELINES, Scores, each_image, name_scales
from dgl_lib.files import kept, key_of
from dgl_lib.maps import close, minmax
from dgl_lib.metrics import Interval, Localization, MaxBoxAccV2, PxAP, bootstrap, masks_at
from dgl_lib.metrics.boxes import SIZE, THRESHOLDS, Found, scale, score_map, search

#: Raised when what is kept on disk changes its meaning.
FORMAT = 1
#: Which of an image's six curves of hits a box score is the mean of (see ``BoxScores``).
BOX_SCORES = {"MaxBoxAcc": [0], "GT-known": [0], "Top-1": [1], "Top-5": [2], "MaxBoxAccV2": [3, 4, 5]}
#: Every score in the order of the table.
SCORES = ("mask IoU", "MaxBoxAccV2", "MaxBoxAcc", "GT-known", "Top-1", "Top-5", "PxAP")

Row = Mapping[str, Any]  # some columns of ``Scores.rows``
Key = tuple[Any, ...]  # their values
Truth = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]  # boxes (n, 4), object and ignored pixels (224, 224)


@dataclass(frozen=True)
class BoxScores:
    """What a row's box scores and PxAP are made of, image by image.

    Attributes:
        hits: (images, 6, 1000) bool, right at each of ``THRESHOLDS``: GT-known (which is MaxBoxAcc), Top-1, Top-5, and
            MaxBoxAccV2 at its three IoU levels.
        pixels: (images, 2, 1002) uint16, PxAP's background and object pixels by score; none of data without masks.
    """

    hits: np.ndarray
    pixels: np.ndarray | None = None


def with_object(dataset: Dataset, maps: Mapping[float, Maps], scores: Scores) -> tuple[Dataset, dict[float, Maps]]:
    """The images that have scores, those with an object, and their maps by scale."""
    place = {name: i for i, name in enumerate(dataset.names)}
    keep = [place[name] for name in scores.names]
    return Subset(dataset, keep), {scale: m.at(keep) for scale, m in maps.items()}


def box_scores(
    dataset: Dataset, maps: Mapping[float, Maps], rows: Sequence[Row], folder: Path, *, progress: bool = False
) -> dict[Key, BoxScores]:
    """Search every row's boxes on every image at 224 px, kept in ``folder`` row by row.

    Args:
        maps: raw maps by scale. Top-1 and Top-5 ask the classifier at scale 1.0.
        rows: each names a method and a layer. With columns ``scales`` and ``kernel`` as in ``Scores.rows``, maps of
            these scales are merged, and closed (see ``treated``).

    Returns:
        by the values of the row.

    Raises:
        UserError: a record without a ground-truth box.
    """
    logits, names = maps[1.0].logits, {name_scales([scale]): scale for scale in maps}

    @cache  # read once for all rows, and not at all where every row is on disk
    def truths() -> list[Truth]:
        return [_truth(dataset, i) for i in range(len(dataset))]

    def raw(row: Row) -> list[np.ndarray]:
        scales = [names[name] for name in row.get("scales", "1").split("+")]
        return [maps[scale].maps[row["method"], row["layer"]] for scale in scales]

    def searched(row: Row) -> dict[str, np.ndarray]:
        fixed = BASELINES.get(row["method"])
        trivial = fixed((SIZE, SIZE)).double().numpy() if fixed else None
        shared = None if trivial is None else search(trivial)

        def one(i: int) -> dict[str, np.ndarray]:
            m = treated([m[i] for m in raw(row)], row.get("kernel", 0.0)) if trivial is None else trivial
            found = shared or search(m, threads=1)
            return image_hits(m, found, truths()[i], logits[i], int(dataset.labels[i]))

        truths()
        what = f"boxes of {row['method']} {row['layer']}, {dataset.split}"
        each = each_image(len(dataset), one, what, progress)
        return {name: np.stack([counts[name] for counts in each]) for name in each[0]}

    result = {}
    for row in rows:
        baseline = row["method"] if row["method"] in BASELINES else ""
        facts = {"data": dataset.digest, "baseline": baseline, "format": FORMAT}
        facts |= {"kernel": row["kernel"]} if row.get("kernel") else {}
        file = folder / f"boxes-{key_of(facts, [logits, *([] if baseline else raw(row))])}.npz"
        result[tuple(row.values())] = BoxScores(**kept(file, partial(searched, row)))
    return result


def treated(raw: Sequence[np.ndarray], kernel: float = 0.0) -> np.ndarray:
    """The score map (224, 224) of an image's raw maps (h, w), one for each scale.

    The box scores' own resize and min-max of each -> mean -> minmax -> close -> minmax, as ``maps`` does for masks.
    """
    merged = minmax(torch.from_numpy(np.mean([score_map(m) for m in raw], 0)))
    return minmax(close(merged, kernel)).numpy()


def _truth(dataset: Dataset, i: int) -> Truth:
    """What an image is scored against, as wsolevaluation brings it to 224 px."""
    record = dataset[i]
    mask, ignore = (None, None) if record.mask is None else masks_at([record.mask], record.ignore)
    return scale(record.boxes, record.image.shape[:2]), mask, ignore


def image_hits(score: np.ndarray, found: Found, truth: Truth, logits: np.ndarray, label: int) -> dict[str, np.ndarray]:
    """One image's ``hits`` (6, 1000) and ``pixels`` (2, 1002), as in ``BoxScores``: the streamed scores' counts."""
    corners, mask, ignore = truth
    known, several = Localization(), MaxBoxAccV2()
    known.update(found, corners, logits, label)
    several.update(found, corners)
    counts = {"hits": np.concatenate([known.counts["hits"], several.counts["hits"]]).astype(bool)}
    if mask is not None:
        pixels = PxAP()
        pixels.update(score, mask, ignore)
        counts["pixels"] = pixels.counts["hist"].astype(np.uint16)  # 224^2 < 2^16
    return counts


def pooled(counts: np.ndarray, of: Callable[[np.ndarray], float], *, resamples: int = 2000) -> np.ndarray:
    """A score of all images' counts together: its value, then its values on bootstrap resamples, (1 + resamples,).

    The draws depend on the number of images alone, so the difference of two rows' values is paired.

    Args:
        counts: (images, ...), summed over the images drawn.
        of: the score of the summed counts.
    """
    images = len(counts)
    draws = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=resamples)
    weights = np.concatenate([np.ones((1, images)), draws])
    sums = weights @ counts.reshape(images, -1).astype(np.float64)
    return np.array([of(one.reshape(counts.shape[1:])) for one in sums])


def interval(values: np.ndarray, images: int) -> Interval:
    """The interval of what ``pooled`` gave. A resample without a value (no object at all) is left out."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Interval(float(values[0]), float(low), float(high), images)


def pxap(hist: np.ndarray) -> float:
    """PxAP in percent of the counts (2, 1002) of a set."""
    stream = PxAP()
    stream.add(hist=np.rint(hist).astype(np.int64))
    return 100 * stream.compute().value


def box_table(
    chosen: pd.DataFrame,
    val_found: Mapping[Key, BoxScores],
    found: Mapping[Key, BoxScores],
    masks: tuple[Scores, Scores] | None = None,
    *,
    by: Sequence[str] = ("method", "layer"),
    over: Mapping[Key, Key] | None = None,
) -> pd.DataFrame:
    """Every score of every chosen row: threshold from validation, value on test, and the peak on test beside it.

    Args:
        chosen: a line a row, with ``kind`` (method, control, baseline) and the columns of ``by``.
        val_found, found: ``box_scores`` of the validation and the test images.
        masks: their pixel scores, for mask IoU; None for data without masks.
        by: the columns that name a row.
        over: the row that each is compared with; None for the trivial baseline that is better on validation.

    Returns:
        columns score, kind, those of ``by``, threshold (grey level of mask IoU; shares of the map's maximum of box
        scores, one for each IoU level of MaxBoxAccV2; none of PxAP), val, test, low, high (percent), over, over_low,
        over_high, over_verdict (points, paired), images, test_peak (as published protocols take it, chosen on test).
    """
    table: list[dict[str, Any]] = []
    values: dict[tuple[str, Key], np.ndarray] = {}  # by score and row: of each image, or of each draw for PxAP
    for one in chosen.to_dict("records"):
        row = {name: one[name] for name in by}
        key = tuple(row.values())
        for name in SCORES if masks else BOX_SCORES:
            if name == "PxAP":
                before, counts = (of[key].pixels for of in (val_found, found))
                assert before is not None and counts is not None
                drawn = values[name, key] = pooled(counts, pxap)
                cells = {"threshold": "", "val": pxap(before.sum(0)), "test": drawn[0], "test_peak": drawn[0]}
            else:
                curves = _curves(name, row, val_found[key], found[key], masks)
                cells, values[name, key] = _thresholded(name, *curves)
            table.append({"score": name, "kind": one["kind"], **row, **cells, "images": len(found[key].hits)})
    for line in table:
        score, key = line["score"], tuple(line[name] for name in by)
        trivial = [other for other in table if other["score"] == score and other["kind"] == "baseline"]
        better = max(trivial, key=lambda other: other["val"])
        other = over[key] if over else tuple(better[name] for name in by)
        paired = interval if score == "PxAP" else (lambda x, _: bootstrap(x))
        mine = paired(values[score, key], line["images"])
        change = paired(values[score, key] - values[score, other], line["images"])
        line |= {"low": mine.low, "high": mine.high, "over": change.mean}
        line |= {"over_low": change.low, "over_high": change.high, "over_verdict": change.verdict()}
    columns = ["score", "kind", *by, "threshold", "val", "test", "low", "high"]
    columns += ["over", "over_low", "over_high", "over_verdict", "images", "test_peak"]
    return pd.DataFrame(table)[columns]


def _curves(
    name: str, row: Row, val_found: BoxScores, found: BoxScores, masks: tuple[Scores, Scores] | None
) -> list[np.ndarray]:
    """A score of each validation and each test image at every threshold, (images, curves, thresholds)."""
    if name == "mask IoU":
        assert masks is not None
        return [metrics.iou(scores.find(**row))[:, None] for scores in masks]
    return [of.hits[:, BOX_SCORES[name]] for of in (val_found, found)]


def _thresholded(name: str, before: np.ndarray, after: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """A score's cells, and each test image's value (images,) in percent at the thresholds chosen on validation."""
    t = before.mean(0).argmax(-1)  # one for each curve
    images = 100 * after[:, np.arange(len(t)), t].mean(1)
    shown = [f"{k}" if name == "mask IoU" else f"{THRESHOLDS[k]:.3f}" for k in t]
    cells = {
        "threshold": " ".join(shown),
        "val": float(100 * before.mean(0).max(-1).mean()),
        "test": float(images.mean()),
        "test_peak": float(100 * after.mean(0).max(-1).mean()),
    }
    return cells, images


def sizes(by_size: Mapping[str, tuple[Scores, Scores]], rows: Sequence[Row]) -> pd.DataFrame:
    """IoU at several sizes, averaged over images and pooled over the set, each at its own threshold from validation.

    Args:
        by_size: validation and test scores by the name of the size.

    Returns:
        columns method, layer, size, average (per image, pooled), threshold, val, test, low, high, test_peak (percent).
    """
    table = []
    for row in rows:
        for size, (val, test) in by_size.items():
            before, after = val.find(**row), test.find(**row)
            for average in ("per image", "pooled"):
                a, b = (
                    metrics.iou(hist).mean(0) if average == "per image" else metrics.iou(hist.sum(0))
                    for hist in (before, after)
                )
                t = int(a.argmax())
                if average == "per image":
                    found = bootstrap(100 * metrics.iou(after)[:, t])
                else:
                    found = interval(pooled(metrics.at_least(after)[..., [0, t]], _pooled_iou), len(after))
                cells = {"threshold": t, "val": 100 * a[t], "test": found.mean, "low": found.low, "high": found.high}
                table.append({**row, "size": size, "average": average, **cells, "test_peak": 100 * b.max()})
    return pd.DataFrame(table)


def _pooled_iou(above: np.ndarray) -> float:
    """IoU in percent from the pixels of each region (4, 2) with q >= 0, all of them, and with q >= t."""
    total, found = (above[metrics.REST] + above[metrics.PART]).tolist()
    union = total + above[metrics.BACKGROUND, 1]
    return float(100 * found / union) if union else float("nan")
