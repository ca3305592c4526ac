"""Notebook 03, branch 2: what each method finds on each layer, compared image by image, and drawn.

Everything here works on ``evaluation.Scores``; a threshold is always the one chosen on the validation part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from dgl_lib import claims, metrics
from dgl_lib.data.records import Dataset, Record
from dgl_lib.errors import UserError
from dgl_lib.evaluate.scores import BASELINES, Maps, Scores, at, choose
from dgl_lib.localize import gradients
from dgl_lib.maps import minmax
from dgl_lib.metrics import Interval, bootstrap
from dgl_lib.models import LAYERS, preprocess
from dgl_lib.plots import style

#: What the claims of this notebook are made of.
NEEDED = ("pixel_selection", "enhanced_map", "dgl")
#: Score of each image at every threshold, (images, 256) in 0..1, from histograms (images, 4, 256).
MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "iou": metrics.iou,
    "recall_rest": partial(metrics.recall, region=metrics.REST),
    "recall_part": partial(metrics.recall, region=metrics.PART),
    "precision": metrics.precision,
}
TITLES = {
    "recall_rest": "recall of the rest",
    "recall_part": "recall of the telling part",
    "precision": "precision",
}
#: Points that an effect on a score has to exceed.
MARGIN = claims.CLAIMS["C4"].margin or 0.0

Row = Mapping[str, str]  # method and layer, as in ``Scores.rows``


def check(parameters: Mapping[str, Any]) -> None:
    """UserError unless ``layers`` holds ``layer`` and the last layer, and ``methods`` those the claims are about."""
    network = next(layers for layers in LAYERS.values() if parameters["layer"] in {layer.name for layer in layers})
    for name, wanted in (("layers", (parameters["layer"], network[-1].name)), ("methods", NEEDED)):
        for item in wanted:
            if item not in parameters[name]:
                raise UserError(f"{name}: {', '.join(parameters[name])} given, {item} is needed among them")


# ------------------------------------------------------------------------------------------------------ comparing


def per_image(val: Scores, images: Scores, row: Row, measure: str) -> np.ndarray:
    """One row's score of each image (images,) in percent, at the row's own threshold, chosen on ``val`` by IoU.

    ``measure`` is a key of ``MEASURES``; NaN where an image has nothing to measure, as a telling part of no pixels.
    """
    threshold = choose(val.find(**row))
    return 100 * at(MEASURES[measure](images.find(**row)), threshold)


def with_parts(val: Scores, test: Scores, at_least: int = 30) -> tuple[Scores, str]:
    """The images whose telling part is known, and where they are from: "test", or "validation" if test has too few.

    No images at all where no telling part is known: the data set has none, and nothing is to be compared.
    On validation images the threshold is chosen on images that are also scored: a little too kind, to every method.
    """
    images, where = (test, "test") if test.has_part.sum() >= at_least else (val, "validation")
    keep = np.flatnonzero(images.has_part)
    names = [images.names[i] for i in keep]
    return Scores(images.rows, images.hist[:, keep], names, images.labels[keep], images.has_part[keep]), where


def _cells(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "images": interval.n}


def found(val: Scores, images: Scores) -> pd.DataFrame:
    """How much of the telling part and of the rest each row finds, and how precisely.

    Returns:
        columns method, layer, measure, mean, low, high (percent, 95 % interval over images), images.
    """
    rows = [{"method": m, "layer": layer} for m, layer in zip(val.rows["method"], val.rows["layer"], strict=True)]
    return pd.DataFrame(
        [
            {**row, "measure": measure, **_cells(bootstrap(per_image(val, images, row, measure)))}
            for row in rows
            for measure in TITLES
        ]
    )


def differences(val: Scores, images: Scores, pairs: Sequence[tuple[Row, Row]]) -> pd.DataFrame:
    """Paired differences a - b of every measure, image by image, for each pair (a, b) of rows.

    Returns:
        columns a, b (as ``method on layer``), measure, mean, low, high (points), images.
    """
    table = []
    for a, b in pairs:
        for measure in TITLES:
            change = bootstrap(per_image(val, images, a, measure) - per_image(val, images, b, measure))
            table.append({"a": _name(a), "b": _name(b), "measure": measure, **_cells(change)})
    return pd.DataFrame(table)


def _name(row: Row) -> str:
    return style.NAMES.get(row["method"], row["method"]) + (f" on {row['layer']}" if row["layer"] else "")


def _cam_layer(rows: pd.DataFrame) -> str:
    """The layer CAM exists on: the network's last."""
    return rows.loc[rows["method"] == "cam", "layer"].iloc[-1]


def better_baseline(val: Scores) -> str:
    """The trivial baseline, "whole_image" or "centred_gaussian", with the higher mean IoU on validation."""
    return max(BASELINES, key=lambda name: metrics.iou(val.find(method=name)).mean(0).max())


def over_baseline(
    val: Scores, test: Scores, layers: Sequence[str], method: str = "pixel_selection"
) -> tuple[pd.DataFrame, Interval]:
    """Gain in IoU (points) of ``method`` on each layer over the better trivial baseline, and on their average.

    Returns:
        columns layer, mean, low, high, images; and the interval of each image's gain averaged over the layers.
    """
    trivial = per_image(val, test, {"method": better_baseline(val), "layer": ""}, "iou")
    gains = [per_image(val, test, {"method": method, "layer": layer}, "iou") - trivial for layer in layers]
    table = [{"layer": layer, **_cells(bootstrap(gain))} for layer, gain in zip(layers, gains, strict=True)]
    return pd.DataFrame(table), bootstrap(np.mean(gains, 0))


def best_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Of ``evaluation.report``'s table, each method's layer with the highest IoU on validation, best method first."""
    best = table.loc[table.groupby("method", sort=False)["val_iou"].idxmax()]
    columns = ["method", "layer", "threshold", "val_iou", "iou", "low", "high"]
    return best.sort_values("val_iou", ascending=False)[columns].reset_index(drop=True)


def constant_share(
    model: nn.Module, dataset: Dataset, indices: Sequence[int], layers: Sequence[str], size: int
) -> pd.DataFrame:
    """How much of G_c is the same everywhere: hw sum_k mean_hw(G_c)^2 / ||G_c||^2, in 0..1, of each image and layer.

    1 means that one weight a channel says all there is, as Grad-CAM assumes; 0 that the gradient's mean says nothing.
    Images go through one by one: ten layers' gradients of large inputs at once would not fit a small machine.
    """
    rows = []
    for i in indices:
        images = preprocess(model, [dataset.image(i)], size)
        for layer, (_, G_c, _) in gradients(model, images, [int(dataset.labels[i])], layers, needs=["G_c"]).items():
            hw = G_c.shape[-2] * G_c.shape[-1]
            share = hw * float((G_c.double().mean((2, 3)) ** 2).sum()) / float((G_c.double() ** 2).sum())
            rows.append({"image": dataset.names[i], "layer": layer, "share": share})
    return pd.DataFrame(rows)


# -------------------------------------------------------------------------------------------------------- figures


def weights_and_gradients(G_last: Tensor, w_c: Tensor, G_layer: Tensor, last: str, layer: str) -> Figure:
    """One image's gradient a channel, (K, h, w), against one number a channel: on the last layer, and earlier.

    Left, against CAM's weight over the number of cells, w_ck/(hw); right, against its own mean over the cells.
    """
    figure = style.figure(10, 4.2)
    axes = figure.subplots(1, 2)
    hw = G_last.shape[-2] * G_last.shape[-1]
    spread = _against(axes[0], w_c / hw, G_last)
    axes[0].set(
        title=f"{last}: {spread:.0%} of the gradient varies over the cells", xlabel=r"weight of CAM, $w_{ck}/(hw)$"
    )
    spread = _against(axes[1], G_layer.mean((1, 2)), G_layer)
    axes[1].set(title=f"{layer}: {spread:.0%} of it does", xlabel=r"mean of $G_c$ over the cells")
    for ax in axes:
        ax.set_ylabel(r"$G_c(h, w, k)$")
    axes[0].legend(loc="upper left", frameon=False)
    figure.suptitle("On the last layer one weight a channel says it all; earlier it does not")
    return figure


def _against(ax: Axes, x: Tensor, G: Tensor) -> float:
    """Draw each channel's range of gradients over its number x (K,); return the share of ||G||^2 around the means."""
    flat = G.flatten(1)
    ax.vlines(x, flat.amin(1), flat.amax(1), color=style.COLOURS["pixel_selection"], alpha=0.35, lw=1)
    ax.plot(x, flat.mean(1), ".", ms=3, color=style.COLOURS["pixel_selection"], label="a channel: mean, min to max")
    ax.axline((0, 0), slope=1, color="black", lw=0.8, label="equal")
    ax.ticklabel_format(style="sci", scilimits=(-2, 2))
    around = flat - flat.mean(1, keepdim=True)
    return float(around.norm() / flat.norm()) ** 2


def share_by_layer(shares: pd.DataFrame, layers: Sequence[str]) -> Figure:
    """The share of the gradient that is constant in space (``constant_share``), a dot an image, by layer."""
    figure = style.figure(8, 3.4)
    ax = figure.subplots()
    place = {layer: x for x, layer in enumerate(layers)}
    ax.plot(shares["layer"].map(place), 100 * shares["share"], "o", ms=4, alpha=0.5, color="#1f77b4", label="an image")
    means = 100 * shares.groupby("layer")["share"].mean()[list(layers)]
    ax.plot(range(len(layers)), means, color="black", lw=1.2, label="mean")
    ax.set(ylabel="share of $\\|G_c\\|^2$ that is\nthe same in every cell (%)", ylim=(-3, 103))
    ax.set_title(f"The gradient is constant on {layers[-1]}; on the others {means[:-1].min():.0f} to "
                 f"{means[:-1].max():.0f} % of it is")  # fmt: skip
    ax.legend(frameon=False)
    _layer_ticks(ax, layers)
    return figure


def _layer_ticks(ax: Axes, layers: Sequence[str]) -> None:
    ax.set_xticks(range(len(layers)), layers, rotation=30, ha="right")
    ax.set_xlabel("layer, from the input (left) to the output (right)")


def same_maps(dataset: Dataset, indices: Sequence[int], maps: Mapping[str, Tensor], pixels: bool) -> Figure:
    """Min-maxed maps (N, h, w) of the images ``indices``, a column a method, to be seen to be the same."""
    figure = style.figure(0.95 * (len(maps) + 1), 0.95 * len(indices) + 0.5)
    axes = figure.subplots(len(indices), len(maps) + 1, squeeze=False)
    for row, i in enumerate(indices):
        record = dataset[i]
        style.show_photo(axes[row, 0], record, pixels)
        for ax, m in zip(axes[row, 1:], maps.values(), strict=True):
            style.show_map(ax, minmax(m[row]).numpy(), record)
    for ax, name in zip(axes[0], ["image", *maps], strict=True):
        ax.set_title(name, fontsize="small", loc="center")
    first, *others = (minmax(m) for m in maps.values())
    largest = max(float((m - first).abs().max()) for m in others)
    figure.suptitle(f"One map under {len(maps)} names: largest difference {largest:.0e} of the full range")
    return figure


def grid(
    dataset: Dataset, rows: Sequence[tuple[int, str]], maps: Maps, layers: Sequence[str], title: str, pixels: bool
) -> Figure:
    """Maps of every layer (columns); a row an (image index, method). Colours span each map's own range."""
    figure = style.figure(0.75 * (len(layers) + 1), 0.75 * len(rows) + 0.45)
    axes = figure.subplots(len(rows), len(layers) + 1, squeeze=False)
    several = len({method for _, method in rows}) > 1
    for k, (line, (i, method)) in enumerate(zip(axes, rows, strict=True)):
        record = dataset[i]
        style.bare(line[0])
        if k == 0 or i != rows[k - 1][0]:  # the same photograph once
            style.show_photo(line[0], record, pixels)
        for ax, layer in zip(line[1:], layers, strict=True):
            style.bare(ax)
            if (method, layer) in maps.maps:
                _small_map(ax, maps.maps[method, layer][i], record)
        label = style.NAMES.get(method, method) if several else dataset.classes[record.label]
        line[0].set_ylabel(label.replace(" (", "\n("), fontsize=6)
    for ax, name in zip(axes[0], ["image", *layers], strict=True):
        ax.set_title(name, fontsize=6, loc="center")
    figure.suptitle(title, fontsize="medium")
    return figure


def _small_map(ax: Axes, m: np.ndarray, record: Record) -> None:
    """As ``style.show_map``, with an outline thin enough to see the map of a small panel behind it."""
    height, width = record.image.shape[:2]
    ax.imshow(m, style.MAP, extent=(0, width, height, 0), interpolation="nearest")
    if record.mask is not None and record.mask.any() and not record.mask.all():
        grid = np.arange(width) + 0.5, np.arange(height) + 0.5
        ax.contour(*grid, record.mask, levels=[0.5], colors="white", linewidths=0.7)


def validation_curves(val: Scores, layer: str, methods: Sequence[str]) -> Figure:
    """Mean IoU on validation against the threshold, a line a method on ``layer``; a dot where the choice falls."""
    figure = style.figure(8, 3.6)
    ax = figure.subplots()
    rows = [{"method": m, "layer": _cam_layer(val.rows) if m == "cam" else layer} for m in ["cam", *methods]]
    for row in rows + [{"method": name, "layer": ""} for name in BASELINES]:
        hist, method = val.find(**row), row["method"]
        curve, t = 100 * metrics.iou(hist).mean(0), choose(hist)
        line = "--" if method in BASELINES else "-"
        ax.plot(curve, line, color=style.COLOURS.get(method), label=_name(row))
        ax.plot(t, curve[t], "o", ms=5, color=style.COLOURS.get(method))
    chosen = [choose(val.find(**row)) for row in rows]
    ax.set(xlabel="threshold on the 8-bit map", ylabel="mean IoU, validation (%)", xlim=(0, 255), ylim=(0, None))
    ax.set_title(f"Each method has a threshold of its own: chosen between {min(chosen)} and {max(chosen)}")
    ax.legend(frameon=False, fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def iou_by_layer(table: pd.DataFrame, layers: Sequence[str], methods: Sequence[str]) -> Figure:
    """Test IoU with its 95 % interval against the layer, a line a method; CAM and the trivial baselines level lines."""
    figure = style.figure(9.5, 4.4)
    ax = figure.subplots()
    for k, method in enumerate(methods):
        one = table[table["method"] == method].set_index("layer").loc[list(layers)]
        x = np.arange(len(layers)) + 0.06 * (k - (len(methods) - 1) / 2)
        colour = style.COLOURS.get(method)
        ends = np.clip([one["iou"] - one["low"], one["high"] - one["iou"]], 0, None)
        ax.errorbar(x, one["iou"], ends, color=colour, marker="o", ms=4, lw=1.5, elinewidth=0.9,
                    label=style.NAMES.get(method, method))  # fmt: skip
    for method, line in (("cam", "-"), ("whole_image", ":"), ("centred_gaussian", "--")):
        level = table[table["method"] == method].to_dict("records")[0]
        ax.axhline(level["iou"], color="black", ls=line, lw=1, label=_name({str(k): v for k, v in level.items()}))
        if method == "cam":
            ax.axhspan(level["low"], level["high"], color="black", alpha=0.06, lw=0)
    best = best_layers(table[table["method"].isin(methods)]).iloc[0]
    cam = table.loc[table["method"] == "cam", "iou"].iloc[0]
    name = style.NAMES.get(best["method"], best["method"])
    ax.set_title(f"Best on validation: {name} on {best['layer']}; test IoU {best['iou']:.1f} % (CAM {cam:.1f} %)")
    ax.set(ylabel="mean IoU, test (%)")
    _layer_ticks(ax, layers)
    ax.legend(frameon=False, fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def parts(table: pd.DataFrame, layer: str, methods: Sequence[str], where: str) -> Figure:
    """Recall of the telling part and of the rest, and precision, with 95 % intervals: a line a method on ``layer``."""
    keys = [*((m, layer) for m in methods), ("cam", _cam_layer(table)), *((name, "") for name in BASELINES)]
    figure = style.figure(10, 0.34 * len(keys) + 1.3)
    axes = figure.subplots(1, 3, sharey=True)
    for ax, (measure, title) in zip(axes, TITLES.items(), strict=True):
        one = table[table["measure"] == measure].set_index(["method", "layer"]).loc[keys]
        _dots(ax, one, [style.COLOURS.get(method, "black") for method, _ in keys])
        ax.set(title=title, xlabel=f"% ({where} images)", xlim=(0, 103))
    axes[0].set_yticks(range(len(keys)), [_name({"method": m, "layer": layer}) for m, layer in keys])
    axes[0].set_ylim(len(keys) - 0.5, -0.5)
    rest = table[table["measure"] == "recall_rest"].set_index(["method", "layer"])["mean"]
    part = table[table["measure"] == "recall_part"].set_index(["method", "layer"])["mean"]
    less = sum(rest[key] < part[key] for key in keys[: len(methods) + 1])
    figure.suptitle(f"The rest is found less than the telling part by {less} of {len(methods) + 1} maps")
    return figure


def forest(table: pd.DataFrame, where: str) -> Figure:
    """Paired differences (``differences``) with their 95 % intervals: a line a pair, a panel a measure."""
    pairs = list(dict.fromkeys(zip(table["a"], table["b"], strict=True)))
    figure = style.figure(10, 0.5 * len(pairs) + 1.6)
    axes = figure.subplots(1, 3, sharey=True)
    for ax, (measure, title) in zip(axes, TITLES.items(), strict=True):
        one = table[table["measure"] == measure]
        ax.axvspan(-MARGIN, MARGIN, color="black", alpha=0.08, lw=0)
        ax.axvline(0, color="black", lw=0.8)
        _dots(ax, one, ["#1f77b4"] * len(one))
        ax.set(title=title, xlabel=f"change, points ({where} images)")
    axes[0].set_yticks(range(len(pairs)), [f"{a}\n$-$ {b}" for a, b in pairs], fontsize="x-small")
    axes[0].set_ylim(len(pairs) - 0.5, -0.5)
    first = table.iloc[: len(TITLES)].set_index("measure")["mean"]
    rest, precision = first["recall_rest"], first["precision"]
    figure.suptitle(f"Branch 1 changes the recall of the rest by {rest:+z.1f} points, precision by {precision:+z.1f}")
    return figure


def _dots(ax: Axes, table: pd.DataFrame, colours: Sequence[str]) -> None:
    for y, (row, colour) in enumerate(zip(table.to_dict("records"), colours, strict=True)):
        ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=1.6)
        ax.plot(row["mean"], y, "o", ms=5, color=colour)
    ax.grid(axis="x", alpha=0.3)


def gains(table: pd.DataFrame, overall: Interval, baseline: str) -> Figure:
    """Pixel selection's gain over the better trivial baseline on each layer, and on their average, with intervals."""
    figure = style.figure(8, 3.6)
    ax = figure.subplots()
    means = table["mean"]
    ends = np.clip([means - table["low"], table["high"] - means], 0, None)
    ax.errorbar(range(len(table)), means, ends, fmt="o", color=style.COLOURS["pixel_selection"], label="a layer")
    ax.axhline(overall.mean, color=style.COLOURS["dgl"], lw=1.2, label="their average, image by image")
    ax.axhspan(overall.low, overall.high, color=style.COLOURS["dgl"], alpha=0.12, lw=0)
    ax.axhline(MARGIN, color="black", lw=0.8, ls="--", label=f"margin of the claim, {MARGIN:+g}")
    ax.set(ylabel="gain in IoU, points")
    above = int((table["low"] > MARGIN).sum())
    ax.set_title(f"Pixel selection beats the {style.NAMES[baseline]} on {above} of {len(table)} earlier layers")
    _layer_ticks(ax, table["layer"].tolist())
    ax.legend(frameon=False, fontsize="x-small")
    return figure


def largest_difference(maps: Maps, one: str, other: str, layer: str) -> float:
    """Largest absolute difference of two methods' min-maxed maps on ``layer``, over all images and cells."""
    a, b = (minmax(torch.from_numpy(maps.maps[method, layer])) for method in (one, other))
    return float((a - b).abs().max())
