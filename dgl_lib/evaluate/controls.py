"""Controls: what becomes of a map where it should change. One that stays as it was says nothing of class or network.

wrong class      the strongest class beside the true one, the same network
untrained        the same architecture, random weights
fresh head       the loaded trunk, what follows it random; only where training starts from loaded weights
shuffled labels  the same training on labels shuffled over the images; only where that network is at hand
low confidence   the quarter of the test images with the lowest p_c, against the rest
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from dgl_lib.errors import UserError
from dgl_lib.evaluate.raw import Maps
from dgl_lib.evaluate.scores import BASELINES, Scores, per_image
from dgl_lib.metrics import Interval, bootstrap, two_samples
from dgl_lib.models import NETWORKS, Classifier

RIGHT, WRONG, LOW, REST = "right class", "wrong class", "low confidence", "the rest"


class Measured(NamedTuple):
    """The test part's raw maps, their scores, and the validation part's, from which the thresholds come."""

    val: Scores
    test: Scores
    maps: Maps


def strongest_other(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class with the highest of the logits (N, C) beside the true one's, (N,): the runner-up, or the mistake."""
    others = logits.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return others.argmax(1)


def untrained(model: Classifier, weights: str | Path | None, seed: int) -> Classifier:
    """``model``'s architecture before training: random where ``weights`` is None, else with a fresh head on a trunk.

    ``seed`` should not be the trained network's own. A random network gets the trained one's normalisation, so that
    only the weights differ.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = NETWORKS[model.architecture](model.num_classes, width=model.width, weights=weights)
    if weights is None:
        found.mean, found.std = model.mean, model.std
    return found


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each pair of maps (N, h, w), (N,) in -1..1. Ties share their mean rank. NaN: one is flat."""
    ranks = (pd.DataFrame(m.reshape(len(m), -1)).rank(axis=1).to_numpy() for m in (a, b))
    x, y = (r - r.mean(1, keepdims=True) for r in ranks)
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), spread, out=np.full(len(x), np.nan), where=spread > 0)


def compare(control: str, it: Measured, right: Measured) -> list[dict[str, Any]]:
    """Each map's test IoU, how far that is from the right class's in the trained network, and how alike the maps are.

    Returns:
        rows of control, method, layer; iou, low, high, and the centred Gaussian's on the same images (percent, 95 %
        intervals over images); change (points, paired); spearman (mean over the images where neither map is flat);
        n, spearman_n (images). The right class comes with the two trivial baselines.
    """
    gaussian = _iou(it, "centred_gaussian", "").mean()
    table = []
    for (method, layer), m in it.maps.maps.items():
        iou, before = (_iou(one, method, layer) for one in (it, right))
        alike = spearman(m, right.maps.maps[method, layer])
        found = {
            "change": bootstrap(iou - before),
            "spearman": bootstrap(alike) if np.isfinite(alike).any() else None,
        }
        table.append(_line(control, method, layer, iou, gaussian, **found))
    names = BASELINES if control == RIGHT else ()
    return table + [_line(control, name, "", _iou(it, name, ""), gaussian) for name in names]


def compare_confidence(right: Measured, p_c: np.ndarray) -> list[dict[str, Any]]:
    """The quarter of the test images with the lowest p_c and the rest: rows as ``compare``, change = low - rest."""
    low = quarter(p_c)
    gaussian = _iou(right, "centred_gaussian", "")
    table = []
    for method, layer in [*right.maps.maps, *((name, "") for name in BASELINES)]:
        iou = _iou(right, method, layer)
        change = two_samples(iou[low], iou[~low])
        table.append(_line(LOW, method, layer, iou[low], gaussian[low].mean(), change=change))
        table.append(_line(REST, method, layer, iou[~low], gaussian[~low].mean()))
    return table


def quarter(p_c: np.ndarray) -> np.ndarray:
    """The images of the quarter with the lowest p_c, at least one: (N,) bool."""
    if len(p_c) < 2:
        raise UserError(f"low confidence: {len(p_c)} image given, at least two needed")
    order = np.argsort(p_c, kind="stable")[: max(1, len(p_c) // 4)]
    return np.isin(np.arange(len(p_c)), order)


def _iou(it: Measured, method: str, layer: str) -> np.ndarray:
    return per_image(it.val, it.test, {"method": method, "layer": layer})


def _line(
    control: str, method: str, layer: str, iou: np.ndarray, gaussian: float, **found: Interval | None
) -> dict[str, Any]:
    mean = bootstrap(iou)
    cells: dict[str, Any] = {"control": control, "method": method, "layer": layer, "iou": mean.mean}
    cells |= {"low": mean.low, "high": mean.high, "gaussian": gaussian}
    for name in ("change", "spearman"):
        one = found.get(name)
        ends = (one.mean, one.low, one.high) if one else (np.nan,) * 3
        cells |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    alike = found.get("spearman")
    return {**cells, "n": len(iou), "spearman_n": alike.n if alike else 0}
