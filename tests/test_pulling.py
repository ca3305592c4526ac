"""Branch 1's experiment against closed forms: on a linear head everything along a path can be computed by hand."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dgl_lib import pulling
from dgl_lib.data.records import Record
from dgl_lib.errors import UserError
from dgl_lib.localize import dual_gradients, enhance, gradients, n
from dgl_lib.models import digest, spg_plain
from dgl_lib.plots import features

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


def test_random_directions_are_each_images_own_and_repeat(network: nn.Module, images: Tensor):
    options = {"layer": "Mixed_6e", "steps": [0, 0.5], "direction": "random"}
    three = pulling.pull(network, images, LABELS, seed=3, **options)
    two = pulling.pull(network, (image for image in images[:2]), LABELS[:2], seed=3, **options)
    np.testing.assert_array_equal(three.margin[:2], two.margin)
    assert not np.allclose(three.margin, pulling.pull(network, images, LABELS, seed=4, **options).margin)
    S = torch.ones(1, 2, 3, 3)
    D = pulling._random_direction(S, 0, 1)
    assert float(D.norm()) == pytest.approx(1)
    assert float((pulling.move(S, D, [0.5])[0] - S[0]).norm()) == pytest.approx(0.5 * float(S.norm()))


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
    assert found.runner_up == int(np.where(np.arange(4) == c, -np.inf, logits).argmax())
    along = (found.logits[0, 2] - found.logits[0, 1]) / (a[2] - a[1])
    across = (found.logits[1, 1] - found.logits[0, 1]) / b[1]
    np.testing.assert_allclose(found.logits[1, 0], logits + a[0] * along + b[1] * across, atol=1e-4)
    W = linear.fc.weight.detach().double().numpy()
    scale = float(images[:1].norm()) / 32  # a direction of norm 1, the same at all 32 x 32 positions, is 1/32 there
    e_1, e_2 = (np.linalg.lstsq(W, slope / scale, rcond=None)[0] for slope in (along, across))
    np.testing.assert_allclose([e_1 @ e_1, e_2 @ e_2, e_1 @ e_2], [1, 1, 0], atol=1e-4)
    assert e_2 @ W[found.runner_up] > 0
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


def test_compared_holds_to_theory_and_to_the_library(network: nn.Module, images: Tensor):
    found = pulling.compare(network, images, LABELS, "Mixed_6e", [1, 10], alpha=10)
    p = network(images).softmax(1).detach()[range(3), LABELS].numpy()
    np.testing.assert_allclose(1 - found.rest, p, atol=1e-5)
    assert np.all(found.sine <= found.bound * 1.001 + 1e-5)
    np.testing.assert_allclose(found.sine**2 + found.released**2, 1, atol=1e-6)
    for j, rule in enumerate(("autograd", "released")):
        maps = dual_gradients(network, images, LABELS, ["Mixed_6e"], rule=rule)["Mixed_6e"].numpy()
        np.testing.assert_allclose(found.maps[:, j], maps, rtol=1e-2, atol=1e-3 * np.abs(maps).max())
    assert np.all(found.rules < 1 - 1e-6)


def test_with_confidence_the_two_gradients_become_one_in_the_order_of_theory(linear: Linear, images: Tensor):
    """sin(-G_J, G_c) / x tends to a constant for x = (1-p_c) / (alpha-p_c) -> 0: its order is exactly 1."""
    ratios = []
    for confident in (8.0, 10.0, 12.0):
        model = Linear()
        model.load_state_dict({k: v.double() for k, v in linear.state_dict().items()})
        model.double().fc.bias.data[1] += confident
        found = pulling.compare(model, images[:1].double(), [1], "features", [10])
        ratios.append(found.sine[0] / (found.rest[0] / (9 + found.rest[0])))
    assert found.rest[0] < 1e-4
    assert ratios[1] == pytest.approx(ratios[0], rel=0.01)
    assert ratios[2] == pytest.approx(ratios[1], rel=0.001)


def test_agreement_by_hand():
    maps = np.array([[[[0.0, 1.0], [2.0, 4.0]], [[0.0, 3.0], [2.0, 4.0]], [[0.0, -1.0], [-2.0, -4.0]]]])
    correlation, iou = pulling.agreement(maps)
    assert correlation[0, 2] == pytest.approx(-1)
    assert np.diag(correlation) == pytest.approx(1)
    np.testing.assert_allclose(iou, [[1, 2 / 3, 1 / 4], [2 / 3, 1, 1 / 2], [1 / 4, 1 / 2, 1]])


def test_float32_loses_the_direction_and_the_rewritten_loss_keeps_it():
    found = pulling.float32_trap([0.0, -1.0], [0, 5, 20, 45])
    assert found["direct"][0] == pytest.approx(1, abs=1e-6)
    assert found["direct"][2] < 0.95
    assert found["rewritten"] == pytest.approx(1, abs=1e-6)


# Figures


@pytest.fixture(scope="module")
def records() -> list[Record]:
    mask = np.zeros((24, 24), bool)
    mask[6:18, 6:18] = True
    image = np.full((24, 24, 3), 77, np.uint8)
    return [
        Record("one", image, 0, np.zeros((0, 4), np.int32), mask, None, mask & (np.arange(24) < 9)),
        Record("two", image, 3, np.zeros((0, 4), np.int32)),  # neither mask nor part
    ]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_photographs_stay_unseen_unless_asked_for(records: list[Record]):
    columns = {"plain": np.random.default_rng(0).random((2, 3, 3)), "added": np.zeros((2, 3, 3))}
    for pixels in (False, True):
        figure = features.maps_beside(records, columns, pixels, title="T", classes=CLASSES, signed=["added"])
        shown = figure.axes[0].images[0].get_array()
        assert bool((shown == 77).any()) == pixels
        assert [axes.get_title(loc="center") for axes in figure.axes[:3]] == ["image", "plain", "added"]
        assert figure.axes[3].get_ylabel() == "yak"
        assert figure.axes[1].images[0].get_array().shape == (3, 3)  # nothing finer than the layer's grid


def test_a_channels_two_panels_share_one_scale(records: list[Record]):
    before, after = np.zeros((4, 3, 3)), np.full((4, 3, 3), -2.0)
    figure = features.channels(records[0], before, after, [1, 3], title="T")
    assert len({axes.images[0].get_clim() for axes in figure.axes}) == 1


def test_pulling_curves_show_every_image(linear: Linear, images: Tensor):
    steps = [-1, 0, 1]
    pulled = pulling.pull(linear, images, LABELS, "features", steps)
    control = pulling.pull(linear, images, LABELS, "features", [0, 1], direction="random")
    figure = features.pulling_curves(steps, pulled, [0, 1], control, title="T")
    curves = [line.get_ydata() for line in figure.axes[1].lines]
    assert len([y for y in curves if len(y) == 3]) == len(images) + 1  # and their mean
    assert any(np.allclose(y, pulled.p_c.mean(0)) for y in curves if len(y) == 3)


def test_regions_name_the_classes_that_occur(linear: Linear, images: Tensor):
    found = pulling.plane(linear, images[:1], 1, "features", np.linspace(-3, 3, 9), np.linspace(-3, 3, 9))
    figure = features.regions(found, CLASSES, [0, 0.5, 1], title="T")
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {name for name in CLASSES if name in legend} == {CLASSES[i] for i in np.unique(found.region)}


def test_the_other_figures_draw(network: nn.Module, images: Tensor):
    compared = pulling.compare(network, images, LABELS, "Mixed_6e", [1, 10])
    correlation, iou = pulling.agreement(compared.maps)
    figure = features.agreement_tables([1, 10], correlation, iou, title="T")
    assert sum(len(axes.texts) for axes in figure.axes) == 8
    figure = features.parallel(compared, 10.0, title="T")
    assert figure.axes[1].get_xscale() == figure.axes[1].get_yscale() == "log"
    margin = [0, 10, 20]
    figure = features.float32_curves(margin, pulling.float32_trap([0.0, -1.0], margin), title="T")
    assert len(figure.axes[0].lines) == 2
