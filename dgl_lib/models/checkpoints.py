"""A trained classifier in one file, whichever network it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save

from dgl_lib.errors import UserError
from dgl_lib.models.classifier import Classifier
from dgl_lib.models.resnet import ResNet50SE, resnet50_se
from dgl_lib.models.spg import SPGPlain, spg_plain
from dgl_lib.models.vgg import VGG16Gap, vgg16_gap
from dgl_lib.models.weights import read_file

#: Each network by name, as the parameter ``network`` and a checkpoint's header give it; its table of layers, and the
#: one of them that the study looks at closest.
NETWORKS: dict[str, Callable[..., Classifier]] = {
    "spg_plain": spg_plain,
    "vgg16_gap": vgg16_gap,
    "resnet50_se": resnet50_se,
}
LAYERS = {network.architecture: network.layers for network in (SPGPlain, VGG16Gap, ResNet50SE)}
LAYER = {network.architecture: network.layer for network in (SPGPlain, VGG16Gap, ResNet50SE)}


def save_checkpoint(model: Classifier, path: str | Path, **facts: object) -> None:
    """Write all of ``model``'s weights and what is needed to use them to a safetensors file, atomically.

    The header holds, as JSON: architecture, width, classes, mean, std, count_include_pad (SPG-plain's), source (a
    sentence on the origin), freeze_batch_norm, and ``facts`` (training parameters, data hash, scores).
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
    path = Path(path)
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(_sorted_header(save({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, header)))
    beside.replace(path)


def _sorted_header(file: bytes) -> bytes:
    """The same safetensors file, its header's entries in order: safetensors shuffles them, and bytes must repeat."""
    length = int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned to 8 bytes
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


def load_checkpoint(path: str | Path) -> Classifier:
    """The trained classifier at ``path``, in eval mode: weights, class names, normalisation, pooling rule, facts.

    Raises:
        UserError: no such file, or not a checkpoint of this project.
    """
    path = Path(path)
    _, header = read_file(path)
    if (network := header.get("architecture")) not in NETWORKS:
        raise UserError(
            f"{path.name!r} is not a checkpoint of this project: its header names no architecture of "
            f"{', '.join(NETWORKS)}"
        )
    try:
        width, classes, facts = (json.loads(header[key]) for key in ("width", "classes", "facts"))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path.name!r} is not a whole checkpoint: its header's width, classes or facts: {error}"
        ) from None
    model = NETWORKS[network](len(classes), width=width, weights=path)
    model.classes, model.facts = tuple(classes), facts
    return model.eval()


def committed_checkpoint(name: str = "creatures") -> Path:
    """The file of a classifier that comes with the package."""
    return Path(__file__).parent / "trained" / f"{name}.safetensors"
