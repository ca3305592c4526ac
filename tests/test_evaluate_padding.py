"""What the padding changes, against the two networks asked one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sets import Toy

from dgl_lib.evaluate import raw_maps, report, score
from dgl_lib.evaluate.padding import padding_table, repadded
from dgl_lib.models import SPGPlain, digest, save_checkpoint, spg_plain

PARTS = Toy("val", 4), Toy("test", 5)
HOW = {"size": 48, "alpha": 4.0, "rule": "released", "device": "cpu"}


@pytest.fixture(scope="module")
def model() -> SPGPlain:
    torch.manual_seed(0)
    made = spg_plain(3, width=1 / 16)
    made.mean, made.std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.2)
    made.adapt({"count_include_pad": "false"})
    return made.eval()


def table_of(model: SPGPlain, **change: object):
    how = HOW | change
    layers = [at.name for at in model.layers]
    maps = [raw_maps(model, part, layers=layers, methods=["cam", "pixel_selection", "dgl"], **how) for part in PARTS]
    return padding_table(model, PARTS, maps, **how).set_index("layer")


def test_every_cell_against_the_two_networks_asked_one_by_one(model: SPGPlain, tmp_path: Path) -> None:
    table = table_of(model)
    assert list(table.index) == [*(at.name for at in SPGPlain.layers), "logits"]
    save_checkpoint(model, path := tmp_path / "own.safetensors")
    at, found = "Mixed_5c", {}
    for padding in SPGPlain.paddings:
        network = spg_plain(3, width=1 / 16, weights=path, padding=padding).eval()
        asked = {"layers": [at], "methods": ["dgl", "pixel_selection"], **HOW}
        maps = [raw_maps(network, part, **asked) for part in PARTS]
        scores = report(*(score(part, {1.0: m}) for part, m in zip(PARTS, maps, strict=True)))
        for method in ("dgl", "pixel_selection"):
            [iou] = scores.loc[(scores["method"] == method) & (scores["layer"] == at), "iou"]
            assert table.loc[at, f"{method}_{padding}"] == pytest.approx(iou)
        found[padding] = maps[1]
    one, other = found["symmetric"], found["tensorflow"]
    by_image = [
        np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one.maps["dgl", at], other.maps["dgl", at], strict=True)
    ]
    assert table.loc[at, "correlation"] == pytest.approx(np.mean(by_image), abs=1e-5) and np.mean(by_image) < 0.999
    worst = max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(one.logits, other.logits, strict=True))
    assert table.loc["logits", "logit_difference"] == pytest.approx(100 * worst, rel=1e-4) and worst > 1e-4
    assert table.loc["logits", "same_class"] == 100 * np.mean(one.logits.argmax(1) == other.logits.argmax(1))
    assert table.drop(index="logits").iloc[:, :-2].notna().all(axis=None)


def test_either_network_gives_the_same_table(model: SPGPlain) -> None:
    state, copy = torch.get_rng_state(), repadded(model)
    assert torch.equal(torch.get_rng_state(), state) and not copy.training
    assert copy.padding == "tensorflow" and digest(copy) == digest(model) and repadded(copy).padding == "symmetric"
    assert (copy.mean, copy.std, copy.count_include_pad) == (model.mean, model.std, False)
    np.testing.assert_allclose(table_of(copy), table_of(model), rtol=1e-5)


def test_odd_sides_have_one_padding(model: SPGPlain) -> None:
    """33, 17, 9: then the two differ in what average pools count alone, and here neither counts the padding."""
    table = table_of(model, size=33)
    np.testing.assert_allclose(table["correlation"].iloc[:-1], 1, atol=1e-4)
    assert (table["dgl_symmetric"] == table["dgl_tensorflow"])[:-1].all()
    assert table.loc["logits", "logit_difference"] < 1e-2 and table.loc["logits", "same_class"] == 100
