"""The memory that each step of the study takes for few images and for many: does it grow with them?

python benchmarks/memory.py                 -> results/bench/memory.csv

A network of a sixteenth of the width sees random pictures at 160 pixels; masks have 64. Steps are the study's own, each
count of images has a process of its own, and what counts is the memory that only this process can use: pages of files
are the system's, which takes them back when it needs them. It takes half an hour.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from method import ROOT

from dgl_lib import evaluate
from dgl_lib.data.records import Record
from dgl_lib.evaluate import treatments
from dgl_lib.evaluate.boxes import box_scores, box_table
from dgl_lib.files import write_table
from dgl_lib.models import spg_plain

LAYER = "Mixed_6e"


class Drawn:
    """So many pictures of random pixels, each with a box as its object."""

    name, split, classes = "drawn", "test", ("a", "b")

    def __init__(self, count: int):
        self.names, self.labels, self.digest = [str(i) for i in range(count)], np.arange(count) % 2, str(count)

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(256, size=(32, 32, 3), dtype=np.uint8)

    def __getitem__(self, index: int) -> Record:
        mask, left = np.zeros((64, 64), bool), 4 + index % 20
        mask[10:40, left:50] = True
        box = np.array([[left, 10, 49, 39]], np.int32)
        return Record(self.names[index], np.zeros((64, 64, 3), np.uint8), index % 2, box, mask)


class Watch:
    """The most memory that was held in each step, MB, looked at fifty times a second."""

    def __init__(self, count: int):
        self.count, self.peak, self.process = count, 0.0, psutil.Process()
        self.lines: list[dict[str, Any]] = []
        threading.Thread(target=self.look, daemon=True).start()

    def held(self) -> float:
        memory = self.process.memory_info()
        return (memory.rss - getattr(memory, "shared", 0)) / 1e6

    def look(self) -> None:
        while True:
            self.peak = max(self.peak, self.held())
            time.sleep(0.02)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.peak, began = self.held(), time.perf_counter()
        yield
        took = {"peak_mb": self.peak, "seconds": time.perf_counter() - began}
        self.lines.append({"step": name, "images": self.count, **took})
        print(self.lines[-1], flush=True)


def measure(count: int) -> pd.DataFrame:
    """The steps for so many images: the peak (MB) and the seconds of each."""
    torch.manual_seed(0)
    model, data, watch = spg_plain(2, width=1 / 16).eval(), Drawn(count), Watch(count)
    methods = ["cam", "dgl"]
    with TemporaryDirectory() as folder:
        kept: dict[str, Any] = {"folder": Path(folder)}
        asked: dict[str, Any] = {"size": 160, "device": "cpu", **kept}
        with watch.step("maps"):
            maps = evaluate.every_map(model, data, **asked)
        with watch.step("pixel scores"):
            scores = evaluate.score(data, {1.0: maps}, **kept)
        with watch.step("report"):
            table = evaluate.report(scores, scores)
        with watch.step("box scores"):
            rows = table.query("layer in ['Mixed_6e', 'add1', ''] and method in ['cam', 'dgl', 'whole_image']")
            rows = rows[["method", "layer"]].assign(kind=np.where(rows["layer"] == "", "baseline", "method"))
            found = box_scores(data, {1.0: maps}, rows[["method", "layer"]].to_dict("records"), **kept)
            box_table(rows, found, found, (scores, scores))
        with watch.step("scales and closing"):
            by_scale = evaluate.maps_of_scales(model, data, layer=LAYER, methods=methods, scales=[1.0, 1.5], **asked)
            two = [("cam", model.layers[-1].name), ("dgl", LAYER)]
            some = {scale: of.only(two) for scale, of in by_scale.items()}
            val, chosen = treatments.search(data, some, [1.0, 1.5], [0.05], **kept)
            test = treatments.score_chosen(data, some, chosen, **kept)
            treatments.report_table(val, test, chosen)
    return pd.DataFrame(watch.lines)


def main() -> None:
    """Measure each count in a process of its own, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000], help="counts of images")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    own = parser.parse_args()
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        table = pd.concat(pool.map(measure, own.images), ignore_index=True)
    write_table(own.out / "memory.csv", table)


if __name__ == "__main__":
    main()
