"""Multi-scale input and closing: the search, the table and the gains, on maps made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dgl_lib.data.records import Record
from dgl_lib.errors import UserError
from dgl_lib.evaluate import Maps, choose, score, scores, treatments
from dgl_lib.evaluate.scores import SINGLE
from dgl_lib.evaluate.treatments import TREATMENTS
from dgl_lib.metrics import iou

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
                ("enhanced_map_positive", LAYER): raw(data, "ring"),
                ("enhanced_map_norm", LAYER): 1 - raw(data, "object"),
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
    maps = treatments.candidates(by_scale(val), LAYER)
    val_scores, chosen = treatments.search(val, maps, [0.75, 1.0, 1.5], [0.0, 0.05, 0.2, 0.32])
    test_maps = treatments.candidates(by_scale(test), LAYER)
    test_scores = treatments.score_chosen(test, test_maps, chosen)
    table = treatments.report_table(val_scores, test_scores, chosen)
    scores = {"val": val_scores, "test": test_scores, "chosen": chosen, "table": table}
    return scores | {"maps": maps, "methods": list(chosen), "data": val}


# What is tried


def test_sets_of_scales():
    assert treatments.scale_sets([1.25, 1.0, 0.75]) == [(0.75, 1.0), (1.0, 1.25), (0.75, 1.0, 1.25)]
    assert treatments.scale_sets([2]) == [(1.0, 2.0)]  # 1.0 is in every set, named or not
    assert len(treatments.scale_sets([0.75, 1.0, 1.25, 1.5, 1.5])) == 7


def test_kernels():
    assert treatments.closing_kernels([0.1, 0.0, 0.05, 0.1]) == [0.05, 0.1]


def test_nothing_to_sweep():
    """Every treatment is then none, and adds nothing."""
    assert treatments.scale_sets([1.0, 1]) == [(1.0,)] and treatments.closing_kernels([0.0]) == [0.0]
    data = Squares(PLACES)
    maps = treatments.candidates({1.0: by_scale(data)[1.0]}, LAYER)
    scores, chosen = treatments.search(data, maps, [1.0], [0.0])
    assert set(chosen["dgl"].values()) == {((1.0,), 0.0)} and not scores.rows.duplicated().any()
    test = treatments.score_chosen(data, maps, chosen)
    table = treatments.report_table(scores, test, chosen)
    assert table.loc[table["method"] == "dgl", "treatment"].tolist() == list(treatments.TREATMENTS)
    assert not treatments.gains(scores, test, chosen, [("dgl", "MS+MC", "dgl", "none")])["gain"].any()


def test_candidates_keep_one_layer_and_add_six_fusions():
    data = Squares(PLACES)
    found = treatments.candidates(by_scale(data), LAYER)[1.0].maps
    assert list(found) == [
        *(("cam", "add1"), ("dgl", LAYER), ("enhanced_map", LAYER)),
        *(("enhanced_map_positive", LAYER), ("enhanced_map_norm", LAYER), ("pixel_selection", LAYER)),
        *((f"fused_{how}{reading}", LAYER) for reading in ("", "_positive", "_norm") for how in ("mean", "max")),
    ]
    corner, square = raw(data, "corner"), raw(data, "object")  # they do not overlap, and min-max undoes 5 m - 3
    np.testing.assert_allclose(found["fused_max", LAYER], np.maximum(corner, square))
    np.testing.assert_allclose(found["fused_mean", LAYER], corner + square)  # half of each, min-maxed
    ring = raw(data, "ring")
    np.testing.assert_allclose(found["fused_max_positive", LAYER], square)  # the ring lies within
    np.testing.assert_allclose(found["fused_mean_positive", LAYER], (ring + square) / 2)
    assert not found["fused_max_norm", LAYER].any()  # 1 everywhere, which min-max makes 0


@pytest.mark.parametrize("missing", ["cam", "dgl"])
def test_the_table_needs_both(missing: str):
    maps = by_scale(Squares(PLACES))
    short = {s: m.only(pair for pair in m.maps if pair[0] != missing) for s, m in maps.items()}
    with pytest.raises(UserError, match=f"ablation_methods: '{missing}' is missing"):
        treatments.candidates(short, LAYER)


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
    sweep = treatments.sweep_table(study["val"]).set_index(["method", "scales", "kernel"])["val_iou"]
    assert sweep["dgl", "1", 0.2] == pytest.approx(100 * 76 / 81)


def test_best_takes_the_first_of_those_that_tie(study):
    settings = [((1.0, 1.5), 0.0), (SINGLE, 0.0)]
    assert treatments.best(study["val"], "pixel_selection", settings) == settings[0]


def test_every_setting_stands_once_in_the_sweep(study):
    sweep = treatments.sweep_table(study["val"])
    assert not sweep.duplicated(["method", "scales", "kernel"]).any()
    assert len(sweep) == len(study["methods"]) * (1 + 3 + 2 * 3) + 2  # single, sets, kernels twice; baselines
    one = sweep[(sweep["method"] == "dgl") & (sweep["scales"] == "1") & (sweep["kernel"] == 0)]
    assert one["val_iou"].item() == pytest.approx(100 * 72 / 81)


def test_the_search_is_the_same_for_every_method(study):
    """A method's choice does not depend on which others stand beside it."""
    alone = {s: m.only([("cam", "add1")]) for s, m in study["maps"].items()}
    _, chosen = treatments.search(study["data"], alone, [0.75, 1.5], [0.05, 0.2, 0.32])
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
    found = treatments.gains(study["val"], study["test"], study["chosen"], [("dgl", "MC", "cam", "none")])
    rows = study["table"].set_index(["method", "treatment"])["iou"]
    assert found["gain"].item() == pytest.approx(rows["dgl", "MC"] - rows["cam", "none"])
    assert found["n"].item() == len(PLACES)


def test_border_as_object():
    data = Squares(PLACES[:1], border=1)
    logits, classes = np.zeros((1, 1), np.float32), np.zeros(1, np.int64)
    maps = {1.0: Maps({("cam", "add1"): raw(data, "object")}, logits, classes)}
    left_out, as_object = (
        treatments.curve(score(data, maps), "cam", (SINGLE, 0.0), ignore_is_object=asked).max()
        for asked in (False, True)
    )
    assert left_out == pytest.approx(100)
    assert as_object == pytest.approx(100 * 81 / 121)


def test_scores_at_another_size(study):
    chosen = {"dgl": study["chosen"]["dgl"]}
    found = treatments.score_chosen(study["data"], study["maps"], chosen, size=2 * SIDE)
    assert set(found.rows["method"]) == {"dgl", "whole_image", "centred_gaussian"}
    assert (np.sum(found.hist, (2, 3)) == (2 * SIDE) ** 2).all()


def test_what_a_folder_keeps_is_not_scored_again(study, tmp_path, monkeypatch):
    data, maps = study["data"], study["maps"]
    asked = [1.0, 1.5], [0.05, 0.2]
    found = [treatments.search(data, maps, *asked, folder=tmp_path)]
    found.append((treatments.score_chosen(data, maps, study["chosen"], folder=tmp_path), study["chosen"]))
    monkeypatch.setattr(scores, "_histograms", None)
    again = [treatments.search(data, maps, *asked, folder=tmp_path)]
    again.append((treatments.score_chosen(data, maps, study["chosen"], folder=tmp_path), study["chosen"]))
    for (one, chosen), (other, also) in zip(found, again, strict=True):
        assert chosen == also and one.rows.equals(other.rows) and np.array_equal(one.hist, other.hist)


def test_curve_is_in_percent(study):
    values = treatments.curve(study["val"], "dgl", (SINGLE, 0.0))
    assert values.shape == (256,)
    np.testing.assert_allclose(values, 100 * iou(study["val"].find(method="dgl", scales="1", kernel=0.0)).mean(0))
