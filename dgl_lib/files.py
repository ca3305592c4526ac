"""Writing files so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from dgl_lib.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 beside ``path`` and put it in place in one step. The folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(beside, path)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a compressed ``.npz`` beside ``path`` and put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")  # two runs may compute the same
    with beside.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    beside.replace(path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` by name."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def kept(path: Path, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz``; where there is none yet, what ``make`` gives, which is written there."""
    if path.exists():
        return read_arrays(path)
    made = dict(make())
    write_arrays(path, made)
    return made


def key_of(facts: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> str:
    """Sixteen hexadecimal digits to name a file by all that determines it: JSON-like facts, and arrays to the byte."""
    hashed = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for array in arrays:
        hashed.update(f"{array.shape} {array.dtype}".encode())
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()[:16]


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; the lock goes with its process, however that ends.

    Raises:
        UserError: another process holds it. The message names that process and when it began.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_suffix(".holder")
    try:
        with FileLock(path, timeout=0):
            write_text(holder, f"process {os.getpid()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
            yield
            holder.unlink(missing_ok=True)
    except Timeout:
        by = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise UserError(f"{what} is being written by {by}; wait for it or stop it") from None
