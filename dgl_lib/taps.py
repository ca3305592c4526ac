"""Read a module's live output, or put another tensor in its place: forward hooks that always go away."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dgl_lib.errors import UserError


def find(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of ``model`` with the dotted names ``layers``, whatever the kind of network.

    Raises:
        UserError: no layer, one asked for twice, or a name that is not there; names the closest or the valid ones.
    """
    if isinstance(layers, str) or not layers:
        raise UserError(f"layers: {layers!r} given, a list of at least one module name needed")
    modules = dict(model.named_modules())
    modules.pop("", None)
    for name in layers:
        if name not in modules:
            close = difflib.get_close_matches(name, modules, n=3)
            names = close or [n for n, _ in model.named_children()]
            which = "near it" if close else "it has"
            raise UserError(f"layer {name!r} is not in {type(model).__name__}; {which}: {', '.join(names)}")
        if list(layers).count(name) > 1:
            raise UserError(f"layer {name!r} is asked for twice")
    return {name: modules[name] for name in layers}


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient for any weight, inside; every flag as it was, module by module, afterwards.

    ``model.train(flag)`` would not do to restore: it overwrites batch norms that were frozen one by one.
    """
    training = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, flag in training:
            module.training = flag
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)


@contextmanager
def tap(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of ``layers`` during one forward pass, each as a tensor that gradients can be taken for.

    Yields:
        an empty dictionary that the pass fills: ``{layer: (N, K, h, w)}``. The tensors are the modules' true outputs:
        what follows works on a clone, so that an in-place activation cannot overwrite them.

    Raises:
        UserError: an unknown layer; a module that ran several times, or whose output is not N x K x h x w.
    """
    outputs: dict[str, Tensor] = {}
    runs = dict.fromkeys(layers, 0)

    def hook(name: str):  # type: ignore[no-untyped-def]
        def read(_module: nn.Module, _inputs: object, output: object) -> Tensor:
            runs[name] += 1
            if not isinstance(output, Tensor) or output.ndim != 4:
                got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise UserError(f"layer {name!r} gives {got}, a feature map N x K x h x w is needed")
            # With the weights frozen, nothing above the shallowest tapped layer needs a gradient: it starts the graph.
            outputs[name] = output if output.requires_grad else output.detach().requires_grad_()
            return outputs[name].clone()

        return read

    handles = [module.register_forward_hook(hook(name)) for name, module in find(model, layers).items()]
    try:
        yield outputs
        for name, count in runs.items():
            if count != 1:
                raise UserError(f"layer {name!r} ran {count} times in one pass, exactly once is needed")
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replace(model: nn.Module, layer: str, features: Tensor) -> Iterator[None]:
    """Put ``features`` (M, K, h, w) in the place of ``layer``'s output, whatever the input's batch.

    The rest of the network then runs on the M feature maps while the layers before it run on the input only, so one
    image's map can be moved M ways for the price of one image up to that layer.
    """
    handle = find(model, [layer])[layer].register_forward_hook(lambda *_: features.clone())
    try:
        yield
    finally:
        handle.remove()
