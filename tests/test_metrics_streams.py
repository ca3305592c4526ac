"""Scores that stream over images: merged, saved and resumed as if all had come to one; box scores and PxAP by hand."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dgl_lib import metrics
from dgl_lib.errors import UserError
from dgl_lib.metrics import Counts, IoUCurve, Localization, MaxBoxAcc, MaxBoxAccV2, PxAP, histograms, masks_at
from dgl_lib.metrics.boxes import THRESHOLDS, search

SIDE = 12


def image(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    score = draw.random((SIDE, SIDE)).round(2)
    x0, y0 = draw.integers(0, 6, size=2)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0 : y0 + 5, x0 : x0 + 5] = True
    score[mask] = np.minimum(1, score[mask] + 0.4)
    truth = np.array([[x0, y0, x0 + 4, y0 + 4], [0, 0, 3, 3]])
    return {"score": score, "mask": mask, "ignore": draw.random((SIDE, SIDE)) < 0.1, "truth": truth}


def add(score: Counts, seed: int) -> None:
    one = image(seed)
    if isinstance(score, IoUCurve):
        score.update((255 * one["score"]).astype(np.uint8), one["mask"], one["ignore"])
    elif isinstance(score, PxAP):
        score.update(one["score"], one["mask"], one["ignore"])
    elif isinstance(score, Localization):
        score.update(search(one["score"]), one["truth"], np.random.default_rng(seed).random(10), seed % 10)
    elif isinstance(score, MaxBoxAcc):
        score.update(search(one["score"]), one["truth"])


KINDS = [IoUCurve, MaxBoxAcc, MaxBoxAccV2, Localization, PxAP]


def same(a: object, b: object) -> bool:
    """Equal to the last bit, through dataclasses and arrays."""
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=True)
    if hasattr(a, "__dict__"):
        return a.__dict__.keys() == b.__dict__.keys() and all(same(v, b.__dict__[k]) for k, v in a.__dict__.items())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    return a == b


# ------------------------------------------------------------------------------------------------------- all streams


@pytest.mark.parametrize("kind", KINDS)
def test_parts_merged_in_any_order_give_the_identical_score(kind: Callable[[], Counts], tmp_path: Path) -> None:
    whole, parts = kind(), [kind(), kind(), kind()]
    for seed in range(30):
        add(whole, seed)
        add(parts[seed * 7 % 3], seed)
    sum_of_parts = kind()
    for i, part in enumerate(parts[::-1]):  # as other processes would hand them over
        np.savez(tmp_path / f"{i}.npz", **part.state_dict())
        other = kind()
        other.load_state_dict(np.load(tmp_path / f"{i}.npz"))
        sum_of_parts.merge(other)
    assert sum_of_parts.images == 30
    assert same(sum_of_parts.compute(), whole.compute())


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_stream_goes_on_as_if_never_stopped(kind: Callable[[], Counts]) -> None:
    whole, before, after = kind(), kind(), kind()
    for seed in range(8):
        add(whole, seed)
        add(before, seed) if seed < 3 else None
    state = before.state_dict()
    add(before, 99)  # what was saved is a copy
    after.load_state_dict(state)
    for seed in range(3, 8):
        add(after, seed)
    assert same(after.compute(), whole.compute())
    assert state["images"] == 3  # and so is what was loaded


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_images(kind: Callable[[], Counts]) -> None:
    score = kind()
    before = {name: count.nbytes for name, count in score.counts.items()}
    for seed in range(5):
        add(score, seed)
    assert {name: count.nbytes for name, count in score.counts.items()} == before
    assert all(count.dtype == np.int64 for count in score.counts.values())


@pytest.mark.parametrize("kind", KINDS)
def test_what_streams_refuse(kind: Callable[[], Counts]) -> None:
    score = kind()
    with pytest.raises(UserError, match="no image given, at least one needed"):
        score.compute()
    other = PxAP() if kind is not PxAP else IoUCurve()
    with pytest.raises(UserError, match=f"{type(other).__name__} given, {kind.__name__} needed"):
        score.merge(other)
    with pytest.raises(UserError, match=f"state of {kind.__name__}"):
        score.load_state_dict(other.state_dict())
    add(score, 0)
    floats = {name: count.astype(float) for name, count in score.state_dict().items()}
    with pytest.raises(UserError, match="float64"):
        score.load_state_dict(floats)


def test_v1_counts_are_not_merged_into_v2() -> None:
    with pytest.raises(UserError, match="MaxBoxAcc given, MaxBoxAccV2 needed"):
        MaxBoxAccV2().merge(MaxBoxAcc())


# --------------------------------------------------------------------------------------------------------- IoU curve


def test_the_mean_over_images_is_exact() -> None:
    """Against fractions, where a running float sum would have rounded; and miou likewise."""
    curve, exact, exact_miou = IoUCurve(), [Fraction(0)] * 256, [Fraction(0)] * 256
    for seed in range(40):
        add(curve, seed)
        one = image(seed)
        hist = histograms((255 * one["score"]).astype(np.uint8), one["mask"], one["ignore"])
        exact = [e + Fraction(float(v)) for e, v in zip(exact, metrics.iou(hist), strict=True)]
        exact_miou = [e + Fraction(float(v)) for e, v in zip(exact_miou, metrics.miou(hist), strict=True)]
    score = curve.compute()
    np.testing.assert_allclose(score["per_image"].values, [float(e / 40) for e in exact], rtol=3e-16)
    np.testing.assert_allclose(score["miou_per_image"].values, [float(e / 40) for e in exact_miou], rtol=3e-16)
    hist = curve.counts["hist"]
    assert (score["pooled"].values == metrics.iou(hist)).all() and (
        score["miou_pooled"].values == metrics.miou(hist)
    ).all()


# -------------------------------------------------------------------------------------------------------- box scores


def blob(*blocks: tuple[int, int, int, int, float]) -> np.ndarray:
    """A 20 x 20 map with blocks x0, y0, x1, y1 (the last pixel included) of a value."""
    score = np.zeros((20, 20))
    for x0, y0, x1, y1, value in blocks:
        score[y0 : y1 + 1, x0 : x1 + 1] = value
    return score


def test_maxboxacc_by_hand() -> None:
    """A box one pixel too wide and high: 100 of 121 pixels. One threshold serves the whole set, not one each image."""
    low, high = blob((2, 2, 11, 11, 0.4), (4, 4, 5, 5, 1.0)), blob((0, 0, 19, 19, 0.4), (2, 2, 11, 11, 1.0))
    truth = np.array([[2, 2, 11, 11]])
    score = MaxBoxAcc()
    score.update(search(low), truth)  # right below 0.4
    score.update(search(high), truth)  # right from 0.4 on: int(0.4 * 255) = 102 = its own grey level
    curve = score.compute()[0.5]
    assert score.images == 2 and set(curve.values) == {0.5}
    assert score.score() == 0.5 and curve.threshold == 0
    score.update(search(high), truth)
    assert score.compute()[0.5].threshold == 400 and score.score() == 2 / 3


def test_an_iou_of_exactly_one_half_counts() -> None:
    score = MaxBoxAcc()
    score.update(search(blob((0, 0, 8, 8, 1.0))), np.array([[0, 0, 9, 4]]))  # box (0, 0, 9, 9): 50 of 100 pixels
    assert score.score() == 1
    score.update(search(blob((0, 0, 8, 8, 1.0))), np.array([[0, 0, 9, 3]]))
    assert score.score() == 0.5


def test_v2_takes_every_contour_and_three_levels() -> None:
    """The truth is the smaller of two blobs: V1 misses it."""
    score = search(blob((8, 8, 18, 18, 1.0), (2, 2, 4, 4, 0.5)))
    truth = np.array([[2, 2, 4, 4]])  # 9 pixels; the box around the contour is (2, 2, 5, 5), 16 pixels: IoU 9/16
    one, two = MaxBoxAcc(), MaxBoxAccV2()
    one.update(score, truth)
    two.update(score, truth)
    assert one.score() == 0
    assert {level: curve.peak for level, curve in two.compute().items()} == {0.3: 1, 0.5: 1, 0.7: 0}
    assert two.score() == pytest.approx(2 / 3)
    assert two.compute()[0.5].values.sum() == 499  # int(255 t) < 127: 0 .. 0.498


def test_v2_takes_each_levels_own_best_threshold() -> None:
    tight, wide = np.array([[2, 2, 11, 11]]), np.array([[0, 0, 12, 12]])
    score = blob((0, 0, 14, 14, 0.4), (2, 2, 10, 10, 1.0))
    two = MaxBoxAccV2()
    two.update(search(score), tight)  # high thresholds: 1; low: 100/256
    two.update(search(score), wide)  # high thresholds: 100/169; low: 169/256
    curves = two.compute()
    assert [curves[level].peak for level in (0.3, 0.5, 0.7)] == [1, 1, 0.5]
    assert [curves[level].threshold for level in (0.3, 0.5, 0.7)] == [0, 400, 400]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=4))
@settings(max_examples=6)
def test_box_scores_are_those_of_plain_loops(seeds: list[int]) -> None:
    one, two = MaxBoxAcc(), MaxBoxAccV2()
    hits = {("one", 0.5): np.zeros(1000)} | {("two", level): np.zeros(1000) for level in (0.3, 0.5, 0.7)}
    for seed in seeds:
        truth, found = image(seed)["truth"], search(image(seed)["score"])
        one.update(found, truth)
        two.update(found, truth)
        for i in range(1000):
            for (kind, level), count in hits.items():
                boxes = found.all_boxes(i) if kind == "two" else found.largest_boxes()[[i]]
                right = False
                for a in boxes.tolist():
                    for b in truth.tolist():
                        w, h = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) + 1 for k in (0, 1))
                        both = max(0, w) * max(0, h)
                        areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
                        right = right or both / (sum(areas) - both) >= level
                count[i] += right
    assert one.score() == hits["one", 0.5].max() / len(seeds)
    assert two.score() == np.mean([hits["two", level].max() / len(seeds) for level in (0.3, 0.5, 0.7)])
    for level in (0.3, 0.5, 0.7):
        assert (two.compute()[level].values == hits["two", level] / len(seeds)).all()


def test_localization_by_hand() -> None:
    right, wrong = search(blob((2, 2, 10, 10, 1.0))), search(blob((15, 15, 18, 18, 1.0)))
    truth, score = np.array([[2, 2, 11, 11]]), Localization()
    logits = np.array([9.0, 8, 7, 6, 5, 4])
    for found, label in ((right, 0), (right, 1), (right, 4), (right, 5), (wrong, 0)):
        score.update(found, truth, logits, label)
    assert {name: curve.peak for name, curve in score.compute().items()} == {
        "gt_known": 4 / 5,
        "top1": 1 / 5,
        "top5": 3 / 5,
    }
    assert score.images == 5


def test_of_equal_logits_the_lower_class_stands_first() -> None:
    found, truth = search(blob((2, 2, 10, 10, 1.0))), np.array([[2, 2, 11, 11]])
    for label, first in ((0, 1.0), (1, 0.0)):
        score = Localization()
        score.update(found, truth, np.zeros(3), label)
        assert (score.compute()["top1"].peak, score.compute()["top5"].peak) == (first, 1)


def test_gt_known_is_maxboxacc() -> None:
    one, two = MaxBoxAcc(), Localization()
    for seed in range(12):
        add(one, seed)
        add(two, seed)
    known, top1, top5 = (two.compute()[name].values for name in ("gt_known", "top1", "top5"))
    assert (known == one.compute()[0.5].values).all()
    assert (top1 <= top5).all() and (top5 <= known).all()


@pytest.mark.parametrize(
    ("logits", "label", "message"),
    [
        (np.zeros(3), 3, r"label: 3 given, 0\.\.2 allowed"),
        (np.zeros(3), -1, "label: -1 given"),
        (np.array([0, np.nan]), 0, "1 NaN given"),
        (np.zeros((1, 3)), 0, r"shape \(1, 3\)"),
    ],
)
def test_what_localization_refuses(logits: np.ndarray, label: int, message: str) -> None:
    score = Localization()
    with pytest.raises(UserError, match=message):
        score.update(search(np.eye(5)), np.array([[0, 0, 4, 4]]), logits, label)
    assert score.images == 0 and not score.counts["hits"].any()


@pytest.mark.parametrize("kind", [MaxBoxAcc, MaxBoxAccV2])
def test_an_image_without_a_box_is_refused_and_not_counted(kind: Callable[[], MaxBoxAcc]) -> None:
    score = kind()
    with pytest.raises(UserError, match="boxes: none given"):
        score.update(search(np.eye(5)), np.zeros((0, 4), int))
    with pytest.raises(UserError, match=r"0 <= x0 <= x1 <= 5"):  # boxes of the image's size on a smaller map
        score.update(search(np.eye(5)), np.array([[10, 10, 80, 80]]))
    assert score.images == 0


# --------------------------------------------------------------------------------------------------------------- PxAP


def plain_pxap(images: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
    """Pixel by pixel, a bin at a time from the highest: precision times the step in recall."""
    pixels = [
        (float(score[p]), bool(mask[p]))
        for score, mask, ignore in images
        for p in np.ndindex(score.shape)
        if mask[p] or not ignore[p]
    ]
    objects = sum(is_object for _, is_object in pixels)
    area, before = 0.0, 0.0
    for edge in [2.0, 1.0, *THRESHOLDS[::-1].tolist()]:
        found = [is_object for value, is_object in pixels if value >= edge]
        recall = sum(found) / objects
        if found:
            area += sum(found) / len(found) * (recall - before)
        before = recall
    return area


SHAPE = (3, 4)
SCORES = arrays(np.float64, SHAPE, elements=st.one_of(st.floats(0, 1), st.sampled_from([0, 0.001, 0.3, 0.999, 1])))
BOOLS = arrays(np.bool_, SHAPE)


@given(st.lists(st.tuples(SCORES, BOOLS, BOOLS), min_size=1, max_size=3))
@settings(max_examples=40)
def test_pxap_is_that_of_plain_loops(images) -> None:
    score = PxAP()
    for one in images:
        score.update(*one)
    if not any(mask.any() for _, mask, _ in images):
        with pytest.raises(UserError, match="no object pixel"):
            score.compute()
    else:
        assert score.compute().value == pytest.approx(plain_pxap(images), abs=1e-12)


@given(SCORES)
def test_each_value_falls_into_its_bin(values) -> None:
    score = PxAP()
    score.update(values, np.ones(SHAPE, bool))
    expected, _ = np.histogram(values, bins=[*THRESHOLDS, 1, 2, 3])
    assert (score.counts["hist"][1] == expected).all() and not score.counts["hist"][0].any()


def test_pxap_by_hand() -> None:
    mask = np.array([[True, True], [False, False]])
    perfect, constant, mixed = PxAP(), PxAP(), PxAP()
    perfect.update(mask * 1.0, mask)
    assert perfect.compute().value == 1
    constant.update(np.full((2, 2), 0.3), mask)
    assert constant.compute().value == 0.5  # the object's share
    mixed.update(np.array([[1.0, 0.5], [0.7, 0.2]]), mask)
    # Found in turn: object, background, object.
    assert mixed.compute().value == pytest.approx(1 * 1 / 2 + 2 / 3 * 1 / 2)
    assert mixed.compute().recall[[0, 1, -1]].tolist() == [0, 0.5, 1] and np.isnan(mixed.compute().precision[0])


def test_values_closer_than_a_bin_tie() -> None:
    score = PxAP()
    score.update(np.array([[0.50049, 0.5001]]), np.array([[True, False]]))
    assert score.compute().value == 0.5
    score.update(np.array([[1.0, 0.9999]]), np.array([[True, False]]))  # 1 has a bin of its own
    assert score.compute().value == pytest.approx(1 / 2 + 2 / 4 * 1 / 2)


def test_ignored_pixels_do_not_count_but_the_object_wins() -> None:
    values, mask = np.array([[1.0, 0.5], [0.7, 0.2]]), np.array([[True, True], [False, False]])
    ignore = np.array([[False, True], [True, False]])
    score = PxAP()
    score.update(values, mask, ignore)
    assert score.compute().value == 1 and score.counts["hist"].sum() == 3
    score.update(values, ~mask & False, np.ones((2, 2), bool))  # ignored everywhere: adds no pixel
    assert score.compute().value == 1 and score.images == 2


def test_full_masks_and_no_object() -> None:
    full, none = PxAP(), PxAP()
    full.update(np.array([[0.1, 0.9]]), np.ones((1, 2), bool))
    assert full.compute().value == 1
    none.update(np.array([[0.1, 0.9]]), np.zeros((1, 2), bool))
    with pytest.raises(UserError, match="no object pixel in 1 images"):
        none.compute()


@pytest.mark.parametrize("bad", [-0.01, 1.01, np.nan])
def test_pxap_refuses_values_outside_of_0_to_1(bad: float) -> None:
    score = PxAP()
    with pytest.raises(UserError, match=r"0\.\.1 needed"):
        score.update(np.array([[0.5, bad]]), np.zeros((1, 2), bool), np.array([[False, True]]))
    assert score.images == 0


def test_pxap_refuses_another_size() -> None:
    with pytest.raises(UserError, match=r"^mask: \(2, 3\) given, the score map's \(3, 2\) needed$"):
        PxAP().update(np.zeros((3, 2)), np.zeros((2, 3), bool))
    with pytest.raises(UserError, match=r"^ignore mask: \(2, 3\) given"):
        PxAP().update(np.zeros((3, 2)), np.zeros((3, 2), bool), np.zeros((2, 3), bool))


def test_masks_are_brought_to_one_size() -> None:
    a, b = np.array([[255, 0], [0, 0]], np.uint8), np.zeros((4, 4), bool)
    b[3, 3] = True
    around = np.ones((2, 2), bool)
    mask, ignore = masks_at([a, b], around, 4)
    assert mask.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert (ignore == ~mask).all()
    assert not masks_at([a], None, 4)[1].any()
    small = masks_at([np.arange(25).reshape(5, 5) == 6], None, 2)[0]  # nearest takes places 0 and 2 of 5
    assert not small.any() and masks_at([np.arange(25).reshape(5, 5) == 12], None, 2)[0][1, 1]
    with pytest.raises(UserError, match="none given"):
        masks_at([])
