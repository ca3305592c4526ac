"""The two gradients and every method on them: hand formulas, closed forms, identities, limits, and broken formulas.

Float64 wherever an identity is exact, so that a wrong sign, factor or norm cannot hide in rounding.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from dgl_lib import localize as module
from dgl_lib.errors import UserError
from dgl_lib.localize import METHODS, RULES, dual_gradients, enhance, gradients, localize, n
from dgl_lib.maps import minmax
from dgl_lib.models import spg_plain

DOUBLE = torch.float64


class Tiny(nn.Module):
    """Logits = fc(mean over h,w of the image itself), or of its ReLU: small enough for formulas by hand."""

    def __init__(self, weight: Tensor, bias: Tensor, relu: bool):
        super().__init__()
        self.feature = nn.Identity()
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()
        self.fc = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        with torch.no_grad():
            self.fc.weight.copy_(weight)
            self.fc.bias.copy_(bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.relu(self.feature(images)).mean((2, 3)))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def tiny(relu: bool, bias: float = 0.0) -> Tiny:
    return Tiny(draw(3, 3, seed=1), torch.tensor([bias, 0.0, 0.0], dtype=DOUBLE), relu)


def deep(bias: float = 0.0, seed: int = 3, classes: int = 3) -> nn.Sequential:
    """Two convolutions with ReLUs between them and the pooled linear head."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 5, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(5, 6, 3, padding=1),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            dropout=nn.Dropout(0.5),
            fc=nn.Linear(6, classes),
        )
    ).double()
    with torch.no_grad():
        model.fc.bias += torch.tensor([bias] + [0.0] * (classes - 1))
    return model


LAYERS = ["relu2", "conv1", "conv2", "relu1"]  # in no order on purpose
IMAGES = draw(3, 3, 7, 6, seed=5)
CLASSES = torch.tensor([0, 2, 1])


def jacobians(model: nn.Sequential, layer: str, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """S, logits and all d l_j / dS (N, C, K, h, w), by another road than the library's: forward code and jacrev."""
    model = model.eval()
    cut = list(dict(model.named_children())).index(layer) + 1
    with torch.no_grad():
        S = model[:cut](images)
        logits = model(images)
    rest = model[cut:]
    return S, logits, vmap(jacrev(lambda s: rest(s[None])[0]))(S).detach()


def reference(model: nn.Sequential, layer: str, images: Tensor, classes: Tensor, alpha: float, rule: str) -> Tensor:
    """DGL's map (N, h, w) straight from the talk's formulas."""
    S, logits, G = jacobians(model, layer, images)
    y = nn.functional.one_hot(classes, logits.shape[1]).double()
    p = logits.softmax(1)
    G_J = torch.einsum("nc,nckhw->nkhw", p - alpha * y if rule == "released" else alpha * (p - y), G)
    G_c = G[torch.arange(len(classes)), classes]
    norm = [X.flatten(1).norm(dim=1)[:, None, None, None] for X in (S, G_J)]
    return (G_c * (S / norm[0] - G_J / norm[1])).sum(1)


# ---------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("relu", [False, True])
def test_both_gradients_by_hand(relu: bool) -> None:
    """l = W mean(S or relu S) + b:  G_c = w_c [S > 0] / hw,  G_J = (p - alpha y) W [S > 0] / hw."""
    model, images, classes = tiny(relu), draw(2, 3, 4, 4), torch.tensor([2, 0])
    S, G_c, G_J = gradients(model, images, classes, ["feature"], alpha=4.0)["feature"]
    active = (images > 0).double() if relu else torch.ones_like(images)
    W = model.fc.weight.detach()
    p = (W @ (images * active).mean((2, 3)).T).T.softmax(1)
    dJ_dl = p - 4.0 * torch.tensor([[0.0, 0, 1], [1, 0, 0]], dtype=DOUBLE)
    assert torch.equal(S, images)  # the true output, though the ReLU after it works in place
    torch.testing.assert_close(G_c, W[classes][:, :, None, None] * active / 16)
    torch.testing.assert_close(G_J, (dJ_dl @ W)[:, :, None, None] * active / 16)


def test_the_enhanced_map_and_dgl_by_hand() -> None:
    """S = 3, 4 so ||S|| = 5; G_J = -6, 8 so ||G_J|| = 10; A = 0.6 + 0.6, 0.8 - 0.8; times G_c = 2, 7."""
    S, G_J, G_c = (torch.tensor(v, dtype=DOUBLE).reshape(1, 1, 1, 2) for v in ([3, 4], [-6, 8], [2, 7]))
    torch.testing.assert_close(enhance(S, G_J), torch.tensor([[[[1.2, 0.0]]]], dtype=DOUBLE))
    torch.testing.assert_close(module.dgl(S, G_c, G_J), torch.tensor([[[2.4, 0.0]]], dtype=DOUBLE))


# S, G_c and G_J (1, 2, 1, 2) with round norms: ||S|| = 10, ||G_c|| = 2, ||G_J|| = 4.
HAND = (
    torch.tensor([[[[1.0, 5.0]], [[7.0, 5.0]]]]),
    torch.tensor([[[[1.0, -1.0]], [[-1.0, 1.0]]]]),
    torch.tensor([[[[-2.0, 2.0]], [[2.0, 2.0]]]]),
)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("grad_cam_signed", [0, 0]),  # both gradients average to 0
        ("grad_cam", [0, 0]),
        ("pixel_selection", [1 - 7, -5 + 5]),
        ("layer_cam", [1, 5]),
        ("enhanced_map", [(0.1 + 0.5) + (0.7 - 0.5), (0.5 - 0.5) + (0.5 - 0.5)]),
        ("enhanced_map_positive", [(0.1 + 0.5) + (0.7 - 0.5), 0]),
        ("enhanced_map_norm", [(0.6**2 + 0.2**2) ** 0.5, 0]),
        ("dgl", [(0.1 + 0.5) - (0.7 - 0.5), -(0.5 - 0.5) + (0.5 - 0.5)]),
        ("sgl_g1", [0.5 * (0.1 + 0.5) - 0.5 * (0.7 - 0.5), -0.5 * (0.5 - 0.5) + 0.5 * (0.5 + 0.5)]),
        ("sgl_g2", [0.5 * (0.1 + 0.5) - 0.5 * (0.7 - 0.5), -0.5 * (0.5 - 0.5) - 0.5 * (0.5 - 0.5)]),
        ("features", [8, 10]),
        ("features_positive", [8, 10]),
        ("features_norm", [50**0.5, 50**0.5]),
        ("gradient_term", [0.5 + 0.5, 0.5 - 0.5]),
    ],
)
def test_every_formula_by_hand(method: str, expected: list[float]) -> None:
    values = dict(zip(("S", "G_c", "G_J"), HAND, strict=True))
    got = module._maps([method], values)[method]
    torch.testing.assert_close(got, torch.tensor([[expected]], dtype=torch.float32))


def test_each_reading_by_hand() -> None:
    """2 x 2 x 2: S = 6 in one channel, 8 in the other, so ||S|| = 20; G_J = +-5, so ||G_J|| = sqrt(200)."""
    S = torch.tensor([[[[6.0, 6.0], [6.0, 6.0]], [[8.0, 8.0], [-8.0, -8.0]]]], dtype=DOUBLE)
    G_J = torch.tensor([[[[5.0, -5.0], [5.0, -5.0]], [[5.0, 5.0], [5.0, -5.0]]]], dtype=DOUBLE)
    g = 5 / 200**0.5  # 0.354, so that A = 0.3 -+ g and +-0.4 -+ g
    one = torch.tensor([[0.3 - g, 0.3 + g], [0.3 - g, 0.3 + g]], dtype=DOUBLE)  # negative at the left
    two = torch.tensor([[0.4 - g, 0.4 - g], [-0.4 - g, -0.4 + g]], dtype=DOUBLE)  # negative below
    torch.testing.assert_close(module.enhanced_map(S, G_J)[0], one + two)
    positive = [[0.4 - g, 0.3 + g + 0.4 - g], [0, 0.3 + g]]
    torch.testing.assert_close(module.enhanced_map_positive(S, G_J)[0], torch.tensor(positive, dtype=DOUBLE))
    torch.testing.assert_close(module.enhanced_map_norm(S, G_J)[0], (one**2 + two**2) ** 0.5)
    assert module.features(S).tolist() == [[[14, 14], [-2, -2]]]
    assert module.features_positive(S).tolist() == [[[14, 14], [6, 6]]]
    assert module.features_norm(S).tolist() == [[[10, 10], [10, 10]]]


def test_how_the_readings_are_related() -> None:
    S, G_J = draw(2, 5, 3, 4), draw(2, 5, 3, 4)
    assert torch.equal(module.features_positive(S.relu()), module.features(S.relu()))
    for reading, of in (("enhanced_map", (S, G_J)), ("features", (S,))):
        total, positive, norm = (getattr(module, reading + ending)(*of) for ending in module.READINGS)
        assert (norm >= total.abs() / 5**0.5 - 1e-12).all()  # Cauchy-Schwarz
        assert (positive >= total).all() and (positive <= 5**0.5 * norm).all() and (positive >= 0).all()
    one = enhance(S[:, :1], G_J[:, :1])
    torch.testing.assert_close(module.enhanced_map_norm(S[:, :1], G_J[:, :1]), one[:, 0].abs())
    # At G_J = 0 branch 1 is S / ||S||, in every reading.
    for ending in module.READINGS:
        plain = getattr(module, f"features{ending}")(n(S))
        torch.testing.assert_close(getattr(module, f"enhanced_map{ending}")(S, torch.zeros_like(S)), plain)


def test_grad_cam_weighs_by_the_mean_gradient_and_cuts_below_zero() -> None:
    S, G_c = torch.tensor([[[[1.0, 2.0]], [[5.0, 1.0]]]]), torch.tensor([[[[1.0, 3.0]], [[-1.0, -1.0]]]])
    assert module.grad_cam_signed(S, G_c).tolist() == [[[2 * 1 - 5, 2 * 2 - 1]]]
    assert module.grad_cam(S, G_c).tolist() == [[[0, 3]]]


def test_grad_cam_pp_by_hand() -> None:
    """One channel S = 1, 3 (sum 4), G = 1, 2: a = 1 / (2 + 4) and 4 / (8 + 32); w = 1/6 + 2/10; the other has G < 0."""
    S = torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]])
    G_c = torch.tensor([[[[1.0, 2.0]], [[-5.0, 0.0]]]])  # negative gradients add nothing; 0 / 0 counts as 0
    w = 1 / 6 + 2 * 4 / 40
    torch.testing.assert_close(module.grad_cam_pp(S, G_c), torch.tensor([[[w, 3 * w]]]))
    # Sum 0, so a = 1/2 and w = 2: M = 4, -4 before its ReLU.
    S_0, G_0 = torch.tensor([[[[2.0, -2.0]]]]), torch.tensor([[[[1.0, 3.0]]]])
    assert module.grad_cam_pp(S_0, G_0).tolist() == [[[4, 0]]]
    # A pole of a (2 G^2 + sum S G^3 = 0 at G = -1, sum S = 2) gives no infinity either.
    assert module.grad_cam_pp(S[:, 1:], torch.full((1, 1, 1, 2), -1.0)).isfinite().all()
    # At the pole a is 0, also where G > 0: sum S = -2, G = 1 at the first pixel and 0 at the second.
    S_1, G_1 = torch.tensor([[[[-3.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    assert module.grad_cam_pp(S_1, G_1).tolist() == [[[0, 0]]]


def test_cam_by_hand() -> None:
    S, w = torch.tensor([[[[1.0, 2.0]], [[5.0, 1.0]]]]), torch.tensor([[3.0, -1.0]])
    assert module.cam(S, w).tolist() == [[[-2, 5]]]


# ------------------------------------------------------------------------------------------------- n


def test_n_is_a_unit_vector_for_each_image() -> None:
    X = draw(3, 4, 2, 5) * torch.tensor([1.0, 1e-30, 1e30], dtype=DOUBLE)[:, None, None, None]
    torch.testing.assert_close(n(X).flatten(1).norm(dim=1), torch.ones(3, dtype=DOUBLE))
    torch.testing.assert_close(n(X)[:1], n(X[:1]))
    assert not n(torch.zeros(1, 2, 3, 3)).any()


@pytest.mark.parametrize(("needs", "kept"), [(("G_c", "G_J"), [True, False]), (("G_c",), [False]), (("G_J",), [False])])
def test_the_graph_is_kept_only_for_another_gradient(needs, kept: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    asked, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **how: asked.append(how["retain_graph"]) or grad(*a, **how))
    gradients(spg_plain(3, width=1 / 16), torch.randn(1, 3, 64, 64), None, ["add1"], needs=needs)
    assert asked == kept


@pytest.mark.parametrize("factor", [1e-38, 1e-30, 1e30, 3e38])
def test_n_of_tiny_and_huge_gradients_in_float32(factor: float) -> None:
    """1e-30 squared is 0 in float32: dividing by the plain norm would be 0/0. A norm may be beyond its numbers too."""
    X = draw(1, 4, 3, 3).clamp(-1, 1).float()
    assert (factor * X).square().sum() in (0, float("inf"))
    torch.testing.assert_close(n(factor * X), n(X), rtol=1e-5, atol=1e-7)


def test_n_of_a_large_map_is_exact_to_a_float32s_last_digits() -> None:
    """One sum over all 800,000 squares would be off by 1e-6 to 1e-5."""
    X = draw(1, 1024, 28, 28).relu()
    torch.testing.assert_close(n(X.float()).double(), n(X), rtol=4e-7, atol=0)


# ------------------------------------------------------------------------------------------- compiled formulas


def tracing(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.Graph]:
    """Let formulas go through torch.compile, which writes no code for them: the graphs that it found."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph.graph)
        return graph

    torch._dynamo.reset()
    monkeypatch.setattr(module, "_compiled", lambda: torch.compile(module._maps, dynamic=True, backend=backend))
    return graphs


@pytest.mark.filterwarnings("ignore:cam needs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_formulas_give_the_same_maps_from_few_compilations(dtype: torch.dtype, monkeypatch) -> None:
    torch.manual_seed(0)
    model = spg_plain(3, width=1 / 16).eval().to(dtype, memory_format=torch.channels_last)
    methods, layers = [*METHODS, *module.CONTROLS], ["Mixed_5d", "Mixed_6a", "add2", "add1"]
    graphs = tracing(monkeypatch)
    for count, side in ((2, 64), (3, 64), (4, 80)):
        images, c = torch.randn(count, 3, side, side), list(range(3)) + [0]
        plain = localize(model, images, c[:count], layers, methods)
        found = localize(model, images, c[:count], layers, methods, compiled=True)
        for method, by_layer in plain.maps.items():
            assert list(found.maps[method]) == list(by_layer)
            for layer, m in by_layer.items():
                assert found.maps[method][layer].dtype == torch.float32
                torch.testing.assert_close(found.maps[method][layer], m, rtol=1e-5, atol=1e-6 * float(m.abs().max()))
    assert 2 <= len(graphs) <= 4  # with CAM and without; sides that may differ or not


def test_compiled_formulas_get_gradients_in_their_feature_maps_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the last layer the gradient comes plane by plane, since it is the same on all pixels."""
    torch.manual_seed(0)
    model, strides = spg_plain(3, width=1 / 16).eval().to(memory_format=torch.channels_last), []

    def look(methods: list[str], given: dict[str, Tensor]) -> dict[str, Tensor]:
        strides.append([given[name].stride() for name in ("S", "G_c", "G_J")])
        return maps(methods, given)

    maps = module._maps
    monkeypatch.setattr(module, "_maps", look)
    monkeypatch.setattr(module, "_compiled", lambda: look)
    images = torch.randn(2, 3, 64, 64)
    plain = localize(model, images, [0, 1], ["add1"], ["dgl"]).maps["dgl"]["add1"]
    found = localize(model, images, [0, 1], ["add1"], ["dgl"], compiled=True).maps["dgl"]["add1"]
    torch.testing.assert_close(found, plain)
    assert strides[0][0] != strides[0][1] and strides[1] == [strides[0][0]] * 3


def test_a_gpu_is_waited_for_once() -> None:
    """Python waits for each value that it reads: two of the classes, which lie on no GPU, and one answer."""
    read: list[object] = []

    class Reads(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function is torch.ops.aten._local_scalar_dense.default:
                read.append(args[0])
            return function(*args, **(kwargs or {}))

    model, images = spg_plain(3, width=1 / 16).eval(), torch.randn(2, 3, 64, 64)
    with Reads():
        localize(model, images, [0, 1], ["Mixed_6e", "add2", "add1"], ["dgl", "layer_cam"])
    assert len(read) == 3


# ------------------------------------------------------------------------------------------- the rule for dJ/dl


def slope(rule: str, logits: Tensor, classes: Tensor, alpha: float) -> Tensor:
    l = logits.clone().requires_grad_()
    return torch.autograd.grad(RULES[rule](l, classes, alpha).sum(), l)[0]


@pytest.mark.parametrize("alpha", [0.5, 1.0, 10.0])
def test_the_released_rule_is_p_minus_alpha_y(alpha: float) -> None:
    logits, c = 3 * draw(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    y = nn.functional.one_hot(c, 4)
    torch.testing.assert_close(slope("released", logits, c, alpha), logits.softmax(1) - alpha * y)


def test_the_autograd_rule_points_along_p_minus_y_for_every_alpha() -> None:
    logits, c = 3 * draw(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    direct = logits.softmax(1) - nn.functional.one_hot(c, 4)
    got = slope("autograd", logits, c, 10.0)
    torch.testing.assert_close(got, direct / (1 - logits.softmax(1).gather(1, c[:, None])))
    assert torch.equal(got, slope("autograd", logits, c, 2.0))
    torch.testing.assert_close(nn.functional.normalize(got), nn.functional.normalize(slope("released", logits, c, 1.0)))


@pytest.mark.parametrize("margin", [20.0, 60.0])
def test_the_autograd_rule_is_exact_where_plain_cross_entropy_fails(margin: float) -> None:
    l = torch.tensor([[margin, 0.0, -1.0, 0.5]])
    c = torch.tensor([0])
    q = torch.tensor([[0, -0.0, -1.0, 0.5]], dtype=DOUBLE)[:, 1:].softmax(1)
    exact = nn.functional.normalize(torch.cat([torch.tensor([[-1.0]], dtype=DOUBLE), q], 1))
    ours = nn.functional.normalize(slope("autograd", l, c, 10.0).double())
    torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-7)
    leaf = l.clone().requires_grad_()
    naive = torch.autograd.grad(10 * nn.functional.cross_entropy(leaf, c), leaf)[0]
    norm = naive.square().sum().sqrt()
    wrong = naive / norm if norm > 0 else torch.full_like(naive, math.nan)
    assert not ((wrong.double() - exact).abs().max() < 0.5)  # silently wrong at 20, 0/0 at 60
    assert bool(norm == 0) == (margin == 60.0)


@pytest.mark.parametrize("margin", [0.0, 20.0, 60.0])
def test_the_autograd_map_in_float32_is_that_of_float64(margin: float) -> None:
    """On a whole network: G_J keeps its direction however sure the classifier is."""
    model = deep(bias=margin)
    classes = torch.zeros(3, dtype=torch.long)
    exact = gradients(model, IMAGES, classes, ["conv1"], rule="autograd")["conv1"].G_J
    G_J = gradients(model.float(), IMAGES.float(), classes, ["conv1"], rule="autograd")["conv1"].G_J
    torch.testing.assert_close(n(G_J).double(), n(exact), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------- sigmoid heads


@pytest.mark.parametrize("alpha", [0.5, 1.0, 10.0])
def test_a_sigmoids_label_stands_alone(alpha: float) -> None:
    """dJ/dl is sigmoid(l_c) - alpha on label c by the released rule, along sigmoid(l_c) - 1 by autograd; else 0."""
    logits, c = 3 * draw(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    y, leaf = nn.functional.one_hot(c, 4), logits.clone().requires_grad_()
    for rule, expected in (("released", y * (logits.sigmoid() - alpha)), ("autograd", -y.double())):
        J = module._loss(leaf, c, alpha, rule, "sigmoid")
        torch.testing.assert_close(torch.autograd.grad(J.sum(), leaf)[0], expected)
    # With alpha 1 the released loss is torch's binary cross-entropy for "label c is there".
    l_c = logits.gather(1, c[:, None])[:, 0]
    bce = nn.functional.binary_cross_entropy_with_logits(l_c, torch.ones(6, dtype=DOUBLE), reduction="none")
    torch.testing.assert_close(module._loss(logits, c, 1.0, "released", "sigmoid"), bce)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_sigmoids_gradients_are_finite_differences(layer: str, rule: str) -> None:
    model, alpha, step = deep().eval(), 2.0, 1e-7  # no ReLU switches within it
    S, G_c, G_J = gradients(model, IMAGES, CLASSES, [layer], alpha=alpha, rule=rule, head="sigmoid")[layer]
    rest = model[list(dict(model.named_children())).index(layer) + 1 :]
    way = draw(*S.shape, seed=8)

    def label(t: float) -> Tensor:
        with torch.no_grad():
            return rest(S + t * way).gather(1, CLASSES[:, None])[:, 0]

    change = (label(step) - label(-step)) / (2 * step)
    torch.testing.assert_close((G_c * way).sum((1, 2, 3)), change, rtol=1e-6, atol=1e-8)
    slope = label(0).sigmoid() - alpha if rule == "released" else -1
    torch.testing.assert_close((G_J * way).sum((1, 2, 3)), slope * change, rtol=1e-6, atol=1e-8)


def with_one_logit(bias: float = 0.0) -> tuple[nn.Sequential, nn.Sequential]:
    """The same network with one logit z, and with the two logits -z/2 and z/2, whose softmax is z's sigmoid."""
    one, two = deep(bias, classes=1), deep(classes=2)
    two.load_state_dict(one.state_dict() | {f"fc.{k}": torch.cat([-v, v]) / 2 for k, v in one.fc.state_dict().items()})
    return one, two


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bias", [0.0, -3.0, 30.0])
@pytest.mark.parametrize("c", [0, 1])
def test_one_logit_is_a_softmax_of_two_halves(c: int, bias: float, rule: str) -> None:
    """p_c is the same, and dJ/dz too up to a positive factor, as long as alpha > 1: so are all maps after min-max."""
    one, two = with_one_logit(bias)
    methods = [name for name in METHODS if name not in ("cam", "grad_cam_pp")]  # which depends on G_c's own size
    z = localize(one, IMAGES, [c] * 3, LAYERS, methods, rule=rule, head="sigmoid")
    halves = localize(two, IMAGES, [c] * 3, LAYERS, methods, rule=rule)
    torch.testing.assert_close(z.logits.sigmoid(), halves.logits.softmax(1))
    for method, layer in itertools.product(methods, LAYERS):
        expected = minmax(halves.maps[method][layer])
        torch.testing.assert_close(minmax(z.maps[method][layer]), expected, rtol=0, atol=1e-9)
    S, G_c, G_J = gradients(one, IMAGES, [c] * 3, ["conv1"], rule=rule, head="sigmoid")["conv1"]
    torch.testing.assert_close(n(G_J), -n(G_c))  # so that DGL is G_c (n(S) + n(G_c)), SGL-G1 up to a factor
    torch.testing.assert_close(minmax(module.dgl(S, G_c, G_J)), minmax(module.sgl_g1(S, G_c)), rtol=0, atol=1e-9)


def test_one_logits_classes_are_no_and_yes() -> None:
    one, _ = with_one_logit()
    with torch.no_grad():
        z = one.eval()(IMAGES)
    out = gradients(one, IMAGES, None, ["relu2"], head="sigmoid", needs=["G_c", "w_c"])
    torch.testing.assert_close(out.logits, torch.cat([-z, z], 1))
    assert torch.equal(out.classes, (z[:, 0] > 0).long())
    no, yes = (gradients(one, IMAGES, [c] * 3, ["relu2"], head="sigmoid", needs=["G_c", "w_c"]) for c in (0, 1))
    assert torch.equal(no["relu2"].G_c, -yes["relu2"].G_c) and yes["relu2"].G_c.any()
    assert torch.equal(yes.heads["relu2"], one.fc.weight.detach().expand(3, -1))
    assert torch.equal(no.heads["relu2"], -yes.heads["relu2"])
    maps = localize(one, IMAGES, [0, 1, 1], ["relu2"], ["cam", "dgl"], head="sigmoid").maps
    torch.testing.assert_close(minmax(maps["cam"]["relu2"]), minmax(maps["dgl"]["relu2"]))
    with pytest.raises(UserError, match="head: 'softmax' given for a network with one logit, 'sigmoid' needed"):
        dual_gradients(one, IMAGES, [0, 0, 0], ["conv1"])


def test_another_label_does_not_count_for_a_sigmoid() -> None:
    """By the softmax each logit moves every map; by the sigmoid only the label's own does."""
    model, other = deep(), deep()
    with torch.no_grad():
        other.fc.weight[1] += 1.0
    for head, same in (("sigmoid", True), ("softmax", False)):
        maps = [
            dual_gradients(net, IMAGES, [0, 2, 0], ["conv1"], alpha=2.0, head=head)["conv1"] for net in (model, other)
        ]
        assert torch.allclose(*maps, rtol=1e-9, atol=0) == same


def test_alpha_is_ten_and_the_rule_the_released_one_unless_said_otherwise() -> None:
    model, given = deep(), {"alpha": 10.0, "rule": "released"}
    for call in (gradients, dual_gradients):
        plain, said = call(model, IMAGES, CLASSES, ["conv1"]), call(model, IMAGES, CLASSES, ["conv1"], **given)
        assert all(torch.equal(a, b) for a, b in zip(plain["conv1"], said["conv1"], strict=True))


def test_alpha_counts_in_the_released_rule_only() -> None:
    model = deep()
    one, ten = (dual_gradients(model, IMAGES, CLASSES, ["conv1"], alpha=a)["conv1"] for a in (1.0, 10.0))
    assert (minmax(one) - minmax(ten)).abs().max() > 0.02
    autograd = [dual_gradients(model, IMAGES, CLASSES, ["conv1"], alpha=a, rule="autograd")["conv1"] for a in (1.0, 10)]
    assert torch.equal(*autograd)
    torch.testing.assert_close(one, autograd[0])


@pytest.mark.parametrize("rule", ["released", "autograd"])
@pytest.mark.parametrize("layer", LAYERS)
def test_dgl_is_the_closed_form_on_every_layer(layer: str, rule: str) -> None:
    model = deep()
    for alpha in (1.0, 10.0):
        got = dual_gradients(model, IMAGES, CLASSES, [layer], alpha=alpha, rule=rule)[layer]
        torch.testing.assert_close(got, reference(model, layer, IMAGES, CLASSES, alpha, rule))


# ------------------------------------------------------------------------------------------------- the last layer


@pytest.mark.parametrize("rule", ["released", "autograd"])
@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("bias", [0.0, -30.0, 1000.0])
def test_on_the_last_layer_all_are_cam(rule: str, alpha: float, bias: float) -> None:
    model = deep(bias).train()  # dropout is switched off inside
    methods = ["dgl", "cam", "pixel_selection", "grad_cam_signed"]
    maps = localize(model, IMAGES, CLASSES, ["relu2"], methods, alpha=alpha, rule=rule).maps
    for method in methods:
        torch.testing.assert_close(minmax(maps[method]["relu2"]), minmax(maps["cam"]["relu2"]), rtol=1e-9, atol=1e-9)


def test_on_the_last_layer_of_spg_plain_all_are_cam() -> None:
    torch.manual_seed(0)
    model = spg_plain(4, width=1 / 16).double()
    nn.init.normal_(model.fc.bias)
    images = draw(2, 3, 64, 64)
    for rule in RULES:
        maps = localize(model, images, None, ["add1"], ["dgl", "cam", "pixel_selection", "grad_cam_signed"], rule=rule)
        for by_layer in maps.maps.values():
            torch.testing.assert_close(minmax(by_layer["add1"]), minmax(maps.maps["cam"]["add1"]), rtol=1e-7, atol=1e-9)


# --------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("bias", [-5.0, 0.0, 5.0, 30.0])
def test_minus_the_autograd_gradient_is_the_margins(bias: float) -> None:
    """n(-G_J) = n(G_c - sum_{j != c} q_j G_j), q_j = p_j / (1 - p_c)."""
    model = deep(bias)
    c = torch.zeros(3, dtype=torch.long)
    _, logits, G = jacobians(model, "conv1", IMAGES)
    q = logits[:, 1:].softmax(1)
    margin = G[:, 0] - torch.einsum("nc,nckhw->nkhw", q, G[:, 1:])
    G_J = gradients(model, IMAGES, c, ["conv1"], rule="autograd")["conv1"].G_J
    torch.testing.assert_close(n(-G_J), n(margin), rtol=1e-8, atol=1e-10)


def test_released_tends_to_sgl_g1_with_the_stated_order() -> None:
    """As p_c -> 1: n(G_J) -> -n(G_c) and DGL -> SGL-G1 with an error of order (1 - p_c) / (alpha - p_c).

    Each step halves 1 - p_c by the class's bias, which leaves G_c as it is. The error must halve with it.
    """
    image, c, alpha = IMAGES[:1], torch.tensor([0]), 10.0
    with torch.no_grad():
        rest = deep().eval()(image)
    gap = float(rest[0, 0] - rest[0, 1:].logsumexp(0))
    errors = []
    for halvings in range(10, 14):
        distance = 2.0**-halvings
        model = deep(math.log((1 - distance) / distance) - gap)
        found = gradients(model, image, c, ["conv1"], alpha=alpha)
        S, G_c, G_J = found["conv1"]
        p_c = found.logits.softmax(1)[0, 0]
        torch.testing.assert_close(float(1 - p_c), distance)
        order = float((1 - p_c) / (alpha - p_c))
        tail = float((n(G_J) + n(G_c)).norm())
        to_sgl = float((minmax(module.dgl(S, G_c, G_J)) - minmax(module.sgl_g1(S, G_c))).abs().max())
        assert tail < 2 * order
        errors.append((tail, to_sgl, order))
    for before, after in itertools.pairwise(errors):
        np.testing.assert_allclose(np.divide(after, before), 0.5, rtol=2e-3)


def test_the_error_falls_with_alpha_as_stated() -> None:
    """The same order, along alpha at one p_c: error times (alpha - p_c) is a constant."""
    model, image, c = deep(12.0), IMAGES[:1], torch.tensor([0])
    scaled = []
    for alpha in (2.0, 10.0, 100.0):
        found = gradients(model, image, c, ["conv1"], alpha=alpha)
        _, G_c, G_J = found["conv1"]
        scaled.append(float((n(G_J) + n(G_c)).norm() * (alpha - found.logits.softmax(1)[0, 0])))
    np.testing.assert_allclose(scaled, scaled[0], rtol=1e-3)


def test_alpha_below_p_c_flips_the_enhancement() -> None:
    found = gradients(deep(12.0), IMAGES[:1], [0], ["conv1"], alpha=0.5)["conv1"]
    torch.testing.assert_close(n(found.G_J), n(found.G_c), rtol=1e-3, atol=1e-4)


def test_scaling_the_class_gradient_changes_nothing_after_minmax() -> None:
    S, G_c, G_J = gradients(deep(), IMAGES, CLASSES, ["conv1"])["conv1"]
    for scale in (1e-3, 7.0):
        torch.testing.assert_close(minmax(module.dgl(S, scale * G_c, G_J)), minmax(module.dgl(S, G_c, G_J)))


def test_a_batch_gives_what_its_images_give_one_by_one() -> None:
    torch.manual_seed(0)
    model = spg_plain(4, width=1 / 16)
    images = torch.randn(3, 3, 64, 64)
    layers, methods = ["Mixed_6e", "add1", "Mixed_6a"], list(METHODS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = localize(model, images, None, layers, methods)
        for i in range(3):
            one = localize(model, images[i : i + 1], None, layers, methods)
            assert one.classes[0] == batch.classes[i]
            for method, by_layer in batch.maps.items():
                for layer, m in by_layer.items():
                    difference = (minmax(m[i]) - minmax(one.maps[method][layer][0])).abs().max()
                    assert difference < 1e-5, (method, layer)


# ---------------------------------------------------------------------------------- the tests above can fail


def flipped(S: Tensor, G_J: Tensor) -> Tensor:
    return n(S) + n(G_J)


def ignoring_alpha(logits: Tensor, classes: Tensor, alpha: float) -> Tensor:
    return logits.logsumexp(1) - logits.gather(1, classes[:, None])[:, 0]


def with_ones(S: Tensor, G_c: Tensor, G_J: Tensor) -> Tensor:
    return enhance(S, G_J).sum(1)


@pytest.mark.parametrize("mutant", ["none", "sign", "alpha", "ones"])
def test_broken_formulas_are_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant == "sign":
        monkeypatch.setattr(module, "enhance", flipped)
    elif mutant == "alpha":
        monkeypatch.setitem(RULES, "released", ignoring_alpha)
    elif mutant == "ones":
        monkeypatch.setitem(module._FORMULAS, "dgl", with_ones)
    model = deep()
    for layer in ("conv1", "relu1", "conv2"):
        got = minmax(dual_gradients(model, IMAGES, CLASSES, [layer])[layer])
        difference = (got - minmax(reference(model, layer, IMAGES, CLASSES, 10.0, "released"))).abs().amax((1, 2))
        if mutant == "none":
            assert difference.max() < 1e-10
        else:  # by far more than any rounding
            assert difference.max() > 0.02, (mutant, layer)


# ------------------------------------------------------------------------------------------- CAM, where it exists


def test_cam_is_left_out_with_one_warning() -> None:
    with pytest.warns(UserWarning, match="conv1, conv2") as told:
        out = localize(deep(), IMAGES, CLASSES, ["conv1", "relu2", "conv2"], ["cam", "dgl", "layer_cam"])
    assert len(told) == 1 and told[0].filename == __file__
    assert list(out.maps["cam"]) == ["relu2"] and list(out.maps["dgl"]) == ["conv1", "relu2", "conv2"]


def test_cam_alone_where_it_does_not_exist_is_an_error_with_the_reason() -> None:
    with pytest.raises(
        UserError, match=r"cam needs logits = fc\(mean .* is not so on conv1; grad_cam_signed stands in"
    ):
        METHODS["cam"](deep(), IMAGES, CLASSES, ["conv1"])


def test_the_head_is_found_by_value_not_by_shape_or_name() -> None:
    """SPG-plain's add2 and add1 have the same channels; a large bias must not make add2 look like the last layer."""
    torch.manual_seed(0)
    model = spg_plain(3, width=1 / 16).double()
    nn.init.constant_(model.fc.bias, 1e4)
    found = gradients(model, draw(2, 3, 64, 64), [2, 0], ["add2", "add1"], needs=["w_c"])
    assert list(found.heads) == ["add1"]
    assert torch.equal(found.heads["add1"], model.fc.weight[[2, 0]])
    for bias in (1e4, 1e5):  # float32 digits that the bias swallows do not hide the true head
        nn.init.constant_(model.float().fc.bias, bias)
        rounded = gradients(model, draw(2, 3, 64, 64).float(), [2, 0], ["add1"], needs=["w_c"])
        assert list(rounded.heads) == ["add1"]

    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoy, self.body, self.answer = nn.Linear(6, 3), deep()[:4], nn.Linear(6, 3, bias=False)
            self.near = nn.Linear(6, 3, bias=False)
            self.near.weight.data = 1.1 * self.answer.weight.data

        def forward(self, x: Tensor) -> Tensor:
            return self.answer(self.body(x).mean((2, 3)))

    model = Renamed().double()
    found = gradients(model, IMAGES, CLASSES, ["body"], needs=["w_c"])
    assert torch.equal(found.heads["body"], model.answer.weight[CLASSES])


@pytest.mark.parametrize("order", ["pool first", "convolution first"])
def test_a_head_may_be_a_convolution(order: str) -> None:
    """BiT and timm's resnetv2 pool first; a fully convolutional network pools last. A ReLU in between ends it."""
    body, head = deep()[:4], nn.Conv2d(6, 3, 1).double()
    for inner in ([], [nn.ReLU()]):
        ends = (
            [nn.AdaptiveAvgPool2d(1), *inner, head]
            if order == "pool first"
            else [head, *inner, nn.AdaptiveAvgPool2d(1)]
        )
        out = gradients(nn.Sequential(body, *ends, nn.Flatten()), IMAGES, CLASSES, ["0"], needs=["w_c", "G_c"])
        if inner and order == "convolution first":
            assert not out.heads
        else:  # after the body's own ReLU, one after the pooling changes nothing
            assert torch.equal(out.heads["0"], head.weight[CLASSES, :, 0, 0])
            torch.testing.assert_close(out.heads["0"], out["0"].G_c.sum((2, 3)))  # w_c = hw G_c, everywhere
    wide = nn.Conv2d(6, 3, 3, padding=1).double()  # of the same channels, and no linear function of the mean
    assert not gradients(nn.Sequential(body, wide, nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGES, None, ["0"]).heads


# --------------------------------------------------------------------------------------------- one pass for all


@pytest.mark.parametrize(
    ("methods", "backward"),
    [
        (["cam"], 0),
        (["features", "cam"], 0),
        (["pixel_selection", "layer_cam", "grad_cam"], 1),
        (["enhanced_map", "sgl_g2"], 1),
        (["dgl"], 2),
        ([*METHODS, "features"], 2),
    ],
)
@pytest.mark.filterwarnings("ignore:cam needs")
def test_the_network_runs_once(methods: list[str], backward: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, forward, calls = deep(), [], []
    for child in model.children():
        child.register_forward_hook(lambda m, *_: forward.append(m))
    true_grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or true_grad(*a, **k))
    out = localize(model, IMAGES, None, LAYERS, methods)
    assert forward == list(model.children()) and len(calls) == backward
    assert set(out.maps) == set(methods) and all(list(out.maps[m]) == LAYERS for m in methods if m != "cam")


def test_layers_and_methods_together_give_what_each_gives_alone() -> None:
    model = deep()
    with pytest.warns(UserWarning):
        together = localize(model, IMAGES, CLASSES, LAYERS, list(METHODS))
    for method, single in METHODS.items():
        for layer, m in together.maps[method].items():
            assert m.shape == IMAGES[:, 0].shape and not m.requires_grad
            torch.testing.assert_close(single(model, IMAGES, CLASSES, [layer])[layer], m)


def test_what_comes_back() -> None:
    model = deep()
    out = gradients(model, IMAGES, None, ["relu2", "conv1"])
    with torch.no_grad():
        logits = model.eval()(IMAGES)
    torch.testing.assert_close(out.logits, logits)
    assert torch.equal(out.classes, logits.argmax(1)) and list(out) == ["relu2", "conv1"]
    for S, G_c, G_J in out.values():
        assert S.shape == G_c.shape == G_J.shape and not (S.requires_grad or G_c.requires_grad or G_J.requires_grad)
    assert gradients(model, IMAGES, [0, 0, 0], ["conv1"], needs=["G_c"])["conv1"].G_J is None
    assert set(METHODS) == {
        *("cam", "grad_cam", "grad_cam_signed", "grad_cam_pp", "layer_cam"),
        *("pixel_selection", "enhanced_map", "enhanced_map_positive", "enhanced_map_norm", "sgl_g1", "sgl_g2", "dgl"),
    }
    assert module.CONTROLS == ("features", "features_positive", "features_norm", "gradient_term")
    assert gradients(model, IMAGES, CLASSES, ["conv1"], alpha=1e6)["conv1"].G_J.isfinite().all()  # the highest allowed
    for classes in ([0, 2, 1], np.array([0, 2, 1]), CLASSES.int()):
        again = gradients(model, IMAGES, classes, ["conv1"])["conv1"]
        assert torch.equal(again.G_c, gradients(model, IMAGES, CLASSES, ["conv1"])["conv1"].G_c)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "relased"}, "rule: 'relased' given, one of released, autograd allowed"),
        ({"head": "sigmoids"}, "head: 'sigmoids' given, one of softmax, sigmoid allowed"),
        ({"alpha": 0.0}, "alpha: 0.0 given"),
        ({"alpha": float("nan")}, "alpha: nan given"),
        ({"alpha": "10"}, "alpha: '10' given"),
        ({"alpha": 1e39}, r"alpha: 1e\+39 given, a number in \(0, 1e6\] allowed"),
        ({"alpha": float("inf")}, "alpha: inf given"),
        ({"classes": [0, 1]}, r"classes: \(2,\) torch.int64 given for 3 images"),
        ({"classes": 1}, r"classes: \(\) torch.int64 given for 3 images"),
        ({"classes": [0.0, 1.0, 2.0]}, r"torch.float32 given for 3 images, one whole number"),
        ({"classes": [[0], [1], [2]]}, r"classes: \(3, 1\)"),
        ({"classes": [0, 1, 3]}, r"classes: 0\.\.3 given, 0\.\.2 allowed"),
        ({"classes": [0, -1, 1]}, r"classes: -1\.\.1 given"),
        ({"classes": [False, True, True]}, "torch.bool given for 3 images, one whole number"),
        ({"classes": torch.zeros(3, dtype=torch.complex64)}, "torch.complex64 given for 3 images, one whole number"),
        ({"images": IMAGES[:0]}, r"images: \(0, 3, 7, 6\)"),
        (
            {"images": IMAGES.index_fill(0, torch.tensor(1), float("nan"))},
            "images: 126 of 378 values are NaN or inf",
        ),
        (
            {"images": IMAGES.index_fill(0, torch.tensor(2), float("inf"))},
            "images: 126 of 378 values are NaN or inf",
        ),
        ({"images": IMAGES[0]}, r"images: \(3, 7, 6\)"),
        ({"images": torch.zeros(3, 3, 7, 6, dtype=torch.uint8)}, r"torch.uint8 given, float N x 3 x H x W"),
        ({"layers": ["conv3"]}, r"layer 'conv3' is not in Sequential; near it: conv\d, conv\d"),
        ({"layers": []}, "layers"),
        ({"layers": "conv1"}, "a list of at least one"),
        ({"layers": ["fc"]}, r"layer 'fc' gives \(3, 3\)"),
        ({"methods": ["dgll"]}, "method: 'dgll' given, one of cam, grad_cam"),
        ({"methods": []}, "at least one method"),
        ({"methods": "dgl"}, "a list of at least one method"),
    ],
)
def test_what_is_refused(change: dict, message: str) -> None:
    arguments = {"images": IMAGES, "classes": CLASSES, "layers": ["conv1"], "methods": ["dgl"]} | change
    with pytest.raises(UserError, match=message) as told:
        localize(deep(), **arguments)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308])
def test_weights_that_give_no_number_are_refused(value: float) -> None:
    """1e308 is a number; what it makes of the images is none."""
    model = deep()
    nn.init.constant_(model.conv2.weight, value)
    with pytest.raises(UserError, match=r"^logits: \d of 9 values are NaN or infinite, finite ones needed"):
        localize(model, IMAGES, CLASSES, ["conv1"], ["cam", "dgl"])


def test_a_gradient_beyond_the_largest_number_is_refused() -> None:
    model = deep()
    for part in (model.conv2, model.fc):
        nn.init.constant_(part.weight, 1e200)
    for part in (model.conv1.weight, model.conv1.bias):
        nn.init.zeros_(part)
    nn.init.constant_(model.conv2.bias, -1.0)  # the second ReLU is off, and the gradient a true zero
    assert not gradients(model, IMAGES, CLASSES, ["relu1"])["relu1"].G_c.any()
    nn.init.constant_(model.conv2.bias, 1e-300)  # now it is on, and 1e200 times 1e200 comes back
    with pytest.raises(UserError, match=r"^gradient on layer 'relu1': \d+ of 630 values are NaN or infinite"):
        gradients(model, IMAGES, CLASSES, ["relu1"])


def test_lists_may_be_any_that_can_be_run_through() -> None:
    expected = localize(deep(), IMAGES, CLASSES, LAYERS, ["dgl", "features"])
    found = localize(deep(), IMAGES, CLASSES, iter(LAYERS), (name for name in ("dgl", "features")))
    assert {m: list(of) for m, of in found.maps.items()} == {"dgl": LAYERS, "features": LAYERS}
    assert all(torch.equal(expected.maps[m][layer], found.maps[m][layer]) for m in found.maps for layer in LAYERS)
    assert list(gradients(deep(), IMAGES, CLASSES, iter(["conv1"]))) == ["conv1"]
    with pytest.raises(UserError, match="at least one method"):
        localize(deep(), IMAGES, CLASSES, LAYERS, iter([]))


def test_a_layer_the_logits_do_not_depend_on_is_refused() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aside = deep(), nn.Conv2d(3, 2, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return self.main(x)

    for layers in (["aside"], ["aside", "main.conv1"]):
        with pytest.raises(UserError, match="do not depend on layer 'aside'"):
            gradients(Aside(), IMAGES, CLASSES, layers)


def test_a_model_without_logits_is_refused() -> None:
    with pytest.raises(UserError, match=r"the model gives \(3, 6, 7, 6\), logits N x classes are needed"):
        gradients(deep()[:4], IMAGES, CLASSES, ["conv1"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_callers_autocast_is_the_networks_alone(dtype: torch.dtype) -> None:
    """Features and logits are rounded then. Losses, formulas and the search for CAM's head are exact all the same."""
    torch.manual_seed(0)
    model, images = spg_plain(3, width=1 / 16).eval(), torch.randn(2, 3, 64, 64)
    expected = localize(model, images, [0, 1], ["add1"], list(METHODS))
    with torch.autocast("cpu", dtype):
        found = localize(model, images, [0, 1], ["add1"], list(METHODS))
    for method, by_layer in expected.maps.items():
        m, exact = found.maps[method]["add1"], by_layer["add1"]
        assert m.dtype == torch.float32 and not torch.equal(m, exact), method
        assert float((m - exact).abs().max()) < 0.1 * float(exact.abs().max()), method


def test_classes_made_in_inference_mode_can_be_asked_for() -> None:
    torch.manual_seed(0)
    model, images = spg_plain(3, width=1 / 16).eval(), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        c = model(images).argmax(1)
    found = localize(model, images, c, ["add1"], ["dgl"]).maps["dgl"]["add1"]
    assert torch.equal(found, localize(model, images, None, ["add1"], ["dgl"]).maps["dgl"]["add1"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_classes_may_be_of_any_whole_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, images = spg_plain(3, width=1 / 16).eval(), torch.randn(2, 3, 64, 64)
    found, expected = (
        localize(model, images, c, ["add1"], ["dgl"]) for c in (torch.tensor([2, 0], dtype=dtype), [2, 0])
    )
    assert torch.equal(found.maps["dgl"]["add1"], expected.maps["dgl"]["add1"])


def test_images_that_are_no_tensor_are_refused() -> None:
    with pytest.raises(UserError, match=r"^images: ndarray given, a float tensor N x 3 x H x W needed"):
        localize(spg_plain(3, width=1 / 16), np.zeros((1, 3, 64, 64)), None, ["add1"], ["dgl"])
