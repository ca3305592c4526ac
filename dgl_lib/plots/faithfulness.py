"""Figures of the faithfulness page: insertion and deletion curves, their areas, and the randomised weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dgl_lib.plots import style

COLOURS = {"sgl_g1": "#e377c2", "sgl_g2": "#f7b6d2", "random_order": "#000000", **style.COLOURS}
NAMES = {"sgl_g1": "SGL-G1", "sgl_g2": "SGL-G2", "random_order": "random order", **style.NAMES}
BASELINES = {"random_order": "dotted", "centred_gaussian": "dashed", "features": "dashed"}


def _line(method: str) -> dict[str, Any]:
    """One look a method: DGL on top and thick, baselines broken."""
    width, above = (2.4, 3) if method == "dgl" else (1.2, 2)
    look = {"color": COLOURS.get(method), "lw": width, "zorder": above, "linestyle": BASELINES.get(method, "solid")}
    return {"label": NAMES.get(method, method), **look}


def difference(row: Mapping[Any, Any], kind: str) -> str:
    """DGL's paired difference from a row of the table of areas, in words that its interval allows."""
    mean, low, high = (row[f"dgl_{kind}{end}"] for end in ("", "_low", "_high"))
    interval = f"{mean:+z.3f} [{low:+z.3f}, {high:+z.3f}]"
    if low <= 0 <= high:
        return f"no difference shown ({interval})"
    return f"DGL is {'better' if (mean > 0) == (kind == 'insertion') else 'worse'} ({interval})"


def curves_figure(curves: pd.DataFrame, auc: pd.DataFrame) -> Figure:
    """Mean p_c against the share of pixels inserted and deleted, a line each method; tables of ``faithfulness``."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True)
    layers = auc.set_index("method")["layer"]
    for ax, kind, where in zip(
        axes, ("insertion", "deletion"), ("in the blurred image", "from the image"), strict=True
    ):
        for method, rows in curves.groupby("method", sort=False):
            ax.plot(100 * rows["share"], rows[kind], **_line(str(method)))
        ax.set(xlabel=f"pixels {kind.replace('ion', 'ed')} {where}, percent", xlim=(0, 100), ylim=(0, 1))
        ax.set_title(f"{kind}: {'higher' if kind == 'insertion' else 'lower'} is better")
    axes[0].set_ylabel("probability of the class, mean over images")
    handles, labels = axes[0].get_legend_handles_labels()
    labels = [f"{text}, {layers[m]}" if layers[m] else text for text, m in zip(labels, layers.index, strict=True)]
    figure.legend(handles, labels, loc="outside right center", fontsize="x-small")
    found = auc[~auc["method"].isin(BASELINES)].set_index("method")
    best = NAMES[str(found["insertion"].idxmax())], NAMES[str(found["deletion"].idxmin())]
    figure.suptitle(
        f"Best insertion: {best[0]}; best deletion: {best[1]} ({auc['n'].iloc[0]} images)", x=0.01, ha="left"
    )
    return figure


def auc_figure(auc: pd.DataFrame) -> Figure:
    """Areas under both curves with their intervals, a row each method, from the highest insertion down."""
    rows = auc.sort_values("insertion", kind="stable").to_dict("records")
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.3 * len(rows) + 1.5), sharey=True)
    for ax, kind in zip(axes, ("insertion", "deletion"), strict=True):
        for y, row in enumerate(rows):
            colour = COLOURS.get(row["method"])
            ax.plot([row[f"{kind}_low"], row[f"{kind}_high"]], [y, y], color=colour, lw=2)
            ax.plot(row[kind], y, "D" if row["method"] == "dgl" else "o", color=colour, ms=6)
        better = "more" if kind == "insertion" else "less"
        ax.set(xlabel="area under the curve (95 % interval over images)", title=f"{kind}: {better} is better")
        ax.grid(axis="x", color="#eeeeee")
    names = [NAMES.get(r["method"], r["method"]) + (f", {r['layer']}" if r["layer"] else "") for r in rows]
    axes[0].set_yticks(range(len(rows)), names)
    [other] = auc[auc["method"] == "pixel_selection"].to_dict("records")
    words = "; ".join(f"{kind}: {difference(other, kind)}" for kind in ("insertion", "deletion"))
    figure.suptitle(f"DGL against pixel selection. {words[0].upper()}{words[1:]}", x=0.01, ha="left", fontsize="medium")
    return figure


def randomisation_figure(random: pd.DataFrame, unchanged: float) -> Figure:
    """Mean rank correlation with the original maps over the cascade, a line each method, with intervals as bands."""
    figure, ax = plt.subplots(figsize=(11, 4.4))
    for method, rows in random.groupby("method", sort=False):
        look = _line(str(method))
        ax.plot(rows["step"], rows["correlation"], marker="o", ms=3, **look)
        ax.fill_between(rows["step"], rows["low"], rows["high"], color=look["color"], alpha=0.12, lw=0)
    ax.axhline(0, color="grey", lw=0.6)
    names = random.drop_duplicates("step")
    ax.set_xticks(names["step"], [block or "nothing" for block in names["block"]], rotation=30, ha="right")
    ax.set(xlabel="randomised from the head down to", ylabel="Spearman rank correlation\nwith the original maps")
    figure.legend(loc="outside right center", fontsize="x-small")
    kept = random[(random["step"] == 1) & (random["correlation"] >= unchanged) & ~random["method"].isin(BASELINES)]
    total = random["method"].nunique() - len(set(random["method"]) & set(BASELINES))
    title = (
        f"With a random head, {len(kept)} of {total} methods keep their maps (correlation of at least {unchanged:g})"
    )
    figure.suptitle(title, x=0.01, ha="left")
    return figure
