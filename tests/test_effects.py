"""The effects behind the claims, by hand: DGL and its branches against CAM, each other, and the baselines."""

import numpy as np
import pandas as pd
import pytest

from dgl_lib.evaluate import Maps, Scores, effects
from dgl_lib.pulling import Pulled

LAYERS = ["Mixed_6d", "Mixed_6e", "add1"]
IOU = {
    ("cam", "add1"): [30, 40],
    ("dgl", "Mixed_6d"): [90, 90],
    ("dgl", "Mixed_6e"): [50, 30],
    ("dgl", "add1"): [90, 90],
    ("pixel_selection", "Mixed_6d"): [10, 20],
    ("pixel_selection", "Mixed_6e"): [20, 40],
    ("pixel_selection", "add1"): [90, 90],
    ("enhanced_map", "Mixed_6e"): [45, 45],
    ("enhanced_map_norm", "Mixed_6e"): [55, 25],
    ("whole_image", ""): [12, 14],
    ("centred_gaussian", ""): [21, 25],
}


def scores(iou: dict[tuple[str, str], list[int]], **setting: object) -> Scores:
    """Scores whose rows have these IoUs, percent, image by image: of 100 object pixels so many at level 255."""
    rows = [{"method": m, "layer": layer, "scales": "1", "kernel": 0.0} | setting for m, layer in iou]
    hist = np.zeros((len(rows), 2, 4, 256), np.int32)
    for i, values in enumerate(iou.values()):
        for k, value in enumerate(values):
            hist[i, k, 1, 255], hist[i, k, 1, 0] = value, 100 - value
            hist[i, k, 0, 0] = 10_000  # so much background that threshold 0 is never the best
    return Scores(pd.DataFrame(rows), hist, ["0", "1"], np.array([0, 1]), np.zeros(2, bool))


def by_name(table: pd.DataFrame) -> dict[tuple[str, str, str], list[float]]:
    assert list(table) == ["claim", "detail", "effect", "image", "value"]
    groups = table.groupby(["claim", "detail", "effect"], sort=False)
    return {name: one["value"].tolist() for name, one in groups}


def test_effects_by_hand() -> None:
    of = scores(IOU)
    table = effects.of_scores(of, of, "Mixed_6e", LAYERS)
    assert table["image"].tolist() == [0, 1] * (len(table) // 2)
    assert by_name(table) == {  # no telling part is known: nothing of C2
        ("C5", "", "DGL minus CAM"): [20, -10],
        ("C4", "", "pixel selection minus the better baseline"): pytest.approx([15 - 21, 30 - 25]),  # without add1
        ("C8", "sum", "DGL minus pixel selection"): pytest.approx([30, -10]),
        ("C8", "sum", "DGL minus enhanced map"): pytest.approx([5, -15]),
        ("C8", "norm", "DGL minus pixel selection"): pytest.approx([30, -10]),
        ("C8", "norm", "DGL minus enhanced map"): pytest.approx([-5, 5]),
    }


def test_what_needs_a_map_that_is_not_there_is_left_out_and_other_settings_are_passed_over() -> None:
    few = {pair: iou for pair, iou in IOU.items() if pair[0] == "cam" or pair[1] in ("", "Mixed_6e")}
    of = scores(few).join(scores(few, scales="0.5+1", kernel=0.1))
    of = Scores(of.rows[:-2], of.hist[:-2], of.names, of.labels, of.has_part)  # baselines have one row
    found = by_name(effects.of_scores(of, of, "Mixed_6e", LAYERS))
    assert {claim for claim, *_ in found} == {"C5", "C8"} and found["C5", "", "DGL minus CAM"] == [20, -10]


@pytest.mark.parametrize(("tested", "where"), [(30, ""), (29, ", validation images")])
def test_c2_at_equal_area_for_every_reading_and_at_a_threshold_for_the_first(tested: int, where: str) -> None:
    """80 pixels are the rest of the object, 20 its telling part, and 100 are taken. The first: all of the part and 20
    of the rest (plain) or 40 (enhanced) stand on top, then 400 of the ground, then what is left of the object."""
    found = {"features": 20, "enhanced_map": 40, "features_norm": 80, "enhanced_map_norm": 60}
    names = [(m, "Mixed_6e") for m in (*found, "dgl", "pixel_selection")]
    names += [("cam", "add1"), ("whole_image", ""), ("centred_gaussian", "")]
    hist = np.zeros((len(names), 30, 4, 256), np.int32)
    hist[:, :, 0, 0], hist[:, :, 0, 128], hist[:, :, 2, 255] = 10_000, 400, 20
    for row, (method, _) in zip(hist, names, strict=True):
        row[:, 1, 255], row[:, 1, 0] = found.get(method, 50), 80 - found.get(method, 50)
    hist[:, 3, 1] = 0  # an image without a rest
    table = pd.DataFrame(names, columns=["method", "layer"]).assign(scales="1", kernel=0.0)
    of = Scores(table, hist, [str(i) for i in range(30)], np.zeros(30, np.int64), np.ones(30, bool))
    some = Scores(table, hist, of.names, of.labels, np.arange(30) < tested)
    got = effects.of_scores(of, some, "Mixed_6e", ["Mixed_6e", "add1"])
    got = got[(got["claim"] == "C2") & got["image"].isin([0, 3])]
    at = f"{effects.EXPLORATORY}rest found, at a threshold", f"{effects.EXPLORATORY}precision, at a threshold"
    assert by_name(got) == {
        ("C2", f"sum{where}", "rest found"): pytest.approx([100 * 20 / 80]),  # the fourth image has none
        ("C2", f"sum{where}", "precision"): pytest.approx([20, 0]),
        ("C2", f"sum{where}", at[0]): pytest.approx([25]),
        ("C2", f"sum{where}", at[1]): pytest.approx([0, 0]),  # a threshold above the ground: nothing beside the object
        ("C2", f"norm{where}", "rest found"): pytest.approx([-25]),
        ("C2", f"norm{where}", "precision"): pytest.approx([-20, 0]),
    }


def test_what_scales_and_closing_add() -> None:
    of = scores({("dgl", "Mixed_6e"): [50, 30]})
    of = of.join(scores({("dgl", "Mixed_6e"): [60, 35]}, scales="0.5+1"))
    of = of.join(scores({("dgl", "Mixed_6e"): [58, 39]}, scales="0.5+1", kernel=0.1))
    chosen = {"dgl": {"none": ((1.0,), 0.0), "MS": ((0.5, 1.0), 0.0), "MS+MC": ((0.5, 1.0), 0.1)}}
    assert by_name(effects.of_treatments(of, of, chosen)) == {
        ("C6", "", "MS minus none"): pytest.approx([10, 5]),
        ("C7", "", "MS+MC minus MS"): pytest.approx([-2, 4]),
    }
    alone = {"dgl": dict.fromkeys(("none", "MS", "MS+MC"), ((1.0,), 0.0))}
    assert effects.of_treatments(of, of, alone).empty  # nothing was merged and nothing closed: not measured
    closed = {"dgl": chosen["dgl"] | {"none": ((0.5, 1.0), 0.0)}}
    assert list(effects.of_treatments(of, of, closed)["claim"].unique()) == ["C7"]


def test_what_the_step_changes() -> None:
    pulled = Pulled(np.array([[9.0, 1, 4], [9, 2, 1]]), np.array([[0.9, 0.5, 0.75], [0.9, 1, 1]]))
    found = by_name(effects.of_pulling(pulled, [-1, 0, 1]))
    assert found == {("C1", "", "margin"): [3, -1], ("C1", "", "p_c"): [0.25, 0]}


@pytest.mark.parametrize(("off", "value"), [(0.0, [1]), (5e-5, [1]), (2e-4, [0])])
def test_identities_hold_or_fail(off: float, value: list[float]) -> None:
    cam = np.array([[[0.0, 1], [0.5, 0.2]], [[0, 4], [2, 1]]], np.float32)
    other = 3 * cam + 7  # the same after min-max
    other[1, 1, 0] += 12 * off
    maps = Maps({("cam", "add1"): cam, ("pixel_selection", "add1"): other}, np.zeros((2, 2)), np.zeros(2))
    assert by_name(effects.of_last_layer(maps, "add1")) == {("C3", "", "the same map"): [1, *value]}
    assert by_name(effects.of_weights("a", "a" if value == [1] else "b")) == {("C9", "", "the same weights"): value}
