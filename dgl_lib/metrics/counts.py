"""What every score that streams over images has in common: whole-number counts, and curves made from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from dgl_lib.errors import UserError


@dataclass(frozen=True)
class Curve:
    """A score at every threshold, its peak, and the peak's index, the lowest where several tie.
    The index is the grey level t = 0..255 of a pixel score, and counts thousandths of the map's maximum for boxes."""

    values: np.ndarray

    @property
    def threshold(self) -> int:
        return int(self.values.argmax())

    @property
    def peak(self) -> float:
        return float(self.values.max())


class Counts:
    """A score as a stream: ``update`` adds an image to whole-number counts, ``compute`` makes the score from them.
    Counts have a fixed size, so memory does not grow with images. They are exact, so merged counts of several processes
    give the identical score. ``np.savez(path, **score.state_dict())`` saves them, ``load_state_dict`` resumes."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.counts = {name: np.zeros(shape, np.int64) for name, shape in {"images": (), **shapes}.items()}

    @property
    def images(self) -> int:
        return int(self.counts["images"])

    def add(self, **counts: np.ndarray) -> None:
        """Add one image's counts."""
        self.counts["images"] += 1
        for name, count in counts.items():
            self.counts[name] += count

    def need_images(self) -> int:
        """How many images there are. UserError: none."""
        if not self.images:
            raise UserError(f"{type(self).__name__}: no image given, at least one needed")
        return self.images

    def merge(self, other: Self) -> None:
        """Add another score's images to this one's. UserError: it is another kind of score."""
        if type(other) is not type(self):
            raise UserError(f"merge: {type(other).__name__} given, {type(self).__name__} needed")
        for name, count in other.counts.items():
            self.counts[name] += count

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of the counts, int64 arrays by name."""
        return {name: count.copy() for name, count in self.counts.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what ``state_dict`` gave. UserError: the state of another kind of score."""
        given, needed = ({name: (x.shape, str(x.dtype)) for name, x in of.items()} for of in (state, self.counts))
        if given != needed:
            raise UserError(f"state of {type(self).__name__}: {given} given, {needed} needed")
        self.counts = {name: state[name].copy() for name in needed}
