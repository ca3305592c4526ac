"""Where is the object in these photographs? Maps, overlays and boxes of single files, folders and globs.

photograph -> raw map of each scale -> the study's post-processing (``maps``) -> map in 0..1 -> threshold -> boxes
"""

import glob
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from dgl_lib.app.networks import SIDES, Network, check_layers, one_line
from dgl_lib.data.folder import SUFFIXES
from dgl_lib.data.images import read_image
from dgl_lib.errors import UserError
from dgl_lib.fast import pick_device
from dgl_lib.files import write_bytes, write_text
from dgl_lib.given import need_one_of
from dgl_lib.localize import METHODS, localize
from dgl_lib.maps import close, minmax, multiscale, resize, to_uint8
from dgl_lib.models import preprocess

#: Longest side in pixels at which maps are merged and closed, as closing a map of 12 megapixels would take minutes.
SIDE = 512


@dataclass(frozen=True)
class How:
    """How maps are made and cut; ``layer``, ``method``, ``alpha``, ``rule``, ``head`` are ``localize.localize``'s."""

    layer: str
    method: str = "dgl"
    label: int | None = None  # the class to localize, or None for the predicted one
    scales: tuple[float, ...] = (1.0,)  # input sides as multiples of the network's own
    close: float = 0.0  # closing kernel as a fraction of the longer side, 0 for none
    threshold: float | None = None  # the object's lowest share of the map's range, in (0, 1]; None takes Otsu's
    alpha: float = 10.0
    rule: str = "released"
    head: str = "softmax"


@dataclass(frozen=True)
class Region:
    """A connected piece of the object."""

    bbox: tuple[int, int, int, int]  # x, y, width, height in pixels
    area: int  # in pixels
    score: float  # probability of the class times the region's highest value of the map, in 0..1


@dataclass(frozen=True)
class Prediction:
    """What was found in a photograph."""

    label: int  # the class that was localized
    probability: float  # of that class by the head, at the scale nearest 1
    map: np.ndarray  # (H, W) float32 in 0..1, at the photograph's size
    threshold: int  # grey level 1..255; the object is where round(255 map) is at least that
    regions: list[Region]  # highest score first; a constant map has none


def check(network: Network, how: How) -> None:
    """Try ``how`` on noise. UserError: a layer, method, class, scale, kernel or threshold is not allowed."""
    need_one_of(METHODS, how.method, "method")
    if not how.scales or any(not SIDES[0] <= network.size * s <= SIDES[1] for s in how.scales):
        given = f"{', '.join(f'{s:g}' for s in how.scales)} given for an input of {network.size} px"
        raise UserError(f"scales: {given}, numbers that make {SIDES[0]}..{SIDES[1]} px of it allowed")
    if how.threshold is not None and not 0 < how.threshold <= 1:
        raise UserError(f"threshold: {how.threshold!r} given, a share of the map's range in (0, 1] allowed")
    check_layers(network, [how.layer])
    with one_line(f"scales: {', '.join(f'{s:g}' for s in how.scales)} of {network.size} px given"):
        predict(network, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), how)


def predict(network: Network, image: np.ndarray, how: How) -> Prediction:
    """The map of ``image`` (H, W, 3) uint8 RGB and the regions cut from it. UserError: as ``localize.localize``."""
    classes = None if how.label is None else torch.tensor([how.label])
    found = {}
    for scale in sorted(how.scales, key=lambda s: abs(s - 1)):
        batch = preprocess(network.model, [image], round(network.size * scale))  # (1, 3, side, side)
        asked = network.model, batch, classes, [how.layer], [how.method]
        one = localize(*asked, alpha=how.alpha, rule=how.rule, head=how.head)
        found[scale], classes = one, one.classes  # the class predicted at the scale nearest 1 stays at the others
    first = next(iter(found.values()))
    label = int(first.classes[0])
    p = first.logits.sigmoid() if how.head == "sigmoid" else first.logits.softmax(1)  # (1, C)
    raw = [found[scale].maps[how.method][how.layer][0].cpu() for scale in how.scales]  # (h, w) each
    height, width = image.shape[:2]
    shrink = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    m = minmax(resize(minmax(close(multiscale(raw, size), how.close)), (height, width)))  # (H, W)
    q = to_uint8(m)
    threshold = _otsu(q) if how.threshold is None else max(1, round(255 * how.threshold))
    return Prediction(label, float(p[0, label]), m.numpy(), threshold, regions(q, threshold, float(p[0, label])))


def _otsu(q: np.ndarray) -> int:
    """Otsu's threshold, which separates the means of the two sides best, as the lowest grey level of the object."""
    return int(cv2.threshold(q, 0, 255, cv2.THRESH_OTSU)[0]) + 1


def regions(q: np.ndarray, threshold: int, probability: float = 1.0) -> list[Region]:
    """The pieces of ``q >= threshold``, (H, W) uint8, connected over edges or corners, best and largest first. A box
    holds its region's pixels exactly, and holes have no box. The published score of ``metrics.boxes`` differs."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((q >= threshold).astype(np.uint8), connectivity=8)
    found = []
    for i in range(1, count):
        x, y, w, h, area = map(int, stats[i])
        peak = int(q[y : y + h, x : x + w][labels[y : y + h, x : x + w] == i].max())
        found.append(Region((x, y, w, h), area, probability * peak / 255))
    return sorted(found, key=lambda region: (-region.score, -region.area))


def overlay(image: np.ndarray, prediction: Prediction, name: str) -> np.ndarray:
    """The photograph under its map's colours (magma), with the regions' boxes and ``name`` at the first, uint8."""
    heat = cv2.applyColorMap(to_uint8(torch.from_numpy(prediction.map)), cv2.COLORMAP_MAGMA)[..., ::-1]
    blend = np.empty_like(image)
    for start in range(0, len(image), 256):  # in strips, because floats of a whole photograph may need gigabytes
        rows = slice(start, start + 256)
        grey = cv2.cvtColor(image[rows], cv2.COLOR_RGB2GRAY)[..., None]
        pale = 0.5 * image[rows].astype(np.float32) + 0.5 * grey  # half of the colour, so that the map's stands out
        share = 0.25 + 0.4 * prediction.map[rows, :, None]
        blend[rows] = ((1 - share) * pale + share * heat[rows]).round()
    picture = Image.fromarray(blend)
    draw, side = ImageDraw.Draw(picture), min(max(picture.size), 4 * min(picture.size))  # of a strip, 4 times its width
    line = max(1, round(side / 250))
    for i, region in reversed(list(enumerate(prediction.regions))):
        x, y, w, h = region.bbox
        draw.rectangle((x - 1, y - 1, x + w, y + h), outline="black", width=line + 2)
        draw.rectangle((x, y, x + w - 1, y + h - 1), outline="white" if i == 0 else "#bbbbbb", width=line)
    if prediction.regions:
        x, y, *_ = prediction.regions[0].bbox
        text, font = f"{name} {prediction.probability:.2f}", ImageFont.load_default(max(9, round(side / 32)))
        pad = max(2, round(side / 200))
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        wide, high = right - left + 2 * pad, bottom - top + 2 * pad
        at, above = max(0, min(x, picture.width - wide)), y - high if y >= high else y  # inside where no room is above
        draw.rectangle((at, above, at + wide - 1, above + high - 1), fill="white")
        draw.text((at + pad - left, above + pad - top), text, fill="black", font=font)
    return np.array(picture)


def _encoded(values: np.ndarray) -> bytes:
    """The bytes of a ``.npy`` file of float32, or of a PNG of (H, W) uint16 or (H, W, 3) uint8 RGB."""
    stream = io.BytesIO()
    if values.dtype == np.float32:
        np.save(stream, values)
    else:  # by Pillow: OpenCV ends at a million pixels a side
        Image.fromarray(values).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def find_photographs(paths: Sequence[str], out: Path) -> dict[Path, str]:
    """The image files that ``paths`` name, each with a name for its outputs: its path below their common folder.

    A folder stands for all images in it at any depth, a pattern (``*``, ``?``, ``[...]``, ``**``) for all files that
    match. Files in ``out``, and overlays and maps of an earlier run, are left out. UserError: a path matches nothing, a
    folder holds no image, or a link in ``out`` leads out of it."""
    there = out.resolve()
    whole = {file.parent.resolve() / file.name: file for path in paths for file in _expand(path)}  # a link has its name
    whole = {at: file for at, file in whole.items() if not (at.is_relative_to(there) or _is_output(file))}
    if not whole:
        raise UserError(
            f"{', '.join(paths)}: no photograph but those that a run made, or in the output folder {str(out)!r}"
        )
    common = os.path.commonpath([at.parent for at in whole])
    places = {file: at.relative_to(common) for at, file in whole.items()}
    stems = Counter(place.with_suffix("") for place in places.values())  # a.jpg and a.png would share their outputs,
    stems.update(places.values())  # and so would a.jpg and a.jpg.png
    names = {file: at if stems[stem := at.with_suffix("")] > 1 else stem for file, at in places.items()}
    if away := [name for name in names.values() if not (out / name).parent.resolve().is_relative_to(there)]:
        raise UserError(f"{out / away[0]}: a link leads out of the output folder {str(out)!r}")
    return {file: name.as_posix() for file, name in names.items()}


def _is_output(file: Path) -> bool:
    """Whether an earlier run wrote this picture: an overlay and a map lie side by side."""
    stem = re.sub(r"\.(overlay|map)\.png$", "", str(file))
    pair = [end for end in ("overlay.png", "map.png", "map.npy") if Path(f"{stem}.{end}").is_file()]
    return stem != str(file) and pair[0] == "overlay.png" and len(pair) > 1


def _expand(path: str) -> list[Path]:
    if not path:
        raise UserError("photographs: '' given, a file, folder or pattern allowed")
    place, missing = Path(path), "no such file, folder or match"
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
        missing = f"no image in it; files ending in {', '.join(SUFFIXES)} are read"
    else:
        matches = map(Path, sorted(glob.glob(path, recursive=True)))  # noqa: PTH207
        files = [place] if place.exists() else [p for p in matches if p.is_file()]
    if not files:
        raise UserError(f"{path}: {missing}")
    return files


def localize_files(
    network: Network, paths: Sequence[str], out: Path, how: How, *, npy: bool = False, device: str = "auto", quiet: bool
) -> dict[str, Any]:
    """Localize photographs one by one, and write ``NAME.overlay.png``, ``NAME.map.png`` and ``boxes.json`` to ``out``.

    The map is 16-bit grey, ``round(65535 map)``, or with ``npy`` float32 in ``NAME.map.npy``. A line is printed for
    each photograph unless ``quiet``. One that cannot be read is named on stderr and does not stop the others. Returns
    what ``boxes.json`` holds, in COCO's form: ``images``, ``annotations`` (bbox x, y, width, height in pixels) and
    ``categories``, with class numbers from 0 as ids. ``info`` says how the maps were made, and what ``failed``.
    UserError: see ``find_photographs`` and ``check``, before any work. OSError: a file cannot be written."""
    photographs = find_photographs(paths, out)
    network.model.to(pick_device(device))
    check(network, how)
    out.mkdir(parents=True, exist_ok=True)
    made = {key: value for key, value in asdict(how).items() if key not in ("label", "threshold")}
    document: dict[str, Any] = {
        "info": {"network": network.name, **made, "failed": []},
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(network.classes)],
    }
    images, annotations, failed = document["images"], document["annotations"], document["info"]["failed"]
    try:
        for file, name in tqdm(photographs.items(), unit="image", disable=None):  # None: no bar but on a terminal
            try:
                image = read_image(file)
                found = predict(network, image, how)
            except UserError as error:
                message = str(error) if str(file) in str(error) else f"{file}: {error}"
                failed.append({"file_name": str(file), "error": message})
                tqdm.write(f"error: {message}", file=sys.stderr)
                continue
            label, (height, width) = network.classes[found.label], image.shape[:2]
            picture, map_file = out / f"{name}.overlay.png", out / f"{name}.map.{'npy' if npy else 'png'}"
            write_bytes(picture, _encoded(overlay(image, found, label)))
            write_bytes(map_file, _encoded(found.map if npy else (65535 * found.map).round().astype(np.uint16)))
            photograph = {"id": len(images) + 1, "file_name": str(file), "width": width, "height": height}
            answer = {"category_id": found.label, "probability": found.probability, "threshold": found.threshold}
            images.append({**photograph, **answer, "overlay": str(picture), "map": str(map_file)})
            for region in found.regions:
                place = {"id": len(annotations) + 1, "image_id": len(images), "category_id": found.label}
                annotations.append({**place, **asdict(region), "iscrowd": 0})
            if not quiet:
                more = f" and {len(found.regions) - 1} more" if len(found.regions) > 1 else ""
                box = "x {} y {} w {} h {}".format(*found.regions[0].bbox) if found.regions else "nothing found"
                tqdm.write(f"{file}: {label} ({found.probability:.2f}), {box}{more} -> {picture}")
    finally:  # also for those done before an interrupt, or before the reader of the lines has enough
        write_text(out / "boxes.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return document
