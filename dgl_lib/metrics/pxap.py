"""PxAP: pixel average precision over a whole set (Choe et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dgl_lib.errors import UserError
from dgl_lib.metrics.boxes import SIZE, THRESHOLDS
from dgl_lib.metrics.counts import Counts

#: Bins [0, 0.001), [0.001, 0.002) .. [0.999, 1), [1, 2), [2, 3). The last stays empty, so that recall begins at 0.
EDGES = np.append(THRESHOLDS, [1.0, 2.0, 3.0])
BINS = len(EDGES) - 1


def masks_at(
    instances: Sequence[np.ndarray], ignore: np.ndarray | None = None, size: int = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Object and ignore masks (size, size) bool: nearest neighbour, instances united, ignore minus object.

    Masks are (H, W), each of any size, bool or 0..255. Above 0.5 is the object. UserError: no instance.
    """
    if not len(instances):
        raise UserError("masks: none given, at least one instance needed")
    mask = np.any([_resized(one, size) for one in instances], axis=0)
    return mask, np.zeros_like(mask) if ignore is None else _resized(ignore, size) & ~mask


def _resized(mask: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_NEAREST) > 0.5


@dataclass(frozen=True)
class AveragePrecision:
    """PxAP, the area ``value`` in 0..1 under the curve from the highest threshold to the lowest.

    ``precision`` and ``recall`` are (1002,). Precision is NaN where no pixel is found.
    """

    value: float
    precision: np.ndarray
    recall: np.ndarray


class PxAP(Counts):
    """Pixel average precision of score maps in 0..1, over the pixels of all images together."""

    def __init__(self) -> None:
        super().__init__(hist=(2, BINS))

    def update(self, score: np.ndarray, mask: np.ndarray, ignore: np.ndarray | None = None) -> None:
        """Add an image: ``score`` (H, W) floats, ``mask`` and ``ignore`` (H, W) bool.

        A pixel that both masks hold is the object's. An image whose pixels are all ignored adds no pixel.
        UserError: sizes differ, or values that are no numbers in 0..1.
        """
        for what, pixels in (("mask", mask), ("ignore mask", ignore)):
            if pixels is not None and pixels.shape != score.shape:
                raise UserError(f"{what}: {pixels.shape} given, the score map's {score.shape} needed")
        if not (score.size and score.min() >= 0 and score.max() <= 1):  # a NaN fails both
            raise UserError("score map: values outside of 0..1, NaN or none given, 0..1 needed")
        mask = np.asarray(mask, bool)
        counted = np.ones_like(mask) if ignore is None else mask | ~np.asarray(ignore, bool)
        bins = np.searchsorted(EDGES, score[counted], side="right") - 1
        self.add(hist=np.bincount(mask[counted] * BINS + bins, minlength=2 * BINS).reshape(2, BINS))

    def compute(self) -> AveragePrecision:
        """The score so far. UserError: no image yet, or no object pixel in any of them."""
        images = self.need_images()
        false, true = self.counts["hist"][:, ::-1].cumsum(1)  # (2, 1002): pixels found, from the highest threshold on
        if not true[-1]:
            raise UserError(f"PxAP: no object pixel in {images} images, at least one needed")
        found = true + false
        precision = np.where(found > 0, true / np.maximum(found, 1), np.nan)
        recall = true / true[-1]
        value = np.nansum(precision[1:] * np.diff(recall))  # AP = sum of precision times the step in recall
        return AveragePrecision(float(value), precision, recall)
