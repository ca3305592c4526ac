"""Creatures: the study's own pictures, drawn from a seed, with whole-object and part masks.

A class is one of four telling parts (antlers, sail, trunk, fan) on a body in warm or in cool paints: eight in all.
So the body tells something and the part tells more, while outlines, legs, faces, coats and scenery tell nothing. Size
and place vary. A picture is made in four steps:

1. An animal is a list of polygons in its own units (``animals``), which are turned, scaled and placed.
2. All polygons are filled into canvases of *inks* at twice the final size. An ink is ``8 * layer + shade``: the layer
   orders the pieces from back to front and says what they are (body, part, ...).
3. Inks become colours through a palette, the canvas shrinks by two (soft edges), and the layers give the masks.
4. Light, a little relief and a little noise are added.

All arithmetic is on integers: floating-point functions do not promise every machine's pixels. A picture takes 5 ms.

An *intervention* draws the same picture, from the same random numbers, without one piece (FunnyBirds: Hesse et al.,
ICCV 2023). So what a piece is worth to a network can be measured.
"""

import hashlib
import math
from functools import cached_property
from itertools import product
from typing import ClassVar

import cv2
import numpy as np

from dgl_lib.data import animals
from dgl_lib.data.animals import PARTS, PLANS, Piece, Rng, animal, ellipse, smooth, turn
from dgl_lib.data.records import Dataset, Record, around
from dgl_lib.errors import UserError

SIDE = 160  # side of an image, pixels
CANVAS = 2 * SIDE  # drawn at twice the size
FRACTION_BITS = 4  # polygon corners are given in 1/16 of a canvas pixel
LAYERS, SHADES = 16, 8
OUTLINED = LAYERS * SHADES  # added to an ink: the dark twin of its colour

# Quiet paints. The scenery has both kinds in turn, so that no colour tells an object from its background.
WARM = [(204, 124, 98), (222, 170, 108), (230, 196, 142), (172, 120, 92), (192, 100, 98), (206, 146, 88)]
COOL = [(112, 150, 184), (88, 108, 156), (96, 150, 162), (132, 172, 190), (122, 118, 180), (136, 160, 200)]
PAINTS = np.array([WARM, COOL], dtype=np.int32)  # (2, 6, 3)
KINDS = tuple(product(("warm", "cool"), PARTS))  # a class's two marks
CLASSES = tuple(f"{paints}-{part}" for paints, part in KINDS)

#: What an animal is made of, by layers, and the scenery around it.
PIECES = {
    "part": (animals.PART_BEHIND, animals.PART_BEFORE),
    "body": (animals.BODY,),
    "legs": (animals.FAR_LEGS, animals.NEAR_LEGS),
    "tail": (animals.TAIL,),
    "face": (animals.FACE,),
    "scenery": (0, animals.HILLS, animals.STONES, animals.PLANTS, animals.LUMPS, animals.GRASS),
}
ANIMAL = tuple(range(animals.TAIL, animals.PART_BEFORE + 1))


def place(rng: Rng, everything: list[Piece], solid: int, shares: tuple[int, int], window: np.ndarray) -> list[Piece]:
    """Pieces in canvas coordinates (1/16 pixel), after a random stretch, flip, turn, scale and shift.

    The first ``solid`` need room, and the very first is the body. (Markings are clipped by it.) The body's share of the
    picture lies between ``shares``, in thousandths, or is what fits into ``window``, two corners in canvas pixels."""
    stretch = rng.integers(88, 115, 2) * (1 - 2 * int(rng.integers(2)), 1)
    corners = turn(np.concatenate([piece for _, piece in everything]) * stretch // 100, int(rng.integers(-32, 33)))
    ends = np.cumsum([len(piece) for _, piece in everything])
    x, y = corners[: ends[0]].T
    area = abs(int((x * np.roll(y, 1) - y * np.roll(x, 1)).sum())) // 2  # the shoelace formula
    wanted = int(rng.integers(*shares)) * CANVAS * CANVAS // 1000
    low, high = (of(corners[: ends[solid - 1]], axis=0) for of in (np.min, np.max))
    first, last = window + ((6,), (-6,))  # six pixels stay free on each side
    room = int(((last - first) * 4096 // (high - low)).min())  # the scale is in 1/4096 pixel per unit
    scale = min(math.isqrt((wanted << 24) // area), room)
    shift = rng.integers(first, last - ((high - low) * scale >> 12) + 1) - (low * scale >> 12)
    corners = (corners * scale >> 8) + 16 * shift
    return [(ink, piece) for (ink, _), piece in zip(everything, np.split(corners, ends[:-1]), strict=True)]


def fill(pieces: list[Piece]) -> np.ndarray:
    """A canvas of inks, filled from the lowest layer to the highest, in the order given within a layer."""
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    for ink, corners in sorted(pieces, key=lambda piece: piece[0] >> 3):
        cv2.fillPoly(canvas, [corners.astype(np.int32)], ink, shift=FRACTION_BITS)
    return canvas


def scatter(rng: Rng, fewest: int, most: int, low: tuple[int, ...], high: tuple[int, ...]) -> list[list[int]]:
    """Between ``fewest`` and ``most`` draws of four whole numbers, each from its own range."""
    return rng.integers(low, high, (int(rng.integers(fewest, most + 1)), 4), endpoint=True).tolist()


def grass(layer: int, blades: list[list[int]]) -> list[Piece]:
    """Blades that rise from (x, y), bend by ``lean`` and are ``height`` tall, canvas pixels."""
    pieces = []
    for number, (x, y, lean, height) in enumerate(blades):
        middle, bend = y - height * 3 // 5, x + lean // 3
        blade = [(x - 6, y), (bend - 5, middle), (x + lean, y - height), (bend + 5, middle), (x + 6, y)]
        pieces.append((8 * layer + number % 4, np.array(blade) << FRACTION_BITS))
    return pieces


def scenery(rng: Rng) -> list[Piece]:
    """Hills, pebbles, blades of grass, and lumps shaped like a bare body."""
    hills = scatter(rng, 1, 3, (0, 80, 50, 25), (320, 320, 150, 100))
    stones = scatter(rng, 1, 6, (0, 0, 6, 5), (320, 320, 30, 24))
    pieces = [(8 * animals.HILLS + number % 4, ellipse(*oval) << FRACTION_BITS) for number, oval in enumerate(hills)]
    pieces += [(8 * animals.STONES + number % 4, ellipse(*oval) << FRACTION_BITS) for number, oval in enumerate(stones)]
    pieces += grass(animals.PLANTS, scatter(rng, 3, 9, (0, 50, -40, 20), (320, 360, 40, 90)))
    for number, (x, y, size, angle) in enumerate(scatter(rng, 0, 3, (0, 0, 15, 0), (320, 320, 50, 359))):
        corners, _ = PLANS[rng.integers(len(PLANS))]
        lump: np.ndarray = turn(smooth(np.array(corners)) * size // 500, angle) + (x, y)
        pieces.append((8 * animals.LUMPS + number, lump << FRACTION_BITS))
    return pieces


# ---- colour and light
def palette(rng: Rng, paints: np.ndarray, part: tuple[int, int, int]) -> np.ndarray:
    """(256, 3) uint8: the colour of every ink, and of its dark twin in the upper half.

    ``paints`` (6, 3) are for the body, ``part`` is the telling part's. The scenery has warm and cool ones."""
    colours = (PAINTS[np.arange(SHADES) % 2, rng.integers(PAINTS.shape[1], size=(LAYERS, SHADES))] + 150) // 2
    body, coat = paints[rng.permutation(len(paints))[:2]]
    colours[animals.BODY, :3] = body, coat, (body + np.array((490, 484, 476))) // 3
    colours[[animals.TAIL, animals.FAR_LEGS, animals.NEAR_LEGS], 0] = body, body * 3 // 4, body
    telling = list(PIECES["part"])
    colours[telling, 0], colours[telling, 1] = part, np.array(part) * 3 // 4
    colours[animals.FACE, :3] = (250, 248, 240), (38, 32, 40), (255, 255, 255)
    colours = np.clip(colours + rng.integers(-14, 15, colours.shape), 1, 255).reshape(-1, 3)
    colours[0] = 0  # the ground has a colour of its own
    return np.concatenate([colours, colours * 9 // 20]).astype(np.uint8)


def quarters(canvas: np.ndarray) -> np.ndarray:
    """The sum of each 2x2 block, uint16."""
    rows = canvas[0::2].astype(np.uint16) + canvas[1::2]
    return rows[:, 0::2] + rows[:, 1::2]


def region(layers: np.ndarray, wanted: tuple[int, ...], which: int = 0) -> np.ndarray:
    """(160, 160) bool, the pixels of these layers of animal ``which``: what fills at least half of a pixel has it."""
    return quarters(np.isin(layers, np.array(wanted) + LAYERS * which)) >= 2


def light(rng: Rng, colours: np.ndarray, creature: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Shade the two masks as if they bulged towards a light, let the creature cast a shadow, tint all, add noise."""
    x, y = int(rng.integers(-5, 6)), int(rng.integers(-6, -2))
    brightness = np.full((SIDE, SIDE), 256, np.int32)
    for mask, side in ((creature, 13), (part, 7)):
        height: np.ndarray = mask * np.int32(255)
        for window in ((1, side), (side, 1)) * 2:  # a box blur, down and across, twice
            height = cv2.boxFilter(height, cv2.CV_32S, window, normalize=False, borderType=cv2.BORDER_REPLICATE) // side
        height = np.pad(height, 6)
        lit, unlit = (height[6 + s * y : 6 + s * y + SIDE, 6 + s * x : 6 + s * x + SIDE] for s in (1, -1))
        brightness += np.where(mask, (unlit - lit) * 3 // 8, -lit // 5 if mask is creature else 0)
    tint = rng.integers(220, 290, dtype=np.int32) + rng.integers(-10, 11, 3, np.int32)
    shaded = (colours * brightness[:, :, None] >> 8) * tint >> 8
    return np.clip(shaded + rng.integers(-6, 7, shaded.shape, np.int8), 0, 255).astype(np.uint8)


def draw(rng: Rng, labels: list[int], without: str = "") -> tuple[np.ndarray, np.ndarray]:
    """A picture of one animal, or of two side by side: image (160, 160, 3) uint8, layers (320, 320) uint8.

    ``layers`` holds the layer seen at each canvas pixel, and 16 more where it is the second animal's. ``without`` names
    a piece that is left out; a body is painted as the other kind's instead, and without scenery the ground is grey."""
    behind, windows, shares = scenery(rng), np.array([[(0, 0), (CANVAS, CANVAS)]] * len(labels)), (60, 181)
    if len(labels) == 2:
        shares, axis = (25, 91), int(rng.integers(2))  # beside each other, or one above the other
        windows[0, 1, axis] = windows[1, 0, axis] = rng.integers(130, 191)
    blades = scatter(rng, 0, 5, (0, 310, -40, 25), (320, 335, 40, 85))
    before = fill(grass(animals.GRASS, blades))  # hides a little of them
    bare = without == "scenery"
    inks, palettes = fill([] if bare else behind), []
    owner = np.zeros_like(inks)
    for k, (label, window) in enumerate(zip(labels, windows, strict=True)):
        kind, part = KINDS[label]
        pieces, marks = animal(rng, part)
        placed = place(rng, pieces + marks, len(pieces), shares, window)
        gone = () if without == "body" else PIECES.get(without, ())
        own = fill([piece for piece in placed[: len(pieces)] if piece[0] >> 3 not in gone])
        coat = fill(placed[len(pieces) :])
        np.copyto(own, coat, where=(own == 8 * animals.BODY) & (coat > 0))
        inks, owner = np.where(own, own, inks), np.where(own, np.uint8(k), owner)
        palettes.append(palette(rng, PAINTS[int((kind == "cool") != (without == "body"))], PARTS[part][-1]))
    blade = before * np.uint8(not bare)
    inks, owner = np.where(blade, blade, inks), np.where(blade, np.uint8(0), owner)  # the scenery is painted once
    layers = (inks >> 3) + LAYERS * owner
    # every piece gets a dark rim two canvas pixels wide, on its own side of the border
    order = np.where(blade, np.uint8(255), layers)
    inks[order != cv2.erode(order, np.ones((5, 5), np.uint8))] |= OUTLINED
    # the empty ground is a gradient between three muted paints, each of a warm one and a cool one
    warm, cool = (PAINTS[k, rng.integers(PAINTS.shape[1], size=3)] for k in (0, 1))
    first, right, down = (warm + cool + rng.integers(90, 250)) // 3
    if bare:
        first = right = down = np.full(3, 150)
    ramp = np.arange(SIDE, dtype=np.int32)[:, None]
    ground = first + ((right - first) * ramp // SIDE)[None] + ((down - first) * ramp // SIDE)[:, None]
    colours = quarters(np.array(palettes)[owner, inks]) + quarters(layers == 0)[:, :, None].astype(np.int32) * ground
    seen = layers % LAYERS  # of whichever animal
    return light(rng, colours >> 2, region(seen, ANIMAL), region(seen, PIECES["part"])), layers


class Creatures(Dataset):
    """The drawn data set: "train" (2000 images), "val" (400) or "test" (400).

    Image i depends on (seed, split, i) alone and is drawn when first asked for. ``count`` keeps the first 1 to all
    (None), another ``seed``, a whole number from 0 on, gives another set. UserError: another split, count or seed."""

    name = "creatures"
    sizes: ClassVar = {"train": 2000, "val": 400, "test": 400}
    animals = 1  # in a picture

    def __init__(self, split: str, count: int | None = None, seed: int = 0):
        if split not in self.sizes:
            raise UserError(f"{self.name}: unknown split {split!r}; allowed: {', '.join(self.sizes)}")
        all_, size = self.sizes[split], self.sizes[split] if count is None else count
        if not isinstance(size, int | np.integer) or not 1 <= size <= all_:
            raise UserError(f"{self.name}: count {count!r} given; 1 to {all_}, or None, allowed for {split}")
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise UserError(f"{self.name}: seed {seed!r} given; a whole number from 0 on allowed")
        self.split, self.seed, self.classes, n = split, int(seed), CLASSES, len(CLASSES)
        picture, which = np.divmod(np.arange(size * self.animals), self.animals)
        self.labels = (picture + which * (1 + picture // n % (n - 1))) % n  # two in a picture are of two classes
        self.names = [f"{split}-{k:04d}{'ab'[j] * (self.animals - 1)}" for k, j in zip(picture, which, strict=True)]
        self._kept: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def _draw(self, picture: int, without: str = "") -> tuple[np.ndarray, np.ndarray]:
        """``draw``'s image and layers."""
        stream = ("train", "val", "test").index(self.split) + 3 * (self.animals - 1)
        labels = self.labels[picture * self.animals :][: self.animals]
        return draw(np.random.default_rng([self.seed, stream, picture]), labels.tolist(), without)

    def _arrays(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image, mask and part of an item. They are kept, so nobody may change what the next reader gets."""
        index = range(len(self))[index]  # negative indices and IndexError as in a list
        if index not in self._kept:
            picture, which = divmod(index, self.animals)
            image, layers = self._draw(picture)
            arrays = image, region(layers, ANIMAL, which), region(layers, PIECES["part"], which)
            for array in arrays:
                array.flags.writeable = False
            self._kept[index] = arrays
        return self._kept[index]

    def image(self, index: int) -> np.ndarray:
        """(160, 160, 3) uint8, RGB, read-only."""
        return self._arrays(index)[0]

    def __getitem__(self, index: int) -> Record:
        image, mask, part = self._arrays(index)
        return Record(self.names[index], image, int(self.labels[index]), around(mask), mask=mask, part=part)

    def pieces(self, index: int) -> dict[str, np.ndarray]:
        """What is seen of each of ``PIECES``, (160, 160) bool by name; pieces that are not seen are left out."""
        _, layers = self._draw(index)
        found = {name: region(layers, wanted) for name, wanted in PIECES.items()}
        return {name: mask for name, mask in found.items() if mask.any()}

    def without(self, index: int, piece: str) -> np.ndarray:
        """The same picture without one of ``PIECES`` (see ``draw``), (160, 160, 3) uint8. UserError: another piece."""
        if piece not in PIECES:
            raise UserError(f"{self.name}: piece {piece!r} given; {', '.join(PIECES)} allowed")
        return self._draw(range(len(self))[index], piece)[0]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all images, masks, parts and labels; draws those that are not drawn yet."""
        total = hashlib.sha256()
        for array in (*(array for index in range(len(self)) for array in self._arrays(index)), self.labels):
            total.update(array.tobytes())
        return total.hexdigest()


class Pairs(Creatures):
    """Two creatures of different classes in one picture, "val" or "test" (100 pictures).

    Items 2k and 2k + 1 are picture k, asked for the one and for the other: label, mask, part and box are the asked
    creature's. The two are smaller than alone, do not overlap, and stand at varied distance."""

    name = "pairs"
    sizes: ClassVar = {"val": 100, "test": 100}
    animals = 2
