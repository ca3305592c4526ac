"""The same command twice gives the same bytes, whatever the language, the time zone and the order of hashing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from dgl_lib.files import write_table
from dgl_lib.plots import charts, style
from dgl_lib.study import paths

EVALUATE = ["evaluate", "creatures", "--limit", "1", "--layers", "Mixed_6e,add1", "--methods", "cam,dgl", "--out"]
#: What people have set, beside what continuous integration has.
ELSEWHERE = {"LC_ALL": "C", "LANG": "", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "TZ": "Pacific/Kiritimati"}


def dgl(*arguments: str, **environment: str) -> None:
    """Run the command line from another folder than the project's."""
    given = os.environ | {"PYTHONPATH": str(paths.project_root()), "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(
        [sys.executable, "-m", "dgl_lib", *arguments], env=given, capture_output=True, cwd=Path(arguments[-1]).parent
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def test_an_evaluation_is_the_same_to_the_byte_in_another_language_and_time_zone(tmp_path: Path) -> None:
    dgl(*EVALUATE, str(tmp_path / "here"), PYTHONHASHSEED="1")
    dgl(*EVALUATE, str(tmp_path / "there"), PYTHONHASHSEED="2", **ELSEWHERE)
    tables = sorted(file.name for file in (tmp_path / "here").glob("*.csv"))
    assert tables == ["accuracy.csv", "images.csv", "scores.csv"]
    for name in [*tables, "manifest.json"]:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes(), name


def test_a_figure_is_the_same_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame({"method": ["cam", "dgl"], "mean": [1.0, 2.0], "low": [0.5, 1.5], "high": [1.5, 2.5]})
    for k in (1, 2):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(10**9 * k))  # what some programs write as the date
        style.save(charts.forest(table, title="a title", xlabel="points"), tmp_path, f"figure_{k}")
        write_table(tmp_path / f"table_{k}.csv", table)
    assert (tmp_path / "figure_1.png").read_bytes() == (tmp_path / "figure_2.png").read_bytes()
    assert (tmp_path / "table_1.csv").read_bytes() == (tmp_path / "table_2.csv").read_bytes()
