"""Scores of single images: what is found of the telling part and of the rest, on histograms written down by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dgl_lib.data import Record
from dgl_lib.evaluate import Maps, Scores, better_baseline, per_image, recalls, score, with_parts
from dgl_lib.evaluate.scores import MEASURES

SIDE = 32
DGL = {"method": "dgl", "layer": "add1"}


def handmade(*has_part: bool) -> Scores:
    """DGL on add1 of two images: from threshold 100 on, 10 of the part are found, 30 of the rest, and 20 outside."""
    hist = np.zeros((1, 2, 4, 256), np.int32)
    hist[..., 0, 0], hist[..., 0, 100] = 80, 20  # background
    hist[..., 1, 0], hist[..., 1, 100] = 10, 30  # rest
    hist[..., 2, 0], hist[..., 2, 100] = 10, 10  # part
    return Scores(pd.DataFrame([DGL]), hist, ["a", "b"], np.arange(2), np.array(has_part or (True, True)))


def test_scores_of_an_image() -> None:
    scores = handmade()
    assert {measure: per_image(scores, scores, DGL, measure).tolist() for measure in MEASURES} == {
        "iou": [50.0, 50.0],  # 40 / (60 + 20)
        "miou": [pytest.approx(100 * (40 / 80 + 80 / 120) / 2)]
        * 2,  # of 120 that are no object or not found, 80 are right
        "recall_rest": [75.0, 75.0],
        "recall_part": [50.0, 50.0],
        "precision": [pytest.approx(100 * 40 / 60)] * 2,
    }


def test_the_threshold_is_the_validation_parts_own() -> None:
    val, test = handmade(), handmade()
    val.hist[:, :, 0, 100] = 2000  # there, everything found at 100 is worth no more than ..
    val.hist[:, :, 2, 200] = 40  # .. this alone
    assert per_image(val, test, DGL, "iou").tolist() == [0.0, 0.0]


def test_parts_come_from_test_unless_too_few_are_known() -> None:
    val, test = handmade(True, True), handmade(False, True)
    images, where = with_parts(val, test, at_least=1)
    assert (images.names, np.shape(images.hist)[1], where) == (["b"], 1, "test")
    images, where = with_parts(val, test, at_least=2)
    assert (images.names, where) == (["a", "b"], "validation")
    nowhere = handmade(False, False)
    images, _ = with_parts(nowhere, nowhere)
    assert (images.names, np.shape(images.hist), len(images.labels)) == ([], (1, 0, 4, 256), 0)


class Squares:
    """Images of one square each, whose left half is the telling part."""

    name, split, classes, digest = "squares", "test", ("one", "other"), ""

    def __init__(self, count: int):
        self.names, self.labels = [f"image {i}" for i in range(count)], np.arange(count) % 2

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)

    def __getitem__(self, index: int) -> Record:
        mask, part = np.zeros((2, SIDE, SIDE), bool)
        mask[8:24, 8:24] = part[8:24, 8:16] = True
        boxes = np.array([[8, 8, 23, 23]], np.int32)
        return Record(self.names[index], self.image(index), index % 2, boxes, mask, None, part)


def scored(count: int) -> Scores:
    """Maps in cells of 8 px: pixel selection finds the part, DGL the square."""
    part, square = np.zeros((2, count, 4, 4), np.float32)
    part[:, 1:3, 1], square[:, 1:3, 1:3] = 1, 1
    dataset = Squares(count)
    maps = {("pixel_selection", "add1"): part, ("dgl", "add1"): square}
    return score(dataset, {1.0: Maps(maps, np.zeros((count, 2)), dataset.labels)})


def test_what_is_found_of_a_square() -> None:
    val, test = scored(8), scored(6)
    table = recalls(val, test, test.rows.to_dict("records"))
    found = table.set_index(["method", "layer", "measure"])["mean"]
    assert found["dgl", "add1", "recall_part"] > 90
    assert found["pixel_selection", "add1", "recall_rest"] < found["pixel_selection", "add1", "recall_part"]
    assert found["whole_image", "", "recall_rest"] == 100
    assert found["whole_image", "", "precision"] == 25
    assert (table["images"] == 6).all()
    assert better_baseline(val) == "centred_gaussian"  # the square is in the middle
