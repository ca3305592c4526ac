"""Means over images with their bootstrap intervals, and the one vocabulary that says where an interval lies."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from dgl_lib.errors import UserError

MARGIN = 0.5  # points of a score that a difference has to exceed to count
FEWEST = 10  # images below which nothing is decided: the bootstrap interval of very few is too narrow
DRAWS = 1 << 16  # values drawn at once: a megabyte, which stays in the cache


@dataclass(frozen=True)
class Interval:
    """A mean over images and its 95 % bootstrap interval, with the number of images behind it."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: np.ndarray, n: int) -> Self:
        """From the value of all ``n`` images and those of resamples, (1 + resamples,)."""
        low, high = np.quantile(values[1:], [0.025, 0.975]).tolist()
        return cls(float(values[0]), low, high, n)

    def verdict(self) -> str:
        """Where a difference lies: "gains" above +MARGIN, "loses" below -MARGIN, "level" within, else "undecided"."""
        if self.n < FEWEST:
            return "undecided"
        if self.low > MARGIN:
            return "gains"
        if self.high < -MARGIN:
            return "loses"
        return "level" if self.low >= -MARGIN and self.high <= MARGIN else "undecided"

    def row(self) -> dict[str, float]:
        """The cells of a table: mean, low, high, images."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "images": self.n}

    def cells(self, name: str) -> dict[str, float]:
        """The cells of a table with several intervals a line: name, name_low, name_high."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}


def bootstrap(values: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean over images with its 95 % percentile-bootstrap interval (images drawn with replacement). NaN are left out.
    For two methods give the difference of their values image by image. That is the paired interval."""
    x = np.asarray(values, np.float64)
    x = x[~np.isnan(x)]
    if not len(x):
        raise UserError("bootstrap: no value that is a number, at least one needed")
    random = np.random.default_rng(seed)
    rows = max(1, DRAWS // len(x))  # resamples at a time; the draws are those of one after the other
    counts = (min(rows, resamples - done) for done in range(0, resamples, rows))
    means = [x[random.integers(len(x), size=(count, len(x)))].mean(1) for count in counts]
    return Interval.of(np.concatenate([[x.mean()], *means]), len(x))


def two_samples(a: np.ndarray, b: np.ndarray) -> Interval:
    """Mean of ``a`` minus mean of ``b``, two sets of images, with the interval that redraws each set by itself."""
    if not len(a) or not len(b):
        raise UserError(f"two samples of {len(a)} and {len(b)} values given, at least one in each needed")
    random = np.random.default_rng(0)
    means = [[x[random.integers(len(x), size=len(x))].mean() for x in (a, b)] for _ in range(2000)]
    return Interval.of(np.subtract(*np.transpose([[a.mean(), b.mean()], *means])), len(a) + len(b))
