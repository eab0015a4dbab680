"""Characters: the costumes of puppets, as data, and the drawing of a costume on a body.

Each has one strong feature in its silhouette (helmet, antenna, ears, cape, skirt), recognisable at 64 pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from followyourpose.pose.skeleton import JOINT
from followyourpose.puppets.brush import Brush, Color
from followyourpose.puppets.motions import HEAD_RADIUS

SKIN, WHITE, BLACK, GOLD = (236, 188, 150), (240, 240, 242), (26, 26, 30), (238, 188, 60)


@dataclass(frozen=True)
class Head:
    """A head on the frame: centre in pixels, radius in pixels, and direction of the face, -1 (left) to 1."""

    center: np.ndarray
    radius: float
    look: float

    def at(self, x: float, y: float) -> np.ndarray:
        """The point x, y head radii from the centre (x to the right, y down)."""
        return self.center + self.radius * np.array([x, y])

    def face(self, x: float, y: float) -> np.ndarray:
        """The same point on the face, which turns with the head."""
        return self.at(0.55 * self.look + x * (1 - 0.45 * abs(self.look)), y)


@dataclass(frozen=True)
class Character:
    """A costume: its name in captions, its colours, the widths of its limbs in body heights, and its head."""

    one: str
    two: str
    torso: Color
    arm: Color
    hand: Color
    leg: Color
    foot: Color
    head: Callable[[Brush, Head], None]
    limb: float = 0.085
    forearm: Color | None = None  # None: the arm's colour
    shin: Color | None = None  # None: the leg's colour
    belt: Color | None = None
    badge: Color | None = None
    cape: Color | None = None
    pack: Color | None = None
    skirt: Color | None = None


def _eyes(brush: Brush, head: Head, color: Color = BLACK, size: float = 0.15) -> None:
    for side in (-0.38, 0.38):
        brush.disc(head.face(side, -0.08), size * head.radius, color)


def _round(brush: Brush, head: Head, color: Color, size: float = 1.0) -> None:
    brush.disc(head.center, size * head.radius, color)


def _cap(brush: Brush, head: Head, color: Color, brim: Color, height: float = 1.0) -> None:
    brush.polygon([head.at(-1.02, -0.3), head.at(-0.85, -height), head.at(0.85, -height), head.at(1.02, -0.3)], color)
    brush.capsule(head.at(0.35 * head.look - 0.95, -0.32), head.at(0.35 * head.look + 0.95, -0.32),
                  0.26 * head.radius, brim)  # fmt: skip


def astronaut_head(brush: Brush, head: Head) -> None:
    _round(brush, head, WHITE, 1.25)
    brush.ellipse(head.face(0, 0), (0.85 * head.radius, 0.68 * head.radius), (24, 40, 98))
    brush.ellipse(head.face(-0.25, -0.25), (0.25 * head.radius, 0.15 * head.radius), (150, 185, 235))


def robot_head(brush: Brush, head: Head) -> None:
    brush.capsule(head.at(0, -0.8), head.at(0, -1.6), 0.18 * head.radius, (120, 125, 130))
    brush.disc(head.at(0, -1.65), 0.26 * head.radius, (235, 50, 40))
    brush.polygon([head.at(-1, -0.95), head.at(1, -0.95), head.at(1, 0.9), head.at(-1, 0.9)], (158, 165, 172))
    for side in (-0.42, 0.42):
        brush.disc(head.face(side, -0.2), 0.25 * head.radius, (70, 235, 245))
    brush.capsule(head.face(-0.4, 0.45), head.face(0.4, 0.45), 0.16 * head.radius, (60, 64, 70))


def panda_head(brush: Brush, head: Head) -> None:
    for side in (-0.8, 0.8):
        brush.disc(head.at(side, -0.8), 0.42 * head.radius, BLACK)
    _round(brush, head, WHITE, 1.08)
    for side in (-0.42, 0.42):
        brush.ellipse(head.face(side, -0.05), (0.26 * head.radius, 0.33 * head.radius), BLACK)
    brush.disc(head.face(0, 0.4), 0.16 * head.radius, BLACK)


def iron_man_head(brush: Brush, head: Head) -> None:
    _round(brush, head, (182, 24, 28))
    brush.ellipse(head.face(0, 0.1), (0.62 * head.radius, 0.75 * head.radius), GOLD)
    _eyes(brush, head, (225, 250, 255), 0.17)


def hulk_head(brush: Brush, head: Head) -> None:
    _round(brush, head, (78, 160, 62))
    brush.polygon([head.at(-1, -0.35), head.at(-0.8, -1.0), head.at(0.8, -1.0), head.at(1, -0.35)], (20, 26, 18))
    _eyes(brush, head)


def stormtrooper_head(brush: Brush, head: Head) -> None:
    _round(brush, head, WHITE, 1.08)
    brush.capsule(head.face(-0.5, -0.1), head.face(0.5, -0.1), 0.36 * head.radius, BLACK)
    brush.polygon([head.face(-0.45, 0.75), head.face(0, 0.35), head.face(0.45, 0.75)], BLACK)


def batman_head(brush: Brush, head: Head) -> None:
    for side in (-1, 1):
        brush.polygon([head.at(side * 0.95, -0.2), head.at(side * 0.8, -1.7), head.at(side * 0.2, -0.8)], (34, 34, 42))
    _round(brush, head, (34, 34, 42))
    brush.ellipse(head.face(0, 0.55), (0.5 * head.radius, 0.35 * head.radius), SKIN)
    _eyes(brush, head, WHITE, 0.16)


def superman_head(brush: Brush, head: Head) -> None:
    _round(brush, head, SKIN)
    brush.polygon([head.at(-1, -0.2), head.at(-0.75, -1.05), head.at(0.75, -1.05), head.at(1, -0.2), head.at(0, -0.5)],
                  (20, 20, 30))  # fmt: skip
    _eyes(brush, head)


def fireman_head(brush: Brush, head: Head) -> None:
    _round(brush, head, SKIN)
    brush.ellipse(head.at(0, -0.45), (1.05 * head.radius, 0.75 * head.radius), (205, 30, 30))
    brush.capsule(head.at(-1.2, -0.3), head.at(1.2, -0.3), 0.28 * head.radius, (165, 20, 22))
    brush.disc(head.face(0, -0.7), 0.25 * head.radius, GOLD)
    for side in (-0.38, 0.38):
        brush.disc(head.face(side, 0.2), 0.14 * head.radius, BLACK)


def policeman_head(brush: Brush, head: Head) -> None:
    _round(brush, head, SKIN)
    _cap(brush, head, (28, 42, 96), (14, 18, 40), 1.15)
    brush.disc(head.face(0, -0.75), 0.2 * head.radius, GOLD)
    for side in (-0.38, 0.38):
        brush.disc(head.face(side, 0.12), 0.14 * head.radius, BLACK)


def boy_head(brush: Brush, head: Head) -> None:
    _round(brush, head, SKIN)
    brush.ellipse(head.at(0, -0.55), (1.0 * head.radius, 0.55 * head.radius), (222, 180, 70))
    _eyes(brush, head)


def girl_head(brush: Brush, head: Head) -> None:
    for side in (-0.85, 0.85):
        brush.capsule(head.at(side, -0.2), head.at(side * 1.15, 1.1), 0.6 * head.radius, (110, 58, 30))
    brush.disc(head.at(0, -0.15), 1.12 * head.radius, (110, 58, 30))
    brush.ellipse(head.face(0, 0.15), (0.72 * head.radius, 0.75 * head.radius), SKIN)
    _eyes(brush, head)


CHARACTERS: dict[str, Character] = {
    character.one: character
    for character in (
        Character("an astronaut", "two astronauts", WHITE, (226, 226, 230), (150, 150, 158), (226, 226, 230),
                  (130, 130, 138), astronaut_head, 0.095, badge=(245, 130, 30), pack=(150, 152, 160)),
        Character("a robot", "two robots", (150, 158, 166), (128, 134, 142), (70, 74, 80), (128, 134, 142),
                  (70, 74, 80), robot_head, 0.075, badge=(235, 50, 40)),
        Character("a panda", "two pandas", WHITE, BLACK, BLACK, BLACK, BLACK, panda_head, 0.1),
        Character("iron man", "two iron men", (182, 24, 28), (182, 24, 28), (182, 24, 28), GOLD, (182, 24, 28),
                  iron_man_head, forearm=GOLD, shin=(182, 24, 28), badge=(190, 245, 255)),
        Character("hulk", "two hulks", (78, 160, 62), (78, 160, 62), (70, 148, 56), (108, 58, 150), (70, 148, 56),
                  hulk_head, 0.115, shin=(78, 160, 62)),
        Character("a stormtrooper", "two stormtroopers", WHITE, WHITE, BLACK, WHITE, BLACK, stormtrooper_head,
                  forearm=(40, 40, 44), shin=(40, 40, 44), belt=BLACK),
        Character("batman", "two batmans", (82, 84, 94), (62, 64, 74), BLACK, (62, 64, 74), BLACK, batman_head,
                  belt=GOLD, badge=GOLD, cape=(22, 22, 30)),
        Character("superman", "two supermans", (34, 84, 205), (34, 84, 205), SKIN, (34, 84, 205), (205, 28, 36),
                  superman_head, shin=(205, 28, 36), belt=GOLD, badge=(250, 205, 50), cape=(205, 28, 36)),
        Character("a fireman", "two firemen", (232, 168, 40), (232, 168, 40), (60, 56, 50), (84, 66, 44), (36, 32, 30),
                  fireman_head, 0.095, belt=(245, 245, 225)),
        Character("a policeman", "two policemen", (34, 52, 118), (34, 52, 118), SKIN, (24, 34, 78), BLACK,
                  policeman_head, belt=(12, 12, 16), badge=GOLD),
        Character("a boy", "two boys", (242, 112, 40), (242, 112, 40), SKIN, (52, 92, 160), (245, 245, 245), boy_head,
                  forearm=SKIN, shin=SKIN),
        Character("a girl", "two girls", (250, 120, 182), SKIN, SKIN, SKIN, (214, 50, 130), girl_head, 0.075,
                  skirt=(250, 120, 182)),
    )
}  # fmt: skip


def _shade(color: Color, depth: float) -> Color:
    """Darken a limb behind the body: `depth` is its distance to the viewer, in body heights."""
    light = 1.0 - 0.42 * np.clip(0.15 + 4.0 * depth, 0.0, 1.0)
    return tuple(int(c * light) for c in color)


def draw_character(brush: Brush, character: Character, joints: np.ndarray, head: np.ndarray, height: float) -> None:
    """Draw one body, back to front.

    Args:
        joints: (17, 3) x and y in pixels, z towards the viewer in body heights.
        head: (3,) the head's centre, likewise.
        height: body height in pixels.
    """
    xy, z = joints[:, :2], joints[:, 2]
    limb = character.limb * height
    shoulders = xy[[JOINT["left_shoulder"], JOINT["right_shoulder"]]]
    hips = xy[[JOINT["left_hip"], JOINT["right_hip"]]]
    neck, pelvis = shoulders.mean(0), hips.mean(0)
    spine, look = neck - pelvis, float(np.clip((xy[JOINT["nose"]] - head[:2])[0] / (HEAD_RADIUS * height), -1, 1))

    if character.pack:
        back = neck - 0.3 * spine - np.array([0.13 * look * height, 0])
        brush.capsule(back, back - 0.4 * spine, 0.24 * height, character.pack)
    if character.cape:
        sweep = np.array([-0.2 * look * height, 0])
        tail = pelvis - 0.75 * spine + sweep
        brush.polygon([*shoulders, tail + (0.13 * height, 0), tail - (0.13 * height, 0)], character.cape)

    def draw_limb(root: str, middle: str, end: str, colors: tuple[Color, Color, Color], width: float) -> None:
        a, b, c = JOINT[root], JOINT[middle], JOINT[end]
        depth = -float(z[[a, b, c]].mean())
        upper, lower, tip = (_shade(color, depth) for color in colors)
        brush.capsule(xy[a], xy[b], width * 1.1, upper, width)
        brush.capsule(xy[b], xy[c], width, lower, width * 0.85)
        brush.disc(xy[c], width * 0.62, tip)

    limbs = []
    for side in ("left", "right"):
        arm = (character.arm, character.forearm or character.arm, character.hand)
        leg = (character.leg, character.shin or character.leg, character.foot)
        limbs.append((f"{side}_hip", f"{side}_knee", f"{side}_ankle", leg, limb * 1.1))
        limbs.append((f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist", arm, limb))
    limbs.sort(key=lambda part: z[[JOINT[part[0]], JOINT[part[1]], JOINT[part[2]]]].mean())
    behind = [part for part in limbs if z[JOINT[part[2]]] < -0.03]
    for part in behind:
        draw_limb(*part)
    _draw_torso(brush, character, shoulders, hips, height, look)
    character.head(brush, Head(head[:2], HEAD_RADIUS * height, look))
    for part in limbs:
        if part not in behind:
            draw_limb(*part)


def _draw_torso(
    brush: Brush, character: Character, shoulders: np.ndarray, hips: np.ndarray, height: float, look: float
) -> None:
    neck, pelvis = shoulders.mean(0), hips.mean(0)
    spine, width = neck - pelvis, character.limb * height * 1.5
    for a, b in zip(shoulders, hips, strict=True):
        brush.capsule(a + 0.3 * (neck - a), b, width, character.torso)
    brush.capsule(neck - 0.1 * spine, pelvis, width, character.torso)
    if character.skirt:
        hem = pelvis - 0.42 * spine
        brush.polygon([*(pelvis + 0.5 * spine + (hips - pelvis)), hem - (0.19 * height, 0), hem + (0.19 * height, 0)],
                      character.skirt)  # fmt: skip
    if character.belt:
        brush.capsule(hips[0] + 0.08 * spine, hips[1] + 0.08 * spine, 0.045 * height, character.belt)
    if character.badge:
        brush.disc(neck - 0.3 * spine + (0.07 * look * height, 0), 0.042 * height, character.badge)
