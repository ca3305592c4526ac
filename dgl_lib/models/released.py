"""The released code's other two classifiers. VGG16-gap is VGG-16's convolutions, one more, and global average pooling.
ResNet50-SE is ResNet-50 with a gate in each block and its last group at stride 1.
"""

from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, VGG16_Weights
from torchvision.models.resnet import Bottleneck, conv1x1
from torchvision.ops import SqueezeExcitation

from dgl_lib.models.classifier import Classifier, layer_table
from dgl_lib.models.weights import build


class VGG16Gap(Classifier):
    """VGG-16 (Simonyan and Zisserman, ICLR 2015) without its fifth pool and its dense layers, then ``add``.

    A convolution's name gives its output after ReLU."""

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

    def __init__(self, num_classes: int, width: float, padding: str):
        super().__init__(num_classes, width, padding)
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


def vgg16_gap(
    num_classes: int, *, width: float = 1.0, weights: str | Path | None = None, padding: str = "symmetric"
) -> VGG16Gap:
    """VGG16-gap; arguments and errors as for :func:`spg_plain`, symmetric only. A trunk holds ``features.*``."""
    return build(VGG16Gap, num_classes, width, weights, padding)


class SEBottleneck(Bottleneck):
    """torchvision's block (stride on the 3x3 convolution), with a gate on its residual branch.

    The gate (squeeze and excitation, Hu et al., CVPR 2018) gives each channel a factor in 0..1: global average, linear
    to a quarter of the block's ``inner`` width, ReLU, linear back, sigmoid."""

    def __init__(self, channels_in: int, inner: int, stride: int):
        channels_out = inner * self.expansion
        shortcut = None
        if stride != 1 or channels_in != channels_out:
            shortcut = nn.Sequential(conv1x1(channels_in, channels_out, stride), nn.BatchNorm2d(channels_out))
        super().__init__(channels_in, inner, stride, shortcut)
        self.se = SqueezeExcitation(channels_out, inner // 4)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4 inner, h, w), after the ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)  # N x 4 inner x h x w
        residual = self.relu(self.bn1(self.conv1(x)))  #                   N x inner x H x W
        residual = self.relu(self.bn2(self.conv2(residual)))  #            N x inner x h x w
        residual = self.se(self.bn3(self.conv3(residual)))  #              N x 4 inner x h x w
        return self.relu(residual + shortcut)


class ResNet50SE(Classifier):
    """ResNet-50 (He et al., CVPR 2016) with gates. Build it with :func:`resnet50_se`. Names are torchvision's."""

    architecture = "resnet50_se"
    layers = layer_table(  # the released code calls these group1/block0 to group3/block2
        ("layer2.0 layer2.1 layer2.2 layer2.3", 512, 8),
        ("layer3.0 layer3.1 layer3.2 layer3.3 layer3.4 layer3.5", 1024, 16),
        ("layer4.0 layer4.1 layer4.2", 2048, 16),
    )
    layer = "layer3.5"  # the end of the last group but one: on layer4.2 every gradient method is CAM
    imagenet = ResNet50_Weights.IMAGENET1K_V1  # trained as in the paper; a file of V2 can be given by its path
    trunk = "a ResNet-50 trunk (stem to layer4)"
    new, added = frozenset({"se", "fc"}), "gates open, fc"
    dropped = ("fc.",)

    def __init__(self, num_classes: int, width: float, padding: str):
        super().__init__(num_classes, width, padding)
        channels = self.scaled(64)

        def group(inner: int, blocks: int, stride: int) -> nn.Sequential:
            nonlocal channels
            into, channels = channels, self.scaled(inner) * SEBottleneck.expansion
            first, rest = (into, self.scaled(inner), stride), (channels, self.scaled(inner), 1)
            return nn.Sequential(*(SEBottleneck(*one) for one in [first] + [rest] * (blocks - 1)))

        #                                                               at 224 px: N x
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)  #     64 x 112 x 112
        self.bn1 = nn.BatchNorm2d(channels)  #                          64 x 112 x 112
        self.relu = nn.ReLU(inplace=True)  #                            64 x 112 x 112
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)  #          64 x 56 x 56
        self.layer1 = group(64, 3, stride=1)  #                         256 x 56 x 56
        self.layer2 = group(128, 4, stride=2)  #                        512 x 28 x 28
        self.layer3 = group(256, 6, stride=2)  #                        1024 x 14 x 14
        self.layer4 = group(512, 3, stride=1)  # ResNet-50: 2           2048 x 14 x 14
        self.avgpool = nn.AdaptiveAvgPool2d(1)  #                       2048 x 1 x 1
        self.fc = nn.Linear(channels, num_classes)

    def adapt(self, header: dict[str, str]) -> None:
        """Make every gate exactly 1, whatever it sees. A checkpoint then brings its own gates."""
        for module in self.modules():
            if isinstance(module, SqueezeExcitation):
                nn.init.zeros_(module.fc2.weight)
                nn.init.constant_(module.fc2.bias, 20.0)  # in float32 sigmoid(20) is 1


def resnet50_se(
    num_classes: int, *, width: float = 1.0, weights: str | Path | None = None, padding: str = "symmetric"
) -> ResNet50SE:
    """ResNet50-SE; arguments and errors as for :func:`spg_plain`, symmetric only. A trunk: stem to ``layer4``.

    With it each gate starts at exactly 1, so that the features are ResNet-50's (but for the last group's stride). There
    sigmoid's gradient is 0 in float32, so fine-tuning leaves the gates open. With random weights the gates start near
    1/2 and are trained like the rest."""
    return build(ResNet50SE, num_classes, width, weights, padding)
