"""The tables behind notebook 01's figures, and that what its figures say is what they were given."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

matplotlib.use("Agg")

from dgl_lib.data import Creatures, Record
from dgl_lib.models import SPG_PLAIN_LAYERS, spg_plain
from dgl_lib.plots import style
from dgl_lib.plots import training as plots


@pytest.fixture(autouse=True)
def studys_style():
    with matplotlib.rc_context():
        style.use_style()
        yield


def record(*, part: bool = True) -> Record:
    """16 x 16 pixels: object in the left half, its telling part in the upper left quarter, ignored bottom rows."""
    mask, telling, ignore = (np.zeros((16, 16), bool) for _ in range(3))
    mask[:, :8] = telling[:8, :8] = ignore[12:] = True
    image = np.zeros((16, 16, 3), np.uint8)
    return Record("one", image, 0, np.zeros((0, 4), np.int32), mask, ignore, telling if part else None)


@pytest.mark.parametrize(
    ("cell", "part", "region"),
    [
        ((0, 0), True, "telling part"),
        ((2, 0), True, "rest of the object"),
        ((0, 0), False, "object"),
        ((1, 3), True, "background"),
        ((3, 0), True, "not scored"),
    ],
)
def test_peak_region(cell: tuple[int, int], part: bool, region: str):
    m = torch.full((4, 4), -5.0)
    m[cell] = -1.0  # a peak is the highest value, whatever its sign
    assert plots.peak_region(m, record(part=part)) == region
    assert region in plots.PEAK_REGIONS


def test_confusion_rows_are_true_classes():
    counts = plots.confusion_counts(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 0]), ("ant", "big_bee", "cow"))
    assert counts.to_numpy().tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 0]]
    assert counts.loc["cow", "ant"] == 2
    assert plots.most_confused(counts) == "Most frequent mistake: cow taken for ant, 2 of 2"


def test_no_mistake_is_said():
    assert plots.most_confused(plots.confusion_counts(np.arange(3), np.arange(3), ["a", "b", "c"])) == (
        "No image is taken for another class"
    )


def test_walk_gives_the_layer_table():
    shapes = plots.walk(spg_plain(3, width=1 / 16), 64).set_index("stage")
    for layer in SPG_PLAIN_LAYERS:
        assert shapes.stride[layer.name] == layer.stride
        assert shapes.channels[layer.name] == layer.channels / 16
        assert shapes.height[layer.name] == shapes.width[layer.name] == 8
    assert shapes.parameters["maxpool1"] == 0
    assert shapes.parameters["add1"] == 64 * 64 * 9 + 64


def test_images_per_class_counts_every_image():
    train, val = Creatures("train", 12), Creatures("val", 9)
    table = plots.images_per_class({"train": train, "val": val})
    assert table.train.tolist() == [2, 2, 2, 2, 1, 1, 1, 1] and table.val.tolist() == [2, 1, 1, 1, 1, 1, 1, 1]
    assert table["first image"].tolist() == train.names[:8]


def test_curves_tell_the_kept_epoch():
    history = pd.DataFrame(
        {
            "epoch": [1, 2],
            "learning_rate": [1e-3, 1e-9],
            "train_loss": [2.0, 1.0],
            "val_loss": [1.9, 1.2],
            "train_accuracy": [0.2, 0.6],
            "val_accuracy": [0.3, 0.625],
        }
    )
    loss, accuracy, _ = plots.curves(history, 8, 2).axes
    assert "2.00 to 1.00" in loss.get_title("left")
    assert accuracy.get_title("left") == "Epoch 2 validates best: 62.5 %"


def test_right_and_wrong_follow_their_rule():
    data = Creatures("val", 8)
    p = np.full((8, 8), 0.01)
    p[range(8), range(8)] = [0.5, 0.9, 0.6, 0.93, 0.5, 0.5, 0.5, 0.5]
    p[4:6] = np.roll(p[4:6], 1, axis=1)  # images 4 and 5 are taken for the next class
    figure = plots.right_and_wrong(data, p, True, count=3)
    titles = [axes.get_title("center") for axes in figure.axes]
    names = [plots.readable(name) for name in data.classes]
    assert [t.split("\n")[0] for t in titles] == [names[3], names[1], names[2], f"{names[5]}?", f"{names[6]}?", ""]
    assert figure.get_suptitle().startswith("6 of 8 right")


def test_few_of_many_classes_are_shown():
    data = Creatures("val", 24)
    chosen = plots.first_of_each(data, 2, classes=3)
    assert chosen.names == [data.names[i] for i in (0, 1, 2, 8, 9, 10)]
    assert plots.first_of_each(data, 2).names == data.names[:16]  # all eight classes


def test_a_figure_of_many_classes_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plots.first_of_each, "__defaults__", (3,))
    figure = plots.first_images(Creatures("val", 24), True)
    assert len(figure.axes) == 6 and figure.get_suptitle().startswith("8 classes")


def test_a_large_confusion_matrix_shows_where_the_mistakes_are():
    counts = plots.confusion_counts(np.array([0, 1, 1, 2, 3, 4]), np.array([0, 3, 3, 2, 3, 1]), list("abcde"))
    assert list(plots.confused_most(counts, 2).columns) == ["b", "d"]  # three mistakes, and two
    assert plots.confused_most(counts, 2).to_numpy().tolist() == [[0, 2], [0, 1]]
    assert plots.confused_most(counts).equals(counts)
    labels = np.arange(300)
    figure = plots.confusion(plots.confusion_counts(labels, np.roll(labels, 1), [f"class {c}" for c in labels]))
    assert len(figure.axes[0].get_xticks()) == plots.CONFUSED


def test_photographs_stay_hidden_unless_asked_for():
    data = Creatures("val", 8)
    for pixels in (True, False):
        images = [axes.images[0].get_array() for axes in plots.first_images(data, pixels).axes[:8:2]]
        assert all((np.ptp(image) > 0) == pixels for image in images)


def test_first_cams_count_the_peaks():
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 0] = maps[1, 1, 3] = 1
    figure = plots.first_cams([record(), record()], maps, ("one",), True)
    assert figure.get_suptitle() == "CAM peaks on the object in 1 of 2 images, on its telling part in 1"
    figure = plots.first_cams([record(part=False)] * 2, maps, ("one",), True)
    assert figure.get_suptitle() == "CAM peaks on the object in 1 of 2 images"
