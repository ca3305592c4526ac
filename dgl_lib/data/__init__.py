"""Data sets, one record type for all of them, and ``load``, which finds one by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dgl_lib.data.creatures import Creatures
from dgl_lib.data.cub import Cub
from dgl_lib.data.folder import Folder
from dgl_lib.data.lid import load_lid
from dgl_lib.data.listed import need_readable, skip_unreadable
from dgl_lib.data.pets import Pets
from dgl_lib.data.records import Dataset, Record, Shuffled, Subset, first_per_class
from dgl_lib.data.voc import Voc
from dgl_lib.data.wsol import Wsol
from dgl_lib.errors import UserError

__all__ = [
    "DATASETS",
    "SPLITS",
    "Dataset",
    "Record",
    "Shuffled",
    "Subset",
    "check",
    "first_per_class",
    "load",
    "need_readable",
    "skip_unreadable",
]

SPLITS = ("train", "val", "test")

# Name -> what makes it from a split and the folder of its files.
DATASETS: dict[str, Callable[[str, str | Path | None], Dataset]] = {
    "creatures": lambda split, root: Creatures(split),
    "pets": Pets,
    "voc": Voc,
    "cub": Cub,
    "cub_wsol": partial(Wsol, "cub_wsol"),
    "ilsvrc": partial(Wsol, "ilsvrc"),
    "openimages": partial(Wsol, "openimages"),
    "lid": load_lid,
    "folder": Folder,
}


def load(
    name: str,
    split: str,
    *,
    root: str | Path | None = None,
    per_class: int = 0,
    skip: bool | None = None,
    progress: bool = False,
) -> Dataset:
    """A split of a data set by name. Training asks it for ``image`` and ``labels`` only, and so opens no mask.

    Args:
        name: "creatures" (drawn by this library), "pets" (Oxford-IIIT Pet), "voc" (Pascal VOC 2012), "cub"
            (CUB-200-2011 as released), "cub_wsol", "ilsvrc", "openimages" (through wsolevaluation's lists), "lid"
            (ILSVRC validation images with pixel masks), "folder" (yours). Each class's docstring shows its layout.
        split: "train", "val" or "test".
        root: folder of the files; None: $DGL_DATA, else pets, voc and cub are downloaded into ``data``. Creatures need
            none. wsolevaluation's lists are in $DGL_WSOL_METADATA, else in ``metadata`` in that folder.
        per_class: keep the first so many images of each class, in the data set's order; 0 keeps all.
        skip: decode what is kept and leave out what cannot be read, with a warning that counts it (see
            ``skip_unreadable``); None: where $SKIP_UNREADABLE is 1.
        progress: draw a bar while decoding.

    Raises:
        UserError: an unknown name or split, a negative ``per_class``, or files that are not what the data set expects.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; allowed: {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise UserError(f"{name}: unknown split {split!r}; allowed: {', '.join(SPLITS)}")
    dataset = first_per_class(DATASETS[name](split, root), per_class)
    if skip is None:
        skip = os.environ.get("SKIP_UNREADABLE") == "1"
    return skip_unreadable(dataset, progress=progress) if skip else dataset


def check(name: str, root: str | Path | None = None, *, decode: bool = False) -> tuple[list[str], list[str]]:
    """What of a data set is there, split by split: lists, files, and whether boxes and masks fit their photographs.

    Args:
        root: as for ``load``.
        decode: also decode every file, which for large sets takes hours.

    Returns:
        one line for each split that is complete, and one for each that is not, which says what is missing or wrong.

    Raises:
        UserError: an unknown name.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; allowed: {', '.join(DATASETS)}")
    complete, problems = [], []
    for split in SPLITS:
        try:
            dataset = load(name, split, root=root, skip=False)
            getattr(dataset, "check", lambda: None)()  # creatures are drawn, there is nothing to look for
            if decode:
                need_readable(dataset)
            count = f"{len(dataset)} images of {len(dataset.classes)} classes"
            complete.append(f"{name} {split}: {count}; the first has {_known(dataset[0])}")
        except UserError as error:
            where = f"{name} {split}: "
            problems.append(where + str(error).removeprefix(where))
    return complete, problems


def _known(record: Record) -> str:
    """What a record carries beside its label, in words."""
    boxes = [f"{len(record.boxes)} box{'es' * (len(record.boxes) > 1)}"] * (len(record.boxes) > 0)
    masks = [field for field in ("mask", "ignore", "part") if getattr(record, field) is not None]
    return ", ".join(boxes + masks) or "a label only"
