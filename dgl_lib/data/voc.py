"""Pascal VOC 2012, segmentation part: several objects of 20 classes a photograph, with masks.

torchvision downloads ``VOCtrainval_11-May-2012.tar`` (2 GB) and checks its MD5, 6cd6e144f989b92b3379bac3b3de84fd.
Source and terms: ``study/profiles/README.md``.

A photograph of k classes stands in a split k times, each time with another label. These labels contradict each other
in training (softmax): the best answer gives each class 1/k, and top-1 is right for at most one of the k. So read the
ground-truth-known scores: asked for one class, does the map leave the other objects (here background) alone?
"""

from pathlib import Path

import numpy as np

from dgl_lib.data.listed import Listed, Pixels, Size, every_nth, need_files, read_named, read_objects
from dgl_lib.errors import UserError

FOLDER = "VOCdevkit/VOC2012"  # as torchvision unpacks it
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)  # class i has the value i + 1 in a mask
BORDER = 255  # between objects, and objects that nobody could tell: left out of every score


class Voc(Listed):
    """One split ("train", "val", "test"), in torchvision's layout::

        ROOT/VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt, val.txt   one name a line
        ROOT/VOCdevkit/VOC2012/JPEGImages/NAME.jpg
        ROOT/VOCdevkit/VOC2012/Annotations/NAME.xml                        classes and boxes, from 1, last included
        ROOT/VOCdevkit/VOC2012/SegmentationClass/NAME.png                  0, classes 1..20, 255 border

    "test" is VOC's ``val`` (its own test masks are not public); "val" is every fifth name of its ``train``, sorted, and
    "train" the rest. A record is named ``NAME_CLASS`` and has the boxes and the mask of its class, if any."""

    name = "voc"
    classes: tuple[str, ...] = CLASSES
    allowed = (*range(len(CLASSES) + 1), BORDER)

    def read_lists(self) -> dict[str, int]:
        base = self.root / FOLDER
        self.folder, self.masks = base / "JPEGImages", base / "SegmentationClass"
        listing = base / "ImageSets" / "Segmentation" / ("val.txt" if self.split == "test" else "train.txt")
        images = dict.fromkeys(read_named(listing, "name", None), 0)
        images = images if self.split == "test" else every_nth(images, 5, held_out=self.split == "val")
        need_files((base / "Annotations" / f"{image}.xml" for image in images), f"voc {self.split} annotations", base)
        labels = {}
        for image in images:
            path = base / "Annotations" / f"{image}.xml"
            objects = read_objects(path)
            if not objects or {thing for thing, _ in objects} - set(CLASSES):
                found = ", ".join(repr(thing) for thing, _ in objects) or "no object"
                raise UserError(f"{path}: {found} found; one or more of {', '.join(CLASSES)} expected")
            for thing, (x0, y0, x1, y1) in sorted(objects, key=lambda named: CLASSES.index(named[0])):
                labels[name := f"{image}_{thing}"] = CLASSES.index(thing)
                # From 1-based. A few boxes begin at 0 all the same.
                self.boxes.setdefault(name, []).append((max(x0 - 1, 0), max(y0 - 1, 0), x1 - 1, y1 - 1))
        return labels

    def file(self, name: str) -> str:
        return f"{name.rpartition('_')[0]}.jpg"

    def pixels(self, index: int, size: Size, values: list[np.ndarray]) -> Pixels:
        [classes] = values
        return {"mask": classes == self.labels[index] + 1, "ignore": classes == BORDER}

    def download(self, folder: Path) -> None:
        from torchvision.datasets import VOCSegmentation

        VOCSegmentation(folder, year="2012", image_set="train", download=not (folder / FOLDER).is_dir())
