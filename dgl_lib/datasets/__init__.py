"""Data sets, one record type for all of them, and ``load``, which finds one by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dgl_lib.datasets.creatures import Creatures
from dgl_lib.datasets.pets import Pets
from dgl_lib.datasets.records import Dataset, Record, Subset, first_per_class
from dgl_lib.errors import UserError

__all__ = ["DATASETS", "SPLITS", "Dataset", "Record", "Subset", "first_per_class", "load"]

SPLITS = ("train", "val", "test")

# Name -> what makes it from a split and the folder of its files.
DATASETS: dict[str, Callable[[str, str | Path | None], Dataset]] = {
    "creatures": lambda split, root: Creatures(split),
    "pets": Pets,
}


def load(name: str, split: str, *, root: str | Path | None = None, per_class: int = 0) -> Dataset:
    """A split of a data set by name. Training asks it for ``image`` and ``labels`` only, and so opens no mask.

    Args:
        name: "creatures" (drawn by this library) or "pets" (Oxford-IIIT Pet).
        split: "train", "val" or "test".
        root: folder of the files; None: $DGL_DATA, else torchvision downloads into ``data``. Creatures need none.
        per_class: keep the first so many images of each class, in the data set's order; 0 keeps all.

    Raises:
        UserError: an unknown name or split, a negative ``per_class``, or files that are not what the data set expects.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; allowed: {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise UserError(f"{name}: unknown split {split!r}; allowed: {', '.join(SPLITS)}")
    return first_per_class(DATASETS[name](split, root), per_class)
