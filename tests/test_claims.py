"""The rule that decides each claim, on cases worked out by hand, and the tables made from the decisions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dgl_lib.errors import UserError
from dgl_lib.study.claims import (
    CLAIMS,
    COLUMNS,
    claim_row,
    claims_table,
    deviations,
    save_claims,
    verdict,
)


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (0.51, 9.0, 0.5, "reproduced"),
        (0.5, 9.0, 0.5, "undecided"),  # touches the margin: does not lie above it
        (0.4, 0.6, 0.5, "undecided"),
        (-3.0, 0.5, 0.5, "undecided"),
        (0.1, 0.49, 0.5, "not reproduced"),  # above 0, and wholly below the margin
        (-3.0, -1.0, 0.5, "not reproduced"),
        (0.01, 0.02, 0.0, "reproduced"),
        (0.0, 0.02, 0.0, "undecided"),
        (-0.2, -0.1, 0.0, "not reproduced"),
        (0.7, 0.7, 0.5, "reproduced"),
    ],
)
def test_verdict(low: float, high: float, margin: float, expected: str) -> None:
    assert verdict(low, high, margin) == expected


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ((-9.0, -0.51), "not reproduced"),  # gained, but something was lost for it
        ((-9.0, -0.5), "reproduced"),  # may be lost, is not shown to be
        ((1.0, 2.0), "reproduced"),
    ],
)
def test_what_must_not_be_lost(kept: tuple[float, float], expected: str) -> None:
    assert verdict(3.0, 5.0, 0.5, kept) == expected
    assert claim_row("C2", 4.0, 3.0, 5.0, 40, kept=kept)["verdict"] == expected
    assert verdict(0.0, 5.0, 0.5, kept) == ("undecided" if expected == "reproduced" else expected)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0.1, 0.3), (0.01, 0.2), "reproduced"),
        ((0.1, 0.3), (-0.01, 0.2), "undecided"),
        ((0.1, 0.3), (-0.2, -0.01), "not reproduced"),
        ((-0.3, -0.1), (0.01, 0.2), "not reproduced"),
    ],
)
def test_two_effects_are_needed(one: tuple, other: tuple, expected: str) -> None:
    assert verdict(*one, 0.0, also=other) == expected
    assert claim_row("C1", sum(one) / 2, *one, 40, also=other)["verdict"] == expected


@pytest.mark.parametrize(("low", "high"), [(math.nan, 1.0), (0.0, math.inf), (2.0, 1.0)])
def test_an_interval_that_is_none(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="interval"):
        verdict(low, high, 0.5)
    with pytest.raises(ValueError, match="interval"):
        verdict(1.0, 2.0, 0.5, (low, high))


def test_margins_are_those_fixed_beforehand() -> None:
    assert list(CLAIMS) == [f"C{i}" for i in range(1, 11)]
    assert [claim.margin for claim in CLAIMS.values()] == [0.0, 0.5, None, 0.5, 0.5, 0.5, 0.5, 0.5, None, 0.5]


def test_rows_are_decided_by_their_own_claim() -> None:
    assert claim_row("C1", 0.2, 0.1, 0.3, 40, also=(0.01, 0.2))["verdict"] == "reproduced"
    assert claim_row("C5", 0.2, 0.1, 0.3, 40)["verdict"] == "not reproduced"
    assert claim_row("C3", False)["verdict"] == "fails"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("C11", 1.0, 0.5, 2.0, 3), "C1, C2"),
        (("C3", True, 0.5, 2.0, 3), "holds or fails"),
        (("C9", 0.3), "holds or fails"),
        (("C5", 1.0), "low and high"),
        (("C2", 1.0, 0.5, 2.0, 3), "keeps precision"),
        (("C1", 1.0, 0.5, 2.0, 3), "also asks for p_c"),
    ],
)
def test_rows_that_make_no_sense(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        claim_row(*arguments)


def test_an_interval_of_what_a_claim_does_not_keep() -> None:
    with pytest.raises(UserError, match="keeps nothing"):
        claim_row("C5", 1.0, 0.5, 2.0, 3, kept=(0.0, 1.0))


def test_gathering(tmp_path: Path) -> None:
    save_claims(
        tmp_path, "03", [claim_row("C5", 8.0, 6.0, 10.0, 120, detail="CAM 53.0, DGL 61.0"), claim_row("C3", True)]
    )
    save_claims(tmp_path, "02", [claim_row("C1", 0.4, 0.1, 0.7, 120, also=(-0.1, 0.3), detail="p_c +0.1")])
    table = claims_table(tmp_path)
    assert list(table.columns) == COLUMNS
    assert table["claim"].tolist() == [f"C{i}" for i in range(1, 11)]
    assert table["verdict"].tolist()[:5] == [
        "undecided",
        "not measured",
        "holds",
        "not measured",
        "reproduced",
    ]


def test_deviations() -> None:
    table = deviations()
    assert list(table.columns) == ["topic", "paper", "code", "ours", "why"]
    wanted = {"padding", "pooling", "schedule", "data", "class", "threshold", "scales", "fusion"}
    assert wanted <= set(table["topic"])
    assert (table != "").all(axis=None)
