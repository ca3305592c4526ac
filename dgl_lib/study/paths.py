"""Where the study's files live. No other module puts a path together."""

import os
from pathlib import Path

from dgl_lib.errors import UserError
from dgl_lib.models import committed_checkpoint


def project_root() -> Path:
    """The folder that holds ``notebooks/``: the package's own project, else one around the current folder."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd(), *Path.cwd().parents):
        if (folder / "notebooks").is_dir():
            return folder
    raise UserError("no folder 'notebooks' beside the package or above the current folder; run inside the project")


def below_root(path: Path) -> str:
    """``path`` as it stands in profiles and manifests, relative to the project's root."""
    return path.relative_to(project_root()).as_posix()


def folder(results: str) -> Path:
    """The folder that a ``results`` parameter names, relative to the project's root; made if need be."""
    path = project_root() / results
    path.mkdir(parents=True, exist_ok=True)
    return path


def runs_folder() -> Path:
    """``results/.runs``, which git ignores: trained classifiers and kept maps under their hashes."""
    return project_root() / "results" / ".runs"


def notebooks() -> list[Path]:
    """The project's notebooks in the order of their numbers."""
    return sorted((project_root() / "notebooks").glob("*.ipynb"))


def checkpoint_path(checkpoint: str) -> Path:
    """The file that a ``checkpoint`` parameter names. UserError: there is none."""
    path = committed_checkpoint() if checkpoint == "creatures" else project_root() / checkpoint
    if not path.is_file():
        raise UserError(f"checkpoint: no file at {checkpoint!r}; 'creatures' or a .safetensors file allowed")
    return path


def weights_source(weights: str) -> str | Path | None:
    """What ``weights`` means: "" random ones, "imagenet" $DGL_WEIGHTS or torchvision's, a path. UserError: no file."""
    weights = os.environ.get("DGL_WEIGHTS", weights) if weights == "imagenet" else weights
    if weights in ("", "imagenet"):
        return weights or None
    path = project_root() / weights
    if not path.is_file():
        raise UserError(f"weights: no file at {weights!r}; '', 'imagenet' or the path of a weights file allowed")
    return path
