"""Several processes under torchrun, each with its share of the images. One process alone needs none of this.

Lightning Fabric starts them and averages gradients: its loop stays ours, it knows every accelerator, and unlike
Accelerate it asks for no client of a model hub. Only several processes import it (extra "several").
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dgl_lib.errors import UserError

#: How many processes there are, and which of them this is, as torchrun says.
WORLD, RANK = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
HERE = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes on this machine
#: The processor cores that this process may use.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def fabric() -> Any:
    """The one Fabric of this process, launched. UserError: it is not installed."""
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise UserError("several processes need Lightning Fabric: pip install lightning-fabric") from None
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every process
    own = Fabric(devices=HERE, num_nodes=WORLD // HERE, strategy="ddp")
    own.launch()
    return own


def start(count: int, arguments: Sequence[str]) -> int:
    """Run ``python -m dgl_lib`` with these arguments in ``count`` processes of this machine, and return the status of
    the first that failed, or 0. They end with this process. UserError: a signal ended one of them."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for told in ("agent.server", "multiprocessing"):  # what failed is said below, in one line
        logging.getLogger(f"torch.distributed.elastic.{told}.api").setLevel(logging.CRITICAL)
    given = "OMP_NUM_THREADS" in os.environ
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core each, as torchrun has it
    config = LaunchConfig(1, 1, count, run_id="dgl", rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
    try:
        elastic_launch(config, sys.executable)("-m", "dgl_lib", *arguments)
    except ChildFailedError as error:
        if (status := error.get_first_failure()[1].exitcode) < 0:
            said = f"signal {-status} ended one of {count} processes"
            raise UserError(f"{said}; the same command continues where it stood") from None
        return status
    except SignalException:  # Ctrl-C, or whoever ends this process; the others have ended by now
        raise KeyboardInterrupt from None
    finally:
        if not given:
            del os.environ["OMP_NUM_THREADS"]
    return 0


def share(items: Any) -> Any:
    """Every ``WORLD``-th item from this process's own on."""
    return items[RANK::WORLD]


def loader(items: Any, steps: Sequence[Any], device: torch.device) -> Iterator[list[Any]]:
    """The items of each step, as lists; beside a GPU, up to eight workers make them ahead, each for four steps or more.

    A loader draws a seed for its workers, which dropout must not notice: it gets a generator of its own."""
    workers = 0 if device.type == "cpu" else min(8, CORES // HERE, len(steps) // 4)
    own: Any = {"batch_sampler": steps, "collate_fn": list, "num_workers": workers}
    try:
        yield from DataLoader(items, generator=torch.Generator(), **own)
    except UserError as error:  # of a worker: what it says comes behind its traceback
        raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2].strip()) from None


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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*all_gather is deprecated")  # Fabric's own call
        return fabric().all_gather(padded).transpose(0, 1).flatten(0, 1)[:count]
