"""Where is the object in these photographs? Maps, overlays and boxes of single files, folders and globs.

photograph -> raw map of each scale -> the study's post-processing (``maps``) -> map in 0..1 -> threshold -> boxes
"""

from __future__ import annotations

import glob
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from dgl_lib.app.networks import Network, check_layers
from dgl_lib.data.folder import SUFFIXES
from dgl_lib.data.images import read_image
from dgl_lib.errors import UserError
from dgl_lib.files import write_bytes, write_text
from dgl_lib.localize import METHODS, localize
from dgl_lib.maps import close, minmax, multiscale, resize, to_uint8
from dgl_lib.models import preprocess
from dgl_lib.training import pick_device

#: Longest side in pixels at which maps are merged and closed. Closing a map of 12 megapixels would take minutes.
#: Smaller photographs keep their own size, as in the study.
SIDE = 512


@dataclass(frozen=True)
class How:
    """How maps are made and cut.

    Attributes:
        layer, method, alpha, rule: as for ``localize.localize``.
        label: the class to localize, or None for the predicted one.
        scales: input sides as multiples of the network's own.
        close: closing kernel as a fraction of the longer side, 0 for none.
        threshold: pixels of at least this share of the map's range are object, in (0, 1]. None takes Otsu's threshold.
    """

    layer: str
    method: str = "dgl"
    label: int | None = None
    scales: tuple[float, ...] = (1.0,)
    close: float = 0.0
    threshold: float | None = None
    alpha: float = 10.0
    rule: str = "released"


@dataclass(frozen=True)
class Region:
    """A connected piece of the object: ``bbox`` x, y, width, height and ``area`` in pixels, ``score`` in 0..1 (the
    probability of the class times the highest value of the map in the region)."""

    bbox: tuple[int, int, int, int]
    area: int
    score: float


@dataclass(frozen=True)
class Prediction:
    """What was found in a photograph.

    Attributes:
        label, probability: the class that was localized, and its softmax at the scale nearest 1.
        map: (H, W) float32 in 0..1, at the photograph's size.
        threshold: grey level 1..255. The object is where ``round(255 map)`` is at least that.
        regions: highest score first. A constant map has none.
    """

    label: int
    probability: float
    map: np.ndarray
    threshold: int
    regions: list[Region]


def check(network: Network, how: How) -> None:
    """Try ``how`` on noise. UserError: a layer, method, class, scale, kernel or threshold is not allowed."""
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
    predict(network, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), how)


def predict(network: Network, image: np.ndarray, how: How) -> Prediction:
    """The map of ``image`` (H, W, 3) uint8 RGB and the regions cut from it. UserError: as ``localize.localize``."""
    label, probability = how.label, 0.0
    raw: dict[float, torch.Tensor] = {}
    # The class predicted at the scale nearest 1 is localized at the other scales too.
    for scale in sorted(how.scales, key=lambda s: abs(s - 1)):
        batch = preprocess(network.model, [image], round(network.size * scale))  # (1, 3, side, side)
        classes = None if label is None else torch.tensor([label])
        out = localize(network.model, batch, classes, [how.layer], [how.method], alpha=how.alpha, rule=how.rule)
        if not raw:
            label = int(out.classes[0])
            probability = float(out.logits[0].softmax(0)[label])
        raw[scale] = out.maps[how.method][how.layer][0].cpu()  # (h, w)
    assert label is not None
    height, width = image.shape[:2]
    shrink = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    m = minmax(close(multiscale([raw[s] for s in how.scales], size), how.close))
    m = minmax(resize(m, (height, width)))  # (H, W)
    q = to_uint8(m)
    threshold = _otsu(q) if how.threshold is None else max(1, round(255 * how.threshold))
    return Prediction(label, probability, m.numpy(), threshold, regions(q, threshold, probability))


def _otsu(q: np.ndarray) -> int:
    """Otsu's threshold, which separates the means of the two sides best, as the lowest grey level of the object."""
    return int(cv2.threshold(q, 0, 255, cv2.THRESH_OTSU)[0]) + 1


def regions(q: np.ndarray, threshold: int, probability: float = 1.0) -> list[Region]:
    """The pieces of ``q >= threshold``, (H, W) uint8, connected over edges or corners, best and largest first.

    A box holds its region's pixels exactly, and holes have no box. The published score of ``metrics.boxes`` differs.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats((q >= threshold).astype(np.uint8), connectivity=8)
    found = []
    for i in range(1, count):
        x, y, w, h, area = map(int, stats[i])
        inside = slice(y, y + h), slice(x, x + w)
        peak = int(q[inside][labels[inside] == i].max())
        found.append(Region((x, y, w, h), area, probability * peak / 255))
    return sorted(found, key=lambda region: (-region.score, -region.area))


# ------------------------------------------------------------------------------------------------------- pictures


def overlay(image: np.ndarray, prediction: Prediction, name: str) -> np.ndarray:
    """The photograph under its map's colours (magma), with the regions' boxes and ``name`` at the first, uint8."""
    heat = cv2.applyColorMap(to_uint8(torch.from_numpy(prediction.map)), cv2.COLORMAP_MAGMA)[..., ::-1]
    blend = np.empty_like(image)
    for top in range(0, len(image), 256):  # in strips, because floats of a whole photograph may need gigabytes
        rows = slice(top, top + 256)
        grey = cv2.cvtColor(image[rows], cv2.COLOR_RGB2GRAY)[..., None]
        pale = 0.5 * image[rows].astype(np.float32) + 0.5 * grey  # half of the colour, so that the map's stands out
        share = 0.25 + 0.4 * prediction.map[rows, :, None]
        blend[rows] = ((1 - share) * pale + share * heat[rows]).round()
    picture = Image.fromarray(blend)
    draw = ImageDraw.Draw(picture)
    line = max(1, round(max(image.shape[:2]) / 250))
    for i, region in reversed(list(enumerate(prediction.regions))):
        x, y, w, h = region.bbox
        draw.rectangle((x - 1, y - 1, x + w, y + h), outline="black", width=line + 2)
        draw.rectangle((x, y, x + w - 1, y + h - 1), outline="white" if i == 0 else "#bbbbbb", width=line)
        if i == 0:
            _tag(draw, picture.size, (x, y), f"{name} {prediction.probability:.2f}")
    return np.array(picture)


def _tag(draw: ImageDraw.ImageDraw, size: tuple[int, int], corner: tuple[int, int], text: str) -> None:
    """``text`` on white above a box's corner, or inside the box where there is no room above."""
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
    return cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])[1].tobytes()


def _npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


# ---------------------------------------------------------------------------------------------------------- files


def find_photographs(paths: Sequence[str], out: Path) -> dict[Path, str]:
    """The image files that ``paths`` name, each with a name for its outputs: its path below their common folder.

    A folder stands for all images in it at any depth, and a pattern (``*``, ``?``, ``[...]``, ``**``) for all files
    that match. Files in ``out`` are left out, so that a second run does not take the first one's pictures.

    Raises:
        UserError: a path matches nothing, or a folder holds no image.
    """
    files = [file for path in paths for file in _expand(path) if not file.absolute().is_relative_to(out.absolute())]
    if not files:
        raise UserError(f"{', '.join(paths)}: no photograph but those in the output folder {str(out)!r}")
    whole = {file.absolute(): file for file in files}
    common = os.path.commonpath([place.parent for place in whole])
    places = {file: place.relative_to(common) for place, file in whole.items()}
    stems = Counter(place.with_suffix("") for place in places.values())  # a.jpg and a.png would share their outputs
    return {
        file: (place if stems[place.with_suffix("")] > 1 else place.with_suffix("")).as_posix()
        for file, place in places.items()
    }


def _expand(path: str) -> list[Path]:
    place = Path(path)
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
        if not files:
            raise UserError(f"{path}: no image in it; files ending in {', '.join(SUFFIXES)} are read")
    elif place.exists():
        files = [place]
    else:
        files = [p for p in map(Path, sorted(glob.glob(path, recursive=True))) if p.is_file()]  # noqa: PTH207
        if not files:
            raise UserError(f"{path}: no such file, folder or match")
    return files


def localize_files(
    network: Network,
    paths: Sequence[str],
    out: Path,
    how: How,
    *,
    npy: bool = False,
    device: str = "auto",
    progress: bool = False,
    tell: Callable[[str, bool], None] = lambda line, failed: None,
) -> dict[str, Any]:
    """Localize photographs one by one, and write ``NAME.overlay.png``, ``NAME.map.png`` and ``boxes.json`` to ``out``.

    The map is 16-bit grey, ``round(65535 map)``, or with ``npy`` float32 in ``NAME.map.npy``. A photograph that cannot
    be read does not stop the others.

    ``tell`` gets a line about each photograph, and whether it failed.

    Returns:
        what ``boxes.json`` holds, in COCO's form: ``images``, ``annotations`` (bbox x, y, width, height in pixels) and
        ``categories``, with class numbers from 0 as ids. ``info`` says how the maps were made, and what ``failed``.

    Raises:
        UserError: see ``find_photographs`` and ``check``, before any work.
        OSError: a file cannot be written.
    """
    photographs = find_photographs(paths, out)
    network.model.to(pick_device(device))
    check(network, how)
    out.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for file, name in tqdm(photographs.items(), unit="image", disable=None if progress else True):
        try:
            image = read_image(file)
            found = predict(network, image, how)
        except UserError as error:
            message = str(error) if str(file) in str(error) else f"{file}: {error}"
            failed.append({"file_name": str(file), "error": message})
            tell(f"error: {message}", True)
            continue
        label = network.classes[found.label]
        picture, map_file = out / f"{name}.overlay.png", out / f"{name}.map.{'npy' if npy else 'png'}"
        write_bytes(picture, _png(overlay(image, found, label)))
        write_bytes(map_file, _npy(found.map) if npy else _png((65535 * found.map).round().astype(np.uint16)))
        images.append(
            {
                "id": len(images) + 1,
                "file_name": str(file),
                "width": image.shape[1],
                "height": image.shape[0],
                "category_id": found.label,
                "probability": found.probability,
                "threshold": found.threshold,
                "overlay": str(picture),
                "map": str(map_file),
            }
        )
        for region in found.regions:
            place = {"id": len(annotations) + 1, "image_id": len(images), "category_id": found.label}
            annotations.append({**place, **asdict(region), "iscrowd": 0})
        more = f" and {len(found.regions) - 1} more" if len(found.regions) > 1 else ""
        where = "x {} y {} w {} h {}".format(*found.regions[0].bbox) + more if found.regions else "nothing found"
        tell(f"{file}: {label} ({found.probability:.2f}), {where} -> {picture}", False)
    made = {key: value for key, value in asdict(how).items() if key not in ("label", "threshold")}
    document = {
        "info": {"network": network.name, **made, "failed": failed},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(network.classes)],
    }
    write_text(out / "boxes.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return document
