"""Figures and small tables of notebook 01: the data, the network's shapes, its training, what it says and looks at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from dgl_lib.data import Dataset, Record, Subset, first_per_class
from dgl_lib.maps import resize
from dgl_lib.models import Classifier
from dgl_lib.plots import style
from dgl_lib.taps import find, frozen, tap

TRAIN, VAL, KEPT, CHANCE = "#1f77b4", "#d62728", "#2ca02c", "#7f7f7f"
REGION_COLOURS = ListedColormap(["#26203a", "#8f6fb0", "#ffd166", "#b8b8b8"])  # ground, rest, part, not scored
SHOWN, CONFUSED = 10, 20  # classes at most that a figure shows one by one, and that a confusion matrix does
PEAK_REGIONS = ("telling part", "rest of the object", "object", "background", "not scored")


def readable(name: str, width: int = 80) -> str:
    """A class name as text: in words, in lines of at most ``width`` letters (a longer word stays whole)."""
    return textwrap.fill(name.replace("_", " "), width, break_long_words=False)


# ------------------------------------------------------------------------------------------------------------ tables


def first_of_each(dataset: Dataset, count: int, classes: int = SHOWN) -> Dataset:
    """The first ``count`` images of each of the first ``classes`` classes: few enough to look at one by one."""
    chosen = first_per_class(dataset, count)
    return Subset(chosen, np.flatnonzero(chosen.labels < classes).tolist())


def images_per_class(splits: dict[str, Dataset]) -> pd.DataFrame:
    """Images of each class in each split, one line a class, with the name of its first image in the first split."""
    first = next(iter(splits.values()))
    counts = {split: np.bincount(data.labels, minlength=len(first.classes)) for split, data in splits.items()}
    names = [first.names[int(np.flatnonzero(first.labels == c)[0])] for c in range(len(first.classes))]
    return pd.DataFrame({**counts, "first image": names}, index=pd.Index(first.classes, name="class"))


def walk(model: Classifier, size: int) -> pd.DataFrame:
    """What one forward pass of a black ``size`` px image meets: a row a stage, with its true output's shape.

    Columns: stage, channels, height, width (cells), stride (input pixels a cell), parameters.
    """
    layers = {layer.name for layer in model.layers}
    groups = {name.partition(".")[0] for name in layers if "." in name}  # shown block by block
    children = {name for name, _ in model.named_children()} - {"dropout", "fc"} - groups
    stages = [name for name, _ in model.named_modules() if name in layers | children]
    device = next(model.parameters()).device
    with frozen(model), torch.no_grad(), tap(model, stages) as outputs:
        model(torch.zeros(1, 3, size, size, device=device))
    modules = find(model, stages)
    rows = [
        (name, *outputs[name].shape[1:], size / outputs[name].shape[-1], sum(p.numel() for p in module.parameters()))
        for name, module in modules.items()
    ]
    return pd.DataFrame(rows, columns=["stage", "channels", "height", "width", "stride", "parameters"])


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Images of each true class (rows) by predicted class (columns), (C, C) counts."""
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return pd.DataFrame(counts, index=pd.Index(classes, name="true"), columns=pd.Index(classes, name="predicted"))


def peak_region(m: Tensor, record: Record) -> str:
    """Where a map (h, w) is highest, resized to the image: one of ``PEAK_REGIONS``; "object" where no part is known."""
    height, width = record.image.shape[:2]
    y, x = divmod(int(resize(m, (height, width)).argmax()), width)
    if record.ignore is not None and record.ignore[y, x]:
        return "not scored"
    if record.mask is None or not record.mask[y, x]:
        return "background"
    if record.part is None:
        return "object"
    return "telling part" if record.part[y, x] else "rest of the object"


# ----------------------------------------------------------------------------------------------------------- figures


def first_images(dataset: Dataset, pixels: bool) -> Figure:
    """The first image of each class: above, what training gets (image and class); below, what it never gets (masks).

    Of more than ``SHOWN`` classes, the first.
    """
    chosen = first_of_each(dataset, 1)
    records = sorted((chosen[i] for i in range(len(chosen))), key=lambda record: record.label)
    figure = style.figure(1.15 * len(records), 3.1)
    for column, (above, below) in enumerate(figure.subplots(2, len(records)).T):
        record = records[column]
        image = record.image if pixels else np.full_like(record.image, 240)
        style.bare(above).imshow(image)
        above.set_title(readable(dataset.classes[record.label], 13), loc="center", fontsize=9)
        above.set_anchor("S")  # photographs differ in shape: the name stands close to its own
        below.set_anchor("N")
        style.bare(below).imshow(_regions(record), REGION_COLOURS, vmin=-0.5, vmax=3.5, interpolation="nearest")
        if column == 0:
            above.set_ylabel("training sees", fontsize=8)
            below.set_ylabel("only scores see", fontsize=8)
    figure.suptitle(f"{len(dataset.classes)} classes, one word an image; the masks below stay shut in training")
    return figure


def _regions(record: Record) -> np.ndarray:
    """0 ground, 1 rest of the object, 2 telling part, 3 not scored; (H, W)."""
    regions = np.zeros(record.image.shape[:2], np.uint8)
    for value, pixels in ((1, record.mask), (2, record.part), (3, record.ignore)):
        if pixels is not None:
            regions[pixels] = value
    return regions


def curves(history: pd.DataFrame, classes: int, kept: int) -> Figure:
    """Loss, accuracy and learning rate by epoch; the epoch ``kept`` is marked, and so is what a guess would get."""
    figure = style.figure(10.5, 3.0)
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, what, scale, guess in (
        (loss, "loss", 1.0, np.log(classes)),
        (accuracy, "accuracy", 100.0, 100 / classes),
    ):
        for split, label, colour in (("train", "training crops", TRAIN), ("val", "validation images", VAL)):
            axes.plot(history.epoch, scale * history[f"{split}_{what}"], "o-", ms=4, color=colour, label=label)
        axes.axhline(guess, color=CHANCE, ls=":", label="a guess")
        axes.axvline(kept, color=KEPT, lw=6, alpha=0.25, label="epoch kept")
    start, end = history.train_loss.iloc[[0, -1]]
    loss.set(ylabel="cross-entropy, nats", title=f"Training loss: {start:.2f} to {end:.2f} (a guess: ln {classes})")
    best = 100 * history.set_index("epoch").val_accuracy[kept]
    accuracy.set(ylabel="images right, %", ylim=(0, 101), title=f"Epoch {kept} validates best: {best:.1f} %")
    rate.plot(history.epoch, history.learning_rate, "o-", ms=4, color="black")
    rate.set(ylabel="learning rate, new layers", title="One cycle: up, then down to nothing")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    accuracy.legend(fontsize=8, loc="best")
    return figure


def confusion(counts: pd.DataFrame) -> Figure:
    """The confusion matrix as a heat map of counts; the title names the most frequent mistake.

    Of more than ``CONFUSED`` classes, those with the most mistakes (made of their images, or made with their name).
    """
    most = confused_most(counts)
    side = 2.0 + 0.42 * len(most)
    figure = style.figure(side + 0.8, side)
    axes = figure.subplots()
    shown = most.rename(index=readable, columns=readable)
    sns.heatmap(shown, ax=axes, annot=True, fmt="d", cmap="viridis", square=True, cbar=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_xticks(axes.get_xticks(), list(shown.columns), rotation=40, ha="right", rotation_mode="anchor")
    figure.suptitle(textwrap.fill(most_confused(counts), 46), fontsize=10)
    return figure


def confused_most(counts: pd.DataFrame, classes: int = CONFUSED) -> pd.DataFrame:
    """Of a confusion matrix, the ``classes`` with the most mistakes in their row and column together, in its order."""
    number = counts.to_numpy()
    mistakes = number.sum(0) + number.sum(1) - 2 * np.diag(number)
    kept = np.sort(np.argsort(-mistakes, kind="stable")[:classes])
    return counts.iloc[kept, kept]


def most_confused(counts: pd.DataFrame) -> str:
    """A sentence on the most frequent mistake (the first in reading order, where several tie)."""
    names, number = [readable(str(name)) for name in counts.columns], counts.to_numpy()
    wrong = number * (1 - np.eye(len(number), dtype=np.int64))
    if not wrong.any():
        return "No image is taken for another class"
    true, said = divmod(int(wrong.argmax()), len(number))
    return f"Most frequent mistake: {names[true]} taken for {names[said]}, {wrong.max()} of {number[true].sum()}"


def right_and_wrong(dataset: Dataset, probabilities: np.ndarray, pixels: bool, count: int = 5) -> Figure:
    """By rule: the ``count`` most confident right answers above, the first ``count`` wrong ones below.

    Args:
        probabilities: (N, C), rows in the data set's order.
    """
    predicted = probabilities.argmax(1)
    right = np.flatnonzero(predicted == dataset.labels)
    wrong = np.flatnonzero(predicted != dataset.labels)
    right = right[np.argsort(-probabilities[right].max(1), kind="stable")]
    figure = style.figure(1.4 * count, 4.1)
    for row, chosen in zip(figure.subplots(2, count), (right[:count], wrong[:count]), strict=True):
        for axes in row[len(chosen) :]:
            axes.set_axis_off()
        for axes, index in zip(row, chosen, strict=False):
            style.show_photo(axes, dataset[int(index)], pixels)
            true, said = (readable(dataset.classes[c], 16) for c in (dataset.labels[index], predicted[index]))
            text = said if true == said else f"{said}?\nno: {true}"
            axes.set_title(f"{text}\np = {probabilities[index].max():.3f}", loc="center", fontsize=8)
    share = f"{len(right)} of {len(dataset)} right"
    figure.suptitle(f"{share}. Above: the surest of them. Below: " + ("the first wrong ones" if len(wrong) else "none"))
    return figure


def first_cams(records: Sequence[Record], maps: Tensor, classes: Sequence[str], pixels: bool) -> Figure:
    """Images above, their CAMs (N, h, w) below, object outlined; the title counts the peaks on it."""
    figure = style.figure(1.15 * len(records), 3.1)
    for column, (above, below) in enumerate(figure.subplots(2, len(records)).T):
        record = records[column]
        style.show_photo(above, record, pixels)
        above.set_title(readable(classes[record.label], 13), loc="center", fontsize=9)
        above.set_anchor("S")
        style.show_map(below, maps[column].cpu().numpy(), record)
        below.set_title(peak_region(maps[column], record), loc="center", fontsize=8)
    regions = [peak_region(m, record) for m, record in zip(maps, records, strict=True)]
    hits = sum(region == "telling part" for region in regions)
    inside = sum(region not in ("background", "not scored") for region in regions)
    told = f", on its telling part in {hits}" if any(record.part is not None for record in records) else ""
    figure.suptitle(f"CAM peaks on the object in {inside} of {len(records)} images{told}")
    return figure
