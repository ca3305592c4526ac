"""A checkpoint of this project or any of torchvision's classifiers, opened with its classes and preprocessing."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from dgl_lib.errors import UserError
from dgl_lib.localize import gradients
from dgl_lib.models import Classifier, committed_checkpoint, load_checkpoint
from dgl_lib.models.weights import read_file
from dgl_lib.taps import find, frozen
from dgl_lib.training import pick_device


@dataclass(frozen=True)
class Network:
    """A classifier and what is needed to use it.

    Attributes:
        model: in eval mode. ``models.preprocess`` normalises with its ``mean`` and ``std``.
        name: the checkpoint's file, or torchvision's name of the network and its weights.
        classes: their names, or their numbers where no name is known.
        size: side in pixels of the input that the weights were trained for.
    """

    model: nn.Module
    name: str
    classes: tuple[str, ...]
    size: int

    def find_class(self, wanted: str) -> int:
        """The index of a class, given by its name or its number. UserError: there is no such class."""
        if wanted in self.classes:
            return self.classes.index(wanted)
        if wanted.isascii() and wanted.isdecimal() and int(wanted) < len(self.classes):
            return int(wanted)
        near = difflib.get_close_matches(wanted, self.classes, n=3) or self.classes[:5]
        raise UserError(
            f"class: {wanted!r} given, a name or a number 0..{len(self.classes) - 1} of {self.name} allowed, "
            f"such as {', '.join(near)}"
        )


def open_network(checkpoint: str | Path | None = None, model: str | None = None, weights: str = "DEFAULT") -> Network:
    """Open a checkpoint of this project or a torchvision classifier. The default is the checkpoint "creatures".

    Args:
        checkpoint: "creatures" or the path of a ``.safetensors`` file that ``save_checkpoint`` wrote.
        model: a name in ``torchvision.models.list_models``, such as "resnet50".
        weights: those of ``model``. Allowed are torchvision's names ("DEFAULT", "IMAGENET1K_V2"), which are downloaded
            once, "none" for random weights, and the path of a file of tensors. The class names are known for a file
            that still has torchvision's file name.

    Raises:
        UserError: a checkpoint and a model are given, a name is unknown, or weights are missing or do not fit.
    """
    if model is not None:
        if checkpoint is not None:
            raise UserError(f"checkpoint {str(checkpoint)!r} and model {model!r} given, one of them allowed")
        return _torchvision(model, weights)
    if weights != "DEFAULT":
        raise UserError("weights: allowed with a torchvision model only (--model); a checkpoint holds its own")
    path = committed_checkpoint() if checkpoint in (None, "creatures") else Path(checkpoint)
    if not path.is_file():
        raise UserError(f"checkpoint: no file at {str(path)!r}; 'creatures' or a .safetensors file allowed")
    trained = load_checkpoint(path)
    # Trained on crops of photographs squashed to `resize` px, and validated on whole ones at that size.
    return Network(trained, path.stem, trained.classes, int(trained.facts.get("resize", 224)))


def _torchvision(name: str, weights: str) -> Network:
    known = torchvision_models.list_models(module=torchvision_models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or ["resnet50", "vgg16", "densenet121"]
        raise UserError(f"model: {name!r} given, a torchvision classifier allowed, such as {', '.join(near)}")
    kinds = torchvision_models.get_model_weights(name)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # two networks warn that their random start takes long
        torch.manual_seed(0)
        if weights in ("none", *kinds.__members__):
            chosen = None if weights == "none" else kinds[weights]
            try:
                model = torchvision_models.get_model(name, weights=chosen)
            except (OSError, RuntimeError) as error:  # no network, a full disk, or bytes of another SHA-256
                reason = " ".join(str(error).split())
                raise UserError(
                    f"weights: {chosen} cannot be downloaded ({reason}); the path of their file is allowed too"
                ) from None
        else:
            chosen, model = _from_file(name, kinds, Path(weights))
    prepared = (chosen or kinds["DEFAULT"]).transforms()
    model.mean, model.std = tuple(prepared.mean), tuple(prepared.std)
    head = list(model.state_dict().values())[-1]  # (C, ...), the bias or the weights that give the logits
    classes = chosen.meta["categories"] if chosen else map(str, range(len(head)))
    label = chosen.name if chosen else Path(weights).name
    return Network(model.eval(), f"torchvision {name} {label}", tuple(classes), int(prepared.crop_size[0]))


def _from_file(name: str, kinds: Any, path: Path) -> tuple[Any, nn.Module]:
    """The model with the tensors of a file, and torchvision's entry for these weights if the file's name shows one."""
    if not path.is_file():
        allowed = ", ".join(kinds.__members__)
        raise UserError(f"weights: {str(path)!r} given, {allowed}, none or the path of a file allowed for {name}")
    state, _ = read_file(path)
    chosen = next((kind for kind in kinds if Path(kind.url).name == path.name), None)
    model = torchvision_models.get_model(name, weights=None)
    head, logits = list(model.state_dict().items())[-1]
    if head in state and len(state[head]) != len(logits):
        model = torchvision_models.get_model(name, weights=None, num_classes=len(state[head]))
    if chosen is not None and hasattr(model, "transform_input"):
        model.transform_input = True  # Inception's ImageNet weights come from TensorFlow, with its normalisation
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"weights {path.name!r} are not those of {name}: {reason[:160]}") from None
    return chosen, model


class LayerRow(NamedTuple):
    """A layer that can be localized on: its map of ``channels`` x ``height`` x ``width``, its ``stride`` (the input's
    side over the map's), and whether CAM exists there."""

    name: str
    channels: int
    height: int
    width: int
    stride: float
    cam: bool


def layers(network: Network, size: int | None = None, device: str = "auto") -> list[LayerRow]:
    """The layers to localize on, in the order in which data flows through them.

    These are the named layers of this project's networks. Of any other network they are the modules with at most one
    dot in their name that run once and give a map N x K x h x w of more than one cell. Deeper modules can be localized
    on as well. Maps with the channels last are left out (see ``check_layers``).

    Raises:
        UserError: the input is below 32 px, the device is unknown, or the network has no such layer.
    """
    side = size or network.size
    if side < 32:
        raise UserError(f"size: {side} px given, at least 32 needed")
    model = network.model.to(pick_device(device))
    if isinstance(model, Classifier):
        names: Sequence[str] = [layer.name for layer in model.layers]
    else:
        shallow = [name for name, _ in model.named_modules() if name and name.count(".") <= 1]
        names = [name for name, channels_last in _feature_maps(model, shallow, side).items() if not channels_last]
        if not names:
            raise UserError(f"{type(model).__name__}: no layer gives a feature map N x K x h x w of more than one cell")
    found = gradients(model, _noise(model, side), None, names, needs=("w_c",))  # S, and where CAM exists
    rows = []
    for name, (S, _, _) in found.items():
        channels, height, width = S.shape[1:]
        rows.append(LayerRow(name, channels, height, width, round(side / height, 1), name in found.heads))
    return rows


def check_layers(network: Network, names: Sequence[str], size: int | None = None) -> None:
    """Refuse a layer whose map has its channels last (N x h x w x K, as Swin's). It would give a wrong map silently.

    Raises:
        UserError: a layer is unknown or has its channels last.
    """
    find(network.model, names)
    if isinstance(network.model, Classifier):
        return
    for name, channels_last in _feature_maps(network.model, names, size or network.size).items():
        if channels_last:
            raise UserError(
                f"layer {name!r} gives N x h x w x K, its channels last; N x K x h x w needed (`dgl layers` lists some)"
            )


def _feature_maps(model: nn.Module, names: Sequence[str], side: int) -> dict[str, bool]:
    """Which modules run once and give a map of more than one cell, and whether its channels are last.

    The channels are the axis that stays when the input grows, so the network runs at two sizes. A network that takes
    one size only (MaxViT) is assumed to have its channels first.
    """
    shapes = _shapes(model, names, side)
    try:
        larger = _shapes(model, names, side + 32)
    except (AssertionError, RuntimeError, ValueError):  # how ViT, MaxViT and plain torch refuse a size
        larger = shapes
    return {
        name: len(larger[name][0]) == 4 and larger[name][0][1] != shape[1]
        for name, [shape, *more] in shapes.items()
        if not more and len(shape) == 4 and shape[2] * shape[3] > 1
    }


def _shapes(model: nn.Module, names: Sequence[str], side: int) -> dict[str, list[tuple[int, ...]]]:
    """The shape of what each module gives, each time it runs, in the order in which they run; () for no tensor."""
    shapes: dict[str, list[tuple[int, ...]]] = {}

    def hook(name: str) -> Any:
        return lambda module, inputs, output: shapes.setdefault(name, []).append(tuple(getattr(output, "shape", ())))

    handles = [module.register_forward_hook(hook(name)) for name, module in find(model, names).items()]
    try:
        with frozen(model), torch.no_grad():
            model(_noise(model, side))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _noise(model: nn.Module, side: int) -> Tensor:
    device = next(model.parameters()).device
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)


def default_layer(network: Network, method: str = "dgl") -> str:
    """The ``layer`` of this project's classifier, else the last of ``layers``. For CAM, the last on which it exists."""
    if method != "cam" and isinstance(network.model, Classifier):
        return network.model.layer
    rows = layers(network)
    return ([row for row in rows if row.cam and method == "cam"] or rows)[-1].name
