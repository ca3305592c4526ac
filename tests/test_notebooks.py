"""What every committed notebook keeps to. That its outputs are still true is nbval's to check."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml
from nbconvert import SlidesExporter

from dgl_lib.study.profile import Profile, declared, read_profile, validated

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((ROOT / "dgl_lib" / "study" / "profiles").glob("*.yaml"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_profile = pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def parameter_cells(path: Path) -> list[Any]:
    return [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]


def parameters(source: str) -> dict[str, tuple[str, Any]]:
    """{name: (type, default)} of a cell whose every line is ``name: type = literal  # what it is``.

    papermill drops, without a word, a line it cannot read: one with a second ``=``, or half of a value.
    """
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = source.splitlines()
    found: dict[str, tuple[str, Any]] = {}
    for node in ast.parse(source).body:
        line = lines[node.lineno - 1]
        assert isinstance(node, ast.AnnAssign), f"not `name: type = literal`: {line}"
        assert isinstance(node.target, ast.Name), f"not a name: {line}"
        assert node.value is not None, f"no default: {line}"
        assert node.lineno == node.end_lineno, f"more than one line: {line}"
        assert comments.get(node.lineno), f"no comment: {line}"
        assert line.count("=") == 1, f"a second `=`: {line}"
        kind = node.annotation.value if isinstance(node.annotation, ast.Subscript) else node.annotation
        value = ast.literal_eval(node.value)
        assert isinstance(kind, ast.Name) and type(value).__name__ == kind.id, f"{type(value).__name__} default: {line}"
        assert node.target.id not in found, f"declared twice: {line}"
        found[node.target.id] = (ast.unparse(node.annotation), value)
    return found


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = 1  # x", "not `name"),
        ("a: int = 1", "no comment"),
        ("a: int = 1  # x = 2", "a second"),
        ("a: float = 1  # x", "int default"),
        ("a: str | None = None  # x", "NoneType default"),
        ("a: int  # x", "no default"),
        ("a: list = [1,\n 2]  # x", "more than one line"),
        ("a: int = 1  # x\na: int = 2  # x", "declared twice"),
    ],
)
def test_bad_parameter_lines_are_seen(source: str, message: str):
    with pytest.raises(AssertionError, match=message):
        parameters(source)


def test_good_parameter_lines_are_read():
    source = 'size: int = 128  # side, pixels\nlayers: list[str] = ["Mixed_6e"]  # names\nrate: float = -0.5  # x'
    assert parameters(source) == {
        "size": ("int", 128),
        "layers": ("list[str]", ["Mixed_6e"]),
        "rate": ("float", -0.5),
    }


@each_notebook
def test_parameters_cell(path: Path):
    cells = parameter_cells(path)
    assert len(cells) == 1
    assert parameters(cells[0].source)


@each_notebook
def test_the_runner_reads_the_same_parameters(path: Path):
    found = parameters(parameter_cells(path)[0].source)
    assert declared(path) == list(found)
    validated({name: value for name, (_, value) in found.items()})


@each_notebook
def test_was_run_once_from_top_to_bottom(path: Path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)


@each_notebook
def test_outputs_hold_no_error_and_no_noise(path: Path):
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.text


@each_notebook
def test_something_is_checked(path: Path):
    """nbval passes a notebook whose every cell is skipped or silent."""
    unchecked = {"nbval-skip", "nbval-ignore-output"}
    checked = [cell for cell in code_cells(path) if not unchecked & set(cell.metadata.get("tags", []))]
    outputs = [output for cell in checked for output in cell.outputs]
    assert any(output.output_type == "stream" or "text/plain" in output.get("data", {}) for output in outputs)
    assert any(line.lstrip().startswith("assert ") for cell in checked for line in cell.source.splitlines())


@each_notebook
def test_cells_are_short(path: Path):
    cells = code_cells(path)
    others = [cell for cell in cells if "parameters" not in cell.metadata.get("tags", [])]
    lengths = {cell.execution_count: len(cell.source.splitlines()) for cell in others}
    assert not {count: length for count, length in lengths.items() if length > 20}
    if long := {count: length for count, length in lengths.items() if length > 15}:
        warnings.warn(f"{path.name}: cells of more than 15 lines: {long}", stacklevel=1)
    if not 20 <= len(cells) <= 40:
        warnings.warn(f"{path.name}: {len(cells)} code cells, 20 to 40 aimed at", stacklevel=1)


@each_notebook
def test_nothing_of_a_run_is_left_in_the_file(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not {"papermill", "widgets"} & set(notebook.metadata)
    assert not [cell.id for cell in notebook.cells if {"papermill", "execution"} & set(cell.metadata)]


def test_one_name_one_type():
    """One name means one thing: its type is the same in all notebooks, and the profile has a field for it."""
    found: dict[str, str] = {}
    for path in NOTEBOOKS:
        for name, (kind, _) in parameters(parameter_cells(path)[0].source).items():
            assert found.setdefault(name, kind) == kind, f"{name} is {kind} in {path.name}"
    assert set(found) <= set(Profile.model_fields)


@each_profile
def test_profiles_set_what_notebooks_declare(path: Path):
    values = yaml.safe_load(path.read_text()) or {}
    training = set(Profile.model_fields) - {"results", "tables"}
    assert set(values) <= training and values.get("show_photos", False) is False
    read_profile(path.stem)


@each_notebook
def test_committed_defaults_are_the_quick_profile(path: Path):
    values = {name: value for name, (_, value) in parameters(parameter_cells(path)[0].source).items()}
    quick = {"results": "results/.quick", "tables": "results/creatures", "data": "creatures"}
    quick |= {"checkpoint": "creatures", "progress": False, "show_photos": False, "skip_unreadable": False}
    assert {name: values[name] for name in values.keys() & quick} == {n: quick[n] for n in values.keys() & quick}


# Slides and the lesson


SLIDES = [path for path in NOTEBOOKS if path.name[:2] < "09"]  # those of `make slides`


@pytest.mark.parametrize("path", SLIDES, ids=lambda path: path.stem)
def test_slides_are_chosen_and_the_rest_is_left_out(path: Path):
    notebook = nbformat.read(path, as_version=4)
    kinds = [cell.metadata.slideshow.slide_type for cell in notebook.cells]  # every cell says which it is
    assert set(kinds) <= {"slide", "subslide", "-", "skip"}
    html, _ = SlidesExporter(exclude_input=True).from_notebook_node(notebook)
    assert html.count("<section") - kinds.count("slide") == kinds.count("slide") + kinds.count("subslide")
    figures = [cell for cell, kind in zip(notebook.cells, kinds, strict=True) if kind != "skip"]
    figures = [out for cell in figures for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert html.count("<img") == len(figures) > 0


def test_the_lesson_says_the_verdicts_that_the_results_have():
    text = (ROOT / "notebooks" / "teaching" / "what_would_change_our_mind.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| (C\d+)[^|]*\| ([^|]+) \|", text, re.M))
    for data in ("creatures", "pets"):
        for claim, one in pd.read_csv(ROOT / "results" / data / "verdicts.csv").groupby("claim"):
            words = one["verdict"].unique()  # of its readings
            assert (words[0] if len(words) == 1 else "on the reading") in said[str(claim)], f"{claim}, {data}"
