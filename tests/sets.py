"""Small data sets: in the layouts of the real ones, same lists, same quirks; and toys that need no files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dgl_lib.data.records import Record
from dgl_lib.errors import UserError

if TYPE_CHECKING:
    from dgl_lib.evaluate.scores import Maps, Scores

HEIGHT, WIDTH = 24, 32
VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def refused(call, *expected: str) -> None:
    """``call`` raises a UserError of one line that contains each expected text."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for text in expected:
        assert text in message


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def picture(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH), shade: int = 90, **options: object) -> None:
    """A flat photograph of ``size`` (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (shade, shade, 40)).save(path, **options)


def exif(orientation: int) -> Image.Exif:
    """EXIF data of this orientation."""
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def mask(path: Path, box: tuple[int, int, int, int], value: int = 255, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """A mask of 0 and, in the box x0, y0, x1, y1 (last included), ``value``."""
    pixels = np.zeros(size, dtype=np.uint8)
    pixels[box[1] : box[3] + 1, box[0] : box[2] + 1] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def many(paths: list[Path], source: Path) -> None:
    """The same small file under many names, as hard links."""
    for folder in {path.parent for path in paths}:
        folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        os.link(source, path)


CAT_AND_PERSON = [("cat", (5, 3, 12, 10)), ("person", (15, 4, 20, 20))]  # boxes from 1, the last pixel included
ALL_TWENTY = [
    (thing, (3 + 6 * (i % 5), 2 + 5 * (i // 5), 6 + 6 * (i % 5), 5 + 5 * (i // 5))) for i, thing in enumerate(VOC)
]
VOC_TRAIN = {f"2007_{i:06d}": CAT_AND_PERSON if i == 32 else ALL_TWENTY for i in range(32, 42)}
VOC_VAL = {"2007_000050": ALL_TWENTY, "2007_000051": CAT_AND_PERSON[:1]}


def voc(root: Path) -> Path:
    """Ten training and two validation images; a border of 255 at the left edge, and a box of a head in every object."""
    base = root / "VOCdevkit" / "VOC2012"
    (base / "SegmentationClass").mkdir(parents=True)
    head = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    for role, images in (("train", VOC_TRAIN), ("val", VOC_VAL)):
        write(base / "ImageSets/Segmentation" / f"{role}.txt", "".join(f"{name}\n" for name in images))
        for name, things in images.items():
            picture(base / "JPEGImages" / f"{name}.jpg")
            pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
            pixels[:, 0] = 255
            xml = ""
            for thing, (x0, y0, x1, y1) in things:
                pixels[y0 - 1 : y1, x0 - 1 : x1] = VOC.index(thing) + 1
                box = f"<bndbox><xmax>{x1}</xmax><xmin>{x0}</xmin><ymax>{y1}</ymax><ymin>{y0}</ymin></bndbox>"
                xml += f"<object><name>{thing}</name>{head}{box}<difficult>0</difficult></object>"
            write(base / "Annotations" / f"{name}.xml", f"<annotation>{xml}</annotation>")
            palette = Image.fromarray(pixels, mode="P")
            palette.putpalette(list(range(256)) * 3)
            palette.save(base / "SegmentationClass" / f"{name}.png")
    return root


BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross")


def cub(root: Path, *, masks: bool = True) -> Path:
    """Six training and two test images of each of two birds; the boxes of the real list's form."""
    base = root / "CUB_200_2011"
    paths = [f"{bird}/Bird_{i:04d}_{i * 7}.jpg" for bird in BIRDS for i in range(1, 9)]
    write(base / "images.txt", "".join(f"{i} {path}\n" for i, path in enumerate(paths, 1)))
    write(base / "image_class_labels.txt", "".join(f"{i} {1 + (i > 8)}\n" for i in range(1, 17)))
    write(base / "train_test_split.txt", "".join(f"{i} {int(i % 8 not in (0, 7))}\n" for i in range(1, 17)))
    write(base / "bounding_boxes.txt", "".join(f"{i} 6.0 2.0 26.0 15.0\n" for i in range(1, 17)))
    write(base / "classes.txt", "".join(f"{i} {bird}\n" for i, bird in enumerate(BIRDS, 1)))
    for path in paths:
        picture(base / "images" / path)
        if masks:
            file = (root / "segmentations" / path).with_suffix(".png")
            mask(file, (8, 4, 20, 12), 204)
            pixels = np.array(Image.open(file))
            pixels[0] = 102  # votes of two in five: not a bird
            Image.fromarray(pixels).save(file)
    return root


def lists(folder: Path, labels: dict[str, int], sizes: str = "", localization: str = "") -> None:
    """wsolevaluation's four lists; like the real ones, without a new line at the end."""
    write(folder / "image_ids.txt", "\n".join(labels))
    write(folder / "class_labels.txt", "\n".join(f"{name},{label}" for name, label in labels.items()))
    write(folder / "image_sizes.txt", sizes)
    write(folder / "localization.txt", localization)


def sizes_of(names: list[str]) -> str:
    return "\n".join(f"{name},{WIDTH},{HEIGHT}" for name in names)


def wsol_boxes(root: Path, name: str) -> Path:
    """CUB or ILSVRC: three images of each of two classes in each split; the first of each split has two boxes."""
    names = {
        "CUB": lambda split, c, i: f"{BIRDS[c]}/{split}_{i}.jpg",
        "ILSVRC": lambda split, c, i: {
            "train": f"train/n0144076{c}/n0144076{c}_{i}.JPEG",
            "val": f"val2/{c}/{i}.jpeg",
            "test": f"val/ILSVRC2012_val_{1 + 3 * c + i:08d}.JPEG",
        }[split],
    }[name]
    for split in ("train", "val", "test"):
        labels = {names(split, c, i): c for c in range(2) for i in range(3)}
        boxes = [f"{key},4,2,20,12" for key in labels]
        boxes.insert(1, f"{next(iter(labels))},0,0,{WIDTH - 1},{HEIGHT - 1}")
        lists(root / "metadata" / name / split, labels, sizes_of(list(labels)), "\n".join(boxes))
        if name == "ILSVRC" and split == "train":
            (root / "metadata" / name / split / "localization.txt").unlink()
        for key in labels:
            picture(root / name / key, format="JPEG")
    return root


MIDS = ("01226z", "0ph39")


def openimages(root: Path) -> Path:
    """Two images of each of two classes; two objects each, the ignore mask in the first line only; no sizes."""
    for split in ("train", "val", "test"):
        labels = {f"{split}/{mid}/{c}{i}7af766bd43da90.jpg": c for c, mid in enumerate(MIDS) for i in range(2)}
        rows = []
        for key in labels:
            stem = key.removesuffix(".jpg")
            picture(root / "OpenImages" / key)
            if split != "train":
                rows += [f"{key},{stem}_m_1.png,{stem}_ignore.png", f"{key},{stem}_m_2.png,"]
                mask(root / "OpenImages" / f"{stem}_m_1.png", (2, 2, 9, 9))
                mask(root / "OpenImages" / f"{stem}_m_2.png", (12, 4, 19, 11))
                mask(root / "OpenImages" / f"{stem}_ignore.png", (8, 8, 13, 13))
        lists(root / "metadata" / "OpenImages" / split, labels, "", "\n".join(rows))
    return root


def lid(root: Path, classes: int = 2, count: int = 12) -> Path:
    """``count`` masked images of ``classes`` classes: every second of ILSVRC's validation images."""
    names = [f"ILSVRC2012_val_{i:08d}" for i in range(1, 2 * count + 1)]
    labels = {f"val/{name}.JPEG": i // 2 % classes for i, name in enumerate(names)}
    boxes = "\n".join(f"{key},0,0,5,5" for key in labels)
    lists(root / "metadata/ILSVRC/test", labels, sizes_of(list(labels)), boxes)
    masked = names[1::2]
    # The class numbers of the real list follow another order; 999 - label stands for that.
    rows = "".join(f"{name}.JPEG {999 - labels[f'val/{name}.JPEG']}\n" for name in masked)
    write(root / "metadata/LID/val/list_cls.txt", rows)
    picture(root / "photograph.jpg")
    mask(root / "mask.png", (4, 2, 20, 12))
    many([root / "ILSVRC/val" / f"{name}.JPEG" for name in masked], root / "photograph.jpg")
    many([root / "LID/val" / f"{name}.png" for name in masked], root / "mask.png")
    return root


def folder(root: Path, count: int = 5) -> Path:
    """Two classes of ``count`` photographs with masks, a part and an ignore mask for the first cup."""
    for c in ("cup", "spoon"):
        for i in range(count):
            picture(root / "images" / c / f"{i}.jpg")
            mask(root / "masks" / c / f"{i}.png", (4, 2, 20, 12))
    mask(root / "parts/cup/0.png", (18, 2, 24, 5))
    mask(root / "ignore/cup/0.png", (0, 0, 1, 23))
    return root


# ------------------------------------------------------------------------------------------------ toys without files


class Toy:
    """Random pictures of three classes; the object is a box."""

    name, classes = "toy", ("a", "b", "c")

    def __init__(self, split: str, count: int):
        self.split, self.digest = split, f"{split}-{count}"
        self.names, self.labels = [f"{split}-{i}" for i in range(count)], np.arange(count, dtype=np.int64) % 3

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> np.ndarray:
        return np.random.default_rng([len(self.split), index]).integers(256, size=(32, 40, 3)).astype(np.uint8)

    def __getitem__(self, index: int) -> Record:
        left, pixels = 2 + index % 9, np.zeros((32, 40), bool)
        pixels[4:20, left:24] = True
        box = np.array([[left, 4, 23, 19]], np.int32)
        return Record(self.names[index], self.image(index), int(self.labels[index]), box, pixels)


class Bordered(Toy):
    """The line above the object is in no score."""

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)
        assert record.mask is not None
        ignore = np.zeros_like(record.mask)
        ignore[3] = record.mask[4]
        return replace(record, ignore=ignore)


def random_maps(count: int, seed: int = 0) -> Maps:
    """Noise for every method and control on two layers, CAM on the last only."""
    from dgl_lib.evaluate.scores import Maps
    from dgl_lib.localize import CONTROLS, METHODS

    draw = np.random.default_rng(seed)
    pairs = [
        (m, layer) for m in (*METHODS, *CONTROLS) for layer in ("Mixed_6e", "add1") if m != "cam" or layer == "add1"
    ]
    maps = {pair: draw.normal(size=(count, 3, 3)).astype(np.float32) for pair in pairs}
    return Maps(maps, draw.normal(size=(count, 3)).astype(np.float32), np.arange(count) % 3)


def scored(hist: np.ndarray, several: bool = False) -> Scores:
    """Scores of CAM, DGL and the baselines, on one layer, with these histograms (rows, images, 4, 256)."""
    from dgl_lib.evaluate.scores import Scores

    rows = [("cam", "add1"), ("dgl", "add1"), ("whole_image", ""), ("centred_gaussian", "")]
    table = pd.DataFrame(rows, columns=["method", "layer"]).assign(scales="1", kernel=0.0)
    if several:  # the same maps at one scale and at two
        table = pd.concat([table[:2], table[:2].assign(scales="1+2")], ignore_index=True)
        hist = np.concatenate([hist[:2], hist[:2]])
    images = hist.shape[1]
    return Scores(table, hist, [f"{i}" for i in range(images)], np.zeros(images, int), np.zeros(images, bool))
