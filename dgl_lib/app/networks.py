"""A checkpoint of this project, or any classifier of torchvision or timm, with its classes and preprocessing."""

import difflib
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models as zoo

from dgl_lib.errors import UserError
from dgl_lib.fast import pick_device
from dgl_lib.given import shown
from dgl_lib.localize import gradients
from dgl_lib.models import Classifier, committed_checkpoint, load_checkpoint
from dgl_lib.models.weights import read_file
from dgl_lib.taps import find, frozen

SIDES = 32, 4096  # what the side of an input may measure, in pixels


@dataclass(frozen=True)
class Network:
    """A classifier in eval mode, and what is needed to use it."""

    model: nn.Module  # ``models.preprocess`` normalises with its ``mean`` and ``std``
    name: str  # the checkpoint's file, or torchvision's or timm's name of the network and its weights
    classes: tuple[str, ...]  # their names, or their numbers where no name is known
    size: int  # side in pixels of the input that the weights were trained for

    def find_class(self, wanted: str) -> int:
        """The index of a class, given by its name or its number. UserError: there is no such class."""
        if wanted in self.classes:
            return self.classes.index(wanted)
        if wanted.isascii() and wanted.isdecimal() and len(wanted) < 10 and int(wanted) < len(self.classes):
            return int(wanted)
        near = difflib.get_close_matches(wanted, self.classes, n=3) or self.classes[:5]
        allowed = f"a name or a number 0..{len(self.classes) - 1} of {self.name} allowed, such as {', '.join(near)}"
        raise UserError(f"class: {shown(wanted)} given, {allowed}")


def open_network(checkpoint: str | Path | None = None, model: str | None = None, weights: str = "DEFAULT") -> Network:
    """Open a checkpoint of this project (the path of its file, or "creatures") or a published classifier by its name:
    torchvision's, or timm's after "timm:", such as "timm:convnext_tiny" or "timm:resnet50.a1_in1k".

    Without either it is torchvision's resnet50, of ImageNet's 1000 classes; "creatures" knows drawn animals only. The
    ``weights`` of a ``model`` are named as in torchvision ("DEFAULT", "IMAGENET1K_V2"; of timm "DEFAULT" only) and
    downloaded once. "none" gives random ones. The path of a file of tensors is allowed too. Its classes have names if
    the file still has torchvision's name, or if a network of timm has 1000 of them, which are taken for ImageNet's.
    UserError: both are given, a name is unknown, timm is not installed, or weights are missing or do not fit."""
    if model is not None and checkpoint is not None:
        raise UserError(f"checkpoint {str(checkpoint)!r} and model {model!r} given, one of them allowed")
    if checkpoint is None:
        name = model or "resnet50"
        return _timm(name[5:], weights) if name.startswith("timm:") else _torchvision(name, weights)
    if weights != "DEFAULT":
        raise UserError("weights: allowed with a published model only (--model); a checkpoint holds its own")
    path = committed_checkpoint() if checkpoint == "creatures" else Path(checkpoint)
    if not path.is_file():
        raise UserError(f"checkpoint: no file at {str(path)!r}; 'creatures' or a .safetensors file allowed")
    trained = load_checkpoint(path)
    # Trained on crops of photographs squashed to `resize` px, and validated on whole ones at that size.
    size = trained.facts.get("resize", 224)
    check_size(size)
    return Network(trained, path.stem, trained.classes, size)


def check_size(size: int) -> None:
    """UserError: ``size`` is no side of an input."""
    if type(size) is not int or not SIDES[0] <= size <= SIDES[1]:
        raise UserError(f"size: {shown(size)} px given, at least {SIDES[0]} and at most {SIDES[1]} allowed")


def _torchvision(name: str, weights: str) -> Network:
    _need_known(name, zoo.list_models(module=zoo), "torchvision")
    kinds = zoo.get_model_weights(name)
    path, named = Path(weights), _named(weights, kinds.__members__, name)
    chosen = kinds.__members__.get(weights) or next((kind for kind in kinds if Path(kind.url).name == path.name), None)
    instead = f"the file at {kinds['DEFAULT'].url} (--model {name} --weights PATH), or --checkpoint creatures"
    make = partial(zoo.get_model, name)
    with _starting(str(chosen), instead):
        model = make(weights=chosen) if named else _from_file(path, name, make)
    if chosen and hasattr(model, "transform_input"):  # Inception's weights are TensorFlow's, as is their input
        model.transform_input = True
    prepared = (chosen or kinds["DEFAULT"]).transforms()
    classes = chosen.meta["categories"] if chosen else ()
    label = f"torchvision {name} {chosen.name if chosen else path.name}"
    return _network(model, label, classes, prepared.mean, prepared.std, prepared.crop_size[0])


def _timm(name: str, weights: str) -> Network:
    try:
        timm = import_module("timm")  # needed for nothing else
    except ModuleNotFoundError:
        raise UserError(f"model: 'timm:{name}' given, but timm is not installed; `pip install timm` first") from None
    _need_known(name, [*timm.list_models(), *timm.list_pretrained()], "timm")
    path, named = Path(weights), _named(weights, ["DEFAULT"], f"timm:{name}")
    make = partial(timm.create_model, name)
    with _starting(f"those of timm:{name}", "a file of them (--weights PATH)"):
        model = make(pretrained=weights == "DEFAULT") if named else _from_file(path, name, make)
    if not model.num_classes:
        raise UserError(f"model: 'timm:{name}' given, which gives features; one that gives logits allowed")
    prepared = timm.data.resolve_data_config(model=model)
    imagenet = model.num_classes == 1000 and weights != "none"
    classes = zoo.ResNet50_Weights.DEFAULT.meta["categories"] if imagenet else ()
    side = prepared["input_size"][-1]
    return _network(model, f"timm {name} {path.name}", classes, prepared["mean"], prepared["std"], side)


def _need_known(name: str, known: Sequence[str], package: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or ["resnet50", "vgg16", "densenet121"]
        raise UserError(f"model: {name!r} given, a {package} classifier allowed, such as {', '.join(near)}")


def _named(weights: str, known: Collection[str], network: str) -> bool:
    """Whether ``weights`` is a name and not the path of a file."""
    named = weights in ("none", *known)
    if not named and not Path(weights).is_file():
        allowed = f"{', '.join(known)}, none or the path of a file allowed for {network}"
        raise UserError(f"weights: {str(Path(weights))!r} given, {allowed}")
    return named


@contextmanager
def _starting(weights: str, instead: str) -> Iterator[None]:
    """The same random weights each time, and one line where ``weights`` cannot be downloaded."""
    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):  # a random start may take long
        torch.manual_seed(0)
        try:
            yield
        except (OSError, RuntimeError) as error:  # no network, a full disk, or bytes of another SHA-256
            given = f"{weights} cannot be downloaded ({' '.join(str(error).split())})"
            raise UserError(f"weights: {given}; allowed too: {instead}") from None


def _from_file(path: Path, name: str, make: Callable[..., nn.Module]) -> nn.Module:
    """What ``make`` makes, with the tensors of a file and as many classes as that has."""
    state, _ = read_file(path)
    model = make()
    head, logits = list(model.state_dict().items())[-1]
    if head in state and state[head].numel() and state[head].ndim == logits.ndim:
        model = make(num_classes=len(state[head]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"weights {path.name!r} are not those of {name}: {reason}") from None
    return model


def _network(model: Any, name: str, classes: Sequence[str], mean: Sequence, std: Sequence, size: int) -> Network:
    model.mean, model.std = tuple(mean), tuple(std)
    *_, head = model.state_dict().values()  # (C, ...), the bias or the weights that give the logits
    numbers = map(str, range(max(2, len(head))))  # of one logit 0 and 1
    return Network(model.eval(), name, tuple(classes or numbers), int(size))


class LayerRow(NamedTuple):
    """A layer that can be localized on, and its map of one image."""

    name: str
    channels: int
    height: int
    width: int
    stride: float  # the input's side over the map's
    cam: bool  # whether CAM exists there


def layers(network: Network, size: int | None = None, device: str = "auto") -> list[LayerRow]:
    """The layers to localize on, in the order in which data flows through them, for inputs of ``size`` px a side.

    These are the named layers of this project's networks. Of any other network they are the modules with at most one
    dot in their name that run once and give a map N x K x h x w of more than one cell. Deeper modules work as well.
    UserError: no input has that size, the device is unknown, or the network has no such layer."""
    side = network.size if size is None else size
    check_size(side)
    model = network.model.to(pick_device(device))
    if isinstance(model, Classifier):
        names = [layer.name for layer in model.layers]
    else:
        shallow = [name for name, _ in model.named_modules() if name and name.count(".") <= 1]
        names = [name for name, channels_last in _feature_maps(model, shallow, side).items() if not channels_last]
        if not names:
            raise UserError(f"{type(model).__name__}: no layer gives a feature map N x K x h x w of more than one cell")
    found = gradients(model, _noise(model, side), None, names, needs=("w_c",))  # S, and where CAM exists
    shapes = {name: S.shape[1:] for name, (S, _, _) in found.items()}
    return [LayerRow(name, K, h, w, round(side / h, 1), name in found.heads) for name, (K, h, w) in shapes.items()]


def check_layers(network: Network, names: Sequence[str], size: int | None = None) -> None:
    """UserError: a layer is unknown, or has its channels last (N x h x w x K, as Swin's) and would give a wrong map."""
    check_size(size or network.size)
    find(network.model, names)
    maps = {} if isinstance(network.model, Classifier) else _feature_maps(network.model, names, size or network.size)
    for name in (name for name, channels_last in maps.items() if channels_last):
        given = f"layer {name!r} gives N x h x w x K, its channels last"
        raise UserError(f"{given}; N x K x h x w needed (`dgl layers` lists some)")


def _feature_maps(model: nn.Module, names: Sequence[str], side: int) -> dict[str, bool]:
    """Which modules run once and give a map of more than one cell, in the order in which they run, and whether its
    channels are last. The channels are the axis that stays when the input grows, so the network runs at two sizes. If
    it takes one size only (MaxViT), they are the axis unlike the other two. UserError: it does not take ``side``."""
    passes: list[dict[str, list[tuple[int, ...]]]] = [{}]  # by module, the shape of each output, () for no tensor

    def note(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        passes[-1].setdefault(name, []).append(tuple(getattr(output, "shape", ())))

    with ExitStack() as hooks, frozen(model), torch.no_grad():
        for name, module in find(model, names).items():
            hooks.enter_context(module.register_forward_hook(partial(note, name)))
        with one_line(f"size: {side} px given"):
            model(_noise(model, side))
        passes.append({})
        try:
            model(_noise(model, side + 32))
        except REFUSALS:
            passes[1] = {}
    shapes, larger = passes
    there = {name: of[0] for name, of in shapes.items() if len(of) == 1 and len(of[0]) == 4 and of[0][2] * of[0][3] > 1}
    if not larger:
        return {name: shape[1] == shape[2] != shape[3] for name, shape in there.items()}
    return {name: len(larger[name][0]) == 4 and larger[name][0][1] != shape[1] for name, shape in there.items()}


REFUSALS = (AssertionError, RuntimeError, ValueError)  # how ViT, MaxViT and plain torch refuse a size


@contextmanager
def one_line(given: str) -> Iterator[None]:
    """UserError where a network refuses the size of its input, in its own words."""
    try:
        yield
    except UserError:
        raise
    except REFUSALS as error:
        raise UserError(f"{given}, which the network does not take ({' '.join(str(error).split())[:160]})") from None


def _noise(model: nn.Module, side: int) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)).to(next(model.parameters()))


def default_layer(network: Network, method: str = "dgl") -> str:
    """The ``layer`` of this project's classifier, else the last of ``layers``. For CAM, the last on which it exists."""
    if method != "cam" and isinstance(network.model, Classifier):
        return network.model.layer
    rows = layers(network)
    return ([row for row in rows if row.cam and method == "cam"] or rows)[-1].name
