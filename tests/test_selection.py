"""Validation chooses; test only reports."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dgl_lib.errors import UserError
from dgl_lib.evaluate.select import select

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
