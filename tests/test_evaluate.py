"""From maps to the table: parts that survive a kill, a key that sees everything, scores by hand, honest thresholds."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace as changed
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from dgl_lib import metrics, several
from dgl_lib.data.records import Record
from dgl_lib.errors import UserError
from dgl_lib.evaluate import Maps, Scores, choose, raw, raw_maps, report, score
from dgl_lib.evaluate import scores as module
from dgl_lib.evaluate.boxes import BoxScores, _scored
from dgl_lib.evaluate.scores import choices, per_image
from dgl_lib.files import read_arrays
from dgl_lib.localize import localize
from dgl_lib.models import SPGPlain, preprocess, spg_plain
from dgl_lib.training import predict


class Toy:
    """Random pictures with a box as their object, its left half as the telling part."""

    name, split, classes = "toy", "test", ("a", "b", "c")

    def __init__(self, count: int, digest: str = "d"):
        self.names, self.labels = [str(i) for i in range(count)], np.arange(count, dtype=np.int64) % 3
        self.digest = digest

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(256, size=(32, 32, 3)).astype(np.uint8)

    def __getitem__(self, index: int) -> Record:
        mask, part, ignore = np.zeros((3, 20, 30), bool)
        mask[4:15, 5 + index : 20] = part[4:15, 5 + index : 12] = True
        ignore[0] = True
        return Record(str(index), np.zeros((20, 30, 3), np.uint8), 0, np.zeros((0, 4), np.int32), mask, ignore, part)


@pytest.fixture(scope="module")
def model() -> SPGPlain:
    torch.manual_seed(0)
    return spg_plain(3, width=1 / 16).eval()


WHAT: dict = {"layers": ["Mixed_6e", "add1"], "methods": ["dgl", "cam"], "size": 32, "device": "cpu"}


def equal(a: Maps, b: Maps) -> bool:
    return (
        list(a.maps) == list(b.maps)
        and all(np.array_equal(a.maps[key], b.maps[key]) for key in a.maps)
        and np.array_equal(a.logits, b.logits)
        and np.array_equal(a.classes, b.classes)
    )


# ------------------------------------------------------------------------------------------------------ raw maps


def test_raw_maps_are_those_of_localize(model: SPGPlain) -> None:
    data = Toy(3)
    got = raw_maps(model, data, **WHAT)
    assert set(got.maps) == {("dgl", "Mixed_6e"), ("dgl", "add1"), ("cam", "add1")}  # CAM where it exists
    assert np.array_equal(got.classes, data.labels) and got.logits.shape == (3, 3)
    for i in range(3):
        one = localize(model, preprocess(model, [data.image(i)], 32), [i], ["Mixed_6e"], ["dgl"])
        expected = one.maps["dgl"]["Mixed_6e"][0]
        np.testing.assert_allclose(got.maps["dgl", "Mixed_6e"][i], expected, rtol=1e-3, atol=1e-6)
    assert np.array_equal(raw_maps(model, data, given=False, **WHAT).classes, got.logits.argmax(1))
    assert raw_maps(model, data, scale=1.5, **WHAT).maps["dgl", "add1"].shape == (3, 6, 6)  # 48 px
    with pytest.raises(UserError, match=r"input side: 16 px \(size 32 x scale 0\.5\) given, at least 32 needed"):
        raw_maps(model, data, scale=0.5, **WHAT)


@pytest.mark.parametrize("precision", ["float32", "fast"])
def test_the_fast_precision_compiles_formulas_where_so_many_maps_pay(
    precision: str, model: SPGPlain, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, compiled = [], []

    def watched(*given: object, **options: object) -> object:
        compiled.append(options.pop("compiled", False))
        return localize(*given, **options)

    monkeypatch.setattr(raw, "compiling_pays", lambda device, maps: counted.append((device.type, maps)) or True)
    monkeypatch.setattr(raw, "localize", watched)
    raw_maps(model, Toy(3), precision=precision, **WHAT)
    assert counted == [("cpu", 3 * 2 * 2)] * (precision == "fast")
    assert compiled == [precision == "fast"]


def test_images_keep_their_order_over_several_batches(model: SPGPlain) -> None:
    """On a CPU ten images of 160 px go together, then the last two."""
    data = Toy(12)
    got = raw_maps(model, data, layers=["Mixed_6e"], methods=["pixel_selection"], size=160, device="cpu")
    for i, m in enumerate(got.maps["pixel_selection", "Mixed_6e"]):
        images = preprocess(model, [data.image(i)], 160)
        one = localize(model, images, data.labels[[i]].tolist(), ["Mixed_6e"], ["pixel_selection"])
        expected = one.maps["pixel_selection"]["Mixed_6e"][0].numpy()
        np.testing.assert_allclose(m, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_maps_of_scales_bring_along_what_the_table_needs(model: SPGPlain) -> None:
    """CAM, DGL and both branches, whatever methods are asked for, and scale 1."""
    how = {"layer": "Mixed_6e", "size": 32, "device": "cpu"}
    asked = partial(raw.maps_of_scales, model, Toy(1), scales=[1.25], **how)
    one, other = asked(methods=["dgl"]), asked(methods=["cam"])
    assert list(one) == [1.0, 1.25] and all(set(one[s].maps) == set(other[s].maps) for s in one)
    assert {("cam", "add1"), ("dgl", "Mixed_6e"), ("pixel_selection", "Mixed_6e")} <= set(one[1.25].maps)


def test_a_killed_run_computes_only_what_is_missing(model: SPGPlain, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(raw, "PART", 2)
    data, seen = Toy(7), []
    expected = raw_maps(model, data, **WHAT)

    def watched(model_: SPGPlain, images: torch.Tensor, *rest: object, **options: object) -> object:
        if len(seen) == dies_at:
            raise KeyboardInterrupt
        seen.append(len(images))
        return localize(model_, images, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(raw, "localize", watched)
    dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        raw_maps(model, data, folder=tmp_path, **WHAT)
    parts = sorted(tmp_path.rglob("part-*.npz"))
    assert len(parts) == 2 and seen == [2, 2]
    times = [part.stat().st_mtime_ns for part in parts]
    dies_at = -1
    assert equal(raw_maps(model, data, folder=tmp_path, **WHAT), expected)
    assert seen == [2, 2, 2, 1] and [part.stat().st_mtime_ns for part in parts] == times
    assert equal(raw_maps(model, data, folder=tmp_path, **WHAT), expected) and len(seen) == 4  # all there: no network
    assert len(list(tmp_path.iterdir())) == 1 and not list(tmp_path.rglob("*.part"))


def test_maps_and_predictions_are_the_same_where_workers_read_ahead(model: SPGPlain, monkeypatch) -> None:
    data, true, asked = Toy(40), several.loader, []

    def ahead(items: object, steps: list[range], device: torch.device) -> object:
        asked.append((device.type, len(steps)))
        return true(items, steps, torch.device("meta"))

    monkeypatch.setattr(raw, "PART", 2)
    maps, logits = raw_maps(model, data, **WHAT), predict(model, data, 32, batch_size=3)
    monkeypatch.setattr(several, "loader", ahead)
    assert equal(raw_maps(model, data, **WHAT), maps) and torch.equal(predict(model, data, 32, batch_size=3), logits)
    assert asked == [("cpu", 20), ("cpu", 14)]


def test_of_several_processes_one_mends_a_damaged_part_before_all_read(
    model: SPGPlain, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(raw, "PART", 2)
    expected = raw_maps(model, Toy(7), folder=tmp_path, **WHAT)
    own, others = (next(tmp_path.rglob(f"part-0000{k}.npz")) for k in (2, 3))
    own.write_bytes(own.read_bytes()[:100])
    stamp, whole = others.stat().st_mtime_ns, []
    monkeypatch.setattr(several, "WORLD", 2)
    monkeypatch.setattr(several, "wait", lambda: whole.append(bool(read_arrays(own))))
    with pytest.warns(UserWarning, match="part-00002.npz is damaged"):
        assert equal(raw_maps(model, Toy(7), folder=tmp_path, **WHAT), expected)
    assert whole == [True] and others.stat().st_mtime_ns == stamp


def test_what_is_too_large_for_memory_lies_in_a_file_and_gives_the_same_scores(
    model: SPGPlain, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(raw, "PART", 2)
    data, settings = Toy(5), [((1.0,), 0.0), ((1.0,), 0.1)]
    maps = raw_maps(model, data, folder=tmp_path, **WHAT)
    scores = score(data, {1.0: maps}, settings, folder=tmp_path)
    monkeypatch.setattr(raw, "IN_MEMORY", 0)
    on_disk = raw_maps(model, data, folder=tmp_path, **WHAT)
    found = score(data, {1.0: on_disk}, settings, folder=tmp_path)
    assert equal(on_disk, maps)
    assert np.array_equal(found.hist, scores.hist) and np.array_equal(found.has_part, scores.has_part)
    for lies in (on_disk.maps["dgl", "add1"], found.hist[0]):
        assert isinstance(lies, np.memmap) and lies.flags.writeable  # else PyTorch warns of it
    pd.testing.assert_frame_equal(report(found, found), report(scores, scores))
    assert len(list(tmp_path.iterdir())) == 2  # both found the stored parts
    assert {file.name.split("-")[0] for file in tmp_path.rglob("*.*")} == {"facts.json", "part"}


def test_scores_of_many_images_are_reported_part_by_part(model: SPGPlain, monkeypatch) -> None:
    data = Toy(5)
    scores = score(data, {1.0: raw_maps(model, data, **WHAT)})
    whole = report(scores, scores)
    monkeypatch.setattr(module, "AT_ONCE", 2)
    assert [part.names for part in scores] == [["0", "1"], ["2", "3"], ["4"]]
    assert all(np.shares_memory(*both) for part in scores for both in zip(part.hist, scores.hist, strict=True))
    pd.testing.assert_frame_equal(report(scores, scores), whole)


def test_scores_of_one_row_take_a_few_images_at_a_time(model: SPGPlain, monkeypatch) -> None:
    scores = score(data := Toy(5), {1.0: raw_maps(model, data, **WHAT)})
    row, images = {"method": "dgl", "layer": "add1"}, []

    def found() -> list[Any]:
        cells, values = _scored("mask IoU", row, *[BoxScores(np.zeros((5, 6, 1000), bool))] * 2, (scores, scores))
        return [*cells.values(), *values, *per_image(scores, scores, row), *per_image(scores, scores, row, "miou")]

    whole, iou = found(), metrics.iou
    monkeypatch.setattr(module, "AT_ONCE", 2)
    monkeypatch.setattr(metrics, "iou", lambda hist, **to: images.append(len(hist)) or iou(hist, **to))
    monkeypatch.setitem(module.MEASURES, "iou", metrics.iou)
    assert found()[0] == whole[0] and found()[1:] == pytest.approx(whole[1:])
    assert max(images) == 2


def test_memory_does_not_grow_with_the_images_where_they_lie_in_a_file(tmp_path: Path, monkeypatch) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        ones = lambda parts: ({"m": np.ones((len(part), 20_000))} for part in parts)  # noqa: E731
        made = raw.in_parts(count, ones, tmp_path / f"{count}", "", False)
        assert made["m"].shape == (count, 20_000) and made["m"].all()
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    monkeypatch.setattr(raw, "IN_MEMORY", 0)
    peak(32)  # what is imported on the way
    assert peak(640) < 1.1 * peak(64)


def test_a_part_torn_while_it_was_written_is_computed_again(model: SPGPlain, tmp_path: Path, monkeypatch) -> None:
    true_save = np.savez_compressed

    def torn(stream, **arrays: np.ndarray) -> None:
        stream.write(b"PK half a part")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", torn)
    with pytest.raises(KeyboardInterrupt):
        raw_maps(model, Toy(2), folder=tmp_path, **WHAT)
    monkeypatch.setattr(np, "savez_compressed", true_save)
    assert equal(raw_maps(model, Toy(2), folder=tmp_path, **WHAT), raw_maps(model, Toy(2), **WHAT))


def test_the_key_sees_all_that_determines_a_map(model: SPGPlain, tmp_path: Path, monkeypatch) -> None:
    def folders() -> int:
        return len(list(tmp_path.iterdir()))

    def run(data: Toy | None = None, **change: object) -> None:
        raw_maps(model, data or Toy(1), folder=tmp_path, **{**WHAT, **change})  # type: ignore[arg-type]

    run()
    run(device="auto" if not torch.cuda.is_available() else "cpu", progress=False)
    assert folders() == 1
    changes: list[dict] = [
        *({"layers": ["add1", "Mixed_6e"]}, {"methods": ["dgl"]}, {"size": 40}, {"scale": 1.5}),
        *({"given": False}, {"alpha": 2.0}, {"rule": "autograd"}, {"data": Toy(1, digest="other")}),
    ]
    for count, change in enumerate(changes, start=2):
        run(**change)
        assert folders() == count, change
    last = len(changes) + 1
    with monkeypatch.context() as patch:
        patch.setattr(model, "mean", (0.1, 0.5, 0.5))
        run()
        patch.setattr(model, "std", (0.1, 0.5, 0.5))
        run()
        patch.setattr(model, "count_include_pad", False)
        run()
        patch.setattr(model, "padding", "tensorflow")
        run()
        patch.setattr(raw, "FORMAT", raw.FORMAT + 1)
        run()
    assert folders() == last + 5
    assert raw.beside_weights(model) == [model.mean, model.std, True]  # as before there was a choice of padding
    with torch.no_grad():
        bit = model.fc.bias[0].clone()
        model.fc.bias[0] += 1e-6
        run()
        model.fc.bias[0] = bit
    assert folders() == last + 6
    run()
    assert folders() == last + 6  # back to the first


# -------------------------------------------------------------------------------------------------------- scoring

SETTINGS = (((1.0,), 0.0), ((1.0, 2.0), 0.0), ((1.0, 2.0), 0.25))


def toy_maps(side: int, methods: tuple[str, ...] = ("dgl", "cam"), count: int = 2) -> Maps:
    draw = np.random.default_rng(side)
    maps = {(method, "add1"): draw.normal(size=(count, side, side)).astype(np.float32) for method in methods}
    return Maps(maps, np.zeros((count, 3), np.float32), np.zeros(count, np.int64))


def by_hand(maps: list[np.ndarray], kernel: int, size: tuple[int, int]) -> np.ndarray:
    """min-max -> resize -> mean -> min-max -> close -> min-max -> round(255 m), one map at a time."""

    def stretch(m: np.ndarray) -> np.ndarray:
        return (m - m.min()) / (m.max() - m.min())

    fine = [F.interpolate(torch.from_numpy(stretch(m))[None, None], size, mode="bilinear")[0, 0].numpy() for m in maps]
    m = stretch(np.mean(fine, axis=0))
    if kernel:
        m = cv2.morphologyEx(m, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (kernel, kernel)))
    return np.round(255 * stretch(m))


def test_scores_are_those_of_a_pipeline_by_hand() -> None:
    data, maps = Toy(2), {1.0: toy_maps(4), 2.0: toy_maps(7)}
    scores = score(data, maps, SETTINGS)
    assert len(scores.rows) == 2 * 3 + 2 and np.shape(scores.hist) == (8, 2, 4, 256) and scores.has_part.all()
    for method in ("dgl", "cam"):
        for scales, kernel in SETTINGS:
            found = scores.find(method=method, layer="add1", scales="+".join(f"{s:g}" for s in scales), kernel=kernel)
            side = 7 if kernel else 0  # 0.25 of 30 px is 7.5, and 7 the odd number nearest to it
            for i in range(2):
                record = data[i]
                q = by_hand([maps[s].maps[method, "add1"][i] for s in scales], side, (20, 30))
                mask, counts = record.mask, ~record.ignore
                unions = [((mask | (q >= t)) & counts).sum() for t in range(256)]
                curve = [(mask & (q >= t) & counts).sum() / unions[t] for t in range(256)]
                # A pixel at half a level may round either way: one threshold then counts it otherwise.
                np.testing.assert_allclose(metrics.iou(found[i]), curve, atol=1.5 / min(unions))


def test_the_trivial_baselines_come_along() -> None:
    scores = score(Toy(2), {1.0: toy_maps(4)}, methods=["dgl"])
    assert list(scores.rows["method"]) == ["dgl", "whole_image", "centred_gaussian"]
    record = Toy(2)[1]
    covered = (record.mask & ~record.ignore).sum() / (~record.ignore).sum()
    assert np.allclose(metrics.iou(scores.find(method="whole_image")[1]), covered)


def test_scores_at_the_inputs_size() -> None:
    scores = score(Toy(2), {1.0: toy_maps(4)}, size=10)
    assert (np.sum(scores.hist, (2, 3)) == 100).all()
    assert (np.sum(score(Toy(2), {1.0: toy_maps(4)}).hist, (2, 3)) == 600).all()


def test_what_cannot_be_scored_is_refused(monkeypatch) -> None:
    class Maskless(Toy):
        def __getitem__(self, index: int) -> Record:
            return changed(super().__getitem__(index), mask=None)

    with pytest.raises(UserError, match="0: no mask"):
        score(Maskless(2), {1.0: toy_maps(4)})
    scores = score(Toy(2), {1.0: toy_maps(4)})
    with pytest.raises(UserError, match="0 rows with"):
        scores.find(method="dgll")
    with pytest.raises(UserError, match="2 rows with"):
        scores.find(layer="add1")
    with pytest.raises(UserError, match="different images"):
        scores.join(changed(scores, names=["x", "y"]))
    assert len(scores.join(scores).rows) == len(scores.rows)  # a row that both have stands once


def test_joined_scores_are_no_copies() -> None:
    one, other = (score(Toy(2), {1.0: toy_maps(4)}, [((1.0,), kernel)]) for kernel in (0.0, 0.1))
    joined = one.join(other)
    own = other.rows["kernel"] == 0.1
    assert joined.rows["kernel"].tolist() == [*one.rows["kernel"], *other.rows["kernel"][own]]
    pairs = zip(joined.hist, [*one.hist, *itertools.compress(other.hist, own)], strict=True)
    assert own.any() and all(np.shares_memory(*pair) and np.array_equal(*pair) for pair in pairs)


def same(a: Scores, b: Scores) -> bool:
    arrays = (np.array_equal(getattr(a, name), getattr(b, name)) for name in ("hist", "labels", "has_part"))
    return a.rows.equals(b.rows) and a.names == b.names and all(arrays)


class Watched(Toy):
    """Says which images were read, and dies at one of them; the third holds no object."""

    def __init__(self, dies_at: int = -1):
        super().__init__(7)
        self.dies_at, self.read = dies_at, list[int]()

    def __getitem__(self, index: int) -> Record:
        if index == self.dies_at:
            raise KeyboardInterrupt
        self.read.append(index)
        record = super().__getitem__(index)
        return changed(record, mask=np.zeros_like(record.mask)) if index == 2 else record


@pytest.mark.parametrize("dtype", [bool, np.uint8])
@pytest.mark.parametrize("size", [None, 16])
def test_an_object_of_which_every_pixel_is_ignored_is_none(dtype: type, size: int | None) -> None:
    """Of the second image's object nothing counts; before, the centred Gaussian had 100 % there."""

    class Ignored(Toy):
        def __getitem__(self, index: int) -> Record:
            record = super().__getitem__(index)
            ignore = record.mask | record.ignore if index == 1 else record.ignore
            return changed(record, mask=record.mask.astype(dtype), ignore=ignore.astype(dtype))

    with pytest.warns(UserWarning, match="toy test: 1 images without an object left out"):
        scores = score(Ignored(3), {1.0: toy_maps(4, count=3)}, size=size)
    assert scores.names == ["0", "2"]
    same_images = score(Toy(3), {1.0: toy_maps(4, count=3)}, size=size)
    assert np.array_equal(scores.hist, [hist[[0, 2]] for hist in same_images.hist])


def test_masks_of_another_size_are_resized_once() -> None:
    """From the sizes in which they are stored to the size asked, and not by way of the photograph's."""
    stored, ignored = np.zeros((4, 4), np.uint8), np.full((5, 5), 255, np.uint8)
    stored[:2] = 255

    class Stored(Toy):
        def __getitem__(self, index: int) -> Record:
            record = super().__getitem__(index)
            return changed(record, part=None, stored=([stored, stored.T], ignored))

    scores = score(Stored(1), {1.0: toy_maps(4, count=1)}, size=8)
    assert scores.hist[0][0].sum(-1).tolist() == [0, 48, 0, 16]
    own = score(Stored(1), {1.0: toy_maps(4, count=1)})  # at the photograph's size its masks are there already
    assert own.hist[0][0, metrics.REST].sum() == Toy(1)[0].mask.sum()


@pytest.mark.filterwarnings("ignore:.*1 images without an object left out")
def test_a_killed_scoring_computes_only_what_is_missing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(raw, "PART", 2)
    maps = {1.0: toy_maps(4, count=7), 2.0: toy_maps(7, count=7)}
    expected = score(Watched(), maps, SETTINGS)
    assert expected.names == ["0", "1", "3", "4", "5", "6"] and np.shape(expected.hist) == (8, 6, 4, 256)
    killed, again, third = Watched(dies_at=5), Watched(), Watched()
    with pytest.raises(KeyboardInterrupt):
        score(killed, maps, SETTINGS, folder=tmp_path)
    assert killed.read == [0, 1, 2, 3, 4]  # two parts of two are there, the third is lost
    assert same(score(again, maps, SETTINGS, folder=tmp_path), expected) and again.read == [4, 5, 6]
    with pytest.warns(UserWarning, match="1 images without an object left out"):
        assert same(score(third, maps, SETTINGS, folder=tmp_path), expected)
    assert third.read == [] and len(list(tmp_path.iterdir())) == 1


def test_the_key_sees_all_that_determines_a_score(tmp_path: Path) -> None:
    maps, other = toy_maps(4), toy_maps(4)
    other.maps["dgl", "add1"][0, 0, 0] += 1e-6
    changes: list[dict] = [
        *({}, {"maps": {1.0: other}}, {"dataset": Toy(2, digest="other")}, {"size": 10}, {"methods": ["dgl"]}),
        {"settings": (((1.0,), 0.25),)},
    ]
    for count, change in enumerate(changes, start=1):
        options = {"dataset": Toy(2), "maps": {1.0: maps}, **change}
        for _ in range(2):
            got = score(folder=tmp_path, **options)
            assert len(list(tmp_path.iterdir())) == count and same(got, score(**options)), change


def test_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="toy test: no image given, at least one needed"):
        score(Toy(0), {1.0: toy_maps(4, count=0)}, folder=tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------ reporting


def two_levels(inside: int, outside: int, images: int = 3, wrong: int = 0) -> Scores:
    """Maps with one level on the object (25 of 100 pixels) and one beside it, where ``wrong`` pixels are inside's."""
    hist = np.zeros((1, images, 4, 256), np.int32)
    hist[0, :, metrics.REST, inside], hist[0, :, metrics.PART, inside] = 20, 5
    hist[0, :, metrics.BACKGROUND, outside] = 75 - wrong
    hist[0, :, metrics.BACKGROUND, inside] += wrong
    rows = pd.DataFrame([{"method": "dgl", "layer": "add1", "scales": "1", "kernel": 0.0}])
    return Scores(rows, hist, [str(i) for i in range(images)], np.zeros(images, np.int64), np.ones(images, bool))


def test_the_threshold_comes_from_validation_alone() -> None:
    """On validation 51 is the lowest that parts the two; on test it lets everything through, though 151 is perfect."""
    val, test = two_levels(100, 50), two_levels(200, 150)
    row = report(val, test).iloc[0]
    assert (row["threshold"], row["val_iou"]) == (51, 100)
    assert row["iou"] == row["low"] == row["high"] == row["iou_pooled"] == 25
    assert row["miou"] == 12.5 and row["precision"] == 25 and row["recall_part"] == row["recall_rest"] == 100
    assert (row["test_peak"], row["test_peak_threshold"]) == (100, 151)
    assert choose(val.hist[0]) == 51 and choose(test.hist[0]) == 151


def test_the_means_of_the_tidy_table_are_the_report() -> None:
    data = Toy(5)
    val, test = (score(data, {1.0: toy_maps(side, count=5), 2.0: toy_maps(7, count=5)}, SETTINGS) for side in (4, 5))
    test = changed(test, has_part=np.arange(5) > 1)
    table = test.table(choices(val))
    assert len(table) == 8 * 5 and table["image"].tolist()[:5] == data.names
    keys, means = ["method", "layer", "scales", "kernel"], ["iou", "miou", "precision", "recall_part", "recall_rest"]
    assert not table.duplicated([*keys, "image"]).any()
    found, reported = table.groupby(keys).mean(numeric_only=True), report(val, test).set_index(keys)
    pd.testing.assert_frame_equal(
        found[["threshold", *means]], reported.loc[found.index, ["threshold", *means]], check_dtype=False
    )
    assert table["recall_part"].isna().sum() == 8 * 2  # the part of two images is not known


def test_the_report_of_an_unknown_part_says_nan() -> None:
    test = changed(two_levels(100, 50), has_part=np.zeros(3, bool))
    row = report(two_levels(100, 50), test).iloc[0]
    assert np.isnan(row["recall_part"]) and np.isnan(row["recall_rest"]) and row["iou"] == 100


def gain(both: Scores, method: str, over: str) -> metrics.Interval:
    one, other = (per_image(both, both, {"method": name}) for name in (method, over))
    return metrics.bootstrap(one - other)


def named(scores: Scores, method: str) -> Scores:
    return changed(scores, rows=scores.rows.assign(method=method))


def test_the_gain_is_paired_and_each_at_its_own_threshold() -> None:
    """dgl parts at 101, cam at 21 with 25 pixels too many: IoU 1 against 1/2 on every image, so no width at all."""
    val = named(two_levels(200, 100), "dgl").join(named(two_levels(90, 20, wrong=25), "cam"))
    interval = gain(val, "dgl", "cam")
    assert (interval.mean, interval.low, interval.high, interval.n) == (50, 50, 50, 3)
    assert gain(val, "cam", "dgl").mean == -50
    # Images that differ much while the gain does not: paired, the interval stays narrow.
    draw = np.random.default_rng(0)
    a, b = two_levels(200, 100, images=30), two_levels(200, 100, images=30)
    for i, missed in enumerate(draw.integers(0, 18, size=30)):
        for scores, more in ((a, 0), (b, 2)):
            scores.hist[0][i, metrics.REST, 200] -= missed + more
            scores.hist[0][i, metrics.REST, 0] += missed + more
    both = named(a, "dgl").join(named(b, "cam"))
    interval = gain(both, "dgl", "cam")
    assert interval.mean == pytest.approx(8) and interval.low == pytest.approx(8) == interval.high
