"""How not to evaluate: by how much the usual mistakes inflate a score, on our own data."""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pandas as pd

from dgl_lib import metrics
from dgl_lib.evaluate.compare import select
from dgl_lib.evaluate.scores import Scores, choose, mean_iou, report

_JET = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_JET)
JET_TO_GREY = cv2.cvtColor(_JET, cv2.COLOR_BGR2GRAY)[0]  # grey value of each level 0..255 drawn in the colour map jet
MISTAKES = (  # in the order of the table
    "threshold for each image",
    "threshold on test",
    "layer on test",
    "layer and threshold on test",
    "scales and kernel on test",
    "multi-scale for DGL only",
    "multi-scale for CAM only",
    "coloured map",
    "border as object",
)
Wrong = tuple[str, str, dict[str, Any], np.ndarray, np.ndarray]  # mistake, of what, row, honest and mistaken images


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
    ``table`` is ``report(val, test)`` of every method on every layer, and ``chosen`` is ``choose_layers`` of it.
    ``treated`` are validation and test scores of CAM and DGL under several scales and kernels. Columns: mistake, of
    ("IoU", "DGL minus CAM"), kind, method, layer, honest, mistaken, inflation, low, high (points), images, verdict."""
    lines: list[dict[str, Any]] = []
    kinds = dict(zip(chosen["method"], chosen["kind"], strict=True))
    wrong = [*_wrong_scores(val, test, table, chosen), *_wrong_treatments(*treated)]
    for mistake, of, row, honest, mistaken in sorted(wrong, key=lambda one: MISTAKES.index(one[0])):
        found = metrics.bootstrap(100 * (mistaken - honest))
        cells = {"honest": 100 * honest.mean(), "mistaken": 100 * mistaken.mean(), "inflation": found.mean}
        ends = {"low": found.low, "high": found.high, "images": found.n, "verdict": found.verdict()}
        lines.append({"mistake": mistake, "of": of, "kind": kinds[row["method"]], **row, **cells, **ends})
    return pd.DataFrame(lines)


def _row(line: Any, *more: str) -> dict[str, Any]:
    return {name: line[name] for name in ("method", "layer", *more)}


def _wrong_scores(val: Scores, test: Scores, table: pd.DataFrame, chosen: pd.DataFrame) -> Iterator[Wrong]:
    """Mistakes with thresholds, layers, colours and borders, for every chosen row; values (images,) in 0..1."""
    for line in chosen.to_dict("records"):
        row = _row(line)
        before, after = val.find(**row), test.find(**row)
        curve = metrics.iou(after)
        honest = curve[:, choose(before)]
        wrong = {"threshold for each image": curve.max(1), "threshold on test": curve[:, choose(after)]}
        if row["layer"]:
            layers = table[table["method"] == row["method"]]
            one, both = (_row(layers.iloc[int(layers[by].argmax())]) for by in ("iou", "test_peak"))
            wrong["layer on test"] = metrics.iou(test.find(**one))[:, choose(val.find(**one))]
            wrong["layer and threshold on test"] = metrics.iou(test.find(**both))[:, choose(test.find(**both))]
        wrong["coloured map"] = metrics.iou(coloured(after))[:, choose(coloured(before))]
        if after[:, metrics.IGNORE].any():
            t = int(mean_iou(before, ignore_is_object=True).argmax())
            wrong["border as object"] = metrics.iou(after, ignore_is_object=True)[:, t]
        for mistake, mistaken in wrong.items():
            yield mistake, "IoU", row, honest, mistaken


def _wrong_treatments(val: Scores, test: Scores) -> Iterator[Wrong]:
    """Settings chosen on test; several scales for one of DGL and CAM, whose difference is honest with both treated."""
    table = report(val, test)

    def images(line: Any) -> np.ndarray:
        return metrics.iou(test.find(**_row(line, "scales", "kernel")))[:, line["threshold"]]

    one, several, where = {}, {}, {}
    for method in ("cam", "dgl"):
        lines = table[table["method"] == method]
        best, highest = select(lines).iloc[0], lines.iloc[int(lines["iou"].argmax())]
        where[method] = _row(best)
        yield "scales and kernel on test", "IoU", where[method], images(best), images(highest)
        single = lines["scales"] == "1"
        one[method] = images(lines[single & (lines["kernel"] == 0)].iloc[0])
        several[method] = images(select(lines if single.all() else lines[~single]).iloc[0])
    honest = several["dgl"] - several["cam"]
    yield "multi-scale for DGL only", "DGL minus CAM", where["dgl"], honest, several["dgl"] - one["cam"]
    yield "multi-scale for CAM only", "DGL minus CAM", where["dgl"], honest, one["dgl"] - several["cam"]
