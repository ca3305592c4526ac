"""What a run of the study took, from its manifest: a row for the training, the maps and each notebook.

python benchmarks/study.py results/creatures        -> results/bench/study.csv

Run the study alone on the machine, and in a clone without ``results/.runs``: what is found there takes no time again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from method import ROOT

from dgl_lib.files import write_table
from dgl_lib.study import manifest


def main() -> None:
    """Write the table: what all notebooks share, then each notebook of the first one's commit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    own = parser.parse_args()
    runs = manifest.read(own.folder)["notebooks"]
    first = next(iter(runs.values()))
    where = {key: first["hardware"][key] for key in ("processor", "cores", "gpu")} | first["code"]
    took = {step: first["seconds"][step] for step in ("training", "maps")}
    took |= {name: run["seconds"]["notebook"] for name, run in runs.items() if run["code"] == first["code"]}
    rows = [{"step": step, "seconds": seconds, **where} for step, seconds in took.items()]
    write_table(own.out / "study.csv", pd.DataFrame(rows))


if __name__ == "__main__":
    main()
