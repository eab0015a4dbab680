"""Characters: the costumes of puppets, as data, and the drawing of a costume on a body.

Each has one strong feature in its silhouette (helmet, antenna, ears, cape, skirt), recognisable at 64 pixels. Frames of
FINE pixels and more have outlines, light, hands, shoes and faces as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from followyourpose.pose.skeleton import JOINT
from followyourpose.puppets import heads
from followyourpose.puppets.brush import Brush, Color, Outline
from followyourpose.puppets.heads import BLACK, GOLD, SKIN, WHITE, Head
from followyourpose.puppets.motions import HEAD_RADIUS

INK = (22, 20, 28)  # of outlines


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


CHARACTERS: dict[str, Character] = {
    character.one: character
    for character in (
        Character("an astronaut", "two astronauts", WHITE, (226, 226, 230), (150, 150, 158), (226, 226, 230),
                  (130, 130, 138), heads.astronaut, 0.095, badge=(245, 130, 30), pack=(150, 152, 160)),
        Character("a robot", "two robots", (150, 158, 166), (128, 134, 142), (70, 74, 80), (128, 134, 142),
                  (70, 74, 80), heads.robot, 0.075, badge=(235, 50, 40)),
        Character("a panda", "two pandas", WHITE, BLACK, BLACK, BLACK, BLACK, heads.panda, 0.1),
        Character("iron man", "two iron men", (182, 24, 28), (182, 24, 28), (182, 24, 28), GOLD, (182, 24, 28),
                  heads.iron_man, forearm=GOLD, shin=(182, 24, 28), badge=(190, 245, 255)),
        Character("hulk", "two hulks", (78, 160, 62), (78, 160, 62), (70, 148, 56), (108, 58, 150), (70, 148, 56),
                  heads.hulk, 0.115, shin=(78, 160, 62)),
        Character("a stormtrooper", "two stormtroopers", WHITE, WHITE, BLACK, WHITE, BLACK, heads.stormtrooper,
                  forearm=(40, 40, 44), shin=(40, 40, 44), belt=BLACK),
        Character("batman", "two batmans", (82, 84, 94), (62, 64, 74), BLACK, (62, 64, 74), BLACK, heads.batman,
                  belt=GOLD, badge=GOLD, cape=(22, 22, 30)),
        Character("superman", "two supermans", (34, 84, 205), (34, 84, 205), SKIN, (34, 84, 205), (205, 28, 36),
                  heads.superman, shin=(205, 28, 36), belt=GOLD, badge=(250, 205, 50), cape=(205, 28, 36)),
        Character("a fireman", "two firemen", (232, 168, 40), (232, 168, 40), (60, 56, 50), (84, 66, 44), (36, 32, 30),
                  heads.fireman, 0.095, belt=(245, 245, 225)),
        Character("a policeman", "two policemen", (34, 52, 118), (34, 52, 118), SKIN, (24, 34, 78), BLACK,
                  heads.policeman, belt=(12, 12, 16), badge=GOLD),
        Character("a boy", "two boys", (242, 112, 40), (242, 112, 40), SKIN, (52, 92, 160), (245, 245, 245), heads.boy,
                  forearm=SKIN, shin=SKIN),
        Character("a girl", "two girls", (250, 120, 182), SKIN, SKIN, SKIN, (214, 50, 130), heads.girl, 0.075,
                  skirt=(250, 120, 182)),
    )
}  # fmt: skip


def _tint(color: Color, light: float) -> Color:
    return tuple(int(min(255, c * light)) for c in color)


def _shade(color: Color, depth: float) -> Color:
    """Darken a limb behind the body: `depth` is its distance to the viewer, in body heights."""
    return _tint(color, 1.0 - 0.42 * np.clip(0.15 + 4.0 * depth, 0.0, 1.0))


@dataclass(frozen=True)
class _Body:
    """A costume on a body: brush, joints in pixels (17, 2), depths towards the viewer (17,), height in pixels, head."""

    brush: Brush
    character: Character
    xy: np.ndarray
    z: np.ndarray
    height: float
    head: Head

    def ends(self, part: str) -> np.ndarray:
        """The left and the right joint of a pair, (2, 2)."""
        return self.xy[[JOINT[f"left_{part}"], JOINT[f"right_{part}"]]]

    def outlined(self, draw: Callable[[Brush], None]) -> None:
        """Draw something; on fine frames on an outline of its own."""
        if self.brush.fine:
            draw(Outline(self.brush, 0.011 * self.height, INK))
        draw(self.brush)

    def lit(
        self, brush: Brush, start: np.ndarray, end: np.ndarray, width: float, color: Color, end_width: float
    ) -> None:
        """Draw a capsule; on fine frames with the light from above on the left, and a shade below on the right."""
        if not brush.fine:
            return brush.capsule(start, end, width, color, end_width)
        brush.capsule(start, end, width, _tint(color, 0.8), end_width)
        aside = np.array([-0.09, -0.07])
        brush.capsule(start + aside * width, end + aside * end_width, 0.8 * width, color, 0.8 * end_width)
        light = tuple(int(c + 0.22 * (255 - c)) for c in color)
        aside = np.array([-0.2, -0.14])
        brush.capsule(start + aside * width, end + aside * end_width, 0.26 * width, light, 0.26 * end_width)
        return None


def draw_character(
    brush: Brush, character: Character, joints: np.ndarray, head: np.ndarray, height: float, flutter: float = 0.0
) -> None:
    """Draw one body, back to front.

    Args:
        joints: (17, 3) x and y in pixels, z towards the viewer in body heights.
        head: (3,) the head's centre, likewise.
        height: body height in pixels.
        flutter: where the wind has hair and cape, from -1 (left) to 1; seen on fine frames only.
    """
    xy, z = joints[:, :2], joints[:, 2]
    look = float(np.clip((xy[JOINT["nose"]] - head[:2])[0] / (HEAD_RADIUS * height), -1, 1))
    body = _Body(brush, character, xy, z, height, Head(head[:2], HEAD_RADIUS * height, look, flutter))
    body.outlined(lambda brush: _draw_behind(body, brush))
    limbs, limb = [], character.limb * height
    for side in ("left", "right"):
        arm = (character.arm, character.forearm or character.arm, character.hand)
        leg = (character.leg, character.shin or character.leg, character.foot)
        limbs.append((f"{side}_hip", f"{side}_knee", f"{side}_ankle", leg, limb * 1.1))
        limbs.append((f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist", arm, limb))
    limbs.sort(key=lambda part: z[[JOINT[part[0]], JOINT[part[1]], JOINT[part[2]]]].mean())
    behind = [part for part in limbs if z[JOINT[part[2]]] < -0.03]
    for part in behind:
        body.outlined(lambda brush, part=part: _draw_limb(body, brush, *part))
    body.outlined(lambda brush: _draw_torso(body, brush))
    body.outlined(lambda brush: character.head(brush, body.head))
    for part in limbs:
        if part not in behind:
            body.outlined(lambda brush, part=part: _draw_limb(body, brush, *part))


def _draw_behind(body: _Body, brush: Brush) -> None:
    """The pack and the cape."""
    character, height, look, shoulders = body.character, body.height, body.head.look, body.ends("shoulder")
    neck, pelvis = shoulders.mean(0), body.ends("hip").mean(0)
    spine = neck - pelvis
    if character.pack:
        back = neck - 0.3 * spine - np.array([0.13 * look * height, 0])
        body.lit(brush, back, back - 0.4 * spine, 0.24 * height, character.pack, 0.24 * height)
    if character.cape:
        tail = pelvis - 0.75 * spine + np.array([-0.2 * look * height, 0])
        if not brush.fine:
            brush.polygon([*shoulders, tail + (0.13 * height, 0), tail - (0.13 * height, 0)], character.cape)
            return
        # From the shoulders over the hips to a hem of folds; the wind moves the hem more than the middle.
        wind = np.array([0.09 * height * body.head.flutter, 0])
        left, right = sorted(shoulders.tolist())
        middle, across = pelvis + (tail - pelvis) * 0.35 + 0.4 * wind, np.array([0.15 * height, 0])
        hem = [
            tail + wind + across * x + (0, 0.02 * height * (i % 2)) for i, x in enumerate(np.linspace(1.15, -1.15, 7))
        ]
        brush.polygon([left, right, middle + across, *hem, middle - across], character.cape)
        for x in (-0.6, 0, 0.6):
            fold = neck + (0.25 * x * across), middle + x * across, tail + wind + 1.1 * x * across
            for start, end in zip(fold, fold[1:], strict=False):
                brush.capsule(start, end, 0.012 * height, _tint(character.cape, 0.7), 0.02 * height)


def _draw_limb(
    body: _Body, brush: Brush, root: str, middle: str, end: str, colors: tuple[Color, Color, Color], width: float
) -> None:
    a, b, c = JOINT[root], JOINT[middle], JOINT[end]
    depth, xy = -float(body.z[[a, b, c]].mean()), body.xy
    upper, lower, tip = (_shade(color, depth) for color in colors)
    if not brush.fine:
        brush.capsule(xy[a], xy[b], width * 1.1, upper, width)
        brush.capsule(xy[b], xy[c], width, lower, width * 0.85)
        brush.disc(xy[c], width * 0.62, tip)
        return
    along = (xy[c] - xy[b]) / max(np.linalg.norm(xy[c] - xy[b]), 1e-6)
    if end.endswith("ankle"):  # a shoe, square to the shin, that points where the body looks
        side = 0.35 if end.startswith("left") else -0.35
        ahead = body.head.look + side * (1 - abs(body.head.look))
        across = np.array([along[1], -along[0]])
        toe = xy[c] + ahead * 0.085 * body.height * across + 0.45 * width * along
        heel = xy[c] - 0.2 * width * np.sign(ahead) * across + 0.4 * width * along
        body.lit(brush, xy[b], xy[c], width, lower, width * 0.8)
        body.lit(brush, heel, toe, width * 0.85, tip, width * 0.75)
    else:  # a hand: its palm and a thumb
        body.lit(brush, xy[b], xy[c], width, lower, width * 0.75)
        thumb = np.array([-along[1], along[0]]) * (1 if (along[0] > 0) == (body.head.look >= 0) else -1)
        brush.capsule(xy[c], xy[c] + 0.55 * width * (0.6 * along + thumb), 0.42 * width, _tint(tip, 0.9), 0.3 * width)
        body.lit(brush, xy[c], xy[c] + 0.42 * width * along, width * 0.95, tip, width * 0.9)
    body.lit(brush, xy[a], xy[b], width * 1.15, upper, width)


def _draw_torso(body: _Body, brush: Brush) -> None:
    character, height, look = body.character, body.height, body.head.look
    shoulders, hips = body.ends("shoulder"), body.ends("hip")
    neck, pelvis = shoulders.mean(0), hips.mean(0)
    spine, width = neck - pelvis, character.limb * height * 1.5
    if brush.fine:
        brush.capsule(neck, neck + 0.2 * spine, 0.07 * height, _tint(character.hand, 0.85))
    for a, b in zip(shoulders, hips, strict=True):
        body.lit(brush, a + 0.3 * (neck - a), b, width, character.torso, width)
    brush.capsule(neck - 0.1 * spine, pelvis, width, character.torso)
    if character.skirt:
        hem = pelvis - 0.42 * spine
        if brush.fine:
            hem = hem + (0.03 * height * body.head.flutter, 0)
        brush.polygon([*(pelvis + 0.5 * spine + (hips - pelvis)), hem - (0.19 * height, 0), hem + (0.19 * height, 0)],
                      character.skirt)  # fmt: skip
        if brush.fine:
            for x in (-0.09, 0, 0.09):
                brush.capsule(pelvis + (0.3 * x * height, 0), hem + (x * height, 0), 0.012 * height,
                              _tint(character.skirt, 0.8), 0.02 * height)  # fmt: skip
    if character.belt:
        brush.capsule(hips[0] + 0.08 * spine, hips[1] + 0.08 * spine, 0.045 * height, character.belt)
    if character.badge:
        brush.disc(neck - 0.3 * spine + (0.07 * look * height, 0), 0.042 * height, character.badge)
        if brush.fine:
            brush.disc(neck - 0.31 * spine + (0.065 * look * height, 0), 0.018 * height, _tint(character.badge, 1.25))
