"""The study from end to end: check everything, train, evaluate, run the notebooks, gather claims and manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from dgl_lib import claims, datasets, manifest, notebooks, paths
from dgl_lib.data import Dataset, Shuffled, Subset
from dgl_lib.data.creatures import Creatures
from dgl_lib.errors import UserError
from dgl_lib.evaluate.scores import Maps, raw_maps
from dgl_lib.files import exclusive, sha256, write_text
from dgl_lib.localize import CONTROLS, METHODS
from dgl_lib.models import LAYERS, NETWORKS, Classifier, load_checkpoint
from dgl_lib.study.parameters import check_notebook
from dgl_lib.study.paths import checkpoint_path, project_root, results_folder
from dgl_lib.study.plan import Plan, read_plan
from dgl_lib.training import fit, pick_device, read_history

__all__ = [
    "check",
    "checkpoint_path",
    "classifier",
    "every_map",
    "is_trained",
    "load",
    "make_page",
    "maps_of_layers",
    "maps_of_scales",
    "part",
    "project_root",
    "read_plan",
    "results_folder",
    "run",
    "train_classifier",
]

FORMAT = 1  # raised when a change to the library makes earlier cached runs wrong

FIT = (
    *("resize", "crop", "epochs", "batch_size", "learning_rate", "trunk_learning_rate", "weight_decay"),
    *("seed", "device"),
)
TRAINING = ("data", "network", "width", "weights", "train_count", "labels", *FIT)
# Not named among a run's facts at these values: runs from before there was a choice are found again.
AS_BEFORE = {"network": "spg_plain", "labels": "given"}


def check(notebook: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """For a notebook's first cell after its parameters: ``study.check("01_train_classifier", globals())``."""
    return check_notebook(paths.notebook_path(notebook), variables)


@cache
def _load(data: str, split: str, root: str | None) -> Dataset:
    return datasets.load(data, split, root=root)


def load(data: str, split: str) -> Dataset:
    """A whole split, kept between the steps of one study (creatures are drawn once)."""
    return _load(data, split, os.environ.get("DGL_DATA"))


def check_inputs(plan: Plan, *, localizing: bool = True, scoring: bool = True) -> None:
    """Open what the plan needs, so that hours of work do not end at a missing file: device, data, photographs, weights.

    Args:
        localizing: check too that the network has the layers; training alone needs none.
        scoring: check too that the data have masks; maps alone need none.

    Raises:
        UserError: one of them is missing or not what it should be, or notebooks disagree on the data.
    """
    merged = plan.merged
    for name in ("checkpoint", "weights"):
        if any(Path(values.get(name, "")).is_absolute() for values in plan.notebooks.values()):
            raise UserError(
                f"{name}: an absolute path given, one relative to the project's root allowed (it is published)"
            )
    if len({values["data"] for values in plan.notebooks.values() if "data" in values}) > 1:
        raise UserError("data: the notebooks' values differ; set it in the profile")
    if "device" in merged:
        pick_device(merged["device"])
    if "weights" in merged:
        paths.weights_source(merged["weights"])
    for values in plan.notebooks.values():
        network = merged.get("network")
        if values.get("checkpoint", "trained") != "trained":
            network = load_checkpoint(checkpoint_path(values["checkpoint"])).architecture
        if network and localizing:
            _check_layers(values, network)
    if scoring and "data" in merged:
        _check_masks(merged["data"])
    for split in datasets.SPLITS if "data" in merged else ():
        decode_all = getattr(load(merged["data"], split), "check", None)
        if decode_all:
            decode_all()


def _check_masks(data: str) -> None:
    """UserError unless the images of val and test have masks."""
    for split in ("val", "test"):
        if load(data, split)[0].mask is None:  # of every data set, a split has all of its masks or none
            raise UserError(
                f"data: {data!r} has no masks of its {split} images, and pixels are scored against masks;"
                " `dgl evaluate` gives box scores without"
            )


def train_classifier(parameters: Mapping[str, Any], *, progress: bool = False) -> Path:
    """Train a classifier from image labels alone, or find it trained, or resume it; return its checkpoint.

    The run's folder, ``results/.runs/DATA-HASH``, is named by the hash of all that determines the result: parameters,
    data, starting weights, kind of device, format version. ``history.csv`` stands beside the checkpoint.

    Args:
        parameters: the values named in ``TRAINING``; others are ignored.
        progress: draw a bar.

    Raises:
        UserError: a parameter is missing, or data or weights are not what they should be.
    """
    p, train, val, facts = _training(parameters)
    checkpoint = _run_folder(facts) / "classifier.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(checkpoint.with_name(".lock")):  # whoever comes second waits, and finds it trained
        if not checkpoint.is_file():
            with torch.random.fork_rng():
                torch.manual_seed(p["seed"])
                weights = paths.weights_source(p["weights"])
                model = NETWORKS[p["network"]](len(train.classes), width=p["width"], weights=weights)
            settings = {name: p[name] for name in FIT}
            fit(model, train, val, folder=checkpoint.parent, progress=progress, facts=facts, **settings)
    return checkpoint


def is_trained(parameters: Mapping[str, Any]) -> bool:
    """Whether ``train_classifier`` would find these parameters' classifier trained. UserError: as there."""
    *_, facts = _training(parameters)
    return (_run_folder(facts) / "classifier.safetensors").is_file()


def _training(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], Dataset, Dataset, dict[str, Any]]:
    """What training reads: its parameters, its images (train, val), and the facts that determine its result."""
    if missing := [name for name in TRAINING if name not in parameters]:
        raise UserError(f"training: {missing[0]} is missing; needed: {', '.join(TRAINING)}")
    p = {name: parameters[name] for name in TRAINING}
    train, val = _training_part(p["data"], p["train_count"]), load(p["data"], "val")
    if p["labels"] == "shuffled":
        train = Shuffled(train, p["seed"])
    weights = paths.weights_source(p["weights"])
    facts = {name: value for name, value in p.items() if AS_BEFORE.get(name) != value} | {
        "weights": sha256(weights) if isinstance(weights, Path) else weights,
        "device": pick_device(p["device"]).type,
        "data_sha256": {"train": train.digest, "val": val.digest},
        "format": FORMAT,
    }
    return p, train, val, facts


def _run_folder(facts: Mapping[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return paths.runs_folder() / f"{facts['data']}-{key}"


def _training_part(data: str, count: int) -> Dataset:
    """``count`` images of the training split, the classes as even as they come; 0 means all."""
    train = load(data, "train")
    if count > len(train):
        raise UserError(f"train_count: {count} given, 0 (all) to {len(train)} allowed")
    if count in (0, len(train)):
        return train
    if isinstance(train, Creatures):  # class i mod n is image i, and those beyond the count need not be drawn
        return Creatures("train", count)
    place = pd.Series(train.labels).groupby(train.labels).cumcount().to_numpy()  # first of its class, second, ...
    return Subset(train, sorted(np.argsort(place, kind="stable")[:count].tolist()))


def run(profile: str, settings: Sequence[str] = (), *, until: str = "notebooks", progress: bool = True) -> Path:
    """Run a study: check everything, train, evaluate, run the notebooks; ``until`` ends it after "train" or "evaluate".

    Nothing reaches the results folder before every notebook has succeeded; what a failed run made is kept in
    ``results/.runs/failed/PROFILE``, and training and cached tables are found again by the next run.

    Returns:
        the results folder, or the checkpoint with ``until="train"``.

    Raises:
        UserError: something asked for cannot be done (see ``read_plan`` and ``check_inputs``), a notebook failed, or
            another study is writing to the same folder.
    """
    absolute_environment()
    plan = read_plan(profile, settings)
    target = results_folder(plan.profile, plan.merged.get("show_photos", False))
    seconds: dict[str, float] = {}
    with _writing(target):
        plan, checkpoint = _prepare(plan, seconds, progress, localizing=until != "train", scoring=until == "notebooks")
        if until == "train" and checkpoint:
            return checkpoint
        with _timed(seconds, "evaluate"):
            evaluate(plan, progress=progress)
        if until == "evaluate":
            return target
        stage = _empty(paths.runs_folder() / "stage" / target.name)
        try:
            for name, values in plan.notebooks.items():
                source, output = paths.notebook_path(name), stage / f"{name}.ipynb"
                with _timed(seconds, name), _results_in(stage):
                    notebooks.execute(source, output, values, cwd=source.parent, progress=progress)
        except UserError as error:
            failed = paths.runs_folder() / "failed" / target.name
            os.replace(stage, _gone(failed))
            raise UserError(f"{error} (kept in {failed.relative_to(paths.project_root()).as_posix()})") from None
        write_text(stage / "claims.csv", claims.claims_table(stage).to_csv(index=False, lineterminator="\n"))
        write_text(stage / "claims.md", claims.claims_markdown(stage) + "\n")
        write_text(stage / "deviations.csv", claims.deviations().to_csv(index=False, lineterminator="\n"))
        manifest.write_manifest(stage, _facts(plan, checkpoint, _command("study", profile, settings), seconds))
        manifest.publish(stage, target)
    return target


def make_page(
    kind: str,
    profile: str,
    settings: Sequence[str],
    make: Callable[[dict[str, Any], Path], None],
    *,
    progress: bool = True,
) -> Path:
    """Make ``results/PROFILE/KIND``: a page (README.md) with its tables and figures, and their manifest.

    Args:
        kind: the folder's name, and the command's that makes it.
        make: called with the profile's parameters, its classifier trained, and an empty folder to write to; what it
            wrote is published once it returns, and nothing of it if it raises.

    Raises:
        UserError: as ``run``.
    """
    absolute_environment()
    plan = read_plan(profile, settings)
    target = results_folder(plan.profile) / kind
    seconds: dict[str, float] = {}
    with _writing(target):
        plan, checkpoint = _prepare(plan, seconds, progress)
        stage = _empty(paths.runs_folder() / "stage" / f"{target.parent.name}-{kind}")
        with _timed(seconds, kind):
            make(plan.merged, stage)
        manifest.write_manifest(stage, _facts(plan, checkpoint, _command(kind, profile, settings), seconds))
        manifest.publish(stage, target)
    return target


def _writing(target: Path) -> AbstractContextManager[None]:
    """The lock of a results folder."""
    name = target.relative_to(paths.project_root() / "results").as_posix()
    return exclusive(paths.runs_folder() / f"{name.replace('/', '-')}.lock", f"results/{name}")


def _prepare(
    plan: Plan, seconds: dict[str, float], progress: bool, *, localizing: bool = True, scoring: bool = True
) -> tuple[Plan, Path | None]:
    """Check all inputs, and train the classifier or find it trained; the plan then names its checkpoint."""
    with _timed(seconds, "check"):
        check_inputs(plan, localizing=localizing, scoring=scoring)
    checkpoint = None
    if all(name in plan.merged for name in TRAINING):
        checkpoint = train_classifier(plan.merged, progress=progress)
        seconds["train"] = round(read_history(checkpoint.parent)[-1]["seconds"], 1)  # of all its sessions together
    return _with_checkpoint(plan, checkpoint), checkpoint


def _command(name: str, profile: str, settings: Sequence[str]) -> str:
    return " ".join(["python -m dgl_lib", name, profile, *(f"--set {setting}" for setting in settings)])


def part(parameters: Mapping[str, Any], split: str) -> Dataset:
    """The images of "val" or "test" that a study localizes: ``val_per_class`` or ``test_per_class`` of each class."""
    return datasets.first_per_class(load(parameters["data"], split), parameters[f"{split}_per_class"])


def classifier(parameters: Mapping[str, Any]) -> Classifier:
    """The trained classifier that ``checkpoint`` names.

    Raises:
        UserError: its classes are not those of ``data``, or it lacks ``layer`` or one of ``layers``.
    """
    model = load_checkpoint(checkpoint_path(parameters["checkpoint"]))
    if model.classes != (classes := load(parameters["data"], "val").classes):
        raise UserError(
            f"checkpoint {parameters['checkpoint']!r} knows {len(model.classes)} classes ({model.classes[0]}, ..), "
            f"{parameters['data']!r} has {len(classes)} ({classes[0]}, ..)"
        )
    _check_layers(parameters, model.architecture)
    return model


def _check_layers(parameters: Mapping[str, Any], network: str) -> None:
    """UserError at the first of ``layer`` and ``layers`` that ``network`` lacks."""
    known = [layer.name for layer in LAYERS[network]]
    for name in ("layers", "layer"):
        for asked in _listed(parameters.get(name, [])):
            if asked not in known:
                raise UserError(f"{name}: {asked!r} given, which {network} lacks; allowed: {', '.join(known)}")


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def every_map(parameters: Mapping[str, Any], split: str, *, progress: bool = False) -> Maps:
    """Raw maps of every method and control on every layer, kept on disk: all that is compared comes from these."""
    model = classifier(parameters)
    layers = [layer.name for layer in model.layers]
    return _raw_maps(model, parameters, split, layers, [*METHODS, *CONTROLS], 1.0, progress)


def maps_of_layers(parameters: Mapping[str, Any], split: str, *, progress: bool = False) -> Maps:
    """Raw maps of notebook 03: ``layers`` x ``methods``, the plain features, and CAM where it exists."""
    every = every_map(parameters, split, progress=progress)
    methods = dict.fromkeys(["cam", "features", *parameters["methods"]])
    return every.only((method, layer) for method in methods for layer in parameters["layers"])


def maps_of_scales(parameters: Mapping[str, Any], split: str, *, progress: bool = False) -> dict[float, Maps]:
    """Raw maps of notebook 04, by scale, kept on disk: its methods and both branches on ``layer``, CAM on its own."""
    methods = list(dict.fromkeys([*parameters["ablation_methods"], "dgl", "enhanced_map", "pixel_selection"]))
    model = classifier(parameters)
    layers = list(dict.fromkeys([parameters["layer"], model.layers[-1].name]))  # CAM exists on the last
    found = {1.0: every_map(parameters, split, progress=progress).only((m, at) for m in methods for at in layers)}
    for scale in sorted({float(s) for s in parameters["scales"]} - {1.0}):
        found[scale] = _raw_maps(model, parameters, split, layers, methods, scale, progress)
    return dict(sorted(found.items()))


def _raw_maps(
    model: Classifier,
    p: Mapping[str, Any],
    split: str,
    layers: Sequence[str],
    methods: Sequence[str],
    scale: float,
    progress: bool,
) -> Maps:
    return raw_maps(
        model,
        part(p, split),
        layers=layers,
        methods=methods,
        scale=scale,
        size=p["image_size"],
        alpha=p["alpha"],
        rule=p["rule"],
        device=p["device"],
        folder=paths.runs_folder(),
        progress=progress,
    )


def evaluate(plan: Plan, *, progress: bool = True) -> None:
    """Compute the raw maps that the notebooks will ask for, with bars here that a kernel could not draw."""
    for parameters in plan.notebooks.values():
        for split in ("val", "test"):
            if {"layers", "methods"} <= parameters.keys():
                maps_of_layers(parameters, split, progress=progress)
            if {"scales", "ablation_methods"} <= parameters.keys():
                maps_of_scales(parameters, split, progress=progress)


def rerun_committed(*, progress: bool = True) -> None:
    """Run the project's notebooks with their own defaults and put the outcome in their place, cleaned.

    Raises:
        UserError: a notebook failed; the notebooks are then as they were.
    """
    absolute_environment()
    stage = _empty(paths.runs_folder() / "stage" / "notebooks")
    sources = sorted((paths.project_root() / "notebooks").glob("*.ipynb"))
    for source in sources:
        notebooks.execute(source, stage / source.name, {}, cwd=source.parent, progress=progress)
    for source in sources:
        os.replace(stage / source.name, source)


def _with_checkpoint(plan: Plan, trained: Path | None) -> Plan:
    """The plan with "trained" replaced by the trained checkpoint's path, relative to the project's root."""
    copies = {name: dict(v) for name, v in plan.notebooks.items()}
    for parameters in copies.values():
        if parameters.get("checkpoint") == "trained":
            if trained is None:
                raise UserError("checkpoint: 'trained' given, but no notebook declares the training parameters")
            parameters["checkpoint"] = trained.relative_to(paths.project_root()).as_posix()
    return replace(plan, notebooks=copies)


def _facts(plan: Plan, checkpoint: Path | None, command: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    """What only this run knows of itself; no path of the machine is among it."""
    merged = plan.merged
    weights = paths.weights_source(merged.get("weights", ""))
    used = {
        values["checkpoint"]: checkpoint_path(values["checkpoint"])
        for values in plan.notebooks.values()
        if "checkpoint" in values
    }
    if checkpoint:
        used["trained"] = checkpoint
    return {
        "profile": plan.profile,
        "command": command,
        "everything": os.environ.get("EVERYTHING") == "1",
        "parameters": plan.notebooks,
        "data": merged.get("data"),
        "data_sha256": {split: load(merged["data"], split).digest for split in datasets.SPLITS}
        if "data" in merged
        else {},
        "starting_weights_sha256": sha256(weights) if isinstance(weights, Path) else weights,
        "checkpoints_sha256": {name: sha256(path) for name, path in used.items()},
        "seconds": dict(seconds),
        "code": manifest.revision(paths.project_root()),
    }


def absolute_environment() -> None:
    """Make $DGL_DATA and $DGL_WEIGHTS absolute: the notebooks' kernels run in another folder than the command."""
    for name in ("DGL_DATA", "DGL_WEIGHTS"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[step] = round(time.monotonic() - began, 1)


@contextmanager
def _results_in(folder: Path) -> Iterator[None]:
    """Kernels started in this block write their tables and figures to ``folder`` (see ``results_folder``)."""
    before = os.environ.get("DGL_RESULTS")
    os.environ["DGL_RESULTS"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["DGL_RESULTS"]
        else:
            os.environ["DGL_RESULTS"] = before


def _gone(folder: Path) -> Path:
    """``folder`` without anything there, its parent made."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def _empty(folder: Path) -> Path:
    _gone(folder).mkdir()
    return folder
