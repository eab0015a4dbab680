"""Backgrounds: the places where puppets move. Each is a whole frame, a little different for every seed.

Fine frames have depth: distant ranges, things that are smaller the farther they are, light and shade. What only they
have is drawn from a generator of its own, so that a seed has the same place at every size.
"""

from collections.abc import Callable

import numpy as np

from followyourpose.puppets.brush import Brush, Color


def _ridge(
    brush: Brush, w: float, foot: float, low: float, high: float, color: Color, rng: np.random.Generator, peaks: int = 7
) -> None:
    """A range of hills or mountains: its foot is at height `foot`, its peaks are `low` to `high` pixels above."""
    xs = np.linspace(-0.1 * w, 1.1 * w, 2 * peaks + 1)
    tops = foot - rng.uniform(low, high, len(xs)) * np.where(np.arange(len(xs)) % 2, 1, 0.45)
    brush.polygon([(-0.1 * w, foot), *zip(xs, tops, strict=True), (1.1 * w, foot)], color)


def _cloud(brush: Brush, x: float, y: float, size: float, color: Color = (250, 250, 252)) -> None:
    for dx, dy, radius in ((-0.75, 0.1, 0.4), (-0.25, -0.15, 0.55), (0.3, -0.05, 0.5), (0.8, 0.12, 0.36)):
        brush.ellipse((x + dx * size, y + dy * size), (radius * size, 0.75 * radius * size), color)


Painter = Callable[[Brush, float, float, np.random.Generator], None]  # brush, H, W in pixels


def moon(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    detail = rng.spawn(1)[0]
    horizon = h * rng.uniform(0.55, 0.62)
    brush.gradient(0, horizon, (4, 4, 16), (10, 10, 30))
    for x, y in rng.uniform((0, 0), (w, horizon), (14, 2)):
        brush.disc((x, y), 0.006 * w, (235, 235, 245))
    earth, radius = (w * rng.uniform(0.12, 0.88), h * rng.uniform(0.12, 0.22)), 0.085 * w
    brush.disc(earth, radius, (60, 110, 210))
    if brush.fine:
        for x, y, rx, ry in ((-0.35, -0.3, 0.4, 0.3), (0.2, 0.35, 0.45, 0.28), (0.45, -0.35, 0.22, 0.16)):
            brush.ellipse((earth[0] + x * radius, earth[1] + y * radius), (rx * radius, ry * radius), (86, 160, 96))
        brush.shade((earth[0] + 0.45 * radius, earth[1] + 0.4 * radius), (radius, radius), 0.5)
        _ridge(brush, w, horizon + 1, 0.02 * h, 0.07 * h, (92, 92, 104), detail)
    brush.gradient(horizon, h, (155, 155, 160), (105, 105, 112))
    for x, y in rng.uniform((0.05 * w, horizon + 0.06 * h), (0.95 * w, 0.97 * h), (5, 2)):
        size = 0.5 + (y - horizon) / (h - horizon) if brush.fine else 1.0
        if brush.fine:
            brush.ellipse((x, y + 0.008 * h), (0.078 * w * size, 0.026 * h * size), (182, 182, 188))
        brush.ellipse((x, y), (0.07 * w * size, 0.022 * h * size), (92, 92, 98))


def desert(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    detail = rng.spawn(1)[0]
    horizon = h * rng.uniform(0.55, 0.62)
    brush.gradient(0, horizon, (120, 185, 235), (235, 225, 190))
    sun = w * rng.uniform(0.12, 0.88)
    if brush.fine:
        brush.shade((sun, 0.13 * h), (0.26 * w, 0.26 * w), 1.18)
        _ridge(brush, w, horizon + 1, 0.03 * h, 0.13 * h, (214, 160, 130), detail, 4)
    brush.disc((sun, 0.13 * h), 0.075 * w, (255, 238, 150))
    brush.gradient(horizon, h, (240, 185, 95), (205, 140, 60))
    middle = w * rng.uniform(0.2, 0.8)
    brush.ellipse((middle, horizon + 0.04 * h), (0.45 * w, 0.1 * h), (230, 172, 84))
    if brush.fine:
        crest = horizon + 0.22 * h
        brush.ellipse((w - middle, crest + 0.12 * h), (0.6 * w, 0.12 * h), (236, 178, 92))
        brush.ellipse((w - middle + 0.1 * w, crest + 0.17 * h), (0.62 * w, 0.13 * h), (222, 158, 74))
    x, foot = w * (rng.uniform(0.06, 0.16) if rng.random() < 0.5 else rng.uniform(0.84, 0.94)), horizon + 0.15 * h
    green, width = (45, 130, 60), 0.05 * w
    brush.capsule((x, foot), (x, foot - 0.25 * h), width, green)
    for sign, height in ((-1, 0.1), (1, 0.14)):
        elbow = (x + sign * 0.07 * w, foot - height * h)
        brush.capsule((x, elbow[1]), elbow, width * 0.7, green)
        brush.capsule(elbow, (elbow[0], elbow[1] - 0.08 * h), width * 0.7, green)
        if brush.fine:
            brush.capsule(elbow, (elbow[0] - 0.15 * width, elbow[1] - 0.08 * h), width * 0.18, (96, 176, 96))
    if brush.fine:
        brush.shade((x + 0.08 * w, foot), (0.14 * w, 0.018 * h), 0.6)
        for aside, light in ((-0.22, (96, 176, 96)), (0.2, (30, 98, 46))):
            at = x + aside * width
            brush.capsule((at, foot - 0.02 * h), (at, foot - 0.245 * h), width * 0.18, light)


def sea(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    detail = rng.spawn(1)[0]
    horizon = h * rng.uniform(0.38, 0.46)
    brush.gradient(0, horizon, (85, 165, 235), (190, 225, 250))
    for x, y in rng.uniform((0.1 * w, 0.06 * h), (0.9 * w, 0.24 * h), (3, 2)):
        if brush.fine:
            _cloud(brush, x, y, 0.09 * w)
        else:
            brush.capsule((x - 0.07 * w, y), (x + 0.07 * w, y), 0.045 * h, (250, 250, 252))
    brush.gradient(horizon, h, (28, 105, 190), (10, 55, 130))
    waves = rng.uniform((0, horizon + 0.05 * h), (w, 0.97 * h), (11, 2))
    if brush.fine:
        x, side = w * detail.uniform(0.1, 0.9), detail.choice((-1, 1))
        _ridge(brush, w, horizon + 1, 0.0, 0.025 * h, (110, 160, 205), detail, 3)
        brush.gradient(horizon, horizon + 0.02 * h, (150, 205, 240), (60, 135, 210))
        brush.polygon(
            [(x, horizon - 0.12 * h), (x, horizon - 0.01 * h), (x + side * 0.07 * w, horizon - 0.01 * h)],
            (250, 250, 246),
        )
        for y, left, right in ((0, -0.05, 0.06), (0.012, -0.042, 0.05)):
            brush.rectangle(x + left * w, horizon + y * h, x + right * w, horizon + (y + 0.013) * h, (160, 60, 48))
        small = detail.uniform((0, horizon + 0.05 * h), (w, 0.97 * h), (7, 2))
        for x, y in sorted((*waves, *small), key=lambda at: at[1]):
            near = (y - horizon) / (h - horizon)
            size, tall = (0.03 + 0.07 * near) * w, (0.006 + 0.012 * near) * h
            brush.ellipse((x, y + tall), (size, tall), (16, 72, 150))
            brush.ellipse((x, y), (size, 0.8 * tall), (135, 195, 240))
        return
    for x, y in waves:
        brush.capsule((x - 0.05 * w, y), (x + 0.05 * w, y), 0.014 * h, (135, 195, 240))


def beach(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    detail = rng.spawn(1)[0]
    horizon, shore = h * rng.uniform(0.4, 0.47), h * rng.uniform(0.58, 0.64)
    brush.gradient(0, horizon, (80, 180, 245), (200, 235, 252))
    brush.gradient(horizon, shore, (20, 140, 190), (70, 200, 215))
    brush.gradient(shore, shore + 0.03 * h, (250, 252, 250), (250, 246, 225))
    brush.gradient(shore + 0.03 * h, h, (252, 230, 160), (232, 200, 125))
    if brush.fine:
        for x, y in detail.uniform((0.1 * w, 0.06 * h), (0.9 * w, 0.22 * h), (2, 2)):
            _cloud(brush, x, y, 0.09 * w)
        for y in (0.25, 0.5, 0.75):
            for x in detail.uniform(0, w, 3):
                brush.ellipse((x, horizon + y * (shore - horizon)), (0.04 * w, 0.005 * h), (120, 220, 228))
        for x in np.arange(-0.05, 1.15, 0.12):
            brush.ellipse((x * w, shore + 0.005 * h), (0.07 * w, 0.014 * h), (250, 252, 250))
        for x, y in detail.uniform((0, shore + 0.08 * h), (w, 0.98 * h), (8, 2)):
            brush.ellipse((x, y), (0.035 * w, 0.007 * h), (226, 196, 128))
    left = rng.random() < 0.5
    x = w * (rng.uniform(0.05, 0.13) if left else rng.uniform(0.87, 0.95))
    top = (x + (0.05 if left else -0.05) * w, 0.2 * h)
    if brush.fine:
        brush.shade((x + 0.1 * w, 0.86 * h), (0.18 * w, 0.025 * h), 0.65)
    brush.capsule((x, 0.85 * h), top, 0.045 * w, (135, 90, 45), 0.03 * w)
    if brush.fine:
        for share in np.arange(0.08, 1, 0.11):
            at = np.array([x, 0.85 * h]) * (1 - share) + np.array(top) * share
            brush.capsule(at - (0.015 * w, 0), at + (0.012 * w, 0.004 * h), 0.009 * h, (104, 66, 32))
    for angle in (10, 60, 120, 170, 215, 325):
        turn = np.radians(angle)
        tip = (top[0] + 0.17 * w * np.cos(turn), top[1] + 0.11 * h * np.sin(turn))
        brush.capsule(top, tip, 0.045 * w, (35, 140, 65), 0.012 * w)
        if brush.fine:
            brush.capsule(top, tip, 0.012 * w, (92, 186, 92), 0.006 * w)


def forest(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    detail = rng.spawn(1)[0]
    floor = h * rng.uniform(0.72, 0.8)
    brush.gradient(0, floor, (28, 85, 42), (40, 95, 48))
    brush.gradient(floor, h, (70, 105, 40), (55, 80, 30))
    offset = rng.uniform(0, 0.2)
    if brush.fine:
        for x in detail.uniform(0, w, 9):
            brush.rectangle(x - 0.012 * w, 0, x + 0.012 * w, floor + 0.01 * h, (44, 80, 48))
        brush.shade((w * detail.uniform(0.2, 0.8), 0.5 * floor), (0.3 * w, 0.5 * h), 1.35)
        for x in np.arange(-0.03, 1.1, 0.09):
            brush.ellipse((x * w, floor + 0.01 * h), (0.07 * w, 0.035 * h), (42, 104, 46))
        for x, y in detail.uniform((0, floor + 0.05 * h), (w, h), (14, 2)):
            for lean in (-0.012, 0, 0.012):
                brush.capsule((x, y), (x + lean * w, y - 0.028 * h), 0.008 * w, (98, 146, 56), 0.003 * w)
    for index in range(6):
        x = w * (0.2 * index - 0.1 + offset + rng.uniform(-0.02, 0.02))
        brush.rectangle(x - 0.03 * w, 0, x + 0.03 * w, floor + 0.04 * h, (88, 58, 34))
        if brush.fine:
            brush.capsule((x, floor - 0.02 * h), (x, floor + 0.035 * h), 0.06 * w, (88, 58, 34), 0.1 * w)
            brush.rectangle(x - 0.03 * w, 0, x - 0.015 * w, floor + 0.02 * h, (118, 82, 50))
            brush.rectangle(x + 0.014 * w, 0, x + 0.03 * w, floor + 0.03 * h, (62, 40, 24))
        brush.disc((x + 0.02 * w, 0.02 * h), 0.14 * w, (30, 125, 50))
        if brush.fine:
            for dx, dy in ((-0.06, -0.02), (0.03, 0.05), (0.09, -0.01)):
                brush.disc((x + dx * w, dy * h), 0.06 * w, (52, 152, 66))


def snow(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    detail = rng.spawn(1)[0]
    horizon = h * rng.uniform(0.5, 0.58)
    brush.gradient(0, horizon, (150, 170, 200), (205, 215, 230))
    brush.gradient(horizon, h, (238, 242, 250), (222, 228, 242))
    offset = rng.uniform(0, 0.3)
    if brush.fine:
        _ridge(brush, w, horizon + 1, 0.08 * h, 0.22 * h, (176, 190, 216), detail, 4)
        _ridge(brush, w, horizon + 1, 0.02 * h, 0.09 * h, (206, 216, 234), detail, 6)
        for x, y in detail.uniform((0, horizon + 0.14 * h), (w, 0.98 * h), (6, 2)):
            brush.ellipse((x, y), (0.11 * w, 0.012 * h), (216, 224, 242))
    for index in range(4):
        x, foot = w * (0.3 * index - 0.1 + offset), horizon + 0.05 * h
        if brush.fine:
            brush.shade((x + 0.04 * w, foot + 0.01 * h), (0.15 * w, 0.02 * h), 0.82)
            brush.rectangle(x - 0.012 * w, foot - 0.01 * h, x + 0.012 * w, foot + 0.025 * h, (92, 66, 48))
            for tier, wide in ((0.0, 0.1), (0.08, 0.08), (0.15, 0.058)):
                base, tip = foot - tier * h, foot - (tier + 0.12) * h
                brush.polygon([(x - wide * w, base), (x, tip), (x + wide * w, base)], (60, 110, 95))
                brush.polygon([(x + 0.2 * wide * w, base), (x, tip), (x + wide * w, base)], (44, 88, 78))
                middle, snow = (base + tip) / 2, 0.45 * wide * w
                brush.polygon([(x - snow, middle), (x, tip), (x + snow, middle), (x, middle + 0.1 * (base - tip))],
                              (250, 252, 255))  # fmt: skip
            continue
        brush.polygon([(x - 0.1 * w, foot), (x, foot - 0.26 * h), (x + 0.1 * w, foot)], (60, 110, 95))
        brush.polygon([(x - 0.04 * w, foot - 0.155 * h), (x, foot - 0.26 * h), (x + 0.04 * w, foot - 0.155 * h)],
                      (250, 252, 255))  # fmt: skip
    for x, y in rng.uniform((0, 0), (w, horizon), (14, 2)):
        brush.disc((x, y), 0.011 * w, (252, 252, 255))


def street(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    detail = rng.spawn(1)[0]
    road = h * rng.uniform(0.66, 0.72)
    brush.gradient(0, road, (150, 170, 200), (185, 195, 210))
    left, tone = -0.1 * w * rng.random(), 0
    while left < w:
        right, top = left + w * rng.uniform(0.2, 0.28), h * rng.uniform(0.08, 0.28)
        brush.rectangle(left, top, right, road, ((110, 102, 104), (128, 116, 112))[tone])
        columns = np.arange(left + 0.035 * w, right - 0.05 * w, 0.075 * w)
        windows = [(x, y) for x in columns for y in np.arange(top + 0.04 * h, road - 0.08 * h, 0.1 * h)]
        for x, y in windows:
            brush.rectangle(x, y, x + 0.04 * w, y + 0.05 * h, (245, 222, 130))
        if brush.fine:
            brush.rectangle(right - 0.02 * w, top, right, road, (84, 78, 80))
            brush.rectangle(left, top - 0.012 * h, right, top + 0.008 * h, (150, 140, 136))
            for x, y in windows:
                if detail.random() < 0.3:
                    brush.rectangle(x, y, x + 0.04 * w, y + 0.05 * h, (70, 84, 106))
                brush.rectangle(x, y + 0.05 * h, x + 0.04 * w, y + 0.06 * h, (78, 72, 72))
            door = (left + right) / 2
            brush.rectangle(door - 0.025 * w, road - 0.07 * h, door + 0.025 * w, road, (84, 52, 40))
        left, tone = right, 1 - tone
    brush.gradient(road, h, (82, 82, 88), (62, 62, 68))
    brush.rectangle(0, road, w, road + 0.02 * h, (160, 160, 160))
    if brush.fine:
        brush.rectangle(0, road, w, road + 0.035 * h, (172, 170, 168))
        brush.rectangle(0, road + 0.035 * h, w, road + 0.05 * h, (118, 116, 116))
        x = w * detail.uniform(0.08, 0.92)
        brush.capsule((x, road + 0.03 * h), (x, road - 0.34 * h), 0.018 * w, (48, 50, 56), 0.012 * w)
        brush.capsule((x, road - 0.34 * h), (x + 0.07 * w, road - 0.36 * h), 0.012 * w, (48, 50, 56))
        brush.shade((x + 0.08 * w, road - 0.34 * h), (0.1 * w, 0.1 * h), 1.5)
        brush.ellipse((x + 0.08 * w, road - 0.35 * h), (0.025 * w, 0.014 * h), (255, 240, 180))
    start = rng.uniform(-0.2, 0.0)
    for x in np.arange(start * w, w, 0.27 * w):
        brush.capsule((x, 0.9 * h), (x + 0.12 * w, 0.9 * h), 0.022 * h, (240, 215, 90))


def _plain(color: Color) -> Painter:
    def paint(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
        shade = rng.uniform(0.92, 1.08)
        light, dark = (tuple(int(min(255, c * shade * k)) for c in color) for k in (1.04, 0.9))
        brush.gradient(0, h, light, dark)
        if brush.fine:  # a studio: light from above, and a floor that bends into the wall
            brush.shade((0.4 * w, 0.3 * h), (0.75 * w, 0.6 * h), 1.08)
            brush.shade((0.5 * w, 1.05 * h), (0.9 * w, 0.4 * h), 0.9)

    return paint


# Last words of a caption -> painter. A place is joined by a space, a plain colour by a comma.
BACKGROUNDS: dict[str, Painter] = {
    "on the moon": moon,
    "in the desert": desert,
    "on the sea": sea,
    "on the beach": beach,
    "in the forest": forest,
    "in the snow": snow,
    "on the street": street,
    "brown background": _plain((136, 86, 54)),
    "purple background": _plain((128, 84, 170)),
    "yellow background": _plain((244, 208, 84)),
}
