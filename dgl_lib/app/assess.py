"""Any classifier on any data set, without the study around it. One folder gets the tables that the notebooks make."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgl_lib import data as library
from dgl_lib.app import networks
from dgl_lib.errors import UserError
from dgl_lib.evaluate import BASELINES, Maps, raw_maps, report, score
from dgl_lib.evaluate.boxes import box_scores, box_table, joined
from dgl_lib.evaluate.scores import Scores, choices
from dgl_lib.fast import pick_device
from dgl_lib.files import exclusive, need_apart, sha256, write_parts, write_table
from dgl_lib.localize import METHODS, gradients, localize
from dgl_lib.metrics import bootstrap
from dgl_lib.models import Classifier, digest, preprocess
from dgl_lib.study import manifest
from dgl_lib.study.manifest import hardware, versions

TOGETHER = 256  # images whose maps and scores are in memory at once


def evaluate(
    network: networks.Network,
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
    head: str = "softmax",
    device: str = "auto",
    progress: bool = False,
) -> dict[str, pd.DataFrame]:
    """Localize every image's own class, choose thresholds on "val" and report on ``split``, which is "val" or "test".

    ``data`` and ``root`` are as for ``data.load``, ``alpha``, ``rule`` and ``head`` as for ``localize.localize``. No
    ``layers`` means the default one and the last, no ``methods`` all that exist there. ``size`` is the input's side in
    pixels, 0 for the network's own. ``limit`` keeps the first so many images of each class, 0 all. ``skip_unreadable``
    leaves out images that cannot be read, with a warning that counts them.

    Returns tables by name: ``accuracy``, and with masks ``scores`` (``evaluate.report``) or with boxes only ``boxes``
    (``box_table``). They are written to ``out``, with a manifest and, for masks, the scores image by image. Raw maps
    and histograms are kept in ``out/.parts``, so that the next call continues an evaluation that was broken off.
    UserError: before long work, for whatever is unknown, missing, or does not fit the network."""
    if split not in ("val", "test"):
        raise UserError(f"split: {split!r} given, test or val allowed")
    network.model.to(pick_device(device))
    size = size or network.size
    if not layers:
        last = networks.layers(network, device=device)[-1].name
        layers = list(dict.fromkeys([networks.default_layer(network), last]))
    networks.check_layers(network, layers, size)
    image = preprocess(network.model, [np.zeros((64, 64, 3), np.uint8)], size)  # black; it tries the methods out
    cam = gradients(network.model, image, None, layers, needs=("w_c",)).heads  # the layers on which CAM exists
    methods = methods or [name for name in METHODS if cam or name != "cam"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that CAM exists on some of the layers only
        localize(network.model, image, None, layers, methods, alpha=alpha, rule=rule, head=head)

    listed = {s: library.load(data, s, root=root, per_class=limit) for s in ("val", split)}
    need_apart(out, listed["val"].root)
    with exclusive(out):
        parts = {s: _readable(network, part, skip_unreadable, progress) for s, part in listed.items()}
        left_out = {s: len(listed[s]) - len(part) for s, part in parts.items()}
        with_mask = all(part[0].mask is not None for part in parts.values())
        if not with_mask:
            parts = {s: _with_boxes(part) for s, part in parts.items()}
        how: dict[str, Any] = {"layers": list(layers), "methods": list(methods), "size": size}
        how |= {"alpha": alpha, "rule": rule, "head": head}
        kept: dict[str, Any] = {"folder": out / ".parts", "progress": progress}
        found: Callable[..., Any] = partial(_in_turn, model=network.model, device=device, **how, **kept)
        answers = np.concatenate([maps[1.0].logits.argmax(1) for _, maps in found(parts[split])])
        tables = {"accuracy": accuracy(parts[split], answers)}
        if with_mask:
            val, test = (partial(_scored, parts[s], found, **kept) for s in ("val", split))
            tables["scores"], chosen = report(val(), test()), choices(val())
            write_parts(out / "images.csv", (some.table(chosen) for some in test()))
        else:
            pairs = [(*pair, "method") for pair in next(found(parts[split]))[1][1.0].maps]
            pairs += [(name, "", "baseline") for name in BASELINES]
            rows = pd.DataFrame(pairs, columns=["method", "layer", "kind"])
            which: Any = rows[["method", "layer"]].to_dict("records")
            before, after = (
                (box_scores(some, maps, which, **kept) for some, maps in found(parts[s])) for s in ("val", split)
            )
            tables["boxes"] = box_table(rows, val_boxes := joined(before), joined(after, val_boxes))
        for name, table in tables.items():
            write_table(out / f"{name}.csv", table)
        made = {f"{name}.csv": sha256(out / f"{name}.csv") for name in [*tables, *["images"] * with_mask]}
        facts: dict[str, Any] = {"network": network.name, "model_sha256": digest(network.model), "data": data}
        facts |= {"data_sha256": {s: part.digest for s, part in parts.items()}}
        facts |= {"images": {s: len(part) for s, part in parts.items()}, "left_out": left_out}
        facts |= {"split": split, "per_class": limit, **how, "versions": versions(), "hardware": hardware()}
        manifest.write(out, facts | {"files": made}, set(manifest.read(out).get("files", {})) - set(made))
    return tables


def _in_turn(part: library.Dataset, **how: Any) -> Iterator[tuple[library.Dataset, dict[float, Maps]]]:
    """The images and their raw maps, ``TOGETHER`` at a time. What stands on disk is read from there."""
    for start in range(0, len(part), TOGETHER):
        some = library.Subset(part, range(start, min(start + TOGETHER, len(part))))
        yield some, {1.0: raw_maps(dataset=some, **how)}


def _scored(part: library.Dataset, found: Callable[[Any], Iterable[Any]], **kept: Any) -> Iterator[Scores]:
    """The scores of the images, found in turn. Those without an object are told at the end."""
    left_out = len(part)
    for some in found(part):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*without an object left out")
            scores = score(*some, **kept)
        left_out -= len(scores.names)
        yield scores
    if left_out:
        warnings.warn(f"{part.name} {part.split}: {left_out} images without an object left out", stacklevel=2)


def _readable(network: networks.Network, part: library.Dataset, skip: bool, progress: bool) -> library.Dataset:
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


def _with_boxes(part: library.Dataset) -> library.Dataset:
    """The images with a ground-truth box. A warning counts the others."""
    there = [i for i in range(len(part)) if len(part[i].boxes)]
    if not there:
        raise UserError(f"{part.name} {part.split}: no image has a mask or a box, nothing can be scored")
    if len(there) < len(part):
        warnings.warn(f"{part.name} {part.split}: {len(part) - len(there)} images without a box left out", stacklevel=3)
        return library.Subset(part, there)
    return part


def accuracy(part: library.Dataset, answer: np.ndarray) -> pd.DataFrame:
    """Top-1 of the classifier's ``answer`` (n,) and of always the most frequent class: answer, mean, low, high, n."""
    answers = {"classifier": answer, "majority class": np.bincount(part.labels).argmax()}
    found = {name: bootstrap((answer == part.labels).astype(float)) for name, answer in answers.items()}
    return pd.DataFrame([{"answer": name, **asdict(x)} for name, x in found.items()])
