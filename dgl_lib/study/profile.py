"""The study's parameters: one typed, validated object, read once from a profile or from a notebook's own cell."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from papermill.inspection import inspect_notebook
from pydantic import AfterValidator, Field

from dgl_lib.data import DATASETS
from dgl_lib.errors import UserError
from dgl_lib.given import parsed, shown
from dgl_lib.localize import METHODS, READINGS, RULES
from dgl_lib.models import LAYER, LAYERS, NETWORKS
from dgl_lib.study import paths
from dgl_lib.training import Recipe

PROFILES = Path(__file__).parent / "profiles"


def _one_of(allowed: Sequence[str] | Mapping[str, Any]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)} allowed")
        return value

    return AfterValidator(check)


def _below_the_project(path: str) -> str:
    if Path(path).is_absolute() or ".." in Path(path).parts or not path.isprintable():
        raise ValueError("a path below the project's root allowed (it is published)")
    return path


ProjectPath = Annotated[str, AfterValidator(_below_the_project)]
LayerName = Annotated[str, _one_of([layer.name for layers in LAYERS.values() for layer in layers])]
MethodName = Annotated[str, _one_of(METHODS)]


class Profile(Recipe):
    """Every parameter that a notebook of the study may declare; ``Recipe`` holds those of training.

    A profile's file and ``--set`` give some (``model_fields_set``); the notebooks' defaults stand for the others."""

    results: ProjectPath = Field("results/.quick", description="folder that tables and figures go to")
    tables: ProjectPath = Field("results/creatures", description="folder that notebooks 05 to 08 read tables from")
    progress: bool = Field(False, description="draw progress bars")
    show_photos: bool = Field(False, description="show photographs that are not ours to publish")
    skip_unreadable: bool = Field(False, description="leave out images that cannot be read, instead of refusing them")

    data: Annotated[str, _one_of(DATASETS)] = Field("creatures", description="data set")
    train_count: int = Field(400, ge=0, le=10**9, description="training images, 0 for all")
    labels: Literal["given", "shuffled"] = Field("given", description="shuffled: a control that can learn no class")
    network: Annotated[str, _one_of(NETWORKS)] = Field("spg_plain", description="classifier")
    padding: Literal["symmetric", "tensorflow"] = Field("symmetric", description="tensorflow: SPG-plain only")
    width: float = Field(0.125, gt=0, le=1, multiple_of=1 / 16, description="multiplier of every layer's channels")
    weights: ProjectPath = Field("", description="starting weights: '' (random), 'imagenet' or a path")

    checkpoint: ProjectPath = Field("creatures", description="'trained', 'creatures' (in the package) or a path")
    image_size: int = Field(160, ge=32, le=4096, description="side of the square input, pixels")
    layer: LayerName = Field("Mixed_6e", description="layer looked at most closely")
    alpha: float = Field(10.0, gt=0, le=1e6, description="scale of the label in the released rule")
    rule: Annotated[str, _one_of(RULES)] = Field("released", description="how dJ/dl is taken")
    precision: Literal["float32", "fast"] = Field("float32", description="fast: see dgl_lib.fast")
    grid: int = Field(32, ge=6, le=256, description="points along each side of notebook 02's plane")
    val_per_class: int = Field(5, ge=0, le=10**9, description="validation images of each class, 0 for all")
    test_per_class: int = Field(5, ge=0, le=10**9, description="test images of each class, 0 for all")
    layers: list[LayerName] = Field([layer.name for layer in LAYERS["spg_plain"]], min_length=1)
    methods: list[MethodName] = Field(
        ["grad_cam_signed", "pixel_selection", *(f"enhanced_map{end}" for end in READINGS), "dgl"], min_length=1
    )
    ablation_methods: list[MethodName] = Field(["cam", "dgl"], min_length=1)
    scales: list[Annotated[float, Field(gt=0, le=4)]] = Field([0.75, 1.0, 1.25, 1.5], min_length=1)
    kernels: list[Annotated[float, Field(ge=0, lt=1)]] = Field([0.0, 0.05, 0.1, 0.15], min_length=1)

    @property
    def localizing(self) -> dict[str, Any]:
        """What raw maps depend on beside the network, the images and the layers, as ``evaluate.raw_maps`` takes it."""
        own = {"size": self.image_size, "alpha": self.alpha, "rule": self.rule, "device": self.device}
        return own | ({"precision": "fast"} if self.precision == "fast" else {})


def validated(values: Mapping[str, Any]) -> Profile:
    """The profile of these values. UserError: an unknown name, a wrong type, or a value that is not allowed."""
    return parsed(Profile, values)


def _yaml(text: str | bytes, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: the 45th of a month, a number too long to read
        raise UserError(f"{where:.160} is not YAML in UTF-8") from None


def for_images(count: int) -> tuple[str, ...]:
    """The settings that fit the pets' recipe, which is made for hundreds of photographs, to ``count`` training images.

    A batch has an eighth of them, but 2 to 16, and at least 4 passes make at least 120 steps."""
    batch = min(16, max(2, count // 8))
    return f"batch_size={batch}", f"epochs={max(4, -(-120 // max(1, count // batch)))}"


def read_profile(name: str, settings: Sequence[str] = ()) -> Profile:
    """The profile ``name`` with ``settings`` ("name=value", the value as in YAML) put over it.

    A ``network`` that is set comes with its own ``layers`` and ``layer`` unless those are set too. UserError: an
    unknown profile, or as ``validated``."""
    known = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    if name not in known:
        raise UserError(f"unknown profile {name!r}; allowed: {', '.join(known)}, or a folder that is there")
    given = _yaml((PROFILES / f"{name}.yaml").read_bytes(), f"profile {name}") or {}
    if not isinstance(given, dict):
        raise UserError(f"profile {name}: {shown(given)} given, lines of NAME: VALUE allowed")
    chosen: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: name=value allowed")
        field = Profile.model_fields.get(key)
        chosen[key] = text if field and isinstance(field.default, str) else _yaml(text, f"--set {setting}")
    network = chosen.get("network")
    if network in LAYERS and (given | chosen).get("checkpoint") == "trained":
        given |= {"layers": [layer.name for layer in LAYERS[network]], "layer": LAYER[network]}
    return validated(given | chosen)


def declared(notebook: Path) -> list[str]:
    """The names in a notebook's ``parameters`` cell, which nothing runs for. UserError: it has no such cell."""
    found = inspect_notebook(str(notebook))
    if not found:
        raise UserError(f"{notebook.name}: no parameters found, one cell tagged 'parameters' needed")
    return list(found)


def check(notebook: str, variables: Mapping[str, Any]) -> Profile:
    """For a notebook's first cell after its parameters: ``study.check("01_train_classifier", globals())``.

    Papermill only warns of a misspelt name. Here it is a UserError, and so is a value that is not allowed."""
    names = declared(paths.project_root() / "notebooks" / f"{notebook}.ipynb")
    plain = (bool, int, float, str, list)  # what a parameter can be; modules and functions are not
    if unknown := [k for k, v in variables.items() if k[0] != "_" and k not in ("In", *names) and isinstance(v, plain)]:
        raise UserError(f"{notebook}: unknown parameter {unknown[0]!r}; allowed: {', '.join(names)}")
    return validated({name: variables[name] for name in names})
