"""Means over images with their bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgl_lib.errors import UserError

#: Values drawn at once: a megabyte, which stays in the cache.
DRAWS = 1 << 16


@dataclass(frozen=True)
class Interval:
    """A mean over images and its 95 % bootstrap interval, with the number of images behind it."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap(values: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean over images with its 95 % percentile-bootstrap interval (images drawn with replacement); NaN are left out.

    For two methods give the difference of their values image by image: that is the paired interval.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        raise UserError("bootstrap: no value that is a number, at least one needed")
    random = np.random.default_rng(seed)
    # Some resamples at a time, so that memory stays small; the draws are those of one resample after the other.
    rows = max(1, DRAWS // len(values))
    means = np.concatenate(
        [
            values[random.integers(len(values), size=(min(rows, resamples - done), len(values)))].mean(1)
            for done in range(0, resamples, rows)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), len(values))
