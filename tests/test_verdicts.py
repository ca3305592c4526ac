"""Verdicts over trainings and images, where one training lies among published ones, and what README says of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgl_lib.errors import UserError
from dgl_lib.evaluate.effects import EXPLORATORY, effect
from dgl_lib.files import write_table
from dgl_lib.metrics import bootstrap, two_level
from dgl_lib.study import claims, paths, readme

WIGGLE = np.tile([-0.1, 0.1], 20)


def trainings(claim: str, name: str, means: list[float], detail: str = "", wide: float = 1.0) -> pd.DataFrame:
    """An effect of several trainings on forty images, each mean with a spread of ``wide`` / 10 to either side."""
    runs = [effect(claim, name, mean + wide * WIGGLE, detail).assign(run=f"seed {k}") for k, mean in enumerate(means)]
    return pd.concat(runs)


def decided(*effects: pd.DataFrame) -> pd.Series:
    """The verdict on the one claim that these effects are of."""
    table = claims.verdicts(pd.concat(effects))
    assert list(table) == claims.COLUMNS and [*table["claim"].unique()] == [*claims.CLAIMS]
    [row] = table[table["verdict"] != "not measured"].to_dict("records")
    return pd.Series(row)


@pytest.mark.parametrize(
    ("means", "verdict", "agree"),
    [
        ([1.0, 1.2, 1.1, 0.9, 1.0], "reproduced", 5),
        ([0.1, 0.2, 0.1, 0.0, 0.1], "not reproduced", 5),
        ([2.0, 0.1, 2.0, 0.1, 2.0], "undecided", 0),  # every training is sure, each of something else
        ([3.0, 2.8, 2.9, 3.1, 0.4], "reproduced", 4),
    ],
)
def test_a_verdict_is_over_trainings(means: list[float], verdict: str, agree: int) -> None:
    effects = trainings("C5", "DGL minus CAM", means)
    row, expected = decided(effects), two_level(np.add.outer(means, WIGGLE))
    assert (row["verdict"], row["agree"], row["trainings"], row["images"]) == (verdict, agree, 5, 40)
    assert (row["measured"], row["low"], row["high"]) == pytest.approx((np.mean(means), expected.low, expected.high))


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=1))
def test_one_training_is_decided_by_its_images(means: list[float]) -> None:
    row, alone = decided(trainings("C5", "DGL minus CAM", means)), bootstrap(means[0] + WIGGLE)
    assert (row["low"], row["high"], row["agree"]) == (alone.low, alone.high, 1)


def test_precision_must_be_kept_and_p_c_must_grow_too() -> None:
    found = trainings("C2", "rest found", [3, 3, 3])
    shown = trainings("C2", EXPLORATORY + "rest found, at a threshold", [-9, -9, -9])  # decides nothing
    assert decided(found, shown, trainings("C2", "precision", [0, 0, 0]))["verdict"] == "reproduced"
    lost = decided(found, shown, trainings("C2", "precision", [-2, 0.0, -2]))
    assert (lost["verdict"], lost["agree"], lost["measured"]) == ("reproduced", 1, 3)  # on average not shown to be lost
    assert decided(found, trainings("C2", "precision", [-2, -2, -2]))["verdict"] == "not reproduced"
    grown = trainings("C1", "margin", [5, 6])
    assert decided(grown, trainings("C1", "p_c", [0.2, 0.3]))["verdict"] == "reproduced"
    assert decided(grown, trainings("C1", "p_c", [0.2, -0.3]))["verdict"] == "undecided"
    with pytest.raises(UserError, match="keeps precision"):
        decided(found)
    with pytest.raises(UserError, match="C2: exploratory: x given"):
        decided(trainings("C2", EXPLORATORY + "x", [1]))
    with pytest.raises(UserError, match="'C11' given, C1"):
        decided(trainings("C11", "x", [1]))


def test_the_better_branch_alone_is_the_one_to_beat() -> None:
    one, other = (
        trainings("C8", "over one", [5, 5, 5], "sum"),
        trainings("C8", "over the other", [0.9, 0.8, 0.1], "sum"),
    )
    row = decided(one, other)
    assert row["measured"] == pytest.approx(0.6) and row["verdict"] == "undecided" and row["detail"] == "sum"


def test_identities_hold_where_they_hold_in_every_training() -> None:
    holds = pd.concat([effect("C3", "the same map", np.ones(4)).assign(run=str(k)) for k in range(3)])
    assert decided(holds)["verdict"] == "holds" and decided(holds)["images"] == 4
    fails = pd.concat([holds, effect("C3", "the same map", np.array([1, 1, 0, 1])).assign(run="3")])
    assert (decided(fails)["verdict"], decided(fails)["agree"]) == ("fails", 1)


def test_where_one_training_lies_among_the_published_ones(tmp_path: Path) -> None:
    readings = {"sum": [1.0, 2.0, 3.0], "norm": [1.0, 1.1, 1.2]}
    others = [trainings("C8", "DGL minus enhanced map", means, detail) for detail, means in readings.items()]
    others += [trainings("C1", "margin", [5, 6]), trainings("C1", "p_c", [0.2, 0.3]), trainings("C3", "same", [1])]
    others += [trainings("C5", "DGL minus CAM", [50]).assign(run="vgg16")]  # another network is not published
    write_table(tmp_path / "08_effects_by_image.csv", pd.concat(others), digits=12)
    published = claims.published(tmp_path)
    own = pd.concat([one[one["run"] == "seed 0"] for one in others]).drop(columns="run")
    own["value"] += np.where(own["claim"] == "C8", 1.5, 0)
    table = claims.agreement(own, published).set_index(["claim", "detail", "effect"])
    assert [*table.index] == [
        ("C8", "sum", "DGL minus enhanced map"),
        ("C8", "norm", "DGL minus enhanced map"),
        ("C1", "", "margin"),
        ("C1", "", "p_c"),
    ]
    assert table["unit"].tolist() == ["points", "points", "logits", "p_c"]
    assert table["this_run"].tolist() == pytest.approx([2.5, 2.5, 5, 0.2])
    assert table["trainings"].tolist() == [pytest.approx(m) for m in [*readings.values(), [5, 6], [0.2, 0.3]]]
    assert table["inside"].tolist() == [True, False, True, True]
    assert (table["own_high"] - table["own_low"] < table["high"] - table["low"]).iloc[0]
    with pytest.raises(UserError, match="no effect that this run"):
        claims.agreement(own[own["claim"] == "C3"], published)


def test_readme_shows_a_row_a_reading_and_a_column_a_data_set_with_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    assert [*readme.found()] == ["", "what is claimed"] and len(readme.found()) == len(claims.CLAIMS)
    for data, detail, mean in (("creatures", "norm", 1.0), ("pets", "norm, validation images", -0.04)):
        effects = [trainings("C2", "rest found", [mean] * 3, detail), trainings("C2", "precision", [0] * 3, detail)]
        effects += [trainings("C3", "the same map", [1], wide=0)]
        write_table(tmp_path / "results" / data / "verdicts.csv", claims.verdicts(pd.concat(effects)))
    spread = {"detail": ["norm"] * 2, "effect": ["rest found", "precision"], "unit": "points", "mean": [1.0, -0.26]}
    spread |= {"claim": "C2", "low": [1.0, -0.5], "high": [1.0, -0.01]}
    write_table(tmp_path / "results/creatures/08_effects_spread.csv", pd.DataFrame(spread))
    table = readme.found().set_index("")
    assert [*table] == ["what is claimed", "creatures", "pets"]
    assert [*table.index] == ["C1", "C2, norm", *(f"C{k}" for k in range(3, 11))]
    assert (
        table.loc["C2, norm", "creatures"]
        == "**reproduced** (3 of 3): +1.0 [+1.0, +1.0] points; precision -0.3 [-0.5, +0.0]"
    )
    assert table.loc["C2, norm", "pets"].endswith("(3 of 3): +0.0 [-0.1, +0.0] points; validation images")
    assert table.loc["C3", "pets"] == "**holds** (1 of 1)" and table.loc["C1", "pets"] == "**not measured**"


def test_amendments_say_what_was_changed_and_why() -> None:
    table = claims.amendments()
    assert list(table) == ["date", "what", "old rule", "new rule", "reason"]
    assert {"all verdicts", "C2", "C2 and C8", "C10"} <= {*table["what"]} and (table != "").all(axis=None)


def test_what_the_published_table_decides_no_other_set_of_trainings_turns_over() -> None:
    """README says so, and which verdicts differ: none on the second processor, C7 on the third."""
    results, keys = paths.project_root() / "results", ["claim", "detail"]

    def verdict(path: str) -> pd.DataFrame:
        return pd.read_csv(results / path).fillna({"detail": ""}).set_index(keys)

    here, there = (verdict(f"{folder}/verdicts.csv")["verdict"] for folder in ("creatures", "second_processor"))
    pd.testing.assert_series_equal(here, there)
    for name, changed in {
        "third": {"C7": "not reproduced"},
        "other_start": {"C4": "undecided", "C7": "not reproduced"},
        "other_start_avx2": {"C1": "reproduced", "C7": "not reproduced"},
    }.items():
        other = verdict(f"second_processor/{name}.csv")["verdict"]
        assert {claim: said for (claim, _), said in other[other != here].items()} == changed
    reached = pd.read_csv(results / "second_processor/trainings.csv")
    assert len(reached) == 15 and reached["accuracy_val"].min() >= 98
    assert (reached["passes"] == 12 + 6 * (reached["after_12"] < 98)).all()
    cheaper = verdict("second_processor/eight_passes.csv")
    one, two = (cheaper.loc[cheaper["processor"] == name, "verdict"] for name in ("AVX-512", "AVX2"))
    decided = here != "undecided"
    pd.testing.assert_series_equal(decided, one == two, check_names=False)  # the two differ where it is undecided
    assert (one == here)[decided].all() and decided.sum() == 10
    halves = cheaper["halves_agree"].dropna()
    assert halves[decided].min() >= 0.87 and halves[~decided].max() <= 0.55
