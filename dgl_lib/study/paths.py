"""Where the study's files live; no other module puts a path together."""

from __future__ import annotations

import os
from pathlib import Path

from dgl_lib.errors import UserError
from dgl_lib.models import committed_checkpoint


def project_root() -> Path:
    """The folder that holds ``notebooks/``: the package's own project, else one around the current folder."""
    for folder in (Path(__file__).resolve().parents[1], Path.cwd(), *Path.cwd().parents):
        if (folder / "notebooks").is_dir():
            return folder
    raise UserError("no folder 'notebooks' beside the package or above the current folder; run inside the project")


def results_folder(profile: str, show_photos: bool = False) -> Path:
    """Where a profile's tables and figures go; made if need be.

    ``results/PROFILE``, but the git-ignored ``results/.quick`` for "quick" and ``results/.photos/PROFILE`` where
    photographs are shown. While the study runs a notebook, a folder of its own ($DGL_RESULTS), whose files move to
    their place once every notebook has succeeded.
    """
    if staged := os.environ.get("DGL_RESULTS"):
        folder = Path(staged)
    elif show_photos:
        folder = project_root() / "results" / ".photos" / profile
    else:
        folder = project_root() / "results" / (".quick" if profile == "quick" else profile)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def runs_folder() -> Path:
    """``results/.runs``, git-ignored: trained classifiers and cached tables under their hashes, locks, failed runs."""
    return project_root() / "results" / ".runs"


def checkpoint_path(checkpoint: str) -> Path:
    """The file a ``checkpoint`` parameter names: "creatures" (committed) or a path, relative to the project's root."""
    path = committed_checkpoint(checkpoint) if checkpoint == "creatures" else project_root() / checkpoint
    if not path.is_file():
        raise UserError(f"checkpoint: no file at {checkpoint!r}; 'creatures' or a .safetensors file allowed")
    return path


def notebook_path(name: str) -> Path:
    """A notebook of the project by its file name without the ending."""
    return project_root() / "notebooks" / f"{name}.ipynb"


def weights_source(weights: str) -> str | Path | None:
    """What ``weights`` stands for: "" random, "imagenet" the file at $DGL_WEIGHTS, else torchvision's, or a path.

    Raises:
        UserError: there is no such file.
    """
    if weights == "imagenet":
        weights = os.environ.get("DGL_WEIGHTS", "imagenet")
    if weights in ("", "imagenet"):
        return weights or None
    path = project_root() / weights
    if not path.is_file():
        raise UserError(f"weights: no file at {weights!r}; '', 'imagenet' or the path of a weights file allowed")
    return path
