"""The drawing functions: what a figure must show, and what it must not show of a photograph."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

matplotlib.use("Agg")

from dgl_lib.data import Record
from dgl_lib.errors import UserError
from dgl_lib.localize import CONTROLS, METHODS, features, gradients, localize, n
from dgl_lib.models import preprocess, spg_plain
from dgl_lib.plots import charts, style
from dgl_lib.plots.explorer import every_map, explorer, picture
from dgl_lib.plots.idea import idea
from dgl_lib.plots.maps import Panel, beside, grid


@pytest.fixture(autouse=True)
def studys_style():
    """The study's look, and no figure left open: a notebook would draw it a second time."""
    with matplotlib.rc_context():
        style.use_style()
        yield
    assert plt.get_fignums() == []


def record(side: int = 32) -> Record:
    """A square object whose left half is the telling part, on noise."""
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    mask, part = np.zeros((2, side, side), bool)
    mask[8:24, 8:24] = part[8:24, 8:16] = True
    return Record("one", image, 0, np.array([[8, 8, 23, 23]], np.int32), mask, None, part)


def shown(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def dots(axes: Axes, marker: str = "o") -> list[tuple[float, float]]:
    """Where single dots of this marker stand."""
    lines = [line for line in axes.lines if line.get_marker() == marker and len(line.get_xdata()) == 1]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def ticks(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_every_method_has_a_name_and_a_colour() -> None:
    assert set(METHODS) | set(CONTROLS) <= set(style.METHODS)


def test_colours_are_fixed_where_known_and_differ_elsewhere() -> None:
    found = style.colours(["dgl", "seed 0", "seed 1", "dgl"])
    assert found["dgl"] == style.COLOURS["dgl"]
    assert len(found) == len(set(found.values())) == 3


# ------------------------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("pixels", [True, False])
def test_photographs_are_hidden_unless_asked_for(pixels: bool) -> None:
    maps = dict.fromkeys(("dgl", "over"), np.ones((1, 4, 4)))
    figure = beside([record()], maps, over=["over"], pixels=pixels)
    assert np.array_equal(shown(figure.axes[0]), record().image) == pixels
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1 + pixels]  # a map over its image, where that is shown
    assert np.array_equal(shown(figure.axes[2]), record().image) == pixels
    assert [ax.get_title("center") for ax in figure.axes] == ["image", "DGL (both branches)", "over"]


def test_no_map_of_a_hidden_photograph_is_finer_than_the_layers_grid() -> None:
    fine, coarse = np.random.default_rng(0).random((32, 32)), np.eye(4)
    panels = [[Panel(record(), fine), Panel(record(), coarse)]]
    with pytest.raises(UserError, match="cells"):
        grid(panels, pixels=False)
    hidden, open_ = grid(panels, pixels=False, cells=8), grid(panels, pixels=True)
    assert [shown(ax).shape for ax in hidden.axes] == [(8, 8), (4, 4)]
    assert shown(hidden.axes[0])[0, 0] == pytest.approx(fine[:4, :4].mean())
    assert [shown(ax).shape for ax in open_.axes] == [(32, 32), (4, 4)]


def test_a_grid_keeps_empty_places_and_its_names() -> None:
    lines = [[Panel(record(), title="first"), Panel(record(), np.eye(3))], [None, Panel(record(), masks=True)]]
    figure = grid(lines, pixels=True, rows=["dgl", "other"], columns=["", "add1"])
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 0, 1]
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == ["DGL (both\nbranches)", "other"]
    assert [ax.get_title("center") for ax in figure.axes] == ["first", "add1", "", ""]
    assert np.unique(shown(figure.axes[3])).tolist() == [0, 1, 2]  # ground, rest, telling part


def test_ends_of_the_colours() -> None:
    m = np.array([[-1.0, 3.0]])
    panels = [Panel(record(), m), Panel(record(), m, signed=True), Panel(record(), m, signed=True, limit=5)]
    figure = grid([[*panels, Panel(record(), 0 * m)]], pixels=True)
    assert [ax.images[0].get_clim() for ax in figure.axes] == [(-1, 3), (-3, 3), (-5, 5), (0, 1)]


# ----------------------------------------------------------------------------------------------------------- charts


def table() -> pd.DataFrame:
    """Two methods on two layers and a baseline on none."""
    rows = [("dgl", "add1", 40.0), ("dgl", "add2", 42.0), ("cam", "add1", 38.0), ("whole_image", np.nan, 34.0)]
    found = pd.DataFrame(rows, columns=["method", "layer", "mean"])
    return found.assign(low=found["mean"] - 1, high=found["mean"] + 1)


def test_forest_has_a_line_a_row_and_a_dot_a_value() -> None:
    figure = charts.forest(table().assign(test_peak=43.0), y=("method", "layer"), peak="test_peak", margin=0.5)
    (axes,) = figure.axes
    assert ticks(axes) == ["DGL (both branches), add1", "DGL (both branches), add2", "CAM, add1", "whole image"]
    assert axes.yaxis_inverted()
    assert dots(axes) == [(40, 0), (43, 0), (42, 1), (43, 1), (38, 2), (43, 2), (34, 3), (43, 3)]
    assert to_hex(axes.lines[1].get_color()) == style.COLOURS["dgl"]
    assert legend(figure) == ["peak on test", "within 0.5 of 0"]


def test_forest_puts_runs_side_by_side() -> None:
    runs = pd.concat([table()[2:3].assign(run=run, verdict="gains") for run in ("seed 0", "seed 1")])
    (axes,) = charts.forest(runs, hue="run").axes
    (first,), (second,) = dots(axes, "o"), dots(axes, "s")
    assert first[1] < 0 < second[1]
    assert legend(charts.forest(runs, hue="run", colour="verdict")) == ["gains", "seed 0", "seed 1"]


def test_a_legend_below_is_no_wider_than_its_figure() -> None:
    runs = pd.concat([table().assign(run=f"a run with quite a long name, number {k}") for k in range(5)])
    figure = charts.forest(runs, hue="run")
    (found,) = figure.legends
    assert found.get_window_extent().width <= figure.bbox.width and len(found.get_texts()) == 5


def test_forest_panels_share_their_labels_only_where_their_lines_agree() -> None:
    other = pd.DataFrame({"method": ["an effect"], "mean": [1.0], "panel": "effects"})
    figure = charts.forest(pd.concat([table().assign(panel="scores"), other]), panel="panel", margin={"effects": 0})
    assert [len(ticks(ax)) for ax in figure.axes] == [3, 1]
    assert dots(figure.axes[1]) == [(1, 0)]
    assert len(figure.axes[1].lines) == 3  # an empty interval, its dot, and the line at 0
    same = charts.forest(pd.concat([table().assign(panel=p) for p in "ab"]), panel="panel")
    assert not same.axes[1].yaxis.get_tick_params()["labelleft"]


def test_a_level_line_stands_in_its_own_panel() -> None:
    both = pd.concat([table()[:2].assign(panel="a"), table()[:2].assign(panel="b")])
    level = pd.DataFrame({"method": ["whole_image"], "mean": [34.0], "panel": ["b"]})
    for figure, line in ((charts.forest(both, panel="panel", levels=level), "get_xdata"),
                         (charts.by_layer(both, panel="panel", levels=level), "get_ydata")):  # fmt: skip
        at = [[list(getattr(one, line)()) for one in ax.lines].count([34.0, 34.0]) for ax in figure.axes]
        assert at == [0, 1]
        assert "whole image" in legend(figure)


def test_by_layer_keeps_the_layers_order_and_rings_what_was_chosen() -> None:
    rows = table()[:3].assign(chosen=[False, True, True])
    (axes,) = charts.by_layer(rows, ring="chosen").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["add1", "add2"]
    dgl, cam, ring = axes.lines
    assert dgl.get_ydata().tolist() == [40, 42]
    assert dgl.get_xdata()[0] < 0 < cam.get_xdata()[0]  # side by side, so that intervals stay apart
    assert ring.get_ydata().tolist() == [42, 38]
    assert len(axes.collections) == 2  # each line's intervals


def test_marks_lie_on_their_own_curve() -> None:
    t = np.arange(3)
    lines = pd.concat([pd.DataFrame({"method": m, "t": t, "mean": 10 * k + t}) for k, m in enumerate(("dgl", "cam"))])
    marks = pd.DataFrame({"method": ["cam", "dgl", "gone"], "t": [1, 0.5, 1], "mark": ["chosen", "peak", "peak"]})
    figure = charts.curves(lines, x="t", marks=marks)
    assert dots(figure.axes[0], "o") == [(1, 11)]
    assert dots(figure.axes[0], "x") == [(0.5, 0.5)]
    assert legend(figure)[-2:] == ["chosen on validation", "peak on test"]


def test_more_than_four_panels_stand_in_rows_and_share_what_they_all_say() -> None:
    one = table()[:3]
    six = pd.concat([one.assign(panel=f"panel {k}") for k in range(5)])
    figure = charts.curves(six.assign(x=1.0), x="x", panel="panel", xlabel="the same below all")
    assert len(figure.axes) == 5 and figure.axes[0].get_gridspec().get_geometry() == (2, 3)
    assert figure.get_supxlabel() == "the same below all" and not any(ax.get_xlabel() for ax in figure.axes)
    figure = charts.forest(six, panel="panel", xlabel="the same below all, in more words than fit below one panel")
    assert "\n" in figure.axes[0].get_xlabel() and not figure.get_supxlabel()  # its legend stands below


def test_heat_leaves_blanks_and_frames_cells() -> None:
    cells = table()[:3].pivot_table("mean", "method", "layer")
    (axes,) = charts.heat(cells, frames=[("dgl", "add2")]).axes
    assert sorted(text.get_text() for text in axes.texts) == ["38.0", "40.0", "42.0"]  # CAM is not on add2
    assert ticks(axes) == ["CAM", "DGL (both branches)"]
    (frame,) = axes.patches
    assert (int(frame.get_x()), int(frame.get_y())) == (1, 1)
    assert len(charts.heat({"a": cells, "b": cells}, label="IoU").axes) == 4  # two panels, two colour bars


def test_a_saved_figure_is_the_same_bytes_each_time(tmp_path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        style.save(charts.forest(table()), tmp_path / folder, "figure")
    for kind, own in (("png", b"IHDR"), ("svg", b"<svg")):
        first, second = ((tmp_path / folder / f"figure.{kind}").read_bytes() for folder in ("a", "b"))
        assert first == second and own in first and b"Software" not in first


def test_this_run_among_published_trainings() -> None:
    rows = [("C8", "sum", "points", 2.0, [1, 2, 3], 2.5), ("C8", "norm", "points", 1.1, [1.0, 1.2], 2.6)]
    rows += [("C1", "", "logits", 5.5, [5, 6], 5)]
    table = pd.DataFrame(rows, columns=["claim", "detail", "unit", "mean", "trainings", "this_run"])
    table = table.assign(effect="x", low=table["mean"] - 1, high=table["mean"] + 1)
    figure = charts.among(table, margin={"points": 0.5}, title="2 of 3 inside")
    points, logits = figure.axes
    assert ticks(points) == ["C8, sum, x", "C8, norm, x"] and ticks(logits) == ["C1, x"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["points", "logits"]
    published = [line.get_xdata().tolist() for line in points.lines if line.get_marker() == "."]
    assert published == [[1, 2, 3], [1.0, 1.2]]
    assert [x for x, _ in dots(points)] == [2.0, 2.5, 1.1, 2.6]  # each mean, then this run in its circle
    assert {"this run", "published trainings"} <= {*legend(figure)}
    plt.close(figure)


# ------------------------------------------------------------------------------------ the idea, and the explorer


def test_the_idea_is_one_image_four_piles_and_a_map() -> None:
    S, G_c, G_J = torch.randn(3, 1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    (axes,) = [ax for ax in idea(record(), S, G_c, G_J).axes if not ax.images]
    insets = axes.child_axes
    assert np.array_equal(shown(insets[0]), record().image)
    assert [shown(ax).shape for ax in insets[1:-1]] == [(5, 5)] * 13  # three channels of S, G_c, G_J and A; the map
    M = (G_c * (n(S) - n(G_J))).sum(1)[0]
    assert np.allclose(shown(insets[-2]), M)
    image, over = (drawn.get_array() for drawn in insets[-1].images)  # the map over the image
    assert np.array_equal(image, record().image) and np.allclose(over, M)
    most = int((G_c * (n(S) - n(G_J)))[0].sum((1, 2)).argmax())
    assert np.allclose(shown(insets[3]), S[0, most])  # on top of the pile


LAYERS = ["Mixed_6e", "add1"]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = spg_plain(3, width=1 / 16).eval()
    model.classes = ("a_b", "c", "d")
    return model


@pytest.mark.parametrize("alpha", [1.0, 10.0])
@pytest.mark.parametrize("sure", [1.0, 1e4])  # a float32 that rounds 1 - p_c to 0 must not turn G_J
def test_the_explorer_has_localizes_maps(network, alpha: float, sure: float) -> None:
    x = preprocess(network, [record().image], 64)
    weight = network.fc.weight.detach().clone()
    with torch.no_grad():
        network.fc.weight.mul_(sure)
    found = gradients(network, x.expand(3, -1, -1, -1), [0, 1, 2], LAYERS, rule="autograd")
    rule = "released" if alpha > 1 else "autograd"  # the released rule at alpha 1 cancels in float32
    for c in range(3):
        maps = {layer: every_map(found, c, layer, alpha, 1.0) for layer in LAYERS}
        right = localize(network, x, [c], LAYERS, list(maps["add1"]), alpha=alpha, rule=rule).maps
        for method, layer in ((method, layer) for method in right for layer in LAYERS):
            m, M = maps[layer][method], right[method][layer][0]
            assert torch.allclose(m, M, rtol=1e-3, atol=1e-4 * float(M.abs().max())), (method, layer, c)
    with torch.no_grad():
        network.fc.weight.copy_(weight)


def test_at_step_0_the_explorers_enhanced_map_is_the_features(network) -> None:
    x = preprocess(network, [record().image], 64)
    found = gradients(network, x.expand(3, -1, -1, -1), [0, 1, 2], ["add1"], rule="autograd")
    at_0 = every_map(found, 0, "add1", 10.0, 0.0)["enhanced_map"]
    assert torch.allclose(at_0, features(n(found["add1"].S[:1]))[0])


def test_a_picture_of_the_explorer_by_hand() -> None:
    m = torch.zeros(4, 4)
    m[1:3, 1:3] = 1.0  # the object, four cells of 8 x 8 pixels
    panels, score, boxes = picture(record(), m, 0.5, pixels=True)
    assert panels.shape == (32, 96, 3) and boxes == 1
    assert score == pytest.approx(1, abs=0.1)  # resizing rounds the corners
    hidden = picture(record(), m, 0.5, pixels=False)[0]
    assert np.ptp(hidden[:8, :32]) == 0  # no pixel of the photograph
    assert np.array_equal(hidden[:8:2, 64:72:2], hidden[1:8:2, 65:72:2])  # and no map finer than the cells


def test_every_control_of_the_explorer_moves_its_picture(network) -> None:
    panel = explorer(network, [record(), replace(record(40), label=2)], ["add1", "Mixed_6e"], size=64)
    controls, shown, said = panel.children
    values = {"image": 1, "class": 0, "layer": "Mixed_6e", "alpha": 1.0, "method": "enhanced_map", "step t": 0.5}
    for control in controls.children:
        before = bytes(shown.value), said.value
        control.value = {**values, "threshold": 0.2}[control.description]
        assert (bytes(shown.value), said.value) != before, control.description
    assert "a b: p_c" in said.value and "0.20" in said.value
