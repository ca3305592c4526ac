"""The network made for speed: the same function, in another memory layout and with its batch norms folded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dgl_lib import fast
from dgl_lib.localize import CONTROLS, METHODS, localize
from dgl_lib.maps import minmax
from dgl_lib.models import LAYERS, NETWORKS, Classifier

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
CLASSES = [2, 0, 1]


@pytest.fixture(scope="module", params=list(NETWORKS))
def model(request: pytest.FixtureRequest) -> Classifier:
    """A narrow network whose batch norms have settled on these images, none of them the identity."""
    torch.manual_seed(0)
    network = NETWORKS[request.param](3, width=1 / 8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        network.train()(IMAGES)
        network.fc.weight.mul_(30)
    return network.eval()


def every(model: Classifier) -> dict[tuple[str, str], torch.Tensor]:
    """Every method's map on the last three layers, min-maxed."""
    layers = [layer.name for layer in LAYERS[model.architecture]][-3:]
    out = localize(model, IMAGES, CLASSES, layers, [*METHODS, *CONTROLS])
    return {(name, at): minmax(m) for name, by_layer in out.maps.items() for at, m in by_layer.items()}


@pytest.mark.filterwarnings("ignore:cam needs")
def test_folded_batch_norms_give_the_same_maps(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "bf16_pays", lambda *_: False)
    quick = fast.faster(model, [], 64)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    assert not any(module.training for module in quick.modules())
    assert next(quick.parameters()).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(quick(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)
    for pair, m in every(model).items():
        torch.testing.assert_close(every(quick)[pair], m, rtol=0, atol=2e-3, msg=str(pair))


@pytest.mark.filterwarnings("ignore:cam needs")
def test_bfloat16_gives_nearly_the_same_maps(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "bf16_pays", lambda *_: True)
    quick = fast.faster(model, [], 64)
    assert quick.fc.weight.dtype == torch.bfloat16
    for (name, at), m in every(quick).items():
        assert m.dtype == torch.float32
        if name == "dgl":
            both = torch.stack([m.flatten(), every(model)[name, at].flatten()])
            assert torch.corrcoef(both)[0, 1] > 0.8, at  # noise on a few cells


def test_the_network_itself_stays_as_it_was(model: Classifier) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast.faster(model, [], 64)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) or model.architecture == "vgg16_gap"


def test_a_batch_norm_that_is_asked_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "bf16_pays", lambda *_: False)
    quick = fast.faster(NETWORKS["spg_plain"](3, width=1 / 16), ["Mixed_5b.branch1x1.bn"], 64)
    kept = [name for name, module in quick.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert kept == ["Mixed_5b.branch1x1.bn"]


def test_another_network_is_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of its modules says nothing of the order in which they run."""

    class Swapped(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[0](self[1](x)).mean((2, 3))

    monkeypatch.setattr(fast, "bf16_pays", lambda *_: False)
    model = Swapped(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    model[1].running_mean.fill_(0.5)
    torch.testing.assert_close(fast.faster(model, [], 64)(IMAGES), model(IMAGES))


def test_whether_bfloat16_pays_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_pays", {})
    model, calls = NETWORKS["spg_plain"](3, width=1 / 16).eval(), []
    clock = iter([0, 1, 0, 2, 0, 3, 0, 0.5, 0, 9, 0, 9])  # float32, bfloat16, and so on: best 1 and 0.5 seconds
    monkeypatch.setattr(fast.time, "perf_counter", lambda: calls.append(0) or next(clock))
    assert fast.bf16_pays(model, 32) is True
    assert fast.bf16_pays(NETWORKS["spg_plain"](3, width=1 / 16).eval(), 32) is True
    assert len(calls) == 12


def test_bfloat16_is_measured_against_float32_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting can be read and set without a GPU. Of TF32 it would often be the slower one."""
    convolutions, seen = torch.backends.cudnn.conv, []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fast, "_pays", {})
    model = NETWORKS["spg_plain"](3, width=1 / 16)
    model.fc.register_forward_hook(lambda *_: seen.append(convolutions.fp32_precision))
    before, convolutions.fp32_precision = convolutions.fp32_precision, "tf32"
    try:
        fast.bf16_pays(model, 32)
    finally:
        convolutions.fp32_precision = before
    assert seen == ["ieee"] * 6


def test_formulas_are_compiled_for_many_maps_where_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    device, asked = torch.device("cpu"), []

    def compile(function: object) -> object:
        asked.append(function)
        return lambda _: None

    monkeypatch.setattr(torch, "compile", compile)
    assert not fast.compiling_pays(device, fast.COMPILE_FROM["cpu"] - 1)
    assert not fast.compiling_pays(torch.device("meta"), 10**9)
    assert not asked
    assert fast.compiling_pays(device, fast.COMPILE_FROM["cpu"]) and asked

    def fail(_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda _: fail)
    assert not fast.compiling_pays(device, fast.COMPILE_FROM["cpu"])


def test_compiled_code_gives_the_same_maps(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast.compiling_pays(torch.device("cpu"), 10**6):
        pytest.skip("no C++ compiler here")
    monkeypatch.setattr(fast, "bf16_pays", lambda *_: True)
    quick, layers = fast.faster(model, [], 64), [layer.name for layer in LAYERS[model.architecture]][-2:]
    plain, found = (localize(quick, IMAGES, CLASSES, layers, ["dgl"], compiled=c).maps["dgl"] for c in (False, True))
    for layer, m in plain.items():
        assert found[layer].dtype == torch.float32
        torch.testing.assert_close(found[layer], m, rtol=1e-5, atol=1e-5 * float(m.abs().max()))


def test_batch_norms_of_few_channels_work_plane_by_plane_to_the_same_gradients() -> None:
    torch.manual_seed(0)
    network = NETWORKS["spg_plain"](3, width=1 / 16).double().to(memory_format=torch.channels_last)
    narrow = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.num_features % 16]
    planes: list[bool] = []

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(1)  # of dropout
        network.zero_grad()
        network(IMAGES.double().contiguous(memory_format=torch.channels_last)).square().sum().backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    def look(_: nn.Module, given: tuple[torch.Tensor], out: torch.Tensor) -> None:
        planes.append(given[0].is_contiguous())
        norm = out.grad_fn.next_functions[0][0]  # before the copy that makes channels last of its output
        norm.register_prehook(lambda G: planes.append(G[0].is_contiguous()))

    before = gradients()
    with fast.narrow_norms(network):
        handles = [norm.register_forward_hook(look) for norm in narrow]
        now = gradients()
    assert planes == [True] * 2 * len(narrow) != []
    for handle in handles:
        handle.remove()
    for old, new in zip(before, now, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-9, atol=1e-12 * float(old.abs().max()))
