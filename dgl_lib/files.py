"""Writing files so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from dgl_lib.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 beside ``path`` and put it in place in one step. The folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(beside, path)


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
