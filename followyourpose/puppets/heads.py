"""Heads of the characters: helmets, hats, hair, and on fine frames faces."""

from dataclasses import dataclass

import numpy as np

from followyourpose.puppets.brush import Brush, Color

SKIN, WHITE, BLACK, GOLD = (236, 188, 150), (240, 240, 242), (26, 26, 30), (238, 188, 60)
LIPS, BROWN = (176, 84, 76), (84, 50, 30)


@dataclass(frozen=True)
class Head:
    """A head on the frame: centre in pixels, radius in pixels, direction of the face, -1 (left) to 1, and flutter.

    Flutter is where the wind has what hangs (hair, a cape), from -1 (left) to 1.
    """

    center: np.ndarray
    radius: float
    look: float
    flutter: float = 0.0

    def at(self, x: float, y: float) -> np.ndarray:
        """The point x, y head radii from the centre (x to the right, y down)."""
        return self.center + self.radius * np.array([x, y])

    def face(self, x: float, y: float) -> np.ndarray:
        """The same point on the face, which turns with the head."""
        return self.at(0.55 * self.look + x * (1 - 0.45 * abs(self.look)), y)


def _eyes(brush: Brush, head: Head, color: Color = BLACK, size: float = 0.15, y: float = -0.08) -> None:
    for side in (-0.38, 0.38):
        brush.disc(head.face(side, y), size * head.radius, color)


def _face(brush: Brush, head: Head, hair: Color, y: float = -0.08, mouth: float = 0.48, mood: float = 0.1) -> None:
    """Eyes; on fine frames with their whites, brows, a nose and a mouth, whose ends are `mood` above its middle."""
    if not brush.fine:
        return _eyes(brush, head)
    r = head.radius
    for side in (-0.38, 0.38):
        brush.ellipse(head.face(side, y), (0.2 * r, 0.23 * r), WHITE)
        brush.disc(head.face(side + 0.08 * head.look, y + 0.02), 0.125 * r, BLACK)
        brush.capsule(head.face(side - 0.2, y - 0.33), head.face(side + 0.2, y - 0.33), 0.1 * r, hair)
    brush.capsule(head.face(0, y + 0.22), head.face(0.12 * head.look, y + 0.3), 0.13 * r, (206, 148, 112))
    for side in (-0.26, 0.26):
        brush.capsule(head.face(0, mouth), head.face(side, mouth - mood), 0.1 * r, LIPS)


def _round(brush: Brush, head: Head, color: Color, size: float = 1.0) -> None:
    brush.disc(head.center, size * head.radius, color)


def _cap(brush: Brush, head: Head, color: Color, brim: Color, height: float = 1.0) -> None:
    brush.polygon([head.at(-1.02, -0.3), head.at(-0.85, -height), head.at(0.85, -height), head.at(1.02, -0.3)], color)
    brush.capsule(head.at(0.35 * head.look - 0.95, -0.32), head.at(0.35 * head.look + 0.95, -0.32),
                  0.26 * head.radius, brim)  # fmt: skip


def astronaut(brush: Brush, head: Head) -> None:
    _round(brush, head, WHITE, 1.25)
    brush.ellipse(head.face(0, 0), (0.85 * head.radius, 0.68 * head.radius), (24, 40, 98))
    brush.ellipse(head.face(-0.25, -0.25), (0.25 * head.radius, 0.15 * head.radius), (150, 185, 235))
    if brush.fine:
        brush.disc(head.face(0.4, 0.3), 0.09 * head.radius, (150, 185, 235))
        for side in (-1.2, 1.2):
            brush.disc(head.at(side, 0.1), 0.22 * head.radius, (225, 105, 40))


def robot(brush: Brush, head: Head) -> None:
    brush.capsule(head.at(0, -0.8), head.at(0, -1.6), 0.18 * head.radius, (120, 125, 130))
    brush.disc(head.at(0, -1.65), 0.26 * head.radius, (235, 50, 40))
    brush.polygon([head.at(-1, -0.95), head.at(1, -0.95), head.at(1, 0.9), head.at(-1, 0.9)], (158, 165, 172))
    for side in (-0.42, 0.42):
        brush.disc(head.face(side, -0.2), 0.25 * head.radius, (70, 235, 245))
    brush.capsule(head.face(-0.4, 0.45), head.face(0.4, 0.45), 0.16 * head.radius, (60, 64, 70))
    if brush.fine:
        _eyes(brush, head, (20, 60, 80), 0.1, -0.2)
        for x in (-0.3, 0, 0.3):
            brush.capsule(head.face(x, 0.36), head.face(x, 0.54), 0.07 * head.radius, (190, 196, 200))
        for side in (-1.02, 1.02):
            brush.disc(head.at(side, 0.0), 0.2 * head.radius, (96, 100, 108))


def panda(brush: Brush, head: Head) -> None:
    for side in (-0.8, 0.8):
        brush.disc(head.at(side, -0.8), 0.42 * head.radius, BLACK)
    _round(brush, head, WHITE, 1.08)
    for side in (-0.42, 0.42):
        brush.ellipse(head.face(side, -0.05), (0.26 * head.radius, 0.33 * head.radius), BLACK)
    brush.disc(head.face(0, 0.4), 0.16 * head.radius, BLACK)
    if brush.fine:
        for side in (-0.38, 0.38):
            brush.disc(head.face(side, -0.1), 0.12 * head.radius, WHITE)
            brush.disc(head.face(side + 0.04, -0.08), 0.07 * head.radius, BLACK)
        for side in (-0.24, 0.24):
            brush.capsule(head.face(0, 0.68), head.face(side, 0.74), 0.09 * head.radius, BLACK)


def iron_man(brush: Brush, head: Head) -> None:
    _round(brush, head, (182, 24, 28))
    brush.ellipse(head.face(0, 0.1), (0.62 * head.radius, 0.75 * head.radius), GOLD)
    _eyes(brush, head, (225, 250, 255), 0.17)
    if brush.fine:
        for side in (-0.38, 0.38):
            brush.capsule(head.face(side - 0.2, -0.28), head.face(side + 0.2, -0.28), 0.09 * head.radius, (120, 60, 20))
            brush.capsule(head.face(side * 1.3, 0.3), head.face(side * 0.6, 0.75), 0.07 * head.radius, (168, 120, 30))
        brush.capsule(head.face(-0.24, 0.52), head.face(0.24, 0.52), 0.1 * head.radius, (120, 60, 20))


def hulk(brush: Brush, head: Head) -> None:
    _round(brush, head, (78, 160, 62))
    brush.polygon([head.at(-1, -0.35), head.at(-0.8, -1.0), head.at(0.8, -1.0), head.at(1, -0.35)], (20, 26, 18))
    _face(brush, head, (20, 26, 18), mood=-0.12)


def stormtrooper(brush: Brush, head: Head) -> None:
    _round(brush, head, WHITE, 1.08)
    brush.capsule(head.face(-0.5, -0.1), head.face(0.5, -0.1), 0.36 * head.radius, BLACK)
    brush.polygon([head.face(-0.45, 0.75), head.face(0, 0.35), head.face(0.45, 0.75)], BLACK)
    if brush.fine:
        brush.capsule(head.at(-0.7, -0.62), head.at(0.7, -0.62), 0.12 * head.radius, (70, 72, 80))
        for side in (-0.75, 0.75):
            brush.disc(head.face(side, 0.55), 0.15 * head.radius, (120, 124, 132))
        for x in (-0.18, 0, 0.18):
            brush.capsule(head.face(x, 0.58), head.face(x, 0.72), 0.07 * head.radius, WHITE)


def batman(brush: Brush, head: Head) -> None:
    for side in (-1, 1):
        brush.polygon([head.at(side * 0.95, -0.2), head.at(side * 0.8, -1.7), head.at(side * 0.2, -0.8)], (34, 34, 42))
    _round(brush, head, (34, 34, 42))
    brush.ellipse(head.face(0, 0.55), (0.5 * head.radius, 0.35 * head.radius), SKIN)
    _eyes(brush, head, WHITE, 0.16)
    if brush.fine:
        brush.capsule(head.face(-0.22, 0.62), head.face(0.22, 0.62), 0.1 * head.radius, LIPS)
        for side in (-1, 1):
            brush.polygon([head.face(side * 0.6, -0.32), head.face(side * 0.14, -0.1), head.face(side * 0.62, -0.14)],
                          (34, 34, 42))  # fmt: skip


def superman(brush: Brush, head: Head) -> None:
    _round(brush, head, SKIN)
    brush.polygon([head.at(-1, -0.2), head.at(-0.75, -1.05), head.at(0.75, -1.05), head.at(1, -0.2), head.at(0, -0.5)],
                  (20, 20, 30))  # fmt: skip
    _face(brush, head, (20, 20, 30))
    if brush.fine:  # the curl
        brush.capsule(head.face(0.05, -0.5), head.face(0.2, -0.32), 0.12 * head.radius, (20, 20, 30))


def fireman(brush: Brush, head: Head) -> None:
    _round(brush, head, SKIN)
    brush.ellipse(head.at(0, -0.45), (1.05 * head.radius, 0.75 * head.radius), (205, 30, 30))
    brush.capsule(head.at(-1.2, -0.3), head.at(1.2, -0.3), 0.28 * head.radius, (165, 20, 22))
    brush.disc(head.face(0, -0.7), 0.25 * head.radius, GOLD)
    if not brush.fine:
        return _eyes(brush, head, size=0.14, y=0.2)
    brush.capsule(head.at(0, -1.15), head.at(0, -0.95), 0.22 * head.radius, (235, 80, 60))
    _face(brush, head, BROWN, 0.2, 0.8)
    for side in (-0.3, 0.3):  # the moustache
        brush.capsule(head.face(0, 0.6), head.face(side, 0.68), 0.17 * head.radius, BROWN, 0.08 * head.radius)


def policeman(brush: Brush, head: Head) -> None:
    _round(brush, head, SKIN)
    _cap(brush, head, (28, 42, 96), (14, 18, 40), 1.15)
    brush.disc(head.face(0, -0.75), 0.2 * head.radius, GOLD)
    if not brush.fine:
        return _eyes(brush, head, size=0.14, y=0.12)
    brush.capsule(head.at(-0.9, -0.48), head.at(0.9, -0.48), 0.1 * head.radius, (226, 190, 80))
    _face(brush, head, BLACK, 0.16, 0.62, 0.0)


def boy(brush: Brush, head: Head) -> None:
    _round(brush, head, SKIN)
    brush.ellipse(head.at(0, -0.55), (1.0 * head.radius, 0.55 * head.radius), (222, 180, 70))
    _face(brush, head, (160, 116, 40))
    if brush.fine:
        for x in (-0.5, 0.0, 0.5):  # tufts
            root, tip = head.at(x, -0.85), head.at(x + 0.25 + 0.2 * head.flutter, -1.3)
            brush.capsule(root, tip, 0.34 * head.radius, (222, 180, 70), 0.06 * head.radius)


def girl(brush: Brush, head: Head) -> None:
    for side in (-0.85, 0.85):
        tip = head.at(side * 1.15 + (0.35 * head.flutter if brush.fine else 0), 1.1)
        brush.capsule(head.at(side, -0.2), tip, 0.6 * head.radius, (110, 58, 30))
    brush.disc(head.at(0, -0.15), 1.12 * head.radius, (110, 58, 30))
    brush.ellipse(head.face(0, 0.15), (0.72 * head.radius, 0.75 * head.radius), SKIN)
    _face(brush, head, (110, 58, 30), 0.08, 0.56)
    if brush.fine:
        for side in (-1, 1):  # a bow
            knot, end = head.at(-0.45, -0.95), head.at(-0.45 + 0.38 * side, -1.0)
            brush.capsule(knot, end, 0.16 * head.radius, (226, 40, 110), 0.44 * head.radius)
