"""The figure of the pages that compare runs, of other seeds or other networks: every score and effect, a dot a run."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgl_lib.evaluation import BASELINES
from dgl_lib.plots import style
from dgl_lib.plots.layers import MARGIN

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c")


def label(by: str, run: object) -> str:
    """What a run is called: ``seed 1``, or its network's name."""
    return f"seed {run}" if by == "seed" else str(run)


def dots(table: pd.DataFrame, effects: pd.DataFrame, title: str, by: str = "seed") -> Figure:
    """Left, test IoU of one row a method and run (method, iou, low, high); right, effects (effect, mean, low, high).

    The column ``by`` tells the runs apart, in the order of ``effects``; ``title`` is the left panel's. Lines are 95 %
    intervals over images; the grey band holds the effects that a claim's margin does not let count.
    """
    scores = table[~table["method"].isin(BASELINES)].rename(columns={"iou": "mean"})
    methods, names = scores["method"].unique().tolist(), effects["effect"].unique().tolist()
    figure = plt.figure(figsize=(10, 0.38 * len(methods) + 1.6))
    left, right = figure.subplots(1, 2)
    runs = effects[by].unique().tolist()
    _by_run(left, scores, "method", methods, by, runs)
    for name, line in (("whole_image", ":"), ("centred_gaussian", "--")):
        level = table.loc[table["method"] == name, "iou"].mean()
        left.axvline(level, color="black", ls=line, lw=0.9, label=style.NAMES[name])
    left.set_yticks(range(len(methods)), [style.NAMES.get(m, m) for m in methods])
    left.set(xlabel="test IoU (%)", title=title)
    right.axvspan(-MARGIN, MARGIN, color="black", alpha=0.08, lw=0)
    right.axvline(0, color="black", lw=0.8)
    _by_run(right, effects, "effect", names, by, runs)
    labels = [name.replace(" minus ", "\n$-$ ") for name in names]
    right.set_yticks(range(len(names)), labels, fontsize="small")
    right.set(xlabel="difference (points)", title="Effects, image by image")
    means = effects.pivot_table(index="effect", columns=by, values="mean")
    agree = int(((means > 0).all(axis=1) | (means < 0).all(axis=1)).sum())
    figure.suptitle(f"{agree} of {len(names)} effects have the same sign with all {len(runs)} {by}s")
    handles, texts = left.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=5, frameon=False, fontsize="small")
    return figure


def _by_run(ax: Axes, table: pd.DataFrame, key: str, order: list[str], by: str, runs: Sequence[object]) -> None:
    for k, run in enumerate(runs):
        rows = table[table[by] == run].set_index(key).loc[order]
        y = np.arange(len(order)) + 0.18 * (k - (len(runs) - 1) / 2)
        ax.hlines(y, rows["low"], rows["high"], color=COLOURS[k % len(COLOURS)], lw=1.4)
        ax.plot(rows["mean"], y, "o", ms=4, color=COLOURS[k % len(COLOURS)], label=label(by, run))
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.grid(axis="x", alpha=0.3)
