"""The idea in one picture: from an image to features, to two gradients, to a map."""

from matplotlib.figure import Figure
from torch import Tensor

from dgl_lib.data.records import Record
from dgl_lib.localize import dgl, enhance
from dgl_lib.plots import style

#: Every picture: where its middle is, in inches, and what stands above it.
PLACES = {
    "image": (0.8, 1.9, "image"),
    "S": (3.1, 1.9, "features  $S$"),
    "G_c": (5.6, 3.1, r"of the logit:  $G_c=\partial l_c/\partial S$"),
    "G_J": (5.6, 0.8, r"of the loss:  $G_J=\partial J/\partial S$"),
    "A": (8.6, 0.8, "branch 1:  $A=n(S)-n(G_J)$"),
    "M": (11.2, 2.4, r"branch 2:  $M=\Sigma_k\,G_c\,A$"),
    "over": (11.2, 0.8, "$M$ over the image"),
}
ARROWS = [("image", "S"), ("S", "G_c"), ("S", "G_J"), ("G_J", "A"), ("S", "A"), ("G_c", "M"), ("A", "M")]
SIDE, SHIFT = 1.1, 0.14  # of a picture, and between the channels of a tensor, inches


def idea(record: Record, S: Tensor, G_c: Tensor, G_J: Tensor, title: str = "") -> Figure:
    """``record``'s image, its S, G_c and G_J of a layer, (1, K, h, w) each, and what both branches make of them.

    A tensor is shown as a pile of three channels, those that add most to the map; each picture spans its own colours.
    The image's pixels are shown, so it has to be a drawn one or the reader's own."""
    A = enhance(S, G_J)
    most = (G_c * A)[0].sum((1, 2)).argsort()[-3:]
    piles = {name: X[0, most].cpu().numpy() for name, X in {"S": S, "G_c": G_c, "G_J": G_J, "A": A}.items()}
    piles["M"] = piles["over"] = dgl(S, G_c, G_J).cpu().numpy()
    figure = style.figure(12.2, 4.2)
    ax = style.bare(figure.subplots())
    ax.set(xlim=(0, 12.2), ylim=(0, 4.0), title=title)
    for start, end in ARROWS:
        arrow = {"arrowstyle": "-|>", "color": "black", "lw": 1.5, "shrinkA": 60, "shrinkB": 60}
        bend = -0.2 if (start, end) == ("S", "A") else 0  # over G_J
        ax.annotate("", PLACES[end][:2], PLACES[start][:2], arrowprops=arrow | {"connectionstyle": f"arc3,rad={bend}"})
    for name, (x, y, head) in PLACES.items():
        pile = piles.get(name, [None])
        half, spread = SIDE / 2, SHIFT * (len(pile) - 1) / 2
        ax.text(x, y + half + spread + 0.08, head, ha="center")
        for k, m in enumerate(pile):
            corner = x - half - spread + SHIFT * k, y - half + spread - SHIFT * k
            inset = ax.inset_axes((*corner, SIDE, SIDE), transform=ax.transData, zorder=3 + k)
            if m is None:
                style.show_photo(inset, record, True)
            else:
                style.show_map(inset, m, record, signed=name in ("G_c", "G_J", "A"), over=name == "over")
            inset.spines[:].set(visible=True, linewidth=0.5)
    return figure
