"""Fits a moving skeleton to another body: its proportions, its size, its place. Plain geometry on keypoints.

A limb keeps its direction in the picture and changes its length; whatever hangs on it moves along. Directions are the
motion, lengths the body. A picture foreshortens limbs, so a body is measured where its limbs are longest.
Letters: n frames in which a person is seen. Poses are (17, 3): x, y in pixels and a confidence.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from followyourpose.pose.keypoints_file import ClipKeypoints
from followyourpose.pose.skeleton import JOINT, NUM_JOINTS, SEEN
from followyourpose.pose.track import Track, link, per_frame, prominence

_CHEST, _PELVIS = NUM_JOINTS, NUM_JOINTS + 1  # between the shoulders, and between the hips: where a body hangs together
_SIDES = ("left", "right")
# (joint, the one it hangs on, limb); what others hang on comes first.
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
_LONGEST = 0.9  # the quantile that stands for a limb's length: its longest but for outliers


def retarget(
    clip: ClipKeypoints,
    reference: ClipKeypoints | None = None,
    scale: float = 1.0,
    limbs: Mapping[str, float] | None = None,
) -> ClipKeypoints:
    """The people of a clip with another body.

    Args:
        reference: its largest person has the body to take: each limb gets that length, as a share of the frame's
            height, and the clip's largest person stands, in its first frame, where that one does; the others keep their
            places beside it. A limb that cannot be measured takes the median change of the others. None: the people
            keep their bodies, and stand where they stood.
        scale: makes everybody so many times larger, about the feet.
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
    """Poses (n, 17, 3) of a person -> the length in pixels of each limb that is seen in any of them."""
    points, seen = _points(poses)
    found: dict[str, list[np.ndarray]] = {}
    for joint, parent, limb in _BONES:
        both = seen[:, joint] & seen[:, parent]
        found.setdefault(limb, []).append(np.linalg.norm(points[both, joint] - points[both, parent], axis=-1))
    lengths = {limb: np.concatenate(each) for limb, each in found.items()}
    return {limb: float(np.quantile(each, _LONGEST)) for limb, each in lengths.items() if len(each)}


@dataclass(frozen=True)
class _Body:
    """A body to take, in pixels of the clip that takes it: its limbs, and a pose (17, 3) of it where it stands."""

    lengths: dict[str, float]
    standing: np.ndarray

    @staticmethod
    def of(reference: ClipKeypoints, clip: ClipKeypoints) -> "_Body":
        people, _ = _people(reference)
        if not people:
            raise ValueError("retarget.reference: shows nobody, expected a person whose body to take")
        person = people[_largest(people)]
        tall, wide = clip.height / reference.height, clip.width / reference.width
        lengths = {limb: length * tall for limb, length in limb_lengths(person).items()}
        return _Body(lengths, person[0] * np.array([wide, tall, 1.0]))


def _with_body(poses: np.ndarray, factors: Mapping[str, float], scale: float, body: _Body | None) -> np.ndarray:
    """Poses (n, 17, 3) with their limbs made longer or shorter, and their way with them, standing where they stood."""
    if body is not None:
        own = limb_lengths(poses)
        ratios = {limb: body.lengths[limb] / own[limb] for limb in own if own[limb] > 0 and limb in body.lengths}
        usual = float(np.median(list(ratios.values()))) if ratios else 1.0
        factors = {limb: factor * ratios.get(limb, usual) for limb, factor in factors.items()}
        scale = scale * usual
    points, seen = _points(poses)
    root = _root(points, seen)  # (n, 2)
    # For what hangs on it, a joint that is not seen is where the one is that it hangs on itself.
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
    """Poses (n, 17, 3) -> x, y of the joints, the chest and the pelvis (n, 19, 2), and which are seen (n, 19)."""
    pairs = [[JOINT[f"{side}_{part}"] for side in _SIDES] for part in ("shoulder", "hip")]
    xy, seen = poses[..., :2].astype(np.float64), poses[..., 2] >= SEEN
    points = np.concatenate([xy, *(xy[:, pair].mean(1, keepdims=True) for pair in pairs)], 1)
    return points, np.concatenate([seen, *(seen[:, pair].all(1, keepdims=True) for pair in pairs)], 1)


def _root(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Points (n, 19, 2) -> (n, 2) what all hangs on: the pelvis; if that is never seen, the chest; or else the middle.

    Where it is not seen for some frames, it is on the line between where it was and will be: to take something else
    for these frames would make the body jump.
    """
    for joint in (_PELVIS, _CHEST):
        known = np.flatnonzero(seen[:, joint])
        if len(known):
            frames = np.arange(len(points))
            return np.stack([np.interp(frames, known, points[known, joint, axis]) for axis in (0, 1)], -1)
    return (points * seen[..., None]).sum(1) / seen.sum(1, keepdims=True).clip(min=1)


def _way(pose: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2,) from where a pose (17, 3) stands to where the target stands: by the ankles, or what both show instead."""
    both = (pose[:, 2] >= SEEN) & (target[:, 2] >= SEEN)
    for part in ("ankle", "knee", "hip", "shoulder"):
        pair = [JOINT[f"{side}_{part}"] for side in _SIDES]
        if both[pair].all():
            place, wanted = (np.array([p[pair, 0].mean(), p[pair, 1].max()]) for p in (pose, target))
            return wanted - place
    return (target - pose)[both, :2].mean(0) if both.any() else np.zeros(2)


def _people(clip: ClipKeypoints) -> tuple[dict[int, np.ndarray], list[list[int]]]:
    """Each person's poses (n, 17, 3), in the order of the frames, and who is in which frame.

    Who is who is what the clip says, or else what the poses show.
    """
    frames, ids = clip.frames, clip.ids
    if ids is None:
        frames, ids = per_frame(link(frames), len(frames))
    people: dict[int, list[np.ndarray]] = {}
    for poses, numbers in zip(frames, ids, strict=True):
        for pose, number in zip(poses, numbers, strict=True):
            people.setdefault(number, []).append(pose)
    return {number: np.stack(poses) for number, poses in people.items()}, ids


def _largest(people: Mapping[int, np.ndarray]) -> int:
    """The most prominent of people with poses (n, 17, 3) each."""
    return max(people, key=lambda number: prominence(Track(0, people[number])))


def _factors(scale: float, limbs: Mapping[str, float]) -> dict[str, float]:
    for name, factor in {"scale": scale, **{f"limbs.{limb}": factor for limb, factor in limbs.items()}}.items():
        if not 0 < factor < np.inf:
            raise ValueError(f"retarget.{name}: got {factor}, expected a factor above 0")
    for limb in limbs:
        if limb not in LIMBS:
            near = difflib.get_close_matches(limb, LIMBS, n=1, cutoff=0.0)[0]
            raise ValueError(f"retarget.limbs: got {limb!r}, expected one of {', '.join(LIMBS)}; the nearest is {near}")
    return {limb: scale * limbs.get(limb, 1.0) for limb in LIMBS}
