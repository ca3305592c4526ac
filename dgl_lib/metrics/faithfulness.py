"""Does a map show what the network uses? Insertion and deletion of one image, and weights drawn anew.

insertion, deletion    Petsiuk, Das, Saenko: RISE, BMVC 2018
randomised weights     Adebayo et al.: Sanity Checks for Saliency Maps, NeurIPS 2018

TorchCAM's ``DeletionInsertionMetric`` computes the same areas (``tests/peers`` compares them), but has one baseline for
both curves, breaks ties in reading order, and gives the mean over images alone. Quantus tests otherwise, Captum not.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from dgl_lib.errors import UserError
from dgl_lib.maps import minmax, resize

Pair = tuple[str, str]  # method and layer
STEPS = 20  # of a curve; it has one point more, both ends included
SEED = 0  # of equal pixels' order and of the random weights
#: Standard deviation of insertion's blur, as a fraction of the image's side. RISE's (5 px of 224, cut off at 5 px)
#: leaves the drawn creatures recognisable: p_c stayed above 0.9 on most images, and nothing was left to insert.
BLUR = 0.11


def ranking(m: Tensor, size: int) -> Tensor:
    """The place of every pixel from the most (0) to the least salient, (size, size) int64, of a raw map (h, w).
    The map is min-maxed and resized as for the scores. Pixels of equal value stand in one random order, the same for
    all maps: what a ReLU cut off says nothing about its order, and a constant map gives the random baseline."""
    values = resize(minmax(m), (size, size)).flatten()
    shuffled = torch.randperm(len(values), generator=torch.Generator().manual_seed(SEED))
    order = shuffled[values[shuffled].argsort(descending=True, stable=True)]
    return order.argsort().reshape(size, size)  # a permutation's inverse: the place of each pixel in the order


def blur(image: Tensor) -> Tensor:
    """What insertion starts from: a Gaussian blur of (3, H, W), standard deviation ``BLUR`` x H, cut off at two."""
    sigma = BLUR * image.shape[-2]
    return gaussian_blur(image, [2 * round(2 * sigma) + 1] * 2, [sigma, sigma])  # mirrored at the border


@torch.inference_mode()
def probability(model: nn.Module, images: Tensor, label: int, *, bf16: bool = False) -> np.ndarray:
    """p_c of each of the images (N, 3, H, W), (N,) float64; a few at a time, as large ones would not fit in memory.
    With ``bf16``, convolutions and products are in bfloat16 and the softmax is in float32 all the same."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        logits = torch.cat([model(some) for some in images.split(5)])
    return (logits.float() if bf16 else logits).softmax(1)[:, label].double().cpu().numpy()


def pictures(image: Tensor, m: Tensor, steps: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The image (3, H, H) with the first k / STEPS of its pixels inserted, and deleted: (len(steps), 3, H, H) each."""
    size = image.shape[-1]
    counts = torch.tensor([round(k * size**2 / STEPS) for k in steps])
    first = (ranking(m, size) < counts[:, None, None])[:, None].to(image.device)  # steps x 1 x H x H
    return torch.where(first, image, blur(image)), torch.where(first, torch.zeros_like(image), image)


def curves(
    model: nn.Module, image: Tensor, label: int, maps: Mapping[Pair, Tensor], *, bf16: bool = False
) -> dict[Pair, np.ndarray]:
    """p_c after k / STEPS of an image's pixels, k = 0..STEPS, the most salient first: (2, STEPS + 1) for each map.
    Row 0 is insertion, from the blurred image to the whole one. Row 1 is deletion, from the whole image to zeros.
    ``image`` is (3, H, H) float, normalised, so that zero is the mean colour, and ``maps`` are raw maps (h, w) of any
    size. The model is in eval mode, on the image's device. Maps equal to 1e-5 after min-max are computed once."""
    asked = partial(probability, model, label=label, bf16=bf16)
    whole, gone, start = asked(torch.stack([image, torch.zeros_like(image), blur(image)]))
    found: dict[Pair, np.ndarray] = {}
    for pair, m in maps.items():
        same = (other for other in found if maps[other].shape == m.shape)
        if twin := next((it for it in same if torch.allclose(minmax(maps[it]), minmax(m), rtol=0, atol=1e-5)), None):
            found[pair] = found[twin]
        else:
            insertion, deletion = map(asked, pictures(image, m, range(1, STEPS)))
            found[pair] = np.array([[start, *insertion, whole], [whole, *deletion, gone]])
    return found


def area(curve: np.ndarray) -> np.ndarray:
    """Area under curves (..., STEPS + 1) by the trapezoid rule, the share of pixels running from 0 to 1: in 0..1."""
    return np.trapezoid(curve, dx=1 / STEPS, axis=-1)


def blocks(model: nn.Module, layers: Sequence[str]) -> dict[str, list[nn.Module]]:
    """Modules with weights of their own, from the head down: "head", each layer with what leads to it, "stem".
    ``layers`` are dotted names in the order of the model's modules. A module inside no layer counts to the layer that
    follows it, before the first to the "stem", after the last to the "head". Layers without weights are left out."""
    modules = [(f"{name}.", module) for name, module in model.named_modules()]  # "a.b." starts with "a."
    end = {layer: max(i for i, (name, _) in enumerate(modules) if name.startswith(f"{layer}.")) for layer in layers}
    found: dict[str, list[nn.Module]] = {name: [] for name in ("stem", *layers, "head")}
    for i, (name, module) in enumerate(modules):
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            block = next((layer for layer in layers if i <= end[layer]), "head")
            found["stem" if block == layers[0] and not name.startswith(f"{block}.") else block].append(module)
    return {block: own for block, own in reversed(found.items()) if own}


def randomise(modules: Sequence[nn.Module]) -> None:
    """Draw weights anew as for a network that was never trained: Kaiming-normal, zero bias, batch norm without effect.
    UserError: a module with weights that knows no way to be reset."""
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()
        else:
            raise UserError(f"randomise: {type(module).__name__} given, a module with reset_parameters needed")
