"""Three seeds: their summary by hand, effects image by image, signs, and the page from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sets import Toy

from dgl_lib import paths, seeds, study
from dgl_lib.evaluate.scores import Maps, Scores, raw_maps
from dgl_lib.models import load_checkpoint, save_checkpoint, spg_plain

NAMES = ["cam", "pixel_selection", "enhanced_map", "dgl"]
LAYERS = ["Mixed_6d", "Mixed_6e", "add1"]


def test_spread_by_hand() -> None:
    assert seeds.spread([40.0, 43.0, 46.0]) == {"mean": 43.0, "min": 40.0, "max": 46.0, "sd": 3.0, "seeds": 3}
    assert np.isnan(seeds.spread([1.0])["sd"])


def test_summary_of_three_seeds_by_hand() -> None:
    rows = []
    for seed, (early, late) in enumerate([(30.0, 36.0), (33.0, 39.0), (36.0, 42.0)]):
        better = "add1" if seed < 2 else "Mixed_6e"  # by validation, whatever the test says
        rows += [
            {"seed": seed, "method": "dgl", "layer": "Mixed_6e", "val_iou": 50.0 + (better != "add1"), "iou": early},
            {"seed": seed, "method": "dgl", "layer": "add1", "val_iou": 50.0 + (better == "add1"), "iou": late},
            {"seed": seed, "method": "cam", "layer": "add1", "val_iou": 1.0, "iou": 20.0 + seed},
            {"seed": seed, "method": "whole_image", "layer": "", "val_iou": 1.0, "iou": 10.0},
        ]
    table = pd.DataFrame(rows).sample(frac=1, random_state=0)  # no order of rows is relied on
    found = seeds.summarise(table, "Mixed_6e").set_index(["method", "at"])
    assert found.loc[("dgl", "fixed")].tolist() == ["Mixed_6e, Mixed_6e, Mixed_6e", 33.0, 30.0, 36.0, 3.0, 3]
    assert found.loc[("dgl", "chosen"), "layers"] == "add1, add1, Mixed_6e"
    assert found.loc[("dgl", "chosen"), ["mean", "min", "max"]].tolist() == [37.0, 36.0, 39.0]  # 36, 39, 36
    assert found.loc[("dgl", "chosen"), "sd"] == pytest.approx(np.sqrt(3))
    assert found.loc[("cam", "fixed")].tolist() == ["add1, add1, add1", 21.0, 20.0, 22.0, 1.0, 3]
    assert found.loc[("whole_image", "fixed"), ["mean", "sd"]].tolist() == [10.0, 0.0]


def scores(iou: dict[tuple[str, str], list[int]]) -> Scores:
    """Scores whose rows have these IoUs, percent, image by image: of 100 object pixels so many at level 255."""
    rows = [{"method": m, "layer": layer, "scales": "1", "kernel": 0.0} for m, layer in iou]
    hist = np.zeros((len(rows), 2, 4, 256), np.int32)
    for i, values in enumerate(iou.values()):
        for k, value in enumerate(values):
            hist[i, k, 1, 255], hist[i, k, 1, 0] = value, 100 - value
            hist[i, k, 0, 0] = 10_000  # so much background that threshold 0 is never the best
    return Scores(pd.DataFrame(rows), hist, ["0", "1"], np.array([0, 1]), np.zeros(2, bool))


def test_effects_by_hand() -> None:
    of = scores(
        {
            ("cam", "add1"): [30, 40],
            ("dgl", "Mixed_6d"): [90, 90],
            ("dgl", "Mixed_6e"): [50, 30],
            ("dgl", "add1"): [90, 90],
            ("pixel_selection", "Mixed_6d"): [10, 20],
            ("pixel_selection", "Mixed_6e"): [20, 40],
            ("pixel_selection", "add1"): [90, 90],
            ("enhanced_map", "Mixed_6e"): [45, 45],
            ("whole_image", ""): [12, 14],
            ("centred_gaussian", ""): [21, 25],
        }
    )
    found = seeds.effects(of, of, "Mixed_6e", LAYERS)  # no telling part is known: nothing of C2
    assert list(found) == list(seeds.EFFECTS)[2:]
    expected = [[20, -10], [15 - 21, 30 - 25], [30, -10], [5, -15]]  # the last layer is in no mean
    np.testing.assert_allclose(list(found.values()), expected)


def test_signs_verdicts_and_intervals() -> None:
    c5, c4, over_selection, over_enhanced = list(seeds.EFFECTS)[2:]
    per_seed = {
        seed: {
            c5: np.array([2.0, 2.0]),
            c4: np.array([-3.0, -3.0]),
            over_selection: np.full(2, [1.0, -1.0, 1.0][seed]),
            over_enhanced: np.array([seed + 1.0, -seed - 1.0]),
        }
        for seed in range(3)
    }
    table = seeds.effects_table(per_seed).set_index(["effect", "seed"])
    assert table.loc[(c5, 1), ["mean", "low", "high", "n", "verdict"]].tolist() == [2, 2, 2, 2, "reproduced"]
    assert table.loc[(c4, 2), "verdict"] == "not reproduced" and table.loc[(c4, 2), "claim"] == "C4"
    assert table.loc[(over_enhanced, 0), "verdict"] == "undecided"
    over = seeds.effects_spread(per_seed).set_index("effect")
    assert over["same_sign"].to_dict() == {c5: True, c4: True, over_selection: False, over_enhanced: False}
    row = over.loc[over_selection]
    assert row[["mean", "min", "max", "seeds", "low", "high"]].tolist() == pytest.approx(
        [1 / 3, -1, 1, 3, 1 / 3, 1 / 3]
    )


def test_c2_needs_the_rest_found_and_the_precision_kept() -> None:
    """80 pixels are the rest of the object, 20 its telling part; plain features find 20 of the rest, enhanced 40."""
    rows = [("features", 20, 0), ("enhanced_map", 40, 10), *((m, 50, 0) for m in ("dgl", "pixel_selection"))]
    hist = np.zeros((len(rows) + 3, 30, 4, 256), np.int32)
    hist[:, :, 0, 0] = 10_000
    for i, (_, found, beside) in enumerate([*rows, *[("", 50, 0)] * 3]):
        hist[i, :, 1, 255], hist[i, :, 1, 0] = found, 80 - found
        hist[i, :, 2, 255], hist[i, :, 0, 255] = 20, beside
    names = [(m, "Mixed_6e") for m, *_ in rows] + [("cam", "add1"), ("whole_image", ""), ("centred_gaussian", "")]
    table = pd.DataFrame(names, columns=["method", "layer"]).assign(scales="1", kernel=0.0)
    of = Scores(table, hist, [str(i) for i in range(30)], np.zeros(30, np.int64), np.ones(30, bool))
    found = seeds.effects(of, of, "Mixed_6e", ["Mixed_6e", "add1"])
    assert list(found) == list(seeds.EFFECTS)
    np.testing.assert_allclose(found[seeds.REST], 25)  # 40 / 80 against 20 / 80
    np.testing.assert_allclose(found[seeds.PRECISION], 100 * (60 / 70 - 1))
    verdicts = seeds.effects_table({0: found}).set_index("effect")["verdict"]
    assert verdicts[[seeds.REST, seeds.PRECISION]].tolist() == ["not reproduced", "lost"]
    kept = found | {seeds.PRECISION: np.zeros(30)}
    verdicts = seeds.effects_table({0: kept}).set_index("effect")["verdict"]
    assert verdicts[[seeds.REST, seeds.PRECISION]].tolist() == ["reproduced", "kept"]
    [note] = seeds.parts_note(seeds.effects_table({0: kept}))
    assert note.startswith("C2's are those of 30 images whose telling part is known")
    over = dict.fromkeys(list(seeds.EFFECTS)[2:], np.full(30, 4.0))
    two = {0: found | over, 1: kept | over | {"DGL minus enhanced map": np.full(30, 0.2)}}
    assert seeds.verdicts(seeds.effects_table(two)) == (
        "Of the claims checked with 2 training seeds, the verdict stays the same for C4 (reproduced), C5 (reproduced); "
        "another training changes it for C2 (seed 0: not reproduced, seed 1: reproduced), "
        "C8 (seed 0: reproduced, seed 1: not reproduced)."
    )


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(parameters: dict, progress: bool = False) -> Path:
        trained.append((parameters["seed"], parameters.get("labels", "given")))
        torch.manual_seed(parameters["seed"])
        path = tmp_path / f"{parameters['seed']}.safetensors"
        save_checkpoint(spg_plain(3, width=1 / 16), path)
        return path

    def every_map(parameters: dict, split: str, progress: bool = False) -> Maps:
        model = load_checkpoint(tmp_path / parameters["checkpoint"])
        return raw_maps(model, Toy(split, 6), layers=LAYERS, methods=NAMES, size=32, device="cpu")

    monkeypatch.setattr(study, "train_classifier", train)
    monkeypatch.setattr(study, "every_map", every_map)
    monkeypatch.setattr(study, "part", lambda parameters, split: Toy(split, 6))
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    (page := tmp_path / "page").mkdir()
    parameters = {"data": "creatures", "layer": "Mixed_6e", "layers": LAYERS, "seed": 4, "checkpoint": "trained"}
    seeds.make(parameters, page)
    assert trained == [(4, "given"), (5, "given"), (6, "given"), (4, "shuffled")]
    table = pd.read_csv(page / "seeds.csv", keep_default_na=False)
    assert set(table["seed"]) == {4, 5, 6} and set(table["method"]) == {*NAMES, "whole_image", "centred_gaussian"}
    dgl = table[(table["method"] == "dgl") & (table["layer"] == "Mixed_6e")]["iou"]
    assert dgl.nunique() == 3  # each from its own network
    summary = pd.read_csv(page / "summary.csv", keep_default_na=False).set_index(["method", "at"])
    assert summary.loc[("dgl", "fixed"), "mean"] == pytest.approx(dgl.mean()) and (summary["seeds"] == 3).all()
    spread = pd.read_csv(page / "effects_spread.csv")
    text = (page / "README.md").read_text()
    assert text.startswith(f"# 3 training seeds: {spread['same_sign'].sum()} of 4 effects have the same sign in all\n")
    assert "Data: creatures, 6 test images." in text and "C2" not in text  # no telling part is known
    by_seed = pd.read_csv(page / "effects.csv")
    parts = by_seed[by_seed["claim"] == "C5"].assign(claim="C2", effect=seeds.REST, n=3)  # known of three others
    with_parts = seeds.page(table, summary.reset_index(), pd.concat([parts, by_seed]), spread, parameters)
    assert "Data: creatures, 6 test images." in with_parts and "C2's are those of 3 images" in with_parts
    assert (page / "seeds.png").is_file() and str(tmp_path) not in text
