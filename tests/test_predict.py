"""Photographs in, maps, overlays and boxes out; classifiers opened by name."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from dgl_lib.app import cli, networks, predict
from dgl_lib.app.networks import open_network
from dgl_lib.app.predict import How, find_photographs, regions
from dgl_lib.data.creatures import Creatures
from dgl_lib.data.images import read_image
from dgl_lib.errors import UserError
from dgl_lib.files import exclusive
from dgl_lib.localize import localize
from dgl_lib.maps import close, minmax, multiscale
from dgl_lib.models import preprocess, save_checkpoint, spg_plain
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


@pytest.mark.parametrize(
    "files", [("a.jpg", "a.png", "a.jpg.png"), ("a.jpg", "a.jpg.png", "a.jpg.jpg"), ("b", "b.a.gif")]
)
def test_outputs_never_collide(tmp_path: Path, files: tuple[str, ...]) -> None:
    for name in files:
        (tmp_path / name).touch()
    found = find_photographs([str(tmp_path / name) for name in files], tmp_path / "out")
    assert len(set(found.values())) == len(files) == len(found)


def test_outputs_lie_below_the_output_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After all links and dots. A photograph that is a link keeps its name."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("up.jpg", "b/here.jpg"):
        (tmp_path / "a" / name).touch()
    (tmp_path / "a/b/link.jpg").symlink_to(tmp_path / "a/up.jpg")
    monkeypatch.chdir(tmp_path / "a/b")
    found = find_photographs(["here.jpg", "../up.jpg", "link.jpg"], Path("found"))
    assert {str(file): name for file, name in found.items()} == {
        "here.jpg": "b/here",
        "../up.jpg": "up",
        "link.jpg": "b/link",
    }
    (tmp_path / "away").mkdir()
    Path("found").mkdir()
    Path("found/b").symlink_to(tmp_path / "away")
    with pytest.raises(UserError, match="found/b/here: a link leads out of the output folder 'found'"):
        find_photographs(["here.jpg", "../up.jpg"], Path("found"))


def test_outputs_are_never_photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither those in this run's folder, under whatever name, nor those of another run."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "city.map.png", "out/old.png", "first/a.overlay.png", "first/a.map.png", "first/b.map.npy"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    Path("first/b.overlay.png").touch()
    Path("second").symlink_to("out")
    for out in ("out", "sub/../out", "second"):
        assert list(find_photographs(["."], Path(out)).values()) == ["a", "city.map"], out
    with pytest.raises(UserError, match="no photograph but those that a run made, or in the output folder 'out'"):
        find_photographs(["first", "second/old.png"], Path("out"))


@pytest.mark.parametrize("size", [(1, 1_100_000), (1_100_000, 1)])
def test_a_strip_has_a_label_that_fits(size: tuple[int, int]) -> None:
    """The font grew with the longest side, and OpenCV writes no PNG of over a million pixels a side."""
    image, (height, width) = np.zeros((*size, 3), np.uint8), size
    found = predict.Prediction(0, 1.0, np.ones(size, np.float32), 1, [predict.Region((0, 0, width, height), 9, 1.0)])
    drawn = predict.overlay(image, found, "x")
    assert drawn.shape == image.shape
    Image.open(io.BytesIO(predict._encoded(drawn))).verify()


def test_a_folder_is_written_by_one_at_a_time(photographs: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / "out"):
        status, _, err = dgl("localize", str(photographs / "a.png"), *CREATURES, "--out", str(tmp_path / "out"))
    assert status == 2 and err.startswith("error: out is being written by process")
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_text(monkeypatch: pytest.MonkeyPatch, photographs: Path, tmp_path: Path) -> None:
    """Bytes that are not UTF-8, and a terminal that has ASCII only. JSON gives the name back to the byte."""
    names = [os.fsdecode(b"caf\xe9.png"), "café.png"]
    for name in names:
        (photographs / name).write_bytes((photographs / "a.png").read_bytes())
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    arguments = [
        "dgl",
        "localize",
        *(str(photographs / name) for name in names),
        *CREATURES,
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    lines = terminal.buffer.getvalue().decode("ascii").splitlines()  # type: ignore[attr-defined]
    assert "caf\\udce9.png: warm-" in lines[0] and "caf\\xe9.png: warm-" in lines[1]
    document = json.loads((tmp_path / "out" / "boxes.json").read_text("utf-8"))
    assert [image["file_name"] for image in document["images"]] == [str(photographs / name) for name in names]
    assert all(Path(image["map"]).is_file() for image in document["images"])


def test_a_reader_who_has_enough_ends_the_run_quietly(photographs: Path, tmp_path: Path) -> None:
    """As `dgl localize DIR | head -1` does: the status of SIGPIPE, and what was done is in boxes.json."""
    read, write = os.pipe()
    os.close(read)
    command = [
        sys.executable,
        "-m",
        "dgl_lib",
        "localize",
        str(photographs),
        *CREATURES,
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
    assert len(json.loads((tmp_path / "out/boxes.json").read_text())["images"]) == 1


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
        (["--class", "9" * 5000], "0..7"),
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


@pytest.mark.parametrize(("labels", "asked", "index"), [(1, "1", 1), (1, "0", 0), (3, "2", 2)])
def test_a_sigmoid_head(photographs: Path, tmp_path: Path, labels: int, asked: str, index: int) -> None:
    """Each label has a probability of its own. One logit has the classes 0 (no) and 1 (yes), and needs the option."""
    torch.manual_seed(0)
    state = torchvision.models.resnet18(num_classes=labels).state_dict()
    torch.save(state, tmp_path / "mine.pth")
    common = ["localize", str(photographs / "a.png"), "--model", "resnet18", "--weights", str(tmp_path / "mine.pth")]
    common += ["--layer", "layer3", "--scales", "0.3", "--out", str(tmp_path / "out"), "--json", "--class", asked]
    status, text, err = dgl(*common, "--head", "sigmoid")
    assert status == 0, err
    network = open_network(model="resnet18", weights=str(tmp_path / "mine.pth"))
    with torch.no_grad():
        l = network.model(preprocess(network.model, [read_image(photographs / "a.png")], 67))[0]
    p = torch.cat([-l, l]).sigmoid() if labels == 1 else l.sigmoid()
    document = json.loads(text)
    assert document["images"][0]["probability"] == pytest.approx(float(p[index]), rel=1e-5)
    assert document["info"]["head"] == "sigmoid" and len(document["categories"]) == max(2, labels)
    status, _, err = dgl(*common)
    said = "error: head: 'softmax' given for a network with one logit, 'sigmoid' needed\n"
    assert (status, err) == ((2, said) if labels == 1 else (0, ""))


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
    # Of a network of one size the axis tells that is unlike the other two.
    fixed = networks.Network(OneSize(), "fixed", ("a", "b"), 64)
    assert [row.name for row in networks.layers(fixed, device="cpu")] == ["patches", "first"]
    with pytest.raises(UserError, match="'last' gives N x h x w x K"):
        networks.check_layers(fixed, ["last"])


def test_a_size_that_a_network_does_not_take_is_one_line() -> None:
    fixed = networks.Network(OneSize(), "fixed", ("a", "b"), 64)
    refused = r"which the network does not take \(64 px needed\)$"
    for call in (lambda: networks.layers(fixed, 96), lambda: networks.check_layers(fixed, ["first"], 96)):
        with pytest.raises(UserError, match=f"^size: 96 px given, {refused}"):
            call()
    with pytest.raises(UserError, match=f"^scales: 1, 1.5 of 64 px given, {refused}"):
        predict.check(fixed, How("first", scales=(1.0, 1.5)))


def test_an_empty_path_is_not_the_folder_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a variable that is not set."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("a.jpg")
    with pytest.raises(UserError, match=r"^photographs: '' given, a file, folder or pattern allowed"):
        predict.find_photographs([""], tmp_path / "out")
    status, _, err = dgl("localize", "a.jpg", "--checkpoint", "creatures", "--out", "")
    assert status == 2 and "'' given, a path needed" in err and [*tmp_path.iterdir()] == [tmp_path / "a.jpg"]


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


def test_without_a_name_the_network_is_imagenets(
    monkeypatch: pytest.MonkeyPatch, photographs: Path, tmp_path: Path
) -> None:
    """With its weights a photograph is asked of 1000 classes. Without a net, one line says how else."""
    photograph, out = str(photographs / "a.png"), str(tmp_path / "out")

    def offline(*_: object, **__: object) -> None:
        raise OSError("<urlopen error>")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    status, text, err = dgl("localize", photograph, "--out", out)
    assert (status, text, err.count("\n")) == (2, "", 1) and not (tmp_path / "out").exists()
    assert "ResNet50_Weights.IMAGENET1K_V2 cannot be downloaded (<urlopen error>); allowed too: the file at http" in err
    assert "--model resnet50 --weights PATH" in err and "--checkpoint creatures" in err
    state = torchvision.models.resnet50().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    status, _, _ = dgl("localize", photograph, "--out", out, "--scales", "0.3")
    document = json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert status == 0 and document["info"]["network"] == "torchvision resnet50 IMAGENET1K_V2"
    assert document["categories"][0] == {"id": 0, "name": "tench"} and len(document["images"]) == 1


# timm's networks, where it is installed


def test_timm_by_name(photographs: Path, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_resnet", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    network = open_network(model="timm:test_resnet", weights=str(tmp_path / "mine.pth"))
    assert (network.name, network.classes, network.size) == ("timm test_resnet mine.pth", ("0", "1", "2"), 160)
    assert network.model.mean == network.model.std == (0.5, 0.5, 0.5)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in network.model.state_dict().items())
    photograph, out = str(photographs / "a.png"), tmp_path / "out"
    common = ("localize", photograph, "--model", "timm:test_resnet", "--out", str(out))
    status, text, _ = dgl(*common, "--weights", str(tmp_path / "mine.pth"), "--layer", "layer3", "--json")
    assert status == 0 and json.loads(text)["info"]["network"] == network.name and (out / "a.map.png").is_file()
    status, text, _ = dgl("layers", "--model", "timm:test_resnet", "--weights", "none")
    assert status == 0 and text.startswith("timm test_resnet none: 1000 classes, input 160 px")


def test_timms_own_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Asked for once, by its own download. With 1000 classes they are ImageNet's. What fails on the way is one line."""
    timm = pytest.importorskip("timm")
    make, asked = timm.create_model, []

    def create_model(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        asked.append((name, pretrained))
        if len(asked) == 1:
            raise OSError("no\nnetwork")
        return make(name, **options)

    monkeypatch.setattr(timm, "create_model", create_model)
    status, _, err = dgl("layers", "--model", "timm:test_resnet.r160_in1k")
    assert (status, err.count("\n")) == (2, 1)
    assert "those of timm:test_resnet.r160_in1k cannot be downloaded (no network); allowed too: a file of them" in err
    network = open_network(model="timm:test_resnet.r160_in1k")
    assert asked == [("test_resnet.r160_in1k", True)] * 2
    assert network.classes[:2] == ("tench", "goldfish") and not network.model.training
    torch.save(network.model.state_dict(), tmp_path / "whole.pth")
    assert open_network(model="timm:test_resnet", weights=str(tmp_path / "whole.pth")).classes == network.classes
    assert open_network(model="timm:test_resnet", weights="none").classes[:2] == ("0", "1")


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("resnet5", "none", "model: 'resnet5' given, a timm classifier allowed, such as resnet50"),
        ("resnet50.a7_in1k", "none", "model: 'resnet50.a7_in1k' given, a timm classifier allowed, such as resnet50."),
        ("hf-hub:a/b", "DEFAULT", "model: 'hf-hub:a/b' given, a timm classifier allowed"),
        ("resnet18", "V1", "weights: 'V1' given, DEFAULT, none or the path of a file allowed for timm:resnet18"),
        ("eva02_tiny_patch14_224", "none", "which gives features; one that gives logits allowed"),
    ],
)
def test_what_is_no_network_of_timm(name: str, weights: str, said: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError) as told:
        open_network(model=f"timm:{name}", weights=weights)
    assert said in str(told.value) and "\n" not in str(told.value)


def test_without_timm_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    status, text, err = dgl("layers", "--model", "timm:resnet18", "--weights", "none")
    said = "error: model: 'timm:resnet18' given, but timm is not installed; `pip install timm` first\n"
    assert (status, text, err) == (2, "", said)


def test_the_page_with_maps_over_photographs_runs(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path) -> None:
    """With a drawn picture for each photograph, and random weights for those that would be downloaded."""
    image = np.asarray(Image.fromarray(Creatures("test", 1).image(0)).resize((451, 300)))
    data = SimpleNamespace(**dict.fromkeys(["chelsea", "coffee", "rocket"], lambda: image))
    monkeypatch.setitem(sys.modules, "skimage", SimpleNamespace(data=data))
    state = torchvision.models.resnet50().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", (root / "docs" / "photograph.md").read_text(), re.S)
    told: dict = {}
    exec(code, told)
    assert told["m"].shape == (14, 14) and told["found"].map.shape == (300, 451)
    assert told["network"].classes[told["label"]] == "missile" and Image.open("photographs.png").size == (1000, 680)


@pytest.mark.parametrize("size", [0, 31, 4097, 30000, 10**9, -1])
def test_a_size_has_two_limits(size: int) -> None:
    status, text, err = dgl("layers", *CREATURES, "--size", str(size))
    assert (status, text) == (2, "") and err == f"error: size: {size} px given, at least 32 and at most 4096 allowed\n"


@pytest.mark.parametrize("resize", ["abc", float("nan"), 1e9, None, True, [160], 31, 60000])
def test_the_size_of_a_checkpoint_is_one(tmp_path: Path, resize: object) -> None:
    save_checkpoint(spg_plain(2, width=1 / 16), tmp_path / "x.safetensors", resize=resize)
    with pytest.raises(UserError, match=r"^size: .* px given, at least 32|^the header of 'x.safetensors'"):
        open_network(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("classifier.1.bias", torch.tensor(1.0), "are not those of squeezenet1_1: .* size mismatch for classifier"),
        ("classifier.1.bias", torch.zeros(0), "are not those of squeezenet1_1: .* size mismatch for classifier"),
        ("classifier.1.bias", torch.tensor([0.0, float("nan")]), "1 of 2 values are NaN or infinite"),
        ("classifier.1.bias", torch.zeros(2).to_sparse(), "a dictionary of named tensors is needed"),
        (1, torch.zeros(2), "a dictionary of named tensors is needed"),
    ],
)
def test_weights_that_are_none(tmp_path: Path, key: object, value: torch.Tensor, said: str) -> None:
    state = torchvision.models.squeezenet1_1(num_classes=2).state_dict()
    torch.save({**state, key: value}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=said) as told:
        open_network(model="squeezenet1_1", weights=str(tmp_path / "x.pth"))
    assert "\n" not in str(told.value)


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
