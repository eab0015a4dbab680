"""Fit a moving skeleton to another body: proportions, size, place. Plain geometry on keypoints.

A limb keeps its direction in the picture and changes its length; the limbs behind it move along. Directions are the
motion, lengths the body. Pictures foreshorten limbs, so a body is measured where its limbs are longest.
Letters: n frames that show a person. Poses are (17, 3): x, y in pixels and a confidence.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from followyourpose.common.checks import check_above_zero
from followyourpose.pose.keypoints_file import ClipKeypoints
from followyourpose.pose.skeleton import JOINT, NUM_JOINTS, SEEN
from followyourpose.pose.track import Track, link, per_frame, prominence

_CHEST, _PELVIS = NUM_JOINTS, NUM_JOINTS + 1  # midway between the shoulders, and between the hips
_SIDES = ("left", "right")
# (joint, parent, limb); parents come first.
_BONES = (
    (_CHEST, _PELVIS, "trunk"),
    *((JOINT[f"{side}_shoulder"], _CHEST, "shoulders") for side in _SIDES),
    *((JOINT[f"{side}_elbow"], JOINT[f"{side}_shoulder"], "upper_arm") for side in _SIDES),
    *((JOINT[f"{side}_wrist"], JOINT[f"{side}_elbow"], "forearm") for side in _SIDES),
    *((JOINT[f"{side}_hip"], _PELVIS, "hips") for side in _SIDES),
    *((JOINT[f"{side}_knee"], JOINT[f"{side}_hip"], "thigh") for side in _SIDES),
    *((JOINT[f"{side}_ankle"], JOINT[f"{side}_knee"], "shin") for side in _SIDES),
    (JOINT["nose"], _CHEST, "neck"),
    *((JOINT[f"{side}_{part}"], JOINT["nose"], "head") for part in ("eye", "ear") for side in _SIDES),
)
LIMBS = tuple(dict.fromkeys(limb for *_, limb in _BONES))
_LONGEST = 0.9  # quantile of a limb's lengths that counts as its length: the longest but for outliers


def retarget(
    clip: ClipKeypoints,
    reference: ClipKeypoints | None = None,
    scale: float = 1.0,
    limbs: Mapping[str, float] | None = None,
) -> ClipKeypoints:
    """Give the people of a clip another body.

    Args:
        reference: keypoints whose largest person has the target body. Their frame is fitted into the middle of the
            clip's, as a later crop to their shape shows it: each limb gets the length it has there, and the clip's
            largest person starts where that one stands; the others keep their places beside it. A limb that cannot be
            measured takes the median change of the others. None: the people keep their bodies and places.
        scale: enlarges everybody, about the feet.
        limbs: the same for single limbs, by name (`LIMBS`).

    Raises:
        ValueError: a limb has no such name, a factor is not above 0, or the reference shows nobody.
    """
    factors = _factors(scale, limbs or {})
    body = None if reference is None else _Body.of(reference, clip)
    people, ids = _people(clip)
    moved = {number: _with_body(poses, factors, scale, body) for number, poses in people.items()}
    if body is not None and people:
        shift = _way(moved[_largest(people)][0], body.standing)
        for poses in moved.values():
            poses[..., :2] += shift
    following = {number: iter(poses) for number, poses in moved.items()}
    return replace(clip, frames=[[next(following[number]) for number in each] for each in ids], ids=ids)


def limb_lengths(poses: np.ndarray) -> dict[str, float]:
    """Measure a person's poses (n, 17, 3): the length in pixels of each limb that any of them shows."""
    points, seen = _points(poses)
    found: dict[str, list[np.ndarray]] = {}
    for joint, parent, limb in _BONES:
        both = seen[:, joint] & seen[:, parent]
        found.setdefault(limb, []).append(np.linalg.norm(points[both, joint] - points[both, parent], axis=-1))
    lengths = {limb: np.concatenate(each) for limb, each in found.items()}
    return {limb: float(np.quantile(each, _LONGEST)) for limb, each in lengths.items() if len(each)}


@dataclass(frozen=True)
class _Body:
    """Target body in pixels of the clip that takes it: limb lengths, and a pose (17, 3) at its place."""

    lengths: dict[str, float]
    standing: np.ndarray

    @staticmethod
    def of(reference: ClipKeypoints, clip: ClipKeypoints) -> "_Body":
        people, _ = _people(reference)
        if not people:
            raise ValueError("retarget.reference: shows nobody, expected a person with the target body")
        person = people[_largest(people)]
        size, of_reference = (np.array([each.width, each.height]) for each in (clip, reference))
        share = (size / of_reference).min()
        place = np.append((size - share * of_reference) / 2, 0)
        lengths = {limb: share * length for limb, length in limb_lengths(person).items()}
        return _Body(lengths, person[0] * (share, share, 1) + place)


def _with_body(poses: np.ndarray, factors: Mapping[str, float], scale: float, body: _Body | None) -> np.ndarray:
    """Scale the limbs of poses (n, 17, 3), and their path with them, about their first place."""
    if body is not None:
        own = limb_lengths(poses)
        ratios = {limb: body.lengths[limb] / own[limb] for limb in own if own[limb] > 0 and limb in body.lengths}
        usual = float(np.median(list(ratios.values()))) if ratios else 1.0
        factors = {limb: factor * ratios.get(limb, usual) for limb, factor in factors.items()}
        scale = scale * usual
    points, seen = _points(poses)
    root = _root(points, seen)  # (n, 2)
    # An unseen joint takes the place of its parent, for the joints behind it.
    old, new, moved = points.copy(), points.copy(), poses.astype(np.float32)
    old[:, _PELVIS] = root
    new[:, _PELVIS] = root + (scale - 1) * (root - root[0])  # a larger body takes larger steps
    for joint, parent, limb in _BONES:
        new[:, joint] = new[:, parent] + factors[limb] * (old[:, joint] - old[:, parent])
        if joint < NUM_JOINTS:
            moved[:, joint, :2] = new[:, joint]
        hidden = ~seen[:, joint]
        old[hidden, joint], new[hidden, joint] = old[hidden, parent], new[hidden, parent]
    moved[..., :2] += _way(moved[0], poses[0])
    return moved


def _points(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Poses (n, 17, 3) -> x, y of the joints, the chest and the pelvis (n, 19, 2), and whether each is seen (n, 19)."""
    pairs = [[JOINT[f"{side}_{part}"] for side in _SIDES] for part in ("shoulder", "hip")]
    xy, seen = poses[..., :2].astype(np.float64), poses[..., 2] >= SEEN
    points = np.concatenate([xy, *(xy[:, pair].mean(1, keepdims=True) for pair in pairs)], 1)
    return points, np.concatenate([seen, *(seen[:, pair].all(1, keepdims=True) for pair in pairs)], 1)


def _root(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Root (n, 2) of points (n, 19, 2): the pelvis; if that is never seen, the chest; or else the mean of the seen.

    It is interpolated over frames that do not show it: with another root for these frames the body would jump.
    """
    for joint in (_PELVIS, _CHEST):
        known = np.flatnonzero(seen[:, joint])
        if len(known):
            frames = np.arange(len(points))
            return np.stack([np.interp(frames, known, points[known, joint, axis]) for axis in (0, 1)], -1)
    return (points * seen[..., None]).sum(1) / seen.sum(1, keepdims=True).clip(min=1)


def _way(pose: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Vector (2,) from the place of a pose (17, 3) to the target's, by the ankles or the lowest pair that both show."""
    both = (pose[:, 2] >= SEEN) & (target[:, 2] >= SEEN)
    for part in ("ankle", "knee", "hip", "shoulder"):
        pair = [JOINT[f"{side}_{part}"] for side in _SIDES]
        if both[pair].all():
            place, wanted = (np.array([p[pair, 0].mean(), p[pair, 1].max()]) for p in (pose, target))
            return wanted - place
    return (target - pose)[both, :2].mean(0) if both.any() else np.zeros(2)


def _people(clip: ClipKeypoints) -> tuple[dict[int, np.ndarray], list[list[int]]]:
    """Poses (n, 17, 3) of each person in the order of the frames, and the people's numbers per frame: the clip's ids,
    or else the tracks of its poses."""
    frames, ids = clip.frames, clip.ids
    if ids is None:
        frames, ids = per_frame(link(frames), len(frames))
    people: dict[int, list[np.ndarray]] = {}
    for poses, numbers in zip(frames, ids, strict=True):
        for pose, number in zip(poses, numbers, strict=True):
            people.setdefault(number, []).append(pose)
    return {number: np.stack(poses) for number, poses in people.items()}, ids


def _largest(people: Mapping[int, np.ndarray]) -> int:
    """Number of the most prominent person, by poses (n, 17, 3)."""
    return max(people, key=lambda number: prominence(Track(0, people[number])))


def _factors(scale: float, limbs: Mapping[str, float]) -> dict[str, float]:
    check_above_zero("retarget.scale", scale)
    for limb, factor in limbs.items():
        check_above_zero(f"retarget.limbs.{limb}", factor)
        if limb not in LIMBS:
            near = difflib.get_close_matches(limb, LIMBS, n=1, cutoff=0.0)[0]
            raise ValueError(f"retarget.limbs: got {limb!r}, expected one of {', '.join(LIMBS)}; the nearest is {near}")
    return {limb: scale * limbs.get(limb, 1.0) for limb in LIMBS}
