"""The page that compares every method on every layer: its figures, drawn from its tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from dgl_lib.datasets.records import Dataset
from dgl_lib.evaluation import BASELINES
from dgl_lib.plots import style

VERDICTS = {"gains": "#2166ac", "loses": "#b2182b", "level": "#333333", "undecided": "#999999"}


def scores(table: pd.DataFrame, chosen: pd.DataFrame, layers: Sequence[str], methods: Sequence[str]) -> Figure:
    """Heat map of test IoU, methods x layers; a frame around the layer that validation chose for each method."""
    figure = style.figure(10, 0.42 * len(methods) + 1.6)
    ax = figure.subplots()
    cells = table.pivot_table("iou", "method", "layer").reindex(index=list(methods), columns=list(layers))
    trivial = table[table["method"].isin(list(BASELINES))].set_index("method")["iou"]
    low, high = float(np.nanmin(cells)), float(np.nanmax(cells))
    picture = ax.imshow(cells, "viridis", aspect="auto", vmin=low, vmax=high)
    for (y, x), value in np.ndenumerate(cells.to_numpy()):
        light = value > (low + high) / 2
        ax.text(x, y, "" if np.isnan(value) else f"{value:.1f}", ha="center", va="center", fontsize="small",
                color="black" if light else "white")  # fmt: skip
    for row in chosen.to_dict("records"):
        if row["method"] in methods:
            corner = layers.index(row["layer"]) - 0.47, methods.index(row["method"]) - 0.46
            ax.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, color="#d62728", lw=2))
    ax.set_xticks(range(len(layers)), layers, rotation=30, ha="right")
    ax.set_yticks(range(len(methods)), [style.name(method) for method in methods])
    ax.set_xlabel("layer, from the input (left) to the output (right); red: chosen on validation; blank: no CAM there")
    figure.colorbar(picture, ax=ax, pad=0.01, label="mean IoU, test (%)")
    beside = ", ".join(f"{style.name(str(method))} {value:.1f} %" for method, value in trivial.items())
    best = chosen[chosen["kind"] == "method"].iloc[0]
    ax.set_title(
        f"Best on validation: {style.name(best['method'])} on {best['layer']}, test IoU {best['iou']:.1f} % "
        f"[{best['low']:.1f}, {best['high']:.1f}]\n(trivial baselines: {beside})"
    )
    return figure


def gains(table: pd.DataFrame, margin: float) -> Figure:
    """Forest plot of DGL minus each other: a column a layer of DGL; full dots at own layers, open ones on the same."""
    dgl_layers = list(dict.fromkeys(table["dgl_layer"]))
    methods = list(dict.fromkeys(table["method"]))
    figure = style.figure(10, 0.42 * len(methods) + 1.9)
    axes = figure.subplots(1, len(dgl_layers), sharex=True, sharey=True, squeeze=False)[0]
    for ax, layer in zip(axes, dgl_layers, strict=True):
        for at, shift, filled in (("own", -0.14, True), ("same", 0.14, False)):
            one = table[(table["dgl_layer"] == layer) & (table["at"] == at)]
            _forest(ax, one, [methods.index(m) + shift for m in one["method"]], filled)
        _zero(ax, margin)
        ax.set_title(f"DGL on {layer}", loc="left")
        ax.set_xlabel("DGL minus the other, points of test IoU (95 %, paired)")
    axes[0].set_yticks(range(len(methods)), [style.name(method) for method in methods])
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    own = table[(table["dgl_layer"] == dgl_layers[0]) & (table["at"] == "own")]
    parts = []
    for what, rows in (("other maps", own[own["layer"] != ""]), ("trivial baselines", own[own["layer"] == ""])):
        count = rows["verdict"].value_counts()
        parts.append(f"{count.get('gains', 0)} of {len(rows)} {what} (loses to {count.get('loses', 0)})")
    _verdict_legend(figure, [("o", "black", "the other on its own best layer"), ("o", "white", "on DGL's layer")])
    figure.suptitle(f"DGL on {dgl_layers[0]} gains on {' and on '.join(parts)}, all at their best")
    return figure


def where(table: pd.DataFrame, margin: float) -> Figure:
    """Forest plot of DGL's gain by class, object size and confidence; a column a rival."""
    rivals = list(dict.fromkeys(zip(table["method"], table["layer"], strict=True)))
    groups = list(dict.fromkeys(zip(table["grouping"], table["group"], strict=True)))
    figure = style.figure(10, 0.33 * len(groups) + 1.9)
    axes = figure.subplots(1, len(rivals), sharex=True, sharey=True, squeeze=False)[0]
    place = {
        group: y + 0.6 * (group[0] != "class") + 0.6 * (group[0] == "confidence") for y, group in enumerate(groups)
    }
    for ax, (method, layer) in zip(axes, rivals, strict=True):
        one = table[(table["method"] == method) & (table["layer"] == layer)]
        heights = [place[key] for key in zip(one["grouping"], one["group"], strict=True)]
        _forest(ax, one, heights, True)
        _zero(ax, margin)
        ax.set_title(f"against {style.name(method)}\non {layer}", loc="left")
    labels = []
    for grouping, group in groups:
        line = table[(table["grouping"] == grouping) & (table["group"] == group)].iloc[0]
        unit = "" if grouping == "class" else f" ({line['first']:.3g} to {line['last']:.3g}"
        unit += {"class": "", "object's area": " %)", "confidence": ")"}[grouping]
        what = {"class": group, "object's area": f"area, {group}", "confidence": f"$p_c$, {group}"}[grouping]
        labels.append(f"{what}{unit}, {line['images']} im.")
    axes[0].set_yticks(list(place.values()), labels, fontsize="x-small")
    axes[0].set_ylim(max(place.values()) + 0.6, -0.6)
    count = table["verdict"].value_counts()
    for ax in axes:
        ax.set_xlabel("DGL minus the other, points\nof test IoU (95 %, paired)")
    _verdict_legend(figure, [])
    figure.suptitle(
        f"DGL gains in {count.get('gains', 0)} of {len(table)} differences by group, loses in {count.get('loses', 0)}"
    )
    return figure


def terms(table: pd.DataFrame, margin: float) -> Figure:
    """DGL and each of its terms alone by layer; what each term adds; the gradient term's share of the map."""
    layers = list(dict.fromkeys(table["layer"]))
    figure = style.figure(10, 4.3)
    axes = figure.subplots(1, 3)
    x = np.arange(len(layers))
    colours = {
        "both": style.COLOURS["dgl"],
        "feature term": style.COLOURS["pixel_selection"],
        "gradient term": style.COLOURS["gradient_term"],
    }
    green, blue = colours["gradient term"], colours["feature term"]
    panels = [
        ("mean IoU, test (%)", colours),
        ("change by adding the term, points of IoU", {"gradient term adds": green, "feature term adds": blue}),
        ("gradient term's share of\nthe variance of DGL's map (%)", {"gradient share": green}),
    ]
    for ax, (label, lines) in zip(axes, panels, strict=True):
        for k, (what, colour) in enumerate(lines.items()):
            one = table[table["what"] == what].set_index("layer").loc[layers]
            ends = np.clip([one["mean"] - one["low"], one["high"] - one["mean"]], 0, None)
            ax.errorbar(
                x + 0.1 * k, one["mean"], ends, color=colour, marker="o", ms=4, lw=1.3, elinewidth=0.9, label=what
            )
        ax.set_xticks(x, layers, rotation=60, ha="right", fontsize="x-small")
        ax.set_ylabel(label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    axes[1].axhline(0, color="black", lw=0.8)
    axes[1].axhspan(-margin, margin, color="black", alpha=0.08, lw=0)
    axes[2].axhline(0, color="black", lw=0.8)
    added = table[table["what"] == "gradient term adds"]["verdict"].value_counts()
    figure.suptitle(
        f"The squared-gradient term adds to pixel selection on {added.get('gains', 0)} of {len(layers)} layers, "
        f"takes away on {added.get('loses', 0)}"
    )
    return figure


def parts(table: pd.DataFrame) -> Figure:
    """Recall of the telling part against recall of the rest, a point a method at its chosen layer."""
    figure = style.figure(9, 5.6)
    ax = figure.subplots()
    ax.axline((0, 0), slope=1, color="black", lw=0.8)
    if table.empty:
        ax.set_title("No telling part is known")
        return figure
    of = {measure: one.set_index(["method", "layer"]) for measure, one in table.groupby("measure")}
    for k, key in enumerate(of["gap"].index):
        part, rest = of["recall_part"].loc[key], of["recall_rest"].loc[key]
        method, layer = key
        ax.errorbar(rest["mean"], part["mean"],
                    [[part["mean"] - part["low"]], [part["high"] - part["mean"]]],
                    [[rest["mean"] - rest["low"]], [rest["high"] - rest["mean"]]],
                    fmt="os^Dv"[k % 5], ms=7, color=style.COLOURS.get(method), elinewidth=1,
                    label=style.name(method) + (f", {layer}" if layer else ""))  # fmt: skip
    low = min(of["recall_part"]["low"].min(), of["recall_rest"]["low"].min())
    ax.set(xlim=(max(0, low - 5), 102), ylim=(max(0, low - 5), 102), aspect="equal")
    ax.set_xlabel("recall of the rest of the object (%)")
    ax.set_ylabel("recall of the telling part (%)")
    mapped = of["gap"][of["gap"].index.get_level_values("layer") != ""]
    more = int((mapped["low"] > 0).sum())
    ax.set_title(
        f"{more} of {len(mapped)} maps find more of the telling part than of the rest\n"
        f"({table['images'].max()} {table['where'].iloc[0]} images; on the line both are found alike)"
    )
    ax.legend(frameon=False, fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def extremes(dataset: Dataset, table: pd.DataFrame, maps: np.ndarray, layer: str) -> Figure:
    """DGL's maps (images, h, w) of the worst twelve, left, and of the first twelve, right, with outlines."""
    figure = style.figure(11, 5.4)
    place = {name: i for i, name in enumerate(dataset.names)}
    sides = figure.subfigures(1, 2, wspace=0.04, squeeze=False)
    for side, which in zip(sides[0], ("worst", "first"), strict=True):
        one = table[table["which"] == which]
        axes = side.subplots(3, 4).ravel()
        for ax in axes:
            style.bare(ax)
        for ax, row in zip(axes, one.to_dict("records"), strict=False):
            i = place[row["image"]]
            style.show_map(ax, maps[i], dataset[i])
            ax.set_title(f"IoU {row['iou']:.0f} %, $p_c$ {row['p_c']:.2f}\n{row['class']}", fontsize=7, loc="center")
        side.suptitle(
            f"The {which} {len(one)}: IoU {one['iou'].min():.0f} to {one['iou'].max():.0f} %", fontsize="medium"
        )
    count = table[table["predicted"] != table["class"]]["which"].value_counts()
    wrong, beside = count.get("worst", 0), count.get("first", 0)
    figure.suptitle(f"DGL on {layer}: {wrong} of the worst are classified wrong, {beside} of the first")
    return figure


def _forest(ax: Axes, table: pd.DataFrame, heights: Sequence[float], filled: bool) -> None:
    for y, row in zip(heights, table.to_dict("records"), strict=True):
        colour = VERDICTS[row["verdict"]]
        ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=1.6)
        ax.plot(row["mean"], y, "o", ms=5, color=colour, mfc=colour if filled else "white")
    ax.grid(axis="x", alpha=0.3)


def _zero(ax: Axes, margin: float) -> None:
    ax.axvspan(-margin, margin, color="black", alpha=0.08, lw=0)
    ax.axvline(0, color="black", lw=0.8)


def _verdict_legend(figure: Figure, markers: Sequence[tuple[str, str, str]]) -> None:
    lines = [Line2D([], [], color=colour, lw=2, label=word) for word, colour in VERDICTS.items()]
    lines += [Line2D([], [], color="black", marker=shape, mfc=fill, lw=0, label=text) for shape, fill, text in markers]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize="x-small")
