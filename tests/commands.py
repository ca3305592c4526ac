"""Every command of README, run in a fresh clone with an environment of its own: does each do what it says?

python tests/commands.py          -> results/tests/commands.csv
python tests/commands.py train    only those with this word; the other rows stay as they are

Studies and trainings get few images and passes, and photographs are drawn ones. Weights that would be downloaded are
random ones in torch's own folder. What takes an hour or another machine is run by a hosted workflow, which is named.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from PIL import Image

from dgl_lib.data.creatures import Creatures
from dgl_lib.models import save_checkpoint, spg_plain

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "results" / "tests" / "commands.csv"

LONG = ("breakages", "browser", "commands", "mutants", "notebooks", "peers", "site", "slides")
#: Commands that are not run here: where they are.
ELSEWHERE = {
    "make test": ".ci/run",
    "make lab": "tests/browser/test_browser.py",
    "make explorer": "tests/browser/test_browser.py",
    **{f"make {name}": ".github/workflows/newest.yml" for name in LONG},
    "make study NOTEBOOKS=all": ".github/workflows/newest.yml",
    "conda env create -f environment.yml": ".github/workflows/newest.yml",
}
#: What one example needs and the project does not.
TIMM = ".venv/bin/python -m pip install --quiet --no-deps -r requirements-peers.txt"
FEW = ["epochs=1", "train_count=80", "val_per_class=2", "test_per_class=2"]
#: What a command becomes, by patterns, in turn: few images, two processes of one machine, and data that are here.
BECOMES = [
    (r'^(make study.*) SET="(.*)"', rf'\1 SET="\2 {" ".join(FEW)}"'),
    (r"^(make study(?!.*SET).*)", rf'\1 SET="{" ".join(FEW)}"'),
    (r"\blid\b|\bpets\b", "creatures"),
    (r"(timm:\S+)", r"\1 --weights none"),
    (r"--nproc 8", "--nproc 2"),
    (
        r"--nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500",
        "--standalone --nproc-per-node 2",
    ),
    (r"^((dgl|torchrun .*-m dgl_lib|\S+python -m dgl_lib) (study|train) .*)", rf"\1 --set {' --set '.join(FEW)}"),
    (r"(train photographs) .*", r"\1 --set epochs=1 --set image_size=96 --set resize=96 --set crop=96"),
]


def commands() -> list[str]:
    """The commands of README, in the order in which they stand there, each once."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
    lines = [re.split(r"\s+#", line)[0].strip() for kind, block in blocks if not kind for line in block.splitlines()]
    inline = re.findall(r"`((?:make|conda) [^`]+)`", text)
    return list(dict.fromkeys(line for line in [*lines, *inline] if line and line[0] not in "!%"))


def stand_in(command: str) -> str:
    """What is run for a command of README."""
    for pattern, becomes in BECOMES:
        command = re.sub(pattern, becomes, command)
    return command


def prepare(clone: Path) -> None:
    """A clone with what README's examples name: a photograph, a folder of photographs, a checkpoint."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    drawn = Creatures("train")
    for i in range(96):
        record, name = drawn[i], f"{drawn.classes[drawn.labels[i]]}/{i}"
        assert record.mask is not None
        for kind, pixels, end in (("images", record.image, "jpg"), ("masks", np.uint8(255) * record.mask, "png")):
            path = clone / "photographs" / kind / f"{name}.{end}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    Image.fromarray(drawn.image(0)).save(clone / "photo.jpg")
    mine = spg_plain(len(drawn.classes), width=1 / 16)
    mine.classes = tuple(sorted(drawn.classes))  # as those of a folder
    save_checkpoint(mine, clone / "mine.safetensors")
    kept = clone / "torch" / "hub" / "checkpoints"
    kept.mkdir(parents=True)
    for name in ("resnet50", "inception_v3"):
        url = torchvision.models.get_model_weights(name).DEFAULT.url
        options = {"init_weights": False} if name == "inception_v3" else {}
        torch.save(torchvision.models.get_model(name, **options).state_dict(), kept / Path(url).name)


def run(command: str, clone: Path) -> dict[str, object] | None:
    """A row of the table; None, and what the command printed: it failed."""
    line = stand_in(command)
    path = os.pathsep.join([str(clone / ".venv" / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    # A variable of whoever runs this must not reach the commands, as it would not reach a reader's.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DGL_", "MAKE", "PYTHONPATH"))}
    environment |= {"PATH": path, "TORCH_HOME": str(clone / "torch")}
    found = sorted(clone.glob("results/.runs/folder-*/classifier.safetensors"))
    shown = line.replace("results/.runs/folder-.../classifier.safetensors", str(found[0]) if found else "")
    began = time.perf_counter()
    done = subprocess.run(shown, shell=True, cwd=clone, env=environment, capture_output=True, text=True)
    seconds = round(time.perf_counter() - began)
    print(f"{seconds:5} s  {line}" + (f": {done.returncode}" if done.returncode else ""), flush=True)
    if done.returncode:
        print(done.stdout[-1500:], done.stderr[-1500:], flush=True)
        return None
    return {"command": command, "run": line, "seconds": seconds}


def main(words: list[str]) -> int:
    """Run the commands with one of these words, none for all, and write the table. Returns how many failed."""
    rows = pd.read_csv(TABLE, keep_default_na=False).to_dict("records") if TABLE.exists() else []
    known = {row["command"]: row for row in rows}
    listed = [command for command in commands() if command not in ELSEWHERE]
    install = [command for command in listed if "venv .venv" in command or "pip install" in command]
    rest = [c for c in listed if c not in install and (not words or any(word in c for word in words))]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder).resolve() / "dgl"
        prepare(clone)
        for command in [*install, TIMM, *rest]:
            row = run(command, clone)
            known |= {command: row} if row else {}
            failed += row is None
            pd.DataFrame([known[c] for c in listed if c in known]).to_csv(TABLE, index=False)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
