"""ResNet50-SE: ResNet-50 with a squeeze-and-excitation gate in each block, its last group at stride 1.

One of the released code's other two classifiers. Parameter names are torchvision's.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.models.resnet import Bottleneck, conv1x1
from torchvision.ops import SqueezeExcitation

from dgl_lib.models.classifier import Classifier, Layer, check_size, start_kaiming
from dgl_lib.models.weights import read_weights, start

# In float32 sigmoid(x) rounds to 1 from about 17 on.
OPEN = 20.0


class SEBottleneck(Bottleneck):
    """torchvision's block (stride on the 3x3 convolution), the residual branch gated before the addition.

    The gate (Hu et al., CVPR 2018): global average, linear to a quarter of the block's ``inner`` width, ReLU, linear
    back, sigmoid; one factor in 0..1 a channel.
    """

    def __init__(self, channels_in: int, inner: int, stride: int):
        channels_out = inner * self.expansion
        shortcut = None
        if stride != 1 or channels_in != channels_out:
            shortcut = nn.Sequential(conv1x1(channels_in, channels_out, stride), nn.BatchNorm2d(channels_out))
        super().__init__(channels_in, inner, stride, shortcut)
        self.se = SqueezeExcitation(channels_out, inner // 4)

    def forward(self, x: Tensor) -> Tensor:
        """Block output (N, 4 inner, h, w), after its ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.se(self.bn3(self.conv3(residual)))
        return self.relu(residual + shortcut)


class ResNet50SE(Classifier):
    """ResNet-50 (He et al., CVPR 2016) with gates. Build it with :func:`resnet50_se`. No dropout."""

    architecture = "resnet50_se"
    layers = (  # the released code's name beside torchvision's; its group0 (layer1) is not among those localized on
        Layer("layer2.0", 512, 8),  # group1/block0
        Layer("layer2.1", 512, 8),  # group1/block1
        Layer("layer2.2", 512, 8),  # group1/block2
        Layer("layer2.3", 512, 8),  # group1/block3
        Layer("layer3.0", 1024, 16),  # group2/block0
        Layer("layer3.1", 1024, 16),  # group2/block1
        Layer("layer3.2", 1024, 16),  # group2/block2
        Layer("layer3.3", 1024, 16),  # group2/block3
        Layer("layer3.4", 1024, 16),  # group2/block4
        Layer("layer3.5", 1024, 16),  # group2/block5
        Layer("layer4.0", 2048, 16),  # group3/block0
        Layer("layer4.1", 2048, 16),  # group3/block1
        Layer("layer4.2", 2048, 16),  # group3/block2
    )
    layer = "layer3.5"  # the last group but one: on layer4.2 itself every method of gradients is CAM
    imagenet = ResNet50_Weights.IMAGENET1K_V1  # the plain recipe of the paper's years; V2 can be given by path
    trunk, added = "a ResNet-50 trunk (stem to layer4)", "gates open, fc"
    dropped = ("fc.",)

    def __init__(self, num_classes: int, width: float):
        super().__init__(num_classes, width)
        channels = self.scaled(64)

        def group(inner: int, blocks: int, stride: int) -> nn.Sequential:
            nonlocal channels
            made = []
            for i in range(blocks):
                made.append(SEBottleneck(channels, self.scaled(inner), stride if i == 0 else 1))
                channels = self.scaled(inner) * SEBottleneck.expansion
            return nn.Sequential(*made)

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
        start_kaiming(self)

    def open_gates(self) -> None:
        """Make every gate exactly 1: the last linear layer gives ``OPEN`` whatever it sees, and sigmoid rounds to 1."""
        for module in self.modules():
            if isinstance(module, SqueezeExcitation):
                nn.init.zeros_(module.fc2.weight)
                nn.init.constant_(module.fc2.bias, OPEN)

    def trunk_names(self) -> dict[str, str]:
        """Stem to ``layer4`` without the gates, under the same names as in torchvision's ResNet-50."""
        return {name: name for name in self.state_dict() if ".se." not in name and not name.startswith("fc.")}


def resnet50_se(num_classes: int, *, width: float = 1.0, weights: str | Path | None = None) -> ResNet50SE:
    """ResNet50-SE for ``num_classes`` classes.

    With random weights the gates start near 1/2 and are trained like the rest. ImageNet weights know no gate: each
    starts at exactly 1, so the features are those of ResNet-50 (with the last group's stride of 1); sigmoid is flat
    there, its gradient 0 in float32, so fine-tuning leaves the gates open.

    Args and Raises: as :func:`spg_plain`; a trunk runs from the stem to ``layer4``, torchvision's ResNet-50 is the same
    with an ``fc``, which is dropped; ``fc`` then stays random.
    """
    check_size(num_classes, width)
    state, header = read_weights(weights, width, ResNet50SE.imagenet)
    model = ResNet50SE(num_classes, width)
    if weights is not None:
        model.open_gates()  # a checkpoint brings its own gates
    return start(model, weights, state, header)
