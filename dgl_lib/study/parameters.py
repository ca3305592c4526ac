"""The parameters notebooks declare, and the checks every value passes before any long work starts."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from dgl_lib.data import DATASETS
from dgl_lib.errors import UserError
from dgl_lib.localize import METHODS, RULES
from dgl_lib.models import LAYERS, NETWORKS

# Of every network: which of them the network at hand has, ``study`` checks.
LAYER_NAMES = [layer.name for layers in LAYERS.values() for layer in layers]
DEVICES = ("auto", "cpu", "cuda", "mps")

# What a parameter's value may be, beyond its type: a list of names, or a condition and its words.
CHOICES: dict[str, Iterable[str]] = {
    "data": DATASETS,
    "device": DEVICES,
    "rule": RULES,
    "network": NETWORKS,
    "labels": ("given", "shuffled"),
    "layer": LAYER_NAMES,
    "layers": LAYER_NAMES,
    "methods": METHODS,
    "ablation_methods": METHODS,
}
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("seed", "train_count", "val_per_class", "test_per_class"), (lambda v: v >= 0, "0 or more")),
    **dict.fromkeys(("epochs", "batch_size"), (lambda v: v >= 1, "1 or more")),
    **dict.fromkeys(("resize", "crop", "image_size"), (lambda v: v >= 32, "32 pixels or more")),
    **dict.fromkeys(("learning_rate", "alpha"), (lambda v: v > 0, "more than 0")),
    **dict.fromkeys(("trunk_learning_rate", "weight_decay"), (lambda v: v >= 0, "0 or more")),
    "grid": (lambda v: v >= 6, "6 or more"),
    "width": (lambda v: 0 < v <= 1 and v * 16 % 1 == 0, "a multiple of 1/16 in (0, 1]"),
    "scales": (lambda v: 0 < v <= 4, "more than 0, at most 4"),
    "kernels": (lambda v: 0 <= v < 1, "0 (no closing) to below 1, a fraction of the image's side"),
    "profile": (lambda v: v.replace("-", "").replace("_", "").isalnum(), "letters, digits, - and _"),
}


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's ``parameters`` cell: ``name: type = default  # comment``."""

    type: str
    default: Any
    comment: str = ""

    def accepts(self, value: object) -> bool:
        """Whether ``value`` is of the declared type. An int passes for a float; a bool never passes for a number."""
        return _matches(value, ast.parse(self.type, mode="eval").body)


def _matches(value: object, annotation: ast.expr) -> bool:
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _matches(value, left) or _matches(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return isinstance(value, list) and all(_matches(v, item) for v in value)
        case ast.Name(id="float"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id="bool" | "str" | "list" as name):
            return isinstance(value, {"bool": bool, "str": str, "list": list}[name])
    raise ValueError(
        f"a notebook parameter's type: {ast.unparse(annotation)} given, bool, int, float, str, list allowed"
    )


def notebook_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters a notebook declares, in their order, read from the cell tagged ``parameters`` without running it.

    Raises:
        UserError: the notebook has no such cell, or a line there is not ``name: type = literal``.
    """
    cells = [c for c in nbformat.read(path, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise UserError(f"{path.name}: {len(cells)} cells tagged 'parameters', exactly one allowed")
    lines = cells[0].source.splitlines()
    found = {}
    for node in ast.parse(cells[0].source).body:
        try:
            assert isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
            default = ast.literal_eval(node.value)
        except (AssertionError, ValueError):
            raise UserError(f"{path.name}: {ast.unparse(node)!r}, name: type = literal allowed") from None
        assert node.end_lineno is not None and node.end_col_offset is not None  # true of every node from ast.parse
        rest = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()  # ast counts bytes
        comment = rest.partition("#")[2].strip()
        found[node.target.id] = Parameter(ast.unparse(node.annotation), default, comment)
    return found


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse what no notebook can work with: names that mean nothing, numbers out of range, empty lists.

    Raises:
        UserError: names the parameter, what was given and what is allowed.
    """
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        if not items:
            raise UserError(f"{name}: an empty list given, at least one entry allowed")
        for item in items:
            if name in CHOICES and item not in CHOICES[name]:
                raise UserError(f"{name}: {item!r} given, {', '.join(CHOICES[name])} allowed")
            if name in RANGES and not RANGES[name][0](item):
                raise UserError(f"{name}: {item!r} given, {RANGES[name][1]} allowed")
    if values.get("crop", 0) > values.get("resize", float("inf")):
        raise UserError(f"crop: {values['crop']} given, at most resize ({values['resize']}) allowed")


def check_notebook(path: Path, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Check a running notebook's own parameters: its first cell after them calls this with ``globals()``.

    Plain papermill only warns of a misspelt name and sets it all the same; here it is an error.

    Returns:
        the declared parameters and their values.

    Raises:
        UserError: a variable that was set and is not declared, or a value of the wrong type or out of range.
    """
    declared = notebook_parameters(path)
    set_now = {k: v for k, v in variables.items() if k[0] != "_" and k != "In" and isinstance(v, PLAIN)}
    check_names(set_now, declared, path.stem)
    values = {name: variables[name] for name in declared}
    check_types(values, declared)
    check_values(values)
    return values


PLAIN = (bool, int, float, str, list)


def check_names(given: Iterable[str], declared: Iterable[str], where: str) -> None:
    """Raise UserError at the first name that is not declared."""
    for name in given:
        if name not in declared:
            raise UserError(f"{where}: unknown parameter {name!r}; allowed: {', '.join(declared)}")


def check_types(values: Mapping[str, Any], declared: Mapping[str, Parameter]) -> None:
    """Raise UserError at the first value that is not of its declared type."""
    for name, value in values.items():
        if not declared[name].accepts(value):
            hint = " (write 0.001, not 1e-3)" if declared[name].type == "float" and isinstance(value, str) else ""
            raise UserError(f"{name}: {value!r} given, {declared[name].type} allowed{hint}")
