"""Scores of maps and boxes, and the intervals around them. Scores that stream over images are ``Counts``."""

from dgl_lib.metrics.boxes import Localization, MaxBoxAcc, MaxBoxAccV2
from dgl_lib.metrics.counts import Counts, Curve
from dgl_lib.metrics.intervals import MARGIN, Interval, bootstrap, two_samples
from dgl_lib.metrics.pixels import (
    BACKGROUND,
    IGNORE,
    PART,
    REGIONS,
    REST,
    IoUCurve,
    PxAP,
    at_least,
    background_iou,
    histograms,
    iou,
    masks_at,
    miou,
    precision,
    recall,
)
