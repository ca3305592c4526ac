"""Data sets, one record type for all of them, and ``load``, which finds one by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dgl_lib.data.creatures import Creatures
from dgl_lib.data.cub import Cub
from dgl_lib.data.folder import Folder
from dgl_lib.data.listed import SPLITS, Listed, Root
from dgl_lib.data.pets import Pets
from dgl_lib.data.records import Dataset, Record, Shuffled, Subset, first_per_class, need_readable, skip_unreadable
from dgl_lib.data.voc import Voc
from dgl_lib.data.wsol import FOLDERS, Lid, Wsol
from dgl_lib.errors import UserError

# Name -> what makes it from a split and the folder of its files. Each class's docstring shows the layout of its files.
DATASETS: dict[str, Callable[[str, Root], Dataset]] = {
    "creatures": lambda split, root: Creatures(split),  # drawn by this library
    "pets": Pets,  # Oxford-IIIT Pet
    "voc": Voc,  # Pascal VOC 2012, segmentation
    "cub": Cub,  # CUB-200-2011 as released
    **{name: partial(Wsol, name) for name in FOLDERS},  # cub_wsol, ilsvrc, openimages, by wsolevaluation's lists
    # ILSVRC validation images with pixel masks
    "lid": lambda split, root: Wsol("ilsvrc", "train", root) if split == "train" else Lid(split, root),
    "folder": Folder,  # yours
}


def as_folder(name: str, root: Root = None) -> tuple[str, Root]:
    """A data set's name and root. A folder may stand in the place of both: it is the data set "folder" in there."""
    return ("folder", name) if name not in DATASETS and root is None and Path(name).is_dir() else (name, root)


def load(name: str, split: str, *, root: Root = None, per_class: int = 0, skip: bool = False) -> Dataset:
    """A split ("train", "val" or "test"; of "lid" also "all") of a data set by its name in ``DATASETS``.

    ``root`` is the folder of the files; None: $DGL_DATA, and if that is unset, pets, voc and cub are downloaded into
    ``data``. wsolevaluation's lists are in $DGL_WSOL_METADATA, else in ``root/metadata``. ``per_class`` keeps the first
    so many images of each class (0: all). ``skip`` decodes what is kept, and leaves out what cannot be read. UserError
    for an unknown name or split, a negative ``per_class``, or files that are not what the data set expects."""
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; allowed: {', '.join(DATASETS)}, or a folder that is there")
    dataset = first_per_class(DATASETS[name](split, root), per_class)
    return skip_unreadable(dataset) if skip else dataset


def check(name: str, root: Root = None, *, decode: bool = False) -> tuple[list[str], list[str]]:
    """What is there of a data set, split by split: lists, files, and whether boxes and masks fit their photographs.

    ``name`` and ``root`` are as for ``load``. ``decode`` also decodes every file, which takes hours for large sets;
    pets and folders are always decoded. Returns a line for each complete split, and what is wrong with each other."""
    complete, problems = [], []
    for split in SPLITS:
        where = f"{name} {split}: "
        try:
            dataset = load(name, split, root=root)
            if isinstance(dataset, Listed):  # creatures are drawn: there is nothing to check
                dataset.check()
                if decode or dataset.small:
                    need_readable(dataset)
            first = dataset[0]
            found = [f"{count} box{'es' * (count > 1)}"] if (count := len(first.boxes)) else []
            found += [field for field in ("mask", "ignore", "part") if getattr(first, field) is not None]
            size = f"{len(dataset)} images of {len(dataset.classes)} classes"
            complete.append(f"{where}{size}; the first has {', '.join(found) or 'a label only'}")
        except UserError as error:
            if name not in DATASETS:
                raise
            problems.append(where + str(error).removeprefix(where))
    return complete, problems
