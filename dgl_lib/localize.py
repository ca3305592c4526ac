"""The two gradients, and what each method makes of them, in the talk's symbols.

    S    feature map of a layer, (N, K, h, w)          l    logits, (N, C)          c    the class of each image, (N,)
    G_c  = d l_c / dS   gradient of the class LOGIT    G_J  = dJ / dS   gradient of the classification LOSS
    n(X) = X / ||X||_F, the norm over all of h, w and K of one image

    A      = n(S) - n(G_J)                branch 1: class-aware enhanced map      (``enhance``)
    M(h,w) = sum_k G_c(h,w,k) A(h,w,k)    branch 2: pixel-level selection         (``dgl``)

Source: Tan et al., Dual-Gradients Localization Framework, ACM MM 2020, doi 10.1145/3394171.3413622, and its LID talk.
Maps are raw and signed. A formula has a ReLU only where its own paper has one; nothing is normalised here.
"""

import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dgl_lib.errors import UserError
from dgl_lib.given import need_finite, need_one_of
from dgl_lib.taps import frozen, tap


def n(X: Tensor) -> Tensor:
    """X / ||X||_F for each image of (N, K, h, w), over h, w and K together; n(0) = 0."""
    # By the largest value first, since tiny ones square to 0 in float32, and huge ones to infinity. Each pixel's norm
    # comes before the image's: short sums are rounded less, and a GPU finds more pixels to work on than images.
    largest = X.abs().amax(1, keepdim=True).clamp_min(torch.finfo(X.dtype).tiny)  # N x 1 x h x w, of each pixel
    top = largest.amax((2, 3), keepdim=True)  # N x 1 x 1 x 1
    norms = torch.linalg.vector_norm(X * (1 / largest), dim=1, keepdim=True) * (largest / top)  # in units of top
    return X / top * (1 / _nonzero(torch.linalg.vector_norm(norms, dim=(2, 3), keepdim=True)))


def _nonzero(X: Tensor) -> Tensor:
    return X.masked_fill(X == 0, 1)


def enhance(S: Tensor, G_J: Tensor) -> Tensor:
    """Branch 1, the class-aware enhanced map A = n(S) - n(G_J), (N, K, h, w): features moved against the loss."""
    return n(S) - n(G_J)


def loss_released(logits: Tensor, classes: Tensor, alpha: float) -> Tensor:
    """J = logsumexp(l) - alpha l_c, (N,). Its gradient p - alpha y is what the released code takes for dJ/dl."""
    return logits.logsumexp(1) - alpha * _at(logits, classes)


def loss_autograd(logits: Tensor, classes: Tensor, alpha: float) -> Tensor:
    """J = logsumexp_{j != c} l_j - l_c, (N,), for every alpha: its gradient points along alpha (p - y).

    Autograd of cross-entropy gives alpha (p - y) itself. It is longer by a factor, which n() removes, but in float32 it
    cancels as p_c comes near 1. This gradient does not."""
    others = logits.scatter(1, classes[:, None], float("-inf"))  # N x C
    return others.logsumexp(1) - _at(logits, classes)  # N


def _at(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]  # N x C -> N


RULES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"released": loss_released, "autograd": loss_autograd}
HEADS = ("softmax", "sigmoid")


def _loss(logits: Tensor, classes: Tensor, alpha: float, rule: str, head: str) -> Tensor:
    """J, (N,). A sigmoid's label stands alone: sigmoid(l_c) is the softmax of the two logits 0 and l_c, and so J is its
    binary cross-entropy, with dJ/dl_c = sigmoid(l_c) - alpha (released), or along -1 (autograd)."""
    if head == "sigmoid":
        l_c = _at(logits, classes)
        logits, classes = torch.stack([torch.zeros_like(l_c), l_c], 1), torch.ones_like(classes)  # N x 2
    return RULES[rule](logits, classes, alpha)


class Triple(NamedTuple):
    """S and its two gradients, each (N, K, h, w). A gradient that was not asked for is None."""

    S: Tensor
    G_c: Tensor
    G_J: Tensor


class Gradients(dict[str, Triple]):
    """``{layer: (S, G_c, G_J)}``, with the ``logits`` (N, C) and ``classes`` (N,) of the same pass.

    If "w_c" was asked for, ``heads[layer]`` holds CAM's weights w_c (N, K) on each layer where CAM exists."""

    logits: Tensor
    classes: Tensor
    heads: dict[str, Tensor]


def gradients(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | Sequence[int] | None,
    layers: Iterable[str],
    *,
    alpha: float = 10.0,
    rule: str = "released",
    head: str = "softmax",
    needs: Collection[str] = ("G_c", "G_J"),
) -> Gradients:
    """S, G_c and G_J of every layer, from one forward pass and one backward pass for each gradient in ``needs``.

    Args:
        model: any image classifier. It runs in eval mode, and every flag is as before afterwards. Only in a network
            that mixes images even then, as batch norms without running statistics do, do maps depend on the batch.
        images: (N, 3, H, W) float, N at least 1, normalised as the network was trained, of its weights' type.
        classes: (N,) whole numbers, or None for the classes predicted in this pass.
        layers: dotted module names, in any order, of modules that give N x K x h x w, channels first.
        alpha: scale of the label in the released rule, in (0, 1e6]. The autograd rule does not depend on it.
        rule: how dJ/dl is taken: "released" (``loss_released``) or "autograd" (``loss_autograd``).
        head: "softmax", or "sigmoid" where each label has a probability of its own. J is then label c's alone, and
            G_J lies along -G_c unless alpha < p_c. One logit z becomes two: -z (class 0, no) and z (class 1, yes).
        needs: which of "G_c", "G_J" and "w_c" to find.

    Returns ``{layer: (S, G_c, G_J)}``, detached, on the images' device. S is the module's true output, and what is in
    half precision becomes float32.
    UserError: an argument out of range, a NaN or infinity, or a layer without a map or a way to the logits."""
    found = _passes(model, images, classes, layers, needs, alpha=alpha, rule=rule, head=head)
    _need_finite(images, found)
    for layer, triple in found.items():
        found[layer] = Triple(*map(_exact, triple))
    return found


def _passes(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | Sequence[int] | None,
    layers: Iterable[str],
    needs: Collection[str],
    *,
    alpha: float,
    rule: str,
    head: str,
) -> Gradients:
    """What ``gradients`` returns, in the network's own precision, NaN and infinity included. No pass waits for a GPU to
    end the one before."""
    need_one_of(RULES, rule, "rule")
    need_one_of(HEADS, head, "head")
    if not (hasattr(alpha, "__float__") and 0 < alpha <= 1e6):  # text has none
        raise UserError(f"alpha: {alpha!r} given, a number in (0, 1e6] allowed")
    if not isinstance(images, Tensor):
        raise UserError(f"images: {type(images).__name__} given, a float tensor N x 3 x H x W needed")
    if images.ndim != 4 or not images.is_floating_point() or not images.numel():
        raise UserError(f"images: {tuple(images.shape)} {images.dtype} given, float N x 3 x H x W needed")
    layers = layers if isinstance(layers, str) else list(layers)
    with frozen(model):
        with tap(model, layers) as outputs:
            said = logits = _logits(model, images)  # N x C
        with torch.autocast(images.device.type, enabled=False):  # the caller's is the network's alone
            if said.shape[1] == 1 and head == "sigmoid":
                logits = torch.cat([-said, said], 1)  # N x 2
            elif said.shape[1] == 1 and "G_J" in needs:
                raise UserError("head: 'softmax' given for a network with one logit, 'sigmoid' needed")
            c = _classes(logits, classes)
            S, none = [outputs[layer] for layer in layers], [None] * len(layers)
            G_c = _grad(_at(logits, c), S, layers, model, again="G_J" in needs) if "G_c" in needs else none
            G_J = _grad(_loss(logits, c, alpha, rule, head), S, layers, model, again=False) if "G_J" in needs else none
            triples = (Triple(X.detach(), *G) for X, *G in zip(S, G_c, G_J, strict=True))
            result = Gradients(zip(layers, triples, strict=True))
            result.logits, result.classes = logits.detach(), c
            eps = max(torch.finfo(X.dtype).eps for X in S)  # autocast computes in less than the weights have
            result.heads = _cam_heads(model, result, said.detach(), eps) if "w_c" in needs else {}
    return result


def _need_finite(images: Tensor, found: Gradients) -> None:
    """Refuse NaN and infinity in what went in, and in what was found."""
    gradients = [(layer, X) for layer, triple in found.items() for X in triple[1:] if X is not None]
    named = ((f"gradient on layer {layer!r}", X) for layer, X in gradients)
    need_finite(("images", images), ("logits", found.logits), *named)


def _exact(X: Any) -> Any:
    """Half precision as float32, for the losses and maps that are made of it; all else as it is."""
    return X.float() if isinstance(X, Tensor) and X.dtype in (torch.bfloat16, torch.float16) else X


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """The model's logits (N, C), which may lie in an output or a dictionary that holds more, as Hugging Face's do.

    Images go in as the weights are, in half or double precision too, and a copy of them: a network may overwrite it."""
    dtype = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), images.dtype)
    logits = model(images.detach().to(dtype, copy=True))
    if isinstance(logits, Mapping) and "logits" not in logits:
        raise UserError(
            f"the model gives a dictionary of {', '.join(map(str, logits)) or 'nothing'}, 'logits' is needed"
        )
    logits = _exact(logits["logits"] if isinstance(logits, Mapping) else getattr(logits, "logits", logits))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"the model gives {got}, logits N x classes are needed")
    return logits


def _classes(logits: Tensor, classes: Tensor | Sequence[int] | None) -> Tensor:
    """The class of each image, (N,) int64, checked against the logits."""
    if classes is None:
        return logits.argmax(1)
    c = torch.as_tensor(classes)  # on its own device: its range is read without waiting for the logits
    if c.shape != logits.shape[:1] or c.is_floating_point() or c.is_complex() or c.dtype == torch.bool:
        given = f"{tuple(c.shape)} {c.dtype} given for {len(logits)} images"
        raise UserError(f"classes: {given}, one whole number an image needed")
    c = c.long()  # some whole types have no least
    if int(c.min()) < 0 or int(c.max()) >= logits.shape[1]:
        raise UserError(f"classes: {int(c.min())}..{int(c.max())} given, 0..{logits.shape[1] - 1} allowed")
    # A copy, as one made in inference mode cannot be used otherwise. CUDA takes its own of it, and nothing waits.
    return c.to(logits.device, copy=True, non_blocking=logits.device.type == "cuda")


def _grad(values: Tensor, S: Sequence[Tensor], layers: Sequence[str], model: nn.Module, *, again: bool) -> Any:
    """Each image's gradient of its own value. In eval mode images do not mix, so the sum's gradient holds them all.
    The graph is kept only if another gradient is to be taken ``again``."""
    found: Sequence[Tensor | None] = [None] * len(S)
    if values.requires_grad:
        found = torch.autograd.grad(values.sum(), S, retain_graph=again, allow_unused=True)
    for layer, G in zip(layers, found, strict=True):
        if G is None:
            if cut := [name for name, part in model.named_modules() if "quantized" in type(part).__module__]:
                raise UserError(f"{cut[0]!r} is quantised and lets no gradient through: its float form is needed")
            raise UserError(f"the logits do not depend on layer {layer!r}: nothing can be localized on it")
    return found


def _cam_heads(model: nn.Module, found: Gradients, logits: Tensor, eps: float) -> dict[str, Tensor]:
    """CAM's weights by layer. CAM exists on a layer if fc(mean over h,w of S) gives the network's very ``logits``, to
    the rounding ``eps`` of the features."""
    heads: dict[str, Tensor] = {}
    linear = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]  # a 1 x 1 one
    for layer, (S, _, _) in found.items():
        for fc in linear:
            if (*fc.weight.shape, 1, 1)[:4] != (logits.shape[1], S.shape[1], 1, 1):
                continue
            # Compared without the bias, since a large one would hide the features' share.
            weight, bias = _exact(fc.weight.detach().flatten(1)), fc.bias
            share = logits - (torch.zeros_like(logits) if bias is None else _exact(bias))  # N x C
            rounding = 4 * eps * float(logits.abs().max())  # of that subtraction
            slack = max(1e-3, 4 * eps) * float(share.abs().max()) + rounding
            if torch.allclose(S.mean((2, 3), dtype=share.dtype) @ weight.T, share, rtol=1e-3, atol=slack):
                rows = weight if logits.shape == found.logits.shape else torch.cat([-weight, weight])  # C x K
                heads[layer] = rows[found.classes]  # N x K
    return heads


# Every method: of S and of what else it needs, by name, to N x h x w.


def cam(S: Tensor, w_c: Tensor) -> Tensor:
    """M = sum_k w_ck S_k, with the linear head's weights w_c (N, K). Zhou et al., CVPR 2016.

    >>> cam(torch.tensor([[[[1.0, 2.0]], [[5.0, 1.0]]]]), torch.tensor([[3.0, -1.0]]))
    tensor([[[-2.,  5.]]])
    """
    return torch.einsum("nk,nkhw->nhw", w_c, S)


def grad_cam_signed(S: Tensor, G_c: Tensor) -> Tensor:
    """M = sum_k mean_hw(G_c)_k S_k: Grad-CAM without its ReLU, which stands in for CAM on any layer.

    >>> grad_cam_signed(torch.tensor([[[[1.0, 2.0]], [[5.0, 1.0]]]]), torch.tensor([[[[1.0, 3.0]], [[-1.0, -1.0]]]]))
    tensor([[[-3.,  3.]]])
    """
    return torch.einsum("nk,nkhw->nhw", G_c.mean((2, 3)), S)  # N x K, N x K x h x w -> N x h x w


def grad_cam(S: Tensor, G_c: Tensor) -> Tensor:
    """M = relu(sum_k mean_hw(G_c)_k S_k). Selvaraju et al., ICCV 2017.

    >>> grad_cam(torch.tensor([[[[1.0, 2.0]], [[5.0, 1.0]]]]), torch.tensor([[[[1.0, 3.0]], [[-1.0, -1.0]]]]))
    tensor([[[0., 3.]]])
    """
    return grad_cam_signed(S, G_c).relu()


def grad_cam_pp(S: Tensor, G_c: Tensor) -> Tensor:
    """M = relu(sum_k w_k S_k), w_k = sum_hw a relu(G_c), a = G_c^2 / (2 G_c^2 + sum_hw(S) G_c^3).

    Chattopadhay et al., WACV 2018, eq. 10 to 19 with the score exp(l_c); a = 0 where its denominator is 0.

    >>> grad_cam_pp(torch.tensor([[[[2.0, -2.0]]]]), torch.tensor([[[[1.0, 3.0]]]]))  # sum_hw(S) = 0: a = 1/2, w = 2
    tensor([[[4., 0.]]])
    """
    denominator = 2 * G_c**2 + S.sum((2, 3), keepdim=True) * G_c**3  # N x K x h x w
    a = torch.where(denominator == 0, torch.zeros_like(G_c), G_c**2 / _nonzero(denominator))
    w = (a * G_c.relu()).sum((2, 3))  # N x K
    return torch.einsum("nk,nkhw->nhw", w, S).relu()


def layer_cam(S: Tensor, G_c: Tensor) -> Tensor:
    """M = relu(sum_k relu(G_c) S). Jiang et al., TIP 2021.

    >>> layer_cam(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[2.0, -1.0]]]]))
    tensor([[[6., 0.]]])
    """
    return (G_c.relu() * S).sum(1).relu()


def pixel_selection(S: Tensor, G_c: Tensor) -> Tensor:
    """M = sum_k G_c S: branch 2 alone, every pixel weighted by its own gradient.

    >>> pixel_selection(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[2.0, -1.0]]]]))
    tensor([[[ 6., -4.]]])
    """
    return (G_c * S).sum(1)


# Nothing says how branch 1's channels become one picture. All three readings stand here, and those of plain S below.


def enhanced_map(S: Tensor, G_J: Tensor) -> Tensor:
    """M = sum_k A, A = n(S) - n(G_J): branch 1 alone, where channels of either sign cancel.

    >>> enhanced_map(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[-6.0, 8.0]]]]))  # 0.6 + 0.6, 0.8 - 0.8
    tensor([[[1.2000, 0.0000]]])
    """
    return enhance(S, G_J).sum(1)


def enhanced_map_positive(S: Tensor, G_J: Tensor) -> Tensor:
    """M = sum_k relu(A), A = n(S) - n(G_J): branch 1 alone, its positive part.

    >>> enhanced_map_positive(torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[-3.0, 4.0]]]]))  # A = 1 + 0.6, 0 - 0.8
    tensor([[[1.6000, 0.0000]]])
    """
    return enhance(S, G_J).relu().sum(1)


def enhanced_map_norm(S: Tensor, G_J: Tensor) -> Tensor:
    """M(h,w) = ||A(h,w,:)||, A = n(S) - n(G_J): branch 1 alone, the Euclidean norm over channels.

    >>> enhanced_map_norm(torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[-3.0, 4.0]]]]))  # A = 1 + 0.6, 0 - 0.8
    tensor([[[1.6000, 0.8000]]])
    """
    return torch.linalg.vector_norm(enhance(S, G_J), dim=1)


def sgl_g1(S: Tensor, G_c: Tensor) -> Tensor:
    """M = sum_k n(G_c) (n(S) + n(G_c)): the limit of DGL under the released rule as p_c -> 1.

    >>> sgl_g1(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.0, 2.0]]]]))  # n(S) = 0.6, 0.8; n(G_c) = 0, 1
    tensor([[[0.0000, 1.8000]]])
    """
    return (n(G_c) * (n(S) + n(G_c))).sum(1)


def sgl_g2(S: Tensor, G_J: Tensor) -> Tensor:
    """M = sum_k -n(G_J) (n(S) - n(G_J)): DGL with the loss's gradient in both branches.

    >>> sgl_g2(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.0, -2.0]]]]))  # n(S) = 0.6, 0.8; -n(G_J) = 0, 1
    tensor([[[0.0000, 1.8000]]])
    """
    return (-n(G_J) * enhance(S, G_J)).sum(1)


def dgl(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = sum_k G_c A, A = n(S) - n(G_J): both branches, the method of the talk.

    >>> dgl(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[2.0, 7.0]]]]), torch.tensor([[[[-6.0, 8.0]]]]))
    tensor([[[2.4000, 0.0000]]])
    """
    return (G_c * enhance(S, G_J)).sum(1)


def features(S: Tensor) -> Tensor:
    """M = sum_k S: the layer's features as they are, which know no class. A control for branch 1."""
    return S.sum(1)


def features_positive(S: Tensor) -> Tensor:
    """M = sum_k relu(S). A control for ``enhanced_map_positive``; after a ReLU it is ``features``."""
    return S.relu().sum(1)


def features_norm(S: Tensor) -> Tensor:
    """M(h,w) = ||S(h,w,:)||, the Euclidean norm over channels. A control for ``enhanced_map_norm``.

    >>> features_norm(torch.tensor([[[[3.0, 0.0]], [[-4.0, 1.0]]]]))
    tensor([[[5., 1.]]])
    """
    return torch.linalg.vector_norm(S, dim=1)


def gradient_term(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = -sum_k G_c n(G_J): DGL without its feature term. A control; without this term, DGL is pixel selection."""
    return -(G_c * n(G_J)).sum(1)


_ENHANCED = (enhanced_map, enhanced_map_positive, enhanced_map_norm)
_METHODS = (cam, grad_cam, grad_cam_signed, grad_cam_pp, layer_cam, pixel_selection, *_ENHANCED, sgl_g1, sgl_g2, dgl)
_CONTROLS = (features, features_positive, features_norm, gradient_term)
_FORMULAS: dict[str, Callable[..., Tensor]] = {f.__name__: f for f in (*_METHODS, *_CONTROLS)}

#: No methods: where each reading of branch 1 starts from, and DGL's second term alone.
CONTROLS = tuple(f.__name__ for f in _CONTROLS)
#: The readings of branch 1: what follows ``enhanced_map``, ``features`` and the names of the fusions.
READINGS = ("", "_positive", "_norm")


#: What a formula takes, by the names of its arguments.
_TAKES = {name: tuple(inspect.signature(formula).parameters) for name, formula in _FORMULAS.items()}


class Localization(NamedTuple):
    """Raw, signed maps of one batch, ``maps[method][layer]`` (N, h, w), with the pass's logits and classes."""

    logits: Tensor
    classes: Tensor
    maps: dict[str, dict[str, Tensor]]


def localize(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | Sequence[int] | None,
    layers: Iterable[str],
    methods: Iterable[str],
    *,
    alpha: float = 10.0,
    rule: str = "released",
    head: str = "softmax",
    compiled: bool = False,
) -> Localization:
    """Maps of every method on every layer, from one forward pass and at most two backward passes.

    Arguments are those of :func:`gradients`; ``methods`` are names in ``METHODS`` or ``CONTROLS``. CAM is left out,
    with a warning, on layers that do not feed a linear head, or a 1x1 convolution, through average pooling. With
    ``compiled``, which is for many images, formulas go through ``torch.compile``: the same maps but for rounding.

    >>> model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2, bias=False))
    >>> _ = model[3].weight.data.copy_(torch.tensor([[2.0], [-2.0]]))
    >>> out = localize(model, torch.tensor([[[[3.0, 4.0]]]]), [0], ["0"], ["cam", "pixel_selection"])
    >>> out.maps["cam"]["0"], out.maps["pixel_selection"]["0"]  # w_c = 2; G_c = 2 / hw = 1
    (tensor([[[6., 8.]]]), tensor([[[3., 4.]]]))
    >>> dual_gradients(model, torch.tensor([[[[3.0, 4.0]]]]), [0], ["0"])["0"]  # 1 (0.6 + sqrt(1/2)), 1 (0.8 + ...)
    tensor([[[1.3071, 1.5071]]])

    UserError: as for :func:`gradients`, an unknown method, or CAM asked for where it exists on no given layer.
    """
    if isinstance(methods, str) or not (methods := list(methods)):
        raise UserError(f"methods: {methods!r} given, a list of at least one method name needed")
    for method in methods:
        need_one_of(_FORMULAS, method, "method")
    needs = {name for method in methods for name in _TAKES[method]}
    found = _passes(model, images, classes, layers, needs, alpha=alpha, rule=rule, head=head)
    out = Localization(found.logits, found.classes, {method: {} for method in methods})
    make = _compiled() if compiled else _maps
    for layer, triple in found.items():
        given = {**triple._asdict(), "w_c": found.heads.get(layer)}
        given = {name: _laid_as(triple.S, X) if compiled else X for name, X in given.items()}
        wanted = [name for name in methods if name != "cam" or layer in found.heads]
        with torch.autocast(images.device.type, enabled=False):
            maps = make(wanted, given)
        for method, m in maps.items():
            out.maps[method][layer] = m  # N x h x w
    _need_finite(images, found)  # last, since it waits for a GPU
    if "cam" in methods and (missing := [layer for layer in found if layer not in found.heads]):
        reason = f"cam needs logits = fc(mean over h,w of the layer's output), which is not so on {', '.join(missing)}"
        if not found.heads:
            raise UserError(f"{reason}; grad_cam_signed stands in for it there")
        warnings.warn(f"{reason}: left out there", stacklevel=2)
    return out


def _maps(methods: Sequence[str], given: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """One layer's maps by method, from S, G_c, G_J and w_c by name, which may be in half precision."""
    exact = {name: _exact(X) for name, X in given.items()}
    return {method: _FORMULAS[method](*(exact[name] for name in _TAKES[method])) for method in methods}


@cache
def _compiled() -> Callable[..., dict[str, Tensor]]:
    """``_maps`` for all sizes. It reads half precision, computes in float32 and keeps no tensor on the way."""
    return torch.compile(_maps, dynamic=True)


def _laid_as(S: Tensor, X: Tensor | None) -> Tensor | None:
    """X in the order of S in memory. Compiled code takes ten times as long where they differ."""
    return X if X is None or X.shape != S.shape or X.stride() == S.stride() else torch.empty_like(S).copy_(X)


def _alone(method: str, model: nn.Module, images: Tensor, classes: Any, layers: Sequence[str], **options: Any) -> Any:
    """The maps of one method, ``{layer: (N, h, w)}``; arguments and options as for :func:`localize`."""
    return localize(model, images, classes, layers, [method], **options).maps[method]


#: ``METHODS[name](model, images, classes, layers, *, alpha=10.0, rule="released") -> {layer: (N, h, w)}``.
METHODS: dict[str, Callable[..., dict[str, Tensor]]] = {f.__name__: partial(_alone, f.__name__) for f in _METHODS}

#: DGL alone, the same call: ``dual_gradients(model, images, classes, layers) -> {layer: (N, h, w)}``.
dual_gradients = METHODS["dgl"]
