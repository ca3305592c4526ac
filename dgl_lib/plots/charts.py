"""Charts of tidy tables: forest, by layer, curves, heat.

The caller computes the numbers and writes the words. A chart takes one table, a row a dot, and names of its columns:
``value`` is what is drawn, ``low`` and ``high`` are the ends of its interval (NaN or absent where there is none), and
``panel`` tells the panels apart. Lines are named by one column or several, as ("method", "layer").
``levels`` are rows with the columns method, ``value`` and perhaps ``panel``, drawn as black lines across the panel.
``margin`` is the half width of a grey band around 0; 0 draws the line alone.
``margin``, ``xlabel`` and ``ylabel`` are one value, or a mapping from panel to value where panels differ. Panels share
the axis of the values where ``margin`` (forest) or ``ylabel`` (by layer, curves) is one for all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from dgl_lib.plots import style

LAYERS = "layer, from the input (left) to the output (right)"
MARKERS, INK, FRAME = "os^Dvp*X", "#333333", "#d62728"
Columns = str | Sequence[str]


@dataclass
class Shared:
    """The options that all charts but ``heat`` share (see above), and what they all do with these."""

    value: str = "mean"
    panel: str | None = None
    levels: pd.DataFrame | None = None
    margin: float | Mapping | None = None
    title: str = ""
    xlabel: str | Mapping = ""
    ylabel: str | Mapping = ""

    def parts(self, table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        """Each panel's name and rows."""
        return [(str(n), one) for n, one in table.groupby(self.panel, sort=False)] if self.panel else [("", table)]

    def here(self, rows: pd.DataFrame, name: str) -> pd.DataFrame:
        """The rows of one panel; all of them where they name no panel."""
        return rows[rows[self.panel].astype(str) == name] if self.panel in rows else rows

    def dress(self, ax: Axes, name: str, line: Any, span: Any, width: int = 80) -> None:
        """A panel's words, the grey band around 0, and level lines with their names for the legend.

        ``width`` is the most letters in a line of its title. A line of the label below has 10 more."""
        label = style.name(_of(self.xlabel, name), width + 10 if self.panel else 80)
        ax.set(xlabel=label, ylabel=_of(self.ylabel, name), title=style.name(name, width))
        if (margin := _of(self.margin, name, None)) is not None:
            line(0, color="black", lw=0.8)
            if margin:
                span(-margin, margin, color="black", alpha=0.1, lw=0, label=f"within {margin:g} of 0")
        for row in [] if self.levels is None else self.here(self.levels, name).to_dict("records"):
            look = style.LINES.get(row["method"], "-")
            line(row[self.value], color="black", lw=1, linestyle=look, label=style.name(row["method"]))
            if look == "-" and not pd.isna(row.get("low")):
                span(row["low"], row["high"], color="black", alpha=0.06, lw=0)


def forest(
    table: pd.DataFrame,
    *,
    y: Columns = "method",
    hue: str | None = None,
    colour: str | None = None,
    group: str | None = None,
    peak: str | None = None,
    dots: str | None = None,
    note: str | None = None,
    **shared: Any,
) -> Figure:
    """Dots with intervals, the first row on top.

    Args:
        y: names the lines. Panels whose lines differ get labels of their own.
        hue: column of runs or controls, which lie side by side on a line and have a marker each.
        colour: column that colours the dots, as "verdict"; without it ``hue``, else the method's colour.
        group: column whose change leaves a gap between lines.
        peak: column of a second value, drawn as an open circle.
        dots: column of lists of values, drawn as small dots.
        note: column of words to the right of the interval.
    """
    chart, table = Shared(**shared), table.assign(_line=_labels(table, y), _group=table[group] if group else "")
    key = colour or hue or (y if isinstance(y, str) else y[0])
    known = style.COLOURS if not (colour or hue) else style.colours(table[key])
    hues = list(dict.fromkeys(table[hue])) if hue else [None]
    parts = chart.parts(table)
    orders = [list(dict.fromkeys(zip(one["_group"], one["_line"], strict=True))) for _, one in parts]
    longest = max(orders, key=len)
    same = all(set(order) <= set(longest) for order in orders)
    labels = 0.075 * max(map(len, "\n".join(table["_line"]).split("\n"))) * (1 if same else len(parts))
    wide, high = labels + max(5.0, 2.4 * len(parts)), 0.22 * len(longest) * (1 + len(hues) / 3) + 1.9
    figure = style.figure(min(11.5, wide), high)
    axes = figure.subplots(1, len(parts), sharex=_of(chart.margin, "", None) is not None, sharey=same, squeeze=False)[0]
    for ax, (name, one), own in zip(axes, parts, orders, strict=True):
        order = longest if same else own
        gaps = np.cumsum([0, *(0.6 * (a[0] != b[0]) for a, b in pairwise(order))])
        place = {line: i + gap for i, (line, gap) in enumerate(zip(order, gaps, strict=True))}
        for row in one.to_dict("records"):
            k, ink = hues.index(row[hue]) if hue else 0, known.get(str(row[key]), INK)
            at = place[row["_group"], row["_line"]] + 0.6 / len(hues) * (k - (len(hues) - 1) / 2)
            ends = [row.get("low", np.nan), row.get("high", np.nan)]
            ax.plot(ends, [at, at], color=ink, lw=1.6)
            ax.plot(row[chart.value], at, MARKERS[k % len(MARKERS)], ms=5, color=ink)
            if peak:
                ax.plot(row[peak], at, "o", ms=9, color=ink, mfc="none", mew=0.9, lw=0, label=style.name(peak))
            if dots:
                ax.plot(row[dots], [at] * len(row[dots]), ".", ms=6, color=INK, mew=0, lw=0, label=style.name(dots))
            if note:
                end = np.nanmax([row[chart.value], *ends])
                words = ax.annotate(
                    str(row[note]), (end, at), (6, 0), textcoords="offset points", va="center", fontsize=8
                )
                words.set_bbox({"fc": "white", "ec": "none", "pad": 0.5})  # else a line runs through them
        ax.set_yticks(list(place.values()), [line for _, line in order], fontsize="small")
        ax.set_ylim(max(place.values()) + 0.6, -0.6)
        ax.margins(x=0.2 if note else 0.06)
        ax.grid(axis="x", alpha=0.3)
        chart.dress(ax, name, ax.axvline, ax.axvspan, 26)
    shown = known if colour and colour != y else {}
    handles = [Line2D([], [], color=ink, lw=2, label=style.name(k)) for k, ink in shown.items()]
    for k, run in enumerate(hues if hue else []):
        ink = INK if colour else known[str(run)]
        handles.append(Line2D([], [], color=ink, marker=MARKERS[k % len(MARKERS)], lw=0, label=style.name(run)))
    return _finish(figure, handles, chart.title, below=True)


def among(table: pd.DataFrame, **shared: Any) -> Figure:
    """This run's effects among those of published trainings, as ``study.claims.agreement`` gives them: a panel a unit.

    A line an effect: the interval over trainings and images, each training's mean, and this run's in a circle."""
    return forest(table, y=("claim", "detail", "effect"), panel="unit", peak="this_run", dots="trainings", **shared)


def by_layer(
    table: pd.DataFrame, *, x: str = "layer", line: Columns = "method", ring: str | None = None, **shared: Any
) -> Figure:
    """A value with its interval against the layer, or another column ``x`` of names; a line a method or run.

    Names stand in the order in which they occur; panels may have their own. Dots where ``ring`` is true have one."""
    chart, look = Shared(**{"xlabel": LAYERS} | shared), _look(table, line)
    parts = chart.parts(table)
    figure, axes = _axes(len(parts), 0.35 * max(one[x].nunique() for _, one in parts), chart.ylabel)
    shifts = dict(zip(look, min(0.06, 0.6 / len(look)) * (np.arange(len(look)) - (len(look) - 1) / 2), strict=True))
    for ax, (name, one) in zip(axes, parts, strict=True):
        names = list(dict.fromkeys(one[x]))
        one = one.assign(_line=_labels(one, line))
        one["_x"] = one[x].map(names.index) + one["_line"].map(shifts)
        _lines(ax, one, chart.value, look, ax.vlines, lw=0.9)
        if ring:
            chosen = one[one[ring].astype(bool)]
            ax.plot(chosen["_x"], chosen[chart.value], "o", ms=11, mfc="none", mec=INK, label=style.name(ring))
        _ticks(ax, range(len(names)), names)
        chart.dress(ax, name, ax.axhline, ax.axhspan)
    return _finish(figure, [], chart.title)


def curves(
    table: pd.DataFrame, *, x: str, line: Columns = "method", marks: pd.DataFrame | None = None, **shared: Any
) -> Figure:
    """A value against a number (threshold, share, epoch, step), a line a method, with its interval as a band.

    ``marks`` are rows with the columns of ``line`` and ``x``, mark ("chosen", "peak" or other words) and perhaps
    ``panel``. A mark lies on its line at ``x``. The first kind of mark is a dot, the second a cross."""
    chart, look = Shared(**shared), _look(table, line)
    parts = chart.parts(table)
    figure, axes = _axes(len(parts), 0, chart.ylabel)
    marks = pd.DataFrame({"mark": []}) if marks is None else marks.assign(_line=_labels(marks, line))
    kinds = dict(zip(dict.fromkeys(marks["mark"]), "oxDs", strict=False))
    for ax, (name, one) in zip(axes, parts, strict=True):
        one = one.assign(_line=_labels(one, line), _x=one[x])
        drawn = _lines(ax, one, chart.value, look, ax.fill_between, alpha=0.2, lw=0)
        for mark in chart.here(marks, name).to_dict("records"):
            if mark["_line"] in drawn:
                rows, kind = drawn[mark["_line"]], kinds[mark["mark"]]
                ink = {"color": look[mark["_line"]]["color"], "mec": INK} if kind != "x" else {"color": INK}
                ax.plot(mark[x], np.interp(mark[x], rows["_x"], rows[chart.value]), kind, ms=7, zorder=4, **ink)
        chart.dress(ax, name, ax.axhline, ax.axhspan)
    shown = [Line2D([], [], color="white", mec=INK, marker=m, lw=0, label=style.name(k)) for k, m in kinds.items()]
    return _finish(figure, shown, chart.title)


def heat(
    cells: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    frames: Iterable[tuple[Any, Any]] = (),
    fmt: str = ".1f",
    label: str = "",
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> Figure:
    """A table of numbers as a heat map, its index at the left and its columns below. NaN stays blank.

    ``cells`` is one table, or several by the titles of their panels. ``frames`` names (row, column) of cells to frame.
    ``fmt`` is the format of the numbers, "d" for counts. ``label`` is the colour bar's; without it there is no bar."""
    parts = cells if isinstance(cells, Mapping) else {"": cells}
    high, wide = np.max([one.shape for one in parts.values()], axis=0)
    left = 0.08 * max(len(style.name(row)) for one in parts.values() for row in one.index)
    figure = style.figure((left + 0.52 * wide) * len(parts) + (1.2 if label else 0.5), 0.4 * high + 1.6)
    look = {"cmap": "viridis", "annot_kws": {"fontsize": 8}, "cbar_kws": {"label": label, "pad": 0.01}}
    for ax, (name, one) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        sns.heatmap(one, ax=ax, annot=True, fmt=fmt, cbar=bool(label), **look)
        for row, column in frames:
            corner = list(one.columns).index(column) + 0.04, list(one.index).index(row) + 0.05
            ax.add_patch(Rectangle(corner, 0.92, 0.9, fill=False, color=FRAME, lw=2))
        ax.set_yticks(np.arange(len(one)) + 0.5, [style.name(row) for row in one.index], rotation=0)
        _ticks(ax, np.arange(one.shape[1]) + 0.5, one.columns)
        ax.tick_params(length=0, labelsize="small")
        ax.set(title=name, xlabel=xlabel, ylabel=ylabel)
    return _finish(figure, [], title)


def _labels(table: pd.DataFrame, columns: Columns) -> list[str]:
    """What each row's line is called; empty and missing parts are left out."""
    parts = table[[columns] if isinstance(columns, str) else list(columns)].to_numpy(object)
    return [", ".join(style.name(part) for part in row if not pd.isna(part) and part != "") for row in parts]


def _of(option: Any, panel: str, default: Any = "") -> Any:
    return option.get(panel, default) if isinstance(option, Mapping) else option


def _look(table: pd.DataFrame, line: Columns) -> dict[str, dict]:
    """How each line is drawn, by its label: one colour a method, broken lines for baselines, DGL thick and on top."""
    keys = table[line if isinstance(line, str) else line[0]].astype(str)
    colours, lines = style.colours(keys), dict(zip(_labels(table, line), keys, strict=True))
    look: dict[str, dict] = {}
    for i, (label, key) in enumerate(lines.items()):
        thick = {"lw": 2.4, "zorder": 3} if key == "dgl" else {"lw": 1.4}
        dash = {"linestyle": style.LINES.get(key, "-"), "marker": MARKERS[i % len(MARKERS)]}
        look[label] = {"color": colours[key], **dash, **thick}
    return look


def _axes(panels: int, wide: float, ylabel: str | Mapping) -> tuple[Figure, np.ndarray]:
    """Panels at least ``wide`` inches each, up to four side by side where a page holds them, else below each other."""
    down = panels if panels * wide > 12 else -(-panels // 4)
    across = -(-panels // down)
    figure = style.figure(10 if down == panels > 1 else max(6.5, max(wide, 3.4) * across + 2.2), 3.2 * down + 0.4)
    axes = figure.subplots(down, across, sharey=isinstance(ylabel, str), squeeze=False).ravel()
    for left_over in axes[panels:]:
        left_over.remove()
    return figure, axes[:panels]


def _ticks(ax: Axes, places: Iterable[float], names: Iterable[Any]) -> None:
    """Names below the panel, slanted where they are long."""
    texts = [style.name(n) for n in names]
    slanted = {"rotation": 30, "ha": "right"} if max(map(len, texts)) > 5 else {"rotation": 0}
    ax.set_xticks(list(places), texts, fontsize="small", **slanted)


def _lines(ax: Axes, table: pd.DataFrame, value: str, look: dict, interval: Any, **style: float) -> dict:
    """Draw the lines of the columns _line, _x and ``value`` with their intervals; return the rows of each."""
    lines = {str(label): rows.dropna(subset=[value]) for label, rows in table.groupby("_line", sort=False)}
    for label, rows in lines.items():
        ax.plot(rows["_x"], rows[value], ms=4, label=label, **look[label] | ({"marker": ""} if len(rows) > 30 else {}))
        if "low" in rows:
            interval(rows["_x"], rows["low"], rows["high"], color=look[label]["color"], **style)
    return lines


def _finish(figure: Figure, handles: list, title: str, below: bool = False) -> Figure:
    """The title, a label below that all panels share, and a legend outside of them that holds each name once."""
    labels = {ax.get_xlabel() for ax in figure.axes}
    if len(figure.axes) > 1 and len(labels) == 1 and not below:  # where a legend is below, they would meet
        figure.supxlabel(labels.pop(), fontsize=figure.axes[0].xaxis.label.get_fontsize())
        for ax in figure.axes:
            ax.set_xlabel("")
    handles = [*(handle for ax in figure.axes for handle in ax.get_legend_handles_labels()[0]), *handles]
    named = {handle.get_label(): handle for handle in handles}
    if len(named) > 1 or (below and named):
        place = "outside lower center" if below else "outside right center"
        for columns in (4, 3, 2, 1) if below else (1,):  # as many as the figure is wide
            look: dict[str, Any] = {"frameon": False, "fontsize": "small", "loc": place, "ncols": columns}
            legend = figure.legend(handles=[*named.values()], **look)
            if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
                break
            legend.remove()
    figure.suptitle(title, x=0.01, ha="left")
    return figure
