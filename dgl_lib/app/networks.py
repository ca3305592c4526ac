"""Any classifier by name, a checkpoint of this project or one of torchvision's, with its classes and preprocessing."""

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
        model: in eval mode; its ``mean`` and ``std`` are what ``models.preprocess`` normalises with.
        name: of the checkpoint's file, or torchvision's with its weights.
        classes: their names, or their numbers where no name is known.
        size: side of the input in pixels: what the weights were trained (a checkpoint's: and validated) for.
    """

    model: nn.Module
    name: str
    classes: tuple[str, ...]
    size: int

    def find_class(self, wanted: str) -> int:
        """The index of a class given by its name or by its number. UserError: neither."""
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
    """A checkpoint of this project, or a torchvision classifier; without either, the committed creatures checkpoint.

    Args:
        checkpoint: "creatures" or the path of a ``.safetensors`` file that ``save_checkpoint`` wrote.
        model: a name in ``torchvision.models.list_models``, such as "resnet50".
        weights: for ``model``: torchvision's name of them ("DEFAULT", "IMAGENET1K_V2"; downloaded once), "none" for
            random ones, or the path of a file of tensors. One with a name of torchvision's own keeps its class names.

    Raises:
        UserError: both given, an unknown name, or weights that are not there or do not fit.
    """
    if model is None:
        if weights != "DEFAULT":
            raise UserError("weights: they belong to a torchvision model (--model); a checkpoint holds its own")
        return _checkpoint(checkpoint or "creatures")
    if checkpoint is not None:
        raise UserError(f"checkpoint {str(checkpoint)!r} and model {model!r} given, one of them allowed")
    return _torchvision(model, weights)


def _checkpoint(checkpoint: str | Path) -> Network:
    path = committed_checkpoint() if checkpoint == "creatures" else Path(checkpoint)
    if not path.is_file():
        raise UserError(f"checkpoint: no file at {str(path)!r}; 'creatures' or a .safetensors file allowed")
    model = load_checkpoint(path)
    # Trained on crops of photographs squashed to `resize` px, and validated on whole ones at that size.
    return Network(model, path.stem, model.classes, int(model.facts.get("resize", 224)))


def _torchvision(name: str, weights: str) -> Network:
    known = torchvision_models.list_models(module=torchvision_models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or ["resnet50", "vgg16", "densenet121"]
        raise UserError(f"model: {name!r} given, a torchvision classifier allowed, such as {', '.join(near)}")
    kinds = torchvision_models.get_model_weights(name)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # two of them warn that their random start takes long
        torch.manual_seed(0)
        if weights == "none":
            chosen, model = None, torchvision_models.get_model(name, weights=None)
        elif weights in kinds.__members__:
            chosen = kinds[weights]
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
    classes = chosen.meta["categories"] if chosen else [str(c) for c in range(_head(model).shape[0])]
    label = chosen.name if chosen else Path(weights).name
    return Network(model.eval(), f"torchvision {name} {label}", tuple(classes), int(prepared.crop_size[0]))


def _from_file(name: str, kinds: Any, path: Path) -> tuple[Any, nn.Module]:
    """torchvision's weights that the file is by its name, or None, and the model with the file's tensors."""
    if not path.is_file():
        allowed = ", ".join(kinds.__members__)
        raise UserError(f"weights: {str(path)!r} given, {allowed}, none or the path of a file allowed for {name}")
    state, _ = read_file(path)
    chosen = next((kind for kind in kinds if Path(kind.url).name == path.name), None)
    model = torchvision_models.get_model(name, weights=None)
    head = list(model.state_dict())[-1]
    if head in state and state[head].shape[:1] != _head(model).shape[:1]:
        model = torchvision_models.get_model(name, weights=None, num_classes=state[head].shape[0])
    if chosen is not None and hasattr(model, "transform_input"):
        model.transform_input = True  # Inception's ImageNet weights are TensorFlow's, with its normalisation
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"weights {path.name!r} are not those of {name}: {reason[:160]}") from None
    return chosen, model


def _head(model: nn.Module) -> Tensor:
    """The last entry of a classifier's state: the bias or the weights that give the logits, (C, ...)."""
    return list(model.state_dict().values())[-1]


class LayerRow(NamedTuple):
    """A layer that can be localized on: ``channels`` K, ``height`` x ``width`` of its map, ``stride`` in input pixels
    (the input's side over the map's), and whether CAM exists there."""

    name: str
    channels: int
    height: int
    width: int
    stride: float
    cam: bool


def layers(network: Network, size: int | None = None, device: str = "auto") -> list[LayerRow]:
    """The layers to localize on, in the order data flows through them: this project's table, or another network's
    modules of at most one dot that run once and give a feature map N x K x h x w of more than one cell.

    Deeper modules can be localized on as well, by their dotted names. Maps with the channels last (N x h x w x K, as
    Swin's stages give them) are left out, see ``check_layers``.

    Raises:
        UserError: an input below 32 px, an unknown device, or no such layer.
    """
    side = size or network.size
    if side < 32:
        raise UserError(f"size: {side} px given, at least 32 needed")
    network.model.to(pick_device(device))
    if isinstance(network.model, Classifier):
        names: Sequence[str] = [layer.name for layer in network.model.layers]
    else:
        names = _feature_maps(network.model, side)
    found = gradients(network.model, _noise(network.model, side), None, names, needs=())  # S, and where CAM exists
    rows = []
    for name, (S, _, _) in found.items():
        channels, height, width = S.shape[1:]
        rows.append(LayerRow(name, channels, height, width, round(side / height, 1), name in found.heads))
    return rows


def check_layers(network: Network, names: Sequence[str], size: int | None = None) -> None:
    """Refuse layers whose map has its channels last: read as N x K x h x w, it would give a wrong map without a word.

    The channels are the axis that stays when the input grows, so the network runs twice, at two sizes. One that takes a
    single size (MaxViT) cannot be told from outside, and is taken at its word.

    Raises:
        UserError: an unknown layer, or one with the channels last.
    """
    modules = find(network.model, names)
    if isinstance(network.model, Classifier):
        return
    if wrong := _channels_last(*_outputs_at_two_sizes(network.model, list(modules.items()), size or network.size)):
        raise UserError(
            f"layer {wrong[0]!r} gives N x h x w x K, its channels last; N x K x h x w needed (`dgl layers` lists some)"
        )


Outputs = dict[str, list[object]]  # of each module, in the order they ran: what it gave, each time it ran


def _feature_maps(model: nn.Module, side: int) -> list[str]:
    named = [(name, module) for name, module in model.named_modules() if name and name.count(".") <= 1]
    outputs, larger = _outputs_at_two_sizes(model, named, side)
    last = _channels_last(outputs, larger)
    names = [name for name, given in outputs.items() if _is_map(given) and name not in last]
    if not names:
        raise UserError(f"{type(model).__name__}: no layer gives a feature map N x K x h x w of more than one cell")
    return names


def _outputs_at_two_sizes(
    model: nn.Module, named: Sequence[tuple[str, nn.Module]], side: int
) -> tuple[Outputs, Outputs]:
    """What modules give for a square input of ``side`` px, and for a larger one; nothing where it is refused."""
    outputs = _outputs(model, named, side)
    try:
        return outputs, _outputs(model, named, side + 32)
    except (AssertionError, RuntimeError, ValueError):  # as ViT, MaxViT and plain torch say that a size does not fit
        return outputs, {}


def _outputs(model: nn.Module, named: Sequence[tuple[str, nn.Module]], side: int) -> Outputs:
    outputs: Outputs = {}

    def hook(name: str) -> Any:
        return lambda _module, _inputs, output: outputs.setdefault(name, []).append(output)

    handles = [module.register_forward_hook(hook(name)) for name, module in named]
    try:
        with frozen(model), torch.no_grad():
            model(_noise(model, side))
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _noise(model: nn.Module, side: int) -> Tensor:
    device = next(model.parameters()).device
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)


def _channels_last(outputs: Outputs, larger: Outputs) -> list[str]:
    """The modules whose maps' second axis grows with the input."""
    return [
        name
        for name, given in larger.items()
        if _is_map(given) and _is_map(outputs[name]) and given[0].shape[1] != outputs[name][0].shape[1]  # type: ignore[attr-defined]
    ]


def _is_map(outputs: list[object]) -> bool:
    [first, *more] = outputs
    return not more and isinstance(first, Tensor) and first.ndim == 4 and first.shape[2] * first.shape[3] > 1


def default_layer(network: Network, method: str = "dgl") -> str:
    """A project's classifier's own ``layer``, else the last one of ``layers``; for CAM, the last on which it exists."""
    if method != "cam" and isinstance(network.model, Classifier):
        return network.model.layer
    rows = layers(network)
    return ([row for row in rows if row.cam and method == "cam"] or rows)[-1].name
