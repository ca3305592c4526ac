"""The classifiers: SPG-plain, which is the talk's, and the released code's other two, VGG16-gap and ResNet50-SE."""

from collections.abc import Callable
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

from dgl_lib.models.classifier import Classifier, Layer, preprocess
from dgl_lib.models.released import ResNet50SE, VGG16Gap, resnet50_se, vgg16_gap
from dgl_lib.models.spg import SPGPlain, spg_plain
from dgl_lib.models.weights import committed_checkpoint, digest, load_checkpoint, save_checkpoint

#: By name, as in the parameter ``network`` and in a checkpoint's header: each network, its layers, and the layer that
#: the study looks at most closely.
NETWORKS: dict[str, Callable[..., Classifier]] = {f.__name__: f for f in (spg_plain, vgg16_gap, resnet50_se)}
LAYERS = {network.architecture: network.layers for network in (SPGPlain, VGG16Gap, ResNet50SE)}
LAYER = {network.architecture: network.layer for network in (SPGPlain, VGG16Gap, ResNet50SE)}
