"""Photographs, outlines and maps in a grid: one function for every such figure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.nn import functional as F

from dgl_lib.data.records import Record
from dgl_lib.errors import UserError
from dgl_lib.plots import style


class Panel(NamedTuple):
    """One picture of a grid: the photograph of ``record``, its masks, or a map (h, w) of it in any range.

    ``signed``, ``limit`` and ``over`` (where pixels may be shown) are those of ``style.show_map``. ``masks`` shows what
    scores see of the image."""

    record: Record
    map: np.ndarray | None = None
    title: str = ""
    signed: bool = False
    limit: float | None = None
    masks: bool = False
    over: bool = False


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
        pixels: whether photographs are shown, which belong to their authors: True for drawn data, or where the user
            asks for it. Else they become empty panels, and maps are averaged down to ``cells`` a side.
        rows, columns: names at the left and on top. A method gets the name that readers know.
        size: side of a panel, inches; 0.75 where there are ten columns.
        cells: cells a side of the layer's own grid; a UserError without it if a hidden photograph's map is of its size.
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
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _draw(ax: Axes, panel: Panel, pixels: bool, cells: int | None, weight: float) -> None:
    record, m = panel.record, panel.map
    if panel.masks:
        style.show_masks(ax, record)
    elif m is None:
        style.show_photo(ax, record, pixels, weight)
    else:
        if not pixels and cells is not None:
            least = min(m.shape[0], cells), min(m.shape[1], cells)
            m = F.interpolate(torch.as_tensor(m)[None, None].float(), size=least, mode="area")[0, 0].numpy()
        elif not pixels and m.shape == record.image.shape[:2]:
            raise UserError(f"cells: none given for a map of {m.shape[0]} x {m.shape[1]} of a hidden photograph")
        look: dict[str, Any] = {"signed": panel.signed, "limit": panel.limit, "over": panel.over and pixels}
        style.show_map(ax, m, record, weight=weight, **look)


def beside(
    records: Sequence[Record],
    maps: Mapping[str, Sequence | np.ndarray],
    *,
    signed: Sequence[str] = (),
    over: Sequence[str] = (),
    **options: Any,
) -> Figure:
    """A row an image: its photograph, then its map (h, w) of every column of ``maps``, in its own range of colours.
    Those of the columns ``signed`` lie evenly around 0, those of ``over`` over the image. Options: see ``grid``."""
    lines: list[list[Panel]] = []
    for i, record in enumerate(records):
        lines.append(
            [Panel(record), *(Panel(record, of[i], signed=key in signed, over=key in over) for key, of in maps.items())]
        )
    return grid(lines, columns=["image", *maps], **options)
