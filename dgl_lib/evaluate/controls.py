"""Controls: what becomes of a map where it should change. One that stays as it was says nothing of class or network.

wrong class      the strongest class beside the true one, the same network
untrained        the same architecture, random weights
fresh head       the loaded trunk, what follows it random; only where training starts from loaded weights
shuffled labels  the same training on labels shuffled over the images; only where that network is at hand
low confidence   the quarter of the test images with the lowest p_c, against the rest
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from dgl_lib.errors import UserError
from dgl_lib.evaluate.raw import Maps, Pair
from dgl_lib.evaluate.scores import BASELINES, Scores, per_image
from dgl_lib.metrics import Interval, bootstrap, two_samples
from dgl_lib.models import NETWORKS, Classifier

RIGHT, WRONG, LOW, REST = "right class", "wrong class", "low confidence", "the rest"
NONE = Interval(np.nan, np.nan, np.nan, 0)  # where there is nothing to compare


class Measured(NamedTuple):
    """The test part's raw maps, their scores, and the validation part's, from which the thresholds come."""

    val: Scores
    test: Scores
    maps: Maps

    def iou(self, pair: Pair) -> np.ndarray:
        """A method's test IoU on a layer, in percent, (images,)."""
        return per_image(self.val, self.test, {"method": pair[0], "layer": pair[1]})


def strongest_other(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class with the highest of the logits (N, C) beside the true one's, (N,): the runner-up, or the mistake."""
    others = logits.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return others.argmax(1)


def untrained(model: Classifier, weights: str | Path | None, seed: int) -> Classifier:
    """``model``'s architecture before training: random where ``weights`` is None, else with a fresh head on a trunk.
    A random network gets the trained one's normalisation, so that only the weights differ. ``seed``: another."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        how: dict[str, Any] = {"width": model.width, "weights": weights, "padding": model.padding}
        found = NETWORKS[model.architecture](model.num_classes, **how)
    if weights is None:
        found.mean, found.std = model.mean, model.std
    return found


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each pair of maps (N, h, w), (N,) in -1..1. Ties share their mean rank. NaN: one is flat."""
    return pearson(*(pd.DataFrame(m.reshape(len(m), -1)).rank(axis=1).to_numpy() for m in (a, b)))


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of each pair of maps (N, h, w) over their cells, (N,) in -1..1. NaN: one is flat."""
    x, y = (m.reshape(len(m), -1).astype(np.float64) for m in (a, b))
    x, y = (m - m.mean(1, keepdims=True) for m in (x, y))
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), spread, out=np.full(len(x), np.nan), where=spread > 0)


def compare(control: str, it: Measured, right: Measured) -> list[dict[str, Any]]:
    """Each map's test IoU, how far that is from the right class's in the trained network, and how alike the maps are.
    Rows of control, method, layer; iou, low, high, and the centred Gaussian's on the same images (percent); change
    (points, paired); spearman (mean where neither map is flat); n, spearman_n (images). RIGHT adds the baselines."""
    gaussian, table = it.iou(("centred_gaussian", "")).mean(), []
    for pair, m in it.maps.maps.items():
        alike = spearman(m, right.maps.maps[pair])
        likeness = bootstrap(alike) if np.isfinite(alike).any() else NONE
        table.append(_line(control, pair, it.iou(pair), gaussian, bootstrap(it.iou(pair) - right.iou(pair)), likeness))
    trivial = [(name, "") for name in BASELINES if control == RIGHT]
    return table + [_line(control, pair, it.iou(pair), gaussian) for pair in trivial]


def compare_confidence(right: Measured, p_c: np.ndarray) -> list[dict[str, Any]]:
    """The quarter of the test images with the lowest p_c and the rest: rows as ``compare``, change = low - rest."""
    low, gaussian, table = quarter(p_c), right.iou(("centred_gaussian", "")), []
    for pair in [*right.maps.maps, *((name, "") for name in BASELINES)]:
        iou = right.iou(pair)
        table.append(_line(LOW, pair, iou[low], gaussian[low].mean(), two_samples(iou[low], iou[~low])))
        table.append(_line(REST, pair, iou[~low], gaussian[~low].mean()))
    return table


def quarter(p_c: np.ndarray) -> np.ndarray:
    """The images of the quarter with the lowest p_c, at least one: (N,) bool."""
    if len(p_c) < 2:
        raise UserError(f"low confidence: {len(p_c)} image given, at least two needed")
    return np.argsort(p_c, kind="stable").argsort() < max(1, len(p_c) // 4)  # each image's place, from the lowest


def _line(
    control: str, pair: Pair, iou: np.ndarray, gaussian: float, change: Interval = NONE, alike: Interval = NONE
) -> dict[str, Any]:
    names, mean = {"control": control, "method": pair[0], "layer": pair[1]}, bootstrap(iou)
    cells = {"iou": mean.mean, "low": mean.low, "high": mean.high, "gaussian": gaussian, **change.cells("change")}
    return {**names, **cells, **alike.cells("spearman"), "n": len(iou), "spearman_n": alike.n}
