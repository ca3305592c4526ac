"""Insertion and deletion against TorchCAM's ``DeletionInsertionMetric``.

It skips without the packages of requirements-peers.txt. TorchCAM fills both curves from one baseline, so it is asked
twice: with zeros for deletion, with the blurred image for insertion. It breaks ties in reading order, and all its steps
but the last hold equally many pixels. These maps have no ties, and the steps divide the image evenly. Both then compute
the same.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dgl_lib.metrics.faithfulness import STEPS, area, blur, curves
from dgl_lib.models import spg_plain

SIZE = 40  # 1600 pixels: every step takes exactly 80


class Given:
    """Stands for a TorchCAM extractor: hands out a map (1, h, w) that was made beforehand."""

    def __init__(self, model: nn.Module, m: Tensor):
        self.model, self.map = model, m

    def __call__(self, class_idx: int, scores: Tensor) -> list[Tensor]:
        return [self.map]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> AbstractContextManager[None]:
        return nullcontext()


def test_areas_are_torchcams() -> None:
    package = pytest.importorskip("torchcam.metrics")
    torch.manual_seed(0)
    model, images = spg_plain(3, width=1 / 16).eval(), torch.randn(4, 3, SIZE, SIZE)
    with torch.no_grad():
        model.fc.weight.mul_(50)  # so that p_c moves
    ours, theirs = [], []
    for image in images:
        m = torch.rand(SIZE, SIZE)
        [curve] = curves(model, image, 1, {("dgl", "Mixed_6e"): m}).values()
        ours.append(area(curve))
        found = {}
        for name, baseline in (("insertion", lambda x: torch.stack([blur(one) for one in x])), ("deletion", None)):
            softmax = partial(torch.softmax, dim=-1)
            metric = package.DeletionInsertionMetric(Given(model, m[None]), softmax, steps=STEPS, baseline=baseline)
            metric.update(image[None], 1)
            found[name] = metric.summary()[f"{name}_auc"]
        theirs.append([found["insertion"], found["deletion"]])
    assert np.ptp(ours, axis=0).min() > 1e-3  # the images differ, so agreement says something
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
