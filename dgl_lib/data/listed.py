"""What the data sets made of lists and image files share: lists read with file and line in every error, files looked
for before work starts, boxes and masks checked against their photograph, one digest."""

from __future__ import annotations

import csv
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dgl_lib.data.images import image_size, read_image, read_mask
from dgl_lib.data.records import Dataset, Record, Subset
from dgl_lib.errors import UserError
from dgl_lib.files import sha256

SPLITS = ("train", "val", "test")
DOWNLOADS = Path(__file__).resolve().parents[2] / "data"  # of the project, whichever folder the caller is in
Box = tuple[int, int, int, int]  # x0, y0, x1, y1, the last pixel included
Size = tuple[int, int]  # height, width


# ---- lists ----------------------------------------------------------------------------------------------------------


def read_rows(path: Path, columns: str, separator: str | None = ",") -> list[list[str]]:
    """The lines of a list without a header, each split into as many values as ``columns`` names; empty ones left out.

    Args:
        columns: the columns' names, comma-separated: how many there are, and what an error message calls them.
        separator: between values; None for any white space.

    Raises:
        UserError: no such file, not text, or a line with another number of values.
    """
    count = columns.count(",") + 1
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        values = [value.strip() for value in line.split(separator)]
        if len(values) != count:
            raise UserError(f"{path}, line {number}: {line.strip()!r} given, {count} values ({columns}) expected")
        rows.append(values)
    return rows


def read_pairs(path: Path, columns: str, separator: str | None = ",") -> dict[str, list[str]]:
    """The same for a list in which each name, its first column, may stand once: name -> the other values."""
    rows: dict[str, list[str]] = {}
    for name, *values in read_rows(path, columns, separator):
        if name in rows:
            raise UserError(f"{path}: {name!r} is listed twice; once allowed")
        rows[name] = values
    return rows


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file whose header names at least ``columns``; UserError where one or a value is missing."""
    reader = csv.DictReader(read_text(path).splitlines())
    if set(columns) - set(reader.fieldnames or []):
        raise UserError(f"{path}: columns {', '.join(reader.fieldnames or [])}; {', '.join(columns)} expected")
    rows = []
    for row in reader:
        if any(row[column] is None for column in columns) or None in row:
            raise UserError(f"{path}, line {reader.line_num}: {len(reader.fieldnames or [])} values expected")
        rows.append(row)
    return rows


def read_text(path: Path) -> str:
    """A text file; UserError names one that is not there or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable text file ({error})") from error


def whole_number(text: str, where: str, what: str) -> int:
    """A whole number of 0 or more."""
    if not text.isascii() or not text.isdecimal():
        raise UserError(f"{where}: {what} {text!r} given, a whole number of 0 or more allowed")
    return int(text)


def read_box(values: Sequence[str], where: str, size: Size | None = None) -> Box:
    """``x0, y0, x1, y1`` of four texts; UserError where they are no box, or (with ``size``) reach out of the image."""
    try:
        # Through float: some tools write "33.0".
        x0, y0, x1, y1 = (int(float(value)) for value in values)
    except (ValueError, OverflowError):
        raise UserError(f"{where}: box {', '.join(values)} given, four numbers x0, y0, x1, y1 expected") from None
    check_box((x0, y0, x1, y1), where, size)
    return x0, y0, x1, y1


def check_box(box: Box, where: str, size: Size | None = None) -> None:
    """UserError unless the box's corners are in order and, with ``size``, pixels of an image of that size."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 <= x1 and 0 <= y0 <= y1) or (size and not (x1 < size[1] and y1 < size[0])):
        within = f", within {size[1]}x{size[0]} pixels" if size else ""
        raise UserError(f"{where}: box {x0}, {y0}, {x1}, {y1} given, 0 <= x0 <= x1 and 0 <= y0 <= y1{within} allowed")


def every_nth(names: Sequence[str], labels: np.ndarray, n: int) -> set[str]:
    """Of each class, the names at positions 0, n, 2n, ... when sorted: what is held out for validation."""
    by_class: dict[int, list[str]] = {}
    for name, label in sorted(zip(names, labels.tolist(), strict=True)):
        by_class.setdefault(label, []).append(name)
    return {name for group in by_class.values() for name in group[::n]}


def class_names(by_label: Mapping[int, str], where: Path) -> tuple[str, ...]:
    """Names in the order of the labels 0, 1, ...; UserError where a label is left out or two share a name."""
    names = tuple(by_label[label] for label in sorted(by_label))
    if sorted(by_label) != list(range(len(names))) or len(set(names)) < len(names) or not names:
        found = ", ".join(f"{label} {by_label[label]}" for label in sorted(by_label)[:5]) or "none"
        raise UserError(f"{where}: classes {found} ... found; numbers without a gap, one name each, expected")
    return names


# ---- files ----------------------------------------------------------------------------------------------------------


def find_root(name: str, root: str | Path | None, download: Callable[[Path], None] | None = None) -> Path:
    """The data's folder: ``root``, else $DGL_DATA, else the project's ``data``, into which ``download`` puts it."""
    given = root or os.environ.get("DGL_DATA")
    if given:
        if not Path(given).is_dir():
            raise UserError(f"{name}: {str(given)!r} is not a folder; root or DGL_DATA names the folder of the data")
        return Path(given)
    if download is None:
        raise UserError(f"{name}: neither root nor DGL_DATA is set; one of them names the folder of the data")
    folder = DOWNLOADS
    try:
        download(folder)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: download to {str(folder)!r} failed ({reason}); DGL_DATA may name a folder") from error
    return folder


def check_split(name: str, split: str, allowed: Sequence[str] = SPLITS) -> None:
    """UserError unless the split is one that the data set has."""
    if split not in allowed:
        raise UserError(f"{name}: unknown split {split!r}; allowed: {', '.join(allowed)}")


def need_files(folder: Path, files: Iterable[str], what: str) -> None:
    """UserError, with the first name and the count, unless every file is below ``folder``.

    Each folder is listed once, which for a million files takes seconds where asking for each takes minutes on a disk
    that is not local.
    """
    listings: dict[str, set[str]] = {}
    missing, count = None, 0
    for count, file in enumerate(files, start=1):  # noqa: B007
        parent, _, name = file.rpartition("/")
        if parent not in listings:
            try:
                listings[parent] = set(os.listdir(folder / parent))  # noqa: PTH208 - names only, and fast
            except OSError:
                listings[parent] = set()
        if name not in listings[parent]:
            missing = [*(missing or []), file]
    if missing:
        raise UserError(f"{folder / missing[0]}: no such file; {len(missing)} of {count} {what} are missing")


# ---- the data set ---------------------------------------------------------------------------------------------------


class Listed:
    """One split of photographs that a list names. A subclass reads its lists and says how its masks are kept.

    Construction decodes no image; it needs the lists and the files' names, and memory for these only. Records are made
    when asked for and not kept. ``image`` opens the photograph alone.

    Photographs are taken as stored, not turned as their EXIF data say: the published boxes and masks lie in that frame
    (ILSVRC2012_val_00018903 is the known case), and the published protocols read them so.

    Args:
        folder, files: photograph ``i`` is ``folder / files[i]``.
        boxes: name -> boxes; a name without any gets the box around its mask, or none.
        sizes: name -> (height, width) as a list states it; a photograph of another size is an error.
    """

    oriented = False

    def __init__(
        self,
        name: str,
        split: str,
        *,
        classes: tuple[str, ...],
        names: list[str],
        labels: np.ndarray,
        folder: Path,
        files: list[str],
        boxes: Mapping[str, list[Box]] | None = None,
        sizes: Mapping[str, Size] | None = None,
    ):
        self.name, self.split, self.classes = name, split, classes
        self.names, self.labels = names, labels.astype(np.int64)
        self._folder, self._files = folder, files
        self._boxes, self._sizes = boxes or {}, sizes or {}
        need_files(folder, files, f"{name} {split} photographs")

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The photograph's file."""
        return self._folder / self._files[index]

    def image(self, index: int) -> np.ndarray:
        """The photograph alone, (H, W, 3) uint8 RGB. Raises UserError where the file cannot be decoded."""
        return read_image(self.path(index), oriented=self.oriented)

    def annotations(self, index: int) -> list[Path]:
        """The files that hold an image's masks; none by default."""
        return []

    def _cut(self, index: int, size: Size) -> list[Box]:
        """The listed boxes of an image of ``size``."""
        return self._boxes.get(self.names[index], [])

    def _pixels(self, index: int, size: Size) -> dict[str, np.ndarray | None]:
        """``mask``, ``ignore``, ``part`` of an image, each (H, W) bool of ``size`` or None."""
        return {}

    def _fits(self, index: int, size: Size, mask: Size) -> bool:
        """Whether a mask of this size is allowed for a photograph of ``size``."""
        return mask == size

    def __getitem__(self, index: int) -> Record:
        """The photograph and all that is known of it.

        Raises:
            UserError: a file that cannot be decoded, a mask or photograph of another size, a box outside of it.
        """
        name, image = self.names[index], self.image(index)
        size = (image.shape[0], image.shape[1])
        self._check(index, size)
        pixels = self._pixels(index, size)
        mask = pixels.get("mask")
        boxes = self._cut(index, size) or ([] if mask is None else around(mask))
        return Record(
            name=name,
            image=image,
            label=int(self.labels[index]),
            boxes=np.array(boxes, dtype=np.int32).reshape(-1, 4),
            **pixels,
        )

    def _check(self, index: int, size: Size) -> None:
        name = self.names[index]
        listed = self._sizes.get(name, size)
        if listed != size:
            raise UserError(
                f"{self.path(index)}: {size[1]}x{size[0]} pixels, its list says {listed[1]}x{listed[0]};"
                " boxes and masks are given for photographs of their original size"
            )
        for box in self._cut(index, size):
            check_box(box, str(self.path(index)), size)

    def read(self, path: Path, index: int, size: Size) -> np.ndarray:
        """A mask's stored values, (H, W) uint8; UserError where its size does not fit its photograph's ``size``."""
        values = read_mask(path)
        self._check_mask(path, index, size, (values.shape[0], values.shape[1]))
        return values

    def _check_mask(self, path: Path, index: int, size: Size, mask: Size) -> None:
        if not self._fits(index, size, mask):
            raise UserError(
                f"{path}: {mask[1]}x{mask[0]} pixels, its photograph has {size[1]}x{size[0]};"
                " a mask has its photograph's size"
            )

    def check(self) -> None:
        """Open the header of each photograph and mask of a val or test split: do they fit? Training's need no opening.

        Raises:
            UserError: at the first that does not. Whether each can be decoded is ``need_readable``'s question.
        """
        for index in range(len(self)) if self.split != "train" else ():
            size = image_size(self.path(index), oriented=self.oriented)
            self._check(index, size)
            for path in self.annotations(index):
                self._check_mask(path, index, size, image_size(path, oriented=False))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the lists say (classes, names, labels, boxes), of the masks' bytes (val and test), and of the
        photographs' names and sizes in bytes: reading 100 GB of pixels would take longer than the study."""
        total = hashlib.sha256(repr((self.name, self.split, self.classes)).encode())
        for index, name in enumerate(self.names):
            size = self.path(index).stat().st_size
            facts = (name, int(self.labels[index]), self._boxes.get(name, []), self._files[index], size)
            total.update(repr(facts).encode())
            for path in self.annotations(index) if self.split != "train" else ():
                total.update(sha256(path).encode())
        return total.hexdigest()


def around(mask: np.ndarray) -> list[Box]:
    """The one box around a mask's pixels, in a list that is empty for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return []
    return [(int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))]


def need_readable(dataset: Dataset, *, progress: bool = False) -> None:
    """Decode everything once: the photographs of a train split, the whole records of the others.

    Raises:
        UserError: at least one image cannot be read; counts them and quotes the first error.
    """
    _, errors = _decode(dataset, progress)
    if errors:
        raise UserError(f"{_left_out(dataset, errors)}; the first: {errors[0]}")


def skip_unreadable(dataset: Dataset, *, progress: bool = False) -> Dataset:
    """``dataset`` without the images that cannot be read, with one warning that counts them and quotes the first error.

    Decodes what ``need_readable`` does.

    Raises:
        UserError: not one image can be read.
    """
    readable, errors = _decode(dataset, progress)
    if not errors:
        return dataset
    if not readable:
        raise UserError(f"{_left_out(dataset, errors)}; the first: {errors[0]}")
    warnings.warn(f"{_left_out(dataset, errors)} and are left out; the first: {errors[0]}", stacklevel=2)
    return Subset(dataset, readable)


def _decode(dataset: Dataset, progress: bool) -> tuple[list[int], list[str]]:
    """The indices that can be read, and what is wrong with the others."""
    read: Callable[[int], object] = dataset.image if dataset.split == "train" else dataset.__getitem__
    readable, errors = [], []
    label = f"reading {dataset.name} {dataset.split}"
    for index in tqdm(range(len(dataset)), desc=label, unit="image", leave=False, disable=not progress):
        try:
            read(index)
            readable.append(index)
        except UserError as error:
            errors.append(str(error))
    return readable, errors


def _left_out(dataset: Dataset, errors: Sequence[str]) -> str:
    return f"{dataset.name} {dataset.split}: {len(errors)} of {len(dataset)} images cannot be read"
