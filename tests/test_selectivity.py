"""Whose pixels a map shows: mosaics, two creatures in one picture, pieces taken out; closed forms and made-up data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sets import Toy
from torch import Tensor, nn

from dgl_lib.data import Record, Subset
from dgl_lib.data.images import squash
from dgl_lib.data.mosaic import Mosaic
from dgl_lib.errors import UserError
from dgl_lib.evaluate import BASELINES, Maps, raw_maps, selectivity
from dgl_lib.evaluate.controls import spearman
from dgl_lib.localize import CONTROLS, METHODS
from dgl_lib.metrics.selectivity import cell_share, gap, piece_shares, rank_products
from dgl_lib.models import SPGPlain, spg_plain
from dgl_lib.study import paths, steps, tables
from dgl_lib.study.profile import Profile

ROWS = 2 * (len(METHODS) + len(CONTROLS) - 1) + 1  # two layers, CAM on one of them


class Five(Toy):
    """The toy with five classes."""

    classes = ("a", "b", "c", "d", "e")  # type: ignore[assignment]

    def __init__(self, split: str, count: int):
        super().__init__(split, count)
        self.labels = np.arange(count, dtype=np.int64) % 5


class Two(Five):
    """Two boxes in each picture, 1 + picture / 2 columns apart, asked for in turn."""

    def image(self, index: int) -> np.ndarray:
        return super().image(index // 2)

    def __getitem__(self, index: int) -> Record:
        mask, between = np.zeros((32, 40), bool), 1 + index // 4
        columns = slice(4, 14) if index % 2 == 0 else slice(14 + between, 34)
        mask[6:20, columns] = True
        return replace(super().__getitem__(index), mask=mask)


class Taken(Five):
    """Three stripes: without one of them, its pixels are black."""

    def pieces(self, index: int) -> dict[str, np.ndarray]:
        found = {}
        for k, name in enumerate(("part", "body", "scenery")):
            found[name] = np.zeros((32, 40), bool)
            found[name][:, (0, 5, 15)[k] : (5, 15, 40)[k]] = True
        return found

    def without(self, index: int, piece: str) -> np.ndarray:
        return np.where(self.pieces(index)[piece][:, :, None], np.uint8(0), self.image(index))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> SPGPlain:
    torch.manual_seed(0)
    monkeypatch.setattr(SPGPlain, "layers", (SPGPlain.layers[7], SPGPlain.layers[-1]))  # Mixed_6e and add1
    return spg_plain(5, width=1 / 16).eval()


# --------------------------------------------------------------------------------------- the share of a mosaic's cell


def test_cell_share_by_hand() -> None:
    m = np.array([[1, 2, 0, -9], [1, 0, 3, 1], [-4, -4, 0, 2], [0, 0, 6, 0]], np.float32)  # cells 4, 4, 0, 8 of 16
    np.testing.assert_allclose(cell_share(np.stack([m] * 4), np.arange(4)), [0.25, 0.25, 0, 0.5])


def test_an_odd_middle_counts_half_to_each_side() -> None:
    m = np.zeros((4, 3, 5))
    m[:, 1, 2] = 8  # the very middle
    m[:, 0, 2] = 4  # the middle column, above
    np.testing.assert_allclose(cell_share(m, np.arange(4)), [4 / 12, 4 / 12, 2 / 12, 2 / 12])


def test_a_map_without_a_positive_value_is_at_chance() -> None:
    assert cell_share(np.full((2, 4, 4), -1.0), np.array([0, 3])).tolist() == [0.25, 0.25]
    with pytest.raises(UserError, match="1 of 16 values are NaN or infinite"):
        cell_share(np.where(np.arange(16) == 3, np.nan, 1.0).reshape(1, 4, 4), np.array([0]))


@given(arrays(np.float64, (1, 5, 6), elements=st.floats(-3, 9)), st.floats(0.1, 50))
def test_cell_shares_sum_to_one_and_follow_mirrors_not_scale(m: np.ndarray, gain: float) -> None:
    shares = cell_share(m.repeat(4, 0), np.arange(4))
    assert shares.sum() == pytest.approx(1) and (shares >= 0).all()
    np.testing.assert_allclose(cell_share(gain * m.repeat(4, 0), np.arange(4)), shares, atol=1e-9)
    np.testing.assert_allclose(cell_share(m.repeat(4, 0)[:, :, ::-1], np.array([1, 0, 3, 2])), shares, atol=1e-9)


# ------------------------------------------------------------------------------------------------------ the mosaics


def test_a_mosaic_is_what_the_network_sees_of_each_image() -> None:
    data = Five("test", 10)
    mosaic = Mosaic(data, [[0, 1, 2, 3], [9, 5, 6, 7]], 24)
    assert len(mosaic) == 8 and mosaic.labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert len(set(mosaic.names)) == 8
    for item, (y, x) in enumerate([(0, 0), (0, 24), (24, 0), (24, 24)]):
        record, cell = mosaic[4 + item], (slice(y, y + 24), slice(x, x + 24))
        assert record.image.shape == (48, 48, 3) and record.image.dtype == np.uint8
        assert np.array_equal(record.image[cell], squash(data.image([9, 5, 6, 7][item]), 24))
        assert record.mask is not None and record.mask[cell].all() and record.mask.sum() == 24 * 24
        assert record.boxes.tolist() == [[x, y, x + 23, y + 23]] and record.label == mosaic.labels[4 + item]
    assert np.array_equal(Mosaic(data, [[0, 1, 2, 3]], 60).image(0)[60:, :60], squash(data.image(2), 60))  # enlarged
    with pytest.raises(IndexError):
        mosaic.image(8)


def test_the_digest_tells_mosaics_apart() -> None:
    data = Five("test", 10)
    groups, other = [[0, 1, 2, 3]], [[0, 1, 3, 2]]
    made = [
        Mosaic(data, groups, 24),
        Mosaic(data, other, 24),
        Mosaic(data, groups, 32),
        Mosaic(Five("val", 10), groups, 24),
    ]
    assert len({mosaic.digest for mosaic in made}) == 4
    assert Mosaic(data, groups, 24).digest == made[0].digest


@pytest.mark.parametrize("group", [[0, 1, 2], [0, 1, 2, 5], [0, 1, 2, 3, 4]])
def test_a_mosaic_needs_four_classes(group: list[int]) -> None:
    with pytest.raises(UserError, match=r"mosaic 0: .* four of different classes needed"):
        Mosaic(Five("test", 10), [group], 24)


def confident(sure: dict[int, float], labels: list[int], classes: int = 5) -> Maps:
    """Logits with this margin for the labels of some images, and for another class on the rest."""
    logits = np.zeros((len(labels), classes), np.float32)
    for i, label in enumerate(labels):
        logits[i, label if i in sure else (label + 1) % classes] = sure.get(i, 1.0)
    return Maps({}, logits, np.array(labels))


def test_sure_groups_by_hand() -> None:
    """Class 0 has three sure images, the others two; image 10, wrongly predicted, is in no group."""
    labels = [0, 1, 2, 3, 0, 1, 2, 3, 0, 4, 4]
    maps = confident({0: 1, 1: 2, 2: 3, 3: 4, 4: 9, 5: 8, 6: 7, 7: 6, 8: 5, 9: 30}, labels)
    # Class 0 leads with the most; of 1, 2, 3 the surer. In the second, class 0 still has the most, then classes 4, ...
    assert selectivity.sure_groups(maps, np.array(labels), 9) == [[4, 5, 6, 7], [8, 9, 3, 2]]
    assert selectivity.sure_groups(maps, np.array(labels), 1) == [[4, 5, 6, 7]]
    three = confident({0: 1.0, 1: 1.0, 2: 1.0}, labels)
    assert selectivity.sure_groups(three, np.array(labels), 9) == []


@given(st.lists(st.integers(0, 6), min_size=5, max_size=5))
def test_sure_groups_are_as_many_as_can_be(counts: list[int]) -> None:
    """The most groups of four different classes: the largest g with sum of min(count, g) >= 4 g."""
    labels = np.repeat(np.arange(5), counts)
    margins = np.random.default_rng(0).uniform(1, 9, len(labels))
    maps = confident(dict(enumerate(margins.tolist())), labels.tolist())
    groups = selectivity.sure_groups(maps, labels, 99)
    assert len(groups) == max(g for g in range(9) if np.minimum(counts, g).sum() >= 4 * g)
    used = [i for group in groups for i in group]
    assert len(used) == len(set(used)) and all(len(set(labels[group])) == 4 for group in groups)
    for label in range(5):  # of each class the surest
        own, taken = np.flatnonzero(labels == label), [i for i in used if labels[i] == label]
        assert taken == own[np.argsort(-margins[own])][: len(taken)].tolist()


def test_shares_over_trainings_by_hand() -> None:
    """Two trainings of two mosaics, each asked twice: means of pictures first, then of trainings, 10 points apart."""
    one = {"picture": [0, 0, 1, 1], "class": ["a", "b"] * 2, "method": ["dgl"] * 4, "layer": ["add1"] * 4}
    trainings = [pd.DataFrame({**one, "share": np.array([0.0, 2.0, 4.0, 6.0]) + more}) for more in (20, 30)]
    [row] = selectivity.over_trainings(trainings).to_dict("records")
    assert (row["method"], row["layer"], row["mean"], row["images"]) == ("dgl", "add1", 28, 2)
    assert (row["lowest"], row["highest"]) == (23, 33)
    assert 21 <= row["low"] < 28 < row["high"] <= 35  # the pictures' means lie at 21, 25, 31 and 35


def test_the_pointing_game_of_any_network(model: SPGPlain, tmp_path: Path) -> None:
    mosaic = Mosaic(Five("test", 10), [[0, 1, 2, 3], [9, 5, 6, 7]], 24)
    what: dict = {"layers": ["Mixed_6e", "add1"], "methods": [*METHODS, *CONTROLS], "size": 48, "device": "cpu"}
    maps = raw_maps(model, mosaic, folder=tmp_path, **what)
    assert maps.classes.tolist() == mosaic.labels.tolist() and maps.maps["dgl", "Mixed_6e"].shape == (8, 6, 6)
    values = selectivity.pointing(mosaic, maps)
    assert list(values) == ["picture", "class", "method", "layer", "share"] and len(values) == 8 * ROWS
    assert values["share"].between(0, 100).all()
    features = values[values["method"] == "features"].groupby(["picture", "layer"])["share"].mean()
    np.testing.assert_allclose(features, 25)  # they know no class
    table = selectivity.summary(values, "share")
    assert list(table) == ["method", "layer", "mean", "low", "high", "images"] and len(table) == ROWS
    assert table["images"].eq(2).all()
    own = values[(values["method"] == "dgl") & (values["layer"] == "add1")]["share"]
    assert table.set_index(["method", "layer"]).loc[("dgl", "add1"), "mean"] == pytest.approx(own.mean())


def made_up(shares: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    """Two mosaics, each asked for two classes: four shares for each method and layer."""
    rows = [(k // 2, of, at, share) for (of, at), four in shares.items() for k, share in enumerate(four)]
    return pd.DataFrame(rows, columns=["picture", "method", "layer", "share"])


def test_selectivity_gain_by_hand() -> None:
    values = made_up({
        ("cam", "add1"): [90, 90, 90, 90],
        ("pixel_selection", "add1"): [0, 0, 0, 0],
        ("pixel_selection", "add2"): [50, 60, 40, 20],
        ("pixel_selection", "Mixed_6e"): [30, 20, 40, 60],
        ("grad_cam_signed", "add1"): [99, 99, 99, 99],
        ("grad_cam_signed", "add2"): [25, 25, 50, 50],
        ("grad_cam_signed", "Mixed_6e"): [10, 20, 30, 10],
    })  # fmt: skip
    every = ["Mixed_6e", "add2", "add1"]
    np.testing.assert_allclose(selectivity.selectivity_gain(values, every), [40 - 20, 40 - 35])
    np.testing.assert_allclose(selectivity.selectivity_gain(values, ["add2", "add1"]), [55 - 25, 30 - 50])
    with pytest.raises(UserError, match="layers: add1 given, at least one before"):
        selectivity.selectivity_gain(values, ["add1"])


# ------------------------------------------------------------------------------------------ two creatures in a picture


def test_gap_by_hand() -> None:
    a, b = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    a[0:3, 0:3] = b[6, 5] = True
    assert gap(a, b) == gap(b, a) == pytest.approx(5)  # from (2, 2) to (6, 5)
    b[2, 3] = True
    assert gap(a, b) == pytest.approx(1)
    assert gap(a, a) == 0
    assert gap(np.uint8(255) * a, np.uint8(1) * b) == gap(a, b)  # whole numbers are masks too
    with pytest.raises(UserError, match="a mask without a pixel"):
        gap(a, np.zeros_like(a))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_rank_products_average_to_spearman(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, float).T
    expected = np.nan_to_num(spearman(a[None, None], b[None, None]))  # 0 where one is flat
    assert rank_products(a, b).mean() == pytest.approx(expected[0], abs=1e-9)


def test_two_creatures_are_told_apart_by_maps_that_know_the_class(
    model: SPGPlain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map of the asked creature's mask is all right, the one of the even creature's mask knows no class."""
    val, test = Two("val", 6), Two("test", 12)

    def known(network: nn.Module, data: Any, **options: Any) -> Maps:
        masks = np.stack([data[i].mask for i in range(len(data))]).astype(np.float32)
        maps = {("knows", "a"): masks, ("ignores", "a"): masks[np.arange(len(data)) // 2 * 2]}
        return Maps(maps, np.zeros((len(data), 5)), data.labels)

    monkeypatch.setattr(selectivity, "every_map", known)
    values = selectivity.two_creatures(model, val, test, kept={"folder": None, "progress": False}, size=32)
    table = selectivity.pairs_table(values).set_index("method")
    columns = ["layer", "mean", "low", "high", "images", "asked", "other"]
    assert list(table) == [*columns, "correlation", "correlation_low", "correlation_high"]
    assert table.loc["knows", ["mean", "asked", "other", "images"]].tolist() == [100, 100, 0, 6]
    assert (table.loc[["ignores", *BASELINES], ["mean", "low", "high", "correlation"]] == 0).all(axis=None)
    assert values.groupby("picture")["gap"].first().tolist() == [2, 2, 3, 3, 4, 4]  # 1 + the columns between
    near = selectivity.gap_table(values).set_index(["method", "third"]).loc[("knows", "near")]
    assert near[["mean", "images", "gap_low", "gap_high"]].tolist() == [100, 2, 2, 2]


def test_it_falls_as_they_come_close() -> None:
    """Asked for either creature, the difference is the gap."""
    picture = np.repeat(np.arange(9), 2)
    both = {"asked": picture + 10.0, "other": 10.0, "difference": picture.astype(float), "gap": picture + 1.0}
    values = pd.DataFrame({"picture": picture, "method": "dgl", "layer": "a", **both})
    values["third"] = selectivity.THIRDS[picture // 3]
    [row] = selectivity.pairs_table(values).to_dict("records")
    assert row["correlation"] == pytest.approx(1) and row["mean"] == 4 and row["images"] == 9
    thirds = selectivity.gap_table(values).set_index("third")
    assert thirds["mean"].to_dict() == {"near": 1, "middle": 4, "far": 7}
    assert thirds.loc["far", ["gap_low", "gap_high"]].tolist() == [7, 9]


# ------------------------------------------------------------------------------------------------ pieces taken out


class Reads(nn.Module):
    """Logit 0 is the mean of columns 0 to 4, less half the mean of columns 5 to 14; the other is 0."""

    mean, std = (0.0,) * 3, (1.0,) * 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        one, other = images[..., :5].mean((1, 2, 3)), images[..., 5:15].mean((1, 2, 3))
        return torch.stack([one - other / 2, 0 * one], 1)


class White(Taken):
    """White squares of class 0."""

    def __init__(self) -> None:
        super().__init__("test", 3)
        self.labels = np.zeros(3, np.int64)

    def image(self, index: int) -> np.ndarray:
        return np.full((40, 40, 3), 255, np.uint8)

    def pieces(self, index: int) -> dict[str, np.ndarray]:
        return {name: mask[[0] * 40] for name, mask in super().pieces(index).items()}


def test_drops_of_a_network_that_reads_two_pieces() -> None:
    drops = selectivity.piece_drops(Reads(), White(), [0, 2], 40, "cpu")  # type: ignore[arg-type]
    assert list(drops) == ["picture", "piece", "logit", "p_c"]
    assert drops["picture"].tolist() == ["test-0"] * 3 + ["test-2"] * 3
    assert drops["piece"].tolist() == ["part", "body", "scenery"] * 2
    np.testing.assert_allclose(drops["logit"], [1, -0.5, 0] * 2, atol=1e-6)
    p = 1 / (1 + np.exp(-np.array([0.5, -0.5, 1.0, 0.5])))
    np.testing.assert_allclose(drops["p_c"], np.tile(p[0] - p[1:], 2), atol=1e-6)


def test_piece_shares_by_hand() -> None:
    pieces = np.zeros((2, 4, 4), bool)
    pieces[0, :2], pieces[1, :, 3] = True, True
    m = np.array([[[1, 3], [0, -8]], [[0, 0], [-1, 0]]], np.float32)
    even = piece_shares(m.repeat(4, 1).repeat(4, 2)[:, ::2, ::2], pieces)  # its own size is the picture's
    np.testing.assert_allclose(even, [[1, 3 / 8], [0, 0]])
    noise = np.random.default_rng(0).random((1, 3, 3), np.float32) / 9  # sums stay below 1, and are taken in float64
    np.testing.assert_array_equal(piece_shares(noise, pieces), piece_shares(noise.astype(np.float64), pieces))
    assert piece_shares(noise / 99, pieces).sum() > 0
    whole = np.stack([np.ones((3, 3), bool), np.eye(3, dtype=bool)])
    np.testing.assert_allclose(piece_shares(np.ones((1, 1, 1), np.float32), whole), [[1, 1 / 3]])  # resized


def test_correlation_with_the_drops() -> None:
    data = White()
    drops = selectivity.piece_drops(Reads(), data, [0, 2], 40, "cpu")  # type: ignore[arg-type]
    right, wrong = np.zeros((2, 40, 40), np.float32), np.zeros((2, 40, 40), np.float32)
    right[:, :, :5], right[:, :, 20] = 9, 1  # part, then scenery, nothing in the body
    wrong[:, :, 5:15], wrong[:, :, 20] = 9, 1
    maps = Maps(
        {("right", "a"): right, ("wrong", "a"): wrong, ("empty", "a"): -right}, np.zeros((2, 5)), data.labels[:2]
    )
    found = selectivity.piece_correlation(data, [0, 2], maps, drops)
    by = found.groupby("method")["correlation"].mean()
    assert by.loc[["right", "wrong", "empty"]].tolist() == pytest.approx([1, -1, 0])
    assert by["whole_image"] == pytest.approx(-0.5)  # shares 1/8, 2/8, 5/8 against drops of rank 3, 1, 2
    table = selectivity.summary(found, "correlation")
    assert len(table) == 3 + len(BASELINES) and table["images"].eq(2).all()


# ------------------------------------------------------------------------------------------------- the study's tables


def test_the_tables(model: SPGPlain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is said to be right about every image, on a toy in the creatures' place."""
    model.classes = Five.classes
    whole = Taken("test", 20)
    data: dict[str, Any] = {
        "val": Five("val", 10),
        "test": Subset(whole, [5 * k + label for label in range(5) for k in range(3)]),
    }
    monkeypatch.setattr(steps, "classifier", lambda *given: model)
    monkeypatch.setattr(steps, "part", lambda name, split, *given: data[split])
    monkeypatch.setattr(paths, "runs_folder", lambda: tmp_path / "runs")
    monkeypatch.setattr(tables, "Creatures", lambda split: whole)
    monkeypatch.setattr(tables, "Pairs", lambda split: Two(split, 8))
    monkeypatch.setattr(tables, "PIECED", 2)
    given: list[Any] = []  # to the correlation
    correlate = selectivity.piece_correlation
    monkeypatch.setattr(selectivity, "piece_correlation", lambda *them: given.extend(them) or correlate(*them))
    it = tables.Measured(Profile(image_size=32, device="cpu"), False)
    it.maps = replace(it.maps, logits=np.eye(5, dtype=np.float32)[data["test"].labels])
    tables.selectivity(it, tmp_path)
    found = {file.stem[3:]: pd.read_csv(file, keep_default_na=False) for file in tmp_path.glob("07_*.csv")}
    names = ["pairs", "pairs_by_gap", "piece_correlation", "pieces", "pointing", "pointing_images"]
    assert sorted(found) == names and (tmp_path / "07_mosaic.png").is_file()
    assert len(found["pointing"]) == ROWS and found["pointing"]["images"].eq(3).all()
    assert found["pointing_images"].shape == (3, 1 + ROWS)
    pointing = found["pointing"]
    means = found["pointing_images"][pointing["method"] + " " + pointing["layer"]].mean().to_numpy()
    np.testing.assert_allclose(means, pointing["mean"], rtol=1e-5)
    assert len(found["pairs"]) == ROWS + 2 and len(found["pairs_by_gap"]) == 3 * (ROWS + 2)
    assert list(found["pieces"]) == ["piece", "measure", "mean", "low", "high", "images"]
    assert len(found["pieces"]) == 6 and found["pieces"]["images"].eq(10).all()
    assert given[1] == list(range(10)) and given[2].classes.tolist() == [0, 1, 2, 3, 4] * 2  # two of each class
    sides = [json.loads(facts.read_text())["side"] for facts in (tmp_path / "runs").glob("maps-*/facts.json")]
    assert sorted(sides) == [32] * 4 + [64]  # both parts, both sets of pairs, and the mosaics
    assert len(found["piece_correlation"]) == ROWS + 2
    assert found["piece_correlation"]["mean"].between(-1, 1).all()


def test_without_four_sure_classes_there_is_no_mosaic(tmp_path: Path) -> None:
    labels = np.array([0, 1, 2])
    profile = Profile(data="pets")
    it: Any = SimpleNamespace(profile=profile, maps=confident({0: 1.0}, [0, 1, 2]), test=SimpleNamespace(labels=labels))
    tables.selectivity(it, tmp_path)
    assert not list(tmp_path.iterdir())
