"""Normalisations: min-max is the study's own order, and the others differ from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sets import Bordered, random_maps

from dgl_lib import evaluate, metrics
from dgl_lib.evaluate.normalisation import WAYS, normalisations, normalised, sweep

PAIRS = [("dgl", "add1"), ("cam", "add1")]


def test_minmax_is_the_studys_own_order(tmp_path: Path) -> None:
    data, maps, pair = Bordered("test", 3), random_maps(3), PAIRS[0]
    curves = normalised(data, maps, [pair], tmp_path)[pair]
    assert curves.shape == (len(WAYS), 3, 256)
    study_s = metrics.iou(evaluate.score(data, {1.0: maps.only([pair])}).find(method="dgl"))
    np.testing.assert_allclose(curves[0], study_s, atol=0.01)  # a pixel at the edge of two levels may round over
    assert all(np.abs(curves[k] - study_s).max() > 0.05 for k in range(1, len(WAYS)))


def test_places_and_changes(tmp_path: Path) -> None:
    val, test = (
        normalised(Bordered(split, 4), random_maps(4, seed), PAIRS, tmp_path)
        for split, seed in (("val", 1), ("test", 2))
    )
    swept = sweep(val, test, PAIRS)
    assert len(swept) == 2 * len(WAYS) and (swept["iou"] <= swept["test_peak"] + 1e-4).all()
    trivial = {"kind": "baseline", "method": "whole_image", "layer": "", "threshold": 0}
    trivial |= dict.fromkeys(["val_iou", "iou", "low", "high", "test_peak"], 30.0)
    chosen = pd.DataFrame([{"kind": "method", "method": method, "layer": "add1"} for method, _ in PAIRS] + [trivial])
    table = normalisations(swept, test, chosen)
    assert len(table) == 3 * 4 and set(table["candidates"].dropna()) == {1, 5}  # of ivr, validation takes one of five
    assert (table.loc[table["normalisation"] == "minmax", "change"].dropna() == 0).all()
    ivr = swept[(swept["method"] == "dgl") & (swept["normalisation"] == "ivr")]
    own = table[(table["method"] == "dgl") & (table["normalisation"] == "ivr")].iloc[0]
    assert own["val_iou"] == ivr["val_iou"].max() and own["test_best"] == ivr["test_peak"].max()
    for _, rows in table[table["kind"] == "method"].groupby("normalisation"):
        best = rows.loc[rows["rank"] == 1, "iou"]
        assert best.max().round(1) == rows["iou"].max().round(1)
    assert table.loc[table["kind"] == "baseline", "iou"].tolist() == [30.0] * 4


def test_methods_that_tie_share_a_place(tmp_path: Path) -> None:
    """Two with the same maps, and one that is worse than they are: 1, 1, 3."""
    maps, data = random_maps(4), Bordered("test", 4)
    maps.maps["cam", "add1"] = maps.maps["dgl", "add1"]
    maps.maps["layer_cam", "add1"] = np.zeros_like(maps.maps["dgl", "add1"])
    pairs = [*PAIRS, ("layer_cam", "add1")]
    curves = normalised(data, maps, pairs, tmp_path)
    curves[pairs[2]] = curves[pairs[2]] / 2
    chosen = pd.DataFrame([{"kind": "method", "method": method, "layer": layer} for method, layer in pairs])
    table = normalisations(sweep(curves, curves, pairs), curves, chosen)
    assert table.pivot_table("rank", "method", "normalisation").to_numpy().tolist() == [[1] * 4, [1] * 4, [3] * 4]
