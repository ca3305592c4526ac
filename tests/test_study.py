"""The study's chain on tiny notebooks: what is refused, what is passed on, what a failure leaves, what is written."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from dgl_lib import evaluate, files, study
from dgl_lib.data.creatures import CLASSES, Creatures
from dgl_lib.errors import UserError
from dgl_lib.files import exclusive, lies_in, sha256, write_bytes, write_text
from dgl_lib.models import LAYER, LAYERS, committed_checkpoint, load_checkpoint, save_checkpoint
from dgl_lib.study import manifest as manifests
from dgl_lib.study import notebooks, paths, profile, readme, runner, steps
from dgl_lib.study.profile import Profile, declared, read_profile, validated

FIRST = ["results: str = 'results/.quick'  # folder", "alpha: float = 10.0  # weight of the class, (0, inf)"]
SECOND = [
    "results: str = 'results/.quick'  # folder",
    "layers: list = ['Mixed_6e']  # where",
    "checkpoint: str = 'creatures'  # classifier",
]
WRITE = "from pathlib import Path; folder = Path('..') / results; "


def write_notebook(path: Path, parameters: list[str], *cells: str) -> None:
    code = nbformat.v4.new_code_cell
    first = code("\n".join(parameters), metadata={"tags": ["parameters"]}, id="parameters")
    rest = [code(source, id=f"cell-{i}") for i, source in enumerate(cells)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[first, *rest], metadata=kernel), path)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two notebooks that need no network, two profiles, and sixteen images a split."""
    write_notebook(
        tmp_path / "notebooks" / "01_first.ipynb",
        FIRST,
        "import sys\nprint('alpha', alpha)\nprint('a warning', file=sys.stderr)",
        WRITE + "(folder / 'first.csv').write_text(f'{alpha}\\n');",
    )
    write_notebook(
        tmp_path / "notebooks" / "02_second.ipynb",
        SECOND,
        WRITE + "(folder / 'second.csv').write_text(f'{layers} {checkpoint}\\n');",
    )
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "quick.yaml").write_text("# nothing\n")
    (profiles / "full.yaml").write_text("alpha: 2\nlayers: [add2, add1]\nlayer: add2\n")
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    monkeypatch.setattr(profile, "PROFILES", profiles)
    parts = {"train": Creatures("train", 24), "val": Creatures("val", 16), "test": Creatures("test", 16)}
    monkeypatch.setattr(steps, "load", lambda data, split, skip=False: parts[split])
    return tmp_path


def run(name: str = "full", *settings: str, **options: Any) -> Path:
    return runner.run(read_profile(name, settings), name=name, command="as typed", progress=False, **options)


# Parameters


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": "cats"}, "data: 'cats' given, one of creatures, pets"),
        ({"network": "alexnet"}, "one of spg_plain, vgg16_gap, resnet50_se allowed"),
        ({"labels": "none"}, "'given' or 'shuffled' allowed"),
        ({"rule": "paper"}, "one of released, autograd"),
        ({"layers": ["Mixed_6e", "Mixed_9z"]}, "'Mixed_9z' given, one of Mixed_5b"),
        ({"layers": []}, "at least 1 item"),
        ({"width": 0.3}, "a multiple of 0.0625"),
        ({"alpha": 0.0}, "greater than 0 allowed"),
        ({"alpha": float("nan")}, "a finite number allowed"),
        ({"alpha": "1e-3"}, "'1e-3' given, a valid number allowed (write 0.001, not 1e-3)"),
        ({"epochs": True}, "a valid integer"),
        ({"scales": [1.0, 0.0]}, "scales.1: 0.0 given, greater than 0"),
        ({"kernels": [1.0]}, "less than 1"),
        ({"crop": 256, "resize": 224}, "at most resize"),
        ({"results": "../elsewhere"}, "below the project's root"),
        ({"checkpoint": "/a.safetensors"}, "below the project's root"),
        ({"alfa": 1}, "unknown parameter 'alfa'; allowed: "),
        ({"resize": 60000}, "resize: 60000 given, less than or equal to 4096 allowed"),
        ({"image_size": 30000}, "image_size: 30000 given, less than or equal to 4096 allowed"),
        ({"seed": 2**64}, "seed: 18446744073709551616 given, less than"),
        ({"seed": 10**5000}, "seed: a number of over 4,300 digits given, less than"),
        ({"weight_decay": 1e30}, "weight_decay: 1e+30 given, less than or equal to 10 allowed"),
        ({"learning_rate": float("inf")}, "learning_rate: inf given, a finite number allowed"),
        ({"alpha": 1e39}, "alpha: 1e+39 given, less than or equal to 1000000 allowed"),
        ({"layers": "Mixed_6e " * 999}, "a valid list"),
        ({1: 2}, "1: 1 given, keys should be strings"),
    ],
)
def test_values_that_are_refused(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as told:
        validated(values)
    assert "\n" not in str(told.value)


def test_a_whole_number_passes_for_a_float_and_what_was_given_is_known() -> None:
    found = validated({"alpha": 3, "layer": "add1"})
    assert found.alpha == 3.0 and found.model_fields_set == {"alpha", "layer"}
    assert found.localizing == {"size": 160, "alpha": 3.0, "rule": "released", "device": "auto"}


def test_a_notebook_checks_itself(project: Path) -> None:
    around = {"__name__": "__main__", "_i1": "x", "In": ["x"], "Path": Path, "results": "results/.quick"}
    assert declared(project / "notebooks" / "01_first.ipynb") == ["results", "alpha"]
    assert study.check("01_first", {**around, "alpha": 3}).alpha == 3
    with pytest.raises(UserError, match="01_first: unknown parameter 'alfa'; allowed: results, alpha"):
        study.check("01_first", {**around, "alpha": 3.0, "alfa": 3.0})
    with pytest.raises(UserError, match="'3' given, a valid number"):
        study.check("01_first", {**around, "alpha": "3"})


# Profiles


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"3", "profile odd: 3 given, lines of"),
        (b"data: caf\xe9", "profile odd is not YAML"),
        (b"[a]", "profile odd: ['a']"),
    ],
)
def test_a_profile_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, said: str) -> None:
    monkeypatch.setattr("dgl_lib.study.profile.PROFILES", tmp_path)
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(said)) as told:
        read_profile("odd")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fast", [], "unknown profile 'fast'; allowed: full, quick"),
        ("full", ["alfa=1"], "unknown parameter 'alfa'"),
        ("full", ["alpha=1e-3"], "'1e-3' given, a valid number allowed (write 0.001"),
        ("full", ["alpha"], "name=value"),
        ("full", ["layers=add1"], "a valid list"),
        ("full", ["scales=[1,2"], "--set scales=[1,2 is not YAML"),
        ("full", ["epochs='3"], "is not YAML"),
        ("full", ["epochs=a: b: c"], "is not YAML"),
        ("full", ["epochs=2020-13-45"], "is not YAML"),
        ("full", [f"epochs={'9' * 5000}"], "is not YAML"),
        ("full", [f"layers={'[' * 5000}"], "is not YAML"),
        ("full", ["scales=[0.75,1e0]"], "scales.1: '1e0' given, a valid number allowed (write 0.001"),
        ("full", ["kernels=[1e-2]"], "kernels.0: '1e-2' given, a valid number allowed (write 0.001"),
        ("full", ["results=caf\udce9"], "results: 'caf\\udce9' given"),
        ("full", ["alpha=-1"], "greater than 0"),
        ("full", ["layers=[nowhere]"], "'nowhere' given"),
        ("full", ["layers=[layer4.2]"], "layers: 'layer4.2' given, which spg_plain lacks; allowed: Mixed_5b"),
        ("full", ["layer=conv5_3"], "'conv5_3' given, which spg_plain lacks"),
        ("full", ["checkpoint=elsewhere"], "no file at 'elsewhere'"),
        ("full", ["scales=[0.1,1.0]", "image_size=128"], "scales: 0.1 of 128 px given, which is 13 px"),
        ("full", ["alpha=.inf"], "a finite number allowed"),
        ("full", ["checkpoint=trained", "network=vgg16_gap", "layers=[add2]"], "'add2' given, which vgg16_gap lacks"),
    ],
)
def test_refused_before_anything_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, settings: list[str], message: str
) -> None:
    monkeypatch.setattr(runner, "execute", lambda *a, **k: pytest.fail("a notebook ran"))
    monkeypatch.setattr(steps, "fit", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(UserError, match=re.escape(message)):
        run(name, *settings)
    assert not (project / "results").exists()


def test_a_layer_on_which_all_maps_are_one_is_refused_for_the_notebook_that_compares_them(project: Path) -> None:
    write_notebook(project / "notebooks" / "03_third.ipynb", FIRST)
    with pytest.raises(UserError, match="layer: 'add1' given, where all methods give one map; one before it allowed"):
        run("full", "layer=add1")
    assert not (project / "results").exists()


def test_folders_in_the_environment_are_where_the_command_was_typed(tmp_path: Path, monkeypatch) -> None:
    """Kernels run in ``notebooks``, where a relative path would lead elsewhere."""
    monkeypatch.chdir(tmp_path)
    for name in ("DGL_DATA", "DGL_WEIGHTS", "DGL_WSOL_METADATA"):
        monkeypatch.setenv(name, "here")
    monkeypatch.setenv("MPLBACKEND", "Agg")  # with which a notebook shows no figures
    runner.absolute_environment()
    assert "MPLBACKEND" not in os.environ
    assert {os.environ[name] for name in ("DGL_DATA", "DGL_WEIGHTS", "DGL_WSOL_METADATA")} == {str(tmp_path / "here")}


@pytest.mark.parametrize("network", ["vgg16_gap", "resnet50_se"])
def test_another_network_comes_with_its_own_layers(network: str) -> None:
    """By the one parameter, and what is set by hand stays so."""
    names = [layer.name for layer in LAYERS[network]]
    found = read_profile("creatures", [f"network={network}"])
    assert (found.layers, found.layer, found.network) == (names, LAYER[network], network)
    found = read_profile("creatures", [f"layer={names[-1]}", f"network={network}"])
    assert (found.layers, found.layer) == (names, names[-1])
    # The quick profile localizes with the committed SPG-plain, whatever it trains.
    assert read_profile("quick", [f"network={network}"]).layer == "Mixed_6e"


# Running


def test_a_study_from_end_to_end(project: Path) -> None:
    folder = run("full", "alpha=3")
    assert folder == project / "results" / "full"
    assert (folder / "first.csv").read_text() == "3.0\n"
    assert (folder / "second.csv").read_text() == "['add2', 'add1'] creatures\n"
    manifest = json.loads((folder / "manifest.json").read_text())["notebooks"]
    assert list(manifest) == ["01_first", "02_second"]
    first = manifest["01_first"]
    assert first["command"] == "as typed" and first["parameters"]["alpha"] == 3
    assert {"maps", "notebook"} <= set(first["seconds"])
    assert {"python", "torch", "torchvision", "numpy", "opencv-python-headless"} <= set(first["versions"])
    assert {"processor", "cores", "memory_gib", "bf16", "gpu", "system"} == set(first["hardware"])
    assert set(first["code"]) == {"commit", "dirty"} and set(first["data_sha256"]) == {"train", "val", "test"}
    assert first["files"] == {name: sha256(folder / name) for name in ("01_first.ipynb", "first.csv")}
    made = {p.name for p in folder.iterdir()}
    assert made == {*first["files"], *manifest["02_second"]["files"], "manifest.json"} | {
        f"{name}.csv" for name in ("claims", "deviations", "amendments")
    }
    assert 'results = "results/full"' in nbformat.read(folder / "01_first.ipynb", 4).cells[1].source
    for file in folder.iterdir():
        assert str(project) not in file.read_text(), f"{file.name} holds a path of this machine"
    assert not [p for p in folder.parent.iterdir() if p.is_dir() and p != folder]  # the stage is gone

    # The same again gives the same bytes; what only the earlier run made goes, what is not the study's stays.
    before = {p.name: p.read_bytes() for p in folder.glob("*.ipynb")}
    assert b"papermill" not in before["01_first.ipynb"]
    (folder / "seeds.csv").write_text("by hand\n")
    write_notebook(project / "notebooks" / "02_second.ipynb", SECOND, "1")
    run("full", "alpha=3")
    assert (folder / "01_first.ipynb").read_bytes() == before["01_first.ipynb"]
    assert (folder / "seeds.csv").exists() and not (folder / "second.csv").exists()


def test_figures_to_print_come_along_untold(project: Path) -> None:
    """Git leaves SVG out, so a manifest that told of it would be wrong in a clone. It goes with its PNG."""
    stage, folder = project / "stage", project / "results" / "full"
    for kind in ("png", "svg"):
        write_text(stage / "01_first" / f"a.{kind}", kind)
        write_text(folder / f"own.{kind}", kind)
    manifests.publish(stage, folder, {"01_first": {}})
    assert list(manifests.read(folder)["notebooks"]["01_first"]["files"]) == ["a.png"]
    assert (folder / "a.svg").read_text() == "svg"
    write_text(stage / "01_first" / "b.png", "png")
    manifests.publish(stage, folder, {"01_first": {}})
    assert {path.name for path in folder.iterdir()} == {"b.png", "own.png", "own.svg", "manifest.json"}


def test_one_notebook_alone_leaves_what_the_others_made(project: Path) -> None:
    folder = run()
    run("full", "alpha=7", notebooks=["01"])
    assert (folder / "first.csv").read_text() == "7.0\n" and (folder / "second.csv").exists()
    manifest = json.loads((folder / "manifest.json").read_text())["notebooks"]
    assert [manifest[name]["parameters"]["alpha"] for name in ("01_first", "02_second")] == [7, 2]
    with pytest.raises(UserError, match=r"notebooks: 09 given, 01, 02, .* allowed"):
        run(notebooks=["09"])


def test_a_notebook_that_reads_tables_gets_them_first(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written to where its own tables and figures go, and published with them."""
    declares = ["results: str = 'results/.quick'  # folder", "tables: str = 'results/creatures'  # folder"]
    copy = "Path('../' + results + '/05_b.csv').write_text(Path('../' + tables + '/05_a.csv').read_text());"
    write_notebook(project / "notebooks" / "05_tables.ipynb", declares, "from pathlib import Path\n" + copy)
    written = lambda p, folder, progress: write_text(folder / "05_a.csv", f"{p.alpha}\n")  # noqa: E731
    monkeypatch.setitem(runner.TABLES, "05", written)
    folder = run(notebooks=["05"])
    assert (folder / "05_a.csv").read_text() == (folder / "05_b.csv").read_text() == "2.0\n"
    assert 'tables = "results/full"' in (folder / "05_tables.ipynb").read_text().replace('\\"', '"')


def test_a_failing_notebook_leaves_earlier_results(project: Path) -> None:
    folder = run()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    write_notebook(project / "notebooks" / "02_second.ipynb", SECOND, "1 + 1", "raise KeyError('no such\\nlayer')")
    with pytest.raises(UserError) as error:
        run("full", "alpha=7")
    kept = "kept in results/.full.failed"
    assert str(error.value) == f"02_second.ipynb, cell [4]: KeyError: 'no such\\nlayer' ({kept})"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    failed = project / "results" / ".full.failed"
    assert (failed / "01_first" / "first.csv").read_text() == "7.0\n"  # what succeeded is not lost
    assert "KeyError" in (failed / "02_second" / "02_second.ipynb").read_text()


def test_a_kernel_that_dies(tmp_path: Path) -> None:
    write_notebook(tmp_path / "n.ipynb", FIRST, "import os; os._exit(1)")
    with pytest.raises(UserError, match=r"n\.ipynb: Kernel died"):
        notebooks.execute(tmp_path / "n.ipynb", tmp_path / "out.ipynb", {}, published={}, progress=False)


def test_two_studies_do_not_mix(project: Path) -> None:
    with (
        exclusive(project / "results" / "full"),
        pytest.raises(UserError, match=r"full is being written by process \d+ since"),
    ):
        run()


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks leave a table each, and no kernel starts."""

    def leave(source: Path, output: Path, *_: Any, **__: Any) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, "{}")
        write_text(output.parent / f"{source.stem[3:]}.csv", "2.0\n")

    monkeypatch.setattr(runner, "execute", leave)


def test_photographs_shown_meanwhile_stay_out_of_the_results(project: Path, no_kernel, monkeypatch) -> None:
    """A second run of the profile that shows photographs, while the first executes its notebooks."""
    folders, leave = [], runner.execute

    def meanwhile(source: Path, output: Path, *rest: Any, **options: Any) -> None:
        leave(source, output, *rest, **options)
        folders.append(output.parent)
        if len(folders) == 1:
            assert run("full", "show_photos=true") == project / "results" / ".photos" / "full"
            assert output.is_file()

    monkeypatch.setattr(runner, "execute", meanwhile)
    run()
    assert len(folders) == len(set(folders)) == 4
    assert (project / "results/full/01_first.ipynb").is_file()


def test_the_committed_notebooks_are_run_by_one_at_a_time(project: Path) -> None:
    before = (project / "notebooks" / "01_first.ipynb").read_bytes()
    with (
        exclusive(project / "results" / ".notebooks"),
        pytest.raises(UserError, match=r"\.notebooks is being written by process \d+ since"),
    ):
        runner.rerun_committed(progress=False)
    assert (project / "notebooks" / "01_first.ipynb").read_bytes() == before


@pytest.mark.parametrize("whole", [True, False])
def test_results_on_another_disk(project: Path, no_kernel, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """``results``, or the folder of one profile in it, is a link to a disk to which nothing can be renamed."""
    disk, rename = project / "disk", files.os.replace
    place = project / "results" if whole else project / "results" / "full"
    disk.mkdir()
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(disk)

    def within_a_disk(source: Path, target: Path) -> None:
        if lies_in(source.parent, disk) != lies_in(target.parent, disk):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", within_a_disk)
    run()
    run()
    assert (disk / "full" if whole else disk).joinpath("first.csv").read_text() == "2.0\n"
    runner.rerun_committed(progress=False)


def test_a_manifest_leads_nowhere_else_and_a_damaged_one_is_set_aside(project: Path, no_kernel) -> None:
    manifest, own = run() / "manifest.json", project / "results" / "own.txt"
    own.write_text("not ours")
    document = json.loads(manifest.read_text())
    document["notebooks"]["01_first"]["files"]["../own.txt"] = "0"
    manifest.write_text(json.dumps(document))
    run()
    assert own.is_file()
    manifest.write_text("")
    with pytest.warns(UserWarning, match=r"^full/manifest.json is damaged \(.*\): set aside and made again$"):
        run("full", notebooks=["01"])
    assert list(json.loads(manifest.read_text())["notebooks"]) == ["01_first"]
    assert manifest.with_name("manifest.json.damaged").is_file()


def test_results_among_the_data_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Creatures("val", 16)
    data.root = project / "results"
    monkeypatch.setattr(steps, "load", lambda *_: data)
    monkeypatch.setattr(runner, "check_inputs", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"output folder: .*full' given, one apart from the data's"):
        run()


def test_the_lock_goes_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), exclusive(tmp_path / "a"):
        raise KeyError
    with exclusive(tmp_path / "a"):
        pass


def test_quick_and_photographs_stay_out_of_git(project: Path) -> None:
    assert run("quick") == project / "results" / ".quick"
    assert run("full", "show_photos=true") == project / "results" / ".photos" / "full"
    assert run(out=project / "results" / "mine") == project / "results" / "mine"
    for out in (project.parent / "elsewhere", project / "results" / ".." / ".." / "elsewhere"):
        with pytest.raises(UserError, match="a folder below the project's root allowed"):
            run(out=out)


def test_rerunning_the_committed_notebooks(project: Path) -> None:
    (project / "notebooks" / "02_second.ipynb").unlink()  # one is enough
    (project / "results" / ".quick").mkdir(parents=True)
    runner.rerun_committed(progress=False)
    first = (project / "notebooks" / "01_first.ipynb").read_bytes()
    assert b"alpha 10.0" in first and b"injected" not in first
    runner.rerun_committed(progress=False)
    assert (project / "notebooks" / "01_first.ipynb").read_bytes() == first


def test_no_widget_is_left_in_a_notebook(tmp_path: Path) -> None:
    """Its id is random, so two runs would differ."""
    write_notebook(file := tmp_path / "n.ipynb", FIRST, "slider", "1 + 1")
    notebook = nbformat.read(file, as_version=4)
    for cell, data in zip(
        notebook.cells[1:], ({notebooks.WIDGET: {"model_id": "0a1b"}}, {"text/plain": "2"}), strict=True
    ):
        cell.outputs = [nbformat.v4.new_output("execute_result", data, execution_count=1)]
    nbformat.write(notebook, file)
    notebooks.clean(file, {})
    assert [len(cell.outputs) for cell in nbformat.read(file, as_version=4).cells] == [0, 0, 1]


# Training

TINY = {
    "width": 1 / 16,
    "train_count": 16,
    "resize": 32,
    "crop": 32,
    "epochs": 1,
    "batch_size": 8,
    "device": "cpu",
    "learning_rate": 0.001,
    "trunk_learning_rate": 0.001,
    "weight_decay": 0.0,
}


def tiny(**changes: Any) -> Profile:
    return validated(TINY | changes)


@pytest.mark.parametrize("left", [0, 1000])
def test_a_damaged_classifier_is_set_aside_and_trained_again(project: Path, left: int, caplog) -> None:
    with caplog.at_level(logging.INFO, "dgl_lib"):
        whole = (checkpoint := study.train_classifier(tiny())).read_bytes()
    assert caplog.messages == ["training from random weights"]
    checkpoint.write_bytes(whole[:left])
    with pytest.warns(UserWarning, match=r"classifier.safetensors is damaged .*: set aside and made again"):
        assert study.train_classifier(tiny()) == checkpoint
    assert checkpoint.read_bytes() == whole
    assert checkpoint.with_name("classifier.safetensors.damaged").stat().st_size == left


def test_a_trained_classifier_is_found_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = study.train_classifier(tiny())
    assert checkpoint.parent.parent == project / "results" / ".runs"
    assert re.fullmatch("creatures-[0-9a-f]{12}", checkpoint.parent.name)
    assert (checkpoint.parent / "history.csv").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(steps, "fit", lambda *a, **k: pytest.fail("trained again"))
        assert study.train_classifier(tiny(alpha=5.0)) == checkpoint  # what training does not read changes nothing
    digest = sha256(checkpoint)
    checkpoint.unlink()
    assert sha256(study.train_classifier(tiny())) == digest


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"epochs": 2},
        {"train_count": 0},
        {"learning_rate": 0.002},
        {"network": "vgg16_gap"},
        {"labels": "shuffled"},
        {"padding": "tensorflow"},
    ],
)
def test_what_determines_a_run_names_it(project: Path, monkeypatch: pytest.MonkeyPatch, change: dict) -> None:
    monkeypatch.setattr(steps, "fit", lambda *a, **k: None)
    assert study.train_classifier(tiny(**change)) != study.train_classifier(tiny())


def test_runs_from_before_there_was_a_choice_are_found_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name as it was taken then: of all facts but ``network``, ``padding`` and ``labels``."""
    monkeypatch.setattr(steps, "fit", lambda *a, **k: pytest.fail("trained again"))
    facts = TINY | {"data": "creatures", "seed": 0, "weights": None, "format": 1}
    facts["data_sha256"] = {"train": Creatures("train", 16).digest, "val": steps.load("", "val").digest}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    checkpoint = project / "results" / ".runs" / f"creatures-{key}" / "classifier.safetensors"
    assert not steps.is_trained(tiny())
    write_bytes(checkpoint, committed_checkpoint().read_bytes())
    assert steps.is_trained(tiny()) and study.train_classifier(tiny()) == checkpoint
    assert not steps.is_trained(tiny(labels="shuffled"))


@pytest.mark.parametrize(("network", "labels"), [("vgg16_gap", "shuffled"), ("resnet50_se", "given")])
def test_network_and_labels_reach_the_training(project: Path, monkeypatch, network: str, labels: str) -> None:
    seen: list[tuple] = []
    monkeypatch.setattr(steps, "fit", lambda *parts, **k: seen.append((*parts[:3], k["facts"])))
    study.train_classifier(tiny(network=network, labels=labels))
    [(model, train, val, facts)] = seen
    assert model.architecture == network and facts["network"] == network
    given = Creatures("train", 16).labels
    assert (train.labels == given).all() == (labels == "given") and facts.get("labels", "given") == labels
    assert (val.labels == steps.load("", "val").labels).all()  # what chooses the epoch stays true


def test_padding_reaches_the_training_and_its_checkpoint(project: Path, monkeypatch) -> None:
    def save(model, train, val, folder, recipe, **k) -> None:
        save_checkpoint(model, folder / "classifier.safetensors", **k["facts"])

    monkeypatch.setattr(steps, "fit", save)
    loaded = load_checkpoint(study.train_classifier(tiny(padding="tensorflow")))
    assert loaded.padding == loaded.facts["padding"] == "tensorflow"
    loaded = load_checkpoint(study.train_classifier(tiny()))
    assert loaded.padding == "symmetric" and "padding" not in loaded.facts
    with pytest.raises(UserError, match="padding of vgg16_gap: 'tensorflow' given, one of symmetric"):
        study.train_classifier(tiny(padding="tensorflow", network="vgg16_gap"))


def test_the_published_networks_are_those_of_the_present_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a study would train the five anew, in half an hour. The pictures themselves are not drawn here."""

    class Drawn(list[int]):
        digest = ""

    def load(_data: str, split: str, _skip: bool) -> Drawn:
        drawn = Drawn(range(8))
        drawn.digest = load_checkpoint(committed_checkpoint()).facts["data_sha256"][split]
        return drawn

    monkeypatch.setattr(steps, "load", load)
    for seed in range(5):
        found = steps.published(read_profile("creatures", [f"seed={seed}"]))
        assert found == committed_checkpoint(f"creatures-{seed}")
    for other in ("seed=5", "reach=1.0", "epochs=8", "padding=tensorflow"):
        assert steps.published(read_profile("creatures", [other])) is None


def test_training_refused(project: Path) -> None:
    with pytest.raises(UserError, match=re.escape("25 given, 0 (all) to 24")):
        study.train_classifier(tiny(train_count=25))
    with pytest.raises(UserError, match=r"no file at 'nowhere\.safetensors'"):
        study.train_classifier(tiny(weights="nowhere.safetensors"))


def test_training_alone_needs_no_layers(project: Path) -> None:
    settings = [f"{name}={value}" for name, value in TINY.items()]
    checkpoint = run("full", *settings, "network=vgg16_gap", until="train")
    assert load_checkpoint(checkpoint).architecture == "vgg16_gap"


def test_notebooks_get_the_trained_classifier(project: Path) -> None:
    settings = [*(f"{name}={value}" for name, value in TINY.items()), "checkpoint=trained"]
    checkpoint = run("full", *settings, until="train")
    folder = run("full", *settings)
    assert (folder / "second.csv").read_text().split()[-1] == checkpoint.relative_to(project).as_posix()
    known = json.loads((folder / "manifest.json").read_text())["notebooks"]["01_first"]
    assert known["checkpoint_sha256"] == sha256(checkpoint)
    assert known["seconds"]["training"] >= 0


@pytest.mark.parametrize("network", ["spg_plain", "vgg16_gap"])
def test_maps_are_made_once_and_are_of_the_networks_own_layers(project: Path, monkeypatch, network: str) -> None:
    own = [layer.name for layer in LAYERS[network]]
    checkpoint = study.train_classifier(tiny(network=network)).relative_to(project).as_posix()
    asked = {"image_size": 32, "val_per_class": 1, "test_per_class": 1, "layer": own[-3], "layers": own[-3:]}
    asked |= {"ablation_methods": ["grad_cam_signed"], "scales": [1.0, 1.5], "checkpoint": checkpoint}
    found = tiny(network=network, **asked)
    runner.localize(found, {"03", "04"}, progress=False)
    monkeypatch.setattr(evaluate.raw, "localize", lambda *a: pytest.fail("made again"))
    model, val = study.classifier(checkpoint, "creatures", own[-3:]), study.part("creatures", "val", 1)
    options = found.localizing | {"folder": paths.runs_folder()}
    maps = evaluate.every_map(model, val, **options).maps
    assert [layer for method, layer in maps if method == "dgl"] == own
    assert [layer for method, layer in maps if method == "cam"] == own[-1:]
    scales = evaluate.maps_of_scales(
        model, val, layer=own[-3], methods=["grad_cam_signed"], scales=[1.0, 1.5], **options
    )
    methods = ("grad_cam_signed", "dgl", "pixel_selection")
    methods += ("enhanced_map", "enhanced_map_positive", "enhanced_map_norm")
    both = {(m, layer) for m in methods for layer in (own[-3], own[-1])}
    assert set(scales[1.0].maps) == both | {("cam", own[-1])}
    stride = LAYERS[network][-3].stride
    shapes = {s: one.maps["dgl", own[-3]].shape for s, one in scales.items()}
    assert shapes == {s: (len(CLASSES), *[round(32 * s) // stride] * 2) for s in (1.0, 1.5)}


def test_a_checkpoint_that_does_not_fit(project: Path) -> None:
    with pytest.raises(UserError, match="'conv5_3' given, which spg_plain lacks"):
        study.classifier("creatures", "creatures", ["conv5_3"])


# The README


def test_readme_blocks(project: Path) -> None:
    path = project / "README.md"
    path.write_text("# T\n<!-- begin: deviations -->\nstale\n<!-- end: deviations -->\nend\n")
    with pytest.raises(UserError, match=r"README.md is not in step with results"):
        readme.update_readme(path, check=True)
    readme.update_readme(path)
    assert "| padding " in path.read_text() and "stale" not in path.read_text()
    readme.update_readme(path, check=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- begin: deviations -->\n", "begin without an end"),
        ("<!-- begin: x -->\n<!-- end: x -->", "'x' is unknown; allowed: found, amendments, deviations"),
    ],
)
def test_readme_blocks_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        readme.generated(text)


def test_the_readme_says_what_the_results_say() -> None:
    readme.update_readme(check=True)
