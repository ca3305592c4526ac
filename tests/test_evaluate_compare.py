"""Validation chooses and test only reports; paired differences and DGL's two terms, on scores written down by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sets import Toy

from dgl_lib import evaluate, metrics
from dgl_lib.errors import UserError
from dgl_lib.evaluate import BASELINES, Maps, Scores, choose_layers, column, gains, image_table, select
from dgl_lib.evaluate.compare import gradient_share, log_p_c
from dgl_lib.localize import CONTROLS, METHODS, localize
from dgl_lib.metrics import Interval
from dgl_lib.models import preprocess, spg_plain

LAYERS, IMAGES, CLASSES = ("Mixed_6e", "add1"), 30, ("cat", "dog", "owl")
TABLE = pd.DataFrame(
    {
        "method": ["dgl", "cam", "dgl", "dgl", "cam"],
        "layer": ["b", "x", "a", "c", "y"],
        "val_iou": [50.0, 40.0, 60.0, 60.0, 30.0],
        "iou": [48.0, 41.0, 52.0, 59.0, 45.0],
        "test_peak": [49.0, 42.0, 53.0, 61.0, 46.0],
    },
    index=[7, 7, 3, 1, 0],
)


# --------------------------------------------------------------------------------------------- choosing on validation


def test_validation_decides_and_test_is_told_beside() -> None:
    chosen = select(TABLE)
    assert chosen[["method", "layer", "iou", "test_peak"]].to_numpy().tolist() == [
        ["dgl", "a", 52.0, 53.0],  # "c" ties on validation and is better on test: the first stays
        ["cam", "x", 41.0, 42.0],
    ]
    assert chosen["test_best"].tolist() == [61.0, 46.0] and chosen["candidates"].tolist() == [3, 2]


def test_no_test_score_can_change_the_choice() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        other = TABLE.assign(iou=draw.permutation(TABLE["iou"]), test_peak=draw.permutation(TABLE["test_peak"]))
        assert select(other)["layer"].tolist() == select(TABLE)["layer"].tolist()


def test_other_groups_and_columns() -> None:
    table = TABLE.rename(columns={"val_iou": "val_box", "test_peak": "box_peak"})
    assert len(select(table, by=["method", "layer"], val="val_box", peak="box_peak")) == 5
    with pytest.raises(UserError, match=r"columns val_iou, test_peak missing, given are method"):
        select(table)


def test_what_selection_refuses() -> None:
    with pytest.raises(UserError, match="no candidate"):
        select(TABLE.iloc[:0])
    with pytest.raises(UserError, match="val_iou: 1 of 5 values are no numbers"):
        select(TABLE.assign(val_iou=[1, 2, np.nan, 3, 4]))


# --------------------------------------------------------------------------------------------- paired differences


def compared(found: dict[tuple[str, str], int], layer: str = "Mixed_6e", images: int = IMAGES) -> tuple:
    """The chosen layers and DGL's gains where a row finds ``found`` (IoU in percent), or 20 where it is not named.

    The object is 100 of 1000 pixels, and no row finds anything beside it.
    """
    pairs = [(m, layer) for m in (*METHODS, *CONTROLS) for layer in LAYERS if m != "cam" or layer == "add1"]
    pairs += [(name, "") for name in BASELINES]
    hist = np.zeros((len(pairs), images, 4, 256), np.int32)
    hist[:, :, metrics.BACKGROUND, 0] = 900
    for row, pair in enumerate(pairs):
        n = found.get(pair, 20)
        hist[row, :, metrics.REST, 200], hist[row, :, metrics.REST, 0] = n, 100 - n
    rows = pd.DataFrame(pairs, columns=["method", "layer"]).assign(scales="1", kernel=0.0)
    names, labels = [f"image-{i}" for i in range(images)], np.arange(images) % len(CLASSES)
    scores = Scores(rows, hist, names, labels, np.zeros(images, bool))
    by_image = image_table(scores, scores, CLASSES)
    chosen = choose_layers(evaluate.report(scores, scores), by_image)
    return chosen, gains(chosen, by_image, layer), by_image


def test_a_perfect_dgl_gains_everywhere() -> None:
    chosen, table, by_image = compared({("dgl", "Mixed_6e"): 100, ("dgl", "add1"): 60, ("cam", "add1"): 60})
    assert chosen.iloc[0][["kind", "method", "layer"]].tolist() == ["method", "dgl", "Mixed_6e"]
    level = len(METHODS) + len(CONTROLS) + len(BASELINES) - 2
    assert chosen["over_verdict"].value_counts().to_dict() == {"level": level, "gains": 2}
    assert set(table["verdict"]) == {"gains"}
    [cam] = table[table["method"] == "cam"].to_dict("records")  # once: on Mixed_6e there is none
    expected = ("own", "add1", 40, 40, 40, 30)
    assert tuple(cam[name] for name in ("at", "layer", "mean", "low", "high", "images")) == expected
    assert by_image["dgl Mixed_6e"].tolist() == [100] * IMAGES and by_image["area"].tolist() == [10] * IMAGES
    assert by_image["class"][:4].tolist() == ["cat", "dog", "owl", "cat"]


def test_a_dgl_that_loses() -> None:
    chosen, table, _ = compared({("cam", "add1"): 70, ("features", "add1"): 80, ("whole_image", ""): 30})
    assert chosen["kind"][:3].tolist() == ["control", "method", "baseline"]
    over = chosen.set_index("method")["over"]
    assert (over["cam"], over["dgl"], over["whole_image"]) == (40, -10, 0)  # over the better baseline, of 20 and 30
    own = table[table["at"] == "own"].set_index("method")
    assert own["mean"][["cam", "features"]].tolist() == [-50, -60] and own["verdict"]["cam"] == "loses"


def test_level_and_too_few_images() -> None:
    assert set(compared({})[1]["verdict"]) == {"level"}
    assert set(compared({("dgl", "add1"): 100}, images=9)[1]["verdict"]) == {"undecided"}


def test_both_layers_of_dgl_are_compared() -> None:
    """Best on add1, asked for on Mixed_6e: each against the others' own layer and against the same."""
    found = {("dgl", "add1"): 90, ("dgl", "Mixed_6e"): 50, ("sgl_g1", "Mixed_6e"): 70, ("sgl_g1", "add1"): 40}
    table = compared(found)[1]
    lines = table[table["method"] == "sgl_g1"]
    assert [tuple(line) for line in lines[["dgl_layer", "at", "layer", "mean"]].to_numpy()] == [
        ("add1", "own", "Mixed_6e", 20),
        ("add1", "same", "add1", 50),
        ("Mixed_6e", "own", "Mixed_6e", -20),
        ("Mixed_6e", "same", "Mixed_6e", -20),
    ]


@pytest.mark.parametrize(
    ("low", "high", "n", "word"),
    [
        *((0.51, 3, 10, "gains"), (0.5, 3, 10, "undecided"), (-3, -0.51, 10, "loses"), (-3, -0.5, 10, "undecided")),
        *((-0.5, 0.5, 10, "level"), (-0.5, 0.6, 10, "undecided"), (0, 0, 9, "undecided"), (2, 3, 9, "undecided")),
    ],
)
def test_the_verdict_is_the_intervals(low: float, high: float, n: int, word: str) -> None:
    assert Interval((low + high) / 2, low, high, n).verdict() == word


def test_the_border_is_no_part_of_the_area() -> None:
    hist = np.zeros((1, 1, 4, 256), np.int32)
    hist[0, 0, :, 5] = [60, 15, 5, 20]  # ground, rest, part, border
    rows = pd.DataFrame([{"method": "dgl", "layer": "add1"}])
    scores = Scores(rows, hist, ["a"], np.zeros(1, int), np.ones(1, bool))
    assert image_table(scores, scores, CLASSES)["area"].tolist() == [25]
    assert column({"method": "whole_image", "layer": ""}) == "whole_image"


# ------------------------------------------------------------------------------------------------- confidence, terms


def test_p_c_keeps_its_order_where_it_is_one() -> None:
    maps = Maps({}, np.array([[60, 0], [80, 0], [0, 1]], np.float32), np.zeros(3, np.int64))
    confidence = log_p_c(maps, np.zeros(3, np.int64))
    np.testing.assert_allclose(np.exp(confidence), [1, 1, 1 / (1 + np.e)])
    assert confidence[2] < confidence[0] <= confidence[1]


def test_dgl_without_the_gradient_term_is_pixel_selection() -> None:
    """DGL - (-sum G_c n(G_J)) = sum G_c n(S) = pixel selection / ||S||, one positive factor an image."""
    torch.manual_seed(0)
    model = spg_plain(3, width=1 / 16).eval()
    images = preprocess(model, [Toy("test", 3).image(i) for i in range(3)], 32)
    names = ["dgl", "pixel_selection", "gradient_term"]
    maps = localize(model.double(), images.double(), [0, 1, 2], ["Mixed_6b"], names).maps
    both, selected, term = (maps[name]["Mixed_6b"].numpy() for name in names)
    ratio = (both - term) / selected
    assert (ratio > 0).all()
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-6)
    np.testing.assert_allclose(gradient_share(both, term) + gradient_share(both, both - term), 1)


def test_the_share_of_a_term() -> None:
    x, y = np.array([[1.0, -1, 0, 0]]).reshape(1, 2, 2), np.array([[0, 0, 1.0, -1]]).reshape(1, 2, 2)
    assert gradient_share(x + y, y) == 0.5 and gradient_share(x + 3 * y, 3 * y) == 0.9
    assert gradient_share(x + y + 3, y + 1) == 0.5 and gradient_share(x + 5, 0 * x + 7) == 0  # min-max removes these
    assert gradient_share(x, -x) == -1 and np.isnan(gradient_share(0 * x, x)).all()
