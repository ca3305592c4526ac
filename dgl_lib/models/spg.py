"""The classifier of the talk: SPG-plain, an Inception-v3 cut after ``Mixed_6e`` that keeps an output stride of 8.

Parameter names are torchvision's, so ImageNet weights load as they are.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import Inception_V3_Weights
from torchvision.models.inception import BasicConv2d, InceptionA, InceptionB, InceptionC

from dgl_lib.models.classifier import Classifier, layer_table
from dgl_lib.models.weights import build


def same(x: Tensor, value: float = 0.0) -> Tensor:
    """``x`` (N, K, h, w) with TensorFlow's "same" padding for a 3x3 kernel at stride 2.

    An axis of n cells gets max((ceil(n/2) - 1) 2 + 3 - n, 0) in all: 1 after it, and where n is odd 1 before it too."""
    h, w = x.shape[2:]
    return F.pad(x, (w % 2, 1, h % 2, 1), value=value)


class SameConv(BasicConv2d):
    """The 3x3 convolution at stride 2 with TensorFlow's padding."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(same(x))


class SamePool(nn.MaxPool2d):
    """The 3x3 max pool at stride 2 with TensorFlow's padding, which never is the maximum."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(same(x, float("-inf")))


class MixedA(InceptionA):
    """``Mixed_5b`` to ``Mixed_5d``: torchvision's block, its average pool a module that can be set."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [  #                                                             N x
            self.branch1x1(x),  #                                               64 x h x w, at width 1
            self.branch5x5_2(self.branch5x5_1(x)),  #                           64 x h x w
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),  # 96 x h x w
            self.branch_pool(self.pool(x)),  #                                  32 or 64 x h x w
        ]


class MixedB(InceptionB):
    """``Mixed_6a`` with every branch at stride 1 (Inception-v3: 2), which keeps the output stride at 8."""

    def __init__(self, in_channels: int, conv_block: Callable):
        super().__init__(in_channels, conv_block)
        self.branch3x3 = conv_block(in_channels, 384, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = conv_block(96, 96, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [self.branch3x3(x), self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))), self.pool(x)]


class MixedC(InceptionC):
    """``Mixed_6b`` to ``Mixed_6e``: torchvision's block, its average pool a module that can be set."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)

    def _forward(self, x: Tensor) -> list[Tensor]:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return [self.branch1x1(x), once, twice, self.branch_pool(self.pool(x))]  # N x 192 x h x w each, at width 1


class SPGPlain(Classifier):
    """SPG-plain (Zhang et al., ECCV 2018), the classifier of the talk. Build it with :func:`spg_plain`.

    ``count_include_pad``, whether average pools count the zero padding, belongs to the weights, as mean and std do."""

    architecture = "spg_plain"
    layers = layer_table(
        ("Mixed_5b", 256, 8),
        ("Mixed_5c Mixed_5d", 288, 8),
        ("Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e", 768, 8),
        ("add2 add1", 1024, 8),
    )
    layer = "Mixed_6e"  # the talk's
    imagenet = Inception_V3_Weights.IMAGENET1K_V1  # wants inputs in [-1, 1], and average pools that count the padding
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    trunk = "an Inception-v3 trunk (stem to Mixed_6e)"
    new, added = frozenset({"add2", "add1", "fc"}), "add2, add1 and fc"
    dropped = ("AuxLogits.", "Mixed_7", "fc.")
    paddings = ("symmetric", "tensorflow")

    def __init__(self, num_classes: int, width: float, padding: str):
        super().__init__(num_classes, width, padding)
        # Every kernel is odd. TensorFlow's padding is then another at stride 2 only; and see ``adapt``.
        symmetric = padding == "symmetric"
        first, pool = (BasicConv2d, nn.MaxPool2d) if symmetric else (SameConv, SamePool)
        halve: dict[str, Any] = {"stride": 2, "padding": int(symmetric)}

        def conv(channels_in: int, channels_out: int, **options: Any) -> nn.Module:
            return BasicConv2d(self.scaled(channels_in), self.scaled(channels_out), **options)

        def added(channels_in: int, channels_out: int) -> nn.Module:
            convolution = nn.Conv2d(self.scaled(channels_in), self.scaled(channels_out), 3, padding=1)
            return nn.Sequential(OrderedDict(dropout=nn.Dropout(0.5), conv=convolution, relu=nn.ReLU()))

        #                                                                       at 224 px: N x
        self.Conv2d_1a_3x3 = first(3, self.scaled(32), kernel_size=3, **halve)  # 32 x 112 x 112
        self.Conv2d_2a_3x3 = conv(32, 32, kernel_size=3, padding=1)  #          32 x 112 x 112
        self.Conv2d_2b_3x3 = conv(32, 64, kernel_size=3, padding=1)  #          64 x 112 x 112
        self.maxpool1 = pool(3, **halve)  #                                     64 x 56 x 56
        self.Conv2d_3b_1x1 = conv(64, 80, kernel_size=1)  #                     80 x 56 x 56
        self.Conv2d_4a_3x3 = conv(80, 192, kernel_size=3, padding=1)  #         192 x 56 x 56
        self.maxpool2 = pool(3, **halve)  #                                     192 x 28 x 28
        self.Mixed_5b = MixedA(192, 32, conv)  #                                256 x 28 x 28
        self.Mixed_5c = MixedA(256, 64, conv)  #                                288 x 28 x 28
        self.Mixed_5d = MixedA(288, 64, conv)  #                                288 x 28 x 28
        self.Mixed_6a = MixedB(288, conv)  #                                    768 x 28 x 28
        self.Mixed_6b = MixedC(768, 128, conv)  #                               768 x 28 x 28
        self.Mixed_6c = MixedC(768, 160, conv)  #                               768 x 28 x 28
        self.Mixed_6d = MixedC(768, 160, conv)  #                               768 x 28 x 28
        self.Mixed_6e = MixedC(768, 192, conv)  #                               768 x 28 x 28
        self.add2 = added(768, 1024)  #                                         1024 x 28 x 28
        self.add1 = added(1024, 1024)  #                                        1024 x 28 x 28
        self.avgpool = nn.AdaptiveAvgPool2d(1)  #                               1024 x 1 x 1
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(self.scaled(1024), num_classes)
        self.adapt({})

    def adapt(self, header: dict[str, str]) -> None:
        """Take the header's ``count_include_pad``, true by default. Under TensorFlow's padding no pool counts it."""
        self.count_include_pad = header.get("count_include_pad", "true").lower() == "true"
        for module in self.modules():
            if isinstance(module, nn.AvgPool2d):
                module.count_include_pad = self.count_include_pad and self.padding == "symmetric"


def spg_plain(
    num_classes: int, *, width: float = 1.0, weights: str | Path | None = None, padding: str = "symmetric"
) -> SPGPlain:
    """SPG-plain for ``num_classes`` classes.

    Args:
        num_classes: at least 2.
        width: multiplier of every layer's channels, a multiple of 1/16 in (0, 1].
        weights: None for random weights (Kaiming-normal, a small head, zero bias), ``"imagenet"`` for torchvision's
            Inception-v3 (downloaded), or the path of a ``.safetensors`` or ``.pth`` file. The file may hold a trunk
            (stem to ``Mixed_6e``; the rest stays random), all of torchvision's Inception-v3 (only its trunk is
            used), or a checkpoint of this project. Its entries tell which.
        padding: "symmetric", or "tensorflow" for the authors' own, TensorFlow's "same". It depends on the input's size:
            at even ones a stride of 2 pads below and on the right only. Average pools leave it out of their count. The
            same weights fit both, so a checkpoint's own is not taken here but by ``load_checkpoint``.

    Raises:
        UserError: a number out of range, a download that failed, an unreadable file, or one that does not fit.
    """
    return build(SPGPlain, num_classes, width, weights, padding)
