"""What every figure shares: type sizes, names and colours, how maps, photographs and outlines are drawn and saved."""

import io
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from dgl_lib.data.records import Record
from dgl_lib.files import write_bytes

#: Perceptual maps: one for localization maps in 0..1, one for signed values around 0.
MAP, SIGNED = "magma", "RdBu_r"
#: Ground, rest of the object, telling part, pixels that no score counts.
REGIONS = ListedColormap(["#26203a", "#8f6fb0", "#ffd166", "#b8b8b8"])
#: Every method's name as readers know it, and its one colour, as in ``methods.csv`` beside this module.
METHODS = pd.read_csv(Path(__file__).with_name("methods.csv"), index_col="method").T
MEASURES = {"iou": "IoU", "recall_rest": "recall of the rest", "recall_part": "recall of the telling part"}
MARKS = {"chosen": "chosen on validation", "peak": "peak on test", "test_peak": "peak on test"}
RUNS = {"this_run": "this run", "trainings": "published trainings"}
NAMES: dict[Any, str] = METHODS.loc["name"].to_dict() | MEASURES | MARKS | RUNS
VERDICTS = {"gains": "#2166ac", "loses": "#b2182b", "level": "#333333", "undecided": "#999999"}
CLAIMS = {"reproduced": "#2ca02c", "not reproduced": "#d62728"}
CONTROLS = {"right class": "#000000", "wrong class": "#d62728", "untrained": "#1f77b4", "shuffled labels": "#ff7f0e"}
#: Light to dark, as more is done to a map.
TREATMENTS = {"none": "#c7c7c7", "MC": "#fdae6b", "MS": "#6baed6", "MS+MC": "#08519c"}
COLOURS: dict[Any, str] = METHODS.loc["colour"].to_dict() | VERDICTS | CLAIMS | CONTROLS | TREATMENTS
#: Broken lines: baselines, and what often lies on another line.
DASHED = ("centred_gaussian", "features", "MS+MC")
DOTTED = ("whole_image", "random_order", "a guess", "features_positive")
LINES = dict.fromkeys(DOTTED, ":") | dict.fromkeys(DASHED, "--")


def use_style() -> None:
    """Set the look of all figures that follow; a notebook calls it once."""
    look = {"figure.dpi": 90, "savefig.dpi": 130, "axes.spines.top": False, "axes.spines.right": False}
    titles = {"axes.titlesize": "medium", "axes.titlelocation": "left", "figure.titlesize": "medium"}
    sns.set_theme(context="notebook", style="ticks", font="DejaVu Sans", font_scale=0.85, rc=look | titles)


def figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches. It comes from pyplot and is closed, so a notebook shows it exactly once."""
    empty = plt.figure(figsize=(width, height), layout="constrained")
    plt.close(empty)
    return empty


def save(figure: Figure, folder: Path, name: str) -> Figure:
    """Write ``figure`` to ``folder``: ``NAME.png`` with ``small_png``, and ``NAME.svg`` to print."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png")
    with plt.rc_context({"svg.hashsalt": name}):  # else its marks have other names each time
        figure.savefig(svg, format="svg", metadata={"Date": None})
    plt.close(figure)  # else a notebook would draw it once more at the end of the cell
    write_bytes(folder / f"{name}.png", small_png(png.getvalue()))
    write_bytes(folder / f"{name}.svg", svg.getvalue())
    return figure


def small_png(png: bytes) -> bytes:
    """The same picture in 256 colours, about a quarter of the size, without the software's name."""
    small = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def name(key: object, width: int = 80) -> str:
    """A method, baseline or measure as readers know it, any other value as text; in lines of at most ``width``."""
    text = f"{key:g}" if isinstance(key, float) else NAMES.get(str(key), str(key))
    return "\n".join(textwrap.fill(line, width, break_long_words=False) for line in text.split("\n"))


def colours(keys: Iterable[object]) -> dict[str, str]:
    """A colour for each key: its own in ``COLOURS``, else the next of a palette safe for the colour-blind."""
    names = list(dict.fromkeys(map(str, keys)))
    spare = iter(sns.color_palette("colorblind", len(names)).as_hex())
    return {key: COLOURS[key] if key in COLOURS else next(spare) for key in names}


def bare(axes: Axes) -> Axes:
    """A panel without ticks and frame, for pictures."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def show_photo(axes: Axes, record: Record, pixels: bool, weight: float = 1.0) -> None:
    """The image where its ``pixels`` may be shown, else an empty panel of its shape; the object's outline in both."""
    height, width = record.image.shape[:2]
    shown = record.image if pixels else np.full((height, width, 3), 240, np.uint8)
    bare(axes).imshow(shown, extent=(0, width, height, 0))
    outline(axes, record, weight)


def show_map(
    axes: Axes,
    m: np.ndarray,
    record: Record,
    *,
    signed: bool = False,
    limit: float | None = None,
    weight: float = 1.0,
    over: bool = False,
) -> None:
    """A map (h, w) over the image's extent with the object's outline, one square a cell and nothing finer.

    Colours run from 0, ``signed`` from -limit, to ``limit``, or over the map's range. ``weight`` is the outline's.
    ``over`` lays the map, smoothed, over the image, whose pixels are then shown."""
    height, width = record.image.shape[:2]
    high = float(np.abs(m).max() if signed else m.max()) if limit is None else limit
    low = -high if signed else 0.0 if limit is not None else float(m.min())
    look = {"alpha": 0.6, "interpolation": "bilinear"} if over else {"interpolation": "nearest"}
    if over:
        axes.imshow(record.image, extent=(0, width, height, 0))
    image = bare(axes).imshow(m, SIGNED if signed else MAP, extent=(0, width, height, 0), **look)
    image.set_clim(low, high if high > low else low + 1)
    outline(axes, record, weight)


def show_masks(axes: Axes, record: Record) -> None:
    """What scores see of an image: ground, rest of the object, telling part and pixels not scored."""
    regions = np.zeros(record.image.shape[:2], np.uint8)
    for value, pixels in ((1, record.mask), (2, record.part), (3, record.ignore)):
        if pixels is not None:
            regions[pixels.astype(bool)] = value
    bare(axes).imshow(regions, REGIONS, vmin=-0.5, vmax=3.5, interpolation="nearest")


def outline(axes: Axes, record: Record, weight: float = 1.0) -> None:
    """The object's outline, and the telling part's as a dotted line where it is known."""
    for mask, line in ((record.mask, "solid"), (record.part, "dotted")):
        if mask is not None and mask.any() and not mask.all():
            height, width = mask.shape
            grid = np.arange(width) + 0.5, np.arange(height) + 0.5
            for colour, thick in (("black", 1.6), ("white", 0.8)):
                axes.contour(*grid, mask, levels=[0.5], colors=colour, linewidths=thick * weight, linestyles=line)
