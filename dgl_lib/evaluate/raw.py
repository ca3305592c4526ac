"""Raw maps of a data set. The network runs here, once. Its maps are kept on disk in parts that survive a kill."""

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from dgl_lib import several
from dgl_lib.data.records import Dataset, Squashed
from dgl_lib.errors import UserError
from dgl_lib.fast import compiling_pays, faster, pick_device
from dgl_lib.files import kept, key_of, read_arrays, write_arrays, write_text
from dgl_lib.localize import CONTROLS, METHODS, READINGS, localize
from dgl_lib.models import Classifier, digest, preprocess

FORMAT = 1  # raised when what a stored part holds changes its meaning, so that old parts are not taken for new ones
IN_MEMORY = 2**27  # bytes
PART = 16  # images a stored part: what a kill can lose at the most
Pair = tuple[str, str]  # method and layer
ByPair = Mapping[Pair, np.ndarray]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Maps:
    """Raw maps of a data set at one scale."""

    maps: dict[Pair, np.ndarray]  # (N, h, w) float32 by method and layer
    logits: np.ndarray  # (N, C), of the same pass
    classes: np.ndarray  # (N,), those that were localized

    def only(self, pairs: Iterable[Pair]) -> "Maps":
        """The maps of these (method, layer) pairs in this order. Pairs without maps are left out (CAM has few)."""
        return Maps({pair: self.maps[pair] for pair in pairs if pair in self.maps}, self.logits, self.classes)

    def at(self, indices: Sequence[int]) -> "Maps":
        """The maps of these images."""
        return Maps({pair: m[indices] for pair, m in self.maps.items()}, self.logits[indices], self.classes[indices])


def raw_maps(
    model: nn.Module,
    dataset: Dataset,
    *,
    layers: Sequence[str],
    methods: Sequence[str],
    size: int,
    scale: float = 1.0,
    given: bool = True,
    classes: Sequence[int] | None = None,
    alpha: float = 10.0,
    rule: str = "released",
    head: str = "softmax",
    precision: str = "float32",
    device: str = "auto",
    folder: str | Path | None = None,
    progress: bool = False,
) -> Maps:
    """The raw maps of every image. The network runs only for parts that ``folder`` does not hold yet.
    Photographs are squashed to round(``size`` * ``scale``) pixels a side, at least 32. With ``given`` the image's
    label is localized (ground-truth known), else the class predicted in the same pass, and with ``classes`` these, one
    an image. ``precision`` "fast" asks for ``fast.faster`` and, for many maps, for compiled formulas. Each part's name
    holds all that shapes it."""
    side = round(size * scale)
    if side < 32:
        raise UserError(f"input side: {side} px (size {size} x scale {scale}) given, at least 32 needed")
    # "flip" stands in the names of what is stored already.
    facts: dict[str, Any] = {"layers": list(layers), "methods": list(methods), "side": side, "flip": False}
    facts |= {"given": given, "alpha": alpha, "rule": rule} | ({} if head == "softmax" else {"head": head})
    if classes is not None:
        if len(classes) != len(dataset):
            raise UserError(f"classes: {len(classes)} given for {len(dataset)} images, one an image needed")
        facts |= {"given": True, "classes": [int(c) for c in classes]}
    own = model.to(pick_device(device))
    how: dict[str, Any] = {"alpha": alpha, "rule": rule, "head": head}
    if precision == "fast":
        own = faster(model, layers, side)
        how["compiled"] = compiling_pays(pick_device(device), len(dataset) * len(layers) * len(methods))
        facts |= {"precision": str(next(own.parameters()).dtype)}
    parts = None
    if folder is not None:  # digests take a while
        facts |= {"model": digest(model), "mean, std, count_include_pad": beside_weights(model), "data": dataset.digest}
        parts = parts_folder(folder, "maps", facts)
    wanted = np.asarray(facts.get("classes", dataset.labels))
    # A GPU takes a million pixels at once, which are about 5 GB on every layer. A quarter of that keeps a CPU busy.
    batch = min(PART, max(2, (2**18 if pick_device(device).type == "cpu" else 2**20) // side**2))

    def made(those: Sequence[range]) -> Iterator[dict[str, np.ndarray]]:
        steps = [part[i : i + batch] for part in those for i in range(0, len(part), batch)]
        ends = {part.stop for part in those}
        found = defaultdict(list)
        ahead = several.loader(Squashed(dataset, side), steps, pick_device(device))
        for few, photographs in zip(steps, ahead, strict=True):
            images = preprocess(own, photographs, side)  # (batch, 3, side, side)
            asked = torch.from_numpy(wanted[list(few)]) if facts["given"] else None
            with warnings.catch_warnings(action="ignore"):  # that CAM has one layer is said where the table is read
                out = localize(own, images, asked, layers, methods, **how)
            found["logits"].append(out.logits.cpu().numpy())
            found["classes"].append(out.classes.cpu().numpy())
            for method, by_layer in out.maps.items():
                for layer, m in by_layer.items():
                    found[f"{method}|{layer}"].append(m.cpu().numpy())  # (batch, h, w)
            if few.stop in ends:
                yield {key: np.concatenate(found.pop(key)) for key in list(found)}

    whole = in_parts(len(dataset), made, parts, f"{dataset.name} {dataset.split}, {side} px", progress)
    model.cpu()
    logits, predicted = whole.pop("logits"), whole.pop("classes")
    return Maps({(name, at): m for key, m in whole.items() for name, at in [key.split("|")]}, logits, predicted)


def every_map(model: Classifier, dataset: Dataset, **options: Any) -> Maps:
    """Raw maps of every method and control on every layer of the network's table; ``options`` as for ``raw_maps``."""
    return raw_maps(model, dataset, layers=[at.name for at in model.layers], methods=[*METHODS, *CONTROLS], **options)


def maps_of_scales(
    model: Classifier, dataset: Dataset, *, layer: str, methods: Sequence[str], scales: Sequence[float], **options: Any
) -> dict[float, Maps]:
    """Raw maps by scale (1.0 comes along) of ``methods``, CAM, DGL and both branches, on ``layer`` and CAM's layer.
    Branch 1 comes in every reading."""
    branches = [*(f"enhanced_map{reading}" for reading in READINGS), "pixel_selection"]
    methods = list(dict.fromkeys([*methods, "cam", "dgl", *branches]))
    layers = list(dict.fromkeys([layer, model.layers[-1].name]))  # CAM exists on the last one
    found = {1.0: every_map(model, dataset, **options).only((method, at) for method in methods for at in layers)}
    for scale in sorted({float(s) for s in scales} - {1.0}):
        found[scale] = raw_maps(model, dataset, layers=layers, methods=methods, scale=scale, **options)
    return dict(sorted(found.items()))


def column(row: Mapping[Any, Any]) -> str:
    """The name of a row's column in an image table: ``dgl Mixed_6e``, ``centred_gaussian``."""
    return f"{row['method']} {row['layer']}".strip()


def beside_weights(model: nn.Module) -> list[Any]:
    """What shapes a model's maps beside its weights: its input normalisation, its pooling rule, an unusual padding."""
    found = [getattr(model, name, None) for name in ("mean", "std", "count_include_pad")]
    return found + ["tensorflow"] * (getattr(model, "padding", "") == "tensorflow")


def parts_folder(folder: str | Path, kind: str, facts: Mapping[str, Any]) -> Path:
    """The folder of the parts that ``facts`` determine. The facts stand in it, for a reader."""
    facts = {**facts, "format": FORMAT}
    parts = Path(folder) / f"{kind}-{key_of(facts)}"
    write_text(parts / "facts.json", json.dumps(facts, indent=1, sort_keys=True))
    return parts


def in_parts(
    count: int,
    make: Callable[[Sequence[range]], Iterable[dict[str, np.ndarray]]],
    folder: Path | None,
    what: str,
    progress: bool,
) -> dict[str, np.ndarray]:
    """What ``make`` gives for all images, ``PART`` at a time and in order, joined along axis 0. What ``folder`` holds
    is not made again. More than ``IN_MEMORY`` lies in a file there, image by image, which ends with this process."""
    parts = [range(start, min(start + PART, count)) for start in range(0, count, PART)]
    bar: Any = partial(tqdm, desc=what, unit="part", disable=not progress)
    if folder is None:
        pieces = iter(bar(make(parts), total=len(parts)))
    else:
        files = {part: folder / f"part-{k:05d}.npz" for k, part in enumerate(parts)}

        def stored(part: range) -> dict[str, np.ndarray]:
            return kept(files[part], lambda: next(iter(make([part]))))

        # Each process makes what lacks of its share, and then all read all. One process meets a damaged part there.
        there: Callable[[Path], object] = Path.exists if several.WORLD == 1 else read_arrays
        mine = several.share(parts)
        missing = [part for part in mine if not there(files[part])]
        made = bar(make(missing), total=len(mine), initial=len(mine) - len(missing))
        for part, arrays in zip(missing, made, strict=True):
            write_arrays(files[part], arrays)
        several.wait()
        pieces = map(stored, parts)
    first = next(pieces)
    image = np.dtype([(key, values.dtype, values.shape[1:]) for key, values in first.items()], align=True)
    if folder is None or count * image.itemsize <= IN_MEMORY:
        # Key by key, freeing the pieces on the way: together they are as large as what is made of them.
        every = [first, *pieces]
        return {key: np.concatenate([one.pop(key) for one in every]) for key in list(first)}
    with TemporaryFile(dir=folder) as file:
        for one in chain([first], pieces):
            images = np.empty(len(next(iter(one.values()))), image)
            for key, values in one.items():
                images[key] = values
            file.write(images.tobytes())
        file.flush()
        joined = np.memmap(file, image, "c")  # what is written stays in memory; PyTorch warns of what cannot be written
    return {key: joined[key] for key in first}
