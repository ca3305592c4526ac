"""IoU against the threshold, and the band of thresholds that are usable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dgl_lib import metrics
from dgl_lib.evaluate.scores import Scores, choose

#: A threshold is usable where the IoU is at least this share of the peak.
USABLE = 0.95


def threshold_curves(val: Scores, test: Scores, rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
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
        which = {"method": row["method"], "layer": row["layer"]}
        t = choose(val.find(**which))
        for split, scores in (("val", val), ("test", test)):
            usable = usable_band(metrics.iou(scores.find(**which)).mean(0))
            first, last = np.flatnonzero(usable)[[0, -1]].tolist()
            cells = {"threshold": t, "first": first, "last": last, "width": int(usable.sum()), "inside": usable[t]}
            table.append({"kind": row["kind"], **which, "split": split, **cells})
    return pd.DataFrame(table)


def usable_band(curve: np.ndarray) -> np.ndarray:
    """Which thresholds of a curve (256,) reach ``USABLE`` of its peak, (256,) bool."""
    return curve >= USABLE * curve.max()
