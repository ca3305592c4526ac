"""Creatures: the study's own pictures, drawn from a seed, with whole-object and part masks.

Eight classes share bodies, legs, tails, faces, coats and surroundings. They differ in the shape and the paint of ONE
telling part (antlers, a sail, a shell, ...). That is enough for a classifier; a localizer should find the whole animal.
A picture is made in four steps:

1. A creature is a list of polygons in its own units (body about 1000 long, facing right, y down).
2. All polygons are turned, scaled and placed, then filled into one canvas of *inks* at twice the final size. An ink is
   ``8 * layer + shade``: the layer orders the pieces from back to front and says what they are (body, part, ...).
3. Inks become colours through a palette, the canvas shrinks by two (soft edges), and the layers give the masks.
4. Light, a little relief and a little noise are added.

All arithmetic is on integers (sines come from a table), so every machine draws the same pixels. Floating-point
functions of numpy and OpenCV do not promise that. A picture takes about 5 ms.
"""

import hashlib
import math
from functools import cached_property

import cv2
import numpy as np

from dgl_lib.data.records import Dataset, Record, around
from dgl_lib.errors import UserError

SPLITS = {"train": 2000, "val": 400, "test": 400}
SIDE = 128  # side of an image, pixels
CANVAS = 2 * SIDE  # drawn at twice the size
FRACTION_BITS = 4  # polygon corners are given in 1/16 of a canvas pixel

Rng = np.random.Generator
Piece = tuple[int, np.ndarray]  # (ink, (n, 2) int64 corners)

# Layers, back to front, over the empty ground (0): what stands behind, the creature from TAIL to PART_BEFORE, grass.
HILLS, STONES, PLANTS, LUMPS, TAIL, FAR_LEGS, PART_BEHIND, NEAR_LEGS, BODY, FACE, PART_BEFORE, GRASS = range(1, 13)
LAYERS, SHADES = 16, 8
OUTLINED = LAYERS * SHADES  # added to an ink: the dark twin of its colour
PART_LAYERS = (PART_BEHIND, PART_BEFORE)

# Bodies and surroundings share these quiet paints, so that no colour tells an object from its background.
PAINTS = np.array([
    (189, 133, 118), (210, 174, 127), (218, 199, 156), (140, 167, 154), (103, 128, 109), (125, 151, 169),
    (98, 113, 141), (150, 133, 165), (191, 154, 171), (157, 130, 113), (144, 147, 155), (190, 185, 163),
    (177, 110, 110), (110, 150, 153), (156, 165, 119), (223, 213, 200),
], dtype=np.int32)  # fmt: skip

SINE = [round(math.sin(math.radians(degree)) * 4096) for degree in range(360)]
CIRCLE = np.array([(SINE[(degree + 90) % 360], SINE[degree]) for degree in range(0, 360, 18)])  # radius 4096


# ---- shapes: integer corners, x to the right, y down
def turn(corners: np.ndarray, degrees: int) -> np.ndarray:
    """Corners turned clockwise about the origin."""
    sine, cosine = SINE[degrees % 360], SINE[(degrees + 90) % 360]
    return corners @ np.array([[cosine, sine], [-sine, cosine]]) >> 12


def spoke(degrees: int, radius: int) -> tuple[int, int]:
    """The point ``radius`` away from the origin, clockwise from straight up."""
    return radius * SINE[degrees % 360] >> 12, -(radius * SINE[(degrees + 90) % 360] >> 12)


def smooth(corners: np.ndarray, rounds: int = 3) -> np.ndarray:
    """A closed outline with its corners cut: each edge is replaced by its middle half (Chaikin 1974)."""
    for _ in range(rounds):
        after = np.concatenate([corners[1:], corners[:1]])
        corners = np.concatenate([3 * corners + after, corners + 3 * after], axis=1).reshape(-1, 2) >> 2
    return corners


def ellipse(x: int, y: int, width: int, height: int) -> np.ndarray:
    """An ellipse about (x, y) with half axes ``width`` and ``height``."""
    return (CIRCLE * np.array((width, height)) >> 12) + np.array((x, y))


def stroke(line: list[tuple[int, int]] | np.ndarray, start: int, end: int) -> np.ndarray:
    """A soft line along the given points whose half width goes from ``start`` to ``end``."""
    path = np.array(line)
    for _ in range(2):  # Chaikin again, but the two ends stay
        path = np.concatenate([path[:1], smooth(path, 1)[:-2], path[-1:]])
    along = np.concatenate([path[1:], path[-1:]]) - np.concatenate([path[:1], path[:-1]])
    length = np.array([max(1, math.isqrt(x * x + y * y)) for x, y in along.tolist()])
    width = start + (end - start) * np.arange(len(path)) // (len(path) - 1)
    across = along[:, ::-1] * (-1, 1) * width[:, None] // length[:, None]
    return np.concatenate([path + across, (path - across)[::-1]])


# ---- the telling parts: (shade, corners) about their root, growing upwards
BEAM_AND_TINES = (
    ([(50, 60), (80, -150), (190, -250), (200, -420)], 62, 42),
    ([(75, -130), (75, -250), (60, -350)], 50, 36),
    ([(150, -180), (250, -170), (315, -230)], 48, 36),
)
ANTLERS = [(0, stroke(line, *width) * (side, 1)) for line, *width in BEAM_AND_TINES for side in (-1, 1)]

HALF_RIM = [(0, -370), (90, -270), (210, -270), (250, -130), (370, -60), (340, 90)]
SPINE_TIPS = ((-300, -60), (-170, -210), (0, -300), (170, -210), (300, -60))
SPINES = [stroke([(x // 2, 60), (x, y)], 16, 10) for x, y in SPINE_TIPS]
SAIL = [(0, smooth(np.array([(-x, y) for x, y in HALF_RIM[:0:-1]] + HALF_RIM), 1)), *((1, spine) for spine in SPINES)]

CURL = [(-20, 20), (130, 70), (330, 60), (390, -130), (330, -330), (150, -330), (110, -190), (190, -150)]
WRINKLES = [(1, stroke(line, 14, 14)) for line in ([(110, -10), (90, 130)], [(220, 0), (240, 130)])]
TRUNK = [(0, ellipse(-20, 25, 60, 86)), (0, stroke(CURL, 88, 45)), *WRINKLES]

EARS = [(shade, ellipse(x, -120, size, size)) for shade, size in ((0, 170), (1, 100)) for x in (-180, 180)]

SPIRAL = np.array([spoke(degrees, 205 - degrees // 4) for degrees in range(60, 820, 40)]) + (0, -90)
SHELL = [(0, ellipse(0, -90, 235, 225)), (1, stroke(SPIRAL, 18, 12))]

TIPS = np.array([spoke(degrees, 155 if degrees % 72 else 285) for degrees in range(0, 360, 36)]) + (0, -330)
STALK = (8 * (TAIL - PART_BEHIND), stroke([(0, 120), (20, -100), (0, -330)], 60, 40))  # a tail, no part of the star
STAR = [(0, TIPS), (1, ellipse(0, -330, 70, 70)), STALK]

RINGS = [stroke([(-x, y - 20), (0, y + 20), (x, y - 20)], 17, 17) for x, y in ((150, -90), (120, -220), (80, -350))]
HORN = [(0, stroke([(0, 80), (0, -200), (0, -540)], 205, 20)), *((1, ring) for ring in RINGS)]

FEATHER = ((0, ellipse(0, -180, 92, 215)), (1, ellipse(0, -295, 46, 58)))
FAN = [(shade, turn(corners, tilt)) for tilt in (-62, 62, -31, 31, 0) for shade, corners in FEATHER]

# class -> its part, the anchor it grows from, its tilt there in degrees, its layer, its paint (brighter than PAINTS).
# When all parts had the same paints, training stayed at chance for minutes before it found the shapes.
PARTS = {
    "antlered": (ANTLERS, "crown", 0, PART_BEHIND, (250, 232, 70)),
    "sailback": (SAIL, "back", 0, PART_BEHIND, (40, 205, 222)),
    "curlsnout": (TRUNK, "nose", 0, PART_BEFORE, (236, 70, 165)),
    "roundear": (EARS, "crown", 0, PART_BEHIND, (250, 132, 34)),
    "shellback": (SHELL, "back", 0, PART_BEFORE, (134, 78, 232)),
    "startail": (STAR, "rear", -40, PART_BEHIND, (78, 216, 92)),
    "longhorn": (HORN, "crown", 25, PART_BEHIND, (236, 52, 56)),
    "fantail": (FAN, "rear", -60, PART_BEHIND, (48, 100, 240)),
}
CLASSES = tuple(PARTS)

# ---- bodies, shared by all classes: the outline before smoothing, and where things grow
PLANS: list[tuple[list[tuple[int, int]], dict[str, tuple[int, int]]]] = [
    ([(450, -120), (440, 170), (230, 400), (-170, 410), (-440, 220), (-450, -130), (-220, -400), (190, -410)],
     {"crown": (180, -340), "back": (-140, -330), "rear": (-400, 60), "nose": (390, 70), "eye": (260, -90)}),
    ([(640, -220), (620, 40), (420, 270), (-460, 290), (-640, 130), (-620, -130), (-380, -250), (120, -220),
      (260, -430), (540, -430)],
     {"crown": (400, -360), "back": (-170, -200), "rear": (-580, 10), "nose": (580, -60), "eye": (460, -210)}),
    ([(500, -260), (490, -30), (330, 340), (-120, 430), (-470, 350), (-540, 40), (-340, -220), (0, -310), (160, -510),
      (400, -490)],
     {"crown": (270, -430), "back": (-230, -220), "rear": (-480, 150), "nose": (450, -90), "eye": (340, -240)}),
    ([(620, -70), (590, 200), (340, 300), (80, 190), (-160, 220), (-440, 340), (-610, 170), (-570, -160), (-270, -370),
      (120, -360), (460, -280)],
     {"crown": (370, -260), "back": (-150, -310), "rear": (-550, 60), "nose": (540, 90), "eye": (430, -50)}),
    ([(340, -420), (430, -120), (420, 260), (210, 440), (-210, 440), (-420, 270), (-420, -100), (-250, -420),
      (50, -540)],
     {"crown": (90, -440), "back": (-280, -210), "rear": (-370, 180), "nose": (370, -70), "eye": (230, -190)}),
]  # fmt: skip


def legs(rng: Rng, outline: np.ndarray) -> list[Piece]:
    """Four stubby legs, two on the far side, under the lowest points of the body."""
    width, length = int(rng.integers(50, 75)), int(rng.integers(60, 150))
    pieces = []
    for x in (-250, 210):
        lowest = int(outline[np.abs(outline[:, 0] - x) < 120, 1].max())
        for layer, shift in ((FAR_LEGS, 90), (NEAR_LEGS, -20)):
            foot = (x + shift + int(rng.integers(-60, 61)), lowest + length)
            pieces.append((8 * layer, stroke([(x + shift, lowest - 120), (x + shift, lowest), foot], width, width)))
            pieces.append((8 * layer, ellipse(foot[0] + 20, foot[1], width + 30, width * 3 // 4)))
    return pieces


def face(rng: Rng, eye: tuple[int, int], nose: tuple[int, int]) -> list[Piece]:
    """Eye, pupil, glint and a small smile: a face is what makes it an animal."""
    x, y = eye
    size, look = int(rng.integers(58, 80)), int(rng.integers(-12, 20))
    mouth = [(x - 10, y + 160), (x + 60, y + 200), (min(x + 130, nose[0] - 40), y + 165)]
    return [
        (8 * FACE, ellipse(x, y, size, size)),
        (8 * FACE + 1, ellipse(x + look, y + 6, size * 5 // 8, size * 5 // 8)),
        (8 * FACE + 2, ellipse(x + look - size // 5, y - size // 4, size // 4, size // 4)),
        (8 * FACE + 1, stroke(mouth, 13, 13)),
    ]


def markings(rng: Rng) -> list[Piece]:
    """The coat: stripes, dots, patches or none, and a pale belly; painted on the body's pixels only."""
    coat, pieces = int(rng.integers(4)), []
    if coat == 1:
        slant, gap = int(rng.integers(-120, 121)), int(rng.integers(130, 200))
        stripe = stroke([(0, -620), (slant, 0), (0, 620)], gap // 4, gap // 4)
        pieces = [stripe + (x, 0) for x in range(-700, 700, gap)]
    elif coat == 2:
        size = int(rng.integers(35, 60))
        dot = ellipse(0, 0, size, size)
        pieces = [dot + (x + y // 170 % 2 * 90, y) for y in range(-510, 511, 170) for x in range(-700, 700, 190)]
    elif coat == 3:
        spots = rng.integers((-500, -350, 90, 90), (300, 250, 220, 190), (4, 4)).tolist()
        pieces = [ellipse(x, y, width, height) for x, y, width, height in spots]
    belly = [(8 * BODY + 2, ellipse(60, 420, 420, 260))] * int(rng.integers(2))
    return [*((8 * BODY + 1, piece) for piece in pieces), *belly]


def creature(rng: Rng, kind: str) -> tuple[list[Piece], list[Piece]]:
    """A creature of the class ``kind`` and its markings, in its own units."""
    part, anchor, tilt, layer, _ = PARTS[kind]
    corners, anchors = PLANS[rng.integers(len(PLANS))]
    outline = smooth(np.array(corners) + rng.integers(-30, 31, (len(corners), 2)))
    pieces = [(8 * BODY, outline), *legs(rng, outline), *face(rng, anchors["eye"], anchors["nose"])]
    if rng.integers(3):  # two in three have a short tail, up or down
        (x, y), lift = anchors["rear"], int(rng.integers(-220, 120))
        line = [(x + 150, y), (x - 70, y + 40), (x - 150, y + lift // 2), (x - 190, y + lift)]
        pieces.append((8 * TAIL, stroke(line, 60, 22)))
    size, tilt = int(rng.integers(115, 146)), tilt + int(rng.integers(-12, 13))
    pieces += [(8 * layer + shade, turn(shape * size // 100, tilt) + anchors[anchor]) for shade, shape in part]
    return pieces, markings(rng)


# ---- putting it on the canvas
def place(rng: Rng, pieces: list[Piece], markings: list[Piece]) -> tuple[list[Piece], list[Piece]]:
    """Pieces and markings in canvas coordinates (1/16 pixel), after a random stretch, flip, turn, scale and shift."""
    everything = pieces + markings
    stretch = rng.integers(88, 115, 2) * (1 - 2 * int(rng.integers(2)), 1)
    corners = turn(np.concatenate([piece for _, piece in everything]) * stretch // 100, int(rng.integers(-32, 33)))
    ends = np.cumsum([len(piece) for _, piece in everything])
    solid = corners[: ends[len(pieces) - 1]]  # markings are clipped by the body: they need no room
    x, y = corners[: ends[0]].T  # the body comes first
    area = abs(int((x * np.roll(y, 1) - y * np.roll(x, 1)).sum())) // 2  # the shoelace formula
    wanted = int(rng.integers(16, 34)) * CANVAS * CANVAS // 100  # the body's share of the picture
    room = (CANVAS - 12) * 4096  # the scale is in 1/4096 pixel per unit; six pixels stay free on each side
    low, high = solid.min(axis=0), solid.max(axis=0)
    scale = min(math.isqrt((wanted << 24) // area), room // int((high - low).max()))
    shift = rng.integers(6, CANVAS - ((high - low) * scale >> 12) - 5) - (low * scale >> 12)
    corners = (corners * scale >> 8) + 16 * shift
    placed = [(ink, piece) for (ink, _), piece in zip(everything, np.split(corners, ends[:-1]), strict=True)]
    return placed[: len(pieces)], placed[len(pieces) :]


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
        pieces.append((8 * layer + number % 4, np.array(blade)))
    return pieces


def scenery(rng: Rng) -> list[Piece]:
    """Hills, pebbles, blades of grass, and lumps shaped like a bare body, in canvas pixels."""
    hills = scatter(rng, 1, 3, (0, 60, 40, 20), (256, 256, 120, 80))
    stones = scatter(rng, 1, 5, (0, 0, 6, 5), (256, 256, 26, 20))
    pieces = [(8 * HILLS + number % 4, ellipse(*oval)) for number, oval in enumerate(hills)]
    pieces += [(8 * STONES + number % 4, ellipse(*oval)) for number, oval in enumerate(stones)]
    pieces += grass(PLANTS, scatter(rng, 2, 7, (0, 40, -40, 20), (256, 290, 40, 80)))
    for x, y, size, angle in scatter(rng, 0, 1, (0, 0, 12, 0), (256, 256, 30, 359)):
        corners, _ = PLANS[rng.integers(len(PLANS))]
        pieces.append((8 * LUMPS, turn(smooth(np.array(corners)) * size // 500, angle) + (x, y)))
    return pieces


# ---- colour and light
def palette(rng: Rng, paint: tuple[int, int, int]) -> np.ndarray:
    """(256, 3) uint8: the colour of every ink, and of its dark twin in the upper half; ``paint`` is the part's."""
    colours = PAINTS[rng.integers(len(PAINTS), size=(LAYERS, SHADES))]
    (body, coat), part = PAINTS[rng.permutation(len(PAINTS))[:2]], np.array(paint)
    colours[BODY, :3] = body, coat, (body + 2 * np.array((250, 240, 225))) // 3
    colours[[TAIL, FAR_LEGS, NEAR_LEGS], 0] = body, body * 3 // 4, body
    colours[PART_LAYERS, 0], colours[PART_LAYERS, 1] = part, part * 3 // 4
    colours[FACE, :3] = (250, 248, 240), (38, 32, 40), (255, 255, 255)
    if rng.integers(2):
        colours[LUMPS, 0] = body
    colours = np.clip(colours + rng.integers(-14, 15, colours.shape), 1, 255).reshape(-1, 3)
    colours[0] = 0
    return np.concatenate([colours, colours * 9 // 20]).astype(np.uint8)


def quarters(canvas: np.ndarray) -> np.ndarray:
    """The sum of each 2x2 block, uint16."""
    rows = canvas[0::2].astype(np.uint16) + canvas[1::2]
    return rows[:, 0::2] + rows[:, 1::2]


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


def draw(seed: int, split: str, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image ``index`` of a split: image (128, 128, 3) uint8, mask and telling part (128, 128) bool; all read-only."""
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    kind = CLASSES[index % len(CLASSES)]
    behind = scenery(rng)
    animal, marks = place(rng, *creature(rng, kind))
    before = grass(GRASS, scatter(rng, 0, 5, (0, 250, -40, 25), (256, 270, 40, 75)))  # hides a little of the animal
    around = [(ink, corners << FRACTION_BITS) for ink, corners in behind + before]
    canvas, coat = fill(around + animal), fill(marks)
    np.copyto(canvas, coat, where=(canvas == 8 * BODY) & (coat > 0))
    layers = canvas >> 3
    # every piece gets a dark rim two canvas pixels wide, on its own side of the border
    canvas[layers != cv2.erode(layers, np.ones((5, 5), np.uint8))] |= OUTLINED
    inks = palette(rng, PARTS[kind][-1])[canvas]
    # the empty ground is a gradient between three muted paints
    first, right, down = (PAINTS[rng.integers(len(PAINTS), size=3)] * 2 + rng.integers(90, 250)) // 3
    ramp = np.arange(SIDE, dtype=np.int32)[:, None]
    ground = first + ((right - first) * ramp >> 8)[None] + ((down - first) * ramp >> 8)[:, None]  # (128, 128, 3)
    colours = (quarters(inks) + quarters(canvas == 0)[:, :, None].astype(np.int32) * ground) >> 2
    # a pixel belongs to what fills at least half of it
    mask = quarters((layers >= TAIL) & (layers <= PART_BEFORE)) >= 2
    part = quarters(np.isin(layers, PART_LAYERS)) >= 2
    image = light(rng, colours, mask, part)
    for array in (image, mask, part):
        array.flags.writeable = False  # kept by the data set: nobody may change what the next reader gets
    return image, mask, part


class Creatures(Dataset):
    """The drawn data set: "train" (2000 images), "val" (400) or "test" (400).

    Image i of a split depends on (seed, split, i) alone and is drawn when first asked for. ``count`` keeps the first
    so many images (None: all); another ``seed`` (0 or more) gives another data set of the same kind. UserError for an
    unknown split, a count outside 1..size of the split, a seed that is not a whole number from 0 on."""

    name = "creatures"

    def __init__(self, split: str, count: int | None = None, seed: int = 0):
        if split not in SPLITS:
            raise UserError(f"creatures: unknown split {split!r}; allowed: {', '.join(SPLITS)}")
        size = SPLITS[split] if count is None else count
        if not isinstance(size, int | np.integer) or not 1 <= size <= SPLITS[split]:
            raise UserError(f"creatures: count {count!r} given; 1 to {SPLITS[split]}, or None, allowed for {split}")
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise UserError(f"creatures: seed {seed!r} given; a whole number from 0 on allowed")
        self.split, self.seed, self.classes = split, int(seed), CLASSES
        self.names = [f"{split}-{index:04d}" for index in range(size)]
        self.labels = np.arange(size, dtype=np.int64) % len(CLASSES)
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        index = range(len(self))[index]  # negative indices and IndexError as in a list
        if index not in self._drawn:
            self._drawn[index] = draw(self.seed, self.split, index)
        return self._drawn[index]

    def image(self, index: int) -> np.ndarray:
        """(128, 128, 3) uint8, RGB, read-only."""
        return self._draw(index)[0]

    def __getitem__(self, index: int) -> Record:
        image, mask, part = self._draw(index)
        return Record(self.names[index], image, int(self.labels[index]), around(mask), mask=mask, part=part)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all images, masks, parts and labels; draws those that are not drawn yet."""
        total = hashlib.sha256()
        for array in (*(array for index in range(len(self)) for array in self._draw(index)), self.labels):
            total.update(array.tobytes())
        return total.hexdigest()
