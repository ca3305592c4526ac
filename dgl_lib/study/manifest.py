"""What a result says of its own making: parameters, versions, hashes, times, hardware; no path of any machine."""

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
    "torch",
    "torchvision",
    "numpy",
    "opencv-python-headless",
    "safetensors",
    "pandas",
    "matplotlib",
    "papermill",
    "nbclient",
    "ipykernel",
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

    What stands in ``results`` does not count: each page that is made writes there.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Write ``folder/manifest.json``: ``facts``, versions, hardware, and the SHA-256 of every other file of the run."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    manifest = {
        **facts,
        "versions": versions(),
        "hardware": hardware(),
        "files": {p.relative_to(folder).as_posix(): sha256(p) for p in files},
    }
    path = folder / "manifest.json"
    write_text(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return path


def publish(stage: Path, target: Path) -> None:
    """Move a finished run's files to ``target``; files that only the run before it made go, others stay."""
    old = target / "manifest.json"
    made_before = json.loads(old.read_text(encoding="utf-8"))["files"] if old.is_file() else {}
    old.unlink(missing_ok=True)  # while files change, no manifest describes them
    files = sorted((p for p in stage.rglob("*") if p.is_file()), key=lambda p: p.name == "manifest.json")
    for name in set(made_before) - {p.relative_to(stage).as_posix() for p in files}:
        (target / name).unlink(missing_ok=True)
    for file in files:
        place = target / file.relative_to(stage)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
    shutil.rmtree(stage)
