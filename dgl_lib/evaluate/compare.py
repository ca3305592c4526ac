"""Every method on every layer, side by side: which localizes best, where DGL gains and where it loses, and from what.

Layers and thresholds are chosen on validation, each method's its own; scores and intervals are the test part's. One map
is said against another by the 95 % interval of their paired difference in IoU, with the claims' margin:

    gains      the interval lies above +MARGIN          level      it lies within -MARGIN .. +MARGIN
    loses      it lies below -MARGIN                    undecided  anything else, and fewer than FEWEST images
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgl_lib import claims, metrics, paths, study
from dgl_lib.study.claims import markdown
from dgl_lib.evaluate.scores import BASELINES, Maps, Scores, choose, report, score
from dgl_lib.files import write_text
from dgl_lib.localize import CONTROLS, METHODS
from dgl_lib.metrics import Interval, bootstrap
from dgl_lib.plots import comparison as plots
from dgl_lib.plots import style
from dgl_lib.plots.layers import better_baseline, found, grid, per_image, with_parts

#: Points that a difference in IoU has to exceed, as for the claims.
MARGIN = claims.CLAIMS["C5"].margin or 0.0
#: Images below which nothing is decided: a bootstrap interval of very few is too narrow.
FEWEST = 10
#: Images shown of either end.
TWELVE = 12

Row = dict[str, str]  # method and layer, as in ``Scores.rows``
Line = Any  # one line of a table as pandas hands it out, a dictionary or a series


#: DGL's verdict on another method, in words.
AGAINST = {"gains": "gains on", "level": "is level with", "undecided": "is undecided against", "loses": "loses to"}


def run(profile: str, settings: Sequence[str] = (), *, progress: bool = True) -> Path:
    """Make the page ``results/PROFILE/comparison`` and return its folder. UserError: as ``study.run``."""
    return study.make_page("comparison", profile, settings, partial(make, progress=progress), progress=progress)


def make(parameters: Mapping[str, Any], folder: Path, *, progress: bool = False) -> None:
    """Write the tables, the figures, findings.md, answer.md and README.md to ``folder``."""
    val_maps, maps = (study.every_map(parameters, split, progress=progress) for split in ("val", "test"))
    val_data, data = (study.part(parameters, split) for split in ("val", "test"))
    scored = partial(score, folder=paths.runs_folder(), progress=progress)
    val, test = scored(val_data, {1.0: val_maps}), scored(data, {1.0: maps})

    t = compare(val, test, only_scored(maps, data.names, test.names), data.classes, parameters["layer"])
    for name, table in t.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    write_text(folder / "findings.md", findings(t, parameters["layer"]) + "\n")
    write_text(folder / "answer.md", answer(t, parameters["profile"]) + "\n")
    write_text(folder / "README.md", page(t, parameters))

    style.use_style()
    layers = [layer for method, layer in maps.maps if method == "dgl"]
    pixels = parameters["data"] == "creatures"  # drawn by this library; photographs are their authors'
    methods = [*METHODS, *CONTROLS]
    for k, i in enumerate(first_of_two_classes(data.labels), start=1):
        p_c = float(np.exp(log_p_c(maps, data.labels)[i]))
        title = f"First test image of class {data.classes[data.labels[i]]} ($p_c$ = {p_c:.2f}): every method and layer"
        style.save(grid(data, [(i, m) for m in methods], maps, layers, title, pixels), folder, f"maps_{k}")
    style.save(plots.scores(t["scores"], t["chosen"], layers, methods), folder, "scores")
    style.save(plots.gains(t["gains"], MARGIN), folder, "gains")
    style.save(plots.where(t["where"], MARGIN), folder, "where")
    style.save(plots.terms(t["terms"], MARGIN), folder, "terms")
    style.save(plots.parts(t["parts"]), folder, "parts")
    dgl = find(t["chosen"], "dgl")
    style.save(plots.extremes(data, t["worst"], maps.maps["dgl", dgl["layer"]], dgl["layer"]), folder, "worst")


# --------------------------------------------------------------------------------------------------------- tables


def compare(val: Scores, test: Scores, maps: Maps, classes: Sequence[str], layer: str) -> dict[str, pd.DataFrame]:
    """All tables of the page by name; ``maps`` are the scored test images' own."""
    scores = report(val, test).drop(columns=["scales", "kernel"])
    chosen = choose_layers(val, test, scores)
    at = {row["method"]: row_of(row) for row in chosen.to_dict("records")}
    confidence = log_p_c(maps, test.labels)
    gained = gains(val, test, at, layer)
    return {
        "scores": scores,
        "chosen": chosen,
        "gains": gained,
        "where": where(val, test, at["dgl"], rivals(chosen, gained), confidence, classes),
        "terms": terms(val, test, maps),
        "parts": parts(val, test, list(at.values())),
        "worst": extremes(val, test, at["dgl"], maps, confidence, classes),
    }


def rivals(chosen: pd.DataFrame, gained: pd.DataFrame) -> list[Row]:
    """What DGL is followed against group by group: the best relative, the best that is not level with it, and CAM."""
    own = gained[gained["at"] == "own"].drop_duplicates("method").set_index("method")["verdict"]
    relatives = [row for row in chosen.to_dict("records") if row["kind"] == "method" and row["method"] != "dgl"]
    differing = [row for row in relatives if own[row["method"]] != "level"]
    cam = [row for row in relatives if row["method"] == "cam"]
    return list({row["method"]: row_of(row) for row in (*relatives[:1], *differing[:1], *cam)}.values())


def verdict(interval: Interval) -> str:
    """The word for a paired difference in IoU, in points: "gains", "loses", "level" or "undecided" (see above)."""
    if interval.n >= FEWEST and interval.low > MARGIN:
        return "gains"
    if interval.n >= FEWEST and interval.high < -MARGIN:
        return "loses"
    if interval.n >= FEWEST and interval.low >= -MARGIN and interval.high <= MARGIN:
        return "level"
    return "undecided"


def _cells(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "images": interval.n}


def row_of(line: Line) -> Row:
    """Method and layer of a table's line."""
    return {"method": line["method"], "layer": line["layer"]}


def choose_layers(val: Scores, test: Scores, scores: pd.DataFrame) -> pd.DataFrame:
    """Each method at the layer with its highest IoU on validation, the best first; controls and baselines beside them.

    Columns as ``evaluation.report``'s, before them ``kind`` (method, control, baseline), after them the paired gain in
    IoU (points) over the better trivial baseline: ``over``, ``over_low``, ``over_high``, ``over_verdict``.
    """
    table = scores.loc[scores.groupby("method", sort=False)["val_iou"].idxmax()]
    table = table.sort_values("val_iou", ascending=False, kind="stable").reset_index(drop=True)
    kinds = dict.fromkeys(CONTROLS, "control") | dict.fromkeys(BASELINES, "baseline")
    table.insert(0, "kind", [kinds.get(method, "method") for method in table["method"]])
    trivial = per_image(val, test, {"method": better_baseline(val)}, "iou")
    over = [bootstrap(per_image(val, test, row_of(row), "iou") - trivial) for row in table.to_dict("records")]
    columns = {"over": "mean", "over_low": "low", "over_high": "high"}
    return table.assign(
        **{name: [getattr(one, part) for one in over] for name, part in columns.items()},
        over_verdict=[verdict(one) for one in over],
    )


def gains(val: Scores, test: Scores, at: Mapping[str, Row], layer: str) -> pd.DataFrame:
    """DGL minus every relative, control and baseline: paired differences in test IoU, points.

    DGL stands at its chosen layer, and on ``layer``; the other at its own chosen layer ("own"), and on DGL's ("same"),
    where it exists (CAM does on the last only).

    Args:
        at: each method's row at its chosen layer.

    Returns:
        columns dgl_layer, at (own, same), method, layer, mean, low, high, images, verdict.
    """
    there = set(zip(val.rows["method"], val.rows["layer"], strict=True))
    table = []
    for dgl_layer in dict.fromkeys([at["dgl"]["layer"], layer]):
        dgl = per_image(val, test, {"method": "dgl", "layer": dgl_layer}, "iou")
        for method, own in at.items():
            same = {"method": method, "layer": dgl_layer}
            for name, row in {"own": own, "same": same}.items():
                if method != "dgl" and (method, row["layer"]) in there:
                    difference = bootstrap(dgl - per_image(val, test, row, "iou"))
                    cells = _cells(difference) | {"verdict": verdict(difference)}
                    table.append({"dgl_layer": dgl_layer, "at": name, **row, **cells})
    return pd.DataFrame(table)


def where(
    val: Scores, test: Scores, dgl: Row, against: Sequence[Row], confidence: np.ndarray, classes: Sequence[str]
) -> pd.DataFrame:
    """DGL minus each row of ``against`` (points of test IoU), by class, by thirds of the object's area and of p_c.

    Args:
        confidence: log p_c of each test image, (images,).

    Returns:
        columns grouping, group, first, last (of the group, percent of the image or p_c; empty for a class), method,
        layer, mean, low, high, images, verdict.
    """
    table = []
    own = per_image(val, test, dgl, "iou")
    for row in against:
        difference = own - per_image(val, test, row, "iou")
        for grouping, group, inside, first, last in _groups(test, confidence, classes):
            interval = bootstrap(difference[inside])
            cells = _cells(interval) | {"verdict": verdict(interval)}
            table.append({"grouping": grouping, "group": group, "first": first, "last": last, **row, **cells})
    return pd.DataFrame(table)


def _groups(
    test: Scores, confidence: np.ndarray, classes: Sequence[str]
) -> Iterator[tuple[str, str, np.ndarray, float, float]]:
    """(grouping, group, (images,) bool, lowest and highest value) of every group that has an image."""
    for label, name in enumerate(classes):
        if (inside := test.labels == label).any():
            yield "class", name, inside, np.nan, np.nan
    for grouping, order, shown in (
        ("object's area", area(test), area(test)),
        ("confidence", confidence, np.exp(confidence)),
    ):
        of = thirds(order)
        for third, name in enumerate(("lowest third", "middle third", "highest third")):
            if (inside := of == third).any():
                yield grouping, name, inside, float(shown[inside].min()), float(shown[inside].max())


def thirds(values: np.ndarray) -> np.ndarray:
    """0, 1, 2 for the lowest, middle and highest third of ``values`` (n,) by rank; of equals the earlier is lower."""
    rank = np.empty(len(values), np.int64)
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    return rank * 3 // len(values)


def area(test: Scores) -> np.ndarray:
    """The object's share of each image's pixels that count, (images,) percent."""
    pixels = test.hist[0].sum(-1)
    inside = pixels[:, metrics.REST] + pixels[:, metrics.PART]
    return 100 * inside / pixels[:, : metrics.IGNORE].sum(1)


def log_p_c(maps: Maps, labels: np.ndarray) -> np.ndarray:
    """log p_c of each image's label, (images,) float64: p_c itself is 1 for many, their order is not."""
    logits = maps.logits.astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    return logits[np.arange(len(labels)), labels] - np.log(np.exp(logits).sum(1))


def only_scored(maps: Maps, names: Sequence[str], scored: Sequence[str]) -> Maps:
    """The maps of the images that have scores: those without an object have none."""
    place = {name: i for i, name in enumerate(names)}
    keep = [place[name] for name in scored]
    return Maps({pair: m[keep] for pair, m in maps.maps.items()}, maps.logits[keep], maps.classes[keep])


def terms(val: Scores, test: Scores, maps: Maps) -> pd.DataFrame:
    """DGL's two terms on every layer: sum_k G_c n(S) - sum_k G_c n(G_J), both and each alone.

    n(S) differs from S by a factor an image: the feature term alone is pixel selection's map, the gradient term alone
    ``localize.gradient_term``'s. For p_c near 1 that is a squared gradient, sum_k G_c^2 / ||G_c||.

    Returns:
        columns layer, what, mean, low, high, images, verdict, of what = "both", "feature term", "gradient term" (test
        IoU, percent), "gradient term adds", "feature term adds" (paired, points) and "gradient share" (percent).
    """
    table = []
    for layer in (layer for method, layer in maps.maps if method == "dgl"):
        names = {"both": "dgl", "feature term": "pixel_selection", "gradient term": "gradient_term"}
        iou = {what: per_image(val, test, {"method": method, "layer": layer}, "iou") for what, method in names.items()}
        share = 100 * gradient_share(maps.maps["dgl", layer], maps.maps["gradient_term", layer])
        added = {
            "gradient term adds": iou["both"] - iou["feature term"],
            "feature term adds": iou["both"] - iou["gradient term"],
        }
        for what, values in (iou | added | {"gradient share": share}).items():
            interval = bootstrap(values)
            word = verdict(interval) if what in added else ""
            table.append({"layer": layer, "what": what, **_cells(interval), "verdict": word})
    return pd.DataFrame(table)


def gradient_share(both: np.ndarray, term: np.ndarray) -> np.ndarray:
    """cov(term, both) / var(both) over the cells of each map (images, h, w): what a term has in DGL's map, (images,).

    The two terms' shares sum to 1; one is negative where it works against the map. NaN for a constant map.
    """
    both, term = (m.reshape(len(m), -1).astype(np.float64) for m in (both, term))
    both, term = (m - m.mean(1, keepdims=True) for m in (both, term))
    variance = (both**2).sum(1)
    return np.where(variance > 0, (term * both).sum(1) / np.where(variance > 0, variance, 1), np.nan)


def parts(val: Scores, test: Scores, rows: Sequence[Row]) -> pd.DataFrame:
    """How much each row finds of the telling part and of the rest, and how precisely; "gap" is part minus rest, paired.

    Returns:
        columns method, layer, measure (recall_part, recall_rest, precision, gap), mean, low, high (percent), images,
        where (test, or validation if test has too few images with a known part); no line if no part is known at all.
    """
    columns = ["method", "layer", "measure", "mean", "low", "high", "images", "where"]
    if not (val.has_part.any() or test.has_part.any()):
        return pd.DataFrame(columns=columns)
    places = [_place(val, row) for row in rows]
    val, test = (Scores(s.rows.iloc[places], s.hist[places], s.names, s.labels, s.has_part) for s in (val, test))
    images, place = with_parts(val, test)
    gaps = []
    for row in rows:
        recall = [per_image(val, images, row, measure) for measure in ("recall_part", "recall_rest")]
        gaps.append({**row, "measure": "gap", **_cells(bootstrap(recall[0] - recall[1]))})
    return pd.concat([found(val, images), pd.DataFrame(gaps)], ignore_index=True).assign(where=place)[columns]


def _place(scores: Scores, row: Row) -> int:
    [place] = np.flatnonzero((scores.rows["method"] == row["method"]) & (scores.rows["layer"] == row["layer"]))
    return int(place)


def extremes(
    val: Scores, test: Scores, dgl: Row, maps: Maps, confidence: np.ndarray, classes: Sequence[str]
) -> pd.DataFrame:
    """The twelve test images with DGL's lowest IoU (of equals the earlier), and the first twelve, whatever theirs.

    Returns:
        columns which (worst, first), image, class, iou, p_c, area (percent of the image), predicted, threshold.
    """
    iou = per_image(val, test, dgl, "iou")
    table = [
        {
            "which": which,
            "image": test.names[i],
            "class": classes[test.labels[i]],
            "iou": iou[i],
            "p_c": float(np.exp(confidence[i])),
            "area": area(test)[i],
            "predicted": classes[maps.logits[i].argmax()],
            "threshold": choose(val.find(**dgl)),
        }
        for which, indices in (("worst", worst(iou)), ("first", range(min(TWELVE, len(iou)))))
        for i in indices
    ]
    return pd.DataFrame(table)


def worst(iou: np.ndarray) -> list[int]:
    """Indices of the twelve lowest values, the lowest first; of equals the earlier."""
    return np.argsort(iou, kind="stable")[:TWELVE].tolist()


def first_of_two_classes(labels: np.ndarray) -> list[int]:
    """The first image of the first class that has one, and of the next."""
    return [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)[:2]]


# ------------------------------------------------------------------------------------------------------ sentences


def find(table: pd.DataFrame, method: str, **wanted: str) -> dict[str, Any]:
    """The one line of a method (and other values), as a dictionary."""
    for name, value in {"method": method, **wanted}.items():
        table = table[table[name] == value]
    [line] = table.to_dict("records")
    return {str(name): value for name, value in line.items()}


def name_of(row: Line) -> str:
    """``DGL on Mixed_6e``, ``centred Gaussian``."""
    name = style.NAMES.get(row["method"], row["method"]).split(" (both")[0]
    return f"{name} on {row['layer']}" if row["layer"] else name


def percent(line: Line) -> str:
    """A test IoU with its interval."""
    return f"{line['iou']:.1f} % [{line['low']:.1f}, {line['high']:.1f}]"


def points(mean: float, low: float, high: float) -> str:
    """A difference with its interval."""
    return f"{mean:+z.1f} points [{low:+z.1f}, {high:+z.1f}]"


def said(a: str, b: str, line: Line) -> str:
    """A difference a - b in words, chosen by its verdict."""
    by = points(line["mean"], line["low"], line["high"])
    return {
        "gains": f"{a} gains on {b}, {by}",
        "loses": f"{a} loses to {b}, {by}",
        "level": f"{a} and {b} are level, {by}",
        "undecided": f"it is undecided between {a} and {b}, {by}",
    }[line["verdict"]]


def _over_baseline(row: Line, baseline: str) -> str:
    line = {"verdict": row["over_verdict"], "mean": row["over"], "low": row["over_low"], "high": row["over_high"]}
    return said("it", f"the {baseline}", line)


def answer(t: Mapping[str, pd.DataFrame], profile: str) -> str:
    """Which layer and method to use: two sentences and a number."""
    chosen = t["chosen"]
    best, second = chosen[chosen["kind"] == "method"].to_dict("records")[:2]
    features = find(chosen, "features")
    trivial = chosen[chosen["kind"] == "baseline"].to_dict("records")
    above = [row for row in chosen.to_dict("records") if row["kind"] != "method" and row["val_iou"] > best["val_iou"]]
    text = (
        f"On {profile}, **{name_of(best)}** localized best on validation among {(chosen['kind'] == 'method').sum()} "
        f"methods, each on its best layer; its mean test IoU is **{percent(best)}**. "
        f"On the same test images, the runner-up of validation ({name_of(second)}) reaches {second['iou']:.1f} %, "
        f"{name_of(features)}, which know no class, {features['iou']:.1f} %, "
        + " and ".join(f"the {name_of(row)} {row['iou']:.1f} %" for row in trivial)
    )
    if above:
        text += "; on validation " + " and ".join(name_of(row) for row in above) + " did better than any method"
    return text + "."


def findings(t: Mapping[str, pd.DataFrame], layer: str) -> str:
    """What was found, as a Markdown list, and a table of the methods; every word follows from the tables.

    ``layer`` is the profile's, on which the methods are compared too, beside each one's own chosen layer.
    """
    lines = [_found_best(t), _found_dgl(t, layer), *_found_against(t, layer), *_found_parts(t["parts"])]
    lines += [_found_terms(t, layer), *_found_where(t), _found_worst(t)]
    return "\n".join(f"- {line}" for line in lines) + "\n\n" + _methods_markdown(t, layer)


def _found_best(t: Mapping[str, pd.DataFrame]) -> str:
    chosen = t["chosen"]
    best = chosen[chosen["kind"] == "method"].iloc[0].to_dict()
    baseline = name_of(chosen[chosen["kind"] == "baseline"].iloc[0])
    beaten = chosen[(chosen["kind"] == "method") & (chosen["over_verdict"] == "gains")]
    text = (
        f"**The best of all** on validation is {name_of(best)}, with a test IoU of {percent(best)}; against the better "
        f"trivial baseline {_over_baseline(best, baseline)}. {len(beaten)} of {(chosen['kind'] == 'method').sum()} "
        f"methods, each on its best layer, gain on that baseline."
    )
    top = chosen.iloc[0]
    if top["kind"] != "method":
        text += f" No method does better on validation than {name_of(top)}, which is no method but a {top['kind']}."
    return text


def _found_dgl(t: Mapping[str, pd.DataFrame], layer: str) -> str:
    chosen = t["chosen"]
    methods = chosen.loc[chosen["kind"] == "method", "method"].tolist()
    dgl = find(chosen, "dgl")
    every = t["scores"][t["scores"]["method"] == "dgl"]
    low, high = (every.iloc[at()].to_dict() for at in (every["iou"].argmin, every["iou"].argmax))
    there = every[every["layer"] == layer].iloc[0]
    text = f"**DGL** is number {methods.index('dgl') + 1} of {len(methods)} on validation, on {dgl['layer']}: test IoU "
    text += f"{percent(dgl)}. Over the layers it runs from {low['iou']:.1f} % ({low['layer']}) to {high['iou']:.1f} % "
    text += f"({high['layer']})"
    return text + (f"; on {layer} it is {percent(there)}." if layer != dgl["layer"] else ".")


def _found_against(t: Mapping[str, pd.DataFrame], layer: str) -> Iterator[str]:
    """DGL against every other row: each on its own best layer, then both on ``layer``."""
    own, same = _own_and_same(t, layer)
    dgl = name_of(find(t["chosen"], "dgl"))
    for title, of, who in (("Each on its best layer", own, dgl), (f"All on {layer}", same.assign(layer=""), "DGL")):
        words = []
        for word, text in AGAINST.items():
            lines = of[of["verdict"] == word].to_dict("records")
            if lines:
                words.append(f"{text} " + ", ".join(f"{name_of(line)} ({line['mean']:+z.1f})" for line in lines))
        yield f"**{title},** in points of IoU: {who} " + "; ".join(words) + "."


def _own_and_same(t: Mapping[str, pd.DataFrame], layer: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The differences from DGL with each method on its own best layer, and those with both on ``layer``."""
    table = t["gains"][t["gains"]["layer"] != ""]  # baselines have none
    own = (table["at"] == "own") & (table["dgl_layer"] == find(t["chosen"], "dgl")["layer"])
    return table[own], table[(table["at"] == "same") & (table["dgl_layer"] == layer)]


def _signed(line: Line) -> str:
    """A difference with its interval, its unit said before."""
    return points(line["mean"], line["low"], line["high"]).replace(" points", "")


def _found_parts(table: pd.DataFrame) -> Iterator[str]:
    if not len(table):
        return
    table = table[table["layer"] != ""]  # baselines have none
    gap = table[table["measure"] == "gap"]
    more, less = (int(count) for count in ((gap["low"] > 0).sum(), (gap["high"] < 0).sum()))
    small, large = (gap.iloc[at()].to_dict() for at in (gap["mean"].argmin, gap["mean"].argmax))
    rest = table[table["measure"] == "recall_rest"]
    most, dgl = rest.iloc[rest["mean"].argmax()].to_dict(), find(rest, "dgl")
    yield (
        f"**The whole object?** {more} of {len(gap)} methods and controls find more of the telling part than of the "
        f"rest, {less} less; the gap runs from {_signed(small)} points ({name_of(small)}) to {_signed(large)} "
        f"({name_of(large)}). Of the rest, {name_of(most)} finds most, {most['mean']:.1f} %; {name_of(dgl)} "
        f"{dgl['mean']:.1f} %."
    )


def _methods_markdown(t: Mapping[str, pd.DataFrame], layer: str) -> str:
    """A line a method: its score, DGL's difference from it twice, and how much of the object's parts it finds."""
    compared = [table.set_index("method") for table in _own_and_same(t, layer)]
    found = t["parts"].pivot_table("mean", "method", "measure") if len(t["parts"]) else pd.DataFrame()
    measures = {"recall_part": "telling part found", "recall_rest": "rest found", "precision": "precision"}
    shown = [name for name in measures if name in found]
    rows = []
    for row in t["chosen"].to_dict("records"):
        if row["kind"] != "baseline":
            method = row["method"]
            differences = [_signed(of.loc[method]) if method in of.index else "" for of in compared]
            cells = [f"{found.loc[method, name]:.1f} %" for name in shown]
            rows.append([style.NAMES.get(method, method), row["layer"], percent(row), *differences, *cells])
    header = ["", "best layer", "test IoU", "DGL minus it, each on its best layer", f"both on {layer}"]
    return markdown([*header, *(measures[name] for name in shown)], rows)


def _found_terms(t: Mapping[str, pd.DataFrame], layer: str) -> str:
    table = t["terms"]
    added = table[table["what"] == "gradient term adds"].set_index("layer")
    share = table[table["what"] == "gradient share"].set_index("layer")["mean"]
    count = added["verdict"].value_counts()
    n = {word: int(count.get(word, 0)) for word in ("gains", "loses", "level", "undecided")}
    return (
        f"**The squared-gradient term.** By it, DGL gains on its feature term alone (pixel selection) on {n['gains']} "
        f"of {len(added)} layers and loses on {n['loses']}; level on {n['level']}, undecided on {n['undecided']}. On "
        f"{layer}, {said('DGL', 'DGL without it', added.loc[layer])}; there the term makes up {share[layer]:.0f} % of "
        f"the map's variance ({share.min():.0f} % to {share.max():.0f} % over the layers)."
    )


def _found_where(t: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    for (method, layer), table in t["where"].groupby(["method", "layer"], sort=False):
        words = []
        for word in ("gains", "loses"):
            of = table[table["verdict"] == word].to_dict("records")
            groups = ", ".join(f"{_group(line)} ({line['mean']:+z.1f})" for line in of)
            words.append(f"{word} on {len(of)} of {len(table)} groups" + (f" ({groups})" if of else ""))
        count = table["verdict"].value_counts()
        words.append(f"level on {count.get('level', 0)}, undecided on {count.get('undecided', 0)}")
        against = name_of({"method": method, "layer": layer})
        yield f"**Where, against {against}.** DGL (on its chosen layer) " + "; ".join(words) + "."


def _group(line: Line) -> str:
    return line["group"] if line["grouping"] == "class" else f"{line['group']} of the {line['grouping']}"


def _found_worst(t: Mapping[str, pd.DataFrame]) -> str:
    lowest, first = (t["worst"][t["worst"]["which"] == which] for which in ("worst", "first"))
    described = []
    for name, table in (("worst", lowest), ("first", first)):
        wrong = (table["predicted"] != table["class"]).sum()
        described.append(
            f"the {name} {len(table)} have an IoU of {table['iou'].min():.1f} to {table['iou'].max():.1f} %, a median "
            f"area of {table['area'].median():.1f} % of the image, and {wrong} of them are classified wrong"
        )
    return "**The worst beside the first.** By DGL's IoU on test, " + "; ".join(described) + "."


# ----------------------------------------------------------------------------------------------------------- page


def page(t: Mapping[str, pd.DataFrame], parameters: Mapping[str, Any]) -> str:
    """The page, GitHub Markdown, with its tables and figures."""
    chosen, g = t["chosen"], t["gains"]
    images = int(g["images"].max())
    compared = len(g) + len(t["where"]) + t["terms"]["verdict"].ne("").sum() + len(chosen)
    place = f", {t['parts']['images'].max()} {t['parts']['where'].iloc[0]} images" if len(t["parts"]) else ""
    sections = [
        f"# Every method on every layer: {parameters['profile']}",
        answer(t, parameters["profile"]),
        f"Layers and thresholds are chosen on validation; the numbers are those of {images} test images at one scale, "
        f"without closing, the image's true class given. Brackets are 95 % bootstrap intervals over images, paired "
        f"for differences. *Gains*, *loses*: the interval of DGL's difference lies beyond {MARGIN:g} points; *level*: "
        f"within; else *undecided*, as any group under {FEWEST} images. This is one trained network. Its {compared} "
        f"comparisons are exploratory: the intervals are not widened for their number, and about one in twenty would "
        f"miss its true value.",
        "## Findings",
        findings(t, parameters["layer"]),
        "## Scores",
        "![IoU of every method on every layer](scores.png)",
        f"Every line with its threshold, precision and recalls: [scores.csv](scores.csv) ({len(t['scores'])} lines). "
        "Each method on its own best layer, [chosen.csv](chosen.csv), the best on validation first:",
        _chosen_markdown(chosen),
        "![every method on every layer, one image](maps_1.png)\n\n![the same, another class](maps_2.png)",
        "The first test image of each of the first two classes. Each map's colours span its own range of values.",
        "## Gains and losses of DGL",
        "![paired differences](gains.png)",
        f"[gains.csv](gains.csv), {len(g)} differences. A method that is missing on a layer does not exist there.",
        "![differences by group](where.png)",
        "[where.csv](where.csv): by class, and by thirds of the test images: the object's share of the image, and p_c.",
        "## The two terms of DGL",
        "DGL is the sum of a feature term, sum_k G_c n(S), which alone is pixel selection, and of a gradient term, "
        "-sum_k G_c n(G_J), close to a squared gradient where p_c is near 1. Each is left out in turn.",
        "![the terms by layer](terms.png)",
        "[terms.csv](terms.csv)",
        f"## The telling part and the rest{place}",
        "![recall of part and rest](parts.png)\n\n[parts.csv](parts.csv)"
        if len(t["parts"])
        else "No image's telling part is known here.",
        "## The worst beside the first",
        "![the worst twelve and the first twelve](worst.png)",
        "By rule: the lowest IoU of DGL on its chosen layer (of equals the earlier image), and the first of the test "
        "part. [worst.csv](worst.csv)",
    ]
    return "\n\n".join(sections) + "\n"


def _chosen_markdown(chosen: pd.DataFrame) -> str:
    header = [
        "",
        "layer",
        "threshold",
        "test IoU",
        "mIoU",
        "pooled IoU",
        "over the better baseline",
        "",
        "peak on test",
    ]
    rows = [
        [
            *(style.NAMES.get(row["method"], row["method"]), row["layer"], str(row["threshold"]), percent(row)),
            *(f"{row['miou']:.1f} %", f"{row['iou_pooled']:.1f} %"),
            *(points(row["over"], row["over_low"], row["over_high"]), row["over_verdict"], f"{row['test_peak']:.1f} %"),
        ]
        for row in chosen.to_dict("records")
    ]
    return markdown(header, rows)
