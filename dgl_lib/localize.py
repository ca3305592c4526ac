"""The two gradients and what each method makes of them. This is the talk, in its own symbols.

    S    feature map of a layer, (N, K, h, w)          l    logits, (N, C)          c    the class, one an image
    G_c  = d l_c / dS   gradient of the class LOGIT    G_J  = dJ / dS   gradient of the classification LOSS
    n(X) = X / ||X||_F, the norm over all of h, w and K of one image

    A      = n(S) - n(G_J)                branch 1: class-aware enhanced map      (``enhance``)
    M(h,w) = sum_k G_c(h,w,k) A(h,w,k)    branch 2: pixel-level selection         (``dgl``)

Source: Tan et al., Dual-Gradients Localization Framework, ACM MM 2020, doi 10.1145/3394171.3413622, and its LID talk.
Maps come out raw and signed: there is no ReLU but where a relative's own paper has one, and no normalisation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dgl_lib.errors import UserError
from dgl_lib.taps import frozen, tap


def n(X: Tensor) -> Tensor:
    """X / ||X||_F for each image of (N, K, h, w), over h, w and K together; n(0) = 0."""
    X = X / _nonzero(
        X.abs().amax((1, 2, 3), keepdim=True)
    )  # first to 1 at the most: tiny gradients square to 0 in float32
    return X / _nonzero(torch.linalg.vector_norm(X, dim=(1, 2, 3), keepdim=True))


def _nonzero(X: Tensor) -> Tensor:
    return torch.where(X == 0, torch.ones_like(X), X)


def enhance(S: Tensor, G_J: Tensor) -> Tensor:
    """Branch 1, the class-aware enhanced map A = n(S) - n(G_J), (N, K, h, w): features moved against the loss."""
    return n(S) - n(G_J)


# ---------------------------------------------------------------------------------------------- the two gradients


def loss_released(logits: Tensor, classes: Tensor, alpha: float) -> Tensor:
    """J = logsumexp(l) - alpha l_c, (N,): its gradient is p - alpha y, what the released code takes for dJ/dl."""
    return logits.logsumexp(1) - alpha * _at(logits, classes)


def loss_autograd(logits: Tensor, classes: Tensor, alpha: float) -> Tensor:
    """J = logsumexp_{j != c} l_j - l_c, (N,): the direction of the true gradient of cross-entropy, for every alpha.

    alpha (p - y) is a positive multiple of this loss's gradient (by alpha (1 - p_c)), which n() removes; but taken
    directly it cancels in float32 once p_c is near 1, and this does not.
    """
    others = logits.scatter(1, classes[:, None], float("-inf"))
    return others.logsumexp(1) - _at(logits, classes)


def _at(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


RULES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"released": loss_released, "autograd": loss_autograd}


class Triple(NamedTuple):
    """What every method is a function of, each (N, K, h, w); a gradient that was not asked for is None."""

    S: Tensor
    G_c: Tensor
    G_J: Tensor


class Gradients(dict[str, Triple]):
    """``{layer: (S, G_c, G_J)}`` with the same pass's ``logits`` (N, C), ``classes`` (N,) and ``heads``.

    ``heads[layer]`` is the class's weights w_c (N, K) where the logits are fc(mean over h,w of S), as CAM needs.
    """

    logits: Tensor
    classes: Tensor
    heads: dict[str, Tensor]


def gradients(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | Sequence[int] | None,
    layers: Sequence[str],
    *,
    alpha: float = 10.0,
    rule: str = "released",
    needs: Collection[str] = ("G_c", "G_J"),
) -> Gradients:
    """S, G_c and G_J of every layer: one forward pass, and one backward pass for each gradient in ``needs``.

    Args:
        model: any classifier of images; put in eval mode and given back with every flag as it was.
        images: (N, 3, H, W) float, normalised as the network was trained.
        classes: (N,) whole numbers, or None for the class predicted in this same pass.
        layers: dotted module names, in any order.
        alpha: scale of the label in the released rule, > 0; without effect in the autograd rule.
        rule: "released" (dJ/dl = p - alpha y) or "autograd" (dJ/dl along p - y): ``loss_released``, ``loss_autograd``.

    Returns:
        ``{layer: (S, G_c, G_J)}``, detached, on the images' device; S is the module's true output.

    Raises:
        UserError: an unknown rule or layer, alpha not positive, classes that do not fit the batch or the head, a layer
            that gives no feature map or that the logits do not depend on.
    """
    if rule not in RULES:
        raise UserError(f"rule: {rule!r} given, one of {', '.join(RULES)} allowed")
    if not 0 < alpha < float("inf"):
        raise UserError(f"alpha: {alpha!r} given, a finite number above 0 allowed")
    if images.ndim != 4 or not images.is_floating_point():
        raise UserError(f"images: {tuple(images.shape)} {images.dtype} given, float N x 3 x H x W needed")
    if classes is not None:
        classes = torch.as_tensor(classes)
        if classes.shape != images.shape[:1] or classes.is_floating_point():
            given = f"{tuple(classes.shape)} {classes.dtype}"
            raise UserError(f"classes: {given} given for {len(images)} images, one whole number an image needed")
    with frozen(model):
        with tap(model, layers) as outputs:
            logits = model(images.detach().clone())  # the caller's stay theirs, whatever works on them in place
        c = _classes(logits, classes)
        wanted = {
            "G_c": lambda: _at(logits, c).sum(),  # images do not mix in eval mode: the sum's gradient is each one's own
            "G_J": lambda: RULES[rule](logits, c, alpha).sum(),
        }
        grads = {name: _grad(wanted[name](), outputs, list(layers)) for name in ("G_c", "G_J") if name in needs}
        result = Gradients()
        for i, layer in enumerate(layers):
            G_c, G_J = (grads[name][i] if name in grads else None for name in ("G_c", "G_J"))
            result[layer] = Triple(outputs[layer].detach(), G_c, G_J)  # type: ignore[arg-type]
        result.logits, result.classes = logits.detach(), c
        result.heads = _cam_heads(model, result)
    return result


def _classes(logits: Tensor, classes: Tensor | Sequence[int] | None) -> Tensor:
    """The class of each image, (N,) int64, checked against the head."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"the model gives {got}, logits N x classes are needed")
    if classes is None:
        return logits.argmax(1).detach()
    c = torch.as_tensor(classes, device=logits.device).long()
    if c.numel() and (int(c.min()) < 0 or int(c.max()) >= logits.shape[1]):
        raise UserError(f"classes: {int(c.min())}..{int(c.max())} given, 0..{logits.shape[1] - 1} allowed")
    return c


def _grad(scalar: Tensor, outputs: dict[str, Tensor], layers: list[str]) -> list[Tensor]:
    found: tuple[Tensor | None, ...] = (None,) * len(layers)
    if scalar.requires_grad:
        found = torch.autograd.grad(scalar, [outputs[layer] for layer in layers], retain_graph=True, allow_unused=True)
    for layer, G in zip(layers, found, strict=True):
        if G is None:
            raise UserError(f"the logits do not depend on layer {layer!r}: nothing can be localized on it")
    return list(found)  # type: ignore[arg-type]


def _cam_heads(model: nn.Module, found: Gradients) -> dict[str, Tensor]:
    """The layers on which CAM exists. Settled by value, not by name: fc(mean S) must give these very logits."""
    heads: dict[str, Tensor] = {}
    for layer, (S, _, _) in found.items():
        pooled = S.mean((2, 3))  # N x K
        for fc in (m for m in model.modules() if isinstance(m, nn.Linear)):
            fits = fc.weight.shape == (found.logits.shape[1], S.shape[1])
            if not fits:
                continue
            # Without the bias, which would drown the features' share where it is large.
            bias = torch.zeros_like(found.logits) if fc.bias is None else fc.bias.detach()
            share = found.logits - bias
            rounding = 4 * torch.finfo(share.dtype).eps * float(found.logits.abs().max())  # of taking the bias off
            slack = 1e-3 * float(share.abs().max()) + rounding
            if torch.allclose(pooled @ fc.weight.detach().T, share, rtol=1e-3, atol=slack):
                heads[layer] = fc.weight.detach()[found.classes]  # N x K
    return heads


# ------------------------------------------------------------------------- every method: (S, G_c, G_J) -> N x h x w


def cam(S: Tensor, w_c: Tensor) -> Tensor:
    """M = sum_k w_ck S_k, with the linear head's weights w_c (N, K). Zhou et al., CVPR 2016."""
    return torch.einsum("nk,nkhw->nhw", w_c, S)


def grad_cam_signed(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = sum_k mean_hw(G_c)_k S_k: Grad-CAM without its ReLU, CAM's counterpart on any layer."""
    return torch.einsum("nk,nkhw->nhw", G_c.mean((2, 3)), S)


def grad_cam(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = relu(sum_k mean_hw(G_c)_k S_k). Selvaraju et al., ICCV 2017."""
    return grad_cam_signed(S, G_c, G_J).relu()


def grad_cam_pp(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = relu(sum_k w_k S_k), w_k = sum_hw a relu(G_c), a = G_c^2 / (2 G_c^2 + sum_hw(S) G_c^3).

    Chattopadhay et al., WACV 2018, eq. 10 to 19 with the score exp(l_c); a = 0 where its denominator is 0.
    """
    denominator = 2 * G_c**2 + S.sum((2, 3), keepdim=True) * G_c**3
    a = torch.where(denominator == 0, torch.zeros_like(G_c), G_c**2 / _nonzero(denominator))
    return torch.einsum("nk,nkhw->nhw", (a * G_c.relu()).sum((2, 3)), S).relu()


def layer_cam(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = relu(sum_k relu(G_c) S). Jiang et al., TIP 2021."""
    return (G_c.relu() * S).sum(1).relu()


def pixel_selection(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = sum_k G_c S: branch 2 alone, every pixel weighed by its own gradient."""
    return (G_c * S).sum(1)


def enhanced_map(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = sum_k A, A = n(S) - n(G_J): branch 1 alone."""
    return enhance(S, G_J).sum(1)


def sgl_g1(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = sum_k n(G_c) (n(S) + n(G_c)): what DGL's released rule tends to as p_c -> 1."""
    return (n(G_c) * (n(S) + n(G_c))).sum(1)


def sgl_g2(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = sum_k -n(G_J) (n(S) - n(G_J)): the loss's gradient in both places."""
    return (-n(G_J) * enhance(S, G_J)).sum(1)


def dgl(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = sum_k G_c A, A = n(S) - n(G_J): both branches, the method of the talk."""
    return (G_c * enhance(S, G_J)).sum(1)


def features(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = sum_k S: the layer's features as they are, what branch 1 starts from. A baseline, it knows no class."""
    return S.sum(1)


def gradient_term(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    """M = -sum_k G_c n(G_J): DGL with its feature term left out. With this term left out, DGL is pixel selection."""
    return -(G_c * n(G_J)).sum(1)


class Method(NamedTuple):
    """A method's formula of (S, G_c, G_J), and the gradients it needs."""

    formula: Callable[[Tensor, Tensor, Tensor], Tensor]
    needs: frozenset[str]


_FORMULAS: dict[str, Method] = {
    "cam": Method(cam, frozenset()),  # type: ignore[arg-type]  # of S and the head, see ``localize``
    "grad_cam": Method(grad_cam, frozenset({"G_c"})),
    "grad_cam_signed": Method(grad_cam_signed, frozenset({"G_c"})),
    "grad_cam_pp": Method(grad_cam_pp, frozenset({"G_c"})),
    "layer_cam": Method(layer_cam, frozenset({"G_c"})),
    "pixel_selection": Method(pixel_selection, frozenset({"G_c"})),
    "enhanced_map": Method(enhanced_map, frozenset({"G_J"})),
    "sgl_g1": Method(sgl_g1, frozenset({"G_c"})),
    "sgl_g2": Method(sgl_g2, frozenset({"G_J"})),
    "dgl": Method(dgl, frozenset({"G_c", "G_J"})),
    "features": Method(features, frozenset()),
    "gradient_term": Method(gradient_term, frozenset({"G_c", "G_J"})),
}


#: Not methods: what branch 1 starts from, and what DGL's second term gives alone.
CONTROLS = ("features", "gradient_term")


# ------------------------------------------------------------------------------------------------------- localize


@dataclass
class Localization:
    """Raw, signed maps of one batch: ``maps[method][layer]`` (N, h, w), with the pass's ``logits`` and ``classes``."""

    logits: Tensor
    classes: Tensor
    maps: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def localize(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | Sequence[int] | None,
    layers: Sequence[str],
    methods: Sequence[str],
    *,
    alpha: float = 10.0,
    rule: str = "released",
) -> Localization:
    """Maps of every method on every layer, from one forward pass and at most two backward passes.

    Arguments as for :func:`gradients`; ``methods`` are names in ``METHODS`` or ``CONTROLS``.
    CAM is left out, with one warning, on layers that do not feed a linear head through average pooling.

    Raises:
        UserError: as :func:`gradients`; an unknown method; CAM asked for where no given layer admits it.
    """
    if isinstance(methods, str) or not methods:
        raise UserError(f"methods: {methods!r} given, a list of at least one method name needed")
    for name in methods:
        if name not in _FORMULAS:
            raise UserError(f"method {name!r} is unknown; allowed: {', '.join(_FORMULAS)}")
    needs = frozenset().union(*(_FORMULAS[name].needs for name in methods))
    found = gradients(model, images, classes, layers, alpha=alpha, rule=rule, needs=needs)
    out = Localization(found.logits, found.classes)
    for name in methods:
        if name == "cam":
            out.maps[name] = {
                layer: cam(found[layer].S, found.heads[layer]) for layer in layers if layer in found.heads
            }
            _tell_where_cam_is_missing(layers, found.heads)
        else:
            out.maps[name] = {layer: _FORMULAS[name].formula(*found[layer]) for layer in layers}
    return out


def _tell_where_cam_is_missing(layers: Sequence[str], heads: dict[str, Tensor]) -> None:
    missing = [layer for layer in layers if layer not in heads]
    if not missing:
        return
    reason = "cam needs logits = fc(mean over h,w of the layer's output), which does not hold on " + ", ".join(missing)
    if len(missing) == len(layers):
        raise UserError(f"{reason}; grad_cam_signed is its counterpart there")
    warnings.warn(f"{reason}: left out there", stacklevel=3)


def _single(
    name: str,
    model: nn.Module,
    images: Tensor,
    classes: Tensor | Sequence[int] | None,
    layers: Sequence[str],
    *,
    alpha: float = 10.0,
    rule: str = "released",
) -> dict[str, Tensor]:
    """The maps of one method alone, ``{layer: (N, h, w)}``; arguments as for :func:`localize`."""
    return localize(model, images, classes, layers, [name], alpha=alpha, rule=rule).maps[name]


#: ``METHODS[name](model, images, classes, layers, **options) -> {layer: (N, h, w)}``.
METHODS: dict[str, Callable[..., dict[str, Tensor]]] = {
    name: partial(_single, name) for name in _FORMULAS if name not in CONTROLS
}

#: DGL alone: ``dual_gradients(model, images, classes, layers, *, alpha=10.0, rule="released") -> {layer: (N, h, w)}``.
dual_gradients = METHODS["dgl"]
