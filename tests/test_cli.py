"""The command line: what it says when asked wrongly, and with which status it ends."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dgl_lib import assess, cli, datasets, export, networks, paths, study
from dgl_lib.data.creatures import Creatures
from dgl_lib.errors import UserError
from dgl_lib.evaluate.scores import Maps
from dgl_lib.models import save_checkpoint, spg_plain
from tests import sets


def outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["dgl", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study"], "Missing argument 'PROFILE'"),
        (["bogus"], "No such command 'bogus'"),
        (["study", "quick", "--fast"], "No such option"),
    ],
)
def test_usage_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    status, out, err = outcome(monkeypatch, capsys, *arguments)
    assert status == 2 and said in err and not out and "Traceback" not in err


def test_help_shows_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = outcome(monkeypatch, capsys, "--help")
    assert status == 0
    assert "python -m dgl_lib study creatures --set epochs=8" in out
    for command in ("study", "train", "evaluate", "notebooks", "readme"):
        assert command in out
    assert outcome(monkeypatch, capsys, "study", "--help")[0] == 0


def test_a_users_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise UserError("epochs: 0 given, 1 or more allowed")

    monkeypatch.setattr(study, "run", fail)
    assert outcome(monkeypatch, capsys, "study", "quick") == (2, "", "error: epochs: 0 given, 1 or more allowed\n")


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run", interrupt)
    status, _, err = outcome(monkeypatch, capsys, "study", "quick")
    assert status == 130 and "Traceback" not in err and "takes it up" in err


def test_what_reaches_the_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {}

    def run(profile: str, settings: tuple[str, ...], **options: object) -> str:
        asked.update(options, profile=profile, settings=settings)
        return "results/mine"

    monkeypatch.setattr(study, "run", run)
    arguments = ("train", "creatures", "--set", "epochs=2", "--set", "profile=mine", "--quiet")
    assert outcome(monkeypatch, capsys, *arguments)[0] == 0
    assert asked == {
        "profile": "creatures",
        "settings": ("epochs=2", "profile=mine"),
        "until": "train",
        "progress": False,
    }


class NoMasks(Creatures):
    """Creatures as a data set with boxes only."""

    def __getitem__(self, index: int):
        record = super().__getitem__(index)
        return type(record)(record.name, record.image, record.label, record.boxes)


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device", "classifier.safetensors")

    monkeypatch.setattr(study, "run", full)
    said = "error: [Errno 28] No space left on device: 'classifier.safetensors'\n"
    assert outcome(monkeypatch, capsys, "study", "quick") == (2, "", said)


@pytest.mark.parametrize("until", ["train", "evaluate", "notebooks"])
def test_study_ends_where_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], until: str) -> None:
    asked = {}
    monkeypatch.setattr(study, "run", lambda profile, settings, **options: asked.update(options))
    assert outcome(monkeypatch, capsys, "study", "quick", "--until", until)[0] == 0
    assert asked == {"until": until, "progress": True}


@pytest.mark.parametrize("command", ["localize", "layers", "evaluate", "results", "study", "train"])
def test_every_command_shows_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    status, out, _ = outcome(monkeypatch, capsys, command, "--help")
    assert status == 0 and "Examples:" in out and f" {command}" in out.split("Examples:")[1]


# Layers


def test_layers_of_the_committed_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = outcome(monkeypatch, capsys, "layers", "--size", "64", "--json", "--device", "cpu")
    document = json.loads(out)
    assert status == 0 and document["network"] == "creatures" and document["size"] == 64
    rows = {row["name"]: row for row in document["layers"]}
    assert list(rows) == [layer.name for layer in networks.open_network().model.layers]
    assert rows["Mixed_6e"] == {**rows["Mixed_6d"], "name": "Mixed_6e"}
    assert [*rows["Mixed_6e"].values()] == ["Mixed_6e", 192, 8, 8, 8.0, False]
    assert [name for name, row in rows.items() if row["cam"]] == ["add1"]
    assert "Mixed_6e" in outcome(monkeypatch, capsys, "layers", "--size", "64")[1]


# Data


def test_data_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = sets.folder(tmp_path / "mine")
    status, out, err = outcome(monkeypatch, capsys, "data", "check", "folder", "--root", str(root))
    assert (status, out.count("complete: "), err) == (0, 3, "")
    for i in range(5):
        (root / f"masks/cup/{i}.png").unlink()
    status, out, _ = outcome(monkeypatch, capsys, "data", "check", "folder", "--root", str(root), "--json", "--decode")
    assert status == 1 and len(json.loads(out)["problems"]) >= 1 and "masks" in str(json.loads(out)["problems"])


# Results


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "mine"
    (folder / "comparison").mkdir(parents=True)
    (folder / "claims.csv").write_text("claim,measured\nC5 & more_,1.23456789\nC3,\n")
    (folder / "03_scores.csv").write_text("method,scales,iou\ndgl,1,50.123456\n")
    (folder / "comparison" / "effects.csv").write_text("n\n400\n")
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    return folder


def test_results_in_every_format(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], results: Path
) -> None:
    def shown(*arguments: str) -> str:
        status, out, err = outcome(monkeypatch, capsys, "results", *arguments)
        assert status == 0 and not err
        return out

    rows = "| claim | measured |\n| --- | --- |\n| C5 & more_ | 1.23 |\n| C3 |  |\n"
    assert shown() == f"**mine**\n\n{rows}"
    assert r"C5 \& more\_ & 1.23 \\" in shown("mine", "--format", "latex")
    assert shown("--format", "csv") == "profile,claim,measured\nmine,C5 & more_,1.23456789\nmine,C3,\n"
    both = [
        {"profile": "mine", "claim": "C5 & more_", "measured": 1.23456789},
        {"profile": "mine", "claim": "C3", "measured": None},
    ]
    assert json.loads(shown("--json")) == both == json.loads(shown("--format", "json"))
    assert "| dgl | 1 | 50.12 |" in shown("mine", "--table", "scores")
    assert "| 400 |" in shown("mine", "--table", "comparison/effects")


def test_results_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], results: Path
) -> None:
    status, _, err = outcome(monkeypatch, capsys, "results", "mine", "--table", "nope")
    assert status == 2 and err.count("\n") == 1 and "03_scores" in err and "comparison/effects" in err
    status, _, err = outcome(monkeypatch, capsys, "results", "other")
    assert status == 2 and "profiles: mine" in err
    (results / "04_scores.csv").write_text("n\n1\n")
    assert outcome(monkeypatch, capsys, "results", "mine", "--table", "scores")[0] == 2
    with pytest.raises(UserError, match="markdown, latex"):
        export.render({}, "pdf")


# Evaluate


def test_evaluate_writes_the_notebooks_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    common = ("evaluate", "creatures", "--limit", "1", "--size", "32", "--out", str(out), "--device", "cpu")
    status, text, _ = outcome(
        monkeypatch, capsys, *common, "--methods", "cam,dgl", "--layers", "Mixed_6e,add1", "--json"
    )
    assert status == 0
    table = pd.read_csv(out / "scores.csv", keep_default_na=False)
    rows = list(zip(table["method"], table["layer"], strict=True))
    assert rows == [
        ("cam", "add1"),
        ("dgl", "Mixed_6e"),
        ("dgl", "add1"),
        ("whole_image", ""),
        ("centred_gaussian", ""),
    ]
    assert json.loads(text)["scores"][1]["iou"] == pytest.approx(table["iou"][1])
    images = pd.read_csv(out / "images.csv", keep_default_na=False).groupby(["method", "layer"], sort=False)["iou"]
    assert (images.size() == 8).all() and images.mean().to_numpy() == pytest.approx(table["iou"].to_numpy())
    # On the last layer DGL is CAM, whatever the network.
    assert table["iou"][0] == pytest.approx(table["iou"][2], abs=0.5)
    facts = json.loads((out / "manifest.json").read_text())
    assert facts["images"] == {"val": 8, "test": 8} and facts["layers"] == ["Mixed_6e", "add1"]
    assert facts["model_sha256"] and str(tmp_path) not in (out / "manifest.json").read_text()
    status, text, _ = outcome(monkeypatch, capsys, *common, "--split", "val", "--methods", "dgl")
    assert status == 0 and "**scores**" in text and "| dgl | Mixed_6e |" in text
    table = pd.read_csv(out / "scores.csv")
    assert table["iou"].to_numpy() == pytest.approx(table["val_iou"].to_numpy())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], "unknown data set"),
        (["creatures", "--methods", "magic"], "'magic' is unknown"),
        (["creatures", "--layers", "Mixed_9z"], "'Mixed_9z' is not in"),
        (["creatures", "--size", "8"], "at least 32"),
        (["creatures", "--device", "abacus", "--layers", "add1"], "device: 'abacus'"),
        (["creatures", "--methods", "cam", "--layers", "Mixed_6e"], "cam needs logits"),
        (["creatures", "--model", "mobilenet_v3_small", "--weights", "none", "--layers", "features.3"], "1000 classes"),
    ],
)
def test_evaluate_refuses_before_work(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(assess, "raw_maps", None)
    status, _, err = outcome(monkeypatch, capsys, "evaluate", *arguments, "--out", str(tmp_path / "out"))
    assert status == 2 and said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small untrained classifier of cups and spoons."""
    model = spg_plain(2, width=0.0625)
    model.classes = ("cup", "spoon")
    save_checkpoint(model, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.mark.parametrize("what", ["photograph", "mask"])
def test_a_broken_image_is_refused_or_left_out_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path, what: str
) -> None:
    monkeypatch.delenv("SKIP_UNREADABLE", raising=False)
    root, out = sets.folder(tmp_path / "mine", count=10), tmp_path / "out"
    test = datasets.load("folder", "test", root=root)
    broken = test.path(1) if what == "photograph" else test.annotations(1)[0]
    broken.write_bytes(broken.read_bytes()[:60])
    common = ("evaluate", "folder", "--root", str(root), "--checkpoint", str(checkpoint), "--out", str(out))
    common = (*common, "--size", "32", "--device", "cpu", "--methods", "dgl", "--layers", "add1")
    with monkeypatch.context() as patch:
        patch.setattr(assess, "raw_maps", None)
        status, text, err = outcome(patch, capsys, *common)
    assert (status, text, err.count("\n")) == (2, "", 1) and not out.exists()
    assert "folder test: 1 of 4 images cannot be read; the first: " in err and str(broken) in err

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        status, text, err = outcome(monkeypatch, capsys, *common, "--skip-unreadable", "--json")
    assert status == 0 and json.loads(text)["accuracy"][0]["n"] == 3
    [warning] = [line for line in err.splitlines() if "cannot be read" in line]
    assert warning.startswith("warning: folder test: 1 of 4 images cannot be read and are left out; the first: ")
    facts = json.loads((out / "manifest.json").read_text())
    assert facts["images"] == {"val": 4, "test": 3} and facts["left_out"] == {"val": 0, "test": 1}

    monkeypatch.setenv("SKIP_UNREADABLE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert outcome(monkeypatch, capsys, *common)[0] == 0

    # What was written is found again, in every format, by the folder's name.
    status, text, _ = outcome(monkeypatch, capsys, "results", str(out))
    assert status == 0 and "| dgl | add1 |" in text
    status, text, _ = outcome(monkeypatch, capsys, "results", str(out), "--table", "accuracy", "--format", "latex")
    assert status == 0 and r"majority class & " in text
    monkeypatch.chdir(tmp_path)
    status, text, _ = outcome(monkeypatch, capsys, "results", "out", "--format", "csv")
    assert status == 0 and text.startswith("profile,method,layer,") and "\nout,dgl,add1," in text


def test_boxes_where_there_are_no_masks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(datasets.DATASETS, "creatures", lambda split, root: NoMasks(split, 16))
    network = networks.open_network()
    what = assess.What("creatures", layers=("add1",), methods=("dgl",), size=32, limit=1, device="cpu")
    tables = assess.evaluate(network, what, tmp_path)
    assert set(tables) == {"accuracy", "boxes"} and (tmp_path / "boxes.csv").is_file()
    assert list(tables["boxes"]["method"]) == ["dgl", "whole_image", "centred_gaussian"]


def test_box_report_of_maps_that_are_the_boxes() -> None:
    """Maps drawn from the truth localize everything at every IoU; an image's wrong class takes it from Top-1 only."""
    part = NoMasks("val", 16)
    maps = np.zeros((16, 56, 56), np.float32)
    for i in range(16):
        x0, y0, x1, y1 = part[i].boxes[0] * 56 // 128
        maps[i, y0 : y1 + 1, x0 : x1 + 1] = 1
    logits = np.eye(8, dtype=np.float32)[part.labels]
    logits[0] = np.roll(logits[0], 1)
    perfect = Maps({("dgl", "add1"): maps}, logits, part.labels)
    table = assess.box_report(part, perfect, part, perfect).set_index("method")
    dgl = table.loc["dgl"]
    assert dgl["gt_known"] == dgl["low"] == dgl["high"] == dgl["val_gt_known"] == 100
    assert dgl["max_box_acc_v2"] == dgl["test_max_box_acc_v2"] == 100
    assert dgl["top1"] == 100 * 15 / 16 and dgl["top5"] == 100
    assert table.loc["whole_image", "gt_known"] < 100
