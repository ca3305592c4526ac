"""Insertion, deletion and randomised weights over a data set; ``metrics.faithfulness`` defines them."""

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from dgl_lib.data.records import Dataset
from dgl_lib.evaluate.controls import spearman
from dgl_lib.evaluate.raw import ByPair, Options, Pair, beside_weights, parts_folder, raw_maps
from dgl_lib.fast import bf16_is_fast, pick_device
from dgl_lib.files import read_arrays, write_arrays
from dgl_lib.localize import METHODS
from dgl_lib.maps import centred_gaussian
from dgl_lib.metrics import bootstrap
from dgl_lib.metrics import faithfulness as metric
from dgl_lib.models import Classifier, digest, preprocess

KINDS = ("insertion", "deletion")


def in_turn(labels: np.ndarray, count: int) -> list[int]:
    """The first ``count`` images, the classes in turn: the first of each class, then the second of each, ..."""
    return pd.Series(labels).groupby(labels).cumcount().argsort(kind="stable")[:count].tolist()


def all_curves(
    model: nn.Module, dataset: Dataset, maps: ByPair, how: Options, *, resize: int, folder: Path, progress: bool = False
) -> dict[Pair, np.ndarray]:
    """``curves`` of every image at its label, and of two baselines: {(method, layer): (N, 2, STEPS + 1)}.
    ``maps`` are raw maps (N, h, w), and ``how`` says how they were made (size, alpha, rule), and the device. The
    network is asked at ``resize`` pixels a side, at which it was validated. p_c is taken in bfloat16 where that is fast
    (``fast.bf16_is_fast``), see ``rounding``. Each image is kept in a file of its own under a name made of all that
    determines it. A run that broke off, or one with more methods or layers, computes only what is missing."""
    where = pick_device(how["device"])
    bf16 = bf16_is_fast(where)
    facts = {"model": [digest(model), *beside_weights(model)], "resize": resize, "image_size": how["size"]}
    facts |= {"alpha": how["alpha"], "rule": how["rule"], "bf16": bf16}
    facts |= {"steps": metric.STEPS, "blur": metric.BLUR, "seed": metric.SEED}
    parts = parts_folder(folder, "curves", facts)
    baselines = {("random_order", ""): torch.zeros(1, 1), ("centred_gaussian", ""): centred_gaussian((resize, resize))}
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    pieces = []
    for i in tqdm(range(len(dataset)), desc="insertion and deletion", unit="image", disable=not progress):
        image, label = dataset.image(i), int(dataset.labels[i])
        known = hashlib.sha256(image.tobytes() + f"{image.shape} {label}".encode()).hexdigest()[:16]
        file = parts / f"{known}.npz"
        stored = read_arrays(file)
        wanted = {pair: torch.from_numpy(m[i]) for pair, m in maps.items()} | baselines
        if missing := {pair: m for pair, m in wanted.items() if "|".join(pair) not in stored}:
            [x] = preprocess(model, [image], resize)
            found = metric.curves(model, x, label, missing, bf16=bf16)
            stored |= {"|".join(pair): curve for pair, curve in found.items()}
            write_arrays(file, stored)
        pieces.append({pair: stored["|".join(pair)] for pair in wanted})
    model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return {pair: np.stack([piece[pair] for piece in pieces]) for pair in pieces[0]}


def rounding(model: nn.Module, dataset: Dataset, maps: np.ndarray, resize: int, device: str) -> pd.DataFrame:
    """How far p_c in bfloat16 is from p_c in float32, on each image whole, half inserted and half deleted. The raw maps
    (N, h, w) tell the halves. Columns: image, picture, float32, bfloat16 (p_c). No rows where bfloat16 is not used."""
    where = pick_device(device)
    rows: list[tuple[Any, ...]] = []
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for i, m in enumerate(torch.from_numpy(maps) if bf16_is_fast(where) else ()):
        [x] = preprocess(model, [dataset.image(i)], resize)
        some = torch.cat([x[None], *metric.pictures(x, m, [metric.STEPS // 2])])
        both = (metric.probability(model, some, int(dataset.labels[i]), bf16=bf16) for bf16 in (False, True))
        rows += zip([dataset.names[i]] * 3, ["whole", "half inserted", "half deleted"], *both, strict=True)
    model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return pd.DataFrame(rows, columns=["image", "picture", "float32", "bfloat16"])


def curves_table(found: ByPair) -> pd.DataFrame:
    """Mean over images: columns method, layer, share (of pixels, 0..1), insertion, deletion (p_c)."""
    share = pd.Index(np.arange(metric.STEPS + 1) / metric.STEPS, name="share")
    tables = {pair: pd.DataFrame(curve.mean(0).T, share, KINDS) for pair, curve in found.items()}
    return pd.concat(tables, names=["method", "layer"]).reset_index()


def auc_table(found: ByPair, val_iou: Mapping[Pair, float]) -> pd.DataFrame:
    """Areas with 95 % bootstrap intervals, and DGL's paired difference from each row (``dgl_...``: DGL minus it)."""
    areas = {pair: metric.area(curve) for pair, curve in found.items()}
    [dgl] = [values for (method, _), values in areas.items() if method == "dgl"]
    rows = []
    for (method, layer), values in areas.items():
        row: dict[str, Any] = {"method": method, "layer": layer, "val_iou": val_iou.get((method, layer)), "n": len(dgl)}
        for i, kind in enumerate(KINDS):
            row |= bootstrap(values[:, i]).cells(kind)
            if method != "dgl":
                row |= bootstrap(dgl[:, i] - values[:, i]).cells(f"dgl_{kind}")
        rows.append(row)
    return pd.DataFrame(rows)


def randomisation(
    model: Classifier, dataset: Dataset, layer: str, how: Options, folder: Path | None = None, progress: bool = False
) -> pd.DataFrame:
    """How far each method's maps keep their ranking while a copy's blocks are randomised, one more each time.
    Maps are on ``layer``, CAM's on the last layer. "features" (plain features, not a method) shows what depends on no
    class. A constant map counts as a correlation of 0. Columns: method, layer, step (blocks randomised), block (the
    last of them; "" for none), correlation (Spearman, mean over images), low, high, n."""
    cam_layer = model.layers[-1].name
    layers, methods = list(dict.fromkeys([layer, cam_layer])), [*METHODS, "features"]
    # Numbers are drawn in the order of memory: without this, channels-last weights would come out as others.
    copy = deepcopy(model).to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    cascade = metric.blocks(copy, [one.name for one in model.layers])
    rows = []
    original: dict[Pair, np.ndarray] = {}
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU, whatever the device: the same weights anywhere
        torch.manual_seed(metric.SEED)
        for step, block in enumerate(tqdm(["", *cascade], desc="randomised", unit="network", disable=not progress)):
            metric.randomise(cascade.get(block, []))
            maps = raw_maps(copy, dataset, layers=layers, methods=methods, folder=folder, **how).maps
            original = original or maps
            for pair in ((method, cam_layer if method == "cam" else layer) for method in methods):
                found = bootstrap(np.nan_to_num(spearman(original[pair], maps[pair])))
                rows.append((*pair, step, block, found.mean, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=["method", "layer", "step", "block", "correlation", "low", "high", "n"])
