"""The classifiers: SPG-plain, which is the talk's, and the released code's other two, VGG16-gap and ResNet50-SE."""

from importlib import metadata

try:
    import torchvision
except (ImportError, RuntimeError, OSError, AttributeError) as _error:
    # torchvision's compiled operators fit one build of torch only. Its own error names an operator, not the cure.
    _found = (f"{d.name} {d.version}" for d in metadata.distributions() if d.name in ("torch", "torchvision"))
    raise ImportError(
        f"torch and torchvision do not load together ({', '.join(sorted(_found))}; {_error!r}). Uninstall both, then "
        "install the pair that requirements.txt pins, both from the same package index (the CPU index for CPU only)"
    ) from None

from dgl_lib.models.checkpoints import LAYER, LAYERS, NETWORKS, committed_checkpoint, load_checkpoint, save_checkpoint
from dgl_lib.models.classifier import Classifier, Layer, preprocess, squash
from dgl_lib.models.resnet import ResNet50SE, resnet50_se
from dgl_lib.models.spg import SPG_PLAIN_LAYERS, SPGPlain, spg_plain
from dgl_lib.models.vgg import VGG16Gap, vgg16_gap
from dgl_lib.models.weights import digest

__all__ = [
    "LAYER",
    "LAYERS",
    "NETWORKS",
    "SPG_PLAIN_LAYERS",
    "Classifier",
    "Layer",
    "ResNet50SE",
    "SPGPlain",
    "VGG16Gap",
    "committed_checkpoint",
    "digest",
    "load_checkpoint",
    "preprocess",
    "resnet50_se",
    "save_checkpoint",
    "spg_plain",
    "squash",
    "vgg16_gap",
]
