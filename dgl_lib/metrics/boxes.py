"""Boxes from maps and their scores, by the conventions of wsolevaluation (Choe et al., CVPR 2020; arXiv 2007.04178).

    raw map -> score_map: cubic resize to 224 px, min-max -> search: boxes at 1,000 thresholds -> iou with the truth

A box is ``x0, y0, x1, y1`` in pixels. Its last pixel counts, so IoU adds 1 to each side. A box around a contour
nevertheless ends one pixel behind it, unless the map ends there. The published code does both, and so does this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch

from dgl_lib.errors import UserError
from dgl_lib.maps import minmax

SIZE = 224  # side in pixels that maps and ground-truth boxes are brought to
THRESHOLDS = np.arange(0, 1, 0.001)  # shares of the map's highest grey level: 0, 0.001 .. 0.999


def score_map(m: torch.Tensor | np.ndarray, size: int = SIZE) -> np.ndarray:
    """A raw map (h, w) as a score map (size, size), float64 in 0..1: cubic resize, then min-max, as cubic interpolation
    overshoots. A constant map becomes zeros. UserError: not two axes, or a value that is not finite."""
    raw = torch.as_tensor(m).detach().cpu().double().numpy()
    if raw.ndim != 2 or not raw.size:
        raise UserError(f"map: shape {raw.shape} given, (h, w) needed")
    if np.isfinite(raw).all() and raw.min() == raw.max():
        return np.zeros((size, size))  # interpolation leaves rounding noise that min-max would blow up
    resized = cv2.resize(raw, (size, size), interpolation=cv2.INTER_CUBIC)
    return minmax(torch.from_numpy(resized)).numpy()


def scale(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4) on an image of ``size`` = (H, W), scaled to a square of side ``SIZE``: (n, 4) int64, truncated."""
    return (_checked(boxes, size) * float(SIZE) / ([size[1], size[0]] * 2)).astype(np.int64)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of every box of ``a`` (n, 4) with every box of ``b`` (m, 4): (n, m). The last pixel of a box counts."""
    a, b = a[:, None], b[None]  # (n, 1, 4), (1, m, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1  # (n, m, 2)
    both = sides.clip(min=0).prod(-1)  # (n, m)
    area_a, area_b = ((boxes[..., 2:] - boxes[..., :2] + 1).prod(-1) for boxes in (a, b))
    return both / (area_a + area_b - both)


def _checked(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Ground-truth boxes as an array (n, 4). UserError: none, or one that cannot lie on a map of ``size`` = (H, W)."""
    boxes = np.asarray(boxes)
    if not boxes.size:
        raise UserError("boxes: none given, an image needs at least one ground-truth box to be scored")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"boxes: shape {boxes.shape} given, (n, 4) needed")
    good = (boxes[:, :2] >= 0) & (boxes[:, 2:] >= boxes[:, :2]) & (boxes[:, 2:] <= size[::-1])  # a NaN fails
    if not good.all():
        wrong = boxes[~good.all(1)][0].tolist()
        raise UserError(f"box: {wrong} given, 0 <= x0 <= x1 <= {size[1]} and 0 <= y0 <= y1 <= {size[0]} needed")
    return boxes


@dataclass(frozen=True)
class Found:
    """The boxes of one map at many thresholds. Thresholds that leave the same pixels share one cut of the map."""

    boxes: np.ndarray  # (n, 4) int64, one around each contour, cut by cut; (0, 0, 0, 0) where a cut has no contour
    first: np.ndarray  # (cuts + 1,); boxes[first[i] : first[i + 1]] are those of cut i
    largest: np.ndarray  # (cuts,), the box around each cut's largest contour (by cv2.contourArea; ties: the first)
    cut: np.ndarray  # (thresholds,), the cut of each threshold
    size: tuple[int, int]  # (H, W) of the map

    def largest_boxes(self) -> np.ndarray:
        """The largest contour's box at each threshold, (thresholds, 4)."""
        return self.boxes[self.largest[self.cut]]

    def all_boxes(self, threshold: int) -> np.ndarray:
        """The boxes around all contours, (k, 4), at ``THRESHOLDS[threshold]``."""
        cut = self.cut[threshold]
        return self.boxes[self.first[cut] : self.first[cut + 1]]

    def largest_iou(self, truth: np.ndarray) -> np.ndarray:
        """IoU of the largest contour's box with the ground-truth box it fits best, (thresholds,)."""
        return iou(self.boxes[self.largest], _checked(truth, self.size)).max(1)[self.cut]

    def best_iou(self, truth: np.ndarray) -> np.ndarray:
        """Highest IoU of any contour's box with any ground-truth box, (thresholds,)."""
        best = iou(self.boxes, _checked(truth, self.size)).max(1)  # (n,)
        return np.maximum.reduceat(best, self.first[:-1])[self.cut]  # n -> cuts -> thresholds


def search(score: np.ndarray, thresholds: np.ndarray = THRESHOLDS) -> Found:
    """The boxes of a score map (H, W) in 0..1 at every threshold. Each distinct cut is searched once. The map becomes
    uint8 by truncation of 255 m. At threshold t the object is what lies strictly above ``int(t * highest grey level)``.
    Contours are OpenCV's with ``RETR_TREE``, so those around holes count as well. UserError: not two axes, or values
    that are no numbers in 0..1."""
    if score.ndim != 2 or not score.size:
        raise UserError(f"score map: shape {score.shape} given, (H, W) needed")
    if not (score.min() >= 0 and score.max() <= 1):  # a NaN fails both
        raise UserError(f"score map: values {score.min():.3g}..{score.max():.3g} given, 0..1 needed")
    height, width = score.shape
    q = (255 * score).astype(np.uint8)
    grey = np.flatnonzero(np.bincount(q.ravel(), minlength=256))  # the levels that occur
    left_out = np.searchsorted(grey, (thresholds * int(grey[-1])).astype(int), side="right")
    cuts, cut = np.unique(left_out, return_inverse=True)  # a cut is told by how many levels it leaves out
    levels = np.concatenate([[-1], grey])[cuts]
    # What lies above a level lies inside of these rows and columns. To search there alone is faster.
    sides = [side for along in (q.max(1), q.max(0)) for side in (along, along[::-1])]
    edges = (np.maximum.accumulate(s).searchsorted(levels, side="right").tolist() for s in sides)
    counts, lengths, joined = list[int](), list[int](), bytearray()  # contours of each cut, points of each, all points
    for level, y0, y1, x0, x1 in zip(levels.tolist(), *edges, strict=True):
        if y0 == height:
            contours: Sequence[Any] = [np.array([[-1, -1]], np.int32)]  # the contour of a cut that has none
        else:
            above = cv2.threshold(q[y0 : height - y1, x0 : width - x1], level, 255, cv2.THRESH_BINARY)[1]
            contours = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE, offset=(x0, y0))[0]
        counts.append(len(contours))
        lengths += map(len, contours)
        joined += b"".join(contours)  # at once, so that the next cut's many small arrays take the place of these
    # Boxes and areas of all contours together: one at a time they took as long as the search.
    first, start = (np.cumsum([0, *of]) for of in (counts, lengths))
    # (2, points) int32, which holds twice any contour's area
    x, y = points = np.frombuffer(joined, np.int32).reshape(-1, 2).T.copy()
    begin, end = start[:-1], start[1:] - 1
    corner = np.empty_like(x)  # of each point and the one before it, around its contour
    corner[1:] = x[:-1] * y[1:] - y[:-1] * x[1:]
    corner[begin] = x[end] * y[begin] - y[end] * x[begin]
    area = np.abs(np.add.reduceat(corner, begin, dtype=np.int32))  # (n,), twice cv2.contourArea
    low, high = (of.reduceat(points, begin, axis=1) for of in (np.minimum, np.maximum))  # (2, n) each
    boxes = np.vstack([low.clip(0), np.minimum(high + 1, [[width - 1], [height - 1]])], dtype=np.int64).T
    largest = np.array([a + int(area[a:b].argmax()) for a, b in pairwise(first.tolist())])
    return Found(boxes, first, largest, cut, (height, width))
