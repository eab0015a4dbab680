"""Soft regions of people's bodies in a frame, from their keypoints: capsules around limbs, trunk and head.

f frames   p people   H W pixels. Keypoints are (17, 3): x, y in pixels and a confidence. Lengths are in body sizes: the
longer side of the box around a person's seen joints, which for somebody upright is about the height.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from followyourpose.pose.skeleton import JOINT, NUM_JOINTS, SEEN

Overlap = Literal["distance", "size"]
LIMB, TRUNK, HEAD = 0.05, 0.09, 0.11  # radii of the capsules
MARGIN = 0.06  # around the body: hair, hats, clothes, what the hands hold
SOFT = 0.06  # half the width of the edge, from 1 inside to 0 outside

_SIDES = ("left", "right")
_LIMBS = [
    (f"{side}_{start}", f"{side}_{end}")
    for side in _SIDES
    for start, end in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
]
_TRUNK = [("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"), ("left_shoulder", "right_shoulder"),
          ("left_hip", "right_hip"), ("left_shoulder", "right_hip"), ("right_shoulder", "left_hip")]  # fmt: skip
_HEAD = [("nose", f"{side}_{part}") for side in _SIDES for part in ("eye", "ear", "shoulder")] + [("nose", "nose")]
_CAPSULES = [
    (JOINT[start], JOINT[end], radius)
    for bones, radius in ((_LIMBS, LIMB), (_TRUNK, TRUNK), (_HEAD[:-1], LIMB), (_HEAD[-1:], HEAD))
    for start, end in bones
]


def body_distance(person: np.ndarray, height: int, width: int, cell: int = 1) -> np.ndarray:
    """Return the distance of places to a body (17, 3), negative inside of it, in body sizes: (height, width).

    Args:
        height, width: in cells.
        cell: side of a cell in pixels, of which the distance is that of its middle.

    Infinite everywhere where no joint is seen.
    """
    person = np.asarray(person, np.float64)
    seen = person[:, 2] >= SEEN
    if not seen.any():
        return np.full((height, width), np.inf)
    size = max(body_size(person), cell)
    y, x = np.meshgrid(*((np.arange(n) + 0.5) * cell - 0.5 for n in (height, width)), indexing="ij")
    places, nearest = np.stack([x, y], -1), np.full((height, width), np.inf)
    for start, end, radius in _CAPSULES:
        if seen[start] and seen[end]:
            nearest = np.minimum(nearest, _to_segment(places, person[start, :2], person[end, :2]) / size - radius)
    for joint in np.flatnonzero(seen):  # also of a body of which single joints are seen
        nearest = np.minimum(nearest, _to_segment(places, person[joint, :2], person[joint, :2]) / size - LIMB)
    return nearest


def body_size(person: np.ndarray) -> float:
    """Return the longer side in pixels of the box around a person's seen joints (17, 3); 0 without any."""
    seen = np.asarray(person)[:, 2] >= SEEN
    return float(np.ptp(np.asarray(person)[seen, :2], axis=0).max()) if seen.any() else 0.0


def shares(
    frames: Sequence[Sequence[np.ndarray]], height: int, width: int, cell: int = 1,
    order: Overlap | Sequence[float] = "distance", soft: float = SOFT,
) -> np.ndarray:  # fmt: skip
    """Return each person's share of every place: (p, f, height, width) in [0, 1], 0 outside of the body.

    Where bodies overlap, the shares of all people together are at most 1.

    Args:
        frames: per frame p people, (17, 3) each; one without a seen joint has no share.
        height, width, cell: as for `body_distance`.
        order: where bodies overlap, "distance": they share a place by their distances; "size": the larger body hides
            the others; or numbers of the p people from the viewer on: the lowest hides the others.
        soft: half the width of the edges; 0: none.
    """
    return np.stack([_frame_shares(people, height, width, cell, order, soft) for people in frames], axis=1)


def only_person(place: str, frames: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Return the one person of a clip (f, 17, 3), zero in the frames that show nobody.

    Raises:
        ValueError: a frame shows several; the message begins with `place`.
    """
    for number, people in enumerate(frames):
        if len(people) > 1:
            raise ValueError(f"{place}: got {len(people)} people in frame {number}, expected one")
    return np.stack([people[0] if people else np.zeros((NUM_JOINTS, 3), np.float32) for people in frames])


def _frame_shares(
    people: Sequence[np.ndarray], height: int, width: int, cell: int, order: Overlap | Sequence[float], soft: float
) -> np.ndarray:
    distance = np.stack([body_distance(person, height, width, cell) for person in people]) - MARGIN
    distance = np.minimum(distance, 1e3)  # of nobody
    inside = _step(distance, soft)
    if order == "distance":
        closeness = np.exp((distance.min(0) - distance) / max(soft, 1e-6))
        return inside.max(0) * closeness / closeness.sum(0)
    given, left = np.zeros_like(inside), np.ones((height, width))
    numbers = [-body_size(person) for person in people] if order == "size" else order
    for person in np.argsort(numbers, kind="stable"):
        given[person] = inside[person] * left
        left = left - given[person]
    return given


def _step(distance: np.ndarray, soft: float) -> np.ndarray:
    """Return 1 inside, 0 outside, and a smooth step of 2 `soft` between them."""
    if soft == 0:
        return (distance <= 0).astype(np.float64)
    t = np.clip((soft - distance) / (2 * soft), 0, 1)
    return t * t * (3 - 2 * t)


def _to_segment(places: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distance of places (..., 2) to a segment, in their unit."""
    along = end - start
    t = np.clip(((places - start) @ along) / max(along @ along, 1e-12), 0, 1)
    return np.linalg.norm(places - start - t[..., None] * along, axis=-1)
