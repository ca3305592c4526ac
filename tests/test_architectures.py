"""The three networks side by side: whose layers are used, what they agree on, and the page from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sets import Toy

from dgl_lib import architectures, paths, seeds, study
from dgl_lib.evaluate.scores import Maps, raw_maps
from dgl_lib.localize import CONTROLS, METHODS
from dgl_lib.models import LAYER, LAYERS, NETWORKS, load_checkpoint, save_checkpoint
from dgl_lib.plots import architectures as plots


def gains(verdicts: dict[str, list[str]]) -> pd.DataFrame:
    """DGL's verdict on each method in each of two networks; on another layer of DGL, and on its own, the opposite."""
    rows = []
    for k, network in enumerate(("one", "two")):
        for dgl_layer, at in (("best", "own"), ("best", "same"), ("other", "own")):
            for method, words in verdicts.items():
                word = words[k] if (dgl_layer, at) == ("best", "own") else "undecided"
                rows.append({"network": network, "dgl_layer": dgl_layer, "at": at, "method": method, "verdict": word})
    return pd.DataFrame(rows)


def test_what_all_networks_agree_on() -> None:
    table = gains(
        {
            "cam": ["gains", "gains"],
            "layer_cam": ["loses", "loses"],
            "grad_cam": ["gains", "level"],
            "sgl_g1": ["level", "level"],
            "whole_image": ["gains", "gains"],  # no method
        }
    )
    assert architectures.agreement(table) == {
        "gains": ["cam"],
        "level": ["sgl_g1"],
        "undecided": [],
        "loses": ["layer_cam"],
        "differs": ["grad_cam"],
    }


def test_each_network_stands_on_its_own_layers() -> None:
    profile = {"network": "spg_plain", "layers": ["add1"], "layer": "add1", "seed": 3}
    for network in NETWORKS:
        own = architectures.of_network(profile, network)
        assert own["network"] == network and own["seed"] == 3 and own["layer"] == LAYER[network]
        assert own["layers"] == [layer.name for layer in LAYERS[network]]
    assert profile["layers"] == ["add1"]


def test_verdicts_name_the_networks() -> None:
    c5 = "DGL minus CAM"
    table = seeds.effects_table({"one": {c5: np.full(9, 3.0)}, "two": {c5: np.full(9, -3.0)}}, "network")
    assert architectures.verdicts(table) == (
        "Of the claims checked with 2 networks, the verdict stays the same for none; another network changes it for "
        "C5 (one: reproduced, two: not reproduced)."
    )


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(parameters: dict, progress: bool = False) -> Path:
        trained.append(parameters["network"])
        torch.manual_seed(0)
        path = tmp_path / f"{parameters['network']}.safetensors"
        save_checkpoint(NETWORKS[parameters["network"]](3, width=1 / 16), path)
        return path

    def every_map(parameters: dict, split: str, progress: bool = False) -> Maps:
        model = load_checkpoint(tmp_path / parameters["checkpoint"])
        names = [*METHODS, *CONTROLS]
        return raw_maps(model, Toy(split, 6), layers=parameters["layers"], methods=names, size=32, device="cpu")

    monkeypatch.setattr(study, "train_classifier", train)
    monkeypatch.setattr(study, "every_map", every_map)
    monkeypatch.setattr(study, "part", lambda parameters, split: Toy(split, 6))
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    (folder := tmp_path / "page").mkdir()
    profile = {"profile": "toys", "data": "creatures", "seed": 0, "width": 1 / 16, "checkpoint": "trained"}
    architectures.make(profile, folder)
    assert trained == list(NETWORKS)
    scores = pd.read_csv(folder / "scores.csv", keep_default_na=False)
    for network, of in scores.groupby("network"):
        assert of.loc[of["method"] == "dgl", "layer"].tolist() == [layer.name for layer in LAYERS[network]]
        assert of.loc[of["method"] == "cam", "layer"].tolist() == [LAYERS[network][-1].name]
    networks = pd.read_csv(folder / "networks.csv").set_index("network")
    assert networks["layer"].to_dict() == LAYER and (networks["images"] == 6).all()
    effects = pd.read_csv(folder / "effects.csv")
    dgl = scores[(scores["method"] == "dgl") & (scores["layer"] == scores["network"].map(LAYER))].set_index("network")
    cam = scores[scores["method"] == "cam"].set_index("network")
    c5 = effects[effects["effect"] == "DGL minus CAM"].set_index("network")
    pd.testing.assert_series_equal(c5["mean"], (dgl["iou"] - cam["iou"])[c5.index], check_names=False)
    text = (folder / "README.md").read_text()
    assert text.startswith("# 3 networks: ") and (folder / "verdicts.md").read_text().strip() in text
    assert all((folder / f"{name}.png").is_file() for name in ("networks", "layers")) and str(tmp_path) not in text


def test_the_figures_title_counts_layers_above_cam() -> None:
    rows = []
    for network, ious in (("one", [42, 50, 60]), ("two", [10, 20, 30])):
        for k, iou in enumerate(ious):
            for method in plots.METHODS:
                rows.append({"method": method, "layer": f"l{k}", "iou": iou, "low": iou - 5, "high": iou + 5})
        for method, layer in (("cam", "l2"), ("whole_image", ""), ("centred_gaussian", "")):
            rows.append({"method": method, "layer": layer, "iou": 40, "low": 35, "high": 45})
        for row in rows:
            row.setdefault("network", network)
    title = plots.by_layer(pd.DataFrame(rows)).get_suptitle()
    assert title == "Layers on which DGL's interval lies above CAM's mean: 2 of 3, 0 of 3"
