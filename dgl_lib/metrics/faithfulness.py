"""Does a map show what the network uses? Insertion and deletion, and maps of a network whose weights are randomised.

insertion, deletion    Petsiuk, Das, Saenko: RISE, BMVC 2018
randomised weights     Adebayo et al.: Sanity Checks for Saliency Maps, NeurIPS 2018

Both are written here because no library fits. Captum's metrics are infidelity and max-sensitivity, neither of these.
Quantus has PixelFlipping and MPRT, and would bring scikit-learn, scikit-image and a second OpenCV. Its PixelFlipping
knows deletion alone, replaces values of single channels by black, leaves the whole image out of the curve and sums
over steps instead of 0..1; a constant map's ties fall as the sort leaves them. Its MPRT takes maps as absolute values,
where the sign is part of ours, and redraws a layer by its ``reset_parameters``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur
from tqdm import tqdm

from dgl_lib import claims, metrics, paths, study
from dgl_lib.evaluate.controls import spearman
from dgl_lib.data import Dataset, Subset
from dgl_lib.errors import UserError
from dgl_lib.evaluate.scores import raw_maps, score
from dgl_lib.files import key_of, read_arrays, write_arrays, write_text
from dgl_lib.localize import METHODS
from dgl_lib.maps import centred_gaussian, minmax, resize
from dgl_lib.models import Classifier, digest, preprocess
from dgl_lib.plots import faithfulness as plots
from dgl_lib.plots.style import save, use_style
from dgl_lib.training import bf16_is_fast, pick_device

#: Raised when what a stored file holds changes its meaning.
FORMAT = 1
#: Steps of a curve; it has one point more, both ends included.
STEPS = 20
#: Standard deviation of insertion's blur, as a fraction of the image's side. RISE's (5 px of 224, cut off at 5 px)
#: leaves the drawn creatures recognisable: p_c stayed above 0.9 on most images, and nothing was left to insert.
BLUR = 0.11
#: Of equal pixels' order and of the random weights.
SEED = 0
#: Test images at the most, for insertion and deletion; others: all. At pets' size 450 passes an image take half a
#: minute of one core where bfloat16 is fast, and minutes where it is not.
IMAGES = {"pets": 50}
#: Test images for the randomised weights: a dozen networks see each; a correlation varies little between images.
RANDOMISED = {"creatures": 40, "pets": 12}
#: A map "hardly changes" where its mean rank correlation with the original's is at least this.
UNCHANGED = 0.9

Pair = tuple[str, str]  # method and layer


def run(profile: str, settings: Sequence[str] = (), *, progress: bool = True) -> Path:
    """Make ``results/PROFILE/faithfulness``: page, tables and figures; a broken-off run is taken up where it stood.

    Raises:
        UserError: as ``study.run``.
    """
    return study.make_page("faithfulness", profile, settings, lambda p, to: _make(p, to, progress), progress=progress)


def _make(p: Mapping[str, Any], folder: Path, progress: bool) -> None:
    dataset, model = study.part(p, "test"), study.classifier(p)
    shown = in_turn(dataset.labels, IMAGES.get(p["data"], len(dataset)))
    best = best_layers(p, progress)
    every = study.every_map(p, "test", progress=progress)
    maps = {pair: every.maps[pair][shown] for pair in best}
    part = Subset(dataset, shown)
    found = all_curves(model, part, maps, p, folder=paths.runs_folder(), progress=progress)
    auc, curves = auc_table(found, best), curves_table(found)
    rounded = rounding(model, part, next(m for (method, _), m in maps.items() if method == "dgl"), p)
    part = Subset(dataset, in_turn(dataset.labels, RANDOMISED.get(p["data"], 12)))
    random = randomisation(model, part, p, folder=paths.runs_folder(), progress=progress)
    tables = {"auc": auc, "curves": curves, "randomisation": random} | ({"precision": rounded} if len(rounded) else {})
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    use_style()
    save(plots.curves_figure(curves, auc), folder, "curves")
    save(plots.auc_figure(auc), folder, "auc")
    save(plots.randomisation_figure(random, UNCHANGED), folder, "randomisation")
    write_text(folder / "findings.md", findings(auc, random) + "\n")
    write_text(folder / "README.md", page(p, auc, random, rounded))


def in_turn(labels: np.ndarray, count: int) -> list[int]:
    """The first ``count`` images, the classes in turn: the first of each class, then the second of each, ..."""
    place = pd.Series(labels).groupby(labels).cumcount().to_numpy()
    return np.lexsort([np.arange(len(labels)), place])[:count].tolist()


def best_layers(p: Mapping[str, Any], progress: bool = False) -> dict[Pair, float]:
    """Each method at the layer with the best validation IoU (at its best threshold), with that IoU in percent."""
    maps = study.every_map(p, "val", progress=progress)
    val = score(study.part(p, "val"), {1.0: maps}, folder=paths.runs_folder(), progress=progress)
    table = val.rows.assign(val_iou=[100 * metrics.iou(hist).mean(0).max() for hist in val.hist])
    rows = table[table["method"].isin(METHODS)].sort_values("val_iou", ascending=False, kind="stable")
    rows = rows.drop_duplicates("method").set_index("method").loc[list(METHODS)].reset_index()
    return {(row["method"], row["layer"]): row["val_iou"] for row in rows.to_dict("records")}


# ---------------------------------------------------------------------------------------- insertion and deletion


def ranking(m: Tensor, size: int) -> Tensor:
    """The place of every pixel from the most (0) to the least salient, (size, size) int64, of a raw map (h, w).

    The map is min-maxed and resized as for the scores. Pixels of equal value stand in one random order, the same for
    all maps: a region that a ReLU cut off says nothing about its order, and a constant map gives the random baseline.
    """
    values = resize(minmax(m), (size, size)).flatten()
    shuffled = torch.randperm(len(values), generator=torch.Generator().manual_seed(SEED))
    order = shuffled[values[shuffled].argsort(descending=True, stable=True)]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return place.reshape(size, size)


def blur(image: Tensor) -> Tensor:
    """What insertion starts from: a Gaussian blur of (3, H, W), standard deviation ``BLUR`` x H, cut off at two."""
    sigma = BLUR * image.shape[-2]
    return gaussian_blur(image, [2 * round(2 * sigma) + 1] * 2, [sigma, sigma])  # mirrored at the border


@torch.inference_mode()
def probability(model: nn.Module, images: Tensor, label: int, *, bf16: bool = False) -> np.ndarray:
    """p_c of each of the images (N, 3, H, W), (N,) float64; a few at a time, as large ones would not fit in memory.

    ``bf16``: convolutions and products in bfloat16, softmax in float32 all the same.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        logits = torch.cat([model(some) for some in images.split(5)])
    return (logits.float() if bf16 else logits).softmax(1)[:, label].double().cpu().numpy()


def pictures(image: Tensor, m: Tensor, steps: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The image (3, H, H) with the first k / STEPS of its pixels inserted, and deleted, for k in ``steps``.

    Returns:
        (len(steps), 3, H, H) each.
    """
    size = image.shape[-1]
    counts = torch.tensor([round(k * size**2 / STEPS) for k in steps])
    first = (ranking(m, size) < counts[:, None, None])[:, None].to(image.device)  # steps x 1 x H x H
    return torch.where(first, image, blur(image)), torch.where(first, torch.zeros_like(image), image)


def curves(
    model: nn.Module, image: Tensor, label: int, maps: Mapping[Pair, Tensor], *, bf16: bool = False
) -> dict[Pair, np.ndarray]:
    """p_c while an image's pixels are inserted and deleted, the most salient first.

        insertion: from the blurred image to the whole one          deletion: from the whole image to zeros

    Zero is the mean colour of the network's normalisation.

    Args:
        model: in eval mode, on the image's device.
        image: (3, H, W) float, normalised, H = W.
        maps: raw maps (h, w), any size.
        bf16: as for ``probability``.

    Returns:
        (2, STEPS + 1) for each map: p_c after k / STEPS of the pixels, k = 0..STEPS; row 0 insertion, row 1 deletion.
        Maps that agree to 1e-5 after min-max (CAM and DGL on the last layer) share what is computed once.
    """
    asked = partial(probability, model, label=label, bf16=bf16)
    whole, gone, start = asked(torch.stack([image, torch.zeros_like(image), blur(image)]))
    found: dict[Pair, np.ndarray] = {}
    for pair, m in maps.items():
        twin = next((other for other in found if _same(maps[other], m)), None)
        if twin is not None:
            found[pair] = found[twin]
            continue
        insertion, deletion = map(asked, pictures(image, m, range(1, STEPS)))
        found[pair] = np.array([[start, *insertion, whole], [whole, *deletion, gone]])
    return found


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(minmax(a), minmax(b), rtol=0, atol=1e-5)


def area(curve: np.ndarray) -> np.ndarray:
    """Area under curves (..., STEPS + 1) by the trapezoid rule, the share of pixels running from 0 to 1: in 0..1."""
    return np.trapezoid(curve, dx=1 / STEPS, axis=-1)


def all_curves(
    model: nn.Module,
    dataset: Dataset,
    maps: Mapping[Pair, np.ndarray],
    p: Mapping[str, Any],
    *,
    folder: Path,
    progress: bool = False,
) -> dict[Pair, np.ndarray]:
    """``curves`` of every image at its label, and of two baselines: {(method, layer): (N, 2, STEPS + 1)}.

    Image by image, each kept in a file of its own under a name made of all that determines it: what is broken off goes
    on where it stood, and more images or methods, or other layers, need only what is missing. p_c is taken in bfloat16
    where that is fast (``training.bf16_is_fast``: five times as fast as float32 at full width), see ``rounding``.

    Args:
        maps: raw maps (N, h, w) of the data set's images.
        p: parameters: ``resize``, the side in pixels at which the network was validated and is asked here; ``device``;
            ``image_size``, ``alpha`` and ``rule``, of which the maps were made.
        folder: where the files are kept.
    """
    size = p["resize"]
    beside = [getattr(model, name, None) for name in ("mean", "std", "count_include_pad")]
    facts = {"model": [digest(model), *beside], **{name: p[name] for name in ("resize", "image_size", "alpha", "rule")}}
    where = pick_device(p["device"])
    bf16 = bf16_is_fast(where)
    facts |= {"steps": STEPS, "blur": BLUR, "seed": SEED, "format": FORMAT, "bf16": bf16}
    parts = folder / f"curves-{key_of(facts)}"
    write_text(parts / "facts.json", json.dumps(facts, indent=1, sort_keys=True))
    baselines = {("random_order", ""): torch.zeros(1, 1), ("centred_gaussian", ""): centred_gaussian((size, size))}
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    pieces = []
    for i in tqdm(range(len(dataset)), desc="insertion and deletion", unit="image", disable=not progress):
        image, label = dataset.image(i), int(dataset.labels[i])
        known = hashlib.sha256(image.tobytes() + f"{image.shape} {label}".encode()).hexdigest()[:16]
        file = parts / f"{known}.npz"
        stored = read_arrays(file) if file.exists() else {}
        wanted = {pair: torch.from_numpy(m[i]) for pair, m in maps.items()} | baselines
        missing = {pair: m for pair, m in wanted.items() if "|".join(pair) not in stored}
        if missing:
            [x] = preprocess(model, [image], size)
            stored |= {"|".join(pair): curve for pair, curve in curves(model, x, label, missing, bf16=bf16).items()}
            write_arrays(file, stored)
        pieces.append({pair: stored["|".join(pair)] for pair in wanted})
    model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return {pair: np.stack([piece[pair] for piece in pieces]) for pair in pieces[0]}


def rounding(model: nn.Module, dataset: Dataset, maps: np.ndarray, p: Mapping[str, Any]) -> pd.DataFrame:
    """How far p_c in bfloat16 is from p_c in float32: on each image whole, and half of it inserted and deleted.

    Args:
        maps: raw maps (N, h, w) by which the halves are taken.
        p: ``resize`` and ``device``, as for ``all_curves``.

    Returns:
        columns image, picture, float32, bfloat16 (p_c); no rows where bfloat16 is not used.
    """
    where = pick_device(p["device"])
    rows = []
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for i, m in enumerate(torch.from_numpy(maps) if bf16_is_fast(where) else ()):
        [x] = preprocess(model, [dataset.image(i)], p["resize"])
        some = torch.cat([x[None], *pictures(x, m, [STEPS // 2])])
        both = (probability(model, some, int(dataset.labels[i]), bf16=bf16) for bf16 in (False, True))
        names = ("whole", "half inserted", "half deleted")
        rows += [(dataset.names[i], *row) for row in zip(names, *both, strict=True)]
    model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return pd.DataFrame(rows, columns=["image", "picture", "float32", "bfloat16"])


def curves_table(found: Mapping[Pair, np.ndarray]) -> pd.DataFrame:
    """Mean over images: columns method, layer, share (of pixels, 0..1), insertion, deletion (p_c)."""
    rows = [
        {"method": method, "layer": layer, "share": k / STEPS, "insertion": mean[0, k], "deletion": mean[1, k]}
        for (method, layer), curve in found.items()
        for mean in [curve.mean(0)]
        for k in range(STEPS + 1)
    ]
    return pd.DataFrame(rows)


def auc_table(found: Mapping[Pair, np.ndarray], val_iou: Mapping[Pair, float]) -> pd.DataFrame:
    """Areas with 95 % bootstrap intervals, and DGL's paired difference from each row (``dgl_...``: DGL minus it)."""
    [dgl] = [area(curve) for (method, _), curve in found.items() if method == "dgl"]
    rows = []
    for (method, layer), curve in found.items():
        row: dict[str, Any] = {"method": method, "layer": layer, "val_iou": val_iou.get((method, layer)), "n": len(dgl)}
        for i, kind in enumerate(("insertion", "deletion")):
            row |= _interval(kind, area(curve)[:, i])
            if method != "dgl":
                row |= _interval(f"dgl_{kind}", dgl[:, i] - area(curve)[:, i])
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(name: str, values: np.ndarray) -> dict[str, float]:
    found = metrics.bootstrap(values)
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


# -------------------------------------------------------------------------------------------- randomised weights


def blocks(model: nn.Module, layers: Sequence[str]) -> dict[str, list[nn.Module]]:
    """Modules with weights of their own, from the head down: "head", each layer with what leads to it, "stem".

    A module inside no layer counts to the next one that follows it, after the last to the "head", before the first to
    the "stem". Layers without weights (pooling) are left out.

    Args:
        layers: dotted names in the order data flows through them, which the model's modules stand in as well.
    """
    modules = list(model.named_modules())
    end = {layer: max(i for i, (name, _) in enumerate(modules) if _inside(name, layer)) for layer in layers}
    found: dict[str, list[nn.Module]] = {name: [] for name in ("stem", *layers, "head")}
    for i, (name, module) in enumerate(modules):
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            block = next((layer for layer in layers if i <= end[layer]), "head")
            found["stem" if block == layers[0] and not _inside(name, block) else block].append(module)
    return {block: own for block, own in reversed(found.items()) if own}


def _inside(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def randomise(modules: Sequence[nn.Module]) -> None:
    """Draw weights anew as for a network that was never trained: Kaiming-normal, zero bias, batch norm without effect.

    Raises:
        UserError: a module with weights that knows no way to be reset.
    """
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()
        else:
            raise UserError(f"randomise: {type(module).__name__} given, a module with reset_parameters needed")


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of maps (N, h, w) with others, one by one, (N,) in -1..1; 0 where one is constant."""
    return np.nan_to_num(spearman(a, b))


def randomisation(
    model: Classifier, dataset: Dataset, p: Mapping[str, Any], *, folder: Path | None = None, progress: bool = False
) -> pd.DataFrame:
    """How far each method's maps keep their ranking while a copy's blocks are randomised, one more each time.

    On ``layer``, CAM on the last layer; "features" (plain features, not a method) shows what depends on no class. The
    model itself is left as it is.

    Args:
        p: parameters: ``image_size``, ``layer``, ``alpha``, ``rule``, ``device``.
        folder: where maps are kept.

    Returns:
        columns method, layer, step (blocks randomised), block (the last of them; "" for none), correlation, low, high
        (mean over images and its 95 % interval), n.
    """
    cam_layer = model.layers[-1].name
    layers, methods = list(dict.fromkeys([p["layer"], cam_layer])), [*METHODS, "features"]
    settings = {"size": p["image_size"], "alpha": p["alpha"], "rule": p["rule"], "device": p["device"]}
    # Numbers are drawn in the order of memory: without this, channels-last weights would come out as others.
    copy = deepcopy(model).to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    cascade = blocks(copy, [layer.name for layer in model.layers])
    rows: list[dict[str, Any]] = []
    original: dict[tuple[str, str], np.ndarray] = {}
    with torch.random.fork_rng(devices=[]):  # the weights are drawn on the CPU, whatever the device: the same anywhere
        torch.manual_seed(SEED)
        for step, block in enumerate(tqdm(["", *cascade], desc="randomised", unit="network", disable=not progress)):
            randomise(cascade.get(block, []))
            maps = raw_maps(copy, dataset, layers=layers, methods=methods, folder=folder, **settings).maps
            original = original or maps
            for method in methods:
                layer = cam_layer if method == "cam" else p["layer"]
                found = metrics.bootstrap(rank_correlation(original[method, layer], maps[method, layer]))
                where = {"method": method, "layer": layer, "step": step, "block": block}
                rows.append(where | {"correlation": found.mean, "low": found.low, "high": found.high, "n": found.n})
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------------- the page


def findings(auc: pd.DataFrame, random: pd.DataFrame) -> str:
    """What was found, as a Markdown list; every sentence follows from the tables."""
    return "\n".join(f"- {line}" for line in [*_faithful(auc), *_random(random)])


def page(p: Mapping[str, Any], auc: pd.DataFrame, random: pd.DataFrame, rounded: pd.DataFrame) -> str:
    """The page as Markdown; every sentence follows from the tables."""
    n, few = auc["n"].iloc[0], random["n"].iloc[0]
    return f"""# Faithfulness: does a map show what the network uses?

{findings(auc, random)}

Exploratory: none of the claims fixed beforehand rests on this page. Localization asks where the object is, these two
tests ask what the classifier uses; a method may be good at one and not at the other.

## Insertion and deletion

![Mean curves](curves.png)

![Areas under the curves](auc.png)

{_auc_markdown(auc)}

Test images: {n}, the first ones, classes in turn. Each method on the layer with its best validation IoU, for the given
class, at {p["image_size"]} px; the network is asked at {p["resize"]} px, where its accuracy was measured. In brackets
95 % bootstrap intervals over images; the last two columns are DGL minus the row, paired. Full precision:
[auc.csv](auc.csv), [curves.csv](curves.csv).{_precision(rounded)}

Definition (Petsiuk et al., RISE, BMVC 2018): pixels are ranked by the map, min-maxed and resized bilinearly; then p_c,
the class's probability, is taken after every {100 / STEPS:g} % of them. *Deletion* sets the most salient pixels to zero
after normalisation (the normalisation's mean colour) first: a faithful map makes p_c fall early, so less is better.
*Insertion* reveals them in a blurred copy (Gaussian, standard deviation {100 * BLUR:g} % of the side; RISE's is
narrower and leaves too much to be recognised): more is better. Areas by the trapezoid rule over 0..1. Equal pixels
come in one random order, the same for all maps. Baselines: a constant map, so all pixels in that random order, and a
centred Gaussian. A whole-image baseline ranks no pixel before another: it is the random order.

Read with care: images with pixels deleted look like none the network was trained on, so a fall of p_c mixes what was
removed with how odd the rest looks; pixels scattered by the random order make another kind of picture than the regions
that coarse maps cut out, so compare maps with one another and with the Gaussian first.

## Randomised weights

![Rank correlation with the original maps](randomisation.png)

{_random_markdown(random)}

Mean Spearman rank correlation between a method's maps before and after, on {few} test images (the first ones, classes
in turn), on `{p["layer"]}` (CAM: `{random.loc[random["method"] == "cam", "layer"].iloc[0]}`). Intervals:
[randomisation.csv](randomisation.csv).

Definition (Adebayo et al., NeurIPS 2018, cascading): starting at the head, one block more at a time is drawn anew
(Kaiming-normal, zero bias, batch norm without effect; one draw, seed {SEED}). A method whose maps stay the same does
not depend on what was learned there. Maps keep their sign; a constant map counts as 0. Plain features know no class:
they stay as they are until the blocks that make them are reached.
"""


def _precision(rounded: pd.DataFrame) -> str:
    if not len(rounded):
        return " p_c is taken in float32."
    off = (rounded["bfloat16"] - rounded["float32"]).abs()
    return (
        f"\np_c is taken in bfloat16; on {len(rounded)} of the pictures (each image whole, half inserted and half"
        f"\ndeleted by DGL's map) it lies {off.mean():.4f} from float32's on average and {off.max():.4f} at the most"
        " ([precision.csv](precision.csv))."
    )


def _name(method: str) -> str:
    return plots.NAMES.get(method, method)


def _faithful(auc: pd.DataFrame) -> list[str]:
    """What the areas say, a sentence each."""
    methods = auc[auc["method"].isin(METHODS)]
    lines = []
    for kind, better, worse in (("insertion", "argmax", "below"), ("deletion", "argmin", "above")):
        best = methods.iloc[getattr(methods[kind], better)()]
        interval = _cell(best, kind)
        lines.append(
            f"Best {kind}: {_name(best['method'])} on `{best['layer']}`, {interval}"
            f" ({'more' if kind == 'insertion' else 'less'} is better). "
            + " ".join(_against(auc, kind, baseline, worse) for baseline in ("random_order", "centred_gaussian"))
        )
    [other] = auc[auc["method"] == "pixel_selection"].to_dict("records")
    same = [f"{kind}: {plots.difference(other, kind)}" for kind in ("insertion", "deletion")]
    return [*lines, f"DGL against pixel selection, each on its best layer, {'; '.join(same)}."]


def _against(auc: pd.DataFrame, kind: str, baseline: str, worse: str) -> str:
    [value] = auc.loc[auc["method"] == baseline, kind].astype(float).tolist()
    methods = auc[auc["method"].isin(METHODS)]
    beaten = methods[methods[kind] > value] if worse == "below" else methods[methods[kind] < value]
    return f"{len(beaten)} of {len(methods)} methods are better than {_name(baseline)} ({value:.3f})."


def _random(random: pd.DataFrame) -> list[str]:
    """What the correlations say, a sentence each."""
    steps = random[random["method"].isin(METHODS)].set_index("method")
    lines = []
    for step, what in ((1, "the head alone"), (int(steps["step"].max()), "all weights")):
        now = steps[steps["step"] == step]["correlation"]
        kept = [f"{_name(str(m))} ({v:.2f})" for m, v in now.items() if v >= UNCHANGED]
        names = ", ".join(kept) or "none"
        least = str(now.abs().idxmin())
        lines.append(
            f"With {what} randomised, the maps of these methods hardly change (rank correlation of at least "
            f"{UNCHANGED:g}): {names}. Least alike: {_name(least)} ({float(now[least]):z.2f})."
        )
    return lines


def _cell(row: Mapping[Any, Any] | pd.Series, kind: str, sign: str = "") -> str:
    if pd.isna(row[kind]):
        return ""
    return f"{row[kind]:{sign}z.3f} [{row[f'{kind}_low']:{sign}z.3f}, {row[f'{kind}_high']:{sign}z.3f}]"


def _auc_markdown(auc: pd.DataFrame) -> str:
    head = ["method", "layer", "insertion (more is better)", "deletion (less is better)"]
    rows = [
        [_name(row["method"]), row["layer"], _cell(row, "insertion"), _cell(row, "deletion")]
        + [_cell(row, f"dgl_{kind}", "+") for kind in ("insertion", "deletion")]
        for row in auc.sort_values("insertion", ascending=False, kind="stable").to_dict("records")
    ]
    return claims.markdown([*head, "DGL minus it: insertion", "deletion"], rows)


def _random_markdown(random: pd.DataFrame) -> str:
    """Methods x blocks; the first column, nothing randomised, is 1 but for constant maps and stays in the table."""
    wide = random.pivot_table(index="method", columns="step", values="correlation", sort=False)
    names = random.drop_duplicates("step").set_index("step")["block"]
    head = ["randomised down to", *(names[step] or "nothing" for step in wide.columns)]
    return claims.markdown(
        head, [[_name(str(m)), *(f"{v:z.2f}" for v in row)] for m, row in zip(wide.index, wide.to_numpy(), strict=True)]
    )
