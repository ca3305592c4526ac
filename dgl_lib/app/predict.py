"""Where is the object in these photographs? Maps, overlays and boxes of single files, folders and globs.

photograph -> raw map of each scale -> the study's order (``maps``) -> map in 0..1 -> threshold -> regions, boxes
"""

from __future__ import annotations

import glob
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from dgl_lib.data.folder import SUFFIXES
from dgl_lib.data.images import read_image
from dgl_lib.errors import UserError
from dgl_lib.files import write_text
from dgl_lib.localize import METHODS, localize
from dgl_lib.maps import close, minmax, multiscale, resize, to_uint8
from dgl_lib.models import preprocess
from dgl_lib.app.networks import Network, check_layers
from dgl_lib.training import pick_device

#: Longest side in pixels at which maps are merged and closed: closing a 12-megapixel map would take minutes, and a
#: layer's map has some 30 cells a side. Smaller photographs go through at their own size, as in the study.
SIDE = 512


@dataclass(frozen=True)
class How:
    """How maps are made and cut.

    Attributes:
        layer, method, alpha, rule: as for ``localize.localize``; the method is one of ``METHODS``.
        label: the class to localize, or None for the one predicted.
        scales: input sides as multiples of the network's own.
        kernel: closing kernel as a fraction of the longer side, 0 for none.
        threshold: share of the map's range from which on a pixel is object, in (0, 1]; None for Otsu's, map by map.
    """

    layer: str
    method: str = "dgl"
    label: int | None = None
    scales: tuple[float, ...] = (1.0,)
    kernel: float = 0.0
    threshold: float | None = None
    alpha: float = 10.0
    rule: str = "released"


@dataclass(frozen=True)
class Region:
    """One connected piece of the object: ``box`` x, y, width, height and ``area`` in pixels; ``score`` in 0..1, the
    probability of the class times the highest value of the map in the region."""

    box: tuple[int, int, int, int]
    area: int
    score: float


@dataclass(frozen=True)
class Prediction:
    """What was found in a photograph.

    Attributes:
        label, probability: the class that was localized, and the network's softmax for it at the first scale.
        map: (H, W) float32 in 0..1, at the photograph's size.
        threshold: grey level 1..255; the object is where ``round(255 map)`` is at least that.
        regions: the one with the highest score first; none on a constant map.
    """

    label: int
    probability: float
    map: np.ndarray
    threshold: int
    regions: list[Region]


def check(network: Network, how: How) -> None:
    """Try ``how`` on noise, so that what does not go is said before the first photograph is opened.

    Raises:
        UserError: a layer, method, class, scale, kernel or threshold that is not allowed.
    """
    if how.method not in METHODS:
        raise UserError(f"method {how.method!r} is unknown; allowed: {', '.join(METHODS)}")
    if not how.scales or any(not 32 <= network.size * s <= 4096 for s in how.scales):
        raise UserError(
            f"scales: {', '.join(f'{s:g}' for s in how.scales)} given for an input of {network.size} px, "
            "numbers that make 32..4096 px of it allowed"
        )
    if how.threshold is not None and not 0 < how.threshold <= 1:
        raise UserError(f"threshold: {how.threshold!r} given, a share of the map's range in (0, 1] allowed")
    check_layers(network, [how.layer])
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    predict(network, noise, how)


def predict(network: Network, image: np.ndarray, how: How) -> Prediction:
    """The map of ``image`` (H, W, 3) uint8 RGB and the regions cut from it. UserError: as ``localize.localize``."""
    label, probability = how.label, 0.0
    raw: dict[float, torch.Tensor] = {}
    # The scale nearest 1 first: the class it predicts is localized at the others too.
    for scale in sorted(how.scales, key=lambda s: abs(s - 1)):
        batch = preprocess(network.model, [image], round(network.size * scale))
        classes = None if label is None else torch.tensor([label])
        out = localize(network.model, batch, classes, [how.layer], [how.method], alpha=how.alpha, rule=how.rule)
        if not raw:
            label = int(out.classes[0])
            probability = float(out.logits[0].softmax(0)[label])
        raw[scale] = out.maps[how.method][how.layer][0].cpu()
    assert label is not None
    height, width = image.shape[:2]
    shrink = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    m = minmax(close(multiscale([raw[s] for s in how.scales], size), how.kernel))
    m = minmax(resize(m, (height, width)))
    q = to_uint8(m)
    threshold = _otsu(q) if how.threshold is None else max(1, round(255 * how.threshold))
    return Prediction(label, probability, m.numpy(), threshold, regions(q, threshold, probability))


def _otsu(q: np.ndarray) -> int:
    """Otsu's threshold as the lowest grey level of the object: the split that separates the two means best."""
    return int(cv2.threshold(q, 0, 255, cv2.THRESH_OTSU)[0]) + 1


def regions(q: np.ndarray, threshold: int, probability: float = 1.0) -> list[Region]:
    """The connected pieces (over edges and corners) of ``q >= threshold``, (H, W) uint8, best and largest first.

    Unlike ``boxes.search``, which keeps wsolevaluation's conventions, a box here holds its region's pixels exactly and
    a hole makes none: these are for use, not for that score.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats((q >= threshold).astype(np.uint8), connectivity=8)
    found = []
    for i in range(1, count):
        x, y, w, h, area = map(int, stats[i])
        part = slice(y, y + h), slice(x, x + w)
        peak = int(q[part][labels[part] == i].max())
        found.append(Region((x, y, w, h), area, probability * peak / 255))
    return sorted(found, key=lambda region: (-region.score, -region.area))


# ------------------------------------------------------------------------------------------------------- pictures


def overlay(image: np.ndarray, prediction: Prediction, name: str) -> np.ndarray:
    """The photograph under its map's colours (magma), the regions' boxes over it and ``name`` at the first, uint8."""
    heat = cv2.applyColorMap(to_uint8(torch.from_numpy(prediction.map)), cv2.COLORMAP_MAGMA)[..., ::-1]
    blend = np.empty_like(image)
    for top in range(0, len(image), 256):  # strip by strip: floats of a whole photograph may need gigabytes
        rows = slice(top, top + 256)
        grey = cv2.cvtColor(image[rows], cv2.COLOR_RGB2GRAY)[..., None]
        pale = 0.5 * image[rows].astype(np.float32) + 0.5 * grey  # half of the colour, so that the map's stands out
        share = 0.25 + 0.4 * prediction.map[rows, :, None]
        blend[rows] = ((1 - share) * pale + share * heat[rows]).round()
    picture = Image.fromarray(blend)
    draw = ImageDraw.Draw(picture)
    line = max(1, round(max(image.shape[:2]) / 250))
    for i, region in reversed(list(enumerate(prediction.regions))):
        x, y, w, h = region.box
        draw.rectangle((x - 1, y - 1, x + w, y + h), outline="black", width=line + 2)
        draw.rectangle((x, y, x + w - 1, y + h - 1), outline="white" if i == 0 else "#bbbbbb", width=line)
        if i == 0:
            _tag(draw, picture.size, (x, y), f"{name} {prediction.probability:.2f}")
    return np.array(picture)


def _tag(draw: ImageDraw.ImageDraw, size: tuple[int, int], corner: tuple[int, int], text: str) -> None:
    """``text`` on a white ground above a box's corner, or within it where there is no room above."""
    font = ImageFont.load_default(max(9, round(max(size) / 32)))
    pad = max(2, round(max(size) / 200))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    w, h = right - left + 2 * pad, bottom - top + 2 * pad
    x = max(0, min(corner[0], size[0] - w))
    y = corner[1] - h if corner[1] >= h else corner[1]
    draw.rectangle((x, y, x + w - 1, y + h - 1), fill="white")
    draw.text((x + pad - left, y + pad - top), text, fill="black", font=font)


def _png(pixels: np.ndarray) -> bytes:
    """A PNG of (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB."""
    done, data = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])
    if not done:
        raise UserError(f"PNG: {pixels.shape} pixels cannot be written")
    return data.tobytes()


def _npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


# ---------------------------------------------------------------------------------------------------------- files


def find_photographs(paths: Sequence[str], out: Path) -> dict[Path, str]:
    """The image files that ``paths`` name, each with the name its outputs get: its place below their common folder.

    A folder stands for all images in it, at any depth; a pattern with ``*``, ``?``, ``[...]`` or ``**`` for the files
    that fit. What lies in ``out`` is left out, so that a second run does not take the first one's pictures.

    Raises:
        UserError: nothing at a path, or no image in a folder.
    """
    found: dict[Path, None] = {}
    for path in paths:
        for file in _expand(path):
            if not file.absolute().is_relative_to(out.absolute()):
                found[file] = None
    if not found:
        raise UserError(f"{', '.join(paths)}: no photograph but those in the output folder {str(out)!r}")
    whole = {file.absolute(): file for file in found}
    common = Path(os.path.commonpath([file.parent for file in whole]))
    names = {file: place.relative_to(common) for place, file in whole.items()}
    stems = [name.with_suffix("") for name in names.values()]
    # a.jpg and a.png side by side keep their endings.
    return {
        file: (name if stems.count(name.with_suffix("")) > 1 else name.with_suffix("")).as_posix()
        for file, name in names.items()
    }


def _expand(path: str) -> list[Path]:
    place = Path(path)
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
        if not files:
            raise UserError(f"{path}: no image in it; files ending in {', '.join(SUFFIXES)} are read")
        return files
    if place.exists():
        return [place]
    files = [p for p in map(Path, sorted(glob.glob(path, recursive=True))) if p.is_file()]  # noqa: PTH207
    if not files:
        raise UserError(f"{path}: no such file, folder or match")
    return files


@dataclass(frozen=True)
class Outcome:
    """What became of one photograph: what was found (its map is written, and not kept) or the ``error`` in words."""

    file: str
    error: str = ""
    size: tuple[int, int] = (0, 0)  # height, width
    label: int = -1
    name: str = ""
    probability: float = 0.0
    threshold: int = 0
    regions: tuple[Region, ...] = ()
    overlay: str = ""
    map: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"error: {self.error}"
        more = f" and {len(self.regions) - 1} more" if len(self.regions) > 1 else ""
        where = "x {} y {} w {} h {}".format(*self.regions[0].box) + more if self.regions else "nothing found"
        return f"{self.file}: {self.name} ({self.probability:.2f}), {where} -> {self.overlay}"


def localize_files(
    network: Network,
    paths: Sequence[str],
    out: Path,
    how: How,
    *,
    npy: bool = False,
    device: str = "auto",
    progress: bool = False,
    tell: Callable[[Outcome], None] = lambda outcome: None,
) -> dict[str, Any]:
    """Localize photographs one by one: ``OUT/NAME.overlay.png``, ``OUT/NAME.map.png`` each, and ``OUT/boxes.json``.

    The map is 16-bit grey, ``round(65535 map)``, or with ``npy`` float32 in ``OUT/NAME.map.npy``. A photograph that
    cannot be read is told and listed in the document's ``info``, and the others are done.

    Returns:
        what ``boxes.json`` holds, see :func:`coco`.

    Raises:
        UserError: see ``find_photographs`` and ``check``, before any work.
        OSError: a file that cannot be written.
    """
    photographs = find_photographs(paths, out)
    network.model.to(pick_device(device))
    check(network, how)
    out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for file, name in tqdm(photographs.items(), unit="image", disable=None if progress else True):
        try:
            image = read_image(file)
            found = predict(network, image, how)
        except UserError as error:
            message = str(error)
            outcomes.append(Outcome(str(file), message if str(file) in message else f"{file}: {message}"))
        else:
            names = f"{name}.overlay.png", f"{name}.map.{'npy' if npy else 'png'}"
            label = network.classes[found.label]
            _write(out / names[0], _png(overlay(image, found, label)))
            _write(out / names[1], _npy(found.map) if npy else _png((65535 * found.map).round().astype(np.uint16)))
            outcomes.append(
                Outcome(
                    str(file),
                    size=image.shape[:2],
                    label=found.label,
                    name=label,
                    probability=found.probability,
                    threshold=found.threshold,
                    regions=tuple(found.regions),
                    overlay=str(out / names[0]),
                    map=str(out / names[1]),
                )
            )
        tell(outcomes[-1])
    document = coco(network, how, outcomes)
    write_text(out / "boxes.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return document


def _write(path: Path, data: bytes) -> None:
    """Write beside ``path``, then put in place in one step; what a full disk cut off is taken away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def coco(network: Network, how: How, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Boxes in COCO's form: ``images``, ``annotations`` (bbox x, y, width, height in pixels, score), ``categories``.

    A category's id is the class's number, counted from 0. ``info`` says how the maps were made, and lists as
    ``failed`` the photographs that could not be read.
    """
    done = [outcome for outcome in outcomes if not outcome.error]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, outcome in enumerate(done, start=1):
        height, width = outcome.size
        images.append(
            {
                "id": number,
                "file_name": outcome.file,
                "width": width,
                "height": height,
                "category_id": outcome.label,
                "probability": outcome.probability,
                "threshold": outcome.threshold,
                "overlay": outcome.overlay,
                "map": outcome.map,
            }
        )
        for region in outcome.regions:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": outcome.label,
                    "bbox": list(region.box),
                    "area": region.area,
                    "score": region.score,
                    "iscrowd": 0,
                }
            )
    info = {
        "network": network.name,
        "layer": how.layer,
        "method": how.method,
        "scales": list(how.scales),
        "close": how.kernel,
        "alpha": how.alpha,
        "rule": how.rule,
        "failed": [{"file_name": o.file, "error": o.error} for o in outcomes if o.error],
    }
    categories = [{"id": i, "name": name} for i, name in enumerate(network.classes)]
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}
