"""Box scores of data that have boxes and no masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dgl_lib.data.creatures import Creatures
from dgl_lib.evaluate import Maps
from dgl_lib.evaluate.boxes import box_scores, box_table


class NoMasks(Creatures):
    """Creatures as a data set with boxes only."""

    def __getitem__(self, index: int):
        record = super().__getitem__(index)
        return type(record)(record.name, record.image, record.label, record.boxes)


def test_maps_that_are_the_boxes_where_there_are_no_masks(tmp_path: Path) -> None:
    """Maps drawn from the truth localize everything at every IoU. A wrong class takes an image from Top-1 only."""
    part = NoMasks("val", 16)
    maps = np.zeros((16, 56, 56), np.float32)
    for i in range(16):
        x0, y0, x1, y1 = part[i].boxes[0] * 56 // 160
        maps[i, y0 : y1 + 1, x0 : x1 + 1] = 1
    logits = np.eye(8, dtype=np.float32)[part.labels]
    logits[0] = np.roll(logits[0], 1)
    perfect = {1.0: Maps({("dgl", "add1"): maps}, logits, part.labels)}
    rows = [{"method": "dgl", "layer": "add1"}, {"method": "whole_image", "layer": ""}]
    found = box_scores(part, perfect, rows, tmp_path)
    assert all(one.pixels is None for one in found.values())
    table = box_table(pd.DataFrame(rows).assign(kind=["method", "baseline"]), found, found)
    dgl = table[table["method"] == "dgl"].set_index("score")
    assert set(dgl.index) == {"MaxBoxAcc", "GT-known", "Top-1", "Top-5", "MaxBoxAccV2"}
    sure = dgl.loc[["MaxBoxAcc", "GT-known", "Top-5", "MaxBoxAccV2"], ["val", "test", "low", "high", "test_peak"]]
    assert (sure == 100).all(axis=None) and dgl.loc["Top-1", "test"] == 100 * 15 / 16
    assert (table.loc[table["kind"] == "baseline", "test"] < 100).any()
