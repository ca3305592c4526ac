"""Scores of maps against pixel masks, at every threshold.

All but PxAP follow from one small table for each image: how many pixels of each region have each of 256 grey levels.
One pass over the pixels makes it. Thresholds, averages and bootstrap intervals can be taken later, without the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dgl_lib.errors import UserError
from dgl_lib.metrics.boxes import SIZE, THRESHOLDS
from dgl_lib.metrics.counts import Counts, Curve

#: Rows of an image's histograms. The object is ``rest`` and ``part`` together; ``ignore`` is in no score.
REGIONS = ("background", "rest", "part", "ignore")
BACKGROUND, REST, PART, IGNORE = range(4)
EXACT = 1 << 24  # OpenCV hands counts over as float32, which hold whole numbers up to here
BITS = 42  # behind the point of a sum's first half, see ``IoUCurve.update``
#: PxAP's bins [0, 0.001), [0.001, 0.002) .. [0.999, 1), [1, 2), [2, 3). The last is empty, so that recall begins at 0.
EDGES = np.append(THRESHOLDS, [1.0, 2.0, 3.0])
BINS = len(EDGES) - 1


def histograms(
    q: np.ndarray, mask: np.ndarray, ignore: np.ndarray | None = None, part: np.ndarray | None = None
) -> np.ndarray:
    """Pixels of each region at each grey level, (4, 256) int32, rows as ``REGIONS``, of a uint8 map ``q`` (H, W).
    The masks are bool (H, W): ``mask`` the object, ``ignore`` what no score counts, be it object or not, and ``part``
    the telling part, which counts inside of the object only. UserError: q is not uint8, or sizes differ."""
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
    hist, rows = np.zeros((4, 256), np.int32), max(1, EXACT // max(1, q.shape[1]))
    for y in range(0, len(q), rows):
        some = [region[y : y + rows], np.ascontiguousarray(q[y : y + rows])]
        hist += cv2.calcHist(some, [0, 1], None, [4, 256], [0, 4, 0, 256]).astype(np.int32)
    return hist


def at_least(hist: np.ndarray) -> np.ndarray:
    """Pixels with q >= t for t = 0..255, from counts (..., 256) at each level."""
    return hist[..., ::-1].cumsum(-1, dtype=np.int64)[..., ::-1]


def ratio(above: np.ndarray, below: np.ndarray, empty: float) -> np.ndarray:
    """Counts over counts, and ``empty`` where nothing is below."""
    return np.where(below > 0, above / np.maximum(below, 1), empty)


def _found(hist: np.ndarray, ignore_is_object: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Object and background pixels with q >= t, (..., 256) each."""
    above = at_least(hist)  # (..., 4, 256)
    inside = above[..., REST, :] + above[..., PART, :] + (above[..., IGNORE, :] if ignore_is_object else 0)
    return inside, above[..., BACKGROUND, :]


def iou(hist: np.ndarray, *, ignore_is_object: bool = False) -> np.ndarray:
    """Foreground IoU of "object where q >= t", t = 0..255: (..., 256) from histograms (..., 4, 256).
    An empty prediction on an image without an object is 1, anything else there 0."""
    inside, outside = _found(hist, ignore_is_object)
    return ratio(inside, inside[..., :1] + outside, 1.0)


def background_iou(hist: np.ndarray) -> np.ndarray:
    """IoU of the background, q < t, in the same form as :func:`iou`."""
    inside, outside = _found(hist)
    right = outside[..., :1] - outside
    return ratio(right, right + outside + (inside[..., :1] - inside), 1.0)


def miou(hist: np.ndarray) -> np.ndarray:
    """mIoU over {object, background}: the mean of the two IoUs, (..., 256)."""
    return (iou(hist) + background_iou(hist)) / 2


def precision(hist: np.ndarray) -> np.ndarray:
    """Object pixels among those with q >= t, (..., 256); NaN where there are none."""
    inside, outside = _found(hist)
    return ratio(inside, inside + outside, np.nan)


def recall(hist: np.ndarray, region: int) -> np.ndarray:
    """Pixels of ``region`` (PART or REST) with q >= t among all of its pixels, (..., 256); NaN where it has none."""
    above = at_least(hist[..., region, :])
    return ratio(above, above[..., :1], np.nan)


class IoUCurve(Counts):
    """LID's score as a stream: IoU of an 8-bit map at q >= t. LID does not say which average, so there are both.
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
        # Whole multiples of 2^-42, and of 2^-84 of what is left. A ratio of whole numbers below 2^31 is at least 2^-31,
        # and a double has 53 bits, so nothing is lost.
        scaled = np.ldexp(np.stack([iou(hist), miou(hist)]), BITS)
        high = np.floor(scaled)
        self.add(hist=hist, sums=np.stack([high, np.ldexp(scaled - high, BITS)]).astype(np.int64))

    def compute(self) -> dict[str, Curve]:
        """The object's IoU, "per_image" and "pooled", and mIoU in both readings. UserError: no image yet."""
        images, hist = self.need_images(), self.counts["hist"]
        high, low = self.counts["sums"].astype(float)  # (2, 256) each: of IoU and of mIoU
        means = (np.ldexp(high, -BITS) + np.ldexp(low, -2 * BITS)) / images
        names = ("per_image", "miou_per_image", "pooled", "miou_pooled")
        return dict(zip(names, map(Curve, (*means, iou(hist), miou(hist))), strict=True))


def masks_at(
    instances: Sequence[np.ndarray], ignore: np.ndarray | None = None, size: int = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Object and ignore masks (size, size) bool: nearest neighbour, above 0.5, instances united, ignore minus object.
    The masks given are (H, W), each of any size, bool or 0..255. UserError: no instance."""
    if not len(instances):
        raise UserError("masks: none given, at least one instance needed")
    every = [*instances, *([] if ignore is None else [ignore])]
    resized = [cv2.resize(m.astype(np.float32), (size, size), interpolation=cv2.INTER_NEAREST) > 0.5 for m in every]
    mask = np.any(resized[: len(instances)], axis=0)
    return mask, np.zeros_like(mask) if ignore is None else resized[-1] & ~mask


@dataclass(frozen=True)
class AveragePrecision:
    """PxAP with its curve, from the highest threshold to the lowest."""

    value: float  # the area under the curve, in 0..1
    precision: np.ndarray  # (1002,), NaN where no pixel is found
    recall: np.ndarray  # (1002,)


class PxAP(Counts):
    """Pixel average precision (Choe et al., CVPR 2020) of score maps in 0..1, over all images' pixels together."""

    def __init__(self) -> None:
        super().__init__(hist=(2, BINS))

    def update(self, score: np.ndarray, mask: np.ndarray, ignore: np.ndarray | None = None) -> None:
        """Add an image: ``score`` (H, W) floats, ``mask`` and ``ignore`` (H, W) bool. A pixel of both is the object's.
        UserError: sizes differ, or values that are no numbers in 0..1."""
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
        outside, inside = self.counts["hist"][:, ::-1].cumsum(1)  # (1002,) pixels found, from the highest threshold on
        if not inside[-1]:
            raise UserError(f"PxAP: no object pixel in {images} images, at least one needed")
        precision = ratio(inside, inside + outside, np.nan)
        recall = inside / inside[-1]
        value = np.nansum(precision[1:] * np.diff(recall))  # AP = sum of precision times the step in recall
        return AveragePrecision(float(value), precision, recall)
