"""The page of scores: its tables, its sentences and the whole of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sets import Bordered, random_maps

from dgl_lib import metrics, paths, scores, study
from dgl_lib.evaluate.mistakes import MISTAKES


def test_pooled_iou_is_that_of_the_summed_histograms() -> None:
    hist = np.random.default_rng(0).integers(0, 9, size=(5, 4, 256))
    for t in (0, 7, 255):
        got = scores._pooled_iou(metrics.at_least(hist)[..., [0, t]].sum(0))
        assert got == pytest.approx(100 * metrics.iou(hist.sum(0))[t])


def boxes_made_up(best: dict[str, str], over: str) -> pd.DataFrame:
    lines = []
    for score in scores.SCORES:
        for method, layer, kind in (
            ("dgl", "add1", "method"),
            ("cam", "add1", "method"),
            ("whole_image", "", "baseline"),
        ):
            value = 60.0 if best.get(score, "dgl") == method else 40.0
            cells = {"val": value, "test": value, "low": value - 5, "high": value + 5, "test_peak": value + 2}
            which = {"score": score, "kind": kind, "method": method, "layer": layer}
            lines.append({**which, **cells, "over_verdict": over})
    return pd.DataFrame(lines)


def test_sentences_follow_the_table() -> None:
    one = "\n".join(scores._found_boxes(boxes_made_up({}, "gains"), 8))
    assert one.startswith(
        "**One method is best by every score.** Chosen on validation, by mask IoU it is DGL on add1, "
    )
    assert "2 by mask IoU, 2 by MaxBoxAccV2, 2 by PxAP" in one and "1.00 for MaxBoxAccV2" in one
    assert "62 % of the time, so Top-5 adds little to GT-known." in one
    assert "lies 2.0 to 2.0 points above" in one
    other = "\n".join(scores._found_boxes(boxes_made_up({"MaxBoxAccV2": "cam"}, "level"), 200))
    assert other.startswith("**Which method is best depends on the score.**")
    assert "by MaxBoxAccV2 it is CAM on add1, 60.0 % [55.0, 65.0]" in other and "0 by mask IoU" in other
    assert "-1.00 for MaxBoxAccV2" in other and "2 % of the time, so Top-5 is a test of the classifier too." in other


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"val": Bordered("val", 3), "test": Bordered("test", 4)}
    maps = {"val": random_maps(3, 1), "test": random_maps(4, 2)}
    monkeypatch.setattr(study, "every_map", lambda parameters, split, progress: maps[split])
    monkeypatch.setattr(
        study,
        "maps_of_scales",
        lambda parameters, split, progress: {1.0: maps[split], 2.0: random_maps(len(data[split]), 5)},
    )
    monkeypatch.setattr(study, "part", lambda parameters, split: data[split])
    monkeypatch.setattr(paths, "runs_folder", lambda: tmp_path / "runs")
    parameters = {"profile": "toy", "layer": "Mixed_6e", "image_size": 24, "scales": [1.0, 2.0], "kernels": [0.0, 0.1]}
    folder = tmp_path / "page"
    folder.mkdir()
    scores.make(parameters, folder)

    text = (folder / "README.md").read_text()
    figures, tables = ({path.stem for path in folder.glob(f"*.{end}")} for end in ("png", "csv"))
    assert figures == {"boxes", "curves", "normalisation", "mistakes"}
    assert tables == {"boxes", "iou_sizes", "curves", "bands", "normalisation", "percentiles", "mistakes"}
    assert all(f"({name}.png)" in text for name in figures) and all(f"({name}.csv)" in text for name in tables)
    assert (folder / "findings.md").read_text().strip() in text and "nan" not in text.lower()

    boxes_csv = pd.read_csv(folder / "boxes.csv", keep_default_na=False)
    assert len(boxes_csv) == 14 * len(scores.SCORES)
    assert (boxes_csv["test_peak"] >= boxes_csv["test"] - 1e-9).all()
    whole = boxes_csv[boxes_csv["method"] == "whole_image"].set_index("score")
    assert whole["test"]["MaxBoxAcc"] == whole["test"]["GT-known"] >= whole["test"]["Top-1"]
    normalisation = pd.read_csv(folder / "normalisation.csv")
    assert len(normalisation) == 14 * 4 and set(normalisation["candidates"].dropna()) == {1, 5}
    assert (normalisation.loc[normalisation["normalisation"] == "minmax", "change"].dropna() == 0).all()
    found = pd.read_csv(folder / "mistakes.csv")
    assert set(found["mistake"]) == set(MISTAKES)
    bands = pd.read_csv(folder / "bands.csv")
    assert bands.loc[bands["split"] == "val", "inside"].all()  # the peak on validation is usable there
