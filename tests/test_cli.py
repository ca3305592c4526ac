"""The command line: what reaches the library, what it says when asked wrongly, and with which status it ends."""

import base64
import io
import json
import re
import shlex
import shutil
import sys
import warnings
import weakref
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import click
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

from dgl_lib import data
from dgl_lib.app import assess, cli, export, networks
from dgl_lib.data.creatures import Creatures
from dgl_lib.errors import UserError
from dgl_lib.evaluate import raw_maps
from dgl_lib.files import exclusive
from dgl_lib.models import load_checkpoint, save_checkpoint, spg_plain
from dgl_lib.study import paths, steps
from dgl_lib.study.profile import for_images, read_profile
from dgl_lib.training import batches
from tests import sets


def dgl(*arguments: str) -> tuple[int, str, str]:
    """Run a command: its status, and what it wrote to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["dgl", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        cli.main()
    return int(end.value.code or 0), out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study"], "Missing argument 'PROFILE'"),
        (["bogus"], "No such command 'bogus'"),
        (["study", "quick", "--fast"], "No such option"),
        (["study", "quick", "--until", "dawn"], "Invalid value"),
        (["study", "quick", "--only", "05", "--all"], "one of them allowed"),
        (["compare", "here"], "Missing argument 'B'"),
    ],
)
def test_usage_errors(arguments: list[str], said: str) -> None:
    status, out, err = dgl(*arguments)
    assert status == 2 and said in err and not out and "Traceback" not in err


def test_every_command_shows_its_help_and_examples() -> None:
    status, text, _ = dgl("--help")
    assert status == 0 and "Examples:" in text
    for command in cli.commands.commands:
        assert command in text
        assert dgl(command, "--help")[0] == 0
    for command in ("localize", "layers", "evaluate", "results", "compare", "study", "train"):
        assert f" {command}" in dgl(command, "--help")[1].split("Examples:")[1]


def examples() -> list[str]:
    """Every line of a page's code, and of a command's own examples, that begins with ``dgl``."""
    root = Path(__file__).parents[1]
    pages = [
        *root.glob("*.md"),
        *root.glob("docs/*.md"),
        *root.glob("notebooks/**/*.md"),
        *root.glob("dgl_lib/**/*.md"),
    ]
    code = [
        block
        for page in pages
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    ]
    groups = [cli.commands, *cli.commands.commands.values(), *cli.data_sets.commands.values()]
    lines = "\n".join([*code, *(group.epilog or "" for group in groups)]).splitlines()
    return sorted({line.split("#")[0].strip() for line in lines if line.strip().startswith("dgl ")})


def test_there_are_examples() -> None:
    used = {line.split()[1] for line in examples()}
    assert used >= {"localize", "layers", "evaluate", "train", "study", "results", "compare", "data"}


@pytest.mark.parametrize("line", examples())
def test_examples_are_commands(line: str) -> None:
    """Each is parsed, with its arguments and options, and not run."""
    command, arguments = cli.commands, shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command, *arguments = command.commands[arguments[0]], *arguments[1:]
    command.make_context(line, arguments)


# The study


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the study: it keeps what it is asked for, and reads no profile."""
    from dgl_lib.study import profile, runner

    stand_in = SimpleNamespace(ALL=runner.ALL, FIRST=runner.FIRST, asked=[])

    def run(profile: object, **options: object) -> str:
        stand_in.asked.append({"profile": profile, **options})
        return "results/mine"

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(profile, "read_profile", lambda name, settings: (name, *settings))
    return stand_in


def test_what_reaches_the_study(runner: SimpleNamespace) -> None:
    done = dgl("train", "creatures", "--set", "epochs=2", "--set", "seed=1", "--quiet")
    assert done == (0, "done: results/mine\n", "")
    assert dgl("study", "pets", "--until", "evaluate", "--skip-unreadable", "--out", "elsewhere")[0] == 0
    assert dgl("study", "quick", "--only", "05", "--only", "07")[0] == dgl("study", "quick", "--all")[0] == 0
    typed = "dgl train creatures --set epochs=2 --set seed=1"
    given = ("creatures", "epochs=2", "seed=1")
    first = {"profile": given, "name": "creatures", "command": typed, "until": "train", "progress": False}
    assert runner.asked[0] == first
    assert runner.asked[1] == {
        "profile": ("pets", "skip_unreadable=true"),
        "name": "pets",
        "command": "dgl study pets --set skip_unreadable=true",
        "notebooks": runner.FIRST,
        "out": Path("elsewhere"),
        "until": "evaluate",
        "progress": True,
    }
    assert [asked["notebooks"] for asked in runner.asked[2:]] == [("05", "07"), runner.ALL]
    assert runner.asked[2]["until"] == "notebooks" and runner.asked[2]["out"] is None


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (UserError("epochs: 0 given, 1 or more allowed"), 2, "error: epochs: 0 given, 1 or more allowed\n"),
        (OSError(28, "No space left on device", "a.png"), 2, "error: [Errno 28] No space left on device: 'a.png'\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted; the same command continues where it stood\n"),  # below ^C
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            2,
            "error: DataLoader worker (pid 7) is killed by signal: Killed; the same command continues where it stood\n",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, runner: SimpleNamespace, failure: BaseException, status: int, said: str
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr("dgl_lib.study.runner.run", fail)
    assert dgl("study", "quick") == (status, "", said)
    monkeypatch.setattr("dgl_lib.app.networks.open_network", fail)  # localizing does not go on where it was
    assert dgl("localize", "a.jpg") == (status, "", said.replace("; the same command continues where it stood", ""))


def test_a_mistake_of_ours_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("dgl_lib.study.runner.run", fail)
    with pytest.raises(RuntimeError, match=r"^ours$"):
        dgl("study", "quick")


# Networks and data


def test_layers_of_the_committed_checkpoint() -> None:
    status, out, _ = dgl("layers", "--checkpoint", "creatures", "--size", "64", "--json", "--device", "cpu")
    document = json.loads(out)
    assert status == 0 and document["network"] == "creatures-0" and document["size"] == 64
    rows = {row["name"]: row for row in document["layers"]}
    assert list(rows) == [layer.name for layer in networks.open_network("creatures").model.layers]
    assert rows["Mixed_6e"] == {**rows["Mixed_6d"], "name": "Mixed_6e"}
    assert [*rows["Mixed_6e"].values()] == ["Mixed_6e", 96, 8, 8, 8.0, False]
    assert [name for name, row in rows.items() if row["cam"]] == ["add1"]
    assert "Mixed_6e" in dgl("layers", "--checkpoint", "creatures", "--size", "64")[1]


def test_data_check(tmp_path: Path) -> None:
    root = sets.folder(tmp_path / "mine")
    status, out, err = dgl("data", "check", "folder", "--root", str(root))
    assert (status, out.count("complete: "), err) == (0, 3, "")
    for i in range(5):
        (root / f"masks/cup/{i}.png").unlink()
    status, out, _ = dgl("data", "check", "folder", "--root", str(root), "--json", "--decode")
    assert status == 1 and "masks" in str(json.loads(out)["problems"])


# Tables


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "mine"
    (folder / "05_page").mkdir(parents=True)
    (folder / "claims.csv").write_text("claim,measured\nC5 & more_,1.23456789\nC3 | 1e5,\nC4,-0.001\n")
    (folder / "03_scores.csv").write_text("method,scales,iou\ndgl,1,50.123456\n")
    (folder / "05_page" / "effects.csv").write_text("n\n400\n")
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    return folder


def shown(*arguments: str) -> str:
    status, out, err = dgl("results", *arguments)
    assert status == 0 and not err
    return re.sub(" +", " ", out)


def test_results_in_every_format(results: Path) -> None:
    text = shown()
    assert text.startswith("**mine**\n\n| claim | measured |\n")
    assert text.endswith("\n| C5 & more_ | 1.23 |\n| C3 \\| 1e5 | |\n| C4 | 0.00 |\n")
    text = shown("mine", "--format", "latex")
    assert r"C5 \& more\_ & 1.23 \\" in text and "C4 & 0.00" in text and r"\toprule" in text
    lines = shown("--format", "csv").splitlines()
    assert lines[:3] == ["profile,claim,measured", "mine,C5 & more_,1.23456789", "mine,C3 | 1e5,"]
    rows = [("C5 & more_", 1.23456789), ("C3 | 1e5", None), ("C4", -0.001)]
    expected = [{"profile": "mine", "claim": claim, "measured": measured} for claim, measured in rows]
    assert json.loads(shown("--json")) == expected == json.loads(shown("--format", "json"))
    assert "| dgl | 1 | 50.12 |" in shown("mine", "--table", "scores")
    assert "| 400 |" in shown("mine", "--table", "05_page/effects") == shown("mine", "--table", "effects")


def test_a_place_that_cannot_be_written_to_is_noticed_before_training(runner: SimpleNamespace, tmp_path: Path) -> None:
    said = f"error: half: {str(tmp_path)!r} given, which is a folder; a file allowed\n"
    assert dgl("train", "quick", "--half", str(tmp_path)) == (2, "", said) and not runner.asked


def test_verdicts_over_several_trainings_come_before_those_of_one(results: Path) -> None:
    assert "C4" in shown("mine")
    (results / "verdicts.csv").write_text("claim,trainings\nC2,5\n")
    assert "C2" in shown("mine") and "C4" not in shown("mine") and "C4" in shown("mine", "--table", "claims")


def test_results_on_one_page(results: Path, tmp_path: Path) -> None:
    """The claims, then the notebooks in their order, with their figures and with no need of any other file."""
    cell, out = nbformat.v4, tmp_path / "page" / "mine.html"
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(stream, "PNG")
    figure = cell.new_output("display_data", {"image/png": base64.b64encode(stream.getvalue()).decode()})
    (results / "drawn.png").write_bytes(stream.getvalue())
    for name in ("02_second", "01_first"):
        cells = [cell.new_markdown_cell(f"# The title of {name}\n\n![drawn](drawn.png)", id="m00")]
        cells.append(cell.new_code_cell("1 + 1", id="c01", execution_count=1, outputs=[figure]))
        nbformat.write(cell.new_notebook(cells=cells), results / f"{name}.ipynb")
    assert dgl("results", "mine", "--html", str(out)) == (0, f"done: {out}\n", "")
    html = out.read_text()
    places = [html.index(f"The title of {name}") for name in ("01_first", "02_second")]
    assert html.index("C5 &amp; more_") < places[0] < places[1]
    assert html.count(figure["data"]["image/png"]) == 4  # an output and a picture of the text, in each of the notebooks
    assert not [to for to in re.findall(r'(?:src|href)="([^"]*)"', html) if not re.match("https?:|data:|#", to)]
    before = out.read_bytes()
    status, _, err = dgl("results", "mine", str(results), "--html", str(out))
    assert status == 2 and err == f"error: --html given for mine, {results}; one PROFILE allowed\n"
    (results / "01_first.ipynb").write_text("{")
    status, _, err = dgl("results", "mine", "--html", str(out))
    assert status == 2 and "01_first.ipynb: not a readable notebook (" in err and err.count("\n") == 1
    assert out.read_bytes() == before


def test_results_that_are_not_there(results: Path) -> None:
    status, _, err = dgl("results", "mine", "--table", "nope")
    assert status == 2 and err.count("\n") == 1 and "03_scores" in err and "05_page/effects" in err
    status, _, err = dgl("results", "other")
    assert status == 2 and "profiles allowed: mine" in err
    (results / "04_scores.csv").write_text("n\n1\n")
    status, _, err = dgl("results", "mine", "--table", "scores")
    assert status == 2 and "one of 03_scores, 04_scores allowed" in err
    with pytest.raises(UserError, match="markdown, latex"):
        export.render({}, "pdf")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "No columns to parse from file"),
        (b"a,b\n1,2\n1,2,3\n", "Expected 2 fields in line 3, saw 3"),
        (b"caf\xe9,b\n1,2\n", "can't decode byte 0xe9"),
        (b'a,b\n"1,2\n', "EOF inside string"),
    ],
)
def test_a_broken_table_is_one_line(results: Path, content: bytes, said: str) -> None:
    (results / "claims.csv").write_bytes(content)
    status, out, err = dgl("results", "mine")
    assert (status, out, err.count("\n")) == (2, "", 1) and said in err
    assert err.startswith(f"error: {results / 'claims.csv'}: not a readable table (")


def test_what_a_table_may_hold(results: Path) -> None:
    """No row; a cell and a number longer than Python's own readers take."""
    (results / "claims.csv").write_text("a,b\n")
    assert "| a | b |" in shown("mine")
    (results / "claims.csv").write_text(f"a,b\n{'x' * 131073},{'9' * 5000}\n")
    for form in ("markdown", "latex", "csv", "json"):
        assert "x" * 131073 in shown("mine", "--format", form)
    a, b = results.parent / "a", results.parent / "b"
    for folder in (a, b):
        folder.mkdir()
        (folder / "t.csv").write_bytes((results / "claims.csv").read_bytes())
    assert export.compare(a, b) == ["t.csv: not a readable table (field larger than field limit (131072))"]
    (b / "t.csv").write_bytes(b"caf\xe9\n")
    assert "not a readable table ('utf-8' codec can't decode" in export.compare(b, b)[0]


@pytest.mark.parametrize(
    ("x", "y", "equal"),
    [
        ("50.1234564999", "50.1235", True),  # all digits, and the same with six
        ("1.000005", "1.00000", True),  # a flip of the last digit in rounding
        ("0.999999", "1", True),
        ("1.00002", "1.00000", False),
        ("-50.1234", "50.1234", False),
        ("1e-13", "-3e-14", True),
        ("1e-11", "0", False),
        ("0", "", False),
        ("inf", "1e300", False),
        ("0.300 0.500", "0.300 0.501", False),
        ("reproduced", "undecided", False),
    ],
)
def test_comparing_two_cells(tmp_path: Path, x: str, y: str, equal: bool) -> None:
    for name, cell in (("a", x), ("b", y)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.csv").write_text(f"method,iou\ndgl,{cell}\n")
    expected = [] if equal else [f"t.csv: 1 cells, the first in row 1, iou: {x!r} and {y!r}"]
    assert export.compare(tmp_path / "a", tmp_path / "b") == expected


def test_comparing_two_folders(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        (folder / "page").mkdir(parents=True)
        (folder / "page" / "same.csv").write_text("n\n1\n")
        (folder / "cells.csv").write_text("m,n\n1,2\n3,4\n")
        (folder / "shape.csv").write_text("m\n1\n")
        (folder / "names.csv").write_text("m\n1\n")
    assert dgl("compare", str(a), str(b)) == (0, "", "")
    (a / "page" / "only.csv").touch()
    (b / "other.csv").touch()
    (b / "cells.csv").write_text("m,n\n1,2.1\n3.1,4\n")
    (b / "shape.csv").write_text("m\n1\n2\n")
    (b / "names.csv").write_text("n\n1\n")
    status, out, err = dgl("compare", str(a), str(b))
    assert (status, err) == (1, "") and out.splitlines() == [
        "cells.csv: 2 cells, the first in row 1, n: '2' and '2.1'",
        "names.csv: columns m and n",
        f"other.csv: missing in {a}",
        f"page/only.csv: missing in {b}",
        "shape.csv: 1 and 2 rows, or rows of unequal length",
    ]
    assert dgl("compare", str(a), str(b), "--digits", "1")[1].startswith("names.csv")  # 2.1 is 2
    assert dgl("compare", str(a), str(tmp_path / "c"))[0] == 2
    (tmp_path / "c").mkdir()
    assert dgl("compare", str(tmp_path / "c"), str(tmp_path / "c"))[0] == 2


# Evaluate


def test_evaluate_writes_the_notebooks_table(tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ("evaluate", "creatures", "--limit", "1", "--size", "32", "--out", str(out), "--device", "cpu")
    status, text, _ = dgl(*common, "--methods", "cam,dgl", "--layers", "Mixed_6e,add1", "--json")
    assert status == 0
    table = pd.read_csv(out / "scores.csv", keep_default_na=False)
    rows = [("cam", "add1"), ("dgl", "Mixed_6e"), ("dgl", "add1"), ("whole_image", ""), ("centred_gaussian", "")]
    assert list(zip(table["method"], table["layer"], strict=True)) == rows
    iou = np.array([row["iou"] for row in json.loads(text)["scores"]])
    assert table["iou"].to_numpy() == pytest.approx(iou, rel=1e-5)  # six digits in files
    images = pd.read_csv(out / "images.csv", keep_default_na=False).groupby(["method", "layer"], sort=False)["iou"]
    assert (images.size() == 8).all() and images.mean().to_numpy() == pytest.approx(iou, rel=1e-5)
    assert iou[0] == pytest.approx(iou[2], abs=0.5)  # on the last layer DGL is CAM, whatever the network
    facts = json.loads((out / "manifest.json").read_text())
    assert facts["images"] == {"val": 8, "test": 8} and facts["layers"] == ["Mixed_6e", "add1"]
    assert facts["model_sha256"] and str(tmp_path) not in (out / "manifest.json").read_text()
    status, text, _ = dgl(*common, "--split", "val", "--methods", "dgl")
    assert status == 0 and "**scores**" in text and re.search(r"\| dgl +\| Mixed_6e +\|", text)
    table = pd.read_csv(out / "scores.csv")
    assert table["iou"].to_numpy() == pytest.approx(table["val_iou"].to_numpy())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], "unknown data set"),
        (["creatures", "--methods", "magic"], "'magic' given, one of"),
        (["creatures", "--layers", "Mixed_9z"], "'Mixed_9z' is not in"),
        (["creatures", "--size", "8"], "at least 32"),
        (["creatures", "--device", "abacus", "--layers", "add1"], "device: 'abacus'"),
        (["creatures", "--methods", "cam", "--layers", "Mixed_6e"], "cam needs logits"),
        (["creatures", "--model", "mobilenet_v3_small", "--weights", "none", "--layers", "features.3"], "1000 classes"),
    ],
)
def test_evaluate_refuses_before_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], said: str
) -> None:
    monkeypatch.setattr(assess, "raw_maps", None)
    status, _, err = dgl("evaluate", *arguments, "--out", str(tmp_path / "out"))
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
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path, what: str
) -> None:
    root, out = sets.folder(tmp_path / "mine", count=10), tmp_path / "out"
    test = data.load("folder", "test", root=root)
    broken = test.path(1) if what == "photograph" else test.annotations(1)[0]
    broken.write_bytes(broken.read_bytes()[:60])
    common = ("evaluate", "folder", "--root", str(root), "--checkpoint", str(checkpoint), "--out", str(out))
    common = (*common, "--size", "32", "--device", "cpu", "--methods", "dgl", "--layers", "add1")
    with monkeypatch.context() as before:
        before.setattr(assess, "raw_maps", None)
        status, text, err = dgl(*common)
    assert (status, text, err.count("\n")) == (2, "", 1) and not out.exists()
    assert "folder test: 1 of 4 images cannot be read; the first: " in err and str(broken) in err

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        status, text, err = dgl(*common, "--skip-unreadable", "--json")
    assert status == 0 and json.loads(text)["accuracy"][0]["n"] == 3
    [warning] = [line for line in err.splitlines() if "cannot be read" in line]
    assert warning.startswith("warning: folder test: 1 of 4 images cannot be read and are left out; the first: ")
    facts = json.loads((out / "manifest.json").read_text())
    assert facts["images"] == {"val": 4, "test": 3} and facts["left_out"] == {"val": 0, "test": 1}

    # What was written is found again by the folder's name.
    assert "| dgl | add1 |" in shown(str(out))
    assert r"majority class & " in shown(str(out), "--table", "accuracy", "--format", "latex")
    monkeypatch.chdir(tmp_path)
    text = shown("out", "--format", "csv")
    assert text.startswith("profile,method,layer,") and "\nout,dgl,add1," in text


@pytest.fixture
def mine(tmp_path: Path, checkpoint: Path) -> tuple[Path, tuple[str, ...]]:
    """The root of a small data set with masks and boxes, and the command that evaluates it but for ``--out``."""
    root = sets.folder(tmp_path / "mine")
    boxes = [f"{c}/{i}.jpg,4,2,20,12" for c in ("cup", "spoon") for i in range(5)]
    sets.write(root / "boxes.csv", "\n".join(["image,x0,y0,x1,y1", *boxes]))
    how = ("--size", "32", "--device", "cpu", "--methods", "dgl", "--layers", "add1")
    return root, ("evaluate", "folder", "--root", str(root), "--checkpoint", str(checkpoint), *how)


def test_a_folder_of_photographs_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Train, localize, evaluate and check with nothing but its path, at a tiny width and size."""
    root, project = sets.folder(tmp_path / "my photographs", count=6), tmp_path / "project"
    sets.write(project / "notebooks/01_train.ipynb", "")  # not run
    monkeypatch.setattr(paths, "project_root", lambda: project)
    monkeypatch.setenv("DGL_DATA", str(tmp_path))  # which the argument goes before
    steps.load.cache_clear()
    tiny = [f"--set={setting}" for setting in ("width=0.0625", "weights=", "resize=40", "crop=32", "epochs=2")]
    status, out, err = dgl("train", str(root), *tiny, "--quiet")
    assert status == 0 and "8 training images: the pets' recipe, batch_size=2 epochs=30; --set changes it\n" in err
    checkpoint = Path(out.removeprefix("done: ").strip())
    facts = load_checkpoint(checkpoint).facts
    assert checkpoint.parent.name.startswith("folder-") and checkpoint.is_relative_to(project)
    assert (facts["batch_size"], facts["epochs"], facts["learning_rate"]) == (2, 2, 0.0005)  # --set wins; the pets'
    assert facts["data_sha256"]["train"] == data.load("folder", "train", root=root).digest

    used = ("--checkpoint", str(checkpoint), "--device", "cpu")
    status, out, _ = dgl("localize", str(root / "images"), *used, "--out", str(tmp_path / "found"), "--json")
    assert status == 0 and {one["name"] for one in json.loads(out)["categories"]} == {"cup", "spoon"}
    status, _, err = dgl("evaluate", f"{root}/", *used, "--methods", "dgl", "--out", str(tmp_path / "scored"))
    assert status == 0, err
    assert json.loads((tmp_path / "scored/manifest.json").read_text())["data"] == "folder"  # no path of a machine
    status, out, _ = dgl("data", "check", str(root))
    assert status == 0 and "complete: folder train: 8 images of 2 classes" in out


@pytest.mark.parametrize(
    ("count", "batch", "epochs"), [(1, 2, 120), (6, 2, 40), (12, 2, 20), (100, 12, 15), (588, 16, 4), (9999, 16, 4)]
)
def test_batches_and_passes_fit_the_number_of_photographs(count: int, batch: int, epochs: int) -> None:
    assert for_images(count) == (f"batch_size={batch}", f"epochs={epochs}")
    steps = epochs * len(batches(count, batch, 0, 0))
    assert steps >= 120 and read_profile("pets", for_images(588)) == read_profile("pets")  # whose own they are


def test_a_folder_does_not_hide_a_name(
    monkeypatch: pytest.MonkeyPatch, runner: SimpleNamespace, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGL_DATA", "elsewhere")
    for name in ("pets", "quick", "mine"):
        sets.folder(tmp_path / name)
    for name in ("pets", "quick", "./pets", "mine"):
        assert dgl("study", name)[0] == 0
    asked = [(one["profile"][:2], one["name"]) for one in runner.asked]
    assert asked == [(("pets",), "pets"), (("quick",), "quick"), *[(("pets", "data=folder"), "folder")] * 2]
    assert runner.asked[3]["command"] == "dgl study pets --set data=folder --set batch_size=2 --set epochs=40"
    (tmp_path / "empty").mkdir()
    status, _, err = dgl("train", "empty")
    assert (status, err) == (2, "error: empty/images: no folder in it; images/CLASS/FILE.jpg expected\n")
    assert data.as_folder("mine", "root") == ("mine", "root") and data.as_folder("nowhere") == ("nowhere", None)


@pytest.mark.parametrize("where", [".", "images/cup", "..", "link"])
def test_an_output_folder_that_is_holds_or_lies_in_the_datas_is_refused(mine, where: str, monkeypatch) -> None:
    root, command = mine
    (root.parent / "link").symlink_to(root)
    monkeypatch.chdir(root if where != "link" else root.parent)
    monkeypatch.setattr(assess, "raw_maps", None)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    status, _, err = dgl(*command, "--out", where)
    assert status == 2 and f"output folder: {where!r} given, one apart from the data's" in err
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_only_what_an_earlier_evaluation_made_goes(mine, tmp_path: Path) -> None:
    root, command = mine
    out = tmp_path / "out"
    for name in ("boxes.csv", "images.csv"):
        sets.write(out / name, "the user's own\n")
    assert dgl(*command, "--out", str(out))[0] == 0
    assert (out / "boxes.csv").read_text() == "the user's own\n" and (out / "scores.csv").is_file()
    assert set(json.loads((out / "manifest.json").read_text())["files"]) == {"accuracy.csv", "scores.csv", "images.csv"}
    shutil.rmtree(root / "masks")
    sets.write(tmp_path / "kept.txt", "not in the folder")
    document = json.loads((out / "manifest.json").read_text())
    document["files"]["../kept.txt"] = "what leads out of the folder is not ours"
    sets.write(out / "manifest.json", json.dumps(document))
    assert dgl(*command, "--out", str(out))[0] == 0
    assert sorted(path.name for path in out.glob("*.*")) == [".parts", "accuracy.csv", "boxes.csv", "manifest.json"]
    assert (tmp_path / "kept.txt").is_file()


def test_two_evaluations_do_not_mix(mine, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with exclusive(tmp_path / "out"):
        for name in ("out", "link"):
            status, _, err = dgl(*mine[1], "--out", str(tmp_path / name))
            assert status == 2 and "out is being written by process" in err


def test_photographs_that_change_in_place_get_new_maps(mine, tmp_path: Path) -> None:
    root, command = mine
    for file in (root / "images").rglob("*.jpg"):
        picture = np.random.default_rng(0).integers(256, size=(24, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(file, format="BMP")
    assert dgl(*command, "--out", str(tmp_path / "out"))[0] == 0
    for file in (root / "images").rglob("*.jpg"):
        Image.fromarray(picture[::-1, ::-1]).save(file, format="BMP")
    assert len(list((tmp_path / "out/.parts").glob("maps-*"))) == 2  # of validation and of test images
    assert dgl(*command, "--out", str(tmp_path / "out"))[0] == 0
    assert len(list((tmp_path / "out/.parts").glob("maps-*"))) == 4


def test_two_classes_may_be_one_logits(mine, tmp_path: Path) -> None:
    """Of a network with one logit, 0 is the first class and 1 the second, if its head is a sigmoid."""
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(num_classes=1).state_dict(), tmp_path / "one.pth")
    command = ["evaluate", "folder", "--root", str(mine[0]), "--model", "squeezenet1_1", "--out", str(tmp_path / "out")]
    command += ["--weights", str(tmp_path / "one.pth"), "--layers", "features.7", "--methods", "dgl", "--size", "64"]
    status, _, err = dgl(*command)
    assert (status, err) == (2, "error: head: 'softmax' given for a network with one logit, 'sigmoid' needed\n")
    status, _, err = dgl(*command, "--head", "sigmoid", "--json")
    assert status == 0, err
    assert json.loads((tmp_path / "out/manifest.json").read_text())["head"] == "sigmoid"
    facts = [json.loads(file.read_text()) for file in tmp_path.glob("out/.parts/maps-*/facts.json")]
    assert [one["head"] for one in facts] == ["sigmoid"] * 2  # so that no map of another head is taken for it


class NoMasks(Creatures):
    """Creatures as a data set with boxes only."""

    def __getitem__(self, index: int):
        record = super().__getitem__(index)
        return type(record)(record.name, record.image, record.label, record.boxes)


def test_boxes_where_there_are_no_masks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(data.DATASETS, "creatures", lambda split, root: NoMasks(split, 16))
    how = {"layers": ("add1",), "methods": ("dgl",), "size": 32, "limit": 1, "device": "cpu"}
    tables = assess.evaluate(networks.open_network("creatures"), "creatures", tmp_path, **how)
    assert set(tables) == {"accuracy", "boxes"} and (tmp_path / "boxes.csv").is_file()
    assert list(dict.fromkeys(tables["boxes"]["method"])) == ["dgl", "whole_image", "centred_gaussian"]
    assert set(tables["boxes"]["score"]) == {"MaxBoxAcc", "GT-known", "Top-1", "Top-5", "MaxBoxAccV2"}


class SomeEmpty(Creatures):
    """Creatures of which the first three hold no object."""

    def __getitem__(self, index: int):
        record = super().__getitem__(index)
        return replace(record, mask=record.mask & (index > 2)) if record.mask is not None else record


@pytest.mark.parametrize("kind", [SomeEmpty, NoMasks])
def test_an_evaluation_holds_the_maps_of_few_images_and_gives_the_same(kind, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(data.DATASETS, "creatures", lambda split, root: kind(split, 16))
    how = {"layers": ("Mixed_6e", "add1"), "methods": ("dgl", "cam"), "size": 32, "limit": 1, "device": "cpu"}
    made, alive = [], []

    def watched(*args, **options):
        made.append(weakref.ref(maps := raw_maps(*args, **options)))
        alive.append(sum(one() is not None for one in made))
        return maps

    network = networks.open_network("creatures")
    for together in (256, 3):  # of 8 images
        monkeypatch.setattr(assess, "TOGETHER", together)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assess.evaluate(network, "creatures", tmp_path / str(together), **how)
        texts = {str(warning.message) for warning in told if "left out" in str(warning.message)}
        empty = {f"creatures {s}: 3 images without an object left out" for s in ("val", "test")}
        assert texts == (empty if kind is SomeEmpty else set())
        monkeypatch.setattr(assess, "raw_maps", watched)
    assert len(made) >= 6 and max(alive) <= 2  # the ones in use, and those before them
    whole, parts = (tmp_path / "256", tmp_path / "3")
    for file in whole.glob("*.csv"):
        a, b = (pd.read_csv(folder / file.name, keep_default_na=False) for folder in (whole, parts))
        if file.name == "images.csv":
            a, b = (table.sort_values(["method", "layer", "image"], ignore_index=True) for table in (a, b))
        pd.testing.assert_frame_equal(a, b, rtol=1e-9)
