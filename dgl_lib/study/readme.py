"""README's tables, made from the results: the text between ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``."""

import re
from pathlib import Path

import pandas as pd

from dgl_lib.errors import UserError
from dgl_lib.files import write_text
from dgl_lib.study import claims, paths

BLOCK = re.compile(r"(<!-- begin: (?P<name>\S+) -->\n).*?(<!-- end: (?P=name) -->)", re.DOTALL)
#: The data sets whose claims are shown, a column each.
SHOWN = ("creatures", "pets")


def found() -> pd.DataFrame:
    """What was found: a row a claim, a column a data set, with the effect, its interval and the verdict."""
    table = pd.DataFrame({"the talk says": {name: claim.says for name, claim in claims.CLAIMS.items()}})
    for profile in SHOWN:
        results = claims.claims_table(paths.project_root() / "results" / profile)
        for claim, row in results.set_index("claim").to_dict("index").items():
            effect = "{measured:+z.2f} [{low:+z.2f}, {high:+z.2f}] {unit}: ".format_map(row)
            table.loc[claim, profile] = ("" if pd.isna(row["low"]) else effect) + f"**{row['verdict']}**"
    return table.rename_axis("").reset_index()


#: What fills each block.
BLOCKS = {"found": found, "deviations": claims.deviations}


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
