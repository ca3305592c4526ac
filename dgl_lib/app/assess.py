"""Any classifier on any data set, without the study around it: the tables of the notebooks, in one folder.

accuracy.csv  the classifier's top-1, and the majority class's
scores.csv    where there are masks: ``evaluation.report``
images.csv    the same image by image: ``Scores.table``
boxes.csv     where there are boxes only: ``box_report``
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from tqdm import tqdm

from dgl_lib import boxes, datasets
from dgl_lib.metrics.search import SIZE, THRESHOLDS, Found
from dgl_lib.data import Dataset, Subset
from dgl_lib.errors import UserError
from dgl_lib.evaluate.scores import BASELINES, Maps, raw_maps, report, score
from dgl_lib.files import write_text
from dgl_lib.localize import METHODS, gradients, localize
from dgl_lib.study.manifest import hardware, versions
from dgl_lib.metrics import Curve, Localization, MaxBoxAccV2, bootstrap
from dgl_lib.models import Classifier, digest, preprocess
from dgl_lib.app.networks import Network, check_layers, default_layer, layers
from dgl_lib.training import pick_device


@dataclass(frozen=True)
class What:
    """What is evaluated.

    Attributes:
        data, root: a name in ``datasets.DATASETS`` and the folder of its files, as for ``datasets.load``.
        split: "test", or "val" while something is still being chosen: its scores are then optimistic.
        layers, methods: none for ``networks.default_layer`` with the last layer (where CAM exists), and all methods
            that exist on the layers.
        size: side of the input in pixels; 0 for the network's own.
        limit: the first so many images of each class; 0 for all.
        skip_unreadable: leave out images that cannot be read, with a warning that counts them; else they are refused.
    """

    data: str
    root: str | None = None
    split: str = "test"
    layers: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    size: int = 0
    limit: int = 0
    skip_unreadable: bool = False
    alpha: float = 10.0
    rule: str = "released"
    device: str = "auto"


def evaluate(network: Network, what: What, out: Path, *, progress: bool = False) -> dict[str, pd.DataFrame]:
    """Localize every image's own class, choose thresholds on "val", report on ``what.split``: tables by name.

    They are written to ``out`` with a manifest; pixel scores also as images.csv, a row an image, method and layer. Raw
    maps and histograms are kept in ``out/.parts``, so that an evaluation that was broken off goes on where it stood.

    Raises:
        UserError: before long work, for whatever is unknown, missing, or does not fit the network.
    """
    names = what.layers or tuple(dict.fromkeys([default_layer(network), layers(network, device=what.device)[-1].name]))
    methods = _check(network, what, names)
    parts = {split: _load(network, what, split) for split in ("val", what.split)}
    listed = {split: len(part) for split, part in parts.items()}
    parts = {split: _readable(part, what.skip_unreadable, progress) for split, part in parts.items()}
    with_mask = all(part[0].mask is not None for part in parts.values())
    if not with_mask:
        parts = {split: _with_boxes(part) for split, part in parts.items()}
    out.mkdir(parents=True, exist_ok=True)
    maps = {
        split: raw_maps(
            network.model,
            part,
            layers=names,
            methods=methods,
            size=what.size or network.size,
            alpha=what.alpha,
            rule=what.rule,
            device=what.device,
            folder=out / ".parts",
            progress=progress,
        )
        for split, part in parts.items()
    }
    tables = {"accuracy": accuracy(parts[what.split], maps[what.split])}
    if with_mask:
        kept = partial(score, folder=out / ".parts", progress=progress)
        val, reported = (kept(parts[split], {1.0: maps[split]}) for split in ("val", what.split))
        tables["scores"] = report(val, reported)
        write_text(out / "images.csv", reported.table(val).to_csv(index=False, lineterminator="\n"))
    else:
        tables["boxes"] = box_report(parts["val"], maps["val"], parts[what.split], maps[what.split], progress=progress)
    for name, table in tables.items():
        write_text(out / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    for stale in {"boxes"} if with_mask else {"scores", "images"}:
        (out / f"{stale}.csv").unlink(missing_ok=True)
    left_out = {split: count - len(parts[split]) for split, count in listed.items()}
    _write_manifest(network, what, names, methods, parts, left_out, out)
    return tables


def _check(network: Network, what: What, names: Sequence[str]) -> tuple[str, ...]:
    """Refuse what does not go, on noise, and return the methods: those asked for, or all that ``names`` admit."""
    if what.split not in ("val", "test"):
        raise UserError(f"split: {what.split!r} given, test or val allowed")
    if what.size and what.size < 32:
        raise UserError(f"size: {what.size} px given, at least 32 needed")
    network.model.to(pick_device(what.device))
    check_layers(network, names, what.size)
    noise = preprocess(network.model, [np.zeros((64, 64, 3), np.uint8)], what.size or network.size)
    cam = gradients(network.model, noise, None, names, needs=()).heads  # where CAM exists
    methods = what.methods or tuple(name for name in METHODS if cam or name != "cam")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CAM is left out where it does not exist, and refused where that is everywhere
        localize(network.model, noise, None, names, methods, alpha=what.alpha, rule=what.rule)
    return methods


def _load(network: Network, what: What, split: str) -> Dataset:
    part = datasets.load(what.data, split, root=what.root, per_class=what.limit, skip=False)
    _check_classes(network, part)
    return part


def _readable(part: Dataset, skip: bool, progress: bool) -> Dataset:
    """What cannot be read is found before hours of work, and refused or left out."""
    if skip:
        return datasets.skip_unreadable(part, progress=progress)
    datasets.need_readable(part, progress=progress)
    return part


def _check_classes(network: Network, part: Dataset) -> None:
    """A label is a place in the network's head: names must agree where the network's come from a data set like this."""
    named = isinstance(network.model, Classifier)
    if len(network.classes) != len(part.classes) or (named and network.classes != tuple(part.classes)):
        raise UserError(
            f"{network.name} knows {len(network.classes)} classes ({', '.join(network.classes[:3])} ...), {part.name} "
            f"has {len(part.classes)} ({', '.join(part.classes[:3])} ...): the same ones in the same order needed"
        )


def _with_boxes(part: Dataset) -> Dataset:
    """The images with a ground-truth box; a warning counts the others."""
    there = [i for i in range(len(part)) if len(part[i].boxes)]
    if not there:
        raise UserError(f"{part.name} {part.split}: no image has a mask or a box, nothing can be scored")
    if len(there) < len(part):
        warnings.warn(f"{part.name} {part.split}: {len(part) - len(there)} images without a box left out", stacklevel=3)
        return Subset(part, there)
    return part


def accuracy(part: Dataset, maps: Maps) -> pd.DataFrame:
    """Top-1 of the classifier and of always answering the most frequent class: answer, mean, low, high, n (shares)."""
    answers = {
        "classifier": maps.logits.argmax(1),
        "majority class": np.full(len(part), np.bincount(part.labels).argmax()),
    }
    found = {name: bootstrap((answer == part.labels).astype(float)) for name, answer in answers.items()}
    return pd.DataFrame(
        [{"answer": name, "mean": x.mean, "low": x.low, "high": x.high, "n": len(part)} for name, x in found.items()]
    )


# ------------------------------------------------------------------------------------------------------ box scores


def box_report(val: Dataset, val_maps: Maps, test: Dataset, maps: Maps, *, progress: bool = False) -> pd.DataFrame:
    """Box scores of every method and layer and of the trivial baselines, by wsolevaluation's conventions, in percent.

    Columns: method, layer, images; ``threshold`` (share of the map's highest level) with the best GT-known score on
    validation, ``val_gt_known``; at it, on test, ``gt_known`` with its 95 % bootstrap interval ``low``, ``high``,
    ``top1``, ``top5``; ``max_box_acc_v2`` with one threshold for each IoU level from validation, in ``thresholds_v2``;
    and, chosen on test as published: ``test_max_box_acc``, ``test_max_box_acc_v2``.

    Args:
        val, test: data sets of which every image has a box.
        val_maps, maps: their raw maps.
    """

    def at(curve: Curve, threshold: int) -> float:
        return float(curve.values[threshold])  # noqa: PD011

    rows = [*maps.maps, *((name, "") for name in BASELINES)]
    before = _count(val, val_maps, rows, lambda row, hits: None, progress)
    chosen = {}
    for row, (known, several) in before.items():
        curves = several.compute().curves
        chosen[row] = known.compute().gt_known.threshold, [curve.threshold for curve in curves.values()]
    each: dict[tuple[str, str], list[bool]] = {row: [] for row in rows}
    after = _count(test, maps, rows, lambda row, hits: each[row].append(bool(hits[chosen[row][0]])), progress)
    table = []
    for row, (known, several) in after.items():
        t, at_levels = chosen[row]
        found, v2 = known.compute(), several.compute()
        interval = bootstrap(100 * np.array(each[row], float))
        levels = [at(curve, k) for curve, k in zip(v2.curves.values(), at_levels, strict=True)]
        table.append(
            {
                "method": row[0],
                "layer": row[1],
                "images": found.images,
                "threshold": THRESHOLDS[t],
                "val_gt_known": 100 * at(before[row][0].compute().gt_known, t),
                "gt_known": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "top1": 100 * at(found.top1, t),
                "top5": 100 * at(found.top5, t),
                "thresholds_v2": " ".join(f"{THRESHOLDS[k]:.3f}" for k in at_levels),
                "max_box_acc_v2": 100 * np.mean(levels),
                "test_max_box_acc": 100 * found.gt_known.peak,
                "test_max_box_acc_v2": 100 * v2.score,
            }
        )
    return pd.DataFrame(table)


def _count(
    part: Dataset,
    maps: Maps,
    rows: Sequence[tuple[str, str]],
    tell: Callable[[tuple[str, str], np.ndarray], None],
    progress: bool,
) -> dict[tuple[str, str], tuple[Localization, MaxBoxAccV2]]:
    """Every row's counts over the images; ``tell`` gets each image's hits (1000,) as they come."""
    counts = {row: (Localization(), MaxBoxAccV2()) for row in rows}
    trivial = {name: boxes.search(make((SIZE, SIZE)).double().numpy()) for name, make in BASELINES.items()}
    for i in tqdm(range(len(part)), desc=f"boxes, {part.split}", unit="image", disable=not progress):
        record = part[i]
        truth = boxes.scale(record.boxes, record.image.shape[:2])
        for row in rows:
            found: Found = trivial[row[0]] if not row[1] else boxes.search(boxes.score_map(maps.maps[row][i]))
            known, several = counts[row]
            before = known.counts["hits"][0].copy()
            known.update(found, truth, maps.logits[i], int(part.labels[i]))
            several.update(found, truth)
            tell(row, known.counts["hits"][0] - before)
    return counts


def _write_manifest(
    network: Network,
    what: What,
    names: Sequence[str],
    methods: Sequence[str],
    parts: Mapping[str, Dataset],
    left_out: Mapping[str, int],
    out: Path,
) -> None:
    model: nn.Module = network.model
    facts: dict[str, Any] = {
        "network": network.name,
        "model_sha256": digest(model),
        "data": what.data,
        "data_sha256": {split: part.digest for split, part in parts.items()},
        "images": {split: len(part) for split, part in parts.items()},
        "left_out": left_out,
        "split": what.split,
        "layers": list(names),
        "methods": list(methods),
        "size": what.size or network.size,
        "per_class": what.limit,
        "alpha": what.alpha,
        "rule": what.rule,
        "versions": versions(),
        "hardware": hardware(),
    }
    write_text(out / "manifest.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
