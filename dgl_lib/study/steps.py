"""The steps that notebooks and the runner share: the data, training a classifier, opening a trained one."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from dgl_lib import data as datasets
from dgl_lib import several
from dgl_lib.data import Dataset, Shuffled, Subset
from dgl_lib.data.creatures import Creatures
from dgl_lib.errors import UserError
from dgl_lib.evaluate.faithfulness import in_turn
from dgl_lib.fast import pick_device
from dgl_lib.files import key_of, set_aside, sha256
from dgl_lib.models import LAYERS, NETWORKS, Classifier, committed_checkpoint, load_checkpoint
from dgl_lib.study import paths
from dgl_lib.study.profile import Profile
from dgl_lib.training import Recipe, fit

log = logging.getLogger(__name__)
FORMAT = 1  # raised when a change to the library makes earlier trainings wrong
#: What determines a training beside the recipe.
TRAINING = ("data", "network", "padding", "width", "weights", "train_count", "labels")
#: Not named among a run's facts at these values: runs from before there was a choice are found again.
AS_BEFORE = {"network": "spg_plain", "padding": "symmetric", "labels": "given", "reach": 0.0}


@cache
def load(data: str, split: str, skip: bool = False) -> Dataset:
    """A whole split, kept between the steps of one study (creatures are drawn once)."""
    return datasets.load(data, split, skip=skip)


def part(data: str, split: str, per_class: int, skip: bool = False) -> Dataset:
    """The first ``per_class`` images of each class of a split, 0 for all of them."""
    return datasets.first_per_class(load(data, split, skip), per_class)


def parts(profile: Profile) -> tuple[Dataset, Dataset]:
    """The validation and the test images that a profile localizes."""
    data, skip = profile.data, profile.skip_unreadable
    return part(data, "val", profile.val_per_class, skip), part(data, "test", profile.test_per_class, skip)


def classifier(checkpoint: str, data: str, layers: Sequence[str] = ()) -> Classifier:
    """The classifier that ``checkpoint`` names. UserError: its classes are not ``data``'s, or it lacks a layer."""
    model = load_checkpoint(paths.checkpoint_path(checkpoint))
    if model.classes != (classes := load(data, "val").classes):
        known = f"checkpoint {checkpoint!r} knows {len(model.classes)} classes ({model.classes[0]}, ..)"
        raise UserError(f"{known}, {data!r} has {len(classes)} ({classes[0]}, ..)")
    check_layers(model.architecture, layers)
    return model


def check_layers(network: str, layers: Sequence[str]) -> None:
    """UserError at the first layer that ``network`` lacks."""
    known = [layer.name for layer in LAYERS[network]]
    if missing := [layer for layer in layers if layer not in known]:
        raise UserError(f"layers: {missing[0]!r} given, which {network} lacks; allowed: {', '.join(known)}")


def train_classifier(profile: Profile, *, progress: bool = False) -> Path:
    """Train a classifier from image labels alone, or find it trained, or resume it; return its checkpoint.

    The run's folder, ``results/.runs/DATA-HASH``, is named by all that determines the result: parameters, data,
    starting weights, kind of device, format version. ``history.csv`` stands beside the checkpoint."""
    checkpoint, train, val, facts = _training(profile)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    # Whoever comes second waits, and finds it trained. Of several processes the first one holds the lock for all.
    with nullcontext() if several.RANK else FileLock(checkpoint.with_name(".lock")):
        if checkpoint.is_file() and not several.RANK:
            try:
                load_checkpoint(checkpoint)
            except UserError as error:
                set_aside(checkpoint, error)
        several.wait()
        if not checkpoint.is_file():
            with torch.random.fork_rng():
                torch.manual_seed(profile.seed)
                how: dict[str, Any] = {"width": profile.width, "padding": profile.padding}
                how |= {"weights": paths.weights_source(profile.weights)}
                model = NETWORKS[profile.network](len(train.classes), **how)
            log.log(logging.DEBUG if several.RANK else logging.INFO, "training from %s", model.origin)
            fit(model, train, val, checkpoint.parent, profile, facts=facts, progress=progress)
        several.wait()
    return checkpoint


def published(profile: Profile) -> Path | None:
    """The checkpoint of this very training that comes with the package, in half precision; None: there is none."""
    file = committed_checkpoint(f"{profile.data}-{profile.seed}")
    facts = {name: value for name, value in _training(profile)[3].items() if name != "device"}
    known = load_checkpoint(file).facts if file.is_file() else {}
    return file if facts == {name: known.get(name) for name in facts} else None


def is_trained(profile: Profile) -> bool:
    """Whether ``train_classifier`` would find this profile's classifier trained."""
    return _training(profile)[0].is_file()


def _training(profile: Profile) -> tuple[Path, Dataset, Dataset, dict[str, Any]]:
    """Where a training's checkpoint lies, its images (train, val), and the facts that determine its result."""
    train, val = (load(profile.data, split, profile.skip_unreadable) for split in ("train", "val"))
    count = profile.train_count
    if count > len(train):
        raise UserError(f"train_count: {count} given, 0 (all) to {len(train)} allowed")
    if 0 < count < len(train):  # the classes as even as they come
        drawn = isinstance(train, Creatures)  # class i mod n is image i, and those beyond the count need not be drawn
        train = Creatures("train", count) if drawn else Subset(train, sorted(in_turn(train.labels, count)))
    if profile.labels == "shuffled":
        train = Shuffled(train, profile.seed)
    weights = paths.weights_source(profile.weights)
    given = profile.model_dump(include={*TRAINING, *Recipe.model_fields})
    facts = {name: value for name, value in given.items() if AS_BEFORE.get(name) != value} | {
        "weights": sha256(weights) if isinstance(weights, Path) else weights,
        "device": pick_device(profile.device).type,
        "data_sha256": {"train": train.digest, "val": val.digest},
        "format": FORMAT,
    }
    place = paths.runs_folder() / f"{profile.data}-{key_of(facts)[:12]}"
    return place / "classifier.safetensors", train, val, facts
