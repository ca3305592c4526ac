"""The scores the field uses, side by side and chosen honestly; and by how much the usual mistakes inflate them.

Every method stands at the layer with its best mask IoU on validation. Thresholds, scales, kernels and percentiles are
chosen on validation too; the numbers are the test part's, and what a published protocol would take there stands beside.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from dgl_lib import boxes, metrics, paths, study
from dgl_lib.ablation import closing_kernels, scale_sets
from dgl_lib.boxes import SIZE, THRESHOLDS, Found
from dgl_lib.claims import markdown
from dgl_lib.comparison import MARGIN, Line, Row, choose_layers, name_of, only_scored, points, row_of, verdict
from dgl_lib.datasets.records import Dataset, Subset
from dgl_lib.evaluation import BASELINES, Maps, Scores, at, choose, report, score
from dgl_lib.files import write_text
from dgl_lib.maps import PAS, normalise, resize, to_uint8
from dgl_lib.metrics import Interval, Localization, MaxBoxAccV2, PxAP, bootstrap, masks_at
from dgl_lib.plots import scores as plots
from dgl_lib.plots import style
from dgl_lib.selection import select

#: Raised when what is kept on disk changes its meaning.
FORMAT = 1
#: Which of an image's six curves of hits a box score is the mean of (see ``BoxScores``).
BOX_SCORES = {"MaxBoxAcc": [0], "GT-known": [0], "Top-1": [1], "Top-5": [2], "MaxBoxAccV2": [3, 4, 5]}
#: Every score of the page, in its tables' order.
SCORES = ("mask IoU", "MaxBoxAccV2", "MaxBoxAcc", "GT-known", "Top-1", "Top-5", "PxAP")
#: A threshold is usable where the IoU is at least this share of the peak.
USABLE = 0.95
#: Normalisations and their percentile (0 where there is none); "ivr" chooses among its own on validation.
WAYS = [("minmax", 0.0), ("max", 0.0), ("pas", PAS), *(("ivr", p) for p in (0.15, 0.3, 0.45, 0.6, 0.75))]
#: Grey value (cv2.COLOR_BGR2GRAY) of each level 0..255 drawn in the colour map jet.
JET_TO_GREY = cv2.cvtColor(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_JET), cv2.COLOR_BGR2GRAY
)[0]

#: What goes wrong, by its name in mistakes.csv.
MISTAKES = {
    "threshold for each image": "Each image gets the threshold that suits it best, which needs its mask",
    "threshold on test": "One threshold for the set, but chosen on the test images, as published protocols do",
    "layer on test": "The layer is chosen on test, its threshold still on validation",
    "layer and threshold on test": "Layer and threshold are both chosen on test",
    "scales and kernel on test": "Of the multi-scale and closing settings, the best on test is reported",
    "multi-scale for DGL only": "DGL gets several scales and CAM one",
    "multi-scale for CAM only": "CAM gets several scales and DGL one",
    "coloured map": "The map is drawn in the colour map jet and turned back to grey before it is thresholded",
    "border as object": "Pixels to be ignored are counted as the object's",
}
EFFECTS = {
    "gains": "inflated",
    "loses": "lowered",
    "level": f"unchanged within {MARGIN:g} points",
    "undecided": "undecided",
}


def run(profile: str, settings: Sequence[str] = (), *, progress: bool = True) -> Path:
    """Make the page ``results/PROFILE/scores`` and return its folder. UserError: as ``study.run``."""
    return study.make_page("scores", profile, settings, partial(make, progress=progress), progress=progress)


def make(parameters: Mapping[str, Any], folder: Path, *, progress: bool = False) -> None:
    """Write the tables, the figures, findings.md and README.md to ``folder``."""
    t = measure(parameters, progress=progress)
    for name, table in t.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    classes = len(study.part(parameters, "test").classes)
    write_text(folder / "findings.md", findings(t, classes) + "\n")
    write_text(folder / "README.md", page(t, parameters, classes))
    style.use_style()
    style.save(plots.boxes(t["boxes"]), folder, "boxes")
    style.save(plots.curves(t["curves"], t["bands"], USABLE), folder, "curves")
    style.save(plots.normalisation(t["normalisation"]), folder, "normalisation")
    style.save(plots.mistakes(t["mistakes"], MARGIN), folder, "mistakes")


def measure(parameters: Mapping[str, Any], *, progress: bool = False) -> dict[str, pd.DataFrame]:
    """All tables of the page by name; what takes long is kept on disk, image by image."""
    whole = [study.part(parameters, split) for split in ("val", "test")]
    every = [study.every_map(parameters, split, progress=progress) for split in ("val", "test")]
    kept = partial(score, folder=paths.runs_folder(), progress=progress)
    val, test = (kept(data, {1.0: maps}) for data, maps in zip(whole, every, strict=True))
    table = report(val, test)
    chosen = choose_layers(val, test, table)
    rows = [row_of(row) for row in chosen.to_dict("records")]
    pairs = [(row["method"], row["layer"]) for row in rows if row["layer"]]

    data = [_with_object(part, scores.names) for part, scores in zip(whole, (val, test), strict=True)]
    maps = [
        only_scored(m.only(pairs), part.names, scores.names)
        for m, part, scores in zip(every, whole, (val, test), strict=True)
    ]
    found = [box_scores(part, m, rows, progress=progress) for part, m in zip(data, maps, strict=True)]
    curves = [normalised(part, m, pairs, progress=progress) for part, m in zip(data, maps, strict=True)]
    at_input = [kept(part, {1.0: m}, size=parameters["image_size"]) for part, m in zip(data, maps, strict=True)]

    by_scale = [study.maps_of_scales(parameters, split, progress=progress) for split in ("val", "test")]
    settings = [((1.0,), 0.0), *((s, 0.0) for s in scale_sets(parameters["scales"]))]
    settings += [((1.0,), k) for k in closing_kernels(parameters["kernels"])]
    two = [("cam", layer) for method, layer in every[0].maps if method == "cam"] + [("dgl", parameters["layer"])]
    treated = [
        kept(part, {s: m.only(two) for s, m in scales.items()}, settings)
        for part, scales in zip(whole, by_scale, strict=True)
    ]

    swept = sweep(curves[0], curves[1], pairs)
    return {
        "boxes": box_table(val, test, found[0], found[1], chosen),
        "iou_sizes": sizes({"photograph's own": (val, test), "input": (at_input[0], at_input[1])}, rows),
        "curves": threshold_curves(val, test, rows),
        "bands": bands(val, test, chosen),
        "normalisation": normalisations(swept, curves[1], chosen),
        "percentiles": swept,
        "mistakes": mistakes(val, test, table, chosen, (treated[0], treated[1])),
    }


def _with_object(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The images that have scores, those with an object."""
    place = {name: i for i, name in enumerate(dataset.names)}
    return Subset(dataset, [place[name] for name in names])


def _kept(
    kind: str, facts: Mapping[str, Any], arrays: Sequence[np.ndarray], make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What ``make`` gives, kept in a file that is named by all that determines it: ``facts`` and ``arrays``."""
    hashed = hashlib.sha256(json.dumps({**facts, "format": FORMAT}, sort_keys=True).encode())
    for array in arrays:
        hashed.update(f"{array.shape} {array.dtype}".encode())
        hashed.update(np.ascontiguousarray(array).data)
    file = paths.runs_folder() / f"{kind}-{hashed.hexdigest()[:16]}.npz"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}")
        with unfinished.open("wb") as stream:
            np.savez_compressed(stream, **make())  # type: ignore[arg-type]
        unfinished.replace(file)
    with np.load(file) as stored:
        return {name: stored[name] for name in stored.files}


def _each(images: int, of: Callable[[int], Any], what: str, progress: bool) -> list[Any]:
    """``of`` each image, several at a time: OpenCV and torch let go of the interpreter while they work."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        bar = tqdm(pool.map(of, range(images)), total=images, desc=what, unit="image", disable=not progress)
        return list(bar)


# ------------------------------------------------------------------------------------------------------ box scores


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


def box_scores(
    dataset: Dataset, maps: Maps, rows: Sequence[Row], *, progress: bool = False
) -> dict[tuple[str, str], BoxScores]:
    """Search every row's boxes on every image at 224 px, kept on disk row by row; baselines need no normalisation.

    Raises:
        UserError: a record without a ground-truth box.
    """

    @cache  # read once for all rows, and not at all where every row is on disk
    def truths() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return [_truth(dataset, i) for i in range(len(dataset))]

    def search(row: Row) -> dict[str, np.ndarray]:
        fixed = BASELINES.get(row["method"])
        trivial = fixed((SIZE, SIZE)).double().numpy() if fixed else None
        shared = None if trivial is None else boxes.search(trivial)

        def one(i: int) -> tuple[np.ndarray, np.ndarray]:
            m = boxes.score_map(maps.maps[row["method"], row["layer"]][i]) if trivial is None else trivial
            found = shared or boxes.search(m, threads=1)
            return image_hits(m, found, truths()[i], maps.logits[i], int(dataset.labels[i]))

        truths()
        each = _each(len(dataset), one, f"boxes of {name_of(row)}, {dataset.split}", progress)
        return {"hits": np.stack([hits for hits, _ in each]), "pixels": np.stack([pixels for _, pixels in each])}

    result = {}
    for row in rows:
        key = row["method"], row["layer"]
        facts = {"data": dataset.digest, "baseline": row["method"] if row["method"] in BASELINES else ""}
        arrays = [maps.logits, *([maps.maps[key]] if key in maps.maps else [])]
        result[key] = BoxScores(**_kept("boxes", facts, arrays, partial(search, row)))
    return result


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
    val_found: Mapping[tuple[str, str], BoxScores],
    found: Mapping[tuple[str, str], BoxScores],
    chosen: pd.DataFrame,
) -> pd.DataFrame:
    """Every score of every chosen row: threshold from validation, value on test, and the peak on test beside it.

    Returns:
        columns score, kind, method, layer, threshold (grey level of mask IoU; shares of the map's maximum of box
        scores, MaxBoxAccV2 one an IoU level; none of PxAP), val, test, low, high (percent), over, over_low, over_high,
        over_verdict (points, paired, over the trivial baseline that is better on validation), images, test_peak (the
        published protocol's: thresholds chosen on test).
    """
    table: list[dict[str, Any]] = []
    values: dict[tuple[str, str], np.ndarray] = {}  # by score and method: of each image, or of each draw for PxAP
    for row in chosen.to_dict("records"):
        key = row["method"], row["layer"]
        which = {name: row[name] for name in ("kind", "method", "layer")}
        for name in SCORES:
            if name == "PxAP":
                before = pxap(val_found[key].pixels.sum(0))
                drawn = pooled(found[key].pixels, pxap)
                values[name, row["method"]] = drawn
                cells = {"threshold": "", "val": before, "test": float(drawn[0]), "test_peak": float(drawn[0])}
            else:
                cells, values[name, row["method"]] = _thresholded(name, row_of(row), val, test, val_found, found)
            table.append({"score": name, **which, **cells, "images": len(test.names)})
    for line in table:
        of = [other for other in table if other["score"] == line["score"] and other["kind"] == "baseline"]
        better = max(of, key=lambda other: other["val"])["method"]
        own, other = values[line["score"], line["method"]], values[line["score"], better]
        paired = interval if line["score"] == "PxAP" else (lambda x, _: bootstrap(x))
        mine, over = paired(own, line["images"]), paired(own - other, line["images"])
        line |= {"low": mine.low, "high": mine.high}
        line |= {"over": over.mean, "over_low": over.low, "over_high": over.high, "over_verdict": verdict(over)}
    columns = ["score", "kind", "method", "layer", "threshold", "val", "test", "low", "high"]
    columns += ["over", "over_low", "over_high", "over_verdict", "images", "test_peak"]
    return pd.DataFrame(table)[columns]


def _thresholded(
    name: str,
    row: Row,
    val: Scores,
    test: Scores,
    val_found: Mapping[tuple[str, str], BoxScores],
    found: Mapping[tuple[str, str], BoxScores],
) -> tuple[dict[str, Any], np.ndarray]:
    """A score's cells, and each test image's value (images,) in percent at the thresholds chosen on validation."""
    if name == "mask IoU":
        before, after = (metrics.iou(scores.find(**row))[:, None] for scores in (val, test))
    else:
        key = row["method"], row["layer"]
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


# ------------------------------------------------------------------------------------------ mask scores and curves


def sizes(by_size: Mapping[str, tuple[Scores, Scores]], rows: Sequence[Row]) -> pd.DataFrame:
    """IoU at both sizes, averaged over images and pooled over the set, each at its own threshold from validation.

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
                    found = bootstrap(100 * at(metrics.iou(after), t))
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


def threshold_curves(val: Scores, test: Scores, rows: Sequence[Row]) -> pd.DataFrame:
    """Mean IoU in percent at every threshold: columns method, layer, threshold (0..255), val, test."""
    curves = []
    for row in rows:
        before, after = (100 * metrics.iou(scores.find(**row)).mean(0) for scores in (val, test))
        curves.append(pd.DataFrame({**row, "threshold": range(256), "val": before, "test": after}))
    return pd.concat(curves, ignore_index=True)


def bands(val: Scores, test: Scores, chosen: pd.DataFrame) -> pd.DataFrame:
    """The thresholds whose mean IoU is at least ``USABLE`` of the curve's peak, on validation and on test.

    Returns:
        columns kind, method, layer, split, threshold (chosen on validation), first, last, width (how many grey levels
        are usable), inside (whether the chosen threshold is).
    """
    table = []
    for row in chosen.to_dict("records"):
        t = choose(val.find(**row_of(row)))
        for split, scores in (("val", val), ("test", test)):
            usable = usable_band(metrics.iou(scores.find(**row_of(row))).mean(0))
            first, last = np.flatnonzero(usable)[[0, -1]].tolist()
            cells = {"threshold": t, "first": first, "last": last, "width": int(usable.sum()), "inside": usable[t]}
            table.append({"kind": row["kind"], **row_of(row), "split": split, **cells})
    return pd.DataFrame(table)


def usable_band(curve: np.ndarray) -> np.ndarray:
    """Which thresholds of a curve (256,) reach ``USABLE`` of its peak, (256,) bool."""
    return curve >= USABLE * curve.max()


# -------------------------------------------------------------------------------------------------- normalisation


def normalised(
    dataset: Dataset, maps: Maps, pairs: Sequence[tuple[str, str]], *, progress: bool = False
) -> dict[tuple[str, str], np.ndarray]:
    """IoU at 256 thresholds of every image in each of ``WAYS``, (ways, images, 256) float32; kept on disk row by row.

    raw map -> bilinear resize to the photograph -> normalise -> ``round(255 m)``. For "minmax" this is the study's own
    order at one scale without closing, since min-max before a bilinear resize changes it by a factor and a constant.
    """

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

    def compute(pair: tuple[str, str]) -> dict[str, np.ndarray]:
        what = f"normalisations, {pair[0]}, {dataset.split}"
        return {"iou": np.stack(_each(len(dataset), partial(curves, maps.maps[pair]), what, progress), 1)}

    facts = {"data": dataset.digest, "ways": WAYS}
    return {pair: _kept("normalised", facts, [maps.maps[pair]], partial(compute, pair))["iou"] for pair in pairs}


def sweep(
    val: Mapping[tuple[str, str], np.ndarray],
    test: Mapping[tuple[str, str], np.ndarray],
    pairs: Sequence[tuple[str, str]],
) -> pd.DataFrame:
    """Every method under every normalisation and percentile, its threshold chosen on validation (percent).

    Returns:
        columns method, layer, normalisation, percentile, threshold, val_iou, iou, low, high, test_peak.
    """
    table = []
    for pair in pairs:
        for k, (how, percentile) in enumerate(WAYS):
            before, after = (curves[pair][k].astype(np.float64).mean(0) for curves in (val, test))
            t = int(before.argmax())
            found = bootstrap(100 * test[pair][k, :, t])
            cells = {"threshold": t, "val_iou": 100 * before[t], "iou": found.mean, "low": found.low}
            which = {"method": pair[0], "layer": pair[1], "normalisation": how, "percentile": percentile}
            table.append({**which, **cells, "high": found.high, "test_peak": 100 * after.max()})
    return pd.DataFrame(table)


def normalisations(
    swept: pd.DataFrame, test: Mapping[tuple[str, str], np.ndarray], chosen: pd.DataFrame
) -> pd.DataFrame:
    """Each method under each normalisation, its percentile chosen on validation, with its place among the methods.

    A baseline is no map of a network and is not normalised: its line is the same under each.

    Returns:
        ``sweep``'s columns; ``candidates`` and ``test_best`` (``selection.select``); kind; rank (1 the highest test
        IoU, to a tenth of a point, among methods only); change, change_low, change_high, change_verdict (points of
        IoU, paired, against min-max).
    """
    table = select(swept, by=["method", "normalisation"])
    kinds = chosen.set_index("method")["kind"]
    table["kind"] = table["method"].map(kinds)
    changes: list[dict[str, Any]] = []
    images = {}
    for line in table.to_dict("records"):
        way = WAYS.index((line["normalisation"], line["percentile"]))
        images[line["method"], line["normalisation"]] = 100 * test[line["method"], line["layer"]][
            way, :, line["threshold"]
        ].astype(np.float64)
        own = images[line["method"], line["normalisation"]] - images[line["method"], "minmax"]
        change = bootstrap(own)
        cells = {"change": change.mean, "change_low": change.low, "change_high": change.high}
        changes.append({**cells, "change_verdict": verdict(change)})
    table = pd.concat([table, pd.DataFrame(changes)], axis=1)
    methods = table[table["kind"] == "method"]
    table["rank"] = methods["iou"].round(1).groupby(methods["normalisation"]).rank(ascending=False, method="min")
    same = ["kind", "method", "layer", "threshold", "val_iou", "iou", "low", "high", "test_peak"]
    trivial = chosen.loc[chosen["kind"] == "baseline", same]
    ways = dict.fromkeys(how for how, _ in WAYS)
    return pd.concat([table, *(trivial.assign(normalisation=how) for how in ways)], ignore_index=True)


# -------------------------------------------------------------------------------------------- how not to evaluate


def coloured(hist: np.ndarray) -> np.ndarray:
    """Histograms (..., 256) of maps that were drawn in jet and turned to grey: each level's pixels, at its new grey."""
    result = np.zeros_like(hist)
    for level, grey in enumerate(JET_TO_GREY):
        result[..., grey] += hist[..., level]
    return result


def mistakes(
    val: Scores, test: Scores, table: pd.DataFrame, chosen: pd.DataFrame, treated: tuple[Scores, Scores]
) -> pd.DataFrame:
    """What each mistake adds to the score: the mistaken value minus the honest one, paired over the test images.

    Args:
        table: ``report(val, test)``, of every method on every layer.
        treated: validation and test scores of CAM and DGL under several scales and kernels.

    Returns:
        columns mistake, of ("IoU", or "DGL minus CAM", in percent or points), kind, method, layer, honest, mistaken,
        inflation, low, high (points), images, verdict.
    """
    lines = []
    kinds = dict(zip(chosen["method"], chosen["kind"], strict=True))
    wrong = [*_wrong_scores(val, test, table, chosen), *_wrong_treatments(*treated)]
    for mistake, of, row, honest, mistaken in wrong:
        found = bootstrap(100 * (mistaken - honest))
        cells = {"honest": 100 * honest.mean(), "mistaken": 100 * mistaken.mean(), "inflation": found.mean}
        ends = {"low": found.low, "high": found.high, "images": found.n, "verdict": verdict(found)}
        lines.append({"mistake": mistake, "of": of, "kind": kinds[row["method"]], **row, **cells, **ends})
    order = {mistake: i for i, mistake in enumerate(MISTAKES)}
    return pd.DataFrame(lines).sort_values("mistake", key=lambda m: m.map(order), kind="stable", ignore_index=True)


#: A mistake, what is scored, whose, and each image's honest and mistaken value (images,) in 0..1.
Wrong = tuple[str, str, Row, np.ndarray, np.ndarray]


def _wrong_scores(val: Scores, test: Scores, table: pd.DataFrame, chosen: pd.DataFrame) -> Iterator[Wrong]:
    """Mistakes with thresholds, layers, colours and borders, for every chosen row."""
    for row in map(row_of, chosen.to_dict("records")):
        before, after = val.find(**row), test.find(**row)
        curve = metrics.iou(after)
        honest = at(curve, choose(before))
        wrong = {"threshold for each image": curve.max(1), "threshold on test": at(curve, choose(after))}
        if row["layer"]:
            layers = table[table["method"] == row["method"]]
            one, both = (row_of(_highest(layers, by)) for by in ("iou", "test_peak"))
            wrong["layer on test"] = at(metrics.iou(test.find(**one)), choose(val.find(**one)))
            wrong["layer and threshold on test"] = at(metrics.iou(test.find(**both)), choose(test.find(**both)))
        wrong["coloured map"] = at(metrics.iou(coloured(after)), choose(coloured(before)))
        if after[:, metrics.IGNORE].any():
            t = int(metrics.iou(before, ignore_is_object=True).mean(0).argmax())
            wrong["border as object"] = at(metrics.iou(after, ignore_is_object=True), t)
        for mistake, mistaken in wrong.items():
            yield mistake, "IoU", row, honest, mistaken


def _wrong_treatments(val: Scores, test: Scores) -> Iterator[Wrong]:
    """Settings chosen on test; several scales for one of DGL and CAM, whose difference is honest with both treated."""
    table = report(val, test)

    def images(line: Line) -> np.ndarray:
        row = {name: line[name] for name in ("method", "layer", "scales", "kernel")}
        return at(metrics.iou(test.find(**row)), line["threshold"])

    one, several, where = {}, {}, {}
    for method in ("cam", "dgl"):
        lines = table[table["method"] == method]
        best = select(lines).iloc[0]
        where[method] = row_of(best)
        yield (
            *("scales and kernel on test", "IoU", where[method]),
            *(images(best), images(_highest(lines, "iou"))),
        )
        single = lines["scales"] == "1"
        one[method] = images(lines[single & (lines["kernel"] == 0)].iloc[0])
        several[method] = images(select(lines[~single]).iloc[0])
    honest = several["dgl"] - several["cam"]
    yield "multi-scale for DGL only", "DGL minus CAM", where["dgl"], honest, several["dgl"] - one["cam"]
    yield "multi-scale for CAM only", "DGL minus CAM", where["dgl"], honest, one["dgl"] - several["cam"]


# ------------------------------------------------------------------------------------------------------ sentences


def findings(t: Mapping[str, pd.DataFrame], classes: int) -> str:
    """What was found, as a Markdown list; every word follows from the tables. ``classes``: how many there are."""
    lines = [*_found_boxes(t["boxes"], classes), _found_sizes(t["iou_sizes"]), _found_bands(t["bands"])]
    lines += [_found_normalisation(t["normalisation"]), *_found_mistakes(t["mistakes"])]
    return "\n".join(f"- {line}" for line in lines)


def _of(line: Line, mean: str = "test") -> str:
    return f"{line[mean]:.1f} % [{line['low']:.1f}, {line['high']:.1f}]"


def _found_boxes(table: pd.DataFrame, classes: int) -> Iterator[str]:
    methods = table[table["kind"] == "method"]
    by = {name: methods[methods["score"] == name].set_index("method") for name in SCORES}
    parts, beaten, agree, names = [], [], [], set()
    for name in ("mask IoU", "MaxBoxAccV2", "PxAP"):
        best = _highest(by[name].reset_index(), "val")
        names.add(best["method"])
        parts.append(f"by {name} it is {name_of(best)}, {_of(best)} on test")
        beaten.append(f"{(by[name]['over_verdict'] == 'gains').sum()} by {name}")
    for name in ("MaxBoxAccV2", "MaxBoxAcc", "PxAP"):
        agree.append(f"{_rank_correlation(by['mask IoU']['test'], by[name]['test'])} for {name}")
    head = "One method is best by every score" if len(names) == 1 else "Which method is best depends on the score"
    yield (
        f"**{head}.** Chosen on validation, {'; '.join(parts)}. Of "
        f"{len(by['PxAP'])} methods, so many gain on the better trivial baseline: {', '.join(beaten)}. Spearman's "
        f"rank correlation of the methods' test scores with their mask IoU is {', '.join(agree)}."
    )
    lines = []
    for method in ("dgl", "cam"):
        if method in by["MaxBoxAccV2"].index:
            of = [f"{name} {_of(by[name].loc[method])}" for name in ("MaxBoxAccV2", "GT-known", "Top-1", "Top-5")]
            name = name_of({"method": method, "layer": by["PxAP"].loc[method, "layer"]})
            lines.append(f"{name}: {', '.join(of)}")
    chance = 100 * min(1, 5 / classes)
    yield (
        f"**Box scores.** {'; '.join(lines)}. GT-known localization is MaxBoxAcc under its older name. With {classes} "
        f"classes five blind guesses name the right one {chance:.0f} % of the time, so Top-5 "
        + ("adds little to GT-known." if chance >= 50 else "is a test of the classifier too.")
    )
    peaks = methods[methods["score"] != "PxAP"]
    more = peaks["test_peak"] - peaks["test"]
    yield (
        f"**The published protocol's peak on test** lies {more.min():.1f} to {more.max():.1f} points above the value "
        f"at the threshold from validation, {more.mean():.1f} on average over methods and scores with a threshold."
    )


def _highest(table: pd.DataFrame, by: str) -> Line:
    """The line with the highest value of a column; the first where several tie."""
    return table.iloc[int(table[by].to_numpy().argmax())].to_dict()


def _rank_correlation(a: pd.Series, b: pd.Series) -> str:
    """Spearman's; undefined where all are equal."""
    found = round(float(a.rank().corr(b.rank())), 2) + 0.0  # no -0.0
    return "undefined (all equal)" if np.isnan(found) else f"{found:.2f}"


def _found_sizes(table: pd.DataFrame) -> str:
    cells = table[table["layer"] != ""].pivot_table("test", ["method", "layer"], ["size", "average"])
    own, at_input = cells["photograph's own"], cells["input"]
    size = at_input["per image"] - own["per image"]
    average = own["pooled"] - own["per image"]
    same = size.abs().max() < 0.05
    best = dict.fromkeys(name_of(_highest(cells[key].rename("test").reset_index(), "test")) for key in cells)
    return (
        "**Sizes and averages.** From the photograph's own size to the input's, the IoU of a map "
        + ("does not change by a tenth of a point" if same else f"changes by {_span(size)} points")
        + f"; pooled over the set instead of averaged over images, by {_span(average)} points. Highest on test is "
        + (f"{next(iter(best))} on all four counts." if len(best) == 1 else f"{', '.join(best)}, by the one or other.")
    )


def _span(values: pd.Series) -> str:
    low, high = (round(float(x), 1) + 0.0 for x in (values.min(), values.max()))
    return f"{low:+.1f} to {high:+.1f}"


def _found_bands(table: pd.DataFrame) -> str:
    test = table[(table["split"] == "test") & (table["kind"] == "method")]
    wide, narrow = _highest(test, "width"), _highest(test.assign(less=-test["width"]), "less")
    text = [f"{name_of(row)}, {row['width']} ({row['first']} to {row['last']})" for row in (wide, narrow)]
    own = [f"{name_of(row)} has {row['width']}" for row in test.to_dict("records") if row["method"] in ("dgl", "cam")]
    return (
        f"**Usable thresholds.** Of 256 grey levels, those at {100 * USABLE:.0f} % of the peak on test or more are "
        f"most for {text[0]}, fewest for {text[1]}; {', '.join(own)}. The threshold from validation is among them for "
        f"{int(test['inside'].sum())} of {len(test)} methods."
    )


def _found_normalisation(table: pd.DataFrame) -> str:
    methods = table[table["kind"] == "method"]
    best = [
        f"{name_of(_highest(of, 'val_iou'))} under {how}" for how, of in methods.groupby("normalisation", sort=False)
    ]
    ranks = methods.pivot_table("rank", "method", "normalisation")
    moved = (ranks.max(axis=1) - ranks.min(axis=1)).astype(int)
    most = str(moved.idxmax())
    changed = methods[methods["normalisation"] != "minmax"]
    largest = _highest(changed.assign(size=changed["change"].abs()), "size")
    by = points(largest["change"], largest["change_low"], largest["change_high"])
    count = changed["change_verdict"].value_counts()
    cam = methods.loc[methods["method"] == "cam", "iou"]
    places = (
        f"the order of the {len(ranks)} methods on test stays the same"
        if moved.max() == 0
        else f"{(moved > 0).sum()} of {len(ranks)} methods change their place on test, most of all "
        f"{style.NAMES.get(most, most)}, by {moved.max()}"
    )
    return (
        f"**Normalisation.** Best on validation: {', '.join(best)}; {places}. Against min-max, "
        f"{count.get('gains', 0)} of {len(changed)} changes gain and {count.get('loses', 0)} lose; the largest is "
        f"{name_of(largest)} under {largest['normalisation']}, {by}"
        + (f"; CAM moves by {cam.max() - cam.min():.1f} points between its best and worst." if len(cam) else ".")
    )


def _found_mistakes(table: pd.DataFrame) -> Iterator[str]:
    for mistake, of in table.groupby("mistake", sort=False):
        said = []
        for line in of[of["method"].isin(["dgl", "cam"])].to_dict("records"):
            by = points(line["inflation"], line["low"], line["high"])
            change = f"{line['honest']:.1f} becomes {line['mistaken']:.1f}"
            whose = "DGL minus CAM" if line["of"] != "IoU" else name_of(line)
            said.append(f"{whose}: {change}, {by} ({EFFECTS[line['verdict']]})")
        methods = of.loc[of["kind"] == "method", "inflation"]
        over = (
            f". Over {len(methods)} methods {_span(methods)}, {methods.mean():+.1f} on average" if len(of) > 2 else ""
        )
        yield f"**{_sentence(str(mistake))}.** {MISTAKES[str(mistake)]}. {_sentence('; '.join(said))}{over}."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# ----------------------------------------------------------------------------------------------------------- page


def page(t: Mapping[str, pd.DataFrame], parameters: Mapping[str, Any], classes: int) -> str:
    """The page, GitHub Markdown, with its tables and figures."""
    images = int(t["boxes"]["images"].max())
    sections = [
        f"# Scores that the field uses: {parameters['profile']}",
        f"Every method at the layer with its best mask IoU on validation. Thresholds are chosen on validation, each "
        f"score's own; the numbers are those of {images} test images, the image's true class given (Top-1 and Top-5 "
        f"ask the classifier too). Brackets are 95 % bootstrap intervals over images at that threshold, paired for "
        f"differences. *Gains*, *loses*: the interval lies beyond {MARGIN:g} points; *level*: within; else "
        f"*undecided*. This is one trained network with {classes} classes, and nothing here is a claim: it is "
        f"exploratory.",
        "## Findings",
        findings(t, classes),
        "## Box scores beside mask scores",
        "![scores of every method](boxes.png)",
        _boxes_markdown(t["boxes"], "test"),
        "Box scores follow wsolevaluation at 224 px (cubic resize, then min-max; a mask of 0..1 as it is for the "
        "baselines). The published protocol takes the **peak on test** instead, thresholds chosen on the test images:",
        _boxes_markdown(t["boxes"], "test_peak"),
        "Thresholds, gains over the better trivial baseline and validation scores: [boxes.csv](boxes.csv). PxAP has no "
        "threshold.",
        "## Both sizes, both averages",
        _sizes_markdown(t["iou_sizes"]),
        "Each at its own threshold from validation; peaks on test (LID's protocol): [iou_sizes.csv](iou_sizes.csv)",
        "## Thresholds",
        "![IoU at every threshold](curves.png)",
        f"A threshold is usable where the mean IoU is at least {100 * USABLE:.0f} % of the peak. "
        "[curves.csv](curves.csv), [bands.csv](bands.csv)",
        "## Normalisation",
        "![IoU and rank by normalisation](normalisation.png)",
        _normalisation_markdown(t["normalisation"]),
        f"`minmax`, `max`, `pas` (percentile {PAS:g}) and `ivr` as in Kim et al. (ICCV 2021), after the resize, the "
        f"same for all methods of a column; layers stay those chosen with min-max, thresholds and the percentile of "
        f"`ivr` are chosen on validation. [normalisation.csv](normalisation.csv), every percentile: "
        f"[percentiles.csv](percentiles.csv)",
        "## How not to evaluate",
        "![what each mistake adds](mistakes.png)",
        "The honest value, the mistaken one, and their difference over the same test images:",
        _mistakes_markdown(t["mistakes"]),
        "Every method: [mistakes.csv](mistakes.csv). A mistake that is missing cannot be made here. Several scales "
        "stand for any averaging over crops: they are chosen for each of DGL and CAM on validation.",
    ]
    return "\n\n".join(sections) + "\n"


def _boxes_markdown(table: pd.DataFrame, value: str) -> str:
    shown = [name for name in SCORES if name != "GT-known"]
    rows = []
    for (method, layer), of in table.groupby(["method", "layer"], sort=False):
        by = of.set_index("score")
        cells = [_of(by.loc[name]) if value == "test" else f"{float(by[value][name]):.1f} %" for name in shown]
        rows.append([style.NAMES.get(str(method), str(method)), str(layer), *cells])
    header = ["MaxBoxAcc = GT-known" if name == "MaxBoxAcc" else name for name in shown]
    return markdown(["", "layer", *header], rows)


def _sizes_markdown(table: pd.DataFrame) -> str:
    columns = [(size, average) for size in ("photograph's own", "input") for average in ("per image", "pooled")]
    rows = []
    for (method, layer), of in table.groupby(["method", "layer"], sort=False):
        by = of.set_index(["size", "average"])
        rows.append([style.NAMES.get(str(method), str(method)), str(layer), *(_of(by.loc[key]) for key in columns)])
    return markdown(["", "layer", *(f"{size} size, {average}" for size, average in columns)], rows)


def _normalisation_markdown(table: pd.DataFrame) -> str:
    ways = list(dict.fromkeys(table["normalisation"]))
    rows = []
    for (method, layer), of in table.groupby(["method", "layer"], sort=False):
        lines = of.set_index("normalisation").loc[ways].to_dict("records")
        cells = [_of(line, "iou") + ("" if np.isnan(line["rank"]) else f", {line['rank']:.0f}.") for line in lines]
        rows.append([style.NAMES.get(str(method), str(method)), str(layer), *cells])
    return markdown(["", "layer", *(f"{how}, test IoU and rank" for how in ways)], rows)


def _mistakes_markdown(table: pd.DataFrame) -> str:
    rows = [
        [
            *(line["mistake"], "DGL minus CAM" if line["of"] != "IoU" else name_of(line)),
            *(f"{line['honest']:.1f}", f"{line['mistaken']:.1f}"),
            *(points(line["inflation"], line["low"], line["high"]), EFFECTS[line["verdict"]]),
        ]
        for line in table[table["method"].isin(["dgl", "cam", *BASELINES])].to_dict("records")
    ]
    return markdown(["mistake", "", "honest", "mistaken", "difference", ""], rows)
