"""VGG16-gap: the thirteen convolutions of VGG-16 at stride 16, one more, global average pooling.

One of the released code's other two classifiers.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import nn
from torchvision.models import VGG16_Weights

from dgl_lib.models.classifier import Classifier, Layer, check_size, start_kaiming
from dgl_lib.models.weights import read_weights, start


class VGG16Gap(Classifier):
    """VGG-16 (Simonyan and Zisserman, ICLR 2015) without its fifth pool and its dense layers, then ``add``.

    Build it with :func:`vgg16_gap`. A convolution's name gives its output after ReLU. No batch norm, no dropout.
    """

    architecture = "vgg16_gap"
    layers = (
        Layer("conv1_1", 64, 1),
        Layer("conv1_2", 64, 1),
        Layer("pool1", 64, 2),
        Layer("conv2_1", 128, 2),
        Layer("conv2_2", 128, 2),
        Layer("pool2", 128, 4),
        Layer("conv3_1", 256, 4),
        Layer("conv3_2", 256, 4),
        Layer("conv3_3", 256, 4),
        Layer("pool3", 256, 8),
        Layer("conv4_1", 512, 8),
        Layer("conv4_2", 512, 8),
        Layer("conv4_3", 512, 8),
        Layer("pool4", 512, 16),
        Layer("conv5_1", 512, 16),
        Layer("conv5_2", 512, 16),
        Layer("conv5_3", 512, 16),
        Layer("add", 1024, 16),
    )
    layer = "conv5_3"
    imagenet = VGG16_Weights.IMAGENET1K_V1
    trunk, added = "a VGG-16 trunk (features.0 to features.28)", "add and fc"
    dropped = ("classifier.",)

    def __init__(self, num_classes: int, width: float):
        super().__init__(num_classes, width)
        channels = 3
        for name, channels_out, _ in self.layers:
            if name.startswith("pool"):
                self.add_module(name, nn.MaxPool2d(2))
                continue
            convolution = nn.Conv2d(channels, self.scaled(channels_out), 3, padding=1)
            self.add_module(name, nn.Sequential(OrderedDict(conv=convolution, relu=nn.ReLU())))
            channels = self.scaled(channels_out)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        start_kaiming(self)

    def trunk_names(self) -> dict[str, str]:
        """``conv1_1`` to ``conv5_3``, which torchvision numbers: a convolution and its ReLU are two, a pool is one."""
        names: dict[str, str] = {}
        place = 0
        for layer in self.layers[:-1]:
            if layer.name.startswith("pool"):
                place += 1
                continue
            names |= {f"{layer.name}.conv.{what}": f"features.{place}.{what}" for what in ("weight", "bias")}
            place += 2
        return names


def vgg16_gap(num_classes: int, *, width: float = 1.0, weights: str | Path | None = None) -> VGG16Gap:
    """VGG16-gap for ``num_classes`` classes.

    Args and Raises: as :func:`spg_plain`; a trunk holds torchvision's ``features.*``, of which its VGG-16 is the same
    with a ``classifier``, which is dropped; ``add`` and ``fc`` then stay random.
    """
    check_size(num_classes, width)
    state, header = read_weights(weights, width, VGG16Gap.imagenet)
    return start(VGG16Gap(num_classes, width), weights, state, header)
