"""What every figure shares: type sizes, colour maps, how maps, photographs and outlines are drawn, how it is saved."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from dgl_lib.data.records import Record

#: Perceptual maps: one for localization maps in 0..1, one for signed values around 0.
MAP, SIGNED = "magma", "RdBu_r"
#: One colour a method, the same in every figure.
COLOURS = {
    "cam": "#7f7f7f",
    "grad_cam": "#bcbd22",
    "grad_cam_signed": "#9467bd",
    "grad_cam_pp": "#8c564b",
    "layer_cam": "#17becf",
    "pixel_selection": "#1f77b4",
    "enhanced_map": "#ff7f0e",
    "sgl_g1": "#e377c2",
    "sgl_g2": "#8da0cb",
    "features": "#c7c7c7",
    "gradient_term": "#2ca02c",
    "dgl": "#d62728",
    "fused_mean": "#2ca02c",
    "fused_max": "#98df8a",
    "whole_image": "#bbbbbb",
    "centred_gaussian": "#999999",
}
#: Names as readers know them.
NAMES = {
    "cam": "CAM",
    "grad_cam": "Grad-CAM",
    "grad_cam_signed": "Grad-CAM (signed)",
    "grad_cam_pp": "Grad-CAM++",
    "layer_cam": "LayerCAM",
    "pixel_selection": "pixel selection (branch 2)",
    "enhanced_map": "enhanced map (branch 1)",
    "sgl_g1": "SGL-G1",
    "sgl_g2": "SGL-G2",
    "features": "plain features",
    "gradient_term": "gradient term (alone)",
    "dgl": "DGL (both branches)",
    "fused_mean": "mean of the branches",
    "fused_max": "maximum of the branches",
    "whole_image": "whole image",
    "centred_gaussian": "centred Gaussian",
}


def use_style() -> None:
    """Set the look of all figures that follow; a notebook calls it once."""
    sns.set_theme(context="notebook", style="ticks", font="DejaVu Sans", font_scale=0.85)
    plt.rcParams.update(
        {
            "figure.dpi": 90,
            "savefig.dpi": 130,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "figure.titlesize": "large",
        }
    )


def figure(width: float, height: float) -> Figure:
    """An empty figure, inches: from pyplot, so that a notebook can show it, and closed, so that it does so once."""
    empty = plt.figure(figsize=(width, height))
    plt.close(empty)
    return empty


def name(method: str) -> str:
    """A method's name as readers know it."""
    return NAMES.get(method, method)


def save(figure: Figure, folder: Path, name: str) -> Figure:
    """Write ``figure`` to ``folder/NAME.png`` in 256 colours, a quarter of the size, software unnamed."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    plt.close(figure)  # else a notebook would draw it once more at the end of the cell
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(folder / f"{name}.png", optimize=True)
    return figure


def bare(axes: Axes) -> Axes:
    """A panel without ticks and frame: for pictures."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def show_photo(axes: Axes, record: Record, pixels: bool) -> None:
    """The image where its pixels may be shown, else an empty panel of its shape; the object's outline in both cases.

    Photographs of real data belong to their authors: ``pixels`` is True for drawn data, or on request only.
    """
    height, width = record.image.shape[:2]
    shown = record.image if pixels else np.full((height, width, 3), 240, np.uint8)
    bare(axes).imshow(shown, extent=(0, width, height, 0))
    outline(axes, record)


def show_map(axes: Axes, m: np.ndarray, record: Record, cmap: str = MAP, symmetric: bool = False) -> None:
    """A map as the layer gives it, one square a cell (nothing finer is shown), over the image's extent, with outline.

    The colours span the map's own minimum and maximum, or with ``symmetric`` lie evenly around 0.
    """
    height, width = record.image.shape[:2]
    limit = float(np.abs(m).max()) or 1.0
    low, high = (-limit, limit) if symmetric else (float(m.min()), float(m.max()))
    bare(axes).imshow(m, cmap, vmin=low, vmax=high, extent=(0, width, height, 0), interpolation="nearest")
    outline(axes, record)


def outline(axes: Axes, record: Record, colour: str = "white") -> None:
    """The object's outline, and the telling part's as a dotted line where it is known."""
    for mask, line in ((record.mask, "solid"), (record.part, "dotted")):
        if mask is not None and mask.any() and not mask.all():
            height, width = mask.shape
            grid = np.arange(width) + 0.5, np.arange(height) + 0.5
            axes.contour(*grid, mask, levels=[0.5], colors="black", linewidths=1.6, linestyles=line)
            axes.contour(*grid, mask, levels=[0.5], colors=colour, linewidths=0.8, linestyles=line)
