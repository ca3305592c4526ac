"""A grid of parameters: every combination once, one table, one figure; the study itself is made up here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dgl_lib.errors import UserError
from dgl_lib.study import claims, paths, runner
from dgl_lib.study.profile import Profile
from dgl_lib.study.sweep import read_grid, sweep


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The commands of the runs so far; each run leaves one claim, whose effect is its alpha."""
    commands: list[str] = []

    def run(profile: Profile, *, out: Path, command: str, notebooks: Any, **_: Any) -> Path:
        commands.append(command)
        out.mkdir(parents=True)
        given = profile.model_dump(mode="json", include=profile.model_fields_set)
        entries = {f"{name}_notebook": {"parameters": given} for name in notebooks}
        (out / "manifest.json").write_text(json.dumps({"notebooks": entries}))
        claims.save_claims(out, "03", [claims.claim_row("C5", profile.alpha, profile.alpha - 1, profile.alpha + 1, 40)])
        return out

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    return commands


def test_every_combination_runs_once_and_a_second_sweep_only_what_is_new(ran: list[str]) -> None:
    folder = sweep("quick", read_grid(["alpha=1,3", "layer=Mixed_6c,Mixed_6e"]), ["seed=2"], ["03"])
    assert len(ran) == 4
    assert ran[1] == "dgl study quick --set seed=2 --set alpha=1 --set layer=Mixed_6e"
    table = pd.read_csv(folder / "sweep.csv")
    assert table["run"].tolist()[1:3] == ["alpha 1, layer Mixed_6e", "alpha 3, layer Mixed_6c"]
    assert table["measured"].tolist() == [1, 1, 3, 3]
    assert (folder / "sweep.png").is_file()
    sweep("quick", read_grid(["alpha=3,10", "layer=Mixed_6e"]), ["seed=2"], ["03"])
    assert ran[4:] == ["dgl study quick --set seed=2 --set alpha=10 --set layer=Mixed_6e"]


@pytest.mark.parametrize("change", ["other settings", "another notebook"])
def test_what_ran_differently_runs_again(ran: list[str], change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep("quick", {"alpha": ["3"]}, ["seed=2"], ["03"])
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)  # the folder is there
    settings, notebooks = (["seed=3"], ["03"]) if change == "other settings" else (["seed=2"], ["03", "04"])
    sweep("quick", {"alpha": ["3"]}, settings, notebooks)
    assert len(ran) == 2


def test_a_sweep_without_notebooks_makes_no_table(ran: list[str]) -> None:
    folder = sweep("quick", {"alpha": ["1", "3"]}, [], ["03"], until="evaluate")
    assert len(ran) == 2 and not (folder / "sweep.csv").exists()


def test_a_value_that_is_not_allowed_is_refused_before_the_first_run(ran: list[str]) -> None:
    with pytest.raises(UserError, match="alpha"):
        sweep("quick", {"alpha": ["3", "-1"]}, [], ["03"])
    assert not ran


@pytest.mark.parametrize("texts", [["alpha"], ["alpha="], ["alpha=1", "alpha=2"]])
def test_a_grid_is_names_with_values(texts: list[str]) -> None:
    with pytest.raises(UserError, match="--sweep"):
        read_grid(texts)
