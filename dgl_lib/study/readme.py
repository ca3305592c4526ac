"""What README.md and results/README.md say of results: the text between ``<!-- begin: NAME -->`` and its end."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from dgl_lib import claims, paths
from dgl_lib.errors import UserError
from dgl_lib.files import write_text

BLOCK = re.compile(r"(<!-- begin: (?P<name>\S+) -->\n).*?(<!-- end: (?P=name) -->)", re.DOTALL)


def block(name: str) -> str:
    """The Markdown of one block: ``claims:PROFILE``, ``deviations``, ``table:PATH.csv`` or ``text:PATH.md`` in results.

    Raises:
        UserError: an unknown kind of block, or results that are not there.
    """
    kind, _, what = name.partition(":")
    results = paths.project_root() / "results"
    if kind == "claims":
        if not list((results / what).glob("claims_*.csv")):
            raise UserError(f"README block {name!r}: results/{what} holds no claims; run the study first")
        return claims.claims_markdown(results / what)
    if kind == "deviations":
        return claims.deviations_markdown()
    if kind in ("table", "text"):
        if not (results / what).is_file():
            raise UserError(f"README block {name!r}: no file results/{what}; make it first")
        if kind == "text":
            return (results / what).read_text(encoding="utf-8").rstrip("\n")
        table = pd.read_csv(results / what, keep_default_na=False)
        return claims.markdown(list(table.columns), [[_cell(v) for v in row] for row in table.itertuples(index=False)])
    raise UserError(f"README block {name!r}; allowed: claims:PROFILE, deviations, table:PATH.csv, text:PATH.md")


def _cell(value: object) -> str:
    return f"{value:z.3f}" if isinstance(value, float) else str(value)


def generated(text: str) -> str:
    """``text`` with every block filled from the results.

    Raises:
        UserError: a begin without its end.
    """
    begun = re.findall(r"<!-- begin: (\S+) -->", text)
    found = [match["name"] for match in BLOCK.finditer(text)]
    if begun != found:
        lost = next(name for name in begun if name not in found)
        raise UserError(f"README block {lost!r} has a begin without an end")
    return BLOCK.sub(lambda match: f"{match[1]}{block(match['name'])}\n{match[3]}", text)


def update_readme(path: Path | None = None, *, check: bool = False) -> None:
    """Fill the blocks of ``path`` (for None: README.md and results/README.md); with ``check`` write nothing.

    Raises:
        UserError: with ``check``, a file is not what the results say.
    """
    root = paths.project_root()
    for file in [path] if path else [root / "README.md", root / "results" / "README.md"]:
        text = file.read_text(encoding="utf-8")
        new = generated(text)
        if check and new != text:
            pairs = zip(BLOCK.finditer(text), BLOCK.finditer(new), strict=True)
            stale = ", ".join(a["name"] for a, b in pairs if a[0] != b[0])
            raise UserError(f"{file.name} is not in step with results ({stale}); run: python -m dgl_lib readme")
        if new != text:
            write_text(file, new)
