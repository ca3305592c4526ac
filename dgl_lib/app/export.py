"""Tables of ``results/`` and of `dgl evaluate`: printed for reading and for papers, compared number by number, and with
the notebooks on one page."""

import csv
import io
import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from dgl_lib.errors import UserError
from dgl_lib.files import write_text
from dgl_lib.given import need_one_of
from dgl_lib.study import paths

#: What a folder's table is: verdicts over several trainings, claims of one, or scores of `dgl evaluate`.
DEFAULTS = ("verdicts", "claims", "scores", "boxes")


def profiles() -> list[str]:
    """The profiles that have claims in ``results/``."""
    return sorted(path.parent.name for path in (paths.project_root() / "results").glob("[!.]*/claims.csv"))


def _tables(profile: str) -> tuple[Path, list[Path]]:
    """The folder that ``profile`` names, and its tables. UserError: there is none."""
    own = paths.project_root() / "results" / (".quick" if profile == "quick" else profile)
    for folder in (own, Path(profile)):
        if files := sorted(folder.glob("*.csv")) + sorted(folder.glob("*/*.csv")):
            return folder, files
    there = ", ".join(profiles()) or "none"
    raise UserError(f"results: {profile!r} given, a folder with tables or one of these profiles allowed: {there}")


def read(profile: str, name: str | None = None) -> pd.DataFrame:
    """A table of a profile, or of a folder that `dgl evaluate` wrote. Its name may lack the folder and the notebook's
    number (``scores`` for ``03_scores``). Without a name it is the first there is of ``DEFAULTS``. UserError: no table
    has that name, or several have."""
    folder, files = _tables(profile)
    tables = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    name = name or next((default for default in DEFAULTS if default in tables), "claims")
    short = re.compile(rf"(.*/)?(\d+_)?{re.escape(name)}")
    found = [name] if name in tables else [key for key in tables if short.fullmatch(key)]
    if len(found) != 1:
        raise UserError(f"table: {name!r} of {profile!r} given, one of {', '.join(found or tables)} allowed")
    try:
        return pd.read_csv(tables[found[0]], keep_default_na=False, na_values=["", "nan"], dtype={"scales": str})
    except (ValueError, csv.Error) as error:  # pandas' own are ValueErrors, as are bytes that are not UTF-8
        raise UserError(f"{tables[found[0]]}: not a readable table ({' '.join(str(error).split())})") from None


def render(tables: Mapping[str, pd.DataFrame], form: str) -> str:
    """Tables by profile as text. Markdown and LaTeX (booktabs) round to two decimals and print a
    table for each profile. CSV and JSON keep every digit and print one table whose first column is the profile."""
    need_one_of(("markdown", "latex", "csv", "json"), form, "format")
    if form == "markdown":
        return "\n\n".join(f"**{name}**\n\n{_markdown(table)}" for name, table in tables.items())
    if form == "latex":
        how: dict[str, Any] = {"index": False, "escape": True, "float_format": "{:z.2f}".format, "na_rep": ""}
        texts = [table.to_latex(caption=name.replace("_", r"\_"), **how) for name, table in tables.items()]
        return "\n".join(texts).rstrip("\n")
    both = pd.concat(dict(tables), names=["profile"]).reset_index("profile")
    if form == "csv":
        return both.to_csv(index=False, lineterminator="\n").rstrip("\n")
    return json.dumps(records(both), indent=1, ensure_ascii=False)


def page(profile: str, table: pd.DataFrame, out: Path) -> None:
    """Write a web page that needs no other file: a profile's ``table``, and its executed notebooks with their figures.

    Only the formulas' script comes from the net. UserError: as for ``read``, or a notebook cannot be read."""
    from nbconvert import HTMLExporter  # most of a second

    logging.getLogger("traitlets").setLevel(logging.ERROR)  # it warns that figures have no alternative text
    folder, cells = _tables(profile)[0], [nbformat.v4.new_markdown_cell(f"# {profile}\n\n{_markdown(table)}")]
    for notebook in sorted(folder.glob("*.ipynb")):
        try:
            cells += nbformat.read(notebook, as_version=4).cells
        except (ValueError, nbformat.ValidationError) as error:
            raise UserError(f"{notebook}: not a readable notebook ({' '.join(str(error).split())[:80]})") from None
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"  # notebooks share some
    where = {"metadata": {"name": profile, "path": folder}}
    html, _ = HTMLExporter(embed_images=True).from_notebook_node(nbformat.v4.new_notebook(cells=cells), where)
    write_text(out, html)


def _markdown(table: pd.DataFrame) -> str:
    text = [i for i, kind in enumerate(table.dtypes) if not pd.api.types.is_numeric_dtype(kind)]
    cells = table.astype(object).where(table.notna(), None).replace(r"\|", r"\\|", regex=True)
    return cells.to_markdown(index=False, floatfmt="z.2f", missingval="", disable_numparse=text if len(table) else True)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as JSON objects. NaN becomes null."""
    return json.loads(table.to_json(orient="records", double_precision=15))


def compare(a: Path, b: Path, digits: int = 6) -> list[str]:
    """How the CSV files below two folders differ, one line for each file that does.

    Numbers are rounded to ``digits`` significant digits and may then differ by one in the last. Numbers below 1e-12
    count as zero. All other cells must be equal as text. UserError: a folder is missing, or no CSV file is there."""
    for folder in (a, b):
        if not folder.is_dir():
            raise UserError(f"compare: {str(folder)!r} is not a folder")
    here, there = ({file.relative_to(folder).as_posix() for file in folder.rglob("*.csv")} for folder in (a, b))
    if not here | there:
        raise UserError(f"compare: no CSV file below {str(a)!r} or {str(b)!r}")
    found = dict.fromkeys(here - there, f"missing in {b}") | dict.fromkeys(there - here, f"missing in {a}")
    found |= {name: _difference(a / name, b / name, digits) for name in here & there}
    return [f"{name}: {found[name]}" for name in sorted(found) if found[name]]


def _difference(a: Path, b: Path, digits: int) -> str:
    """What differs between two CSV files, in words. Empty if nothing does."""
    try:
        one, other = (list(csv.reader(io.StringIO(f.read_bytes().decode(), newline=""))) or [[]] for f in (a, b))
    except (ValueError, csv.Error) as error:
        return f"not a readable table ({error})"
    if one[0] != other[0]:
        return f"columns {', '.join(one[0])} and {', '.join(other[0])}"
    if list(map(len, one)) != list(map(len, other)):
        return f"{len(one) - 1} and {len(other) - 1} rows, or rows of unequal length"
    different = [
        f"row {i}, {column}: {x!r} and {y!r}"
        for i, (row, twin) in enumerate(zip(one, other, strict=True))
        for column, x, y in zip(one[0], row, twin, strict=False)
        if not _same(x, y, digits)
    ]
    return f"{len(different)} cells, the first in {different[0]}" if different else ""


def _same(x: str, y: str, digits: int) -> bool:
    """Whether two cells are equal as text, or are numbers that agree as ``compare`` says."""
    if x == y:
        return True
    try:
        p, q = (float(f"{float(cell):.{digits - 1}e}") for cell in (x, y))
    except ValueError:
        return False
    largest = max(abs(p), abs(q))
    if not math.isfinite(largest):
        return p == q
    return largest < 1e-12 or abs(p - q) <= 1.01 * 10 ** (math.floor(math.log10(largest)) - digits + 1)
