"""Shapes of the drawn animals: polygons in whole numbers. A body is about 1000 units long, faces right, and y is down.

Five outlines, legs, tails, faces and coats are shared by all. ``PARTS`` are the telling parts that grow on them.
All arithmetic is on integers (sines come from a table), so every machine makes the same corners.
"""

import math

import numpy as np

Rng = np.random.Generator
Piece = tuple[int, np.ndarray]  # (ink, (n, 2) int64 corners); an ink is 8 * layer + shade

# Layers, back to front, over the empty ground (0): what stands behind, the animal from TAIL to PART_BEFORE, grass.
HILLS, STONES, PLANTS, LUMPS, TAIL, FAR_LEGS, PART_BEHIND, NEAR_LEGS, BODY, FACE, PART_BEFORE, GRASS = range(1, 13)

SINE = [round(math.sin(math.radians(degree)) * 4096) for degree in range(360)]
CIRCLE = np.array([(SINE[(degree + 90) % 360], SINE[degree]) for degree in range(0, 360, 18)])  # radius 4096


# ---- shapes: integer corners, x to the right, y down
def turn(corners: np.ndarray, degrees: int) -> np.ndarray:
    """Corners turned clockwise about the origin."""
    sine, cosine = SINE[degrees % 360], SINE[(degrees + 90) % 360]
    return corners @ np.array([[cosine, sine], [-sine, cosine]]) >> 12


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

FEATHER = ((0, ellipse(0, -180, 92, 215)), (1, ellipse(0, -295, 46, 58)))
FAN = [(shade, turn(corners, tilt)) for tilt in (-62, 62, -31, 31, 0) for shade, corners in FEATHER]

# part -> its shapes, the anchor it grows from, its tilt there in degrees, its layer, its paint (brighter than PAINTS).
# When all parts had the same paints, training stayed at chance for minutes before it found the shapes.
PARTS = {
    "antlered": (ANTLERS, "crown", 0, PART_BEHIND, (250, 232, 70)),
    "sailback": (SAIL, "back", 0, PART_BEHIND, (40, 205, 222)),
    "curlsnout": (TRUNK, "nose", 0, PART_BEFORE, (236, 70, 165)),
    "fantail": (FAN, "rear", -60, PART_BEHIND, (78, 216, 92)),
}

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


def animal(rng: Rng, telling: str) -> tuple[list[Piece], list[Piece]]:
    """An animal with the part ``telling``, and its markings, in its own units."""
    part, anchor, tilt, layer, _ = PARTS[telling]
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
