"""What an accelerator makes of it: images a second, the share of its peak, and how many images the loader can give.

python benchmarks/accelerator.py        -> results/bench/accelerator.csv, accelerator.json, loader.csv

It runs on any device, a CPU too, which takes long. The photographs are only read for the loader's limit. The share of
peak is of a large matrix product: of float32's in TF32, which training uses and localization in float32 forgoes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from method import LAYERS, ROOT, SCALES, floor, network, synchronize
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from dgl_lib.data import load
from dgl_lib.fast import faster, pick_device
from dgl_lib.files import write_table, write_text
from dgl_lib.localize import localize
from dgl_lib.study.manifest import hardware, versions
from dgl_lib.taps import frozen
from dgl_lib.training import Crops, Recipe

CLASSES = 1000


def rate(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Calls a second of ``run``, over at least ``seconds`` after two calls that are not counted."""
    run()
    run()
    synchronize(device)
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        run()
        calls += 1
        synchronize(device)
    return calls / (time.perf_counter() - began)


def peak(dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    """The operations a second of a large matrix product, which convolutions are held against; of float32 in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = True  # as convolutions have it from the start
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 * rate(lambda: a @ b, device, seconds)


def measured(run: Callable[[], object], images: int, device: torch.device, seconds: float) -> dict[str, float]:
    """Images and operations a second of ``run``, which sees ``images``, and the most memory that it held."""
    # What is compiled while operations are counted would never be compiled again.
    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
        run()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    calls = rate(run, device, seconds)
    held = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    found = {"images_a_second": images * calls, "tflops": counter.get_total_flops() * calls / 1e12}
    return found | {"memory_gib": held}


def localizing(device: torch.device, batch: int, seconds: float) -> list[dict[str, Any]]:
    """DGL on Mixed_6e of the full network, at one scale and at five, in both precisions."""
    rows = []
    for side in (224, 324):
        for precision in ("float32", "fast"):
            model = network(device, CLASSES)
            model = faster(model, ["Mixed_6e"], side) if precision == "fast" else model
            model.requires_grad_(False)
            for scales in ((1.0,), SCALES):
                inputs = [torch.randn(batch, 3, round(side * s), round(side * s), device=device) for s in scales]

                def run(model: Any = model, inputs: Any = inputs) -> None:
                    for x in inputs:
                        localize(model, x, [0] * batch, ["Mixed_6e"], ["dgl"])

                row = {"what": "DGL on Mixed_6e", "side": side, "scales": len(scales), "precision": precision}
                row["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
                rows.append(row | {"batch": batch} | measured(run, batch, device, seconds))
                print(rows[-1], flush=True)
        model.requires_grad_(True)
    return rows


def every_layer(device: torch.device, batch: int, seconds: float) -> list[dict[str, Any]]:
    """DGL on eight layers at once, and the bare passes that it stands on, in both precisions, and compiled."""
    rows = []
    for precision in ("float32", "fast"):
        model = network(device, CLASSES)
        model = (faster(model, LAYERS, 224) if precision == "fast" else model).requires_grad_(False)
        x = torch.randn(batch, 3, 224, 224, device=device)
        dtype = next(model.parameters()).dtype
        row = {"side": 224, "scales": 1, "precision": precision, "batch": batch}
        row["dtype"] = str(dtype).removeprefix("torch.")

        def run(compiled: bool, model: Any = model, x: Any = x) -> None:
            localize(model, x, [0] * batch, LAYERS, ["dgl"], compiled=compiled)

        quick = x.to(dtype, memory_format=torch.channels_last) if precision == "fast" else x
        for name, compiled in {"DGL on 8 layers": False, "DGL on 8 layers, compiled": True}.items():
            if precision == "fast" or not compiled:
                found = measured(partial(run, compiled), batch, device, seconds)
                rows.append({"what": name} | row | found)
        with frozen(model):  # float32 without TF32, as localization has it
            bare = batch * rate(floor(model, quick, 2), device, seconds)
        same = {"images_a_second": bare, "tflops": found["tflops"] * bare / found["images_a_second"]}  # the same work
        rows.append({"what": "its floor"} | row | same)
        print(*rows[-3:], sep="\n", flush=True)
    return rows


def training(device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """A training step of the full network on crops of 224 pixels that are there already."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for batch in (32, 128):
            model = network(device, CLASSES).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
            x = torch.randn(batch, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
            y = torch.zeros(batch, dtype=torch.long, device=device)

            def run(model: Any = model, optimizer: Any = optimizer, x: Any = x, y: Any = y, dtype: Any = dtype) -> None:
                with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                    logits = model(x)
                nn.functional.cross_entropy(logits.float(), y).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            row = {"what": "training step", "side": 224, "scales": 1, "precision": "", "batch": batch}
            row["dtype"] = str(dtype).removeprefix("torch.")
            rows.append(row | measured(run, batch, device, seconds))
            print(rows[-1], flush=True)
    return rows


def loading(data: str, seconds: float) -> list[dict[str, Any]]:
    """Crops a second that 0, 4, .. workers decode, squash and crop, from photographs as people have them."""
    train = load(data, "train")
    recipe = Recipe(resize=256, crop=224)
    steps = [[(32 * k + i) % len(train) for i in range(32)] for k in range(100_000)]
    rows = []
    for workers in (0, *(n for n in (4, 8, 16) if n <= (os.cpu_count() or 1))):
        loader = DataLoader(Crops(train, 0, recipe), batch_sampler=steps, collate_fn=list, num_workers=workers)
        batches = iter(loader)
        for _ in range(2 * max(workers, 1)):
            next(batches)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            count += len(next(batches))
        rows.append({"workers": workers, "images_a_second": count / (time.perf_counter() - began)})
        print(rows[-1], flush=True)
        del batches, loader
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["device", "loader", "both"], default="both")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", default="pets", help="the data set whose photographs are loaded")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each is measured at least")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    own = parser.parse_args()
    device = pick_device(own.device)
    if own.what != "device":
        write_table(own.out / "loader.csv", pd.DataFrame(loading(own.data, own.seconds)))
    if own.what == "loader":
        return
    peaks = {name: peak(getattr(torch, name), device, own.seconds) / 1e12 for name in ("float32", "bfloat16")}
    rows = localizing(device, own.batch, own.seconds) + every_layer(device, own.batch, own.seconds)
    rows += training(device, own.seconds)
    for row in rows:
        row["share_of_peak"] = row["tflops"] / peaks[row["dtype"]]
    write_table(own.out / "accelerator.csv", pd.DataFrame(rows))
    facts = {"hardware": hardware(), "versions": versions(), "matrix_product_tflops": peaks}
    write_text(own.out / "accelerator.json", json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
