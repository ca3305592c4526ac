"""Any folder of photographs: layout, split by name, tables, and what is refused."""

import hashlib
import os
from collections import Counter

import numpy as np
import pytest
import sets
from PIL import Image
from sets import refused

from dgl_lib.data import load
from dgl_lib.data.folder import Folder
from dgl_lib.data.images import image_size, read_image, read_mask
from dgl_lib.data.listed import read_text
from dgl_lib.files import sha256

SPLITS = ("train", "val", "test")


@pytest.fixture
def root(tmp_path):
    return sets.folder(tmp_path)


def everything(root):
    splits = [Folder(split, root) for split in SPLITS]
    return {data.names[i]: data[i] for data in splits for i in range(len(data))}


def test_records(root):
    records = everything(root)
    assert sorted(records) == [f"{c}/{i}.jpg" for c in ("cup", "spoon") for i in range(5)]
    cup, spoon = records["cup/0.jpg"], records["spoon/3.jpg"]
    expected = np.zeros((24, 32), bool)
    expected[2:13, 4:21] = True
    assert np.array_equal(cup.mask, expected) and cup.boxes.tolist() == [[4, 2, 20, 12]] and spoon.label == 1
    assert cup.ignore.sum() == 48 and cup.part.sum() == 3 * 4  # columns 18 to 20, rows 2 to 5
    assert spoon.part is spoon.ignore is None


def test_split_goes_by_the_names_alone(root):
    order = sorted((f"cup/{i}.jpg" for i in range(5)), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    expected = {"test": order[:1], "val": order[1:2], "train": sorted(order[2:])}
    for split in SPLITS:
        data = Folder(split, root)
        assert data.classes == ("cup", "spoon") and [n for n in data.names if n.startswith("cup")] == expected[split]
    # Stated once as plain names, so that a change of the rule is seen.
    assert [Folder(split, root).names for split in ("val", "test")] == [
        ["cup/2.jpg", "spoon/0.jpg"],
        ["cup/1.jpg", "spoon/2.jpg"],
    ]


def test_ten_photographs_are_enough(tmp_path):
    for c in ("cup", "spoon"):
        for i in range(5):
            sets.picture(tmp_path / "images" / c / f"IMG_{i}.JPG", format="JPEG")
    assert {split: len(load("folder", split, root=tmp_path)) for split in SPLITS} == {"train": 6, "val": 2, "test": 2}
    assert load("folder", "test", root=tmp_path)[0].mask is None


def test_splits_from_a_table(root):
    rows = [f"{c}/{i}.jpg,{('train', 'train', 'val', 'test', 'test')[i]}" for c in ("spoon", "cup") for i in range(5)]
    table = root / "splits.csv"
    table.write_text("image,split\n" + "\n".join(rows))
    assert Folder("test", root).names == ["cup/3.jpg", "cup/4.jpg", "spoon/3.jpg", "spoon/4.jpg"]
    assert Counter(name for split in SPLITS for name in Folder(split, root).names).most_common(1)[0][1] == 1
    for text, expected in (
        ("\n".join(["image,split", *rows[1:]]), ["no line for 'spoon/0.jpg' of images/; 1 of 10"]),
        ("\n".join(["image,split", *rows, "spoon/9.jpg,val"]), ["'spoon/9.jpg' is not in images/"]),
        ("\n".join(["image,split", *rows, rows[0]]), ["'spoon/0.jpg' is listed twice"]),
        ("\n".join(["image,split", *rows[1:], "spoon/0.jpg,dev"]), ["'dev' is not in train, val, test"]),
        ("\n".join(["image,split", *rows, "cup/0.jpg"]), ["line 12", "2 values expected"]),
        ("\n".join(["name,split", *rows]), ["columns name, split; image, split expected"]),
    ):
        table.write_text(text)
        refused(lambda: Folder("test", root), "splits.csv", *expected)


def test_boxes_from_a_table(root):
    (root / "boxes.csv").write_text("image,x0,y0,x1,y1\ncup/0.jpg,1,2,3,4\ncup/0.jpg,5.0,6,7,8\n")
    records = everything(root)
    assert records["cup/0.jpg"].boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert records["cup/1.jpg"].boxes.tolist() == [[4, 2, 20, 12]]  # around its mask
    for row, expected in (
        ("cup/0.jpg,1,2,3", ["line 2", "5 values"]),
        ("cup/9.jpg,1,2,3,4", ["'cup/9.jpg' is not in images/"]),
        ("cup/0.jpg,3,2,1,4", ["cup/0.jpg: box 3, 2, 1, 4"]),
        ("cup/0.jpg,a,2,1,4", ["four numbers"]),
        ("cup/0.jpg,-0.5,2,1,4", ["0 <= x0"]),
        ("cup/0.jpg,0,2,2_0,4", ["four numbers"]),
        ("cup/0.jpg,0,2,1e999,4", ["four numbers"]),
        (f"cup/0.jpg,0,2,{'9' * 131073},4", ["field larger than field limit"]),
    ):
        (root / "boxes.csv").write_text(f"image,x0,y0,x1,y1\n{row}\n")
        refused(lambda: Folder("test", root), "boxes.csv", *expected)
    (root / "boxes.csv").write_text("image,x0,y0,x1,y1\ncup/1.jpg,0,0,32,3\n")
    refused(Folder("test", root).check, "cup/1.jpg", "within 32x24")


def test_photographs_are_turned_and_masks_fit_what_is_seen(root):
    data = Folder("test", root)
    sets.picture(data.path(0), exif=sets.exif(6))
    for call in (data.check, lambda: data[0]):
        refused(call, "32x24 pixels, its photograph has 24x32")
    sets.mask(root / "masks" / data.names[0].replace("jpg", "png"), (1, 1, 2, 2), size=(32, 24))
    data.check()
    assert data[0].image.shape == (32, 24, 3)


def test_what_is_missing(root):
    data = Folder("test", root)
    (root / "masks" / data.names[0].replace("jpg", "png")).unlink()
    refused(lambda: Folder("test", root), "masks/cup", "1 of 2 folder test masks")
    sets.picture(root / "images/cup/0.png")
    refused(lambda: Folder("val", root), "images/cup", "two files are named '0'")
    (root / "images/cup/0.png").unlink()
    (root / "images/fork").mkdir()
    refused(lambda: Folder("val", root), "images/fork", ".jpeg")
    (root / "images/fork/readme.txt").write_text("none")
    refused(lambda: Folder("val", root), "images/fork: no image")
    refused(lambda: Folder("val", root / "masks"), "images/CLASS/FILE.jpg expected")
    refused(lambda: Folder("dev", root), "'dev'", "train, val, test")


def test_two_images_of_a_class_are_too_few(tmp_path):
    refused(lambda: Folder("train", sets.folder(tmp_path, count=2)), "images/cup: 2 images", "three or more")


def test_what_another_program_hides_is_no_class_and_no_photograph(root):
    names = everything(root).keys()
    for hidden in ("images/.trash/0.jpg", "images/cup/._0.jpg", "images/cup/.ipynb_checkpoints/1.jpg"):
        sets.picture(root / hidden)
    (root / "images/.ipynb_checkpoints").mkdir()
    assert Folder("val", root).classes == ("cup", "spoon") and everything(root).keys() == names


def test_links_that_leave_the_folder_are_refused(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for i in range(3):
        sets.picture(elsewhere / f"secret/{i}.jpg")
    (root / "images/cup/0.jpg").rename(root / "images/cup/copy of 1.jpg")
    (root / "images/cup/0.jpg").symlink_to("copy of 1.jpg")
    sets.many([root / "masks/cup/copy of 1.png"], root / "masks/cup/0.png")
    assert len(everything(root)) == 11  # within it a link is as good as the file
    (root / "images/cup/0.jpg").unlink()
    (root / "images/cup/0.jpg").symlink_to(elsewhere / "secret/0.jpg")
    refused(lambda: everything(root), "images/cup/0.jpg: lies outside of", "1 of ")
    (root / "images/cup/0.jpg").unlink()
    (root / "images/secret").symlink_to(elsewhere / "secret")
    refused(lambda: Folder("train", root), "images/secret/", "lies outside of")
    # A folder that the layout itself names may lie elsewhere: no list and no name leads there.
    (root / "images/secret").unlink()
    for kind in ("images", "masks"):
        (root / kind).rename(elsewhere / kind)
        (root / kind).symlink_to(elsewhere / kind)
    assert len(everything(root)) == 10


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_named_as_a_photograph_is_refused_unopened(root, make):
    (root / "images/cup/0.jpg").unlink()
    make(root / "images/cup/0.jpg")
    refused(lambda: everything(root), "cup/0.jpg: not a regular file")
    for read in (read_image, read_mask, image_size, read_text, sha256):
        refused(lambda read=read: read(root / "images/cup/0.jpg"), "cup/0.jpg: not a regular file")


def test_content_decides_not_names_and_sizes(tmp_path):
    """A bitmap that was turned in place has its name, its size and perhaps its time stamp as before."""
    root = sets.folder(tmp_path)
    for file in (root / "images").rglob("*.jpg"):
        picture = np.random.default_rng(0).integers(256, size=(24, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(file, format="BMP")
    before, file = {split: Folder(split, root).digest for split in SPLITS}, Folder("train", root).path(0)
    size, times = file.stat().st_size, (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    Image.fromarray(picture[::-1, ::-1]).save(file, format="BMP")
    os.utime(file, ns=times)
    assert file.stat().st_size == size
    after = {split: Folder(split, root).digest for split in SPLITS}
    assert [split for split in SPLITS if before[split] != after[split]] == ["train"]


def test_digest(root):
    first = Folder("train", root).digest
    assert Folder("train", root).digest == first != Folder("val", root).digest
    (root / "boxes.csv").write_text(f"image,x0,y0,x1,y1\n{Folder('train', root).names[0]},1,2,3,4\n")
    assert Folder("train", root).digest != first


def test_names_that_are_not_utf8(root):
    """Photographs may have such names, classes not: a checkpoint's header could not hold them."""
    for folder, end in (("images", "jpg"), ("masks", "png")):
        for i in range(5):
            (root / folder / f"cup/{i}.{end}").rename(
                root / folder / "cup" / os.fsdecode(b"caf\xe9%d.%s" % (i, end.encode()))
            )
    for split in SPLITS:
        assert os.fsdecode(b"caf\xe9") in load("folder", split, root=root)[0].name
    (root / "images/cup").rename(root / "images" / os.fsdecode(b"\xe9cup"))
    refused(lambda: Folder("val", root), "'\\udce9cup' given", "a printable name in UTF-8 allowed")
