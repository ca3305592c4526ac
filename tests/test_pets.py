"""The reader of Oxford-IIIT Pet's layout, on a small set drawn here and, where DGL_DATA is set, on photographs."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sets import refused

from dgl_lib.data import load, need_readable, pets
from dgl_lib.data.pets import Pets

HEIGHT, WIDTH = 12, 16
TRAINVAL = [f"{breed}_{number}" for breed in ("Persian", "shiba_inu") for number in range(1, 12)]
TEST = [f"{breed}_{number}" for breed in ("Persian", "shiba_inu") for number in range(20, 23)]
VOC = """<annotation><object><name>cat</name>
<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object></annotation>"""


def trimap() -> np.ndarray:
    """Object in columns 4..9 and rows 3..8, a border of one pixel around it."""
    values = np.full((HEIGHT, WIDTH), 2, dtype=np.uint8)
    values[2:10, 3:11] = 3
    values[3:9, 4:10] = 1
    return values


@pytest.fixture
def root(tmp_path: Path) -> Path:
    annotations = tmp_path / "oxford-iiit-pet" / "annotations"
    (annotations / "trimaps").mkdir(parents=True)
    (tmp_path / "oxford-iiit-pet" / "images").mkdir()
    for split, names in (("trainval", TRAINVAL), ("test", TEST)):
        lines = [f"{name} {1 if name.startswith('Persian') else 2} 1 1\n" for name in names]
        (annotations / f"{split}.txt").write_text("".join(lines))
    for position, name in enumerate(TRAINVAL + TEST):
        photograph = np.full((HEIGHT, WIDTH, 3), 7 * position, dtype=np.uint8)
        Image.fromarray(photograph).save(tmp_path / "oxford-iiit-pet" / "images" / f"{name}.jpg")
        Image.fromarray(trimap()).save(annotations / "trimaps" / f"{name}.png")
    # Persian_20: columns 5..7 and rows 1..4 counted from 1, so 4..6 and 0..3 from 0; Persian_21: beside the object.
    heads = ["image,xmin,ymin,xmax,ymax", "Persian_20,5,1,7,4", "Persian_21,1,1,2,2", ""]
    (annotations / "heads.csv").write_text("\n".join(heads))
    return tmp_path


def annotation(root: Path, name: str) -> Path:
    return root / "oxford-iiit-pet" / "annotations" / name


def photograph(root: Path, name: str) -> Path:
    return root / "oxford-iiit-pet" / "images" / f"{name}.jpg"


def test_record(root):
    data = Pets("test", root)
    record = data[1]
    assert (data.name, data.split, data.classes, len(data)) == ("pets", "test", ("Persian", "shiba_inu"), 6)
    assert data.names == TEST and data.labels.tolist() == [0, 0, 0, 1, 1, 1] and data.labels.dtype == np.int64
    assert (record.name, record.label) == ("Persian_21", 0)
    assert record.image.shape == (HEIGHT, WIDTH, 3) and record.image.dtype == np.uint8
    assert abs(record.image.astype(int) - 7 * (len(TRAINVAL) + 1)).max() <= 1
    assert np.array_equal(record.image, data.image(1))
    assert np.array_equal(record.mask, trimap() == 1) and record.mask.sum() == 6 * 6
    assert np.array_equal(record.ignore, trimap() == 3) and record.ignore.sum() == 8 * 8 - 6 * 6
    assert record.boxes.tolist() == [[4, 3, 9, 8]] and record.boxes.dtype == np.int32


def test_head_box_counts_from_one_and_includes_its_last_pixel(root):
    data = Pets("test", root)
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[3, 4:7] = True  # of rows 0..3, the object has row 3 only; columns 4..6 are all its own
    assert np.array_equal(data[0].part, expected)
    assert data[1].part is None  # the head box holds none of the object
    assert data[2].part is None  # no head box


def test_head_boxes_from_xml(root):
    from_table = Pets("test", root)
    annotation(root, "heads.csv").unlink()
    annotation(root, "xmls").mkdir()
    for name, box in (("Persian_20", (5, 1, 7, 4)), ("Persian_21", (1, 1, 2, 2))):
        annotation(root, f"xmls/{name}.xml").write_text(VOC.format(*box))
    data = Pets("test", root)
    assert np.array_equal(data[0].part, from_table[0].part) and data[2].part is None
    assert data.digest == from_table.digest


def test_no_head_boxes_at_all(root):
    annotation(root, "heads.csv").unlink()
    assert Pets("test", root)[0].part is None


def test_validation_is_every_fifth_name_of_each_class(root):
    # As strings 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9: positions 0, 5, 10.
    expected = [f"{breed}_{number}" for breed in ("Persian", "shiba_inu") for number in (1, 4, 9)]
    val, train = Pets("val", root), Pets("train", root)
    assert val.names == expected and val.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.names == [name for name in TRAINVAL if name not in expected]
    lines = annotation(root, "trainval.txt").read_text().splitlines()
    annotation(root, "trainval.txt").write_text("\n".join(reversed(lines)))
    assert set(Pets("val", root).names) == set(expected)  # whatever the order of the list


def test_only_records_open_a_trimap(root, monkeypatch):
    data = Pets("train", root)
    monkeypatch.setattr("dgl_lib.data.listed.read_mask", lambda path: pytest.fail("a trimap was opened"))
    data.image(0)


def test_empty_trimap_gives_no_box(root):
    Image.fromarray(np.full((HEIGHT, WIDTH), 2, dtype=np.uint8)).save(annotation(root, "trimaps/Persian_20.png"))
    record = Pets("test", root)[0]
    assert record.boxes.shape == (0, 4) and not record.mask.any() and record.part is None


def test_digest_follows_the_content(root, tmp_path_factory):
    first = Pets("test", root).digest
    moved = tmp_path_factory.mktemp("elsewhere") / "copy"
    root.rename(moved)
    assert Pets("test", moved).digest == first != Pets("val", moved).digest
    values = trimap()
    values[3, 4] = 2
    Image.fromarray(values).save(annotation(moved, "trimaps/shiba_inu_22.png"))
    second = Pets("test", moved).digest
    annotation(moved, "heads.csv").write_text("image,xmin,ymin,xmax,ymax\nPersian_20,5,1,7,5\n")
    assert len({first, second, Pets("test", moved).digest}) == 3


def test_root_from_the_environment(root, monkeypatch):
    monkeypatch.setenv("DGL_DATA", str(root))
    assert Pets("test").names == TEST


def test_failed_download(tmp_path, monkeypatch):
    def unreachable(*args, **options):
        raise OSError("no\nnetwork")

    monkeypatch.delenv("DGL_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    stand_in = SimpleNamespace(OxfordIIITPet=unreachable)  # torchvision itself takes seconds to import
    monkeypatch.setitem(sys.modules, "torchvision", stand_in)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", stand_in)
    refused(lambda: Pets("test"), "download", "no network", "DGL_DATA")


def test_what_torchvision_unpacks_is_found(root, tmp_path, monkeypatch):
    """torchvision's own class up to the bytes: it checks MD5 sums, and unpacks where we look."""
    asked = []

    def fetch(url, download_root, md5):
        asked.append((url.rpartition("/")[2], len(md5)))
        part = asked[-1][0].partition(".")[0]  # images or annotations
        Path(download_root).mkdir(parents=True, exist_ok=True)
        (root / pets.FOLDER / part).rename(Path(download_root) / part)

    monkeypatch.setattr("torchvision.datasets.oxford_iiit_pet.download_and_extract_archive", fetch)
    monkeypatch.setattr("dgl_lib.data.listed.DOWNLOADS", tmp_path / "data")
    monkeypatch.delenv("DGL_DATA", raising=False)
    assert Pets("test").names == TEST and Pets("test")[0].mask.any()
    assert asked == [("images.tar.gz", 32), ("annotations.tar.gz", 32)]


def test_unknown_split(root):
    refused(lambda: Pets("trainval", root), "'trainval'", "train, val, test")


def test_folder_that_is_not_the_data_set(tmp_path):
    refused(lambda: Pets("test", tmp_path), str(tmp_path), "oxford-iiit-pet/annotations/trainval.txt: no such file")
    refused(lambda: Pets("test", tmp_path / "nowhere"), "pets: ", "nowhere' is not a folder", "DGL_DATA")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_missing_photograph(root, split):
    names = Pets(split, root).names
    for name in names[1:3]:
        photograph(root, name).unlink()
    refused(lambda: Pets(split, root), f"{names[1]}.jpg", f"2 of {len(names)} pets {split} photographs")


def test_photograph_without_its_trimap(root):
    annotation(root, "trimaps/Persian_22.png").unlink()
    refused(lambda: Pets("test", root), "Persian_22.png", "1 of 6 pets test masks")


def test_trimap_of_another_size(root):
    data = Pets("test", root)
    Image.fromarray(trimap().T.copy()).save(annotation(root, "trimaps/Persian_21.png"))
    for call in (lambda: Pets("test", root), lambda: data[1]):  # before long work, and at the record
        refused(call, "Persian_21.png", "12x16", "16x12")


def test_trimap_with_another_value(root):
    Image.fromarray(trimap() - 1).save(annotation(root, "trimaps/Persian_21.png"))
    refused(lambda: need_readable(Pets("test", root)), "Persian_21.png", "value 0 found", "1, 2, 3 allowed")


def test_corrupt_photograph(root):
    path = photograph(root, "Persian_21")
    path.write_bytes(b"")
    refused(lambda: Pets("test", root), "Persian_21.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=100)
    path.write_bytes(path.read_bytes()[:-200])  # the header stands: found by decoding
    refused(lambda: need_readable(Pets("test", root)), "Persian_21.jpg", "truncated")


def test_corrupt_trimap(root):
    annotation(root, "trimaps/Persian_21.png").write_bytes(b"not a picture")
    refused(lambda: Pets("test", root), "Persian_21.png", "not an image")


def test_empty_class(root):
    annotation(root, "test.txt").write_text("Persian_20 1 1 1\n")
    refused(lambda: load("pets", "test", root=root), "pets test", "'shiba_inu'", "no image")
    annotation(root, "trainval.txt").write_text("Persian_1 1 1 1\nPersian_2 1 1 1\nshiba_inu_1 2 2 1\n")
    assert len(Pets("val", root)) == 2  # position 0 of each class
    refused(lambda: load("pets", "train", root=root), "pets train", "'shiba_inu'", "no image")
    for part in ("trainval", "test"):
        annotation(root, f"{part}.txt").write_text("\n")
    refused(lambda: Pets("test", root), "annotations: no class in it")


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("test.txt", "Persian_20 1 1 1\nPersian_21\n", ["test.txt, line 2", "'Persian_21'", "2 values (name,class"]),
        ("test.txt", "Persian_20 one 1 1\n", ["test.txt: Persian_20", "'one' given, a whole number"]),
        ("test.txt", "Persian_20 0 1 1\n", ["class 0 'Persian'", "numbers from 1"]),
        ("test.txt", "Persian_20 1 1 1\nPersian_20 1 1 1\n", ["test.txt", "'Persian_20'", "twice"]),
        ("test.txt", "Persian_1 1 1 1\nshiba_inu_20 2 2 1\n", ["test.txt", "'Persian_1'", "trainval.txt too"]),
        ("test.txt", "Persian_20 2 1 1\n", ["annotations: class 2 'Persian'", "after ['Persian']", "one name each"]),
        ("test.txt", "beagle_20 4 1 1\n", ["class 4 'beagle' found after ['shiba_inu']", "without a gap"]),
        ("heads.csv", "name,box\n", ["heads.csv", "columns name, box", "xmin"]),
        ("heads.csv", "image,xmin,ymin,xmax,ymax\nPersian_20,5,1,7\n", ["heads.csv, line 2", "5 values"]),
        (
            "heads.csv",
            "image,xmin,ymin,xmax,ymax\nPersian_20,5,1,4,4\n",
            [".csv: Persian_20", "5, 1, 4, 4", "x0 <= x1"],
        ),
    ],
)
def test_damaged_lists(root, file, text, expected):
    annotation(root, file).write_text(text)
    refused(lambda: Pets("test", root), *expected)


def test_damaged_xml(root):
    annotation(root, "heads.csv").unlink()
    annotation(root, "xmls").mkdir()
    annotation(root, "xmls/Persian_20.xml").write_text("<annotation>")
    refused(lambda: Pets("test", root), "Persian_20.xml", "annotation file")


@pytest.mark.skipif(not os.environ.get("DGL_DATA"), reason="DGL_DATA names no data set")
def test_real_photographs():
    splits = {split: Pets(split) for split in ("train", "val", "test")}
    classes = ("Abyssinian", "american_bulldog", "american_pit_bull_terrier", "basset_hound", "beagle", "Bengal")
    if splits["test"].classes != classes:
        pytest.skip("DGL_DATA holds another selection of breeds")
    assert {split: len(data) for split, data in splits.items()} == {"train": 470, "val": 118, "test": 589}
    assert np.bincount(splits["val"].labels).tolist() == [20, 20, 20, 20, 18, 20]
    assert not set(splits["train"].names) & set(splits["val"].names)
    object_area, with_border, heads = [], [], {}
    for split, data in splits.items():
        records = [data[i] for i in range(len(data))]
        heads[split] = sum(record.part is not None for record in records)
        object_area += [record.mask.mean() for record in records]
        with_border += [(record.mask | record.ignore).mean() for record in records]
        assert [record.name for record in records if len(record.boxes) != 1] == ["Abyssinian_34"] * (split == "test")
    assert heads["train"] + heads["val"] == 582 and heads["test"] == 15
    assert np.mean(with_border) == pytest.approx(0.395, abs=0.002)  # the 39 % often quoted counts the border as object
    assert np.mean(object_area) == pytest.approx(0.275, abs=0.002)
