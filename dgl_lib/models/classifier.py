"""What all classifiers of the study share: a table of layers, frozen batch norms, preprocessing."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from dgl_lib.data.images import squash
from dgl_lib.given import need_one_of


class Layer(NamedTuple):
    """A row of a layer table: dotted module ``name``, ``channels`` at width 1, ``stride`` in input pixels."""

    name: str
    channels: int
    stride: int


def layer_table(*rows: tuple[str, int, int]) -> tuple[Layer, ...]:
    """The layers of (names, channels, stride): the names of a row are separated by blanks."""
    return tuple(Layer(name, channels, stride) for names, channels, stride in rows for name in names.split())


class Classifier(nn.Module):
    """A classifier whose logits are ``fc(mean over h,w of the last layer)``, so that CAM exists there."""

    architecture: ClassVar[str]  # the name in NETWORKS and in a checkpoint's header
    layers: ClassVar[tuple[Layer, ...]]  # all that the study localizes on, in the order of the data's flow
    layer: ClassVar[str]  # the one that it looks at most closely: the last that ImageNet trained
    imagenet: ClassVar[WeightsEnum]  # torchvision's weights for the trunk, which is the part that ImageNet trains
    trunk: ClassVar[str]  # in words
    new: ClassVar[frozenset[str]]  # the modules outside of the trunk
    added: ClassVar[str]  # the same in words
    dropped: ClassVar[tuple[str, ...]]  # how the entries of torchvision's file begin that have no place here
    paddings: ClassVar[tuple[str, ...]] = ("symmetric",)  # those that it can have
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # images in 0..1 are normalised with these; they belong to the
    std: tuple[float, ...] = (0.229, 0.224, 0.225)  #  weights, and here they are those of ImageNet's training images
    fc: nn.Linear

    def __init__(self, num_classes: int, width: float, padding: str):
        super().__init__()
        need_one_of(self.paddings, padding, f"padding of {self.architecture}")
        self.num_classes, self.width, self.padding = num_classes, width, padding
        self.classes: tuple[str, ...] = ()  # names, set by a training run or a checkpoint
        self.facts: dict = {}  # what the training run tells of itself
        self.origin = "random weights"  # where the weights come from, in one sentence
        self.freeze_batch_norm = False  # whether running statistics stay as they are in training too

    def scaled(self, channels: int) -> int:
        """``channels`` of the full network at this one's width."""
        return round(channels * self.width)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C) of normalised ``images`` (N, 3, H, W), float."""
        x = images
        for name, module in self.named_children():  # in the order in which data flows through them
            x = module(x.flatten(1) if name == "fc" else x)  # before fc: N x K x 1 x 1 -> N x K
        return x

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, but frozen batch norms stay in eval mode."""
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def trunk_names(self) -> dict[str, str]:
        """The trunk's entries: {name in the state dictionary: name in torchvision's file}."""
        return {name: name for name in self.state_dict() if not self.new & set(name.split("."))}

    def adapt(self, header: dict[str, str]) -> None:
        """Take on what a weights file says in its header about the network, before the weights are loaded."""


def preprocess(model: nn.Module, images: Sequence[np.ndarray], size: int) -> Tensor:
    """Photographs (H, W, 3) uint8 RGB, of any sizes, squashed and normalised with the network's mean and std.

    Returns (N, 3, size, size) float32 on the model's device."""
    device = next(model.parameters()).device
    batch = torch.from_numpy(np.stack([squash(image, size) for image in images])).to(device)  # N x size x size x 3
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (model.mean, model.std))  # 3 x 1 x 1
    return (batch.permute(0, 3, 1, 2).float() / 255 - mean) / std  # N x 3 x size x size, channels last in memory
