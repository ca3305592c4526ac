"""Read a module's output or put another tensor in its place, with forward hooks that are always removed."""

import difflib
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dgl_lib.errors import UserError


def find(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of any network by their dotted names. UserError: none given, one given twice, or an unknown one."""
    if isinstance(layers, str) or not layers:
        raise UserError(f"layers: {layers!r} given, a list of at least one module name needed")
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    modules |= {name.replace("_orig_mod.", ""): module for name, module in modules.items()}  # of compiled ones
    for name in layers:
        if name not in modules:
            close = difflib.get_close_matches(name, modules, n=3)
            names = f"near it: {', '.join(close)}" if close else f"it has: {', '.join(dict(model.named_children()))}"
            raise UserError(f"layer {name!r} is not in {type(model).__name__}; {names}")
        if list(layers).count(name) > 1:
            raise UserError(f"layer {name!r} is asked for twice")
    return {name: modules[name] for name in layers}


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and weights without gradients inside; afterwards every flag as it was, module by module.
    UserError: weights that were made in inference mode, whose flags cannot be set."""
    parameters, modules = list(model.parameters()), list(model.modules())
    if any(parameter.is_inference() for parameter in parameters):
        raise UserError("the network was made in inference mode: make it outside of torch.inference_mode()")
    # To set flags that are as they should be takes a millisecond, in which a GPU has nothing to do.
    flags = [module.training for module in modules] if any(module.training for module in modules) else []
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        if flags:
            model.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        # Compiled code would not see hooks that come later. Without it there is nothing to switch off, in 4 seconds.
        eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), _exact_convolutions(), eager:
            yield
    finally:
        for module, flag in zip(modules, flags, strict=False):
            module.training = flag
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """float32 is float32 on a GPU too, and not TF32. Elsewhere nobody's setting is touched."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    if (before := convolutions.fp32_precision) == "ieee" or not torch.cuda.is_available():
        yield
        return
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


@contextmanager
def tap(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of ``layers`` in one forward pass: ``{layer: (N, K, h, w)}``, empty before that pass.

    Gradients can be taken for each. The network goes on with a clone, which shares memory until something writes: an
    activation that works in place cannot overwrite them. UserError: an unknown layer, one that runs several times, or
    one that gives no feature map."""
    outputs: dict[str, Tensor] = {}
    runs = dict.fromkeys(layers, 0)

    def hook(name: str):  # type: ignore[no-untyped-def]
        def read(_module: nn.Module, _inputs: object, output: object) -> Tensor:
            runs[name] += 1
            if not isinstance(output, Tensor) or output.ndim != 4:
                got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise UserError(f"layer {name!r} gives {got}, a feature map N x K x h x w is needed")
            # No weight needs a gradient, so the graph begins at the first tapped layer. Only memory of torch's own can
            # be shared, and only these devices mind whether it is.
            lazy = output.requires_grad and output.device.type in ("cpu", "cuda")
            outputs[name] = output if output.requires_grad else output.detach().requires_grad_()
            return torch._lazy_clone(outputs[name]) if lazy else outputs[name].clone()  # N x K x h x w

        return read

    with ExitStack() as handles:
        for name, module in find(model, layers).items():
            if isinstance(module, torch.jit.ScriptModule):
                raise UserError(
                    f"layer {name!r} is compiled by TorchScript, which takes no hooks: its own form is needed"
                )
            handles.enter_context(module.register_forward_hook(hook(name)))
        yield outputs
        for name, count in runs.items():
            if count != 1:
                raise UserError(f"layer {name!r} ran {count} times in one pass, exactly once is needed")


@contextmanager
def replace(model: nn.Module, layer: str, features: Tensor) -> Iterator[None]:
    """Put ``features`` (M, K, h, w) in the place of ``layer``'s output, whatever the input's batch.

    With one image as input, the layers before run once and the layers after run on all M feature maps."""
    with find(model, [layer])[layer].register_forward_hook(lambda *_: features.clone()):
        yield
