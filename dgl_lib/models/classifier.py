"""What all classifiers of the study share: a table of layers, a frozen batch norm, what is known of their weights."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Self

from torch import Tensor, nn
from torchvision.models import WeightsEnum

from dgl_lib.errors import UserError


class Layer(NamedTuple):
    """A row of a layer table: dotted module ``name``, ``channels`` at width 1, ``stride`` in input pixels."""

    name: str
    channels: int
    stride: int


class Classifier(nn.Module):
    """A classifier whose logits are ``fc(mean over h,w of the last layer)``, so that CAM exists there.

    Class attributes:
        architecture: the name in ``NETWORKS`` and in a checkpoint's header.
        layers: every layer the study localizes on, in the order data flows through them; CAM exists on the last.
        layer: the one it looks at closest: the last that ImageNet trained, short of CAM's own.
        imagenet: torchvision's weights that fill the trunk.
        trunk, added: in words, what those weights fill and what they leave; ``dropped``: beginnings of names in
            torchvision's file that have no place here.

    Attributes:
        mean, std: what images in 0..1 are normalised with; they belong to the weights.
        classes: the class names, empty until a training run or a checkpoint sets them.
        facts: what the checkpoint's training run left about itself.
        origin: one sentence on where the weights come from.
        freeze_batch_norm: True where a trunk was loaded: its running statistics then stay as they are in training too.
    """

    architecture: ClassVar[str]
    layers: ClassVar[tuple[Layer, ...]]
    layer: ClassVar[str]
    imagenet: ClassVar[WeightsEnum]
    trunk: ClassVar[str]
    added: ClassVar[str]
    dropped: ClassVar[tuple[str, ...]]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of ImageNet's training images: torchvision's usual numbers
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    fc: nn.Linear

    def __init__(self, num_classes: int, width: float):
        super().__init__()
        self.num_classes, self.width = num_classes, width
        self.classes: tuple[str, ...] = ()
        self.origin = "random weights"
        self.facts: dict = {}
        self.freeze_batch_norm = False

    def scaled(self, channels: int) -> int:
        """``channels`` of the full network at this one's width."""
        return round(channels * self.width)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of normalised ``images`` (N, 3, H, W), float."""
        x = images
        for name, module in self.named_children():  # the children stand in the order data flows through them
            if name == "fc":
                x = x.flatten(1)
            x = module(x)
        return x

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, but a frozen batch norm stays frozen: a plain ``train()`` would silently thaw it."""
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def trunk_names(self) -> dict[str, str]:
        """What ImageNet weights fill: {name of an entry of the state: its name in torchvision's file}."""
        raise NotImplementedError


def start_kaiming(model: nn.Module) -> None:
    """Kaiming-normal weights and zero biases in every convolution and linear layer."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_size(num_classes: int, width: float) -> None:
    """Raise UserError unless there are at least 2 classes and ``width`` is a multiple of 1/16 in (0, 1]."""
    if not isinstance(num_classes, int) or num_classes < 2:
        raise UserError(f"num_classes: {num_classes!r} given, a whole number of at least 2 allowed")
    if not 0 < width <= 1 or (width * 16) % 1:
        raise UserError(f"width: {width!r} given, a multiple of 1/16 in (0, 1] allowed (other widths do not add up)")
