"""The classifiers: SPG-plain, that of the talk (``spg``), and the released code's other two (``vgg``, ``resnet``).

``classifier`` what they share; ``weights`` ImageNet's and files'; ``checkpoints`` trained ones; ``images`` their input.
"""

from dgl_lib.models import pair  # noqa: F401  (says what to do where torch and torchvision do not fit together)
from dgl_lib.models.checkpoints import (
    LAYER,
    LAYERS,
    NETWORKS,
    committed_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from dgl_lib.models.classifier import Classifier, Layer
from dgl_lib.models.images import preprocess, squash
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
