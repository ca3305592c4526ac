"""The tables of notebooks 05, 06 and 08 on a toy with borders, telling parts and an image without an object."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sets import Bordered

from dgl_lib.data import Record
from dgl_lib.evaluate.boxes import SCORES
from dgl_lib.evaluate.effects import effect
from dgl_lib.evaluate.mistakes import MISTAKES
from dgl_lib.localize import CONTROLS, METHODS
from dgl_lib.models import NETWORKS, SPGPlain, spg_plain
from dgl_lib.study import claims, paths, steps, tables
from dgl_lib.study.profile import Profile

PROFILE = Profile(image_size=32, device="cpu", scales=[1.0, 2.0], kernels=[0.0, 0.1])
MAPS = 2 * (len(METHODS) + len(CONTROLS) - 1) + 1 + 2  # two layers, CAM on one of them, two baselines


class Parted(Bordered):
    """The left half of the object is its telling part, and the fifth image holds no object."""

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)
        mask = record.mask & (index != 4)
        return replace(record, mask=mask, part=mask & (np.arange(mask.shape[1]) < 13))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.manual_seed(0)
    monkeypatch.setattr(SPGPlain, "layers", (SPGPlain.layers[7], SPGPlain.layers[-1]))  # Mixed_6e and add1
    model = spg_plain(3, width=1 / 16).eval()
    parts = {"val": Parted("val", 6), "test": Parted("test", 14)}
    monkeypatch.setattr(steps, "classifier", lambda *given: model)
    monkeypatch.setattr(steps, "part", lambda data, split, *given: parts[split])
    monkeypatch.setattr(paths, "runs_folder", lambda: tmp_path / "runs")
    return tmp_path


def read(folder: Path, number: str) -> dict[str, pd.DataFrame]:
    files = sorted(folder.glob(f"{number}_*.csv"))
    return {file.stem[3:]: pd.read_csv(file, keep_default_na=False) for file in files}


@pytest.mark.filterwarnings("ignore:.*without an object left out")
def test_tables_of_every_method_on_every_layer(toy: Path) -> None:
    tables.comparison(PROFILE, toy, False)
    found = read(toy, "05")
    assert list(found) == ["gradient_share", "images", "padding", "parts", "scores"]
    assert len(found["scores"]) == MAPS and not found["scores"].duplicated(["method", "layer"]).any()
    images = found["images"]
    assert images.shape == (13, 5 + MAPS) and images["image"].tolist() == [f"test-{i}" for i in range(14) if i != 4]
    means = images.iloc[:, 5:].mean().to_numpy()
    np.testing.assert_allclose(means, found["scores"]["iou"], rtol=1e-5)
    assert found["parts"]["measure"].value_counts().to_dict() == dict.fromkeys(
        ["recall_rest", "recall_part", "precision", "gap"], len(METHODS) + len(CONTROLS) + 2
    )
    assert {path.name for path in toy.glob("*.png")} == {"05_maps_1.png", "05_maps_2.png", "05_worst.png"}


@pytest.mark.filterwarnings("ignore:.*without an object left out")
def test_tables_of_how_to_score(toy: Path) -> None:
    tables.scoring(PROFILE, toy, False)
    found = read(toy, "06")
    names = ["boxes", "curves", "mistakes", "normalisation", "percentiles", "sizes", "treatments"]
    assert list(found) == names
    rows = len(METHODS) + len(CONTROLS) + 2
    boxes = found["boxes"]
    assert len(boxes) == rows * len(SCORES) and (boxes["test_peak"] >= boxes["test"] - 1e-3).all()
    whole = boxes[boxes["method"] == "whole_image"].set_index("score")["test"]
    assert whole["MaxBoxAcc"] == whole["GT-known"] >= whole["Top-1"]
    assert len(found["sizes"]) == rows * 4 and len(found["curves"]) == rows * 256
    assert set(found["mistakes"]["mistake"]) == set(MISTAKES)
    treated = found["treatments"]
    assert treated["treatment"].value_counts().to_dict() == {
        name: 2 * len(SCORES) for name in ("", "none", "MS", "MS+MC")
    }
    assert (treated.loc[treated["treatment"].isin(["", "none"]), "over"] == 0).all()
    masks = treated[(treated["score"] == "mask IoU") & (treated["treatment"] == "none") & (treated["method"] == "cam")]
    own = boxes[(boxes["score"] == "mask IoU") & (boxes["method"] == "cam")]
    assert masks["test"].tolist() == own["test"].tolist()


@pytest.mark.filterwarnings("ignore:.*without an object left out")
def test_every_effect_of_one_network(toy: Path) -> None:
    profile = PROFILE.model_copy(update={"layers": ["Mixed_6e", "add1"], "layer": "Mixed_6e"})
    table = tables.every_effect(tables.Measured(profile, False))
    assert list(table) == ["claim", "detail", "effect", "image", "value"] and np.isfinite(table["value"]).all()
    counts = table.groupby(["claim", "detail", "effect"]).size()
    assert {f"C{k}" for k in range(1, 10)} == {*table["claim"]}
    assert (counts["C1"] == 14).all() and counts["C9"].tolist() == [1] and (counts["C6"] == 13).all()
    verdicts = claims.verdicts(table.assign(run="seed 0"))
    assert verdicts.set_index("claim")["verdict"][["C3", "C9"]].tolist() == ["holds", "holds"]
    assert set(verdicts["agree"]) == {0, 1}  # C10 is measured elsewhere


@pytest.mark.parametrize(("data", "seeds"), [("creatures", 5), ("pets", 3)])
def test_verdicts_rest_on_the_seeds_alone(data: str, seeds: int, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ["layer", "threshold", "val_iou", "iou", "low", "high"]
    one = pd.DataFrame({"method": ["dgl"]}).assign(**dict.fromkeys(columns, 1))

    class Toy:
        def __init__(self, seed: int = 3, network: str = "", **changes: object) -> None:
            self.table = self.chosen = self.images = self.test = self.maps = one
            self.accuracy = {"accuracy_val": 90.0, "accuracy_test": 80.0}
            self.mean = -50.0 if network else 1.0 + seed

    monkeypatch.setattr(tables, "_trained", lambda profile, progress, **changes: Toy(**changes))
    monkeypatch.setattr(tables, "every_effect", lambda it: effect("C5", "DGL minus CAM", np.full(20, it.mean)))
    monkeypatch.setattr(tables.evaluate, "gains", lambda *given: pd.DataFrame({"gain": [1]}))
    monkeypatch.setattr(tables, "_mosaics", lambda *given: None)
    monkeypatch.setattr(steps, "train_classifier", lambda *given, **options: None)
    tables.trainings(PROFILE.model_copy(update={"data": data, "seed": 3}), toy, False)
    row = pd.read_csv(toy / "verdicts.csv").set_index("claim").loc["C5"]
    assert (row["trainings"], row["agree"], row["verdict"]) == (seeds, seeds, "reproduced")
    assert row["measured"] == 1 + 3 + (seeds - 1) / 2
    runs = pd.read_csv(toy / "08_effects_by_image.csv")["run"].unique().tolist()
    others = [name for name in NETWORKS if name != PROFILE.network]  # its own network is the first seed's
    assert runs == [*(f"seed {k}" for k in range(3, 3 + seeds)), *others]
