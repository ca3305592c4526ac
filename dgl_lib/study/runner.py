"""The study from end to end: check everything, train, localize, write tables, run notebooks, publish."""

import os
import shutil
import time
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dgl_lib import several
from dgl_lib.data import SPLITS, need_readable
from dgl_lib.data.listed import Listed
from dgl_lib.errors import UserError
from dgl_lib.evaluate import every_map, maps_of_scales
from dgl_lib.fast import pick_device
from dgl_lib.files import exclusive, need_apart, sha256, write_bytes, write_table
from dgl_lib.models import LAYERS, load_checkpoint
from dgl_lib.study import claims, manifest, paths, steps
from dgl_lib.study.notebooks import execute
from dgl_lib.study.profile import Profile, declared
from dgl_lib.study.tables import TABLES
from dgl_lib.training import read_history

#: The notebooks that a study runs if none is named, and all there are, by the beginnings of their names.
FIRST = ("01", "02", "03", "04")
ALL = (*FIRST, *TABLES)


def run(
    profile: Profile,
    *,
    name: str,
    notebooks: Collection[str] = FIRST,
    out: Path | None = None,
    until: str = "notebooks",
    command: str = "",
    progress: bool = True,
) -> Path:
    """Run a study and return its results folder; ``until`` ends it after "train" (the checkpoint) or "evaluate".

    Nothing reaches the results folder before every notebook has succeeded. What a failed run made is kept beside it.
    Training, maps and scores are found again by the next run, so that it goes on where this one stood.

    ``name`` is the profile's, ``notebooks`` are beginnings of names, ``command`` is what was typed, for the manifest.
    ``out`` is the results folder; None for ``results/NAME`` or, ignored by git, ``results/.quick`` of "quick" and
    ``results/.photos/NAME`` with photographs. UserError: as for ``check_inputs``; a notebook failed;
    or another study is writing to the same folder."""
    if until == "notebooks" and several.WORLD > 1:
        given = f"notebooks: {several.WORLD} processes given, one allowed"
        raise UserError(f"{given}; several of them train and localize with --until evaluate")
    absolute_environment()
    several.wait()  # this starts them, if there are several
    sources = [path for path in paths.notebooks() if path.name.startswith(tuple(notebooks))]
    if not sources:
        raise UserError(f"notebooks: {', '.join(notebooks)} given, {', '.join(ALL)} allowed")
    folder = f".photos/{name}" if profile.show_photos else ".quick" if name == "quick" else name
    target = (out or paths.project_root() / "results" / folder).absolute()
    if ".." in target.parts or not target.is_relative_to(paths.project_root()):
        raise UserError(f"results: {str(out)!r} given, a folder below the project's root allowed")
    numbers = {source.name[:2] for source in sources}
    check_inputs(profile, numbers, localizing=until != "train", scoring=until == "notebooks")
    need_apart(target, steps.load(profile.data, "val", profile.skip_unreadable).root)
    seconds: dict[str, float] = {}
    if until == "train" or profile.checkpoint == "trained":
        checkpoint = steps.train_classifier(profile, progress=progress)
        seconds["training"] = round(read_history(checkpoint.parent)[-1]["seconds"], 1)  # of all its sessions together
        profile = profile.model_copy(update={"checkpoint": paths.below_root(checkpoint)})
        if until == "train":
            return checkpoint
    with nullcontext() if several.RANK else exclusive(target):
        began = time.monotonic()
        localize(profile, numbers, progress=progress)
        seconds["maps"] = round(time.monotonic() - began, 1)
        if until == "evaluate":
            return target
        stage = _emptied(target.with_name(f".{target.name.lstrip('.')}.stage"))
        facts = _facts(profile, command)
        entries = {}
        try:
            for source in sources:
                seconds["notebook"] = _run_one(source, stage / source.stem, target, profile, progress)
                entries[source.stem] = facts | {"seconds": dict(seconds)}
        except UserError as error:
            failed = _emptied(stage.with_suffix(".failed"))
            os.replace(stage, failed)
            raise UserError(f"{error} (kept in {paths.below_root(failed)})") from None
        manifest.publish(stage, target, entries)
        write_table(target / "claims.csv", claims.claims_table(target))
        write_table(target / "deviations.csv", claims.deviations())
        write_table(target / "amendments.csv", claims.amendments())
    return target


def _run_one(source: Path, own: Path, target: Path, profile: Profile, progress: bool) -> float:
    """Write the tables that a notebook reads, if any, and run it, all in the folder ``own``. The seconds that took."""
    began = time.monotonic()
    own.mkdir()
    if write := TABLES.get(source.name[:2]):
        write(profile, own, progress)
    here = paths.below_root(own)
    given = profile.model_dump(include=profile.model_fields_set | {"checkpoint"}) | {"results": here, "tables": here}
    parameters = {key: given[key] for key in declared(source) if key in given}
    execute(source, own / source.name, parameters, published={here: paths.below_root(target)}, progress=progress)
    return round(time.monotonic() - began, 1)


def rerun_committed(*, progress: bool = True) -> None:
    """Run the project's notebooks with their own defaults and put the outcome in their place, if none fails."""
    absolute_environment()
    stage, sources = paths.project_root() / "results" / ".notebooks", paths.notebooks()
    with exclusive(stage):
        _emptied(stage)
        for source in sources:
            execute(source, stage / source.name, {}, published={}, progress=progress)
        for source in sources:
            write_bytes(source, (stage / source.name).read_bytes())
        shutil.rmtree(stage)


def check_inputs(profile: Profile, notebooks: set[str], *, localizing: bool = True, scoring: bool = True) -> None:
    """Open what the profile needs, so that hours of work do not end at a missing file or a value that cannot be run.
    UserError: there is one. ``localizing`` needs the network's layers too, and ``scoring`` the data's masks."""
    pick_device(profile.device)
    paths.weights_source(profile.weights)
    network = profile.network
    if profile.checkpoint != "trained":
        network = load_checkpoint(paths.checkpoint_path(profile.checkpoint)).architecture
    if localizing:
        steps.check_layers(network, [*profile.layers, profile.layer])
        if (side := round(profile.image_size * min(profile.scales))) < 32:
            given = f"{min(profile.scales):g} of {profile.image_size} px given, which is {side} px"
            raise UserError(f"scales: {given}; numbers that make at least 32 px allowed")
        if "03" in notebooks and profile.layer == LAYERS[network][-1].name:
            raise UserError(f"layer: {profile.layer!r} given, where all methods give one map; one before it allowed")
    for split in SPLITS:
        dataset = steps.load(profile.data, split, profile.skip_unreadable)
        # Of every data set, a split has all of its masks or none.
        if scoring and split != "train" and dataset[0].mask is None:
            lacks = f"data: {profile.data!r} has no masks of its {split} images, and pixels are scored against masks"
            raise UserError(f"{lacks}; `dgl evaluate` gives box scores without")
        if isinstance(dataset, Listed):  # creatures are drawn, and what was skipped was decoded
            dataset.check()
            if dataset.small:
                need_readable(dataset)


def localize(profile: Profile, notebooks: set[str], *, progress: bool = True) -> None:
    """Make the raw maps that notebooks 03 and 04 will ask for, with bars that a kernel could not draw."""
    if not notebooks & {"03", "04"}:
        return
    model = steps.classifier(profile.checkpoint, profile.data, [*profile.layers, profile.layer])
    options = profile.localizing | {"folder": paths.runs_folder(), "progress": progress}
    scaled: dict[str, Any] = {"layer": profile.layer, "methods": profile.ablation_methods, "scales": profile.scales}
    for part in steps.parts(profile):
        every_map(model, part, **options)
        if "04" in notebooks:
            maps_of_scales(model, part, **scaled, **options)


def absolute_environment() -> None:
    """Make $DGL_DATA, $DGL_WEIGHTS and $DGL_WSOL_METADATA absolute: kernels run in another folder than the command.
    With $MPLBACKEND set they would show no figures."""
    os.environ.pop("MPLBACKEND", None)
    for name in ("DGL_DATA", "DGL_WEIGHTS", "DGL_WSOL_METADATA"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())


def _facts(profile: Profile, command: str) -> dict[str, Any]:
    """What only this run knows of itself."""
    weights = paths.weights_source(profile.weights)
    return {
        "command": command,
        "parameters": profile.model_dump(include=profile.model_fields_set | {"checkpoint"}),
        "data_sha256": {split: steps.load(profile.data, split, profile.skip_unreadable).digest for split in SPLITS},
        "starting_weights_sha256": sha256(weights) if isinstance(weights, Path) else weights,
        "checkpoint_sha256": sha256(paths.checkpoint_path(profile.checkpoint)),
        "code": manifest.revision(paths.project_root()),
    }


def _emptied(folder: Path) -> Path:
    """``folder``, made if need be, without anything in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
