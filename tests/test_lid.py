"""LID's reader: generated lists of the real one's length, and, where DGL_WSOL_METADATA is set, the real one."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import sets
from sets import refused

from dgl_lib.data import load
from dgl_lib.data.images import orientation, read_image
from dgl_lib.data.wsol import SWAPPED, Lid, unturn

REAL = os.environ.get("DGL_WSOL_METADATA")
MASK = np.zeros((24, 32), bool)
MASK[2:13, 4:21] = True


@pytest.fixture(autouse=True)
def generated(monkeypatch):
    monkeypatch.delenv("DGL_WSOL_METADATA", raising=False)


def test_record(tmp_path):
    data = Lid("all", sets.lid(tmp_path))
    assert (data.name, data.split, len(data), data.classes) == ("lid", "all", 12, ("tench", "goldfish"))
    record = data[0]
    assert record.name == "ILSVRC2012_val_00000002" and record.image.shape == (24, 32, 3)
    assert np.array_equal(record.mask, MASK) and record.boxes.tolist() == [[4, 2, 20, 12]]
    assert record.ignore is record.part is None
    data.check()


def test_class_by_name_not_by_the_list_of_masks(tmp_path):
    data = Lid("all", sets.lid(tmp_path))
    # Image i (from 1) has class (i - 1) // 2 % 2 in ILSVRC's lists; list_cls.txt says 999 and 998.
    assert data.labels.tolist() == [0, 1] * 6


def test_val_is_every_tenth_of_each_class(tmp_path):
    sets.lid(tmp_path, count=44)  # 22 of each class: positions 0, 10, 20
    val, test, every = (Lid(split, tmp_path) for split in ("val", "test", "all"))
    expected = [f"ILSVRC2012_val_{i:08d}" for i in (2, 4, 42, 44, 82, 84)]  # every second, classes in turn
    assert val.names == expected and val.labels.tolist() == [0, 1] * 3
    assert test.names == [name for name in every.names if name not in expected]
    assert len({val.digest, test.digest, every.digest}) == 3


def test_training_images_are_those_of_ilsvrc(tmp_path):
    sets.wsol_boxes(tmp_path, "ILSVRC")
    assert load("lid", "train", root=tmp_path).names[0] == "train/n01440760/n01440760_0.JPEG"
    refused(lambda: Lid("train", tmp_path), "'train'", "val, test, all")
    refused(lambda: load("lid", "dev", root=tmp_path), "lid: unknown split 'dev'")


@pytest.mark.parametrize("exif", range(1, 9))
def test_unturn_undoes_what_exif_shows(tmp_path, exif):
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    sets.Image.fromarray(stored).save(tmp_path / "image.png", exif=sets.exif(exif))
    assert orientation(tmp_path / "image.png") == exif
    shown = read_image(tmp_path / "image.png")[..., 0]
    assert np.array_equal(read_image(tmp_path / "image.png", oriented=False)[..., 0], stored)
    if exif >= 5:
        assert np.array_equal(unturn(shown, exif), stored)
    else:
        assert np.array_equal(unturn(stored, exif), stored.T)


def test_the_two_masks_with_swapped_sides(tmp_path):
    root = sets.lid(tmp_path)
    old, new = "ILSVRC2012_val_00000002", "ILSVRC2012_val_00017615"
    for path in [*root.glob("metadata/*/*/*.txt")]:
        path.write_text(path.read_text().replace(old, new))
    for path in (root / "ILSVRC/val" / f"{old}.JPEG", root / "LID/val" / f"{old}.png"):
        path.rename(path.with_name(path.name.replace(old, new)))
    assert np.array_equal(Lid("all", root)[0].mask, MASK)  # a copy that somebody mended already
    swapped = root / "LID/val" / f"{new}.png"
    swapped.unlink()
    sets.Image.fromarray(MASK.T.astype(np.uint8)).save(swapped)
    data = Lid("all", root)
    data.check()
    assert np.array_equal(data[0].mask, MASK)
    data.path(0).unlink()
    sets.picture(data.path(0), exif=sets.exif(6))
    assert np.array_equal(data[0].mask, np.rot90(MASK.T, 1))
    other = root / "LID/val" / "ILSVRC2012_val_00000004.png"
    other.unlink()
    sets.Image.fromarray(MASK.T.astype(np.uint8)).save(other)
    for call in (data.check, lambda: data[1]):
        refused(call, "00000004.png", "24x32", "32x24")


def test_mask_values(tmp_path):
    data = Lid("all", sets.lid(tmp_path))
    [path] = data.annotations(0)
    for values, fine in (([0, 1], True), ([0, 7], True), ([0, 0], True), ([0, 1, 255], False), ([1, 2], False)):
        pixels = np.zeros((24, 32), np.uint8) + np.uint8(values[0])
        pixels[0, : len(values)] = values
        path.unlink()
        sets.Image.fromarray(pixels).save(path)
        if fine:
            assert data[0].mask.sum() == (values[1] > 0)
        else:
            refused(lambda: data[0], "values", "0 and one other value")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("ILSVRC2012_val_00000099.JPEG 3\n", ["list_cls.txt", "00000099", "(1 in all)"]),
        ("ILSVRC2012_val_00000002.JPEG\n", ["line 1", "2 values (image,class)"]),
        ("ILSVRC2012_val_00000002.JPEG 3\nILSVRC2012_val_00000002.JPEG 3\n", ["twice"]),
        ("ILSVRC2012_val_00000002.jpg 3\nILSVRC2012_val_00000002.JPEG 3\n", ["val_00000002.jpg' is not in"]),
        ("ILSVRC2012_val_00000001.JPEG 3\n", ["00000001.JPEG", "1 of 1 lid all photographs"]),
    ],
)
def test_broken_list(tmp_path, rows, expected):
    sets.write(sets.lid(tmp_path) / "metadata/LID/val/list_cls.txt", rows)
    refused(lambda: Lid("all", tmp_path), *expected)


def test_full_length_indexes_by_lists_and_streams(tmp_path, monkeypatch):
    """23,151 entries: no image is opened to index them, and memory does not grow from record to record."""
    root = sets.lid(tmp_path, classes=1000, count=23151)
    opened = []
    monkeypatch.setattr("dgl_lib.data.images.Image.open", lambda *a: opened.append(a))
    data = Lid("all", root)
    assert len(data) == 23151 and len(data.classes) == 1000 and not opened
    assert len(load("lid", "val", root=root)) == 3000  # 23 or 24 of each class: positions 0, 10, 20
    monkeypatch.undo()
    for i in range(20):
        data[i]
    tracemalloc.start()
    for i in range(20, 220):
        data[i]
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 100_000  # 200 records held would be 200 * (3 + 1) * 24 * 32 bytes = 600 kB


@pytest.mark.skipif(not REAL, reason="DGL_WSOL_METADATA names no lists")
def test_real_list(tmp_path, monkeypatch):
    monkeypatch.setenv("DGL_WSOL_METADATA", str(REAL))
    monkeypatch.setattr("dgl_lib.data.listed.need_files", lambda *_: None)  # no image is here
    every, val, test = (Lid(split, tmp_path) for split in ("all", "val", "test"))
    assert (len(every), len(val), len(test)) == (23151, 2759, 20392)
    assert all(len(np.unique(data.labels)) == 1000 for data in (every, val, test))
    assert every.names[0] == "ILSVRC2012_val_00000002" and every.classes[every.labels[0]] == "alp"
    assert {name[-5:] for name in every.names} & {"17615", "18903"} == {"17615"}
    assert every.sizes["ILSVRC2012_val_00017615"] == (777, 640)
    listed = Path(str(REAL), "LID/val/list_cls.txt").read_text().split()[1::2]
    assert len(set(zip(listed, every.labels.tolist(), strict=True))) == 1000  # a renumbering, one to one
    assert listed[0] != str(every.labels[0])


@pytest.mark.skipif(not REAL, reason="DGL_WSOL_METADATA names no lists")
def test_real_list_with_generated_images_of_its_sizes(tmp_path, monkeypatch):
    """The validation part, its 2,759 photographs and masks of the names and sizes that the real lists state."""
    monkeypatch.setenv("DGL_WSOL_METADATA", str(REAL))
    with monkeypatch.context() as patch:
        patch.setattr("dgl_lib.data.listed.need_files", lambda *_: None)
        bare = Lid("val", tmp_path)
    for name in bare.names:
        height, width = bare.sizes[name]
        photograph, mask = tmp_path / f"{height}x{width}.jpg", tmp_path / f"{height}x{width}.png"
        if not mask.exists():
            sets.picture(photograph, (height, width))
            sets.mask(mask, (width // 4, height // 4, width // 2, height // 2), size=(height, width))
        if name.endswith(SWAPPED):
            mask = tmp_path / "swapped.png"
            sets.mask(mask, (height // 4, width // 4, height // 2, width // 2), size=(width, height))
        sets.many([tmp_path / "ILSVRC/val" / f"{name}.JPEG"], photograph)
        sets.many([tmp_path / "LID/val" / f"{name}.png"], mask)
    val = Lid("val", tmp_path)
    val.check()
    assert len(val) == 2759
    for i in range(0, len(val), 50):
        record, (height, width) = val[i], bare.sizes[val.names[i]]
        assert record.image.shape == (height, width, 3)
        assert record.boxes.tolist() == [[width // 4, height // 4, width // 2, height // 2]]
