"""How fast the method is: beside its floor, beside other packages, in both precisions, and how its cost grows.

python benchmarks/method.py         -> results/bench/method.csv, growth.csv, training.csv, narrow.csv, hardware.json

The floor is what no implementation can do without: the bare forward pass and a vector-Jacobian product a gradient.
Everything in one table is measured in turn, round by round, so that another load on the machine hits all of it alike.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from dgl_lib.fast import bf16_pays, faster, narrow_norms, pick_device
from dgl_lib.files import write_table, write_text
from dgl_lib.localize import CONTROLS, METHODS, localize
from dgl_lib.models import Classifier, spg_plain
from dgl_lib.study.manifest import hardware, versions

ROOT = Path(__file__).resolve().parents[1]
SCALES = (1.0, 0.5, 0.75, 1.25, 1.5)
LAYERS = [layer.name for layer in spg_plain(2, width=1 / 16).layers][2:]  # eight, from Mixed_5d


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    getattr(torch, device.type).synchronize()


def alternate(cases: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> pd.DataFrame:
    """Seconds of each case, (rounds, cases), in a new order each round, since what ran before has its effect. A first
    round is not kept."""
    times, order = [], random.Random(0)
    for k in range(rounds + 1):
        row = {}
        for name, run in order.sample([*cases.items()], len(cases)):
            synchronize(device)
            began = time.perf_counter()
            run()
            synchronize(device)
            row[name] = time.perf_counter() - began
        if k:
            times.append(row)
    return pd.DataFrame(times, columns=[*cases])


def table(times: pd.DataFrame, of: str, images: int) -> pd.DataFrame:
    """A line a case: median seconds, images a second, and the median of the ratios to the case ``of`` in a round."""
    ratios = times.div(times[of], axis=0).median()
    seconds = times.median()
    found = {"seconds": seconds, "images_a_second": images / seconds, f"times_{of}": ratios}
    return pd.DataFrame(found).rename_axis("case").reset_index()


def floor(model: nn.Module, x: torch.Tensor, gradients: int) -> Callable[[], object]:
    """The bare forward pass, and a vector-Jacobian product from the logits for each gradient."""
    kept: list[torch.Tensor] = []

    def keep(_m: nn.Module, _i: object, out: torch.Tensor) -> torch.Tensor:
        kept.append(out if out.requires_grad else out.detach().requires_grad_())
        return kept[-1]

    def run() -> None:
        kept.clear()
        handles = [model.get_submodule(name).register_forward_hook(keep) for name in LAYERS]
        logits = model(x)
        for handle in handles:
            handle.remove()
        for k in range(gradients):
            torch.autograd.grad(logits[:, k].sum(), kept, retain_graph=k + 1 < gradients)

    return run


def peers(model: nn.Module, x: torch.Tensor, c: list[int]) -> dict[str, Callable[[], object]]:
    """LayerCAM on the eight layers as users of other packages call it; those that are not installed are left out."""
    found: dict[str, Callable[[], object]] = {}
    try:
        from pytorch_grad_cam import LayerCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        targets = [ClassifierOutputTarget(k) for k in c]

        def grad_cam() -> None:
            for name in LAYERS:
                with LayerCAM(model, [model.get_submodule(name)]) as extractor:
                    extractor(x, targets)

        found["pytorch-grad-cam, LayerCAM"] = grad_cam
    except ImportError:
        pass
    try:
        from torchcam.methods import LayerCAM as TorchCAM

        def torchcam() -> None:
            with TorchCAM(model, LAYERS) as extractor:
                extractor(c, model(x), normalized=False)

        found["TorchCAM, LayerCAM"] = torchcam
    except ImportError:
        pass
    return found


def method(device: torch.device, batch: int, side: int, rounds: int) -> pd.DataFrame:
    """Full width, eight layers: floors, ours in both precisions, the other packages."""
    model, x, c = network(device, 100), torch.randn(batch, 3, side, side, device=device), list(range(batch))
    quick = faster(model, LAYERS, side)
    fast_x = x.to(next(quick.parameters()).dtype, memory_format=torch.channels_last)
    for parameter in [*model.parameters(), *quick.parameters()]:
        parameter.requires_grad_(False)

    every = [name for name in (*METHODS, *CONTROLS) if name != "cam"]

    def ours(own: Classifier, *names: str, compiled: bool = False) -> Callable[[], object]:
        return lambda: localize(own, x, c, LAYERS, names, compiled=compiled)

    cases = {
        "forward pass, exact": lambda: model(x),
        "forward pass, fast": lambda: quick(fast_x),
        "floor of two gradients, exact": floor(model, x, 2),
        "floor of two gradients, fast": floor(quick, fast_x, 2),
        "floor of one gradient, exact": floor(model, x, 1),
        "DGL, exact": ours(model, "dgl"),
        "DGL, fast": ours(quick, "dgl"),
        "DGL, compiled": ours(quick, "dgl", compiled=True),
        "LayerCAM, exact": ours(model, "layer_cam"),
        "LayerCAM, fast": ours(quick, "layer_cam"),
        "LayerCAM, compiled": ours(quick, "layer_cam", compiled=True),
        f"{len(every)} methods, exact": ours(model, *every),
        f"{len(every)} methods, fast": ours(quick, *every),
        f"{len(every)} methods, compiled": ours(quick, *every, compiled=True),
    }
    times = alternate(cases | peers(deepcopy(model).requires_grad_(True), x, c), rounds, device)
    found = table(times, "DGL, exact", batch)
    for precision, floor_of in (("exact", "exact"), ("fast", "fast"), ("compiled", "fast")):
        over = times[f"DGL, {precision}"] / times[f"floor of two gradients, {floor_of}"]
        print(f"DGL over the floor of its precision ({precision}): {over.median():.3f}")
    return found.assign(batch=batch, side=side, layers=len(LAYERS), bf16=quick.fc.weight.dtype == torch.bfloat16)


def network(device: torch.device, classes: int, width: float = 1.0) -> Classifier:
    """SPG-plain with random weights on ``device``, always the same."""
    torch.manual_seed(0)
    return spg_plain(classes, width=width).eval().to(device)


def growth(device: torch.device, rounds: int) -> pd.DataFrame:
    """How the cost of a batch grows with one thing at a time, at a quarter of the width; the first value is 1."""
    start = {"layers": 1, "methods": 1, "batch": 4, "side": 224, "classes": 10, "scales": 1}
    along = {
        "layers": (1, 2, 4, 8, 10),
        "methods": (1, 4, 8, len(METHODS) + len(CONTROLS) - 1),
        "batch": (1, 2, 4, 8, 16),
        "side": (112, 160, 224, 324, 448),
        "classes": (10, 100, 1000, 10000),
        "scales": (1, 2, 3, 5),
    }
    names = ["dgl", *(name for name in (*METHODS, *CONTROLS) if name not in ("dgl", "cam"))]
    tables = []
    for axis, values in along.items():
        cases: dict[str, Callable[[], object]] = {}
        for value in values:
            own = start | {axis: value}
            model = network(device, own["classes"], width=0.25)
            layers = [layer.name for layer in model.layers][-own["layers"] :]
            sides = [round(own["side"] * s) for s in SCALES[: own["scales"]]]
            inputs = [torch.randn(own["batch"], 3, side, side, device=device) for side in sides]

            def run(model=model, layers=layers, inputs=inputs, count=own["methods"], batch=own["batch"]) -> None:  # type: ignore[no-untyped-def]
                for x in inputs:
                    localize(model, x, [0] * batch, layers, names[:count])

            cases[str(value)] = run
        found = table(alternate(cases, rounds, device), str(values[0]), 1).rename(
            columns={f"times_{values[0]}": "times"}
        )
        found = found.rename(columns={"case": "value"}).drop(columns="images_a_second")
        if axis == "scales":
            found["pixels"] = [sum(s**2 for s in SCALES[:n]) for n in values]
        tables.append(found.assign(along=axis))
        print(axis, found["times"].round(2).to_list())
    return pd.concat(tables, ignore_index=True)


def training_step(model: nn.Module, batch: int, side: int, half: bool) -> Callable[[], None]:
    """Forward, backward and AdamW, in float32 or under bfloat16's autocast."""
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    device = next(model.parameters()).device
    x, y = torch.randn(batch, 3, side, side, device=device), torch.zeros(batch, dtype=torch.long, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = model(x.contiguous(memory_format=torch.channels_last))
        nn.functional.cross_entropy(logits.float(), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def training(device: torch.device, rounds: int, batch: int = 16, side: int = 224) -> pd.DataFrame:
    """A training step of the full network in both precisions."""
    halves = {"float32": False, "bfloat16": True}
    steps = {name: training_step(network(device, 100), batch, side, half) for name, half in halves.items()}
    return table(alternate(steps, rounds, device), "float32", batch).assign(batch=batch, side=side)


def narrow(device: torch.device, rounds: int, batch: int = 8, side: int = 144) -> pd.DataFrame:
    """A training step of the creatures' network, as it is and with ``narrow_norms``, in both precisions."""
    steps: dict[str, Callable[[], object]] = {}
    for name, half in {"float32": False, "bfloat16": True}.items():
        steps[f"channels last, {name}"] = training_step(network(device, 8, 1 / 8), batch, side, half)
        model = network(device, 8, 1 / 8)
        step = training_step(model, batch, side, half)

        def planes(model=model, step=step) -> None:  # type: ignore[no-untyped-def]
            with narrow_norms(model):
                step()

        steps[f"narrow norms by planes, {name}"] = planes
    return table(alternate(steps, rounds, device), "channels last, float32", batch).assign(batch=batch, side=side)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=7, help="times each is measured")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    own = parser.parse_args()
    device = pick_device(own.device)
    for name, measured in (
        ("method", lambda: method(device, own.batch, 224, own.rounds)),
        ("training", lambda: training(device, max(1, own.rounds // 3))),
        ("narrow", lambda: narrow(device, 10 * own.rounds)),
        ("growth", lambda: growth(device, own.rounds)),
    ):
        print(found := measured())
        write_table(own.out / f"{name}.csv", found)
    facts = {"hardware": hardware(), "versions": versions(), "threads": torch.get_num_threads()}
    facts["bf16_pays"] = bf16_pays(network(device, 100), 224)
    write_text(own.out / "hardware.json", json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
