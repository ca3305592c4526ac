"""The claims of the talk, with the rule that decides each one, fixed before anything was measured."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dgl_lib.errors import UserError
from dgl_lib.evaluate.effects import EXPLORATORY
from dgl_lib.files import write_table
from dgl_lib.metrics import Interval, two_level

Ends = tuple[float, float]  # low and high of an interval


@dataclass(frozen=True)
class Claim:
    """What the talk says, what is measured for it, and the ``margin`` in ``unit`` that the effect has to exceed.

    An identity has no margin. ``keeps`` names what must not be lost, ``also`` a second effect that has to exceed it."""

    says: str
    measure: str
    unit: str
    margin: float | None
    keeps: str = ""
    also: str = ""


_lines = Path(__file__).with_name("claims.csv").read_text(encoding="utf-8").splitlines()
#: The claims by name, as ``claims.csv`` beside this module fixed them before anything was measured.
CLAIMS = {
    claim: Claim(says, measure, unit, float(margin) if margin else None, keeps, also)
    for claim, says, measure, unit, margin, keeps, also in list(csv.reader(_lines))[1:]
}
COLUMNS = ["claim", "says", "detail", "measured", "low", "high", "unit", "trainings", "agree", "images", "verdict"]


def verdict(low: float, high: float, margin: float, kept: Ends | None = None, also: Ends | None = None) -> str:
    """Decide a claim from the 95 % interval [low, high] of its effect, all in the same unit.

    "reproduced" where the interval lies above the margin, "not reproduced" where it lies wholly below, else
    "undecided". ``kept`` is the interval of the change in what must not be lost; wholly below -margin it refutes too.
    ``also`` is the interval of a second effect that has to lie above the margin as well. ValueError: no interval."""
    effects = [(low, high), *([also] if also else [])]
    for a, b in (*effects, kept or (0.0, 0.0)):
        if not (math.isfinite(a) and math.isfinite(b) and a <= b):
            raise ValueError(f"interval [{a}, {b}] given, finite ends with low <= high allowed")
    if (kept and kept[1] < -margin) or any(high < margin for _, high in effects):
        return "not reproduced"
    return "reproduced" if all(low > margin for low, _ in effects) else "undecided"


def claim_row(
    claim: str,
    measured: float | bool,
    low: float | None = None,
    high: float | None = None,
    n: int = 0,
    *,
    kept: Ends | None = None,
    also: Ends | None = None,
    detail: str = "",
) -> dict[str, Any]:
    """One row of the table of claims, its verdict decided by the claim's own rule.

    ``measured`` is the effect, [low, high] its 95 % bootstrap interval over ``n`` images; for C3 and C9 it is whether
    the identity held, without one. ``kept`` is C2's interval of the change in precision (points), ``also`` C1's of that
    in p_c (0..1). ``detail`` tells a claim's rows apart. UserError: unknown claim, an interval too many or too few."""
    if claim not in CLAIMS:
        raise UserError(f"claim {claim!r} given, {', '.join(CLAIMS)} allowed")
    rule = CLAIMS[claim]
    row = {"claim": claim, "says": rule.says, "detail": detail, "low": low, "high": high, "unit": rule.unit}
    row |= {"trainings": 1, "agree": 1, "images": n}
    if rule.margin is None:
        if low is not None or high is not None or measured not in (True, False):
            raise UserError(f"claim {claim} holds or fails: True or False and no interval allowed, {measured!r} given")
        return row | {"measured": None, "verdict": "holds" if measured else "fails"}
    if low is None or high is None:
        raise UserError(f"claim {claim} is decided by its interval: low and high must be given")
    for name, given, wanted in (("keeps", kept, rule.keeps), ("also asks for", also, rule.also)):
        if (given is not None) != bool(wanted):
            raise UserError(f"claim {claim} {name} {wanted or 'nothing'}: {given!r} given")
    return row | {"measured": float(measured), "verdict": verdict(low, high, rule.margin, kept, also)}


def save_claims(folder: Path, notebook: str, rows: pd.DataFrame | Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Write the rows of one notebook ("02") that were measured to ``folder/claims_02.csv``; return them as a table."""
    table = pd.DataFrame(rows, columns=COLUMNS).query("verdict != 'not measured'").reset_index(drop=True)
    return write_table(folder / f"claims_{notebook}.csv", table)


def claims_table(folder: Path) -> pd.DataFrame:
    """All claims of a results folder, in the order C1 to C10; a claim without a row is listed as "not measured"."""
    files = (pd.read_csv(file, dtype={"detail": str}) for file in sorted(folder.glob("claims_[0-9]*.csv")))
    return _listed([row for table in files for row in table.fillna({"detail": ""}).to_dict("records")])


def _listed(rows: list[dict[Any, Any]]) -> pd.DataFrame:
    """The rows in the claims' order; a claim without one is "not measured"."""
    missing = {"trainings": 0, "agree": 0, "images": 0, "verdict": "not measured", "detail": ""}
    known = {row["claim"] for row in rows}
    rows += [{"claim": c, "says": r.says, "unit": r.unit, **missing} for c, r in CLAIMS.items() if c not in known]
    rows.sort(key=lambda row: list(CLAIMS).index(row["claim"]))
    return pd.DataFrame(rows, columns=COLUMNS)


def verdicts(effects: pd.DataFrame) -> pd.DataFrame:
    """Every claim's verdict over several trainings, a row a claim and reading, in the order C1 to C10.

    ``effects`` has the columns of ``evaluate.effects``, and run, which tells the trainings apart. The intervals redraw
    trainings, then images. Of two effects to be shown, as C8's, the one with the smaller mean decides. C3 and C9 hold
    if they do in every training. Columns: ``COLUMNS``; agree counts trainings with this verdict by their images alone,
    images those of one training. Without effects: "not measured". UserError: an unknown claim, or as ``claim_row``."""
    if unknown := sorted({*effects["claim"]} - {*CLAIMS}):
        raise UserError(f"claim {unknown[0]!r} given, {', '.join(CLAIMS)} allowed")
    rows = []
    for (claim, detail), one in effects.groupby(["claim", "detail"], sort=False):
        some = [one, *(run for _, run in one.groupby("run"))]
        row, *each = (_decided(str(claim), str(detail), effects) for effects in some)
        agree = sum(training["verdict"] == row["verdict"] for training in each)
        rows.append(row | {"trainings": len(each), "agree": agree})
    return _listed(rows)


def _decided(claim: str, detail: str, effects: pd.DataFrame) -> dict[str, Any]:
    """The ``claim_row`` of one claim and reading from the effects of one training or several."""
    rule = CLAIMS[claim]
    if rule.margin is None:
        return claim_row(claim, bool((effects["value"] == 1).all()), n=effects["image"].nunique(), detail=detail)
    found = _intervals(effects)
    kept, also = ((one.low, one.high) if (one := found.pop(name, None)) else None for name in (rule.keeps, rule.also))
    if not found:
        raise UserError(f"claim {claim}: {', '.join(effects['effect'].unique())} given, an effect that decides needed")
    least = min(found.values(), key=lambda interval: interval.mean)
    return claim_row(claim, least.mean, least.low, least.high, least.n, kept=kept, also=also, detail=detail)


def _intervals(effects: pd.DataFrame) -> dict[str, Interval]:
    """The two-level interval of each effect that is not exploratory, by its name."""
    groups = effects[~effects["effect"].str.startswith(EXPLORATORY)].groupby("effect", sort=False)
    return {str(name): two_level([run["value"] for _, run in one.groupby("run")]) for name, one in groups}


def published(folder: Path) -> pd.DataFrame:
    """The effects that a results folder's verdicts rest on: the columns of ``evaluate.effects``, and run."""
    table = pd.read_csv(folder / "08_effects_by_image.csv").fillna({"detail": ""})
    return table[table["run"].str.startswith("seed ")]


def agreement(own: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Where one training's effects lie among those of published trainings: a row an effect that both have.

    ``own`` has the columns of ``evaluate.effects``, ``published`` run too. Identities are left out. UserError: no row.
    Columns: claim, detail, effect, unit; mean, low, high over published trainings and images; trainings, the list of
    their means; this_run, own_low, own_high, by images alone; inside, whether that interval meets the list's range."""
    rows, keys = [], ["claim", "detail"]
    others = dict(list(published.groupby(keys)))
    for (claim, detail), one in own.assign(run="this run").groupby(keys, sort=False):
        rule = CLAIMS[str(claim)]
        if rule.margin is None or (claim, detail) not in others:
            continue
        spread, means = _intervals(other := others[claim, detail]), other.groupby(["effect", "run"])["value"].mean()
        for name, this in _intervals(one).items():
            if (over := spread.get(name)) is not None:
                unit = name if name == rule.also else rule.unit
                row = {"claim": claim, "detail": detail, "effect": name, "unit": unit}
                row |= {"mean": over.mean, "low": over.low, "high": over.high, "trainings": means[name].tolist()}
                row |= {"this_run": this.mean, "own_low": this.low, "own_high": this.high}
                rows.append(row | {"inside": this.low <= means[name].max() and means[name].min() <= this.high})
    if not rows:
        raise UserError("agreement: no effect that this run and the published trainings share, at least one needed")
    return pd.DataFrame(rows)


def amendments() -> pd.DataFrame:
    """What was changed in the rules after numbers had been seen: columns date, what, old rule, new rule, reason."""
    return pd.read_csv(Path(__file__).with_name("amendments.csv"), keep_default_na=False)


def deviations() -> pd.DataFrame:
    """Where this study departs from the paper and the released code, and why: columns topic, paper, code, ours, why."""
    return pd.read_csv(Path(__file__).with_name("deviations.csv"), keep_default_na=False)
