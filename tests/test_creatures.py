"""The drawn data set: the same pixels everywhere, masks that fit, classes that differ in their part alone."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dgl_lib.data.creatures import PARTS, Creatures
from dgl_lib.errors import UserError

FIRST_16 = {
    "train": "41a12680946ee093390c32aca684746730bb81733a0264c49351afc0e2961fd9",
    "val": "f919c754971de6b71309c2866e9ab46cffbdd91c5a5199cfb1f294c3c3bcb271",
    "test": "71a4667e80deb95e6ccaddb3ab42f1a771232561787fc93380f4afde76930fdb",
}


@pytest.fixture(scope="module")
def val() -> Creatures:
    return Creatures("val", count=320)


def fingerprint(split: str) -> str:
    """SHA-256 of the first 16 images, masks and parts of a split."""
    digest = hashlib.sha256()
    data = Creatures(split, count=16)
    for record in (data[i] for i in range(16)):
        for array in (record.image, record.mask, record.part):
            digest.update(array.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("split", FIRST_16)
def test_pixels_are_those_recorded(split: str):
    assert fingerprint(split) == FIRST_16[split]


def test_pixels_do_not_depend_on_the_cpu(root: Path):
    """Drawn again by a process in which numpy and OpenCV may use none of this machine's vector extensions."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    dispatched = [name.lstrip("*") for name in cv2.getCPUFeaturesLine().split() if name.startswith("*")]
    plain = {"NPY_DISABLE_CPU_FEATURES": " ".join(found), "OPENCV_CPU_DISABLE": ",".join(dispatched)}
    code = "from tests.test_creatures import fingerprint; print(*map(fingerprint, ('train', 'val', 'test')))"
    env = {**os.environ, **plain, "OPENCV_IPP": "disabled", "PYTHONPATH": str(root)}
    result = subprocess.run([sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.split() == list(FIRST_16.values())


def test_records_are_complete_and_agree(val: Creatures):
    for index in range(48):
        record = val[index]
        assert record.name == val.names[index] == f"val-{index:04d}"
        assert record.image.shape == (128, 128, 3) and record.image.dtype == np.uint8
        assert record.mask.shape == record.part.shape == (128, 128) and record.mask.dtype == record.part.dtype == bool
        assert record.label == val.labels[index] and record.ignore is None
        assert record.image is val.image(index)
        assert record.boxes.shape == (1, 4) and record.boxes.dtype == np.int32
        x0, y0, x1, y1 = record.boxes[0]
        inside = np.zeros_like(record.mask)
        inside[y0 : y1 + 1, x0 : x1 + 1] = True
        assert not (record.mask & ~inside).any()  # the box holds the object ...
        for side in (record.mask[y0], record.mask[y1], record.mask[:, x0], record.mask[:, x1]):
            assert side.any()  # ... and is no larger than it


def test_sizes_of_object_and_part(val: Creatures):
    areas, shares, extents = [], [], []
    for index in range(len(val)):
        mask, part = val[index].mask, val[index].part
        assert not (part & ~mask).any()
        areas.append(mask.mean())
        shares.append(part.sum() / mask.sum())
        rows, columns = np.nonzero(part)
        extents.append(max(np.ptp(rows), np.ptp(columns)) + 1)
    assert 0.31 < np.mean(areas) < 0.37 and min(areas) > 0.18 and max(areas) < 0.55
    assert 0.23 < np.mean(shares) < 0.29 and min(shares) > 0.10 and max(shares) < 0.42
    for label in range(len(val.classes)):  # large enough for a map of stride 8, in each class
        assert np.mean(np.array(extents)[val.labels[: len(extents)] == label]) > 45
    assert min(extents) >= 18


def test_object_is_one_piece_but_for_what_grass_hides(val: Creatures):
    for index in range(48):
        sizes = cv2.connectedComponentsWithStats(val[index].mask.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
        assert sizes.max() > 0.75 * sizes.sum()


@pytest.mark.parametrize(("split", "size"), [("train", 2000), ("val", 400), ("test", 400)])
def test_splits_and_classes_are_balanced(split: str, size: int):
    data = Creatures(split)  # draws nothing yet
    assert (data.name, data.split, data.classes) == ("creatures", split, tuple(PARTS))
    assert len(data) == len(data.names) == len(set(data.names)) == size
    assert data.labels.dtype == np.int64 and np.bincount(data.labels).tolist() == [size // 8] * 8


def test_an_image_depends_on_seed_split_and_index_only():
    forward, backward = Creatures("test", count=6), Creatures("test")
    for index in reversed(range(6)):
        assert (backward.image(index) == forward.image(index)).all()
    assert (forward.image(-1) == forward.image(5)).all()
    drawn = {Creatures(split, 1, seed).image(0).tobytes() for split in ("train", "val", "test") for seed in (0, 1, 2)}
    assert len(drawn) == 9


def test_no_image_is_drawn_twice(val: Creatures):
    images = {
        data.image(i).tobytes() for data in (val, Creatures("train", 160), Creatures("test", 160)) for i in range(160)
    }
    assert len(images) == 3 * 160


def test_kept_images_cannot_be_changed(val: Creatures):
    with pytest.raises(ValueError, match="read-only"):
        val.image(0)[0, 0] = 0


def test_digest():
    data = Creatures("val", count=8)
    assert data.digest == Creatures("val", count=8).digest
    assert (
        len({data.digest, Creatures("val", 9).digest, Creatures("test", 8).digest, Creatures("val", 8, 1).digest}) == 4
    )
    expected = b"".join(a.tobytes() for r in (data[i] for i in range(8)) for a in (r.image, r.mask, r.part))
    assert data.digest == hashlib.sha256(expected + np.arange(8, dtype=np.int64).tobytes()).hexdigest()


def features(data: Creatures, where: str) -> np.ndarray:
    """(n, 48) a histogram of each colour channel over the background, the object without its part, or the part."""
    rows = []
    for record in (data[i] for i in range(len(data))):
        region = {"background": ~record.mask, "body": record.mask & ~record.part, "part": record.part}[where]
        counts = [np.bincount(channel >> 4, minlength=16) for channel in record.image[region].T]
        rows.append(np.concatenate(counts) / region.sum())
    return np.array(rows)


def colour_accuracy(data: Creatures, where: str) -> float:
    """Of a nearest-centroid classifier on colours alone, trained on the first half and tried on the second."""
    x, y, half = features(data, where), data.labels, len(data) // 2
    centroids = np.array([x[:half][y[:half] == c].mean(axis=0) for c in range(8)])
    guess = ((x[half:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    return float((guess == y[half:]).mean())


@pytest.mark.parametrize("where", ["background", "body"])
def test_colours_outside_the_part_do_not_tell_the_class(val: Creatures, where: str):
    """A nearest-centroid classifier on their colours alone stays near chance (1/8)."""
    assert colour_accuracy(val, where) < 0.28


def test_the_parts_paint_does_tell_the_class(val: Creatures):
    assert colour_accuracy(val, "part") > 0.8


def test_the_parts_place_and_shape_do_tell_the_class(val: Creatures):
    """The same classifier on where the part lies within the object's box: what should differ does."""
    rows = []
    for record in (val[i] for i in range(len(val))):
        x0, y0, x1, y1 = record.boxes[0]
        crop = record.part[y0 : y1 + 1, x0 : x1 + 1].astype(np.uint8) * 255
        small = cv2.resize(crop, (16, 16)).astype(float)
        rows.append(np.minimum(small, 255) + small[:, ::-1])  # creatures face either way
    x, y, half = np.array(rows), val.labels, len(val) // 2
    centroids = np.array([x[:half][y[:half] == c].mean(axis=0) for c in range(8)])
    guess = ((x[half:, None] - centroids) ** 2).sum(axis=(2, 3)).argmin(axis=1)
    assert (guess == y[half:]).mean() > 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("valid",), "creatures: unknown split 'valid'; allowed: train, val, test"),
        (("val", 0), "creatures: count 0 given; 1 to 400, or None, allowed for val"),
        (("val", 401), "creatures: count 401 given; 1 to 400, or None, allowed for val"),
        (("train", 2.5), "creatures: count 2.5 given; 1 to 2000, or None, allowed for train"),
        (("val", None, -1), "creatures: seed -1 given; a whole number from 0 on allowed"),
        (("val", None, "a"), "creatures: seed 'a' given; a whole number from 0 on allowed"),
    ],
)
def test_mistakes_are_named_in_one_line(arguments: tuple, message: str):
    with pytest.raises(UserError) as caught:
        Creatures(*arguments)
    assert str(caught.value) == message


def test_index_out_of_range():
    with pytest.raises(IndexError):
        Creatures("val", 3).image(3)
