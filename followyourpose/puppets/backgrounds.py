"""Backgrounds: the places where puppets move. Each is a whole frame, a little different for every seed."""

from collections.abc import Callable

import numpy as np

from followyourpose.puppets.brush import Brush, Color

Painter = Callable[[Brush, float, float, np.random.Generator], None]  # brush, H, W in pixels


def moon(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    horizon = h * rng.uniform(0.55, 0.62)
    brush.gradient(0, horizon, (4, 4, 16), (10, 10, 30))
    for x, y in rng.uniform((0, 0), (w, horizon), (14, 2)):
        brush.disc((x, y), 0.006 * w, (235, 235, 245))
    brush.disc((w * rng.uniform(0.12, 0.88), h * rng.uniform(0.12, 0.22)), 0.085 * w, (60, 110, 210))
    brush.gradient(horizon, h, (155, 155, 160), (105, 105, 112))
    for x, y in rng.uniform((0.05 * w, horizon + 0.06 * h), (0.95 * w, 0.97 * h), (5, 2)):
        brush.ellipse((x, y), (0.07 * w, 0.022 * h), (92, 92, 98))


def desert(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    horizon = h * rng.uniform(0.55, 0.62)
    brush.gradient(0, horizon, (120, 185, 235), (235, 225, 190))
    brush.disc((w * rng.uniform(0.12, 0.88), 0.13 * h), 0.075 * w, (255, 238, 150))
    brush.gradient(horizon, h, (240, 185, 95), (205, 140, 60))
    middle = w * rng.uniform(0.2, 0.8)
    brush.ellipse((middle, horizon + 0.04 * h), (0.45 * w, 0.1 * h), (230, 172, 84))
    x, foot = w * (rng.uniform(0.06, 0.16) if rng.random() < 0.5 else rng.uniform(0.84, 0.94)), horizon + 0.15 * h
    green, width = (45, 130, 60), 0.05 * w
    brush.capsule((x, foot), (x, foot - 0.25 * h), width, green)
    for sign, height in ((-1, 0.1), (1, 0.14)):
        elbow = (x + sign * 0.07 * w, foot - height * h)
        brush.capsule((x, elbow[1]), elbow, width * 0.7, green)
        brush.capsule(elbow, (elbow[0], elbow[1] - 0.08 * h), width * 0.7, green)


def sea(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    horizon = h * rng.uniform(0.38, 0.46)
    brush.gradient(0, horizon, (85, 165, 235), (190, 225, 250))
    for x, y in rng.uniform((0.1 * w, 0.06 * h), (0.9 * w, 0.24 * h), (3, 2)):
        brush.capsule((x - 0.07 * w, y), (x + 0.07 * w, y), 0.045 * h, (250, 250, 252))
    brush.gradient(horizon, h, (28, 105, 190), (10, 55, 130))
    for x, y in rng.uniform((0, horizon + 0.05 * h), (w, 0.97 * h), (11, 2)):
        brush.capsule((x - 0.05 * w, y), (x + 0.05 * w, y), 0.014 * h, (135, 195, 240))


def beach(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    horizon, shore = h * rng.uniform(0.4, 0.47), h * rng.uniform(0.58, 0.64)
    brush.gradient(0, horizon, (80, 180, 245), (200, 235, 252))
    brush.gradient(horizon, shore, (20, 140, 190), (70, 200, 215))
    brush.gradient(shore, shore + 0.03 * h, (250, 252, 250), (250, 246, 225))
    brush.gradient(shore + 0.03 * h, h, (252, 230, 160), (232, 200, 125))
    left = rng.random() < 0.5
    x = w * (rng.uniform(0.05, 0.13) if left else rng.uniform(0.87, 0.95))
    top = (x + (0.05 if left else -0.05) * w, 0.2 * h)
    brush.capsule((x, 0.85 * h), top, 0.045 * w, (135, 90, 45), 0.03 * w)
    for angle in (10, 60, 120, 170, 215, 325):
        turn = np.radians(angle)
        tip = (top[0] + 0.17 * w * np.cos(turn), top[1] + 0.11 * h * np.sin(turn))
        brush.capsule(top, tip, 0.045 * w, (35, 140, 65), 0.012 * w)


def forest(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    floor = h * rng.uniform(0.72, 0.8)
    brush.gradient(0, floor, (28, 85, 42), (40, 95, 48))
    brush.gradient(floor, h, (70, 105, 40), (55, 80, 30))
    offset = rng.uniform(0, 0.2)
    for index in range(6):
        x = w * (0.2 * index - 0.1 + offset + rng.uniform(-0.02, 0.02))
        brush.rectangle(x - 0.03 * w, 0, x + 0.03 * w, floor + 0.04 * h, (88, 58, 34))
        brush.disc((x + 0.02 * w, 0.02 * h), 0.14 * w, (30, 125, 50))


def snow(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    horizon = h * rng.uniform(0.5, 0.58)
    brush.gradient(0, horizon, (150, 170, 200), (205, 215, 230))
    brush.gradient(horizon, h, (238, 242, 250), (222, 228, 242))
    offset = rng.uniform(0, 0.3)
    for index in range(4):
        x, foot = w * (0.3 * index - 0.1 + offset), horizon + 0.05 * h
        brush.polygon([(x - 0.1 * w, foot), (x, foot - 0.26 * h), (x + 0.1 * w, foot)], (60, 110, 95))
        brush.polygon([(x - 0.04 * w, foot - 0.155 * h), (x, foot - 0.26 * h), (x + 0.04 * w, foot - 0.155 * h)],
                      (250, 252, 255))  # fmt: skip
    for x, y in rng.uniform((0, 0), (w, horizon), (14, 2)):
        brush.disc((x, y), 0.011 * w, (252, 252, 255))


def street(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
    road = h * rng.uniform(0.66, 0.72)
    brush.gradient(0, road, (150, 170, 200), (185, 195, 210))
    left, tone = -0.1 * w * rng.random(), 0
    while left < w:
        right, top = left + w * rng.uniform(0.2, 0.28), h * rng.uniform(0.08, 0.28)
        brush.rectangle(left, top, right, road, ((110, 102, 104), (128, 116, 112))[tone])
        for x in np.arange(left + 0.035 * w, right - 0.05 * w, 0.075 * w):
            for y in np.arange(top + 0.04 * h, road - 0.08 * h, 0.1 * h):
                brush.rectangle(x, y, x + 0.04 * w, y + 0.05 * h, (245, 222, 130))
        left, tone = right, 1 - tone
    brush.gradient(road, h, (82, 82, 88), (62, 62, 68))
    brush.rectangle(0, road, w, road + 0.02 * h, (160, 160, 160))
    start = rng.uniform(-0.2, 0.0)
    for x in np.arange(start * w, w, 0.27 * w):
        brush.capsule((x, 0.9 * h), (x + 0.12 * w, 0.9 * h), 0.022 * h, (240, 215, 90))


def _plain(color: Color) -> Painter:
    def paint(brush: Brush, h: float, w: float, rng: np.random.Generator) -> None:
        shade = rng.uniform(0.92, 1.08)
        light, dark = (tuple(int(min(255, c * shade * k)) for c in color) for k in (1.04, 0.9))
        brush.gradient(0, h, light, dark)

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
