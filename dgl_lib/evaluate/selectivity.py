"""Does a map know whose pixels it shows? IoU with the one object of a picture cannot tell. Three tests can.

grid pointing game  the map's share in the asked class's cell of a mosaic (Boehle et al., CVPR 2021), every method on
                    the same layers (Rao et al., CVPR 2022)
two creatures       in one picture: IoU with the asked one minus IoU with the other
pieces taken out    is the map where the class's logit falls without the piece? (FunnyBirds, Hesse et al., ICCV 2023)

Each gives a table of every picture's values. Intervals are over pictures, however often one was asked.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from dgl_lib.data.creatures import Creatures
from dgl_lib.data.mosaic import CELLS, Mosaic
from dgl_lib.data.records import Dataset, Subset
from dgl_lib.errors import UserError
from dgl_lib.evaluate.compare import log_p_c
from dgl_lib.evaluate.raw import Maps, Options, every_map
from dgl_lib.evaluate.scores import BASELINES, per_image, score
from dgl_lib.fast import pick_device
from dgl_lib.metrics import bootstrap, two_level
from dgl_lib.metrics import selectivity as metric
from dgl_lib.models import Classifier, preprocess

THIRDS = np.array(["near", "middle", "far"])
BY = ("method", "layer")


def sure_groups(maps: Maps, labels: np.ndarray, most: int) -> list[list[int]]:
    """Four indices of images of four classes for each of at most ``most`` mosaics, no image twice.
    An image is sure if its class is predicted, and the surer the higher its p_c. Each mosaic takes the surest unused
    image of the four classes with the most sure images left; of equally many, of those whose image is surer."""
    order = np.argsort(-log_p_c(maps, labels), kind="stable")
    sure = order[maps.logits[order].argmax(1) == labels[order]].tolist()
    left = [[place for place, i in enumerate(sure) if labels[i] == label] for label in np.unique(labels)]
    groups: list[list[int]] = []
    while len(left := [places for places in left if places]) >= CELLS and len(groups) < most:
        left.sort(key=lambda places: (-len(places), places[0]))
        groups.append([sure[places.pop(0)] for places in left[:CELLS]])
    return groups


def pointing(mosaic: Mosaic, maps: Maps) -> pd.DataFrame:
    """The grid pointing game on the raw maps of ``mosaic``, a row a mosaic, asked class, method and layer.
    Columns: picture (number of the mosaic), class, method, layer, share (percent; chance is 25)."""
    picture, cell = np.divmod(np.arange(len(mosaic)), CELLS)
    items = {"picture": picture, "class": np.array(mosaic.classes)[mosaic.labels]}
    shares = {pair: 100 * metric.cell_share(m, cell) for pair, m in maps.maps.items()}
    return pd.concat(pd.DataFrame({**items, "method": of, "layer": at, "share": s}) for (of, at), s in shares.items())


def selectivity_gain(values: pd.DataFrame, layers: Sequence[str]) -> np.ndarray:
    """C10's effect of each mosaic, (mosaics,) points: pixel selection's share minus signed Grad-CAM's, of ``pointing``.
    Both are means over the four asked classes and over ``layers`` without CAM's. UserError: there is no other layer."""
    before = set(layers) - set(values.loc[values["method"] == "cam", "layer"])
    share = values[values["layer"].isin(before)].pivot_table("share", "picture", "method")
    if share.empty:
        raise UserError(f"layers: {', '.join(layers)} given, at least one before the last convolution needed")
    return (share["pixel_selection"] - share["grad_cam_signed"]).to_numpy()


def summary(values: pd.DataFrame, of: str, by: Sequence[str] = BY) -> pd.DataFrame:
    """Mean of the column ``of`` over pictures, a line for each group: columns ``by``, mean, low, high, images."""
    each: Any = values.groupby([*by, "picture"], sort=False)[of].mean().groupby(list(by), sort=False)
    return pd.DataFrame([dict(zip(by, key, strict=True)) | bootstrap(one).row() for key, one in each])


def over_trainings(values: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Of the ``pointing`` of several trainings: method, layer; the share's mean, low, high (two-level bootstrap, over
    trainings and mosaics), images (mosaics); lowest, highest (the trainings' own means)."""
    means_of = (table.groupby([*BY, "picture"])["share"].mean().groupby([*BY]) for table in values)
    of: list[dict[Any, Any]] = [dict(list(shares)) for shares in means_of]
    pairs: Any = values[0].groupby([*BY], sort=False).groups
    rows = []
    for pair in pairs:
        each = [shares[pair].to_numpy() for shares in of]
        means = [one.mean() for one in each]
        ends = {"lowest": min(means), "highest": max(means)}
        rows.append(dict(zip(BY, pair, strict=True)) | two_level(each).row() | ends)
    return pd.DataFrame(rows)


def two_creatures(
    model: Classifier,
    val: Dataset,
    test: Dataset,
    kept: Options,
    change: Callable[[Maps], Maps] = lambda m: m,
    **how: Any,
) -> pd.DataFrame:
    """IoU with the asked creature and with the other one: a row a picture of ``test``, asked creature, method, layer.
    Items 2k and 2k + 1 of a data set are picture k asked for its one and its other creature, whose masks they have.
    Each map and trivial baseline has one threshold, the best for the asked creatures of ``val``. ``how`` and ``kept``
    (folder, progress) are options of ``raw_maps``. Columns: picture, gap (pixels), third (near, middle, far: of the
    pictures, by gap), method, layer, asked, other (IoU, percent), difference. ``change`` makes other maps of every map
    first. UserError: a creature without a pixel."""
    masks: list[Any] = [test[i].mask for i in range(len(test))]
    gaps = np.array([metric.gap(*both) for both in zip(masks[::2], masks[1::2], strict=True)])
    third = THIRDS[gaps.argsort(kind="stable").argsort() * 3 // len(gaps)]
    item = np.arange(len(test))
    swapped = Subset(test, item ^ 1)  # the same pictures with the other creature's masks
    before, maps = ({1.0: change(every_map(model, part, **how, **kept))} for part in (val, test))
    by_val, by_asked, by_other = (score(*one, **kept) for one in ((val, before), (test, maps), (swapped, maps)))
    tables = []
    for row in by_val.rows.to_dict("records"):
        cells = {"picture": item // 2, "gap": gaps[item // 2], "third": third[item // 2]} | {of: row[of] for of in BY}
        cells |= {"asked": per_image(by_val, by_asked, row), "other": per_image(by_val, by_other, row)}
        tables.append(pd.DataFrame(cells))
    return pd.concat(tables).assign(difference=lambda table: table["asked"] - table["other"])


def pairs_table(values: pd.DataFrame) -> pd.DataFrame:
    """Of ``two_creatures``: method, layer; difference's mean, low, high, images (pictures); asked, other (means);
    correlation, correlation_low, correlation_high (Spearman's, of difference and gap over pictures)."""
    each, rows = values.groupby([*BY, "picture"], sort=False).mean(numeric_only=True), []
    for _, of in each.groupby(list(BY), sort=False):
        along = bootstrap(metric.rank_products(of["difference"].to_numpy(), of["gap"].to_numpy()))
        rows.append({**of[["asked", "other"]].mean(), **along.cells("correlation")})
    return summary(values, "difference").join(pd.DataFrame(rows))


def gap_table(values: pd.DataFrame) -> pd.DataFrame:
    """Of ``two_creatures`` by thirds: method, layer, third; difference's mean, low, high, images; gap_low, gap_high."""
    gaps = values.groupby("third")["gap"].agg(gap_low="min", gap_high="max")
    return summary(values, "difference", [*BY, "third"]).join(gaps, on="third")


@torch.inference_mode()
def piece_drops(model: Classifier, data: Creatures, indices: Sequence[int], size: int, device: str) -> pd.DataFrame:
    """What the class of a picture loses with each piece, asked at ``size`` pixels a side. Columns: picture (name),
    piece, logit and p_c (0..1), each of them the whole picture's minus that without the piece."""
    rows: list[tuple[Any, ...]] = []
    model.to(pick_device(device))
    for i in indices:
        names, label = list(data.pieces(i)), int(data.labels[i])
        logits = model(preprocess(model, [data.image(i), *(data.without(i, name) for name in names)], size)).double()
        drops = (of[0] - of[1:] for of in (logits[:, label].cpu(), logits.softmax(1)[:, label].cpu()))
        rows += zip([data.names[i]] * len(names), names, *(drop.tolist() for drop in drops), strict=True)
    model.cpu()
    return pd.DataFrame(rows, columns=["picture", "piece", "logit", "p_c"])


def piece_correlation(data: Creatures, indices: Sequence[int], maps: Maps, drops: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation over a picture's pieces, the map's share in each against the logit's drop without it.
    The raw ``maps`` are those of ``indices``, and ``drops`` come from ``piece_drops``. Baselines come along. A map that
    is alike in all pieces, such as an empty one, counts as 0. Columns: picture, method, layer, correlation (-1..1)."""
    rows = []
    for k, i in enumerate(indices):
        pieces = np.stack([*data.pieces(i).values()])
        fell = drops.loc[drops["picture"] == data.names[i], "logit"].to_numpy()
        trivial = {(name, ""): of(pieces.shape[1:])[None].numpy() for name, of in BASELINES.items()}
        for pair, m in ({pair: m[k : k + 1] for pair, m in maps.maps.items()} | trivial).items():
            [shares] = metric.piece_shares(m, pieces)
            rows.append((data.names[i], *pair, metric.rank_products(shares, fell).mean()))
    return pd.DataFrame(rows, columns=["picture", *BY, "correlation"])
