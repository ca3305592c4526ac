"""Where weights come from: nowhere, torchvision, or one of three kinds of file; and what they are, bit for bit."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from dgl_lib.errors import UserError
from dgl_lib.models.classifier import Classifier

log = logging.getLogger(__name__)

Weights = tuple[dict[str, Tensor], dict[str, str]]  # tensors by name, and a text header
C = TypeVar("C", bound=Classifier)


def read_weights(weights: str | Path | None, width: float, imagenet: WeightsEnum) -> Weights:
    """The tensors and the header that ``weights`` names: nothing for None, ``imagenet`` (downloaded), or a file.

    Raises:
        UserError: ``"imagenet"`` at another width than 1, a download that failed, or an unreadable file.
    """
    if weights is None:
        return {}, {}
    if weights != "imagenet":
        return read_file(Path(weights))
    if width != 1:
        raise UserError(f"width: {width!r} given, 1 allowed with the weights 'imagenet'")
    try:
        return imagenet.get_state_dict(progress=True, check_hash=True), {"source": f"torchvision {imagenet}"}
    except (OSError, RuntimeError) as error:  # no network, a full disk, or bytes of another SHA-256
        reason = " ".join(str(error).split())
        raise UserError(f"weights: download of {imagenet} failed ({reason}); DGL_WEIGHTS may name a file") from None


def read_file(path: Path) -> Weights:
    """The tensors and the text header of a weights file; no pickle is ever executed."""
    if not path.is_file():
        raise UserError(f"weights: no file at {path.name!r}; give 'imagenet', or a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"weights {path.name!r} is not a readable safetensors file: {error}") from None
    except Exception:  # half a dozen types for a broken or an unsafe file; torch's own words advise to load it unsafely
        raise UserError(f"weights {path.name!r} is not a file of plain tensors (.safetensors, or .pth)") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights {path.name!r} holds {type(state).__name__}, a dictionary of named tensors is needed")
    return state, {}


def start(model: C, weights: str | Path | None, state: dict[str, Tensor], header: dict[str, str]) -> C:
    """``model`` with the weights that ``read_weights`` found, or, where there are none, with a small head.

    Raises:
        UserError: a broken header, or entries missing, left over or misshapen.
    """
    if weights is None:
        # Nothing is learned yet: start at equal logits. From a head of full size the first steps, which only level the
        # classes, silenced most of add2 for good (three quarters of its channels, measured on the creatures).
        nn.init.normal_(model.fc.weight, std=0.01)
        return model
    name = Path(weights).name
    try:
        model.mean = tuple(map(float, json.loads(header.get("mean", json.dumps(model.mean)))))
        model.std = tuple(map(float, json.loads(header.get("std", json.dumps(model.std)))))
    except (TypeError, ValueError):
        raise UserError(f"weights {name!r}: mean and std in the header must be lists of numbers") from None
    whole = _fill(model, state, name)
    # A checkpoint gives its own answer.
    model.freeze_batch_norm = header["freeze_batch_norm"] == "true" if "freeze_batch_norm" in header else not whole
    model.origin = header.get("source", name) + ("" if whole else f"; {model.added} freshly initialised")
    log.info("%s", model.origin)
    return model.train(model.training)  # apply the freeze to the modules as they stand


def _fill(model: Classifier, state: dict[str, Tensor], name: str) -> bool:
    """Load a trunk, torchvision's whole network or a whole checkpoint; anything else is an error. Returns: whole?"""
    own, trunk = model.state_dict(), model.trunk_names()
    whole = any(key in state for key in own.keys() - trunk.keys() if not key.startswith("fc."))
    if not whole:
        state = {key: value for key, value in state.items() if not key.startswith(model.dropped)}
    wanted = {key: key for key in own} if whole else trunk  # own name -> name in the file
    known = {file_key: own[key].shape for key, file_key in wanted.items()}
    # Files from before torch 0.4.1 carry no step counter of the batch norms; it plays no part in the output.
    missing = [key for key in known if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in known]
    misshapen = [key for key, shape in known.items() if key in state and state[key].shape != shape]
    for what, keys in (("lacks", missing), ("has an entry too many,", extra), ("has a misshapen", misshapen)):
        if keys:
            key = keys[0]
            shapes = f" {tuple(state[key].shape)}, {tuple(known[key])} expected" if keys is misshapen else ""
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            kind = f"a checkpoint of {model.architecture}" if whole else model.trunk
            detail = f"width {model.width}, {model.num_classes} classes"
            raise UserError(f"weights {name!r} {what} {key}{shapes}{more}: not {kind} of {detail}")
    found = {key: state[file_key] for key, file_key in wanted.items() if file_key in state}
    model.load_state_dict(found, strict=False)  # copies float16 to float32
    return whole


def digest(model: nn.Module) -> str:
    """SHA-256 over every parameter and buffer, bit for bit: the same before and after localizing (claim C9)."""
    sha = hashlib.sha256()
    for name, value in model.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
