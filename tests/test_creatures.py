"""The drawn data set: the same pixels everywhere, masks that fit, classes told by part and body and by nothing else."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dgl_lib import metrics
from dgl_lib.data.creatures import CLASSES, PIECES, Creatures, Pairs
from dgl_lib.errors import UserError
from dgl_lib.maps import centred_gaussian, to_uint8

FIRST_16 = {
    "train": "0963ba813d95e734a98a5af83c7541348c651016d07238154b07e51ef1d87cfd",
    "val": "6f207cc33d06804149273465ce82e1e0c6fd74bb361d9c614ff862c2c8b2b9a4",
    "test": "fcc0a34ceb5b7f0db9759c325184c67d5e97c3f689bd9656b7822b0c6d869d8b",
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
        assert record.image.shape == (160, 160, 3) and record.image.dtype == np.uint8
        assert record.mask.shape == record.part.shape == (160, 160) and record.mask.dtype == record.part.dtype == bool
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
    masks, parts = (np.array([getattr(val[i], name) for i in range(len(val))]) for name in ("mask", "part"))
    assert not (parts & ~masks).any()
    areas, shares = masks.mean((1, 2)), parts.sum((1, 2)) / masks.sum((1, 2))
    assert 0.17 < areas.mean() < 0.20 and areas.min() > 0.07 and areas.max() < 0.33
    assert 0.24 < shares.mean() < 0.29 and shares.min() > 0.10 and shares.max() < 0.42
    extents = np.maximum(parts.any(1).sum(1), parts.any(2).sum(1))  # pixels
    assert extents.min() >= 14 and all(np.mean(extents[val.labels % 4 == part]) > 30 for part in range(4))
    assert (masks.mean(0)[[20, 20, 140, 140], [20, 140, 20, 140]] > 0.002).all()  # anywhere, corners too


def test_trivial_maps_find_little():
    """At its best threshold the centred Gaussian has at most 40 % IoU on the test part, and the whole image 20 %."""
    test, guess = Creatures("test"), to_uint8(centred_gaussian((160, 160)))
    curve = metrics.iou(np.array([metrics.histograms(guess, test[i].mask) for i in range(len(test))])).mean(0)
    assert 0.30 < curve.max() <= 0.40 and 0.15 < curve[0] <= 0.20  # level 0 keeps the whole image


def test_object_is_one_piece_but_for_what_grass_hides(val: Creatures):
    for index in range(48):
        sizes = cv2.connectedComponentsWithStats(val[index].mask.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
        assert sizes.max() > 0.75 * sizes.sum()


@pytest.mark.parametrize(("split", "size"), [("train", 2000), ("val", 400), ("test", 400)])
def test_splits_and_classes_are_balanced(split: str, size: int):
    data = Creatures(split)  # draws nothing yet
    assert (data.name, data.split, data.classes) == ("creatures", split, CLASSES)
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


def nearest_centroid(x: np.ndarray, y: np.ndarray) -> float:
    """Accuracy of a nearest-centroid classifier made on the first half and tried on the second."""
    half = len(x) // 2
    centroids = np.array([x[:half][y[:half] == c].mean(axis=0) for c in range(y.max() + 1)])
    guess = ((x[half:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    return float((guess == y[half:]).mean())


def colours(data: Creatures, where: str) -> np.ndarray:
    """(n, 48) a histogram of each colour channel over the background, the object without its part, or the part."""
    rows = []
    for record in (data[i] for i in range(len(data))):
        region = {"background": ~record.mask, "body": record.mask & ~record.part, "part": record.part}[where]
        counts = [np.bincount(channel >> 4, minlength=16) for channel in record.image[region].T]
        rows.append(np.concatenate(counts) / region.sum())
    return np.array(rows)


@pytest.mark.parametrize(
    ("where", "part", "body"),
    [("part", (0.95, 1.0), (0.4, 0.6)), ("body", (0.15, 0.37), (0.9, 1.0)), ("background", (0.15, 0.37), (0.4, 0.6))],
)
def test_each_colour_tells_its_own_half_of_the_class(val: Creatures, where: str, part: tuple, body: tuple):
    """The part's paint tells the part (chance 1/4), the body's the body (chance 1/2), and the scenery's neither."""
    x = colours(val, where)
    assert part[0] <= nearest_centroid(x, val.labels % 4) <= part[1]
    assert body[0] <= nearest_centroid(x, val.labels // 4) <= body[1]


def test_the_parts_place_and_shape_tell_the_part_and_not_the_body(val: Creatures):
    rows = []
    for record in (val[i] for i in range(len(val))):
        x0, y0, x1, y1 = record.boxes[0]
        crop = record.part[y0 : y1 + 1, x0 : x1 + 1].astype(np.uint8) * 255
        small = cv2.resize(crop, (16, 16)).astype(float)
        rows.append((np.minimum(small, 255) + small[:, ::-1]).ravel())  # creatures face either way
    assert nearest_centroid(np.array(rows), val.labels % 4) > 0.5
    assert 0.35 < nearest_centroid(np.array(rows), val.labels // 4) < 0.65


# ---- interventions


def test_without_a_piece_the_rest_of_the_picture_stays(val: Creatures):
    for index, piece in ((i, piece) for i in range(8) for piece in val.pieces(i)):
        pieces = val.pieces(index)
        changed = (val.image(index) != val.without(index, piece)).any(2)
        assert changed[pieces[piece]].mean() > 0.9
        if piece == "body":  # is painted with its legs and its tail
            pieces["body"] = np.logical_or.reduce([pieces[name] for name in ("body", "legs", "tail") if name in pieces])
        around = cv2.dilate(pieces[piece].astype(np.uint8), np.ones((45, 45)))  # relief and shadow reach that far
        assert not changed[around == 0].any()
    with pytest.raises(UserError, match="creatures: piece 'wing' given; part, body, legs, tail, face, scenery allowed"):
        val.without(0, "wing")


def test_a_repainted_body_is_the_other_kinds(val: Creatures):
    warmth = {}
    for name, image in (("as drawn", val.image), ("repainted", lambda i: val.without(i, "body"))):
        of = [image(i)[val.pieces(i)["body"]].mean(0) for i in range(64)]
        warmth[name] = np.array([red - blue for red, _, blue in of])
    cool = val.labels[:64] // 4 == 1
    assert (warmth["as drawn"][~cool] > warmth["repainted"][~cool]).all()
    assert (warmth["as drawn"][cool] < warmth["repainted"][cool]).all()


def test_pieces_make_the_object(val: Creatures):
    pieces = val.pieces(3)
    assert list(pieces) == [name for name in PIECES if name in pieces] and {"part", "body", "scenery"} <= set(pieces)
    assert (
        np.array_equal(pieces["part"], val[3].part) and not (pieces["scenery"] & (val[3].part | pieces["body"])).all()
    )
    animal = np.logical_or.reduce([mask for name, mask in pieces.items() if name != "scenery"])
    assert (animal != val[3].mask).mean() < 0.01  # a pixel of two pieces' halves is of neither, or of both


# ---- two in one picture


def test_pairs_are_one_picture_asked_both_ways():
    data, gaps = Pairs("test"), []
    assert len(data) == 200 and data.names[:3] == ["test-0000a", "test-0000b", "test-0001a"]
    for one, other in ((data[2 * k], data[2 * k + 1]) for k in range(100)):
        assert one.image is other.image or np.array_equal(one.image, other.image)
        assert one.label != other.label and not (one.mask & other.mask).any()
        assert one.mask.mean() > 0.02 and other.mask.mean() > 0.02 and one.part.any() and other.part.any()
        gaps.append(cv2.distanceTransform((~other.mask).astype(np.uint8), cv2.DIST_L2, 5)[one.mask].min())
    assert min(gaps) < 12 and max(gaps) > 60 and np.std(gaps) > 10  # near and far, in pixels
    assert np.bincount(data.labels).min() >= 20
    assert Pairs("val", 3).digest != Pairs("test", 3).digest and len(Pairs("val", 3)) == 6
    with pytest.raises(UserError, match="pairs: unknown split 'train'; allowed: val, test"):
        Pairs("train")


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
