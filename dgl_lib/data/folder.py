"""Any folder of photographs: one sub-folder a class, masks or boxes if there are some. Nothing is downloaded."""

import hashlib
import os
from collections import Counter
from pathlib import Path

import numpy as np

from dgl_lib.data.listed import SPLITS, Listed, Pixels, Size, by_name, compare, group_boxes, read_table
from dgl_lib.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
KINDS = {"mask": "masks", "ignore": "ignore", "part": "parts"}  # field of a record -> folder


class Folder(Listed):
    """One split ("train", "val", "test") of a folder in this layout; only ``images`` is needed to train::

        ROOT/images/CLASS/FILE.jpg      or another of SUFFIXES; classes and files in sorted order
        ROOT/masks/CLASS/FILE.png       one channel: 0 background, anything else the object
        ROOT/ignore/CLASS/FILE.png      the same: pixels left out of every score
        ROOT/parts/CLASS/FILE.png       the same: the telling part; counted inside the mask
        ROOT/boxes.csv                  image (CLASS/FILE.jpg),x0,y0,x1,y1: a row a box, pixels from 0, last included;
                                        without it, the box around the mask
        ROOT/splits.csv                 image,split: train, val or test for every image

    Without ``splits.csv``, each class's files are put in the order of the SHA-256 of ``CLASS/FILE.jpg``. The first
    fifth (rounded down, at least one) is "test", the next fifth "val", the rest "train": the split depends on the names
    only. A new file may move another one into another split, so write ``splits.csv`` if a data set grows.
    If there is a folder ``masks``, each image of val and test needs a mask; ignore and part masks may be few.
    Photographs are turned as their EXIF data say; masks and boxes must be drawn on what is then seen."""

    name = "folder"
    oriented = small = True

    def read_lists(self) -> dict[str, int]:
        self.folder, self.masks = self.root / "images", self.root / "masks"
        splits, boxes = self.root / "splits.csv", self.root / "boxes.csv"
        self.classes = tuple(sorted(p.name for p in self.folder.glob("[!.]*/")))  # hidden ones are some program's own
        if not self.classes:
            raise UserError(f"{self.folder}: no folder in it; images/CLASS/FILE.jpg expected")
        if odd := [name for name in self.classes if not name.isprintable()]:  # a checkpoint could not hold it
            raise UserError(f"{self.folder}: class {odd[0]!r} given, a printable name in UTF-8 allowed")
        labels: dict[str, int] = {}
        roles: dict[str, str] = {}
        for label, name in enumerate(self.classes):
            place = self.folder / name
            files = sorted(f"{name}/{p.name}" for p in place.glob("[!.]*") if p.suffix.lower() in SUFFIXES)
            if not files:
                raise UserError(f"{place}: no image in it; files ending in {', '.join(SUFFIXES)} are read")
            [(stem, count)] = Counter(Path(file).stem for file in files).most_common(1)
            if count > 1:  # a mask could be either's
                raise UserError(f"{place}: two files are named {stem!r} up to their ending; one allowed")
            if len(files) < len(SPLITS) and not splits.is_file():
                need = "a class needs three or more to be in train, val and test, or a splits.csv"
                raise UserError(f"{place}: {len(files)} images; {need} that says where each is")
            order, fifth = sorted(files, key=lambda f: hashlib.sha256(os.fsencode(f)).digest()), max(1, len(files) // 5)
            roles |= {f: "test" if i < fifth else "val" if i < 2 * fifth else "train" for i, f in enumerate(order)}
            labels |= dict.fromkeys(files, label)
        if splits.is_file():
            roles = {name: role for name, [role] in by_name(read_table(splits, "image", "split"), splits).items()}
            compare(set(roles.values()), splits, SPLITS, ", ".join(SPLITS), every=False)
            compare(roles, splits, labels, "images/")
        if boxes.is_file():
            self.boxes = group_boxes(read_table(boxes, "image", "x0", "y0", "x1", "y1"), boxes, {})
            compare(self.boxes, boxes, labels, "images/", every=False)
        self.masks_needed = self.split != "train" and self.masks.is_dir()
        return {name: label for name, label in labels.items() if roles[name] == self.split}

    def _masks(self, index: int) -> dict[str, Path]:
        """Field of a record -> its mask file."""
        file = Path(self.names[index]).with_suffix(".png")
        paths = {kind: self.root / folder / file for kind, folder in KINDS.items()}
        return {kind: p for kind, p in paths.items() if (kind == "mask" and self.masks_needed) or p.is_file()}

    def annotations(self, index: int) -> list[Path]:
        return list(self._masks(index).values())

    def pixels(self, index: int, size: Size, values: list[np.ndarray]) -> Pixels:
        pixels = {kind: value > 0 for kind, value in zip(self._masks(index), values, strict=True)}
        if "part" in pixels and "mask" in pixels:
            pixels["part"] &= pixels["mask"]
        return dict(pixels)
