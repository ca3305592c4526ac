"""Can maps of one pass, fused, beat the best single map at once in IoU and in class selectivity? A bounded search.

A fusion is a pair like any other: how, and what of, as in ("product", "dgl Mixed_6e + layer_cam add1"). Every raw map m
is resized to the largest grid among them, then counts alike: n(m) = m / ||m||, signs kept, the norm over all cells.

    mean      (sum_i n(m_i)) / k                what one map speaks against lowers another
    product   (prod_i relu(n(m_i)))^(1/k)       the geometric mean of the positive parts: where all of them are

Without the root a product would be more peaked than any one map, and so have the better share for no other reason.
Out comes a raw map, as from any method. Both scores take it: IoU through min-max, the pointing game its positive part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
import torch

from dgl_lib.data import Dataset
from dgl_lib.data.mosaic import CELLS
from dgl_lib.evaluate.raw import Maps, Pair
from dgl_lib.evaluate.scores import Scores, per_image, score
from dgl_lib.localize import n
from dgl_lib.maps import resize
from dgl_lib.metrics import bootstrap
from dgl_lib.metrics.selectivity import cell_share

WAYS, COLUMNS = ("mean", "product"), ["method", "layer"]
FUSED = ("pixel_selection", "dgl", "enhanced_map_norm", "layer_cam", "grad_cam_signed", "features_norm")
AT_ONCE = 32  # fusions that are scored together; more would fill the memory
#: Images, the maps and scores of every method on every layer, and the maps of mosaics in the order of ``Mosaic``.
Split = tuple[Dataset, Maps, Scores, Maps]


def candidates(layers: Sequence[str]) -> list[Pair]:
    """All that is tried: each two of ``FUSED`` on ``layers``, and each method on each three layers, in both ways."""
    single = (pair for pair in product(FUSED, layers) if pair != ("grad_cam_signed", layers[-1]))  # pixel selection
    several: list[Any] = [*combinations(single, 2)]
    several += [tuple(product([method], three)) for method in FUSED for three in combinations(layers, 3)]
    return [(how, " + ".join(map(" ".join, of))) for of in several for how in WAYS]


def with_fusions(maps: Maps, pairs: Iterable[Pair]) -> Maps:
    """The maps of these pairs, single ones as they are and fusions made from them."""
    return replace(maps, maps={pair: _fuse(maps, *pair) if pair[0] in WAYS else maps.maps[pair] for pair in pairs})


def _fuse(maps: Maps, how: str, what: str) -> np.ndarray:
    of = [torch.from_numpy(maps.maps[method, at]) for method, at in (name.split(" ") for name in what.split(" + "))]
    size = max(m.shape[1] for m in of), max(m.shape[2] for m in of)
    stack = torch.stack([n(resize(m, size)[:, None])[:, 0] for m in of])  # k x N x h x w
    return (stack.mean(0) if how == "mean" else stack.relu().prod(0) ** (1 / len(of))).numpy()


def _iou(val: Scores, images: Scores, pairs: Iterable[Pair]) -> dict[Pair, np.ndarray]:
    return {pair: per_image(val, images, dict(zip(COLUMNS, pair, strict=True))) for pair in pairs}


def _share(mosaics: Maps, pairs: Iterable[Pair]) -> dict[Pair, np.ndarray]:
    each = ((pair, with_fusions(mosaics, [pair]).maps[pair]) for pair in pairs)
    return {pair: 100 * cell_share(m, np.arange(len(m)) % CELLS).reshape(-1, CELLS).mean(1) for pair, m in each}


def search_fusions(val: Split, test: Split, tries: Sequence[Pair], pairs: Any = None) -> pd.DataFrame:
    """Every single map and every try on validation, and on test the try that a rule fixed beforehand chooses.

    The rule: a try's gain in IoU is over the single map with the best IoU, its gain in share (grid pointing game) over
    the one with the best share, each paired and in standard errors. The try whose smaller gain is the largest is
    chosen, be it negative. ``pairs(change=...)`` is ``selectivity.two_creatures`` with its other arguments.

    Columns: method, layer, role ("chosen", "best iou", "best share", or ""); val_iou, val_share (percent); iou_gain,
    share_gain (points); iou_errors, share_errors (gains in standard errors). With a role also test_iou, test_share and
    test_difference (of pairs), and iou_over, share_over, difference_over: the chosen one minus this one, paired,
    points. These come with _low and _high, their 95 % intervals on test."""
    singles, roles = [*val[1].maps], {}
    iou = _iou(val[2], val[2], singles)
    for some in (tries[k : k + AT_ONCE] for k in range(0, len(tries), AT_ONCE)):
        scores = score(val[0], {1.0: with_fusions(val[1], some)})
        iou |= _iou(scores, scores, some)
    table = pd.DataFrame([*iou], columns=COLUMNS)
    for of, by in {"iou": iou, "share": _share(val[3], iou)}.items():
        table[f"val_{of}"] = np.mean([*by.values()], axis=1)
        roles[f"best {of}"] = best = max(singles, key=dict(zip(iou, table[f"val_{of}"], strict=True)).__getitem__)
        gains = np.stack([*by.values()]) - by[best]  # maps x images
        table[f"{of}_gain"] = gains.mean(1)
        table[f"{of}_errors"] = gains.mean(1) / np.maximum(gains.std(1, ddof=1) / gains.shape[1] ** 0.5, 1e-9)
    smaller = table[["iou_errors", "share_errors"]].min(axis=1)
    roles["chosen"] = chosen = max(tries, key=dict(zip(iou, smaller, strict=True)).__getitem__)
    named = [*dict.fromkeys(roles.values())]
    before, after = (score(images, {1.0: with_fusions(maps, named)}) for images, maps, *_ in (val, test))
    found = {"iou": _iou(before, after, named), "share": _share(test[3], named)}
    if pairs is not None:
        each = pairs(change=lambda maps: with_fusions(maps, named)).groupby([*COLUMNS, "picture"])["difference"].mean()
        found["difference"] = {pair: each[pair].to_numpy() for pair in named}
    table.insert(2, "role", [", ".join(role for role, which in roles.items() if which == pair) for pair in iou])
    for pair, (of, by) in product(named, found.items()):
        cells = bootstrap(by[pair]).cells(f"test_{of}")
        cells |= bootstrap(by[chosen] - by[pair]).cells(f"{of}_over") if pair != chosen else {}
        for name, value in cells.items():
            table.loc[[*iou].index(pair), name] = value
    return table
