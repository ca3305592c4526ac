"""Figures of notebook 04: what multi-scale and closing do to a map, the sweeps, the table, the curves, the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.nn import functional as F

from dgl_lib import claims
from dgl_lib.ablation import SLIDES, TREATMENTS, Chosen, curve, row
from dgl_lib.datasets.records import Record
from dgl_lib.evaluation import Scores, choose, name_scales
from dgl_lib.maps import resize
from dgl_lib.plots.style import COLOURS, MAP, NAMES, bare, outline, show_map, show_photo

#: Points that a gain has to exceed, as for the claims.
MARGIN = claims.CLAIMS["C7"].margin or 0.0

#: Light to dark, as more is done to the map.
TREATMENT_COLOURS = {"none": "#c7c7c7", "MC": "#fdae6b", "MS": "#6baed6", "MS+MC": "#08519c"}


def at_most(m: np.ndarray, side: int) -> np.ndarray:
    """The map (h, w), averaged down to ``side`` cells a side where it is finer: what may be shown of a photograph."""
    size = min(m.shape[0], side), min(m.shape[1], side)
    return F.interpolate(torch.as_tensor(m)[None, None].float(), size=size, mode="area")[0, 0].numpy()


def agreement(maps: Mapping[float, np.ndarray]) -> dict[float, float]:
    """Pearson correlation of each scale's map (h, w) with that of scale 1.0, at 1.0's size; 0 for a constant map."""
    alone = {scale: resize(torch.from_numpy(m), maps[1.0].shape).double().ravel() for scale, m in maps.items()}
    centred = {scale: m - m.mean() for scale, m in alone.items()}
    unit = {scale: m / m.norm() if m.norm() > 0 else m for scale, m in centred.items()}
    return {scale: float(m @ unit[1.0]) for scale, m in unit.items() if scale != 1.0}


def _height(record: Record) -> float:
    """Inches for a row of panels 1.5 inches wide, under two lines of title each and one for the figure."""
    height, width = record.image.shape[:2]
    return 1.4 * height / width + 0.85


def scales_figure(
    record: Record, maps: Mapping[float, np.ndarray], merged: np.ndarray, size: int, pixels: bool
) -> Figure:
    """The raw map (h, w) of each scale, by scale, and their merged map (H, W); ``size`` is the input's side at 1.0."""
    grid = maps[1.0].shape[0]
    figure, axes = plt.subplots(1, len(maps) + 2, figsize=(1.45 * (len(maps) + 2), _height(record)))
    show_photo(axes[0], record, pixels)
    axes[0].set_title("the image", fontsize="small")
    for ax, (scale, m) in zip(axes[1:], maps.items(), strict=False):
        show_map(ax, m if pixels else at_most(m, grid), record)
        ax.set_title(f"scale {scale:g}: {round(size * scale)} px\n{m.shape[0]} x {m.shape[1]} cells", fontsize="small")
    show_map(axes[-1], merged if pixels else at_most(merged, grid), record)
    axes[-1].set_title("merged: mean of\nthe min-maxed maps", fontsize="small")
    title = ", ".join(f"{r:z.2f} at {scale:g}" for scale, r in agreement(maps).items())
    figure.suptitle(f"Correlation with the map of scale 1: {title}", x=0.01, ha="left")
    return figure


def closing_figure(before: np.ndarray, after: np.ndarray, side: int, record: Record, pixels: bool, grid: int) -> Figure:
    """A map (H, W) in 0..1 before and after closing, what was added, and both along the row where most was added.

    Args:
        side: of the kernel, in pixels.
        grid: cells a side of the map as the layer gives it; without ``pixels`` no panel shows more.
    """
    added = after - before
    figure, axes = plt.subplots(1, 4, figsize=(12, 2.9), width_ratios=[1, 1, 1, 1.7])
    shown = [m if pixels else at_most(m, grid) for m in (before, after, added)]
    for ax, m, title in zip(axes, shown, ("before", "after closing", "what closing added"), strict=False):
        height, width = before.shape
        high = 1 if title != "what closing added" else added.max()
        image = bare(ax).imshow(m, MAP, vmin=0, vmax=high or 1, extent=(0, width, height, 0), interpolation="nearest")
        outline(ax, record, "white")
        ax.set_title(title)
        figure.colorbar(image, ax=ax, shrink=0.75)
    reach = side // 2 if 2 * (side // 2) < min(added.shape) else 0  # gaps inside, not those at the frame
    line = reach + int(added[reach : len(added) - reach, reach : added.shape[1] - reach].max(1).argmax())
    x = np.arange(before.shape[1])
    axes[3].fill_between(x, before[line], after[line], color=COLOURS["dgl"], alpha=0.25, label="added")
    axes[3].plot(x, before[line], color="black", label="before")
    axes[3].plot(x, after[line], color=COLOURS["dgl"], label="after")
    axes[3].plot([2, 2 + side], [-0.06, -0.06], color="grey", lw=4, solid_capstyle="butt", label=f"kernel, {side} px")
    axes[3].set(xlabel="column, pixels", ylabel="map, 0..1", title=f"along row {line}", ylim=(-0.12, 1.05))
    axes[3].legend(fontsize="x-small", ncols=2)
    figure.suptitle("Closing fills dark gaps narrower than the kernel and lowers nothing", x=0.01, ha="left")
    return figure


def fusion_figure(record: Record, maps: Mapping[str, np.ndarray], pixels: bool) -> Figure:
    """The branches alone and the three readings of "both fused", raw maps (h, w) of one image by method."""
    figure, axes = plt.subplots(1, len(maps) + 1, figsize=(1.5 * (len(maps) + 1), _height(record)))
    show_photo(axes[0], record, pixels)
    axes[0].set_title("the image", fontsize="small")
    letters = {"dgl": "(a) product formula", "fused_mean": "(b) mean", "fused_max": "(c) maximum"}
    for ax, (method, m) in zip(axes[1:], maps.items(), strict=True):
        show_map(ax, m, record)
        ax.set_title(letters.get(method, NAMES[method].replace(" (", "\n(")), fontsize="small")
    figure.suptitle("Two branches and three readings of their fusion; colours span each map's range", x=0.01, ha="left")
    return figure


def sweep_figure(table: pd.DataFrame, chosen: Chosen, methods: Sequence[str]) -> Figure:
    """Validation IoU by set of scales (no closing), and by kernel at the chosen set; ``table`` of ``sweep_table``."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), width_ratios=[1.5, 1])
    names = list(dict.fromkeys(table.loc[(table["kernel"] == 0) & (table["scales"] != ""), "scales"]))
    for method in methods:
        rows = table[table["method"] == method]
        several = name_scales(chosen[method]["MS"][0])
        plain = rows[rows["kernel"] == 0].set_index("scales")["val_iou"]
        style = {"color": COLOURS.get(method), "marker": "o", "ms": 4, "lw": 1}
        left.plot(range(len(names)), plain.reindex(names), label=NAMES.get(method, method), **style)
        left.plot(names.index(several), plain[several], "o", ms=11, mfc="none", mec=COLOURS.get(method))
        closed = rows[rows["scales"] == several].sort_values("kernel")
        right.plot(100 * closed["kernel"], closed["val_iou"], label=NAMES.get(method, method), **style)
        kernel = chosen[method]["MS+MC"][1]
        value = closed.loc[closed["kernel"] == kernel, "val_iou"].item()
        right.plot(100 * kernel, value, "o", ms=11, mfc="none", mec=COLOURS.get(method))
    left.set_xticks(range(len(names)), [name.replace("+", "\n+ ") for name in names])
    left.set(xlabel="scales merged", ylabel="validation IoU, percent", title="scales, without closing")
    right.set(xlabel="kernel, percent of the longer side (0: no closing)", title="closing, at the scales chosen")
    right.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    sets = {chosen[m]["MS"][0] for m in methods}
    same = "choose the same scales" if len(sets) == 1 else "do not choose the same scales"
    figure.suptitle(f"On validation the methods {same} (circles: chosen)", x=0.01, ha="left")
    return figure


def treatments_figure(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Test IoU with its interval for each method under the four treatments, baselines as lines; of ``report_table``."""
    figure, ax = plt.subplots(figsize=(11, 4))
    for i, method in enumerate(methods):
        for j, treatment in enumerate(TREATMENTS):
            [one] = table[(table["method"] == method) & (table["treatment"] == treatment)].to_dict("records")
            x = i + 0.17 * (j - 1.5)
            label = treatment if i == 0 else None
            ax.bar(x, one["iou"], 0.16, color=TREATMENT_COLOURS[treatment], label=label)
            ax.plot([x, x], [one["low"], one["high"]], color="black", lw=1)
            ax.plot(x, one["test_peak"], "_", color="black", ms=7)
    for name, line in (("whole_image", "dotted"), ("centred_gaussian", "dashed")):
        value = table.loc[table["method"] == name, "iou"].item()
        ax.axhline(value, color="grey", linestyle=line, lw=1, label=NAMES[name])
    ax.plot([], [], "_", color="black", ms=7, label="peak on test (LID's way)")
    ax.set_xticks(range(len(methods)), [NAMES.get(m, m).replace(" (", "\n(").replace(" of", "\nof") for m in methods])
    ax.set(ylabel="test IoU, percent", xlim=(-0.6, len(methods) - 0.4))
    ax.legend(fontsize="x-small", ncols=1, loc="center left", bbox_to_anchor=(1, 0.5))
    shown = table[table["method"].isin(methods)]
    [top] = shown.nlargest(1, "iou").to_dict("records")
    [trivial] = table[table["treatment"] == ""].nlargest(1, "iou").to_dict("records")
    order = "below" if top["iou"] < trivial["iou"] else "above"
    title = f"Highest on test: {NAMES.get(top['method'], top['method'])}, {top['treatment']}, {top['iou']:.1f}"
    ax.set_title(f"{title}; {order} the better trivial baseline ({NAMES[trivial['method']]}, {trivial['iou']:.1f})")
    return figure


def curves_figure(val: Scores, test: Scores, chosen: Chosen, methods: Sequence[str] = ("cam", "dgl")) -> Figure:
    """Mean test IoU against the threshold for none, MS and MS+MC; chosen threshold (dot) and test peak (cross)."""
    figure, axes = plt.subplots(1, len(methods), figsize=(5.5 * len(methods), 3.9), sharey=True, squeeze=False)
    losses = []
    for ax, method in zip(axes[0], methods, strict=True):
        for treatment in SLIDES:
            values = curve(test, method, chosen[method][treatment])
            peak, t = values.argmax(), choose(val.find(**row(method, chosen[method][treatment])))
            line = "dashed" if treatment == "MS+MC" else "solid"  # it often lies on MS
            ax.plot(values, linestyle=line, color=TREATMENT_COLOURS[treatment], label=treatment)
            ax.plot(t, values[t], "o", color=TREATMENT_COLOURS[treatment], mec="black", ms=6)
            ax.plot(peak, values[peak], "x", color="black", ms=7)
            losses.append(values[peak] - values[t])
        ax.set(xlabel="threshold on the 8-bit map", title=NAMES.get(method, method))
    axes[0, 0].set_ylabel("test IoU, percent, mean over images")
    axes[0, 0].plot([], [], "o", color="white", mec="black", label="chosen on validation")
    axes[0, 0].plot([], [], "x", color="black", label="peak on test")
    axes[0, 0].legend(fontsize="x-small")
    title = f"Choosing the threshold on validation costs up to {max(losses):.1f} points of the test peak"
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def steps_figure(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """The steps MS over none and MC over MS with their intervals, a panel each; ``table`` of ``ablation.steps``."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.42 * len(methods) + 1.9), sharey=True, sharex=True)
    slides = {"MS": SLIDES["MS"] - SLIDES["none"], "MS+MC": SLIDES["MS+MC"] - SLIDES["MS"]}
    for ax, (after, before) in zip(axes, (("MS", "none"), ("MS+MC", "MS")), strict=True):
        rows = table[(table["treatment"] == after) & (table["over_treatment"] == before)].set_index("method")
        _intervals(ax, rows.loc[list(methods)], [COLOURS.get(m, "black") for m in methods])
        ax.plot(slides[after], -1, "D", color="black", mfc="white")
        ax.set(title=f"{after} minus {before}", xlabel="gain in test IoU, points")
    names = [NAMES.get(m, m) for m in methods]
    axes[0].set_yticks([-1, *range(len(methods))], ["slides: LID, ANOTHER DATA SET", *names])
    ours = table[(table["method"] == "dgl") & table["treatment"].isin(["MS", "MS+MC"])]
    found = [f"{one['treatment'][-2:]} {direction(one['low'], one['high'])}" for one in ours.to_dict("records")]
    figure.suptitle(f"DGL: {' and '.join(found)}; on the slides both go up", x=0.01, ha="left")
    return figure


def box_steps_figure(table: pd.DataFrame, scores: Sequence[str]) -> Figure:
    """What each treatment adds over none by each of ``scores``, paired, with intervals, a panel a score.

    Args:
        table: ``boxscores.box_table`` over the untreated maps, with the column ``treatment``.
    """
    rows = table[~table["treatment"].isin(["", "none"])]
    rows = rows.assign(gain=rows["over"], low=rows["over_low"], high=rows["over_high"])
    lines = rows.drop_duplicates(["method", "treatment"])
    figure, axes = plt.subplots(1, len(scores), figsize=(12, 0.42 * len(lines) + 1.9), sharey=True)
    for ax, score in zip(axes, scores, strict=True):
        of = rows[rows["score"] == score]
        _intervals(ax, of, [COLOURS.get(method, "black") for method in of["method"]])
        ax.set(title=score, xlabel="gain on test, points")
        ax.margins(y=0.15)
    axes[0].set_yticks(
        range(len(lines)),
        [f"{NAMES.get(m, m)}, {t}" for m, t in zip(lines["method"], lines["treatment"], strict=True)],
    )
    last = list(SLIDES)[-1]
    ours = rows[(rows["method"] == "dgl") & (rows["treatment"] == last)].set_index("score").loc[list(scores)]
    said: dict[str, list[str]] = {}
    for name, one in ours.iterrows():
        said.setdefault(direction(one["low"], one["high"]), []).append(str(name))
    found = "; ".join(f"{word} by {', '.join(names)}" for word, names in said.items())
    figure.suptitle(f"DGL under {last}: {found}", x=0.01, ha="left", fontsize="medium")
    return figure


def direction(low: float, high: float) -> str:
    """What an interval of a gain, in points, says in words: by the claims' margin, on both sides of 0."""
    if low >= -MARGIN and high <= MARGIN:
        return f"changes by less than {MARGIN:g} points"
    return "goes up" if low > MARGIN else "goes down" if high < -MARGIN else "makes no clear difference"


def claims_figure(table: pd.DataFrame) -> Figure:
    """The effects behind claims with their 95 % intervals and verdicts; ``table`` of ``claims.save_claims``."""
    figure, ax = plt.subplots(figsize=(9, 0.5 * len(table) + 1.3))
    colours = {"reproduced": "#2ca02c", "not reproduced": "#d62728", "undecided": "#7f7f7f"}
    rows = table.rename(columns={"measured": "gain"})
    _intervals(ax, rows, [colours[v] for v in table["verdict"]])
    labels = [f"{c}  {says}" for c, says in zip(table["claim"], table["says"], strict=True)]
    ax.set_yticks(range(len(table)), labels)
    for i, (high, word) in enumerate(zip(table["high"], table["verdict"], strict=True)):
        ax.annotate(word, (high, i), xytext=(6, 0), textcoords="offset points", va="center", fontsize="small")
    ax.margins(x=0.15)
    ax.set(xlabel="effect on test IoU, points, with its 95 % interval (dashed: +0.5)")
    count = int((table["verdict"] == "reproduced").sum())
    figure.suptitle(f"{count} of {len(table)} claims reproduced", x=0.01, ha="left")
    return figure


def _intervals(ax: Axes, rows: pd.DataFrame, colours: Sequence[str]) -> None:
    """A dot and its interval a row (columns gain, low, high), the first on top, with lines at 0 and at +0.5."""
    for i, (one, colour) in enumerate(zip(rows.to_dict("records"), colours, strict=True)):
        ax.plot([one["low"], one["high"]], [i, i], color=colour, lw=2)
        ax.plot(one["gain"], i, "o", color=colour)
    ax.axvline(0, color="grey", lw=0.8)
    ax.axvline(0.5, color="grey", lw=0.8, linestyle="dashed")
    if not ax.yaxis_inverted():
        ax.invert_yaxis()
