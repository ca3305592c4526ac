"""Controls: what becomes of a map where it should change. One that stays as it was tells nothing of class or network.

wrong class      the strongest class beside the true one, the same network
untrained        the same architecture, random weights
fresh head       the loaded trunk, what follows it random; only where training starts from loaded weights
shuffled labels  the same training on labels shuffled over the images; only where that network is at hand
low confidence   the quarter of the test images with the lowest p_c, against the rest
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from dgl_lib import claims, paths, study
from dgl_lib.evaluate.treatments import sweep_table
from dgl_lib.data.records import Dataset
from dgl_lib.errors import UserError
from dgl_lib.evaluate.scores import BASELINES, Maps, Scores, raw_maps, score
from dgl_lib.files import write_text
from dgl_lib.metrics import Interval, bootstrap
from dgl_lib.models import NETWORKS, Classifier, load_checkpoint
from dgl_lib.plots import controls as plots
from dgl_lib.plots import style
from dgl_lib.plots.layers import per_image

RIGHT, WRONG, LOW, REST = "right class", "wrong class", "low confidence", "the rest"
#: Two sets of maps are called all but the same if the interval of their mean rank correlation lies above this.
SAME = 0.95


class Measured(NamedTuple):
    """The test part's raw maps, their scores, and the validation part's, from which the thresholds come."""

    val: Scores
    test: Scores
    maps: Maps


def run(profile: str, settings: Sequence[str] = (), *, progress: bool = True) -> Path:
    """Make the page ``results/PROFILE/controls`` and return its folder. UserError: as ``study.run``."""
    return study.make_page("controls", profile, settings, partial(make, progress=progress), progress=progress)


def make(parameters: dict[str, Any], folder: Path, *, progress: bool = False) -> None:
    """Write controls.csv, networks.csv, two figures and README.md to ``folder``."""
    val, test = study.part(parameters, "val"), study.part(parameters, "test")
    every_val, every_test = (study.every_map(parameters, split, progress=progress) for split in ("val", "test"))
    scored = partial(score, folder=paths.runs_folder(), progress=progress)
    all_val = scored(val, {1.0: every_val})
    fixed = on_layer(all_val.rows, parameters["layer"])
    pairs = list(dict.fromkeys([*fixed, *chosen_layers(all_val)]))
    maps = every_test.only(pairs)
    right = Measured(all_val, scored(test, {1.0: maps}), maps)

    model = study.classifier(parameters)
    localized = partial(_maps, parameters, pairs=pairs, progress=progress)
    wrong = localized(model, test, classes=strongest_other(maps.logits, test.labels).tolist())
    measured = {RIGHT: right, WRONG: Measured(all_val, scored(test, {1.0: wrong}), wrong)}
    for name, network in networks(parameters, model, progress=progress).items():
        own = localized(network, val), localized(network, test)
        measured[name] = Measured(scored(val, {1.0: own[0]}), scored(test, {1.0: own[1]}), own[1])

    p_c = torch.from_numpy(maps.logits).softmax(1).numpy()[np.arange(len(test)), test.labels]
    p_c = p_c[np.isin(test.names, right.test.names)]
    rows = [row for name, it in measured.items() for row in compare(name, it, right)]
    table = pd.DataFrame(rows + compare_confidence(right, p_c))
    table.to_csv(folder / "controls.csv", index=False, lineterminator="\n")
    right_share = {name: (it.maps.logits.argmax(1) == test.labels).mean() for name, it in measured.items()}
    accuracy = {name: 100 * float(share) for name, share in right_share.items() if name != WRONG}
    of_networks = pd.DataFrame({"network": list(accuracy), "test_accuracy": list(accuracy.values())})
    of_networks.to_csv(folder / "networks.csv", index=False, lineterminator="\n")

    style.use_style()
    on_fixed = table[[pair in {*fixed, *((name, "") for name in BASELINES)} for pair in _pairs(table)]]
    style.save(plots.compare(on_fixed, parameters["layer"]), folder, "controls")
    first = [int(np.flatnonzero(test.labels == c)[0]) for c in range(len(test.classes))][:3]
    raw = {name: it.maps for name, it in measured.items()}
    figure = plots.examples(test, first, raw, fixed, pixels=parameters["data"] == "creatures")
    style.save(figure, folder, "maps")
    write_text(
        folder / "README.md", page(table, fixed, accuracy, parameters, float(quarter(p_c)[1]), len(test.classes))
    )


# ------------------------------------------------------------------------------------------- rows, classes, networks


def on_layer(rows: pd.DataFrame, layer: str) -> list[tuple[str, str]]:
    """Of a table's (method, layer) pairs, each method's on ``layer``, or on its only one where it lacks that (CAM)."""
    mapped = rows[rows["layer"] != ""]
    by_method = mapped.groupby("method", sort=False)["layer"].unique()
    return [(str(method), layer if layer in found else found[0]) for method, found in by_method.items()]


def chosen_layers(val: Scores) -> list[tuple[str, str]]:
    """Each method's (method, layer) with the highest IoU on validation."""
    table = sweep_table(val)
    table = table[table["layer"] != ""]
    return _pairs(table.loc[table.groupby("method", sort=False)["val_iou"].idxmax()])


def _pairs(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(table["method"], table["layer"], strict=True))


def strongest_other(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class with the highest of the logits (N, C) beside the true one's, (N,): the runner-up, or the mistake."""
    others = logits.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return others.argmax(1)


def networks(parameters: dict[str, Any], model: Classifier, *, progress: bool = False) -> dict[str, Classifier]:
    """The control networks by name: untrained, its head fresh (with ``weights``), trained on shuffled labels.

    The last is trained here for the creatures, which takes minutes; elsewhere ``seeds`` trains it, else it is left out.
    """
    found: dict[str, Classifier] = {}
    starts = {"untrained": None, "fresh head": paths.weights_source(parameters.get("weights", ""))}
    for name, weights in starts.items():
        if name == "untrained" or weights is not None:
            with torch.random.fork_rng():
                torch.manual_seed(parameters.get("seed", 0) + 1)  # another start than the trained network's own
                found[name] = NETWORKS[model.architecture](model.num_classes, width=model.width, weights=weights)
    # Only the weights differ: the pictures are normalised as for the trained network.
    found["untrained"].mean, found["untrained"].std = model.mean, model.std
    shuffled = parameters | {"labels": "shuffled"}
    if parameters["data"] == "creatures" or study.is_trained(shuffled):
        found["shuffled labels"] = load_checkpoint(study.train_classifier(shuffled, progress=progress))
    return found


def _maps(
    p: dict[str, Any],
    model: Classifier,
    data: Dataset,
    *,
    pairs: Sequence[tuple[str, str]],
    classes: Sequence[int] | None = None,
    progress: bool = False,
) -> Maps:
    """Raw maps of these (method, layer) pairs, kept on disk as the study's are."""
    found = raw_maps(
        model,
        data,
        layers=sorted({layer for _, layer in pairs}),
        methods=sorted({method for method, _ in pairs}),
        size=p["image_size"],
        classes=classes,
        alpha=p["alpha"],
        rule=p["rule"],
        device=p["device"],
        folder=paths.runs_folder(),
        progress=progress,
    )
    return found.only(pairs)


# ------------------------------------------------------------------------------------------------------- comparing


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each pair of maps (N, h, w), (N,) in -1..1; ties share their mean rank. NaN: one is flat."""
    ranks = (pd.DataFrame(m.reshape(len(m), -1)).rank(axis=1).to_numpy() for m in (a, b))
    x, y = (r - r.mean(1, keepdims=True) for r in ranks)
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), spread, out=np.full(len(x), np.nan), where=spread > 0)


def two_samples(a: np.ndarray, b: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of a minus mean of b, two sets of images, with its 95 % bootstrap interval: each set redrawn by itself."""
    if not len(a) or not len(b):
        raise UserError(f"two samples of {len(a)} and {len(b)} values given, at least one in each needed")
    random = np.random.default_rng(seed)
    means = [[x[random.integers(len(x), size=len(x))].mean() for x in (a, b)] for _ in range(resamples)]
    low, high = np.quantile(np.subtract(*np.transpose(means)), [0.025, 0.975])
    return Interval(float(a.mean() - b.mean()), float(low), float(high), len(a) + len(b))


def _cells(name: str, interval: Interval | None, low: str, high: str) -> dict[str, float]:
    values = (interval.mean, interval.low, interval.high) if interval else (np.nan,) * 3
    return dict(zip((name, low, high), values, strict=True))


def _row(control: str, row: dict[str, str], iou: np.ndarray, gaussian: float, **found: Interval | None) -> dict:
    cells = {"control": control, **row, **_cells("iou", bootstrap(iou), "low", "high"), "gaussian": gaussian}
    for name in ("change", "spearman"):
        cells |= _cells(name, found.get(name), f"{name}_low", f"{name}_high")
    alike = found.get("spearman")
    return {**cells, "n": len(iou), "spearman_n": alike.n if alike else 0}


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
        table.append(
            _row(
                control,
                {"method": method, "layer": layer},
                iou,
                gaussian,
                change=bootstrap(iou - before),
                spearman=bootstrap(alike) if np.isfinite(alike).any() else None,
            )
        )
    names = BASELINES if control == RIGHT else ()
    return table + [_row(control, {"method": m, "layer": ""}, _iou(it, m, ""), gaussian) for m in names]


def _iou(it: Measured, method: str, layer: str) -> np.ndarray:
    return per_image(it.val, it.test, {"method": method, "layer": layer}, "iou")


def quarter(p_c: np.ndarray) -> tuple[np.ndarray, float]:
    """The images (bool, (N,)) of the quarter with the lowest p_c, at least one, and the highest p_c among them."""
    if len(p_c) < 2:
        raise UserError(f"low confidence: {len(p_c)} image given, at least two needed")
    order = np.argsort(p_c, kind="stable")[: max(1, len(p_c) // 4)]
    return np.isin(np.arange(len(p_c)), order), float(p_c[order[-1]])


def compare_confidence(right: Measured, p_c: np.ndarray) -> list[dict[str, Any]]:
    """The quarter of the test images with the lowest p_c and the rest: rows as ``compare``, change = low - rest."""
    low, _ = quarter(p_c)
    gaussian = _iou(right, "centred_gaussian", "")
    table = []
    for method, layer in [*right.maps.maps, *((name, "") for name in BASELINES)]:
        iou, row = _iou(right, method, layer), {"method": method, "layer": layer}
        table.append(_row(LOW, row, iou[low], gaussian[low].mean(), change=two_samples(iou[low], iou[~low])))
        table.append(_row(REST, row, iou[~low], gaussian[~low].mean()))
    return table


# --------------------------------------------------------------------------------------------------------- the page


def all_but_the_same(table: pd.DataFrame) -> list[str]:
    """Of a control's rows, the methods whose maps are all but those of the right class (see ``SAME``)."""
    return table.loc[table["spearman_low"] > SAME, "method"].tolist()


def page(
    table: pd.DataFrame,
    fixed: Sequence[tuple[str, str]],
    accuracy: Mapping[str, float],
    parameters: dict[str, Any],
    highest: float,
    classes: int,
) -> str:
    """The page's Markdown; every sentence is made from ``table`` (``compare``), ``fixed`` its rows on the one layer.

    Args:
        accuracy: of each network on the test part, percent.
        highest: the highest p_c among the images of low confidence.
    """
    here = table[[pair in set(fixed) for pair in _pairs(table)]]
    of = {str(name): rows for name, rows in here.groupby("control", sort=False)}
    same = {name: all_but_the_same(of[name]) for name in of if name not in (RIGHT, LOW, REST)}
    trained = [name for name in same if name != WRONG]
    # Where maps are flat, and so have no likeness, nothing is said of a change.
    changed = {name: int((of[name]["spearman_low"] <= SAME).sum()) for name in (WRONG, "untrained")}
    lines = [
        f"# Controls: of {len(fixed)} maps {changed[WRONG]} change with the class, "
        f"{changed['untrained']} with the weights",
        f"Data: {parameters['data']}, {of[RIGHT]['n'].iloc[0]} test images, {classes} classes. All methods on "
        f"{parameters['layer']}, CAM where it exists; `controls.csv` holds each method's validation-chosen layer too. "
        "Thresholds are chosen on the validation part, by each network's own maps; for the wrong class they stay those "
        "of the right one. IoU in percent with 95 % bootstrap intervals over images; likeness is the rank correlation "
        "(Spearman) of a map with the one that the trained network gives for the right class, mean over images, left "
        "out where a map is flat. An IoU is called lower or higher where the 95 % interval of its change lies on one "
        "side of 0 (paired by image; for low confidence, of two samples).",
        "![IoU and likeness under every control](controls.png)",
        _table(of, table[table["control"] == RIGHT], fixed, [RIGHT, WRONG, *trained]),
        "## What reacts to what",
        f"- **Wrong class** (the strongest beside the true one). {_found(of[WRONG])}",
    ]
    what = {
        "untrained": "random weights",
        "fresh head": "the loaded trunk, what follows it random",
        "shuffled labels": "trained on labels shuffled over the images",
    }
    lines += [
        f"- **{name.capitalize()}** ({what[name]}; {accuracy[name]:.1f} % of the test images right, the trained "
        f"network {accuracy[RIGHT]:.1f} %, chance {100 / classes:.1f} %). {_found(of[name])}"
        for name in trained
    ]
    lines += [
        f"- **Low confidence** (the quarter of the images with the lowest p_c, at most {highest:.4g}, against the "
        f"rest). {_changes(of[LOW])}",
        f"- Whatever the class, all but the same map: {_said(same[WRONG])}. Whatever the weights: "
        f"{_said([m for m in same['untrained'] if all(m in same[name] for name in trained)])}. "
        "A map that does not react to the class shows what stands out, not where the class is; one that does not react "
        "to the weights shows nothing that the network has learned. No score alone can tell either from the others.",
        "## The first images",
        "The first test image of the first classes, by the data's own order; each map in its own range.",
        "![Maps under every control](maps.png)",
    ]
    if "shuffled labels" not in trained:
        lines += ["Not run here: the network trained on shuffled labels; `python -m dgl_lib seeds` trains it."]
    return "\n\n".join(lines) + "\n"


def _table(
    of: Mapping[str, pd.DataFrame], right: pd.DataFrame, fixed: Sequence[tuple[str, str]], names: Sequence[str]
) -> str:
    header = ["method", "on", *(f"{name}: IoU" if name == RIGHT else f"{name}: IoU; likeness" for name in names)]
    rows = []
    for method, layer in fixed:
        cells = [style.NAMES.get(method, method), layer]
        for name in names:
            one = of[name].set_index("method").loc[method]
            text = "{iou:.1f} [{low:.1f}, {high:.1f}]".format_map(one)
            alike = "" if np.isnan(one["spearman"]) else f"; {one['spearman']:z.2f}"
            cells.append(text if name == RIGHT else text + alike)
        rows.append(cells)
    for baseline in BASELINES:  # they look at no network: the same under every control
        one = right.set_index("method").loc[baseline]
        text = "{iou:.1f} [{low:.1f}, {high:.1f}]".format_map(one)
        rows.append([style.NAMES[baseline], "", *[text] * len(names)])
    return claims.markdown(header, rows)


def _found(rows: pd.DataFrame) -> str:
    """In words: which maps stay, whose IoU falls, who still beats the Gaussian."""
    above = rows.loc[rows["low"] > rows["gaussian"], "method"]
    return (
        f"All but the same map (interval of the likeness above {SAME}): {_said(all_but_the_same(rows))}. "
        f"{_changes(rows)} Still above the centred Gaussian's {rows['gaussian'].iloc[0]:.1f} %, the whole interval: "
        f"{_said(above)}."
    )


def _changes(rows: pd.DataFrame) -> str:
    falls, rises = rows["change_high"] < 0, rows["change_low"] > 0
    parts = (("lower", falls), ("higher", rises), ("not clearly either", ~falls & ~rises))
    return " ".join(f"IoU {how}: {_said(rows.loc[which, 'method'])}." for how, which in parts)


def _said(methods: Iterable[str]) -> str:
    return ", ".join(style.NAMES.get(method, method) for method in methods) or "none"
