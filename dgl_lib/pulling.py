"""Branch 1 as an experiment: move features along -G_J, put them back, and ask the rest of the network.

    S_t = S - t ||S|| n(G_J)      t = 0: the photograph's own features      t = 1: ||S|| A, the talk's step

One image is run up to the tapped layer, and its moved features from there on (``taps.replace``).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dgl_lib.errors import UserError
from dgl_lib.localize import dgl, enhance, gradients, loss_autograd, n
from dgl_lib.maps import minmax
from dgl_lib.taps import frozen, replace

BATCH = 16  # feature maps that run together: a few hundred MB at full width and 324 px


def run_on(model: nn.Module, image: Tensor, layer: str, features: Tensor) -> Tensor:
    """Logits (M, C) for ``features`` (M, K, h, w) in the place of ``layer``'s output on ``image`` (1, 3, H, W)."""
    logits = []
    with frozen(model), torch.no_grad():
        for part in features.split(BATCH):
            with replace(model, layer, part):
                logits.append(model(image))  # up to BATCH x C
    return torch.cat(logits)  # M x C


def margins(logits: Tensor, c: int) -> Tensor:
    """l_c - max_{j != c} l_j, (M,) of logits (M, C): above 0 where the network says c.

    >>> margins(torch.tensor([[1.0, 4.0, 3.0], [5.0, 2.0, 2.0]]), 1)
    tensor([ 1., -3.])
    """
    others = logits.clone()
    others[:, c] = float("-inf")
    return logits[:, c] - others.amax(1)


class Pulled(NamedTuple):
    """The network's answer for every image at every step, (N, T) float64: the logit margin, and p_c in 0..1."""

    margin: np.ndarray
    p_c: np.ndarray


def pull(
    model: nn.Module,
    images: Iterable[Tensor],
    classes: Sequence[int],
    layer: str,
    steps: Sequence[float],
    *,
    alpha: float = 10.0,
    rule: str = "released",
    direction: str = "-G_J",
    seed: int = 0,
    progress: bool = False,
) -> Pulled:
    """Move each image's features by every step t, in units of its own ||S||, and run the rest of the network on them.

    ``images`` are N tensors (3, H, W), normalised, on the model's device: a batch or a generator. ``direction`` is
    "-G_J" (branch 1), or "random": a Gaussian direction of the same length, which depends on (seed, image) alone.
    UserError: no steps, an unknown direction, classes that do not fit; and as for ``localize.gradients``."""
    if direction not in ("-G_J", "random"):
        raise UserError(f"direction: {direction!r} given, -G_J or random allowed")
    if not len(steps):
        raise UserError("steps: none given, at least one needed")
    margin, p_c = [], []
    needs = ("G_J",) if direction == "-G_J" else ()
    for i, image in enumerate(tqdm(images, f"pulling, {direction}", len(classes), unit="image", disable=not progress)):
        c = int(classes[i])
        S, _, G_J = gradients(model, image[None], [c], [layer], alpha=alpha, rule=rule, needs=needs)[layer]
        if direction == "-G_J":  # taken from the library's own A, so that the experiment tests what is used
            D = enhance(S, G_J) - n(S)  # 1 x K x h x w
        else:
            gaussian = np.random.default_rng([seed, i]).standard_normal(tuple(S.shape), np.float32)
            D = n(torch.from_numpy(gaussian).to(S.device))
        logits = run_on(model, image[None], layer, move(S, D, steps)).cpu().double()  # T x C; MPS has no float64
        margin.append(margins(logits, c).numpy())
        p_c.append(logits.softmax(1)[:, c].numpy())
    if len(margin) != len(classes):
        raise UserError(f"classes: {len(classes)} given for {len(margin)} images, one an image needed")
    return Pulled(np.array(margin), np.array(p_c))


def move(S: Tensor, D: Tensor, steps: Sequence[float]) -> Tensor:
    """S + t ||S|| D for every t: (T, K, h, w) from S and a direction D of norm 1, (1, K, h, w) each."""
    t = torch.as_tensor(steps, dtype=S.dtype, device=S.device)
    return S + t[:, None, None, None] * torch.linalg.vector_norm(S) * D


def moved_maps(
    model: nn.Module, image: Tensor, c: int, layer: str, steps: Sequence[float], *, alpha: float, rule: str
) -> np.ndarray:
    """DGL's raw map at every step, (T, h, w), with both gradients taken anew at S_t. ``image`` is (1, 3, H, W).

    M_t = sum_k G_c(S_t) (n(S_t) - n(G_J(S_t))), so M_0 is DGL."""
    S, _, G_J = gradients(model, image, [c], [layer], alpha=alpha, rule=rule, needs=("G_J",))[layer]
    maps = []
    for S_t in move(S, enhance(S, G_J) - n(S), steps):  # K x h x w
        with replace(model, layer, S_t[None]):
            maps.append(dgl(*gradients(model, image, [c], [layer], alpha=alpha, rule=rule)[layer])[0])
    return torch.stack(maps).cpu().numpy()  # T x h x w


class Plane(NamedTuple):
    """The network's answer on a grid of features: logits (B, A, C), margin of c (B, A), class it names (B, A)."""

    logits: np.ndarray
    margin: np.ndarray
    region: np.ndarray


def plane(
    model: nn.Module,
    image: Tensor,
    c: int,
    layer: str,
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    alpha: float = 10.0,
    rule: str = "released",
    progress: bool = False,
) -> Plane:
    """Run the rest of the network on the points S + ||S|| (a e_1 + b e_2) of one image (1, 3, H, W).

    e_1 = -n(G_J), and e_2 is the runner-up's logit gradient made orthogonal to e_1 and of norm 1. The runner-up is the
    strongest class beside c at S. One row of points exists at a time, so memory does not grow with the grid."""
    found = gradients(model, image, [c], [layer], alpha=alpha, rule=rule, needs=("G_J",))
    S, _, G_J = found[layer]
    others = found.logits.clone()  # 1 x C
    others[:, c] = float("-inf")
    G_r = gradients(model, image, [int(others.argmax(1))], [layer], needs=("G_c",))[layer].G_c
    e_1 = enhance(S, G_J) - n(S)
    e_2 = n(n(G_r) - (n(G_r) * e_1).sum() * e_1)
    rows = []
    for across in tqdm(np.asarray(b), "plane", unit="row", disable=not progress):
        points = move(S, e_2, [float(across)]) + move(S, e_1, [float(along) for along in a]) - S  # A x K x h x w
        rows.append(run_on(model, image, layer, points).cpu().double())  # A x C
    logits = torch.stack(rows).numpy()  # B x A x C
    return Plane(logits, torch.stack([margins(row, c) for row in rows]).numpy(), logits.argmax(-1))


def loss_gradient(G_c: Tensor, G_1: Tensor, rest: Tensor, alpha: float) -> Tensor:
    """The released rule's G_J for any alpha from two gradients: (1 - p_c) G_1 - (alpha - 1) G_c.

    G_1 is the gradient of ``loss_autograd``, ``rest`` (N,) is 1 - p_c; p - alpha y = (p - y) - (alpha - 1) y."""
    return rest[:, None, None, None] * G_1 - (alpha - 1) * G_c


def rest_of(logits: Tensor, classes: Tensor) -> Tensor:
    """1 - p_c, (N,), without cancellation: sigmoid(logsumexp_{j != c} l_j - l_c)."""
    return loss_autograd(logits, classes, 1.0).sigmoid()


def norm(X: Tensor) -> float:
    """||X||_F, in float64."""
    return float(torch.linalg.vector_norm(X.cpu().double()))


def cosine(X: Tensor, Y: Tensor) -> float:
    """Cosine between two tensors, each taken as one vector, in float64; 0 where one of them is 0."""
    X, Y = X.cpu().double().flatten(), Y.cpu().double().flatten()
    return float(X @ Y / (X.norm() * Y.norm()).clamp_min(torch.finfo(torch.float64).tiny))


def sine(X: Tensor, Y: Tensor) -> float:
    """Sine of the angle between X and Y, from X's part orthogonal to Y: exact also where the cosine rounds to 1."""
    X, Y = X.cpu().double().flatten(), Y.cpu().double().flatten()
    beside = X - (X @ Y) / (Y @ Y) * Y
    return float(beside.norm() / X.norm())


def agreement(maps: np.ndarray, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """How alike an image's A raw maps are, mean over images: correlation, and IoU above ``threshold``, (A, A) each.

    ``maps`` is (N, A, h, w); each map is min-maxed before it is cut."""
    correlation = np.mean([np.corrcoef(m.reshape(len(m), -1)) for m in maps], axis=0)  # A x A
    found = (unit(maps) >= threshold).reshape(*maps.shape[:2], -1).astype(np.float64)  # N x A x hw
    both = found @ found.swapaxes(1, 2)  # N x A x A, in pixels
    size = found.sum(-1)  # N x A
    either = size[:, :, None] + size[:, None, :] - both
    return correlation, np.mean(both / np.maximum(either, 1), axis=0)


def unit(maps: np.ndarray) -> np.ndarray:
    """Maps (..., h, w), each min-maxed to 0..1."""
    return minmax(torch.from_numpy(maps)).numpy()
