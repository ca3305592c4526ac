"""The classifier of the talk: SPG-plain, an Inception-v3 cut after ``Mixed_6e`` that keeps an output stride of 8.

Read it top to bottom: three blocks that differ from torchvision's in their padding, the network, its weights.
Parameter names are torchvision's, so ImageNet weights load as they are.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.models import Inception_V3_Weights
from torchvision.models.inception import BasicConv2d, InceptionA, InceptionB, InceptionC

from dgl_lib.errors import UserError

log = logging.getLogger(__name__)


class Layer(NamedTuple):
    """A row of the layer table: ``channels`` at width 1, ``stride`` in input pixels."""

    name: str
    channels: int
    stride: int


#: Every layer the study localizes on, in the order data flows through them (METHOD: SPG-plain).
SPG_PLAIN_LAYERS = (
    Layer("Mixed_5b", 256, 8),
    Layer("Mixed_5c", 288, 8),
    Layer("Mixed_5d", 288, 8),
    Layer("Mixed_6a", 768, 8),
    Layer("Mixed_6b", 768, 8),
    Layer("Mixed_6c", 768, 8),
    Layer("Mixed_6d", 768, 8),
    Layer("Mixed_6e", 768, 8),
    Layer("add2", 1024, 8),
    Layer("add1", 1024, 8),
)


def _average_pool(count_include_pad: bool) -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=count_include_pad)


class MixedA(InceptionA):
    """``Mixed_5b`` .. ``Mixed_5d``: torchvision's block, with the average pool's treatment of padding made a choice."""

    def __init__(self, in_channels: int, pool_features: int, conv_block: Callable, count_include_pad: bool):
        super().__init__(in_channels, pool_features, conv_block)
        self.pool = _average_pool(count_include_pad)

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(self.pool(x)),
        ]


class MixedB(InceptionB):
    """``Mixed_6a`` with every branch at stride 1 (Inception-v3: 2): this is what keeps the output stride at 8."""

    def __init__(self, in_channels: int, conv_block: Callable):
        super().__init__(in_channels, conv_block)
        self.branch3x3 = conv_block(in_channels, 384, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = conv_block(96, 96, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.pool(x),
        ]


class MixedC(InceptionC):
    """``Mixed_6b`` .. ``Mixed_6e``: torchvision's block, with the average pool's treatment of padding made a choice."""

    def __init__(self, in_channels: int, channels_7x7: int, conv_block: Callable, count_include_pad: bool):
        super().__init__(in_channels, channels_7x7, conv_block)
        self.pool = _average_pool(count_include_pad)

    def _forward(self, x: Tensor) -> list[Tensor]:
        factorised_7x7 = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return [self.branch1x1(x), factorised_7x7, twice, self.branch_pool(self.pool(x))]


class SPGPlain(nn.Module):
    """SPG-plain (Zhang et al., ECCV 2018), the classifier of the talk. Build it with :func:`spg_plain`.

    Attributes:
        mean, std: what images in 0..1 are normalised with; they belong to the weights.
        count_include_pad: whether average pools count the zero padding; it belongs to the weights too.
        classes: the class names, empty until a training run or a checkpoint sets them.
        facts: what the checkpoint's training run left about itself.
        origin: one sentence on where the weights come from.
        freeze_batch_norm: True where a trunk was loaded: its running statistics then stay as they are in training too.
    """

    def __init__(self, num_classes: int, width: float, count_include_pad: bool):
        super().__init__()
        self.num_classes, self.width, self.count_include_pad = num_classes, width, count_include_pad
        self.mean: tuple[float, ...] = (0.5, 0.5, 0.5)
        self.std: tuple[float, ...] = (0.5, 0.5, 0.5)
        self.classes: tuple[str, ...] = ()
        self.origin = "random weights"
        self.facts: dict = {}
        self.freeze_batch_norm = False

        def scaled(channels: int) -> int:
            return channels if channels == 3 else round(channels * width)

        def conv(channels_in: int, channels_out: int, **kwargs: object) -> nn.Module:
            return BasicConv2d(scaled(channels_in), scaled(channels_out), **kwargs)

        block_a = partial(MixedA, conv_block=conv, count_include_pad=count_include_pad)
        block_c = partial(MixedC, conv_block=conv, count_include_pad=count_include_pad)

        def added(channels_in: int, channels_out: int) -> nn.Module:
            convolution = nn.Conv2d(scaled(channels_in), scaled(channels_out), 3, padding=1)
            return nn.Sequential(OrderedDict(dropout=nn.Dropout(0.5), conv=convolution, relu=nn.ReLU()))

        #                                                                       at 224 px: N x
        self.Conv2d_1a_3x3 = conv(3, 32, kernel_size=3, stride=2, padding=1)  # 32 x 112 x 112
        self.Conv2d_2a_3x3 = conv(32, 32, kernel_size=3, padding=1)  #          32 x 112 x 112
        self.Conv2d_2b_3x3 = conv(32, 64, kernel_size=3, padding=1)  #          64 x 112 x 112
        self.maxpool1 = nn.MaxPool2d(3, stride=2, padding=1)  #                 64 x 56 x 56
        self.Conv2d_3b_1x1 = conv(64, 80, kernel_size=1)  #                     80 x 56 x 56
        self.Conv2d_4a_3x3 = conv(80, 192, kernel_size=3, padding=1)  #         192 x 56 x 56
        self.maxpool2 = nn.MaxPool2d(3, stride=2, padding=1)  #                 192 x 28 x 28
        self.Mixed_5b = block_a(192, 32)  #                                     256 x 28 x 28
        self.Mixed_5c = block_a(256, 64)  #                                     288 x 28 x 28
        self.Mixed_5d = block_a(288, 64)  #                                     288 x 28 x 28
        self.Mixed_6a = MixedB(288, conv)  #                                    768 x 28 x 28
        self.Mixed_6b = block_c(768, 128)  #                                    768 x 28 x 28
        self.Mixed_6c = block_c(768, 160)  #                                    768 x 28 x 28
        self.Mixed_6d = block_c(768, 160)  #                                    768 x 28 x 28
        self.Mixed_6e = block_c(768, 192)  #                                    768 x 28 x 28
        self.add2 = added(768, 1024)  #                                         1024 x 28 x 28
        self.add1 = added(1024, 1024)  #                                        1024 x 28 x 28
        self.avgpool = nn.AdaptiveAvgPool2d(1)  #                               1024 x 1 x 1
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(scaled(1024), num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of normalised ``images`` (N, 3, H, W), float."""
        x = images
        for name, module in self.named_children():  # the children stand in the order data flows through them
            if name == "fc":
                x = x.flatten(1)
            x = module(x)
        return x

    def train(self, mode: bool = True) -> SPGPlain:
        """As ``nn.Module.train``, but a frozen batch norm stays frozen: a plain ``train()`` would silently thaw it."""
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def trunk_names(self) -> list[str]:
        """Names of the state's entries from the stem to ``Mixed_6e``: what Inception-v3 shares with this network."""
        return [name for name in self.state_dict() if not name.startswith(("add2.", "add1.", "fc."))]


def spg_plain(num_classes: int, *, width: float = 1.0, weights: str | Path | None = None) -> SPGPlain:
    """SPG-plain for ``num_classes`` classes.

    Args:
        num_classes: at least 2.
        width: multiplier of every layer's channels, a multiple of 1/16 in (0, 1].
        weights: None for random weights (Kaiming-normal, a small head, zero bias); ``"imagenet"`` for torchvision's
            Inception-v3 (downloaded); or the path of one of three kinds of file, told apart by their entries:
            a trunk (stem to ``Mixed_6e``; the rest stays random), torchvision's Inception-v3 (the same, once
            ``AuxLogits``, ``Mixed_7*`` and ``fc`` are dropped), or a checkpoint of this project (all of it).
            ``.safetensors``, or a ``.pth`` that torch's ``weights_only`` reader accepts.

    Raises:
        UserError: a number out of range, an unreadable file, or entries missing, left over or misshapen.
    """
    if not isinstance(num_classes, int) or num_classes < 2:
        raise UserError(f"num_classes: {num_classes!r} given, a whole number of at least 2 allowed")
    if not 0 < width <= 1 or (width * 16) % 1:
        raise UserError(f"width: {width!r} given, a multiple of 1/16 in (0, 1] allowed (other widths do not add up)")
    if weights is None:
        model = SPGPlain(num_classes, width, count_include_pad=True)
        # Nothing is learned yet: start at equal logits. From a head of full size the first steps, which only level the
        # classes, silenced most of add2 for good (three quarters of its channels, measured on the creatures).
        nn.init.normal_(model.fc.weight, std=0.01)
        return model
    if weights == "imagenet":
        if width != 1:
            raise UserError(f"width: {width!r} given, 1 allowed with the weights 'imagenet'")
        # Inception-v3 as torchvision ported it: inputs in [-1, 1] and average pools that count the padding.
        state = Inception_V3_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        header: dict[str, str] = {"source": "torchvision Inception_V3_Weights.IMAGENET1K_V1"}
    else:
        state, header = _read(Path(weights))
    model = SPGPlain(num_classes, width, header.get("count_include_pad", "true").lower() == "true")
    try:
        model.mean = tuple(map(float, json.loads(header.get("mean", "[0.5, 0.5, 0.5]"))))
        model.std = tuple(map(float, json.loads(header.get("std", "[0.5, 0.5, 0.5]"))))
    except (TypeError, ValueError):
        raise UserError(
            f"weights {Path(weights).name!r}: mean and std in the header must be lists of numbers"
        ) from None
    _fill(model, state, Path(weights).name)
    if "freeze_batch_norm" in header:  # a checkpoint's own answer
        model.freeze_batch_norm = header["freeze_batch_norm"] == "true"
    model.origin = header.get("source", Path(weights).name) + (
        "" if "fc.weight" in state and "add1.conv.weight" in state else "; add2, add1 and fc freshly initialised"
    )
    log.info("%s", model.origin)
    model.train(model.training)  # apply the freeze to the modules as they stand
    return model


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
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
    except Exception as error:  # torch.load raises half a dozen types for a broken or an unsafe file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"weights {path.name!r} is not a file of plain tensors: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights {path.name!r} holds {type(state).__name__}, a dictionary of named tensors is needed")
    return state, {}


def _fill(model: SPGPlain, state: dict[str, Tensor], name: str) -> None:
    """Load a trunk, torchvision's Inception-v3 or a whole checkpoint into ``model``; anything else is an error."""
    own = model.state_dict()
    whole = any(key.startswith(("add2.", "add1.")) for key in state)
    if not whole:
        state = {k: v for k, v in state.items() if not k.startswith(("AuxLogits.", "Mixed_7", "fc."))}
    wanted = list(own) if whole else model.trunk_names()
    # Files from before torch 0.4.1 carry no step counter of the batch norms; it plays no part in the output.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in set(wanted)]
    misshapen = [key for key in wanted if key in state and state[key].shape != own[key].shape]
    for what, keys in (("lacks", missing), ("has an entry too many,", extra), ("has a misshapen", misshapen)):
        if keys:
            key = keys[0]
            shapes = f" {tuple(state[key].shape)}, {tuple(own[key].shape)} expected" if keys is misshapen else ""
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            kind = "a checkpoint of SPG-plain" if whole else "an Inception-v3 trunk (stem to Mixed_6e)"
            detail = f"width {model.width}, {model.num_classes} classes"
            raise UserError(f"weights {name!r} {what} {key}{shapes}{more}: not {kind} of {detail}")
    model.load_state_dict(
        {key: state[key] for key in wanted if key in state}, strict=False
    )  # copies float16 to float32
    model.freeze_batch_norm = not whole


def save_checkpoint(model: SPGPlain, path: str | Path, **facts: object) -> None:
    """Write all of ``model``'s weights and what is needed to use them to a safetensors file, atomically.

    The header holds, as JSON: architecture, width, classes, mean, std, count_include_pad, source (a sentence on the
    origin), freeze_batch_norm, and ``facts`` (training parameters, data hash, scores).
    """
    header = {
        "architecture": "spg_plain",
        "width": json.dumps(model.width),
        "classes": json.dumps(list(model.classes) or [str(c) for c in range(model.num_classes)]),
        "mean": json.dumps(list(model.mean)),
        "std": json.dumps(list(model.std)),
        "count_include_pad": json.dumps(model.count_include_pad),
        "freeze_batch_norm": json.dumps(model.freeze_batch_norm),
        "source": model.origin,
        "facts": json.dumps(facts, sort_keys=True),
    }
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


def load_checkpoint(path: str | Path) -> SPGPlain:
    """The trained classifier at ``path``, in eval mode: weights, class names, normalisation, pooling rule, facts.

    Raises:
        UserError: no such file, or not a checkpoint of this project.
    """
    path = Path(path)
    _, header = _read(path)
    if header.get("architecture") != "spg_plain":
        raise UserError(
            f"{path.name!r} is not a checkpoint of this project: its header names no architecture spg_plain"
        )
    try:
        width, classes, facts = (json.loads(header[key]) for key in ("width", "classes", "facts"))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path.name!r} is not a whole checkpoint: its header's width, classes or facts: {error}"
        ) from None
    model = spg_plain(len(classes), width=width, weights=path)
    model.classes, model.facts = tuple(classes), facts
    return model.eval()


def committed_checkpoint(name: str = "creatures") -> Path:
    """The file of a classifier that comes with the package."""
    return Path(__file__).parent / "checkpoints" / f"{name}.safetensors"


def digest(model: nn.Module) -> str:
    """SHA-256 over every parameter and buffer, bit for bit: the same before and after localizing (claim C9)."""
    sha = hashlib.sha256()
    for name, value in model.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """``image`` (H, W, 3) uint8 at ``size`` x ``size``: by area where pixels get fewer, so that nothing aliases."""
    if image.shape[:2] == (size, size):
        return image
    how = cv2.INTER_AREA if max(image.shape[:2]) > size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=how)


def preprocess(model: nn.Module, images: Sequence[np.ndarray], size: int) -> Tensor:
    """Photographs as the network wants them: squashed to ``size`` x ``size``, then normalised with its mean and std.

    Args:
        images: (H, W, 3) uint8 RGB arrays, of any sizes.
        size: side of the square input, pixels.

    Returns:
        (N, 3, size, size) float32 on the model's device.
    """

    device = next(model.parameters()).device
    batch = torch.from_numpy(np.stack([squash(image, size) for image in images])).to(device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (model.mean, model.std))
    return (batch.permute(0, 3, 1, 2).float() / 255 - mean) / std  # N x 3 x size x size, channels last in memory
