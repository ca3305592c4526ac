"""The classifier of the talk: SPG-plain, an Inception-v3 cut after ``Mixed_6e`` that keeps an output stride of 8.

Read it top to bottom: three blocks that differ from torchvision's in their padding, the network, its weights.
Parameter names are torchvision's, so ImageNet weights load as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import Inception_V3_Weights
from torchvision.models.inception import BasicConv2d, InceptionA, InceptionB, InceptionC

from dgl_lib.models.classifier import Classifier, Layer, check_size, start_kaiming
from dgl_lib.models.weights import read_weights, start

#: Every layer the study localizes on, in the order data flows through them.
SPG_PLAIN_LAYERS = (
    Layer("Mixed_5b", 256, 8),
    Layer("Mixed_5c", 288, 8),
    Layer("Mixed_5d", 288, 8),
    Layer("Mixed_6a", 768, 8),
    Layer("Mixed_6b", 768, 8),
    Layer("Mixed_6c", 768, 8),
    Layer("Mixed_6d", 768, 8),
    Layer("Mixed_6e", 768, 8),
    Layer("add2", 1024, 8),
    Layer("add1", 1024, 8),
)


def _average_pool(count_include_pad: bool) -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=count_include_pad)


class MixedA(InceptionA):
    """``Mixed_5b`` .. ``Mixed_5d``: torchvision's block, with the average pool's treatment of padding made a choice."""

    def __init__(self, in_channels: int, pool_features: int, conv_block: Callable, count_include_pad: bool):
        super().__init__(in_channels, pool_features, conv_block)
        self.pool = _average_pool(count_include_pad)

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(self.pool(x)),
        ]


class MixedB(InceptionB):
    """``Mixed_6a`` with every branch at stride 1 (Inception-v3: 2): this is what keeps the output stride at 8."""

    def __init__(self, in_channels: int, conv_block: Callable):
        super().__init__(in_channels, conv_block)
        self.branch3x3 = conv_block(in_channels, 384, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = conv_block(96, 96, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.pool(x),
        ]


class MixedC(InceptionC):
    """``Mixed_6b`` .. ``Mixed_6e``: torchvision's block, with the average pool's treatment of padding made a choice."""

    def __init__(self, in_channels: int, channels_7x7: int, conv_block: Callable, count_include_pad: bool):
        super().__init__(in_channels, channels_7x7, conv_block)
        self.pool = _average_pool(count_include_pad)

    def _forward(self, x: Tensor) -> list[Tensor]:
        factorised_7x7 = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return [self.branch1x1(x), factorised_7x7, twice, self.branch_pool(self.pool(x))]


class SPGPlain(Classifier):
    """SPG-plain (Zhang et al., ECCV 2018), the classifier of the talk. Build it with :func:`spg_plain`.

    Attributes, beside those of ``Classifier``:
        count_include_pad: whether average pools count the zero padding; it belongs to the weights too.
    """

    architecture = "spg_plain"
    layers = SPG_PLAIN_LAYERS
    layer = "Mixed_6e"  # the talk's
    # Inception-v3 as torchvision ported it: inputs in [-1, 1] and average pools that count the padding.
    imagenet = Inception_V3_Weights.IMAGENET1K_V1
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    trunk, added = "an Inception-v3 trunk (stem to Mixed_6e)", "add2, add1 and fc"
    dropped = ("AuxLogits.", "Mixed_7", "fc.")

    def __init__(self, num_classes: int, width: float, count_include_pad: bool = True):
        super().__init__(num_classes, width)
        self.count_include_pad = count_include_pad

        def conv(channels_in: int, channels_out: int, **kwargs: object) -> nn.Module:
            # Colours are three at every width.
            channels = 3 if channels_in == 3 else self.scaled(channels_in)
            return BasicConv2d(channels, self.scaled(channels_out), **kwargs)

        block_a = partial(MixedA, conv_block=conv, count_include_pad=count_include_pad)
        block_c = partial(MixedC, conv_block=conv, count_include_pad=count_include_pad)

        def added(channels_in: int, channels_out: int) -> nn.Module:
            convolution = nn.Conv2d(self.scaled(channels_in), self.scaled(channels_out), 3, padding=1)
            return nn.Sequential(OrderedDict(dropout=nn.Dropout(0.5), conv=convolution, relu=nn.ReLU()))

        #                                                                       at 224 px: N x
        self.Conv2d_1a_3x3 = conv(3, 32, kernel_size=3, stride=2, padding=1)  # 32 x 112 x 112
        self.Conv2d_2a_3x3 = conv(32, 32, kernel_size=3, padding=1)  #          32 x 112 x 112
        self.Conv2d_2b_3x3 = conv(32, 64, kernel_size=3, padding=1)  #          64 x 112 x 112
        self.maxpool1 = nn.MaxPool2d(3, stride=2, padding=1)  #                 64 x 56 x 56
        self.Conv2d_3b_1x1 = conv(64, 80, kernel_size=1)  #                     80 x 56 x 56
        self.Conv2d_4a_3x3 = conv(80, 192, kernel_size=3, padding=1)  #         192 x 56 x 56
        self.maxpool2 = nn.MaxPool2d(3, stride=2, padding=1)  #                 192 x 28 x 28
        self.Mixed_5b = block_a(192, 32)  #                                     256 x 28 x 28
        self.Mixed_5c = block_a(256, 64)  #                                     288 x 28 x 28
        self.Mixed_5d = block_a(288, 64)  #                                     288 x 28 x 28
        self.Mixed_6a = MixedB(288, conv)  #                                    768 x 28 x 28
        self.Mixed_6b = block_c(768, 128)  #                                    768 x 28 x 28
        self.Mixed_6c = block_c(768, 160)  #                                    768 x 28 x 28
        self.Mixed_6d = block_c(768, 160)  #                                    768 x 28 x 28
        self.Mixed_6e = block_c(768, 192)  #                                    768 x 28 x 28
        self.add2 = added(768, 1024)  #                                         1024 x 28 x 28
        self.add1 = added(1024, 1024)  #                                        1024 x 28 x 28
        self.avgpool = nn.AdaptiveAvgPool2d(1)  #                               1024 x 1 x 1
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(self.scaled(1024), num_classes)
        start_kaiming(self)

    def trunk_names(self) -> dict[str, str]:
        """Stem to ``Mixed_6e``, under the same names as in torchvision's Inception-v3."""
        return {name: name for name in self.state_dict() if not name.startswith(("add2.", "add1.", "fc."))}


def spg_plain(num_classes: int, *, width: float = 1.0, weights: str | Path | None = None) -> SPGPlain:
    """SPG-plain for ``num_classes`` classes.

    Args:
        num_classes: at least 2.
        width: multiplier of every layer's channels, a multiple of 1/16 in (0, 1].
        weights: None for random weights (Kaiming-normal, a small head, zero bias); ``"imagenet"`` for torchvision's
            Inception-v3 (downloaded); or the path of one of three kinds of file, told apart by their entries:
            a trunk (stem to ``Mixed_6e``; the rest stays random), torchvision's Inception-v3 (the same, once
            ``AuxLogits``, ``Mixed_7*`` and ``fc`` are dropped), or a checkpoint of this project (all of it).
            ``.safetensors``, or a ``.pth`` that torch's ``weights_only`` reader accepts.

    Raises:
        UserError: a number out of range, an unreadable file, or entries missing, left over or misshapen.
    """
    check_size(num_classes, width)
    state, header = read_weights(weights, width, SPGPlain.imagenet)
    model = SPGPlain(num_classes, width, header.get("count_include_pad", "true").lower() == "true")
    return start(model, weights, state, header)
