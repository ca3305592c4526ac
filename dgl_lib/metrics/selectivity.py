"""Whose pixels does a map show? Scores for pictures that hold more than one answer."""

import cv2
import numpy as np
import pandas as pd
import torch

from dgl_lib.errors import UserError
from dgl_lib.maps import resize


def cell_share(maps: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Grid pointing game (Boehle et al., CVPR 2021): sum of relu(map) in the asked cell over sum of relu(map), (N,).
    Raw ``maps`` (N, h, w) of 2 x 2 mosaics are taken at their own resolution; ``cells`` (N,) are 0..3 in reading order.
    The middle row or column of an odd side counts half to each side. A map without a positive value scores chance, 1/4.
    UserError: a value that is not finite.

    >>> cell_share(np.array([[[1.0, 2.0], [-5.0, 1.0]]] * 2), np.array([1, 2]))
    array([0.5, 0. ])
    """
    if bad := int((~np.isfinite(maps)).sum()):
        raise UserError(f"maps: {bad} of {maps.size} values are NaN or infinite, finite ones needed")
    top, left = (np.clip(side / 2 - np.arange(side), 0, 1) for side in maps.shape[1:])  # h, w
    positive = np.maximum(maps, 0, dtype=np.float64)
    mass = (np.stack([top, 1 - top]) @ positive @ np.stack([left, 1 - left]).T).reshape(-1, 4)  # N x 2 x 2 -> N x 4
    total = mass.sum(1)
    return np.divide(mass[np.arange(len(mass)), cells], total, out=np.full(len(mass), 1 / 4), where=total > 0)


def piece_shares(maps: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Share of each raw map's positive mass in each piece of one picture, (N, k) in 0..1; zeros if it has none.
    The positive part of ``maps`` (N, h, w) is resized bilinearly to the size of ``pieces``, (k, H, W) bool."""
    large = resize(torch.from_numpy(maps).double().relu(), pieces.shape[1:]).flatten(1).numpy()  # N x HW
    mass, total = large @ pieces.reshape(len(pieces), -1).T.astype(bool), large.sum(1, keepdims=True)
    return np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)


def gap(a: np.ndarray, b: np.ndarray) -> float:
    """Pixels from one mask (H, W) bool to the other: 1 where they touch, 0 if they overlap. UserError: an empty one."""
    a, b = a.astype(bool), b.astype(bool)
    if not (a.any() and b.any()):
        raise UserError("gap: a mask without a pixel given, two objects needed")
    return float(cv2.distanceTransform((~a).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[b].min())


def rank_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) values whose mean is Spearman's rank correlation of ``a`` and ``b``, (N,); zeros if one is flat.
    The bootstrap interval of that mean keeps the ranks as they are, which makes it an approximation."""
    x, y = (pd.Series(values).rank().to_numpy() for values in (a, b))
    spread = x.std() * y.std()
    return (x - x.mean()) * (y - y.mean()) / spread if spread > 0 else np.zeros(len(x))
