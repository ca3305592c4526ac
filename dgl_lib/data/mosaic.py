"""Mosaics: four images of four classes in one picture, to ask a map which of them it shows."""

from collections.abc import Sequence

import numpy as np

from dgl_lib.data.images import squash
from dgl_lib.data.records import Dataset, Record, Subset, around
from dgl_lib.errors import UserError

CELLS = 4  # of a mosaic, in reading order


class Mosaic(Subset):
    """2 x 2 mosaics of images of ``dataset``, each asked in turn for its four classes (Boehle et al., CVPR 2021).

    Item i is mosaic i // 4, asked for the class in its cell i % 4. That class is the item's label, the cell its mask.
    ``groups`` holds four indices of ``dataset`` for each mosaic, in reading order. Each image is squashed whole to
    ``size`` pixels a side: a mosaic is (2 size, 2 size, 3) uint8. UserError: a group that is not of four classes."""

    def __init__(self, dataset: Dataset, groups: Sequence[Sequence[int]], size: int):
        for number, group in enumerate(groups):
            if len(group) != CELLS or len(set(dataset.labels[list(group)])) != CELLS:
                raise UserError(f"mosaic {number}: images {list(group)} given, four of different classes needed")
        super().__init__(dataset, [i for group in groups for i in group])
        self.size, self._changed = size, [*self.names, f"mosaics of {size}"]

    def image(self, index: int) -> np.ndarray:
        first = range(len(self))[index] // CELLS * CELLS
        cells = [squash(image, self.size) for image in map(super().image, range(first, first + CELLS))]
        return np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])])

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        mask = np.kron(np.arange(CELLS).reshape(2, 2) == index % CELLS, np.ones((self.size, self.size), bool))
        return Record(self.names[index], self.image(index), int(self.labels[index]), around(mask), mask)
