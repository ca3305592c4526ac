"""Photographs as a network wants them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """``image`` (H, W, 3) uint8 at ``size`` x ``size``: by area where pixels get fewer, so that nothing aliases."""
    if image.shape[:2] == (size, size):
        return image
    how = cv2.INTER_AREA if max(image.shape[:2]) > size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=how)


def preprocess(model: nn.Module, images: Sequence[np.ndarray], size: int) -> Tensor:
    """Photographs as the network wants them: squashed to ``size`` x ``size``, then normalised with its mean and std.

    Args:
        images: (H, W, 3) uint8 RGB arrays, of any sizes.
        size: side of the square input, pixels.

    Returns:
        (N, 3, size, size) float32 on the model's device.
    """
    device = next(model.parameters()).device
    batch = torch.from_numpy(np.stack([squash(image, size) for image in images])).to(device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (model.mean, model.std))
    return (batch.permute(0, 3, 1, 2).float() / 255 - mean) / std  # N x 3 x size x size, channels last in memory
