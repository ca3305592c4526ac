"""Any folder of photographs: one sub-folder a class, masks or boxes if there are some. Nothing is downloaded."""

import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np

from dgl_lib.data.listed import SPLITS, Listed, Pixels
from dgl_lib.data.lists import Size, by_name, compare, group_boxes, read_table
from dgl_lib.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
KINDS = {"mask": "masks", "ignore": "ignore", "part": "parts"}  # field of a record -> folder


class Folder(Listed):
    """One split ("train", "val", "test") of a folder in this layout; only ``images`` is needed to train::

        ROOT/images/CLASS/FILE.jpg      or another of SUFFIXES; classes and files in sorted order
        ROOT/masks/CLASS/FILE.png       one channel: 0 background, anything else the object
        ROOT/ignore/CLASS/FILE.png      the same: pixels left out of every score
        ROOT/parts/CLASS/FILE.png       the same: the telling part; counted inside the mask
        ROOT/boxes.csv                  image,x0,y0,x1,y1: pixels from 0, last included; image is CLASS/FILE.jpg; a row
                                        a box; without it, the box around the mask
        ROOT/splits.csv                 image,split: train, val or test for every image

    Without ``splits.csv``, each class's files are put in the order of the SHA-256 of ``CLASS/FILE.jpg``. The first
    fifth (rounded down, at least one) is "test", the next fifth "val", the rest "train". So the split depends on the
    names only, is the same on every machine, and every class of three images or more is in all three. A new file may
    move another one into another split: write ``splits.csv`` if a data set grows.

    If there is a folder ``masks``, each image of val and test needs a mask; ignore and part masks may be few.
    Photographs are turned as their EXIF data say; masks and boxes must be drawn on what is then seen.
    """

    name = "folder"
    oriented = small = True

    def read_lists(self) -> dict[str, int]:
        self.folder = self.root / "images"
        self.classes = tuple(sorted(p.name for p in self.folder.glob("*/")))
        if not self.classes:
            raise UserError(f"{self.folder}: no folder in it; images/CLASS/FILE.jpg expected")
        by_class = {name: self._files(name) for name in self.classes}
        labels = {file: label for label, name in enumerate(self.classes) for file in by_class[name]}
        splits, boxes = self.root / "splits.csv", self.root / "boxes.csv"
        if splits.is_file():
            roles = {name: role for name, [role] in by_name(read_table(splits, "image", "split"), splits).items()}
            compare(set(roles.values()), splits, SPLITS, ", ".join(SPLITS), every=False)
            compare(roles, splits, labels, "images/")
        else:
            roles = _split_by_name(by_class, self.folder)
        if boxes.is_file():
            self.boxes = group_boxes(read_table(boxes, "image", "x0", "y0", "x1", "y1"), boxes, {})
            compare(self.boxes, boxes, labels, "images/", every=False)
        self.masks_needed = self.split != "train" and (self.root / "masks").is_dir()
        return {name: label for name, label in labels.items() if roles[name] == self.split}

    def _files(self, name: str) -> list[str]:
        """A class's photographs as CLASS/FILE.jpg. No two may differ in their ending only: a mask could be either's."""
        files = sorted(p.name for p in (self.folder / name).iterdir() if p.suffix.lower() in SUFFIXES)
        if not files:
            raise UserError(f"{self.folder / name}: no image in it; files ending in {', '.join(SUFFIXES)} are read")
        for one, two in pairwise(sorted(Path(file).stem for file in files)):
            if one == two:
                raise UserError(f"{self.folder / name}: two files are named {one!r} up to their ending; one allowed")
        return [f"{name}/{file}" for file in files]

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


def _split_by_name(by_class: dict[str, list[str]], images: Path) -> dict[str, str]:
    roles = {}
    for name, files in by_class.items():
        if len(files) < len(SPLITS):
            need = "a class needs three or more to be in train, val and test, or a splits.csv that says where each is"
            raise UserError(f"{images / name}: {len(files)} images; {need}")
        fifth = max(1, len(files) // 5)
        for position, file in enumerate(sorted(files, key=lambda file: hashlib.sha256(file.encode()).digest())):
            roles[file] = "test" if position < fifth else "val" if position < 2 * fifth else "train"
    return roles
