"""Multi-scale input (MS) and morphological closing (MC): chosen on validation, scored once on test."""

from collections.abc import Sequence
from dataclasses import astuple, replace
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch

from dgl_lib import metrics
from dgl_lib.data.records import Dataset
from dgl_lib.errors import UserError
from dgl_lib.evaluate.raw import Maps
from dgl_lib.evaluate.scores import BASELINES, SINGLE, Scores, Setting, mean_iou, name_scales, per_image, report, score
from dgl_lib.localize import READINGS
from dgl_lib.maps import fuse

TREATMENTS = ("none", "MC", "MS", "MS+MC")  # what a map is treated with before it is thresholded
Chosen = dict[str, dict[str, Setting]]  # by method and treatment


def scale_sets(scales: Sequence[float]) -> list[tuple[float, ...]]:
    """All sets of 1.0 and some more of ``scales``, small sets first, each in rising order; without more, 1.0 alone."""
    others = sorted({float(s) for s in scales} - {1.0})
    several = (c for count in range(1, len(others) + 1) for c in combinations(others, count))
    return [tuple(sorted((1.0, *c))) for c in several] or [SINGLE]


def closing_kernels(kernels: Sequence[float]) -> list[float]:
    """The kernels above 0, in rising order; 0, which closes nothing, where there is none."""
    return sorted({float(k) for k in kernels} - {0.0}) or [0.0]


def candidates(by_scale: dict[float, Maps], layer: str) -> dict[float, Maps]:
    """The maps that are compared: every method on ``layer``, CAM on its own layer, and fusions of the branches.
    Reading (a) of "both branches fused" is ``dgl``. (b) and (c), ``fused_mean`` and ``fused_max``, are made scale by
    scale from the two branches, of each reading of branch 1 (``fused_mean_positive``, ..). UserError: no CAM or DGL."""
    result = {}
    for scale, maps in by_scale.items():
        kept = {pair: m for pair, m in maps.maps.items() if pair[1] == layer or pair[0] == "cam"}
        if missing := sorted({"cam", "dgl"} - {method for method, _ in kept}):
            raise UserError(f"ablation_methods: {missing[0]!r} is missing, cam and dgl needed")
        for reading in READINGS:
            branches = [torch.from_numpy(kept[m, layer]) for m in (f"enhanced_map{reading}", "pixel_selection")]
            kept |= {(f"fused_{how}{reading}", layer): fuse(branches, how).numpy() for how in ("mean", "max")}
        result[scale] = replace(maps, maps=kept)
    return result


def search(
    dataset: Dataset, maps: dict[float, Maps], scales: Sequence[float], kernels: Sequence[float], **options: Any
) -> tuple[Scores, Chosen]:
    """Choose every method's scales and kernel on the validation part, by mean IoU at the best threshold.
    First the scales, without closing. Then the kernel, for the single scale and for the scales found. Closing is the
    slowest step by far, so the full grid is not tried. Where settings tie, the smaller set or kernel is kept. Returned
    are the scores of all settings tried, trivial baselines included, and the four settings chosen for each method.
    ``options`` are ``folder`` and ``progress`` of ``score``."""
    sets, sizes = scale_sets(scales), closing_kernels(kernels)
    found = score(dataset, maps, [(SINGLE, 0.0), *((s, 0.0) for s in sets)], **options)
    chosen: Chosen = {}
    for method in dict.fromkeys(method for method, _ in next(iter(maps.values())).maps):
        several = best(found, method, [(s, 0.0) for s in sets])[0]
        closing, both = ([(s, k) for k in sizes] for s in (SINGLE, several))
        found = found.join(score(dataset, maps, closing + both, methods=[method], **options))
        of = (SINGLE, 0.0), best(found, method, closing), (several, 0.0), best(found, method, both)
        chosen[method] = dict(zip(TREATMENTS, of, strict=True))
    return found, chosen


def best(scores: Scores, method: str, settings: Sequence[Setting]) -> Setting:
    """The setting with the highest mean IoU over the images at its own best threshold; the first of those that tie."""
    return max(settings, key=lambda setting: mean_iou(scores.find(**row(method, setting))).max())


def row(method: str, setting: Setting) -> dict[str, object]:
    """What finds a method's row under a setting in a table of scores."""
    return {"method": method, "scales": name_scales(setting[0]), "kernel": setting[1]}


def sweep_table(val: Scores) -> pd.DataFrame:
    """Every setting tried, with the validation IoU (percent, mean over images) at its best threshold."""
    curves = np.stack([mean_iou(hist) for hist in val.hist])  # rows x 256
    return val.rows.assign(threshold=curves.argmax(1), val_iou=100 * curves.max(1))


def score_chosen(dataset: Dataset, maps: dict[float, Maps], chosen: Chosen, **options: Any) -> Scores:
    """Every method under its four settings, and the trivial baselines; ``options`` as for ``score``."""
    found = (score(dataset, maps, list(by.values()), methods=[m], **options) for m, by in chosen.items())
    return reduce(Scores.join, found)


def report_table(val: Scores, test: Scores, chosen: Chosen) -> pd.DataFrame:
    """``report`` of the baselines and the chosen settings, with the column ``treatment`` ("" for the baselines)."""
    lines = [{"method": name, "treatment": "", "scales": "", "kernel": 0.0} for name in BASELINES]
    lines += [{"treatment": t, **row(m, setting)} for m, by in chosen.items() for t, setting in by.items()]
    table = pd.DataFrame(lines).merge(report(val, test), on=["method", "scales", "kernel"])
    table.insert(1, "layer", table.pop("layer"))
    return table


def gains(val: Scores, test: Scores, chosen: Chosen, pairs: Sequence[tuple[str, str, str, str]]) -> pd.DataFrame:
    """Paired gains in mean test IoU, in points, with their 95 % interval over images, for each of ``pairs``.
    Columns, of which the first four are a pair's: method, treatment, over, over_treatment, gain, low, high, n."""
    table = []
    for pair in pairs:
        one, other = (per_image(val, test, row(m, chosen[m][treatment])) for m, treatment in (pair[:2], pair[2:]))
        table.append((*pair, *astuple(metrics.bootstrap(one - other))))
    return pd.DataFrame(table, columns=["method", "treatment", "over", "over_treatment", "gain", "low", "high", "n"])


def curve(scores: Scores, method: str, setting: Setting, *, ignore_is_object: bool = False) -> np.ndarray:
    """LID's curve, (256,): IoU in percent, mean over images, at the thresholds 0..255."""
    return 100 * mean_iou(scores.find(**row(method, setting)), ignore_is_object=ignore_is_object)
