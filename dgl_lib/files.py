"""Writing files so that a reader finds the old one or the new one, never half of one."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from dgl_lib.errors import UserError


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, then put it in place in one step. The folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:  # a full disk or an interrupt leaves nothing behind
        beside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """As ``write_bytes``, for text: UTF-8, line ends as given. A byte of a file's name that is none is \\udc80..ff."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_table(path: Path, table: pd.DataFrame, *, digits: int = 6, index: bool = False) -> pd.DataFrame:
    """Write a CSV file whose floats have ``digits`` significant digits, and hand the table back."""
    write_text(path, table.to_csv(index=index, float_format=f"%.{digits}g", lineterminator="\n"))
    return table


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """As ``write_bytes``, for arrays by name: a compressed ``.npz``."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    write_bytes(path, stream.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` by name."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def kept(path: Path, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz``. Where there is none yet, ``make`` makes them, and they are written there."""
    if not path.exists():
        write_arrays(path, make())
    return read_arrays(path)


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


def sorted_header(file: bytes) -> bytes:
    """The same safetensors file with its header's entries sorted, since safetensors writes them in any order."""
    length = int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned to 8 bytes
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder`` while the block runs. A UserError says who has it already, and since when."""
    # The lock is a file beside the folder. It goes with its process, however that ends.
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = (folder.with_name(f".{folder.name.lstrip('.')}.{end}") for end in ("lock", "holder"))
    try:
        with FileLock(lock, timeout=0):
            write_text(holder, f"process {os.getpid()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
            yield
            holder.unlink(missing_ok=True)
    except Timeout:
        by = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise UserError(f"{folder.name} is being written by {by}; wait for it or stop it") from None
