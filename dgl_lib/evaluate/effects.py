"""Is it the method, or the luck of one training? The study's scores and effects from networks of three seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgl_lib import claims, paths, study
from dgl_lib.evaluate.controls import on_layer
from dgl_lib.evaluate.scores import BASELINES, Maps, Scores, report, score
from dgl_lib.files import write_text
from dgl_lib.metrics import bootstrap
from dgl_lib.plots import seeds as plots
from dgl_lib.plots import style
from dgl_lib.plots.layers import better_baseline, per_image, with_parts

#: Networks compared: the profile's seed and the next ones.
SEEDS = 3
#: C2's two effects, where a telling part is known: what is to grow, and what is not to be lost by it.
REST = "rest found, enhanced map minus plain features"
PRECISION = "precision, enhanced map minus plain features"
#: What the claims' effects are called on the page, in its order. C8 holds where both of its gains do.
EFFECTS = {
    REST: "C2",
    PRECISION: "C2",
    "DGL minus CAM": "C5",
    "pixel selection minus the better baseline": "C4",
    "DGL minus pixel selection": "C8",
    "DGL minus enhanced map": "C8",
}
SPREAD = ["mean", "min", "max", "sd", "seeds"]


def run(profile: str, settings: Sequence[str] = (), *, progress: bool = True) -> Path:
    """Make the page ``results/PROFILE/seeds`` and return its folder. UserError: as ``study.run``.

    Trains what is missing of the networks of three seeds and of the one with shuffled labels, which ``controls`` asks
    for; what was trained and localized before is found again.
    """
    return study.make_page("seeds", profile, settings, partial(make, progress=progress), progress=progress)


def make(parameters: dict[str, Any], folder: Path, *, progress: bool = False) -> None:
    """Write seeds.csv, summary.csv, effects.csv, effects_spread.csv, verdicts.md, a figure, README.md to ``folder``."""
    layer = parameters["layer"]
    tables, per_seed = [], {}
    for seed in range(parameters["seed"], parameters["seed"] + SEEDS):
        val, test, accuracy = trained(parameters | {"seed": seed}, progress=progress)
        tables.append(report(val, test).assign(seed=seed, **accuracy))
        per_seed[seed] = effects(val, test, layer, parameters["layers"])
    study.train_classifier(parameters | {"labels": "shuffled"}, progress=progress)

    columns = ["seed", "method", "layer", "threshold", "val_iou", "iou", "low", "high", "accuracy_val", "accuracy_test"]
    table = pd.concat(tables, ignore_index=True)[columns]
    summary, by_seed, spread = summarise(table, layer), effects_table(per_seed), effects_spread(per_seed)
    for name, one in (("seeds", table), ("summary", summary), ("effects", by_seed), ("effects_spread", spread)):
        one.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    style.use_style()
    fixed = {*on_layer(table, layer), *((name, "") for name in BASELINES)}
    here = table[[pair in fixed for pair in zip(table["method"], table["layer"], strict=True)]]
    style.save(plots.dots(here, by_seed, f"Methods on {layer} (CAM on its own layer)"), folder, "seeds")
    write_text(folder / "verdicts.md", verdicts(by_seed) + "\n")
    write_text(folder / "README.md", page(table, summary, by_seed, spread, parameters))


def trained(parameters: dict[str, Any], *, progress: bool = False) -> tuple[Scores, Scores, dict[str, float]]:
    """Train the classifier of these parameters, or find it trained, and score every method on every layer.

    Returns:
        scores of the validation and of the test part; ``accuracy_val`` and ``accuracy_test``, percent.
    """
    checkpoint = study.train_classifier(parameters, progress=progress)
    own = parameters | {"checkpoint": checkpoint.relative_to(paths.project_root()).as_posix()}
    maps = {split: study.every_map(own, split, progress=progress) for split in ("val", "test")}
    scored = partial(score, folder=paths.runs_folder(), progress=progress)
    val, test = (scored(study.part(own, split), {1.0: m}) for split, m in maps.items())
    return val, test, {f"accuracy_{split}": _accuracy(m) for split, m in maps.items()}


def _accuracy(maps: Maps) -> float:
    """Images classified right, percent; the maps must be those of the images' own classes."""
    return 100 * float((maps.logits.argmax(1) == maps.classes).mean())


def effects(val: Scores, test: Scores, layer: str, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """The effects behind C2, C4, C5 and C8, image by image: points (images,), by the names in ``EFFECTS``.

    DGL and its branches on ``layer``, CAM where it exists; pixel selection averaged over ``layers`` without CAM's, as
    notebook 03 has it. Each map at its own threshold, chosen on validation. C2's are there where a telling part is
    known, of the images it is known of; the others are points of test IoU.
    """
    [last] = val.rows.loc[val.rows["method"] == "cam", "layer"]
    known, _ = with_parts(val, test)

    def iou(method: str, on: str = layer) -> np.ndarray:
        return per_image(val, test, {"method": method, "layer": on}, "iou")

    def grown(measure: str) -> np.ndarray:
        maps = ({"method": method, "layer": layer} for method in ("enhanced_map", "features"))
        enhanced, plain = (per_image(val, known, row, measure) for row in maps)
        return (enhanced - plain)[np.isfinite(enhanced - plain)]  # an image may have no rest

    earlier = np.mean([iou("pixel_selection", on) for on in layers if on != last], 0)
    parts = {REST: grown("recall_rest"), PRECISION: grown("precision")} if known.names else {}
    return parts | {
        "DGL minus CAM": iou("dgl") - iou("cam", last),
        "pixel selection minus the better baseline": earlier - iou(better_baseline(val), ""),
        "DGL minus pixel selection": iou("dgl") - iou("pixel_selection"),
        "DGL minus enhanced map": iou("dgl") - iou("enhanced_map"),
    }


def effects_table(per_run: Mapping[Any, Mapping[str, np.ndarray]], by: str = "seed") -> pd.DataFrame:
    """One row an effect and run: claim, effect, seed, mean, low, high (points, paired 95 % interval), n, verdict.

    ``by`` is what the runs differ in, and the column that tells them apart. The verdict is that of the claim's rule;
    C2's stands at ``REST``, and at ``PRECISION`` whether that was "kept".
    """
    rows = []
    for effect, claim in _effects(per_run).items():
        margin = claims.CLAIMS[claim].margin or 0.0
        for run, found in per_run.items():
            gain = bootstrap(found[effect])
            precision = bootstrap(found[PRECISION]) if effect in (REST, PRECISION) else None
            kept = (precision.low, precision.high) if precision else None
            verdict = claims.verdict(gain.low, gain.high, margin, kept)
            if effect == PRECISION:
                verdict = "lost" if gain.high < -margin else "kept"
            cells = {"mean": gain.mean, "low": gain.low, "high": gain.high, "n": gain.n}
            rows.append({"claim": claim, "effect": effect, by: run, **cells, "verdict": verdict})
    return pd.DataFrame(rows)


def _effects(per_run: Mapping[Any, Mapping[str, np.ndarray]]) -> dict[str, str]:
    """The effects that were measured, and the claim of each."""
    measured = next(iter(per_run.values()))
    return {effect: claim for effect, claim in EFFECTS.items() if effect in measured}


def effects_spread(per_seed: Mapping[int, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """One row an effect: claim, effect, its spread over the seeds (``spread``), and whether all have the same sign.

    ``low`` and ``high`` are the 95 % interval over images of each image's mean over the seeds: these networks, other
    images. How far other seeds would lie is told by the spread alone, and three of them tell little.
    """
    rows = []
    for effect, claim in _effects(per_seed).items():
        by_seed = np.stack([found[effect] for found in per_seed.values()])  # seeds x images
        means, over_images = by_seed.mean(1), bootstrap(by_seed.mean(0))
        same = bool((means > 0).all() or (means < 0).all())
        interval = {"low": over_images.low, "high": over_images.high}
        rows.append({"claim": claim, "effect": effect, **spread(means), "same_sign": same, **interval})
    return pd.DataFrame(rows)


def verdicts(by_run: pd.DataFrame, by: str = "seed", runs: str = "training seeds", other: str = "training") -> str:
    """Which claims' verdicts another run leaves as they are, in one sentence made from ``effects_table``.

    Args:
        by, runs, other: what the runs differ in, and what they are and one more of them is called.
    """
    order = ["not reproduced", "undecided", "reproduced"]  # of a claim with two effects, the worse decides
    stay, change = [], []
    rules = by_run[by_run["effect"] != PRECISION]  # that is part of the rule at REST
    for claim in rules["claim"].sort_values().unique().tolist():
        own = rules[rules["claim"] == claim]
        found = {run: min(one["verdict"], key=order.index) for run, one in own.groupby(by, sort=False)}
        if len(set(found.values())) == 1:
            stay.append(f"{claim} ({next(iter(found.values()))})")
        else:
            change.append(f"{claim} ({', '.join(f'{plots.label(by, run)}: {one}' for run, one in found.items())})")
    return (
        f"Of the claims checked with {by_run[by].nunique()} {runs}, the verdict stays the same for "
        f"{', '.join(stay) or 'none'}; another {other} changes it for {', '.join(change) or 'none'}."
    )


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean, smallest, largest, standard deviation (n - 1 in its denominator) and number of one value a seed."""
    v = np.asarray(values, float)
    numbers = (float(v.mean()), float(v.min()), float(v.max()), float(v.std(ddof=1)) if len(v) > 1 else np.nan, len(v))
    return dict(zip(SPREAD, numbers, strict=True))


def summarise(table: pd.DataFrame, layer: str) -> pd.DataFrame:
    """Each method's test IoU over the seeds, at each seed's validation-chosen layer and on ``layer``.

    Args:
        table: columns seed, method, layer, val_iou, iou; CAM has one layer, the trivial baselines "".

    Returns:
        columns method, at ("chosen" or "fixed"), layers (by seed), mean, min, max, sd (percent), seeds.
    """
    best = table.loc[table.groupby(["seed", "method"], sort=False)["val_iou"].idxmax()]
    fixed = {*on_layer(table, layer), *((name, "") for name in BASELINES)}
    on_fixed = table[[pair in fixed for pair in zip(table["method"], table["layer"], strict=True)]]
    rows = [
        {"method": method, "at": at, "layers": ", ".join(one["layer"]), **spread(one["iou"].to_numpy())}
        for at, rows in (("chosen", best), ("fixed", on_fixed))
        for method, one in rows.sort_values("seed", kind="stable").groupby("method", sort=False)
    ]
    return pd.DataFrame(rows)


# --------------------------------------------------------------------------------------------------------- the page


def page(
    table: pd.DataFrame,
    summary: pd.DataFrame,
    by_seed: pd.DataFrame,
    spreads: pd.DataFrame,
    parameters: dict[str, Any],
) -> str:
    """The page's Markdown, every sentence made from the tables."""
    agree, all_of_them = int(spreads["same_sign"].sum()), len(spreads)
    seeds = table.drop_duplicates("seed")
    n = by_seed.loc[by_seed["claim"] == "C5", "n"].iloc[0]  # C2's images may be others
    networks = ", ".join(
        "seed {seed:.0f}: {accuracy_val:.1f} / {accuracy_test:.1f} %".format_map(row)
        for row in seeds.to_dict("records")
    )
    lines = [
        f"# {len(seeds)} training seeds: {agree} of {all_of_them} effects have the same sign in all",
        f"Data: {parameters['data']}, {n} test images. The same training with another seed of the "
        f"starting weights, order, crops and dropout; classified right on validation / test: {networks}. Thresholds "
        "and layers are chosen on the validation part, for each network by itself; intervals are 95 % bootstrap "
        "intervals over images, paired where two maps are compared.",
        "![IoU and effects by seed](seeds.png)",
        verdicts(by_seed),
        "## The effects",
        *parts_note(by_seed),
        _effects_markdown(by_seed, spreads),
        *[_sentence(row, by_seed) for row in spreads.to_dict("records")],
        "## The methods",
        f"Test IoU in percent over {len(seeds)} seeds: mean [smallest, largest], standard deviation.",
        _summary_markdown(summary, parameters["layer"]),
        "Every layer, seed and threshold: `seeds.csv`.",
    ]
    return "\n\n".join(lines) + "\n"


def parts_note(by_run: pd.DataFrame) -> list[str]:
    """Of which images C2's effects are, in a sentence; none where no telling part is known."""
    images = by_run.loc[by_run["effect"] == REST, "n"]
    return [
        f"C2's are those of {n} images whose telling part is known: of validation where too few test images have one."
        for n in images.iloc[:1]
    ]


def _effects_markdown(by_seed: pd.DataFrame, spreads: pd.DataFrame) -> str:
    seeds = by_seed["seed"].unique()
    rows = []
    for row in spreads.to_dict("records"):
        own = by_seed[by_seed["effect"] == row["effect"]].set_index("seed").to_dict("index")
        cells = ["{mean:+z.2f} [{low:+z.2f}, {high:+z.2f}]".format_map(own[seed]) for seed in seeds]
        over = "{mean:+z.2f} [{low:+z.2f}, {high:+z.2f}]; {min:+z.2f} to {max:+z.2f}, sd {sd:.2f}".format_map(row)
        rows.append([row["claim"], row["effect"], *cells, over])
    header = ["", "effect, points", *(f"seed {seed}" for seed in seeds), "mean over seeds; range"]
    return claims.markdown(header, rows)


def _sentence(row: Mapping[Any, Any], by_seed: pd.DataFrame) -> str:
    own = by_seed[by_seed["effect"] == row["effect"]]
    verdicts = ", ".join(f"{v} in {n}" for v, n in own["verdict"].value_counts(sort=False).items())
    agree = f"the same sign in all {len(own)} seeds" if row["same_sign"] else "not the same sign in all seeds"
    width = float((own["high"] - own["low"]).mean()) / 2
    noise = "more" if row["sd"] > width else "no more"
    return (
        f"- **{row['claim']}, {row['effect']}:** {agree}; by the claim's rule {verdicts}. The seeds' standard "
        f"deviation is {row['sd']:.2f} points, {noise} than half the width of one seed's interval over images "
        f"({width:.2f})."
    )


def _summary_markdown(summary: pd.DataFrame, layer: str) -> str:
    rows = []
    for method, both in summary.groupby("method", sort=False):
        by = both.set_index("at").to_dict("index")
        text = {at: "{mean:.1f} [{min:.1f}, {max:.1f}], {sd:.2f}".format_map(one) for at, one in by.items()}
        layers = by["chosen"]["layers"] if method not in BASELINES else ""
        rows.append([style.NAMES.get(str(method), str(method)), text["fixed"], text["chosen"], layers])
    return claims.markdown(["method", f"on {layer} (CAM: its own)", "on its chosen layer", "chosen, by seed"], rows)
