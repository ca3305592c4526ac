"""Where a network runs, in which precision, and the same network made for speed."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dgl_lib.errors import UserError
from dgl_lib.models import Classifier
from dgl_lib.taps import frozen

#: From so many maps on, of all methods and layers together, compiled formulas save more than the half minute they cost.
COMPILE_FROM = {"cpu": 20_000, "cuda": 1_000_000}

_pays: dict[tuple[object, ...], bool] = {}  # what was measured in this process


def pick_device(name: str) -> torch.device:
    """``"auto"`` (cuda, else mps, else cpu), ``"cpu"``, ``"cuda"`` or ``"mps"``. UserError if it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [kind for kind, is_there in there.items() if is_there]
    if name != "auto" and name not in found:
        raise UserError(f"device: {name!r} given; here: auto, {', '.join(reversed(found))}")
    return torch.device(found[0] if name == "auto" else name)


def bf16_is_fast(device: torch.device) -> bool:
    """Whether training and classification run in bfloat16. Localization always runs in float32.

    On a CPU it must be native (emulated it is 13 times slower than float32), and with tile instructions: with
    AVX512-BF16 alone a training step took 1.2 times as long as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_amx_tile_supported()


@contextmanager
def narrow_norms(model: nn.Module) -> Iterator[None]:
    """Within it, batch norms whose channels do not fill a processor's vectors work plane by plane, on a CPU.

    With channels last, PyTorch's kernel takes up to five times as long on such a rest of channels, backward above all.
    So their input is copied to planes, their output back, and its gradient to planes again: the same sums, in another
    order. Full-width networks have none. What it saves a narrow one stands in ``results/bench/narrow.csv``."""

    def back(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        if out.requires_grad:
            out.register_hook(Tensor.contiguous)
        return out.contiguous(memory_format=torch.channels_last)

    hooks = []
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.num_features % 16 and norm.weight.device.type == "cpu":
            hooks.append(norm.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),)))
            hooks.append(norm.register_forward_hook(back))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def faster(model: nn.Module, layers: Collection[str], side: int) -> nn.Module:
    """A copy of ``model`` to localize with on ``layers`` at inputs of ``side`` pixels, in eval mode, on its device.

    Its maps are the model's up to the rounding of float32, or of bfloat16 where that pays. Do not train it. Of the
    study's own networks each batch norm is folded into the convolution before it; what another network does between
    its modules cannot be seen."""
    copy = deepcopy(model).eval().to(memory_format=torch.channels_last)
    for name, parent in list(copy.named_modules()) if isinstance(copy, Classifier) else []:
        for (before, conv), (after, norm) in pairwise(list(parent.named_children())):
            own = {f"{name}.{child}".lstrip(".") for child in (before, after)}
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and not own & set(layers):
                setattr(parent, before, fuse_conv_bn_eval(conv, norm))
                setattr(parent, after, nn.Identity())
    copy.eval()  # the new identities too
    return copy.bfloat16() if bf16_pays(copy, side) else copy


def bf16_pays(model: nn.Module, side: int) -> bool:
    """Whether two images of ``side`` pixels go through ``model`` and back sooner in bfloat16 than in float32.

    Measured once a process for a network of this kind and size, in a second or two: the better of three passes each,
    in turn. That a processor knows bfloat16 does not tell: without tile instructions it can be slower all the same."""
    weights = list(model.parameters())
    device = weights[0].device
    key = (device.type, type(model), sum(weight.numel() for weight in weights), side)
    if key not in _pays:
        networks = {dtype: deepcopy(model).to(dtype) for dtype in (torch.float32, torch.bfloat16)}
        seconds = {dtype: float("inf") for dtype in networks}
        for dtype, network in [*networks.items()] * 3:
            count = 2 if device.type == "cpu" else 16  # with two, a GPU waits for its orders in both
            images = torch.zeros(count, 3, side, side, device=device, dtype=dtype, requires_grad=True)
            with frozen(network):  # float32 without TF32, as localization has it
                began = time.perf_counter()
                torch.autograd.grad(network(images).sum(), images)
                torch.get_device_module(device).synchronize()
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - began)
        _pays[key] = seconds[torch.bfloat16] < seconds[torch.float32]
    return _pays[key]


def compiling_pays(device: torch.device, maps: int) -> bool:
    """Whether so many maps should be made by formulas that went through ``torch.compile``, which needs a compiler."""
    if maps < COMPILE_FROM.get(device.type, float("inf")):
        return False
    try:
        torch.compile(torch.neg)(torch.ones(1, device=device))
    except RuntimeError:  # of torch.compile, whatever it lacks
        return False
    return True
