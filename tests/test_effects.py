"""The effects behind the claims, by hand: DGL and its branches against CAM, each other, and the baselines."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dgl_lib.evaluate import EFFECTS, Scores, effects
from dgl_lib.evaluate.compare import PRECISION, REST

LAYERS = ["Mixed_6d", "Mixed_6e", "add1"]


def scores(iou: dict[tuple[str, str], list[int]]) -> Scores:
    """Scores whose rows have these IoUs, percent, image by image: of 100 object pixels so many at level 255."""
    rows = [{"method": m, "layer": layer, "scales": "1", "kernel": 0.0} for m, layer in iou]
    hist = np.zeros((len(rows), 2, 4, 256), np.int32)
    for i, values in enumerate(iou.values()):
        for k, value in enumerate(values):
            hist[i, k, 1, 255], hist[i, k, 1, 0] = value, 100 - value
            hist[i, k, 0, 0] = 10_000  # so much background that threshold 0 is never the best
    return Scores(pd.DataFrame(rows), hist, ["0", "1"], np.array([0, 1]), np.zeros(2, bool))


def test_effects_by_hand() -> None:
    of = scores(
        {
            ("cam", "add1"): [30, 40],
            ("dgl", "Mixed_6d"): [90, 90],
            ("dgl", "Mixed_6e"): [50, 30],
            ("dgl", "add1"): [90, 90],
            ("pixel_selection", "Mixed_6d"): [10, 20],
            ("pixel_selection", "Mixed_6e"): [20, 40],
            ("pixel_selection", "add1"): [90, 90],
            ("enhanced_map", "Mixed_6e"): [45, 45],
            ("whole_image", ""): [12, 14],
            ("centred_gaussian", ""): [21, 25],
        }
    )
    found = effects(of, of, "Mixed_6e", LAYERS)  # no telling part is known: nothing of C2
    assert list(found) == list(EFFECTS)[2:]
    expected = [[20, -10], [15 - 21, 30 - 25], [30, -10], [5, -15]]  # the last layer is in no mean
    np.testing.assert_allclose(list(found.values()), expected)


def test_c2_of_the_rest_and_of_precision() -> None:
    """80 pixels are the rest of the object, 20 its telling part; plain features find 20 of the rest, enhanced 40."""
    rows = [("features", 20, 0), ("enhanced_map", 40, 10), *((m, 50, 0) for m in ("dgl", "pixel_selection"))]
    hist = np.zeros((len(rows) + 3, 30, 4, 256), np.int32)
    hist[:, :, 0, 0] = 10_000
    for i, (_, found, beside) in enumerate([*rows, *[("", 50, 0)] * 3]):
        hist[i, :, 1, 255], hist[i, :, 1, 0] = found, 80 - found
        hist[i, :, 2, 255], hist[i, :, 0, 255] = 20, beside
    names = [(m, "Mixed_6e") for m, *_ in rows] + [("cam", "add1"), ("whole_image", ""), ("centred_gaussian", "")]
    table = pd.DataFrame(names, columns=["method", "layer"]).assign(scales="1", kernel=0.0)
    of = Scores(table, hist, [str(i) for i in range(30)], np.zeros(30, np.int64), np.ones(30, bool))
    found = effects(of, of, "Mixed_6e", ["Mixed_6e", "add1"])
    assert list(found) == list(EFFECTS)
    np.testing.assert_allclose(found[REST], 25)  # 40 / 80 against 20 / 80
    np.testing.assert_allclose(found[PRECISION], 100 * (60 / 70 - 1))
