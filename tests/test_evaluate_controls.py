"""The controls: rank correlation and two samples by hand, a map that ignores the class, the networks of the study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from sets import Toy

from dgl_lib.errors import UserError
from dgl_lib.evaluate import Maps, controls, raw_maps, score
from dgl_lib.metrics import two_samples
from dgl_lib.models import SPGPlain, save_checkpoint, spg_plain
from dgl_lib.study import paths, steps, tables
from dgl_lib.study.profile import Profile


@pytest.fixture(scope="module")
def model() -> SPGPlain:
    torch.manual_seed(0)
    return spg_plain(3, width=1 / 16).eval()


# ------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3, 4], [1, 8, 27, 64], 1),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1),
        ([1, 2, 3, 4], [1, 2, 4, 3], 1 - 6 * 2 / (4 * 15)),
        ([1, 1, 2, 3], [1, 2, 3, 4], 4.5 / np.sqrt(4.5 * 5)),  # the tie's ranks are 1.5 and 1.5
        ([0, 0, 0, 0], [1, 2, 3, 4], np.nan),
    ],
)
def test_spearman_by_hand(a: list, b: list, expected: float) -> None:
    one, other = (np.array(m, np.float32).reshape(1, 2, 2) for m in (a, b))
    assert controls.spearman(one, other) == pytest.approx(np.array([expected]), nan_ok=True)
    assert controls.spearman(other, one) == pytest.approx(np.array([expected]), nan_ok=True)


@given(st.lists(st.integers(-50, 50), min_size=4, max_size=12, unique=True), st.floats(0.1, 9))
def test_spearman_sees_ranks_only_and_each_image_by_itself(values: list[int], gain: float) -> None:
    m = np.array(values, float).reshape(1, 1, -1)
    both = controls.spearman(np.concatenate([m, m]), np.concatenate([gain * m**3 + 1, -m]))
    np.testing.assert_allclose(both, [1, -1])


def test_two_samples_of_constants() -> None:
    found = two_samples(np.full(5, 3.0), np.full(2, 1.0))
    assert (found.mean, found.low, found.high, found.n) == (2.0, 2.0, 2.0, 7)
    with pytest.raises(UserError, match="two samples of 0 and 2 values"):
        two_samples(np.array([]), np.ones(2))


def test_two_samples_are_not_paired() -> None:
    """The same values twice: a paired interval would be a point. Half of this one's width: 1.96 s sqrt(2 / n)."""
    values = np.random.default_rng(0).normal(size=400)
    found = two_samples(values, values[::-1])
    assert found.mean == pytest.approx(0, abs=1e-12)
    half = 1.96 * np.sqrt(2 / 400) * values.std()
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_strongest_other() -> None:
    logits = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 5.0, 2.0]])
    assert controls.strongest_other(logits, np.array([0, 1, 1])).tolist() == [1, 0, 2]  # runner-up, mistake, runner-up
    assert logits.max() == 5.0  # the caller's array is as it was


def test_quarter() -> None:
    p_c = np.array([0.9, 0.1, 0.8, 0.7, 0.2, 0.6, 0.5, 0.95, 0.3])
    assert np.flatnonzero(controls.quarter(p_c)).tolist() == [1, 4]  # 9 // 4
    assert controls.quarter(np.array([0.5, 0.4])).tolist() == [False, True]  # at least one
    with pytest.raises(UserError, match="1 image given, at least two"):
        controls.quarter(np.ones(1))


# --------------------------------------------------------------------------------------------- classes and maps


WHAT: dict = {"layers": ["Mixed_6e"], "methods": ["features", "pixel_selection", "dgl"], "size": 32, "device": "cpu"}


def test_maps_of_other_classes(model: SPGPlain, tmp_path: Path) -> None:
    data, others = Toy("test", 3), [2, 0, 1]
    right = raw_maps(model, data, folder=tmp_path, **WHAT)
    wrong = raw_maps(model, data, classes=others, folder=tmp_path, **WHAT)  # not the other's stored parts
    assert wrong.classes.tolist() == others and right.classes.tolist() == [0, 1, 2]
    assert len(list(tmp_path.glob("maps-*"))) == 2
    data.labels = np.array(others)
    relabelled = raw_maps(model, data, **WHAT)
    for key, m in wrong.maps.items():
        assert np.array_equal(m, relabelled.maps[key])
    with pytest.raises(UserError, match="classes: 2 given for 3 images"):
        raw_maps(model, data, classes=[0, 1], **WHAT)


def test_a_map_that_ignores_the_class_stays_the_same(model: SPGPlain) -> None:
    data, val = Toy("test", 6), Toy("val", 6)
    right, of_val = raw_maps(model, data, **WHAT), raw_maps(model, val, **WHAT)
    wrong = raw_maps(model, data, classes=(data.labels + 1) % 3, **WHAT)
    scores = score(val, {1.0: of_val})
    as_right, as_wrong = (controls.Measured(scores, score(data, {1.0: m}), m) for m in (right, wrong))
    table = pd.DataFrame(controls.compare("wrong class", as_wrong, as_right)).set_index("method")
    features = table.loc["features"]
    assert features[["spearman", "spearman_low", "spearman_high"]].tolist() == pytest.approx([1, 1, 1])
    assert features[["change", "change_low", "change_high"]].tolist() == [0, 0, 0]
    assert table.loc["pixel_selection", "spearman_high"] < 0.9
    again = pd.DataFrame(controls.compare("right class", as_right, as_right)).set_index("method")
    assert (again.loc[WHAT["methods"], "change"] == 0).all() and set(again.index) > {"whole_image", "centred_gaussian"}


def test_flat_maps_leave_no_likeness(model: SPGPlain) -> None:
    data = Toy("test", 4)
    flat = Maps({("grad_cam", "Mixed_6e"): np.zeros((4, 4, 4), np.float32)}, np.zeros((4, 3)), data.labels)
    scores = score(data, {1.0: flat})
    it = controls.Measured(scores, scores, flat)
    [row, *_] = controls.compare("untrained", it, it)
    assert np.isnan(row["spearman"]) and row["spearman_n"] == 0 and row["n"] == 4


def test_low_confidence_is_two_sets_of_images(model: SPGPlain) -> None:
    data, val = Toy("test", 8), Toy("val", 6)
    maps = raw_maps(model, data, **WHAT)
    it = controls.Measured(score(val, {1.0: raw_maps(model, val, **WHAT)}), score(data, {1.0: maps}), maps)
    table = pd.DataFrame(controls.compare_confidence(it, np.arange(8) / 10)).set_index(["control", "method"])
    assert table.loc["low confidence", "n"].eq(2).all() and table.loc["the rest", "n"].eq(6).all()
    differences = table.loc["low confidence", "iou"] - table.loc["the rest", "iou"]
    np.testing.assert_allclose(table.loc["low confidence", "change"], differences)


# ----------------------------------------------------------------------------------------- the study's control networks


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A classifier that every profile finds trained."""
    torch.manual_seed(1)
    save_checkpoint(spg_plain(3, width=1 / 16), path := tmp_path / "other.safetensors")
    monkeypatch.setattr(steps, "train_classifier", lambda profile, progress=False: path)
    return path


@pytest.mark.usefixtures("trained")
def test_shuffled_labels_only_where_trained(model: SPGPlain, monkeypatch: pytest.MonkeyPatch) -> None:
    pets = Profile(data="pets")
    monkeypatch.setattr(steps, "is_trained", lambda profile: profile.labels != "shuffled")
    assert list(tables._other_networks(pets, model, False)) == ["untrained"]
    monkeypatch.setattr(steps, "is_trained", lambda profile: profile.labels == "shuffled")
    assert list(tables._other_networks(pets, model, False)) == ["untrained", "shuffled labels"]


@pytest.mark.usefixtures("trained")
def test_the_fresh_head_keeps_the_trunk(model: SPGPlain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = model.state_dict()
    save_file({name: state[name].contiguous() for name in model.trunk_names()}, tmp_path / "trunk.safetensors")
    monkeypatch.setattr(paths, "weights_source", lambda weights: tmp_path / weights if weights else None)
    found = tables._other_networks(Profile(weights="trunk.safetensors"), model, False)
    assert list(found) == ["untrained", "fresh head", "shuffled labels"]
    name = "Mixed_6e.branch1x1.conv.weight"
    assert torch.equal(found["fresh head"].state_dict()[name], state[name])
    assert not torch.equal(found["fresh head"].state_dict()["fc.weight"], state["fc.weight"])
    assert not torch.equal(found["untrained"].state_dict()[name], state[name])
    assert found["untrained"].mean == model.mean and found["untrained"].std == model.std


@pytest.mark.parametrize("padding", SPGPlain.paddings)
def test_the_untrained_network_pads_as_the_trained_one(padding: str) -> None:
    assert controls.untrained(spg_plain(3, width=1 / 16, padding=padding), None, 1).padding == padding
