"""The study's chain on tiny notebooks: what is refused, what is passed on, what a failure leaves, what is written."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import nbformat
import pytest

from dgl_lib import evaluation, notebooks, paths, plan, readme, study
from dgl_lib.data.creatures import CLASSES, Creatures
from dgl_lib.errors import UserError
from dgl_lib.files import exclusive, sha256, write_text
from dgl_lib.models import LAYERS, load_checkpoint
from dgl_lib.study.parameters import Parameter, check_notebook, check_values, notebook_parameters
from dgl_lib.training import pick_device

FIRST = ["profile: str = 'quick'  # name", "alpha: float = 10.0  # weight of the class, (0, inf)"]
SECOND = [
    "profile: str = 'quick'  # name",
    "layers: list[str] = ['Mixed_6e']  # where",
    "show_photos: bool = False  # pixels",
]
WRITE = "import os; from pathlib import Path; folder = Path(os.environ['DGL_RESULTS']); "


def write_notebook(path: Path, parameters: list[str], *cells: str) -> None:
    code = nbformat.v4.new_code_cell
    first = code("\n".join(parameters), metadata={"tags": ["parameters"]}, id="parameters")
    rest = [code(source, id=f"cell-{i}") for i, source in enumerate(cells)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[first, *rest], metadata=kernel), path)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two notebooks that need no network, and two profiles."""
    write_notebook(
        tmp_path / "notebooks" / "01_first.ipynb",
        FIRST,
        "import sys\nprint('alpha', alpha)\nprint('a warning', file=sys.stderr)\nprint(profile)",
        WRITE + "(folder / 'first.csv').write_text(f'{alpha}\\n');",
    )
    write_notebook(
        tmp_path / "notebooks" / "02_second.ipynb",
        SECOND,
        WRITE + "(folder / 'second.csv').write_text(f'{layers}\\n');",
    )
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "quick.yaml").write_text("profile: quick\n")
    (profiles / "full.yaml").write_text("alpha: 2\nlayers: [add2, add1]\n")
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    monkeypatch.setattr(plan, "_profiles_folder", lambda: profiles)
    for name in ("EVERYTHING", "SHOW_PHOTOS", "DGL_RESULTS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


# Parameters


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("int", [0, 3], [True, 3.0, "3", None]),
        ("float", [0.5, 3], ["1e-3", True, None]),
        ("bool", [True], [1, "true"]),
        ("str", ["", "a"], [1]),
        ("list", [[], [1, "a"]], ["a", (1,)]),
        ("list[float]", [[], [0.5, 1]], [["a"], 0.5]),
        ("str | None", ["a", None], [1]),
    ],
)
def test_types(kind: str, good: list, bad: list) -> None:
    assert all(Parameter(kind, None).accepts(value) for value in good)
    assert not any(Parameter(kind, None).accepts(value) for value in bad)


def test_parameters_are_read_without_running(project: Path) -> None:
    found = notebook_parameters(project / "notebooks" / "01_first.ipynb")
    assert found["alpha"] == Parameter("float", 10.0, "weight of the class, (0, inf)")
    assert list(found) == ["profile", "alpha"]


@pytest.mark.parametrize("line", ["alpha = 10.0", "alpha: float", "alpha: float = compute()", "print(1)"])
def test_lines_that_declare_nothing(tmp_path: Path, line: str) -> None:
    write_notebook(tmp_path / "n.ipynb", [line])
    with pytest.raises(UserError, match="name: type = literal"):
        notebook_parameters(tmp_path / "n.ipynb")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": "cats"}, "creatures, pets"),
        ({"network": "alexnet"}, "spg_plain, vgg16_gap, resnet50_se allowed"),
        ({"labels": "none"}, "given, shuffled allowed"),
        ({"rule": "paper"}, "released, autograd"),
        ({"layers": ["Mixed_6e", "Mixed_9z"]}, "'Mixed_9z' given, Mixed_5b"),
        ({"layers": []}, "an empty list"),
        ({"width": 0.3}, "1/16"),
        ({"alpha": 0.0}, "more than 0"),
        ({"alpha": float("nan")}, "more than 0"),
        ({"scales": [1.0, 0.0]}, "more than 0"),
        ({"kernels": [1.0]}, "below 1"),
        ({"crop": 256, "resize": 224}, "at most resize"),
        ({"profile": "../elsewhere"}, "letters"),
    ],
)
def test_values_out_of_range(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check_values(values)


def test_a_notebook_checks_itself(project: Path) -> None:
    path = project / "notebooks" / "01_first.ipynb"
    around = {"__name__": "__main__", "_i1": "x", "In": ["x"], "Path": Path, "profile": "quick"}
    assert check_notebook(path, {**around, "alpha": 3}) == {"profile": "quick", "alpha": 3}
    with pytest.raises(UserError, match="unknown parameter 'alfa'; allowed: profile, alpha"):
        check_notebook(path, {**around, "alpha": 3.0, "alfa": 3.0})
    with pytest.raises(UserError, match="'3' given, float allowed"):
        check_notebook(path, {**around, "alpha": "3"})


# Profiles


@pytest.mark.parametrize(
    ("profile", "settings", "message"),
    [
        ("fast", [], "unknown profile 'fast'; allowed: full, quick"),
        ("full", ["alfa=1"], "unknown parameter 'alfa'; allowed: profile, alpha, layers, show_photos"),
        ("full", ["alpha=1e-3"], "'1e-3' given, float allowed (write 0.001"),
        ("full", ["alpha"], "name=value"),
        ("full", ["layers=add1"], "list[str] allowed"),
        ("full", ["alpha=-1"], "more than 0"),
        ("full", ["layers=[nowhere]"], "'nowhere' given"),
    ],
)
def test_refused_before_anything_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch, profile: str, settings: list[str], message: str
) -> None:
    monkeypatch.setattr(notebooks, "execute", lambda *a, **k: pytest.fail("a notebook ran"))
    with pytest.raises(UserError, match=re.escape(message)):
        study.run(profile, settings, progress=False)
    assert not (project / "results").exists()


@pytest.mark.parametrize("text", ["alfa: 1", "alpha: 1e-3", "alpha: [", "alpha: '3'"])
def test_profiles_are_refused_too(project: Path, text: str) -> None:
    (project / "profiles" / "full.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        study.read_plan("full")
    assert "\n" not in str(error.value)


def test_each_notebook_gets_what_it_declares(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOW_PHOTOS", "1")
    monkeypatch.setenv("EVERYTHING", "1")  # neither notebook declares its two parameters
    values = study.read_plan("full", ["alpha=3", "profile=mine"]).notebooks
    assert values["01_first"] == {"profile": "mine", "alpha": 3}
    assert values["02_second"] == {"profile": "mine", "layers": ["add2", "add1"], "show_photos": True}


def test_everything_takes_all_images(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook(project / "notebooks" / "01_first.ipynb", [*FIRST, "test_per_class: int = 20  # images"])
    assert study.read_plan("full").merged["test_per_class"] == 20
    monkeypatch.setenv("EVERYTHING", "1")
    assert study.read_plan("full").merged["test_per_class"] == 0


# Running


def test_a_study_from_end_to_end(project: Path) -> None:
    folder = study.run("full", ["alpha=3"], progress=False)
    assert folder == project / "results" / "full"
    assert (folder / "first.csv").read_text() == "3\n"
    assert (folder / "second.csv").read_text() == "['add2', 'add1']\n"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["profile"] == "full"
    assert manifest["command"] == "python -m dgl_lib study full --set alpha=3"
    assert manifest["parameters"]["01_first"] == {"profile": "full", "alpha": 3}
    assert {"01_first", "02_second", "evaluate"} <= set(manifest["seconds"])
    assert {"python", "torch", "torchvision", "numpy", "opencv-python-headless"} <= set(manifest["versions"])
    assert {"processor", "cores", "memory_gib", "bf16", "gpu", "system"} == set(manifest["hardware"])
    assert set(manifest["code"]) == {"commit", "dirty"}
    made = {p.name for p in folder.iterdir()}
    assert set(manifest["files"]) == made - {"manifest.json"}
    assert {"claims.csv", "claims.md", "deviations.csv"} <= made
    assert manifest["files"]["first.csv"] == sha256(folder / "first.csv")
    for file in folder.iterdir():
        assert str(project) not in file.read_text(), f"{file.name} holds a path of this machine"

    # The same again gives the same bytes; what only the earlier run made goes, what is not the study's stays.
    before = {p.name: p.read_bytes() for p in folder.glob("*.ipynb")}
    assert b"papermill" not in before["01_first.ipynb"]
    (folder / "seeds.csv").write_text("by hand\n")
    write_notebook(project / "notebooks" / "02_second.ipynb", SECOND, "1")
    study.run("full", ["alpha=3"], progress=False)
    assert (folder / "01_first.ipynb").read_bytes() == before["01_first.ipynb"]
    assert (folder / "seeds.csv").exists() and not (folder / "second.csv").exists()


def test_a_failing_notebook_leaves_earlier_results(project: Path) -> None:
    folder = study.run("full", progress=False)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    write_notebook(project / "notebooks" / "02_second.ipynb", SECOND, "1 + 1", "raise KeyError('no such\\nlayer')")
    with pytest.raises(UserError) as error:
        study.run("full", ["alpha=7"], progress=False)
    assert str(error.value) == (
        "02_second.ipynb, cell [4]: KeyError: 'no such\\nlayer' (kept in results/.runs/failed/full)"
    )
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    failed = project / "results" / ".runs" / "failed" / "full"
    assert (failed / "first.csv").read_text() == "7\n"  # what succeeded is not lost
    assert "KeyError" in (failed / "02_second.ipynb").read_text()


def test_a_kernel_that_dies(tmp_path: Path) -> None:
    write_notebook(tmp_path / "n.ipynb", FIRST, "import os; os._exit(1)")
    with pytest.raises(UserError, match=r"n\.ipynb: Kernel died"):
        notebooks.execute(tmp_path / "n.ipynb", tmp_path / "out.ipynb", {}, cwd=tmp_path, progress=False)


def test_two_studies_do_not_mix(project: Path) -> None:
    with (
        exclusive(paths.runs_folder() / "full.lock", "results/full"),
        pytest.raises(UserError, match=r"results/full is being written by process \d+ since"),
    ):
        study.run("full", progress=False)


def test_the_lock_goes_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), exclusive(tmp_path / "a.lock", "a"):
        raise KeyError
    with exclusive(tmp_path / "a.lock", "a"):
        pass


def test_quick_and_photographs_stay_out_of_git(project: Path) -> None:
    assert paths.results_folder("quick") == project / "results" / ".quick"
    assert paths.results_folder("pets", show_photos=True) == project / "results" / ".photos" / "pets"


def test_a_path_of_this_machine_is_refused(project: Path) -> None:
    write_notebook(project / "notebooks" / "01_first.ipynb", [*FIRST, "checkpoint: str = 'creatures'  # weights"])
    with pytest.raises(UserError, match="absolute path"):
        study.run("full", [f"checkpoint={project / 'a.safetensors'}"], progress=False)
    with pytest.raises(UserError, match="no file at 'elsewhere'"):
        study.run("full", ["checkpoint=elsewhere"], progress=False)


def test_rerunning_the_committed_notebooks(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "notebooks" / "02_second.ipynb").unlink()  # one is enough
    monkeypatch.setenv("DGL_RESULTS", str(project))
    study.rerun_committed(progress=False)
    first = {p.name: p.read_bytes() for p in (project / "notebooks").glob("*.ipynb")}
    assert b"alpha 10.0" in first["01_first.ipynb"]
    assert b"injected" not in first["01_first.ipynb"]
    study.rerun_committed(progress=False)
    assert {p.name: p.read_bytes() for p in (project / "notebooks").glob("*.ipynb")} == first


# Training

TINY = {
    "data": "creatures",
    "network": "spg_plain",
    "labels": "given",
    "seed": 0,
    "device": "cpu",
    "width": 1 / 16,
    "weights": "",
    "train_count": 16,
    "resize": 32,
    "crop": 32,
    "epochs": 1,
    "batch_size": 8,
    "learning_rate": 0.001,
    "trunk_learning_rate": 0.001,
    "weight_decay": 0.0,
}


@pytest.fixture
def tiny(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    parts = {"train": Creatures("train", 24), "val": Creatures("val", 16), "test": Creatures("test", 16)}
    monkeypatch.setattr(study, "load", lambda data, split: parts[split])
    return project


def test_a_trained_classifier_is_found_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = study.train_classifier({**TINY, "alpha": 10.0})  # what training does not read makes no difference
    assert checkpoint.parent.parent == tiny / "results" / ".runs"
    assert re.fullmatch("creatures-[0-9a-f]{12}", checkpoint.parent.name)
    assert (checkpoint.parent / "history.csv").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(study, "fit", lambda *a, **k: pytest.fail("trained again"))
        assert study.train_classifier({**TINY, "device": "auto" if not has_accelerator() else "cpu"}) == checkpoint
    digest = sha256(checkpoint)
    checkpoint.unlink()
    assert sha256(study.train_classifier(TINY)) == digest


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"epochs": 2},
        {"train_count": 0},
        {"learning_rate": 0.002},
        {"network": "vgg16_gap"},
        {"labels": "shuffled"},
    ],
)
def test_what_determines_a_run_names_it(tiny: Path, monkeypatch: pytest.MonkeyPatch, change: dict) -> None:
    monkeypatch.setattr(study, "fit", lambda *a, **k: None)
    assert study.train_classifier(TINY | change) != study.train_classifier(TINY)


def test_runs_from_before_there_was_a_choice_are_found_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name as it was taken then: of all facts but ``network`` and ``labels``."""
    monkeypatch.setattr(study, "fit", lambda *a, **k: pytest.fail("trained again"))
    facts = {key: value for key, value in TINY.items() if key not in ("network", "labels")} | {
        "weights": None,
        "data_sha256": {"train": Creatures("train", TINY["train_count"]).digest, "val": study.load("", "val").digest},
        "format": 1,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    checkpoint = tiny / "results" / ".runs" / f"creatures-{key}" / "classifier.safetensors"
    assert not study.is_trained(TINY)
    write_text(checkpoint, "trained before")
    assert study.is_trained(TINY) and study.train_classifier(TINY) == checkpoint
    assert not study.is_trained(TINY | {"labels": "shuffled"})
    assert not study.is_trained(TINY | {"network": "resnet50_se"})


@pytest.mark.parametrize(("network", "labels"), [("vgg16_gap", "shuffled"), ("resnet50_se", "given")])
def test_network_and_labels_reach_the_training(tiny: Path, monkeypatch, network: str, labels: str) -> None:
    seen: list[tuple] = []
    monkeypatch.setattr(study, "fit", lambda *parts, **k: seen.append((*parts, k["facts"])))
    study.train_classifier(TINY | {"network": network, "labels": labels})
    [(model, train, val, facts)] = seen
    assert model.architecture == network and facts["network"] == network
    given = Creatures("train", TINY["train_count"]).labels
    assert (train.labels == given).all() == (labels == "given") and facts.get("labels", "given") == labels
    assert (val.labels == study.load("", "val").labels).all()  # what chooses the epoch stays true


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({k: v for k, v in TINY.items() if k != "crop"}, "crop is missing"),
        (TINY | {"train_count": 25}, "25 given, 0 (all) to 24"),
        (TINY | {"weights": "nowhere.safetensors"}, "no file at 'nowhere.safetensors'"),
    ],
)
def test_training_refused(tiny: Path, parameters: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        study.train_classifier(parameters)


def test_layers_that_the_network_lacks_are_refused_before_training(tiny: Path, monkeypatch) -> None:
    monkeypatch.setattr(study, "fit", lambda *a, **k: pytest.fail("trained"))
    declare = [f"{k}: {type(v).__name__} = {v!r}  # as in training" for k, v in TINY.items()]
    checkpoint = "checkpoint: str = 'trained'  # weights"
    write_notebook(tiny / "notebooks" / "01_first.ipynb", [*FIRST, *declare], "1")
    write_notebook(tiny / "notebooks" / "02_second.ipynb", [*SECOND, checkpoint, "layer: str = 'add1'  # where"], "1")
    for settings, message in (
        (["network=vgg16_gap"], "layers: 'add2' given, which vgg16_gap lacks; allowed: conv1_1, conv1_2, pool1"),
        (["network=vgg16_gap", "layers=[add]"], "layer: 'add1' given, which vgg16_gap lacks"),
        (["layers=[layer4.2]"], "layers: 'layer4.2' given, which spg_plain lacks; allowed: Mixed_5b"),
        (["checkpoint=creatures", "network=vgg16_gap", "layers=[add]"], "'add' given, which spg_plain lacks"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            study.run("full", settings, progress=False)
    with pytest.raises(UserError, match="'conv5_3' given, which spg_plain lacks"):
        study.classifier({"checkpoint": "creatures", "data": "creatures", "layer": "conv5_3"})


@pytest.mark.parametrize("network", ["vgg16_gap", "resnet50_se"])
def test_every_map_is_of_the_networks_own_layers(tiny: Path, network: str) -> None:
    own = [layer.name for layer in LAYERS[network]]
    settings = {"image_size": 32, "alpha": 10.0, "rule": "released", "val_per_class": 1, "layer": own[-3]}
    checkpoint = study.train_classifier(TINY | {"network": network}).relative_to(tiny).as_posix()
    parameters = TINY | settings | {"network": network, "checkpoint": checkpoint, "layers": own[-2:]}
    maps = study.every_map(parameters, "val").maps
    assert [layer for method, layer in maps if method == "dgl"] == own
    assert [layer for method, layer in maps if method == "cam"] == own[-1:]
    scales = study.maps_of_scales(parameters | {"scales": [1.0, 1.5], "ablation_methods": ["cam"]}, "val")
    assert all(("cam", own[-1]) in found.maps and ("dgl", own[-3]) in found.maps for found in scales.values())


def test_training_alone_needs_no_layers(tiny: Path) -> None:
    declare = [f"{k}: {type(v).__name__} = {v!r}  # as in training" for k, v in TINY.items()]
    write_notebook(tiny / "notebooks" / "01_first.ipynb", [*FIRST, *declare], "1")
    checkpoint = study.run("full", ["network=vgg16_gap"], until="train", progress=False)
    assert load_checkpoint(checkpoint).architecture == "vgg16_gap"


def test_notebooks_get_the_trained_classifier(tiny: Path) -> None:
    declare = [f"{k}: {type(v).__name__} = {v!r}  # as in training" for k, v in TINY.items()]
    write_notebook(tiny / "notebooks" / "01_first.ipynb", [*FIRST, *declare], "1")
    write_notebook(
        tiny / "notebooks" / "02_second.ipynb",
        [*SECOND, "checkpoint: str = 'trained'  # weights"],
        WRITE + "(folder / 'second.csv').write_text(checkpoint);",
    )
    checkpoint = study.run("full", until="train", progress=False)
    folder = study.run("full", progress=False)
    assert (tiny / (folder / "second.csv").read_text()) == checkpoint
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["checkpoints_sha256"]["trained"] == sha256(checkpoint)
    assert set(manifest["data_sha256"]) == {"train", "val", "test"}
    assert manifest["seconds"]["train"] > 0


def test_maps_are_computed_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = TINY | {
        "checkpoint": study.train_classifier(TINY).relative_to(tiny).as_posix(),
        "image_size": 32,
        "alpha": 10.0,
        "rule": "released",
        "val_per_class": 1,
        "test_per_class": 1,
        "layer": "Mixed_6e",
        "layers": ["Mixed_6e", "add1"],
        "methods": ["dgl", "pixel_selection"],
        "ablation_methods": ["grad_cam_signed"],
        "scales": [1.0, 1.5],
    }
    study.evaluate(plan.Plan("full", {"03": parameters}), progress=False)
    monkeypatch.setattr(evaluation, "_localize", lambda *a: pytest.fail("computed again"))
    every_layer = study.maps_of_layers(parameters, "test").maps
    layered = {(m, layer) for m in ("features", "dgl", "pixel_selection") for layer in ("Mixed_6e", "add1")}
    assert set(every_layer) == {*layered, ("cam", "add1")}
    scales = study.maps_of_scales(parameters, "val")
    shapes = {s: maps.maps["dgl", "Mixed_6e"].shape for s, maps in scales.items()}
    assert shapes == {1.0: (len(CLASSES), 4, 4), 1.5: (len(CLASSES), 6, 6)}
    methods = ("grad_cam_signed", "dgl", "enhanced_map", "pixel_selection")
    assert set(scales[1.0].maps) == {(m, layer) for m in methods for layer in ("Mixed_6e", "add1")}


def has_accelerator() -> bool:
    return pick_device("auto").type != "cpu"


# The README


def test_readme_blocks(project: Path) -> None:
    write_text(project / "results" / "full" / "scores.csv", "method,iou\ndgl,0.71234\n")
    path = project / "README.md"
    path.write_text("# T\n<!-- begin: table:full/scores.csv -->\nold\n<!-- end: table:full/scores.csv -->\nend\n")
    with pytest.raises(UserError, match=r"not in step with results \(table:full/scores.csv\)"):
        readme.update_readme(path, check=True)
    readme.update_readme(path)
    assert "| dgl | 0.712 |\n<!-- end" in path.read_text() and "old" not in path.read_text()
    readme.update_readme(path, check=True)


@pytest.mark.parametrize("name", ["claims:nowhere", "table:full/none.csv", "text:none.md", "figure:x"])
def test_readme_blocks_without_results(project: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"README block {name!r}"):
        readme.block(name)


def test_a_begin_without_its_end() -> None:
    with pytest.raises(UserError, match="begin without an end"):
        readme.generated("<!-- begin: deviations -->\n")


def test_the_readme_says_what_the_results_say(root: Path) -> None:
    if not (root / "README.md").exists():
        pytest.skip("no README yet")
    readme.update_readme(check=True)
