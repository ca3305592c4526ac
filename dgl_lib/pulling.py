"""Branch 1 as an experiment: features are moved along -G_J, put back, and the rest of the network says what it thinks.

    S_t = S - t ||S|| n(G_J)      t = 0: as the photograph gave them; t = 1: ||S|| A, the talk's own step

One image's features are moved many ways for the price of one image up to the tapped layer (``taps.replace``).
"""

from __future__ import annotations

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

#: Feature maps that run on together: bounds the memory of a plane at full width and 324 px to a few hundred MB.
BATCH = 16


def run_on(model: nn.Module, image: Tensor, layer: str, features: Tensor) -> Tensor:
    """Logits (M, C) that the rest of the network gives ``features`` (M, K, h, w), put in the place of ``layer``'s.

    ``image`` (1, 3, H, W) only drives the layers before; weights, modes and hooks are as before afterwards.
    """
    logits = []
    with frozen(model), torch.no_grad():
        for part in features.split(BATCH):
            with replace(model, layer, part):
                logits.append(model(image))
    return torch.cat(logits)


def margins(logits: Tensor, c: int) -> Tensor:
    """l_c - max_{j != c} l_j, (M,) of logits (M, C): above 0 where the network says c."""
    others = logits.clone()
    others[:, c] = float("-inf")
    return logits[:, c] - others.amax(1)


class Pulled(NamedTuple):
    """What the network thinks of every image at every step, (N, T) float64: logit margin, and p_c in 0..1."""

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
    """Move each image's features by every step and run the rest of the network on them.

    Args:
        images: N tensors (3, H, W), normalised, on the model's device; a batch or a generator of them.
        classes: the class c of each image.
        steps: t in units of ||S||, the image's own norm; below 0 for the opposite direction.
        direction: "-G_J" (branch 1), or "random": one Gaussian direction an image, of the same length.
        seed: of the random directions; image i's depends on (seed, i) alone.

    Raises:
        UserError: no steps, an unknown direction, classes that do not fit; and as ``localize.gradients``.
    """
    if direction not in ("-G_J", "random"):
        raise UserError(f"direction: {direction!r} given, -G_J or random allowed")
    if not len(steps):
        raise UserError("steps: none given, at least one needed")
    margin, p_c = [], []
    for i, image in enumerate(tqdm(images, f"pulling, {direction}", len(classes), unit="image", disable=not progress)):
        needs = ("G_J",) if direction == "-G_J" else ()
        S, _, G_J = gradients(model, image[None], [int(classes[i])], [layer], alpha=alpha, rule=rule, needs=needs)[
            layer
        ]
        # What branch 1 adds to the features, taken from the library's own A, so that this tests what is used.
        D = enhance(S, G_J) - n(S) if direction == "-G_J" else _random_direction(S, seed, i)
        logits = run_on(model, image[None], layer, move(S, D, steps)).cpu().double()  # MPS has no float64
        margin.append(margins(logits, int(classes[i])).numpy())
        p_c.append(logits.softmax(1)[:, int(classes[i])].numpy())
    if len(margin) != len(classes):
        raise UserError(f"classes: {len(classes)} given for {len(margin)} images, one an image needed")
    return Pulled(np.array(margin), np.array(p_c))


def move(S: Tensor, D: Tensor, steps: Sequence[float]) -> Tensor:
    """S + t ||S|| D for every t: (T, K, h, w) from S and D (1, K, h, w), D of norm 1."""
    t = torch.as_tensor(steps, dtype=S.dtype, device=S.device)
    return S + t[:, None, None, None] * torch.linalg.vector_norm(S) * D


def _random_direction(S: Tensor, seed: int, i: int) -> Tensor:
    gaussian = np.random.default_rng([seed, i]).standard_normal(tuple(S.shape), np.float32)
    return n(torch.from_numpy(gaussian).to(S.device))


def moved_maps(
    model: nn.Module, image: Tensor, c: int, layer: str, steps: Sequence[float], *, alpha: float, rule: str
) -> np.ndarray:
    """DGL's raw map at every step, (T, h, w): S_t takes the layer's place, and both gradients are taken anew there.

    M_t = sum_k G_c(S_t) (n(S_t) - n(G_J(S_t))); t = 0 is DGL itself. ``image`` is (1, 3, H, W).
    """
    options = {"alpha": alpha, "rule": rule}
    S, _, G_J = gradients(model, image, [c], [layer], needs=("G_J",), **options)[layer]  # type: ignore[arg-type]
    maps = []
    for S_t in move(S, enhance(S, G_J) - n(S), steps):
        with replace(model, layer, S_t[None]):
            maps.append(dgl(*gradients(model, image, [c], [layer], **options)[layer])[0])  # type: ignore[arg-type]
    return torch.stack(maps).cpu().numpy()


# ---------------------------------------------------------------------------------------- the plane through S


class Plane(NamedTuple):
    """The network's logits on a grid through one image's features: S + ||S|| (a e_1 + b e_2).

    ``a`` (A,) along e_1 = -n(G_J); ``b`` (B,) along e_2, the runner-up's logit gradient made orthogonal to e_1;
    ``logits`` (B, A, C); ``c`` the class and ``runner_up`` the strongest other one at S.
    """

    a: np.ndarray
    b: np.ndarray
    logits: np.ndarray
    c: int
    runner_up: int

    @property
    def margin(self) -> np.ndarray:
        """l_c - max_{j != c} l_j, (B, A)."""
        flat = torch.from_numpy(self.logits).flatten(0, 1)
        return margins(flat, self.c).reshape(self.logits.shape[:2]).numpy()

    @property
    def region(self) -> np.ndarray:
        """The class the network gives each point, (B, A)."""
        return self.logits.argmax(-1)


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
    """Run the rest of the network on len(a) x len(b) points of the plane; ``image`` is (1, 3, H, W), a and b in ||S||.

    One row of points exists at a time, so memory does not grow with the grid.
    """
    found = gradients(model, image, [c], [layer], alpha=alpha, rule=rule, needs=("G_J",))
    S, _, G_J = found[layer]
    others = found.logits.clone()
    others[:, c] = float("-inf")
    runner_up = int(others.argmax(1))
    G_r = gradients(model, image, [runner_up], [layer], needs=("G_c",))[layer].G_c
    e_1 = enhance(S, G_J) - n(S)
    e_2 = n(n(G_r) - (n(G_r) * e_1).sum() * e_1)
    rows = []
    for across in tqdm(np.asarray(b), "plane", unit="row", disable=not progress):
        moved = move(S, e_2, [float(across)]) + move(S, e_1, [float(along) for along in a]) - S
        rows.append(run_on(model, image, layer, moved).cpu().numpy())
    return Plane(np.asarray(a), np.asarray(b), np.stack(rows).astype(np.float64), c, runner_up)


# ------------------------------------------------------------------------------------------- the rules and alpha


def loss_gradient(G_c: Tensor, G_1: Tensor, rest: Tensor, alpha: float) -> Tensor:
    """The released rule's G_J for any alpha from two gradients: (1 - p_c) G_1 - (alpha - 1) G_c.

    G_1 is the gradient of ``loss_autograd``, ``rest`` (N,) is 1 - p_c; p - alpha y = (p - y) - (alpha - 1) y.
    """
    return rest[:, None, None, None] * G_1 - (alpha - 1) * G_c


def rest_of(logits: Tensor, classes: Tensor) -> Tensor:
    """1 - p_c, (N,), without its cancellation: sigmoid(logsumexp_{j != c} l_j - l_c)."""
    return loss_autograd(logits, classes, 1.0).sigmoid()


class Compared(NamedTuple):
    """The rules and alpha, image by image; cosines and norms in float64, over all of h, w and K.

    Attributes:
        rest: (N,) 1 - p_c, exact also where p_c rounds to 1.
        rules: (N,) cosine between the two rules' G_J.
        released, autograd: (N,) cosine between the rule's -G_J and G_c.
        sine: (N,) sine of the angle between the released rule's -G_J and G_c.
        bound: (N,) the largest that theory lets ``sine`` be, see ``compare``.
        maps: (N, A, h, w) DGL's raw map for every alpha.
    """

    rest: np.ndarray
    rules: np.ndarray
    released: np.ndarray
    autograd: np.ndarray
    sine: np.ndarray
    bound: np.ndarray
    maps: np.ndarray


def compare(
    model: nn.Module,
    images: Iterable[Tensor],
    classes: Sequence[int],
    layer: str,
    alphas: Sequence[float],
    *,
    alpha: float = 10.0,
    progress: bool = False,
) -> Compared:
    """Both rules' loss gradients against each other and against G_c (at ``alpha``), and DGL's map for every alpha.

    From -G_J = (alpha - p_c) G_c - (1 - p_c) R, R = sum_{j != c} q_j G_j and q_j = p_j / (1 - p_c), follows
    sin(-G_J, G_c) <= (1 - p_c) / (alpha - p_c) ||R|| / ||G_c||: with confidence the two gradients become one.
    """
    rows: list[tuple] = []
    for image, c in tqdm(zip(images, classes, strict=True), "rules", len(classes), unit="image", disable=not progress):
        found = gradients(model, image[None], [int(c)], [layer], alpha=alpha, rule="released")
        S, G_c, G_J = found[layer]
        G_1 = gradients(model, image[None], [int(c)], [layer], rule="autograd", needs=("G_J",))[layer].G_J
        rest = rest_of(found.logits.cpu().double(), found.classes.cpu())
        ratio = norm(G_1 + G_c) / norm(G_c)  # ||R|| / ||G_c||, for G_1 = R - G_c
        maps = [dgl(S, G_c, loss_gradient(G_c, G_1, rest.to(S), a))[0] for a in alphas]
        rows.append(
            (
                rest.item(),
                cosine(G_J, G_1),
                cosine(-G_J, G_c),
                cosine(-G_1, G_c),
                sine(-G_J, G_c),
                ratio * rest.item() / (alpha - 1 + rest.item()),
                torch.stack(maps).cpu().numpy(),
            )
        )
    return Compared(*(np.array(column) for column in zip(*rows, strict=True)))


def norm(X: Tensor) -> float:
    """||X||_F, in float64."""
    return float(torch.linalg.vector_norm(X.cpu().double()))


def cosine(X: Tensor, Y: Tensor) -> float:
    """Cosine between two tensors taken as one vector each, in float64; 0 where one of them is 0."""
    X, Y = X.cpu().double().flatten(), Y.cpu().double().flatten()
    return float(X @ Y / (X.norm() * Y.norm()).clamp_min(torch.finfo(torch.float64).tiny))


def sine(X: Tensor, Y: Tensor) -> float:
    """Sine of the angle between X and Y, from what X has beside Y: exact also where the cosine rounds to 1."""
    X, Y = X.cpu().double().flatten(), Y.cpu().double().flatten()
    beside = X - (X @ Y) / (Y @ Y) * Y
    return float(beside.norm() / X.norm())


def agreement(maps: np.ndarray, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """How alike an image's maps are, mean over images: correlation and IoU of what lies above ``threshold``, (A, A).

    Args:
        maps: (N, A, h, w) raw maps; each is min-maxed before it is cut.
    """
    correlation = np.mean([np.corrcoef(m.reshape(len(m), -1)) for m in maps], axis=0)
    found = (unit(maps) >= threshold).reshape(*maps.shape[:2], -1).astype(np.float64)
    both = found @ found.swapaxes(1, 2)  # N x A x A pixels
    size = found.sum(-1)
    either = size[:, :, None] + size[:, None, :] - both
    return correlation, np.mean(both / np.maximum(either, 1), axis=0)


def unit(maps: np.ndarray) -> np.ndarray:
    """Maps (..., h, w), each min-maxed to 0..1."""
    return minmax(torch.from_numpy(maps)).numpy()


def float32_trap(others: Sequence[float], margin: Sequence[float]) -> dict[str, np.ndarray]:
    """Cosine with the true direction p - y of three ways to take it in float32, for growing confidence.

    Args:
        others: logits of the other classes, their largest 0.
        margin: by how much l_c lies above them, (T,).

    Returns:
        "direct" p - y from a softmax, "rewritten" the gradient of ``loss_autograd``, each (T,).
    """
    rest = torch.tensor(others, dtype=torch.float64)
    found: dict[str, list[float]] = {"direct": [], "rewritten": []}
    for m in margin:
        l = torch.cat([torch.tensor([m], dtype=torch.float64), rest])[None]
        truth = torch.cat([torch.tensor([-1.0], dtype=torch.float64), rest.softmax(0)])
        p = l.float().softmax(1)[0]
        direct = p - nn.functional.one_hot(torch.tensor(0), len(p))
        leaf = l.float().requires_grad_()
        (rewritten,) = torch.autograd.grad(loss_autograd(leaf, torch.tensor([0]), 1.0).sum(), leaf)
        found["direct"].append(cosine(direct, truth))
        found["rewritten"].append(cosine(rewritten, truth))
    return {name: np.array(values) for name, values in found.items()}
