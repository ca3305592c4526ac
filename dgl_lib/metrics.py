"""Scores of maps against pixel masks, and the intervals around them.

Everything rests on one small table an image: how many pixels of each region have each of the 256 grey levels. From it
every threshold's intersection and union follow, so one pass over the pixels gives the whole curve, and thresholds,
averages and bootstrap intervals can be taken later without the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgl_lib.errors import UserError

#: Rows of an image's histograms. The object is ``rest`` and ``part`` together; ``ignore`` is in no score.
REGIONS = ("background", "rest", "part", "ignore")
BACKGROUND, REST, PART, IGNORE = range(4)


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
    region = np.where(mask, REST, BACKGROUND)
    if region.shape != q.shape:
        raise UserError(f"mask: {region.shape} given, the map's {q.shape} needed")
    for what, pixels, value in (("part", part, PART), ("ignore mask", ignore, IGNORE)):
        if pixels is not None:
            if pixels.shape != q.shape:
                raise UserError(f"{what}: {pixels.shape} given, the map's {q.shape} needed")
            region[pixels & mask if value == PART else pixels] = value
    return np.bincount((region * 256 + q).ravel(), minlength=1024).reshape(4, 256).astype(np.int32)


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
class Curve:
    """IoU at the thresholds 0..255, its peak, and the peak's threshold (the lowest, where several tie)."""

    values: np.ndarray

    @property
    def threshold(self) -> int:
        return int(self.values.argmax())

    @property
    def peak(self) -> float:
        return float(self.values.max())


@dataclass(frozen=True)
class LIDScore:
    """Both readings of LID's curve, which does not say whether IoU is pooled over the set or averaged over images."""

    per_image: Curve
    pooled: Curve
    images: int


class IoUCurve:
    """LID's score as a stream: foreground IoU of an 8-bit map at its 256 thresholds. Memory does not grow with images.

    >>> curve = IoUCurve()
    >>> curve.update(np.array([[255, 200], [100, 0]], np.uint8), np.array([[True, True], [False, False]]))
    >>> score = curve.compute()
    >>> score.per_image.peak, score.per_image.threshold
    (1.0, 101)
    """

    def __init__(self) -> None:
        self.images, self.sum = 0, np.zeros(256)
        self.hist = np.zeros((4, 256), np.int64)

    def update(self, q: np.ndarray, mask: np.ndarray, ignore: np.ndarray | None = None) -> None:
        """Add an image: ``q`` (H, W) uint8, ``mask`` and ``ignore`` (H, W) bool. UserError: all pixels ignored."""
        hist = histograms(q, mask, ignore)
        if hist[:IGNORE].sum() == 0:
            raise UserError("IoU curve: every pixel is ignored, at least one that counts is needed")
        self.images += 1
        self.sum += iou(hist)
        self.hist += hist

    def compute(self) -> LIDScore:
        """The score so far. UserError: no image yet."""
        if not self.images:
            raise UserError("IoU curve: no image given, at least one needed")
        return LIDScore(Curve(self.sum / self.images), Curve(iou(self.hist)), self.images)

    def merge(self, other: IoUCurve) -> None:
        """Add another curve's images to this one's, as if all had come here."""
        self.images += other.images
        self.sum += other.sum
        self.hist += other.hist


# ---------------------------------------------------------------------------------------------------- intervals


@dataclass(frozen=True)
class Interval:
    """A mean over images and its 95 % bootstrap interval, with the number of images behind it."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap(values: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean over images with its 95 % percentile-bootstrap interval (images drawn with replacement); NaN are left out.

    For two methods give the difference of their values image by image: that is the paired interval.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        raise UserError("bootstrap: no value that is a number, at least one needed")
    random = np.random.default_rng(seed)
    means = np.array([values[random.integers(len(values), size=len(values))].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), len(values))
