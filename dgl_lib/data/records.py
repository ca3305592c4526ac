"""One record type for every data set, two ways to take a part of one, and one with its labels shuffled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from dgl_lib.errors import UserError


@dataclass(frozen=True)
class Record:
    """One photograph and what is known of it. Arrays share the image's height H and width W.

    Attributes:
        name: unique within its data set.
        image: (H, W, 3) uint8, RGB.
        label: index into the data set's ``classes``.
        boxes: (n, 4) int32, ``x0, y0, x1, y1`` in pixels, the last pixel included; n may be 0.
        mask: (H, W) bool, the object's pixels; None where no mask is known.
        ignore: (H, W) bool, pixels left out of every score; None where all count.
        part: (H, W) bool, the telling part (what sets the classes apart), a subset of ``mask``; None where unknown.
    """

    name: str
    image: np.ndarray
    label: int
    boxes: np.ndarray
    mask: np.ndarray | None = None
    ignore: np.ndarray | None = None
    part: np.ndarray | None = None


class Dataset(Protocol):
    """What training and evaluation ask of a data set. Training calls ``image`` and ``labels`` only, never a mask."""

    @property
    def name(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def labels(self) -> np.ndarray: ...  # (n,) int64
    @property
    def digest(self) -> str: ...  # SHA-256 of images and annotations
    def __len__(self) -> int: ...
    def image(self, index: int) -> np.ndarray: ...  # (H, W, 3) uint8, RGB
    def __getitem__(self, index: int) -> Record: ...


class Subset:
    """The images of ``dataset`` at ``indices``, in that order, as a data set of its own."""

    def __init__(self, dataset: Dataset, indices: list[int]):
        self.dataset, self.indices = dataset, [int(i) for i in indices]
        self.name, self.split, self.classes = dataset.name, dataset.split, dataset.classes
        self.names = [dataset.names[i] for i in self.indices]
        self.labels = dataset.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> np.ndarray:
        return self.dataset.image(self.indices[index])

    def __getitem__(self, index: int) -> Record:
        return self.dataset[self.indices[index]]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole set's digest and the chosen names."""
        return hashlib.sha256("\n".join([self.dataset.digest, *self.names]).encode()).hexdigest()


class Shuffled:
    """``dataset`` with its labels dealt out anew: as many of each class, but they say nothing of the images.

    What a network learns from it is a control (Adebayo et al., NeurIPS 2018): it has been trained, and knows no class.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed
        self.name, self.split, self.classes, self.names = dataset.name, dataset.split, dataset.classes, dataset.names
        self.labels = np.random.default_rng(seed).permutation(dataset.labels)

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> np.ndarray:
        return self.dataset.image(index)

    def __getitem__(self, index: int) -> Record:
        return replace(self.dataset[index], label=int(self.labels[index]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole set's digest and the labels."""
        return hashlib.sha256("\n".join([self.dataset.digest, *map(str, self.labels)]).encode()).hexdigest()


def first_per_class(dataset: Dataset, count: int) -> Dataset:
    """The first ``count`` images of each class in the data set's own order; 0 means all of them.

    Raises:
        UserError: ``count`` is negative, or a class has no image.
    """
    if count < 0:
        raise UserError(f"images per class: {count} given, 0 (all) or more allowed")
    sizes = np.bincount(dataset.labels, minlength=len(dataset.classes))
    if (sizes == 0).any():
        empty = dataset.classes[int(np.flatnonzero(sizes == 0)[0])]
        raise UserError(f"{dataset.name} {dataset.split}: class {empty!r} has no image; every class needs at least one")
    if count == 0:
        return dataset
    chosen = np.sort(np.concatenate([np.flatnonzero(dataset.labels == c)[:count] for c in range(len(sizes))]))
    return Subset(dataset, chosen.tolist())
