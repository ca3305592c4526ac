"""A profile: YAML of notebook parameters, read and checked against what the notebooks declare."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dgl_lib import paths
from dgl_lib.errors import UserError
from dgl_lib.models import LAYER, LAYERS
from dgl_lib.study.parameters import Parameter, check_names, check_types, check_values, notebook_parameters


@dataclass(frozen=True)
class Plan:
    """A profile, checked: for each notebook, in order, the value of every parameter it declares."""

    profile: str
    notebooks: dict[str, dict[str, Any]]  # notebook's name -> parameter -> value

    @property
    def merged(self) -> dict[str, Any]:
        """All parameters in one namespace; where defaults differ, the first notebook's."""
        return _first(self.notebooks)


def _first(of_notebooks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for named in of_notebooks.values():
        found = {**found, **{name: value for name, value in named.items() if name not in found}}
    return found


def declared_parameters() -> dict[str, dict[str, Parameter]]:
    """What each notebook of the project declares, in the notebooks' order."""
    found = {p.stem: notebook_parameters(p) for p in sorted((paths.project_root() / "notebooks").glob("*.ipynb"))}
    if not found:
        raise UserError("the folder notebooks holds no notebook")
    return found


def profile_names() -> list[str]:
    """The profiles that come with the package."""
    return sorted(path.stem for path in _profiles_folder().glob("*.yaml"))


def _profiles_folder() -> Path:
    return Path(__file__).parent / "profiles"


def read_plan(profile: str, settings: Sequence[str] = ()) -> Plan:
    """Read a profile, put ``settings`` ("name=value", the value as in YAML) over it, and check every name and value.

    A ``network`` that is set, where it is the one localized with (``checkpoint: trained``), comes with its own
    ``layers`` and ``layer`` unless those are set too. EVERYTHING=1 in the environment localizes all images of the
    validation and test parts; SHOW_PHOTOS=1 shows pixels.

    Raises:
        UserError: an unknown profile or parameter, a value of the wrong type or out of range.
    """
    if profile not in profile_names():
        raise UserError(f"unknown profile {profile!r}; allowed: {', '.join(profile_names())}")
    declared = declared_parameters()
    known = _first(declared)
    try:
        given = yaml.safe_load((_profiles_folder() / f"{profile}.yaml").read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"profile {profile!r} is not YAML: {' '.join(str(error).split())}") from None
    check_names(given, known, f"profile {profile!r}")
    given = {"profile": profile, **given}
    chosen: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: name=value allowed")
        check_names([name], known, "--set")
        chosen[name] = text if known[name].type == "str" else yaml.safe_load(text)
    given |= _layers_of(chosen, given) | chosen
    if os.environ.get("EVERYTHING") == "1":
        given |= {"val_per_class": 0, "test_per_class": 0}
    if os.environ.get("SHOW_PHOTOS") == "1":
        given["show_photos"] = True
    values = {}
    for notebook, parameters in declared.items():
        check_types(own := {k: v for k, v in given.items() if k in parameters}, parameters)
        values[notebook] = {k: p.default for k, p in parameters.items()} | own
        check_values(values[notebook])
    return Plan(str(given["profile"]), values)


def _layers_of(chosen: Mapping[str, Any], profile: Mapping[str, Any]) -> dict[str, Any]:
    """The layers that come with a ``network`` among ``chosen``; nothing where there is none."""
    network = chosen.get("network")
    if network not in LAYERS or {**profile, **chosen}.get("checkpoint") != "trained":
        return {}  # an unknown network is refused with all other values
    return {"layers": [layer.name for layer in LAYERS[network]], "layer": LAYER[network]}
