"""What happens to a raw map before it is scored, in the same order for every method.

    raw map of each scale -> minmax -> resize -> mean -> minmax -> close -> minmax -> to_uint8

Every function takes and gives maps (..., h, w) and treats each map by itself.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dgl_lib.errors import UserError
from dgl_lib.given import need_finite, need_one_of

PAS, IVR = 0.9, 0.45  # the percentiles of "pas" and "ivr", as released
NORMALISATIONS = ("minmax", "max", "pas", "ivr")


def minmax(m: Tensor) -> Tensor:
    """(m - min m) / (max m - min m), each map to 0..1. A constant map becomes zeros. UserError: a value not finite.

    >>> minmax(torch.tensor([[-1.0, 1.0], [3.0, 0.0]]))
    tensor([[0.0000, 0.5000],
            [1.0000, 0.2500]])
    """
    m, low, high = _ranged(m)
    span = high - low
    return (m - low).div_(torch.where(span == 0, torch.ones_like(span), span))


def _ranged(m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maps as finite floats, with the lowest and the highest value of each, (..., 1, 1)."""
    m = torch.as_tensor(m)
    m = m if m.is_floating_point() else m.float()
    if m.ndim < 2 or 0 in m.shape[-2:]:
        raise UserError(f"map: {tuple(m.shape)} given, ... x h x w of at least one pixel needed")
    low, high = m.amin((-2, -1), keepdim=True), m.amax((-2, -1), keepdim=True)
    if not (fit := (high - low).isfinite()).all():
        need_finite(("map", m))
        fits = torch.where(fit, 1.0, 0.5).to(m)  # half of each value, where the range would overflow
        m, low, high = m * fits, low * fits, high * fits
    return m, low, high


def normalise(m: Tensor, how: str = "minmax", *, percentile: float = IVR) -> Tensor:
    """Each map to 0..1 in one of the ways that Kim et al. (ICCV 2021) compare. A constant map becomes zeros.

    m_(p) is the value at place int(p n) of a map's n values, sorted from the lowest and counted from 0::

        minmax   (m - min m) / (max m - min m)
        max      relu(m) / max m
        pas      min(1, (m - min m) / (m_(0.9) - min m))          percentile as a standard: Bae et al., ECCV 2020
        ivr      relu(m - m_(p)) / (max m - m_(p))                inferior value removal: Kim et al., ICCV 2021

    ``percentile`` is p of "ivr", in [0, 1). Where the denominator is not positive, the limit from above is taken: "pas"
    gives 1 wherever m > min m, "max" and "ivr" give 0. Definitions and defaults are those of Kim et al.'s code
    (github.com/GenDisc/IVR). UserError: a value that is not finite, or an argument out of range."""
    need_one_of(NORMALISATIONS, how, "normalisation")
    if not 0 <= percentile < 1:
        raise UserError(f"percentile: {percentile!r} given, a share in [0, 1) allowed")
    if how == "minmax":
        return minmax(m)
    m, low, high = _ranged(m)
    flat = m.flatten(-2)  # ... x hw
    place = int((PAS if how == "pas" else percentile) * flat.shape[-1])
    at_place = flat.kthvalue(place + 1).values[..., None, None]  # ... x 1 x 1, faster than sorting
    x, top = {
        "max": (m.relu(), high),
        "pas": (m - low, at_place - low),
        "ivr": ((m - at_place).relu(), high - at_place),
    }[how]
    ratio = torch.where(top > 0, x / torch.where(top > 0, top, torch.ones_like(top)), (x > 0).to(x))
    return torch.where(high > low, ratio.clamp(max=1), torch.zeros_like(m))


def resize(m: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (..., h, w) at ``size`` = (H, W) pixels, bilinear, pixel centres matched (``align_corners=False``)."""
    m = torch.as_tensor(m)
    flat = m.reshape(-1, 1, *m.shape[-2:])  # M x 1 x h x w
    resized = F.interpolate(flat, size=tuple(size), mode="bilinear", align_corners=False)  # M x 1 x H x W
    return resized.reshape(*m.shape[:-2], *size)  # ... x H x W


def multiscale(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """One map in 0..1 at ``size`` from the raw maps of several scales: minmax, resize, mean, minmax."""
    if not len(maps):
        raise UserError("multiscale: no map given, at least one needed")
    resized = [resize(minmax(m), size) for m in maps]  # ... x H x W each
    return minmax(torch.stack(resized).mean(0) if len(resized) > 1 else resized[0])


def close(m: Tensor, fraction: float) -> Tensor:
    """Grey-level morphological closing (dilation, then erosion) of maps (..., H, W) in 0..1, which fills dark gaps.

    The kernel is an ellipse whose side is ``fraction`` of the map's longer side, in [0, 1), rounded to an odd number of
    pixels. Below 3 pixels nothing is done. Pixels outside of the map take no part (OpenCV's default border): a dark
    strip at the edge fills if it is narrower than half of the kernel, a gap inside if it is narrower than the whole.
    UserError: ``fraction`` out of range, or values outside 0..1."""
    if not 0 <= fraction < 1:
        raise UserError(f"closing kernel: {fraction!r} given, a fraction of the side in [0, 1) allowed")
    m = _unit(m)
    side = 2 * round((fraction * max(m.shape[-2:]) - 1) / 2) + 1
    if side < 3 or not m.numel():
        return m
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    flat = m.detach().float().cpu().reshape(math.prod(m.shape[:-2]), *m.shape[-2:]).numpy()  # M x H x W
    closed = np.stack([cv2.morphologyEx(one, cv2.MORPH_CLOSE, kernel) for one in flat])
    return torch.from_numpy(closed).reshape(m.shape).to(m)


def fuse(maps: Sequence[Tensor], how: str = "mean") -> Tensor:
    """Maps of one size fused into one in 0..1: the "mean" or the "max" of the min-maxed maps, min-maxed again.

    >>> fuse([torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[4.0, 0.0, 0.0]])], "max")
    tensor([[1., 0., 1.]])
    """
    if not len(maps):
        raise UserError("fuse: no map given, at least one needed")
    need_one_of(("mean", "max"), how, "fuse")
    stack = torch.stack([minmax(m) for m in maps])  # maps x ... x h x w
    return minmax(stack.mean(0) if how == "mean" else stack.amax(0))  # ... x h x w


def to_uint8(m: Tensor) -> np.ndarray:
    """round(255 m) of maps in 0..1, uint8, for the thresholds 0..255 of the IoU curve."""
    return (255 * _unit(m)).round_().to(torch.uint8).cpu().numpy()


def _unit(m: Tensor) -> Tensor:
    m = torch.as_tensor(m)
    low, high = m.aminmax() if m.numel() else (0, 1)
    if not (low >= 0 and high <= 1):  # a NaN fails both
        raise UserError(f"map: values {float(low):.3g}..{float(high):.3g} given, 0..1 needed")
    return m


def centred_gaussian(size: tuple[int, int]) -> Tensor:
    """A baseline that looks at no image: exp(-(x^2 + y^2) / 2), x and y in units of half a side, (H, W)."""
    y, x = (torch.linspace(-1, 1, side) if side > 1 else torch.zeros(1) for side in size)  # H, W
    return minmax(torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / 2))  # H x W
