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
    """Write the table. First what all notebooks share; a notebook's seconds hold the making of its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    own = parser.parse_args()
    rows = []
    for name, run in manifest.read(own.folder)["notebooks"].items():
        where = {key: run["hardware"][key] for key in ("processor", "cores", "gpu")} | run["code"]
        if not rows:
            rows += [{"step": step, "seconds": run["seconds"][step], **where} for step in ("training", "maps")]
        rows.append({"step": name, "seconds": run["seconds"]["notebook"], **where})
    write_table(own.out / "study.csv", pd.DataFrame(rows))


if __name__ == "__main__":
    main()
