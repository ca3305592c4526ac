"""Fused maps and the search among them, on made-up maps with closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sets import Toy

from dgl_lib.evaluate import Maps, fusions, score
from dgl_lib.evaluate.fusions import FUSED, Split, candidates, search_fusions, with_fusions
from dgl_lib.files import write_table
from dgl_lib.models import SPGPlain, spg_plain
from dgl_lib.study import paths, steps, tables
from dgl_lib.study.profile import Profile

LAYERS = ("a", "b", "c", "d")


def maps_of(**maps: Any) -> Maps:
    made = {tuple(name.split("_", 1)): np.asarray(m, np.float32) for name, m in maps.items()}
    count = len(next(iter(made.values())))
    return Maps(made, np.zeros((count, 3)), np.zeros(count, np.int64))  # type: ignore[arg-type]


def fused(how: str, *maps: Any) -> np.ndarray:
    of = {f"{'xyz'[k]}_a": m for k, m in enumerate(maps)}
    pair = (how, " + ".join(name.replace("_", " ") for name in of))
    return with_fusions(maps_of(**of), [pair]).maps[pair]


def test_every_try_is_two_maps_or_three_layers_of_one_method() -> None:
    every = candidates(LAYERS)
    count = len(FUSED) * len(LAYERS) - 1
    assert len(every) == len(set(every)) == 2 * (count * (count - 1) // 2 + len(FUSED) * 4)
    assert ("product", "pixel_selection a + features_norm d") in every and ("mean", "dgl b + dgl c + dgl d") in every
    assert not any("grad_cam_signed d" in what and what.count("+") == 1 for _, what in every)  # pixel_selection there
    assert candidates(LAYERS[:1])[0] == ("mean", "pixel_selection a + dgl a")


def test_the_mean_keeps_signs_and_scale_does_not_count() -> None:
    one, other = [[[3.0, -4.0]]], [[[0.0, 2.0]]]  # n: 0.6, -0.8 and 0, 1
    np.testing.assert_allclose(fused("mean", one, other), [[[0.3, 0.1]]], rtol=1e-6)
    np.testing.assert_allclose(fused("mean", np.multiply(one, 1e6), other), [[[0.3, 0.1]]], rtol=1e-6)


def test_the_product_is_the_geometric_mean_of_positive_parts() -> None:
    one, other = [[[3.0, -4.0, 0.0]], [[1.0, 0.0, 0.0]]], [[[2.0, -1.0, 2.0]], [[-1.0, -1.0, -1.0]]]
    expected = [[[np.sqrt(0.6 * 2 / 3), 0, 0]], [[0, 0, 0]]]  # both negative is not positive
    np.testing.assert_allclose(fused("product", one, other), expected, rtol=1e-6)
    three = fused("product", *[[[[3.0, 4.0]]]] * 3)
    np.testing.assert_allclose(three, [[[0.6, 0.8]]], rtol=1e-6)  # of equal maps it is that map


def test_maps_of_two_sizes_meet_at_the_larger_and_single_ones_stay() -> None:
    small, large = np.ones((2, 1, 2)), np.ones((2, 3, 4))
    assert fused("mean", small, large).shape == (2, 3, 4)
    maps = maps_of(x_a=small, y_b=-large)
    assert with_fusions(maps, [("y", "b")]).maps["y", "b"] is maps.maps["y", "b"]


# What the search should find: "where" knows the objects and no class, "who" a few cells of the asked class.


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> tuple[Split, Split]:
    monkeypatch.setattr(fusions, "FUSED", ("where", "who"))
    random = np.random.default_rng(0)

    def split(part: str) -> Split:
        images = Toy(part, 12)
        masks = np.stack([images[i].mask for i in range(12)]).astype(float)
        noise = random.random((2, *masks.shape)) * 0.2
        shown = maps_of(where_a=masks + noise[0], who_a=masks + 1.5 * noise[1] - 0.1)
        cell = np.arange(8)[:, None, None] % 4 == np.kron([[0, 1], [2, 3]], np.ones((2, 2), int))  # 8 x 4 x 4
        where = np.kron(np.ones((2, 2)), [[1, 0], [0, 0]]) + 0.1 * random.random((8, 4, 4))
        who = cell + random.random((8, 4, 4)) - 0.5
        scores = score(images, {1.0: shown})
        return images, shown, scores, maps_of(where_a=where, who_a=who)

    return split("val"), split("test")


def test_the_rule_takes_the_fusion_whose_smaller_gain_is_largest(splits: tuple[Split, Split]) -> None:
    table = search_fusions(*splits, candidates(["a"]))
    assert table["method"].tolist() == ["where", "who", "mean", "product"]
    single = table[:2]
    for of in ("iou", "share"):  # the best single map gains nothing on itself, the other one loses
        assert single[f"{of}_gain"].max() == single[f"{of}_errors"].max() == 0
        np.testing.assert_allclose(table[f"{of}_gain"], table[f"val_{of}"] - single[f"val_{of}"].max(), atol=1e-9)
        assert (table.loc[table["role"] != "", f"test_{of}"] > 0).all()
    smaller = table[2:][["iou_errors", "share_errors"]].min(axis=1)
    assert table["role"].str.contains("chosen").idxmax() == smaller.idxmax()


def test_gains_are_paired_and_test_numbers_are_the_tests(splits: tuple[Split, Split]) -> None:
    val, test = splits
    pair = ("product", "where a + who a")
    table = search_fusions(val, test, [pair]).set_index("method")
    assert len(table) == 3 and table.loc["product", "role"] == "chosen"
    both = [score(images, {1.0: with_fusions(maps, [pair])}) for images, maps, *_ in splits]
    one = fusions._iou(*both, [pair])[pair]
    best = table["role"].str.contains("best iou").idxmax()
    other = fusions._iou(val[2], test[2], [(best, "a")])[best, "a"]
    assert table.loc["product", "test_iou"] == pytest.approx(one.mean())
    assert table.loc[best, "iou_over"] == pytest.approx((one - other).mean())
    assert table.loc[best, "iou_over_low"] <= table.loc[best, "iou_over"] <= table.loc[best, "iou_over_high"]
    assert np.isnan(table.loc["product", "iou_over"]) and "test_difference" not in table
    shares = fusions._share(test[3], [pair])[pair]
    assert len(shares) == 2 and table.loc["product", "test_share"] == pytest.approx(shares.mean())


def test_pairs_are_measured_on_the_same_maps(splits: tuple[Split, Split]) -> None:
    seen = []

    def pairs(change: Any) -> pd.DataFrame:
        seen.extend(change(splits[1][1]).maps)
        rows = [(*pair, picture, 10.0 * k) for k, pair in enumerate(seen) for picture in (0, 0, 1, 1)]
        return pd.DataFrame(rows, columns=["method", "layer", "picture", "difference"])

    table = search_fusions(*splits, candidates(["a"]), pairs=pairs)
    found = table[table["role"] != ""].set_index(["method", "layer"])
    assert found["test_difference"].to_dict() == {pair: 10.0 * k for k, pair in enumerate(seen)}


# The study's table, of a network with two layers that is said to be right about every image.


class Four(Toy):
    classes = ("a", "b", "c", "d")  # type: ignore[assignment]

    def __init__(self, split: str, count: int):
        super().__init__(split, count)
        self.labels = np.arange(count, dtype=np.int64) % 4


@pytest.mark.parametrize(("published", "rows"), [(None, 0), ("dgl add1 + layer_cam Mixed_6e", 1), ("dgl here", 0)])
def test_the_creatures_are_searched_and_other_data_take_what_they_chose(
    published: str | None, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(SPGPlain, "layers", (SPGPlain.layers[7], SPGPlain.layers[-1]))  # Mixed_6e and add1
    model = spg_plain(4, width=1 / 16).eval()
    parts = {"val": Four("val", 8), "test": Four("test", 12)}
    monkeypatch.setattr(steps, "classifier", lambda *given: model)
    monkeypatch.setattr(steps, "part", lambda name, split, *given: parts[split])
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    monkeypatch.setattr(tables, "Pairs", lambda split: Four(split, 4))
    it = tables.Measured(Profile(image_size=32, device="cpu", data="pets" if published else "creatures"), False)
    it.maps, it.val_maps = (replace(m, logits=np.eye(4, dtype=np.float32)[m.classes]) for m in (it.maps, it.val_maps))
    if published:
        assert tables._fusions(it) is None  # nothing is published yet
        chosen = pd.DataFrame({"method": ["dgl", "mean"], "layer": ["add1", published], "role": ["", "chosen"]})
        write_table(tmp_path / "results" / "creatures" / "05_fusions.csv", chosen)
    found = tables._fusions(it)
    tries = None if found is None else found[found["method"].isin(fusions.WAYS)]
    if published:
        assert (tries is not None) == bool(rows)
        if tries is not None:
            assert tries[["layer", "role"]].to_numpy().tolist() == [[published, "chosen"]]
            assert "test_difference" not in found
    else:
        assert tries is not None and len(tries) == len(candidates(["Mixed_6e", "add1"]))
        assert found.loc[found["role"] != "", "test_difference"].notna().all()
