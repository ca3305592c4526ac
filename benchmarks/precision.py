"""What the fast precision changes: the peak IoU of every method on every layer, beside float32's.

python benchmarks/precision.py pets --checkpoint results/.runs/pets-.../classifier.safetensors
                                    -> results/bench/precision_DEVICE.csv and .json, DEVICE cpu or cuda
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
from method import ROOT

from dgl_lib import evaluate
from dgl_lib.evaluate.scores import score
from dgl_lib.fast import faster, pick_device
from dgl_lib.files import write_table, write_text
from dgl_lib.metrics import iou
from dgl_lib.study import steps
from dgl_lib.study.manifest import hardware, versions
from dgl_lib.study.profile import read_profile


def main() -> None:
    """Localize every test image twice, score both, print the largest differences, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    own = parser.parse_args()
    profile = read_profile(own.profile, ["test_per_class=0"])
    model, (_, test) = steps.classifier(own.checkpoint, profile.data), steps.parts(profile)
    peaks = {}
    for precision in ("float32", "fast"):
        maps = evaluate.every_map(model, test, **profile.localizing | {"precision": precision})
        scores = score(test, {1.0: maps})
        pairs = zip(scores.rows["method"], scores.rows["layer"], strict=True)
        peaks[precision] = {pair: 100 * iou(hist).mean(0).max() for pair, hist in zip(pairs, scores.hist, strict=True)}
    table = pd.DataFrame(peaks).rename_axis(["method", "layer"]).reset_index()
    table["difference"] = table["fast"] - table["float32"]
    print(table.sort_values("difference", key=abs).tail(12))
    device = pick_device(profile.device)
    write_table(own.out / f"precision_{device.type}.csv", table)
    quick = faster(model.to(device), [profile.layer], profile.image_size)
    facts = {"profile": own.profile, "images": len(test), "dtype": str(next(quick.parameters()).dtype)}
    facts |= {"hardware": hardware(), "versions": versions()}
    write_text(own.out / f"precision_{device.type}.json", json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
