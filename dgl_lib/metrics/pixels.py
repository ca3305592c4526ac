"""Scores of maps against pixel masks, at every threshold.

Everything follows from one small table for each image: how many pixels of each region have each of the 256 grey levels.
One pass over the pixels makes it. Thresholds, averages and bootstrap intervals can be taken later, without the network.
"""

from __future__ import annotations

import cv2
import numpy as np

from dgl_lib.errors import UserError
from dgl_lib.metrics.counts import Counts, Curve

#: Rows of an image's histograms. The object is ``rest`` and ``part`` together; ``ignore`` is in no score.
REGIONS = ("background", "rest", "part", "ignore")
BACKGROUND, REST, PART, IGNORE = range(4)
#: OpenCV hands counts over as float32, which hold whole numbers up to here.
EXACT = 1 << 24
#: Bits behind the point of a sum's first half (see ``_fixed``).
BITS = 42


def histograms(
    q: np.ndarray, mask: np.ndarray, ignore: np.ndarray | None = None, part: np.ndarray | None = None
) -> np.ndarray:
    """Pixels of each region at each grey level, (4, 256) int32, rows as ``REGIONS``.

    ``q`` is a uint8 map (H, W), and the masks are bool (H, W): ``mask`` the object, ``ignore`` what no score counts, be
    it object or not, and ``part`` the telling part, which counts inside of the object only.
    UserError: q is not uint8, or sizes differ.
    """
    if q.dtype != np.uint8:
        raise UserError(f"map: {q.dtype} given, uint8 (round(255 m) of a map in 0..1) needed")
    for what, pixels in (("mask", mask), ("part", part), ("ignore mask", ignore)):
        if pixels is not None and pixels.shape != q.shape:
            raise UserError(f"{what}: {pixels.shape} given, the map's {q.shape} needed")
    region = np.array(mask, bool).astype(np.uint8)  # BACKGROUND is 0 and REST is 1
    if part is not None:
        region[part & mask] = PART
    if ignore is not None:
        region[ignore] = IGNORE
    hist = np.zeros((4, 256), np.int32)
    q = np.ascontiguousarray(q)
    rows = max(1, EXACT // max(1, q.shape[1]))
    for y in range(0, len(q), rows):
        some = [region[y : y + rows], q[y : y + rows]]
        hist += cv2.calcHist(some, [0, 1], None, [4, 256], [0, 4, 0, 256]).astype(np.int32)
    return hist


def at_least(hist: np.ndarray) -> np.ndarray:
    """Pixels with q >= t for t = 0..255, from counts (..., 256) at each level."""
    return hist[..., ::-1].cumsum(-1, dtype=np.int64)[..., ::-1]


def _ratio(above: np.ndarray, below: np.ndarray, empty: float) -> np.ndarray:
    return np.where(below > 0, above / np.maximum(below, 1), empty)


def _found(hist: np.ndarray, ignore_is_object: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Object and background pixels with q >= t, (..., 256) each."""
    above = at_least(hist)  # (..., 4, 256)
    inside = above[..., REST, :] + above[..., PART, :] + (above[..., IGNORE, :] if ignore_is_object else 0)
    return inside, above[..., BACKGROUND, :]


def iou(hist: np.ndarray, *, ignore_is_object: bool = False) -> np.ndarray:
    """Foreground IoU of "object where q >= t", t = 0..255: (..., 256) from histograms (..., 4, 256).

    An empty prediction on an image without an object is 1, anything else there 0.
    """
    inside, outside = _found(hist, ignore_is_object)
    return _ratio(inside, inside[..., :1] + outside, 1.0)


def background_iou(hist: np.ndarray) -> np.ndarray:
    """IoU of the background, q < t, in the same form as :func:`iou`."""
    inside, outside = _found(hist)
    right = outside[..., :1] - outside
    return _ratio(right, right + outside + (inside[..., :1] - inside), 1.0)


def miou(hist: np.ndarray) -> np.ndarray:
    """mIoU over {object, background}: the mean of the two IoUs, (..., 256)."""
    return (iou(hist) + background_iou(hist)) / 2


def precision(hist: np.ndarray) -> np.ndarray:
    """Object pixels among those with q >= t, (..., 256); NaN where there are none."""
    inside, outside = _found(hist)
    return _ratio(inside, inside + outside, np.nan)


def recall(hist: np.ndarray, region: int) -> np.ndarray:
    """Pixels of ``region`` (PART or REST) with q >= t among all of its pixels, (..., 256); NaN where it has none."""
    above = at_least(hist[..., region, :])
    return _ratio(above, above[..., :1], np.nan)


class IoUCurve(Counts):
    """LID's score as a stream: IoU of an 8-bit map at q >= t, t = 0..255.

    LID does not say whether IoU is averaged over images or pooled over the set. ``compute`` gives both readings.
    Sums over images are 84-bit fixed-point numbers. They are exact for images below 2^31 pixels and sets below 2^21
    images, so the order of the images leaves no trace.

    >>> curve = IoUCurve()
    >>> curve.update(np.array([[255, 200], [100, 0]], np.uint8), np.array([[True, True], [False, False]]))
    >>> found = curve.compute()["per_image"]
    >>> found.peak, found.threshold
    (1.0, 101)
    """

    def __init__(self) -> None:
        super().__init__(hist=(4, 256), sums=(2, 2, 256))

    def update(self, q: np.ndarray, mask: np.ndarray, ignore: np.ndarray | None = None) -> None:
        """Add an image: ``q`` (H, W) uint8, ``mask`` and ``ignore`` (H, W) bool. UserError: all pixels ignored."""
        hist = histograms(q, mask, ignore)
        if hist[:IGNORE].sum() == 0:
            raise UserError("IoU curve: every pixel is ignored, at least one that counts is needed")
        self.add(hist=hist, sums=_fixed(np.stack([iou(hist), miou(hist)])))

    def compute(self) -> dict[str, Curve]:
        """The object's IoU, "per_image" and "pooled", and mIoU in both readings. UserError: no image yet."""
        images, hist = self.need_images(), self.counts["hist"]
        high, low = self.counts["sums"].astype(float)  # (2, 256) each: of IoU and of mIoU
        means = (np.ldexp(high, -BITS) + np.ldexp(low, -2 * BITS)) / images
        names = ("per_image", "miou_per_image", "pooled", "miou_pooled")
        return dict(zip(names, map(Curve, (*means, iou(hist), miou(hist))), strict=True))


def _fixed(x: np.ndarray) -> np.ndarray:
    """Values (...) in 0..1 as whole multiples of 2^-42 and, of what is left, of 2^-84: (2, ...) int64.

    A ratio of whole numbers below 2^31 is at least 2^-31, and a double has 53 bits, so nothing is lost.
    """
    high = np.floor(np.ldexp(x, BITS))
    return np.stack([high, np.ldexp(np.ldexp(x, BITS) - high, BITS)]).astype(np.int64)
