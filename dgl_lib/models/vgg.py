"""VGG16-gap: VGG-16's thirteen convolutions at stride 16, one more, global average pooling. From the released code."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import nn
from torchvision.models import VGG16_Weights

from dgl_lib.models.classifier import Classifier, layer_table
from dgl_lib.models.weights import build


class VGG16Gap(Classifier):
    """VGG-16 (Simonyan and Zisserman, ICLR 2015) without its fifth pool and its dense layers, then ``add``.

    Build it with :func:`vgg16_gap`. A convolution's name gives its output after ReLU. No batch norm, no dropout.
    """

    architecture = "vgg16_gap"
    layers = layer_table(
        ("conv1_1 conv1_2", 64, 1),
        ("pool1", 64, 2),
        ("conv2_1 conv2_2", 128, 2),
        ("pool2", 128, 4),
        ("conv3_1 conv3_2 conv3_3", 256, 4),
        ("pool3", 256, 8),
        ("conv4_1 conv4_2 conv4_3", 512, 8),
        ("pool4", 512, 16),
        ("conv5_1 conv5_2 conv5_3", 512, 16),
        ("add", 1024, 16),
    )
    layer = "conv5_3"
    imagenet = VGG16_Weights.IMAGENET1K_V1
    trunk = "a VGG-16 trunk (features.0 to features.28)"
    new, added = frozenset({"add", "fc"}), "add and fc"
    dropped = ("classifier.",)

    def __init__(self, num_classes: int, width: float):
        super().__init__(num_classes, width)
        channels = 3
        for name, full, _ in self.layers:  # the table is the network
            if name.startswith("pool"):
                self.add_module(name, nn.MaxPool2d(2))
                continue
            convolution = nn.Conv2d(channels, self.scaled(full), 3, padding=1)
            self.add_module(name, nn.Sequential(OrderedDict(conv=convolution, relu=nn.ReLU())))
            channels = self.scaled(full)
        self.avgpool = nn.AdaptiveAvgPool2d(1)  # N x K x 1 x 1
        self.fc = nn.Linear(channels, num_classes)  # N x C

    def trunk_names(self) -> dict[str, str]:
        """``conv1_1`` to ``conv5_3``, which torchvision numbers: a convolution and its ReLU are two, a pool is one."""
        names: dict[str, str] = {}
        place = 0
        for name, _, _ in self.layers[:-1]:
            if name.startswith("conv"):
                names |= {f"{name}.conv.{what}": f"features.{place}.{what}" for what in ("weight", "bias")}
            place += 1 if name.startswith("pool") else 2
        return names


def vgg16_gap(num_classes: int, *, width: float = 1.0, weights: str | Path | None = None) -> VGG16Gap:
    """VGG16-gap for ``num_classes`` classes; arguments and errors as for :func:`spg_plain`.

    A trunk holds torchvision's ``features.*``. ``add`` and ``fc`` then stay random.
    """
    return build(VGG16Gap, num_classes, width, weights)
