"""Oxford-IIIT Pet: photographs of cats and dogs by breed, with trimaps (Parkhi et al., Cats and Dogs, CVPR 2012)."""

from __future__ import annotations

import csv
import hashlib
import os
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from dgl_lib.data.images import image_size, read_image, read_mask
from dgl_lib.data.listed import DOWNLOADS
from dgl_lib.data.records import Record
from dgl_lib.errors import UserError

FOLDER = "oxford-iiit-pet"  # as torchvision names it
LISTS = {"train": "trainval", "val": "trainval", "test": "test"}  # split -> list file
OBJECT, BACKGROUND, BORDER = 1, 2, 3  # values of a trimap
HeadBox = tuple[int, int, int, int]  # xmin, ymin, xmax, ymax; Pascal VOC: the first pixel is 1, the last is included


class Pets:
    """One split of the data set, of all 37 breeds or of any part in the same layout::

        ROOT/oxford-iiit-pet/images/NAME.jpg                    NAME is BREED_NUMBER
        ROOT/oxford-iiit-pet/annotations/trainval.txt, test.txt NAME CLASS-ID ..., class ids 1, 2, ... without a gap
        ROOT/oxford-iiit-pet/annotations/trimaps/NAME.png       1 object, 2 background, 3 border
        ROOT/oxford-iiit-pet/annotations/heads.csv              image,xmin,ymin,xmax,ymax; else xmls/NAME.xml

    "val" is every fifth ``trainval`` image of each class: its names sorted (as strings: ``a_10`` before ``a_2``),
    positions 0, 5, 10, ... "train" is the rest of ``trainval``; "test" is ``test``. Images keep their list's order.

    A record's ``mask`` is the object, its ``ignore`` the border, its one box spans the object's pixels, and its
    ``part`` is the head: the object's pixels in the head box; None where there is no head box or none of its pixels is
    the object's. One trimap of the data set, Abyssinian_34 (test), is all background: an empty mask, and no box.

    Construction decodes nothing, but checks the split: lists, classes, head boxes, and that each photograph has a
    trimap of its own size (from the headers). ``check`` goes on to decode every file. ``image`` opens the photograph
    only.

    Args:
        split: "train", "val" or "test".
        root: the folder above; None: $DGL_DATA, or where that is unset ``data``, to which torchvision downloads the
            full data set (0.8 GB).

    Raises:
        UserError: an unknown split, a folder that is not the data set, or the first thing that fails those checks.
    """

    name = "pets"

    def __init__(self, split: str, root: str | Path | None = None):
        if split not in LISTS:
            raise UserError(f"pets: unknown split {split!r}; allowed: {', '.join(LISTS)}")
        self.split = split
        self._folder = _find(root) / FOLDER
        # The lists are read here, not by torchvision's class, which reports a damaged list or a missing file only as a
        # traceback in the middle of an epoch.
        lists = {name: _read_list(self._annotation(f"{name}.txt")) for name in dict.fromkeys(LISTS.values())}
        if both := sorted(lists["trainval"].keys() & lists["test"].keys()):
            found = f"{both[0]!r} is in trainval.txt too ({len(both)} such names)"
            raise UserError(f"{self._annotation('test.txt')}: {found}")
        self.classes = _class_names(lists["trainval"] | lists["test"], self._folder / "annotations")
        listed = lists[LISTS[split]]
        if split != "test":
            held_out = _every_fifth(listed)
            listed = {name: c for name, c in listed.items() if (name in held_out) == (split == "val")}
        self.names = list(listed)
        self.labels = np.array([c - 1 for c in listed.values()], dtype=np.int64)
        self._check_files()
        self._heads = self._read_heads()

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> np.ndarray:
        """The photograph alone, (H, W, 3) uint8 RGB. Raises UserError where the file is corrupt."""
        return read_image(self._photograph(self.names[index]))

    def __getitem__(self, index: int) -> Record:
        """The photograph and all that is known of it.

        Raises:
            UserError: a corrupt file, a trimap of another size than its photograph, a value other than 1, 2, 3 in it.
        """
        name, image = self.names[index], self.image(index)
        trimap = read_mask(self._trimap(name))
        if trimap.shape != image.shape[:2]:
            raise UserError(self._other_size(name, image.shape[:2], trimap.shape))
        if not np.isin(trimap, (OBJECT, BACKGROUND, BORDER)).all():
            found = f"{trimap.min()}..{trimap.max()}"
            raise UserError(f"{self._trimap(name)}: values {found}; 1 (object), 2 (background), 3 (border) allowed")
        mask = trimap == OBJECT
        part = np.zeros_like(mask)
        for xmin, ymin, xmax, ymax in self._heads.get(name, []):
            part[max(ymin - 1, 0) : ymax, max(xmin - 1, 0) : xmax] = True  # from 1-based, last pixel included
        part &= mask
        return Record(
            name=name,
            image=image,
            label=int(self.labels[index]),
            boxes=_box(mask),
            mask=mask,
            ignore=trimap == BORDER,
            part=part if part.any() else None,
        )

    def check(self) -> None:
        """Decode every photograph and every trimap once; UserError at the first that fails (about 3 ms an image)."""
        for index in range(len(self)):
            self[index]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the split: each image's name, class, head boxes, and the bytes of its photograph and trimap."""
        total = hashlib.sha256()
        for name, label in zip(self.names, self.labels, strict=True):
            total.update(f"{name} {self.classes[label]} {self._heads.get(name, [])}\n".encode())
            for path in (self._photograph(name), self._trimap(name)):
                total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()

    def _photograph(self, name: str) -> Path:
        return self._folder / "images" / f"{name}.jpg"

    def _annotation(self, name: str) -> Path:
        return self._folder / "annotations" / name

    def _trimap(self, name: str) -> Path:
        return self._annotation("trimaps") / f"{name}.png"

    def _other_size(self, name: str, image: tuple[int, ...], trimap: tuple[int, ...]) -> str:
        return (
            f"{self._trimap(name)}: {trimap[1]}x{trimap[0]} pixels, its photograph has {image[1]}x{image[0]};"
            " a trimap has its photograph's size"
        )

    def _check_files(self) -> None:
        """No class is empty; each name has its photograph and its trimap; the two have one size."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if empty := [name for name, count in zip(self.classes, counts, strict=True) if count == 0]:
            raise UserError(
                f"{self._annotation(LISTS[self.split] + '.txt')}: class {empty[0]!r} has no {self.split} image"
                f" ({len(empty)} of {len(self.classes)} classes are empty); every class needs at least one"
            )
        for kind, path in (("photograph", self._photograph), ("trimap", self._trimap)):
            if missing := [name for name in self.names if not path(name).is_file()]:
                raise UserError(
                    f"{path(missing[0])}: no such file; {len(missing)} of {len(self)} {self.split} images"
                    f" have no {kind}, and each name in {LISTS[self.split]}.txt needs one"
                )
        for name in self.names:
            image, trimap = image_size(self._photograph(name)), image_size(self._trimap(name), oriented=False)
            if image != trimap:
                raise UserError(self._other_size(name, image, trimap))

    def _read_heads(self) -> dict[str, list[HeadBox]]:
        """Name -> head boxes, from heads.csv or else from the xmls there are; names without a head box are left out."""
        table = self._annotation("heads.csv")
        if table.is_file():
            return _heads_from_csv(table)
        files = {name: self._annotation("xmls") / f"{name}.xml" for name in self.names}
        return {name: _heads_from_xml(path) for name, path in files.items() if path.is_file()}


def _find(root: str | Path | None) -> Path:
    """The folder that holds ``oxford-iiit-pet``, downloaded where nothing else is said."""
    root = root or os.environ.get("DGL_DATA")
    if not root:
        from torchvision.datasets import OxfordIIITPet

        root = DOWNLOADS
        try:
            OxfordIIITPet(root=root, download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"pets: download to {str(root)!r} failed ({reason}); DGL_DATA may name a folder") from error
    contents = ("images", "annotations/trainval.txt", "annotations/test.txt", "annotations/trimaps")
    needed = [f"{FOLDER}/{path}" for path in contents]
    if absent := [path for path in needed if not (Path(root) / path).exists()]:
        raise UserError(f"{root}: not the Oxford-IIIT Pet data set: no {absent[0]} (looked for {', '.join(needed)})")
    return Path(root)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable text file ({error})") from error


def _read_list(path: Path) -> dict[str, int]:
    """Name -> class id, in the file's order."""
    listed: dict[str, int] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, class_id = (*line.split(), "", "")[:2]
        if "_" not in name or not class_id.isdecimal() or int(class_id) < 1:
            raise UserError(f"{path}, line {number}: {line.strip()!r} given, 'BREED_NUMBER CLASS-ID ...' expected")
        if name in listed:
            raise UserError(f"{path}, line {number}: {name!r} is listed twice")
        listed[name] = int(class_id)
    return listed


def _class_names(listed: dict[str, int], folder: Path) -> tuple[str, ...]:
    """The breed of class ids 1, 2, ...: what stands before the last underscore of the names."""
    breeds: dict[int, str] = {}
    for name, class_id in listed.items():
        breed = name.rsplit("_", 1)[0]
        if breeds.setdefault(class_id, breed) != breed:
            raise UserError(
                f"{folder}: in the lists, class id {class_id} stands for {breeds[class_id]!r} and for {breed!r}"
            )
    if sorted(breeds) != list(range(1, len(breeds) + 1)) or len(set(breeds.values())) < len(breeds) or not breeds:
        found = ", ".join(f"{class_id} {breeds[class_id]}" for class_id in sorted(breeds)) or "none"
        raise UserError(
            f"{folder}: the lists hold classes {found}; ids 1, 2, ... without a gap expected, one breed each"
        )
    return tuple(breeds[class_id] for class_id in sorted(breeds))


def _every_fifth(listed: dict[str, int]) -> set[str]:
    """Of each class, the names at positions 0, 5, 10, ... when sorted."""
    by_class: dict[int, list[str]] = {}
    for name in sorted(listed):
        by_class.setdefault(listed[name], []).append(name)
    return {name for names in by_class.values() for name in names[::5]}


def _head_box(values: list[str], where: str) -> HeadBox:
    try:
        # Through float: some annotation tools write "33.0".
        xmin, ymin, xmax, ymax = (int(float(value)) for value in values)
    except (ValueError, OverflowError):
        raise UserError(f"{where}: head box {values}; four numbers xmin, ymin, xmax, ymax expected") from None
    if not (xmin <= xmax and ymin <= ymax and xmax >= 1 and ymax >= 1):
        raise UserError(f"{where}: head box {values} holds no pixel; xmin <= xmax, ymin <= ymax, from 1 on, expected")
    return xmin, ymin, xmax, ymax


def _heads_from_csv(path: Path) -> dict[str, list[HeadBox]]:
    rows = csv.DictReader(_read_text(path).splitlines())
    columns = ("image", "xmin", "ymin", "xmax", "ymax")
    if set(columns) - set(rows.fieldnames or []):
        raise UserError(f"{path}: columns {rows.fieldnames}; {', '.join(columns)} expected")
    heads: dict[str, list[HeadBox]] = {}
    for row in rows:
        values = [row[column] or "" for column in columns[1:]]
        heads.setdefault(row["image"], []).append(_head_box(values, f"{path}, line {rows.line_num}"))
    return heads


def _heads_from_xml(path: Path) -> list[HeadBox]:
    """Every ``bndbox`` of a Pascal VOC annotation file."""
    try:
        found = ElementTree.fromstring(_read_text(path)).iter("bndbox")
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not an annotation file ({error})") from error
    sides = ("xmin", "ymin", "xmax", "ymax")
    return [_head_box([box.findtext(side, "") for side in sides], str(path)) for box in found]


def _box(mask: np.ndarray) -> np.ndarray:
    """(1, 4) int32 ``x0, y0, x1, y1`` around the mask's pixels, the last included; (0, 4) for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return np.zeros((0, 4), dtype=np.int32)
    return np.array([[columns[0], rows[0], columns[-1], rows[-1]]], dtype=np.int32)
