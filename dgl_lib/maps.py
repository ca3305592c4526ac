"""What happens to a raw map before it is scored, in one order for every method.

    raw map of each scale and flip -> minmax -> resize -> mean -> minmax -> close -> minmax -> to_uint8

Every function takes and gives maps (..., h, w) and treats each map by itself, never the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dgl_lib.errors import UserError


def minmax(m: Tensor) -> Tensor:
    """(m - min m) / (max m - min m), each map to 0..1; a constant map becomes zeros.

    Raises:
        UserError: a NaN or an infinity anywhere.
    """
    m = torch.as_tensor(m)
    m = m if m.is_floating_point() else m.float()
    if not m.isfinite().all():
        raise UserError(
            f"map: {int((~m.isfinite()).sum())} of {m.numel()} values are NaN or infinite, finite ones needed"
        )
    low, high = m.amin((-2, -1), keepdim=True), m.amax((-2, -1), keepdim=True)
    span = high - low
    return (m - low) / torch.where(span == 0, torch.ones_like(span), span)


def resize(m: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (..., h, w) at ``size`` = (H, W) pixels, bilinear, pixel centres matched (``align_corners=False``)."""
    m = torch.as_tensor(m)
    resized = F.interpolate(m.reshape(-1, 1, *m.shape[-2:]), size=tuple(size), mode="bilinear", align_corners=False)
    return resized.reshape(*m.shape[:-2], *size)


def multiscale(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """One map in 0..1 at ``size`` from the raw maps of several scales (and flips, turned back): min-max each, mean."""
    if not len(maps):
        raise UserError("multiscale: no map given, at least one needed")
    return minmax(torch.stack([resize(minmax(m), size) for m in maps]).mean(0))


def close(m: Tensor, fraction: float) -> Tensor:
    """Grey-level morphological closing (dilate, then erode) of maps (..., H, W) in 0..1; dark gaps fill, in 0..1.

    Args:
        fraction: side of the elliptic kernel as a fraction of the map's longer side, in [0, 1); rounded to an odd
            number of pixels, and nothing is done below 3.

    What lies outside of the map takes no part (OpenCV's default border). A dark strip along an edge that is narrower
    than half of the kernel therefore fills, as a gap inside does that is narrower than the whole.

    Raises:
        UserError: ``fraction`` out of range, or values outside 0..1.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"closing kernel: {fraction!r} given, a fraction of the side in [0, 1) allowed")
    m = torch.as_tensor(m)
    if m.numel() and (float(m.min()) < 0 or float(m.max()) > 1):
        raise UserError(f"closing: values {float(m.min()):.3g}..{float(m.max()):.3g} given, a map in 0..1 needed")
    side = 2 * round((fraction * max(m.shape[-2:]) - 1) / 2) + 1
    if side < 3:
        return m
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    flat = m.detach().cpu().numpy().astype(np.float32).reshape(-1, *m.shape[-2:])
    closed = np.stack([cv2.morphologyEx(one, cv2.MORPH_CLOSE, kernel) for one in flat]) if len(flat) else flat
    return torch.from_numpy(closed).reshape(m.shape).to(m)


def fuse(maps: Sequence[Tensor], how: str = "mean") -> Tensor:
    """Maps of one size fused into one in 0..1: the "mean" or the "max" of their min-maxed values, min-maxed again."""
    if not len(maps):
        raise UserError("fuse: no map given, at least one needed")
    stack = torch.stack([minmax(m) for m in maps])
    if how == "mean":
        return minmax(stack.mean(0))
    if how == "max":
        return minmax(stack.amax(0))
    raise UserError(f"fuse: {how!r} given, mean or max allowed")


def to_uint8(m: Tensor) -> np.ndarray:
    """``round(255 m)`` of maps in 0..1, uint8: what the IoU curve's thresholds 0..255 are applied to."""
    m = torch.as_tensor(m)
    if m.numel() and not (float(m.min()) >= 0 and float(m.max()) <= 1):  # a NaN fails both
        raise UserError(f"map: values {float(m.min()):.3g}..{float(m.max()):.3g} given, 0..1 needed")
    return (255 * m).round().to(torch.uint8).cpu().numpy()


def centred_gaussian(size: tuple[int, int]) -> Tensor:
    """A trivial baseline: exp(-(x^2 + y^2) / 2) with the map's half sides as the unit, (H, W); it looks at no image."""
    y, x = (torch.linspace(-1, 1, side) if side > 1 else torch.zeros(1) for side in size)
    return minmax(torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / 2))


def whole_image(size: tuple[int, int]) -> Tensor:
    """The other trivial baseline: every pixel is the object, (H, W) of ones."""
    return torch.ones(size)
