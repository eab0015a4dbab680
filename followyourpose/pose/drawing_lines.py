"""Lines of a drawn person, and the joints at which they meet: iterated closest points, least squares.

Letters: l limbs, m points on centre lines, n other points, H W pixels. Points are x, y in pixels of the drawing.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from followyourpose.pose.skeleton import JOINT_COLORS, LEFT, LIMBS, MIDDLE, NUM_JOINTS, RIGHT

_COLORS = (LEFT, RIGHT, MIDDLE)
ENDS = np.array([(start, end) for start, end, _ in LIMBS])  # (l, 2)
LIMB_COLOR = np.array([_COLORS.index(color) for *_, color in LIMBS])
_JOINT_COLOR = np.array([_COLORS.index(color) for color in JOINT_COLORS])
_ALONG = np.linspace(0.03, 0.97, 24)  # places on a limb that are looked at
_POINTS, _CANDIDATES = 300, 28  # on the centre lines of a colour: in all, and those that may be a bend or an end


class DrawnPerson:
    """One drawn person.

    Attributes:
        masks: (3, H, W) of the colours; lit: (H, W) of any; half: half the width of a limb.
        lines: per colour the points (m, 2) of centre lines; nearest: the one nearest to each pixel (H, W, 2).
        discs: per colour the centers (n, 2) of joints, which may be drawn wider than limbs.
    """

    def __init__(self, masks: np.ndarray) -> None:
        self.masks, self.lit = masks, masks.any(0)
        depth = [cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) - 0.5 for mask in masks]
        ridges = [d[(d > 0.5) & (d >= cv2.dilate(d, np.ones((5, 5))) - 0.75)] for d in depth]
        self.half = float(np.median(np.concatenate([*ridges, [1.0]])))
        window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (int(2 * self.half) | 1,) * 2)
        self.lines, self.nearest, self.discs = [], [], []
        for d in depth:
            ridge = (d >= 0.8 * cv2.dilate(d, window)) & (d > 0.4 * self.half)
            points = np.argwhere(ridge)[:, ::-1].astype(float)
            self.lines.append(points[np.linspace(0, len(points) - 1, min(len(points), _POINTS)).astype(int)])
            away = (~ridge).astype(np.uint8)
            labels = cv2.distanceTransformWithLabels(away, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
            places = np.full((labels.max() + 1, 2), 1e6)
            places[labels[ridge]] = points
            self.nearest.append(places[labels])
            peak = (d >= cv2.dilate(d, np.ones((3, 3)))) & (d > 1.3 * self.half)
            self.discs.append(cv2.connectedComponentsWithStats(peak.astype(np.uint8), connectivity=8)[3][1:])
        self.has_discs = sum(map(len, self.discs[:2])) >= 6

    def at(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows and columns of the pixels of points (..., 2), moved into the frame."""
        x, y = np.moveaxis(points.round().astype(int), -1, 0)
        return y.clip(0, self.lit.shape[0] - 1), x.clip(0, self.lit.shape[1] - 1)

    def between(self, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows and columns (..., n) of the pixels from points (..., 2) to points (..., 2)."""
        return self.at(start[..., None, :] + _ALONG[:, None] * (end - start)[..., None, :])

    def candidates(self, color: int) -> np.ndarray:
        """Return points (n, 2) that may be joints of a side's arm and leg: its discs, or points all over its lines."""
        lines, chosen = self.lines[color], list(self.discs[color])
        for _ in range(_CANDIDATES if len(lines) else 0):  # each the farthest from those before
            distance = lengths(lines[:, None] - np.reshape(chosen or [lines.mean(0)], (-1, 2))).min(1)
            chosen.append(lines[distance.argmax()])
        return np.reshape(chosen, (-1, 2))


# ---- places of joints ------------------------------------------------------------------------------------------------

_Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # a, b, t, way, target, weight


def fitted(
    drawing: DrawnPerson,
    joints: np.ndarray,
    seen: np.ndarray,
    steps: int,
    colors: Sequence[int] = (0, 1, 2),
    reach: float = 0.0,
) -> np.ndarray:
    """Move joints (17, 2) to where their limbs meet: iterated closest points, each step a system of least squares.

    A row is a point (1 - t) a + t b of the limb from joint a to b, whose way to a target should be 0: each point of
    the centre lines attracts the nearest limb, a limb that lies on black goes to the nearest line of its colour.

    Args:
        seen: joints that are drawn, (17,); reach: distance from which discs attract joints.
    """
    for _ in range(steps):
        rows = []
        for color in colors:
            limbs = ENDS[(LIMB_COLOR == color) & seen[ENDS].all(1)]
            if len(limbs) and len(drawing.lines[color]):
                rows += [_to_limbs(drawing.lines[color], joints, limbs), _to_lines(drawing, joints, color, limbs)]
            if reach and color < 2:
                rows.append(_to_discs(drawing.discs[color], joints, np.flatnonzero(_JOINT_COLOR == color), reach))
        if not rows:
            return joints
        a, b, t, way, target, weight = (np.concatenate(each) for each in zip(*rows, strict=True))
        normal = way / np.maximum(lengths(way), 1e-6)[:, None]
        system, index = np.zeros((len(a), NUM_JOINTS, 2)), np.arange(len(a))
        system[index, a] += (1 - t)[:, None] * normal
        system[index, b] += t[:, None] * normal
        weighted = system.reshape(len(a), -1).T * weight
        still = 0.2  # weight of a joint's own place: a straight arm does not show its elbow
        right = weighted @ (normal * target).sum(1) + still * joints.ravel()
        joints = np.linalg.solve(weighted @ system.reshape(len(a), -1) + still * np.eye(2 * NUM_JOINTS), right)
        joints = joints.reshape(-1, 2)
    return joints


def _to_limbs(lines: np.ndarray, joints: np.ndarray, limbs: np.ndarray) -> _Rows:
    """Rows of the points (m, 2) of lines, each with the nearest of the limbs (l, 2)."""
    start, end = joints[limbs.T]
    t = (((lines[:, None] - start) * (end - start)).sum(-1) / np.maximum(lengths(end - start), 1e-6) ** 2).clip(0, 1)
    way = lines[:, None] - start - t[..., None] * (end - start)  # (m, l, 2)
    nearest = np.arange(len(lines)), lengths(way).argmin(1)
    return *limbs[nearest[1]].T, t[nearest], way[nearest], lines, _trust(way[nearest])


def _to_lines(drawing: DrawnPerson, joints: np.ndarray, color: int, limbs: np.ndarray) -> _Rows:
    """Rows of places on limbs (l, 2), each with the nearest point of their colour's lines."""
    start, end = joints[limbs.T][:, :, None]
    places = start + _ALONG[:, None] * (end - start)  # (l, n, 2)
    at = drawing.at(places)
    target, hidden = drawing.nearest[color][at], drawing.lit[at] & ~drawing.masks[color][at]
    far = ~hidden & (lengths(target - places) > 0.8 * drawing.half)
    a, b = np.repeat(limbs, len(_ALONG), axis=0)[far.ravel()].T
    return (
        a,
        b,
        np.tile(_ALONG, len(limbs))[far.ravel()],
        (target - places)[far],
        target[far],
        _trust((target - places)[far]),
    )


def _to_discs(discs: np.ndarray, joints: np.ndarray, mine: np.ndarray, reach: float) -> _Rows:
    """Rows of discs (n, 2) and joints of their colour, numbered `mine` (j,), where each is the other's nearest."""
    distance = lengths(joints[mine, None] - discs)
    found = [
        (mine[j], disc)
        for j, disc in enumerate(distance.argmin(1) if len(discs) else [])
        if distance[j, disc] < reach and distance[:, disc].argmin() == j
    ]
    joint, disc = np.repeat(np.reshape(found, (-1, 2)).astype(int), 2, axis=0).T
    axes = np.tile(np.eye(2), (len(found), 1))
    return joint, joint, np.zeros(len(joint)), axes, discs[disc], np.full(len(joint), 30.0)


def misfit(drawing: DrawnPerson, joints: np.ndarray, seen: np.ndarray) -> float:
    """Return the share of centre lines that no limb of joints (17, 2) covers, or of limbs on black: the larger."""
    uncovered = []
    for color, lines in enumerate(drawing.lines):
        limbs = ENDS[(LIMB_COLOR == color) & seen[ENDS].all(1)]
        way = _to_limbs(lines, joints, limbs)[3] if len(limbs) else np.full((len(lines), 2), np.inf)
        uncovered.append(lengths(way) > 2 * drawing.half)
    lit = drawing.lit[drawing.between(*joints[ENDS[seen[ENDS].all(1)].T])]
    return float(max(np.concatenate(uncovered).mean(), 1 - lit.mean() if lit.size else 1.0))


def lengths(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths (...) of vectors (..., 2)."""
    return np.hypot(vectors[..., 0], vectors[..., 1])


def _trust(ways: np.ndarray) -> np.ndarray:
    """Return the weights (n,) of ways (n, 2) to a target: a far one may be another limb's."""
    return 1 / np.maximum(lengths(ways) / 20, 1)
