"""torch and torchvision loaded together, or the reason why they do not and what to do; ``models`` imports it first.

torchvision's compiled operators fit one torch only. Beside another one (CPU-only beside CUDA, another release) it
fails with an error that names an operator, "operator torchvision::nms does not exist", and not the cure.
"""

from __future__ import annotations

from importlib import metadata


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"no {package}"


try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError, OSError, AttributeError) as _error:
    raise ImportError(
        f"torch and torchvision do not load together ({_version('torch')}, {_version('torchvision')}: "
        f"{str(_error).splitlines()[0] if str(_error) else type(_error).__name__}): "
        "uninstall both, then install the pair that requirements.txt pins, both from the same package index "
        "(for CPU only, both from the CPU index: see the README)"
    ) from None
