"""Public classifiers as they come: any layer by its dotted name, against an independent twin, and nothing left behind.

The twin of a layer on the main path is torchvision's own chain of modules, cut by slicing: S is what its first part
gives with nothing after it, the gradients are taken through its second part. Layers inside blocks are held against
forward differentiation, which knows no hook of ours but the one that puts S in. Float64, so that equal means equal.
"""

import gc
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from dgl_lib.errors import UserError
from dgl_lib.localize import METHODS, RULES, dual_gradients, gradients, localize
from dgl_lib.maps import minmax
from dgl_lib.models import digest
from dgl_lib.taps import replace

CLASSES = torch.tensor([2, 0])

# Per network: layers on its main path, and layers inside its blocks. Those marked * are overwritten by what follows.
LAYERS = {
    "resnet18": (["bn1*", "layer2", "layer4"], ["layer2.0.bn1*", "layer3.1.bn2*"]),
    "vgg11": (["features.0*", "features.8*", "features.20"], []),
    "densenet121": (
        ["features.norm0*", "features.transition2", "features.norm5*"],
        ["features.denseblock3.denselayer2.norm1*", "features.denseblock2.denselayer5.conv2"],
    ),
    "efficientnet_b0": (["features.3", "features.8"], ["features.2.0.block.0.1*", "features.4.1.block.2"]),
    "convnext_tiny": (["features.1", "features.5", "features.7"], ["features.3.1.block.0"]),
    "mobilenet_v3_small": (["features.4", "features.12"], ["features.1.block.0.1*", "features.2.block.1.1*"]),
}
# The layers on which CAM exists: the others end in several linear layers (VGG, MobileNet), in a ReLU that is no module
# after the last one (DenseNet), or in a layer norm after the pooling (ConvNeXt).
CAM = {"resnet18": ["layer4"], "efficientnet_b0": ["features.8"]}


class Network(NamedTuple):
    name: str
    model: nn.Module
    images: Tensor
    layers: list[str]
    inner: list[str]


def narrow_vgg() -> nn.Module:
    """vgg11 with 32 instead of 4096 units in its two hidden linear layers: a gigabyte less to draw."""
    with torch.device("meta"):
        model = torchvision.models.vgg11()
        model.classifier = torchvision.ops.MLP(512 * 7 * 7, [32, 32, 3], dropout=0.5)
    model.to_empty(device="cpu").apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
    return model


@pytest.fixture(scope="module", params=list(LAYERS))
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """A torchvision classifier in float64, its batch norms settled by one pass so that no signal dies on its way."""
    torch.manual_seed(0)
    side = 32 if request.param == "convnext_tiny" else 64  # the largest of them
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    model = narrow_vgg() if request.param == "vgg11" else getattr(torchvision.models, request.param)(num_classes=3)
    model.double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the first pass's statistics as they are
    with torch.no_grad():
        model(images)
    yield Network(request.param, model, images, *([n.strip("*") for n in names] for names in LAYERS[request.param]))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def flags(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()] + [p.requires_grad for p in model.parameters()]


def halves(model: nn.Module, layer: str) -> tuple[nn.Sequential, nn.Sequential]:
    """A torchvision classifier's main path up to ``layer``, and from there to the logits."""
    if hasattr(model, "features"):
        body, name = model.features, layer.removeprefix("features.")
    else:  # ResNet
        body, name = nn.Sequential(OrderedDict(list(model.named_children())[:-2])), layer
    cut = list(dict(body.named_children())).index(name) + 1
    end: list[nn.Module]
    if isinstance(model, torchvision.models.DenseNet):
        end = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.classifier]
    elif isinstance(model, torchvision.models.ConvNeXt):
        end = [model.avgpool, model.classifier]
    else:
        end = [model.avgpool, nn.Flatten(), model.fc if hasattr(model, "fc") else model.classifier]
    return body[:cut], nn.Sequential(*body[cut:], *end)


def loss(logits: Tensor, alpha: float = 10.0) -> Tensor:
    """Sum over the images of the released rule's J."""
    return (logits.logsumexp(1) - alpha * logits[torch.arange(len(CLASSES)), CLASSES]).sum()


# the true gradients


def test_layers_of_the_main_path_equal_the_networks_own_halves(network: Network) -> None:
    """In training mode on purpose: dropout, stochastic depth and batch statistics are off inside."""
    model, images = network.model.train(), network.images
    alpha = 10.0
    found = gradients(model, images, CLASSES, network.layers, alpha=alpha)
    maps = dual_gradients(model, images, CLASSES, network.layers, alpha=alpha)
    model.eval()
    for layer in network.layers:
        first, second = halves(model, layer)
        with torch.no_grad():
            S = first(images.clone())
        leaf = S.clone().requires_grad_()
        logits = second(leaf.clone())
        G = torch.stack([torch.autograd.grad(l.sum(), leaf, retain_graph=True)[0] for l in logits.unbind(1)], 1)
        p = logits.detach().softmax(1)
        G_c = G[torch.arange(2), CLASSES]
        G_J = torch.einsum("nc,nckhw->nkhw", p - alpha * F.one_hot(CLASSES, 3), G)
        norm = [X.flatten(1).norm(dim=1)[:, None, None, None] for X in (S, G_J)]

        torch.testing.assert_close(found.logits, logits.detach())
        assert torch.equal(found[layer].S, S), layer
        for got, expected in ((found[layer].G_c, G_c), (found[layer].G_J, G_J)):
            assert expected.std() > 0
            torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10 * float(expected.abs().max()))
        expected = (G_c * (S / norm[0] - G_J / norm[1])).sum(1)
        torch.testing.assert_close(maps[layer], expected, rtol=1e-8, atol=1e-10 * float(expected.abs().max()))


def test_layers_inside_blocks_equal_forward_differentiation(network: Network) -> None:
    """And S is what the module makes of its own input, with nothing after it."""
    model, images = network.model, network.images
    layers = network.inner + network.layers[:1]
    found = gradients(model.train(), images, CLASSES, layers)
    model.eval()
    modules = dict(model.named_modules())
    for layer in layers:
        inputs: list[Tensor] = []
        handle = modules[layer].register_forward_pre_hook(lambda _, args, kept=inputs: kept.append(args[0].clone()))
        with torch.no_grad():
            model(images)
        handle.remove()
        S, G_c, G_J = found[layer]
        with torch.no_grad():
            assert torch.equal(S, modules[layer](*inputs)), layer
        direction = torch.randn(S.shape, dtype=S.dtype, generator=torch.Generator().manual_seed(1))
        with forward_ad.dual_level(), replace(model, layer, forward_ad.make_dual(S, direction)):
            logits = model(images)
            l_c, J = (forward_ad.unpack_dual(X).tangent for X in (logits[[0, 1], CLASSES].sum(), loss(logits)))
        for got, G in ((l_c, G_c), (J, G_J)):
            torch.testing.assert_close((G * direction).sum(), got.detach(), rtol=1e-9, atol=1e-11 * float(G.norm()))


def test_the_marked_layers_are_really_overwritten(network: Network) -> None:
    """Otherwise the tests above would not see a tap that forgets to protect what it read."""
    modules, marked = dict(network.model.eval().named_modules()), [n for names in LAYERS[network.name] for n in names]
    for name in marked:
        kept: list[tuple[Tensor, Tensor]] = []
        handle = modules[name.strip("*")].register_forward_hook(lambda m, i, o, k=kept: k.append((o, o.clone())))
        with torch.no_grad():
            network.model(network.images)
        handle.remove()
        assert torch.equal(*kept[0]) != name.endswith("*"), name


def test_a_layer_alone_gives_what_it_gives_among_others(network: Network) -> None:
    """The graph begins at the shallowest layer asked for: that must change nothing for the deeper ones."""
    layers = [*network.inner, *network.layers][::-1]
    together = gradients(network.model, network.images, CLASSES, layers)
    for layer in layers[:2]:
        alone = gradients(network.model, network.images, CLASSES, [layer])[layer]
        for X, Y in zip(alone, together[layer], strict=True):
            torch.testing.assert_close(X, Y, rtol=1e-10, atol=1e-10 * float(Y.abs().max()))


# CAM


@pytest.mark.filterwarnings("ignore:cam needs")
def test_cam_where_it_exists_is_dgl_and_pixel_selection(network: Network) -> None:
    layers = network.layers
    if network.name not in CAM:
        with pytest.raises(UserError, match=r"cam needs logits = fc\(mean over h,w of the layer's output\)") as told:
            localize(network.model, network.images, None, layers, ["cam", "dgl"])
        assert all(layer in str(told.value) for layer in layers) and "grad_cam_signed" in str(told.value)
        assert set(METHODS["grad_cam_signed"](network.model, network.images, None, layers)) == set(layers)
        return
    for rule in RULES:
        maps = localize(network.model, network.images, None, layers, ["cam", "dgl", "pixel_selection"], rule=rule).maps
        assert list(maps["cam"]) == CAM[network.name]
        for layer, m in maps["cam"].items():
            for method in ("dgl", "pixel_selection"):
                torch.testing.assert_close(minmax(maps[method][layer]), minmax(m), rtol=1e-8, atol=1e-8)


def test_densenet_has_no_layer_for_cam() -> None:
    """DenseNet ends in norm5, a functional ReLU, pooling and a linear layer: the ReLU is still to cut ``features``.

    With a ReLU appended as a module CAM exists there, and is pixel-level selection.
    """
    torch.manual_seed(0)
    model = torchvision.models.DenseNet(4, (2, 2), 8, num_classes=3)
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(UserError, match=r"cam needs .* on features, features\.norm5"):
        METHODS["cam"](model, images, None, ["features", "features.norm5"])
    S = gradients(model, images, None, ["features"])["features"].S
    assert S.min() < 0  # the true output, though F.relu(features, inplace=True) comes next
    model.features.add_module("relu5", nn.ReLU())
    maps = localize(model, images, None, ["features.relu5"], ["cam", "pixel_selection", "dgl"]).maps
    cam, selected, dgl = (minmax(maps[method]["features.relu5"]) for method in ("cam", "pixel_selection", "dgl"))
    torch.testing.assert_close(selected, cam, rtol=1e-4, atol=1e-5)
    assert (dgl - cam).abs().max() > 0.1  # the functional ReLU comes again: G_J is 0 where S is, not constant in space


# nothing is left behind


def mix(model: nn.Module) -> None:
    """Every third module in eval mode, every second weight frozen: no rule could bring these flags back."""
    for i, module in enumerate(model.modules()):
        module.training = i % 3 > 0
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 2 > 0)


def test_flags_hooks_and_weights_are_as_they_were(network: Network) -> None:
    model, layers = network.model, [*network.layers, *network.inner]
    mix(model)
    before, weights = flags(model), digest(model)
    found = gradients(model, network.images, None, layers)
    assert flags(model) == before and hooks(model) == 0
    head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]

    def broken(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    handle = head.register_forward_pre_hook(broken)  # after all tapped layers have run
    with pytest.raises(RuntimeError, match="on purpose"):
        gradients(model, network.images, None, layers)
    assert flags(model) == before and hooks(model) == 1
    handle.remove()
    with pytest.raises(UserError, match=r"gives \(2, 3\), a feature map"):
        gradients(model, network.images, None, [*layers, {id(m): n for n, m in model.named_modules()}[id(head)]])
    assert flags(model) == before and hooks(model) == 0
    assert digest(model) == weights
    assert all(p.grad is None for p in model.parameters())
    for X in (found.logits, found.classes, *(X for triple in found.values() for X in triple)):
        assert X.grad_fn is None and not X.requires_grad

    model.requires_grad_(False).eval()  # frozen altogether: the same maps
    frozen = gradients(model, network.images, None, layers)
    model.requires_grad_(True).train()
    for layer in layers:
        for X, Y in zip(frozen[layer], found[layer], strict=True):
            assert torch.equal(X, Y), layer


class Saved:
    """A tensor that a graph keeps for its backward pass; in a set of the living."""

    def __init__(self, X: Tensor) -> None:
        self.X = X


@pytest.mark.filterwarnings("ignore:cam needs")
def test_no_graph_and_no_tensor_is_left_after_two_hundred_calls() -> None:
    """Successes and five kinds of exceptions, with the garbage collector off: nothing even waits for it.

    Counts Python's tensors, and what C++ graphs keep, which Python cannot see otherwise.
    """
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(4, 3))
    images = torch.randn(2, 3, 8, 8)
    living: weakref.WeakSet[Saved] = weakref.WeakSet()
    seen = 0

    def pack(X: Tensor) -> Saved:
        nonlocal seen
        seen += 1
        living.add(saved := Saved(X.detach()))  # of an output itself it would hold its own graph
        return saved

    def unpack(saved: Saved) -> Tensor:
        return saved.X

    def tensors() -> int:
        return sum(type(o) in (Tensor, nn.Parameter) for o in gc.get_objects())

    calls = [
        {},
        {"layers": ["0", "5"]},  # no feature map, after the pass began
        {"classes": [0, 3]},  # outside of the head, after the pass
        {"layers": ["0", "nowhere"]},
        {"images": images[:, :2]},  # torch's own error, within the pass
        {"rule": "relased"},
        {"layers": ["0", "1", "2"], "methods": list(METHODS)},
    ]
    counts, raised = [], 0
    gc.collect()
    gc.freeze()  # what is there already need not be looked through each time
    gc.disable()
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            for i in range(210):
                arguments = {"images": images, "classes": [0, 1], "layers": ["0"], "methods": ["dgl"]}
                try:
                    localize(model, **(arguments | calls[i % len(calls)]))
                except (UserError, RuntimeError):
                    raised += 1
                counts.append(tensors())
                assert not living, f"call {i % len(calls)} left a graph"
    finally:
        gc.enable()
        gc.unfreeze()
    assert seen > 100 and raised == 150
    assert len(set(counts)) == 1, sorted(set(counts))
    assert hooks(model) == 0 and all(p.requires_grad and p.grad is None for p in model.parameters())


# one pass for all


@pytest.mark.filterwarnings("ignore:cam needs")
def test_all_methods_and_layers_share_one_forward_and_two_backward_passes(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, backward = network.model, []
    ran: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.update([name])) for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(network.images)
        once, ran = ran.copy(), Counter()
        engine = torch.autograd.grad
        monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: backward.append(1) or engine(*a, **k))
        monkeypatch.setattr(Tensor, "backward", lambda *_, **__: pytest.fail("weights would get gradients"))
        layers, methods = [*network.layers, *network.inner], [m for m in METHODS if m != "cam"]
        out = localize(model, network.images, None, layers, methods + ["cam"] * (network.name in CAM))
    finally:
        for handle in handles:
            handle.remove()
    assert ran == once and once[""] == 1 and len(backward) == 2
    assert all(set(out.maps[method]) == set(layers) for method in methods)


# what is refused


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None, num_classes=3)


def vit() -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 8, num_classes=3)
    nn.init.normal_(model.heads.head.weight)  # which comes as zeros
    return model


SMALL = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (resnet, {"layers": ["layer2.0.relu"]}, "layer 'layer2.0.relu' ran 2 times in one pass, exactly once is"),
        (resnet, {"layers": ["fc"]}, r"layer 'fc' gives \(2, 3\), a feature map N x K x h x w is needed"),
        (resnet, {"layers": ["layer5"]}, "layer 'layer5' is not in ResNet; near it: layer"),
        (resnet, {"methods": ["cam"]}, r"cam needs logits = fc\(.* on layer3; grad_cam_signed"),
        (resnet, {"classes": [0, 3]}, r"classes: 0\.\.3 given, 0\.\.2 allowed"),
        (resnet, {"classes": [0, 1, 2]}, r"classes: \(3,\) torch.int64 given for 2 images, one whole number an image"),
        (vit, {"layers": ["encoder.layers.encoder_layer_0"]}, r"gives \(2, 5, 8\), a feature map N x K x h x w is"),
        (vit, {"layers": ["encoder.layers.encoder_layer_0.self_attention"]}, "gives tuple, a feature map"),
    ],
)
def test_what_is_refused(make, change: dict, message: str) -> None:
    arguments = {"images": SMALL, "classes": [0, 1], "layers": ["layer3"], "methods": ["dgl"]} | change
    model = make()
    before = flags(model)
    with pytest.raises(UserError, match=message) as told:
        localize(model, **arguments)
    assert "\n" not in str(told.value)
    assert flags(model) == before and hooks(model) == 0


class Detached(nn.Module):
    """A fixed trunk under a trained head, as transfer learning has it: no gradient comes back through no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = resnet(), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.trunk(x)
        return self.head(features[:, :, None, None]).flatten(1)


def test_a_layer_the_logits_do_not_depend_on_is_refused() -> None:
    with pytest.raises(UserError, match=r"the logits do not depend on layer 'trunk\.layer4': nothing can be localized"):
        gradients(Detached(), SMALL, None, ["trunk.layer4", "head"])


def test_an_auxiliary_classifier_that_sleeps_in_eval_mode_is_refused() -> None:
    model = torchvision.models.googlenet(weights=None, num_classes=3, aux_logits=True, init_weights=False)
    with pytest.raises(UserError, match=r"layer 'aux1\.conv' ran 0 times in one pass"):
        gradients(model, SMALL, None, ["aux1.conv"])


def test_the_patches_of_a_transformer_are_a_feature_map() -> None:
    """Its tokens are refused (above); the convolution that makes them is a layer like any other."""
    found = gradients(vit(), SMALL, None, ["conv_proj"])["conv_proj"]
    assert found.S.shape == (2, 8, 2, 2) and found.G_c.abs().max() > 0


# networks as people have them


def small() -> nn.Sequential:
    torch.manual_seed(0)
    body = OrderedDict(conv1=nn.Conv2d(3, 4, 3), relu=nn.ReLU(inplace=True), conv2=nn.Conv2d(4, 5, 3))
    return nn.Sequential(body | {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(5, 3)})


class Holding(nn.Module):
    """Gives what ``hold`` makes of its logits."""

    def __init__(self, hold) -> None:
        super().__init__()
        self.net, self.hold = small(), hold

    def forward(self, x: Tensor) -> object:
        return self.hold(self.net(x))


class Output(OrderedDict):
    """As Hugging Face's ModelOutput: its entries are its attributes too."""

    def __init__(self, **entries: Tensor) -> None:
        super().__init__(entries)
        self.__dict__.update(entries)


class Named(NamedTuple):
    logits: Tensor
    aux_logits: None


@pytest.mark.parametrize(
    "hold", [lambda l: Output(loss=l.sum(), logits=l), lambda l: {"logits": l}, lambda l: Named(l, None)]
)
def test_logits_may_lie_in_a_larger_output(hold) -> None:
    expected = localize(small(), SMALL, None, ["conv2", "conv1"], ["dgl"])
    found = localize(Holding(hold), SMALL, None, ["net.conv2", "net.conv1"], ["dgl"])
    assert torch.equal(found.logits, expected.logits) and torch.equal(found.classes, expected.classes)
    for layer, m in expected.maps["dgl"].items():
        assert torch.equal(found.maps["dgl"][f"net.{layer}"], m)


@pytest.mark.parametrize(
    ("hold", "given"),
    [
        (lambda l: {"out": l, "aux": l}, "a dictionary of out, aux, 'logits' is"),
        (lambda l: {}, "a dictionary of nothing, 'logits' is"),
        (lambda l: {"logits": None}, "NoneType, logits N x classes are"),
        (lambda l: [l], "list, logits N x classes are"),
        (lambda l: None, "NoneType, logits N x classes are"),
    ],
)
def test_an_output_without_logits_is_refused(hold, given: str) -> None:
    with pytest.raises(UserError, match=f"^the model gives {given} needed"):
        localize(Holding(hold), SMALL, None, ["net.conv2"], ["dgl"])


def test_a_module_can_be_asked_for_by_any_of_its_names() -> None:
    model = Holding(lambda l: l)
    model.other = model.net
    found = dual_gradients(model, SMALL, None, ["other.conv2"])["other.conv2"]
    assert torch.equal(found, dual_gradients(model, SMALL, None, ["net.conv2"])["net.conv2"])


@pytest.mark.parametrize("part", ["whole", "in place", "inner"])
def test_a_compiled_network_has_its_own_names(part: str) -> None:
    """Also once its code is made, in the state that localizing asks for: it would not see hooks that come later."""
    expected = localize(small(), SMALL, None, ["conv2", "conv1"], ["dgl"])
    model = small().eval().requires_grad_(False)
    if part == "whole":
        model = torch.compile(model, backend="eager")
    elif part == "in place":
        model.compile(backend="eager")
    else:
        model.conv2 = torch.compile(model.conv2, backend="eager")
    model(SMALL)
    found = localize(model, SMALL, None, ["conv2", "conv1"], ["dgl"])
    for layer, m in expected.maps["dgl"].items():
        assert torch.equal(found.maps["dgl"][layer], m)
    if part == "whole":  # the long name is right as well
        assert list(dual_gradients(model, SMALL, None, ["_orig_mod.conv1"])) == ["_orig_mod.conv1"]
        with pytest.raises(UserError, match="'conv3' is not in OptimizedModule; near it: conv"):
            dual_gradients(model, SMALL, None, ["conv3"])


@pytest.mark.parametrize("images", [torch.float32, torch.bfloat16])
def test_images_become_of_the_weights_type_and_maps_of_half_precision_are_float32(images: torch.dtype) -> None:
    m = dual_gradients(small().bfloat16(), SMALL.to(images), None, ["conv2"])["conv2"]
    assert m.dtype == torch.float32 and m.isfinite().all()
    assert dual_gradients(small().double(), SMALL, None, ["conv2"])["conv2"].dtype == torch.float64
    broken = small()
    broken.conv2 = nn.Conv2d(9, 5, 3)  # another error is the network's own
    with pytest.raises(RuntimeError, match="expected"):
        dual_gradients(broken, SMALL, None, ["conv1"])


@pytest.mark.filterwarnings("ignore")  # torch's own, of its quantisation that moves elsewhere
def test_a_quantised_head_is_told_by_its_name() -> None:
    model = torch.ao.quantization.quantize_dynamic(small().eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UserError, match=r"^'fc' is quantised and lets no gradient through: its float form is needed$"):
        dual_gradients(model, SMALL, None, ["conv2"])


# timm


@pytest.mark.parametrize(
    ("name", "last", "inner", "cam"),
    [
        ("resnet18", "layer4", "bn1", True),
        ("mobilenetv3_small_050", "blocks", "blocks.1.0.conv_pw", False),
        ("convnext_atto", "stages", "stages.1.blocks.0.conv_dw", False),
    ],
)
def test_timm_classifiers_work_as_they_come(name: str, last: str, inner: str, cam: bool) -> None:
    """timm's own halves, ``forward_features`` and ``forward_head``, are the twin of the last layer."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=3, drop_rate=0.3, drop_path_rate=0.2).double()
    images = SMALL.double()
    with torch.no_grad():
        model(torch.cat([images, images + 1]))
    mix(model)
    before, weights = flags(model), digest(model)
    found = gradients(model, images, CLASSES, [last, inner], needs=("G_c", "G_J", "w_c"))
    assert flags(model) == before and digest(model) == weights and hooks(model) == 0
    model.eval()
    S = model.forward_features(images).detach()
    leaf = S.clone().requires_grad_()
    logits = model.forward_head(leaf.clone())
    assert torch.equal(found[last].S, S)
    G_c = torch.autograd.grad(logits[[0, 1], CLASSES].sum(), leaf, retain_graph=True)[0]
    torch.testing.assert_close(found[last].G_c, G_c, rtol=1e-8, atol=1e-10 * float(G_c.abs().max()))
    G_J = torch.autograd.grad(loss(logits), leaf)[0]
    torch.testing.assert_close(found[last].G_J, G_J, rtol=1e-8, atol=1e-10 * float(G_J.abs().max()))
    assert found[inner].G_c.abs().max() > 0
    assert list(found.heads) == [last] * cam


def test_timm_transformers_are_refused_with_the_shape_of_their_tokens() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=3, img_size=32)
    with pytest.raises(
        UserError, match=r"layer 'blocks\.11' gives \(2, 5, 192\), a feature map N x K x h x w is needed"
    ):
        gradients(model, SMALL, None, ["blocks.11"])
    assert hooks(model) == 0
    assert gradients(model, SMALL, None, ["patch_embed.proj"])["patch_embed.proj"].S.shape == (2, 192, 2, 2)
