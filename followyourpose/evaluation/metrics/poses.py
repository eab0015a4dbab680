"""PA of the paper's Table 1 and PCK: poses found in a video against those that drove it.

Letters: v videos, f frames, n poses, p q people. Keypoints are (17, 3): x, y in pixels and a confidence. A target's
joint with confidence 0 never counts; a pose found that has no joint with a confidence above 0 is nobody.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from followyourpose.evaluation.checks import check_finite
from followyourpose.pose.similarity import object_keypoint_similarity
from followyourpose.pose.skeleton import NUM_JOINTS, body_height

OKS_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_FOUND = 20  # COCO's: the surest of a frame that count
_RECALLS = np.linspace(0.0, 1.0, 101)


def nobody_found(predicted: np.ndarray) -> np.ndarray:
    """Where nobody was found: poses (..., 17, 3) -> (...) bool. They count as misses; report how many there are."""
    return ~(predicted[..., 2] > 0).any(-1)


def pck(predicted: np.ndarray, target: np.ndarray, threshold: float = 0.1) -> float:
    """Percentage of correct keypoints, in [0, 1]: joints at most `threshold` body heights from where they should be.

    The height is that of the box around the target's joints (`body_height`). A joint found with confidence 0 was not
    found, and is a miss (Yang and Ramanan, 2013, who measure in sides of the box).

    Args:
        predicted, target: (n, 17, 3).

    Raises:
        ValueError: the shapes differ or are not (n, 17, 3), a number is not finite, or no target joint has a confidence
            above 0.
    """
    if predicted.shape != target.shape or target.ndim != 3 or target.shape[1:] != (NUM_JOINTS, 3):
        raise ValueError(f"poses are {predicted.shape} and {target.shape}, expected (n, {NUM_JOINTS}, 3) twice")
    check_finite(predicted=predicted, target=target)
    seen = target[..., 2] > 0
    if not seen.any():
        raise ValueError("no target joint has a confidence above 0: PCK is undefined")
    height = np.array([body_height(pose) for pose in target])
    distance = np.linalg.norm(predicted[..., :2] - target[..., :2], axis=-1)
    correct = (distance <= threshold * height[:, None]) & (predicted[..., 2] > 0)
    return float(correct[seen].mean())


class Matches(NamedTuple):
    """People found, next to the people there are: what average precision needs to know of some frames.

    Attributes:
        scores: (found,) confidence of each person found.
        hits: (found, 10) whether it is a right one, at each of OKS_THRESHOLDS.
        people: how many people there are.
    """

    scores: np.ndarray
    hits: np.ndarray
    people: int


def match_people(predicted: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> Matches:
    """Matches people frame by frame, as COCO does: the surest first, each to the most similar person still free.

    Of equally similar people the last is taken, of equally sure ones the first comes first, and a frame's 20 surest
    count (pycocotools' COCOeval, with which this agrees). A person's score is the mean confidence of its joints.

    Args:
        predicted, target: per frame the people found, (p, 17, 3), and those that are there, (q, 17, 3); p and q may be
            0. A target without visible joints is left out, as by COCO if it has no box either; so is who was found
            without any.

    Raises:
        ValueError: a number is not finite, a shape is wrong, or the frames are not as many.
    """
    if len(predicted) != len(target):
        raise ValueError(f"got {len(predicted)} frames of people found and {len(target)} of those there are")
    scores, hits, people = [], [np.zeros((0, len(OKS_THRESHOLDS)), bool)], 0
    for frame, (found, there) in enumerate(zip(predicted, target, strict=True)):
        found, there = (_people(poses, f"{name}, frame {frame}") for poses, name in
                        ((found, "people found"), (there, "people there")))  # fmt: skip
        score = found[:, :, 2].mean(-1)
        order = np.argsort(-score, kind="stable")[:MAX_FOUND]
        similarity = np.array([[object_keypoint_similarity(found[i], person) for person in there] for i in order])
        scores.append(score[order])
        hits.append(_match(similarity.reshape(len(order), len(there))))
        people += len(there)
    return Matches(np.concatenate([*scores, []]), np.concatenate(hits), people)


def average_precision(matches: Sequence[Matches]) -> float:
    """COCO's average precision, in [0, 1], of all frames together: the mean over OKS .50:.05:.95 and 101 recalls.

    The precision at a recall is the best that is reached at it or a higher one (cocodataset.org, keypoint evaluation,
    all areas).

    Raises:
        ValueError: there is nobody to be found.
    """
    people = sum(m.people for m in matches)
    if people == 0:
        raise ValueError("no target has a visible joint: average precision is undefined")
    order = np.argsort(-np.concatenate([m.scores for m in matches]), kind="stable")
    hits = np.concatenate([m.hits for m in matches])[order]
    if not len(hits):
        return 0.0
    right = hits.cumsum(0)
    precision = right / np.arange(1, len(hits) + 1)[:, None]
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    total = 0.0
    for column in range(hits.shape[1]):
        index = np.searchsorted(right[:, column] / people, _RECALLS, side="left")
        reached = index < len(hits)  # recalls that were never reached have precision 0
        total += precision[index[reached], column].sum()
    return float(total / (len(_RECALLS) * hits.shape[1]))


def _people(poses: np.ndarray, name: str) -> np.ndarray:
    """Those of the people (p, 17, 3) that have a joint with a confidence above 0, float64."""
    poses = np.asarray(poses, np.float64)
    if not len(poses):
        return np.zeros((0, NUM_JOINTS, 3))
    if poses.shape[1:] != (NUM_JOINTS, 3):
        raise ValueError(f"{name}: got {poses.shape}, expected (p, {NUM_JOINTS}, 3)")
    check_finite(**{name: poses})
    return poses[~nobody_found(poses)]


def _match(similarity: np.ndarray) -> np.ndarray:
    """OKS of people found, the surest first, with those there are, (p, q) -> (p, 10): who is a right one."""
    hits = np.zeros((len(similarity), len(OKS_THRESHOLDS)), bool)
    last = similarity.shape[1] - 1
    for column, threshold in enumerate(OKS_THRESHOLDS):
        free = np.ones(last + 1, bool)
        for row in range(len(similarity) if last >= 0 else 0):
            candidate = np.where(free, similarity[row], -1.0)
            best = last - int(candidate[::-1].argmax())
            if candidate[best] >= threshold:
                hits[row, column], free[best] = True, False
    return hits
