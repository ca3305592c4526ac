"""How fast the scores are, against the loops they replace; both give the same values, or this stops.

python benchmarks/metrics.py        -> results/bench/metrics.csv
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from dgl_lib import metrics
from dgl_lib.files import write_table
from dgl_lib.maps import to_uint8
from dgl_lib.metrics import boxes

ROOT = Path(__file__).resolve().parents[1]
#: Calls of a replacement that are timed together: one alone may fall between two time slices of a busy machine.
CALLS = 10
#: What the study asks for: so many times as fast as the loop.
NEEDED = {"IoU curve": 50.0, "MaxBoxAccV2": 3.0, "both box scores": 10.0}


def drawn(side: int, smooth: bool, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A score map (side, side), its mask and its box: noise on the 28 x 28 grid, a bump where the object is."""
    raw = np.random.default_rng(seed).normal(size=(28, 28))
    if smooth:
        raw = cv2.GaussianBlur(raw, (0, 0), 2)
    y, x = np.mgrid[:28, :28] - 13.5
    score = boxes.score_map(raw + np.exp(-(x**2 + y**2) / 60), side)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    reach = side // 4
    box = np.array([[side // 2 - reach, side // 2 - reach, side // 2 + reach, side // 2 + reach]])
    return score, x**2 + y**2 <= reach**2, box


# ------------------------------------------------------------------------------------------------------- the loops


def loop_iou(score: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """IoU at each of 256 thresholds, the float map compared anew at each."""
    values = []
    for t in range(256):
        found = score >= (t - 0.5) / 255  # where round(255 m) >= t
        values.append((found & mask).sum() / (found | mask).sum())
    return np.array(values)


def loop_boxes(score: np.ndarray, truth: np.ndarray, *, every: bool) -> np.ndarray:
    """Best IoU of a box with the truth at each of 1,000 thresholds, contours searched anew at each."""
    q = (255 * score).astype(np.uint8)
    highest, side = int(q.max()), len(q)
    best = []
    for t in boxes.THRESHOLDS:
        cut = cv2.threshold(q, int(t * highest), 255, cv2.THRESH_BINARY)[1]
        contours = cv2.findContours(cut, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        if contours and not every:
            contours = [max(contours, key=cv2.contourArea)]
        rectangles = [cv2.boundingRect(contour) for contour in contours]
        found = [[x, y, min(x + w, side - 1), min(y + h, side - 1)] for x, y, w, h in rectangles] or [[0, 0, 0, 0]]
        best.append(boxes.iou(np.array(found), truth).max())
    return np.array(best)


def loop_bootstrap(values: np.ndarray) -> np.ndarray:
    """The 95 % interval of the mean, one resample after the other."""
    random = np.random.default_rng(0)
    means = [values[random.integers(len(values), size=len(values))].mean() for _ in range(2000)]
    return np.quantile(means, [0.025, 0.975])


def at_once_bootstrap(values: np.ndarray) -> np.ndarray:
    """The same from the library."""
    interval = metrics.bootstrap(values)
    return np.array([interval.low, interval.high])


# ---------------------------------------------------------------------------------------------------------- timing

Function = Callable[[], np.ndarray]


def cases(images: int) -> Iterator[tuple[str, str, list[tuple[Function, Function]]]]:
    """Score, case, and for each image the loop and what replaces it."""
    for side in (224, 500):
        pairs: list[tuple[Function, Function]] = []
        for seed in range(images):
            score, mask, _ = drawn(side, True, seed)
            m = torch.from_numpy(score)
            pairs.append(
                (
                    lambda score=score, mask=mask: loop_iou(score, mask),
                    lambda m=m, mask=mask: metrics.iou(metrics.histograms(to_uint8(m), mask)),
                )
            )
        yield "IoU curve", f"{side} x {side} px", pairs
    for name, smooth in product(["MaxBoxAccV2", "MaxBoxAcc", "both box scores"], [True, False]):
        which = {"MaxBoxAcc": [False], "MaxBoxAccV2": [True]}.get(name, [False, True])
        pairs = []
        for seed in range(images):
            score, _, truth = drawn(boxes.SIZE, smooth, seed)

            def loop(score=score, truth=truth, which=which) -> np.ndarray:
                return np.stack([loop_boxes(score, truth, every=every) for every in which])

            def at_once(score=score, truth=truth, which=which) -> np.ndarray:
                found = boxes.search(score)
                return np.stack([found.best_iou(truth) if every else found.largest_iou(truth) for every in which])

            pairs.append((loop, at_once))
        yield name, f"{'smooth' if smooth else 'noisy'} maps", pairs
    for n in (60, 400):
        values = np.random.default_rng(n).random(n)
        yield "bootstrap", f"{n} images", [(lambda v=values: loop_bootstrap(v), lambda v=values: at_once_bootstrap(v))]


def timed(function: Function, times: int = 1) -> tuple[np.ndarray, float, float]:
    """The result, milliseconds on the clock, and milliseconds of processor time: means over ``times`` calls."""
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(times):
        result = function()
    return result, 1e3 * (time.perf_counter() - clock) / times, 1e3 * (time.process_time() - processor) / times


def measure(images: int, repeats: int) -> pd.DataFrame:
    """One row a case: medians over images and repeats, loop and replacement run in turn."""
    table = []
    for name, case, pairs in cases(images):
        times = []
        for slow, fast in pairs * repeats:
            (a, *loop), (b, *at_once) = timed(slow), timed(fast, CALLS)
            if not np.allclose(a, b, rtol=0, atol=1e-12):
                raise AssertionError(f"{name}, {case}: values differ by {np.abs(a - b).max():.3g}")
            times.append([*loop, *at_once])
        loop_ms, loop_cpu, fast_ms, fast_cpu = np.median(times, 0)
        row = {"score": name, "case": case, "loop_ms": loop_ms, "at_once_ms": fast_ms}
        row |= {"times_as_fast": np.median([t[0] / t[2] for t in times]), "by_processor_time": loop_cpu / fast_cpu}
        table.append(row | {"needed": NEEDED.get(name, np.nan)})
        print(f"{name}, {case}: {row['times_as_fast']:.1f} times as fast ({row['by_processor_time']:.1f} by CPU time)")
    return pd.DataFrame(table)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5, help="drawn maps of each kind")
    parser.add_argument("--repeats", type=int, default=3, help="times each is measured")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    arguments = parser.parse_args()
    table = measure(arguments.images, arguments.repeats)
    write_table(arguments.out / "metrics.csv", table)


if __name__ == "__main__":
    main()
