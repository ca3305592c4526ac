"""Twelve ways to get the method wrong, each tried on a copy of the project: do the tests and the notebooks notice?

python tests/breakages.py              -> results/tests/breakages.csv
python tests/breakages.py "sign"       only that one; the other rows stay as they are
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "results" / "tests" / "breakages.csv"


class Breakage(NamedTuple):
    """One line of the library, what it becomes, and which tests and which notebook should turn red."""

    name: str
    file: str  # below dgl_lib
    was: str
    becomes: str
    tests: str  # tests/test_*.py
    notebook: str  # notebooks/*.ipynb


LAYERS, SCALES = "03_cam_vs_pixel_selection", "04_multiscale_close_ablation"
NOTHING = ("nothing", "errors.py", "", "")  # the tests of the untouched project must be green
BREAKAGES = [
    Breakage("sign", "localize.py", "n(S) - n(G_J)\n\n\ndef loss", "n(S) + n(G_J)\n\n\ndef loss", "localize", LAYERS),
    Breakage(
        "norm missing",
        "localize.py",
        "return X / top * (1 / _nonzero(torch.linalg.vector_norm(norms, dim=(2, 3), keepdim=True)))",
        "return X",
        "localize",
        LAYERS,
    ),
    Breakage(
        "norm over the batch",
        "localize.py",
        "torch.linalg.vector_norm(norms, dim=(2, 3), keepdim=True)",
        "torch.linalg.vector_norm(norms, dim=(0, 2, 3), keepdim=True)",
        "localize",
        LAYERS,
    ),
    Breakage(
        "alpha ignored",
        "localize.py",
        "logits.logsumexp(1) - alpha * _at(logits, classes)",
        "logits.logsumexp(1) - _at(logits, classes)",
        "localize",
        LAYERS,
    ),
    Breakage(
        "wrong class",
        "localize.py",
        "_grad(_at(logits, c), S, layers, model, again",
        "_grad(_at(logits, (c + 1) % logits.shape[1]), S, layers, model, again",
        "localize",
        LAYERS,
    ),
    Breakage(
        "wrong layer",
        "localize.py",
        "[outputs[layer] for layer in layers]",
        "[outputs[layer] for layer in reversed(layers)]",
        "localize",
        LAYERS,
    ),
    Breakage(
        "ReLU added",
        "localize.py",
        "(G_c * enhance(S, G_J)).sum(1)",
        "(G_c * enhance(S, G_J)).sum(1).relu()",
        "localize",
        LAYERS,
    ),
    Breakage(
        "scales merged before min-max",
        "maps.py",
        "resize(minmax(m), size) for m in maps",
        "resize(m, size) for m in maps",
        "maps",
        SCALES,
    ),
    Breakage("closing on the wrong side", "maps.py", "cv2.MORPH_CLOSE", "cv2.MORPH_OPEN", "maps", SCALES),
    Breakage(
        "mask and map misaligned by a pixel",
        "evaluate/scores.py",
        "metrics.histograms(q, mask, ignore, part)",
        "metrics.histograms(np.roll(q, 1, axis=1), mask, ignore, part)",
        "evaluate",
        LAYERS,
    ),
    Breakage(
        "threshold taken on test",
        "evaluate/scores.py",
        "chosen, values, table = choices(val), [], []",
        "chosen, values, table = choices(test), [], []",
        "evaluate",
        LAYERS,
    ),
    Breakage(
        "train mode left on",
        "taps.py",
        "        if flags:\n            model.eval()\n",
        "        model.train()\n",
        "localize",
        LAYERS,
    ),
]


def copied(to: Path) -> Path:
    """A copy of what the tests need, without what runs left behind: no kept map of the whole code is found there."""
    hidden = shutil.ignore_patterns(".*", "__pycache__")
    for name in ("dgl_lib", "tests", "notebooks", "results"):
        shutil.copytree(ROOT / name, to / name, ignore=hidden)
    shutil.copy(ROOT / "pyproject.toml", to)
    return to


def first_failure(folder: Path, *arguments: str) -> str:
    """What turns red first when pytest runs in ``folder`` with these arguments; "" if all is green."""
    # The kernels of notebooks find the copy by PYTHONPATH. No bytecode: a change within a second would go unseen.
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", result.stdout, re.M)
    if result.returncode not in (1, 2) or not found:
        raise RuntimeError(f"pytest {' '.join(arguments)} ended with {result.returncode}\n{result.stdout[-2000:]}")
    return found[1]


def tried(breakage: Breakage) -> dict[str, str]:
    """A row of the table: what turns red where one line is broken."""
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder).resolve())
        source = copy / "dgl_lib" / breakage.file
        source.write_text(source.read_text().replace(breakage.was, breakage.becomes))
        test = first_failure(copy, *(f"tests/test_{name}.py" for name in breakage.tests.split()))
        names = breakage.notebook.split()
        cell = first_failure(copy, "--nbval", "--nbval-current-env", *(f"notebooks/{name}.ipynb" for name in names))
    return {"breakage": breakage.name, "file": f"dgl_lib/{breakage.file}", "test": test, "notebook_cell": cell}


def main(names: list[str]) -> None:
    """Try the breakages of these names, none for all, and write the table."""
    whole = [Breakage(*NOTHING, " ".join(sorted({b.tests for b in BREAKAGES})), f"{LAYERS} {SCALES}"), *BREAKAGES]
    rows = pd.read_csv(TABLE, keep_default_na=False).to_dict("records") if TABLE.exists() else []
    known = {row["breakage"]: row for row in rows}
    for breakage in (b for b in whole if not names or b.name in names):
        known[breakage.name] = row = tried(breakage)
        print(f"{breakage.name}: {row['test'] or 'GREEN'}; {row['notebook_cell'] or 'GREEN'}", flush=True)
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([known[b.name] for b in whole if b.name in known]).to_csv(TABLE, index=False)


if __name__ == "__main__":
    main(sys.argv[1:])
