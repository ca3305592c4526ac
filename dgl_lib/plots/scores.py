"""The page of scores: its figures, drawn from its tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dgl_lib.evaluation import BASELINES
from dgl_lib.plots import style


def boxes(table: pd.DataFrame) -> Figure:
    """Test scores with their 95 % intervals, a line a method, a panel a score; open dots: the peak on test."""
    shown = ("mask IoU", "MaxBoxAccV2", "MaxBoxAcc", "Top-1", "PxAP")
    methods = list(dict.fromkeys(table["method"]))
    figure = style.figure(11, 0.36 * len(methods) + 1.8)
    axes = figure.subplots(1, len(shown), sharey=True)
    best = []
    for ax, score in zip(axes, shown, strict=True):
        of = table[table["score"] == score].set_index("method").loc[methods]
        for y, (method, row) in enumerate(of.iterrows()):
            colour = style.COLOURS.get(str(method))
            ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=1.8)
            if score != "PxAP":
                ax.plot(row["test_peak"], y, "o", ms=8, color=colour, mfc="none", mew=0.8)
            ax.plot(row["test"], y, "o", ms=5, color=colour)
        ax.grid(axis="x", alpha=0.3)
        ax.set_title("MaxBoxAcc\n= GT-known" if score == "MaxBoxAcc" else score, loc="center")
        ax.set_xlabel("%, test")
        method = of.loc[of["kind"] == "method", "val"].idxmax()
        best.append(str(method))
    layers = table.drop_duplicates("method").set_index("method")["layer"]
    axes[0].set_yticks(
        range(len(methods)), [f"{style.name(m)}  {layers[m]}".strip() for m in methods], fontsize="x-small"
    )
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    by = {method: [s for s, m in zip(shown, best, strict=True) if m == method] for method in dict.fromkeys(best)}
    figure.suptitle(
        "Best on validation: " + "; ".join(f"{style.name(m)} by {', '.join(scores)}" for m, scores in by.items()),
        fontsize="medium",
    )
    legend = [
        Line2D([], [], color="black", marker="o", ms=5, lw=1.8, label="threshold from validation, 95 % interval"),
        Line2D([], [], color="black", marker="o", ms=8, mfc="none", lw=0, label="peak on test (published protocol)"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure


def curves(table: pd.DataFrame, bands: pd.DataFrame, usable: float) -> Figure:
    """IoU against the threshold with the chosen one marked, left; right, the thresholds at ``usable`` of the peak."""
    bands = bands[(bands["split"] == "test") & (bands["kind"] != "control")]
    methods = bands["method"].tolist()
    figure = style.figure(11, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    for y, row in enumerate(bands.to_dict("records")):
        method, t = row["method"], row["threshold"]
        colour, line = style.COLOURS.get(method), "--" if method in BASELINES else "-"
        curve = table[(table["method"] == method) & (table["layer"] == row["layer"])].set_index("threshold")["test"]
        left.plot(curve, line, color=colour, lw=1.4)
        left.plot(t, curve[t], "o", ms=5, color=colour)
        good = np.flatnonzero(curve >= usable * curve.max())
        for run in np.split(good, np.flatnonzero(np.diff(good) > 1) + 1):
            right.barh(y, run[-1] - run[0] + 1, left=run[0] - 0.5, height=0.6, color=colour, alpha=0.75)
        right.plot(t, y, "o", ms=5, color="black", mfc="white")
        right.text(262, y, f"{row['width']}", va="center", fontsize="x-small")
    left.set(xlabel="threshold on the 8-bit map (grey levels)", ylabel="mean IoU, test (%)", xlim=(0, 255))
    left.set_title("dot: the threshold chosen on validation")
    names = [f"{style.name(m)}  {layer}".strip() for m, layer in zip(methods, bands["layer"], strict=True)]
    right.set_yticks(range(len(methods)), names, fontsize="x-small")
    right.set(ylim=(len(methods) - 0.5, -0.5), xlim=(0, 255), xlabel="threshold (grey levels)")
    right.set_title("usable thresholds, and how many")
    of = bands[bands["kind"] == "method"].set_index("method")["width"]
    figure.suptitle(
        f"Usable thresholds ({100 * usable:.0f} % of the peak): "
        f"{of.min()} grey levels for {style.name(str(of.idxmin()))}, {of.max()} for {style.name(str(of.idxmax()))}",
        fontsize="medium",
    )
    return figure


def normalisation(table: pd.DataFrame) -> Figure:
    """Test IoU of each method under each normalisation, left; its rank among the methods, right."""
    ways = list(dict.fromkeys(table["normalisation"]))
    methods = table[table["kind"] == "method"]
    figure = style.figure(11, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    x = np.arange(len(ways))
    names = list(dict.fromkeys(methods["method"]))
    last = methods[methods["normalisation"] == ways[-1]].sort_values("rank", kind="stable")["method"].tolist()
    for k, method in enumerate(names):
        one, colour = methods[methods["method"] == method].set_index("normalisation").loc[ways], style.COLOURS[method]
        ends = np.clip([one["iou"] - one["low"], one["high"] - one["iou"]], 0, None)
        shift = 0.03 * (k - (len(names) - 1) / 2)
        left.errorbar(x + shift, one["iou"], ends, color=colour, marker="o", ms=4, lw=1.2, elinewidth=0.8)
        right.plot(x, one["rank"] + 2 * shift, color=colour, marker="o", ms=5, lw=1.8)  # ties stay visible
        right.text(
            x[-1] + 0.12, last.index(method) + 1, style.name(method), color=colour, va="center", fontsize="x-small"
        )
    for row in table[(table["kind"] == "baseline") & (table["normalisation"] == ways[0])].to_dict("records"):
        line = "--" if row["method"] == "centred_gaussian" else ":"
        left.axhline(row["iou"], ls=line, color="black", lw=0.9, label=style.name(row["method"]))
    left.legend(frameon=False, fontsize="x-small")
    left.set_xticks(x, ways)
    left.set(ylabel="mean IoU, test (%)", xlabel="normalisation", xlim=(-0.4, len(ways) - 0.6))
    right.set_xticks(x, ways)
    right.set_yticks(range(1, len(names) + 1))
    right.set(
        ylabel="rank among the methods (1 is best, ties to 0.1 point)",
        xlabel="normalisation",
        ylim=(len(names) + 0.6, 0.4),
    )
    right.set_xlim(-0.2, len(ways) - 1 + 1.1)
    spread = methods.groupby("method")["iou"].agg(lambda iou: iou.max() - iou.min())
    ranks = methods.pivot_table("rank", "method", "normalisation")
    moved = ((ranks.max(axis=1) - ranks.min(axis=1)) > 0).sum()
    figure.suptitle(
        f"The normalisation moves a method's IoU by {spread.min():.1f} to {spread.max():.1f} points; "
        f"{moved} of {len(names)} change their rank"
    )
    return figure


def mistakes(table: pd.DataFrame, margin: float) -> Figure:
    """What each mistake adds, in points: a small dot a method, DGL and CAM with their 95 % intervals."""
    names = list(dict.fromkeys(table["mistake"]))
    figure = style.figure(10, 0.5 * len(names) + 1.8)
    ax = figure.subplots()
    for y, mistake in enumerate(names):
        of = table[(table["mistake"] == mistake) & (table["kind"] == "method")]
        others = of[~of["method"].isin(["dgl", "cam"])]
        ax.plot(others["inflation"], np.full(len(others), y), "o", ms=4, color="#1f77b4", mfc="none", alpha=0.8)
        for row in of[of["method"].isin(["dgl", "cam"])].to_dict("records"):
            difference = row["of"] != "IoU"
            colour = "black" if difference else style.COLOURS[row["method"]]
            height = y + (0 if difference else -0.17 if row["method"] == "dgl" else 0.17)
            ax.plot([row["low"], row["high"]], [height, height], color=colour, lw=1.8)
            ax.plot(row["inflation"], height, "D" if difference else "o", ms=6, color=colour)
    ax.axvspan(-margin, margin, color="black", alpha=0.08, lw=0)
    ax.axvline(0, color="black", lw=0.8)
    ax.grid(axis="x", alpha=0.3)
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel="mistaken minus honest, points of test IoU (95 %, paired)")
    dgl = table[table["method"] == "dgl"]
    worst = dgl.iloc[int(dgl["inflation"].abs().to_numpy().argmax())]
    what = "DGL's lead over CAM" if worst["of"] != "IoU" else "DGL's IoU"
    ax.set_title(f"The mistake that matters most here: {worst['mistake']}, {worst['inflation']:+z.1f} points of {what}")
    legend = [
        *(Line2D([], [], color=style.COLOURS[m], marker="o", lw=1.8, label=style.name(m)) for m in ("dgl", "cam")),
        Line2D([], [], color="#1f77b4", marker="o", ms=4, mfc="none", lw=0, label="another method"),
        Line2D([], [], color="black", marker="D", lw=1.8, label="DGL minus CAM"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    return figure
