"""Scores of maps against pixel masks, threshold by threshold.

Everything rests on one small table an image: how many pixels of each region have each of the 256 grey levels. From it
every threshold's intersection and union follow, so one pass over the pixels gives the whole curve, and thresholds,
averages and bootstrap intervals can be taken later without the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dgl_lib.errors import UserError
from dgl_lib.metrics.counts import Counts, Curve

#: Rows of an image's histograms. The object is ``rest`` and ``part`` together; ``ignore`` is in no score.
REGIONS = ("background", "rest", "part", "ignore")
BACKGROUND, REST, PART, IGNORE = range(4)
#: OpenCV hands counts over as float32, which hold whole numbers up to here.
EXACT = 1 << 24


def histograms(
    q: np.ndarray, mask: np.ndarray, ignore: np.ndarray | None = None, part: np.ndarray | None = None
) -> np.ndarray:
    """Pixels of each region at each grey level, (4, 256) int32, rows as ``REGIONS``.

    Args:
        q: (H, W) uint8 map.
        mask: (H, W) bool, the object.
        ignore: (H, W) bool, pixels in no score. Wins over ``mask``.
        part: (H, W) bool, the telling part; counted inside of ``mask`` only.

    Raises:
        UserError: q is not uint8, or sizes differ.
    """
    if q.dtype != np.uint8:
        raise UserError(f"map: {q.dtype} given, uint8 (round(255 m) of a map in 0..1) needed")
    region = np.array(mask, bool).astype(np.uint8)  # BACKGROUND is 0 and REST is 1
    if region.shape != q.shape:
        raise UserError(f"mask: {region.shape} given, the map's {q.shape} needed")
    for what, pixels, value in (("part", part, PART), ("ignore mask", ignore, IGNORE)):
        if pixels is not None:
            if pixels.shape != q.shape:
                raise UserError(f"{what}: {pixels.shape} given, the map's {q.shape} needed")
            region[pixels & mask if value == PART else pixels] = value
    hist = np.zeros((4, 256), np.int32)
    q = np.ascontiguousarray(q)
    rows = max(1, EXACT // max(1, q.shape[1]))
    for y in range(0, len(q), rows):
        pair = [region[y : y + rows], q[y : y + rows]]
        hist += cv2.calcHist(pair, [0, 1], None, [4, 256], [0, 4, 0, 256]).astype(np.int32)
    return hist


def at_least(hist: np.ndarray) -> np.ndarray:
    """Pixels with q >= t for t = 0..255, from counts (..., 256) at each level."""
    return hist[..., ::-1].cumsum(-1, dtype=np.int64)[..., ::-1]


def _ratio(above: np.ndarray, below: np.ndarray, empty: float) -> np.ndarray:
    return np.where(below > 0, above / np.maximum(below, 1), empty)


def _found(hist: np.ndarray, ignore_is_object: bool) -> tuple[np.ndarray, np.ndarray]:
    """Object and background pixels with q >= t, (..., 256) each."""
    above = at_least(hist)
    inside = above[..., REST, :] + above[..., PART, :] + (above[..., IGNORE, :] if ignore_is_object else 0)
    return inside, above[..., BACKGROUND, :]


def iou(hist: np.ndarray, *, ignore_is_object: bool = False) -> np.ndarray:
    """Foreground IoU of "object where q >= t", t = 0..255: (..., 256) from histograms (..., 4, 256).

    An empty prediction on an image without an object is 1, anything else there 0.
    """
    inside, outside = _found(hist, ignore_is_object)
    return _ratio(inside, inside[..., :1] + outside, 1.0)


def background_iou(hist: np.ndarray, *, ignore_is_object: bool = False) -> np.ndarray:
    """IoU of the background, q < t, in the same form as :func:`iou`."""
    inside, outside = _found(hist, ignore_is_object)
    right = outside[..., :1] - outside
    return _ratio(right, right + outside + (inside[..., :1] - inside), 1.0)


def miou(hist: np.ndarray, *, ignore_is_object: bool = False) -> np.ndarray:
    """mIoU over {object, background}: the mean of the two IoUs, (..., 256)."""
    return (iou(hist, ignore_is_object=ignore_is_object) + background_iou(hist, ignore_is_object=ignore_is_object)) / 2


def precision(hist: np.ndarray) -> np.ndarray:
    """Object pixels among those with q >= t, (..., 256); NaN where there are none."""
    inside, outside = _found(hist, False)
    return _ratio(inside, inside + outside, np.nan)


def recall(hist: np.ndarray, region: int) -> np.ndarray:
    """Pixels of ``region`` (PART or REST) with q >= t among all of its pixels, (..., 256); NaN where it has none."""
    above = at_least(hist[..., region, :])
    return _ratio(above, above[..., :1], np.nan)


# ------------------------------------------------------------------------------------------------- the LID score


@dataclass(frozen=True)
class LIDScore:
    """Both readings of LID's curve, which does not say whether IoU is pooled over the set or averaged over images.

    Attributes:
        per_image, pooled: foreground IoU at q >= t, t = 0..255.
        miou_per_image, miou_pooled: mIoU over {object, background}, to be read at the threshold that was chosen.
        images: how many.
    """

    per_image: Curve
    pooled: Curve
    miou_per_image: Curve
    miou_pooled: Curve
    images: int


class IoUCurve(Counts):
    """LID's score as a stream: IoU of an 8-bit map at its 256 thresholds. Memory does not grow with images.

    The means over images are sums of 84-bit fixed-point numbers, exact for images below 2^31 pixels and sets below 2^21
    images, so that the order and the processes they came through leave no trace.

    An image without an object counts as 1 where nothing is found and as 0 elsewhere.

    >>> curve = IoUCurve()
    >>> curve.update(np.array([[255, 200], [100, 0]], np.uint8), np.array([[True, True], [False, False]]))
    >>> score = curve.compute()
    >>> score.per_image.peak, score.per_image.threshold
    (1.0, 101)
    """

    def __init__(self) -> None:
        super().__init__(hist=(4, 256), iou=(2, 256), miou=(2, 256))

    def update(self, q: np.ndarray, mask: np.ndarray, ignore: np.ndarray | None = None) -> None:
        """Add an image: ``q`` (H, W) uint8, ``mask`` and ``ignore`` (H, W) bool. UserError: all pixels ignored."""
        hist = histograms(q, mask, ignore)
        if hist[:IGNORE].sum() == 0:
            raise UserError("IoU curve: every pixel is ignored, at least one that counts is needed")
        self.add(hist=hist, iou=_fixed(iou(hist)), miou=_fixed(miou(hist)))

    def compute(self) -> LIDScore:
        """The score so far. UserError: no image yet."""
        images, hist = self.need_images("IoU curve"), self.counts["hist"]
        per_image, miou_per_image = (Curve(_floating(self.counts[name]) / images) for name in ("iou", "miou"))
        return LIDScore(per_image, Curve(iou(hist)), miou_per_image, Curve(miou(hist)), images)


BITS = 42


def _fixed(x: np.ndarray) -> np.ndarray:
    """Values in 0..1 as whole multiples of 2^-42 and, of what is left, of 2^-84: (2, ...) int64.

    A ratio of whole numbers below 2^31 is at least 2^-31, and a double has 53 bits, so nothing is lost.
    """
    high = np.floor(np.ldexp(x, BITS))
    return np.stack([high, np.ldexp(np.ldexp(x, BITS) - high, BITS)]).astype(np.int64)


def _floating(fixed: np.ndarray) -> np.ndarray:
    return np.ldexp(fixed[0].astype(float), -BITS) + np.ldexp(fixed[1].astype(float), -2 * BITS)
