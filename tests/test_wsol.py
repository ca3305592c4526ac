"""wsolevaluation's lists: generated ones with small images, and, where DGL_WSOL_METADATA is set, the real ones."""

import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import sets
from hypothesis import given, settings
from hypothesis import strategies as st
from sets import refused

from dgl_lib.data import Subset, wsol
from dgl_lib.data.listed import group_boxes, read_rows
from dgl_lib.data.wsol import Wsol, read_labels, read_masks, read_sizes
from dgl_lib.evaluate import Maps
from dgl_lib.evaluate.boxes import box_scores
from dgl_lib.metrics import masks_at

REAL = os.environ.get("DGL_WSOL_METADATA")
Cub, Ilsvrc, OpenImages = (partial(Wsol, name) for name in ("cub_wsol", "ilsvrc", "openimages"))


@pytest.fixture(autouse=True)
def generated(monkeypatch):
    monkeypatch.delenv("DGL_WSOL_METADATA", raising=False)


def test_all_boxes_of_an_image_and_no_mask(tmp_path):
    data = Cub("val", sets.wsol_boxes(tmp_path, "CUB"))
    assert (data.name, data.split, len(data), data.classes) == ("cub_wsol", "val", 6, sets.BIRDS)
    assert data.names[0] == "001.Black_footed_Albatross/val_0.jpg" and data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    first, second = data[0], data[1]
    assert first.boxes.tolist() == [[4, 2, 20, 12], [0, 0, 31, 23]] and first.boxes.dtype == np.int32
    assert second.boxes.tolist() == [[4, 2, 20, 12]]
    assert first.mask is first.ignore is first.part is None
    assert first.image.shape == (24, 32, 3) and np.array_equal(first.image, data.image(0))


def test_ilsvrc_keeps_roles_and_names(tmp_path):
    root = sets.wsol_boxes(tmp_path, "ILSVRC")
    train, val, test = (Ilsvrc(split, root) for split in ("train", "val", "test"))
    assert train.classes == val.classes == test.classes == ("tench", "goldfish")
    assert val.names[4] == "val2/1/1.jpeg" and test.names[5] == "val/ILSVRC2012_val_00000006.JPEG"
    assert train[0].boxes.shape == (0, 4)  # no localization is listed for training
    assert not set(train.names) & set(val.names) | set(val.names) & set(test.names)


def test_openimages_unites_objects_and_ignores_beside_them(tmp_path):
    record = OpenImages("test", sets.openimages(tmp_path))[1]
    expected = np.zeros((24, 32), bool)
    expected[2:10, 2:10] = expected[4:12, 12:20] = True
    assert np.array_equal(record.mask, expected)
    beside = np.zeros_like(expected)
    beside[8:14, 8:14] = True
    assert np.array_equal(record.ignore, beside & ~expected) and record.ignore.any()
    assert record.boxes.tolist() == [[2, 2, 19, 11]]
    assert OpenImages("train", tmp_path)[0].mask is None


def test_openimages_masks_of_another_size(tmp_path):
    data = OpenImages("val", sets.openimages(tmp_path))
    before = data[0].mask
    for path in data.annotations(0):
        pixels = np.asarray(sets.Image.open(path)).repeat(2, axis=0).repeat(2, axis=1)
        sets.Image.fromarray(pixels).save(path)
    assert np.array_equal(data[0].mask, before)
    data.check()


def test_openimages_masks_are_those_of_wsolevaluation_at_its_size(tmp_path):
    """Its ``get_mask``: each file resized by nearest neighbour to 224 x 224, whatever the photograph's size is."""
    data, random = OpenImages("val", sets.openimages(tmp_path)), np.random.default_rng(0)
    for path, size in zip(data.annotations(0), [(31, 17), (300, 411), (24, 32)], strict=True):
        sets.Image.fromarray(np.uint8(255) * random.integers(2, size=size, dtype=np.uint8)).save(path)

    def theirs(path):
        return (
            cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5
        )

    first, second, ignore = map(theirs, data.annotations(0))
    mask, ignored = masks_at(*data[0].stored)
    assert np.array_equal(mask, first | second) and np.array_equal(ignored, ignore & ~(first | second))
    assert not np.array_equal(masks_at([data[0].mask])[0], mask)  # by way of the photograph's size it is another

    maps = Maps({("dgl", "add1"): np.zeros((1, 3, 3), np.float32)}, np.zeros((1, 2), np.float32), np.zeros(1, int))
    [found] = box_scores(Subset(data, [0]), {1.0: maps}, [{"method": "dgl", "layer": "add1"}], tmp_path).values()
    assert found.pixels.sum(-1).tolist() == [[(~mask & ~ignored).sum(), mask.sum()]]


def test_lists_from_the_environment(tmp_path, monkeypatch):
    sets.wsol_boxes(tmp_path / "a", "CUB")
    (tmp_path / "a/metadata").rename(tmp_path / "lists")
    refused(lambda: Cub("val", tmp_path / "a"), "a/metadata/CUB/val", "DGL_WSOL_METADATA")
    monkeypatch.setenv("DGL_WSOL_METADATA", str(tmp_path / "lists"))
    assert len(Cub("val", tmp_path / "a")) == 6


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("image_ids.txt", lambda lines: lines[1:], ["class_labels.txt", "_0.jpg' is not in image_ids.txt"]),
        ("image_ids.txt", lambda lines: lines + lines[:1], ["image_ids.txt", "twice"]),
        (
            "class_labels.txt",
            lambda lines: [*lines[:2], lines[2] + ",7", *lines[3:]],
            ["line 3", "2 values (id,class)"],
        ),
        ("class_labels.txt", lambda lines: [lines[0] + "x", *lines[1:]], ["'0x' given", "whole number"]),
        (
            "class_labels.txt",
            lambda lines: [lines[0][:-1] + "1", *lines[1:]],
            ["class 1 '001.Black", "after ['001.Black", "one name each"],
        ),
        ("class_labels.txt", lambda lines: [line[:-1] + str(3 * int(line[-1])) for line in lines], ["without a gap"]),
        ("image_sizes.txt", lambda lines: [lines[0][:-3], *lines[1:]], ["line 1", "id,width,height"]),
        ("localization.txt", lambda lines: lines[:-1], ["no line for '002.Laysan_Albatross/val_2.jpg'", "1 of 6"]),
        ("localization.txt", lambda lines: [*lines, "x.jpg,1,1,2,2"], ["'x.jpg' is not in image_ids.txt"]),
        ("localization.txt", lambda lines: [lines[0] + ",1", *lines[1:]], ["line 1", "5 values"]),
        ("localization.txt", lambda lines: [lines[0][:-5] + "32,12", *lines[1:]], ["32, 12", "within 32x24"]),
        ("localization.txt", lambda lines: [lines[0][:-5] + "3,12", *lines[1:]], ["4, 2, 3, 12", "x0 <= x1"]),
        ("localization.txt", lambda lines: [lines[0].replace(",4,", ",-4,"), *lines[1:]], ["-4, 2", "0 <= x0"]),
        ("localization.txt", lambda lines: [lines[0].replace(",4,", ",,"), *lines[1:]], ["four numbers"]),
    ],
)
def test_broken_lists(tmp_path, file, change, expected):
    path = sets.wsol_boxes(tmp_path, "CUB") / "metadata/CUB/val" / file
    path.write_text("\n".join(change(path.read_text().splitlines())))
    refused(lambda: Cub("val", tmp_path), *expected)


def test_missing_files(tmp_path):
    root = sets.openimages(tmp_path)
    data = OpenImages("val", root)
    data.annotations(2)[1].unlink()
    refused(lambda: OpenImages("val", root), "_m_2.png", "1 of 12 openimages val masks")
    data.path(1).unlink()
    refused(lambda: OpenImages("val", root), "no such file", "1 of 4 openimages val photographs")
    (root / "metadata/OpenImages/val/localization.txt").unlink()
    refused(lambda: OpenImages("val", root), "localization.txt", "4 of 4 have none")
    refused(lambda: OpenImages("all", root), "'all'", "train, val, test")
    refused(lambda: OpenImages("val", root / "nowhere"), "nowhere", "not a folder")


@pytest.mark.parametrize("name", ["ILSVRC", "OpenImages"])
@pytest.mark.parametrize("way", ["../../secret.png", "{above}/secret.png"])
def test_lists_that_lead_out_of_the_data(tmp_path, name, way):
    """A photograph of ILSVRC, and a mask of OpenImages."""
    root = sets.openimages(tmp_path / "a") if name == "OpenImages" else sets.wsol_boxes(tmp_path / "a", name)
    sets.mask(tmp_path / "secret.png", (2, 2, 9, 9))
    lists = root / "metadata" / name / "val"
    file, column = ("localization.txt", 1) if name == "OpenImages" else ("image_ids.txt", 0)
    known = (lists / file).read_text().splitlines()[0].split(",")[column]
    for listing in lists.iterdir():
        listing.write_text(listing.read_text().replace(known, way.format(above=tmp_path)))
    refused(lambda: Wsol(name.lower(), "val", root), "secret.png: lies outside of", "1 of ")


def test_photograph_of_another_size_than_listed(tmp_path):
    data = Cub("test", sets.wsol_boxes(tmp_path, "CUB"))
    sets.picture(data.path(3), (24, 30))
    refused(data.check, "test_0.jpg", "30x24", "32x24")
    refused(lambda: data[3], "30x24")


def test_boxes_lie_on_the_photograph_as_stored(tmp_path):
    """An EXIF orientation turns nothing here: ILSVRC's boxes were drawn on the pixels as stored."""
    data = Cub("test", sets.wsol_boxes(tmp_path, "CUB"))
    sets.picture(data.path(0), exif=sets.exif(6))
    data.check()
    assert data[0].image.shape == (24, 32, 3)


def test_digest(tmp_path):
    root = sets.openimages(tmp_path)
    digests = {split: OpenImages(split, root).digest for split in ("train", "val", "test")}
    assert len(set(digests.values())) == 3 and OpenImages("val", root).digest == digests["val"]
    sets.mask(OpenImages("val", root).annotations(0)[0], (2, 2, 9, 10))
    assert OpenImages("val", root).digest != digests["val"]
    sets.picture(OpenImages("test", root).path(0), quality=5)
    assert OpenImages("test", root).digest != digests["test"]


NAME = st.text("abcXYZ019_./ ", min_size=1, max_size=12).map(lambda text: f"i{text}j")
SPAN = st.tuples(st.integers(0, 499), st.integers(0, 499)).map(sorted)


@settings(max_examples=30)
@given(
    images=st.dictionaries(
        NAME, st.tuples(st.integers(0, 999), st.lists(st.tuples(SPAN, SPAN), min_size=1)), min_size=1
    )
)
def test_lists_read_back_as_written(tmp_path_factory, images):
    folder = tmp_path_factory.getbasetemp() / "lists"  # written anew for each example
    boxes = {name: [(x[0], y[0], x[1], y[1]) for x, y in spans] for name, (_, spans) in images.items()}
    rows = [f"{name},{','.join(map(str, box))}" for name, each in boxes.items() for box in each]
    labels = {name: label for name, (label, _) in images.items()}
    sets.lists(folder, labels, "\n".join(f"{name},500,510" for name in images), "\n".join(rows))
    assert read_labels(folder) == labels and list(read_labels(folder)) == list(images)
    assert read_sizes(folder) == dict.fromkeys(images, (510, 500))
    path = folder / "localization.txt"
    assert group_boxes(read_rows(path, "id,x0,y0,x1,y1"), path, read_sizes(folder)) == boxes


def test_ignore_mask_in_the_first_line_only(tmp_path):
    path = tmp_path / "localization.txt"
    path.write_text("a,m1,i1\na,m2,\nb,m3,\n")
    assert read_masks(path) == {"a": [["m1", "i1"], ["m2", ""]], "b": [["m3", ""]]}
    path.write_text("a,m1,\na,m2,i1\n")
    refused(lambda: read_masks(path), "'a' has an ignore mask after its first line")


@pytest.mark.skipif(not REAL, reason="DGL_WSOL_METADATA names no lists")
@pytest.mark.parametrize(
    ("name", "split", "images", "objects", "classes"),
    [
        ("cub_wsol", "train", 5994, 5994, 200),
        ("cub_wsol", "val", 1000, 1000, 200),
        ("cub_wsol", "test", 5794, 5794, 200),
        ("ilsvrc", "val", 10000, 18532, 1000),
        ("ilsvrc", "test", 50000, 80477, 1000),
        ("openimages", "train", 29819, 0, 100),
        ("openimages", "val", 2500, 3854, 100),
        ("openimages", "test", 5000, 7632, 100),
    ],
)
def test_real_lists(tmp_path, monkeypatch, name, split, images, objects, classes):
    monkeypatch.setenv("DGL_WSOL_METADATA", str(REAL))
    monkeypatch.setattr("dgl_lib.data.listed.need_files", lambda *_: None)  # no image is here
    data = Wsol(name, split, tmp_path)
    assert (len(data), len(data.classes), len(np.unique(data.labels))) == (images, classes, classes)
    assert sum(map(len, data.boxes.values())) + sum(map(len, data.objects.values())) == objects
    assert len(data.sizes) == (0 if name == "openimages" else images)
    if name == "ilsvrc" and split == "test":
        assert [data.classes[c] for c in data.labels[:2]] == ["sea snake", "alp"]
        assert data.boxes["val/ILSVRC2012_val_00000002.JPEG"] == [(45, 49, 499, 162), (2, 69, 437, 207)]


@pytest.mark.skipif(not REAL, reason="DGL_WSOL_METADATA names no lists")
@pytest.mark.parametrize("name", ["cub_wsol", "openimages"])
def test_real_roles_do_not_overlap(name):
    folder = Path(str(REAL)) / wsol.FOLDERS[name]
    names = [set(read_labels(folder / split)) for split in ("train", "val", "test")]
    assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
