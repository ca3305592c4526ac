"""Box scores and PxAP image by image, and their table: every score of every method, thresholds from validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from dgl_lib import boxes, metrics, paths
from dgl_lib.metrics.search import SIZE, THRESHOLDS, Found
from dgl_lib.evaluate.compare import name_of, only_scored, verdict
from dgl_lib.data.records import Dataset, Subset
from dgl_lib.evaluate.scores import BASELINES, Maps, Scores, each_image, name_scales
from dgl_lib.files import kept, key_of
from dgl_lib.maps import close, minmax
from dgl_lib.metrics import Interval, Localization, MaxBoxAccV2, PxAP, bootstrap, masks_at

#: Raised when what is kept on disk changes its meaning.
FORMAT = 1
#: Which of an image's six curves of hits a box score is the mean of (see ``BoxScores``).
BOX_SCORES = {"MaxBoxAcc": [0], "GT-known": [0], "Top-1": [1], "Top-5": [2], "MaxBoxAccV2": [3, 4, 5]}
#: Every score of the page, in its tables' order.
SCORES = ("mask IoU", "MaxBoxAccV2", "MaxBoxAcc", "GT-known", "Top-1", "Top-5", "PxAP")

Row = Mapping[str, Any]  # some columns of ``Scores.rows``
Key = tuple[Any, ...]  # their values


@dataclass(frozen=True)
class BoxScores:
    """What a row's box scores and PxAP are made of, image by image.

    Attributes:
        hits: (images, 6, 1000) bool, right at each of ``THRESHOLDS``: GT-known (which is MaxBoxAcc), Top-1, Top-5, and
            MaxBoxAccV2 at its three IoU levels.
        pixels: (images, 2, 1002) uint16, PxAP's background and object pixels by score.
    """

    hits: np.ndarray
    pixels: np.ndarray


def with_object(dataset: Dataset, maps: Mapping[float, Maps], scores: Scores) -> tuple[Dataset, dict[float, Maps]]:
    """The images that have scores, those with an object, and their maps by scale."""
    place = {name: i for i, name in enumerate(dataset.names)}
    kept = {scale: only_scored(m, dataset.names, scores.names) for scale, m in maps.items()}
    return Subset(dataset, [place[name] for name in scores.names]), kept


def box_scores(
    dataset: Dataset, maps: Mapping[float, Maps], rows: Sequence[Row], *, progress: bool = False
) -> dict[Key, BoxScores]:
    """Search every row's boxes on every image at 224 px, kept on disk row by row; baselines need no normalisation.

    Args:
        maps: raw maps by scale; Top-1 and Top-5 ask the classifier at scale 1.0.
        rows: of each a method and a layer; with columns ``scales`` and ``kernel`` as in ``Scores.rows``, maps of these
            scales are merged, and closed (see ``treated``).

    Returns:
        by the values of the row.

    Raises:
        UserError: a record without a ground-truth box.
    """
    logits, names = maps[1.0].logits, {name_scales([scale]): scale for scale in maps}

    @cache  # read once for all rows, and not at all where every row is on disk
    def truths() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return [_truth(dataset, i) for i in range(len(dataset))]

    def raw(row: Row) -> list[np.ndarray]:
        scales = [names[name] for name in row.get("scales", "1").split("+")]
        return [maps[scale].maps[row["method"], row["layer"]] for scale in scales]

    def search(row: Row) -> dict[str, np.ndarray]:
        fixed = BASELINES.get(row["method"])
        trivial = fixed((SIZE, SIZE)).double().numpy() if fixed else None
        shared = None if trivial is None else boxes.search(trivial)

        def one(i: int) -> tuple[np.ndarray, np.ndarray]:
            m = treated([m[i] for m in raw(row)], row.get("kernel", 0.0)) if trivial is None else trivial
            found = shared or boxes.search(m, threads=1)
            return image_hits(m, found, truths()[i], logits[i], int(dataset.labels[i]))

        truths()
        each = each_image(len(dataset), one, f"boxes of {name_of(row)}, {dataset.split}", progress)
        return {"hits": np.stack([hits for hits, _ in each]), "pixels": np.stack([pixels for _, pixels in each])}

    result = {}
    for row in rows:
        baseline = row["method"] if row["method"] in BASELINES else ""
        facts = {"data": dataset.digest, "baseline": baseline, "format": FORMAT}
        facts |= {"kernel": row["kernel"]} if row.get("kernel") else {}
        file = paths.runs_folder() / f"boxes-{key_of(facts, [logits, *([] if baseline else raw(row))])}.npz"
        result[tuple(row.values())] = BoxScores(**kept(file, partial(search, row)))
    return result


def treated(raw: Sequence[np.ndarray], kernel: float = 0.0) -> np.ndarray:
    """The score map (224, 224) of an image's raw maps (h, w), one a scale; of one alone ``boxes.score_map``.

    The box scores' own resize and min-max of each -> mean -> minmax -> close -> minmax, as ``maps`` does for masks.
    """
    merged = minmax(torch.from_numpy(np.mean([boxes.score_map(m) for m in raw], 0)))
    return minmax(close(merged, kernel)).numpy()


def _truth(dataset: Dataset, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4), object and ignored pixels (224, 224) of an image, as wsolevaluation brings them to 224 px."""
    record = dataset[i]
    assert record.mask is not None  # ``score`` refuses it
    return boxes.scale(record.boxes, record.mask.shape), *masks_at([record.mask], record.ignore)


def image_hits(
    score_map: np.ndarray,
    found: Found,
    truth: tuple[np.ndarray, np.ndarray, np.ndarray],
    logits: np.ndarray,
    label: int,
) -> tuple[np.ndarray, np.ndarray]:
    """One image's hits (6, 1000) bool and pixels (2, 1002), as in ``BoxScores``: the streaming scores' own counts."""
    corners, mask, ignore = truth
    known, several, pixels = Localization(), MaxBoxAccV2(), PxAP()
    known.update(found, corners, logits, label)
    several.update(found, corners)
    pixels.update(score_map, mask, ignore)
    hits = np.concatenate([known.counts["hits"], several.counts["hits"]]).astype(bool)
    return hits, pixels.counts["hist"].astype(np.uint16)  # 224^2 < 2^16


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
    val: Scores,
    test: Scores,
    val_found: Mapping[Key, BoxScores],
    found: Mapping[Key, BoxScores],
    chosen: pd.DataFrame,
    *,
    by: Sequence[str] = ("method", "layer"),
    over: Mapping[Key, Key] | None = None,
) -> pd.DataFrame:
    """Every score of every chosen row: threshold from validation, value on test, and the peak on test beside it.

    Args:
        by: the columns that name a row.
        over: the row that each is compared with; None for the trivial baseline that is better on validation.

    Returns:
        columns score, kind, those of ``by``, threshold (grey level of mask IoU; shares of the map's maximum of box
        scores, MaxBoxAccV2 one an IoU level; none of PxAP), val, test, low, high (percent), over, over_low, over_high,
        over_verdict (points, paired), images, test_peak (the published protocol's: thresholds chosen on test).
    """
    table: list[dict[str, Any]] = []
    values: dict[tuple[str, Key], np.ndarray] = {}  # by score and row: of each image, or of each draw for PxAP
    for one in chosen.to_dict("records"):
        row = {name: one[name] for name in by}
        key = tuple(row.values())
        for name in SCORES:
            if name == "PxAP":
                before = pxap(val_found[key].pixels.sum(0))
                drawn = values[name, key] = pooled(found[key].pixels, pxap)
                cells = {"threshold": "", "val": before, "test": float(drawn[0]), "test_peak": float(drawn[0])}
            else:
                cells, values[name, key] = _thresholded(name, row, val, test, val_found, found)
            table.append({"score": name, "kind": one["kind"], **row, **cells, "images": len(test.names)})
    for line in table:
        score, key = line["score"], tuple(line[name] for name in by)
        trivial = [other for other in table if other["score"] == score and other["kind"] == "baseline"]
        better = max(trivial, key=lambda other: other["val"])
        other = over[key] if over else tuple(better[name] for name in by)
        paired = interval if score == "PxAP" else (lambda x, _: bootstrap(x))
        mine = paired(values[score, key], line["images"])
        change = paired(values[score, key] - values[score, other], line["images"])
        line |= {"low": mine.low, "high": mine.high}
        line |= {"over": change.mean, "over_low": change.low, "over_high": change.high, "over_verdict": verdict(change)}
    columns = ["score", "kind", *by, "threshold", "val", "test", "low", "high"]
    columns += ["over", "over_low", "over_high", "over_verdict", "images", "test_peak"]
    return pd.DataFrame(table)[columns]


def side_by_side(
    table: pd.DataFrame, by: Sequence[str] = ("method", "layer"), scores: Sequence[str] = SCORES
) -> pd.DataFrame:
    """``box_table`` to be read: a line a row of maps, and of each score the test value, its interval and the peak."""
    text = [
        f"{line['test']:.1f} [{line['low']:.1f}, {line['high']:.1f}]"
        + (f" peak {line['test_peak']:.1f}" if line["threshold"] else "")
        for line in table.to_dict("records")
    ]
    return table.assign(text=text).pivot_table("text", list(by), "score", aggfunc="first", sort=False)[list(scores)]


def _thresholded(
    name: str,
    row: Row,
    val: Scores,
    test: Scores,
    val_found: Mapping[Key, BoxScores],
    found: Mapping[Key, BoxScores],
) -> tuple[dict[str, Any], np.ndarray]:
    """A score's cells, and each test image's value (images,) in percent at the thresholds chosen on validation."""
    if name == "mask IoU":
        before, after = (metrics.iou(scores.find(**row))[:, None] for scores in (val, test))
    else:
        key = tuple(row.values())
        before, after = (of[key].hits[:, BOX_SCORES[name]] for of in (val_found, found))
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
