"""Scores that stream over images: whole-number counts of each image are added up, and scores are made from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from dgl_lib.errors import UserError
from dgl_lib.metrics.boxes import THRESHOLDS, Found
from dgl_lib.metrics.pixels import IGNORE, histograms, iou, miou, ratio

BITS = 42  # behind the point of a sum's first half, see ``IoUCurve.update``
#: PxAP's bins [0, 0.001), [0.001, 0.002) .. [0.999, 1), [1, 2), [2, 3). The last is empty, so that recall begins at 0.
EDGES = np.append(THRESHOLDS, [1.0, 2.0, 3.0])
BINS = len(EDGES) - 1


@dataclass(frozen=True)
class Curve:
    """A score at every threshold, its peak, and the peak's index, the lowest where several tie.
    The index is the grey level t = 0..255 of a pixel score, and counts thousandths of the map's maximum for boxes."""

    values: np.ndarray

    @property
    def threshold(self) -> int:
        return int(self.values.argmax())

    @property
    def peak(self) -> float:
        return float(self.values.max())


class Counts:
    """A score as a stream: ``update`` adds an image to counts of a fixed size, ``compute`` makes the score from them.
    Counts are exact, so those of several processes, merged, or saved with ``np.savez``, give the identical score."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.counts = {name: np.zeros(shape, np.int64) for name, shape in {"images": (), **shapes}.items()}

    @property
    def images(self) -> int:
        return int(self.counts["images"])

    def add(self, **counts: np.ndarray) -> None:
        """Add one image's counts."""
        self.counts["images"] += 1
        for name, count in counts.items():
            self.counts[name] += count

    def need_images(self) -> int:
        """How many images there are. UserError: none."""
        if not self.images:
            raise UserError(f"{type(self).__name__}: no image given, at least one needed")
        return self.images

    def merge(self, other: Self) -> None:
        """Add another score's images to this one's. UserError: it is another kind of score."""
        if type(other) is not type(self):
            raise UserError(f"merge: {type(other).__name__} given, {type(self).__name__} needed")
        for name, count in other.counts.items():
            self.counts[name] += count

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of the counts, int64 arrays by name."""
        return {name: count.copy() for name, count in self.counts.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what ``state_dict`` gave. UserError: the state of another kind of score."""
        given, needed = ({name: (x.shape, str(x.dtype)) for name, x in of.items()} for of in (state, self.counts))
        if given != needed:
            raise UserError(f"state of {type(self).__name__}: {given} given, {needed} needed")
        self.counts = {name: state[name].copy() for name in needed}


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
        # Multiples of 2^-42 and 2^-84. A ratio of numbers below 2^31 is at least 2^-31, a double has 53 bits: all fit.
        low, high = np.modf(np.ldexp(np.stack([iou(hist), miou(hist)]), BITS))
        self.add(hist=hist, sums=np.stack([high, np.ldexp(low, BITS)]).astype(np.int64))

    def compute(self) -> dict[str, Curve]:
        """The object's IoU, "per_image" and "pooled", and mIoU in both readings. UserError: no image yet."""
        images, hist = self.need_images(), self.counts["hist"]
        high, low = self.counts["sums"].astype(float)  # (2, 256) each: of IoU and of mIoU
        means = (np.ldexp(high, -BITS) + np.ldexp(low, -2 * BITS)) / images
        names = ("per_image", "miou_per_image", "pooled", "miou_pooled")
        return dict(zip(names, map(Curve, (*means, iou(hist), miou(hist))), strict=True))


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
        outside, inside = self.counts["hist"][:, ::-1].cumsum(1)  # (1002,) pixels found, from the highest threshold on
        if not inside[-1]:
            raise UserError(f"PxAP: no object pixel in {self.need_images()} images, at least one needed")
        precision = ratio(inside, inside + outside, np.nan)
        recall = inside / inside[-1]
        value = np.nansum(precision[1:] * np.diff(recall))  # AP = sum of precision times the step in recall
        return AveragePrecision(float(value), precision, recall)


class _Hits(Counts):
    """Images whose box is right at each of ``THRESHOLDS``: a curve of shares in 0..1 for each of ``names``.
    One search of the ground-truth class's map serves every score. ``truth`` (n, 4) lies on that map (see ``scale``)."""

    names: tuple = ()

    def __init__(self) -> None:
        super().__init__(hits=(len(self.names), len(THRESHOLDS)))

    def compute(self) -> dict[Any, Curve]:
        """The curves so far, by name. UserError: no image yet."""
        return dict(zip(self.names, map(Curve, self.counts["hits"] / self.need_images()), strict=True))


class MaxBoxAcc(_Hits):
    """The box around the largest contour, right at IoU >= 0.5 with any ground-truth box; one threshold for the set."""

    names: tuple = (0.5,)

    def update(self, found: Found, truth: np.ndarray) -> None:
        """Add an image. UserError: no box."""
        self.add(hits=found.largest_iou(truth)[None] >= 0.5)  # (1, thresholds)

    def score(self) -> float:
        """The published score: the mean of the curves' peaks. It chooses thresholds on these very images."""
        return float(np.mean([curve.peak for curve in self.compute().values()]))


class MaxBoxAccV2(MaxBoxAcc):
    """Every contour's box against every ground-truth box, at IoU >= 0.3, 0.5 and 0.7, each at its best threshold."""

    names = (0.3, 0.5, 0.7)

    def update(self, found: Found, truth: np.ndarray) -> None:
        self.add(hits=found.best_iou(truth) >= np.array(self.names)[:, None])  # (3, thresholds)


class Localization(_Hits):
    """The box is right as MaxBoxAcc asks ("gt_known"), and its class is the first ("top1") or among 5 ("top5")."""

    names = ("gt_known", "top1", "top5")

    def update(self, found: Found, truth: np.ndarray, logits: np.ndarray, label: int) -> None:
        """Add an image: boxes on the map of class ``label``, and ``logits`` (C,). Of equal logits the first leads.
        UserError: no box, logits that are no numbers, or a label that is not among them."""
        if logits.ndim != 1 or np.isnan(logits).any():
            raise UserError(f"logits: shape {logits.shape}, {np.isnan(logits).sum()} NaN given, (C,) numbers needed")
        if not 0 <= label < len(logits):
            raise UserError(f"label: {label} given, 0..{len(logits) - 1} allowed")
        before = (logits > logits[label]).sum() + (logits[:label] == logits[label]).sum()
        among = np.array([True, before < 1, before < 5])
        self.add(hits=among[:, None] & (found.largest_iou(truth) >= 0.5))  # (3, thresholds)
