"""README's tables, made from the results: the text between ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``."""

import re
from collections import defaultdict
from pathlib import Path

import pandas as pd

from dgl_lib.errors import UserError
from dgl_lib.files import write_text
from dgl_lib.study import claims, paths

BLOCK = re.compile(r"(<!-- begin: (?P<name>\S+) -->\n).*?(<!-- end: (?P=name) -->)", re.DOTALL)
#: The data sets whose claims are shown, a column each.
SHOWN = ("creatures", "pets")


def found() -> pd.DataFrame:
    """What was found: a row a claim and reading, a column a data set that has verdicts over several trainings."""
    cells: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # by claim and reading
    for profile in SHOWN:
        if (file := paths.project_root() / "results" / profile / "verdicts.csv").exists():
            second = _second(file.with_name("08_effects_spread.csv"))
            for row in pd.read_csv(file).fillna({"detail": ""}).to_dict("records"):
                reading, _, where = row["detail"].partition(", ")
                agree = " ({agree} of {trainings})" if row["trainings"] else ""
                effect = "" if pd.isna(row["low"]) else ": {measured:+z.1f} [{low:+z.1f}, {high:+z.1f}] {unit}"
                said = f"**{{verdict}}**{agree}{effect}".format_map(row) + second.get((row["claim"], row["detail"]), "")
                cells[row["claim"], reading][profile] = said + (f"; {where}" if where else "")
    lines = []
    for claim, rule in claims.CLAIMS.items():
        for reading in [reading for one, reading in cells if one == claim] or [""]:
            name = f"{claim}, {reading}" if reading else claim
            lines.append({"": name, "what is claimed": rule.says, **cells.get((claim, reading), {})})
    return pd.DataFrame(lines).fillna("")


def _second(file: Path) -> dict[tuple[str, str], str]:
    """The effect that C1 asks for as well and the one that C2 must not lose, by claim and reading, in words."""
    asked = [(claim, rule.keeps or rule.also) for claim, rule in claims.CLAIMS.items()]
    said = {}
    for row in pd.read_csv(file).fillna({"detail": ""}).to_dict("records") if file.exists() else []:
        if (row["claim"], row["effect"]) in asked:
            form = "+z.2f" if row["unit"] == "p_c" else "+z.1f"
            ends = ", ".join(format(row[end], form) for end in ("low", "high"))
            said[row["claim"], row["detail"]] = f"; {row['effect']} {row['mean']:{form}} [{ends}]"
    return said


#: What fills each block.
BLOCKS = {"found": found, "amendments": claims.amendments, "deviations": claims.deviations}


def generated(text: str) -> str:
    """``text`` with every block filled. UserError: a begin without its end, or a block of an unknown name."""
    whole = [match["name"] for match in BLOCK.finditer(text)]
    for name in re.findall(r"<!-- begin: (\S+) -->", text):
        if name not in BLOCKS:
            raise UserError(f"README block {name!r} is unknown; allowed: {', '.join(BLOCKS)}")
        if name not in whole:
            raise UserError(f"README block {name!r} has a begin without an end")
    return BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match['name']]().to_markdown(index=False)}\n{match[3]}", text)


def update_readme(path: Path | None = None, *, check: bool = False) -> None:
    """Fill the blocks of ``path``, README.md for None. With ``check`` write nothing; UserError where one is stale."""
    file = path or paths.project_root() / "README.md"
    text = file.read_text(encoding="utf-8")
    new = generated(text)
    if check and new != text:
        raise UserError(f"{file.name} is not in step with results; run: python -m dgl_lib readme")
    write_text(file, new)
