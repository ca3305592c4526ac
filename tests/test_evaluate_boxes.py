"""Box scores an image at a time: those of the streams, kept on disk, each at its own thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from sets import Bordered, random_maps, scored

from dgl_lib import metrics
from dgl_lib.evaluate import BASELINES, Scores, raw
from dgl_lib.evaluate import boxes as boxscores
from dgl_lib.metrics import Localization, MaxBoxAcc, MaxBoxAccV2, PxAP, boxes


def truth(count: int = 3) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    records = map(Bordered("test", count).__getitem__, range(count))
    return [(boxes.scale(r.boxes, r.image.shape[:2]), *metrics.masks_at([r.mask], r.ignore)) for r in records]


def test_a_perfect_map_is_right_everywhere() -> None:
    for corners, mask, ignore in truth():
        m = mask.astype(float)
        hits, pixels = boxscores.image_hits(
            m, boxes.search(m), (corners, mask, ignore), np.array([0, 1.0, 0]), 1
        ).values()
        assert hits.all()  # at every threshold: a map of two levels has one cut
        assert boxscores.pxap(pixels) == 100
        wrong, _ = boxscores.image_hits(m, boxes.search(m), (corners, mask, ignore), np.array([0, 1.0, 0]), 0).values()
        assert wrong[0].all() and not wrong[1].any() and wrong[2:].all()  # Top-1 alone asks for the first class


def test_hits_are_the_streaming_scores_image_by_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, maps = Bordered("test", 3), random_maps(3)
    rows = [{"method": "dgl", "layer": "add1"}, {"method": "centred_gaussian", "layer": ""}]
    found = boxscores.box_scores(data, {1.0: maps}, rows, tmp_path)
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
        patch.setattr(boxscores, "score_map", lambda *a: pytest.fail("searched again"))
        patch.setattr(boxscores, "scale", lambda *a: pytest.fail("read again"))
        again = boxscores.box_scores(data, {1.0: maps}, rows, tmp_path)
    assert all(np.array_equal(again[key].hits, found[key].hits) for key in found)
    boxscores.box_scores(data, {1.0: random_maps(3, 1)}, rows, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # other maps are no part of the same


def test_each_score_reads_its_own_hits_at_its_own_thresholds() -> None:
    hits = np.zeros((2, 6, 1000), bool)
    hits[:, 0, 100] = hits[0, 1, 200] = True  # GT-known both images, Top-1 the first
    hits[:, 3, 300] = hits[0, 4, 400] = True  # MaxBoxAccV2: both at 0.3, one at 0.5, none at 0.7
    found, row = boxscores.BoxScores(hits), {"method": "dgl", "layer": "add1"}
    for name, threshold, expected in (
        *(("MaxBoxAcc", "0.100", [100, 100]), ("GT-known", "0.100", [100, 100]), ("Top-1", "0.200", [100, 0])),
        *(("Top-5", "0.000", [0, 0]), ("MaxBoxAccV2", "0.300 0.400 0.000", [200 / 3, 100 / 3])),
    ):
        cells, images = boxscores._scored(name, row, found, found, None)
        np.testing.assert_allclose(images, expected)
        assert cells["threshold"] == threshold and cells["test"] == pytest.approx(cells["test_peak"])


def test_mask_iou_takes_its_threshold_from_validation() -> None:
    hist = np.zeros((4, 2, 4, 256), np.int32)
    hist[..., metrics.REST, 200], hist[..., metrics.BACKGROUND, 0] = 50, 50
    val, test = scored(hist.copy()), scored(hist)
    hist[..., metrics.REST, 99] = 50  # half of the object is darker on test: the best threshold is 1, and not 100
    hist[1, 1, metrics.BACKGROUND, 150] = 100  # one image of DGL has a false part too
    val.hist[1][..., metrics.BACKGROUND, 99] = 50
    row, unused = {"method": "dgl", "layer": "add1"}, boxscores.BoxScores(np.zeros((2, 6, 1000), bool))
    cells, images = boxscores._scored("mask IoU", row, unused, unused, (val, test))
    assert cells["threshold"] == "100" and images.tolist() == [50, 25] and cells["val"] == 100
    assert cells["test"] == 37.5 and cells["test_peak"] == 75  # at 1: IoU 1 and 1/2


def test_a_pooled_score_and_its_draws() -> None:
    counts = np.array([[3, 1], [3, 1], [3, 1]])
    values = boxscores.pooled(counts, lambda s: s[0] / s.sum(), resamples=50)
    assert values.shape == (51,) and (values == 0.75).all()
    spread = boxscores.pooled(np.array([[0, 2], [4, 0]]), lambda s: s[0] / s.sum(), resamples=500)
    assert spread[0] == 4 / 6 and set(np.round(spread, 3)) == {0, 0.667, 1}
    found = metrics.Interval.of(spread, 2)
    assert (found.mean, found.low, found.high, found.n) == (4 / 6, 0, 1, 2)


def test_a_pooled_score_is_the_same_whatever_is_drawn_and_summed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(1).integers(1, 65_000, size=(7, 2, 5)).astype(np.uint16)
    draws = np.random.default_rng(0).multinomial(7, np.full(7, 1 / 7), size=11)
    sums = np.einsum("dn,nij->dij", np.vstack([np.ones((1, 7), int), draws]), counts.astype(int))
    for at_once, drawn in ((1000, 100), (3, 4), (7, 11)):
        monkeypatch.setattr(boxscores, "AT_ONCE", at_once)
        monkeypatch.setattr(boxscores, "DRAWS", drawn)
        assert np.array_equal(boxscores.pooled(counts, lambda s: s, resamples=11), sums)


def test_hits_of_many_images_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, maps, rows = Bordered("test", 3), {1.0: random_maps(3)}, [{"method": "dgl", "layer": "add1"}]
    monkeypatch.setattr(raw, "PART", 2)
    found = []
    for allowed in (2**20, 0):
        monkeypatch.setattr(raw, "IN_MEMORY", allowed)
        found.append(boxscores.box_scores(data, maps, rows, tmp_path)["dgl", "add1"])
    assert not isinstance(found[0].hits, np.memmap) and isinstance(found[1].hits, np.memmap)
    assert np.array_equal(found[0].hits, found[1].hits) and np.array_equal(found[0].pixels, found[1].pixels)
    assert sorted(path.name for path in tmp_path.rglob("part*")) == ["part-00000.npz", "part-00001.npz"]


def test_treated_maps_of_one_and_of_several_scales() -> None:
    draw = np.random.default_rng(0)
    small, large = draw.normal(size=(3, 3)).astype(np.float32), draw.normal(size=(5, 4)).astype(np.float32)
    assert np.array_equal(boxscores.treated([small]), boxes.score_map(small))
    mean = (boxes.score_map(small) + boxes.score_map(large)) / 2
    merged = boxscores.treated([small, large])
    np.testing.assert_allclose(merged, (mean - mean.min()) / (mean.max() - mean.min()), atol=1e-12)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (23, 23))  # a tenth of 224 px, odd
    closed = cv2.morphologyEx(merged.astype(np.float32), cv2.MORPH_CLOSE, kernel)
    by_hand = (closed - closed.min()) / (closed.max() - closed.min())
    np.testing.assert_allclose(boxscores.treated([small, large], 0.1), by_hand, atol=1e-6)


def test_rows_with_scales_and_a_kernel(tmp_path: Path) -> None:
    data, maps = Bordered("test", 3), {0.75: random_maps(3), 1.0: random_maps(3, 1)}
    plain = {"method": "dgl", "layer": "add1"}
    rows = [{**plain, "scales": s, "kernel": k} for s, k in (("1", 0.0), ("0.75+1", 0.0), ("0.75+1", 0.1))]
    rows += [{"method": "whole_image", "layer": "", "scales": "", "kernel": 0.0}]
    found = boxscores.box_scores(data, maps, rows, tmp_path)
    alone = boxscores.box_scores(data, maps, [plain], tmp_path)
    assert np.array_equal(alone["dgl", "add1"].hits, found["dgl", "add1", "1", 0.0].hits)
    m = boxscores.treated([maps[scale].maps["dgl", "add1"][0] for scale in maps], 0.1)
    hits, pixels = boxscores.image_hits(m, boxes.search(m), truth()[0], maps[1.0].logits[0], 0).values()
    closed = found["dgl", "add1", "0.75+1", 0.1]
    assert np.array_equal(closed.hits[0], hits) and np.array_equal(closed.pixels[0], pixels)
    assert not np.array_equal(closed.pixels, found["dgl", "add1", "0.75+1", 0.0].pixels)


def test_each_row_against_the_one_it_is_told() -> None:
    rows = [("cam", "add1"), ("dgl", "add1"), ("whole_image", ""), ("centred_gaussian", "")]
    kinds = ["method", "method", "baseline", "baseline"]
    chosen = pd.DataFrame(rows, columns=["method", "layer"]).assign(kind=kinds)
    hist = np.zeros((4, 12, 4, 256), np.int32)
    hist[:, :, metrics.REST, 9] = 50
    hist[:, :, metrics.BACKGROUND, 9] = np.array([50, 0, 150, 450])[:, None]  # IoU 1/2, 1, 1/4, 1/10
    found = {}
    for k, key in enumerate(rows):
        hits, pixels = np.zeros((12, 6, 1000), bool), np.zeros((12, 2, 1002), np.uint16)
        hits[: 3 * k] = True
        pixels[:, 0, 5] = pixels[:, 1, 5 + k] = 10
        found[key] = boxscores.BoxScores(hits, pixels)
    masks = scored(hist)
    one = boxscores.box_table(chosen, found, found, (masks, masks)).set_index(["score", "method"])
    assert one.loc["mask IoU", "over"].round(6).tolist() == [25, 75, 0, -15]  # the whole image is better on validation
    assert one.loc["GT-known", "over"].tolist() == [-75, -50, -25, 0]  # here the Gaussian is
    told = boxscores.box_table(chosen, found, found, (masks, masks), over=dict.fromkeys(rows, rows[0]))
    told = told.set_index(["score", "method"])
    assert told.loc["mask IoU", "over"].round(6).tolist() == [0, 50, -25, -40]
    assert told.loc["PxAP", "over"].iloc[0] == 0 and (told["test"] == one["test"]).all()
    without = boxscores.box_table(chosen, found, found).set_index(["score", "method"])  # data that have boxes only
    same = one.drop(index=["mask IoU", "PxAP"], level=0)
    pd.testing.assert_frame_equal(without, same.loc[without.index])


def test_pooled_iou_is_that_of_the_summed_histograms() -> None:
    hist = np.random.default_rng(0).integers(0, 9, size=(5, 4, 256))
    np.testing.assert_allclose(boxscores.pooled(hist, metrics.iou, resamples=1)[0], metrics.iou(hist.sum(0)))


def test_both_averages_at_their_own_thresholds() -> None:
    """Image one has the object at 100 and ground at 50; image two, ten times as large, has its object at 50."""
    hist = np.zeros((4, 2, 4, 256), np.int32)
    hist[:, 0, metrics.REST, 100], hist[:, 0, metrics.BACKGROUND, 50] = 10, 90
    hist[:, 1, metrics.REST, 50], hist[:, 1, metrics.BACKGROUND, 0] = 500, 500
    scores = scored(hist)
    table = boxscores.sizes({"input": (scores, scores)}, [{"method": "dgl", "layer": "add1"}])
    assert table["average"].tolist() == ["per image", "pooled"] and table["threshold"].tolist() == [1, 1]
    np.testing.assert_allclose(table["test"], [(10 + 100) / 2, 100 * 510 / 600])


def test_images_without_an_object_have_no_box_scores() -> None:
    data, maps = Bordered("test", 4), random_maps(4)
    scores = scored(np.zeros((4, 2, 4, 256), np.int32))
    scores = Scores(scores.rows, scores.hist, [data.names[i] for i in (1, 3)], scores.labels, scores.has_part)
    part, by_scale = boxscores.with_object(data, {1.0: maps}, scores)
    assert part.names == scores.names and part.labels.tolist() == [1, 0]
    assert np.array_equal(by_scale[1.0].maps["dgl", "add1"], maps.maps["dgl", "add1"][[1, 3]])
