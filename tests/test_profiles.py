"""Every profile of real data: complete, and run on a small set of its layout, cut down to seconds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import sets

from dgl_lib import study
from dgl_lib.app import assess, networks
from dgl_lib.errors import UserError
from dgl_lib.evaluate import BASELINES
from dgl_lib.localize import CONTROLS, METHODS
from dgl_lib.models import LAYERS
from dgl_lib.plots import style
from dgl_lib.study import claims, paths, profile, runner, steps, tables
from dgl_lib.study.profile import Profile, read_profile

PAPER = ("cub", "ilsvrc", "lid", "openimages", "voc")
SMALL = [
    *("weights=", "width=0.0625", "epochs=1", "batch_size=4", "resize=36", "crop=32", "image_size=32"),
    *("val_per_class=1", "test_per_class=1", "scales=[1.0, 1.5]", "device=cpu"),
]


def lid_and_ilsvrc(root: Path) -> Path:
    """LID's masks beside ILSVRC's training images, which are LID's too."""
    sets.wsol_boxes(root, "ILSVRC")
    shutil.rmtree(root / "ILSVRC" / "val")
    return sets.lid(root, count=24)


MAKE = {
    "cub": sets.cub,
    "ilsvrc": lambda root: sets.wsol_boxes(root, "ILSVRC"),
    "lid": lid_and_ilsvrc,
    "openimages": sets.openimages,
    "voc": sets.voc,
}


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the true notebooks and a results folder of its own, the data beside it."""
    (tmp_path / "notebooks").symlink_to(root / "notebooks")
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    monkeypatch.setattr(runner, "execute", lambda *a, **k: pytest.fail("a notebook ran"))
    monkeypatch.setenv("DGL_DATA", str(tmp_path / "photographs"))
    for name in ("DGL_WSOL_METADATA", "DGL_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    steps.load.cache_clear()
    return tmp_path


def run(name: str, *settings: str, **options: Any) -> Path:
    return runner.run(read_profile(name, [*SMALL, *settings]), name=name, progress=False, **options)


@pytest.mark.parametrize("name", [name for name in PAPER if name != "ilsvrc"])
def test_a_profile_trains_localizes_and_scores_on_its_layout(project: Path, name: str) -> None:
    MAKE[name](project / "photographs")
    checkpoint = run(name, until="train")
    below = checkpoint.relative_to(project).as_posix()
    it = tables.Measured(read_profile(name, [*SMALL, f"checkpoint={below}"]), progress=False)
    layers = [layer.name for layer in LAYERS["spg_plain"]]
    pairs = {(m, at) for m in [*METHODS, *CONTROLS] for at in layers if m != "cam"} | {("cam", layers[-1])}
    for data, maps in zip(it.parts, (it.val_maps, it.maps), strict=True):
        assert set(maps.maps) == pairs and maps.logits.shape == (len(data), len(data.classes))
        assert all(m.shape == (len(data), 4, 4) for m in maps.maps.values())
        assert sorted(data.labels) == sorted(set(data.labels))  # one of each class
    table = it.table
    assert len(table) == len(pairs) + 2
    assert np.isfinite(table[["iou", "low", "high", "miou", "test_peak"]].to_numpy()).all()
    assert list(evaluated(name, checkpoint, project)["scores"]["method"]) == ["dgl", *BASELINES]


def evaluated(name: str, checkpoint: Path, project: Path) -> dict[str, pd.DataFrame]:
    """The tables of `dgl evaluate NAME --checkpoint ...`."""
    network = networks.open_network(checkpoint)
    assert network.size == 36
    how = {"layers": ("add1",), "methods": ("dgl",), "limit": 1, "device": "cpu"}
    found = assess.evaluate(network, name, project / "evaluated", **how)
    assert all(np.isfinite(table.select_dtypes("number").iloc[:, :4]).all(axis=None) for table in found.values())
    return found


def test_ilsvrc_trains_and_localizes_and_its_notebooks_are_refused_before(project: Path, monkeypatch) -> None:
    sets.wsol_boxes(project / "photographs", "ILSVRC")
    with monkeypatch.context() as patch:
        patch.setattr(steps, "fit", lambda *a, **k: pytest.fail("trained"))
        for notebooks in (runner.FIRST, ["05"]):
            with pytest.raises(UserError) as told:
                run("ilsvrc", notebooks=notebooks)
            assert "'ilsvrc' has no masks of its val images" in str(told.value) and "\n" not in str(told.value)
            assert "dgl evaluate" in str(told.value)
    found = evaluated("ilsvrc", run("ilsvrc", until="train"), project)
    assert set(found) == {"accuracy", "boxes"}
    assert list(dict.fromkeys(found["boxes"]["method"])) == ["dgl", *BASELINES]
    run("ilsvrc", until="evaluate")
    assert list((project / "results" / ".runs").glob("maps-*/part-00000.npz"))


def test_cub_without_its_segmentations_is_refused_before(project: Path, monkeypatch) -> None:
    sets.cub(project / "photographs", masks=False)
    monkeypatch.setattr(steps, "fit", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(UserError, match="'cub' has no masks of its val images"):
        run("cub")


@pytest.mark.parametrize("name", [name for name in PAPER if name != "ilsvrc"])
def test_the_notebooks_run_where_no_telling_part_is_known(project: Path, monkeypatch, name: str, capsys) -> None:
    """From photographs to claims. Notebooks 01 and 03 say that no part is known, and claim C2 gets no row.

    Cells run here, without a kernel.
    """
    MAKE[name](project / "photographs")
    said: dict[str, str] = {}

    def execute(source: Path, output: Path, values: dict[str, Any], **options: Any) -> None:
        names: dict[str, Any] = {"__name__": "__main__"}
        for cell in nbformat.read(source, as_version=4).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, str(source), "exec"), names)
                if "parameters" in cell.metadata.get("tags", []):
                    names |= values
        said[source.name[:2]] = capsys.readouterr().out

    monkeypatch.setattr(runner, "execute", execute)
    if name in ("cub", "openimages"):  # half of the time goes into writing figures: two profiles will do
        monkeypatch.setattr(style, "save", lambda figure, *_: plt.close(figure))
    with matplotlib.rc_context({"backend": "agg"}):
        target = run(name, "layers=[Mixed_6a, Mixed_6e, add1]", "kernels=[0.0, 0.1]", "grid=6")
    assert "not known" in said["01"] and "nan" not in said["01"]
    table = claims.claims_table(target).set_index("claim")["verdict"]
    assert [claim for claim, verdict in table.items() if verdict == "not measured"] == ["C2", "C10"]
    assert set(pd.read_csv(target / "claims_03.csv")["claim"]) == {"C3", "C4"}
    assert not list(target.glob("03_parts*")) and (target / "03_scores.csv").is_file()


def test_training_refuses_a_broken_photograph_or_leaves_it_out_and_counts_it(project: Path) -> None:
    sets.cub(project / "photographs")
    broken = study.load("cub", "train").path(3)
    broken.write_bytes(broken.read_bytes()[:300])
    sets.refused(lambda: run("cub", until="train"), str(broken), "cannot be read")
    with pytest.warns(UserWarning, match=f"cub train: 1 of 8 images cannot be read and are left out; .*{broken.name}"):
        assert run("cub", "skip_unreadable=true", until="train").is_file()


def test_lid_trains_on_the_images_of_ilsvrc(project: Path) -> None:
    lid_and_ilsvrc(project / "photographs")
    assert study.load("lid", "train").names == study.load("ilsvrc", "train").names
    assert study.load("lid", "train").classes == study.load("lid", "val").classes


@pytest.mark.parametrize("name", PAPER)
def test_at_the_papers_settings_and_complete(name: str) -> None:
    found = read_profile(name)
    assert (found.image_size, found.network, found.width) == (324, "spg_plain", 1.0)
    assert (found.weights, found.layer, found.alpha, found.rule) == ("imagenet", "Mixed_6e", 10, "released")
    assert (found.resize, found.crop, found.batch_size) == (256, 224, 32)
    assert found.learning_rate == pytest.approx(10 * found.trunk_learning_rate)  # as released
    assert found.layers == [layer.name for layer in LAYERS["spg_plain"]]
    # What is left to the notebooks' defaults is what no profile of real data sets.
    others = {"device", "seed", "labels", "padding", "progress", "show_photos", "skip_unreadable", "results", "tables"}
    others |= {"precision", "reach"}
    assert set(Profile.model_fields) - found.model_fields_set == others


def test_the_page_counts_bytes_as_the_code_writes_them() -> None:
    """Maps an image at 324 px: every method and control on each of ten layers, CAM on the last, 41 x 41 float32."""
    text = (profile.PROFILES / "README.md").read_text()
    layers = LAYERS["spg_plain"]
    maps = (len(METHODS) + len(CONTROLS) - 1) * len(layers) + 1
    assert {layer.stride for layer in layers} == {8}
    assert f"{maps} maps of 41 x 41 float32, {maps * 41 * 41 * 4:,} bytes" in text
    rows = 9 * len(layers) + 1 + len(BASELINES)  # of notebook 03: six methods, three of the plain features, CAM
    assert re.search(rf"{rows}\s+rows of notebook 03, {rows * 4 * 256 * 4:,} bytes", text)
    for name in PAPER:
        assert f"`{name}`" in text
