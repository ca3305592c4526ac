"""Branch 1's experiment against closed forms: on a linear head everything along a path can be computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dgl_lib import pulling
from dgl_lib.errors import UserError
from dgl_lib.localize import dgl, dual_gradients, enhance, gradients, n
from dgl_lib.models import digest, spg_plain

CLASSES = ("cat", "dog", "owl", "yak")


class Linear(nn.Module):
    """logits = W mean_hw(S) + b on S = the input itself: everything about it is known."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.fc = nn.Linear(3, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


@pytest.fixture(scope="module")
def linear() -> Linear:
    torch.manual_seed(0)
    return Linear().eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(1)
    return spg_plain(len(CLASSES), width=1 / 16).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


LABELS = [2, 0, 1]


# Putting features back


def test_features_put_back_unmoved_give_the_models_logits(network: nn.Module, images: Tensor):
    S = gradients(network, images[:1], [0], ["Mixed_6e"], needs=())["Mixed_6e"].S
    logits = pulling.run_on(network, images[:1], "Mixed_6e", S.repeat(3, 1, 1, 1))
    torch.testing.assert_close(logits, network(images[:1]).detach().expand(3, -1))


def test_many_maps_run_on_as_they_would_one_by_one(network: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch):
    S = gradients(network, images[:1], [0], ["Mixed_6d"], needs=())["Mixed_6d"].S
    many = torch.cat([S * factor for factor in (0.5, 1, 1.5, 2, 3)])
    alone = torch.cat([pulling.run_on(network, images[:1], "Mixed_6d", one[None]) for one in many])
    monkeypatch.setattr(pulling, "BATCH", 2)
    torch.testing.assert_close(pulling.run_on(network, images[:1], "Mixed_6d", many), alone, rtol=1e-4, atol=1e-5)


def test_nothing_of_the_model_changes(network: nn.Module, images: Tensor):
    network.train()
    before = digest(network)
    pulling.pull(network, images[:1], [1], "Mixed_6e", [0, 1])
    pulling.plane(network, images[:1], 1, "Mixed_6e", [0, 1], [0, 1])
    pulling.moved_maps(network, images[:1], 1, "Mixed_6e", [0, 1], alpha=10, rule="released")
    assert digest(network) == before
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert not any(m._forward_hooks for m in network.modules())
    network.eval()


def test_margins_by_hand():
    logits = torch.tensor([[1.0, 4.0, 3.0], [5.0, 2.0, 2.0]])
    assert pulling.margins(logits, 1).tolist() == [1.0, -3.0]
    assert logits[0].tolist() == [1.0, 4.0, 3.0]  # and the logits are left alone


# Pulling


@pytest.mark.parametrize("rule", ["released", "autograd"])
def test_logits_along_the_path_are_linear_on_a_linear_head(linear: Linear, images: Tensor, rule: str):
    steps, c = [-0.5, 0.0, 0.3, 1.0], LABELS[0]
    found = pulling.pull(linear, images[:1], [c], "features", steps, rule=rule)
    W, b = linear.fc.weight.detach().double(), linear.fc.bias.detach().double()
    S = images[0].double()
    p = (W @ S.mean((1, 2)) + b).softmax(0)
    y = nn.functional.one_hot(torch.tensor(c), len(CLASSES)).double()
    g = W.T @ (p - (10 if rule == "released" else 1) * y)  # dJ/dS is g / (h w) at every position
    direction = -g / g.norm() / math.sqrt(S[0].numel())
    for t, margin, p_c in zip(steps, found.margin[0], found.p_c[0], strict=True):
        l = W @ (S.mean((1, 2)) + t * S.norm() * direction) + b
        assert margin == pytest.approx(float(l[c] - torch.cat([l[:c], l[c + 1 :]]).max()), abs=1e-4)
        assert p_c == pytest.approx(float(l.softmax(0)[c]), abs=1e-4)
    assert np.all(np.diff(found.p_c[0]) > 0)


def test_the_talks_step_puts_the_enhanced_map_back(network: nn.Module, images: Tensor):
    found = pulling.pull(network, images, LABELS, "Mixed_6e", [0, 1])
    for i, c in enumerate(LABELS):
        S, _, G_J = gradients(network, images[i][None], [c], ["Mixed_6e"])["Mixed_6e"]
        logits = pulling.run_on(network, images[i][None], "Mixed_6e", S.norm() * enhance(S, G_J))
        assert found.margin[i, 1] == pytest.approx(float(pulling.margins(logits, c)), abs=1e-3)


def test_a_small_step_leads_into_the_class_and_backwards_out_of_it(network: nn.Module, images: Tensor):
    p_c = pulling.pull(network, images, LABELS, "Mixed_6e", [-0.02, 0, 0.02]).p_c
    assert np.all(np.diff(p_c, axis=1) > 0)


def test_alpha_below_p_c_leads_out_of_the_class(linear: Linear, images: Tensor):
    c = int(linear(images[:1]).argmax())
    p_c = pulling.pull(linear, images[:1], [c], "features", [0, 0.1], alpha=0.01).p_c[0]
    assert p_c[0] > 0.01
    assert p_c[1] < p_c[0]


def test_random_directions_are_each_images_own_and_repeat(
    network: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
):
    taken = []
    move = pulling.move
    monkeypatch.setattr(pulling, "move", lambda S, D, steps: taken.append((S, D)) or move(S, D, steps))
    options = {"layer": "Mixed_6e", "steps": [0, 0.5], "direction": "random"}
    three = pulling.pull(network, images, LABELS, seed=3, **options)
    two = pulling.pull(network, (image for image in images[:2]), LABELS[:2], seed=3, **options)
    np.testing.assert_array_equal(three.margin[:2], two.margin)
    assert not np.allclose(three.margin, pulling.pull(network, images, LABELS, seed=4, **options).margin)
    for S, D in taken:
        assert float(D.norm()) == pytest.approx(1)
        assert float((move(S, D, [0.5])[0] - S[0]).norm()) == pytest.approx(0.5 * float(S.norm()), rel=1e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": []}, "steps: none given"),
        ({"direction": "up"}, "direction: 'up' given, -G_J or random allowed"),
        ({"layer": "Mixed_9z"}, "layer 'Mixed_9z' is not in SPGPlain"),
        ({"classes": [0, 1, 2, 3]}, "classes: 4 given for 3 images"),
        ({"classes": [0, 1, 9]}, "classes: 9..9 given"),
    ],
)
def test_mistakes_are_told_in_one_line(network: nn.Module, images: Tensor, changed: dict, message: str):
    arguments = {"classes": LABELS, "layer": "Mixed_6e", "steps": [0]} | changed
    with pytest.raises(UserError) as error:
        pulling.pull(network, images, **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rule", ["released", "autograd"])
def test_the_moved_map_starts_at_dgl(network: nn.Module, images: Tensor, rule: str):
    maps = pulling.moved_maps(network, images[:1], 2, "Mixed_6e", [0, 0.5], alpha=10, rule=rule)
    dgl = dual_gradients(network, images[:1], [2], ["Mixed_6e"], rule=rule)["Mixed_6e"][0].numpy()
    np.testing.assert_allclose(maps[0], dgl, rtol=1e-3, atol=1e-5 * np.abs(dgl).max())
    assert not np.allclose(maps[1], dgl, rtol=0.01)


# The plane


def test_plane_on_a_linear_head(linear: Linear, images: Tensor):
    a, b, c = [-0.5, 0.0, 1.0], [0.0, 0.7], 1
    found = pulling.plane(linear, images[:1], c, "features", a, b)
    logits = linear(images[:1]).detach()[0].numpy()
    assert found.logits.shape == (2, 3, len(CLASSES))
    np.testing.assert_allclose(found.logits[0, 1], logits, atol=1e-5)
    runner_up = int(np.where(np.arange(4) == c, -np.inf, logits).argmax())
    along = (found.logits[0, 2] - found.logits[0, 1]) / (a[2] - a[1])
    across = (found.logits[1, 1] - found.logits[0, 1]) / b[1]
    np.testing.assert_allclose(found.logits[1, 0], logits + a[0] * along + b[1] * across, atol=1e-4)
    W = linear.fc.weight.detach().double().numpy()
    scale = float(images[:1].norm()) / 32  # a direction of norm 1, the same at all 32 x 32 positions, is 1/32 there
    e_1, e_2 = (np.linalg.lstsq(W, slope / scale, rcond=None)[0] for slope in (along, across))
    np.testing.assert_allclose([e_1 @ e_1, e_2 @ e_2, e_1 @ e_2], [1, 1, 0], atol=1e-4)
    assert e_2 @ W[runner_up] > 0
    np.testing.assert_array_equal(found.region == c, found.margin > 0)


def test_one_dimension_of_the_plane_is_the_pull(network: nn.Module, images: Tensor):
    steps = [-0.3, 0, 0.6]
    found = pulling.plane(network, images[:1], 1, "Mixed_6e", steps, [0.0])
    pulled = pulling.pull(network, images[:1], [1], "Mixed_6e", steps)
    np.testing.assert_allclose(found.margin[0], pulled.margin[0], rtol=1e-3, atol=1e-4)


# The rules and alpha


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 10.0])
def test_two_gradients_give_the_loss_gradient_of_every_alpha(network: nn.Module, images: Tensor, alpha: float):
    found = gradients(network, images, LABELS, ["Mixed_6e"], alpha=alpha)
    G_1 = gradients(network, images, LABELS, ["Mixed_6e"], rule="autograd")["Mixed_6e"].G_J
    rest = pulling.rest_of(found.logits, found.classes)
    G_J = pulling.loss_gradient(found["Mixed_6e"].G_c, G_1, rest, alpha)
    torch.testing.assert_close(n(G_J), n(found["Mixed_6e"].G_J), rtol=1e-3, atol=1e-5)


def test_one_minus_p_c_does_not_cancel():
    logits, c = torch.tensor([[40.0, 0.0, 0.0]]), torch.tensor([0])
    assert 1 - float(logits.softmax(1)[0, 0]) == 0
    assert float(pulling.rest_of(logits, c)) == pytest.approx(2 * math.exp(-40))


def angle_and_bound(model: nn.Module, image: Tensor, c: int, layer: str, alpha: float = 10) -> tuple[float, ...]:
    """sin(-G_J, G_c), its bound (1 - p_c) / (alpha - p_c) ||R|| / ||G_c|| with R = G_1 + G_c, and that factor."""
    found = gradients(model, image, [c], [layer], alpha=alpha)
    _, G_c, G_J = found[layer]
    G_1 = gradients(model, image, [c], [layer], rule="autograd", needs=("G_J",))[layer].G_J
    rest = float(pulling.rest_of(found.logits.double(), found.classes))
    factor = rest / (alpha - 1 + rest)
    assert pulling.sine(-G_J, G_c) ** 2 + pulling.cosine(-G_J, G_c) ** 2 == pytest.approx(1, abs=1e-6)
    assert pulling.cosine(G_J, G_1) < 1 - 1e-6  # the two rules' directions differ
    return pulling.sine(-G_J, G_c), factor * pulling.norm(G_1 + G_c) / pulling.norm(G_c), factor


def test_the_angle_between_the_gradients_lies_within_its_bound(network: nn.Module, images: Tensor):
    for image, c in zip(images, LABELS, strict=True):
        angle, bound, _ = angle_and_bound(network, image[None], c, "Mixed_6e")
        assert 0 < angle <= bound * 1.001 + 1e-5


@pytest.mark.parametrize(("alpha", "rule"), [(1, "autograd"), (10, "released")])
def test_maps_of_any_alpha_from_two_gradients_are_the_librarys(network, images: Tensor, alpha: float, rule: str):
    found = gradients(network, images, LABELS, ["Mixed_6e"], alpha=3)
    S, G_c, _ = found["Mixed_6e"]
    G_1 = gradients(network, images, LABELS, ["Mixed_6e"], rule="autograd")["Mixed_6e"].G_J
    maps = dgl(S, G_c, pulling.loss_gradient(G_c, G_1, pulling.rest_of(found.logits, found.classes), alpha))
    library = dual_gradients(network, images, LABELS, ["Mixed_6e"], alpha=alpha, rule=rule)["Mixed_6e"]
    torch.testing.assert_close(maps, library, rtol=1e-2, atol=1e-3 * float(library.abs().max()))


def test_with_confidence_the_two_gradients_become_one_in_the_order_of_theory(linear: Linear, images: Tensor):
    """sin(-G_J, G_c) / x tends to a constant for x = (1-p_c) / (alpha-p_c) -> 0: its order is exactly 1."""
    ratios = []
    for confident in (8.0, 10.0, 12.0):
        model = Linear()
        model.load_state_dict({k: v.double() for k, v in linear.state_dict().items()})
        model.double().fc.bias.data[1] += confident
        angle, _, x = angle_and_bound(model, images[:1].double(), 1, "features")
        ratios.append(angle / x)
    assert x < 1e-5
    assert ratios[1] == pytest.approx(ratios[0], rel=0.01)
    assert ratios[2] == pytest.approx(ratios[1], rel=0.001)


def test_a_norm_a_cosine_and_a_sine_by_hand():
    X, Y = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
    assert (pulling.norm(X), pulling.cosine(X, Y), pulling.sine(X, Y)) == (5, pytest.approx(0.8), pytest.approx(0.6))
    assert pulling.cosine(X, 0 * X) == 0
    tiny = torch.tensor([[1e-12, 1.0]], dtype=torch.float64)  # the cosine with Y rounds to 1
    assert pulling.cosine(tiny, Y) == 1 and pulling.sine(tiny, Y) == pytest.approx(1e-12)


def test_agreement_by_hand():
    maps = np.array([[[[0.0, 1.0], [2.0, 4.0]], [[0.0, 3.0], [2.0, 4.0]], [[0.0, -1.0], [-2.0, -4.0]]]])
    correlation, iou = pulling.agreement(maps)
    assert correlation[0, 2] == pytest.approx(-1)
    assert np.diag(correlation) == pytest.approx(1)
    np.testing.assert_allclose(iou, [[1, 2 / 3, 1 / 4], [2 / 3, 1, 1 / 2], [1 / 4, 1 / 2, 1]])
