"""The page of scores: box scores an image at a time, curves, normalisations, mistakes and their sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgl_lib import boxes, evaluation, metrics, paths, scores, study
from dgl_lib.comparison import choose_layers
from dgl_lib.datasets.records import Record
from dgl_lib.evaluation import BASELINES, Maps, Scores, report
from dgl_lib.localize import CONTROLS, METHODS
from dgl_lib.metrics import Localization, MaxBoxAcc, MaxBoxAccV2, PxAP

LAYERS, CLASSES = ("Mixed_6e", "add1"), ("a", "b", "c")


class Toy:
    """Three classes of noise; the object is a box, the line above it is in no score."""

    name, classes = "toy", CLASSES

    def __init__(self, split: str, count: int):
        self.split, self.digest = split, f"{split}-{count}"
        self.names, self.labels = [f"{split}-{i}" for i in range(count)], np.arange(count, dtype=np.int64) % 3

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> np.ndarray:
        return np.zeros((32, 40, 3), np.uint8)

    def __getitem__(self, index: int) -> Record:
        mask, ignore = np.zeros((2, 32, 40), bool)
        mask[4:20, 2 + index : 24] = True
        ignore[3, 2 + index : 24] = True
        box = np.array([[2 + index, 4, 23, 19]], np.int32)
        return Record(self.names[index], self.image(index), int(self.labels[index]), box, mask, ignore)


def random_maps(count: int, seed: int = 0) -> Maps:
    draw = np.random.default_rng(seed)
    pairs = [(m, layer) for m in (*METHODS, *CONTROLS) for layer in LAYERS if m != "cam" or layer == "add1"]
    maps = {pair: draw.normal(size=(count, 3, 3)).astype(np.float32) for pair in pairs}
    return Maps(maps, draw.normal(size=(count, 3)).astype(np.float32), np.arange(count) % 3)


# -------------------------------------------------------------------------------------------------------- boxes


def truth(count: int = 3) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [scores._truth(Toy("test", count), i) for i in range(count)]


def test_a_perfect_map_is_right_everywhere() -> None:
    for corners, mask, ignore in truth():
        m = mask.astype(float)
        hits, pixels = scores.image_hits(m, boxes.search(m), (corners, mask, ignore), np.array([0, 1.0, 0]), 1)
        assert hits.all()  # at every threshold: a map of two levels has one cut
        assert scores.pxap(pixels) == 100
        wrong, _ = scores.image_hits(m, boxes.search(m), (corners, mask, ignore), np.array([0, 1.0, 0]), 0)
        assert wrong[0].all() and not wrong[1].any() and wrong[2:].all()  # Top-1 alone asks for the first class


def test_hits_are_the_streaming_scores_image_by_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "runs_folder", lambda: tmp_path)
    data, maps = Toy("test", 3), random_maps(3)
    rows = [{"method": "dgl", "layer": "add1"}, {"method": "centred_gaussian", "layer": ""}]
    found = scores.box_scores(data, maps, rows)
    for row in rows:
        streams: tuple[Any, ...] = (MaxBoxAcc(), MaxBoxAccV2(), Localization(), PxAP())
        for i, (corners, mask, ignore) in enumerate(truth()):
            raw = BASELINES[row["method"]]((224, 224)).numpy() if not row["layer"] else maps.maps["dgl", "add1"][i]
            m = boxes.score_map(raw) if row["layer"] else raw.astype(float)
            searched = boxes.search(m)
            streams[0].update(searched, corners)
            streams[1].update(searched, corners)
            streams[2].update(searched, corners, maps.logits[i], i)
            streams[3].update(m, mask, ignore)
        one = found[row["method"], row["layer"]]
        assert np.array_equal(one.hits[:, 0].sum(0), streams[0].counts["hits"][0])
        assert np.array_equal(one.hits[:, :3].sum(0), streams[2].counts["hits"])
        assert np.array_equal(one.hits[:, 3:].sum(0), streams[1].counts["hits"])
        assert np.array_equal(one.pixels.sum(0), streams[3].counts["hist"])
    with monkeypatch.context() as patch:
        patch.setattr(boxes, "score_map", lambda *a: pytest.fail("searched again"))
        patch.setattr(scores, "_truth", lambda *a: pytest.fail("read again"))
        again = scores.box_scores(data, maps, rows)
    assert all(np.array_equal(again[key].hits, found[key].hits) for key in found)
    scores.box_scores(data, random_maps(3, 1), rows[:1])
    assert len(list(tmp_path.iterdir())) == 3


def test_each_score_reads_its_own_hits_at_its_own_thresholds() -> None:
    hits = np.zeros((2, 6, 1000), bool)
    hits[:, 0, 100] = hits[0, 1, 200] = True  # GT-known both images, Top-1 the first
    hits[:, 3, 300] = hits[0, 4, 400] = True  # MaxBoxAccV2: both at 0.3, one at 0.5, none at 0.7
    found = {("dgl", "add1"): scores.BoxScores(hits, np.zeros((2, 2, 1002), np.uint16))}
    scored = made(np.zeros((4, 2, 4, 256), np.int32))
    for name, threshold, expected in (
        *(("MaxBoxAcc", "0.100", [100, 100]), ("GT-known", "0.100", [100, 100]), ("Top-1", "0.200", [100, 0])),
        *(("Top-5", "0.000", [0, 0]), ("MaxBoxAccV2", "0.300 0.400 0.000", [200 / 3, 100 / 3])),
    ):
        row = {"method": "dgl", "layer": "add1"}
        cells, images = scores._thresholded(name, row, scored, scored, found, found)
        np.testing.assert_allclose(images, expected)
        assert cells["threshold"] == threshold and cells["test"] == pytest.approx(cells["test_peak"])


def test_a_pooled_score_and_its_draws() -> None:
    counts = np.array([[3, 1], [3, 1], [3, 1]])
    values = scores.pooled(counts, lambda s: s[0] / s.sum(), resamples=50)
    assert values.shape == (51,) and (values == 0.75).all()
    spread = scores.pooled(np.array([[0, 2], [4, 0]]), lambda s: s[0] / s.sum(), resamples=500)
    assert spread[0] == 4 / 6 and set(np.round(spread, 3)) == {0, 0.667, 1}
    found = scores.interval(spread, 2)
    assert (found.mean, found.low, found.high, found.n) == (4 / 6, 0, 1, 2)


def test_pooled_iou_is_that_of_the_summed_histograms() -> None:
    hist = np.random.default_rng(0).integers(0, 9, size=(5, 4, 256))
    for t in (0, 7, 255):
        got = scores._pooled_iou(metrics.at_least(hist)[..., [0, t]].sum(0))
        assert got == pytest.approx(100 * metrics.iou(hist.sum(0))[t])


# ------------------------------------------------------------------------------------- curves and normalisations


def test_the_usable_band_by_hand() -> None:
    curve = np.zeros(256)
    curve[[10, 11, 12, 40]] = [0.475, 0.5, 0.474, 0.48]
    assert np.flatnonzero(scores.usable_band(curve)).tolist() == [10, 11, 40]


def test_minmax_is_the_studys_own_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "runs_folder", lambda: tmp_path)
    data, maps = Toy("test", 3), random_maps(3)
    pair = ("dgl", "add1")
    curves = scores.normalised(data, maps, [pair])[pair]
    assert curves.shape == (len(scores.WAYS), 3, 256)
    study_s = metrics.iou(evaluation.score(data, {1.0: maps.only([pair])}).find(method="dgl"))
    np.testing.assert_allclose(curves[0], study_s, atol=0.01)  # a pixel at the edge of two levels may round over
    assert all(np.abs(curves[k] - study_s).max() > 0.05 for k in range(1, len(scores.WAYS)))


# ----------------------------------------------------------------------------------------------------- mistakes


def test_what_jet_does_to_three_levels() -> None:
    """Levels 0, 128, 255 become 15, 203, 38: the object at 255 falls below its background at 128."""
    assert scores.JET_TO_GREY[[0, 128, 255]].tolist() == [15, 203, 38]
    hist = np.zeros((1, 4, 256), np.int32)
    hist[0, metrics.REST, 255], hist[0, metrics.BACKGROUND, 128], hist[0, metrics.BACKGROUND, 0] = 30, 20, 50
    assert metrics.iou(hist).max() == 1
    curve = metrics.iou(scores.coloured(hist))[0]
    assert curve[[15, 16, 38, 39, 203, 204]].tolist() == [0.3, 0.6, 0.6, 0, 0, 0] and curve.max() == 0.6
    hist[0, metrics.BACKGROUND, [0, 128]] = [70, 0]  # without the middle level nothing is lost
    assert metrics.iou(scores.coloured(hist)).max() == 1


def made(hist: np.ndarray, several: bool = False) -> Scores:
    """Scores of CAM, DGL and the baselines, on one layer, with these histograms (rows, images, 4, 256)."""
    rows = [("cam", "add1"), ("dgl", "add1"), ("whole_image", ""), ("centred_gaussian", "")]
    table = pd.DataFrame(rows, columns=["method", "layer"]).assign(scales="1", kernel=0.0)
    if several:  # the same maps at one scale and at two
        table = pd.concat([table[:2], table[:2].assign(scales="1+2")], ignore_index=True)
        hist = np.concatenate([hist[:2], hist[:2]])
    images = hist.shape[1]
    return Scores(table, hist, [f"{i}" for i in range(images)], np.zeros(images, int), np.zeros(images, bool))


def wrong(hist: np.ndarray, val: np.ndarray | None = None) -> pd.DataFrame:
    before, after = made(hist if val is None else val), made(hist)
    table = report(before, after)
    chosen = choose_layers(before, after, table)
    treated = made(hist if val is None else val, True), made(hist, True)
    return scores.mistakes(before, after, table, chosen, treated)


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_no_single_threshold_beats_one_for_each_image(seed: int) -> None:
    draw = np.random.default_rng(seed)
    val, hist = np.zeros((2, 4, 5, 4, 256), np.int32)
    for one in (val, hist):
        one[..., ::16] = draw.integers(0, 50, size=(4, 5, 4, 16))
    found = wrong(hist, val)
    for method in ("cam", "dgl", *BASELINES):
        of = found[(found["method"] == method) & (found["of"] == "IoU")].set_index("mistake")
        assert of["low"]["threshold for each image"] >= 0 and of["inflation"]["threshold on test"] >= -1e-9
        assert of["mistaken"]["threshold for each image"] >= of["mistaken"]["threshold on test"] - 1e-9
        np.testing.assert_allclose(of["mistaken"] - of["honest"], of["inflation"], atol=1e-9)


def test_a_perfect_map_cannot_be_inflated() -> None:
    hist = np.zeros((4, 12, 4, 256), np.int32)
    hist[..., metrics.REST, 255], hist[..., metrics.BACKGROUND, 0] = 30, 70
    found = wrong(hist)
    assert set(found["mistake"]) == {*scores.MISTAKES} - {"border as object"}  # nothing here is to be ignored
    assert (found["inflation"] == 0).all() and set(found["verdict"]) == {"level"}
    text = "\n".join(scores._found_mistakes(found))
    assert text.count("unchanged within 0.5 points") == 2 * 6 + 2 and "inflated" not in text


def test_mistakes_by_hand() -> None:
    """Half of the images need threshold 100, half 200; the border counts as found where it is called the object."""
    hist = np.zeros((4, 10, 4, 256), np.int32)
    hist[:, :5, metrics.REST, 100], hist[:, :5, metrics.BACKGROUND, 0] = 50, 50
    hist[:, 5:, metrics.REST, 200], hist[:, 5:, metrics.BACKGROUND, 150] = 50, 50
    hist[:, :, metrics.IGNORE, 255] = 25
    found = wrong(hist).set_index(["method", "mistake"])
    each = dict(found.loc[("dgl", "threshold for each image"), :])
    assert (each["honest"], each["mistaken"], each["inflation"]) == (75, 100, 25) and each["verdict"] == "gains"
    border = dict(found.loc[("dgl", "border as object"), :])
    assert border["mistaken"] == pytest.approx((100 + 60) / 2) and border["inflation"] == pytest.approx(5)
    text = "\n".join(scores._found_mistakes(found.reset_index()))
    assert "**Threshold for each image.** Each image gets the threshold that suits it best" in text
    assert "DGL on add1: 75.0 becomes 100.0, +25.0 points [+10.0, +40.0] (inflated)" in text
    assert "DGL minus CAM: 0.0 becomes 0.0, +0.0 points [+0.0, +0.0] (unchanged within 0.5 points)" in text


def test_several_scales_for_one_only() -> None:
    """Scales lift CAM from 20 to 60 and DGL from 50 to 70: honest is +10, the others +50 and -10."""
    hist = np.zeros((4, 12, 4, 256), np.int32)
    hist[..., metrics.BACKGROUND, 0] = 100
    treated = made(hist, True)
    for row, n in enumerate((20, 50, 60, 70)):
        treated.hist[row, :, metrics.REST, 200], treated.hist[row, :, metrics.REST, 0] = n, 100 - n
    treated.hist[:, :, metrics.BACKGROUND, 0] = 900
    lines = {
        mistake: (honest, mistaken) for mistake, _, _, honest, mistaken in scores._wrong_treatments(treated, treated)
    }
    for name, there in (("DGL", 0.5), ("CAM", -0.1)):
        honest, mistaken = lines[f"multi-scale for {name} only"]
        np.testing.assert_allclose(honest, 0.1)
        np.testing.assert_allclose(mistaken, there)


# ---------------------------------------------------------------------------------------------------------- page


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
    data = {"val": Toy("val", 3), "test": Toy("test", 4)}
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
    assert set(found["mistake"]) == set(scores.MISTAKES)
    bands = pd.read_csv(folder / "bands.csv")
    assert bands.loc[bands["split"] == "val", "inside"].all()  # the peak on validation is usable there
