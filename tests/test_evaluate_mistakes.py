"""What each mistake adds, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sets import scored

from dgl_lib import metrics
from dgl_lib.evaluate import BASELINES, choose_layers, image_table, report
from dgl_lib.evaluate.mistakes import JET_TO_GREY, MISTAKES, _wrong_treatments, coloured, mistakes


def wrong(hist: np.ndarray, val: np.ndarray | None = None) -> pd.DataFrame:
    before, after = scored(hist if val is None else val), scored(hist)
    table = report(before, after)
    chosen = choose_layers(table, image_table(before, after, ["a class"]))
    treated = scored(hist if val is None else val, True), scored(hist, True)
    return mistakes(before, after, table, chosen, treated)


def test_what_jet_does_to_three_levels() -> None:
    """Levels 0, 128, 255 become 15, 203, 38: the object at 255 falls below its background at 128."""
    assert JET_TO_GREY[[0, 128, 255]].tolist() == [15, 203, 38]
    hist = np.zeros((1, 4, 256), np.int32)
    hist[0, metrics.REST, 255], hist[0, metrics.BACKGROUND, 128], hist[0, metrics.BACKGROUND, 0] = 30, 20, 50
    assert metrics.iou(hist).max() == 1
    curve = metrics.iou(coloured(hist))[0]
    assert curve[[15, 16, 38, 39, 203, 204]].tolist() == [0.3, 0.6, 0.6, 0, 0, 0] and curve.max() == 0.6
    hist[0, metrics.BACKGROUND, [0, 128]] = [70, 0]  # without the middle level nothing is lost
    assert metrics.iou(coloured(hist)).max() == 1


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_no_single_threshold_beats_one_for_each_image(seed: int) -> None:
    draw = np.random.default_rng(seed)
    val, hist = np.zeros((2, 4, 5, 4, 256), np.int32)
    for one in (val, hist):
        one[..., ::16] = draw.integers(0, 50, size=(4, 5, 4, 16))
    found = wrong(hist, val)
    for method in ("cam", "dgl", *BASELINES):
        of = found[(found["method"] == method) & (found["of"] == "IoU")].set_index("mistake")
        assert of["low"]["threshold for each image"] >= 0 and of["inflation"]["threshold on test"] >= -1e-9
        assert of["mistaken"]["threshold for each image"] >= of["mistaken"]["threshold on test"] - 1e-9
        np.testing.assert_allclose(of["mistaken"] - of["honest"], of["inflation"], atol=1e-9)


def test_a_perfect_map_cannot_be_inflated() -> None:
    hist = np.zeros((4, 12, 4, 256), np.int32)
    hist[..., metrics.REST, 255], hist[..., metrics.BACKGROUND, 0] = 30, 70
    found = wrong(hist)
    assert set(found["mistake"]) == {*MISTAKES} - {"border as object"}  # nothing here is to be ignored
    assert (found["inflation"] == 0).all() and set(found["verdict"]) == {"level"}


def test_mistakes_by_hand() -> None:
    """Half of the images need threshold 100, half 200; the border counts as found where it is called the object."""
    hist = np.zeros((4, 10, 4, 256), np.int32)
    hist[:, :5, metrics.REST, 100], hist[:, :5, metrics.BACKGROUND, 0] = 50, 50
    hist[:, 5:, metrics.REST, 200], hist[:, 5:, metrics.BACKGROUND, 150] = 50, 50
    hist[:, :, metrics.IGNORE, 255] = 25
    found = wrong(hist).set_index(["method", "mistake"])
    each = dict(found.loc[("dgl", "threshold for each image"), :])
    assert (each["honest"], each["mistaken"], each["inflation"]) == (75, 100, 25) and each["verdict"] == "gains"
    assert (each["low"], each["high"], each["kind"], each["layer"]) == (10, 40, "method", "add1")
    border = dict(found.loc[("dgl", "border as object"), :])
    assert border["mistaken"] == pytest.approx((100 + 60) / 2) and border["inflation"] == pytest.approx(5)
    one = dict(found.loc[("dgl", "multi-scale for DGL only"), :])
    assert (one["of"], one["honest"], one["mistaken"], one["verdict"]) == ("DGL minus CAM", 0, 0, "level")


def test_several_scales_for_one_only() -> None:
    """Scales lift CAM from 20 to 60 and DGL from 50 to 70: honest is +10, the others +50 and -10."""
    hist = np.zeros((4, 12, 4, 256), np.int32)
    hist[..., metrics.BACKGROUND, 0] = 100
    treated = scored(hist, True)
    for row, n in enumerate((20, 50, 60, 70)):
        treated.hist[row, :, metrics.REST, 200], treated.hist[row, :, metrics.REST, 0] = n, 100 - n
    treated.hist[:, :, metrics.BACKGROUND, 0] = 900
    lines = {mistake: (honest, mistaken) for mistake, _, _, honest, mistaken in _wrong_treatments(treated, treated)}
    for name, there in (("DGL", 0.5), ("CAM", -0.1)):
        honest, mistaken = lines[f"multi-scale for {name} only"]
        np.testing.assert_allclose(honest, 0.1)
        np.testing.assert_allclose(mistaken, there)


def test_one_scale_alone_inflates_nothing() -> None:
    """A profile whose only scale is 1 has nothing to merge, for one method or for both."""
    alone = scored(np.random.default_rng(0).integers(0, 9, size=(4, 12, 4, 256)).astype(np.int32))
    found = {mistake: (honest, mistaken) for mistake, _, _, honest, mistaken in _wrong_treatments(alone, alone)}
    assert len(found) == 3
    for honest, mistaken in found.values():
        np.testing.assert_array_equal(honest, mistaken)
