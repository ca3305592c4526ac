"""The training loop: image labels in, a classifier out. It never opens a mask.

A run lives in one folder. If it is killed, the next call goes on from its last save and ends with the same weights.
"""

import csv
import io
import time
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from dgl_lib import several
from dgl_lib.data.images import squash
from dgl_lib.data.records import Dataset, Squashed, Subset
from dgl_lib.errors import UserError
from dgl_lib.fast import bf16_is_fast, narrow_norms, pick_device
from dgl_lib.files import set_aside, write_bytes, write_text
from dgl_lib.models import Classifier, load_checkpoint, preprocess, save_checkpoint

COLUMNS = ["epoch", "step", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"]


class Recipe(BaseModel):
    """How a classifier is trained. Values out of range raise pydantic's ``ValidationError``, a ``ValueError``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    resize: int = Field(160, ge=32, le=4096, description="images are squashed to this side, pixels")
    crop: int = Field(144, ge=32, validate_default=True, description="side of the random crops, pixels")
    epochs: int = Field(6, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(10, ge=1, le=100_000, description="images a step")
    learning_rate: float = Field(0.002, gt=0, le=10, description="peak rate of the new layers")
    trunk_learning_rate: float = Field(0.002, ge=0, le=10, description="peak rate of the trunk")
    weight_decay: float = Field(0.001, ge=0, le=10, description="AdamW's, on weights only")
    reach: float = Field(0.0, ge=0, le=1, description="validation accuracy, 0..1; below it half as many passes follow")
    seed: int = Field(0, ge=0, lt=2**63, description="of the starting weights, the order, the crops and dropout")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where the network runs")

    @field_validator("crop")
    @classmethod
    def _crop_fits(cls, crop: int, given: ValidationInfo) -> int:
        if crop > given.data.get("resize", crop):
            raise ValueError(f"at most resize ({given.data['resize']}) allowed")
        return crop


def batches(count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The indices of each step's images in ``epoch``, in its own order. Only whole batches, unless all fit into one."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return [order[i : i + batch_size] for i in range(0, max(1, count - batch_size + 1), batch_size)]


def random_crop(dataset: Dataset, epoch: int, index: int, recipe: Recipe) -> np.ndarray:
    """Image ``index`` as training sees it: squashed, cropped and flipped at random, (crop, crop, 3) uint8.

    The draw depends on (seed, epoch, index) alone, so a resumed run sees the same crops."""
    random = np.random.default_rng([recipe.seed, epoch, index])
    top, left = random.integers(recipe.resize - recipe.crop + 1, size=2)
    image = squash(dataset.image(index), recipe.resize)  # resize x resize x 3
    image = image[top : top + recipe.crop, left : left + recipe.crop]  # crop x crop x 3
    return image[:, ::-1] if random.integers(2) else image


@dataclass(frozen=True)
class Crops:
    """The crops of one epoch with their labels, for a loader whose workers decode ahead. They draw nothing."""

    train: Dataset
    epoch: int
    recipe: Recipe

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return random_crop(self.train, self.epoch, index, self.recipe), int(self.train.labels[index])


def parameter_groups(
    model: Classifier, learning_rate: float, trunk_learning_rate: float, weight_decay: float
) -> list[dict]:
    """Trunk and new layers at their own rates. Only weights decay, biases and batch norms do not."""
    trunk = set(model.trunk_names())
    rates = trunk_learning_rate, learning_rate
    groups: list[dict] = [{"params": [], "lr": r, "weight_decay": d} for r in rates for d in (weight_decay, 0.0)]
    for name, parameter in model.named_parameters():
        groups[2 * (name not in trunk) + (parameter.ndim == 1)]["params"].append(parameter)
    return groups


@dataclass
class Run:
    """A training run under way: what is trained, and how far it is."""

    model: Classifier
    forward: nn.Module  # the model, or what shares its gradients among processes
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    folder: Path
    bar: tqdm
    began: float = field(default_factory=time.perf_counter)
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # of the epoch so far: loss, right, images
    history: list[dict] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)  # score, epoch and weights of the best epoch so far


SAVED = ("step", "sums", "history", "best")


def fit(
    model: Classifier,
    train: Dataset,
    val: Dataset,
    folder: str | Path,
    recipe: Recipe,
    *,
    facts: dict | None = None,
    save_every: int = 0,
    progress: bool = False,
) -> list[dict]:
    """Train ``model`` on image labels. Leaves ``classifier.safetensors`` and ``history.csv`` in ``folder``.

    AdamW on a one-cycle schedule, softmax cross-entropy, gradient norm clipped at 5, bfloat16 where that is fast.
    The weights kept are those of the epoch with the highest accuracy on ``val``; of equals, the lowest loss.
    If that accuracy stays below ``recipe.reach``, half as many passes follow, once, on a cycle of their own.
    A finished run's folder gives its result at once. A run that was broken off goes on from its last save, which is
    made every ``save_every`` steps (0: never) and after each epoch.

    ``model`` holds the starting weights. It comes back trained, on the CPU and in eval mode. ``facts`` are further
    entries of the checkpoint's header. Returns one row an epoch, with the columns ``COLUMNS``: losses in nats,
    accuracies in 0..1. UserError: classes do not fit, or images lack. RuntimeError: the loss is not finite."""
    if train.classes != val.classes or len(train.classes) != model.num_classes:
        given = f"{len(train.classes)} to train, {len(val.classes)} to validate, {model.num_classes} in the head"
        raise UserError(f"classes: {given}")
    if min(len(train), len(val), recipe.batch_size) < several.WORLD:
        given = f"{len(train)} images to train, {len(val)} to validate, {recipe.batch_size} a step"
        raise UserError(f"{given}: at least {several.WORLD} of each needed, one a process")
    folder = Path(folder)
    finished = folder / "classifier.safetensors"
    if finished.exists():
        model.load_state_dict(load_checkpoint(finished).state_dict())
        model.classes = train.classes
        model.eval()
        return read_history(folder)

    model.to(pick_device(recipe.device), memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster
    groups = parameter_groups(model, recipe.learning_rate, recipe.trunk_learning_rate, recipe.weight_decay)
    peaks = [group["lr"] for group in groups]
    steps = len(batches(len(train), recipe.batch_size, recipe.seed, 0))  # of an epoch
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = OneCycleLR(optimizer, peaks, total_steps=recipe.epochs * steps)
    bar = tqdm(desc="training", unit="step", disable=not progress)
    torch.manual_seed(recipe.seed + several.RANK)  # for dropout
    run = Run(model, several.together(model), optimizer, schedule, folder, bar)
    resume(run)
    more = recipe.epochs // 2
    for epoch in range(len(run.history), recipe.epochs + more):
        if run.step == recipe.epochs * steps:  # a run that is taken up later has its second schedule already
            if run.best["score"][0] >= recipe.reach:
                break
            run.schedule = OneCycleLR(optimizer, peaks, total_steps=more * steps)
        bar.total = steps * (recipe.epochs + more * (epoch >= recipe.epochs))
        with narrow_norms(model):
            row = train_one_epoch(run, train, recipe, epoch, save_every)
        val_loss, val_accuracy = evaluate(model, val, recipe.resize, recipe.batch_size)
        row |= {"val_loss": val_loss, "val_accuracy": val_accuracy, "seconds": time.perf_counter() - run.began}
        run.history.append({"epoch": epoch + 1, "step": run.step, **row})
        if not run.best or (val_accuracy, -val_loss) > run.best["score"]:
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            run.best = {"score": (val_accuracy, -val_loss), "epoch": epoch + 1, "weights": weights}
        bar.set_postfix(val_accuracy=f"{val_accuracy:.3f}")
        save(run)
    bar.close()

    model.load_state_dict(run.best["weights"])
    model.cpu().eval()
    model.classes = train.classes
    several.wait()
    if several.RANK:
        return run.history
    write_text(folder / "history.csv", pd.DataFrame(run.history, columns=COLUMNS).to_csv(index=False))  # all digits
    kept = {"epoch": run.best["epoch"], "val_accuracy": run.best["score"][0]}
    save_checkpoint(model, finished, **kept, **(facts or {}))
    for left in folder.glob("*unfinished.pt*"):  # the save, and any that was killed half written or set aside
        left.unlink()
    return run.history


def train_one_epoch(run: Run, train: Dataset, recipe: Recipe, epoch: int, save_every: int) -> dict[str, float]:
    """Train on the rest of ``epoch`` (from 0). Returns its last learning rate, its mean loss and its accuracy."""
    model, forward = run.model.train(), run.forward.train()
    device = next(model.parameters()).device
    steps = batches(len(train), recipe.batch_size, recipe.seed, epoch)
    left = steps[run.step - epoch * len(steps) :]  # of a resumed epoch
    ahead = several.loader(Crops(train, epoch, recipe), [several.share(step) for step in left], device)
    for chosen, crops in zip(left, ahead, strict=True):
        images, labels = zip(*crops, strict=True)
        target = torch.tensor(labels, device=device)  # N
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device)):
            logits = forward(preprocess(model, images, recipe.crop))  # N x 3 x crop x crop -> N x C
        loss = nn.functional.cross_entropy(logits.float(), target)
        if not loss.isfinite():
            raise RuntimeError(f"training: the loss is {loss.item()} at step {run.step}; lower the learning rates")
        run.optimizer.zero_grad(set_to_none=True)
        (loss * (len(target) * several.WORLD / len(chosen))).backward()  # processes' gradients are averaged
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        rate = float(run.schedule.get_last_lr()[-1])
        run.optimizer.step()
        run.schedule.step()

        run.step += 1
        more = several.total([loss.item() * len(target), int((logits.argmax(1) == target).sum()), len(target)])
        run.sums = [total + one for total, one in zip(run.sums, more, strict=True)]
        run.bar.update(run.step - run.bar.n)
        if save_every and run.step % save_every == 0 and run.step % len(steps):  # an epoch's end is saved by fit
            save(run)
    (total, right, seen), run.sums = run.sums, [0.0, 0.0, 0.0]
    return {"learning_rate": rate, "train_loss": total / seen, "train_accuracy": right / seen}


@torch.no_grad()
def predict(model: nn.Module, dataset: Dataset, size: int, batch_size: int = 32) -> Tensor:
    """Logits (N, C) of whole photographs squashed to ``size`` pixels, in eval mode. Float32, on the CPU."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    parts = []
    with torch.autocast(device.type, torch.bfloat16, enabled=was_training and bf16_is_fast(device)):
        every = range(len(dataset))
        steps = [every[first : first + batch_size] for first in every[::batch_size]]
        for images in several.loader(Squashed(dataset, size), steps, device):
            parts.append(model(preprocess(model, images, size)))  # batch x C
    model.train(was_training)
    return torch.cat(parts).float().cpu()  # N x C


def evaluate(model: nn.Module, dataset: Dataset, size: int, batch_size: int) -> tuple[float, float]:
    """Mean cross-entropy (nats) and top-1 accuracy (0..1) on ``dataset``."""
    mine, labels = Subset(dataset, several.share(range(len(dataset)))), torch.from_numpy(dataset.labels)  # .., N
    logits = several.gathered(predict(model, mine, size, batch_size), len(dataset))  # N x C
    return float(nn.functional.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).double().mean())


def save(run: Run) -> None:
    """Write all that the rest of the run depends on to ``unfinished.pt``. Of several processes the first one does."""
    if several.RANK:
        return
    state = {name: getattr(run, name).state_dict() for name in ("model", "optimizer", "schedule")}
    state |= {name: getattr(run, name) for name in SAVED}
    state |= {"seconds": time.perf_counter() - run.began, "random": torch.get_rng_state()}
    if (device := next(run.model.parameters()).device).type != "cpu":  # dropout draws there
        state["device_random"] = torch.get_device_module(device).get_rng_state()
    stream = io.BytesIO()
    torch.save(state, stream)
    write_bytes(run.folder / "unfinished.pt", stream.getvalue())


def resume(run: Run) -> None:
    """Take ``run`` to where ``unfinished.pt`` left it, if there is one. A damaged one is set aside."""
    if not (path := run.folder / "unfinished.pt").exists():
        return
    device = next(run.model.parameters()).device
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, KeyError, RuntimeError, ValueError, UnpicklingError) as error:
        set_aside(path, error)
        return
    for name in ("model", "optimizer", "schedule"):
        getattr(run, name).load_state_dict(saved[name])
    for name in SAVED:
        setattr(run, name, saved[name])
    run.began -= saved["seconds"]
    if several.RANK:  # the draws are the first process's
        return
    torch.set_rng_state(saved["random"])
    if "device_random" in saved:
        torch.get_device_module(device).set_rng_state(saved["device_random"])


def read_history(folder: str | Path) -> list[dict]:
    """The rows of a finished run's ``history.csv``, as numbers."""
    rows = csv.DictReader((Path(folder) / "history.csv").read_text().splitlines())
    return [{k: int(v) if k in ("epoch", "step") else float(v) for k, v in row.items()} for row in rows]
