"""The same study over a grid of parameters: a folder a combination, one table and one figure of all."""

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from dgl_lib.errors import UserError
from dgl_lib.files import write_table
from dgl_lib.plots import charts, style
from dgl_lib.study import claims, manifest, paths, runner
from dgl_lib.study.profile import Profile, read_profile


def read_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """Values by parameter from texts such as "alpha=1,3,10". UserError: a text without values, or a name twice."""
    grid: dict[str, list[str]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        if not values or name in grid:
            raise UserError(f"--sweep {text}: NAME=VALUE,VALUE,.. once for each name allowed")
        grid[name] = values.split(",")
    return grid


def sweep(
    name: str,
    grid: Mapping[str, Sequence[str]],
    settings: Sequence[str],
    notebooks: Collection[str],
    *,
    until: str = "notebooks",
    **how: Any,
) -> Path:
    """Run the profile ``name`` with ``settings`` once for each combination of ``grid``, and return the folder.

    What has run before with these very parameters is not run again. ``sweep.csv`` holds each one's table of claims, and
    ``sweep.png`` the effects, unless ``until`` ends the runs before their notebooks. It and ``how`` go to
    ``runner.run``. UserError: a wrong value, before the first run."""
    folder = paths.project_root() / "results" / ".sweeps" / name
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    asked = [[*settings, *(f"{key}={value}" for key, value in one.items())] for one in combinations]
    profiles = [read_profile(name, one) for one in asked]
    tables = {}
    for one, texts, profile in zip(combinations, asked, profiles, strict=True):
        line = ", ".join(f"{key} {value}" for key, value in one.items())
        own = folder / line.replace(", ", "_").replace(" ", "=").replace("/", "|")
        if not _has_run(own, profile, notebooks):
            typed = " ".join(["dgl study", name, *(f"--set {text}" for text in texts)])
            runner.run(profile, name=name, notebooks=notebooks, out=own, command=typed, until=until, **how)
        if until != "notebooks":
            continue
        tables[line] = claims.claims_table(own).query("verdict != 'not measured'")
    if not tables:
        return folder
    table = write_table(folder / "sweep.csv", pd.concat(tables, names=["run"]).reset_index("run"))
    points = table[table["unit"] == "points"].rename(columns={"measured": "mean"})
    style.use_style()
    title = f"{len(tables)} combinations: {(points['verdict'] == 'reproduced').sum()} of {len(points)} reproduced"
    xlabel = "effect (points)"
    figure = charts.forest(points, y=("claim", "detail"), hue="run", margin=0.5, title=title, xlabel=xlabel)
    style.save(figure, folder, "sweep")
    return folder


def _has_run(folder: Path, profile: Profile, notebooks: Collection[str]) -> bool:
    """Whether every notebook asked for stands in ``folder``, made with this profile's parameters."""
    given = profile.model_dump(mode="json", include=profile.model_fields_set - {"checkpoint"})
    entries = manifest.read(folder).get("notebooks", {})
    known = {key[:2] for key, entry in entries.items() if {**entry["parameters"], **given} == entry["parameters"]}
    return known >= set(notebooks)
