"""What tests/test_several.py runs, alone and under torchrun: a training, the maps of its network, their scores."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from sets import Toy
from torch import nn

from dgl_lib import several, training
from dgl_lib.evaluate import raw_maps, report, score
from dgl_lib.files import write_table
from dgl_lib.models import spg_plain


def main(folder: Path, killed: bool) -> None:
    """Without dropout and with frozen batch norms: their draws and their means are each process's own. In float32: half
    a batch and a whole one are rounded apart, and bfloat16 leaves two digits."""
    training.bf16_is_fast = lambda _: False
    several.wait()
    torch.manual_seed(0)
    model = spg_plain(3, width=1 / 16)
    model.freeze_batch_norm = True
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    train, val, test = Toy("train", 12), Toy("val", 5), Toy("test", 35)
    recipe = training.Recipe(resize=40, crop=32, epochs=2, batch_size=5, learning_rate=1e-3, trunk_learning_rate=1e-3)
    if killed and several.RANK == 1:
        sys.exit("this process is made to fail")
    training.fit(model, train, val, folder / "run", recipe)
    how = {"layers": ["Mixed_6e", "add1"], "methods": ["cam", "dgl"], "size": 32, "folder": folder / "parts"}
    several.wait()
    torch.manual_seed(0)
    fixed = spg_plain(3, width=1 / 16).eval()
    both = {part: {1.0: raw_maps(fixed, part, **how)} for part in (val, test)}
    if several.RANK == 0:
        before, after = (score(part, maps, size=32) for part, maps in both.items())
        write_table(folder / "scores.csv", report(before, after), digits=12)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "killed" in sys.argv)
