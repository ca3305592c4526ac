"""A trained classifier in one file, whichever network it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save

from dgl_lib.errors import UserError
from dgl_lib.files import write_bytes
from dgl_lib.models.classifier import Classifier
from dgl_lib.models.resnet import ResNet50SE, resnet50_se
from dgl_lib.models.spg import SPGPlain, spg_plain
from dgl_lib.models.vgg import VGG16Gap, vgg16_gap
from dgl_lib.models.weights import read_file

#: By name, as in the parameter ``network`` and in a checkpoint's header: each network, its layers, and the layer that
#: the study looks at most closely.
NETWORKS: dict[str, Callable[..., Classifier]] = {
    "spg_plain": spg_plain,
    "vgg16_gap": vgg16_gap,
    "resnet50_se": resnet50_se,
}
LAYERS = {network.architecture: network.layers for network in (SPGPlain, VGG16Gap, ResNet50SE)}
LAYER = {network.architecture: network.layer for network in (SPGPlain, VGG16Gap, ResNet50SE)}


def save_checkpoint(model: Classifier, path: str | Path, **facts: object) -> None:
    """Write ``model``'s weights, and all that is needed to use them, to a safetensors file.

    The header holds strings of JSON: what :class:`Classifier` knows of the network, and ``facts`` (training
    parameters, the data's hash, scores). ``load_checkpoint`` reads them back.
    """
    header = {
        "architecture": model.architecture,
        "width": json.dumps(model.width),
        "classes": json.dumps(list(model.classes) or [str(c) for c in range(model.num_classes)]),
        "mean": json.dumps(list(model.mean)),
        "std": json.dumps(list(model.std)),
        "freeze_batch_norm": json.dumps(model.freeze_batch_norm),
        "source": model.origin,
        "facts": json.dumps(facts, sort_keys=True),
    }
    if isinstance(model, SPGPlain):
        header["count_include_pad"] = json.dumps(model.count_include_pad)
    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes(Path(path), _sorted_header(save(state, header)))


def _sorted_header(file: bytes) -> bytes:
    """The same safetensors file with its header's entries sorted, since safetensors writes them in any order."""
    length = int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned to 8 bytes
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


def load_checkpoint(path: str | Path) -> Classifier:
    """The trained classifier at ``path``, in eval mode. UserError: it is no checkpoint of this project."""
    path = Path(path)
    _, header = read_file(path)
    if (network := header.get("architecture")) not in NETWORKS:
        names = ", ".join(NETWORKS)
        raise UserError(f"{path.name!r} is not a checkpoint of this project: its header names none of {names}")
    try:
        width, classes, facts = (json.loads(header[key]) for key in ("width", "classes", "facts"))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path.name!r} has no readable width, classes or facts in its header: {error}") from None
    model = NETWORKS[network](len(classes), width=width, weights=path)
    model.classes, model.facts = tuple(classes), facts
    return model.eval()


def committed_checkpoint(name: str = "creatures") -> Path:
    """The file of a classifier that comes with the package."""
    return Path(__file__).parent / "trained" / f"{name}.safetensors"
