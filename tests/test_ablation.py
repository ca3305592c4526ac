"""The search, the table and the figures of notebook 04, on maps made by hand."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dgl_lib import ablation, metrics
from dgl_lib.evaluate.treatments import SINGLE, TREATMENTS
from dgl_lib.study.claims import claim_row, save_claims
from dgl_lib.data.records import Record
from dgl_lib.errors import UserError
from dgl_lib.evaluate.scores import Maps, choose, score
from dgl_lib.plots import ablation as plots

SIDE = 16
LAYER = "Mixed_6e"


class Squares:
    """Images with one square object each; ``border`` pixels around it are ignored."""

    name, split, classes, digest = "squares", "val", ("square",), "0"

    def __init__(self, places: list[tuple[int, int, int]], border: int = 0):
        self.places, self.border = places, border
        self.names = [f"{split}-{place}" for split, place in enumerate(places)]
        self.labels = np.zeros(len(places), np.int64)

    def __len__(self) -> int:
        return len(self.places)

    def image(self, index: int) -> np.ndarray:
        return np.full((SIDE, SIDE, 3), 60, np.uint8)

    def square(self, index: int, more: int = 0) -> np.ndarray:
        y, x, side = self.places[index]
        mask = np.zeros((SIDE, SIDE), bool)
        mask[max(0, y - more) : y + side + more, max(0, x - more) : x + side + more] = True
        return mask

    def __getitem__(self, index: int) -> Record:
        mask = self.square(index)
        ignore = self.square(index, self.border) & ~mask if self.border else None
        boxes = np.zeros((0, 4), np.int32)
        return Record(
            self.names[index], self.image(index), 0, boxes, mask, ignore, mask & (np.indices(mask.shape)[0] < 8)
        )


PLACES = [(3, 3, 9), (4, 3, 9), (3, 4, 9), (4, 4, 9)]  # far enough from the frame for closing to leave it alone


def raw(data: Squares, kind: str) -> np.ndarray:
    """(N, 16, 16) maps: "object", "ring" (the object with a gap of 3 px in it), "corner" (a place of its own)."""
    maps = []
    for i in range(len(data)):
        m = data.square(i).astype(np.float32)
        y, x, _ = data.places[i]
        if kind == "ring":
            m[y + 3 : y + 6, x + 3 : x + 6] = 0
        if kind == "corner":
            m = np.zeros_like(m)
            m[:3, -3:] = 1
        maps.append(m)
    return np.stack(maps)


def by_scale(data: Squares) -> dict[float, Maps]:
    """CAM is right at scale 1.5 only, DGL has a gap at every scale but 0.75, where it is elsewhere."""
    kinds = {0.75: ("corner", "corner"), 1.0: ("corner", "ring"), 1.5: ("object", "ring")}
    logits, classes = np.zeros((len(data), 1), np.float32), np.zeros(len(data), np.int64)
    return {
        scale: Maps(
            {
                ("cam", "add1"): raw(data, cam),
                ("dgl", LAYER): raw(data, dgl),
                ("dgl", "add1"): raw(data, "corner"),
                ("enhanced_map", LAYER): raw(data, "corner"),
                ("pixel_selection", LAYER): 5 * raw(data, "object") - 3,
            },
            logits,
            classes,
        )
        for scale, (cam, dgl) in kinds.items()
    }


@pytest.fixture(scope="module")
def study() -> dict:
    val, test = Squares(PLACES), Squares([(y + 1, x + 1, s - 1) for y, x, s in PLACES])
    maps = ablation.candidates(by_scale(val), LAYER)
    val_scores, chosen = ablation.search(val, maps, [0.75, 1.0, 1.5], [0.0, 0.05, 0.2, 0.32])
    test_maps = ablation.candidates(by_scale(test), LAYER)
    test_scores = ablation.score_chosen(test, test_maps, chosen)
    table = ablation.report_table(val_scores, test_scores, chosen)
    scores = {"val": val_scores, "test": test_scores, "chosen": chosen, "table": table}
    return scores | {"maps": maps, "record": val[0], "methods": list(chosen), "data": val}


# What is tried


def test_sets_of_scales():
    assert ablation.scale_sets([1.25, 1.0, 0.75]) == [(0.75, 1.0), (1.0, 1.25), (0.75, 1.0, 1.25)]
    assert ablation.scale_sets([2]) == [(1.0, 2.0)]  # 1.0 is in every set, named or not
    assert len(ablation.scale_sets([0.75, 1.0, 1.25, 1.5, 1.5])) == 7


def test_kernels():
    assert ablation.closing_kernels([0.1, 0.0, 0.05, 0.1]) == [0.05, 0.1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ablation.scale_sets([1.0, 1]), r"scales: \[1.0, 1\] given, at least one beside 1.0 needed"),
        (lambda: ablation.closing_kernels([0.0]), r"kernels: \[0.0\] given, at least one above 0 needed"),
    ],
)
def test_nothing_to_sweep(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_candidates_keep_one_layer_and_add_two_fusions():
    data = Squares(PLACES)
    found = ablation.candidates(by_scale(data), LAYER)[1.0].maps
    assert list(found) == [
        *(("cam", "add1"), ("dgl", LAYER), ("enhanced_map", LAYER), ("pixel_selection", LAYER)),
        *(("fused_mean", LAYER), ("fused_max", LAYER)),
    ]
    corner, square = raw(data, "corner"), raw(data, "object")  # they do not overlap, and min-max undoes 5 m - 3
    np.testing.assert_allclose(found["fused_max", LAYER], np.maximum(corner, square))
    np.testing.assert_allclose(found["fused_mean", LAYER], corner + square)  # half of each, min-maxed


@pytest.mark.parametrize("missing", ["cam", "dgl"])
def test_the_table_needs_both(missing: str):
    maps = by_scale(Squares(PLACES))
    short = {
        s: Maps({k: v for k, v in m.maps.items() if k[0] != missing}, m.logits, m.classes) for s, m in maps.items()
    }
    with pytest.raises(UserError, match=f"ablation_methods: '{missing}' is missing"):
        ablation.candidates(short, LAYER)


# What is chosen


def test_search_finds_what_was_put_in(study):
    chosen = study["chosen"]
    assert chosen["cam"]["MS"] == ((1.0, 1.5), 0.0)  # 0.75 adds to the corner, 1.5 is the object
    assert chosen["dgl"]["MS"] == ((1.0, 1.5), 0.0)
    assert chosen["dgl"]["MC"] == (SINGLE, 0.32)  # 5 px; at 0.2 it is 3 px, and five pixels of the gap stay
    for by in chosen.values():
        assert list(by) == list(TREATMENTS)
        assert by["MS+MC"][0] == by["MS"][0]


def test_closing_fills_the_gap(study):
    rows = study["table"].set_index(["method", "treatment"])["val_iou"]
    assert rows["dgl", "none"] == pytest.approx(100 * 72 / 81)
    assert rows["dgl", "MC"] == pytest.approx(100)
    sweep = ablation.sweep_table(study["val"]).set_index(["method", "scales", "kernel"])["val_iou"]
    assert sweep["dgl", "1", 0.2] == pytest.approx(100 * 76 / 81)


def test_best_takes_the_first_of_those_that_tie(study):
    settings = [((1.0, 1.5), 0.0), (SINGLE, 0.0)]
    assert ablation.best(study["val"], "pixel_selection", settings) == settings[0]


def test_every_setting_stands_once_in_the_sweep(study):
    sweep = ablation.sweep_table(study["val"])
    assert not sweep.duplicated(["method", "scales", "kernel"]).any()
    assert len(sweep) == len(study["methods"]) * (1 + 3 + 2 * 3) + 2  # single, sets, kernels twice; baselines
    one = sweep[(sweep["method"] == "dgl") & (sweep["scales"] == "1") & (sweep["kernel"] == 0)]
    assert one["val_iou"].item() == pytest.approx(100 * 72 / 81)


def test_the_search_is_the_same_for_every_method(study):
    """A method's choice does not depend on which others stand beside it."""
    alone = {s: Maps({("cam", "add1"): m.maps["cam", "add1"]}, m.logits, m.classes) for s, m in study["maps"].items()}
    _, chosen = ablation.search(study["data"], alone, [0.75, 1.5], [0.05, 0.2, 0.32])
    assert chosen["cam"] == study["chosen"]["cam"]


# What is reported


def test_table_has_every_cell_once_and_both_baselines(study):
    table = study["table"]
    assert list(table["method"][:2]) == ["whole_image", "centred_gaussian"]
    assert list(table["treatment"]) == ["", ""] + list(TREATMENTS) * len(study["methods"])
    whole = table.iloc[0]
    assert whole["iou"] == pytest.approx(100 * 64 / 256)
    assert (table["iou"] <= table["test_peak"] + 1e-9).all()


def test_thresholds_come_from_validation(study):
    for one in study["table"].to_dict("records"):
        hist = study["val"].find(method=one["method"], scales=one["scales"], kernel=one["kernel"])
        assert one["threshold"] == choose(hist)


def test_gains_are_paired_differences(study):
    found = ablation.gains(study["val"], study["test"], study["chosen"], [("dgl", "MC", "cam", "none")])
    rows = study["table"].set_index(["method", "treatment"])["iou"]
    assert found["gain"].item() == pytest.approx(rows["dgl", "MC"] - rows["cam", "none"])
    assert found["n"].item() == len(PLACES)
    steps = ablation.steps(study["val"], study["test"], study["chosen"]).set_index(["method", "treatment"])["gain"]
    assert steps["cam", "MS"] == pytest.approx(rows["cam", "MS"] - rows["cam", "none"])
    assert steps["cam", "MS+MC"] == pytest.approx(rows["cam", "MS+MC"] - rows["cam", "MS"])


def test_slides_beside_ours(study):
    table = ablation.slides_table(study["table"])
    assert list(table.index) == ["none", "MS", "MS+MC"]
    np.testing.assert_allclose(table["LID, slides: step"], [np.nan, 3.23, 0.76])
    ours = study["table"].query("method == 'dgl' and treatment == 'MS'")["iou"].item()
    assert table.loc["MS", "ours: IoU"] == ours


def test_what_a_row_of_gains_says(study):
    effect = {"method": "dgl", "treatment": "MC", "over": "cam", "over_treatment": "MS"}
    rows = study["table"].set_index(["method", "treatment"])["iou"]
    assert ablation.describe(effect, study["table"], study["chosen"]) == (
        f"dgl on Mixed_6e (kernel 0.32) {rows['dgl', 'MC']:.2f}, cam on add1 (scales 1+1.5) {rows['cam', 'MS']:.2f}"
    )


def test_thresholds_from_honest_to_hopeless(study):
    table = ablation.peak_table(study["val"], study["test"], study["methods"])
    assert (table["validation"] <= table["test peak"] + 1e-9).all()
    assert (table["test peak"] <= table["per image"] + 1e-9).all()


def test_border_as_object():
    data = Squares(PLACES[:1], border=1)
    logits, classes = np.zeros((1, 1), np.float32), np.zeros(1, np.int64)
    maps = {1.0: Maps({("cam", "add1"): raw(data, "object")}, logits, classes)}
    table = ablation.border_table(score(data, maps), ["cam"])
    assert table["border left out"].item() == pytest.approx(100)
    assert table["border as object"].item() == pytest.approx(100 * 81 / 121)


def test_no_border_no_table(study):
    assert ablation.border_table(study["test"], ["cam"]).empty


def test_scores_at_another_size(study):
    found = ablation.score_chosen(study["data"], study["maps"], study["chosen"], methods=["dgl"], size=2 * SIDE)
    assert set(found.rows["method"]) == {"dgl", "whole_image", "centred_gaussian"}
    assert (found.hist.sum((2, 3)) == (2 * SIDE) ** 2).all()
    with pytest.raises(UserError, match="methods: none given"):
        ablation.score_chosen(study["data"], study["maps"], study["chosen"], methods=[])


# Figures


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def shown(figure) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for ax in figure.axes for image in ax.images]


def test_averaged_down_and_never_up():
    m = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_allclose(plots.at_most(m, 2), [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_allclose(plots.at_most(m, 9), m)


def test_agreement_of_scales():
    m = np.random.default_rng(0).random((6, 6)).astype(np.float32)
    found = plots.agreement({1.0: m, 1.5: 3 * m + 1, 0.75: -m, 2.0: np.ones((3, 3), np.float32)})
    assert found == pytest.approx({1.5: 1, 0.75: -1, 2.0: 0})


def test_photographs_are_not_shown_and_maps_no_finer_than_the_grid(study):
    fine, grid = np.random.default_rng(0).random((48, 48)).astype(np.float32), 8
    maps = {0.75: fine[:6, :6], 1.0: fine[:grid, :grid], 1.5: fine[:12, :12]}
    figures = [
        plots.scales_figure(study["record"], maps, fine, 64, pixels=False),
        plots.closing_figure(fine / 2, np.maximum(fine / 2, 0.4), 5, study["record"], False, grid),
        plots.fusion_figure(study["record"], {"dgl": maps[1.0], "fused_max": maps[1.0]}, pixels=False),
    ]
    for figure in figures:
        for image in shown(figure):
            assert image.shape[:2] <= (grid, grid) or (image == 240).all()


def test_drawn_data_is_shown(study):
    m = np.eye(8, dtype=np.float32)
    figure = plots.fusion_figure(study["record"], {"dgl": m}, pixels=True)
    assert (shown(figure)[0] == 60).all()


def test_figures_of_the_table_say_what_it_says(study):
    methods, table = study["methods"], study["table"]
    sweep = ablation.sweep_table(study["val"])
    figure = plots.sweep_figure(sweep, study["chosen"], methods)
    assert "do not choose" in figure.get_suptitle() or len({b["MS"] for b in study["chosen"].values()}) == 1
    top = table[table["method"].isin(methods)]["iou"].max()
    axes = plots.treatments_figure(table, methods).axes[0]
    title = axes.get_title() + axes.get_title(loc="left")
    assert f"{top:.1f}; above the better trivial baseline" in title
    assert len(plots.curves_figure(study["val"], study["test"], study["chosen"]).axes) == 2
    steps = ablation.steps(study["val"], study["test"], study["chosen"])
    one = steps.query("method == 'dgl' and treatment == 'MS'").to_dict("records")[0]
    title = plots.steps_figure(steps, methods).get_suptitle()
    assert f"DGL: MS {plots.direction(one['low'], one['high'])} and MC " in title


def test_steps_by_several_scores_say_where_dgl_gains():
    rows = []
    for name, low in (("mask IoU", 1.0), ("GT-known", -9.0), ("PxAP", 0.6)):
        for method, treatment in (("whole_image", ""), ("dgl", "none"), ("dgl", "MS"), ("dgl", "MS+MC")):
            gain = {"over": low + 1, "over_low": low, "over_high": low + 2}
            rows.append({"score": name, "method": method, "treatment": treatment, **gain, "low": 50.0, "high": 60.0})
    figure = plots.box_steps_figure(pd.DataFrame(rows), ["mask IoU", "GT-known", "PxAP"])
    assert figure.get_suptitle() == "DGL under MS+MC: goes up by mask IoU, PxAP; goes down by GT-known"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "DGL (both branches), MS",
        "DGL (both branches), MS+MC",
    ]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        *((0.6, 1, "goes up"), (-1, -0.6, "goes down"), (0.4, 1, "no clear"), (-1, 1, "no clear")),
        *((-0.01, -0.007, "changes by less than 0.5 points"), (0.1, 0.5, "changes by less")),
    ],
)
def test_direction_of_an_interval(low: float, high: float, words: str):
    assert words in plots.direction(low, high)


def test_claims_are_counted(tmp_path):
    rows = [claim_row("C5", 2.0, 1.0, 3.0, 9), claim_row("C6", 0.0, -1.0, 0.4, 9)]
    figure = plots.claims_figure(save_claims(tmp_path, "04", rows))
    assert figure.get_suptitle() == "1 of 2 claims reproduced"
    assert isinstance(pd.read_csv(tmp_path / "claims_04.csv"), pd.DataFrame)


def test_curve_is_in_percent(study):
    values = ablation.curve(study["val"], "dgl", (SINGLE, 0.0))
    assert values.shape == (256,)
    np.testing.assert_allclose(
        values, 100 * metrics.iou(study["val"].find(**ablation.row("dgl", (SINGLE, 0.0)))).mean(0)
    )
