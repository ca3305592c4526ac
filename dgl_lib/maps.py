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
    m = _finite(m)
    low, high = m.amin((-2, -1), keepdim=True), m.amax((-2, -1), keepdim=True)
    span = high - low
    return (m - low) / torch.where(span == 0, torch.ones_like(span), span)


def _finite(m: Tensor) -> Tensor:
    m = torch.as_tensor(m)
    m = m if m.is_floating_point() else m.float()
    if not m.isfinite().all():
        raise UserError(
            f"map: {int((~m.isfinite()).sum())} of {m.numel()} values are NaN or infinite, finite ones needed"
        )
    return m


#: Share of the pixels that "pas" lets saturate at 1 is 1 - PAS; share that "ivr" sets to 0, the released default.
PAS, IVR = 0.9, 0.45
NORMALISATIONS = ("minmax", "max", "pas", "ivr")


def normalise(m: Tensor, how: str = "minmax", *, percentile: float = IVR) -> Tensor:
    """Each map to 0..1 in one of the ways that Kim et al. (ICCV 2021) compare; a constant map becomes zeros.

    With ``m_(p)`` the value at place int(p n) of a map's n values, sorted from the lowest, counted from 0::

        minmax   (m - min m) / (max m - min m)
        max      relu(m) / max m
        pas      min(1, (m - min m) / (m_(0.9) - min m))          percentile as a standard: Bae et al., ECCV 2020
        ivr      relu(m - m_(p)) / (max m - m_(p))                inferior value removal: Kim et al., ICCV 2021

    Where a denominator is 0, or negative for "max", its limit from above is taken: "pas" is then 1 wherever m > min m,
    "max" and "ivr" are 0. The definitions, the place without interpolation and the defaults are those of the code that
    Kim et al. released (github.com/GenDisc/IVR, inference.py and config.py), which normalises after the resize.

    Args:
        percentile: ``p`` of "ivr", in [0, 1), to be chosen on validation.

    Raises:
        UserError: a value that is not finite, an unknown name, or ``percentile`` out of range.
    """
    if how not in NORMALISATIONS:
        raise UserError(f"normalisation: {how!r} given, {', '.join(NORMALISATIONS)} allowed")
    if not 0 <= percentile < 1:
        raise UserError(f"percentile: {percentile!r} given, a share in [0, 1) allowed")
    if how == "minmax":
        return minmax(m)
    m = _finite(m)
    low, high = m.amin((-2, -1), keepdim=True), m.amax((-2, -1), keepdim=True)
    if how == "max":
        x, top = m.relu(), high
    elif how == "pas":
        x, top = m - low, _at_place(m, PAS) - low
    else:
        removed = _at_place(m, percentile)
        x, top = (m - removed).relu(), high - removed
    ratio = torch.where(top > 0, x / torch.where(top > 0, top, torch.ones_like(top)), (x > 0).to(x))
    return torch.where(high > low, ratio.clamp(max=1), torch.zeros_like(m))


def _at_place(m: Tensor, p: float) -> Tensor:
    """``m_(p)``, (..., 1, 1)."""
    flat = m.flatten(-2)
    return flat.kthvalue(int(p * flat.shape[-1]) + 1).values[..., None, None]  # a tenth of the time of a sort


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
    low, high = (float(v) for v in m.aminmax()) if m.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # a NaN fails both
        raise UserError(f"map: values {low:.3g}..{high:.3g} given, 0..1 needed")
    return (255 * m).round_().to(torch.uint8).cpu().numpy()


def centred_gaussian(size: tuple[int, int]) -> Tensor:
    """A trivial baseline: exp(-(x^2 + y^2) / 2) with the map's half sides as the unit, (H, W); it looks at no image."""
    y, x = (torch.linspace(-1, 1, side) if side > 1 else torch.zeros(1) for side in size)
    return minmax(torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / 2))


def whole_image(size: tuple[int, int]) -> Tensor:
    """The other trivial baseline: every pixel is the object, (H, W) of ones."""
    return torch.ones(size)
