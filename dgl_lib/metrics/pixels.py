"""Scores of maps against pixel masks, at every threshold.
All follow from a small table an image: the pixels of each region at each of 256 grey levels. One pass over the pixels
makes it. Thresholds, averages and bootstrap intervals can be taken later, without the network."""

import cv2
import numpy as np

from dgl_lib.errors import UserError

#: Rows of an image's histograms. The object is REST and PART together, and IGNORE is in no score.
REGIONS = BACKGROUND, REST, PART, IGNORE = range(4)
EXACT = 1 << 24  # OpenCV hands counts over as float32, which hold whole numbers up to here


def histograms(
    q: np.ndarray, mask: np.ndarray, ignore: np.ndarray | None = None, part: np.ndarray | None = None
) -> np.ndarray:
    """Pixels of each region at each grey level, (4, 256) int32, rows as ``REGIONS``, of a uint8 map ``q`` (H, W).
    The masks are (H, W), true or other than 0: ``mask`` the object, ``ignore`` what no score counts, be it object or
    not, and ``part`` the telling part, which counts inside of the object only. UserError: q is not uint8, or sizes."""
    if q.dtype != np.uint8:
        raise UserError(f"map: {q.dtype} given, uint8 (round(255 m) of a map in 0..1) needed")
    for what, pixels in (("mask", mask), ("part", part), ("ignore mask", ignore)):
        if pixels is not None and pixels.shape != q.shape:
            raise UserError(f"{what}: {pixels.shape} given, the map's {q.shape} needed")
    region = np.array(mask, bool).astype(np.uint8)  # BACKGROUND is 0 and REST is 1
    if part is not None:
        region[np.array(part, bool) & (region == REST)] = PART
    if ignore is not None:
        region[np.array(ignore, bool)] = IGNORE
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
    of_object = hist[..., REST, :] + hist[..., PART, :] + (hist[..., IGNORE, :] if ignore_is_object else 0)
    return at_least(of_object), at_least(hist[..., BACKGROUND, :])  # pixels with q >= t, (..., 256) each


def iou(hist: np.ndarray, *, ignore_is_object: bool = False) -> np.ndarray:
    """Foreground IoU of "object where q >= t", t = 0..255: (..., 256) from histograms (..., 4, 256).
    An empty prediction on an image without an object is 1, anything else there 0."""
    inside, outside = _found(hist, ignore_is_object)
    return ratio(inside, inside[..., :1] + outside, 1.0)


def miou(hist: np.ndarray) -> np.ndarray:
    """mIoU over {object, background}, (..., 256): the mean of :func:`iou` and the same of the background, q < t."""
    inside, outside = _found(hist)
    right = outside[..., :1] - outside
    return (iou(hist) + ratio(right, right + outside + (inside[..., :1] - inside), 1.0)) / 2


def precision(hist: np.ndarray) -> np.ndarray:
    """Object pixels among those with q >= t, (..., 256); NaN where there are none."""
    inside, outside = _found(hist)
    return ratio(inside, inside + outside, np.nan)


def recall(hist: np.ndarray, region: int) -> np.ndarray:
    """Pixels of ``region`` (PART or REST) with q >= t among all of its pixels, (..., 256); NaN where it has none."""
    above = at_least(hist[..., region, :])
    return ratio(above, above[..., :1], np.nan)


def equal_area(hist: np.ndarray, *regions: int) -> np.ndarray:
    """Recall of ``regions`` (REST, PART, both) by a map's highest pixels, as many as the object has: (...,) in 0..1.
    Of the grey level at the border the same share of every region is taken: the mean over ties broken at random.
    Of REST and PART together it is the precision too. NaN where there is no such pixel. IGNORE counts nowhere."""
    counted = hist[..., :IGNORE, :].sum(-2)  # (..., 256)
    size = hist[..., [REST, PART], :].sum((-2, -1))[..., None]  # (..., 1)
    left = size - (at_least(counted) - counted)  # what the levels above leave to this one
    share = np.clip(left / np.maximum(counted, 1), 0, 1)
    wanted = hist[..., list(regions), :].sum(-2)  # (..., 256)
    return ratio((share * wanted).sum(-1), wanted.sum(-1), np.nan)
