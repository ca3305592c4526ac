"""Photographs, outlines and maps in a grid: one function for every such figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgl_lib.data.records import Record
from dgl_lib.errors import UserError
from dgl_lib.plots import style


class Panel(NamedTuple):
    """One picture of a grid: the photograph of ``record``, or a map of it.

    Attributes:
        map: (h, w), any range; None for the photograph.
        title: over the panel.
        signed: colours lie evenly around 0.
        limit: end of the colours, for panels that share a scale; None spans the map's own range.
        masks: show what scores see of the record instead of its photograph.
    """

    record: Record
    map: np.ndarray | None = None
    title: str = ""
    signed: bool = False
    limit: float | None = None
    masks: bool = False


def grid(
    panels: Iterable[Sequence[Panel | None]],
    *,
    pixels: bool,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    title: str = "",
    size: float = 1.25,
    cells: int | None = None,
) -> Figure:
    """Panels row by row, an empty place for None, with the object's outline in each.

    Args:
        pixels: whether a photograph's pixels may be shown. If not, photographs become empty panels, and maps finer
            than ``cells`` are averaged down to it.
        rows, columns: names at the left and at the top, in words; method names become readers' names.
        size: side of a panel, inches; 0.75 where there are ten columns.
        cells: cells a side of the layer's own grid. Maps as the layer gives them need none.

    Raises:
        UserError: ``pixels`` is False, a map is as large as its photograph and ``cells`` is not given.
    """
    lines = [list(line) for line in panels]
    across, small = max(map(len, lines)), 8 if size > 1 else 6
    names = [style.name(row, 16) for row in rows]
    margin = 0.07 * max((len(part) for row in names for part in row.split("\n")), default=0)
    taller = 0.16 * max(len(panel.title.splitlines()) for line in lines for panel in line if panel)
    figure = style.figure(size * across + margin + 0.1, (size + taller) * len(lines) + 0.55)
    axes = figure.subplots(len(lines), across, squeeze=False)
    for ax in axes.ravel():
        style.bare(ax)
    for line, row in zip(axes, lines, strict=True):
        for ax, panel in zip(line, row, strict=False):
            if panel:
                _draw(ax, panel, pixels, cells, min(1.0, size - 0.2))
                ax.set_title(panel.title, loc="center", fontsize=small)
    for ax, text in zip(axes[0], columns, strict=False):
        head = "\n".join(filter(None, (style.name(text, round(16 * size)), ax.get_title("center"))))
        ax.set_title(head, loc="center", fontsize=small)
    for ax, text in zip(axes[:, 0], names, strict=False):
        ax.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=small)
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    return figure


def _draw(ax: Axes, panel: Panel, pixels: bool, cells: int | None, weight: float) -> None:
    record, m = panel.record, panel.map
    if panel.masks:
        style.show_masks(ax, record)
    elif m is None:
        style.show_photo(ax, record, pixels, weight)
    else:
        if not pixels:
            if cells is None and m.shape == record.image.shape[:2]:
                raise UserError(f"cells: none given for a map of {m.shape[0]} x {m.shape[1]} of a hidden photograph")
            m = m if cells is None else style.at_most(m, cells)
        style.show_map(ax, m, record, signed=panel.signed, limit=panel.limit, weight=weight)


def beside(
    records: Sequence[Record],
    maps: Mapping[str, Sequence[np.ndarray] | np.ndarray],
    *,
    signed: Sequence[str] = (),
    **options: Any,
) -> Figure:
    """A row an image: its photograph, then its map of every column, in its own range of colours.

    Args:
        maps: by column name, one map (h, w) an image.
        signed: names of the columns whose colours lie evenly around 0.
        options: of ``grid``: pixels, rows, title, size, cells.
    """
    lines = [
        [Panel(record), *(Panel(record, column[i], signed=key in signed) for key, column in maps.items())]
        for i, record in enumerate(records)
    ]
    return grid(lines, columns=["image", *maps], **options)
