"""The figures of the controls' page: scores and likeness of maps under every control, and the maps themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgl_lib.datasets.records import Dataset
from dgl_lib.evaluation import BASELINES, Maps
from dgl_lib.plots import style

#: One colour a control; those of low confidence have a panel of their own.
COLOURS = {
    "right class": "black",
    "wrong class": "#d62728",
    "untrained": "#1f77b4",
    "fresh head": "#17becf",
    "shuffled labels": "#ff7f0e",
}


def compare(table: pd.DataFrame, layer: str) -> Figure:
    """Rows as ``dgl_lib.controls.compare`` gives them, one layer a method: IoU, likeness, low confidence, by method."""
    baselines = table[table["method"].isin(BASELINES) & (table["control"] == "right class")]
    table = table[~table["method"].isin(BASELINES)]
    methods = table["method"].unique().tolist()
    figure = plt.figure(figsize=(10, 0.55 * len(methods) + 1.5))
    axes = figure.subplots(1, 3, sharey=True, width_ratios=[1.4, 1.2, 1])
    names = [name for name in COLOURS if name in set(table["control"])]
    for k, name in enumerate(names):
        rows = table[table["control"] == name].set_index("method").loc[methods]
        y = np.arange(len(methods)) + 0.15 * (k - (len(names) - 1) / 2)
        _dots(axes[0], rows, y, ("iou", "low", "high"), COLOURS[name], name)
        if name != "right class":
            _dots(axes[1], rows, y, ("spearman", "spearman_low", "spearman_high"), COLOURS[name])
    for name, line in (("whole_image", ":"), ("centred_gaussian", "--")):
        level = baselines.loc[baselines["method"] == name, "iou"].item()
        axes[0].axvline(level, color="black", ls=line, lw=0.9, label=style.NAMES[name])
    low = table[table["control"] == "low confidence"].set_index("method").loc[methods]
    _dots(axes[2], low, np.arange(len(methods)), ("change", "change_low", "change_high"), "#9467bd")
    axes[2].axvline(0, color="black", lw=0.8)
    axes[0].set(title="Score", xlabel="test IoU (%)")
    axes[1].set(title="Likeness to the right class's map", xlabel="rank correlation", xlim=(-1.05, 1.05))
    axes[2].set(title="Low confidence\nminus the rest", xlabel="change in IoU (points)")
    labels = [style.NAMES.get(m, m) for m in methods]
    axes[0].set_yticks(range(len(methods)), labels)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    for ax in axes:
        ax.grid(axis="x", alpha=0.3)
    control = table[table["control"] == "untrained"]
    as_good = int((control["change_high"] >= 0).sum())
    figure.suptitle(
        f"{layer}: for {as_good} of {len(methods)} maps the score of an untrained network is not clearly lower"
    )
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    return figure


def _dots(
    ax: Axes, rows: pd.DataFrame, y: np.ndarray, columns: tuple[str, str, str], colour: str, label: str = ""
) -> None:
    mean, low, high = (rows[column].to_numpy() for column in columns)
    ax.hlines(y, low, high, color=colour, lw=1.4)
    ax.plot(mean, y, "o", ms=3.5, color=colour, label=label or None)


def examples(
    dataset: Dataset, indices: Sequence[int], maps: Mapping[str, Maps], pairs: Sequence[tuple[str, str]], pixels: bool
) -> Figure:
    """Maps of the images ``indices``: a column a (method, layer), a row an image and control; each in its own range."""
    rows = [(i, name) for i in indices for name in maps]
    figure = plt.figure(figsize=(0.78 * (len(pairs) + 1) + 0.9, 0.78 * len(rows) + 0.9))
    axes = figure.subplots(len(rows), len(pairs) + 1, squeeze=False)
    for line, (i, name) in zip(axes, rows, strict=True):
        record = dataset[i]
        if name == next(iter(maps)):
            style.show_photo(line[0], record, pixels)
        else:
            style.bare(line[0])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        for ax, pair in zip(line[1:], pairs, strict=True):
            style.show_map(ax, maps[name].maps[pair][i], record)
    for ax, (method, _) in zip(axes[0, 1:], pairs, strict=True):
        ax.set_title(style.NAMES.get(method, method).replace(" (", "\n(").replace("pixel ", "pixel\n"), fontsize=7,
                     loc="center")  # fmt: skip
    figure.suptitle(
        f"The first test image of {len(indices)} classes: the right class and {len(maps) - 1} controls",
        fontsize="medium",
    )
    return figure
