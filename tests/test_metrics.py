"""Scores: the histogram's curve against a loop over thresholds, hand cases, streams, intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from dgl_lib import metrics
from dgl_lib.errors import UserError
from dgl_lib.metrics import BACKGROUND, IGNORE, PART, REST, IoUCurve, bootstrap, histograms

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
    assert (histograms(q.T, mask.T) == whole).all() and not histograms(q[:0], mask[:0]).any()
    monkeypatch.setattr(metrics.pixels, "EXACT", 100)
    assert (histograms(q, mask) == whole).all() and whole.sum() == 1200
    assert metrics.pixels.EXACT == 100 and np.float32(1 << 24) + np.float32(1) == 1 << 24


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


def test_the_paired_interval_sees_what_unpaired_noise_would_hide() -> None:
    draw = np.random.default_rng(2)
    images = draw.normal(50, 20, size=100)  # images differ much, methods little
    a, b = images + 1 + draw.normal(0, 0.5, 100), images
    paired = bootstrap(a - b)
    assert paired.low > 0.5 and paired.high < 1.5
    assert bootstrap(a).low < bootstrap(b).high
