"""The training loop: labels only, the best epoch kept, and killed anywhere the same weights in the end."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tqdm import tqdm

from dgl_lib import files, training
from dgl_lib.data.creatures import Creatures
from dgl_lib.data.images import squash
from dgl_lib.data.records import Shuffled
from dgl_lib.errors import UserError
from dgl_lib.evaluate import raw
from dgl_lib.files import write_text
from dgl_lib.models import NETWORKS, SPGPlain, digest, load_checkpoint, save_checkpoint, spg_plain
from dgl_lib.training import (
    Recipe,
    batches,
    evaluate,
    fit,
    parameter_groups,
    pick_device,
    predict,
    random_crop,
    read_history,
)


class LabelsOnly:
    """Images and labels; whoever opens a record, and with it a mask, is caught."""

    name, digest = "toy", "0" * 64

    def __init__(self, count: int, split: str, classes: tuple[str, ...] = ("a", "b", "c")):
        self.split, self.classes = split, classes
        self.names = [f"{split}-{i}" for i in range(count)]
        self.labels = np.arange(count, dtype=np.int64) % len(classes)

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> np.ndarray:
        seed = [index, len(self.split)]
        return np.random.default_rng(seed).integers(256, size=(36, 40 + index % 3, 3)).astype(np.uint8)

    def __getitem__(self, index: int) -> None:
        raise AssertionError("training opened a record")


TRAIN, VAL = LabelsOnly(10, "train"), LabelsOnly(4, "val")
RECIPE = Recipe(
    epochs=2,
    batch_size=3,  # 3 whole batches an epoch; one image is left over
    resize=36,
    crop=32,
    seed=7,
    device="cpu",
    learning_rate=3e-3,
    trunk_learning_rate=1e-3,
    weight_decay=1e-2,
)


def network(seed: int = 0) -> SPGPlain:
    torch.manual_seed(seed)
    return spg_plain(3, width=1 / 16)


def train(
    folder: Path, model: SPGPlain | None = None, save_every: int = 0, facts: dict | None = None, **changes: object
) -> tuple[SPGPlain, list[dict]]:
    model = model or network()
    recipe = Recipe(**(dict(RECIPE) | changes))
    return model, fit(model, TRAIN, VAL, folder, recipe, save_every=save_every, facts=facts)


class Killed(BaseException):
    """As KeyboardInterrupt: nothing that catches errors stops it."""


def killing(function: Callable, at: int, *, after: bool = False) -> Callable:
    """``function``, killed at its call number ``at``."""
    calls = iter(range(10**6))

    def wrapped(*args: object, **kwargs: object) -> object:
        if next(calls) != at:
            return function(*args, **kwargs)
        if after:
            function(*args, **kwargs)
        raise Killed

    return wrapped


def without_time(history: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict], Path]:
    """The uninterrupted run: its weights' digest, its history, its folder."""
    folder = tmp_path_factory.mktemp("whole")
    model, history = train(folder)
    return digest(model), history, folder


def resume(folder: Path) -> tuple[SPGPlain, list[dict]]:
    """Take a killed run up. Where it had saved, another network and another random state come in: they do not count."""
    assert not (folder / "classifier.safetensors").exists()
    torch.manual_seed(12345)
    saved = (folder / "unfinished.pt").exists()
    return train(folder, network(seed=99) if saved else network())


def same(result: tuple[SPGPlain, list[dict]], whole: tuple[str, list[dict], Path], folder: Path) -> None:
    assert digest(result[0]) == whole[0] and without_time(result[1]) == without_time(whole[1])
    assert digest(load_checkpoint(folder / "classifier.safetensors")) == whole[0]
    assert not (folder / "unfinished.pt").exists()


# ------------------------------------------------------------------------------------------------ killed, resumed


@pytest.mark.parametrize(
    ("save_every", "at"),
    # calls of preprocess: three steps, validation in two batches, and the same again
    [(1, 0), (1, 2), (1, 3), (1, 5), (1, 9), (2, 7), (0, 6)],
)
def test_killed_at_any_step_or_validation_the_weights_are_the_same(
    save_every: int, at: int, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "preprocess", killing(training.preprocess, at))
        train(tmp_path, save_every=save_every)
    same(resume(tmp_path), whole, tmp_path)


@pytest.mark.parametrize("at", [0, 2, 3])
def test_killed_while_saving_the_save_before_is_whole(
    at: int, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))

    def torn(file: int) -> None:
        if next(calls) == at:
            os.ftruncate(file, 5000)
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "fsync", torn)
        train(tmp_path, save_every=1)
    same(resume(tmp_path), whole, tmp_path)


@pytest.mark.parametrize("size", [0, 1000, -1])
def test_a_damaged_save_is_set_aside_and_training_begins_anew(
    size: int, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "preprocess", killing(training.preprocess, 2))
        train(tmp_path, save_every=1)
    (tmp_path / "unfinished.pt").write_bytes((tmp_path / "unfinished.pt").read_bytes()[:size])
    with pytest.warns(UserWarning, match=r"/unfinished.pt is damaged \(.*\): set aside and made again$"):
        same(train(tmp_path), whole, tmp_path)


@pytest.mark.parametrize("what", ["write_text", "save_checkpoint"])
def test_killed_between_the_last_step_and_the_end(
    what: str, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, what, killing(getattr(training, what), 0, after=what == "write_text"))
        train(tmp_path)
    same(resume(tmp_path), whole, tmp_path)


def test_killed_twice(whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in (4, 2):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(training, "preprocess", killing(training.preprocess, at))
            train(tmp_path, save_every=2)
    same(resume(tmp_path), whole, tmp_path)


# Trains in processes of its own and kills each with SIGKILL: while its first, second or third save is being written, or
# up to a fifth of a second after that save began. Forked before anything is computed, for one import of torch.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from test_training import network, train

folder, random, killed = Path(sys.argv[1]), random.Random(0), 0
folder.mkdir()
for attempt in range(6):
    if (pid := os.fork()) == 0:
        train(folder, network(), save_every=1)
        os._exit(0)
    try:
        beside = folder / f".unfinished.pt.{pid}.dgl-unfinished"
        for _ in range(random.randint(1, 3)):
            while beside.exists():
                pass
            while not beside.exists() and os.waitpid(pid, os.WNOHANG) == (0, 0):
                pass
        time.sleep(random.random() / 5 * (attempt % 2))
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    except (ProcessLookupError, ChildProcessError):  # it had finished
        break
print(killed)
"""


def test_killed_by_the_system_at_any_moment(whole, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLER, str(tmp_path / "run")]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(told.stdout) >= 2
    finished = (tmp_path / "run" / "classifier.safetensors").exists()
    model, history = train(tmp_path / "run", network(seed=99) if finished else None)
    same((model, history), whole, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["classifier.safetensors", "history.csv"]


def test_a_finished_folder_gives_its_result_at_once(whole, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, history, folder = whole
    monkeypatch.setattr(training, "preprocess", lambda *_: pytest.fail("it trained again"))
    model, again = train(folder, network(seed=5))
    assert digest(model) == weights and again == history and not model.training and model.classes == TRAIN.classes
    assert read_history(folder) == history  # every digit comes back from the file
    assert list(history[0]) == list(training.COLUMNS)
    assert [(row["epoch"], row["step"]) for row in history] == [(1, 3), (2, 6)]


def test_training_changes_weights_and_the_seed_changes_training(whole, tmp_path: Path) -> None:
    model, _ = train(tmp_path, seed=8)
    assert digest(model) != whole[0] != digest(network())


# ------------------------------------------------------------------------------------------------ a full disk


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """The system lets no file of this process grow beyond ``after`` bytes: as a disk that is full there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))  # Python ignores the signal: writing fails instead
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_text(path, 9999 * "a"),
    "arrays.npz": lambda path: files.write_arrays(path, {"a": np.random.default_rng(0).random(999)}),
    "checkpoint": lambda path: save_checkpoint(network(), path),
}


@pytest.mark.parametrize("after", [0, 1000])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_file_that_was_there(name: str, after: int, tmp_path: Path) -> None:
    (tmp_path / name).write_text("as it was")
    with full_disk(after), pytest.raises(OSError, match=re.escape(f"'{tmp_path / name}'")):
        WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_text() == "as it was"
    WRITERS[name](tmp_path / name)  # with room again, what was left half written is in nobody's way
    assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.parametrize(("at", "after"), [(0, 0), (2, 0), (2, 50_000), (3, 1000)])
def test_a_disk_that_fills_while_saving_keeps_the_save_before(
    at: int, after: int, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, before = iter(range(100)), []

    def filling(path: Path, data: bytes) -> None:
        full = next(calls) == at
        before.extend(file.read_bytes() for file in tmp_path.glob("unfinished.pt") if full)
        with full_disk(after if full else 10**9):
            files.write_bytes(path, data)

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(training, "write_bytes", filling)
        train(tmp_path, save_every=1)
    assert [file.read_bytes() for file in tmp_path.glob("unfinished.pt")] == before and len(before) == (at > 0)
    same(resume(tmp_path), whole, tmp_path)


@pytest.mark.parametrize("what", ["write_text", "save_checkpoint"])
def test_a_disk_that_is_full_at_the_end_keeps_the_last_save(
    what: str, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = getattr(training, what)

    def filling(*args: object, **kwargs: object) -> None:
        with full_disk(100):
            true(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(training, what, filling)
        train(tmp_path)
    assert (tmp_path / "unfinished.pt").exists()
    same(resume(tmp_path), whole, tmp_path)


def test_a_full_disk_keeps_the_maps_that_were_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"layers": ["add1"], "methods": ["cam"], "size": 32, "device": "cpu", "folder": tmp_path}
    monkeypatch.setattr(raw, "PART", 2)
    true, model = files.write_bytes, network().eval()

    def filling(path: Path, data: bytes) -> None:
        with full_disk(100 if list(tmp_path.glob("maps-*/*.npz")) else 10**9):  # full from the second part on
            true(path, data)

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(files, "write_bytes", filling)
        raw.raw_maps(model, VAL, **settings)  # type: ignore[arg-type]
    [part] = tmp_path.glob("maps-*/*.npz")
    kept, seen, true_preprocess = part.read_bytes(), [], raw.preprocess
    monkeypatch.setattr(
        raw, "preprocess", lambda m, images, side: seen.extend(images) or true_preprocess(m, images, side)
    )
    maps = raw.raw_maps(model, VAL, **settings)  # type: ignore[arg-type]
    assert [image.tobytes() for image in seen] == [squash(VAL.image(i), 32).tobytes() for i in (2, 3)]
    assert part.read_bytes() == kept and len(maps.classes) == 4


# ------------------------------------------------------------------------------------------------ the epoch kept


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(1.0, 0.5), (2.0, 0.75), (0.1, 0.5)], 2),  # accuracy before loss
        ([(1.0, 0.75), (0.5, 0.75), (0.7, 0.75)], 2),  # then the lower loss
        ([(1.0, 0.5), (1.0, 0.5), (1.0, 0.5)], 1),  # then the first
    ],
)
def test_the_best_epoch_on_validation_is_kept(scores, best: int, tmp_path: Path, monkeypatch) -> None:
    seen: list[str] = []

    def scripted(model: SPGPlain, dataset: LabelsOnly, *_: object) -> tuple[float, float]:
        assert dataset is VAL
        seen.append(digest(model))
        return scores[len(seen) - 1]

    monkeypatch.setattr(training, "evaluate", scripted)
    model, history = train(tmp_path, epochs=3, facts={"by": "a test"})
    assert len(set(seen)) == 3 and digest(model) == seen[best - 1] and not model.training
    loaded = load_checkpoint(tmp_path / "classifier.safetensors")
    assert digest(loaded) == seen[best - 1] and loaded.classes == TRAIN.classes
    assert loaded.facts == {"by": "a test", "epoch": best, "val_accuracy": scores[best - 1][1]}
    assert [row["val_accuracy"] for row in history] == [accuracy for _, accuracy in scores]


@pytest.mark.parametrize("fast", [True, False])
def test_validation_sees_whole_images_in_eval_mode(fast: bool, monkeypatch) -> None:
    """Within a training in bfloat16, where that is fast. A prediction of its own is in float32."""
    monkeypatch.setattr(training, "bf16_is_fast", lambda device: fast)
    model, sizes = network().train(), []
    true_preprocess = training.preprocess
    monkeypatch.setattr(training, "preprocess", lambda m, i, s: sizes.append((len(i), s)) or true_preprocess(m, i, s))
    before = digest(model)
    loss, accuracy = evaluate(model, VAL, 36, batch_size=3)
    assert sizes == [(3, 36), (1, 36)] and model.training and digest(model) == before
    logits = predict(model.eval(), VAL, 36)
    assert logits.shape == (4, 3) and not logits.requires_grad and not model.training
    p = logits.double().softmax(1)[torch.arange(4), torch.from_numpy(VAL.labels)]
    assert loss == pytest.approx(exact := float(-p.log().mean()), rel=1e-2)
    assert (loss == pytest.approx(exact, rel=1e-6)) is not fast
    assert accuracy == (logits.argmax(1).numpy() == VAL.labels).mean()


def test_accuracy_and_loss_by_hand() -> None:
    """Whatever it sees, the model says class 0 with logit 1. Two of the four labels (0, 1, 2, 0) are 0."""
    model = network()
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    loss, accuracy = evaluate(model.eval(), VAL, 36, 4)
    assert accuracy == 0.5 and loss == pytest.approx(np.log(np.e + 2) - 0.5)
    assert evaluate(model, LabelsOnly(6, "val"), 36, 4)[1] == pytest.approx(1 / 3)


def test_an_epoch_sees_the_images_of_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def recorded(dataset: LabelsOnly, epoch: int, index: int, recipe: Recipe) -> np.ndarray:
        assert dataset is TRAIN and recipe.seed == RECIPE.seed
        seen.append((epoch, index))
        return random_crop(dataset, epoch, index, recipe)

    monkeypatch.setattr(training, "random_crop", recorded)
    train(tmp_path)
    assert seen == [(e, i) for e in (0, 1) for batch in batches(10, 3, RECIPE.seed, e) for i in batch]
    assert len(set(seen)) == 18


def test_an_epochs_figures_are_means_over_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true, seen = torch.nn.functional.cross_entropy, []

    def recorded(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = true(logits, target)
        if loss.requires_grad:
            seen.append((loss.item(), float((logits.argmax(1) == target).double().mean())))
        return loss

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", recorded)
    _, history = train(tmp_path)
    for row, steps in zip(history, np.array(seen).reshape(2, 3, 2), strict=True):  # three steps of three images
        assert (row["train_loss"], row["train_accuracy"]) == pytest.approx(steps.mean(0))


@pytest.mark.parametrize(("save_every", "steps"), [(0, [3, 6]), (1, [1, 2, 3, 4, 5, 6]), (2, [2, 3, 4, 6])])
def test_a_run_is_saved_every_few_steps_and_after_each_epoch(
    save_every: int, steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(training, "save", lambda run: saved.append(run.step))
    train(tmp_path, save_every=save_every)
    assert saved == steps


def test_a_resumed_run_counts_the_seconds_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, model = [100.0], network()
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    first, second = (
        training.Run(model, model, optimizer, schedule, tmp_path, tqdm(disable=True), b) for b in (100.0, 1000.0)
    )
    now[0] = 130.0
    training.save(first)
    training.resume(second)
    assert 1005 - second.began == 30 + 5


def test_the_learning_rate_goes_up_and_down_one_cycle(tmp_path: Path) -> None:
    """Six steps, the peak after 0.3 of them: at step 0.8. The last rate is the first, peak / 25, by 10,000."""
    _, history = train(tmp_path)
    after_peak = (2 - 0.8) / (5 - 0.8)  # the first epoch's last step
    low = 3e-3 / 25 / 1e4
    expected = low + (3e-3 - low) * (1 + np.cos(np.pi * after_peak)) / 2
    assert [row["learning_rate"] for row in history] == pytest.approx([expected, low])


@pytest.mark.parametrize(("best", "reach", "passes"), [(0.5, 0.75, 6), (0.75, 0.75, 4), (0.5, 0.0, 4)])
def test_a_training_that_falls_short_goes_on_once(best, reach, passes: int, tmp_path: Path, monkeypatch) -> None:
    """Half as many passes, on the cycle that a training of so many has, and with images in orders of their own."""
    accuracies = iter([0.25, best, 0.25, 0.25, 0.0, 0.0])
    orders: list[int] = []
    monkeypatch.setattr(training, "evaluate", lambda *_: (1.0, next(accuracies)))
    drawn = training.batches
    monkeypatch.setattr(training, "batches", lambda *given: orders.append(given[3]) or drawn(*given))
    _, history = train(tmp_path, epochs=4, reach=reach)
    assert len(history) == passes and orders == [0, *range(passes)]
    assert load_checkpoint(tmp_path / "classifier.safetensors").facts["epoch"] == 2
    low, after_peak = 3e-3 / 25 / 1e4, (2 - 0.8) / (5 - 0.8)  # as in the test above
    expected = low + (3e-3 - low) * (1 + np.cos(np.pi * after_peak)) / 2
    assert [row["learning_rate"] for row in history[4:]] == pytest.approx([expected, low][: passes - 4])


@pytest.mark.parametrize("at", [19, 20, 24, 27])  # of preprocess, five calls a pass: at the first cycle's end, later
def test_killed_before_or_after_it_went_on_the_weights_are_the_same(at: int, tmp_path: Path, monkeypatch) -> None:
    model, history = train(tmp_path / "whole", epochs=4, reach=1.0)
    assert len(history) == 6
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "preprocess", killing(training.preprocess, at))
        train(tmp_path / "killed", save_every=1, epochs=4, reach=1.0)
    again, resumed = train(tmp_path / "killed", network(seed=99), epochs=4, reach=1.0)
    assert digest(again) == digest(model) and without_time(resumed) == without_time(history)


def test_the_gradients_norm_is_clipped_at_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, norms, true_step = network(), [], torch.optim.AdamW.step
    with torch.no_grad():
        model.fc.weight.mul_(1000)

    def step(optimizer: torch.optim.AdamW, *args: object) -> object:
        of = [p.grad.norm() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack(of).norm()))
        return true_step(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(tmp_path, model)
    assert norms[0] == pytest.approx(5, rel=1e-4) and max(norms) < 5.001


def test_a_network_that_is_trained_keeps_no_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    monkeypatch.setattr(training, "random_crop", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(model, TRAIN, VAL, tmp_path, RECIPE)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("progress", [False, True])
def test_one_epoch_is_enough(progress: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 1})
    history = fit(network(), TRAIN, VAL, tmp_path, recipe, progress=progress)
    assert [row["epoch"] for row in history] == [1] and (tmp_path / "classifier.safetensors").exists()
    shown = capfd.readouterr().err
    assert all(text in shown for text in ("training", "3/3", "val_accuracy=")) if progress else shown == ""


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_trained_the_same_way(network: str, tmp_path: Path) -> None:
    """All of its weights move, gates included, and the checkpoint is the network's own."""
    torch.manual_seed(0)
    model = NETWORKS[network](3, width=1 / 16)
    before = {name: value.clone() for name, value in model.named_parameters()}
    history = fit(model, TRAIN, VAL, tmp_path, RECIPE)
    assert len(history) == 2 and all(np.isfinite(row["train_loss"]) for row in history)
    assert not [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    loaded = load_checkpoint(tmp_path / "classifier.safetensors")
    assert loaded.architecture == network and digest(loaded) == digest(model)


# ----------------------------------------------------------------------------------------- what is trained on


def test_shuffled_labels_keep_the_counts_and_forget_the_images() -> None:
    creatures = Creatures("train", 400)
    shuffled = Shuffled(creatures, seed=0)
    assert (np.bincount(shuffled.labels) == np.bincount(creatures.labels)).all() and len(shuffled) == 400
    agree = (shuffled.labels == creatures.labels).mean()
    assert abs(agree - 1 / len(creatures.classes)) < 0.08  # four standard deviations of 400 draws
    assert (shuffled.image(7) == creatures.image(7)).all() and shuffled.names == creatures.names
    record, other = creatures[7], shuffled[7]
    assert other.label == shuffled.labels[7] and other.name == record.name and (other.mask == record.mask).all()
    again, another = Shuffled(creatures, seed=0), Shuffled(creatures, seed=1)
    assert (again.labels == shuffled.labels).all() and again.digest == shuffled.digest
    assert len({creatures.digest, shuffled.digest, another.digest}) == 3
    assert creatures.labels.tolist() == Creatures("train", 400).labels.tolist()  # untouched


def test_every_epoch_has_an_order_of_its_own_and_every_image_once() -> None:
    epochs = [batches(10, 3, seed=0, epoch=e) for e in range(3)]
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [[3, 3, 3]] * 3
    orders = [np.concatenate(epoch).tolist() for epoch in epochs]
    assert all(len(set(order)) == 9 and set(order) <= set(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0] and orders[0] != sorted(orders[0])
    assert np.concatenate(batches(10, 3, seed=1, epoch=0)).tolist() != orders[0]
    for count, sizes in ((2, [2]), (3, [3]), (5, [3]), (6, [3, 3])):  # a part of a batch stands only alone
        assert [len(batch) for batch in batches(count, 3, seed=0, epoch=0)] == sizes


def test_crops_depend_on_seed_epoch_and_index_alone() -> None:
    for key in ((0, 1), (5, 9), (0, 0)):
        piece = random_crop(TRAIN, *key, RECIPE)
        assert piece.shape == (32, 32, 3) and piece.dtype == np.uint8
        assert (piece == random_crop(TRAIN, *key, RECIPE.model_copy(update={"epochs": 9}))).all()
    for index in range(10):
        draw = np.random.default_rng([RECIPE.seed, 3, index])
        top, left, mirrored = *draw.integers(36 - 32 + 1, size=2), draw.integers(2)
        piece = squash(TRAIN.image(index), 36)[top : top + 32, left : left + 32]
        assert (random_crop(TRAIN, 3, index, RECIPE) == (piece[:, ::-1] if mirrored else piece)).all()
    whole = random_crop(TRAIN, 0, 4, RECIPE.model_copy(update={"crop": 36}))  # nothing is left to draw but the mirror
    assert any((whole == kind).all() for kind in (squash(TRAIN.image(4), 36), squash(TRAIN.image(4), 36)[:, ::-1]))
    images = [random_crop(TRAIN, epoch, 4, RECIPE) for epoch in range(40)]
    other_seed = [random_crop(TRAIN, epoch, 4, RECIPE.model_copy(update={"seed": 1})) for epoch in range(40)]
    assert any((a != b).any() for a, b in zip(images, other_seed, strict=True))
    assert len({image.tobytes() for image in images}) > 20
    image = squash(TRAIN.image(4), 36)
    pieces = [image[y : y + 32, x : x + 32] for y in range(5) for x in range(5)]
    plain = {piece.tobytes() for piece in pieces}
    mirrored = {piece[:, ::-1].tobytes() for piece in pieces}
    kinds = ["plain" if i.tobytes() in plain else "mirrored" if i.tobytes() in mirrored else "else" for i in images]
    assert set(kinds) == {"plain", "mirrored"}
    assert len({i.tobytes() for i in images if i.tobytes() in plain}) > 5  # corners are reached and positions vary


def test_the_groups_hold_every_parameter_once_at_its_rate() -> None:
    model = network()
    groups = parameter_groups(model, 3.0, 2.0, 1.0)
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())
    place = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert all(group["params"] for group in groups)
    expected = {
        "Mixed_6e.branch1x1.conv.weight": (2.0, 1.0),
        "Conv2d_1a_3x3.bn.weight": (2.0, 0.0),
        "Mixed_5b.branch_pool.bn.bias": (2.0, 0.0),
        "add2.conv.weight": (3.0, 1.0),
        "add1.conv.bias": (3.0, 0.0),
        "fc.weight": (3.0, 1.0),
        "fc.bias": (3.0, 0.0),
    }
    for name, rates in expected.items():
        assert place[id(model.get_parameter(name))] == rates, name


# ---------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": 40}, r"crop\n.*at most resize \(36\) allowed"),
        ({"resize": 32, "crop": 33}, r"crop\n.*at most resize \(32\) allowed"),
        ({"crop": 0}, r"crop\n.*greater than or equal to 32"),
        ({"epochs": 0}, r"epochs\n.*greater than or equal to 1"),
        ({"epochs": 2.0}, r"epochs\n.*valid integer"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0}, r"learning_rate\n.*greater than 0"),
        ({"learning_rate": float("inf")}, r"learning_rate\n.*finite"),
        ({"trunk_learning_rate": -0.1}, r"trunk_learning_rate\n.*greater than or equal to 0"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"reach": 98.0}, "reach"),
        ({"seed": True}, r"seed\n.*valid integer"),
        ({"seed": 2**63}, r"seed\n.*less than 9223372036854775808"),
        ({"device": "tpu"}, "'auto', 'cpu', 'cuda' or 'mps'"),
        ({"epoch": 3}, "epoch\n.*Extra inputs are not permitted"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe(**(dict(RECIPE) | change))


def test_the_recipe_unless_said_otherwise() -> None:
    sizes = {"resize": 160, "crop": 144, "epochs": 6, "batch_size": 10}
    rates = {"learning_rate": 0.002, "trunk_learning_rate": 0.002, "weight_decay": 0.001}
    assert Recipe().model_dump() == sizes | rates | {"reach": 0.0, "seed": 0, "device": "auto"}


def test_a_recipe_that_is_given_in_part_is_checked_whole() -> None:
    assert Recipe(epochs=1, seed=2**63 - 1).seed == 2**63 - 1 and Recipe(learning_rate=1).learning_rate == 1
    with pytest.raises(ValidationError, match=r"crop\n.*at most resize \(64\) allowed"):
        Recipe(resize=64)  # the default crop is larger
    with pytest.raises(ValidationError, match="Instance is frozen"):
        RECIPE.crop = 99  # type: ignore[misc]  # nothing is left that no check has seen


def test_sets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    two = LabelsOnly(4, "val", ("a", "b"))
    for parts, message in (
        ((TRAIN, two), "classes: 3 to train, 2 to validate, 3 in the head"),
        ((two, two), "classes: 2 to train, 2 to validate, 3 in the head"),
        ((LabelsOnly(0, "train"), VAL), "0 images to train"),
        ((TRAIN, LabelsOnly(0, "val")), "0 to validate"),
    ):
        with pytest.raises(UserError, match=message):
            fit(network(), *parts, tmp_path / "run", RECIPE)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model.fc.weight[0, 0] = float("nan")
    with pytest.raises(RuntimeError, match="the loss is nan at step 0; lower the learning rates"):
        train(tmp_path, model)
    assert not (tmp_path / "classifier.safetensors").exists() and not (tmp_path / "unfinished.pt").exists()


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    for name in ("cuda", "mps", "gpu", ""):
        with pytest.raises(UserError, match=f"device: '{name}' given; here: auto, cpu$"):
            pick_device(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda" and pick_device("cpu").type == "cpu"


@pytest.mark.parametrize(("native", "tiles"), [(True, True), (True, False), (False, True), (False, False)])
def test_bfloat16_is_fast_where_the_hardware_has_it(native: bool, tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    kinds = ("cpu", "cuda", "mps")
    assert [training.bf16_is_fast(torch.device(kind)) for kind in kinds] == [native and tiles, native, False]
