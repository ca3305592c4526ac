"""The base of all data sets that are made of lists and image files."""

import hashlib
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from dgl_lib.data.images import image_size, read_image, read_mask
from dgl_lib.data.lists import Box, Size, check_box
from dgl_lib.data.records import Record
from dgl_lib.errors import UserError
from dgl_lib.files import sha256

SPLITS = ("train", "val", "test")
DOWNLOADS = Path(__file__).resolve().parents[2] / "data"  # in the project, whatever folder the caller is in
Root = str | Path | None
Pixels = dict[str, np.ndarray | None]  # "mask", "ignore", "part": (H, W) bool


class Listed:
    """One split of the photographs that a list names. ``read_lists``, ``pixels`` and so on tell the sets apart.

    Construction reads lists and file names and decodes no image; a record is made when asked for and not kept.

    Photographs are taken as stored unless ``oriented`` is set: the published boxes and masks lie in that frame
    (ILSVRC2012_val_00018903 is the known case), and the published protocols ignore the EXIF orientation.

    Args:
        split: one of ``splits``.
        root: the folder of the data; None: $DGL_DATA, and if that is unset ``download`` fetches them into ``data``.

    Raises:
        UserError: an unknown split, a missing file, a broken list.
    """

    name: str
    splits: tuple[str, ...] = SPLITS
    oriented = False
    small = False  # so few images that a check may decode them all
    suffix = ""  # a photograph's name and its suffix make its file
    classes: tuple[str, ...]
    folder: Path  # of the photographs
    masks: Path | None = None  # the folder of the masks
    allowed: tuple[int, ...] = ()  # the values that a mask file may hold; (): all

    def __init__(self, split: str, root: Root = None):
        if split not in self.splits:
            raise UserError(f"{self.name}: unknown split {split!r}; allowed: {', '.join(self.splits)}")
        self.split, self.root = split, self._find(root)
        self.boxes: dict[str, list[Box]] = {}  # a name without any gets the box around its mask
        self.sizes: dict[str, Size] = {}  # as a list states them
        labels = self.read_lists()
        self.names, self.labels = list(labels), np.array(list(labels.values()), dtype=np.int64)
        need_files((f"{self.folder}/{self.file(name)}" for name in labels), f"{self.name} {split} photographs")
        masks = (str(path) for index in range(len(self)) for path in self.annotations(index))
        need_files(masks, f"{self.name} {split} masks")

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
        """An image's masks from the values of its mask files, each (h, w) uint8."""
        return {}

    def cut(self, index: int, size: Size) -> list[Box]:
        """The listed boxes of an image of ``size``."""
        return self.boxes.get(self.names[index], [])

    def fits(self, index: int, size: Size, mask: Size) -> bool:
        """Whether a mask file of this size goes with a photograph of ``size``."""
        return mask == size

    def download(self, folder: Path) -> None:
        """Fetch the data into ``folder``, if they can be fetched."""
        raise UserError(f"{self.name}: neither root nor DGL_DATA is set; one of them names the folder of the data")

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The photograph's file."""
        return self.folder / self.file(self.names[index])

    def image(self, index: int) -> np.ndarray:
        """The photograph alone, (H, W, 3) uint8 RGB; UserError if the file cannot be decoded."""
        return read_image(self.path(index), oriented=self.oriented)

    def __getitem__(self, index: int) -> Record:
        """The photograph and all that is known of it; UserError if a file cannot be decoded or does not fit."""
        image, values = self.image(index), [read_mask(path) for path in self.annotations(index)]
        size = image.shape[0], image.shape[1]
        self._check(index, size, [(mask.shape[0], mask.shape[1]) for mask in values])
        for path, found in zip(self.annotations(index), values, strict=True):
            if self.allowed and (odd := found[~np.isin(found, self.allowed)]).size:
                raise UserError(f"{path}: value {odd[0]} found; {', '.join(map(str, self.allowed))} allowed")
        pixels = self.pixels(index, size, values)
        mask = pixels.get("mask")
        boxes = np.array(self.cut(index, size), dtype=np.int32).reshape(-1, 4)
        if len(boxes) == 0 and mask is not None:
            boxes = around(mask)
        return Record(self.names[index], image, int(self.labels[index]), boxes, **pixels)

    def check(self) -> None:
        """Open the headers of val's and test's photographs and masks; UserError at the first that does not fit."""
        for index in range(len(self)) if self.split != "train" else ():
            size = image_size(self.path(index), oriented=self.oriented)
            self._check(index, size, [image_size(path, oriented=False) for path in self.annotations(index)])

    def _check(self, index: int, size: Size, masks: list[Size]) -> None:
        path, listed = self.path(index), self.sizes.get(self.names[index], size)
        if listed != size:
            found = f"{size[1]}x{size[0]} pixels, its list says {listed[1]}x{listed[0]}"
            raise UserError(f"{path}: {found}; boxes and masks are given for photographs of their original size")
        for box in self.cut(index, size):
            check_box(box, str(path), size)
        for path, mask in zip(self.annotations(index), masks, strict=True):
            if not self.fits(index, size, mask):
                found = f"{mask[1]}x{mask[0]} pixels, its photograph has {size[1]}x{size[0]}"
                raise UserError(f"{path}: {found}; equal sizes expected")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the lists say, of the bytes of val's and test's masks, and of the photographs' file sizes.

        The photographs' pixels are left out: to read 100 GB of them would take longer than the study.
        """
        total = hashlib.sha256(repr((self.name, self.split, self.classes)).encode())
        for index, (name, label) in enumerate(zip(self.names, self.labels.tolist(), strict=True)):
            size = self.path(index).stat().st_size
            total.update(repr((name, label, self.boxes.get(name, []), self.file(name), size)).encode())
            for path in self.annotations(index) if self.split != "train" else ():
                total.update(sha256(path).encode())
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


def need_files(files: Iterable[str], what: str) -> None:
    """UserError, with the first and the count of those missing, unless every file exists."""
    # Each folder is listed once. To ask for a million files one by one takes minutes on a disk that is not local.
    listings: dict[str, set[str]] = {}
    missing, wanted = [], dict.fromkeys(files)
    for file in wanted:
        folder, name = os.path.split(file)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()  # noqa: PTH112, PTH208
        if name not in listings[folder]:
            missing.append(file)
    if missing:
        raise UserError(f"{missing[0]}: no such file; {len(missing)} of {len(wanted)} {what} are missing")


def around(mask: np.ndarray) -> np.ndarray:
    """The box around a mask's pixels, (1, 4) int32 ``x0, y0, x1, y1``, the last included; (0, 4) for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    boxes = [[columns[0], rows[0], columns[-1], rows[-1]]] if rows.size else []
    return np.array(boxes, dtype=np.int32).reshape(-1, 4)
