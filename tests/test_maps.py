"""Post-processing of maps: ranges, order, borders, and what is refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dgl_lib.errors import UserError
from dgl_lib.evaluate import BASELINES
from dgl_lib.given import need_finite
from dgl_lib.maps import (
    NORMALISATIONS,
    centred_gaussian,
    close,
    fuse,
    minmax,
    multiscale,
    normalise,
    resize,
    to_uint8,
)

VALUES = st.floats(-(2.0**100), 2.0**100, width=32)
RAW = arrays(np.float32, array_shapes(min_dims=2, max_dims=3, max_side=7), elements=VALUES)
UNIT = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12), elements=st.floats(0, 1, width=32)
)
FRACTIONS = st.floats(0, 0.99)


def tensor(a: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(a))


# ---------------------------------------------------------------------------------------------------------- minmax


@given(RAW)
def test_minmax_fills_the_range_or_is_zero(raw: np.ndarray) -> None:
    m = minmax(tensor(raw)).reshape(-1, *raw.shape[-2:])
    for got, one in zip(m, raw.reshape(-1, *raw.shape[-2:]), strict=True):
        if one.min() == one.max():
            assert (got == 0).all()
        else:
            assert (got.min(), got.max()) == (0, 1)
            order = np.argsort(one.ravel(), kind="stable")
            assert (np.diff(got.numpy().ravel()[order]) >= 0).all()  # the order of the pixels stays


def test_minmax_by_hand_and_map_by_map() -> None:
    m = torch.tensor([[[-3.0, 1.0], [0.0, -1.0]], [[7.0, 7.0], [7.0, 7.0]]])
    assert minmax(m).tolist() == [[[0, 1], [0.75, 0.5]], [[0, 0], [0, 0]]]  # all-negative, constant: no 0/0
    assert minmax(torch.tensor([[1, 3], [2, 2]])).tolist() == [[0, 1], [0.5, 0.5]]  # whole numbers too


@pytest.mark.parametrize(
    ("dtype", "extreme"), [(torch.float16, 60000.0), (torch.float32, 3e38), (torch.float64, 1.7e308)]
)
def test_a_range_beyond_the_largest_number_does_not_overflow(dtype: torch.dtype, extreme: float) -> None:
    """high - low is infinite there. A map beside it that fits is untouched, to the bit."""
    wide = torch.tensor([[-extreme, 0.0, extreme]], dtype=dtype)
    small = torch.tensor([[0.0, 0.1, 0.3]], dtype=dtype)
    assert minmax(wide).tolist() == [[0, 0.5, 1]] == normalise(wide, "ivr", percentile=0).tolist()
    assert normalise(wide, "pas").tolist() == [[0, 0.5, 1]] and normalise(wide, "max").tolist() == [[0, 0, 1]]
    assert torch.equal(minmax(torch.stack([wide, small]))[1], minmax(small))
    assert torch.equal(minmax(small), (small - small.min()) / (small.max() - small.min()))


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (0, 0)])
def test_a_map_has_a_pixel(shape: tuple[int, ...]) -> None:
    for how in NORMALISATIONS:
        with pytest.raises(UserError, match="at least one pixel needed"):
            normalise(torch.zeros(shape), how)
    assert minmax(torch.zeros(0, 2, 2)).shape == (0, 2, 2)  # of no map, no map


@given(st.floats(0.01, 100), st.floats(-10, 10))
def test_minmax_forgets_scale_and_shift(scale: float, shift: float) -> None:
    m = torch.arange(12, dtype=torch.float64).reshape(3, 4) ** 2
    torch.testing.assert_close(minmax(scale * m + shift), minmax(m))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
def test_values_of_every_type_are_looked_at(dtype: torch.dtype) -> None:
    values = torch.full((2, 300), 400.0).to(dtype)  # float16 has no number for their sum
    need_finite(("values", values))
    values[1, 7] = float("nan")
    with pytest.raises(UserError, match="values: 1 of 600 values are NaN or infinite"):
        need_finite(("values", values))


def test_of_several_the_first_that_is_not_finite_is_named() -> None:
    bad = torch.tensor([1.0, float("nan")])
    for dtype in (torch.float32, torch.float16):
        with pytest.raises(UserError, match=r"^second: 1 of 2 values"):
            need_finite(("first", torch.zeros(3).to(dtype)), ("second", bad.bfloat16()), ("third", bad))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    m = torch.zeros(2, 3, 3)
    m[1, 0, 0] = bad
    with pytest.raises(UserError, match="1 of 18 values are NaN or infinite"):
        minmax(m)


# -------------------------------------------------------------------------------------------------- normalisations


def test_normalisations_by_hand() -> None:
    m = torch.tensor([[-4.0, 1.0, 2.0, 3.0, 4.0], [-2.0, 5.0, 6.0, 7.0, 16.0]])  # sorted: -4 -2 1 2 3 4 5 6 7 16
    torch.testing.assert_close(normalise(m, "minmax"), (m + 4) / 20)
    torch.testing.assert_close(normalise(m, "max"), m.clamp(min=0) / 16)
    torch.testing.assert_close(normalise(m, "pas"), ((m + 4) / 20).clamp(max=1))  # place 9 of 0..9: the highest
    m20 = torch.cat([m, m - 0.5])  # 20 values; place 18: 15.5
    torch.testing.assert_close(normalise(m20, "pas"), ((m20 + 4.5) / 20).clamp(max=1))
    m30 = torch.cat([m, m - 0.25, m - 0.5])  # 30 values; place 27: the third from the top
    torch.testing.assert_close(normalise(m30, "pas"), ((m30 + 4.5) / 20).clamp(max=1))
    assert (normalise(m30, "pas") == 1).sum() == 3
    torch.testing.assert_close(normalise(m, "ivr"), (m - 3).clamp(min=0) / 13)  # place int(4.5) = 4: the value 3
    torch.testing.assert_close(normalise(m, "ivr", percentile=0.69), (m - 5).clamp(min=0) / 11)  # place 6
    torch.testing.assert_close(normalise(m, "ivr", percentile=0), normalise(m, "minmax"))


@given(RAW, st.sampled_from(NORMALISATIONS))
def test_every_normalisation_keeps_the_order_within_0_to_1_map_by_map(raw: np.ndarray, how: str) -> None:
    m = normalise(tensor(raw), how).reshape(-1, *raw.shape[-2:])
    for got, one in zip(m, raw.reshape(-1, *raw.shape[-2:]), strict=True):
        assert torch.equal(got, normalise(tensor(one), how))
        assert got.min() >= 0 and got.max() <= 1
        assert (np.diff(got.numpy().ravel()[np.argsort(one.ravel(), kind="stable")]) >= 0).all()
        if one.min() == one.max():
            assert (got == 0).all()


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_every_normalisation_forgets_scale_and_only_max_the_zero(how: str) -> None:
    m = torch.randn(9, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(normalise(7 * m, how), normalise(m, how))
    shifted = (normalise(m + 3, how) - normalise(m, how)).abs().max()
    assert shifted > 0.1 if how == "max" else shifted < 1e-12


def test_normalisations_where_the_denominator_vanishes() -> None:
    assert not any(normalise(torch.full((3, 3), v), how).any() for v in (-2.0, 0.0, 2.0) for how in NORMALISATIONS)
    assert not normalise(torch.tensor([[-3.0, -1.0], [-2.0, -5.0]]), "max").any()
    spike = torch.zeros(5, 5)
    spike[2, 2] = 0.25
    assert torch.equal(normalise(spike, "pas"), (spike > 0).float())  # nine tenths lie at the minimum
    flat_top = torch.ones(3, 3)
    flat_top[0, 0] = 0
    assert not normalise(flat_top, "ivr").any()  # the value at the percentile is the maximum
    assert normalise(torch.tensor([[1, 3], [2, 2]]), "max").tolist() == torch.tensor([[1, 3], [2, 2]]).div(3).tolist()


def test_what_normalisation_refuses() -> None:
    with pytest.raises(UserError, match="'sum' given, one of minmax, max, pas, ivr allowed"):
        normalise(torch.zeros(2, 2), "sum")
    for percentile in (-0.1, 1, float("nan")):
        with pytest.raises(UserError, match="percentile"):
            normalise(torch.zeros(2, 2), "ivr", percentile=percentile)
    for how in NORMALISATIONS:
        with pytest.raises(UserError, match="1 of 4 values are NaN or infinite"):
            normalise(torch.tensor([[0.0, float("inf")], [1.0, 2.0]]), how)


# ---------------------------------------------------------------------------------------------------------- resize


@pytest.mark.parametrize("factor", [2, 8])
def test_resize_matches_pixel_centres(factor: int) -> None:
    """A linear ramp stays linear between the outer cells' centres, and is clamped beyond them."""
    y, x = torch.meshgrid(torch.arange(5.0, dtype=torch.float64), torch.arange(6.0, dtype=torch.float64), indexing="ij")
    got = resize(3 * x - 2 * y, (5 * factor, 6 * factor))
    fine = [((torch.arange(n * factor, dtype=torch.float64) + 0.5) / factor - 0.5).clamp(0, n - 1) for n in (5, 6)]
    torch.testing.assert_close(got, 3 * fine[1][None] - 2 * fine[0][:, None])


def test_resize_keeps_leading_axes_and_identity() -> None:
    m = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    assert resize(m, (9, 7)).shape == (2, 3, 9, 7)
    assert torch.equal(resize(m, (5, 4)), m)
    assert torch.equal(resize(m, (9, 7))[1, 2], resize(m[1, 2], (9, 7)))


# ------------------------------------------------------------------------------------------------------ multi-scale


def test_multiscale_is_minmax_resize_mean_minmax() -> None:
    """The study's order. Min-maxing once more after the resize would weigh the scales otherwise: shown to differ."""
    draw = torch.Generator().manual_seed(1)
    maps = [torch.randn(1, side, side, generator=draw, dtype=torch.float64) * 10**side for side in (3, 4, 6)]
    resized = [resize(minmax(m), (16, 16)) for m in maps]
    expected = minmax((resized[0] + resized[1] + resized[2]) / 3)
    torch.testing.assert_close(multiscale(maps, (16, 16)), expected)
    torch.testing.assert_close(multiscale(maps[:2], (16, 16)), minmax((resized[0] + resized[1]) / 2))
    assert (fuse(resized) - expected).abs().max() > 1e-3
    with pytest.raises(UserError, match="no map"):
        multiscale([], (4, 4))


def test_multiscale_of_one_map_is_its_minmax_resized() -> None:
    m = torch.tensor([[0.0, 4.0], [8.0, 2.0]])
    torch.testing.assert_close(multiscale([m], (6, 6)), minmax(resize(m, (6, 6))))
    torch.testing.assert_close(multiscale([m, m + 5, 3 * m], (6, 6)), multiscale([m], (6, 6)))


# ---------------------------------------------------------------------------------------------------------- closing


@given(UNIT, FRACTIONS)
def test_closing_is_extensive_and_idempotent(m: np.ndarray, fraction: float) -> None:
    closed = close(tensor(m), fraction)
    assert (closed.numpy() >= m).all() and float(closed.max()) == m.max()
    assert torch.equal(close(closed, fraction), closed)


@given(UNIT, FRACTIONS, st.floats(0, 1, width=32))
def test_closing_is_monotone(m: np.ndarray, fraction: float, level: float) -> None:
    lower = np.minimum(m, np.float32(level))
    assert (close(tensor(lower), fraction) <= close(tensor(m), fraction)).all()


def test_closing_fills_a_gap_and_leaves_the_surroundings() -> None:
    m = torch.zeros(15, 15)
    m[3:12, 3:12] = 1
    m[7, 7] = 0.25
    whole = m.clone()
    whole[7, 7] = 1
    assert torch.equal(close(m, 0.2), whole)  # a 3 x 3 kernel fills one pixel; corners of the square are kept by it
    batch = close(torch.stack([m, torch.zeros(15, 15)]), 0.2)
    assert torch.equal(batch[0], whole) and not batch[1].any()
    many = close(m.expand(40, 15, 15).clone().requires_grad_(), 0.2)  # more maps than a map has rows
    assert torch.equal(many[7], whole) and not many.requires_grad


def test_the_border_takes_no_part_in_closing() -> None:
    """Against the definition: the maximum, then the minimum, over those pixels under the kernel that lie inside."""
    m = np.random.default_rng(0).random((9, 12)).astype(np.float32)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)) > 0

    def under(a: np.ndarray, outside: float, y: int, x: int) -> np.ndarray:
        return np.pad(a, 2, constant_values=outside)[y : y + 5, x : x + 5][kernel]

    dilated = np.array([[under(m, -np.inf, y, x).max() for x in range(12)] for y in range(9)], np.float32)
    closed = np.array([[under(dilated, np.inf, y, x).min() for x in range(12)] for y in range(9)], np.float32)
    np.testing.assert_array_equal(close(tensor(m), 5 / 12).numpy(), closed)


@pytest.mark.parametrize(
    ("fraction", "pixels"), [(0, 1), (0.01, 1), (0.019, 1), (0.021, 3), (0.03, 3), (0.039, 3), (0.041, 5), (0.05, 5)]
)
def test_the_kernel_is_a_fraction_of_the_side_as_an_odd_number(fraction: float, pixels: int) -> None:
    """On 100 px: the nearest odd number. Measured by the widest gap between two bright halves that gets filled."""
    gaps = [gap for gap in range(1, 9) if close(_halves(gap), fraction)[0, 50] == 1]
    assert max(gaps, default=0) == pixels - 1


def _halves(gap: int) -> torch.Tensor:
    m = torch.ones(60, 100)
    m[:, 50 - gap // 2 : 50 - gap // 2 + gap] = 0
    return m


def test_closing_uses_an_ellipse() -> None:
    hole = 1 - cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)).astype(np.float32)
    m = torch.ones(31, 31)
    m[12:19, 12:19] = torch.from_numpy(hole)
    assert torch.equal(close(m, 7 / 31), m)  # a gap of the kernel's own shape is just not filled
    assert close(m, 9 / 31).min() == 1


@pytest.mark.parametrize("fraction", [-0.1, 1, float("nan")])
def test_a_kernel_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="closing kernel"):
        close(torch.zeros(4, 4), fraction)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_closing_wants_a_map_in_0_to_1(value: float) -> None:
    with pytest.raises(UserError, match=r"0\.\.1 needed"):
        close(torch.full((4, 4), value), 0.5)


# ---------------------------------------------------------------------------------------------------- fuse, to_uint8


def test_fusions_by_hand() -> None:
    a, b = torch.tensor([[0.0, 10.0], [5.0, 0.0]]), torch.tensor([[1.0, 1.0], [3.0, 2.0]])
    assert fuse([a, b], "mean").tolist() == minmax(torch.tensor([[0, 0.5], [0.75, 0.25]])).tolist()
    assert fuse([a, b], "max").tolist() == [[0, 1], [1, 0.5]]
    with pytest.raises(UserError, match="'product' given, one of mean, max allowed"):
        fuse([a, b], "product")
    with pytest.raises(UserError, match="no map"):
        fuse([])


def test_to_uint8_rounds() -> None:
    m = torch.tensor([[0.0, 1.0, 0.4 / 255, 0.6 / 255, 254.6 / 255]])
    assert to_uint8(m).tolist() == [[0, 255, 0, 1, 255]] and to_uint8(m).dtype == np.uint8
    levels = torch.arange(256) / 255
    assert to_uint8(levels[None])[0].tolist() == list(range(256))


def test_no_maps_stay_no_maps() -> None:
    none = torch.zeros(0, 4, 5)
    assert to_uint8(none).shape == close(none, 0.5).shape == minmax(none).shape == (0, 4, 5)


@pytest.mark.parametrize("bad", [-0.01, 1.01, float("nan")])
def test_to_uint8_refuses_what_would_wrap(bad: float) -> None:
    with pytest.raises(UserError, match=r"0\.\.1 needed"):
        to_uint8(torch.tensor([[0.5, bad]]))


# -------------------------------------------------------------------------------------------------------- baselines


def test_trivial_baselines() -> None:
    whole_image = BASELINES["whole_image"]((3, 5))
    assert whole_image.shape == (3, 5) and (whole_image == 1).all()
    m = centred_gaussian((5, 9))
    assert (m.min(), m.max()) == (0, 1) and m[2, 4] == 1 and m[0, 0] == 0
    torch.testing.assert_close(m, m.flip(0))
    torch.testing.assert_close(m, m.flip(1))
    raw = torch.exp(torch.tensor(-0.5))  # half a side away on one axis: exp(-1/2), between exp(0) and exp(-1)
    torch.testing.assert_close(m[2, 0], (raw - torch.exp(torch.tensor(-1.0))) / (1 - torch.exp(torch.tensor(-1.0))))
    assert centred_gaussian((1, 1)).tolist() == [[0]]
