"""The figures of notebook 02: features before and after branch 1, on their way, and from above."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dgl_lib.data.records import Record
from dgl_lib.metrics import bootstrap
from dgl_lib.plots.style import MAP, SIGNED, show_map, show_photo
from dgl_lib.pulling import Compared, Plane, Pulled

PULLED, PUSHED, RANDOM = "#d62728", "#1f77b4", "#7f7f7f"
FLOAT32 = float(np.finfo(np.float32).eps)
RULES = {"released": PULLED, "autograd": PUSHED}


def maps_beside(
    records: Sequence[Record],
    columns: dict[str, np.ndarray],
    pixels: bool,
    *,
    title: str = "",
    classes: Sequence[str] = (),
    signed: Sequence[str] = (),
) -> Figure:
    """A row an image: its photograph or outline, then its map of every column, (N, h, w) each.

    Each map spans its own colours; those of the columns in ``signed`` lie evenly around 0.
    """
    shape = (len(records), 1 + len(columns))
    figure, grid = plt.subplots(*shape, figsize=(1.45 * shape[1], 1.45 * shape[0] + 0.5), squeeze=False)
    for i, record in enumerate(records):
        show_photo(grid[i, 0], record, pixels)
        if classes:
            name = textwrap.fill(classes[record.label].replace("_", " "), 12)
            grid[i, 0].set_ylabel(name, fontsize="small")
        for axes, (name, maps) in zip(grid[i, 1:], columns.items(), strict=True):
            show_map(axes, maps[i], record, SIGNED if name in signed else MAP, name in signed)
    for axes, name in zip(grid[0], ["image", *columns], strict=True):
        axes.set_title(name, fontsize="small", loc="center")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def channels(record: Record, before: np.ndarray, after: np.ndarray, chosen: Sequence[int], *, title: str) -> Figure:
    """Chosen channels (K, h, w) of one image before (above) and after (below), both on one scale a channel."""
    figure, grid = plt.subplots(2, len(chosen), figsize=(1.75 * len(chosen) + 0.6, 4.2), squeeze=False)
    for column, k in zip(grid.T, chosen, strict=True):
        limit = max(float(np.abs(before[k]).max()), float(np.abs(after[k]).max())) or 1.0
        for axes, m in zip(column, (before[k], after[k]), strict=True):
            show_map(axes, m, record, SIGNED, True)
            axes.images[0].set_clim(-limit, limit)
        column[0].set_title(f"channel {k}", fontsize="small", loc="center")
    grid[0, 0].set_ylabel("n(S)")
    grid[1, 0].set_ylabel("A = n(S) - n(G_J)")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def pulling_curves(
    steps: Sequence[float], pulled: Pulled, random_steps: Sequence[float], control: Pulled, *, title: str
) -> Figure:
    """Margin and p_c against the step: single images thin, their mean with its 95 % band, the random control grey."""
    figure, pair = plt.subplots(1, 2, figsize=(9.5, 3.7))
    for axes, values, random, name in zip(
        pair, pulled, control, ("logit margin  $l_c-\\max_{j\\neq c}\\,l_j$", "probability  $p_c$"), strict=True
    ):
        axes.plot(steps, values.T, color=PULLED, lw=0.5, alpha=max(0.06, min(0.35, 12 / len(values))))
        _mean_and_band(axes, random_steps, random, RANDOM, "random direction of the same length")
        _mean_and_band(axes, steps, values, PULLED, "along $-G_J$ (left of 0: along $+G_J$)")
        axes.axvline(0, color="black", lw=0.8, ls=":")
        axes.set(xlabel="step t, in units of ||S||", ylabel=name)
        axes.locator_params(axis="x", nbins=4)
    low, high = np.percentile(pulled.margin, [3, 99])
    pair[0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    pair[0].axhline(0, color="black", lw=0.8)
    pair[0].legend(loc="upper left", frameon=False, fontsize="small")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _mean_and_band(axes: Axes, steps: Sequence[float], values: np.ndarray, colour: str, label: str) -> None:
    intervals = [bootstrap(column) for column in values.T]
    axes.fill_between(steps, [i.low for i in intervals], [i.high for i in intervals], color=colour, alpha=0.3, lw=0)
    axes.plot(steps, [i.mean for i in intervals], "o-", color=colour, ms=3.5, lw=2, label=label)


def regions(found: Plane, classes: Sequence[str], steps: Sequence[float], *, title: str) -> Figure:
    """The plane twice: the classes the network gives its points, and the margin of c; the image's path in both.

    Colours are the classes' own in every such figure; the legend names those that occur.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.7), sharex=True, sharey=True)
    da, db = (float(axis[1] - axis[0]) / 2 for axis in (found.a, found.b))
    extent = (found.a[0] - da, found.a[-1] + da, found.b[0] - db, found.b[-1] + db)
    table = plt.get_cmap("tab10" if len(classes) <= 10 else "gist_ncar", max(10, len(classes)))
    colours = [(*table(i)[:3], 0.55) for i in range(len(classes))]
    left.imshow(found.region, ListedColormap(colours), vmin=-0.5, vmax=len(classes) - 0.5, **_image(extent))
    limit = float(np.abs(found.margin).max()) or 1.0
    shown = right.imshow(found.margin, SIGNED, vmin=-limit, vmax=limit, **_image(extent))
    figure.colorbar(shown, ax=right, label=f"margin of {classes[found.c]}, logits")
    for axes in (left, right):
        if found.margin.min() < 0 < found.margin.max():
            axes.contour(found.a, found.b, found.margin, levels=[0], colors="black", linewidths=1.5)
        inside = [t for t in steps if extent[0] <= t <= extent[1]]
        axes.plot(inside, [0] * len(inside), "o-", color="black", mfc="white", ms=4, lw=1.2)
        axes.annotate("", (max(inside), 0), (0, 0), arrowprops={"arrowstyle": "-|>", "color": "black"})
        axes.plot(0, 0, "*", color="black", mfc="yellow", ms=14)
        axes.set(xlabel="a, along $-n(G_J)$, in ||S||", xlim=extent[:2], ylim=extent[2:], aspect="auto")
    left.set(ylabel="b, toward the runner-up, in ||S||", title="the class the network gives each point")
    right.set_title("how far inside the class region")
    handles: list = [Patch(color=colours[i], label=classes[i]) for i in np.unique(found.region)]
    handles += [Line2D([], [], color="black", mfc="yellow", marker="*", ms=11, ls="", label="the image's own features")]
    handles += [Line2D([], [], color="black", lw=1.5, label="margin 0")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize="small", frameon=False)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _image(extent: tuple[float, float, float, float]) -> dict:
    return {"extent": extent, "origin": "lower", "interpolation": "nearest"}


def agreement_tables(alphas: Sequence[float], correlation: np.ndarray, iou: np.ndarray, *, title: str) -> Figure:
    """Correlation and IoU between the maps of every two alphas, (A, A) each, as numbers on colours."""
    figure, pair = plt.subplots(1, 2, figsize=(9, 3.9))
    names = [f"{a:g}" for a in alphas]
    for axes, values, name in zip(
        pair, (correlation, iou), ("correlation of the maps", "IoU of what lies above 0.5"), strict=True
    ):
        shown = axes.imshow(values, "viridis", vmin=min(0.0, float(values.min())), vmax=1)
        for (i, j), value in np.ndenumerate(values):
            dark = shown.norm(value) < 0.6
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black", fontsize=8)
        axes.set(xticks=range(len(names)), yticks=range(len(names)), xticklabels=names, yticklabels=names)
        axes.set(xlabel="alpha", ylabel="alpha", title=name)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def float32_curves(margin: Sequence[float], cosines: dict[str, np.ndarray], *, title: str) -> Figure:
    """How well float32 finds the direction p - y, for growing confidence: one line a way to compute it."""
    figure, axes = plt.subplots(figsize=(6.5, 3.2))
    for (name, values), colour, style in zip(cosines.items(), (PUSHED, PULLED), ("-", "--"), strict=True):
        axes.plot(margin, values, style, color=colour, lw=2, label=name)
    axes.set(xlabel="logit margin of class c", ylabel="cosine with the true p - y", ylim=(-0.05, 1.08))
    axes.legend(frameon=False, loc="lower left")
    axes.set_title(title)
    return figure


def parallel(found: Compared, alpha: float, *, title: str) -> Figure:
    """How parallel -G_J and G_c are: cosine against confidence, and the released rule's angle against its bound."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.7))
    for name, values in (("released", found.released), ("autograd", found.autograd)):
        left.semilogx(
            np.maximum(found.rest, 1e-12), values, "o", color=RULES[name], ms=4, alpha=0.6, mew=0, label=f"{name} rule"
        )
    left.set(
        xlabel="$1-p_c$ (more confident to the right)", ylabel="cosine between $-G_J$ and $G_c$", ylim=(None, 1.03)
    )
    left.invert_xaxis()
    left.legend(frameon=False)
    x = found.rest / (alpha - 1 + found.rest)
    right.loglog(x, found.sine, "o", color=PULLED, ms=4, alpha=0.6, mew=0, label="measured")
    right.loglog(x, found.bound, "_", color="black", ms=5, label="bound of each image")
    right.set(xlabel="$(1-p_c)\\,/\\,(\\alpha-p_c)$", ylabel="sine of the angle, released rule")
    line = np.array([max(x.min(), FLOAT32 / 100), max(x.max(), FLOAT32)])
    right.loglog(line, line, ":", color="black", lw=1, label="slope 1")
    right.axhspan(FLOAT32 / 100, FLOAT32, color="black", alpha=0.08, lw=0, label="below float32's precision")
    right.set(xlim=(line[0] / 3, line[1] * 3), ylim=(max(found.sine.min() / 3, FLOAT32 / 100), None))
    right.legend(frameon=False, fontsize="small")
    figure.suptitle(title, x=0.01, ha="left")
    return figure
