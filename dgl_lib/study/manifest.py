"""What a result says of its own making: parameters, versions, hashes, times, hardware. It holds no machine's paths."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dgl_lib.files import sha256, write_text

PACKAGES = (
    *("torch", "torchvision", "numpy", "opencv-python-headless", "safetensors", "pandas", "matplotlib"),
    *("papermill", "nbclient", "ipykernel"),
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GiB, whether bf16 is native, graphics card if any, system."""
    processor = platform.processor() or platform.machine()
    if (known := Path("/proc/cpuinfo")).is_file():  # where Linux keeps the processor's name
        named = [line for line in known.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        processor = named[0].split(":", 1)[1].strip() if named else processor
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1) if pages else None,
        "bf16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def revision(root: Path) -> dict[str, Any]:
    """The git commit at ``root`` (None outside a repository), and whether tracked files but those in results differ."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def publish(stage: Path, target: Path, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Move what each notebook of a finished run made from ``stage/NAME`` to ``target``, and say so in its manifest.

    Files that only the run of the same notebook before it had made go. What other notebooks made stays. ``facts`` are
    what is known of each notebook's run, by the notebook's name."""
    path = target / "manifest.json"
    entries = json.loads(path.read_text(encoding="utf-8")).get("notebooks", {}) if path.is_file() else {}
    same = {"versions": versions(), "hardware": hardware()}
    for name, known in facts.items():
        made = {file.name: sha256(file) for file in sorted((stage / name).iterdir())}
        for gone in set(entries.get(name, {}).get("files", {})) - set(made):
            (target / gone).unlink(missing_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        for file in made:
            os.replace(stage / name / file, target / file)
        entries[name] = {**known, **same, "files": made}
    text = json.dumps({"notebooks": dict(sorted(entries.items()))}, indent=2, ensure_ascii=False)
    write_text(path, text + "\n")
    shutil.rmtree(stage)
