"""Pascal VOC 2012, segmentation part: several objects of 20 classes a photograph, with masks.

Citation: Everingham, Eslami, Van Gool, Williams, Winn, Zisserman, The Pascal Visual Object Classes Challenge: A
Retrospective, IJCV 2015. Licence: the photographs are Flickr's, under its terms of use (the challenge's page,
host.robots.ox.ac.uk/pascal/VOC/voc2012, under "Database Rights"); we found none stated for the annotations.
torchvision downloads ``VOCtrainval_11-May-2012.tar`` (2 GB) and checks its MD5, 6cd6e144f989b92b3379bac3b3de84fd.

**What a single-label network shows here.** DGL's classifiers end in a softmax and learn one label an image, while a VOC
photograph often shows several classes. There is one record an image AND class, so a photograph of k classes stands k
times in a split, each time with another label: in training its labels contradict each other and the best answer gives
each class 1/k; top-1 is right for at most one of the k. Ground-truth-known scores are the ones to read: asked for one
class, does the map leave the other objects alone? For a record these count as background.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from dgl_lib.data.listed import (
    Box,
    Listed,
    Size,
    check_split,
    every_nth,
    find_root,
    need_files,
    read_box,
    read_pairs,
    read_text,
)
from dgl_lib.errors import UserError

FOLDER = "VOCdevkit/VOC2012"  # as torchvision unpacks it
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)  # class i has the value i + 1 in a mask
BORDER = 255  # between objects, and objects nobody could tell: left out of every score


class Voc(Listed):
    """One split, in torchvision's layout::

        ROOT/VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt, val.txt   one name a line
        ROOT/VOCdevkit/VOC2012/JPEGImages/NAME.jpg
        ROOT/VOCdevkit/VOC2012/Annotations/NAME.xml                        classes and boxes, from 1, last included
        ROOT/VOCdevkit/VOC2012/SegmentationClass/NAME.png                  0, classes 1..20, 255 border

    "test" is VOC's ``val`` (its own test masks are not public); "val" is every fifth name of its ``train``, sorted, and
    "train" the rest. A record is named ``NAME_CLASS``; its boxes are those of its class, its mask the pixels of its
    class, its ignore mask the border. An object without a pixel of its own gives an empty mask.

    Args:
        split: "train", "val" or "test".
        root: the folder above; None: $DGL_DATA, or where that is unset ``data``, to which torchvision downloads.

    Raises:
        UserError: an unknown split, a missing file, a broken list or annotation.
    """

    def __init__(self, split: str, root: str | Path | None = None):
        check_split("voc", split)
        base = find_root("voc", root, _download) / FOLDER
        listing = base / "ImageSets" / "Segmentation" / ("val.txt" if split == "test" else "train.txt")
        images = list(read_pairs(listing, "name", None))
        if split != "test":
            held_out = every_nth(images, np.zeros(len(images), int), 5)
            images = [name for name in images if (name in held_out) == (split == "val")]
        need_files(base / "Annotations", (f"{name}.xml" for name in images), f"voc {split} annotations")
        names: list[str] = []
        labels: list[int] = []
        files: list[str] = []
        boxes: dict[str, list[Box]] = {}
        for image in images:
            by_class = _read_objects(base / "Annotations" / f"{image}.xml")
            for label in sorted(by_class):
                name = f"{image}_{CLASSES[label]}"
                names.append(name)
                labels.append(label)
                files.append(f"{image}.jpg")
                boxes[name] = by_class[label]
        self._masks = base / "SegmentationClass"
        need_files(self._masks, (f"{name}.png" for name in images), f"voc {split} masks")
        super().__init__(
            "voc",
            split,
            classes=CLASSES,
            names=names,
            labels=np.array(labels),
            folder=base / "JPEGImages",
            files=files,
            boxes=boxes,
        )

    def annotations(self, index: int) -> list[Path]:
        """The photograph's class mask."""
        return [self._masks / f"{Path(self._files[index]).stem}.png"]

    def _pixels(self, index: int, size: Size) -> dict[str, np.ndarray | None]:
        [path] = self.annotations(index)
        values = self.read(path, index, size)
        if not ((values <= len(CLASSES)) | (values == BORDER)).all():
            wrong = np.unique(values[(values > len(CLASSES)) & (values != BORDER)])
            raise UserError(f"{path}: value {wrong[0]} found; 0 to {len(CLASSES)} and {BORDER} (border) allowed")
        return {"mask": values == self.labels[index] + 1, "ignore": values == BORDER}


def _read_objects(path: Path) -> dict[int, list[Box]]:
    """Label -> boxes of the objects in an annotation file, not of their parts (head, hand, foot)."""
    found: dict[int, list[Box]] = {}
    try:
        objects = ElementTree.fromstring(read_text(path)).findall("object")
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not an annotation file ({error})") from error
    for thing in objects:
        name = thing.findtext("name", "").strip()
        if name not in CLASSES:
            raise UserError(f"{path}: class {name!r} given; allowed: {', '.join(CLASSES)}")
        corners = [thing.findtext(f"bndbox/{side}", "") for side in ("xmin", "ymin", "xmax", "ymax")]
        x0, y0, x1, y1 = read_box(corners, str(path))
        # From 1-based. A few boxes begin at 0 all the same.
        found.setdefault(CLASSES.index(name), []).append((max(x0 - 1, 0), max(y0 - 1, 0), x1 - 1, y1 - 1))
    if not found:
        raise UserError(f"{path}: no object in it; at least one expected")
    return found


def _download(folder: Path) -> None:
    from torchvision.datasets import VOCSegmentation

    VOCSegmentation(folder, year="2012", image_set="train", download=not (folder / FOLDER).is_dir())
