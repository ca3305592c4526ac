"""Scores: the histogram's curve against a loop over thresholds, hand cases, streams, intervals."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dgl_lib import metrics
from dgl_lib.errors import UserError
from dgl_lib.metrics import (
    BACKGROUND,
    IGNORE,
    PART,
    REST,
    IoUCurve,
    PxAP,
    bootstrap,
    histograms,
    two_level,
    two_samples,
)
from dgl_lib.metrics.pixels import equal_area

SHAPE = (5, 6)
LEVELS = arrays(np.uint8, SHAPE)
BOOLS = arrays(np.bool_, SHAPE)


def brute_force(q: np.ndarray, mask: np.ndarray, ignore: np.ndarray) -> tuple[list[float], list[float]]:
    """IoU of the object and of the background at every threshold, pixel sets compared one by one."""
    q, mask = q[~ignore].astype(int), mask[~ignore]
    both = []
    for t in range(256):
        found = q >= t
        pair = []
        for a, b in ((found, mask), (~found, ~mask)):
            union = (a | b).sum()
            pair.append((a & b).sum() / union if union else 1.0)
        both.append(pair)
    return tuple(map(list, zip(*both, strict=True)))  # type: ignore[return-value]


@given(LEVELS, BOOLS, BOOLS, BOOLS)
def test_the_histogram_gives_every_threshold_at_once(q, mask, ignore, part) -> None:
    hist = histograms(q, mask, ignore, part)
    assert hist.shape == (4, 256) and hist.sum() == q.size
    assert hist[IGNORE].sum() == ignore.sum() and hist[PART].sum() == (part & mask & ~ignore).sum()
    objects, background = brute_force(q, mask, ignore)
    np.testing.assert_allclose(metrics.iou(hist), objects)
    np.testing.assert_allclose(metrics.miou(hist), (np.array(objects) + background) / 2)


@pytest.mark.parametrize("one", [1, 255])
@given(LEVELS, BOOLS, BOOLS, BOOLS)
def test_whole_numbers_are_masks_too(one: int, q, mask, ignore, part) -> None:
    masks = mask, ignore, part
    numbers = [np.uint8(one) * of for of in masks]
    assert np.array_equal(histograms(q, *numbers), histograms(q, *masks))
    assert np.array_equal(histograms(q, mask, *numbers[1:]), histograms(q, *masks))
    for metric, m in ((IoUCurve, q), (PxAP, q / 255)):
        given, expected = metric(), metric()
        if not ignore.all():
            given.update(m, *numbers[:2])
            expected.update(m, mask, ignore)
        for name, count in expected.counts.items():
            assert np.array_equal(given.counts[name], count)


@given(LEVELS, BOOLS, BOOLS)
def test_the_border_can_be_counted_as_object(q, mask, ignore) -> None:
    hist = histograms(q, mask, ignore)
    objects, _ = brute_force(q, mask | ignore, np.zeros(SHAPE, bool))
    np.testing.assert_allclose(metrics.iou(hist, ignore_is_object=True), objects)


@given(LEVELS, BOOLS, BOOLS)
def test_precision_and_recall(q, mask, part) -> None:
    hist = histograms(q, mask, None, part)
    for t in (0, 1, 100, 255):
        found = q >= t
        for curve, above, below in (
            (metrics.precision(hist), found & mask, found),
            (metrics.recall(hist, PART), found & mask & part, mask & part),
            (metrics.recall(hist, REST), found & mask & ~part, mask & ~part),
        ):
            expected = above.sum() / below.sum() if below.any() else np.nan
            np.testing.assert_allclose(curve[t], expected)


def test_a_curve_by_hand() -> None:
    q = np.array([[0, 100], [200, 255]], np.uint8)
    mask = np.array([[False, True], [False, True]])
    curve = metrics.iou(histograms(q, mask))
    assert curve[0] == 2 / 4  # everything is found
    assert set(curve[1:101]) == {2 / 3} and set(curve[101:201]) == {1 / 3} and set(curve[201:]) == {1 / 2}
    assert metrics.miou(histograms(q, mask))[1] == (2 / 3 + 1 / 2) / 2
    score = IoUCurve()
    score.update(q, mask)
    found = score.compute()["per_image"]
    assert (found.peak, found.threshold) == (2 / 3, 1)  # the lowest of a tie


def test_counts_are_exact_beyond_what_a_float32_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken a few rows at a time, whatever the layout in memory."""
    draw = np.random.default_rng(0)
    q, mask = draw.integers(256, size=(40, 30)).astype(np.uint8), draw.random((40, 30)) < 0.5
    whole = histograms(q, mask)
    assert (histograms(q.T, mask.T) == whole).all()
    assert not histograms(q[:0], mask[:0]).any() and not histograms(q[:, :0], mask[:, :0]).any()
    assert metrics.pixels.EXACT == 1 << 24 and np.float32(1 << 24) + np.float32(1) == 1 << 24
    true, sizes = cv2.calcHist, []
    monkeypatch.setattr(cv2, "calcHist", lambda some, *more: sizes.append(some[0].size) or true(some, *more))
    for exact, tall, wide in ((100, 3 * 30, 2 * 40), (25, 30, 40)):  # rows at a time, one at least
        monkeypatch.setattr(metrics.pixels, "EXACT", exact)
        for pair, most in (((q, mask), tall), ((q.T, mask.T), wide)):
            sizes.clear()
            assert (histograms(*pair) == whole).all() and max(sizes) == most and sum(sizes) == whole.sum() == 1200


def test_what_is_empty() -> None:
    q, nothing = np.array([[0, 0], [0, 9]], np.uint8), np.zeros((2, 2), bool)
    curve = metrics.iou(histograms(q, nothing))
    assert (curve[:10] == 0).all() and (curve[10:] == 1).all()  # nothing to find: right only when nothing is found
    assert (metrics.miou(histograms(q, ~nothing))[10:] == 0).all()  # all is object and nothing is found
    assert np.isnan(metrics.precision(histograms(q, nothing))[10:]).all()
    assert np.isnan(metrics.recall(histograms(q, nothing), PART)).all()


def test_pooled_and_per_image_differ_as_they_should() -> None:
    """A big object found whole and a small one missed: 1/2 over images, most pixels over the set."""
    curve = IoUCurve()
    big, small = np.full((10, 10), 255, np.uint8), np.zeros((10, 10), np.uint8)
    one = np.zeros((10, 10), bool)
    one[0, 0] = True
    curve.update(big, ~np.zeros((10, 10), bool))
    curve.update(small, one)
    score = curve.compute()
    assert curve.images == 2
    assert score["per_image"].values[255] == 0.5 and score["pooled"].values[255] == 100 / 101


def test_what_lies_in_ignore_changes_nothing() -> None:
    draw = np.random.default_rng(0)
    q, mask, ignore = draw.integers(256, size=(8, 8)).astype(np.uint8), draw.random((8, 8)) < 0.5, np.eye(8, dtype=bool)
    other = np.where(ignore, 255 - q, q).astype(np.uint8)
    assert (metrics.miou(histograms(q, mask, ignore)) == metrics.miou(histograms(other, mask ^ ignore, ignore))).all()
    assert (histograms(q, mask)[IGNORE] == 0).all() and histograms(q, mask)[BACKGROUND].sum() == (~mask).sum()


def test_what_is_refused() -> None:
    q, mask = np.zeros((4, 5), np.uint8), np.zeros((4, 5), bool)
    with pytest.raises(UserError, match="float64 given, uint8"):
        histograms(q / 1.0, mask)
    wrong = np.zeros((5, 4), bool)
    for arguments, what in (((q, wrong), "mask"), ((q, mask, wrong), "ignore mask"), ((q, mask, None, wrong), "part")):
        with pytest.raises(UserError, match=rf"^{what}: \(5, 4\) given, the map's \(4, 5\) needed$"):
            histograms(*arguments)
    with pytest.raises(UserError, match=r"^mask: \(5, 4\)"):  # also where a fitting part is given
        histograms(q, wrong, None, mask)
    curve = IoUCurve()
    with pytest.raises(UserError, match="no image"):
        curve.compute()
    with pytest.raises(UserError, match="every pixel is ignored"):
        curve.update(q, mask, ~mask)
    assert curve.images == 0


def test_equal_area_by_hand() -> None:
    """The object has five pixels. Two of them and one of the ground stand at 9; the two left are drawn from eight at 4:
    two of the rest, one of the part, five of the ground. What is in no score would have been first."""
    hist = np.zeros((4, 256), np.int64)
    hist[REST, [9, 4]], hist[PART, [9, 4]] = [1, 2], [1, 1]
    hist[BACKGROUND, [9, 4]], hist[IGNORE, 200] = [1, 5], 50
    assert equal_area(hist, REST) == pytest.approx((1 + 2 * 2 / 8) / 3)
    assert equal_area(hist, PART) == pytest.approx((1 + 1 * 2 / 8) / 2)
    assert equal_area(hist, REST, PART) == pytest.approx((2 + 3 * 2 / 8) / 5)
    hist[BACKGROUND, 9] = 99  # the border is now at 9, five of 101
    assert equal_area(hist, REST, PART) == pytest.approx(2 * 5 / 101 / 5)
    both = equal_area(np.stack([hist, np.zeros_like(hist)]), REST)
    assert both.shape == (2,) and np.isnan(both[1])  # no object, nothing to find


@given(arrays(np.uint8, SHAPE, elements=st.integers(0, 4)), BOOLS, BOOLS, BOOLS)
def test_equal_area_is_what_random_ties_give_on_average(q, mask, ignore, part) -> None:
    hist, random = histograms(q, mask, ignore, part), np.random.default_rng(0)
    mask, part = mask & ~ignore, part & mask & ~ignore
    order = np.where(ignore, -1.0, q).ravel() + random.random((4000, q.size)) / 2
    taken = np.argsort(-order, 1)[:, : mask.sum()]  # resamples x the object's pixels
    for region, regions in ((mask & ~part, [REST]), (part, [PART]), (mask, [REST, PART])):
        found, expected = equal_area(hist, *regions), np.nan
        if region.any():
            expected = region.ravel()[taken].sum(1).mean() / region.sum()
        np.testing.assert_allclose(found, expected, atol=0.05)  # six standard errors at the most


# -------------------------------------------------------------------------------------------------------- intervals


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """200 sets of 60 skewed values with a known mean: about 95 % of the intervals hold it."""
    draw = np.random.default_rng(0)
    intervals = [bootstrap(draw.beta(2, 5, size=60), resamples=300) for _ in range(200)]
    covered = np.mean([i.low <= 2 / 7 <= i.high for i in intervals])
    assert 0.90 <= covered <= 0.99
    width = np.mean([i.high - i.low for i in intervals])  # against 2 x 1.96 standard errors of a mean
    np.testing.assert_allclose(width, 2 * 1.96 * np.sqrt(10 / (49 * 8) / 60), rtol=0.05)


def test_the_interval_repeats_and_leaves_out_nan() -> None:
    values = np.random.default_rng(1).normal(size=30)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)
    assert bootstrap(np.append(values, [np.nan, np.nan])) == bootstrap(values)
    one = bootstrap(np.array([2.5, 2.5, 2.5]))
    assert (one.mean, one.low, one.high, one.n) == (2.5, 2.5, 2.5, 3)
    for empty in ([], [np.nan]):
        with pytest.raises(UserError, match="no value"):
            bootstrap(np.array(empty))


@pytest.mark.parametrize("n", [1, 2, 7, 61, 300])
@pytest.mark.parametrize("draws", [1, 100, 1 << 16])
def test_drawing_many_resamples_at_once_changes_no_bit(n: int, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.intervals, "DRAWS", draws)
    values, random = np.random.default_rng(n).normal(size=n), np.random.default_rng(5)
    means = [values[random.integers(n, size=n)].mean() for _ in range(200)]
    got = bootstrap(values, resamples=200, seed=5)
    assert [got.low, got.high] == np.quantile(means, [0.025, 0.975]).tolist() and got.mean == values.mean()


def test_what_stands_in_every_table_are_2000_resamples_of_seed_0() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap(values) == bootstrap(values, resamples=2000, seed=0) != bootstrap(values, resamples=1999)
    several = values.reshape(3, 10)
    assert two_level(several) == two_level(several, resamples=2000, seed=0) != two_level(several, resamples=1999)
    with pytest.raises(FrozenInstanceError):
        bootstrap(values).mean = 0.0  # type: ignore[misc]


def test_two_samples_by_hand() -> None:
    """Each set is redrawn by itself: 2,000 times, and the difference of the two means is kept."""
    a, b = np.random.default_rng(0).normal(size=9), np.random.default_rng(1).normal(3, 1, size=4)
    random, drawn = np.random.default_rng(0), []
    for _ in range(2000):
        one = a[random.integers(9, size=9)].mean()
        drawn.append(one - b[random.integers(4, size=4)].mean())
    found = two_samples(a, b)
    assert (found.mean, found.n) == (a.mean() - b.mean(), 13)
    assert [found.low, found.high] == np.quantile(drawn, [0.025, 0.975]).tolist()
    for empty in ((a, b[:0]), (a[:0], b)):
        with pytest.raises(UserError, match=r"two samples of [09] and [04] values given"):
            two_samples(*empty)


def test_the_paired_interval_sees_what_unpaired_noise_would_hide() -> None:
    draw = np.random.default_rng(2)
    images = draw.normal(50, 20, size=100)  # images differ much, methods little
    a, b = images + 1 + draw.normal(0, 0.5, 100), images
    paired = bootstrap(a - b)
    assert paired.low > 0.5 and paired.high < 1.5
    assert bootstrap(a).low < bootstrap(b).high


def test_two_levels_by_hand() -> None:
    images = np.random.default_rng(3).normal(size=40)
    assert two_level([images]) == bootstrap(images)  # one training: images alone
    still = two_level(np.full((4, 7), 2.5))
    assert (still.mean, still.low, still.high, still.n) == (2.5, 2.5, 2.5, 7)
    uneven = two_level([[0.0, 0.0, np.nan], [3.0]])  # a mean over trainings, not over all images
    assert (uneven.mean, uneven.low, uneven.high, uneven.n) == (1.5, 0.0, 3.0, 1)
    again = two_level(np.stack([images, images + 1]), seed=3)
    assert again == two_level([images, images + 1], seed=3) != two_level([images, images + 1], seed=4)
    for empty, message in (([], "no training"), ([[1.0], [np.nan]], "no value")):
        with pytest.raises(UserError, match=message):
            two_level(empty)


def test_where_images_are_alike_trainings_make_the_whole_width() -> None:
    """Means of five of (0, 10, 20, 30, 40), drawn with replacement: the exact distribution, enumerated."""
    every = np.array(list(product(range(0, 50, 10), repeat=5))).mean(1)
    found = two_level(np.repeat([[0.0], [10], [20], [30], [40]], 9, 1), resamples=20_000)
    assert abs(found.low - np.quantile(every, 0.025)) <= 2 and abs(found.high - np.quantile(every, 0.975)) <= 2


@pytest.mark.parametrize(("trainings", "least", "most"), [(30, 0.88, 0.98), (5, 0.77, 0.92)])
def test_two_levels_cover_the_truth_as_often_as_they_say(trainings, least, most) -> None:
    """300 studies of 20 images whose trainings differ; images alone would hold the truth far less often."""
    draw, covered, images = np.random.default_rng(0), [], []
    for _ in range(300):
        values = draw.normal(size=(trainings, 1)) + 0.5 * draw.normal(size=(trainings, 20))
        one, other = two_level(values, resamples=300), bootstrap(values.mean(0), resamples=300)
        covered.append(one.low <= 0 <= one.high)
        images.append(other.low <= 0 <= other.high)
    assert least <= np.mean(covered) <= most and np.mean(images) < 0.5
