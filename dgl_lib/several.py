"""Several processes under torchrun, each with its share of the images. One process alone needs none of this.

Lightning Fabric starts them and averages gradients: its loop stays ours, it knows every accelerator, and unlike
Accelerate it asks for no client of a model hub. Only several processes import it (extra "several").
"""

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dgl_lib.errors import UserError

#: How many processes there are, and which of them this is, as torchrun says.
WORLD, RANK = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))


@cache
def fabric() -> Any:
    """The one Fabric of this process, launched. UserError: it is not installed."""
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise UserError("several processes need Lightning Fabric: pip install lightning-fabric") from None
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    own = Fabric(devices=here, num_nodes=WORLD // here, strategy="ddp")
    own.launch()
    return own


def share(items: Any) -> Any:
    """Every ``WORLD``-th item from this process's own on."""
    return items[RANK::WORLD]


def loader(items: Any, steps: Sequence[Any], device: torch.device) -> DataLoader:
    """This process's share of the items of each step, as lists; beside a GPU, workers make them ahead.

    A loader draws a seed for its workers, which dropout must not notice: it gets a generator of its own."""
    workers = 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
    own: Any = {"batch_sampler": [share(step) for step in steps], "collate_fn": list, "num_workers": workers}
    return DataLoader(items, generator=torch.Generator(), **own)


def wait() -> None:
    """Until all processes are here."""
    if WORLD > 1:
        fabric().barrier()


def total(values: Sequence[float]) -> list[float]:
    """The sums over all processes of what each of them has counted."""
    if WORLD == 1:
        return list(values)
    return fabric().all_reduce(torch.tensor(values, dtype=torch.float64), reduce_op="sum").tolist()


def together(model: nn.Module) -> nn.Module:
    """``model`` with gradients that are means over the processes, and batch norms over all of their images on a GPU."""
    if WORLD == 1:
        return model
    if next(model.parameters()).device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return fabric().setup_module(model)


def gathered(values: Tensor, count: int) -> Tensor:
    """Rows of all processes in their order of ``count`` items, (count, ..), of which each gives those of its share."""
    if WORLD == 1:
        return values
    rows = -(-count // WORLD)
    padded = torch.cat([values, values.new_zeros(rows - len(values), *values.shape[1:])])
    return fabric().all_gather(padded).transpose(0, 1).flatten(0, 1)[:count]
