"""Any folder of photographs, one sub-folder a class, with masks or boxes where there are some. Nothing to download."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from dgl_lib.data.listed import (
    SPLITS,
    Box,
    Listed,
    Size,
    check_split,
    find_root,
    need_files,
    need_readable,
    read_box,
    read_table,
)
from dgl_lib.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
KINDS = {"mask": "masks", "ignore": "ignore", "part": "parts"}  # field of a record -> folder


class Folder(Listed):
    """One split of a folder in this layout; only ``images`` is needed to train::

        ROOT/images/CLASS/FILE.jpg      or another of SUFFIXES; classes and files in sorted order
        ROOT/masks/CLASS/FILE.png       one channel: 0 background, anything else the object
        ROOT/ignore/CLASS/FILE.png      the same: pixels left out of every score
        ROOT/parts/CLASS/FILE.png       the same: the telling part; counted inside the mask
        ROOT/boxes.csv                  image,x0,y0,x1,y1: pixels from 0, last included; image is CLASS/FILE.jpg; a row
                                        a box; without it, the box around the mask
        ROOT/splits.csv                 image,split: train, val or test for every image

    Without ``splits.csv``, each class's files are put in the order of the SHA-256 of ``CLASS/FILE.jpg``: the first
    fifth (rounded down, at least one) is "test", the next fifth "val", the rest "train". So the split depends on the
    names only, is the same on every machine, and every class of three images or more is in all three. A new file may
    push another over a border: write ``splits.csv`` where a data set grows.

    Where ``masks`` is there, each image of val and test needs one; ignore and part masks may be few. Photographs are
    turned as their EXIF data say, and masks and boxes are taken to be drawn on what is then seen.

    Args:
        split: "train", "val" or "test".
        root: the folder; None: $DGL_DATA.

    Raises:
        UserError: an unknown split, no images, a missing mask, a broken table, a class of fewer than three images.
    """

    oriented = True

    def __init__(self, split: str, root: str | Path | None = None):
        check_split("folder", split)
        self._root = find_root("folder", root)
        images = self._root / "images"
        classes = tuple(sorted(p.name for p in images.iterdir() if p.is_dir())) if images.is_dir() else ()
        if not classes:
            raise UserError(f"{images}: no folder in it; images/CLASS/FILE.jpg expected")
        by_class = {c: sorted(p.name for p in (images / c).iterdir() if p.suffix.lower() in SUFFIXES) for c in classes}
        if empty := [c for c in classes if not by_class[c]]:
            raise UserError(f"{images / empty[0]}: no image in it; files ending in {', '.join(SUFFIXES)} are read")
        for c, files in by_class.items():
            counts = Counter(Path(file).stem for file in files)
            if twice := [stem for stem, count in counts.items() if count > 1]:
                raise UserError(
                    f"{images / c}: two files are named {twice[0]!r} up to their ending; one mask could be either's"
                )
        every = [f"{c}/{file}" for c in classes for file in by_class[c]]
        table = self._root / "splits.csv"
        roles = _read_splits(table, every) if table.is_file() else _split_by_name(by_class, images)
        names = [name for name in every if roles[name] == split]
        boxes = _read_boxes(self._root / "boxes.csv", set(every))
        super().__init__(
            "folder",
            split,
            classes=classes,
            names=names,
            labels=np.array([classes.index(name.split("/")[0]) for name in names], dtype=np.int64),
            folder=images,
            files=names,
            boxes=boxes,
        )
        if (self._root / "masks").is_dir() and split != "train":
            need_files(self._root / "masks", (_png(name) for name in names), f"folder {split} masks")

    def check(self) -> None:
        """Decode everything (a few milliseconds a photograph): those of one's own are the ones that may be broken.

        Raises:
            UserError: a photograph or mask that cannot be read or does not fit; counts them and quotes the first.
        """
        need_readable(self)

    def _files_of(self, index: int) -> dict[str, Path]:
        """Field of a record -> its mask file, where there is one."""
        files = {kind: self._root / folder / _png(self.names[index]) for kind, folder in KINDS.items()}
        return {kind: path for kind, path in files.items() if path.is_file()}

    def annotations(self, index: int) -> list[Path]:
        """The mask, ignore mask and part mask that an image has."""
        return list(self._files_of(index).values())

    def _pixels(self, index: int, size: Size) -> dict[str, np.ndarray | None]:
        pixels = {kind: self.read(path, index, size) > 0 for kind, path in self._files_of(index).items()}
        if "part" in pixels and "mask" in pixels:
            pixels["part"] &= pixels["mask"]
        return dict(pixels)


def _png(name: str) -> str:
    return str(Path(name).with_suffix(".png"))


def _split_by_name(by_class: dict[str, list[str]], images: Path) -> dict[str, str]:
    roles = {}
    for c, files in by_class.items():
        if len(files) < len(SPLITS):
            raise UserError(
                f"{images / c}: {len(files)} images; a class needs three or more to be in train, val and test"
                " (or a splits.csv says where each belongs)"
            )
        names = sorted((f"{c}/{file}" for file in files), key=lambda name: hashlib.sha256(name.encode()).digest())
        fifth = max(1, len(names) // 5)
        for position, name in enumerate(names):
            roles[name] = "test" if position < fifth else "val" if position < 2 * fifth else "train"
    return roles


def _read_splits(table: Path, every: list[str]) -> dict[str, str]:
    roles: dict[str, str] = {}
    for row in read_table(table, ("image", "split")):
        name, split = row["image"], row["split"]
        if split not in SPLITS:
            raise UserError(f"{table}: {name!r} has split {split!r}; allowed: {', '.join(SPLITS)}")
        if name in roles:
            raise UserError(f"{table}: {name!r} is listed twice; once allowed")
        roles[name] = split
    if odd := sorted(roles.keys() ^ set(every)):
        where = "not in images/" if odd[0] in roles else "in images/ and not in the table"
        raise UserError(f"{table}: {odd[0]!r} is {where}; {len(odd)} such names, each image once expected")
    return roles


def _read_boxes(table: Path, every: set[str]) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = {}
    for row in read_table(table, ("image", "x0", "y0", "x1", "y1")) if table.is_file() else ():
        if row["image"] not in every:
            raise UserError(f"{table}: {row['image']!r} is not in images/; CLASS/FILE.jpg expected")
        box = read_box([row[side] for side in ("x0", "y0", "x1", "y1")], f"{table}: {row['image']}")
        boxes.setdefault(row["image"], []).append(box)
    return boxes
