"""Curves over thresholds and the usable band."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sets import scored

from dgl_lib import metrics, thresholds


def test_the_usable_band_by_hand() -> None:
    curve = np.zeros(256)
    curve[[10, 11, 12, 40]] = [0.475, 0.5, 0.474, 0.48]
    assert np.flatnonzero(thresholds.usable_band(curve)).tolist() == [10, 11, 40]


def test_bands_and_curves_by_hand() -> None:
    """DGL's object is at 200, its background at 50 on validation and at 100 on test: perfect above, 1/4 below."""
    val, test = (scored(np.zeros((4, 3, 4, 256), np.int32)) for _ in range(2))
    for scores, background in ((val, 50), (test, 100)):
        scores.hist[1, :, metrics.REST, 200], scores.hist[1, :, metrics.BACKGROUND, background] = 25, 75
    curves = thresholds.threshold_curves(val, test, [{"method": "dgl", "layer": "add1"}])
    assert curves.columns.tolist() == ["method", "layer", "threshold", "val", "test"] and len(curves) == 256
    assert curves["val"][[50, 51, 200, 201]].tolist() == [25, 100, 100, 0]
    assert curves["test"][[50, 51, 100, 101]].tolist() == [25, 25, 25, 100]
    found = thresholds.bands(val, test, pd.DataFrame([{"kind": "method", "method": "dgl", "layer": "add1"}]))
    cells = found[["split", "threshold", "first", "last", "width", "inside"]].to_numpy().tolist()
    assert cells == [["val", 51, 51, 200, 150, True], ["test", 51, 101, 200, 100, False]]
