"""The tables that ``make breakages``, ``make mutants`` and ``make commands`` left are whole."""

from __future__ import annotations

import csv
from pathlib import Path

import commands
import pytest
from breakages import BREAKAGES, ROOT, TABLE, Breakage
from mutants import NEEDED, PLACES, TESTS


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda b: b.name)
def test_what_is_broken_still_stands_there_once(breakage: Breakage) -> None:
    source = (ROOT / "dgl_lib" / breakage.file).read_text()
    assert source.count(breakage.was) == 1 and breakage.was != breakage.becomes
    compile(source.replace(breakage.was, breakage.becomes), breakage.file, "exec")
    assert (ROOT / "tests" / f"test_{breakage.tests}.py").exists()
    assert (ROOT / "notebooks" / f"{breakage.notebook}.ipynb").exists()


def test_every_breakage_turned_a_test_red_and_eight_a_notebook() -> None:
    untouched, *broken = rows(TABLE)
    assert (untouched["test"], untouched["notebook_cell"]) == ("", "")
    assert [row["breakage"] for row in broken] == [breakage.name for breakage in BREAKAGES] and len(broken) == 12
    assert all(row["test"] for row in broken) and sum(bool(row["notebook_cell"]) for row in broken) >= 8


def test_at_least_95_percent_of_the_mutants_were_killed_and_each_survivor_is_judged() -> None:
    table = rows(ROOT / "results" / "tests" / "mutants.csv")
    left = [row for row in table if row["outcome"] == "survived"]
    assert [row["module"] for row in table] == [module for module in TESTS for _ in range(PLACES)]
    assert 100 * len(left) <= (100 - NEEDED) * len(table) and all(row["judgement"] for row in left)
    judged = rows(ROOT / "tests" / "survivors.csv")
    assert {(row["module"], row["change"]) for row in judged} == {(row["module"], row["change"]) for row in left}


def test_every_command_of_readme_was_run_or_is_run_elsewhere() -> None:
    """A new one needs a line in the table, which only running it gives."""
    listed = commands.commands()
    assert {"make study", "dgl train photographs", "make commands"} <= set(listed)
    table = rows(commands.TABLE)
    assert [row["command"] for row in table] == [command for command in listed if command not in commands.ELSEWHERE]
    assert [row["run"] for row in table] == [commands.stand_in(row["command"]) for row in table]
    for command, file in commands.ELSEWHERE.items():
        assert command in listed and (ROOT / file).exists()
        words = command.removeprefix("make ").split() if file.endswith("yml") or file == ".ci/run" else []
        assert all(word in (ROOT / file).read_text() for word in words), command
