"""Reading and replacing a module's output: the true output, on any network, and nothing left behind."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from dgl_lib.errors import UserError
from dgl_lib.localize import gradients, localize
from dgl_lib.models import digest, spg_plain
from dgl_lib.taps import find, frozen, replace, tap


def vgg_like(inplace: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    convolution = [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(inplace),
    ]
    return nn.Sequential(nn.Sequential(*convolution), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)).double()


IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def flags(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()] + [p.requires_grad for p in model.parameters()]


# --------------------------------------------------------------------------------------------------- the true output


def test_what_is_tapped_is_the_true_output_before_an_in_place_relu() -> None:
    model = vgg_like()
    found = gradients(model, IMAGES, None, ["0.0", "0.1", "0.3"])
    convolved = model[0][0](IMAGES)
    assert convolved.min() < 0
    assert torch.equal(found["0.0"].S, convolved) and torch.equal(found["0.1"].S, convolved.relu())
    model(IMAGES)
    assert torch.equal(found["0.0"].S, convolved)  # nor is it overwritten by a later pass


@pytest.mark.parametrize("inplace", [False, True])
def test_a_tapped_output_is_copied_only_where_something_overwrites_it(inplace: bool) -> None:
    model, shared = vgg_like(inplace), []
    model[0][4].register_forward_hook(lambda m, inputs, o: shared.append(torch._C._is_cow_tensor(inputs[0])))
    gradients(model, IMAGES, None, ["0.2", "0.3"])
    assert shared == [not inplace]


def test_memory_that_is_not_torchs_own_can_be_tapped() -> None:
    class Foreign(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy())

    model = nn.Sequential(Foreign(), *vgg_like())
    assert torch.equal(gradients(model, IMAGES, None, ["0", "1.0"])["0"].S, IMAGES)


def test_gradients_do_not_feel_in_place_activations() -> None:
    layers = ["0.0", "0.1", "0.2", "0.3", "0.4"]
    a, b = (gradients(vgg_like(inplace), IMAGES, None, layers) for inplace in (True, False))
    for layer in layers:
        for X, Y in zip(a[layer], b[layer], strict=True):
            assert torch.equal(X, Y)


def test_a_container_and_its_last_child_give_the_same() -> None:
    found = gradients(vgg_like(), IMAGES, None, ["0", "0.4"])
    for X, Y in zip(found["0"], found["0.4"], strict=True):
        assert torch.equal(X, Y)


def test_no_gradient_is_taken_below_the_shallowest_layer() -> None:
    model = vgg_like()
    with frozen(model), tap(model, ["0.3"]) as outputs:
        logits = model(IMAGES)
    assert outputs["0.3"].is_leaf and logits.requires_grad and not IMAGES.requires_grad
    assert all(p.grad is None for p in model.parameters())


# ----------------------------------------------------------------------------------------- nothing is left behind


class Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken on purpose")


@pytest.mark.parametrize("broken", [False, True])
def test_hooks_and_flags_come_back_module_by_module(broken: bool) -> None:
    """A frozen batch norm inside a network in training stays frozen; a weight without gradient stays without."""
    torch.manual_seed(0)
    head = [Raising()] if broken else []
    norm = nn.BatchNorm2d(4)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), norm, *head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).train()
    norm.eval()
    model[0].bias.requires_grad_(False)
    model[0].register_forward_hook(lambda *_: None)  # someone else's hook stays
    before, weights, count = flags(model), digest(model), hooks(model)
    if broken:
        with pytest.raises(RuntimeError, match="on purpose"):
            gradients(model, IMAGES.float(), None, ["0"])
    else:
        gradients(model, IMAGES.float(), None, ["0", "1"])
    assert (flags(model), digest(model), hooks(model)) == (before, weights, count) and count == 1
    assert any(before) and not all(before)
    assert all(p.grad is None for p in model.parameters())


def test_hooks_go_away_after_a_refused_layer() -> None:
    model = vgg_like()
    before = flags(model)
    for layers in (["0.0", "nowhere"], ["0.0", "3"]):
        with pytest.raises(UserError):
            gradients(model, IMAGES, None, layers)
        assert hooks(model) == 0 and flags(model) == before


def test_a_scripted_module_is_refused_and_leaves_no_hook() -> None:
    model = vgg_like()
    model[0][2] = torch.jit.script(model[0][2])
    with pytest.raises(UserError, match=r"'0\.2' is compiled by TorchScript, which takes no hooks"):
        gradients(model, IMAGES, None, ["0.0", "0.2"])
    assert len(model[0][0]._forward_hooks) == 0


def test_weights_of_inference_mode_are_refused_untouched() -> None:
    with torch.inference_mode():
        model = vgg_like().train()
    before = flags(model)
    with pytest.raises(UserError, match="made in inference mode"):
        gradients(model, IMAGES, None, ["0.0"])
    assert flags(model) == before and model.training


def test_weights_and_statistics_are_bit_identical_after_localizing() -> None:
    torch.manual_seed(0)
    model = spg_plain(3, width=1 / 16).train()  # in training mode a pass would move the running statistics
    before = digest(model)
    localize(model, torch.randn(2, 3, 64, 64), None, ["Mixed_6e"], ["dgl"])
    assert digest(model) == before
    with torch.no_grad():
        model.fc.bias[0] += 1e-7
    assert digest(model) != before  # the digest sees a single bit


# -------------------------------------------------------------------------------------------------- modes of a caller


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("own", ["tf32", "ieee"])
def test_float32_is_exact_on_a_gpu_and_the_flags_come_back(gpu: bool, own: str, monkeypatch) -> None:
    """What a GPU would round to 11 bits; the flags can be read and set without one. Nobody else's are touched."""
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(cudnn, "deterministic", True)
    before, cudnn.conv.fp32_precision = cudnn.conv.fp32_precision, own
    try:
        for _ in range(2):
            with frozen(vgg_like()):
                assert (cudnn.conv.fp32_precision, cudnn.deterministic) == ("ieee" if gpu else own, True)
            assert cudnn.conv.fp32_precision == own
    finally:
        cudnn.conv.fp32_precision = before


@pytest.mark.parametrize("setting", ["torch.backends.fp32_precision", "torch.backends.cudnn.conv.fp32_precision"])
def test_torchs_own_switch_of_precision_may_be_set(setting: str) -> None:
    """In a process of its own, as torch does not let it be undone."""
    lines = ["import torch, torch.nn as nn", "from dgl_lib.localize import localize", f"{setting} = 'ieee'"]
    lines += ["model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))"]
    lines += ["print(*localize(model, torch.rand(1, 3, 9, 9), None, ['0'], ['dgl']).maps['dgl']['0'].shape)"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.stdout == "1 7 7\n", done.stderr


def test_a_frozen_model_and_no_grad_and_inference_mode_work() -> None:
    model = vgg_like()
    expected = gradients(model, IMAGES, None, ["0.0"])["0.0"]
    fixed = copy.deepcopy(model).requires_grad_(False)
    results = [gradients(fixed, IMAGES, None, ["0.0"])["0.0"]]
    with torch.no_grad():
        results.append(gradients(model, IMAGES, None, ["0.0"])["0.0"])
    with torch.inference_mode():
        results.append(gradients(model, IMAGES, None, ["0.0"])["0.0"])
        results.append(gradients(model, IMAGES.clone(), None, ["0.0"])["0.0"])  # an inference tensor
    for got in results:
        for X, Y in zip(got, expected, strict=True):
            assert torch.equal(X, Y)


def test_an_inference_tensor_can_be_the_tapped_layers_own_output() -> None:
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).double()
    with torch.inference_mode():
        images = IMAGES.clone()
    assert torch.equal(gradients(model, images, [0, 1], ["0"])["0"].S, IMAGES)


def test_a_tapped_layer_that_hands_on_the_images_leaves_them_without_gradient() -> None:
    model, images = nn.Sequential(nn.Identity(), *vgg_like()), IMAGES.clone()
    with frozen(model), tap(model, ["0"]) as outputs:
        model(images)
    assert outputs["0"].requires_grad and not images.requires_grad


def test_a_network_whose_code_is_compiled_runs_without_that_code() -> None:
    model = vgg_like()
    expected = gradients(model, IMAGES, None, ["0.3"])["0.3"].G_c
    model.eval().requires_grad_(False).compile(backend="eager")
    model(IMAGES)  # the code is made without hooks, and would not see them
    assert torch.equal(gradients(model, IMAGES, None, ["0.3"])["0.3"].G_c, expected)


def test_images_are_left_alone() -> None:
    images = IMAGES.clone().requires_grad_()
    gradients(vgg_like(), images, None, ["0.0"])
    assert images.grad is None and torch.equal(images, IMAGES)
    in_place = nn.Sequential(nn.ReLU(inplace=True), *vgg_like())  # whose first act is to overwrite its input
    gradients(in_place, images, None, ["1.0"])
    assert torch.equal(images, IMAGES)


# --------------------------------------------------------------------------------------------------- what is refused


class Repeated(nn.Module):
    def __init__(self, times: int):
        super().__init__()
        self.conv, self.fc, self.times = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2), times

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for _ in range(self.times):
            y = self.conv(y)
        return self.fc(y.mean((2, 3)))


@pytest.mark.parametrize("times", [0, 2, 3])
def test_a_module_must_run_exactly_once(times: int) -> None:
    with pytest.raises(UserError, match=f"layer 'conv' ran {times} times in one pass, exactly once is needed"):
        gradients(Repeated(times).double(), IMAGES, None, ["conv"])


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class First(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return pair[0]


def test_only_feature_maps_can_be_tapped() -> None:
    with pytest.raises(UserError, match=r"layer '2' gives \(2, 5\), a feature map N x K x h x w is needed"):
        gradients(vgg_like(), IMAGES, None, ["2"])
    with pytest.raises(UserError, match="layer '0' gives tuple"):
        gradients(nn.Sequential(Pair(), First(), *vgg_like()), IMAGES, None, ["0"])


def test_an_unknown_layer_names_those_near_it() -> None:
    model = spg_plain(2, width=1 / 16)
    with pytest.raises(
        UserError, match=r"^layer 'Mixed_6f' is not in SPGPlain; near it: Mixed_6\w(, Mixed_6\w){2}$"
    ) as told:
        find(model, ["Mixed_6f"])
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"it has: Conv2d_1a_3x3, .*Mixed_6e.*, fc"):
        find(model, ["zzzzzzz"])
    with pytest.raises(UserError, match="'add1' is asked for twice"):
        find(model, ["add1", "fc", "add1"])
    with pytest.raises(UserError, match="''"):
        find(model, [""])  # the network itself is no layer
    assert find(model, ["add2.conv"])["add2.conv"] is model.add2.conv


# ----------------------------------------------------------------------------------------------------------- replace


def test_putting_the_features_back_changes_nothing() -> None:
    torch.manual_seed(0)
    model = spg_plain(3, width=1 / 16).eval()
    images = torch.randn(2, 3, 64, 64)
    S = gradients(model, images, None, ["Mixed_6e"])["Mixed_6e"].S
    with torch.no_grad():
        logits = model(images)
        with replace(model, "Mixed_6e", S):
            assert torch.equal(model(images), logits)
        with replace(model, "Mixed_6e", torch.zeros_like(S)):
            assert not torch.equal(model(images), logits)
        assert torch.equal(model(images), logits) and hooks(model) == 0


def test_one_image_stands_for_many_maps() -> None:
    """M feature maps run on from the layer, while the layers before it see the one image."""
    model = vgg_like().eval()
    S = gradients(model, IMAGES, None, ["0.2"])["0.2"].S
    many = torch.cat([S, 2 * S, 0 * S])
    kept, sizes = many.clone(), []
    model[0][0].register_forward_hook(lambda m, i, o: sizes.append(len(o)))
    with torch.no_grad(), replace(model, "0.2", many):
        logits = model(IMAGES[:1])
    assert logits.shape == (6, 3) and sizes == [1]
    with torch.no_grad():
        torch.testing.assert_close(logits, model[1:](model[0][3:](many)))
    assert torch.equal(many, kept)
    features = torch.randn(1, 5, 2, 2).double()
    before = features.clone()
    with torch.no_grad(), replace(model, "0.3", features):
        model(IMAGES[:1])  # its ReLU overwrites what it is given
    assert torch.equal(features, before)


def test_the_replacement_goes_away_after_an_exception() -> None:
    model = vgg_like()
    with pytest.raises(RuntimeError), replace(model, "0.2", torch.zeros(1, 9, 4, 4, dtype=torch.float64)):
        model(IMAGES)
    assert hooks(model) == 0
    with pytest.raises(UserError, match=r"'0\.9' is not in"), replace(model, "0.9", IMAGES):
        pass
