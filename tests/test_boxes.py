"""Boxes from maps: each convention by hand, and all of them against plain loops written from their description."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dgl_lib.errors import UserError
from dgl_lib.maps import minmax
from dgl_lib.metrics.boxes import THRESHOLDS, iou, scale, score_map, search

#: Maps with few levels have ties, holes and diagonal contacts; those with many, all of the thresholds.
SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=9)
MAPS = st.one_of(
    arrays(np.float64, SHAPES, elements=st.sampled_from([0, 0.25, 0.5, 0.75, 1])),
    arrays(np.float64, SHAPES, elements=st.floats(0, 1)),
)
BOX = st.tuples(*[st.integers(0, 12)] * 4).map(lambda b: [*np.minimum(b[:2], b[2:]), *np.maximum(b[:2], b[2:])])
BOXES = st.lists(BOX, min_size=1, max_size=4).map(np.array)


def plain_cut(score: np.ndarray, t: float) -> np.ndarray:
    """What is the object at one threshold."""
    q = np.array([[int(255 * m) for m in row] for row in score.tolist()])
    return q > int(t * q.max())


def plain_contours(cut: np.ndarray) -> list[tuple[np.ndarray, list[int]]]:
    """Contours with their boxes, one threshold at a time."""
    height, width = cut.shape
    found = cv2.findContours(cut.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    boxes = []
    for contour in found:
        x, y, w, h = cv2.boundingRect(contour)
        boxes.append((contour, [x, y, min(x + w, width - 1), min(y + h, height - 1)]))
    return boxes


def plain_iou(a: list[int], b: list[int]) -> float:
    """IoU of two boxes as sets of pixels, the last ones included."""
    one, other = ({(x, y) for x in range(c[0], c[2] + 1) for y in range(c[1], c[3] + 1)} for c in (a, b))
    return len(one & other) / len(one | other)


def regions(pixels: np.ndarray, diagonal: bool) -> list[list[tuple[int, int]]]:
    """Connected sets of true pixels, by flooding."""
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y or x) and (diagonal or not (y and x))]
    left, found = {tuple(map(int, p)) for p in np.argwhere(pixels)}, []
    while left:
        region, edge = [], [left.pop()]
        while edge:
            region.append(edge.pop())
            near = {(region[-1][0] + y, region[-1][1] + x) for y, x in steps} & left
            left -= near
            edge += near
        found.append(region)
    return found


# ------------------------------------------------------------------------------------------------- all conventions


@given(MAPS)
@settings(max_examples=15)
def test_all_thresholds_at_once_are_each_threshold_alone(score) -> None:
    found = search(score)
    largest = found.largest_boxes()
    for i, t in enumerate(THRESHOLDS):
        contours = plain_contours(plain_cut(score, t))
        assert found.all_boxes(i).tolist() == ([box for _, box in contours] or [[0, 0, 0, 0]])
        best = max(contours, key=lambda pair: cv2.contourArea(pair[0]))[1] if contours else [0, 0, 0, 0]
        assert largest[i].tolist() == best


@given(MAPS, st.sampled_from([0, 0.3, 0.5, 0.999]))
@settings(max_examples=50)
def test_contours_are_connected_regions_and_their_holes(score, t: float) -> None:
    """Without OpenCV: regions join over corners; a hole does not, and its contour runs on the pixels around it."""
    cut = plain_cut(score, t)
    height, width = cut.shape
    expected = [(*np.min(r, 0)[::-1], *np.max(r, 0)[::-1]) for r in regions(cut, diagonal=True)]
    for hole in regions(~np.pad(cut, 1), diagonal=False):
        if (0, 0) not in hole:  # what is not outside
            y, x = np.array(hole).T - 1
            expected.append((x.min() - 1, y.min() - 1, x.max() + 1, y.max() + 1))
    clipped = sorted(
        (int(a), int(b), min(int(c) + 1, width - 1), min(int(d) + 1, height - 1)) for a, b, c, d in expected
    )
    got = sorted(map(tuple, search(score, np.array([t])).all_boxes(0).tolist()))
    assert got == (clipped or [(0, 0, 0, 0)])


@given(MAPS, BOXES)
@settings(max_examples=30)
def test_the_best_iou_at_each_threshold(score, truth) -> None:
    height, width = score.shape
    truth = np.minimum(truth, [width - 1, height - 1] * 2)
    found = search(score)
    largest, best, boxes = found.largest_iou(truth), found.best_iou(truth), found.largest_boxes()
    for i in range(0, len(THRESHOLDS), 97):
        assert largest[i] == max(plain_iou(boxes[i].tolist(), b) for b in truth.tolist())
        assert best[i] == max(plain_iou(a, b) for a in found.all_boxes(i).tolist() for b in truth.tolist())


def test_a_cut_below_the_lowest_level_keeps_every_pixel() -> None:
    score = np.full((7, 9), 1.2 / 255)  # grey level 1, strictly above 0
    score[3, 4] = 1
    assert search(score).largest_boxes()[0].tolist() == [0, 0, 8, 6]
    assert search(score).largest_boxes()[10].tolist() == [4, 3, 5, 4]


@given(BOXES, BOXES)
def test_iou_counts_pixels(a, b) -> None:
    expected = [[plain_iou(x, y) for y in b.tolist()] for x in a.tolist()]
    assert iou(a, b).tolist() == expected and iou(b, a).T.tolist() == expected
    assert (np.diag(iou(a, a)) == 1).all()


# ----------------------------------------------------------------------------------------------------- one by one


def at(score: np.ndarray, t: float) -> list[int]:
    return search(score, np.array([t])).largest_boxes()[0].tolist()


def blank(*blocks: tuple[int, int, int, int], value: float = 1.0, size: int = 10) -> np.ndarray:
    """A score map with blocks x0, y0, x1, y1, the last pixel included."""
    score = np.zeros((size, size))
    for x0, y0, x1, y1 in blocks:
        score[y0 : y1 + 1, x0 : x1 + 1] = value
    return score


def test_thresholds() -> None:
    assert len(THRESHOLDS) == 1000 and THRESHOLDS[0] == 0 and THRESHOLDS[-1] == 0.999
    assert len(search(blank((1, 1, 2, 2))).cut) == 1000


def test_a_box_ends_one_pixel_behind_but_inside_of_the_map() -> None:
    assert at(blank((1, 2, 3, 5)), 0) == [1, 2, 4, 6]
    assert at(blank((6, 7, 9, 9)), 0) == [6, 7, 9, 9]
    assert at(np.ones((4, 6)), 0.5) == [0, 0, 5, 3]


def test_above_the_threshold_is_strictly_above() -> None:
    score = blank((0, 0, 8, 8), value=51 / 255) + blank((4, 4, 5, 5), value=204 / 255)  # grey levels 51 and 255
    assert at(score, 0.199) == [0, 0, 9, 9]  # int(0.199 * 255) = 50
    assert at(score, 0.2) == [4, 4, 6, 6]  # int(0.2 * 255) = 51 = the grey level: not above it
    assert at(score, 0.999) == [4, 4, 6, 6]
    assert at(blank((4, 4, 5, 5)), 0) == [4, 4, 6, 6]  # and 0 is not above 0


def test_the_threshold_is_truncated() -> None:
    score = blank((0, 0, 8, 8), value=52 / 255) + blank((4, 4, 5, 5), value=203 / 255)
    assert at(score, 0.2039) == [0, 0, 9, 9]  # 51.99: 51, not 52
    assert at(score, 0.204) == [4, 4, 6, 6]  # 52.02


def test_the_map_is_truncated_to_grey_levels() -> None:
    score = blank((0, 0, 8, 8), value=0.5) + blank((4, 4, 5, 5), value=0.5)  # 127.5: 127, not 128
    assert at(score, 127 / 255) == [4, 4, 6, 6]
    assert at(score, 126 / 255) == [0, 0, 9, 9]


def test_thresholds_are_shares_of_the_maps_own_maximum() -> None:
    score = blank((0, 0, 8, 8), value=50 / 255) + blank((4, 4, 5, 5), value=50 / 255)  # 50 and 100 of 255
    assert at(score, 0.49) == [0, 0, 9, 9]  # int(0.49 * 100) = 49
    assert at(score, 0.5) == [4, 4, 6, 6]


@pytest.mark.parametrize("score", [np.zeros((5, 7)), np.full((5, 7), 1 / 300)])
def test_no_contour_is_one_box_at_the_corner(score) -> None:
    found = search(score)
    assert (found.largest_boxes() == 0).all() and found.all_boxes(500).tolist() == [[0, 0, 0, 0]]
    assert (found.largest_iou(np.array([[0, 0, 1, 1]])) == 0.25).all()  # the corner pixel, of four


def test_the_largest_is_by_the_contours_area() -> None:
    """A diagonal line has the larger box and no area; a ragged block may have fewer pixels and a larger area."""
    score = blank((6, 0, 8, 2))
    score[np.arange(3, 9), np.arange(6)] = 1
    assert at(score, 0) == [6, 0, 9, 3]
    assert sorted(map(tuple, search(score).all_boxes(0).tolist())) == [(0, 3, 6, 9), (6, 0, 9, 3)]


def test_a_hole_has_a_contour_of_its_own() -> None:
    score = blank((0, 0, 6, 6))
    score[2:5, 2:5] = 0
    assert at(score, 0) == [0, 0, 7, 7]
    assert sorted(map(tuple, search(score).all_boxes(0).tolist())) == [(0, 0, 7, 7), (1, 1, 6, 6)]


def test_iou_by_hand() -> None:
    a = np.array([[0, 0, 1, 1], [1, 1, 2, 2], [5, 5, 5, 5]])
    np.testing.assert_allclose(iou(a, a), [[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(iou(np.array([[0, 0, 9, 9]]), np.array([[0, 0, 9, 4]])), [[0.5]])


def test_ground_truth_boxes_are_scaled_and_truncated() -> None:
    assert scale(np.array([[10, 20, 59, 99]]), (100, 60)).tolist() == [[37, 44, 220, 221]]  # 37.3, 44.8, 220.3, 221.8


# ------------------------------------------------------------------------------------------------------ score maps


def cubic(side: int) -> np.ndarray:
    """Cubic convolution (Keys, a = -0.75) from ``side`` pixels to twice as many, edges repeated: (2 side, side)."""
    weights = np.zeros((2 * side, side))
    for out in range(2 * side):
        place = (out + 0.5) / 2 - 0.5
        for k in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            d, a = abs(place - k), -0.75
            inner, outer = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
            weights[out, np.clip(k, 0, side - 1)] += inner if d <= 1 else outer
    return weights


def test_a_score_map_is_resized_by_cubic_interpolation_and_then_min_maxed() -> None:
    raw = np.random.default_rng(0).random((8, 8)) / 50
    raw[3, 3] = 1  # overshoots around it
    resized = cubic(8) @ raw @ cubic(8).T
    expected = (resized - resized.min()) / (resized.max() - resized.min())
    got = score_map(raw, 16)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert (got.min(), got.max()) == (0, 1) and got.dtype == np.float64
    before = cubic(8) @ minmax(torch.from_numpy(raw)).numpy() @ cubic(8).T
    assert before.min() < -0.01  # min-maxed before, it would leave 0..1
    assert score_map(torch.from_numpy(raw).float().requires_grad_()).shape == (224, 224)


def test_a_score_map_is_computed_in_float64() -> None:
    """A float32 map gives what the same numbers give in float64: at a threshold the last digit decides."""
    raw = np.random.default_rng(0).random((8, 8), np.float32)
    got = score_map(torch.from_numpy(raw), 16)
    assert got.dtype == np.float64 and (got == score_map(raw.astype(np.float64), 16)).all()


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
def test_a_constant_map_becomes_zeros(value: float) -> None:
    assert (score_map(np.full((28, 28), value)) == 0).all()
    assert (score_map(np.full((28, 28), value, np.float32)) == 0).all()


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_raw_map_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(UserError, match="NaN or infinite"):
        score_map(np.array([[0, 1], [bad, 0]]))
    with pytest.raises(UserError, match="NaN or infinite"):
        score_map(np.full((3, 3), bad))


@pytest.mark.parametrize("bad", [-0.01, 1.01, np.nan, np.inf])
def test_a_score_map_outside_of_0_to_1_is_refused(bad: float) -> None:
    score = np.zeros((4, 5))
    score[1, 2] = bad
    with pytest.raises(UserError, match=r"^score map: values .* given, 0\.\.1 needed$"):
        search(score)


@pytest.mark.parametrize("function", [search, score_map])
@pytest.mark.parametrize("shape", [(4,), (1, 4, 4), (0, 4)])
def test_a_map_has_two_axes(function, shape) -> None:
    with pytest.raises(UserError, match="needed"):
        function(np.zeros(shape))


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (np.zeros((0, 4), int), "none given"),
        (np.zeros((4,), int), r"shape \(4,\) given"),
        (np.array([[0, 0, 2, 2], [3, 0, 2, 2]]), r"\[3, 0, 2, 2\] given"),
        (np.array([[-1, 0, 2, 2]]), r"\[-1, 0, 2, 2\] given"),
        (np.array([[0, 0, 2, 6]]), r"0 <= y0 <= y1 <= 5 needed"),  # a box of another size
        (np.array([[0, 0, np.nan, 2]]), "nan"),
    ],
)
def test_boxes_that_cannot_be_are_refused(truth, message: str) -> None:
    for use in (search(np.eye(5)).largest_iou, search(np.eye(5)).best_iou, lambda b: scale(b, (5, 5))):
        with pytest.raises(UserError, match=message):
            use(truth)
