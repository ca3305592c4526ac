"""Notebook 03's comparisons, on histograms written down by hand, and its figures, on numbers that fit them."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dgl_lib.data.records import Record
from dgl_lib.errors import UserError
from dgl_lib.evaluate.scores import Maps, Scores, report, score
from dgl_lib.plots import layers as plots

LAYERS = ["Mixed_5b", "Mixed_6e", "add1"]
METHODS = ["pixel_selection", "enhanced_map", "dgl"]
SIDE = 32


@dataclass
class Squares:
    """Images of a square each: its left half is the telling part. The last ``unknown`` images' parts are not known."""

    count: int
    unknown: int = 0
    name: str = "squares"
    split: str = "test"
    classes: tuple[str, ...] = ("one", "other")
    digest: str = ""

    @property
    def names(self) -> list[str]:
        return [f"{self.split}-{i}" for i in range(self.count)]

    @property
    def labels(self) -> np.ndarray:
        return np.arange(self.count) % 2

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)

    def __getitem__(self, index: int) -> Record:
        mask, part = np.zeros((2, SIDE, SIDE), bool)
        mask[8:24, 8:24] = part[8:24, 8:16] = True
        known = index < self.count - self.unknown
        boxes = np.array([[8, 8, 23, 23]], np.int32)
        return Record(self.names[index], self.image(index), index % 2, boxes, mask, None, part if known else None)


def drawn(dataset: Squares) -> Maps:
    """Maps in cells of 8 px: pixel selection finds the part, DGL the square, the others noise; on add1 all are one."""
    rng = np.random.default_rng(len(dataset))
    part, square, one = np.zeros((3, len(dataset), 4, 4), np.float32)
    part[:, 1:3, 1], square[:, 1:3, 1:3] = 1, 1
    one[:] = rng.random(one.shape)
    maps = {(method, layer): rng.random(one.shape).astype(np.float32) for method in METHODS for layer in LAYERS}
    maps |= {("features", layer): rng.random(one.shape).astype(np.float32) for layer in LAYERS}
    maps |= {("pixel_selection", layer): part for layer in LAYERS} | {("dgl", layer): square for layer in LAYERS}
    maps |= {(method, "add1"): scale * one + 1 for scale, method in enumerate(["cam", *METHODS], 1)}
    return Maps(maps, np.zeros((len(dataset), 2)), dataset.labels)


@pytest.fixture(scope="module")
def scored() -> tuple[Scores, Scores]:
    val, test = Squares(8, split="val"), Squares(6)
    return score(val, {1.0: drawn(val)}), score(test, {1.0: drawn(test)})


def handmade(*rows: tuple[str, str], has_part: tuple[bool, ...] = (True, True)) -> Scores:
    """Two images; every row the same histogram: threshold 100 finds 10 of the part, 30 of the rest, and 20 outside."""
    hist = np.zeros((len(rows), 2, 4, 256), np.int32)
    hist[..., 0, 0], hist[..., 0, 100] = 80, 20  # background
    hist[..., 1, 0], hist[..., 1, 100] = 10, 30  # rest
    hist[..., 2, 0], hist[..., 2, 100] = 10, 10  # part
    return Scores(pd.DataFrame(rows, columns=["method", "layer"]), hist, ["a", "b"], np.arange(2), np.array(has_part))


def test_scores_of_an_image() -> None:
    scores = handmade(("dgl", "add1"))
    row = {"method": "dgl", "layer": "add1"}
    values = {measure: plots.per_image(scores, scores, row, measure).tolist() for measure in plots.MEASURES}
    assert values == {
        "iou": [50.0, 50.0],  # 40 / (60 + 20)
        "recall_rest": [75.0, 75.0],
        "recall_part": [50.0, 50.0],
        "precision": [pytest.approx(100 * 40 / 60)] * 2,
    }


def test_the_threshold_is_the_validation_parts_own() -> None:
    val, test = handmade(("dgl", "add1")), handmade(("dgl", "add1"))
    val.hist[:, :, 0, 100] = 2000  # there, everything found at 100 is worth no more than ..
    val.hist[:, :, 2, 200] = 40  # .. this alone
    assert plots.per_image(val, test, {"method": "dgl", "layer": "add1"}, "iou").tolist() == [0.0, 0.0]


def test_parts_come_from_test_unless_too_few_are_known() -> None:
    rows = [("dgl", "add1")]
    val, test = handmade(*rows, has_part=(True, True)), handmade(*rows, has_part=(False, True))
    images, where = plots.with_parts(val, test, at_least=1)
    assert (images.names, images.hist.shape[1], where) == (["b"], 1, "test")
    images, where = plots.with_parts(val, test, at_least=2)
    assert (images.names, where) == (["a", "b"], "validation")
    nowhere = handmade(*rows, has_part=(False, False))
    images, _ = plots.with_parts(nowhere, nowhere)
    assert (images.names, images.hist.shape, len(images.labels)) == ([], (1, 0, 4, 256), 0)


def test_what_is_found(scored: tuple[Scores, Scores]) -> None:
    table = plots.found(*scored).set_index(["method", "layer", "measure"])["mean"]
    assert table["dgl", "Mixed_6e", "recall_part"] > 90
    assert table["whole_image", "", "recall_rest"] == 100
    assert table["whole_image", "", "precision"] == 25
    assert table["pixel_selection", "Mixed_6e", "recall_rest"] < table["pixel_selection", "Mixed_6e", "recall_part"]


def test_differences_are_paired(scored: tuple[Scores, Scores]) -> None:
    a, b = {"method": "dgl", "layer": "Mixed_6e"}, {"method": "pixel_selection", "layer": "Mixed_6e"}
    there, back = plots.differences(*scored, [(a, b)]), plots.differences(*scored, [(b, a)])
    assert there["mean"].tolist() == pytest.approx((-back["mean"]).tolist())
    assert there.loc[there["measure"] == "recall_rest", "low"].item() > 0
    itself = plots.differences(*scored, [(a, a)])
    assert (itself[["mean", "low", "high"]] == 0).all(axis=None)


def test_gain_over_the_better_baseline(scored: tuple[Scores, Scores]) -> None:
    val, test = scored
    assert plots.better_baseline(val) == "centred_gaussian"  # the square is in the middle
    table, overall = plots.over_baseline(val, test, LAYERS[:2], "dgl")
    assert table["layer"].tolist() == LAYERS[:2]
    assert overall.mean == pytest.approx(table["mean"].mean())
    assert overall.n == 6
    trivial = {"method": "centred_gaussian", "layer": ""}
    by_hand = [
        plots.per_image(val, test, {"method": "dgl", "layer": layer}, "iou")
        - plots.per_image(val, test, trivial, "iou")
        for layer in LAYERS[:2]
    ]
    assert overall.mean == pytest.approx(np.mean(by_hand))


def test_best_layers_are_chosen_on_validation() -> None:
    table = pd.DataFrame(
        {
            "method": ["dgl", "dgl", "cam"],
            "layer": ["Mixed_6e", "add1", "add1"],
            "threshold": 1,
            "val_iou": [50.0, 40.0, 45.0],
            "iou": [30.0, 60.0, 45.0],  # test would choose otherwise
            "low": 0.0,
            "high": 99.0,
        }
    )
    best = plots.best_layers(table)
    assert best[["method", "layer"]].to_numpy().tolist() == [["dgl", "Mixed_6e"], ["cam", "add1"]]


class Network(nn.Module):
    """Two layers; the last feeds a linear head through average pooling, so its gradient is constant in space."""

    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.early = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU())
        self.fc = nn.Linear(5, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.late(self.early(images)).mean((2, 3)))


def test_share_of_the_gradient_that_is_constant() -> None:
    table = plots.constant_share(Network(), Squares(2), [0, 1], ["early", "late"], SIDE)
    share = table.pivot_table(index="image", columns="layer", values="share")
    assert share["late"].tolist() == pytest.approx([1, 1])
    assert (share["early"] < 0.999).all()
    assert (share["early"] > 0).all()


def test_difference_of_maps_that_differ_in_scale_only() -> None:
    maps = drawn(Squares(3))
    assert plots.largest_difference(maps, "cam", "dgl", "add1") < 1e-6
    assert plots.largest_difference(maps, "pixel_selection", "dgl", "Mixed_6e") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ["Mixed_6e"]}, "add1 is needed"),
        ({"layer": "Mixed_5b"}, "Mixed_5b is needed"),
        ({"layer": "conv5_3", "layers": ["conv5_3"]}, "add is needed"),
        ({"methods": ["dgl"]}, "pixel_selection is needed"),
    ],
)
def test_parameters_that_leave_a_claim_without_its_maps(change: dict, message: str) -> None:
    parameters = {"layer": "Mixed_6e", "layers": ["Mixed_6e", "add1"], "methods": METHODS}
    plots.check(parameters)
    with pytest.raises(UserError, match=message):
        plots.check(parameters | change)


def test_figures(scored: tuple[Scores, Scores]) -> None:
    """Every figure can be drawn, says what it found, and is held by nobody: a notebook shows it once."""
    open_before = plt.get_fignums()
    val, test = scored
    dataset, table = Squares(6), report(val, test)
    maps = drawn(dataset)
    rows = [{"method": method, "layer": "Mixed_6e"} for method in METHODS]
    parts, changes = plots.found(val, test), plots.differences(val, test, [(rows[2], rows[0]), (rows[1], rows[2])])
    gains, overall = plots.over_baseline(val, test, LAYERS[:2], "dgl")
    shares = pd.DataFrame({"image": "a", "layer": LAYERS, "share": [0.1, 0.2, 1.0]})
    constant = torch.ones(5, 1, 1) * torch.ones(5, 4, 4)
    last = {name: torch.from_numpy(maps.maps[name, "add1"][:2]) for name in ("cam", "dgl")}
    figures = {
        "6e: 50% of it": plots.weights_and_gradients(
            constant, torch.full((5,), 16.0), torch.stack([constant[:, 0], 0 * constant[:, 0]], 1), "add1", "Mixed_6e"
        ),
        "on the others 10 to 20 %": plots.share_by_layer(shares, LAYERS),
        "One map under 2 names": plots.same_maps(dataset, [0, 1], last, pixels=True),
        "every layer": plots.grid(dataset, [(0, "dgl"), (0, "cam")], maps, LAYERS, "every layer", pixels=False),
        "a threshold of its own": plots.validation_curves(val, "Mixed_6e", METHODS),
        "Best on validation: DGL": plots.iou_by_layer(table, LAYERS, METHODS),
        "of 4 maps": plots.parts(parts, "Mixed_6e", METHODS, "test"),
        "recall of the rest by +": plots.forest(changes, "test"),
        "on 2 of 2 earlier layers": plots.gains(gains, overall, "centred_gaussian"),
    }
    for said, figure in figures.items():
        figure.canvas.draw()
        titles = [figure.get_suptitle(), *(ax.get_title(loc) for ax in figure.axes for loc in ("left", "center"))]
        assert any(said in title for title in titles), (said, titles)
    assert plt.get_fignums() == open_before


def test_photographs_are_not_drawn_unless_asked() -> None:
    dataset = Squares(1)
    maps = drawn(dataset)
    for pixels in (True, False):
        figure = plots.grid(dataset, [(0, "dgl")], maps, LAYERS, "", pixels)
        shown = np.asarray(figure.axes[0].images[0].get_array())
        assert np.array_equal(shown, dataset.image(0)) == pixels
