"""Photographs in, maps, overlays and boxes out; classifiers opened by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from dgl_lib.app import networks, predict
from dgl_lib.app.networks import open_network
from dgl_lib.app.predict import How, find_photographs, regions
from dgl_lib.data.creatures import Creatures
from dgl_lib.errors import UserError
from dgl_lib.localize import localize
from dgl_lib.maps import close, minmax, multiscale
from dgl_lib.models import preprocess
from tests.test_cli import dgl

CREATURES = ("--checkpoint", "creatures")


@pytest.fixture(scope="module")
def network() -> networks.Network:
    return open_network("creatures")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two drawn creatures of other sizes than the network's, one in a folder below."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    drawn = Creatures("test", 2)
    Image.fromarray(drawn.image(0)).resize((200, 100)).save(folder / "a.png")
    Image.fromarray(drawn.image(1)).resize((64, 96)).save(folder / "more" / "b.jpg")
    return folder


# One photograph


def test_the_studys_order(network: networks.Network) -> None:
    image = np.array(Image.fromarray(Creatures("test", 1).image(0)).resize((90, 60)))
    how = How("Mixed_6e", "dgl", 3, (0.75, 1.0), 0.1, 0.5)
    found = predict.predict(network, image, how)
    raw = []
    for side in (120, 160):
        out = localize(network.model, preprocess(network.model, [image], side), [3], ["Mixed_6e"], ["dgl"])
        raw.append(out.maps["dgl"]["Mixed_6e"][0])
    expected = minmax(close(multiscale(raw, (60, 90)), 0.1))
    assert found.map.shape == (60, 90) and found.map.dtype == np.float32
    np.testing.assert_allclose(found.map, expected, atol=1e-6)
    assert found.label == 3 and found.threshold == 128  # half of 255
    assert found.probability == pytest.approx(float(out.logits[0].softmax(0)[3]), rel=1e-4)


def test_the_predicted_class_is_that_of_the_scale_nearest_one(network: networks.Network) -> None:
    image = Creatures("test", 3).image(2)
    found = predict.predict(network, image, How("Mixed_6e", scales=(0.5, 1.25, 1.0)))
    logits = network.model(preprocess(network.model, [image], 160))[0].detach()
    assert found.label == int(logits.argmax())
    assert found.probability == pytest.approx(float(logits.softmax(0).max()), rel=1e-4)


def test_a_large_photograph_is_closed_at_a_bounded_size(network: networks.Network) -> None:
    image = np.array(Image.fromarray(Creatures("test", 1).image(0)).resize((3000, 1200)))
    found = predict.predict(network, image, How("Mixed_6e", close=0.06))  # at its own size: a kernel of 181 px
    assert found.map.shape == (1200, 3000) and found.map.min() == 0 and found.map.max() == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 40)])
def test_tiny_photographs(network: networks.Network, size: tuple[int, int]) -> None:
    found = predict.predict(network, np.zeros((*size, 3), np.uint8), How("Mixed_6e"))
    assert found.map.shape == size and np.isfinite(found.map).all()
    assert predict.overlay(np.zeros((*size, 3), np.uint8), found, "x").shape == (*size, 3)


def test_regions_by_hand() -> None:
    q = np.zeros((6, 8), np.uint8)
    q[1:4, 2:7] = 100
    q[2, 3:5] = 0  # a hole: no box of its own
    q[2, 6] = 200
    q[5, 0] = 120
    q[4, 1] = 100  # touches the pixel above and the one below at corners only
    assert regions(q, 101, 0.5) == [
        predict.Region((6, 2, 1, 1), 1, pytest.approx(0.5 * 200 / 255)),
        predict.Region((0, 5, 1, 1), 1, pytest.approx(0.5 * 120 / 255)),
    ]
    assert regions(q, 100) == [predict.Region((0, 1, 7, 5), 15, pytest.approx(200 / 255))]
    assert regions(q, 201) == []


def test_otsu_splits_two_levels() -> None:
    q = np.zeros((10, 10), np.uint8)
    q[:3] = 200
    t = predict._otsu(q)
    assert 0 < t <= 200 and regions(q, t)[0].bbox == (0, 0, 10, 3)
    assert regions(np.zeros((4, 4), np.uint8), predict._otsu(np.zeros((4, 4), np.uint8))) == []


def test_overlay_keeps_the_photograph_and_outlines_the_region() -> None:
    image = np.full((80, 120, 3), 90, np.uint8)
    m = np.zeros((80, 120), np.float32)
    m[30:60, 40:100] = 1
    found = predict.Prediction(0, 0.9, m, 128, [predict.Region((40, 30, 60, 30), 1800, 0.9)])
    drawn = predict.overlay(image, found, "cup")
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (drawn[59, 40:100] == 255).all() and (drawn[60, 40:100] == 0).all()  # the box and its dark edge
    inside, outside = drawn[45, 70].astype(int), drawn[75, 10].astype(int)
    assert inside.sum() > outside.sum() + 100 and inside[0] > inside[2]  # magma: bright and warm where the map is high


# Files


def test_names_of_outputs(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/y/a.jpg", "x/y/b.gif", "x/c.JPG", "x/c.png", "x/notes.txt", "out/old.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_photographs([str(tmp_path)], tmp_path / "out")
    assert sorted(found.values()) == ["a", "c.JPG", "c.png", "y/a", "y/b"]
    assert sorted(find_photographs([str(tmp_path / "x/**/a.*")], tmp_path / "out").values()) == ["a", "y/a"]
    twice = find_photographs([str(tmp_path / "x/a.png"), str(tmp_path / "x/a.*")], tmp_path / "out")
    assert list(twice.values()) == ["a"]
    with pytest.raises(UserError, match="no such file"):
        find_photographs([str(tmp_path / "none*.png")], tmp_path / "out")
    with pytest.raises(UserError, match=r"\.jpg, \.jpeg"):
        (tmp_path / "empty").mkdir()
        find_photographs([str(tmp_path / "empty")], tmp_path / "out")
    with pytest.raises(UserError, match="output folder"):
        find_photographs([str(tmp_path / "out")], tmp_path / "out")


def test_localize_from_end_to_end(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [
        "localize",
        str(photographs),
        *CREATURES,
        "--out",
        str(out),
        "--json",
        "--threshold",
        "0.6",
        "--device",
        "cpu",
    ]
    arguments += ["--scales", "0.75,1", "--close", "0.06", "--layer", "Mixed_6d", "--method", "layer_cam"]
    status, text, err = dgl(*arguments, "--class", "warm-fantail")
    document = json.loads(text)
    assert (status, err) == (0, "")
    assert document == json.loads((out / "boxes.json").read_text())
    assert [(i["width"], i["height"], i["category_id"]) for i in document["images"]] == [(200, 100, 3), (64, 96, 3)]
    assert document["categories"][3] == {"id": 3, "name": "warm-fantail"}
    written = ["a.map.png", "a.overlay.png", "b.map.png", "b.overlay.png", "boxes.json"]
    assert sorted(p.name for p in out.rglob("*.*")) == written
    m = np.array(Image.open(out / "a.map.png"))
    assert m.dtype == np.uint16 and m.shape == (100, 200) and m.min() == 0 and m.max() == 65535
    mask = np.round(m / 65535 * 255) >= 153
    boxes = [a for a in document["annotations"] if a["image_id"] == 1]
    assert sum(a["area"] for a in boxes) == pytest.approx(mask.sum(), abs=3)
    x0, y0 = min(a["bbox"][0] for a in boxes), min(a["bbox"][1] for a in boxes)
    assert (x0, y0) == (np.flatnonzero(mask.any(0))[0], np.flatnonzero(mask.any(1))[0])
    assert Image.open(out / "more" / "b.overlay.png").size == (64, 96)

    status, text, _ = dgl("localize", str(photographs / "a.png"), *CREATURES, "--out", str(out), "--npy")
    assert status == 0 and "a.png: warm-antlered" in text
    values = np.load(out / "a.map.npy")
    assert values.dtype == np.float32 and values.shape == (100, 200) and values.max() == 1


def test_bad_photographs_are_named_and_the_others_done(photographs: Path, tmp_path: Path) -> None:
    (photographs / "broken.jpg").write_bytes(b"not an image")
    (photographs / "empty.png").touch()
    status, text, err = dgl("localize", str(photographs), *CREATURES, "--out", str(tmp_path / "out"))
    assert status == 1 and text.count("\n") == 2 and "Traceback" not in err
    lines = err.splitlines()
    assert "broken.jpg: not an image" in lines[0] and "empty.png" in lines[1]
    assert lines[2] == "2 of 4 photographs were not localized"
    document = json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert len(document["images"]) == 2 and len(document["info"]["failed"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layer", "Mixed_9z"], "'Mixed_9z' is not in SPGPlain"),
        (["--method", "magic"], "'magic' given, one of cam"),
        (["--method", "features"], "'features' given, one of cam"),
        (["--method", "cam", "--layer", "Mixed_6e"], "cam needs logits"),
        (["--class", "dog"], "class: 'dog' given"),
        (["--class", "8"], "0..7"),
        (["--scales", "1,x"], "numbers separated by commas"),
        (["--scales", "0.1"], "scales: 0.1 given"),
        (["--scales", "inf"], "scales: inf given"),
        (["--threshold", "0"], "(0, 1] allowed"),
        (["--close", "1"], "closing kernel"),
        (["--device", "abacus"], "device: 'abacus'"),
        (["--checkpoint", "none.safetensors"], "no file at 'none.safetensors'"),
        (["--weights", "none"], "a checkpoint holds its own"),
        (["--model", "resnet51"], "resnet50"),
        (["--model", "resnet18", "--weights", "V9"], "IMAGENET1K_V1"),
        (["--model", "resnet18", "--checkpoint", "creatures"], "one of them allowed"),
    ],
)
def test_mistakes_are_told_before_any_photograph_is_opened(
    monkeypatch: pytest.MonkeyPatch, photographs: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    monkeypatch.setattr(predict, "read_image", None)
    out = tmp_path / "out"
    network = () if {"--model", "--checkpoint"} & {*arguments} else CREATURES
    status, text, err = dgl("localize", str(photographs), "--out", str(out), *network, *arguments)
    assert status == 2 and said in err and not text and "Traceback" not in err
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_one_line(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, _, err = dgl("localize", str(photographs), *CREATURES, "--out", str(tmp_path / "file"))
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1


def test_a_full_disk_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        predict.write_bytes(tmp_path / "a.png", b"new")
    assert (tmp_path / "a.png").read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_an_overlay_in_strips_is_that_of_the_whole() -> None:
    """A tall photograph is blended in strips: every piece of it looks as it does alone."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (600, 7, 3), np.uint8)
    found = predict.Prediction(0, 1.0, rng.random((600, 7), np.float32), 1, [])
    whole = predict.overlay(image, found, "")
    for rows in (slice(0, 100), slice(200, 300), slice(450, 600)):
        alone = predict.Prediction(0, 1.0, found.map[rows], 1, [])
        assert np.array_equal(predict.overlay(image[rows], alone, ""), whole[rows])
    assert whole.shape == image.shape and whole.dtype == np.uint8
    # A black photograph under a map of 1 shows the highest colour of magma at its share, 0.65.
    black = predict.overlay(np.zeros((1, 1, 3), np.uint8), predict.Prediction(0, 1.0, np.ones((1, 1)), 1, []), "")
    assert np.abs(black[0, 0] - 0.65 * np.array([252, 253, 191])).max() <= 1


# Networks


def test_a_checkpoint_knows_its_classes_and_its_preprocessing(network: networks.Network) -> None:
    assert network.classes == Creatures("test", 1).classes and network.size == 160
    assert network.model.mean == (0.5, 0.5, 0.5) and not network.model.training
    assert networks.default_layer(network) == "Mixed_6e" and networks.default_layer(network, "cam") == "add1"


def test_torchvision_by_name(tmp_path: Path) -> None:
    network = open_network(model="squeezenet1_1", weights="none")
    assert network.size == 224 and len(network.classes) == 1000
    assert network.model.mean == (0.485, 0.456, 0.406)
    again = open_network(model="squeezenet1_1", weights="none")
    assert all(torch.equal(a, b) for a, b in zip(network.model.parameters(), again.model.parameters(), strict=True))

    other = torchvision.models.squeezenet1_1(num_classes=3)
    torch.save(other.state_dict(), tmp_path / "mine.pth")
    mine = open_network(model="squeezenet1_1", weights=str(tmp_path / "mine.pth"))
    assert mine.classes == ("0", "1", "2")
    assert all(torch.equal(a, b) for a, b in zip(mine.model.parameters(), other.parameters(), strict=True))
    torch.save(network.model.state_dict(), tmp_path / "squeezenet1_1-b8a52dc0.pth")  # torchvision's own name
    theirs = open_network(model="squeezenet1_1", weights=str(tmp_path / "squeezenet1_1-b8a52dc0.pth"))
    assert theirs.classes[0] == "tench" and theirs.find_class("tench") == theirs.find_class("0") == 0
    with pytest.raises(UserError, match="not those of squeezenet1_0"):
        open_network(model="squeezenet1_0", weights=str(tmp_path / "mine.pth"))

    rows = networks.layers(mine, 64)
    assert {"features.0", "features.12", "features"} <= {row.name for row in rows}
    assert not any(row.cam for row in rows)  # its head is a convolution
    found = predict.predict(network, Creatures("test", 1).image(0), How("features.9", scales=(0.5,)))
    assert found.map.shape == (160, 160) and found.regions


def test_layers_of_a_network_that_is_not_ours() -> None:
    model = torchvision.models.resnet18(num_classes=2)
    rows = networks.layers(networks.Network(model, "r", ("0", "1"), 64), 64, "cpu")
    by_name = {row.name: row for row in rows}
    assert by_name["layer4"] == networks.LayerRow("layer4", 512, 2, 2, 32.0, True)
    assert by_name["layer3.1"].stride == 16 and not by_name["layer3.1"].cam
    assert "avgpool" not in by_name and "fc" not in by_name
    assert rows[-1].name == "layer4" == networks.default_layer(networks.Network(model, "r", ("0", "1"), 64))


class ChannelsLast(nn.Module):
    """As Swin: a map with the channels last, which is turned before the pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.last, self.pool = nn.Conv2d(3, 8, 4, 4), Turn(0, 2, 3, 1), nn.AdaptiveAvgPool2d(1)
        self.first, self.fc = Turn(0, 3, 1, 2), nn.Linear(8, 2)
        self.mean, self.std = (0.5,) * 3, (0.5,) * 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.first(self.last(self.patches(images)))).flatten(1))


class Turn(nn.Module):
    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.axes)


class OneSize(ChannelsLast):
    """As MaxViT: the input has one size."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] != 64:
            raise ValueError("64 px needed")
        return super().forward(images)


def test_a_map_with_its_channels_last_is_refused() -> None:
    network = networks.Network(ChannelsLast(), "turned", ("a", "b"), 64)
    rows = networks.layers(network, device="cpu")
    assert [(row.name, row.channels, row.cam) for row in rows] == [("patches", 8, True), ("first", 8, True)]
    networks.check_layers(network, ["patches", "first"])
    for call in (
        lambda: networks.check_layers(network, ["first", "last"]),
        lambda: predict.check(network, How("last")),
    ):
        with pytest.raises(UserError, match="'last' gives N x h x w x K, its channels last; N x K x h x w needed"):
            call()
    with pytest.raises(UserError, match="'lost' is not in ChannelsLast"):
        networks.check_layers(network, ["lost"])
    # Of a network of one size it cannot be told, and the layer is taken as it is.
    fixed = networks.Network(OneSize(), "fixed", ("a", "b"), 64)
    networks.check_layers(fixed, ["last"])
    assert [row.name for row in networks.layers(fixed, device="cpu")] == ["patches", "last", "first"]


@pytest.mark.parametrize(
    ("model", "layer", "wrong"),
    [
        ("mobilenet_v3_large", "features.12", "features.99"),
        ("shufflenet_v2_x0_5", "stage3", "stage9"),
        ("convnext_tiny", "features.5.0.block.0", "features.5.0.block.2"),
        ("swin_t", "permute", "features.3"),
    ],
)
def test_localize_with_a_torchvision_network(
    photographs: Path, tmp_path: Path, model: str, layer: str, wrong: str
) -> None:
    """Random weights, at a small input: what is written and what is refused."""
    out = tmp_path / "out"
    photograph = str(photographs / "a.png")
    common = ("localize", photograph, "--model", model, "--weights", "none", "--scales", "0.3", "--out", str(out))
    status, text, err = dgl(*common, "--layer", wrong)
    assert (status, text, err.count("\n")) == (2, "", 1) and wrong in err and not out.exists()
    status, text, _ = dgl(*common, "--layer", layer, "--method", "grad_cam_pp")
    assert status == 0 and text.startswith(photograph) and (out / "a.map.png").is_file()


@pytest.mark.parametrize("failure", [OSError("no\nnetwork"), RuntimeError("invalid hash value")])
def test_weights_by_name_are_torchvisions(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """Asked for with the check of their SHA-256; what fails on the way is one line."""
    asked: list[tuple[str, dict]] = []
    state = torchvision.models.shufflenet_v2_x0_5().state_dict()

    def fetch(url: str, **options: object) -> dict:
        asked.append((url, options))
        if len(asked) == 1:
            raise failure
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    with pytest.raises(UserError, match="IMAGENET1K_V1 cannot be downloaded") as told:
        open_network(model="shufflenet_v2_x0_5")
    assert "\n" not in str(told.value)
    network = open_network(model="shufflenet_v2_x0_5")
    assert network.classes[:2] == ("tench", "goldfish") and network.size == 224
    assert all(torch.equal(value, state[key]) for key, value in network.model.state_dict().items())
    url, options = asked[1]
    assert url.endswith(".pth") and options["check_hash"] is True
