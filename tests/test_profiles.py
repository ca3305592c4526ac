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

from dgl_lib import claims, evaluation, notebooks, paths, study
from dgl_lib.app import assess, networks
from dgl_lib.errors import UserError
from dgl_lib.localize import CONTROLS, METHODS
from dgl_lib.models import LAYER, LAYERS
from dgl_lib.study.plan import declared_parameters, read_plan
from dgl_lib.plots import style

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
    monkeypatch.setattr(notebooks, "execute", lambda *a, **k: pytest.fail("a notebook ran"))
    monkeypatch.setenv("DGL_DATA", str(tmp_path / "photographs"))
    for name in ("DGL_WSOL_METADATA", "DGL_WEIGHTS", "DGL_RESULTS", "EVERYTHING", "SHOW_PHOTOS", "SKIP_UNREADABLE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def scored(found: dict[str, Any], parameters: dict[str, Any], folder: Path) -> None:
    """A page as the commands make it: maps of both parts, scores, one table; beside it, in ``found``."""
    found["data"] = {split: study.part(parameters, split) for split in ("val", "test")}
    found["maps"] = {split: study.every_map(parameters, split) for split in ("val", "test")}
    scores = [evaluation.score(found["data"][split], {1.0: found["maps"][split]}) for split in ("val", "test")]
    found["table"] = evaluation.report(*scores)
    (folder / "README.md").write_text("# a page\n")


@pytest.mark.parametrize("profile", [name for name in PAPER if name != "ilsvrc"])
def test_a_profile_trains_localizes_and_scores_on_its_layout(project: Path, profile: str) -> None:
    MAKE[profile](project / "photographs")
    found: dict[str, Any] = {}
    target = study.make_page("page", profile, SMALL, lambda p, to: scored(found, p, to), progress=False)
    assert target == project / "results" / profile / "page" and (target / "manifest.json").is_file()
    layers = [layer.name for layer in LAYERS["spg_plain"]]
    pairs = {(m, at) for m in [*METHODS, *CONTROLS] for at in layers if m != "cam"} | {("cam", layers[-1])}
    for split, maps in found["maps"].items():
        data = found["data"][split]
        assert set(maps.maps) == pairs and maps.logits.shape == (len(data), len(data.classes))
        assert all(m.shape == (len(data), 4, 4) for m in maps.maps.values())
        assert sorted(data.labels) == sorted(set(data.labels))  # one of each class
    table = found["table"]
    assert len(table) == len(pairs) + 2
    assert np.isfinite(table[["iou", "low", "high", "miou", "test_peak"]].to_numpy()).all()
    [checkpoint] = (project / "results" / ".runs").glob(f"{profile}-*/classifier.safetensors")
    assert list(evaluated(profile, checkpoint, project)["scores"]["method"]) == ["dgl", *evaluation.BASELINES]


def evaluated(profile: str, checkpoint: Path, project: Path) -> dict[str, pd.DataFrame]:
    """The tables of `dgl evaluate PROFILE --checkpoint ...`."""
    network = networks.open_network(checkpoint)
    assert network.size == 36
    how = {"layers": ("add1",), "methods": ("dgl",), "limit": 1, "device": "cpu"}
    tables = assess.evaluate(network, profile, project / "evaluated", **how)
    assert all(np.isfinite(table.select_dtypes("number").iloc[:, :4]).all(axis=None) for table in tables.values())
    return tables


def test_ilsvrc_trains_and_localizes_and_its_notebooks_are_refused_before(project: Path, monkeypatch) -> None:
    sets.wsol_boxes(project / "photographs", "ILSVRC")
    with monkeypatch.context() as patch:
        patch.setattr(study, "fit", lambda *a, **k: pytest.fail("trained"))
        for call in (
            lambda: study.run("ilsvrc", SMALL, progress=False),
            lambda: study.make_page("page", "ilsvrc", SMALL, lambda *a: None, progress=False),
        ):
            with pytest.raises(UserError) as told:
                call()
            assert "'ilsvrc' has no masks of its val images" in str(told.value) and "\n" not in str(told.value)
            assert "dgl evaluate" in str(told.value)
    checkpoint = study.run("ilsvrc", SMALL, until="train", progress=False)
    tables = evaluated("ilsvrc", checkpoint, project)
    assert set(tables) == {"accuracy", "boxes"} and list(tables["boxes"]["method"]) == ["dgl", *evaluation.BASELINES]
    study.run("ilsvrc", SMALL, until="evaluate", progress=False)
    assert list((project / "results" / ".runs").glob("maps-*/part-00000.npz"))


def test_cub_without_its_segmentations_is_refused_before(project: Path, monkeypatch) -> None:
    sets.cub(project / "photographs", masks=False)
    monkeypatch.setattr(study, "fit", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(UserError, match="'cub' has no masks of its val images"):
        study.run("cub", SMALL, progress=False)


@pytest.mark.parametrize("profile", [name for name in PAPER if name != "ilsvrc"])
def test_the_notebooks_run_where_no_telling_part_is_known(project: Path, monkeypatch, profile: str, capsys) -> None:
    """From photographs to claims: notebooks 01 and 03 say that no part is known, and claim C2 gets no row.

    Cells run here, without a kernel and without their asserts: this network of one step has learned nothing.
    """
    MAKE[profile](project / "photographs")
    said: dict[str, str] = {}

    def execute(source: Path, output: Path, values: dict[str, Any], **options: Any) -> None:
        names: dict[str, Any] = {"__name__": "__main__"}
        for cell in nbformat.read(source, as_version=4).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, str(source), "exec", optimize=1), names)
                if "parameters" in cell.metadata.get("tags", []):
                    names |= values
        said[source.name[:2]] = names["unknown"].data if "unknown" in names else capsys.readouterr().out

    monkeypatch.setattr(notebooks, "execute", execute)
    if profile in ("cub", "openimages"):  # half of the time goes into writing figures: two profiles will do
        monkeypatch.setattr(style, "save", lambda figure, *_: plt.close(figure))
    few = ["layers=[Mixed_6a, Mixed_6e, add1]", "kernels=[0.0, 0.1]", "grid=6"]
    with matplotlib.rc_context({"backend": "agg"}):
        target = study.run(profile, [*SMALL, *few], progress=False)
    assert "telling part: not known of any of these images\n" in said["01"] and "nan" not in said["01"]
    assert said["03"] == "No image's telling part is known here: not measured."
    table = claims.claims_table(target).set_index("claim")["verdict"]
    assert [name for name, verdict in table.items() if verdict == "not measured"] == ["C2"]
    assert set(pd.read_csv(target / "claims_03.csv")["claim"]) == {"C3", "C4"}
    assert not list(target.glob("03_parts*")) and (target / "03_scores.csv").is_file()


def test_training_refuses_a_broken_photograph_or_leaves_it_out_and_counts_it(project: Path, monkeypatch) -> None:
    sets.cub(project / "photographs")
    broken = study.load("cub", "train").path(3)
    broken.write_bytes(broken.read_bytes()[:300])
    sets.refused(lambda: study.run("cub", SMALL, until="train", progress=False), str(broken), "cannot be read")
    study._load.cache_clear()
    monkeypatch.setenv("SKIP_UNREADABLE", "1")
    with pytest.warns(UserWarning, match=f"cub train: 1 of 8 images cannot be read and are left out; .*{broken.name}"):
        assert study.run("cub", SMALL, until="train", progress=False).is_file()
    study._load.cache_clear()


def test_lid_trains_on_the_images_of_ilsvrc(project: Path) -> None:
    lid_and_ilsvrc(project / "photographs")
    assert study.load("lid", "train").names == study.load("ilsvrc", "train").names
    assert study.load("lid", "train").classes == study.load("lid", "val").classes


@pytest.mark.parametrize("profile", PAPER)
def test_at_the_papers_settings_and_complete(profile: str) -> None:
    values = read_plan(profile).merged
    assert (values["image_size"], values["network"], values["width"]) == (324, "spg_plain", 1.0)
    assert (values["weights"], values["layer"]) == ("imagenet", "Mixed_6e")
    assert (values["alpha"], values["rule"]) == (10, "released")
    assert (values["resize"], values["crop"], values["batch_size"]) == (256, 224, 32)
    assert values["learning_rate"] == pytest.approx(10 * values["trunk_learning_rate"])  # as released
    assert values["layers"] == [layer.name for layer in LAYERS["spg_plain"]] and values["profile"] == profile
    # What is left to the notebooks' defaults is what no profile of real data sets.
    text = (Path(study.__file__).parent / "profiles" / f"{profile}.yaml").read_text()
    given = set(re.findall(r"^(\w+):", text, re.M))
    declared = {name for of in declared_parameters().values() for name in of}
    assert declared - given == {"profile", "device", "seed", "labels", "progress", "show_photos"}


@pytest.mark.parametrize("network", ["vgg16_gap", "resnet50_se"])
def test_another_network_comes_with_its_own_layers(network: str) -> None:
    """By the one parameter, and what is set by hand stays so."""
    names = [layer.name for layer in LAYERS[network]]
    values = read_plan("creatures", [f"network={network}"]).merged
    assert values["layers"] == names and values["layer"] == LAYER[network] and values["network"] == network
    values = read_plan("creatures", [f"layer={names[-1]}", f"network={network}"]).merged
    assert values["layers"] == names and values["layer"] == names[-1]
    values = read_plan("creatures", ["network=spg_plain"]).merged
    assert values["layer"] == "Mixed_6e" and values["layers"] == [layer.name for layer in LAYERS["spg_plain"]]
    # The quick profile localizes with the committed SPG-plain, whatever it trains.
    assert read_plan("quick", [f"network={network}"]).merged["layer"] == "Mixed_6e"


def test_the_page_counts_bytes_as_the_code_writes_them(root: Path) -> None:
    """Maps an image at 324 px: every method and control on each of ten layers, CAM on the last, 41 x 41 float32."""
    text = (root / "dgl_lib" / "profiles" / "README.md").read_text()
    layers = LAYERS["spg_plain"]
    maps = (len(METHODS) + len(CONTROLS) - 1) * len(layers) + 1
    assert {layer.stride for layer in layers} == {8}
    assert f"{maps} maps of 41 x 41 float32, {maps * 41 * 41 * 4:,} bytes" in text
    rows = 5 * len(layers) + 1 + len(evaluation.BASELINES)  # of notebook 03: four methods and the features, CAM
    assert f"{rows} rows of notebook 03, {rows * 4 * 256 * 4:,} bytes" in text
    for profile in PAPER:
        assert f"`{profile}`" in text
