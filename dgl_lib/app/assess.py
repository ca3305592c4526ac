"""Any classifier on any data set, without the study around it. One folder gets the tables that the notebooks make."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgl_lib import data as library
from dgl_lib.app.networks import Network, check_layers, default_layer
from dgl_lib.app.networks import layers as layers_of
from dgl_lib.data import Dataset, Subset
from dgl_lib.errors import UserError
from dgl_lib.evaluate import BASELINES, Maps, raw_maps, report, score
from dgl_lib.evaluate.boxes import box_scores, box_table
from dgl_lib.files import write_table, write_text
from dgl_lib.localize import METHODS, gradients, localize
from dgl_lib.metrics import bootstrap
from dgl_lib.models import Classifier, digest, preprocess
from dgl_lib.study.manifest import hardware, versions
from dgl_lib.training import pick_device


def evaluate(
    network: Network,
    data: str,
    out: Path,
    *,
    root: str | None = None,
    split: str = "test",
    layers: Sequence[str] = (),
    methods: Sequence[str] = (),
    size: int = 0,
    limit: int = 0,
    skip_unreadable: bool = False,
    alpha: float = 10.0,
    rule: str = "released",
    device: str = "auto",
    progress: bool = False,
) -> dict[str, pd.DataFrame]:
    """Localize every image's own class, choose thresholds on "val" and report on ``split``.

    Raw maps and histograms are kept in ``out/.parts``, so that the next call continues an evaluation that was broken
    off. A manifest says how the tables were made.

    Args:
        data, root: as for ``data.load``.
        split: "test", or "val" while something is still being chosen. Scores of "val" are optimistic.
        layers, methods: empty for the default layer and the last one, and for all methods that exist on the layers.
        size: side of the input in pixels, 0 for the network's own.
        limit: the first so many images of each class, 0 for all.
        skip_unreadable: leave out images that cannot be read, with a warning that counts them.
        alpha, rule: as for ``localize.localize``.

    Returns:
        tables by name, which are also written to ``out``: ``accuracy``, and with masks ``scores`` (``evaluate.report``)
        or with boxes only ``boxes`` (``box_table``). With masks, ``images.csv`` holds the scores image by image.

    Raises:
        UserError: before long work, for whatever is unknown, missing, or does not fit the network.
    """
    if split not in ("val", "test"):
        raise UserError(f"split: {split!r} given, test or val allowed")
    if size and size < 32:
        raise UserError(f"size: {size} px given, at least 32 needed")
    network.model.to(pick_device(device))
    size = size or network.size
    layers = layers or list(dict.fromkeys([default_layer(network), layers_of(network, device=device)[-1].name]))
    check_layers(network, layers, size)
    methods = _possible(network, size, layers, methods, alpha, rule)

    listed = {s: library.load(data, s, root=root, per_class=limit, skip=False) for s in ("val", split)}
    parts = {s: _readable(network, part, skip_unreadable, progress) for s, part in listed.items()}
    with_mask = all(part[0].mask is not None for part in parts.values())
    left_out = {s: len(listed[s]) - len(part) for s, part in parts.items()}
    if not with_mask:
        parts = {s: _with_boxes(part) for s, part in parts.items()}

    out.mkdir(parents=True, exist_ok=True)
    how: dict[str, Any] = {"layers": list(layers), "methods": list(methods), "size": size, "alpha": alpha, "rule": rule}
    kept: dict[str, Any] = {"folder": out / ".parts", "progress": progress}
    maps = {s: raw_maps(network.model, part, device=device, **how, **kept) for s, part in parts.items()}
    tables = {"accuracy": accuracy(parts[split], maps[split])}
    if with_mask:
        val, reported = (score(parts[s], {1.0: maps[s]}, **kept) for s in ("val", split))
        tables["scores"] = report(val, reported)
        write_table(out / "images.csv", reported.table(val))
    else:
        rows = [(*pair, "method") for pair in maps[split].maps] + [(name, "", "baseline") for name in BASELINES]
        chosen = pd.DataFrame(rows, columns=["method", "layer", "kind"])
        which: list[dict[str, Any]] = chosen[["method", "layer"]].to_dict("records")  # type: ignore[assignment]
        found = [box_scores(parts[s], {1.0: maps[s]}, which, **kept) for s in ("val", split)]
        tables["boxes"] = box_table(chosen, found[0], found[1])
    for name, table in tables.items():
        write_table(out / f"{name}.csv", table)
    for stale in {"boxes"} if with_mask else {"scores", "images"}:
        (out / f"{stale}.csv").unlink(missing_ok=True)
    manifest = {
        "network": network.name,
        "model_sha256": digest(network.model),
        "data": data,
        "data_sha256": {s: part.digest for s, part in parts.items()},
        "images": {s: len(part) for s, part in parts.items()},
        "left_out": left_out,
        "split": split,
        "per_class": limit,
        **how,
        "versions": versions(),
        "hardware": hardware(),
    }
    write_text(out / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return tables


def _possible(
    network: Network, size: int, layers: Sequence[str], methods: Sequence[str], alpha: float, rule: str
) -> Sequence[str]:
    """The methods asked for, or all that exist on the layers. A black image tries them out, before long work."""
    image = preprocess(network.model, [np.zeros((64, 64, 3), np.uint8)], size)
    cam = gradients(network.model, image, None, layers, needs=("w_c",)).heads  # the layers on which CAM exists
    methods = methods or [name for name in METHODS if cam or name != "cam"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that CAM exists on some of the layers only
        localize(network.model, image, None, layers, methods, alpha=alpha, rule=rule)
    return methods


def _readable(network: Network, part: Dataset, skip: bool, progress: bool) -> Dataset:
    """The images of the network's classes that can be read. All are decoded here, before hours of work."""
    # A label is a place in the network's head. A checkpoint of this project knows its classes by name as well.
    named = isinstance(network.model, Classifier)
    if len(network.classes) != len(part.classes) or (named and network.classes != tuple(part.classes)):
        raise UserError(
            f"{network.name} knows {len(network.classes)} classes ({', '.join(network.classes[:3])} ...), {part.name} "
            f"has {len(part.classes)} ({', '.join(part.classes[:3])} ...): the same ones in the same order needed"
        )
    if skip:
        return library.skip_unreadable(part, progress=progress)
    library.need_readable(part, progress=progress)
    return part


def _with_boxes(part: Dataset) -> Dataset:
    """The images with a ground-truth box. A warning counts the others."""
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
