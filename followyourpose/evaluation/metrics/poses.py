"""PA of the paper's Table 1 and PCK: detected poses against the driving ones; and the jitter of a person's poses.

Letters: f frames, n poses, p q people. Keypoints are (17, 3): x, y in pixels and a confidence. A target's joint with
confidence 0 never counts; a detected pose without a joint of confidence above 0 is nobody.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from followyourpose.common.checks import counted
from followyourpose.evaluation.metrics.checks import check_finite
from followyourpose.pose.similarity import object_keypoint_similarity
from followyourpose.pose.skeleton import NUM_JOINTS, SEEN, body_height

OKS_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_FOUND = 20  # COCO: only the most confident detections of a frame count
_RECALLS = np.linspace(0.0, 1.0, 101)


def nobody_found(predicted: np.ndarray) -> np.ndarray:
    """Return where poses (..., 17, 3) have no joint: (...) bool. They count as misses; report how many there are."""
    return ~(predicted[..., 2] > 0).any(-1)


def pck(predicted: np.ndarray, target: np.ndarray, threshold: float = 0.1) -> float:
    """Percentage of correct keypoints, in [0, 1]: joints at most `threshold` body heights from the target's.

    The height is that of the box around the target's joints (`body_height`). A detected joint with confidence 0 is a
    miss (Yang and Ramanan, 2013, who measure in sides of the box).

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


def jitter(poses: np.ndarray) -> np.ndarray:
    """Jitter of a person's poses (n, 17, 3): the lengths (m,) in pixels of x[t - 1] - 2 x[t] + x[t + 1] of its joints.

    Each is of a joint that is seen in three frames in a row. A joint that keeps its speed has none; true acceleration
    counts too, so the jitter of a dance is never 0.
    """
    lengths = np.linalg.norm(np.diff(poses[..., :2].astype(np.float64), n=2, axis=0), axis=-1)
    seen = poses[..., 2] >= SEEN
    return lengths[seen[:-2] & seen[1:-1] & seen[2:]]


class Matches(NamedTuple):
    """Detections matched with the people of some frames: the input of average precision."""

    scores: np.ndarray  # (p,) confidence of each detection
    hits: np.ndarray  # (p, 10) whether it is a true positive at each of OKS_THRESHOLDS
    people: int  # number of people in the targets


def match_people(predicted: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> Matches:
    """Match detections frame by frame, as COCO does: the most confident first, each to the most similar free person.

    Of equally similar people the last is taken, of equally confident detections the first comes first, and a frame's
    20 most confident ones count (in agreement with pycocotools' COCOeval). A detection's score is the mean confidence
    of its joints.

    Args:
        predicted, target: per frame the detected people (p, 17, 3) and the target's (q, 17, 3); p and q may be 0. Poses
            without visible joints are left out on both sides, as by COCO where a target has no box either.

    Raises:
        ValueError: a number is not finite, a shape is wrong, or the numbers of frames differ.
    """
    if len(predicted) != len(target):
        got = counted(len(predicted), "frame")
        raise ValueError(f"predicted: got {got}, expected as many as in target, {len(target)}")
    scores, hits, people = [], [np.zeros((0, len(OKS_THRESHOLDS)), bool)], 0
    for frame, (found, there) in enumerate(zip(predicted, target, strict=True)):
        found, there = (_people(poses, f"{name}, frame {frame}") for poses, name in
                        ((found, "predicted"), (there, "target")))  # fmt: skip
        score = found[:, :, 2].mean(-1)
        order = np.argsort(-score, kind="stable")[:MAX_FOUND]
        similarity = np.array([[object_keypoint_similarity(found[i], person) for person in there] for i in order])
        scores.append(score[order])
        hits.append(_match(similarity.reshape(len(order), len(there))))
        people += len(there)
    return Matches(np.concatenate([*scores, []]), np.concatenate(hits), people)


def average_precision(matches: Sequence[Matches]) -> float:
    """COCO's average precision, in [0, 1], of all frames together: the mean over OKS .50:.05:.95 and 101 recalls.

    The precision at a recall is the best at it or at a higher one (cocodataset.org, keypoint evaluation, all areas).

    Raises:
        ValueError: the targets have nobody.
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
    """Return those of the people (p, 17, 3) that have a joint with a confidence above 0, float64."""
    poses = np.asarray(poses, np.float64)
    if not len(poses):
        return np.zeros((0, NUM_JOINTS, 3))
    if poses.shape[1:] != (NUM_JOINTS, 3):
        raise ValueError(f"{name}: got {poses.shape}, expected (p, {NUM_JOINTS}, 3)")
    check_finite(**{name: poses})
    return poses[~nobody_found(poses)]


def _match(similarity: np.ndarray) -> np.ndarray:
    """Return the true positives (p, 10) of the OKS (p, q) of detections, the most confident first, and targets."""
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
