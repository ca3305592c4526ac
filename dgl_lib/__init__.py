"""Dual-Gradients Localization (DGL): where is the object, asked of a classifier that was taught image labels only.

Data flows one way, and a module imports only from modules earlier in the line::

    record -> image batch -> logits, tapped maps -> two gradients, raw map -> post-processing -> scores -> table, figure
    datasets                 models, taps           localize                  maps               metrics   plots

``training`` makes the classifier; ``study`` runs the notebooks with a profile's parameters; ``cli`` is the command.

    >>> from dgl_lib.models import spg_plain
    >>> from dgl_lib.localize import dual_gradients
    >>> model = spg_plain(num_classes=8, width=0.25).eval()
    >>> maps = dual_gradients(model, images, classes, ["Mixed_6e"])["Mixed_6e"]  # (N, h, w), raw and signed

Method: Tan, Gu, Ruan, Wei, Zhao, "Dual-Gradients Localization Framework for Weakly Supervised Object Localization",
ACM Multimedia 2020, doi 10.1145/3394171.3413622.
"""

from importlib import metadata

__version__ = "0.1.0"


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"no {package}"


# torchvision's compiled operators fit one torch only. Beside another one (CPU-only beside CUDA, another release) it
# fails with an error that names an operator, "operator torchvision::nms does not exist", and not the cure.
try:
    import torchvision as _torchvision  # noqa: F401
except (ImportError, RuntimeError, OSError, AttributeError) as _error:
    raise ImportError(
        f"torch and torchvision do not load together ({_version('torch')}, {_version('torchvision')}: "
        f"{str(_error).splitlines()[0] if str(_error) else type(_error).__name__}): "
        "uninstall both, then install the pair that requirements.txt pins, both from the same package index "
        "(for CPU only, both from the CPU index: see the README)"
    ) from None
