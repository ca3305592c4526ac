"""Box scores and PxAP image by image, and their one table: every score of every method, thresholds from validation."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dgl_lib import metrics
from dgl_lib.data.records import Dataset, Subset
from dgl_lib.evaluate.raw import Maps, in_parts, parts_folder
from dgl_lib.evaluate.scores import AT_ONCE, BASELINES, Scores, each_image, mean_iou, name_scales
from dgl_lib.files import key_of
from dgl_lib.maps import close, minmax
from dgl_lib.metrics import Interval, PxAP, bootstrap
from dgl_lib.metrics.boxes import SIZE, THRESHOLDS, Found, scale, score_map, search

DRAWS = 100  # resamples at once
#: Which of an image's six curves of hits a box score is the mean of (see ``BoxScores``).
BOX_SCORES = {"MaxBoxAcc": [0], "GT-known": [0], "Top-1": [1], "Top-5": [2], "MaxBoxAccV2": [3, 4, 5]}
SCORES = ("mask IoU", "MaxBoxAccV2", "MaxBoxAcc", "GT-known", "Top-1", "Top-5", "PxAP")  # in the order of the table

Row = Mapping[str, Any]  # some columns of ``Scores.rows``
Key = tuple[Any, ...]  # their values
Truth = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]  # boxes (n, 4), object and ignored pixels (224, 224)


@dataclass(frozen=True)
class BoxScores:
    """What a row's box scores and PxAP are made of, image by image."""

    #: (images, 6, 1000) bool, right at each of ``THRESHOLDS``: GT-known, Top-1, Top-5, MaxBoxAccV2's three IoU levels
    hits: np.ndarray
    pixels: np.ndarray | None = None  # (images, 2, 1002) uint16, PxAP's background and object pixels by score
    #: (6, 1000), the mean of ``hits`` where they are not kept, but for one threshold a curve: ``hits`` is (images, 6)
    mean: np.ndarray | None = None

    def curves(self) -> np.ndarray:
        """The share of images that are right at each threshold, (6, 1000)."""
        return self.hits.mean(0) if self.mean is None else self.mean

    def at(self, t: np.ndarray) -> np.ndarray:
        """Whether each image is right at the threshold t (6,) of each curve, (images, 6)."""
        return self.hits[:, np.arange(len(t)), t] if self.mean is None else self.hits


def with_object(dataset: Dataset, maps: Mapping[float, Maps], scores: Scores) -> tuple[Dataset, dict[float, Maps]]:
    """The images that have scores, those with an object, and their maps by scale."""
    keep = np.flatnonzero(np.isin(dataset.names, scores.names)).tolist()
    return Subset(dataset, keep), {s: m if len(keep) == len(dataset) else m.at(keep) for s, m in maps.items()}


def box_scores(
    dataset: Dataset, maps: Mapping[float, Maps], rows: Sequence[Row], folder: Path, *, progress: bool = False
) -> dict[Key, BoxScores]:
    """Every row's boxes on every image at 224 px, by the row's values, kept in ``folder`` in parts.
    ``maps`` are raw maps by scale; Top-1 and Top-5 ask the classifier at scale 1.0. A row names a method, a layer and,
    as in ``Scores.rows``, scales to merge and a kernel (see ``treated``). UserError: a record without a true box."""
    logits, names = maps[1.0].logits, {name_scales([scale]): scale for scale in maps}
    fixed = {name: (m := of((SIZE, SIZE)).double().numpy(), search(m)) for name, of in BASELINES.items()}

    def raw(row: Row) -> list[np.ndarray]:
        scales = [] if row["method"] in fixed else row.get("scales", "1").split("+")
        return [maps[names[name]].maps[row["method"], row["layer"]] for name in scales]

    def one(i: int) -> dict[str, np.ndarray]:
        record, counts = dataset[i], dict[str, np.ndarray]()
        own = None if record.mask is None else record.stored or ([record.mask], record.ignore)
        truth = scale(record.boxes, record.image.shape[:2]), *(metrics.masks_at(*own) if own else (None, None))
        for k, row in enumerate(rows):
            if row["method"] in fixed:
                m, found = fixed[row["method"]]
            else:
                found = search(m := treated([of[i] for of in raw(row)], row.get("kernel", 0.0)))
            hits = image_hits(m, found, truth, logits[i], int(dataset.labels[i]))
            counts |= {f"{name} {k}": values for name, values in hits.items()}
        return counts

    def made(those: Sequence[range]) -> Iterator[dict[str, np.ndarray]]:
        for part in those:
            each = each_image(part, one)
            yield {name: np.stack([counts[name] for counts in each]) for name in each[0]}

    arrays = [logits, *(m for row in rows for m in raw(row))]
    facts = {"data": dataset.digest, "rows": [dict(row) for row in rows], "maps": key_of({}, arrays)}
    parts, what = parts_folder(folder, "boxes", facts), f"boxes, {dataset.name} {dataset.split}"
    found = in_parts(len(dataset), made, parts, what, progress)
    every = [BoxScores(found[f"hits {k}"], found.get(f"pixels {k}")) for k in range(len(rows))]
    return {tuple(row.values()): of for row, of in zip(rows, every, strict=True)}


def joined(
    parts: Iterable[Mapping[Key, BoxScores]], val: Mapping[Key, BoxScores] | None = None
) -> dict[Key, BoxScores]:
    """Box scores that come part by part, without their hits but for those at the thresholds that ``val`` chooses."""
    total: dict[Key, Any] = {}
    hits: dict[Key, list[np.ndarray]] = {}
    for part in parts:
        for key, of in part.items():
            t = (val or part)[key].curves().argmax(-1)  # (6,)
            total[key] = total.get(key, 0) + of.hits.sum(0)
            hits.setdefault(key, []).append(of.at(t))
    joined = {key: np.concatenate(of) for key, of in hits.items()}
    return {key: BoxScores(of, mean=total[key] / len(of)) for key, of in joined.items()}


def treated(raw: Sequence[np.ndarray], kernel: float = 0.0) -> np.ndarray:
    """The score map (224, 224) of an image's raw maps (h, w), one for each scale.
    The box scores' own resize and min-max of each -> mean -> minmax -> close -> minmax, as ``maps`` does for masks."""
    merged = minmax(torch.from_numpy(np.mean([score_map(m) for m in raw], 0)))
    return minmax(close(merged, kernel)).numpy()


def image_hits(score: np.ndarray, found: Found, truth: Truth, logits: np.ndarray, label: int) -> dict[str, np.ndarray]:
    """One image's ``hits`` (6, 1000) and ``pixels`` (2, 1002), as in ``BoxScores``: the streamed scores' counts."""
    corners, mask, ignore = truth
    known, several = metrics.Localization(), metrics.MaxBoxAccV2()
    known.update(found, corners, logits, label)
    several.update(found, corners)
    counts = {"hits": np.concatenate([known.counts["hits"], several.counts["hits"]]).astype(bool)}
    if mask is not None:
        pixels = PxAP()
        pixels.update(score, mask, ignore)
        counts["pixels"] = pixels.counts["hist"].astype(np.uint16)  # 224^2 < 2^16
    return counts


def pooled(counts: np.ndarray, of: Callable[[np.ndarray], Any], *, resamples: int = 2000) -> np.ndarray:
    """The score ``of`` all images' summed counts (images, ...), and of bootstrap resamples' sums: (1 + resamples, ...).
    The draws depend on the number of images alone, so the difference of two rows' values is paired."""
    images, random = len(counts), np.random.default_rng(0)

    def values(weights: np.ndarray) -> list[Any]:  # (draws, images)
        few = (slice(k, k + AT_ONCE) for k in range(0, images, AT_ONCE))
        sums: Any = sum(np.tensordot(weights[:, k], counts[k].astype(np.float64), 1) for k in few)
        return [of(one) for one in sums]

    found = values(np.ones((1, images)))
    for left in range(resamples, 0, -DRAWS):
        found += values(random.multinomial(images, np.full(images, 1 / images), size=min(left, DRAWS)))
    return np.array(found)


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
    ``chosen`` holds a line a row: ``kind`` (method, control, baseline) and the columns of ``by``, which name it. It is
    compared with the row that ``over`` tells, or with the trivial baseline that is better on validation. ``val_found``
    and ``found`` are ``box_scores`` of validation and test images, ``masks`` their pixel scores. Columns: score, kind,
    those of ``by``, threshold (grey level; shares of the map's maximum for boxes; none of PxAP), val, test, low, high
    (percent), over, over_low, over_high, over_verdict (points, paired), images, test_peak (chosen on test)."""
    table: list[dict[str, Any]] = []
    values: dict[tuple[str, Key], np.ndarray] = {}  # by score and row: of each image, or of each draw for PxAP
    for one in chosen.to_dict("records"):
        row = {name: one[name] for name in by}
        key = tuple(row.values())
        for score in SCORES if masks else BOX_SCORES:
            cells, values[score, key] = _scored(score, row, val_found[key], found[key], masks)
            table.append({"score": score, "kind": one["kind"], **row, **cells})
    for line in table:
        score, key = line["score"], tuple(line[name] for name in by)
        trivial = [other for other in table if other["score"] == score and other["kind"] == "baseline"]
        better = max(trivial, key=lambda other: other["val"])
        mine, other = values[score, key], values[score, over[key] if over else tuple(better[name] for name in by)]
        images = len(found[key].hits)
        own, gain = (Interval.of(x, images) if score == "PxAP" else bootstrap(x) for x in (mine, mine - other))
        line |= {"low": own.low, "high": own.high, **gain.cells("over"), "over_verdict": gain.verdict()}
        line |= {"images": images, "test_peak": line.pop("test_peak")}
    return pd.DataFrame(table)


def _scored(
    score: str, row: Row, val: BoxScores, test: BoxScores, masks: tuple[Scores, Scores] | None
) -> tuple[dict[str, Any], np.ndarray]:
    """A score's cells, and its test values in percent: of each image, or of PxAP's draws (see ``pooled``)."""
    if score == "PxAP":
        assert val.pixels is not None and test.pixels is not None
        drawn = pooled(test.pixels, pxap)
        return {"threshold": "", "val": pxap(val.pixels.sum(0)), "test": drawn[0], "test_peak": drawn[0]}, drawn
    which = BOX_SCORES.get(score, [0])
    if masks and score == "mask IoU":  # as hits (images, 1, 256), of a few images at a time
        key = tuple(row.values())
        before, after = (({key: BoxScores(metrics.iou(part.find(**row))[:, None])} for part in of) for of in masks)
        val, test = (chosen := joined(before))[key], joined(after, chosen)[key]
    t = val.curves().argmax(-1)  # one for each curve
    images = 100 * test.at(t)[:, which].mean(1)
    shown = " ".join(f"{k}" if score == "mask IoU" else f"{THRESHOLDS[k]:.3f}" for k in t[which])
    val_peak, test_peak = (float(100 * of.curves()[which].max(-1).mean()) for of in (val, test))
    return {"threshold": shown, "val": val_peak, "test": float(images.mean()), "test_peak": test_peak}, images


def sizes(by_size: Mapping[str, tuple[Scores, Scores]], rows: Sequence[Row]) -> pd.DataFrame:
    """IoU at several sizes, averaged over images and pooled over the set, each at its own threshold from validation.
    ``by_size`` holds validation and test scores by the size's name. Columns: method, layer, size, average (per image,
    pooled), threshold, val, test, low, high, test_peak (percent)."""
    table = []
    for row, (size, both) in product(rows, by_size.items()):
        before, after = (of.find(**row) for of in both)
        of_images = [mean_iou(hist) for hist in (before, after)]
        of_sums = [metrics.iou(hist.sum(0)) for hist in (before, after)]
        for average, (val, test) in (("per image", of_images), ("pooled", of_sums)):
            t = int(val.argmax())
            if average == "per image":
                found = bootstrap(100 * metrics.iou(after)[:, t])
            else:
                found = Interval.of(100 * pooled(after, metrics.iou)[:, t], len(after))
            cells = {"threshold": t, "val": 100 * val[t], "test": found.mean, "low": found.low, "high": found.high}
            table.append({**row, "size": size, "average": average, **cells, "test_peak": 100 * test.max()})
    return pd.DataFrame(table)
