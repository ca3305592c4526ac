"""Weights: random, torchvision's or from a file; trained ones to a file and back; their digest."""

import hashlib
import json
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dgl_lib.errors import UserError
from dgl_lib.files import sorted_header, write_bytes
from dgl_lib.given import CheckpointHeader, Header, need_finite, parsed
from dgl_lib.models.classifier import Classifier

C = TypeVar("C", bound=Classifier)


def build(network: type[C], num_classes: int, width: float, weights: str | Path | None, padding: str) -> C:
    """``network`` with the weights that ``weights`` names; arguments and errors as for ``spg_plain``."""
    if not isinstance(num_classes, int) or num_classes < 2:
        raise UserError(f"num_classes: {num_classes!r} given, a whole number of at least 2 allowed")
    if not 0 < width <= 1 or (width * 16) % 1:  # at other widths the branches' channels do not add up
        raise UserError(f"width: {width!r} given, a multiple of 1/16 in (0, 1] allowed")
    if weights == "imagenet":
        if width != 1:
            raise UserError(f"width: {width!r} given, 1 allowed with the weights 'imagenet'")
        try:
            state = network.imagenet.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:  # no network, a full disk, or bytes of another SHA-256
            given = f"{network.imagenet} failed ({' '.join(str(error).split())})"
            raise UserError(f"weights: download of {given}; DGL_WEIGHTS may name a file") from None
        header = {"source": f"torchvision {network.imagenet}"}
    elif weights is not None:
        state, header = read_file(Path(weights))
    model = network(num_classes, width, padding)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if weights is None:
        # A small head starts at nearly equal logits. With a full-size one the first steps, which only level the
        # classes, silenced three quarters of add2's channels for good (measured on the creatures).
        nn.init.normal_(model.fc.weight, std=0.01)
        return model
    name = Path(weights).name
    model.adapt(header)
    said = parsed(Header, header, f"the header of {name!r}: ")
    model.mean, model.std = said.mean or model.mean, said.std or model.std
    whole = _fill(model, state, name)
    model.freeze_batch_norm = not whole if said.freeze_batch_norm is None else said.freeze_batch_norm
    model.origin = (said.source or name) + ("" if whole else f"; {model.added} freshly initialised")
    return model.train(model.training)  # which puts frozen batch norms into eval mode


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a weights file by name, and its text header. No pickle is ever executed."""
    if not path.is_file():
        raise UserError(f"weights: no file at {path.name!r}; give 'imagenet', or a .safetensors or .pth file")
    header: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                state, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"weights {path.name!r} is not a readable safetensors file: {error}") from None
    except Exception:  # of many types; torch's own message advises to load the file unsafely
        raise UserError(f"weights {path.name!r} is not a file of plain tensors (.safetensors, or .pth)") from None
    for name, value in state.items() if isinstance(state, dict) else [("", state)]:
        if not isinstance(name, str) or getattr(value, "layout", None) != torch.strided:
            kind = type(state).__name__
            raise UserError(f"weights {path.name!r} holds {kind}, a dictionary of named tensors is needed")
        need_finite((f"weights {path.name!r}, {name}", value))
    return state, header


def _fill(model: Classifier, state: dict[str, Tensor], name: str) -> bool:
    """Load a checkpoint, a trunk or torchvision's whole network. Returns whether it is a checkpoint."""
    own, trunk = model.state_dict(), model.trunk_names()
    whole = any(key in state for key in own.keys() - trunk.keys() if not key.startswith("fc."))
    if not whole:
        state = {key: value for key, value in state.items() if not key.startswith(model.dropped)}
    wanted = {key: key for key in own} if whole else trunk  # own name -> name in the file
    known = {file_key: own[key].shape for key, file_key in wanted.items()}
    # Files from before torch 0.4.1 have no step counters of batch norms, which the output does not depend on.
    lacking = [f"lacks {key}" for key in known if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [f"has the unknown entry {key}" for key in state if key not in known]
    shapes = ((key, tuple(state[key].shape), tuple(shape)) for key, shape in known.items() if key in state)
    misshapen = [f"has a misshapen {key} {found}, {shape} expected" for key, found, shape in shapes if found != shape]
    if wrong := lacking or unknown or misshapen:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        kind = f"a checkpoint of {model.architecture}" if whole else model.trunk
        of = f"of width {model.width}, {model.num_classes} classes"
        raise UserError(f"weights {name!r} {wrong[0]}{more}: not {kind} {of}")
    found = {key: state[file_key] for key, file_key in wanted.items() if file_key in state}
    model.load_state_dict(found, strict=False)  # which copies float16 to float32
    return whole


def save_checkpoint(model: Classifier, path: str | Path, **facts: object) -> None:
    """Write ``model``'s weights and all that is needed to use them to a safetensors file, for ``load_checkpoint``.

    The header holds strings of JSON: what :class:`Classifier` knows of the network, and ``facts`` of its training."""
    said = {"width": model.width, "mean": model.mean, "std": model.std, "freeze_batch_norm": model.freeze_batch_norm}
    said |= {"classes": list(model.classes) or [str(c) for c in range(model.num_classes)], "facts": facts}
    said |= {name: getattr(model, name) for name in ("count_include_pad",) if hasattr(model, name)}
    header = {name: json.dumps(value, sort_keys=True) for name, value in said.items()}
    header |= {"architecture": model.architecture, "padding": model.padding, "source": model.origin}
    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes(Path(path), sorted_header(save(state, header)))


def load_checkpoint(path: str | Path) -> Classifier:
    """The trained classifier at ``path``, in eval mode. UserError: it is no checkpoint of this project."""
    path = Path(path)
    _, header = read_file(path)
    networks = {network.architecture: network for network in Classifier.__subclasses__()}
    if (network := networks.get(header.get("architecture", ""))) is None:
        raise UserError(f"{path.name!r} is not a checkpoint of this project: its header names none of {[*networks]}")
    said = parsed(CheckpointHeader, header, f"the header of {path.name!r}: ")
    model = build(network, len(said.classes), said.width, path, header.get("padding", "symmetric"))
    model.classes, model.facts = tuple(said.classes), said.facts
    return model.eval()


def committed_checkpoint(name: str = "creatures-0") -> Path:
    """The file of a classifier that comes with the package."""
    return Path(__file__).parent / "trained" / f"{name}.safetensors"


def digest(model: nn.Module) -> str:
    """SHA-256 over every parameter and buffer, bit for bit: the same before and after localizing (claim C9)."""
    sha = hashlib.sha256()
    for name, value in model.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
