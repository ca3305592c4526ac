"""Writing files so that a reader finds the old one or the new one, never half of one."""

import hashlib
import io
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from filelock import FileLock, Timeout

from dgl_lib.errors import UserError


def write_bytes(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write ``data``, whole or in pieces, beside ``path``, then put it in place in one step. Folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent.resolve())
    beside = path.with_name(f".{path.name}.{os.getpid()}.dgl-unfinished")
    try:
        with beside.open("wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:  # a full disk or an interrupt leaves nothing behind
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)
        raise


@cache  # once a process: a folder may hold thousands of files
def _sweep(folder: Path) -> None:
    """Remove what killed processes left half written beside their files, ``.NAME.PROCESS.dgl-unfinished``.

    No other file ends so, and the folder may hold a user's own."""
    for left in folder.glob(".*.dgl-unfinished"):
        process = left.stem.rpartition(".")[2]
        if process.isdecimal() and len(process) < 10 and not psutil.pid_exists(int(process)):
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """As ``write_bytes``, for text: UTF-8, line ends as given. A byte of a file's name that is none is \\udc80..ff."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_table(path: Path, table: pd.DataFrame, *, digits: int = 6, index: bool = False) -> pd.DataFrame:
    """Write a CSV file whose floats have ``digits`` significant digits, and hand the table back."""
    write_parts(path, [table], digits=digits, index=index)
    return table


def write_parts(path: Path, tables: Iterable[pd.DataFrame], *, digits: int = 6, index: bool = False) -> None:
    """As ``write_table``, for tables that come one by one and need not fit into memory together."""
    how: dict[str, Any] = {"index": index, "float_format": f"%.{digits}g", "lineterminator": "\n"}
    texts = (table.to_csv(header=not k, **how) for k, table in enumerate(tables))
    write_bytes(path, (text.encode(errors="backslashreplace") for text in texts))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """As ``write_bytes``, for arrays by name: a compressed ``.npz``."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    write_bytes(path, stream.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` by name; none where there is no file, or a damaged one, which is set aside."""
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return {}
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        set_aside(path, error)
        return {}


def kept(path: Path, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz``, which is written with what ``make`` gives where there is none yet."""
    if not (found := read_arrays(path)):
        write_arrays(path, make())
    return found or read_arrays(path)


def set_aside(path: Path, error: Exception) -> None:
    """Rename a damaged file of ours to ``NAME.damaged``, with a warning, so that it is made again."""
    os.replace(path, path.with_name(f"{path.name}.damaged"))
    said = " ".join(str(error).split())[:80] or "it ends too early"
    warnings.warn(f"{path.parent.name}/{path.name} is damaged ({said}): set aside and made again", stacklevel=3)


def key_of(facts: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> str:
    """Sixteen hexadecimal digits to name a file by all that determines it: JSON-like facts, and arrays to the byte."""
    hashed = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for array in arrays:
        hashed.update(f"{array.shape} {array.dtype}".encode())
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()[:16]


def regular(path: str | Path) -> Path:
    """``path``, unless something else than a file is there, such as a pipe: to open it might never end. UserError."""
    if Path(path).exists() and not Path(path).is_file():
        raise UserError(f"{path}: not a regular file")
    return Path(path)


def lies_in(path: str | Path, *folders: str | Path) -> bool:
    """Whether ``path`` is one of ``folders`` or lies below it, after all links are followed."""
    return any(Path(path).resolve().is_relative_to(Path(folder).resolve()) for folder in folders)


def need_apart(out: Path, data: Path | None) -> None:
    """UserError if the output folder ``out`` is ``data``, the folder of what is read, or holds it or lies in it."""
    if data and (lies_in(out, data) or lies_in(data, out)):
        raise UserError(f"output folder: {str(out)!r} given, one apart from the data's ({str(data)!r}) allowed")


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. UserError: see ``regular``."""
    with regular(path).open("rb") as file:
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
    # The lock is a file beside the folder, or in it where nothing may be written beside it. It goes with its process,
    # however that ends. One folder has one lock, whatever links lead to it.
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = folder.parent if os.access(folder.parent, os.W_OK) else folder
    lock, holder = (place / f".{folder.name.lstrip('.')}.{end}" for end in ("lock", "holder"))
    try:
        with FileLock(lock, timeout=0):
            write_text(holder, f"process {os.getpid()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
    except Timeout:
        if not lock.exists():
            raise UserError(f"{folder}: its folder cannot be written to") from None
        by = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise UserError(f"{folder.name} is being written by {by}; wait for it or stop it") from None
