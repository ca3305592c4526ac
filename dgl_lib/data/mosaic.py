"""Mosaics: four images of four classes in one picture, to ask a map which of them it shows."""

import hashlib
from collections.abc import Sequence

import cv2
import numpy as np

from dgl_lib.data.records import Dataset, Record, around
from dgl_lib.errors import UserError

CELLS = 4  # of a mosaic, in reading order


class Mosaic(Dataset):
    """2 x 2 mosaics of images of ``dataset``, each asked in turn for its four classes (Boehle et al., CVPR 2021).

    Item i is mosaic i // 4, asked for the class in its cell i % 4. That class is the item's label, the cell its mask.
    ``groups`` holds four indices of ``dataset`` for each mosaic, in reading order. Each image is squashed whole to
    ``size`` pixels a side, as for the network, so that a mosaic is (2 size, 2 size, 3) uint8. UserError: a group that
    is not of four classes."""

    def __init__(self, dataset: Dataset, groups: Sequence[Sequence[int]], size: int):
        for number, group in enumerate(groups):
            if len(group) != CELLS or len(set(dataset.labels[list(group)].tolist())) != CELLS:
                raise UserError(f"mosaic {number}: images {list(group)} given, four of different classes needed")
        self.dataset, self.groups, self.size = dataset, [list(group) for group in groups], size
        self.name, self.split, self.classes = f"mosaics of {dataset.name}", dataset.split, dataset.classes
        asked = [i for group in self.groups for i in group]
        self.labels = dataset.labels[asked]
        self.names = [f"mosaic-{item // CELLS:03d} {dataset.names[i]}" for item, i in enumerate(asked)]

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.dataset.digest} {self.groups} {self.size}".encode()).hexdigest()

    def image(self, index: int) -> np.ndarray:
        cells = []
        for image in map(self.dataset.image, self.groups[range(len(self))[index] // CELLS]):
            how = cv2.INTER_AREA if max(image.shape[:2]) > self.size else cv2.INTER_LINEAR  # as ``models`` squashes it
            cells.append(cv2.resize(image, (self.size, self.size), interpolation=how))
        return np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])])

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        cell = np.arange(CELLS).reshape(2, 2) == index % CELLS
        mask = cell.repeat(self.size, 0).repeat(self.size, 1)
        return Record(self.names[index], self.image(index), int(self.labels[index]), around(mask), mask)
