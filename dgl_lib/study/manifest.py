"""What a result says of its own making: parameters, versions, hashes, times, hardware. It holds no machine's paths."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dgl_lib.files import sha256, write_text

PACKAGES = (
    *("torch", "torchvision", "numpy", "opencv-python-headless", "safetensors", "pandas", "matplotlib"),
    *("papermill", "nbclient", "ipykernel"),
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; packages that are missing are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GiB, whether bf16 is native, graphics card if any, system."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory(),
        "bf16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    """The processor's model name: Linux keeps it in /proc, elsewhere ``platform`` knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def revision(root: Path) -> dict[str, Any]:
    """The git commit at ``root``, None outside a repository, and whether tracked files differ from it.

    What stands in ``results`` does not count: each run writes there.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def read_manifest(folder: Path) -> dict[str, Any]:
    """What ``folder/manifest.json`` says of each notebook, by its name; empty where there is none."""
    path = folder / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))["notebooks"] if path.is_file() else {}


def publish(stage: Path, target: Path, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Move what each notebook of a finished run made from ``stage/NAME`` to ``target``, and say so in its manifest.

    Files that only the run of the same notebook before it had made go. What other notebooks made stays.

    Args:
        facts: what is known of each notebook's run, by the notebook's name.
    """
    entries = read_manifest(target)
    same = {"versions": versions(), "hardware": hardware()}
    for name, known in facts.items():
        files = sorted(p for p in (stage / name).rglob("*") if p.is_file())
        made = {p.relative_to(stage / name).as_posix(): sha256(p) for p in files}
        for gone in set(entries.get(name, {}).get("files", {})) - set(made):
            (target / gone).unlink(missing_ok=True)
        for file in files:
            place = target / file.relative_to(stage / name)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
        entries[name] = {**known, **same, "files": made}
    text = json.dumps({"notebooks": dict(sorted(entries.items()))}, indent=2, ensure_ascii=False)
    write_text(target / "manifest.json", text + "\n")
    shutil.rmtree(stage)
