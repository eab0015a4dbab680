"""Keypoints of drawn skeletons: limbs in MMPose's colours on black -> COCO-17 joints.

The colour of trunk and head is fitted to a standing person. From its corners each side's arm and leg are chosen among
discs, or other points, of the side's colour: those whose limbs cover most of the colour and least of the black. Joints
then lie where the centre lines of their limbs meet; the small face is moved until its drawing fits.
Letters: l limbs, m points on centre lines, H W pixels. Points are x, y in pixels of a frame of 512 pixels.
"""

from collections.abc import Sequence
from itertools import product

import cv2
import numpy as np

from followyourpose.pose.drawing_lines import ENDS, LIMB_COLOR, DrawnPerson, fitted, lengths, misfit
from followyourpose.pose.skeleton import JOINT, MIRROR, NUM_JOINTS

_SIDE = 512  # pixels: the longer side of a frame as it is looked at
_HUES = (120, 30, 210)  # degrees: of LEFT, of RIGHT and of MIDDLE, or of MIDDLE and of RIGHT where these are swapped
_FACE = range(5)
_ROOTS, _NEAR, _FAR = [5, 6, 11, 12], [7, 8, 13, 14], [9, 10, 15, 16]  # of arms and legs
_FACE_LIMBS = [(a, b) for a, b in ENDS if min(a, b) in _FACE]
# Head and trunk of a person who faces us, as shares of their box: x from the middle, y from the top.
_STANDING = {"nose": (0, 0.1), "eye": (0.1, 0.03), "ear": (0.25, 0.06), "shoulder": (0.5, 0.3), "hip": (0.35, 1)}
_HEAD = np.array([(0.5, 0.6), (0.7, 0.1), (0.3, 0.1), (1.0, 0.4), (0.0, 0.4)])  # the face in the head's box
_COVERED = 0.9  # share of a side's centre lines that an arm and a leg between discs should cover
_MOST_DISCS = 12  # of a side's 6 joints, with crossings of limbs that look like one
_DOUBT = 0.15  # share of the centre lines that no limb covers, or of the limbs on black, from which nobody is drawn
_SMALL = 0.1  # of the largest drawn person's pixels: a smaller part is nobody


def people_of_drawing(frame: np.ndarray, swapped: bool) -> list[np.ndarray]:
    """Return the people drawn in a frame (H, W, 3) uint8 RGB: (17, 3) each, x, y in its pixels, confidence 1 or 0.

    People may be side by side; those whose limbs touch one another's, and drawings of something else, are left out.

    Args:
        swapped: see `has_swapped_colors`.
    """
    size = np.array(frame.shape[1::-1])
    scale = _SIDE / size.max()
    reduced = np.maximum(1, np.round(size * scale)).astype(int)
    frame = cv2.resize(frame, reduced.tolist(), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    masks = _by_color(frame)[0][[0, 2, 1] if swapped else [0, 1, 2]]
    people = [person for part in _apart(masks) if (person := _person(DrawnPerson(part))) is not None]
    for person in people:
        person[:, :2] = (person[:, :2] + 0.5) * size / reduced - 0.5
    return people


def has_swapped_colors(frames: Sequence[np.ndarray]) -> bool:
    """Whether red and blue are swapped in drawings (H, W, 3) uint8 RGB, as in those of MMPose before 1.0.

    The middle and the right have the hues of one another then, but the middle's colour is the paler one.
    """
    pairs = [[saturation[mask] for mask in masks[1:]] for masks, saturation in map(_by_color, frames)]
    orange, blue = (np.concatenate([*each, [1.0]]).mean() for each in zip(*pairs, strict=True))
    return bool(orange < blue)


def _by_color(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where a frame (H, W, 3) has each of _HUES, (3, H, W) bool, and its saturation (H, W)."""
    hue, saturation, value = np.moveaxis(cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2HSV), -1, 0)
    clear = (saturation > 0.35) & (value > 0.5)
    return np.stack([clear & (np.abs((hue - each + 180) % 360 - 180) < 45) for each in _HUES]), saturation


def _apart(masks: np.ndarray) -> list[np.ndarray]:
    """Split colours (3, H, W) by people: connected parts that have the middle's colour and a side's."""
    lit = cv2.dilate(masks.any(0).astype(np.uint8), np.ones((7, 7)))  # compression may cut a limb from its joint
    total, labels, stats, _ = cv2.connectedComponentsWithStats(lit, connectivity=8)
    least = _SMALL * max(stats[1:, cv2.CC_STAT_AREA], default=0)
    large = [number for number in range(1, total) if stats[number, cv2.CC_STAT_AREA] > least]
    parts = [masks & (labels == number) for number in large]
    return [part for part in parts if part[2].any() and part[:2].any()]


def _person(drawing: DrawnPerson) -> np.ndarray | None:
    """Return the joints (17, 3) of a drawn person; None: the drawing shows something else."""
    if not len(drawing.lines[2]) or max(map(len, drawing.discs[:2])) > _MOST_DISCS:
        return None
    trunk = fitted(drawing, _standing(drawing.masks[2]), np.ones(NUM_JOINTS, bool), 20, colors=(2,))
    chosen = (_with_limbs(drawing, joints) for joints in (trunk, trunk[MIRROR]))
    _, joints, seen = max(chosen, key=lambda each: each[0])
    if not seen.any():
        return None
    joints = fitted(drawing, joints, seen, 4)
    joints = fitted(drawing, joints, seen, 8, reach=3 * drawing.half)
    joints = _with_face(drawing, joints)
    return None if misfit(drawing, joints, seen) > _DOUBT else np.column_stack([joints, seen]).astype(np.float32)


def _standing(mask: np.ndarray) -> np.ndarray:
    """Return a standing person's joints (17, 2), head and trunk in the box of the middle's colour (H, W)."""
    (top, left), (bottom, right) = (reduce(np.argwhere(mask), 0) for reduce in (np.min, np.max))
    sides = [(-1 if name.startswith("right") else 1, *_STANDING.get(name.split("_")[-1], (0, 1))) for name in JOINT]
    shares = np.array([(side * x, y) for side, x, y in sides])
    return shares * (right - left, bottom - top) + ((left + right) / 2, top)


# ---- arms and legs ---------------------------------------------------------------------------------------------------


def _with_limbs(drawing: DrawnPerson, trunk: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Choose the arms and legs of a trunk: a score, the joints (17, 2), and which of them are drawn (17,)."""
    joints, total = trunk.copy(), 0.0
    for color, side in enumerate(("left", "right")):
        roots = joints[[JOINT[f"{side}_{part}"] for part in ("shoulder", "hip")]]
        covered, score, chosen = _chosen(drawing, color, roots, drawing.discs[color])
        if covered < _COVERED:  # joints are not drawn as discs, or some are hidden
            covered, score, chosen = _chosen(drawing, color, roots, drawing.candidates(color))
        total += score
        joints[[JOINT[f"{side}_{part}"] for part in ("elbow", "wrist", "knee", "ankle")]] = chosen
    start, end = np.nan_to_num(joints)[ENDS.T]
    own = drawing.masks[LIMB_COLOR[:, None], *drawing.between(start, end)].mean(-1)
    drawn = (own > 0.6) & ((lengths(end - start) > 1.5 * drawing.half) | (ENDS < len(_FACE)).all(1))
    seen = np.isin(range(NUM_JOINTS), ENDS[drawn]) & np.isfinite(joints).all(1)
    seen[_NEAR] &= np.isin(_NEAR, ENDS[drawn & np.isin(ENDS, _ROOTS).any(1)])  # no elbow without its upper arm
    seen[_FAR] &= seen[_NEAR]
    return total, np.nan_to_num(joints), seen


def _chosen(drawing: DrawnPerson, color: int, roots: np.ndarray, places: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Choose elbow, wrist, knee and ankle among places (n, 2), of a shoulder and a hip, `roots` (2, 2).

    Return the share of the colour's lines that their limbs cover, a score, and the four (4, 2), NaN for one that is not
    drawn. The score is that share, less what each limb costs: its share on black, less so on other colours, and length.
    """
    lines, apart = drawing.lines[color], lengths(places[:, None] - roots).min(1) > 1.5 * drawing.half
    places = np.concatenate([places[apart], roots, [[np.nan] * 2]])
    none = len(places) - 1
    start, way = places[:, None, None], np.nan_to_num(places[None] - places[:, None])[:, :, None]  # (n, n, 1, 2)
    length = lengths(way)
    at = drawing.between(np.nan_to_num(start[:, :, 0]), np.nan_to_num(start + way)[:, :, 0])
    own, lit = drawing.masks[color][at].mean(-1), drawing.lit[at].mean(-1)
    cost = 3 * (1 - lit) + 0.3 * (lit - own) + 0.15 * length[..., 0] / (lengths(roots[0] - roots[1]) + 1)
    cost[length[..., 0] < 1.5 * drawing.half] = np.inf
    cost[:, none - 2 : none] = np.inf
    cost[:, none], cost[none, :none] = 0.5, np.inf
    t = (((lines - start) * way).sum(-1) / np.maximum(length, 1e-6) ** 2).clip(0, 1)
    covered = lengths(lines - start - t[..., None] * way) < 1.2 * drawing.half  # (n, n, m)
    chains = []
    for root in (none - 2, none - 1):
        near, far = np.nonzero((cost[root] < 0.8)[:, None] & (cost < 0.8))
        chains.append(
            (np.stack([near, far]), covered[root, near] | covered[near, far], cost[root, near] + cost[near, far])
        )
    (arm, on_arm, arm_cost), (leg, on_leg, leg_cost) = chains
    together = on_arm.sum(1)[:, None] + on_leg.sum(1) - on_arm.astype(np.float32) @ on_leg.T.astype(np.float32)
    shared = ((arm[:, None, :, None] == leg[:, None]) & (leg[:, None] != none)).any((0, 1))  # a joint of both
    score = together / max(len(lines), 1) - 0.5 * np.add.outer(arm_cost, leg_cost) - shared
    best = np.unravel_index(score.argmax(), score.shape)
    chosen = places[np.concatenate([arm[:, best[0]], leg[:, best[1]]])]
    return float(together[best]) / max(len(lines), 1), float(score[best]), chosen


# ---- the face --------------------------------------------------------------------------------------------------------


def _with_face(drawing: DrawnPerson, joints: np.ndarray) -> np.ndarray:
    """Move the joints of the face to where their drawing differs least from the frame, by single joints and steps."""
    reach = 4 * drawing.half + np.ptp(joints[:7], axis=0)
    (top, bottom), (left, right) = drawing.at(np.stack([joints[:7].mean(0) - reach, joints[:7].mean(0) + reach]))
    wanted = drawing.masks[2][top : bottom + 1, left : right + 1]
    free = ~drawing.masks[:2, top : bottom + 1, left : right + 1].any(0)

    def difference(joints: np.ndarray) -> float:
        drawn, places = np.zeros(wanted.shape, np.uint8), np.round((joints - (left, top)) * 16).astype(int).tolist()
        for a, b in _FACE_LIMBS:
            cv2.line(drawn, places[a], places[b], 1, max(1, round(2 * drawing.half)), shift=4)
        for joint in _FACE if drawing.has_discs else ():
            cv2.circle(drawn, places[joint], round(1.8 * drawing.half * 16), 1, -1, shift=4)
        length = sum(lengths(joints[a] - joints[b]) for a, b in _FACE_LIMBS)  # of equal drawings, the shorter lines
        return float(((drawn != wanted) & free).sum() + 0.5 * length)

    joints = _upright(drawing, joints)
    best = difference(joints)
    for step in (8, 4, 2, 1, 0.5):
        moved = True
        while moved:
            moved = False
            for joint, way in product(_FACE, product((-step, 0, step), repeat=2)):
                other = joints.copy()
                other[joint] += way
                if (error := difference(other)) < best:
                    joints, best, moved = other, error, True
    return joints


def _upright(drawing: DrawnPerson, joints: np.ndarray) -> np.ndarray:
    """Return joints (17, 2) with a face that fills the head: the middle's colour far beyond the shoulders."""
    (left, right), hips = joints[[5, 6]], joints[[11, 12]]
    chest = (left + right) / 2
    down = (hips.mean(0) - chest) / max(lengths(hips.mean(0) - chest), 1e-6)
    aside = down[::-1] * (1, -1)
    axes = np.stack([aside if aside @ (left - right) > 0 else -aside, down])
    points = (drawing.lines[2] - chest) @ axes.T
    top = points[:, 1].min()
    head = points[points[:, 1] <= max(top, 0.6 * top)]
    joints = joints.copy()
    joints[_FACE] = (head.min(0) + _HEAD * np.ptp(head, axis=0)) @ axes + chest
    return joints
