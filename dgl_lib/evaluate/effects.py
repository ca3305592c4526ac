"""The effects behind the claims, of one trained network: tidy tables, a row an image, to be put below each other.

Columns: claim; detail, which tells a claim's readings apart, or ""; effect; image, its number among those measured; and
value, in points of a score unless said otherwise. An effect that begins with ``EXPLORATORY`` decides nothing.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from dgl_lib import localize
from dgl_lib.evaluate.compare import with_parts
from dgl_lib.evaluate.raw import Maps
from dgl_lib.evaluate.scores import SINGLE, Scores, better_baseline, name_scales, per_image
from dgl_lib.evaluate.treatments import Chosen, row
from dgl_lib.maps import minmax
from dgl_lib.metrics.pixels import PART, REST, equal_area
from dgl_lib.pulling import Pulled

EXPLORATORY = "exploratory: "
#: How branch 1's channels become one picture, and what the methods of that reading end in.
READINGS = dict(zip(("sum", "positive part", "norm"), localize.READINGS, strict=True))
SAME = 1e-4  # of the range: two min-maxed maps that differ by less are one map


def effect(claim: str, name: str, values: np.ndarray, detail: str = "") -> pd.DataFrame:
    """The rows of one effect from its value on each image, (images,); NaN are left out."""
    cells = {"claim": claim, "detail": detail, "effect": name, "image": range(len(values)), "value": values}
    return pd.DataFrame(cells).astype({"value": float}).dropna()


def of_pulling(pulled: Pulled, steps: Sequence[float]) -> pd.DataFrame:
    """C1: what the step t = 1 changes against t = 0, of the margin (logits) and of p_c (0..1)."""
    start, end = list(steps).index(0), list(steps).index(1)
    changes = {"margin": pulled.margin, "p_c": pulled.p_c}
    return pd.concat([effect("C1", name, x[:, end] - x[:, start]) for name, x in changes.items()], ignore_index=True)


def of_scores(val: Scores, test: Scores, layer: str, layers: Sequence[str]) -> pd.DataFrame:
    """C2, C4, C5 and C8, of maps at one scale and without closing. What needs a map that has no row is left out.

    DGL and its branches stand on ``layer``, CAM where it exists, C4's pixel selection on ``layers`` without CAM's, on
    average. C2 and C8 have an effect for each of ``READINGS``. C2 is at equal area, on images whose telling part is
    known; beside its first reading stands the same at thresholds. All others have thresholds chosen on validation."""
    at = {"scales": name_scales(SINGLE), "kernel": 0.0}
    single = val.rows[(val.rows["scales"] == at["scales"]) & (val.rows["kernel"] == 0)]
    there = set(zip(single["method"], single["layer"], strict=True))
    [last] = single.loc[single["method"] == "cam", "layer"]
    known, where = with_parts(val, test)

    def of(method: str, on: str = layer, images: Scores = test, measure: str = "iou") -> np.ndarray:
        return per_image(val, images, {"method": method, "layer": on, **at}, measure)

    dgl, pixels = of("dgl"), of("pixel_selection")
    found = [effect("C5", "DGL minus CAM", dgl - of("cam", last))]
    earlier = [on for on in layers if on != last]
    if earlier and there.issuperset(("pixel_selection", on) for on in earlier):
        gain = np.mean([of("pixel_selection", on) for on in earlier], 0)
        gain -= per_image(val, test, {"method": better_baseline(val)})
        found.append(effect("C4", "pixel selection minus the better baseline", gain))
    for reading, end in READINGS.items():
        enhanced, plain = f"enhanced_map{end}", f"features{end}"
        if (enhanced, layer) in there:
            found.append(effect("C8", "DGL minus pixel selection", dgl - pixels, reading))
            found.append(effect("C8", "DGL minus enhanced map", dgl - of(enhanced), reading))
        if known.names and there.issuperset([(enhanced, layer), (plain, layer)]):
            detail = reading if where == "test" else f"{reading}, {where} images"
            two = [known.find(method=method, layer=layer, **at) for method in (enhanced, plain)]
            for name, regions in {"rest found": (REST,), "precision": (REST, PART)}.items():
                one, other = (equal_area(hist, *regions) for hist in two)
                found.append(effect("C2", name, 100 * (one - other), detail))
            for name, measure in {"rest found": "recall_rest", "precision": "precision"}.items() if not end else ():
                changed = of(enhanced, layer, known, measure) - of(plain, layer, known, measure)
                found.append(effect("C2", f"{EXPLORATORY}{name}, at a threshold", changed, detail))
    return pd.concat(found, ignore_index=True)


def of_treatments(val: Scores, test: Scores, chosen: Chosen) -> pd.DataFrame:
    """C6 and C7: what several scales add to DGL, and what closing adds on top, as ``treatments.search`` chose them.

    Where there was nothing to merge, or to close, that claim has no rows."""
    found = [effect("C6", "MS minus none", np.empty(0))]  # the columns, if nothing follows
    for claim, after, before in (("C6", "MS", "none"), ("C7", "MS+MC", "MS")):
        if chosen["dgl"][after] != chosen["dgl"][before]:
            one, other = (per_image(val, test, row("dgl", chosen["dgl"][t])) for t in (after, before))
            found.append(effect(claim, f"{after} minus {before}", one - other))
    return pd.concat(found, ignore_index=True)


def of_last_layer(maps: Maps, last: str) -> pd.DataFrame:
    """C3: 1 where an image's pixel selection is CAM on the layer ``last``, within ``SAME`` of the range, else 0."""
    one, other = (minmax(torch.from_numpy(maps.maps[method, last])) for method in ("pixel_selection", "cam"))
    return effect("C3", "the same map", ((one - other).abs().amax((1, 2)) < SAME).numpy())


def of_weights(before: str, after: str) -> pd.DataFrame:
    """C9: 1 where two digests of a network's weights are the same, else 0."""
    return effect("C9", "the same weights", np.array([before == after]))
