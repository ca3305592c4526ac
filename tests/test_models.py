"""SPG-plain against the talk's table and torchvision's blocks; every kind of weights file, whole and broken."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import inception_v3
from torchvision.models.inception import BasicConv2d, InceptionA, InceptionB, InceptionC

from dgl_lib.data.images import squash
from dgl_lib.errors import UserError
from dgl_lib.models import (
    SPGPlain,
    committed_checkpoint,
    digest,
    load_checkpoint,
    preprocess,
    save_checkpoint,
    spg_plain,
)
from dgl_lib.models.spg import MixedA, MixedB, MixedC, SamePool

TINY = 1 / 16


def tiny(classes: int = 3, seed: int = 0) -> SPGPlain:
    torch.manual_seed(seed)
    return spg_plain(classes, width=TINY)


def on_meta(classes: int, width: float) -> SPGPlain:
    """Shapes without memory."""
    with torch.device("meta"):
        return spg_plain(classes, width=width)


@pytest.fixture(scope="module")
def torchvision_shapes() -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: v.shape for name, v in inception_v3(init_weights=False).state_dict().items()}


# ------------------------------------------------------------------------------------------------- the talk's table

TABLE = [  # name, channels at full width, side at 224 px, side at 324 px
    ("Conv2d_1a_3x3", 32, 112, 162),
    ("Conv2d_2a_3x3", 32, 112, 162),
    ("Conv2d_2b_3x3", 64, 112, 162),
    ("maxpool1", 64, 56, 81),
    ("Conv2d_3b_1x1", 80, 56, 81),
    ("Conv2d_4a_3x3", 192, 56, 81),
    ("maxpool2", 192, 28, 41),
    ("Mixed_5b", 256, 28, 41),
    ("Mixed_5c", 288, 28, 41),
    ("Mixed_5d", 288, 28, 41),
    ("Mixed_6a", 768, 28, 41),
    ("Mixed_6b", 768, 28, 41),
    ("Mixed_6c", 768, 28, 41),
    ("Mixed_6d", 768, 28, 41),
    ("Mixed_6e", 768, 28, 41),
    ("add2", 1024, 28, 41),
    ("add1", 1024, 28, 41),
    ("avgpool", 1024, 1, 1),
]


@pytest.mark.parametrize(("width", "side", "column"), [(1.0, 224, 2), (0.25, 224, 2), (TINY, 324, 3)])
def test_the_table_of_the_network(width: float, side: int, column: int) -> None:
    model, seen = on_meta(6, width), []
    for name, module in model.named_children():
        module.register_forward_hook(lambda m, i, o, name=name: seen.append((name, *o.shape[1:])))
    assert model(torch.empty(2, 3, side, side, device="meta")).shape == (2, 6)
    rows = [(row[0], round(row[1] * width), row[column], row[column]) for row in TABLE]
    assert [row for row in seen if row[0] not in ("dropout", "fc")] == rows
    assert [row[0] for row in seen[-3:]] == ["avgpool", "dropout", "fc"]


@pytest.mark.parametrize("shape", [(64, 64), (65, 97), (33, 40)])
def test_odd_and_oblong_inputs(shape: tuple[int, int]) -> None:
    model, sides = tiny().eval(), []
    model.add1.register_forward_hook(lambda m, i, o: sides.append(tuple(o.shape[2:])))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, *shape)).isfinite().all()
    assert sides == [tuple(-(-side // 8) for side in shape)]  # a stride of 8, rounded up


def test_the_layer_table_is_the_network_s() -> None:
    rows = {name: channels for name, channels, *_ in TABLE}
    names = [layer.name for layer in SPGPlain.layers]
    assert names == [row[0] for row in TABLE if row[0].startswith(("Mixed", "add"))] and len(names) == 10
    assert all(rows[layer.name] == layer.channels and layer.stride == 8 for layer in SPGPlain.layers)


@pytest.mark.parametrize(("width", "millions"), [(1.0, 25.5), (0.25, 1.6)])
def test_parameter_counts(width: float, millions: float) -> None:
    assert round(sum(p.numel() for p in on_meta(6, width).parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(("width", "side", "giga"), [(1.0, 224, 41), (0.25, 128, 0.84)])
def test_floating_point_operations(width: float, side: int, giga: float) -> None:
    """A multiply-add is two; of the convolutions, which are nearly all."""
    model, total = on_meta(6, width), []

    def count(module: nn.Conv2d, _inputs: object, output: Tensor) -> None:
        total.append(2 * output.numel() * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, side, side, device="meta"))
    assert sum(total) / 1e9 == pytest.approx(giga, rel=0.02)


def test_sixteenths_add_up() -> None:
    for sixteenths in (3, 15):
        model = on_meta(2, sixteenths / 16)
        assert model(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 2)


@pytest.mark.parametrize("width", [0, -0.5, 0.3, 1 / 32, 1.25, 2, float("nan")])
def test_other_widths_are_refused(width: float) -> None:
    with pytest.raises(UserError, match=r"^width: .* given, a multiple of 1/16 in \(0, 1\] allowed"):
        spg_plain(3, width=width)


@pytest.mark.parametrize("count", [1, 0, -3, 2.0, "6", True])
def test_other_class_counts_are_refused(count: object) -> None:
    with pytest.raises(UserError, match=r"^num_classes: .* a whole number of at least 2"):
        spg_plain(count)  # type: ignore[arg-type]


def test_dropout_is_where_the_table_has_it_and_off_in_eval() -> None:
    model = tiny()
    dropouts = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    assert dropouts == {"add2.dropout": 0.5, "add1.dropout": 0.5, "dropout": 0.5}
    convolutions = {f"{name}.conv": getattr(model, name).conv.bias is not None for name in ("add2", "add1")}
    assert convolutions == {"add2.conv": True, "add1.conv": True}  # a bias, no batch norm
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), model(images))


def test_new_layers_start_kaiming_normal_with_zero_bias() -> None:
    model = tiny()
    for name in ("add2", "add1"):
        convolution = getattr(model, name).conv
        fan_in = convolution.weight[0].numel()
        assert float(convolution.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
        assert not convolution.bias.any()
    assert not model.fc.bias.any()


# ------------------------------------------------------------------------------------------ torchvision's blocks


def test_the_trunk_has_torchvisions_names_and_shapes(torchvision_shapes: dict[str, torch.Size]) -> None:
    model = on_meta(6, 1.0)
    own = {name: model.state_dict()[name].shape for name in model.trunk_names()}
    dropped = ("AuxLogits.", "Mixed_7", "fc.")
    assert own == {name: shape for name, shape in torchvision_shapes.items() if not name.startswith(dropped)}
    assert set(model.state_dict()) - set(own) == {
        *("add2.conv.weight", "add2.conv.bias", "add1.conv.weight", "add1.conv.bias", "fc.weight", "fc.bias")
    }


def randomised(module: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that do something."""
    torch.manual_seed(2)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for values in (m.weight, m.bias, m.running_mean, m.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
    return module.eval()


BLOCKS = [
    (MixedA, InceptionA, (8, 4)),
    (MixedC, InceptionC, (8, 4)),
]


@pytest.mark.parametrize(("ours", "theirs", "arguments"), BLOCKS)
@torch.no_grad()
def test_counting_the_padding_is_torchvisions_block(ours, theirs, arguments) -> None:
    block = randomised(theirs(*arguments))
    x = torch.randn(2, 8, 9, 7)
    outputs = []
    for count_include_pad in (True, False):
        own = ours(*arguments, BasicConv2d).eval()
        own.load_state_dict(block.state_dict())
        own.pool.count_include_pad = count_include_pad
        outputs.append(own(x))
    assert torch.equal(outputs[0], block(x))
    differs = (outputs[0] != outputs[1]).any(0).any(0)
    assert differs[[0, -1]].all() and differs[:, [0, -1]].all() and not differs[1:-1, 1:-1].any()


@torch.no_grad()
def test_mixed_6a_is_torchvisions_block_at_stride_1() -> None:
    """Every second output of it, away from the border, is what torchvision's strided, unpadded block gives."""
    block = randomised(InceptionB(6))
    own = MixedB(6, BasicConv2d).eval()
    own.load_state_dict(block.state_dict())
    x = torch.randn(1, 6, 11, 13)
    assert own(x).shape == (1, block(x).shape[1], 11, 13)
    # The double branch pads its middle convolution in both; the strided kernels start one pixel further in.
    torch.testing.assert_close(own(x)[:, :, 1:-1:2, 1:-1:2], block(x))


# ------------------------------------------------------------------------------------------------ the authors' padding

SAME = nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, BasicConv2d


def two(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def padded(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], value: float = 0.0) -> Tensor:
    """TensorFlow's rule as its documentation has it: by n mod s, and not by the size of the output."""
    for axis, k, s in zip((2, 3), kernel, stride, strict=True):
        n = x.shape[axis]
        total = max(k - s, 0) if n % s == 0 else max(k - n % s, 0)
        for cells, before in ((total // 2, True), (total - total // 2, False)):
            shape = list(x.shape)
            shape[axis] = cells
            border = x.new_full(shape, value)
            x = torch.cat([border, x] if before else [x, border], axis)
    return x


def by_hand(module: nn.Module, x: Tensor) -> Tensor:
    """What the module gives under TensorFlow's padding: padded by hand, then without padding."""
    conv = module.conv if isinstance(module, BasicConv2d) else module
    kernel, stride = two(conv.kernel_size), two(conv.stride)
    if isinstance(module, nn.MaxPool2d):
        return F.max_pool2d(padded(x, kernel, stride, float("-inf")), kernel, stride)
    if isinstance(module, nn.AvgPool2d):  # of the cells that are there
        ones, area = torch.ones_like(x), kernel[0] * kernel[1]
        total, count = (area * F.avg_pool2d(padded(y, kernel, stride), kernel, stride) for y in (x, ones))
        return total / count
    y = F.conv2d(padded(x, kernel, stride), conv.weight, conv.bias, stride)
    return module.bn(y).relu() if isinstance(module, BasicConv2d) else y


@pytest.mark.parametrize("shape", [(224, 224), (128, 128), (97, 97), (160, 97), (33, 34)])
@torch.no_grad()
def test_every_convolution_and_pool_pads_as_tensorflow_does(shape: tuple[int, int]) -> None:
    model, seen, sides = randomised(spg_plain(3, width=TINY, padding="tensorflow")).double(), set(), {}
    inside = {f"{name}.conv" for name, m in model.named_modules() if isinstance(m, BasicConv2d)}

    def check(name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
        torch.testing.assert_close(y, by_hand(module, x), rtol=1e-12, atol=1e-12, msg=lambda said: f"{name}: {said}")
        seen.add(name)
        sides[name] = tuple(y.shape[2:])

    for name, m in model.named_modules():
        if isinstance(m, SAME) and name not in inside:
            # In-place work of what follows comes after the hook.
            m.register_forward_hook(lambda m, i, o, name=name: check(name, m, i[0], o))
    model(torch.randn(1, 3, *shape, dtype=torch.float64))
    assert {"Conv2d_1a_3x3", "maxpool1", "maxpool2", "Mixed_5b.pool", "Mixed_6a.pool", "add1.conv"} <= seen
    assert len(seen) == 5 + 2 + 3 * 7 + 4 + 4 * 10 + 8 + 2  # stem, its pools, A, B, C, the blocks' pools, add
    assert sides["add1.conv"] == tuple(-(-side // 8) for side in shape)


@torch.no_grad()
def test_the_two_paddings_by_hand() -> None:
    """At an even side the authors' windows start at the first cell, and symmetric ones half outside of it."""
    row = torch.arange(1.0, 7).reshape(1, 1, 1, 6).expand(1, 1, 6, 6)
    assert SamePool(3, stride=2)(row)[0, 0, 0].tolist() == [3, 5, 6]
    assert nn.MaxPool2d(3, stride=2, padding=1)(row)[0, 0, 0].tolist() == [2, 4, 6]
    assert SamePool(3, stride=2)(-row)[0, 0, 0].tolist() == [-1, -3, -5]  # padding never wins
    assert SamePool(3, stride=2)(row[..., :5])[0, 0, 0].tolist() == [2, 4, 5]  # an odd side: symmetric
    mixed = spg_plain(2, width=TINY, padding="tensorflow").Mixed_5b
    assert mixed.pool(row)[0, 0, 0].tolist() == [1.5, 2, 3, 4, 5, 5.5]  # two cells at each border, in each row


@pytest.mark.parametrize(("side", "differ"), [(64, True), (65, False)])
@torch.no_grad()
def test_the_same_weights_in_both_paddings(side: int, differ: bool, tmp_path: Path) -> None:
    """65 is odd, and so are 33 and 17: then only what average pools count differs."""
    one, path = randomised(tiny()), tmp_path / "own.safetensors"
    one.adapt({"count_include_pad": "false"})
    save_checkpoint(one, path)
    other = spg_plain(3, width=TINY, weights=path, padding="tensorflow").eval()
    assert list(one.state_dict()) == list(other.state_dict()) and digest(one) == digest(other)
    assert [name for name, _ in one.named_modules()] == [name for name, _ in other.named_modules()]
    images = torch.randn(2, 3, side, side)
    assert torch.allclose(one(images), other(images), rtol=1e-5) != differ
    assert one(images).shape == other(images).shape


def test_a_padding_survives_the_checkpoint(tmp_path: Path) -> None:
    for padding in ("symmetric", "tensorflow"):
        model = spg_plain(2, width=TINY, padding=padding).eval()
        save_checkpoint(model, path := tmp_path / f"{padding}.safetensors")
        loaded = load_checkpoint(path)
        assert loaded.padding == padding and loaded.count_include_pad is True  # of the weights
        pools = {m.count_include_pad for m in loaded.modules() if isinstance(m, nn.AvgPool2d)}
        assert pools == {padding == "symmetric"}
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(loaded(images), model(images))
        with safe_open(path, "pt") as file:
            assert file.metadata()["padding"] == padding


def test_another_padding_is_refused() -> None:
    with pytest.raises(UserError, match=r"^padding of spg_plain: 'same' given, one of symmetric, tensorflow allowed$"):
        spg_plain(2, width=TINY, padding="same")


# --------------------------------------------------------------------------------------------------- batch norm


def norms(model: nn.Module) -> set[bool]:
    return {m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d)}


def test_batch_norm_trains_from_random_weights_and_stays_frozen_with_a_trunk(tmp_path: Path) -> None:
    model = tiny()
    assert not model.freeze_batch_norm and norms(model) == {True}
    trunk = tmp_path / "trunk.safetensors"
    save_file({name: model.state_dict()[name] for name in model.trunk_names()}, trunk)
    loaded = spg_plain(3, width=TINY, weights=trunk)
    assert loaded.freeze_batch_norm and loaded.training and norms(loaded) == {False}
    assert loaded.eval().train() is loaded and loaded.add2.training and norms(loaded) == {False}
    before = {name: value.clone() for name, value in loaded.state_dict().items() if "running" in name}
    loaded(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in before.items())
    scale = loaded.Mixed_6e.branch1x1.bn.weight
    assert scale.requires_grad and scale.grad is not None and scale.grad.any()  # scale and shift are still trained


# --------------------------------------------------------------------------------------- the three kinds of file


def test_a_trunk_fills_the_trunk_in_float32_and_says_what_is_new(tmp_path: Path) -> None:
    source, path = tiny(seed=1), tmp_path / "trunk.safetensors"
    half = {name: source.state_dict()[name].half() for name in source.trunk_names() if "num_batches" not in name}
    header = {"mean": "[0.4, 0.5, 0.6]", "std": "[0.1, 0.2, 0.3]", "count_include_pad": "False", "source": "a test"}
    save_file(half, path, header)
    torch.manual_seed(5)
    model = spg_plain(4, width=TINY, weights=str(path))
    for name, value in half.items():
        assert model.state_dict()[name].dtype == torch.float32 and torch.equal(model.state_dict()[name], value.float())
    assert model.fc.weight.any() and model.add1.conv.weight.any()
    assert (model.mean, model.std, model.count_include_pad) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3), False)
    pools = [m for m in model.modules() if isinstance(m, nn.AvgPool2d)]
    assert len(pools) == 7 and not any(pool.count_include_pad for pool in pools)
    assert model.origin == "a test; add2, add1 and fc freshly initialised"


def test_without_a_header_the_pooling_and_range_are_torchvisions(tmp_path: Path) -> None:
    source, path = tiny(seed=1), tmp_path / "trunk.pth"
    torch.save({name: source.state_dict()[name] for name in source.trunk_names()}, path)
    model = spg_plain(4, width=TINY, weights=path)
    assert (model.mean, model.std, model.count_include_pad) == ((0.5,) * 3, (0.5,) * 3, True)


def test_torchvisions_file_fills_the_trunk(tmp_path: Path, torchvision_shapes: dict[str, torch.Size]) -> None:
    """All of its entries, auxiliary head, Mixed_7 and fc among them; each with a value of its own."""
    path = tmp_path / "inception_v3.pth"
    values = {name: torch.tensor(float(i)) for i, name in enumerate(torchvision_shapes)}
    assert {"AuxLogits.fc.weight", "fc.weight", "Mixed_7a.branch3x3_1.conv.weight"} <= set(values)
    torch.save({name: value.expand(torchvision_shapes[name]) for name, value in values.items()}, path)
    model = spg_plain(6, weights=path)
    for name in model.trunk_names():
        assert (model.state_dict()[name] == values[name]).all(), name
    assert model.fc.out_features == 6 and model.fc.weight.std() > 0 and model.freeze_batch_norm
    assert "freshly initialised" in model.origin


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    model = randomised(tiny(seed=1))
    model.classes, model.mean, model.std = ("cat", "Hündin", "0"), (0.1, 0.2, 0.3), (1.0, 0.5, 0.25)
    model.origin, path = "a test", tmp_path / "own.safetensors"
    for freeze in (False, True):
        model.freeze_batch_norm = freeze
        save_checkpoint(model, path, val_accuracy=0.5, data={"sha256": "ab"}, epochs=[1, 2])
        loaded = load_checkpoint(path)
        assert digest(loaded) == digest(model) and not loaded.training
        for name in ("classes", "mean", "std", "width", "num_classes", "count_include_pad", "origin"):
            assert getattr(loaded, name) == getattr(model, name), name
        assert loaded.facts == {"val_accuracy": 0.5, "data": {"sha256": "ab"}, "epochs": [1, 2]}
        assert loaded.freeze_batch_norm is freeze
        assert norms(loaded.train()) == {not freeze}
        again = spg_plain(3, width=TINY, weights=path)  # the general door takes it too
        assert digest(again) == digest(model) and again.mean == model.mean and again.freeze_batch_norm is freeze
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images), model(images))


def test_the_same_checkpoint_is_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_checkpoint(tiny(), first, x=1, a=2)
    save_checkpoint(load_checkpoint(first), second, a=2, x=1)
    save_checkpoint(tiny().to(memory_format=torch.channels_last), tmp_path / "c.safetensors", a=2, x=1)
    assert first.read_bytes() == second.read_bytes() == (tmp_path / "c.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors", "c.safetensors"]
    assert set(load_file(first)) == set(tiny().state_dict())  # plain safetensors to everybody else


def test_the_published_checkpoints_come_back_to_the_byte(tmp_path: Path) -> None:
    """Read, and written again in half precision: what manifests say of them by SHA-256 stays true."""
    for path in (committed_checkpoint(f"creatures-{seed}") for seed in range(5)):
        model = load_checkpoint(path)
        assert model.fc.weight.dtype == torch.float32 and model.facts["val_accuracy"] >= 0.98
        save_checkpoint(model.half(), tmp_path / path.name, **model.facts)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_pooling_rule_survives_the_checkpoint(tmp_path: Path) -> None:
    model = spg_plain(2, width=TINY)
    model.adapt({"count_include_pad": "false"})
    save_checkpoint(model, tmp_path / "x.safetensors")
    loaded = load_checkpoint(tmp_path / "x.safetensors")
    assert loaded.count_include_pad is False and loaded.classes == ("0", "1")
    assert not any(m.count_include_pad for m in loaded.modules() if isinstance(m, nn.AvgPool2d))


# ------------------------------------------------------------------------------------------------- broken files


def broken(change: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    if change == "missing":
        del state["Mixed_5b.branch1x1.conv.weight"]
    if change == "extra":
        state["Mixed_6f.conv.weight"] = torch.zeros(2)
    if change == "misshapen":
        state["Mixed_5b.branch1x1.conv.weight"] = torch.zeros(1, 2, 3, 3)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "lacks Mixed_5b.branch1x1.conv.weight"),
        ("extra", "has the unknown entry Mixed_6f.conv.weight"),
        ("misshapen", r"has a misshapen Mixed_5b.branch1x1.conv.weight \(1, 2, 3, 3\), \(4, 12, 1, 1\) expected"),
    ],
)
@pytest.mark.parametrize("kind", ["trunk", "checkpoint"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_what_does_not_fit_is_named(change: str, message: str, kind: str, suffix: str, tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / f"file.{suffix}"
    names = model.trunk_names() if kind == "trunk" else list(model.state_dict())
    state = broken(change, {name: model.state_dict()[name] for name in names})
    (save_file if suffix == "safetensors" else torch.save)(state, path)
    whole = "a checkpoint of spg_plain" if kind == "checkpoint" else "an Inception-v3 trunk"
    with pytest.raises(UserError, match=rf"^weights '{path.name}' {message}: not {whole}") as told:
        spg_plain(3, width=TINY, weights=path)
    assert "\n" not in str(told.value) and str(tmp_path) not in str(told.value)


def test_another_class_count_or_width_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_checkpoint(tiny(3), path)
    with pytest.raises(
        UserError, match=r"misshapen fc.weight \(3, 64\), \(5, 64\) expected .*of width 0.0625, 5 classes"
    ):
        spg_plain(5, width=TINY, weights=path)
    with pytest.raises(UserError, match=r"misshapen Conv2d_1a_3x3.* more: .* of width 0.125"):
        spg_plain(3, width=2 / 16, weights=path)


class Bomb:
    """What a pickle may do; no reader of ours may let it."""

    def __reduce__(self) -> tuple:
        return (os.mkdir, (os.environ["BOMB"],))


def test_no_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "went_off"
    monkeypatch.setenv("BOMB", str(bomb))
    for path in (tmp_path / "a.pth", tmp_path / "b.pkl"):
        if path.suffix == ".pth":
            torch.save({"x": Bomb()}, path)
        else:
            path.write_bytes(pickle.dumps(Bomb(), protocol=2))
        with pytest.raises(UserError, match="is not a file of plain tensors") as told:
            spg_plain(3, width=TINY, weights=path)
        assert "\n" not in str(told.value)
    assert not bomb.exists()


@pytest.mark.parametrize("content", [b"", b"no tensors here", bytes(200)])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_corrupt_file_is_an_error_of_one_line(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"corrupt.{suffix}"
    path.write_bytes(content)
    for read in (load_checkpoint, lambda p: spg_plain(3, weights=p)):
        with pytest.raises(UserError, match="weights 'corrupt") as told:
            read(path)
        assert "\n" not in str(told.value)


def test_a_file_cut_short_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_checkpoint(tiny(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_checkpoint(path)


def test_other_things_in_the_place_of_weights(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    torch.save({"state_dict": {"x": torch.zeros(2)}}, tmp_path / "nested.pth")
    for name, message in (
        ("list.pth", "holds list, a dictionary of named tensors is needed"),
        ("nested.pth", "a dictionary of named tensors is needed"),
        ("nowhere.pth", "no file at 'nowhere.pth'; give 'imagenet'"),
        (".", "no file at"),
    ):
        with pytest.raises(UserError, match=message):
            spg_plain(3, width=TINY, weights=tmp_path / name)


def test_a_trunk_is_no_checkpoint(tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / "trunk.safetensors"
    save_file({name: model.state_dict()[name] for name in model.trunk_names()}, path)
    with pytest.raises(UserError, match=r"'trunk\.safetensors' is not a checkpoint of this project"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("classes", value) for value in (None, "null", "5", '"abc"', "[null]")),
        *(("facts", value) for value in (None, "{", "null", "[]", "[" * 5000)),
        *(("width", value) for value in (None, "wide", "null", '"1"', "[1]", "NaN", "9" * 5000)),
        *(("mean", value) for value in ("grey", "3", "[]", "[1, 2]", "[1, 1, 1, 1]", "[NaN, 1, 1]", "[1e999, 1, 1]")),
        *(("std", value) for value in ("3", "[]", "[-1, 1, 1]", "[0, 1, 1]", '["1", 1, 1]')),
        ("freeze_batch_norm", "maybe"),
    ],
)
def test_a_broken_header_is_an_error(key: str, value: str | None, tmp_path: Path) -> None:
    model = tiny()
    header = {"architecture": "spg_plain", "width": json.dumps(TINY), "classes": '["a", "b", "c"]', "facts": "{}"}
    header[key] = value  # type: ignore[assignment]
    path = tmp_path / "header.safetensors"
    save_file(model.state_dict(), path, {k: v for k, v in header.items() if v is not None})
    with pytest.raises(UserError, match=rf"^the header of 'header.safetensors': {key}[.\d]*: .* given, ") as told:
        load_checkpoint(path)
    assert "\n" not in str(told.value) and len(str(told.value)) < 250


def test_imagenet_weights_fit_full_width_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before a download starts."""
    monkeypatch.setattr(type(SPGPlain.imagenet), "get_state_dict", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(UserError, match=r"width: 0\.25 given, 1 allowed"):
        spg_plain(3, width=0.25, weights="imagenet")


@pytest.mark.parametrize("failure", [OSError("no\nnetwork"), RuntimeError("invalid hash value")])
def test_a_download_that_fails_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fetch(url: str, **options: object) -> None:
        assert url == SPGPlain.imagenet.url and options["check_hash"]
        raise failure

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    with pytest.raises(UserError, match=r"download of Inception_V3_Weights.* failed .*DGL_WEIGHTS may name") as told:
        spg_plain(3, weights="imagenet")
    assert "\n" not in str(told.value)


# ------------------------------------------------------------------------------------------------------- pictures


def test_preprocess_normalises_with_the_models_own_numbers() -> None:
    model = tiny()
    model.mean, model.std = (0.0, 0.5, 1.0), (1.0, 0.5, 0.25)
    image = np.zeros((40, 40, 3), np.uint8)
    image[:] = (255, 51, 0)
    batch = preprocess(model, [image, np.zeros((40, 40, 3), np.uint8)[:, ::-1]], 40)
    assert batch.shape == (2, 3, 40, 40) and batch.dtype == torch.float32
    torch.testing.assert_close(batch[0, :, 3, 4], torch.tensor([1.0, -0.6, -4.0]))
    torch.testing.assert_close(batch[1, :, 0, 0], torch.tensor([0.0, -1.0, -4.0]))


def test_squash_takes_any_shape_and_does_not_alias() -> None:
    image = np.random.default_rng(0).integers(256, size=(64, 96, 3)).astype(np.uint8)
    assert squash(image, 32).shape == (32, 32, 3) and squash(image, 128).shape == (128, 128, 3)
    square = image[:, :64]
    assert squash(square, 64) is square
    means = square.reshape(32, 2, 32, 2, 3).mean((1, 3))  # by area: the mean of the pixels that fall together
    assert np.abs(squash(square, 32) - means).max() <= 1


# ------------------------------------------------------------------------------------------------ the real trunk


@pytest.mark.skipif(not os.environ.get("DGL_WEIGHTS"), reason="DGL_WEIGHTS names no file")
def test_the_real_trunk_loads_with_its_own_numbers() -> None:
    model = spg_plain(6, weights=os.environ["DGL_WEIGHTS"])
    assert model.freeze_batch_norm and model.trunk_names() and "freshly initialised" in model.origin
    if Path(os.environ["DGL_WEIGHTS"]).suffix == ".safetensors":
        tensors = load_file(os.environ["DGL_WEIGHTS"])
        assert model.count_include_pad is False and len(tensors) == 420
        assert model.mean == pytest.approx((0.5,) * 3, abs=0.01) and model.std == pytest.approx((0.5,) * 3, abs=0.01)
        assert all(torch.equal(model.state_dict()[name], value.float()) for name, value in tensors.items())
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 64, 64)).isfinite().all()
