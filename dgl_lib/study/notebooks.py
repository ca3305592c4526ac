"""Running a notebook, and cleaning what was run, so that a rerun gives the same bytes."""

import warnings
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbstripout import strip_output
from papermill.exceptions import PapermillExecutionError

from dgl_lib.errors import UserError
from dgl_lib.files import write_text
from dgl_lib.plots.style import small_png

# What one run writes and the next one writes differently: times, paths, widget ids, the patch release of Python.
VOLATILE = ["metadata.papermill", "metadata.widgets", "metadata.language_info.version"]
VOLATILE += ["cell.metadata.papermill", "cell.metadata.execution"]
WIDGET = "application/vnd.jupyter.widget-view+json"  # it has a random id, and shows nothing without its kernel


def execute(
    source: Path, output: Path, parameters: Mapping[str, Any], *, published: Mapping[str, str], progress: bool = True
) -> None:
    """Run the notebook ``source`` with ``parameters`` in a fresh kernel, in its own folder; clean what it leaves.

    ``output`` gets the executed notebook. Two runs with equal outputs write equal bytes. ``published`` is as for
    ``clean``. UserError: a cell raised, or the kernel died. ``output`` then holds the notebook up to that cell."""
    output.parent.mkdir(parents=True, exist_ok=True)
    failure = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            papermill.execute_notebook(
                source,
                output,
                parameters=dict(parameters),
                cwd=source.parent,
                progress_bar={"desc": source.stem, "leave": True} if progress else False,
                extra_arguments=["--IPKernelApp.log_level=40"],  # its notes on sockets would tear the bar
                coalesce_streams=True,  # how a stream falls into pieces depends on timing
            )
    except PapermillExecutionError as error:
        said = " ".join(str(error.evalue).split())
        failure = f"{source.name}, cell [{error.exec_count}]: {error.ename}: {said}"
    except RuntimeError as error:  # nbclient's DeadKernelError
        failure = f"{source.name}: {error} (a kernel that dies has most often run out of memory)"
    clean(output, published)
    if failure:
        raise UserError(failure)


def clean(path: Path, published: Mapping[str, str]) -> None:
    """Take out of a notebook what differs from run to run, widgets too. Counts and outputs stay, pictures in small PNG.

    ``published`` maps text of the injected parameters to what stands there instead: a run's folder to the final one."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"  # papermill draws a random one
            for text, instead in published.items():
                cell["source"] = cell["source"].replace(text, instead)
        if cell.cell_type == "code":
            cell["outputs"] = [output for output in cell["outputs"] if WIDGET not in output.get("data", {})]
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                output["data"]["image/png"] = b64encode(small_png(b64decode(png))).decode()
    strip_output(notebook, keep_output=True, keep_count=True, keep_id=True, extra_keys=VOLATILE)
    write_text(path, nbformat.writes(notebook) + "\n")
