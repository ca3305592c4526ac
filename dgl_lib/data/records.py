"""One record type for every data set, parts of a data set, shuffled labels, and what cannot be read."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from tqdm import tqdm

from dgl_lib.data.images import squash
from dgl_lib.errors import UserError


@dataclass(frozen=True)
class Record:
    """One photograph and what is known of it. Arrays share the image's height H and width W."""

    name: str  # unique within its data set
    image: np.ndarray  # (H, W, 3) uint8, RGB
    label: int  # index into the data set's ``classes``
    boxes: np.ndarray  # (n, 4) int32, x0, y0, x1, y1 in pixels, the last pixel included; n may be 0
    mask: np.ndarray | None = None  # (H, W) bool, the object's pixels; None if no mask is known
    ignore: np.ndarray | None = None  # (H, W) bool, pixels left out of every score; None if all count
    part: np.ndarray | None = None  # (H, W) bool, what sets the classes apart, a subset of ``mask``; None if unknown
    # The objects' masks and the ignore mask as stored, where they have sizes of their own: each is resized once.
    stored: tuple[Sequence[np.ndarray], np.ndarray | None] | None = None


class Dataset(Protocol):
    """What training and evaluation ask of a data set. Training uses ``image`` and ``labels`` only, never a mask."""

    name: str
    split: str
    classes: tuple[str, ...]
    names: list[str]
    labels: np.ndarray  # (n,) int64
    root: Path | None = None  # the folder of its files, if it has any

    @property
    def digest(self) -> str: ...  # SHA-256 of images and annotations
    def image(self, index: int) -> np.ndarray: ...  # (H, W, 3) uint8, RGB
    def __getitem__(self, index: int) -> Record: ...
    def __len__(self) -> int:
        return len(self.names)


class Subset(Dataset):
    """The images of ``dataset`` at ``indices``, in that order, as a data set of its own."""

    def __init__(self, dataset: Dataset, indices: Iterable[int]):
        self.dataset, self.indices = dataset, [int(i) for i in indices]
        self.name, self.split, self.classes = dataset.name, dataset.split, dataset.classes
        self.names, self.labels = [dataset.names[i] for i in self.indices], dataset.labels[self.indices]
        self.root, self._changed = getattr(dataset, "root", None), self.names

    def image(self, index: int) -> np.ndarray:
        return self.dataset.image(self.indices[index])

    def __getitem__(self, index: int) -> Record:
        return replace(self.dataset[self.indices[index]], label=int(self.labels[index]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole set's digest and the chosen names or, if they are shuffled, the labels."""
        return hashlib.sha256("\n".join([self.dataset.digest, *self._changed]).encode()).hexdigest()


@dataclass(frozen=True)
class Squashed:
    """The photographs of ``dataset`` squashed to ``size`` pixels, for a loader whose workers decode ahead."""

    dataset: Dataset
    size: int

    def __getitem__(self, index: int) -> np.ndarray:  # (size, size, 3) uint8
        return squash(self.dataset.image(index), self.size)


class Shuffled(Subset):
    """``dataset`` with its labels permuted. A network trained on it is a control (Adebayo et al., NeurIPS 2018)."""

    def __init__(self, dataset: Dataset, seed: int):
        super().__init__(dataset, range(len(dataset)))
        self.labels = np.random.default_rng(seed).permutation(dataset.labels)
        self._changed = [str(label) for label in self.labels]


def first_per_class(dataset: Dataset, count: int) -> Dataset:
    """The first ``count`` images of each class in the data set's order, 0: all; UserError for an empty class."""
    if count < 0:
        raise UserError(f"images per class: {count} given, 0 (all) or more allowed")
    sizes = np.bincount(dataset.labels, minlength=len(dataset.classes))
    if not sizes.all():
        empty = dataset.classes[int(sizes.argmin())]
        raise UserError(f"{dataset.name} {dataset.split}: class {empty!r} has no image; every class needs at least one")
    chosen = [np.flatnonzero(dataset.labels == label)[:count] for label in range(len(sizes))]
    return Subset(dataset, sorted(np.concatenate(chosen).tolist())) if count else dataset


def need_readable(dataset: Dataset, *, progress: bool = False) -> None:
    """Decode a train split's photographs, another's whole records; UserError counts those that cannot be read."""
    if problem := _decode(dataset, progress)[1]:
        raise UserError(problem)


def skip_unreadable(dataset: Dataset, *, progress: bool = False) -> Dataset:
    """``dataset`` without the images that cannot be read, with a warning that counts them; UserError if none can."""
    readable, problem = _decode(dataset, progress, " and are left out")
    if not problem:
        return dataset
    if not readable:
        raise UserError(problem)
    warnings.warn(problem, stacklevel=2)
    return Subset(dataset, readable)


def _decode(dataset: Dataset, progress: bool, and_then: str = "") -> tuple[list[int], str]:
    """The indices of the images that can be read, and a sentence about the others; "" if there are none."""
    read: Callable[[int], object] = dataset.image if dataset.split == "train" else dataset.__getitem__
    what, readable, errors = f"{dataset.name} {dataset.split}", [], []
    for index in tqdm(range(len(dataset)), f"reading {what}", unit="image", leave=False, disable=not progress):
        try:
            read(index)
            readable.append(index)
        except UserError as error:
            errors.append(str(error))
    count = f"{what}: {len(errors)} of {len(dataset)} images cannot be read{and_then}"
    return readable, f"{count}; the first: {errors[0]}" if errors else ""


def masks_at(
    instances: Sequence[np.ndarray], ignore: np.ndarray | None = None, size: int | tuple[int, int] = 224
) -> tuple[np.ndarray, np.ndarray]:
    """Object and ignore masks of ``size``, (H, W) or a square's side, bool, as wsolevaluation has them: by nearest
    neighbour, above 0.5, instances united, ignore minus object; from (h, w), bool or 0..255. UserError: no instance."""
    if not len(instances):
        raise UserError("masks: none given, at least one instance needed")
    every = [*instances, np.zeros((1, 1)) if ignore is None else ignore]
    to = (size, size) if isinstance(size, int) else size[::-1]
    resized = [cv2.resize(m.astype(np.float32), to, interpolation=cv2.INTER_NEAREST) > 0.5 for m in every]
    mask = np.any(resized[:-1], axis=0)
    return mask, resized[-1] & ~mask


def around(mask: np.ndarray) -> np.ndarray:
    """The box around a mask's pixels, (1, 4) int32 ``x0, y0, x1, y1``, the last included; (0, 4) for an empty mask."""
    x, y = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    return np.array([[x[0], y[0], x[-1], y[-1]]] if x.size else np.empty((0, 4)), dtype=np.int32)
