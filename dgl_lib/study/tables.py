"""The tables that notebooks 05 to 08 read. They need the network, several networks, or hours; the notebooks do not.

Whatever takes long is kept below ``results/.runs`` under a name made of all that determines it, so that a run that
broke off goes on where it stood.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dgl_lib import evaluate
from dgl_lib.data import Dataset, Subset
from dgl_lib.evaluate import EFFECTS, Maps, Scores, controls, faithfulness, treatments
from dgl_lib.evaluate.boxes import box_scores, box_table, sizes, with_object
from dgl_lib.evaluate.compare import gradient_share, log_p_c
from dgl_lib.evaluate.mistakes import mistakes
from dgl_lib.evaluate.normalisation import normalisations, normalised, sweep
from dgl_lib.evaluate.scores import SINGLE
from dgl_lib.files import write_table
from dgl_lib.localize import CONTROLS, METHODS
from dgl_lib.metrics import bootstrap, iou
from dgl_lib.models import LAYER, LAYERS, NETWORKS, Classifier, load_checkpoint
from dgl_lib.plots import style
from dgl_lib.plots.maps import Panel, grid
from dgl_lib.study import paths, steps
from dgl_lib.study.profile import Profile

#: Trainings compared: the profile's seed and the next ones.
SEEDS = 3
#: Test images at the most, for insertion and deletion; all of other data. At pets' size 450 passes an image take half a
#: minute of one core where bfloat16 is fast, and minutes where it is not.
FAITHFUL = {"pets": 50}
#: Test images for the randomised weights: a dozen networks see each; a correlation varies little between images.
RANDOMISED = {"creatures": 40, "pets": 12}
#: Significant digits of tables from which notebooks compute, as those that hold a row an image.
IMAGES = 12


class Measured:
    """A profile's network, its validation and test images, every method's raw maps on every layer, and their scores."""

    def __init__(self, profile: Profile, progress: bool):
        self.profile, self.folder, self.progress = profile, paths.runs_folder(), progress
        self.options: dict[str, Any] = profile.localizing | {"folder": self.folder, "progress": progress}
        self.model = steps.classifier(profile.checkpoint, profile.data, [*profile.layers, profile.layer])
        self.val, self.test = self.parts = steps.parts(profile)
        self.val_maps, self.maps = (evaluate.every_map(self.model, part, **self.options) for part in self.parts)
        self.val_scores, self.scores = self.score(self.val, self.val_maps), self.score(self.test, self.maps)
        self.pixels = profile.data == "creatures" or profile.show_photos  # whether the images' own may be shown
        # ``report`` at one scale and without closing, and the same image by image.
        self.table = evaluate.report(self.val_scores, self.scores).drop(columns=["scales", "kernel"])
        self.images = evaluate.image_table(self.val_scores, self.scores, self.test.classes)

    def score(self, part: Dataset, maps: Maps, **options: Any) -> Scores:
        """Scores of one scale without closing, kept on disk."""
        return evaluate.score(part, {1.0: maps}, folder=self.folder, progress=self.progress, **options)


def comparison(profile: Profile, folder: Path, progress: bool) -> None:
    """05: every method on every layer. Scores, every image's scores, recall of the parts, DGL's two terms, pictures."""
    it = Measured(profile, progress)
    chosen = evaluate.choose_layers(it.table, it.images)
    place = {name: i for i, name in enumerate(it.test.names)}
    maps = it.maps.at([place[name] for name in it.scores.names])  # images without an object have no scores
    it.images.insert(3, "predicted", [it.test.classes[k] for k in maps.logits.argmax(1)])
    it.images.insert(4, "log_p_c", log_p_c(maps, it.scores.labels))
    both = {layer: m for (method, layer), m in maps.maps.items() if method == "dgl"}
    share = {at: bootstrap(100 * gradient_share(m, maps.maps["gradient_term", at])).row() for at, m in both.items()}
    write_table(folder / "05_scores.csv", it.table)
    write_table(folder / "05_images.csv", it.images, digits=IMAGES)
    write_table(folder / "05_parts.csv", _parts(it, chosen))
    write_table(folder / "05_gradient_share.csv", pd.DataFrame([{"layer": at, **row} for at, row in share.items()]))
    layers = [layer.name for layer in it.model.layers]
    for number, label in enumerate(np.unique(it.test.labels)[:2], start=1):
        i, of = int(np.flatnonzero(it.test.labels == label)[0]), it.maps.maps
        lines = [(m, i, [of[m, at][i] if (m, at) in of else None for at in layers]) for m in (*METHODS, *CONTROLS)]
        title = f"The first test image of class {it.test.classes[label]}: every method and control on every layer"
        _picture(it, folder, f"05_maps_{number}", title, lines, layers)
    _worst(it, chosen.loc[chosen["method"] == "dgl", "layer"].iloc[0], folder)


def _picture(
    it: Measured,
    folder: Path,
    name: str,
    title: str,
    lines: Sequence[tuple[str, int, Sequence[np.ndarray | None]]],
    columns: Sequence[str],
) -> None:
    """A figure of maps: a line is a row's name, its test image and its maps. Each photograph stands there once."""
    panels: list[list[Panel | None]] = []
    for k, (_, i, maps) in enumerate(lines):
        record = it.test[i]
        photograph = Panel(record) if k == 0 or i != lines[k - 1][1] else None
        panels.append([photograph, *(None if m is None else Panel(record, m) for m in maps)])
    rows = [row for row, *_ in lines]
    style.use_style()
    figure = grid(panels, pixels=it.pixels, rows=rows, columns=["image", *columns], title=title, size=0.75)
    style.save(figure, folder, name)


def _worst(it: Measured, layer: str, folder: Path) -> None:
    """05_worst.png: DGL's maps of the twelve test images with its lowest IoU, and of the first twelve."""
    column, place = f"dgl {layer}", {name: i for i, name in enumerate(it.test.names)}
    images = it.images
    shown = {"the worst": images.sort_values(column, kind="stable").head(12), "the first": images.head(12)}
    panels: list[Panel | None] = []
    for row in pd.concat(shown.values()).to_dict("records"):
        title = f"IoU {row[column]:.0f} %, $p_c$ {np.exp(row['log_p_c']):.2f}\n{row['class']}"
        i = place[row["image"]]
        panels.append(Panel(it.test[i], it.maps.maps["dgl", layer][i], title))
    count = len(panels) // 2
    lines = [panels[k : min(k + 6, end)] for end in (count, 2 * count) for k in range(end - count, end, 6)]
    rows = [name for name in shown for _ in range(0, count, 6)]
    wrong = [f"{(one['predicted'] != one['class']).sum()} of {name} {len(one)}" for name, one in shown.items()]
    title = f"DGL on {layer}: the classifier is wrong about {' and about '.join(wrong)}"
    style.save(grid(lines, pixels=it.pixels, rows=rows, title=title), folder, "05_worst")


def _parts(it: Measured, chosen: pd.DataFrame) -> pd.DataFrame:
    """Recall of part and rest and precision of each chosen row, and "gap", part minus rest, paired; ``where`` from."""
    columns = ["method", "layer", "measure", "mean", "low", "high", "images", "where"]
    if not (it.val_scores.has_part.any() or it.scores.has_part.any()):
        return pd.DataFrame(columns=columns)
    known, where = evaluate.with_parts(it.val_scores, it.scores)
    rows: list[dict[str, Any]] = chosen[["method", "layer"]].to_dict("records")  # type: ignore[assignment]
    gaps = []
    for row in rows:
        part, rest = (evaluate.per_image(it.val_scores, known, row, f"recall_{name}") for name in ("part", "rest"))
        gaps.append({**row, "measure": "gap", **bootstrap(part - rest).row()})
    found = evaluate.recalls(it.val_scores, known, rows)
    return pd.concat([found, pd.DataFrame(gaps)], ignore_index=True).assign(where=where)[columns]


def scoring(profile: Profile, folder: Path, progress: bool) -> None:
    """06: box scores beside mask scores, sizes, thresholds, normalisations, and what the usual mistakes add."""
    it = Measured(profile, progress)
    both = (it.val_scores, it.scores)
    chosen = evaluate.choose_layers(it.table, it.images)
    rows: list[dict[str, Any]] = chosen[["method", "layer"]].to_dict("records")  # type: ignore[assignment]
    pairs = [(row["method"], row["layer"]) for row in rows if row["layer"]]
    every = zip(it.parts, (it.val_maps, it.maps), both, strict=True)
    there = [with_object(part, {1.0: maps.only(pairs)}, scores) for part, maps, scores in every]
    found = [box_scores(part, maps, rows, it.folder, progress=progress) for part, maps in there]
    write_table(folder / "06_boxes.csv", box_table(chosen, found[0], found[1], both))
    at_input = [it.score(part, maps[1.0], size=profile.image_size) for part, maps in there]
    by_size = {"photograph's own": both, "input": (at_input[0], at_input[1])}
    write_table(folder / "06_sizes.csv", sizes(by_size, rows))
    curves = []
    for row in rows:
        val, test = (100 * iou(scores.find(**row)).mean(0) for scores in both)
        curves.append(pd.DataFrame({**row, "threshold": range(256), "val": val, "test": test}))
    write_table(folder / "06_curves.csv", pd.concat(curves, ignore_index=True), digits=IMAGES)
    normal = [normalised(part, maps[1.0], pairs, it.folder, progress=progress) for part, maps in there]
    swept = sweep(normal[0], normal[1], pairs)
    write_table(folder / "06_percentiles.csv", swept)
    write_table(folder / "06_normalisation.csv", normalisations(swept, normal[1], chosen))

    scaled = {"layer": profile.layer, "methods": profile.ablation_methods, "scales": profile.scales, **it.options}
    two = [("cam", it.model.layers[-1].name), ("dgl", profile.layer)]
    every_scale = [evaluate.maps_of_scales(it.model, part, **scaled) for part in it.parts]
    by_scale = [{scale: maps.only(two) for scale, maps in found.items()} for found in every_scale]
    sets, kernels = treatments.scale_sets(profile.scales), treatments.closing_kernels(profile.kernels)
    settings = [(SINGLE, 0.0), *((s, 0.0) for s in sets), *((SINGLE, k) for k in kernels)]
    kept = partial(evaluate.score, folder=it.folder, progress=progress)
    val, test = (kept(part, maps, settings) for part, maps in zip(it.parts, by_scale, strict=True))
    write_table(folder / "06_mistakes.csv", mistakes(*both, it.table, chosen, (val, test)))
    write_table(folder / "06_treatments.csv", _treatments(it, by_scale))


def _treatments(it: Measured, by_scale: list[dict[float, Maps]]) -> pd.DataFrame:
    """Every score of CAM and DGL untreated, at several scales (MS), and closed as well (MS+MC), against untreated."""
    kept: dict[str, Any] = {"progress": it.progress}
    val, chosen = treatments.search(it.val, by_scale[0], it.profile.scales, it.profile.kernels, **kept)
    test = treatments.score_chosen(it.test, by_scale[1], chosen, **kept)
    table = treatments.report_table(val, test, chosen).query("treatment != 'MC'").reset_index(drop=True)
    table["kind"] = np.where(table["treatment"] == "", "baseline", "method")
    by = ["method", "layer", "scales", "kernel"]
    keys = {(one["method"], one["treatment"]): tuple(one[name] for name in by) for one in table.to_dict("records")}
    over = {key: keys[method, treatment and "none"] for (method, treatment), key in keys.items()}
    there = [with_object(*one) for one in zip(it.parts, by_scale, (val, test), strict=True)]
    rows: list[dict[str, Any]] = table[by].to_dict("records")  # type: ignore[assignment]
    found = [box_scores(part, maps, rows, it.folder, **kept) for part, maps in there]
    boxes = box_table(table, found[0], found[1], (val, test), by=by, over=over)
    return boxes.merge(table[[*by, "treatment"]], on=by)


def control(profile: Profile, folder: Path, progress: bool) -> None:
    """07: wrong class, other weights, low confidence; insertion, deletion and randomised weights; maps of three images.

    The network of shuffled labels is trained for the creatures, which takes minutes. Of other data it is used where
    notebook 08's tables trained it.
    """
    it = Measured(profile, progress)
    chosen = evaluate.select(it.table[it.table["layer"] != ""])
    cam_layer = it.model.layers[-1].name
    fixed = [(m, cam_layer if m == "cam" else profile.layer) for m in chosen["method"]]
    pairs = list(dict.fromkeys([*fixed, *zip(chosen["method"], chosen["layer"], strict=True)]))
    asked: dict[str, Any] = {
        "layers": sorted({layer for _, layer in pairs}),
        "methods": sorted({method for method, _ in pairs}),
    }

    def localized(network: Classifier, part: Dataset, classes: list[int] | None = None) -> Maps:
        return evaluate.raw_maps(network, part, classes=classes, **asked, **it.options).only(pairs)

    maps = it.maps.only(pairs)
    right = controls.Measured(it.val_scores, it.score(it.test, maps), maps)
    other = controls.strongest_other(maps.logits, it.test.labels)
    wrong = localized(it.model, it.test, other.tolist())
    measured = {controls.RIGHT: right}
    measured[controls.WRONG] = controls.Measured(it.val_scores, it.score(it.test, wrong), wrong)
    for name, network in _other_networks(profile, it.model, progress).items():
        val, test = (localized(network, part) for part in it.parts)
        measured[name] = controls.Measured(it.score(it.val, val), it.score(it.test, test), test)
    p_c = torch.from_numpy(maps.logits).softmax(1).numpy()[np.arange(len(it.test)), it.test.labels]
    p_c = p_c[np.isin(it.test.names, right.test.names)]
    lines = [line for name, one in measured.items() for line in controls.compare(name, one, right)]
    table = pd.DataFrame(lines + controls.compare_confidence(right, p_c))
    write_table(folder / "07_controls.csv", table)
    right_share = {name: (one.maps.logits.argmax(1) == it.test.labels).mean() for name, one in measured.items()}
    accuracy = [(name, 100 * float(share)) for name, share in right_share.items() if name != controls.WRONG]
    write_table(folder / "07_networks.csv", pd.DataFrame(accuracy, columns=["network", "test_accuracy"]))
    first = [int(np.flatnonzero(it.test.labels == label)[0]) for label in np.unique(it.test.labels)[:3]]
    shown = [(name, i, [one.maps.maps[pair][i] for pair in fixed]) for i in first for name, one in measured.items()]
    title = "The first test image of three classes: the right class, then the controls"
    _picture(it, folder, "07_maps", title, shown, [method for method, _ in fixed])
    _faithful(it, folder)


def _other_networks(profile: Profile, model: Classifier, progress: bool) -> dict[str, Classifier]:
    """The control networks by name: untrained, its head fresh (with ``weights``), trained on shuffled labels."""
    found = {"untrained": controls.untrained(model, None, profile.seed + 1)}
    if (weights := paths.weights_source(profile.weights)) is not None:
        found["fresh head"] = controls.untrained(model, weights, profile.seed + 1)
    shuffled = profile.model_copy(update={"labels": "shuffled"})
    if profile.data == "creatures" or steps.is_trained(shuffled):
        found["shuffled labels"] = load_checkpoint(steps.train_classifier(shuffled, progress=progress))
    return found


def _faithful(it: Measured, folder: Path) -> None:
    """Insertion, deletion and randomised weights, of each method on the layer with its best validation IoU."""
    profile, data = it.profile, it.profile.data
    table = evaluate.select(it.table[it.table["method"].isin(METHODS)]).set_index("method").loc[list(METHODS)]
    best = {(str(method), row["layer"]): row["val_iou"] for method, row in table.iterrows()}
    shown = faithfulness.in_turn(it.test.labels, FAITHFUL.get(data, len(it.test)))
    part, maps = Subset(it.test, shown), {pair: it.maps.maps[pair][shown] for pair in best}
    kept: dict[str, Any] = {"folder": it.folder, "progress": it.progress}
    found = faithfulness.all_curves(it.model, part, maps, profile.localizing, resize=profile.resize, **kept)
    write_table(folder / "07_auc.csv", faithfulness.auc_table(found, best))
    write_table(folder / "07_curves.csv", faithfulness.curves_table(found))
    dgl = next(m for (method, _), m in maps.items() if method == "dgl")
    rounded = faithfulness.rounding(it.model, part, dgl, profile.resize, profile.device)
    write_table(folder / "07_precision.csv", rounded)
    few = Subset(it.test, faithfulness.in_turn(it.test.labels, RANDOMISED.get(data, 12)))
    random = faithfulness.randomisation(it.model, few, profile.layer, profile.localizing, **kept)
    write_table(folder / "07_randomisation.csv", random)


def trainings(profile: Profile, folder: Path, progress: bool) -> None:
    """08: the same recipe with other seeds, and with the other two networks. Scores, gains, effects image by image."""
    seeds, networks, effects = [], [], []
    for seed in range(profile.seed, profile.seed + SEEDS):
        it, accuracy = _trained(profile, progress, seed=seed)
        seeds.append(it.table.assign(seed=seed, **accuracy))
        effects += _effects(it, f"seed {seed}")
    tables: dict[str, list[pd.DataFrame]] = {"network_scores": [], "network_chosen": [], "network_gains": []}
    for network in NETWORKS:
        own = {"network": network, "layers": [layer.name for layer in LAYERS[network]], "layer": LAYER[network]}
        it, accuracy = _trained(profile, progress, **own)
        chosen = evaluate.choose_layers(it.table, it.images)
        gains = evaluate.gains(chosen, it.images, it.profile.layer)
        facts = {"network": network, "layer": it.profile.layer, "cam_layer": it.model.layers[-1].name}
        networks.append(facts | {"layers": len(it.profile.layers), "images": len(it.images), **accuracy})
        for name, table in zip(tables, (it.table, chosen, gains), strict=True):
            table.insert(0, "network", network)
            tables[name].append(table)
        effects += _effects(it, network)
    steps.train_classifier(profile.model_copy(update={"labels": "shuffled"}), progress=progress)  # for notebook 07
    columns = ["seed", "method", "layer", "threshold", "val_iou", "iou", "low", "high", "accuracy_val", "accuracy_test"]
    write_table(folder / "08_seeds.csv", pd.concat(seeds, ignore_index=True)[columns], digits=IMAGES)
    write_table(folder / "08_effects_by_image.csv", pd.DataFrame(effects), digits=IMAGES)
    write_table(folder / "08_networks.csv", pd.DataFrame(networks))
    for name, several in tables.items():
        write_table(folder / f"08_{name}.csv", pd.concat(several, ignore_index=True))


def _trained(profile: Profile, progress: bool, **changes: Any) -> tuple[Measured, dict[str, float]]:
    """The profile with these changes, its classifier trained or found trained, measured; accuracies in percent."""
    own = profile.model_copy(update=changes)
    checkpoint = steps.train_classifier(own, progress=progress).relative_to(paths.project_root()).as_posix()
    it = Measured(own.model_copy(update={"checkpoint": checkpoint}), progress)
    right = [100 * float((maps.logits.argmax(1) == maps.classes).mean()) for maps in (it.val_maps, it.maps)]
    return it, dict(zip(("accuracy_val", "accuracy_test"), right, strict=True))


def _effects(it: Measured, run: str) -> list[dict[str, Any]]:
    """The effects behind the claims, a row an image: run, claim, effect, image (its number), value (points)."""
    found = evaluate.effects(it.val_scores, it.scores, it.profile.layer, it.profile.layers)
    return [
        {"run": run, "claim": EFFECTS[name], "effect": name, "image": i, "value": value}
        for name, values in found.items()
        for i, value in enumerate(values)
    ]


TABLES: dict[str, Callable[[Profile, Path, bool], None]] = {
    "05": comparison,
    "06": scoring,
    "07": control,
    "08": trainings,
}
