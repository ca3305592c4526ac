"""VGG16-gap and ResNet50-SE against the released code's tables and torchvision; what holds for all classifiers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import resnet50, vgg16
from torchvision.ops import SqueezeExcitation

from dgl_lib.errors import UserError
from dgl_lib.localize import localize
from dgl_lib.maps import minmax
from dgl_lib.models import (
    LAYER,
    LAYERS,
    NETWORKS,
    Classifier,
    digest,
    load_checkpoint,
    preprocess,
    resnet50_se,
    save_checkpoint,
)
from dgl_lib.taps import frozen, tap
from dgl_lib.training import parameter_groups

TINY = 1 / 16
OTHERS = {"vgg16_gap": vgg16, "resnet50_se": resnet50}  # torchvision's own
each_network = pytest.mark.parametrize("network", NETWORKS)
each_other = pytest.mark.parametrize("network", OTHERS)


def tiny(network: str, classes: int = 3, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return NETWORKS[network](classes, width=TINY)


def on_meta(network: str, classes: int = 6, width: float = 1.0) -> Classifier:
    """Shapes without memory."""
    with torch.device("meta"):
        return NETWORKS[network](classes, width=width)


def randomised(module: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that do something."""
    torch.manual_seed(2)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for values in (m.weight, m.bias, m.running_mean, m.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
    return module.eval()


def outputs_of(model: nn.Module, layers: list[str], images: Tensor) -> dict[str, Tensor]:
    with frozen(model), tap(model, layers) as outputs:
        model(images)
    return {name: value.detach() for name, value in outputs.items()}


# -------------------------------------------------------------------------------------- the released code's tables

# Sides at 224 px, written out by hand.
SIDES = {
    "vgg16_gap": [224, 224, 112, 112, 112, 56, 56, 56, 56, 28, 28, 28, 28, 14, 14, 14, 14, 14],
    "resnet50_se": [28, 28, 28, 28, 14, 14, 14, 14, 14, 14, 14, 14, 14],
}


@each_other
@pytest.mark.parametrize("width", [1.0, 0.25, TINY])
def test_the_table_is_the_network_s(network: str, width: float) -> None:
    model = on_meta(network, width=width)
    names, seen = [layer.name for layer in model.layers], {}
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.shape}))
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 6)
    assert list(seen) == names  # the table is in the order data flows
    for layer, side in zip(model.layers, SIDES[network], strict=True):
        assert seen[layer.name] == (2, round(width * layer.channels), side, side), layer
        assert layer.stride * side == 224, layer
    assert LAYERS[network] == model.layers and model.architecture == network


def test_names_of_vgg() -> None:
    blocks = [[f"conv{i}_{j + 1}" for j in range(n)] + [f"pool{i}"] for i, n in enumerate((2, 2, 3, 3, 3), start=1)]
    names = [name for block in blocks for name in block if name != "pool5"]
    assert [layer.name for layer in LAYERS["vgg16_gap"]] == [*names, "add"]


def test_names_of_resnet() -> None:
    """group1/block0 .. group3/block2 are torchvision's layer2.0 .. layer4.2."""
    found = [layer.name for layer in LAYERS["resnet50_se"]]
    assert found == [f"layer{group + 1}.{i}" for group, n in ((1, 4), (2, 6), (3, 3)) for i in range(n)]


@pytest.mark.parametrize("network", list(NETWORKS))
def test_the_layer_looked_at_closest_is_not_cams(network: str) -> None:
    """There every method of gradients would be CAM, and nothing could be compared."""
    names = [layer.name for layer in LAYERS[network]]
    assert LAYER[network] in names[:-1]


def test_layer_names_belong_to_one_network() -> None:
    names = [layer.name for layers in LAYERS.values() for layer in layers]
    assert len(names) == len(set(names)) == 10 + 18 + 13


def test_parameters_of_vgg() -> None:
    """torchvision's convolutions, ``add`` and the head."""
    with torch.device("meta"):
        features = sum(p.numel() for p in vgg16().features.parameters())
    assert features == 14_714_688
    added = 512 * 1024 * 9 + 1024 + 1024 * 6 + 6
    assert sum(p.numel() for p in on_meta("vgg16_gap").parameters()) == features + added == 19_440_454


def test_parameters_of_resnet() -> None:
    """torchvision's, its head exchanged, and a gate for each block: K to K/16 to K, with biases."""
    with torch.device("meta"):
        own = sum(p.numel() for p in resnet50().parameters())
    assert own == 25_557_032
    gates = sum(n * (2 * K * (K // 16) + K // 16 + K) for n, K in ((3, 256), (4, 512), (6, 1024), (3, 2048)))
    total = sum(p.numel() for p in on_meta("resnet50_se").parameters())
    assert total == own - (2048 * 1000 + 1000) + 2048 * 6 + 6 + gates == 26_051_318


def test_the_gate_is_the_table_s() -> None:
    """A quarter of the block's inner width; by hand, on one block."""
    for block in (m for m in on_meta("resnet50_se").modules() if hasattr(m, "se")):
        assert block.se.fc1.out_channels == block.conv2.out_channels // 4
    block = randomised(tiny("resnet50_se").layer2[1])
    x = torch.randn(2, block.conv1.in_channels, 5, 7)
    with torch.no_grad():
        residual = block.bn1(block.conv1(x)).relu()
        residual = block.bn3(block.conv3(block.bn2(block.conv2(residual)).relu()))
        squeezed = torch.einsum("rk,nk->nr", block.se.fc1.weight[:, :, 0, 0], residual.mean((2, 3)))
        gate = (squeezed + block.se.fc1.bias).relu() @ block.se.fc2.weight[:, :, 0, 0].T + block.se.fc2.bias
        assert gate.std() > 0.1  # it does something
        expected = (residual * gate.sigmoid()[:, :, None, None] + x).relu()
        torch.testing.assert_close(block(x.clone()), expected, rtol=1e-5, atol=1e-5)


def test_strides_of_resnet() -> None:
    """On the 3x3 convolutions, the last group's at 1."""
    model = on_meta("resnet50_se")
    strided = {name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)}
    assert strided == {"conv1", *(f"layer{g}.0.{c}" for g in (2, 3) for c in ("conv2", "downsample.0"))}


def test_a_convolutions_name_gives_its_output_after_relu() -> None:
    model = tiny("vgg16_gap").eval()
    found = outputs_of(model, [layer.name for layer in model.layers], torch.randn(1, 3, 64, 64))
    assert all((S >= 0).all() and (S == 0).any() for name, S in found.items() if name.startswith(("conv", "add")))


# --------------------------------------------------------------------------------------- the three kinds of file


def torchvision_network(network: str) -> nn.Module:
    torch.manual_seed(3)
    return randomised(OTHERS[network]())


@each_other
@torch.no_grad()
def test_torchvisions_file_gives_torchvisions_features(network: str, tmp_path: Path) -> None:
    """A generated file with all of torchvision's names, at full width: the same maps to 1e-6 of their size."""
    theirs, path = torchvision_network(network), tmp_path / "theirs.pth"
    torch.save(theirs.state_dict(), path)
    model = NETWORKS[network](4, weights=path).eval()
    images = torch.randn(1, 3, 64, 64)
    if network == "vgg16_gap":
        places = {"conv1_1": 1, "conv1_2": 3, "pool1": 4, "conv3_3": 15, "pool4": 23, "conv5_3": 29}
        pairs = {name: f"features.{place}" for name, place in places.items()}
        for module in theirs.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
    else:
        pairs = {name: name for name in ("layer1.0", "layer2.3", "layer3.5", "layer4.0", "layer4.2")}
        theirs.layer4[0].conv2.stride = theirs.layer4[0].downsample[0].stride = (1, 1)
    ours = outputs_of(model, list(pairs), images)
    expected = outputs_of(theirs, list(pairs.values()), images)
    for name, other in pairs.items():
        scale = expected[other].abs().max()
        assert scale > 0 and (ours[name] - expected[other]).abs().max() <= 1e-6 * scale, name
    assert model.fc.out_features == 4 and "freshly initialised" in model.origin and model.freeze_batch_norm
    assert model.mean == (0.485, 0.456, 0.406) and model.std == (0.229, 0.224, 0.225)


@each_other
def test_mean_and_std_are_those_of_torchvisions_weights(network: str) -> None:
    transforms = NETWORKS[network](2, width=TINY).imagenet.transforms()
    model = tiny(network)
    assert (list(model.mean), list(model.std)) == (transforms.mean, transforms.std)


def trunk_of(model: Classifier) -> dict[str, Tensor]:
    state = model.state_dict()
    return {there: state[here] for here, there in model.trunk_names().items()}


@each_other
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_trunk_fills_the_trunk(network: str, suffix: str, tmp_path: Path) -> None:
    source, path = tiny(network, seed=1), tmp_path / f"trunk.{suffix}"
    half = {name: value.half() if value.is_floating_point() else value for name, value in trunk_of(source).items()}
    if suffix == "pth":
        torch.save(half, path)
    else:
        save_file(half, path, {"mean": "[0.1, 0.2, 0.3]", "std": "[1, 1, 0.5]", "source": "a test"})
    torch.manual_seed(5)
    model = NETWORKS[network](4, width=TINY, weights=path)
    for here, there in model.trunk_names().items():
        assert torch.equal(model.state_dict()[here].float(), half[there].float()), here
    if suffix == "safetensors":
        assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (1, 1, 0.5)) and model.origin.startswith("a test; ")
    assert model.fc.weight.std() > 0 and model.freeze_batch_norm
    assert not any(m.training for m in model.train().modules() if isinstance(m, nn.BatchNorm2d))


@each_other
def test_symmetric_padding_only(network: str) -> None:
    with pytest.raises(UserError, match=f"^padding of {network}: 'tensorflow' given, one of symmetric allowed$"):
        NETWORKS[network](2, width=TINY, padding="tensorflow")


@each_other
def test_trunk_names_are_torchvisions(network: str) -> None:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in OTHERS[network]().state_dict().items()}
    model = on_meta(network)
    own = {there: model.state_dict()[here].shape for here, there in model.trunk_names().items()}
    assert own == {name: shape for name, shape in shapes.items() if not name.startswith(("classifier.", "fc."))}


@each_network
def test_a_checkpoint_comes_back_whole(network: str, tmp_path: Path) -> None:
    model, path = randomised(tiny(network, seed=1)), tmp_path / "own.safetensors"
    model.classes, model.mean, model.std = ("cat", "Hündin", "0"), (0.1, 0.2, 0.3), (1.0, 0.5, 0.25)
    for freeze in (False, True):
        model.freeze_batch_norm = freeze
        save_checkpoint(model, path, epoch=3)
        loaded = load_checkpoint(path)
        assert type(loaded) is type(model) and digest(loaded) == digest(model) and not loaded.training
        assert loaded.architecture == network and loaded.facts == {"epoch": 3} and loaded.freeze_batch_norm is freeze
        for name in ("classes", "mean", "std", "width", "num_classes", "origin"):
            assert getattr(loaded, name) == getattr(model, name), name
    before = path.read_bytes()
    save_checkpoint(loaded, path, epoch=3)
    assert path.read_bytes() == before and set(load_file(path)) == set(model.state_dict())


ONE = {"vgg16_gap": "features.7.weight", "resnet50_se": "layer3.2.conv3.weight"}
OWN = {"vgg16_gap": "conv2_2.conv.weight", "resnet50_se": "layer3.2.se.fc1.weight"}


@each_other
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("change", ["lacks", "has the unknown entry", "has a misshapen"])
def test_what_does_not_fit_is_named(network: str, whole: bool, change: str, tmp_path: Path) -> None:
    model, path = tiny(network), tmp_path / "file.safetensors"
    state, key = (model.state_dict(), OWN[network]) if whole else (trunk_of(model), ONE[network])
    if change == "lacks":
        del state[key]
    elif change == "has a misshapen":
        state[key] = torch.zeros(1, 2, 3, 5)
    else:
        state[key := "layer9.conv.weight"] = torch.zeros(2)
    save_file(state, path)
    kind = f"a checkpoint of {network}" if whole else model.trunk
    with pytest.raises(UserError) as told:
        NETWORKS[network](3, width=TINY, weights=path)
    message = str(told.value)
    assert message.startswith(f"weights 'file.safetensors' {change} {key}") and "\n" not in message
    assert message.endswith(f": not {kind} of width 0.0625, 3 classes")


@each_other
def test_refused_before_a_download(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = NETWORKS[network](2, width=TINY).imagenet
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: pytest.fail("downloaded"))
    for arguments, message in (
        ({"num_classes": 3, "width": 0.25}, "width: 0.25 given, 1 allowed"),
        ({"num_classes": 3, "width": 0.3}, "width: 0.3 given, a multiple of 1/16"),
        ({"num_classes": 1}, "num_classes: 1 given"),
    ):
        with pytest.raises(UserError, match=message):
            NETWORKS[network](**arguments, weights="imagenet")


def test_imagenet_weights_are_read_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in resnet50().state_dict().items()}
    state = {name: torch.full(shape, 0.5) for name, shape in shapes.items()}
    monkeypatch.setattr(type(resnet50_se(2, width=TINY).imagenet), "get_state_dict", lambda *_, **__: state)
    model = resnet50_se(5, weights="imagenet")
    assert (model.layer4[2].conv3.weight == 0.5).all() and model.fc.weight.std() > 0
    assert model.origin == "torchvision ResNet50_Weights.IMAGENET1K_V1; gates open, fc freshly initialised"


@pytest.mark.parametrize("given", ["vgg16_gap", "resnet50_se"])
def test_another_networks_file_is_refused(given: str, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_checkpoint(tiny(given), path)
    for other in NETWORKS.keys() - {given}:
        with pytest.raises(UserError, match=r"^weights 'own\.safetensors' lacks "):
            NETWORKS[other](3, width=TINY, weights=path)


# --------------------------------------------------------------------------------------------------------- gates


def gates(model: nn.Module) -> list[Tensor]:
    """What each gate multiplies by, (N, K, 1, 1), for random images."""
    found: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, SqueezeExcitation):
            module.scale_activation.register_forward_hook(lambda m, i, o: found.append(o.detach()))
    model(torch.randn(2, 3, 64, 64))
    return found


def test_gates_are_one_where_a_trunk_was_loaded_and_train_elsewhere(tmp_path: Path) -> None:
    source, path = tiny("resnet50_se"), tmp_path / "trunk.safetensors"
    save_file(trunk_of(source), path)
    loaded = resnet50_se(3, width=TINY, weights=path)
    assert len(gates(loaded)) == 16 and all((g == 1).all() for g in gates(loaded))
    model = tiny("resnet50_se")
    assert all(((g > 0) & (g < 1)).all() and abs(g.mean() - 0.5) < 0.25 for g in gates(model))
    model(torch.randn(2, 3, 64, 64))[:, 0].sum().backward()
    assert all(m.fc2.bias.grad.any() for m in model.modules() if isinstance(m, SqueezeExcitation))


def test_a_checkpoint_keeps_its_gates(tmp_path: Path) -> None:
    save_checkpoint(tiny("resnet50_se"), tmp_path / "own.safetensors")
    assert not any((g == 1).all() for g in gates(load_checkpoint(tmp_path / "own.safetensors")))


# ----------------------------------------------------------------------------------------------- the study's tools


@each_network
def test_cam_on_the_last_layer_is_pixel_selection_and_dgl(network: str) -> None:
    """C3: nothing but pooling and a linear layer follow it; on the layer before, the maps differ."""
    model = tiny(network, seed=4).eval()
    with torch.no_grad():
        model.fc.weight.mul_(30)  # a head as if trained: apart from 0
        model.fc.bias.normal_()
    last, before = model.layers[-1].name, model.layers[-3].name
    images, classes = torch.randn(2, 3, 96, 96), torch.tensor([0, 2])
    for rule in ("released", "autograd"):
        out = localize(model, images, classes, [last, before], ["pixel_selection", "dgl"], rule=rule)
        cam = minmax(localize(model, images, classes, [last], ["cam"]).maps["cam"][last])
        for method, maps in out.maps.items():
            assert (minmax(maps[last]) - cam).abs().max() < 1e-4, method
        assert (minmax(out.maps["dgl"][before]) - minmax(out.maps["pixel_selection"][before])).abs().max() > 1e-3


@each_network
def test_every_layer_of_the_table_can_be_localized_on(network: str) -> None:
    model = tiny(network)
    names = [layer.name for layer in model.layers]
    with pytest.warns(UserWarning, match="left out there"):
        out = localize(model, torch.randn(1, 3, 64, 64), None, names, ["dgl", "cam"])
    assert list(out.maps["dgl"]) == names and list(out.maps["cam"]) == names[-1:]
    assert all(m.isfinite().all() and m.std() > 0 for m in out.maps["dgl"].values())


@each_network
def test_a_random_head_starts_level_and_groups_hold_every_parameter_once(network: str) -> None:
    model = tiny(network)
    assert float(model.fc.weight.detach().std()) == pytest.approx(0.01, rel=0.2) and not model.fc.bias.any()
    groups = parameter_groups(model, 3.0, 2.0, 1.0)
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    first, gate = next(iter(model.parameters())), [p for n, p in model.named_parameters() if ".se." in n]
    assert rate[id(first)] == 2.0 and rate[id(model.fc.weight)] == 3.0 and all(rate[id(p)] == 3.0 for p in gate)


@each_other
def test_preprocess_takes_each_network_s_own_numbers(network: str) -> None:
    model = tiny(network)
    black = preprocess(model, [torch.zeros(40, 40, 3, dtype=torch.uint8).numpy()], 40)
    expected = -torch.tensor(model.mean) / torch.tensor(model.std)
    torch.testing.assert_close(black[0, :, 7, 7], expected)
