"""CAM, Grad-CAM, Grad-CAM++ and LayerCAM against TorchCAM and pytorch-grad-cam, called as their users call them.

They need the packages of requirements-peers.txt and skip without them. Where the public implementations compute
something else by definition, the test says what, and shows that this and nothing else is the difference:

- pytorch-grad-cam resizes the min-maxed map to the image and min-maxes it again: so are ours. It has no CAM.
- Grad-CAM++: a = G^2 / (2 G^2 + sum_hw(S) G^3). pytorch-grad-cam adds 1e-6 to the denominator, which is not small
  beside the squared gradients of a deep layer. TorchCAM 0.5.0 documents the same formula, but divides in place what a
  boolean mask selects, which is a copy: its a is G^2, and its weights are sum_hw relu(G)^3, on every layer.
- LayerCAM: all three sum relu(G) S and cut the sum at zero.
- Both read what an in-place activation after the layer has left of its output; ours is the true output.
"""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from dgl_lib.localize import METHODS, gradients
from dgl_lib.maps import minmax, resize
from dgl_lib.models import spg_plain

CLASSES = [2, 0, 1]
IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
SETTINGS = [
    ("spg_plain", "add1"),
    ("spg_plain", "Mixed_6e"),
    ("resnet18", "layer4"),
    ("resnet18", "layer2"),
]
LAST = {"spg_plain": "add1", "resnet18": "layer4"}


def network(name: str, gain: float = 1.0) -> nn.Module:
    """Random weights; ``gain`` scales the head, and with it every gradient of a logit."""
    torch.manual_seed(0)
    model = spg_plain(3, width=1 / 16) if name == "spg_plain" else torchvision.models.resnet18(num_classes=3)
    for module in model.modules():  # batch norms settle on these images, so that no signal dies on its way
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(IMAGES)
        model.fc.weight.mul_(gain)
    return model.eval()


def torchcam(method: str, model: nn.Module, layer: str) -> Tensor:
    methods = pytest.importorskip("torchcam.methods")
    kind = {"cam": "CAM", "grad_cam": "GradCAM", "grad_cam_pp": "GradCAMpp", "layer_cam": "LayerCAM"}[method]
    with getattr(methods, kind)(model, layer) as extractor:
        scores = model(IMAGES)
        [raw] = extractor(CLASSES, scores, normalized=False)
    return minmax(raw.detach())


def pytorch_grad_cam(method: str, model: nn.Module, layer: str) -> Tensor:
    package = pytest.importorskip("pytorch_grad_cam")
    kind = {"grad_cam": "GradCAM", "grad_cam_pp": "GradCAMPlusPlus", "layer_cam": "LayerCAM"}[method]
    targets = [package.utils.model_targets.ClassifierOutputTarget(c) for c in CLASSES]
    with getattr(package, kind)(model, [model.get_submodule(layer)]) as extractor:
        return torch.from_numpy(extractor(IMAGES, targets))


def as_pytorch_grad_cam(m: Tensor) -> Tensor:
    return minmax(resize(minmax(m), (64, 64)))


def close(got: Tensor, expected: Tensor) -> None:
    """To 1e-5 of maps in 0..1, none of which is constant."""
    assert (expected.amax((1, 2)) - expected.amin((1, 2))).min() > 0.99
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def weighted(S: Tensor, a: Tensor, G: Tensor) -> Tensor:
    """Grad-CAM++ with a public implementation's ``a``; float64."""
    return torch.einsum("nk,nkhw->nhw", (a * G.relu()).sum((2, 3)), S).relu().float()


@pytest.mark.parametrize("name", LAST)
def test_cam_is_torchcams(name: str) -> None:
    model = network(name)
    close(minmax(METHODS["cam"](model, IMAGES, CLASSES, [LAST[name]])[LAST[name]]), torchcam("cam", model, LAST[name]))


@pytest.mark.parametrize("method", ["grad_cam", "layer_cam"])
@pytest.mark.parametrize(("name", "layer"), SETTINGS)
@pytest.mark.parametrize(
    ("peer", "ours_as"), [(torchcam, minmax), (pytorch_grad_cam, as_pytorch_grad_cam)], ids=["torchcam", "grad-cam"]
)
def test_grad_cam_and_layer_cam_are_theirs(peer, ours_as, name: str, layer: str, method: str) -> None:
    model = network(name)
    close(ours_as(METHODS[method](model, IMAGES, CLASSES, [layer])[layer]), peer(method, model, layer))


@pytest.mark.parametrize(("name", "layer"), SETTINGS)
def test_grad_cam_pp_is_pytorch_grad_cams_but_for_its_eps(name: str, layer: str) -> None:
    """With gradients large against 1e-6 they are the same; at their own size the eps accounts for all of the rest."""
    model = network(name, gain=1e6)
    ours = METHODS["grad_cam_pp"](model, IMAGES, CLASSES, [layer])[layer]
    close(as_pytorch_grad_cam(ours), pytorch_grad_cam("grad_cam_pp", model, layer))
    model = network(name)
    S, G, _ = (X.double() for X in gradients(model, IMAGES, CLASSES, [layer])[layer])
    a = G**2 / (2 * G**2 + S.sum((2, 3), keepdim=True) * G**3 + 1e-6)
    close(as_pytorch_grad_cam(weighted(S, a, G)), pytorch_grad_cam("grad_cam_pp", model, layer))


@pytest.mark.parametrize(("name", "layer"), SETTINGS)
def test_grad_cam_pp_is_torchcams_but_for_its_missing_denominator(name: str, layer: str) -> None:
    model = network(name)
    S, G, _ = (X.double() for X in gradients(model, IMAGES, CLASSES, [layer])[layer])
    close(minmax(weighted(S, G**2, G)), torchcam("grad_cam_pp", model, layer))


def test_in_place_activations_overwrite_what_they_read() -> None:
    """resnet18's bn1 is followed by a ReLU in place: TorchCAM's maps of bn1 are those of the ReLU; ours are its own."""
    model = network("resnet18")
    bn1, relu = (METHODS["grad_cam"](model, IMAGES, CLASSES, [layer])[layer] for layer in ("bn1", "relu"))
    close(minmax(relu), torchcam("grad_cam", model, "bn1"))
    assert (minmax(bn1) - minmax(relu)).abs().max() > 0.1
    # pytorch-grad-cam takes S after the ReLU and G_c before it.
    S, G_c = (gradients(model, IMAGES, CLASSES, [layer])[layer] for layer in ("relu", "bn1"))
    mixed = torch.einsum("nk,nkhw->nhw", G_c.G_c.mean((2, 3)), S.S).relu()
    close(as_pytorch_grad_cam(mixed), pytorch_grad_cam("grad_cam", model, "bn1"))
