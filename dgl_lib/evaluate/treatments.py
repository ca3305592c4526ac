"""The slides' table, multi-scale input (MS) by morphological closing (MC): chosen on validation, reported once on test.

candidates     raw maps of the methods compared, with the two other readings of "both branches fused"
search         the best scales without closing, then the best kernel, in the same way for every method
score_chosen   the four chosen settings of every method, on the test part
report_table   thresholds from validation, scores on test
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dgl_lib import metrics
from dgl_lib.data.records import Dataset
from dgl_lib.errors import UserError
from dgl_lib.evaluate.raw import Maps
from dgl_lib.evaluate.scores import (
    BASELINES,
    SINGLE,
    Scores,
    Setting,
    choose,
    fusions,
    gain,
    name_scales,
    report,
    score,
)

#: mIoU on the LID validation set, SPG-plain, Mixed_6e, input 324, both branches fused. Source: the authors' talk.
SLIDES = {"none": 58.23, "MS": 61.46, "MS+MC": 62.22}
#: What a map is treated with before it is thresholded.
TREATMENTS = ("none", "MC", "MS", "MS+MC")
#: ``chosen[method][treatment]``.
Chosen = dict[str, dict[str, Setting]]


def scale_sets(scales: Sequence[float]) -> list[tuple[float, ...]]:
    """All sets of at least two of ``scales`` that hold 1.0, the small sets first, each in rising order.

    Raises:
        UserError: no scale beside 1.0.
    """
    others = sorted({float(s) for s in scales} - {1.0})
    if not others:
        raise UserError(f"scales: {list(scales)} given, at least one beside 1.0 needed")
    chosen = (c for size in range(1, len(others) + 1) for c in itertools.combinations(others, size))
    return [tuple(sorted((1.0, *c))) for c in chosen]


def closing_kernels(kernels: Sequence[float]) -> list[float]:
    """The kernels that close anything, in rising order. UserError: none above 0."""
    found = sorted({float(k) for k in kernels} - {0.0})
    if not found:
        raise UserError(f"kernels: {list(kernels)} given, at least one above 0 needed")
    return found


def candidates(by_scale: dict[float, Maps], layer: str) -> dict[float, Maps]:
    """The maps that are compared: every method on ``layer``, CAM where it exists, and the fusions (b) and (c).

    ``fused_mean`` and ``fused_max`` are made scale by scale from ``enhanced_map`` and ``pixel_selection``. So they are
    raw maps like any other, and what follows treats them alike. Reading (a), the product formula, is ``dgl``.

    Raises:
        UserError: CAM or DGL is missing; the table compares the two.
    """
    result = {}
    for scale, maps in by_scale.items():
        kept = {(method, where): m for (method, where), m in maps.maps.items() if where == layer or method == "cam"}
        for needed in ("cam", "dgl"):
            if needed not in {method for method, _ in kept}:
                raise UserError(f"ablation_methods: {needed!r} is missing, cam and dgl needed")
        branches = kept["enhanced_map", layer], kept["pixel_selection", layer]
        kept |= {(name, layer): m for name, m in fusions(*branches).items()}
        result[scale] = Maps(kept, maps.logits, maps.classes)
    return result


def search(
    dataset: Dataset,
    maps: dict[float, Maps],
    scales: Sequence[float],
    kernels: Sequence[float],
    *,
    progress: bool = False,
) -> tuple[Scores, Chosen]:
    """Choose scales and kernel of every method on the validation part, by mean IoU at its best threshold.

    First the scales, without closing; then the kernel, once for the single scale and once for the scales found. A full
    grid would close every map of every set of scales, and closing with a large ellipse is the slowest step of all.
    Where two settings tie, the smaller set or kernel is kept.

    Returns:
        the scores of all settings tried, trivial baselines included, and the four settings chosen for each method.
    """
    sets, sizes = scale_sets(scales), closing_kernels(kernels)
    found = score(dataset, maps, [(SINGLE, 0.0), *((s, 0.0) for s in sets)], progress=progress)
    chosen: Chosen = {}
    for method in dict.fromkeys(method for method, _ in next(iter(maps.values())).maps):
        several = best(found, method, [(s, 0.0) for s in sets])[0]
        closed = {s: [(s, k) for k in sizes] for s in (SINGLE, several)}
        tried = score(dataset, maps, closed[SINGLE] + closed[several], methods=[method], progress=progress)
        found = found.join(tried.where(tried.rows["method"] == method))
        chosen[method] = {
            "none": (SINGLE, 0.0),
            "MC": best(found, method, closed[SINGLE]),
            "MS": (several, 0.0),
            "MS+MC": best(found, method, closed[several]),
        }
    return found, chosen


def best(scores: Scores, method: str, settings: Sequence[Setting]) -> Setting:
    """The setting with the highest mean IoU over the images at its own best threshold; the first of those that tie."""
    return max(settings, key=lambda setting: metrics.iou(scores.find(**row(method, setting))).mean(0).max())


def row(method: str, setting: Setting) -> dict[str, object]:
    """What finds a method's row under a setting in a table of scores."""
    return {"method": method, "scales": name_scales(setting[0]), "kernel": setting[1]}


def sweep_table(val: Scores) -> pd.DataFrame:
    """Every setting tried, with the validation IoU (percent, mean over images) at its best threshold."""
    curves = metrics.iou(val.hist).mean(1)  # rows x 256
    return val.rows.assign(threshold=curves.argmax(1), val_iou=100 * curves.max(1))


def score_chosen(
    dataset: Dataset,
    maps: dict[float, Maps],
    chosen: Mapping[str, Mapping[str, Setting]],
    *,
    size: int | None = None,
    progress: bool = False,
) -> Scores:
    """Every method under its four settings, and the trivial baselines; ``size`` as for ``score``."""
    scored = [score(dataset, maps, list(by.values()), methods=[method], size=size, progress=progress)
              for method, by in chosen.items()]  # fmt: skip
    result = scored[0]
    for method, one in zip(list(chosen)[1:], scored[1:], strict=True):
        result = result.join(one.where(one.rows["method"] == method))
    return result


def report_table(val: Scores, test: Scores, chosen: Chosen) -> pd.DataFrame:
    """``report`` of the chosen settings and the baselines, with the column ``treatment`` ("" for the baselines)."""
    names = {tuple(row(m, s).values()): t for m, by in chosen.items() for t, s in by.items()}
    names |= {(baseline, "", 0.0): "" for baseline in BASELINES}
    which = ["method", "scales", "kernel"]
    keys, in_test = (list(part.rows[which].itertuples(index=False, name=None)) for part in (val, test))
    table = report(val.where([key in names and key in in_test for key in keys]), test)
    treatment = [names[key] for key in table[which].itertuples(index=False, name=None)]
    table.insert(2, "treatment", treatment)
    order = {t: i for i, t in enumerate(["", *TREATMENTS])}
    place = {m: i for i, m in enumerate([*BASELINES, *chosen])}
    by = [table["method"].map(place), table["treatment"].map(order)]
    return table.iloc[np.lexsort(by[::-1])].reset_index(drop=True)


def gains(val: Scores, test: Scores, chosen: Chosen, pairs: Sequence[tuple[str, str, str, str]]) -> pd.DataFrame:
    """Paired gains in mean test IoU, in points, with their 95 % interval over images; see ``scores.gain``.

    Args:
        pairs: (method, treatment, over method, over treatment).
    """
    table = []
    for method, treatment, over, over_treatment in pairs:
        one, other = row(method, chosen[method][treatment]), row(over, chosen[over][over_treatment])
        found = gain(val, test, one, other)
        names = {"method": method, "treatment": treatment, "over": over, "over_treatment": over_treatment}
        table.append({**names, "gain": found.mean, "low": found.low, "high": found.high, "n": found.n})
    return pd.DataFrame(table)


def steps(val: Scores, test: Scores, chosen: Chosen) -> pd.DataFrame:
    """What each step adds for each method: MS over none, MC over none, and MC over MS (columns as ``gains``)."""
    wanted = [("MS", "none"), ("MC", "none"), ("MS+MC", "MS")]
    return gains(val, test, chosen, [(m, after, m, before) for m in chosen for after, before in wanted])


def slides_table(table: pd.DataFrame, method: str = "dgl") -> pd.DataFrame:
    """The slides' three figures beside ours, from ``report_table``.

    The data set is ANOTHER one, so only the signs of the steps can be compared.
    """
    ours = table[table["method"] == method].set_index("treatment").loc[list(SLIDES)]
    slides = pd.Series(SLIDES)
    return pd.DataFrame(
        {
            "LID, slides: mIoU": slides,
            "LID, slides: step": slides.diff(),
            "ours: IoU": ours["iou"],
            "ours: step": ours["iou"].diff(),
            "ours: IoU at test peak": ours["test_peak"],
            "ours: mIoU, object and background": ours["miou"],
        }
    ).rename_axis("treatment")


def curve(scores: Scores, method: str, setting: Setting, *, ignore_is_object: bool = False) -> np.ndarray:
    """LID's curve, (256,): IoU in percent, mean over images, at the thresholds 0..255."""
    hist = scores.find(**row(method, setting))
    return 100 * metrics.iou(hist, ignore_is_object=ignore_is_object).mean(0)


def border_table(test: Scores, methods: Sequence[str]) -> pd.DataFrame:
    """Peak IoU on test (percent) at one scale, with the border left out and with it counted as object.

    Empty where no pixel of the data is in a border.
    """
    if not test.hist[:, :, metrics.IGNORE].any():
        return pd.DataFrame()
    table = []
    for method in methods:
        left_out, as_object = (curve(test, method, (SINGLE, 0.0), ignore_is_object=b).max() for b in (False, True))
        table.append({"method": method, "border left out": left_out, "border as object": as_object})
    return pd.DataFrame(table)


def peak_table(val: Scores, test: Scores, methods: Sequence[str]) -> pd.DataFrame:
    """Three ways to take a threshold (one scale, no closing), as test IoU in percent, from honest to hopeless.

    ``validation``: one threshold for the set, chosen on validation. ``test peak``: one for the set, chosen on test, as
    LID takes it. ``per image``: each image its own best, which needs the answer.
    """
    table = []
    for method in methods:
        wanted = row(method, (SINGLE, 0.0))
        values = 100 * metrics.iou(test.find(**wanted))
        one = values[:, choose(val.find(**wanted))].mean()
        means = {"validation": one, "test peak": values.mean(0).max(), "per image": values.max(1).mean()}
        table.append({"method": method, **means})
    return pd.DataFrame(table)
