"""Tables of ``results/`` and of `dgl evaluate` for reading and for papers, as Markdown, LaTeX, CSV or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dgl_lib import claims, paths
from dgl_lib.errors import UserError

FORMATS = ("markdown", "latex", "csv", "json")
#: Shown where no table is named.
DEFAULTS = ("claims", "scores", "boxes")
LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def profiles() -> list[str]:
    """The profiles that ``results/`` holds claims of."""
    return sorted(path.parent.name for path in (paths.project_root() / "results").glob("[!.]*/claims.csv"))


def names_of(profile: str) -> dict[str, Path]:
    """The tables of a profile by name: ``claims``, ``03_scores``, and a page's as ``comparison/scores``; or those in a
    folder that ``assess.evaluate`` wrote: ``accuracy``, and ``scores`` or ``boxes``.

    Raises:
        UserError: no results of that profile, and no such folder of tables.
    """
    own = paths.project_root() / "results" / (".quick" if profile == "quick" else profile)
    for folder in (own, Path(profile)):
        if files := sorted(folder.glob("*.csv")) + sorted(folder.glob("*/*.csv")):
            return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    there = ", ".join(profiles()) or "none"
    raise UserError(f"no results of a profile and no folder of tables is named {profile!r}; profiles: {there}")


def read(profile: str, name: str = "") -> pd.DataFrame:
    """A profile's or folder's table by its name, or by what stands behind the notebook's number: ``scores`` is
    ``03_scores``. No name: the first there of ``DEFAULTS``.

    Raises:
        UserError: no such table, or several.
    """
    tables = names_of(profile)
    name = name or next((default for default in DEFAULTS if default in tables), DEFAULTS[0])
    numbered = [key for key in tables if key.partition("_")[0].isdecimal() and key.partition("_")[2] == name]
    if name not in tables and len(numbered) != 1:
        raise UserError(f"table {name!r} is not in results of {profile!r}; allowed: {', '.join(tables)}")
    file = tables[name if name in tables else numbered[0]]
    return pd.read_csv(file, keep_default_na=False, na_values=["", "nan"], dtype={"scales": str})


def render(tables: Mapping[str, pd.DataFrame], form: str) -> str:
    """Tables by profile as text. Markdown and LaTeX round to two decimals and head each table with its profile; CSV and
    JSON keep every digit and put the profile into a column of its own."""
    if form not in FORMATS:
        raise UserError(f"format: {form!r} given, {', '.join(FORMATS)} allowed")
    if form in ("csv", "json"):
        both = pd.concat([table.assign(profile=name) for name, table in tables.items()], ignore_index=True)
        both = both[["profile", *(column for column in both if column != "profile")]]
        if form == "csv":
            return both.to_csv(index=False, lineterminator="\n").rstrip("\n")
        return json.dumps(records(both), indent=1, ensure_ascii=False)
    blocks = []
    for name, table in tables.items():
        header = [str(column) for column in table.columns]
        rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
        blocks.append(
            f"**{name}**\n\n{claims.markdown(header, rows)}" if form == "markdown" else _latex(name, header, rows)
        )
    return "\n\n".join(blocks)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as JSON holds them: numbers that are none become null."""
    return json.loads(table.to_json(orient="records", double_precision=15))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:z.2f}"
    return str(value)


def _latex(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A ``table`` in the style of the package booktabs."""

    def escaped(text: str) -> str:
        return "".join(LATEX.get(sign, sign) for sign in text)

    lines = [" & ".join(map(escaped, cells)) + r" \\" for cells in (header, *rows)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escaped(caption)}}}",
            rf"\begin{{tabular}}{{{'l' * len(header)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
