"""Scores of maps and boxes, and the intervals around them. Scores that stream over images are ``Counts``."""

from dgl_lib.data.records import masks_at
from dgl_lib.metrics.intervals import MARGIN, Interval, bootstrap, two_level, two_samples
from dgl_lib.metrics.pixels import BACKGROUND, IGNORE, PART, REST, at_least, histograms, iou, miou, precision, recall
from dgl_lib.metrics.streams import Counts, Curve, IoUCurve, Localization, MaxBoxAcc, MaxBoxAccV2, PxAP
