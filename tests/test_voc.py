"""The reader of VOC 2012's layout, on a small set drawn by ``sets.voc``."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sets
from sets import refused

from dgl_lib.data import load, voc
from dgl_lib.data.voc import CLASSES, Voc

BASE = "VOCdevkit/VOC2012"
BOX = "<bndbox><xmin>0</xmin><ymin>1.0</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
COW_BOY = f"<annotation><object><name>cow boy</name>{BOX}</object></annotation>"


@pytest.fixture
def root(tmp_path):
    return sets.voc(tmp_path)


def test_one_record_an_image_and_class(root):
    data = Voc("val", root)  # positions 0 and 5 of the ten sorted names
    assert data.classes == CLASSES == sets.VOC and len(CLASSES) == 20
    assert data.names[:3] == ["2007_000032_cat", "2007_000032_person", "2007_000037_aeroplane"]
    assert len(data) == 2 + 20 and data.labels[:3].tolist() == [7, 14, 0]
    assert np.array_equal(data.image(0), data.image(1))


def test_record_shows_its_class_only(root):
    cat, person = Voc("val", root)[0], Voc("val", root)[1]
    expected = np.zeros((24, 32), bool)
    expected[2:10, 4:12] = True  # the box 5, 3, 12, 10 counted from 1
    assert np.array_equal(cat.mask, expected) and cat.boxes.tolist() == [[4, 2, 11, 9]]
    assert person.boxes.tolist() == [[14, 3, 19, 19]] and not (cat.mask & person.mask).any()
    border = np.zeros((24, 32), bool)
    border[:, 0] = True
    assert np.array_equal(cat.ignore, border) and np.array_equal(person.ignore, border)
    assert cat.part is None


def test_roles(root):
    train, val, test = (Voc(split, root) for split in ("train", "val", "test"))
    images = [sorted({name[:11] for name in data.names}) for data in (train, val, test)]
    assert images[1] == ["2007_000032", "2007_000037"] and images[2] == ["2007_000050", "2007_000051"]
    assert images[0] == [f"2007_{i:06d}" for i in range(33, 42) if i != 37]
    assert len(load("voc", "train", root=root, per_class=2)) == 40
    test.check()


def test_two_of_a_class_share_a_record(root):
    path = root / BASE / "Annotations/2007_000051.xml"
    more = f"<object><name>cat</name>{BOX}</object></annotation>"
    path.write_text(path.read_text().replace("</annotation>", more))
    record = Voc("test", root)[-1]
    assert record.boxes.tolist() == [[4, 2, 11, 9], [0, 0, 2, 3]]


def test_object_without_a_pixel(root):
    path = root / BASE / "Annotations/2007_000051.xml"
    path.write_text(path.read_text().replace("cat", "dog"))
    record = Voc("test", root)[-1]
    assert record.label == CLASSES.index("dog") and not record.mask.any() and len(record.boxes) == 1


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("ImageSets/Segmentation/val.txt", "2007_000050\n2007_000050\n", ["val.txt", "twice"]),
        ("ImageSets/Segmentation/val.txt", "2007_000050 1\n", ["val.txt, line 1", "1 values (name)"]),
        ("ImageSets/Segmentation/val.txt", "2007_999999\n", ["2007_999999.xml", "no such file"]),
        ("Annotations/2007_000051.xml", "<annotation>", ["2007_000051.xml", "not an annotation file"]),
        ("Annotations/2007_000051.xml", "<annotation/>", ["no object found"]),
        ("Annotations/2007_000051.xml", COW_BOY, ["'cow boy' found", "aeroplane"]),
        ("Annotations/2007_000051.xml", "<annotation><object><name>cat</name></object></annotation>", ["four numbers"]),
    ],
)
def test_broken_lists(root, file, text, expected):
    (root / BASE / file).write_text(text)
    refused(lambda: Voc("test", root), *expected)


def test_broken_masks(root):
    data = Voc("test", root)
    [path] = data.annotations(0)
    sets.mask(path, (1, 1, 2, 2), 21)
    refused(lambda: data[0], "2007_000050.png", "value 21", "19, 20, 255 allowed")
    sets.mask(path, (1, 1, 2, 2), 8, (32, 24))
    refused(lambda: data[0], "24x32 pixels", "32x24")
    refused(data.check, "24x32 pixels", "32x24")
    path.unlink()
    refused(lambda: Voc("test", root), "2007_000050.png", "1 of 2 voc test masks")


def test_lists_that_lead_out_of_the_data(root, tmp_path_factory):
    listing, away = root / BASE / "ImageSets/Segmentation/val.txt", tmp_path_factory.mktemp("away") / "2007_000050"
    away.with_suffix(".xml").write_text((root / BASE / "Annotations/2007_000050.xml").read_text())
    listing.write_text(f"{away}\n")
    refused(lambda: Voc("test", root), "2007_000050.xml: lies outside of", "1 of 1 voc test annotations")


def test_box_outside_of_the_image(root):
    path = root / BASE / "Annotations/2007_000051.xml"
    path.write_text(path.read_text().replace("<xmax>12<", "<xmax>33<"))
    refused(Voc("test", root).check, "2007_000051.jpg", "box 4, 2, 32, 9", "within 32x24")


def test_download_goes_through_torchvision(tmp_path, monkeypatch):
    asked = []

    def fetch(folder, **options):
        asked.append(options)
        raise RuntimeError("no\nnetwork")

    stand_in = SimpleNamespace(VOCSegmentation=fetch)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", stand_in)
    monkeypatch.delenv("DGL_DATA", raising=False)
    monkeypatch.setattr("dgl_lib.data.listed.DOWNLOADS", tmp_path)
    refused(lambda: Voc("test"), "voc: download", "no network", "DGL_DATA")
    assert asked == [{"year": "2012", "image_set": "train", "download": True}]


def test_what_torchvision_unpacks_is_found(tmp_path, monkeypatch):
    """torchvision's own class up to the bytes: it is asked once, checks the stated MD5, and unpacks where we look."""
    asked = []

    def fetch(url, folder, filename, md5):
        asked.append((url.rpartition("/")[2], filename, md5))
        sets.voc(Path(folder))

    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", fetch)
    monkeypatch.setattr("dgl_lib.data.listed.DOWNLOADS", tmp_path / "data")
    monkeypatch.delenv("DGL_DATA", raising=False)
    assert Voc("test")[0].mask.any() and len(Voc("val")) == 22
    archive = "VOCtrainval_11-May-2012.tar"
    assert asked == [(archive, archive, "6cd6e144f989b92b3379bac3b3de84fd")]
    assert archive in str(voc.__doc__) and asked[0][2] in str(voc.__doc__)
