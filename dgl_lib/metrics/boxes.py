"""Box scores: MaxBoxAcc, MaxBoxAccV2, and Top-1, Top-5 and GT-known localization.

All take what ``boxes.search`` found on the ground-truth class's map, so that one search serves them all, and the
image's ground-truth boxes as ``boxes.scale`` brings them to the map's size. Scores are shares of the images, 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgl_lib.metrics.search import THRESHOLDS, Found
from dgl_lib.errors import UserError
from dgl_lib.metrics.counts import Counts, Curve

IOU = 0.5
IOUS_V2 = (0.3, 0.5, 0.7)


@dataclass(frozen=True)
class BoxAcc:
    """Share of images whose box is right at each of the 1,000 thresholds, one curve an IoU level.

    Attributes:
        curves: {IoU level: curve}.
        images: how many.
    """

    curves: dict[float, Curve]
    images: int

    @property
    def score(self) -> float:
        """The mean over IoU levels of each curve's peak: the published score, its thresholds chosen on these images."""
        return float(np.mean([curve.peak for curve in self.curves.values()]))


class MaxBoxAcc(Counts):
    """The box around the largest contour, right at IoU >= 0.5 with any ground-truth box; one threshold for the set."""

    ious: tuple[float, ...] = (IOU,)

    def __init__(self) -> None:
        super().__init__(hits=(len(self.ious), len(THRESHOLDS)))

    def update(self, found: Found, truth: np.ndarray) -> None:
        """Add an image: its boxes at ``THRESHOLDS``, and ``truth`` (n, 4) at the map's size. UserError: no box."""
        self.add(hits=self._fit(found, truth) >= np.array(self.ious)[:, None])

    def _fit(self, found: Found, truth: np.ndarray) -> np.ndarray:
        return found.largest_iou(truth)

    def compute(self) -> BoxAcc:
        """The score so far. UserError: no image yet."""
        images = self.need_images(type(self).__name__)
        curves = {level: Curve(hits / images) for level, hits in zip(self.ious, self.counts["hits"], strict=True)}
        return BoxAcc(curves, images)


class MaxBoxAccV2(MaxBoxAcc):
    """Every contour's box against every ground-truth box, at IoU >= 0.3, 0.5 and 0.7, each at its best threshold."""

    ious = IOUS_V2

    def _fit(self, found: Found, truth: np.ndarray) -> np.ndarray:
        return found.best_iou(truth)


@dataclass(frozen=True)
class LocalizationScore:
    """Share of images localized at each of the 1,000 thresholds; ``gt_known`` is MaxBoxAcc's curve."""

    gt_known: Curve
    top1: Curve
    top5: Curve
    images: int


class Localization(Counts):
    """The box of the ground-truth class's map is right (as MaxBoxAcc), and that class is among the first 1, or 5."""

    def __init__(self) -> None:
        super().__init__(hits=(3, len(THRESHOLDS)))

    def update(self, found: Found, truth: np.ndarray, logits: np.ndarray, label: int) -> None:
        """Add an image.

        Args:
            found: boxes on the map of ``label``, at ``THRESHOLDS``.
            truth: (n, 4) ground-truth boxes at the map's size.
            logits: (C,) of the classifier; of equal ones the lower class stands first.
            label: the ground-truth class.

        Raises:
            UserError: no box, logits that are no numbers, or a label that is not among them.
        """
        logits = np.asarray(logits)
        if logits.ndim != 1 or np.isnan(logits).any():
            raise UserError(f"logits: shape {logits.shape}, {np.isnan(logits).sum()} NaN given, (C,) numbers needed")
        if not 0 <= label < len(logits):
            raise UserError(f"label: {label} given, 0..{len(logits) - 1} allowed")
        before = (logits > logits[label]).sum() + (logits[:label] == logits[label]).sum()
        among = np.array([True, before < 1, before < 5])
        self.add(hits=among[:, None] & (found.largest_iou(truth) >= IOU))

    def compute(self) -> LocalizationScore:
        """The score so far. UserError: no image yet."""
        images = self.need_images("Localization")
        gt_known, top1, top5 = (Curve(hits / images) for hits in self.counts["hits"])
        return LocalizationScore(gt_known, top1, top5, images)
