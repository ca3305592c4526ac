"""The scores the field uses, side by side and chosen honestly; and by how much the usual mistakes inflate them.

Every method stands at the layer with its best mask IoU on validation. Thresholds, scales, kernels and percentiles are
chosen on validation too; the numbers are the test part's, and what a published protocol would take there stands beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgl_lib import metrics, paths, study
from dgl_lib.ablation import closing_kernels, scale_sets
from dgl_lib.boxscores import SCORES, box_scores, box_table, interval, pooled, with_object
from dgl_lib.claims import markdown
from dgl_lib.comparison import MARGIN, Line, Row, choose_layers, name_of, points, row_of
from dgl_lib.evaluation import BASELINES, Scores, at, report, score
from dgl_lib.files import write_text
from dgl_lib.maps import PAS
from dgl_lib.metrics import bootstrap
from dgl_lib.mistakes import EFFECTS, MISTAKES, mistakes
from dgl_lib.normalisation import normalisations, normalised, sweep
from dgl_lib.plots import scores as plots
from dgl_lib.plots import style
from dgl_lib.selection import highest
from dgl_lib.thresholds import USABLE, bands, threshold_curves


def run(profile: str, settings: Sequence[str] = (), *, progress: bool = True) -> Path:
    """Make the page ``results/PROFILE/scores`` and return its folder. UserError: as ``study.run``."""
    return study.make_page("scores", profile, settings, partial(make, progress=progress), progress=progress)


def make(parameters: Mapping[str, Any], folder: Path, *, progress: bool = False) -> None:
    """Write the tables, the figures, findings.md and README.md to ``folder``."""
    t = measure(parameters, progress=progress)
    for name, table in t.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    classes = len(study.part(parameters, "test").classes)
    write_text(folder / "findings.md", findings(t, classes) + "\n")
    write_text(folder / "README.md", page(t, parameters, classes))
    style.use_style()
    style.save(plots.boxes(t["boxes"]), folder, "boxes")
    style.save(plots.curves(t["curves"], t["bands"], USABLE), folder, "curves")
    style.save(plots.normalisation(t["normalisation"]), folder, "normalisation")
    style.save(plots.mistakes(t["mistakes"], MARGIN), folder, "mistakes")


def measure(parameters: Mapping[str, Any], *, progress: bool = False) -> dict[str, pd.DataFrame]:
    """All tables of the page by name; what takes long is kept on disk, image by image."""
    whole = [study.part(parameters, split) for split in ("val", "test")]
    every = [study.every_map(parameters, split, progress=progress) for split in ("val", "test")]
    kept = partial(score, folder=paths.runs_folder(), progress=progress)
    val, test = (kept(data, {1.0: maps}) for data, maps in zip(whole, every, strict=True))
    table = report(val, test)
    chosen = choose_layers(val, test, table)
    rows = [row_of(row) for row in chosen.to_dict("records")]
    pairs = [(row["method"], row["layer"]) for row in rows if row["layer"]]

    there = [
        with_object(part, {1.0: m.only(pairs)}, scores)
        for part, m, scores in zip(whole, every, (val, test), strict=True)
    ]
    found = [box_scores(part, m, rows, progress=progress) for part, m in there]
    curves = [normalised(part, m[1.0], pairs, progress=progress) for part, m in there]
    at_input = [kept(part, m, size=parameters["image_size"]) for part, m in there]

    by_scale = [study.maps_of_scales(parameters, split, progress=progress) for split in ("val", "test")]
    settings = [((1.0,), 0.0), *((s, 0.0) for s in scale_sets(parameters["scales"]))]
    settings += [((1.0,), k) for k in closing_kernels(parameters["kernels"])]
    two = [("cam", layer) for method, layer in every[0].maps if method == "cam"] + [("dgl", parameters["layer"])]
    treated = [
        kept(part, {s: m.only(two) for s, m in scales.items()}, settings)
        for part, scales in zip(whole, by_scale, strict=True)
    ]

    swept = sweep(curves[0], curves[1], pairs)
    return {
        "boxes": box_table(val, test, found[0], found[1], chosen),
        "iou_sizes": sizes({"photograph's own": (val, test), "input": (at_input[0], at_input[1])}, rows),
        "curves": threshold_curves(val, test, rows),
        "bands": bands(val, test, chosen),
        "normalisation": normalisations(swept, curves[1], chosen),
        "percentiles": swept,
        "mistakes": mistakes(val, test, table, chosen, (treated[0], treated[1])),
    }


def sizes(by_size: Mapping[str, tuple[Scores, Scores]], rows: Sequence[Row]) -> pd.DataFrame:
    """IoU at both sizes, averaged over images and pooled over the set, each at its own threshold from validation.

    Args:
        by_size: validation and test scores by the name of the size.

    Returns:
        columns method, layer, size, average (per image, pooled), threshold, val, test, low, high, test_peak (percent).
    """
    table = []
    for row in rows:
        for size, (val, test) in by_size.items():
            before, after = val.find(**row), test.find(**row)
            for average in ("per image", "pooled"):
                a, b = (
                    metrics.iou(hist).mean(0) if average == "per image" else metrics.iou(hist.sum(0))
                    for hist in (before, after)
                )
                t = int(a.argmax())
                if average == "per image":
                    found = bootstrap(100 * at(metrics.iou(after), t))
                else:
                    found = interval(pooled(metrics.at_least(after)[..., [0, t]], _pooled_iou), len(after))
                cells = {"threshold": t, "val": 100 * a[t], "test": found.mean, "low": found.low, "high": found.high}
                table.append({**row, "size": size, "average": average, **cells, "test_peak": 100 * b.max()})
    return pd.DataFrame(table)


def _pooled_iou(above: np.ndarray) -> float:
    """IoU in percent from the pixels of each region (4, 2) with q >= 0, all of them, and with q >= t."""
    total, found = (above[metrics.REST] + above[metrics.PART]).tolist()
    union = total + above[metrics.BACKGROUND, 1]
    return float(100 * found / union) if union else float("nan")


# ------------------------------------------------------------------------------------------------------ sentences


def findings(t: Mapping[str, pd.DataFrame], classes: int) -> str:
    """What was found, as a Markdown list; every word follows from the tables. ``classes``: how many there are."""
    lines = [*_found_boxes(t["boxes"], classes), _found_sizes(t["iou_sizes"]), _found_bands(t["bands"])]
    lines += [_found_normalisation(t["normalisation"]), *_found_mistakes(t["mistakes"])]
    return "\n".join(f"- {line}" for line in lines)


def _of(line: Line, mean: str = "test") -> str:
    return f"{line[mean]:.1f} % [{line['low']:.1f}, {line['high']:.1f}]"


def _found_boxes(table: pd.DataFrame, classes: int) -> Iterator[str]:
    methods = table[table["kind"] == "method"]
    by = {name: methods[methods["score"] == name].set_index("method") for name in SCORES}
    parts, beaten, agree, names = [], [], [], set()
    for name in ("mask IoU", "MaxBoxAccV2", "PxAP"):
        best = highest(by[name].reset_index(), "val")
        names.add(best["method"])
        parts.append(f"by {name} it is {name_of(best)}, {_of(best)} on test")
        beaten.append(f"{(by[name]['over_verdict'] == 'gains').sum()} by {name}")
    for name in ("MaxBoxAccV2", "MaxBoxAcc", "PxAP"):
        agree.append(f"{_rank_correlation(by['mask IoU']['test'], by[name]['test'])} for {name}")
    head = "One method is best by every score" if len(names) == 1 else "Which method is best depends on the score"
    yield (
        f"**{head}.** Chosen on validation, {'; '.join(parts)}. Of "
        f"{len(by['PxAP'])} methods, so many gain on the better trivial baseline: {', '.join(beaten)}. Spearman's "
        f"rank correlation of the methods' test scores with their mask IoU is {', '.join(agree)}."
    )
    lines = []
    for method in ("dgl", "cam"):
        if method in by["MaxBoxAccV2"].index:
            of = [f"{name} {_of(by[name].loc[method])}" for name in ("MaxBoxAccV2", "GT-known", "Top-1", "Top-5")]
            name = name_of({"method": method, "layer": by["PxAP"].loc[method, "layer"]})
            lines.append(f"{name}: {', '.join(of)}")
    chance = 100 * min(1, 5 / classes)
    yield (
        f"**Box scores.** {'; '.join(lines)}. GT-known localization is MaxBoxAcc under its older name. With {classes} "
        f"classes five blind guesses name the right one {chance:.0f} % of the time, so Top-5 "
        + ("adds little to GT-known." if chance >= 50 else "is a test of the classifier too.")
    )
    peaks = methods[methods["score"] != "PxAP"]
    more = peaks["test_peak"] - peaks["test"]
    yield (
        f"**The published protocol's peak on test** lies {more.min():z.1f} to {more.max():z.1f} points above the value "
        f"at the threshold from validation, {more.mean():z.1f} on average over methods and scores with a threshold."
    )


def _rank_correlation(a: pd.Series, b: pd.Series) -> str:
    """Spearman's; undefined where all are equal."""
    found = float(a.rank().corr(b.rank()))
    return "undefined (all equal)" if np.isnan(found) else f"{found:z.2f}"


def _found_sizes(table: pd.DataFrame) -> str:
    cells = table[table["layer"] != ""].pivot_table("test", ["method", "layer"], ["size", "average"])
    own, at_input = cells["photograph's own"], cells["input"]
    size = at_input["per image"] - own["per image"]
    average = own["pooled"] - own["per image"]
    same = size.abs().max() < 0.05
    best = dict.fromkeys(name_of(highest(cells[key].rename("test").reset_index(), "test")) for key in cells)
    return (
        "**Sizes and averages.** From the photograph's own size to the input's, the IoU of a map "
        + ("does not change by a tenth of a point" if same else f"changes by {_span(size)} points")
        + f"; pooled over the set instead of averaged over images, by {_span(average)} points. Highest on test is "
        + (f"{next(iter(best))} on all four counts." if len(best) == 1 else f"{', '.join(best)}, by the one or other.")
    )


def _span(values: pd.Series) -> str:
    return f"{values.min():+z.1f} to {values.max():+z.1f}"


def _found_bands(table: pd.DataFrame) -> str:
    test = table[(table["split"] == "test") & (table["kind"] == "method")]
    wide, narrow = highest(test, "width"), highest(test.assign(less=-test["width"]), "less")
    text = [f"{name_of(row)}, {row['width']} ({row['first']} to {row['last']})" for row in (wide, narrow)]
    own = [f"{name_of(row)} has {row['width']}" for row in test.to_dict("records") if row["method"] in ("dgl", "cam")]
    return (
        f"**Usable thresholds.** Of 256 grey levels, those at {100 * USABLE:.0f} % of the peak on test or more are "
        f"most for {text[0]}, fewest for {text[1]}; {', '.join(own)}. The threshold from validation is among them for "
        f"{int(test['inside'].sum())} of {len(test)} methods."
    )


def _found_normalisation(table: pd.DataFrame) -> str:
    methods = table[table["kind"] == "method"]
    best = [
        f"{name_of(highest(of, 'val_iou'))} under {how}" for how, of in methods.groupby("normalisation", sort=False)
    ]
    ranks = methods.pivot_table("rank", "method", "normalisation")
    moved = (ranks.max(axis=1) - ranks.min(axis=1)).astype(int)
    most = str(moved.idxmax())
    changed = methods[methods["normalisation"] != "minmax"]
    largest = highest(changed.assign(size=changed["change"].abs()), "size")
    by = points(largest["change"], largest["change_low"], largest["change_high"])
    count = changed["change_verdict"].value_counts()
    cam = methods.loc[methods["method"] == "cam", "iou"]
    places = (
        f"the order of the {len(ranks)} methods on test stays the same"
        if moved.max() == 0
        else f"{(moved > 0).sum()} of {len(ranks)} methods change their place on test, most of all "
        f"{style.NAMES.get(most, most)}, by {moved.max()}"
    )
    return (
        f"**Normalisation.** Best on validation: {', '.join(best)}; {places}. Against min-max, "
        f"{count.get('gains', 0)} of {len(changed)} changes gain and {count.get('loses', 0)} lose; the largest is "
        f"{name_of(largest)} under {largest['normalisation']}, {by}"
        + (f"; CAM moves by {cam.max() - cam.min():.1f} points between its best and worst." if len(cam) else ".")
    )


def _found_mistakes(table: pd.DataFrame) -> Iterator[str]:
    for mistake, of in table.groupby("mistake", sort=False):
        said = []
        for line in of[of["method"].isin(["dgl", "cam"])].to_dict("records"):
            by = points(line["inflation"], line["low"], line["high"])
            change = f"{line['honest']:.1f} becomes {line['mistaken']:.1f}"
            whose = "DGL minus CAM" if line["of"] != "IoU" else name_of(line)
            said.append(f"{whose}: {change}, {by} ({EFFECTS[line['verdict']]})")
        methods = of.loc[of["kind"] == "method", "inflation"]
        over = (
            f". Over {len(methods)} methods {_span(methods)}, {methods.mean():+z.1f} on average" if len(of) > 2 else ""
        )
        yield f"**{_sentence(str(mistake))}.** {MISTAKES[str(mistake)]}. {_sentence('; '.join(said))}{over}."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# ----------------------------------------------------------------------------------------------------------- page


def page(t: Mapping[str, pd.DataFrame], parameters: Mapping[str, Any], classes: int) -> str:
    """The page, GitHub Markdown, with its tables and figures."""
    images = int(t["boxes"]["images"].max())
    sections = [
        f"# Scores that the field uses: {parameters['profile']}",
        f"Every method at the layer with its best mask IoU on validation. Thresholds are chosen on validation, each "
        f"score's own; the numbers are those of {images} test images, the image's true class given (Top-1 and Top-5 "
        f"ask the classifier too). Brackets are 95 % bootstrap intervals over images at that threshold, paired for "
        f"differences. *Gains*, *loses*: the interval lies beyond {MARGIN:g} points; *level*: within; else "
        f"*undecided*. This is one trained network with {classes} classes, and nothing here is a claim: it is "
        f"exploratory.",
        "## Findings",
        findings(t, classes),
        "## Box scores beside mask scores",
        "![scores of every method](boxes.png)",
        _boxes_markdown(t["boxes"], "test"),
        "Box scores follow wsolevaluation at 224 px (cubic resize, then min-max; a mask of 0..1 as it is for the "
        "baselines). The published protocol takes the **peak on test** instead, thresholds chosen on the test images:",
        _boxes_markdown(t["boxes"], "test_peak"),
        "Thresholds, gains over the better trivial baseline and validation scores: [boxes.csv](boxes.csv). PxAP has no "
        "threshold.",
        "## Both sizes, both averages",
        _sizes_markdown(t["iou_sizes"]),
        "Each at its own threshold from validation; peaks on test (LID's protocol): [iou_sizes.csv](iou_sizes.csv)",
        "## Thresholds",
        "![IoU at every threshold](curves.png)",
        f"A threshold is usable where the mean IoU is at least {100 * USABLE:.0f} % of the peak. "
        "[curves.csv](curves.csv), [bands.csv](bands.csv)",
        "## Normalisation",
        "![IoU and rank by normalisation](normalisation.png)",
        _normalisation_markdown(t["normalisation"]),
        f"`minmax`, `max`, `pas` (percentile {PAS:g}) and `ivr` as in Kim et al. (ICCV 2021), after the resize, the "
        f"same for all methods of a column; layers stay those chosen with min-max, thresholds and the percentile of "
        f"`ivr` are chosen on validation. [normalisation.csv](normalisation.csv), every percentile: "
        f"[percentiles.csv](percentiles.csv)",
        "## How not to evaluate",
        "![what each mistake adds](mistakes.png)",
        "The honest value, the mistaken one, and their difference over the same test images:",
        _mistakes_markdown(t["mistakes"]),
        "Every method: [mistakes.csv](mistakes.csv). A mistake that is missing cannot be made here. Several scales "
        "stand for any averaging over crops: they are chosen for each of DGL and CAM on validation.",
    ]
    return "\n\n".join(sections) + "\n"


def _boxes_markdown(table: pd.DataFrame, value: str) -> str:
    shown = [name for name in SCORES if name != "GT-known"]
    rows = []
    for (method, layer), of in table.groupby(["method", "layer"], sort=False):
        by = of.set_index("score")
        cells = [_of(by.loc[name]) if value == "test" else f"{float(by[value][name]):.1f} %" for name in shown]
        rows.append([style.NAMES.get(str(method), str(method)), str(layer), *cells])
    header = ["MaxBoxAcc = GT-known" if name == "MaxBoxAcc" else name for name in shown]
    return markdown(["", "layer", *header], rows)


def _sizes_markdown(table: pd.DataFrame) -> str:
    columns = [(size, average) for size in ("photograph's own", "input") for average in ("per image", "pooled")]
    rows = []
    for (method, layer), of in table.groupby(["method", "layer"], sort=False):
        by = of.set_index(["size", "average"])
        rows.append([style.NAMES.get(str(method), str(method)), str(layer), *(_of(by.loc[key]) for key in columns)])
    return markdown(["", "layer", *(f"{size} size, {average}" for size, average in columns)], rows)


def _normalisation_markdown(table: pd.DataFrame) -> str:
    ways = list(dict.fromkeys(table["normalisation"]))
    rows = []
    for (method, layer), of in table.groupby(["method", "layer"], sort=False):
        lines = of.set_index("normalisation").loc[ways].to_dict("records")
        cells = [_of(line, "iou") + ("" if np.isnan(line["rank"]) else f", {line['rank']:.0f}.") for line in lines]
        rows.append([style.NAMES.get(str(method), str(method)), str(layer), *cells])
    return markdown(["", "layer", *(f"{how}, test IoU and rank" for how in ways)], rows)


def _mistakes_markdown(table: pd.DataFrame) -> str:
    rows = [
        [
            *(line["mistake"], "DGL minus CAM" if line["of"] != "IoU" else name_of(line)),
            *(f"{line['honest']:.1f}", f"{line['mistaken']:.1f}"),
            *(points(line["inflation"], line["low"], line["high"]), EFFECTS[line["verdict"]]),
        ]
        for line in table[table["method"].isin(["dgl", "cam", *BASELINES])].to_dict("records")
    ]
    return markdown(["mistake", "", "honest", "mistaken", "difference", ""], rows)
