"""The figure of the networks' page: IoU by layer, a panel a network."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from dgl_lib.plots import style

#: Lines drawn: DGL, its branches, and the best relative that needs no second gradient.
METHODS = ("dgl", "pixel_selection", "enhanced_map", "layer_cam")


def by_layer(scores: pd.DataFrame) -> Figure:
    """Test IoU against the layer with 95 % intervals, a line a method; CAM and the trivial baselines level lines.

    Args:
        scores: ``evaluation.report`` of each network, with a column network.
    """
    networks = scores["network"].unique()
    figure = style.figure(11, 3.1 * len(networks) + 0.5)
    axes = figure.subplots(len(networks), 1, sharey=True, squeeze=False)[:, 0]
    above = []
    for ax, (network, table) in zip(axes, scores.groupby("network", sort=False), strict=True):
        levels = table[table["method"].isin(["cam", "whole_image", "centred_gaussian"])].set_index("method")["iou"]
        for method, line in (("cam", "-"), ("whole_image", ":"), ("centred_gaussian", "--")):
            ax.axhline(levels[method], color="black", ls=line, lw=1, label=style.name(method))
        layers = table.loc[table["method"] == "dgl", "layer"].tolist()
        for k, method in enumerate(METHODS):
            one = table[table["method"] == method].set_index("layer").loc[layers]
            x = [i + 0.06 * (k - 1.5) for i in range(len(layers))]
            colour = style.COLOURS[method]
            ax.vlines(x, one["low"], one["high"], color=colour, lw=0.9)
            ax.plot(x, one["iou"], "o-", ms=4, lw=1.5, color=colour, label=style.name(method))
        dgl = table[table["method"] == "dgl"]
        above.append(f"{int((dgl['low'] > levels['cam']).sum())} of {len(layers)}")
        ax.set_xticks(range(len(layers)), layers, rotation=20, ha="right", fontsize="small")
        ax.set(ylabel="mean IoU, test (%)", title=str(network))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    figure.suptitle(f"Layers on which DGL's interval lies above CAM's mean: {', '.join(above)}")
    return figure
