"""The training loop: image labels in, a classifier out. It never opens a mask.

A run lives in one folder. Killed at any moment, it goes on from its last whole save and ends with the same weights.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dgl_lib.data.records import Dataset
from dgl_lib.errors import UserError
from dgl_lib.models import Classifier, load_checkpoint, preprocess, save_checkpoint, squash

COLUMNS = ("epoch", "step", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds")


def pick_device(name: str) -> torch.device:
    """``"auto"`` (cuda, else mps, else cpu), ``"cpu"``, ``"cuda"`` or ``"mps"``; UserError where it is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if not there.get(name, False):
        raise UserError(f"device: {name!r} given; here: auto, {', '.join(kind for kind in there if there[kind])}")
    return torch.device(name)


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bfloat16 is worth its loss of digits. In training and where pictures are only classified; localizing
    always runs in float32.

    On CPUs oneDNN must report it (emulated, it is 13 times slower than float32) and the processor must have tile
    instructions: with AVX512-BF16 alone a training step was measured 1.2 times slower than in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_amx_tile_supported()


class Crops:
    """A data set as training sees it: squashed to ``resize``, cropped to ``crop`` and flipped at random.

    The crop of image i in epoch e depends on (seed, e, i) alone, so a resumed run sees what the whole one would have.
    """

    def __init__(self, dataset: Dataset, resize: int, crop: int, seed: int):
        self.dataset, self.resize, self.crop, self.seed = dataset, resize, crop, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, int]:
        """(crop, crop, 3) uint8 and the label, for ``key`` = (epoch, index)."""
        epoch, index = key
        random = np.random.default_rng([self.seed, epoch, index])
        top, left = random.integers(self.resize - self.crop + 1, size=2)
        image = squash(self.dataset.image(index), self.resize)
        image = image[top : top + self.crop, left : left + self.crop]
        return image[:, ::-1] if random.integers(2) else image, int(self.dataset.labels[index])


def batches(count: int, batch_size: int, seed: int, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
    """The keys (epoch, index) of steps ``start`` .. ``stop``: a new order each epoch, a last partial batch dropped."""
    per_epoch = max(1, count // batch_size)
    order, ordered = np.arange(0), -1
    for step in range(start, stop):
        epoch, place = divmod(step, per_epoch)
        if epoch != ordered:
            order, ordered = np.random.default_rng([seed, epoch]).permutation(count), epoch
        yield [(epoch, int(i)) for i in order[place * batch_size : (place + 1) * batch_size]]


def parameter_groups(
    model: Classifier, learning_rate: float, trunk_learning_rate: float, weight_decay: float
) -> list[dict]:
    """Trunk and new layers at their own rates; decay on weights only, never on biases and batch norm."""
    trunk = set(model.trunk_names())
    groups = []
    for in_trunk, rate in ((True, trunk_learning_rate), (False, learning_rate)):
        for is_weight, decay in ((True, weight_decay), (False, 0.0)):
            chosen = [
                p for name, p in model.named_parameters() if (name in trunk) == in_trunk and (p.ndim > 1) == is_weight
            ]
            groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
    return groups


def fit(
    model: Classifier,
    train: Dataset,
    val: Dataset,
    *,
    folder: str | Path,
    epochs: int,
    batch_size: int,
    resize: int,
    crop: int,
    learning_rate: float,
    trunk_learning_rate: float,
    weight_decay: float,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
    save_every: int = 0,
    facts: dict | None = None,
) -> list[dict]:
    """Train ``model`` on image labels; leaves ``classifier.safetensors`` and ``history.csv`` in ``folder``.

    AdamW on a one-cycle schedule, softmax cross-entropy, gradient norm clipped at 5, bfloat16 where it is native.
    The weights kept are those of the epoch with the best validation accuracy (then the lower loss). A folder that holds
    a finished run gives its result at once; one that holds a broken-off run is taken up from its last save.

    Args:
        model: moved to the device, and left with the kept weights, on the CPU and in eval mode.
        train, val: data sets with the same classes; ``val`` chooses the epoch, and is never trained on.
        resize, crop: photographs are squashed to ``resize`` px, trained on in random ``crop`` px pieces and flips;
            validation sees them whole at ``resize``.
        learning_rate, trunk_learning_rate: peak rates of the new layers and of the trunk.
        seed: of order, crops and dropout; the initial weights are the caller's.
        save_every: steps between saves, beside the one after every epoch; 0 for none.
        facts: what else the checkpoint's header should tell.

    Returns:
        one row an epoch, with the columns of ``COLUMNS``; losses in nats, accuracies in 0..1.

    Raises:
        UserError: classes that do not fit, no images, sizes out of range; RuntimeError: the loss is not finite.
    """
    if train.classes != val.classes or len(train.classes) != model.num_classes:
        raise UserError(
            f"classes: {len(train.classes)} to train, {len(val.classes)} to validate, {model.num_classes} in the head"
        )
    if not 0 < crop <= resize:
        raise UserError(f"crop: {crop} given, 1..{resize} (resize) allowed")
    if epochs < 1 or batch_size < 1 or not len(train) or not len(val):
        sizes = f"{epochs} epochs of batches of {batch_size}, {len(train)} images to train, {len(val)} to validate"
        raise UserError(f"{sizes}: none of them may be 0")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    finished, unfinished = folder / "classifier.safetensors", folder / "unfinished.pt"
    if finished.exists():
        model.load_state_dict(load_checkpoint(finished).state_dict())
        model.classes = train.classes
        model.eval()
        return read_history(folder)

    where = pick_device(device)
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on CPUs
    per_epoch = max(1, len(train) // batch_size)
    steps = epochs * per_epoch
    groups = parameter_groups(model, learning_rate, trunk_learning_rate, weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)  # one pass over the weights instead of a dozen
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [group["lr"] for group in groups], total_steps=steps)
    torch.manual_seed(seed)
    run: dict = {"step": 0, "seconds": 0.0, "loss": 0.0, "right": 0, "seen": 0, "history": [], "best": None}
    if unfinished.exists():
        saved = torch.load(unfinished, map_location=where, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        torch.set_rng_state(saved["random"].cpu())
        if "device_random" in saved:
            torch.get_device_module(where).set_rng_state(saved["device_random"].cpu())
        run = saved["run"]

    def save() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        if where.type != "cpu":  # dropout draws there
            state["device_random"] = torch.get_device_module(where).get_rng_state()
        beside = unfinished.with_suffix(".part")
        torch.save({**state, "random": torch.get_rng_state(), "run": run}, beside)
        beside.replace(unfinished)

    keys = batches(len(train), batch_size, seed, run["step"], steps)
    # A generator of its own: the loader would otherwise draw from the global one, which dropout's resume relies on.
    crops: Any = Crops(train, resize, crop, seed)
    loader: DataLoader = DataLoader(crops, batch_sampler=keys, collate_fn=list, generator=torch.Generator())
    bar = tqdm(loader, total=steps, initial=run["step"], desc="training", unit="step", disable=not progress)
    started = time.perf_counter() - run["seconds"]
    model.train()
    for batch in bar:
        images, labels = zip(*batch, strict=True)
        target = torch.tensor(labels, device=where)
        with torch.autocast(where.type, torch.bfloat16, enabled=bf16_is_fast(where)):
            logits = model(preprocess(model, images, crop))
        loss = nn.functional.cross_entropy(logits.float(), target)
        if not loss.isfinite():
            raise RuntimeError(f"training: the loss is {loss.item()} at step {run['step']}; lower the learning rates")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        rate = schedule.get_last_lr()[-1]
        optimizer.step()
        schedule.step()

        run["step"] += 1
        run["loss"] += loss.item() * len(target)
        run["right"] += int((logits.argmax(1) == target).sum())
        run["seen"] += len(target)
        if run["step"] % per_epoch == 0:
            val_loss, val_accuracy = validate(model, val, resize, batch_size)
            run["seconds"] = time.perf_counter() - started
            numbers = (run["loss"] / run["seen"], run["right"] / run["seen"], val_loss, val_accuracy, run["seconds"])
            row = dict(zip(COLUMNS, (run["step"] // per_epoch, run["step"], rate, *numbers), strict=True))
            run["history"].append(row)
            run.update(loss=0.0, right=0, seen=0)
            if run["best"] is None or (val_accuracy, -val_loss) > run["best"]["score"]:
                state = {name: value.detach().clone() for name, value in model.state_dict().items()}
                run["best"] = {"score": (val_accuracy, -val_loss), "epoch": row["epoch"], "state": state}
            bar.set_postfix(val_accuracy=f"{val_accuracy:.3f}")
            save()
        elif save_every and run["step"] % save_every == 0:
            run["seconds"] = time.perf_counter() - started
            save()

    model.load_state_dict(run["best"]["state"])
    model.cpu().eval()
    model.classes = train.classes
    write_history(folder, run["history"])
    kept = {"epoch": run["best"]["epoch"], "val_accuracy": run["best"]["score"][0]}
    save_checkpoint(model, finished, **kept, **(facts or {}))
    unfinished.unlink(missing_ok=True)
    return run["history"]


@torch.no_grad()
def predict(model: nn.Module, dataset: Dataset, size: int, batch_size: int = 32) -> Tensor:
    """Logits (N, classes) of the whole photographs, squashed to ``size`` px, in eval mode; flags as they were after."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    parts = []
    with torch.autocast(device.type, torch.bfloat16, enabled=was_training and bf16_is_fast(device)):
        for start in range(0, len(dataset), batch_size):
            images = [dataset.image(i) for i in range(start, min(start + batch_size, len(dataset)))]
            parts.append(model(preprocess(model, images, size)))
    model.train(was_training)
    return torch.cat(parts).float().cpu()


def validate(model: nn.Module, dataset: Dataset, size: int, batch_size: int = 32) -> tuple[float, float]:
    """Mean cross-entropy (nats) and top-1 accuracy (0..1) on ``dataset``."""
    logits, labels = predict(model, dataset, size, batch_size), torch.from_numpy(dataset.labels)
    return float(nn.functional.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).double().mean())


def write_history(folder: Path, history: list[dict]) -> None:
    """One row an epoch, to ``history.csv``, written beside and renamed."""
    beside = folder / "history.csv.part"
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(history)
    beside.replace(folder / "history.csv")


def read_history(folder: str | Path) -> list[dict]:
    """The rows of a finished run's ``history.csv``, as numbers."""
    whole = ("epoch", "step")
    with (Path(folder) / "history.csv").open(newline="") as file:
        return [{k: int(v) if k in whole else float(v) for k, v in row.items()} for row in csv.DictReader(file)]
