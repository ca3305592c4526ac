"""The gate for what people give: values, and the headers of weights files. What it refuses becomes a ``UserError``."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Json, PositiveFloat, ValidationError
from torch import Tensor

from dgl_lib.errors import UserError

M = TypeVar("M", bound=BaseModel)


class Header(BaseModel):
    """What the text header of a weights file may say, in JSON but for ``source``; it may say more."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    mean: Json[tuple[float, float, float]] | None = None
    std: Json[tuple[PositiveFloat, PositiveFloat, PositiveFloat]] | None = None
    freeze_batch_norm: Json[bool] | None = None
    source: str | None = None


class CheckpointHeader(Header):
    """What a checkpoint's header says beside that."""

    width: Json[float]
    classes: Json[list[str]]
    facts: Json[dict[str, Any]]


def parsed(kind: type[M], values: Mapping[Any, Any], where: str = "") -> M:
    """``values`` as a ``kind``; what is refused is told as ``where``, the value's name, and what was given."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        raise UserError(f"{where}unknown parameter {name!r:.80}; allowed: {', '.join(kind.model_fields)}")
    said = first["msg"].removeprefix("Value error, ")
    if said.startswith("Input should be "):
        said = f"{said.removeprefix('Input should be ')} allowed"
    hint = " (write 0.001, not 1e-3)" if first["type"] == "float_type" else ""
    raise UserError(f"{where}{name}: {shown(first['input'])} given, {said[:1].lower()}{said[1:]}{hint}")


def shown(value: object) -> str:
    """A value in a message: at most 80 characters."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python prints no number of over 4,300 digits
        return "a number of over 4,300 digits"


def need_one_of(allowed: Collection[str], value: object, what: str) -> None:
    """Refuse what is not ``allowed``."""
    if value not in list(allowed):
        raise UserError(f"{what}: {shown(value)} given, one of {', '.join(allowed)} allowed")


def need_finite(*given: tuple[str, Tensor]) -> None:
    """Refuse NaN and infinity in what is given, each with its name."""
    device = given[0][1].device
    quick = all(values.dtype in (torch.float32, torch.bfloat16) for _, values in given)
    # One of them makes the sum none either, which is found sooner. A GPU is waited for once.
    if quick and torch.stack([values.sum().to(device, torch.float32) for _, values in given]).isfinite().all():
        return
    for what, values in given:
        if bad := int((~values.isfinite()).sum()):
            raise UserError(f"{what}: {bad} of {values.numel()} values are NaN or infinite, finite ones needed")
