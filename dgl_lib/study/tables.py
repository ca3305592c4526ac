"""The tables that notebooks 05 to 08 read. They need the network, several networks, or hours; the notebooks do not.

Whatever takes long is kept below ``results/.runs`` under a name made of all that determines it, so that a run that
broke off goes on where it stood.
"""

from collections import defaultdict
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from dgl_lib import evaluate, pulling
from dgl_lib.data import Creatures, Dataset, Subset
from dgl_lib.data.creatures import Pairs
from dgl_lib.data.mosaic import CELLS, Mosaic
from dgl_lib.evaluate import Maps, Scores, controls, effects, faithfulness, treatments
from dgl_lib.evaluate import selectivity as whose
from dgl_lib.evaluate.boxes import box_scores, box_table, sizes, with_object
from dgl_lib.evaluate.compare import gradient_share, log_p_c
from dgl_lib.evaluate.fusions import candidates, search_fusions
from dgl_lib.evaluate.mistakes import mistakes
from dgl_lib.evaluate.normalisation import normalisations, normalised, sweep
from dgl_lib.evaluate.padding import padding_table
from dgl_lib.evaluate.raw import beside_weights
from dgl_lib.evaluate.scores import SINGLE, mean_iou
from dgl_lib.fast import pick_device
from dgl_lib.files import kept, key_of, write_table
from dgl_lib.localize import CONTROLS, METHODS
from dgl_lib.metrics import bootstrap
from dgl_lib.models import LAYER, LAYERS, NETWORKS, Classifier, SPGPlain, digest, load_checkpoint, preprocess
from dgl_lib.plots import style
from dgl_lib.plots.maps import Panel, beside, grid
from dgl_lib.study import claims, paths, steps
from dgl_lib.study.profile import Profile

#: Trainings that verdicts rest on: the profile's seed and the next ones; three of other data.
SEEDS = {"creatures": 5}
#: The control that can learn no class reaches nothing.
SHUFFLED = {"labels": "shuffled", "reach": 0.0}
#: Test images at the most, for insertion and deletion; all of other data. A creature takes two seconds of one core. At
#: pets' size 450 passes an image take half a minute where bfloat16 is fast, and minutes where it is not.
FAITHFUL = {"creatures": 160, "pets": 50}
#: Test images for the randomised weights: a dozen networks see each; a correlation varies little between images.
RANDOMISED = {"creatures": 40, "pets": 12}
#: Mosaics at the most, 25 of other data: a mosaic is asked four times at four times the pixels. At pets' size 25 take
#: nearly all sure test images and half an hour of two cores; 50 are half of the creatures' test images.
MOSAICS = {"creatures": 50}
PIECED = 10  # test images of each class whose pieces are taken out; each is drawn half a dozen times
#: Significant digits of tables from which notebooks compute, as those that hold a row an image.
IMAGES = 12


class Measured:
    """A profile's network, its validation and test images, every method's raw maps on every layer, and their scores."""

    def __init__(self, profile: Profile, progress: bool):
        self.profile, self.progress = profile, progress
        self.kept: dict[str, Any] = {"folder": paths.runs_folder(), "progress": progress}
        self.options = profile.localizing | self.kept
        self.model = steps.classifier(profile.checkpoint, profile.data, [*profile.layers, profile.layer])
        self.val, self.test = self.parts = steps.parts(profile)
        self.val_maps, self.maps = (evaluate.every_map(self.model, part, **self.options) for part in self.parts)
        self.val_scores = self.score(self.val, {1.0: self.val_maps})
        self.scores = self.score(self.test, {1.0: self.maps})
        self.accuracy = {"accuracy_val": _accuracy(self.val_maps), "accuracy_test": _accuracy(self.maps)}
        self.firsts: list[int] = np.unique(self.test.labels, return_index=True)[1].tolist()  # each class's first image
        self.pixels = profile.data == "creatures" or profile.show_photos  # whether the images' own may be shown
        # ``report`` at one scale and without closing, the same image by image, and each method at its best layer.
        self.table = evaluate.report(self.val_scores, self.scores).drop(columns=["scales", "kernel"])
        self.images = evaluate.image_table(self.val_scores, self.scores, self.test.classes)
        self.chosen = evaluate.choose_layers(self.table, self.images)
        self.rows: list[Any] = self.chosen[["method", "layer"]].to_dict("records")
        self.best: dict[str, dict[Any, Any]] = {row["method"]: row for row in self.chosen.to_dict("records")}

    def score(self, part: Dataset, maps: dict[float, Maps], **options: Any) -> Scores:
        """Scores of one scale without closing, or of the ``settings`` given, kept on disk."""
        return evaluate.score(part, maps, **self.kept, **options)


def _accuracy(maps: Maps) -> float:
    """How often the strongest class is the one that was localized, the image's own, in percent."""
    return 100 * float((maps.logits.argmax(1) == maps.classes).mean())


def comparison(profile: Profile, folder: Path, progress: bool) -> None:
    """05: every method on every layer. Scores, every image's scores, recall of the parts, DGL's two terms, pictures."""
    it = Measured(profile, progress)
    layers = [layer.name for layer in it.model.layers]
    test, by_scale = with_object(it.test, {1.0: it.maps}, it.scores)  # images without an object have no scores
    maps = by_scale[1.0]
    it.images.insert(3, "predicted", [test.classes[k] for k in maps.logits.argmax(1)])
    it.images.insert(4, "log_p_c", log_p_c(maps, it.scores.labels))
    share = {at: gradient_share(maps.maps["dgl", at], maps.maps["gradient_term", at]) for at in layers}
    shares = [{"layer": at, **bootstrap(100 * values).row()} for at, values in share.items()]
    write_table(folder / "05_scores.csv", it.table)
    write_table(folder / "05_images.csv", it.images, digits=IMAGES)
    write_table(folder / "05_parts.csv", _parts(it))
    write_table(folder / "05_gradient_share.csv", pd.DataFrame(shares))
    if isinstance(it.model, SPGPlain):  # the other networks have one padding
        write_table(folder / "05_padding.csv", padding_table(it.model, it.parts, (it.val_maps, it.maps), **it.options))
    if (fusions := _fusions(it)) is not None:
        write_table(folder / "05_fusions.csv", fusions)
    rows = {method: {at: it.maps.maps.get((method, at)) for at in layers} for method in (*METHODS, *CONTROLS)}
    for number, i in enumerate(it.firsts[:2], start=1):
        label = it.test.classes[it.test.labels[i]]
        title = f"The first test image of class {label}: every method and control on every layer"
        style.save(_picture(it, title, [i], rows), folder, f"05_maps_{number}")
    style.save(_worst(it, test, maps), folder, "05_worst")


def _fusions(it: Measured) -> pd.DataFrame | None:
    """The search for a better fusion; of other data the creatures' chosen one, unchanged. None: it cannot be made.

    Other data have mosaics of test images alone, as more take half an hour. There the best single map by share is
    chosen on test, which can only favour it."""
    drawn, file = it.profile.data == "creatures", paths.project_root() / "results/creatures/05_fusions.csv"
    if (asked := _mosaics(it, it.test, it.maps)) is None or not (drawn or file.is_file()):
        return None
    layers = [at.name for at in it.model.layers]
    if drawn:
        tries = candidates([*layers[-7:-2:2], *layers[-2:]])  # of SPG-plain: Mixed_6a, 6c, 6e, add2, add1
        before = _mosaics(it, it.val, it.val_maps) or asked
        pairs = partial(whose.two_creatures, it.model, Pairs("val"), Pairs("test"), it.kept, **it.profile.localizing)
    else:
        chosen, before, pairs = pd.read_csv(file).query("role == 'chosen'"), asked, None
        tries = [*zip(chosen["method"], chosen["layer"], strict=True)]
        if not {name.split(" ")[1] for _, what in tries for name in what.split(" + ")} <= {*layers}:
            return None  # another network
    val, test = (it.val, it.val_maps, it.val_scores, before[1]), (it.test, it.maps, it.scores, asked[1])
    return search_fusions(val, test, tries, pairs)


def _picture(it: Measured, title: str, images: list[int], rows: dict[str, dict[str, Any]]) -> Figure:
    """Each of these test images, then its maps. ``rows`` holds all test images' maps, or None, by row and column."""
    panels: list[list[Panel | None]] = []
    for i in images:
        record = it.test[i]
        own = [[None if m is None else Panel(record, m[i]) for m in maps.values()] for maps in rows.values()]
        panels += [[Panel(record) if k == 0 else None, *row] for k, row in enumerate(own)]
    columns = ["image", *next(iter(rows.values()))]
    style.use_style()
    return grid(panels, pixels=it.pixels, rows=[*rows] * len(images), columns=columns, title=title, size=0.75)


def _worst(it: Measured, test: Dataset, maps: Maps) -> Figure:
    """DGL's maps of the twelve test images with its lowest IoU, and of the first twelve."""
    layer = it.best["dgl"]["layer"]
    column = f"dgl {layer}"
    shown = {"the worst": it.images.sort_values(column, kind="stable").head(12), "the first": it.images.head(12)}
    lines, wrong, rows = [], [], list[str]()
    for name, images in shown.items():
        panels = []
        for i, row in zip(images.index, images.to_dict("records"), strict=True):
            title = f"IoU {row[column]:.0f} %, $p_c$ {np.exp(row['log_p_c']):.2f}\n{row['class']}"
            panels.append(Panel(test[i], maps.maps["dgl", layer][i], title))
        lines += [panels[k : k + 6] for k in range(0, len(panels), 6)]
        rows += [name] * (len(lines) - len(rows))
        wrong.append(f"{(images['predicted'] != images['class']).sum()} of {name} {len(images)}")
    title = f"DGL on {layer}: the classifier is wrong about {' and about '.join(wrong)}"
    return grid(lines, pixels=it.pixels, rows=rows, title=title)


def _parts(it: Measured) -> pd.DataFrame:
    """``recalls`` of each chosen row, and ``where`` the images are from; no row where no telling part is known."""
    known, where = evaluate.with_parts(it.val_scores, it.scores)
    if not known.names:
        return pd.DataFrame(columns=["method", "layer", "measure", "mean", "low", "high", "images", "where"])
    return evaluate.recalls(it.val_scores, known, it.rows).assign(where=where)


def scoring(profile: Profile, folder: Path, progress: bool) -> None:
    """06: box scores beside mask scores, sizes, thresholds, normalisations, and what the usual mistakes add."""
    it = Measured(profile, progress)
    both = (it.val_scores, it.scores)
    pairs = [(row["method"], row["layer"]) for row in it.rows if row["layer"]]
    single = [{1.0: maps.only(pairs)} for maps in (it.val_maps, it.maps)]
    there = [with_object(*one) for one in zip(it.parts, single, both, strict=True)]
    val_boxes, boxes = (box_scores(part, maps, it.rows, **it.kept) for part, maps in there)
    write_table(folder / "06_boxes.csv", box_table(it.chosen, val_boxes, boxes, both))
    val, test = (it.score(part, maps, size=profile.image_size) for part, maps in there)
    write_table(folder / "06_sizes.csv", sizes({"photograph's own": both, "input": (val, test)}, it.rows))
    curves = []
    for row in it.rows:
        before, after = (100 * mean_iou(scores.find(**row)) for scores in both)
        curves.append(pd.DataFrame({**row, "threshold": range(256), "val": before, "test": after}))
    write_table(folder / "06_curves.csv", pd.concat(curves, ignore_index=True), digits=IMAGES)
    val_normal, normal = (normalised(part, maps[1.0], pairs, **it.kept) for part, maps in there)
    swept = sweep(val_normal, normal, pairs)
    write_table(folder / "06_percentiles.csv", swept)
    write_table(folder / "06_normalisation.csv", normalisations(swept, normal, it.chosen))

    two = [("cam", it.model.layers[-1].name), ("dgl", profile.layer)]
    by_scale = _by_scale(it, two)
    sets, kernels = treatments.scale_sets(profile.scales), treatments.closing_kernels(profile.kernels)
    settings = [(SINGLE, 0.0), *((s, 0.0) for s in sets), *((SINGLE, k) for k in kernels)]
    val, test = (it.score(part, maps, settings=settings) for part, maps in zip(it.parts, by_scale, strict=True))
    write_table(folder / "06_mistakes.csv", mistakes(*both, it.table, it.chosen, (val, test)))
    write_table(folder / "06_treatments.csv", _treatments(it, by_scale))


def _by_scale(it: Measured, pairs: list[tuple[str, str]]) -> list[dict[float, Maps]]:
    """The raw maps of these (method, layer) pairs at every scale of the profile, of validation and of test images."""
    own = it.profile
    asked = {"layer": own.layer, "methods": own.ablation_methods, "scales": own.scales, **it.options}
    every = [evaluate.maps_of_scales(it.model, part, **asked) for part in it.parts]
    return [{scale: maps.only(pairs) for scale, maps in found.items()} for found in every]


def _treatments(it: Measured, by_scale: list[dict[float, Maps]]) -> pd.DataFrame:
    """Every score of CAM and DGL untreated, at several scales (MS), and closed as well (MS+MC), against untreated."""
    val, chosen = treatments.search(it.val, by_scale[0], it.profile.scales, it.profile.kernels, **it.kept)
    test = treatments.score_chosen(it.test, by_scale[1], chosen, **it.kept)
    table = treatments.report_table(val, test, chosen).query("treatment != 'MC'").reset_index(drop=True)
    table["kind"] = np.where(table["treatment"] == "", "baseline", "method")
    by = ["method", "layer", "scales", "kernel"]
    keys = {(one["method"], one["treatment"]): tuple(one[name] for name in by) for one in table.to_dict("records")}
    over = {key: keys[method, treatment and "none"] for (method, treatment), key in keys.items()}
    there = [with_object(*one) for one in zip(it.parts, by_scale, (val, test), strict=True)]
    rows: list[Any] = table[by].to_dict("records")
    val_boxes, boxes = (box_scores(part, maps, rows, **it.kept) for part, maps in there)
    scores = box_table(table, val_boxes, boxes, (val, test), by=by, over=over)
    return scores.assign(treatment=table["treatment"].repeat(len(scores) // len(table)).to_numpy())


def control(profile: Profile, folder: Path, progress: bool) -> None:
    """07: wrong class, other weights, low confidence; insertion, deletion and randomised weights; maps of three images.

    The network of shuffled labels is trained for the creatures, which takes minutes. Of other data it is used where
    notebook 08's tables trained it."""
    it = Measured(profile, progress)
    fixed = {method: (method, profile.layer) for method in (*METHODS, *CONTROLS)}
    fixed["cam"] = ("cam", it.model.layers[-1].name)
    pairs = list(dict.fromkeys([*fixed.values(), *((method, it.best[method]["layer"]) for method in fixed)]))
    methods, layers = (sorted(set(names)) for names in zip(*pairs, strict=True))

    def localized(network: Classifier, part: Dataset, **classes: Any) -> Maps:
        return evaluate.raw_maps(network, part, layers=layers, methods=methods, **classes, **it.options).only(pairs)

    def measured(maps: Maps, val: Scores = it.val_scores) -> controls.Measured:
        return controls.Measured(val, it.score(it.test, {1.0: maps}), maps)

    right = measured(it.maps.only(pairs))
    other = controls.strongest_other(it.maps.logits, it.test.labels)
    every = {controls.RIGHT: right, controls.WRONG: measured(localized(it.model, it.test, classes=other))}
    for name, network in _other_networks(profile, it.model, progress).items():
        val, test = (localized(network, part) for part in it.parts)
        every[name] = measured(test, it.score(it.val, {1.0: val}))
    p_c = torch.from_numpy(it.maps.logits).softmax(1).numpy()[np.arange(len(it.test)), it.test.labels]
    p_c = p_c[np.isin(it.test.names, right.test.names)]
    lines = [line for name, one in every.items() for line in controls.compare(name, one, right)]
    write_table(folder / "07_controls.csv", pd.DataFrame(lines + controls.compare_confidence(right, p_c)))
    accuracy = [(name, _accuracy(one.maps)) for name, one in every.items() if name != controls.WRONG]
    write_table(folder / "07_networks.csv", pd.DataFrame(accuracy, columns=["network", "test_accuracy"]))
    title = "The first test image of three classes: the right class, then the controls"
    rows = {name: {method: one.maps.maps[pair] for method, pair in fixed.items()} for name, one in every.items()}
    style.save(_picture(it, title, it.firsts[:3], rows), folder, "07_maps")
    _faithful(it, folder)
    selectivity(it, folder)


def _other_networks(profile: Profile, model: Classifier, progress: bool) -> dict[str, Classifier]:
    """The control networks by name: untrained, its head fresh (with ``weights``), trained on shuffled labels."""
    found = {"untrained": controls.untrained(model, None, profile.seed + 1)}
    if (weights := paths.weights_source(profile.weights)) is not None:
        found["fresh head"] = controls.untrained(model, weights, profile.seed + 1)
    shuffled = profile.model_copy(update=SHUFFLED)
    if profile.data == "creatures" or steps.is_trained(shuffled):
        found["shuffled labels"] = load_checkpoint(steps.train_classifier(shuffled, progress=progress))
    return found


def _faithful(it: Measured, folder: Path) -> None:
    """Insertion, deletion, randomised weights: of methods and plain features, each on its best validation layer."""
    profile, labels = it.profile, it.test.labels
    best = {(method, it.best[method]["layer"]): it.best[method]["val_iou"] for method in (*METHODS, "features")}
    shown = faithfulness.in_turn(labels, FAITHFUL.get(profile.data, len(it.test)))
    part, maps = Subset(it.test, shown), {pair: it.maps.maps[pair][shown] for pair in best}
    found = faithfulness.all_curves(it.model, part, maps, profile.localizing, resize=profile.resize, **it.kept)
    write_table(folder / "07_auc.csv", faithfulness.auc_table(found, best))
    write_table(folder / "07_curves.csv", faithfulness.curves_table(found))
    dgl = maps["dgl", it.best["dgl"]["layer"]]
    write_table(folder / "07_precision.csv", faithfulness.rounding(it.model, part, dgl, profile.resize, profile.device))
    few = Subset(it.test, faithfulness.in_turn(labels, RANDOMISED.get(profile.data, 12)))
    random = faithfulness.randomisation(it.model, few, profile.layer, profile.localizing, **it.kept)
    write_table(folder / "07_randomisation.csv", random)


def _mosaics(it: Measured, part: Dataset, maps: Maps) -> tuple[Mosaic, Maps] | None:
    """Mosaics of the images of ``part`` that the network is sure of, and every map of them; None: too few classes."""
    groups, size = whose.sure_groups(maps, part.labels, MOSAICS.get(it.profile.data, 25)), it.profile.image_size
    if not groups:
        return None
    mosaic = Mosaic(part, groups, size)
    return mosaic, evaluate.every_map(it.model, mosaic, **it.options | {"size": 2 * size})


def selectivity(it: Measured, folder: Path) -> None:
    """Whose pixels a map shows: mosaics, where four classes have a sure test image; of creatures also pairs, pieces."""
    size, layer = it.profile.image_size, it.profile.layer
    if asked := _mosaics(it, it.test, it.maps):
        mosaic, maps = asked
        values = whose.pointing(mosaic, maps)
        write_table(folder / "07_pointing.csv", whose.summary(values, "share"))
        images = values.pivot_table("share", "picture", values["method"] + " " + values["layer"])
        write_table(folder / "07_pointing_images.csv", images, digits=IMAGES, index=True)  # means of the four asked
        shown = ("dgl", "pixel_selection", "grad_cam_signed", "layer_cam", "enhanced_map", "features")
        title = f"A mosaic of four test images, asked for each of its classes; maps on {layer}"
        four, own = [mosaic[i] for i in range(CELLS)], {of: maps.maps[of, layer] for of in shown}
        style.save(beside(four, own, pixels=it.pixels, rows=values["class"][:CELLS], title=title), folder, "07_mosaic")
    if it.profile.data == "creatures":
        pairs = whose.two_creatures(it.model, Pairs("val"), Pairs("test"), kept=it.kept, **it.profile.localizing)
        write_table(folder / "07_pairs.csv", whose.pairs_table(pairs))
        write_table(folder / "07_pairs_by_gap.csv", whose.gap_table(pairs))
        drawn, chosen = Creatures("test"), faithfulness.in_turn(it.test.labels, PIECED * len(it.test.classes))
        indices = [drawn.names.index(it.test.names[i]) for i in chosen]
        drops = whose.piece_drops(it.model, drawn, indices, size, it.profile.device)
        each = drops.melt(["picture", "piece"], var_name="measure", value_name="drop")
        write_table(folder / "07_pieces.csv", whose.summary(each, "drop", ["piece", "measure"]))
        alike = whose.piece_correlation(drawn, indices, it.maps.at(chosen), drops)
        write_table(folder / "07_piece_correlation.csv", whose.summary(alike, "correlation"))


def trainings(profile: Profile, folder: Path, progress: bool) -> None:
    """08: the same recipe with other seeds, and with the other two networks. Scores, gains, effects image by image.

    Verdicts rest on the seeds' trainings. The other networks are exploratory, and left out where the starting weights
    are a file: it fits one network."""
    seeds, found, shares = {}, {}, []
    for seed in range(profile.seed, profile.seed + SEEDS.get(profile.data, 3)):
        it = _trained(profile, progress, seed=seed)
        seeds[seed] = it.table.assign(**it.accuracy)
        found[f"seed {seed}"] = every_effect(it)
        if asked := _mosaics(it, it.test, it.maps):
            shares.append(whose.pointing(*asked))
    verdicts = claims.verdicts(pd.concat(found, names=["run"]).reset_index("run"))
    tables: dict[str, dict[str, pd.DataFrame]] = defaultdict(dict)  # by table and network
    file = isinstance(paths.weights_source(profile.weights), Path)  # of starting weights, which fit one network
    for network in [profile.network] if file else NETWORKS:
        layers = [layer.name for layer in LAYERS[network]]
        own: dict[str, Any] = {} if network == "spg_plain" else {"padding": "symmetric"}  # they have no other
        it = _trained(profile, progress, network=network, layers=layers, layer=LAYER[network], **own)
        facts = {"layer": LAYER[network], "cam_layer": layers[-1], "layers": len(layers), "images": len(it.images)}
        tables["networks"][network] = pd.DataFrame([facts | it.accuracy])
        tables["network_scores"][network] = it.table
        tables["network_chosen"][network] = it.chosen
        tables["network_gains"][network] = evaluate.gains(it.chosen, it.images, LAYER[network])
        if network != profile.network:  # its effects are the first seed's
            found[network] = every_effect(it)
    steps.train_classifier(profile.model_copy(update=SHUFFLED), progress=progress)  # for notebook 07
    columns = ["seed", "method", "layer", "threshold", "val_iou", "iou", "low", "high", "accuracy_val", "accuracy_test"]
    write_table(folder / "08_seeds.csv", pd.concat(seeds, names=["seed"]).reset_index("seed")[columns], digits=IMAGES)
    write_table(folder / "08_effects_by_image.csv", pd.concat(found, names=["run"]).reset_index("run"), digits=IMAGES)
    write_table(folder / "verdicts.csv", verdicts)
    if shares:
        write_table(folder / "08_pointing.csv", whose.over_trainings(shares))
    for name, several in tables.items():
        write_table(folder / f"08_{name}.csv", pd.concat(several, names=["network"]).reset_index("network"))


def _trained(profile: Profile, progress: bool, **changes: Any) -> Measured:
    """The profile with these changes, measured with its classifier, which is published, found trained or trained."""
    own = profile.model_copy(update=changes)
    checkpoint = paths.below_root(steps.published(own) or steps.train_classifier(own, progress=progress))
    return Measured(own.model_copy(update={"checkpoint": checkpoint}), progress)


def every_effect(it: Measured) -> pd.DataFrame:
    """All effects behind the claims of one network, as ``evaluate.effects`` gives them; kept, as they take minutes."""
    profile, model = it.profile, it.model
    facts = profile.model_dump(include={"image_size", "alpha", "rule", "layer", "layers", "scales", "kernels"})
    facts |= {"precision": "fast"} if profile.precision == "fast" else {}
    facts |= {"model": [digest(model), beside_weights(model)], "data": [part.digest for part in it.parts], "format": 1}
    # As the bytes of the table: a ``.npz`` tells a file that was cut off from a shorter one.
    stored = kept(it.kept["folder"] / f"effects-{key_of(facts)}.npz", partial(_effects, it, profile, model))
    return pd.read_csv(BytesIO(stored["csv"].tobytes())).fillna({"detail": ""})


def _effects(it: Measured, profile: Profile, model: Classifier) -> dict[str, np.ndarray]:
    val_maps, test_maps = _by_scale(it, [("dgl", profile.layer)])
    val, chosen = treatments.search(it.val, val_maps, profile.scales, profile.kernels, **it.kept)
    test = treatments.score_chosen(it.test, test_maps, chosen, **it.kept)
    model.to(pick_device(profile.device))
    images = (preprocess(model, [it.test.image(i)], profile.image_size)[0] for i in range(len(it.test)))
    how: dict[str, Any] = {"alpha": profile.alpha, "rule": profile.rule, "progress": it.progress}
    pulled = pulling.pull(model, images, it.test.labels.tolist(), profile.layer, [0, 1], **how)
    before = digest(steps.classifier(profile.checkpoint, profile.data))
    found = [
        effects.of_pulling(pulled, [0, 1]),
        effects.of_scores(it.val_scores, it.scores, profile.layer, profile.layers),
        effects.of_treatments(val, test, chosen),
        effects.of_last_layer(it.maps, model.layers[-1].name),
        effects.of_weights(before, digest(model.cpu())),
    ]
    if asked := _mosaics(it, it.test, it.maps):
        gain = whose.selectivity_gain(whose.pointing(*asked), profile.layers)
        found.append(effects.effect("C10", "pixel selection minus signed Grad-CAM", gain))
    table = pd.concat(found, ignore_index=True).to_csv(index=False, float_format=f"%.{IMAGES}g", lineterminator="\n")
    return {"csv": np.frombuffer(table.encode(), np.uint8)}


TABLES = {"05": comparison, "06": scoring, "07": control, "08": trainings}
