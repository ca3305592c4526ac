"""The base of all data sets that are made of lists and image files, and how their lists are read."""

import csv
import hashlib
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from dgl_lib.data.images import image_size, read_image, read_mask
from dgl_lib.data.records import Dataset, Record, around
from dgl_lib.errors import UserError
from dgl_lib.files import lies_in, regular, sha256

SPLITS = ("train", "val", "test")
SIDES = ("xmin", "ymin", "xmax", "ymax")  # of a box in Pascal VOC's annotation files
DOWNLOADS = Path(__file__).resolve().parents[2] / "data"  # in the project, whatever folder the caller is in
Root = str | Path | None
Box = tuple[int, int, int, int]  # x0, y0, x1, y1, the last pixel included
Size = tuple[int, int]  # height, width
Groups = dict[str, list[list[str]]]  # first value of a row -> the other values of each row that begins so
Pixels = dict[str, Any]  # "mask", "ignore", "part" and "stored" of a ``Record``


class Listed(Dataset):
    """One split of the photographs that a list names. ``read_lists``, ``pixels`` and so on tell the sets apart.

    Construction decodes no image; a record is made when asked for and not kept. ``root`` is the folder of the data;
    None: $DGL_DATA, and if that is unset ``download`` fetches them into ``data``. UserError for a split that is not one
    of ``splits``, a missing file or a broken list. Photographs are taken as stored unless ``oriented`` is set:
    published boxes and masks lie in that frame (ILSVRC2012_val_00018903), and published protocols ignore EXIF data."""

    root: Path
    splits: tuple[str, ...] = SPLITS
    oriented = False
    small = False  # so few images that a check may decode them all
    suffix = ""  # a photograph's name and its suffix make its file
    folder: Path  # of the photographs
    masks: Path | None = None  # the folder of the masks
    allowed: tuple[int, ...] = ()  # the values that a mask file may hold; (): all
    cut = False  # listed boxes may reach beyond the image and are cut at its edge

    def __init__(self, split: str, root: Root = None):
        if split not in self.splits:
            raise UserError(f"{self.name}: unknown split {split!r}; allowed: {', '.join(self.splits)}")
        self.split, self.root = split, self._find(root)
        self.boxes: dict[str, list[Box]] = {}  # a name without any gets the box around its mask
        self.heads: dict[str, list[Box]] = {}  # of telling parts
        self.sizes: dict[str, Size] = {}  # as a list states them
        labels = self.read_lists()
        self.names, self.labels = list(labels), np.array(list(labels.values()), dtype=np.int64)
        photographs = (os.path.join(self.folder, self.file(name)) for name in labels)  # noqa: PTH118
        masks, what = (path for i in range(len(self)) for path in self.annotations(i)), f"{self.name} {split}"
        need_files(photographs, f"{what} photographs", self.root, self.folder)
        need_files(masks, f"{what} masks", self.root, self.masks or self.folder)

    def read_lists(self) -> dict[str, int]:
        """Name -> label, in the split's order. Also sets the attributes above."""
        raise NotImplementedError

    def file(self, name: str) -> str:
        """A photograph's file in ``folder``."""
        return name + self.suffix

    def annotations(self, index: int) -> list[Path]:
        """An image's mask files."""
        return [(self.masks / self.file(self.names[index])).with_suffix(".png")] if self.masks else []

    def pixels(self, index: int, size: Size, values: list[np.ndarray]) -> Pixels:
        """An image's masks from the values of its mask files, each (h, w) uint8, if it has any."""
        raise NotImplementedError

    def fits(self, index: int, size: Size, mask: Size) -> bool:
        """Whether a mask file of this size goes with a photograph of ``size``."""
        return mask == size

    def download(self, folder: Path) -> None:
        raise UserError(f"{self.name}: neither root nor DGL_DATA is set; one of them names the folder of the data")

    def path(self, index: int) -> Path:
        return self.folder / self.file(self.names[index])

    def image(self, index: int) -> np.ndarray:
        """The photograph alone, (H, W, 3) uint8 RGB; UserError if the file cannot be decoded."""
        return read_image(self.path(index), oriented=self.oriented)

    def __getitem__(self, index: int) -> Record:
        """The photograph and all that is known of it; UserError if a file cannot be decoded or does not fit."""
        image, paths = self.image(index), self.annotations(index)
        size, values = image.shape[:2], [read_mask(path) for path in paths]
        boxes = np.array(self._checked_boxes(index, size, [mask.shape for mask in values]), np.int32).reshape(-1, 4)
        for path, found in zip(paths, values, strict=True):
            if self.allowed and (odd := found[~np.isin(found, self.allowed)]).size:
                raise UserError(f"{path}: value {odd[0]} found; {', '.join(map(str, self.allowed))} allowed")
        pixels = self.pixels(index, size, values) if values else {}
        if len(boxes) == 0 and (mask := pixels.get("mask")) is not None:
            boxes = around(mask)
        return Record(self.names[index], image, int(self.labels[index]), boxes, **pixels)

    def check(self) -> None:
        """Open the headers of val's and test's photographs and masks; UserError at the first that does not fit."""
        for index in range(len(self)) if self.split != "train" else ():
            size = image_size(self.path(index), oriented=self.oriented)
            self._checked_boxes(index, size, [image_size(path, oriented=False) for path in self.annotations(index)])

    def _checked_boxes(self, index: int, size: Size, masks: list[Size]) -> list[Box]:
        """An image's boxes, if these, the listed size and its masks' sizes fit the photograph's size."""
        name, path, (height, width) = self.names[index], self.path(index), size
        if (listed := self.sizes.get(name, size)) != size:
            found = f"{width}x{height} pixels, its list says {listed[1]}x{listed[0]}"
            raise UserError(f"{path}: {found}; boxes and masks are given for photographs of their original size")
        boxes = self.boxes.get(name, [])
        if self.cut:
            boxes = [(x0, y0, min(x1, width - 1), min(y1, height - 1)) for x0, y0, x1, y1 in boxes]
        boxes = [read_box(box, path, size) for box in boxes]
        for file, (h, w) in zip(self.annotations(index), masks, strict=True):
            if not self.fits(index, size, (h, w)):
                raise UserError(f"{file}: {w}x{h} pixels, its photograph has {width}x{height}; equal sizes expected")
        return boxes

    @cached_property
    def digest(self) -> str:
        """SHA-256 of each image's name, class and listed boxes, and of the bytes of its photograph and its masks."""
        # Sizes and times do not tell whether a photograph is still the same. Reading ILSVRC's 140 GB takes minutes, and
        # each pass of a training reads and decodes them, too.
        total = hashlib.sha256()
        for index, name in enumerate(self.names):
            boxes = (self.heads or self.boxes).get(name, [])
            total.update(f"{name} {self.classes[self.labels[index]]} {boxes}\n".encode())
            for path in (self.path(index), *self.annotations(index)):
                total.update(bytes.fromhex(sha256(path)))
        return total.hexdigest()

    def _find(self, root: Root) -> Path:
        if given := root or os.environ.get("DGL_DATA"):
            if not Path(given).is_dir():
                raise UserError(f"{self.name}: {str(given)!r} is not a folder; root or DGL_DATA names that of the data")
            return Path(given)
        try:
            self.download(DOWNLOADS)
        except (OSError, RuntimeError) as error:
            failed = f"download to {str(DOWNLOADS)!r} failed ({' '.join(str(error).split())})"
            raise UserError(f"{self.name}: {failed}; DGL_DATA may name a folder instead") from error
        return DOWNLOADS


def need_files(files: Iterable[str | Path], what: str, *folders: Path) -> None:
    """UserError, with the first and the count of the others, unless each is a file that lies in one of ``folders``.

    Links are followed, and names in lists may hold "..": nothing is read that lies elsewhere."""
    # Each place is listed once. To ask for a million files one by one takes minutes on a disk that is not local.
    wanted = {file: os.path.split(file) for file in files}
    there: dict[str, set[str]] = {}
    for place in {at for at, _ in wanted.values() if os.path.isdir(at) and lies_in(at, *folders)}:  # noqa: PTH112
        with os.scandir(place) as found:
            there[place] = {x.name for x in found if x.is_file() and (not x.is_symlink() or lies_in(x.path, *folders))}
    if missing := [file for file, (place, name) in wanted.items() if name not in there.get(place, ())]:
        why = f"lies outside of {str(folders[0])!r}" if regular(missing[0]).exists() else "no such file"
        raise UserError(f"{missing[0]}: {why}; {len(missing)} of {len(wanted)} {what} are missing")


def read_text(path: Path) -> str:
    """A text file in UTF-8."""
    try:
        return regular(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise UserError(f"{path}: {'no such file' if missing else f'not a readable text file ({error})'}") from error


def read_rows(path: Path, columns: str, separator: str | None = ",") -> Groups:
    """The lines of a list without a header, but for empty ones and those that begin with #.

    ``columns`` names them, comma-separated; a last "..." lets others be dropped. ``separator`` None is white space."""
    named, groups = columns.removesuffix(",..."), Groups()
    count = named.count(",") + 1
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            values = [value.strip() for value in line.split(separator)]
            if len(values) < count or (len(values) > count and named == columns):
                raise UserError(f"{path}, line {number}: {line.strip()!r} given, {count} values ({columns}) expected")
            groups.setdefault(values[0], []).append(values[1:count])
    return groups


def read_table(path: Path, *columns: str) -> Groups:
    """The values in ``columns`` of a CSV file with a header."""
    reader, groups = csv.DictReader(read_text(path).splitlines()), Groups()
    found = reader.fieldnames or []
    if set(columns) - set(found):
        raise UserError(f"{path}: columns {', '.join(found)}; {', '.join(columns)} expected")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"{path}, line {reader.line_num}: {len(found)} values expected")
            groups.setdefault(row[columns[0]], []).append([row[column] for column in columns[1:]])
    except csv.Error as error:  # a field of over 131,072 characters
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None
    return groups


def by_name(groups: Groups, where: Path) -> dict[str, list[str]]:
    """First value -> other values; UserError if a first value comes twice."""
    if twice := [name for name, found in groups.items() if len(found) > 1]:
        raise UserError(f"{where}: {twice[0]!r} is listed twice; once allowed")
    return {name: values for name, [values] in groups.items()}


def read_named(path: Path, columns: str, separator: str | None = ",") -> dict[str, list[str]]:
    """As ``read_rows``, but name -> other values, of a list with a different name in each line's first column."""
    return by_name(read_rows(path, columns, separator), path)


def read_numbers(path: Path, columns: str, separator: str | None = ",") -> dict[str, list[int]]:
    """As ``read_named``, for whole numbers of 0 or more."""
    rows = read_named(path, columns, separator)
    return {name: [natural(text, f"{path}: {name}") for text in texts] for name, texts in rows.items()}


def read_objects(path: Path) -> list[tuple[str, Box]]:
    """Name and box of each object (not of its parts) in an annotation file of Pascal VOC's kind; pixels from 1."""
    try:
        objects = ElementTree.fromstring(read_text(path)).findall("object")
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not an annotation file ({error})") from error
    boxes = [read_box([thing.findtext(f"bndbox/{side}", "") for side in SIDES], path) for thing in objects]
    return [(thing.findtext("name", "").strip(), box) for thing, box in zip(objects, boxes, strict=True)]


def natural(text: str, where: str) -> int:
    """A whole number of 0 or more."""
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise UserError(f"{where}: {text!r} given, a whole number of 0 or more expected")
    return int(text)


def read_box(values: Sequence[str | int], where: object, size: Size | None = None, *, extent: bool = False) -> Box:
    """A checked box, within ``size`` if given, from ``x0, y0, x1, y1`` or, with ``extent``, ``x, y, width, height``."""
    try:
        # Some tools write "33.0". What lies below 0 stays there, and Python's own "2_0" is no number of a list.
        x0, y0, x1, y1 = (math.floor(float(str(value).replace("_", "?"))) for value in values)
    except (ValueError, OverflowError):
        raise UserError(f"{where}: box {', '.join(map(str, values))} given, four numbers expected") from None
    if extent:
        x1, y1 = x0 + x1, y0 + y1
    if not (0 <= x0 <= x1 and 0 <= y0 <= y1) or (size and not (x1 < size[1] and y1 < size[0])):
        within = f", within {size[1]}x{size[0]} pixels" if size else ""
        raise UserError(f"{where}: box {x0}, {y0}, {x1}, {y1} given, 0 <= x0 <= x1 and 0 <= y0 <= y1{within} allowed")
    return x0, y0, x1, y1


def group_boxes(groups: Groups, where: Path, sizes: Mapping[str, Size]) -> dict[str, list[Box]]:
    """Name -> its boxes in their order, from rows of a name and four numbers."""
    return {n: [read_box(box, f"{where}: {n}", sizes.get(n)) for box in boxes] for n, boxes in groups.items()}


def compare(names: Collection[str], where: Path, known: Collection[str], source: str, *, every: bool = True) -> None:
    """UserError unless ``source`` has all ``names`` that ``where`` has and, with ``every``, the other way round."""
    if strangers := [name for name in names if name not in known]:
        raise UserError(f"{where}: {strangers[0]!r} is not in {source} ({len(strangers)} in all)")
    if every and (missing := [name for name in known if name not in names]):
        raise UserError(f"{where}: no line for {missing[0]!r} of {source}; {len(missing)} of {len(known)} have none")


def class_names(numbered: Iterable[tuple[int, str]], where: Path, first: int = 0) -> tuple[str, ...]:
    """The classes in the order of their numbers ``first``, ``first + 1``, ...; UserError unless they are one to one."""
    names: list[str] = []
    for number, name in sorted(set(numbered)):
        if number != first + len(names) or name in names:
            found = f"class {number} {name!r} found after {names[-1:]}"
            raise UserError(f"{where}: {found}; numbers from {first} without a gap and one name each expected")
        names.append(name)
    if not names:
        raise UserError(f"{where}: no class in it; at least one expected")
    return tuple(names)


def every_nth(labels: Mapping[str, int], n: int, *, held_out: bool) -> dict[str, int]:
    """Name -> label of those held out, at positions 0, n, 2n, ... of each class's sorted names, or of the others."""
    ordered = sorted(labels, key=lambda name: (labels[name], name))  # names as strings: "a_10" before "a_2"
    chosen = {name for _, names in groupby(ordered, key=labels.__getitem__) for name in islice(names, 0, None, n)}
    return {name: label for name, label in labels.items() if (name in chosen) == held_out}
