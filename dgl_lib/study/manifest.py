"""What a result says of its own making: parameters, versions, hashes, times, hardware. It holds no machine's paths."""

import json
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from dgl_lib.files import set_aside, sha256, write_bytes, write_text
from dgl_lib.several import CORES

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
    return {
        "processor": processor,
        "cores": CORES,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
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


def read(folder: Path) -> dict[str, Any]:
    """The manifest that an earlier run left in ``folder``; empty where there is none. A damaged one is set aside."""
    path = folder / "manifest.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (TypeError, ValueError) as error:
        set_aside(path, error)
        return {}


def write(folder: Path, document: Mapping[str, Any], stale: Iterable[str] = ()) -> None:
    """Write the manifest of ``folder``, then remove the ``stale`` files, which the manifest before it told of."""
    write_text(folder / "manifest.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    for name in stale:
        if Path(name).name == name:  # else it leads out of the folder, and is not ours
            (folder / name).unlink(missing_ok=True)


def publish(stage: Path, target: Path, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Copy what each notebook of a finished run made from ``stage/NAME`` to ``target``, and say so in its manifest.

    Files that only an earlier run of the same notebook made go; others stay. ``facts``: of each run, by notebook.
    Figures as SVG come along untold, since git leaves them out."""
    entries, stale = read(target).get("notebooks", {}), set[str]()
    same = {"versions": versions(), "hardware": hardware()}
    for name, known in facts.items():
        files = sorted((stage / name).iterdir())
        made = {file.name: sha256(file) for file in files if file.suffix != ".svg"}
        stale |= set(entries.get(name, {}).get("files", {})) - set(made)
        for file in files:  # not renamed: the target may be a link to another disk
            write_bytes(target / file.name, file.read_bytes())
        entries[name] = {**known, **same, "files": made}
    stale |= {str(Path(name).with_suffix(".svg")) for name in stale if name.endswith(".png")}
    write(target, {"notebooks": dict(sorted(entries.items()))}, stale)
    shutil.rmtree(stage)
