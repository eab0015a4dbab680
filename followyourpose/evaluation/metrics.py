"""The metrics of the paper's Table 1 (CS, PA, FC), PCK and flicker: arrays in, number out.

Letters: v videos, f frames, n poses, p people, H W pixels, d embedding width. Keypoints are (17, 3): x, y in pixels and
a confidence; a target's joint with confidence 0 never counts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from followyourpose.pose.similarity import object_keypoint_similarity
from followyourpose.pose.skeleton import JOINT, LIMBS, NUM_JOINTS, body_height

OKS_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)

# Reach of the body around its joints, in body heights: half widths of limbs and trunk, radius and rise of the head.
_LIMB, _TRUNK, _HEAD, _HEAD_RISE = 0.16, 0.30, 0.27, 0.06


# ---- pose -----------------------------------------------------------------------------------------------------------


def pck(predicted: np.ndarray, target: np.ndarray, threshold: float = 0.1) -> float:
    """Percentage of correct keypoints, in [0, 1]: joints at most `threshold` body heights from where they should be.

    The height is that of the box around the target's joints (`body_height`).

    Args:
        predicted, target: (n, 17, 3).

    Raises:
        ValueError: the shapes differ or are not (n, 17, 3), or no target joint has a confidence above 0.
    """
    _check_poses(predicted, target)
    seen = target[..., 2] > 0
    if not seen.any():
        raise ValueError("no target joint has a confidence above 0: PCK is undefined")
    height = np.array([body_height(pose) for pose in target])
    distance = np.linalg.norm(predicted[..., :2] - target[..., :2], axis=-1)
    return float((distance <= threshold * height[:, None])[seen].mean())


def pck_per_video(predicted: np.ndarray, target: np.ndarray, threshold: float = 0.1) -> np.ndarray:
    """`pck` of each video: (v, f, 17, 3) twice -> (v,)."""
    return np.array([pck(p, t, threshold) for p, t in zip(predicted, target, strict=True)])


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

    Args:
        predicted, target: per frame the people found, (p, 17, 3), and those that are there, (q, 17, 3). A person's
            score is the mean confidence of its joints. A target without visible joints is left out.
    """
    scores, hits, people = [], [], 0
    for found, there in zip(predicted, target, strict=True):
        there = [pose for pose in there if (pose[:, 2] > 0).any()]
        found = sorted(found, key=lambda pose: -pose[:, 2].mean())
        similarity = np.array([[object_keypoint_similarity(a, b) for b in there] for a in found])
        hit = np.zeros((len(found), len(OKS_THRESHOLDS)), bool)
        for column, threshold in enumerate(OKS_THRESHOLDS):
            free = np.ones(len(there), bool)
            for row in range(len(found) if there else 0):
                candidate = np.where(free, similarity[row], -1.0)
                best = int(candidate.argmax())
                if candidate[best] >= threshold:
                    hit[row, column], free[best] = True, False
        scores.extend(float(pose[:, 2].mean()) for pose in found)
        hits.append(hit)
        people += len(there)
    return Matches(np.array(scores), np.concatenate(hits or [np.zeros((0, len(OKS_THRESHOLDS)), bool)]), people)


def average_precision(matches: Sequence[Matches]) -> float:
    """COCO's average precision, in [0, 1], of all frames together: the mean over OKS .50:.05:.95 and 101 recalls.

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
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or a higher one
    total = 0.0
    for column in range(hits.shape[1]):
        index = np.searchsorted(right[:, column] / people, _RECALLS, side="left")
        reached = index < len(hits)  # recalls that were never reached have precision 0
        total += precision[index[reached], column].sum()
    return float(total / (len(_RECALLS) * hits.shape[1]))


def _check_poses(predicted: np.ndarray, target: np.ndarray) -> None:
    if predicted.shape != target.shape or target.ndim != 3 or target.shape[1:] != (NUM_JOINTS, 3):
        raise ValueError(f"poses are {predicted.shape} and {target.shape}, expected (n, {NUM_JOINTS}, 3) twice")


# ---- pixels ---------------------------------------------------------------------------------------------------------


def body_mask(people: np.ndarray, height: int, width: int) -> np.ndarray:
    """A generous silhouette of people (p, 17, 3) -> (H, W) bool.

    Limbs are strokes 0.32 body heights wide, the trunk (neck to between the knees) 0.6, the head a disc of radius 0.27:
    room for helmets, capes and skirts, and for a model that misses a pose by a little. Joints with confidence 0 draw
    nothing.
    """
    mask = np.zeros((height, width), np.uint8)
    for person in people:
        seen, size = person[:, 2] > 0, body_height(person)
        xy = np.clip(person[:, :2], -1e4, 1e4)

        def stroke(a: np.ndarray, b: np.ndarray, radius: float) -> None:
            ends = [tuple(int(round(float(v))) for v in point) for point in (a, b)]
            cv2.line(mask, *ends, 1, max(1, round(2 * radius)))

        for start, end, _ in LIMBS:
            if seen[start] and seen[end]:
                stroke(xy[start], xy[end], _LIMB * size)
        trunk = [xy[[JOINT[f"left_{part}"], JOINT[f"right_{part}"]]].mean(0) for part in ("shoulder", "hip", "knee")
                 if seen[JOINT[f"left_{part}"]] and seen[JOINT[f"right_{part}"]]]  # fmt: skip
        for a, b in zip(trunk[:-1], trunk[1:], strict=True):
            stroke(a, b, _TRUNK * size)
        face = [JOINT[name] for name in ("nose", "left_eye", "right_eye", "left_ear", "right_ear") if seen[JOINT[name]]]
        if face:
            head = xy[face].mean(0) - (0.0, _HEAD_RISE * size)
            cv2.circle(mask, tuple(int(round(float(v))) for v in head), max(1, round(_HEAD * size)), 1, -1)
    return mask.astype(bool)


def flicker(frames: np.ndarray, foreground: np.ndarray) -> float:
    """Mean absolute change of the background from a frame to the next, in units of 255 (0: still, 255: black to white).

    The background of two frames is what is foreground in neither.

    Args:
        frames: (f, H, W, 3) uint8.
        foreground: (f, H, W) bool, such as `body_mask` of the keypoints that drove each frame.

    Raises:
        ValueError: the shapes do not fit, there is only one frame, or no pixel is background.
    """
    if frames.ndim != 4 or frames.dtype != np.uint8 or foreground.shape != frames.shape[:3] or len(frames) < 2:
        raise ValueError(
            f"frames are {frames.shape} {frames.dtype}, the foreground {foreground.shape}; "
            "expected (f, H, W, 3) uint8 and (f, H, W) with at least 2 frames"
        )
    background = ~(foreground[1:] | foreground[:-1])
    if not background.any():
        raise ValueError("the foreground covers every pixel: flicker is undefined")
    return float(np.abs(np.diff(frames.astype(np.float32), axis=0))[background].mean())


def border_change(frames: np.ndarray, borders: Sequence[int]) -> tuple[float, float]:
    """Mean absolute change from a frame to the next, in units of 255: at the borders of windows, and elsewhere.

    Args:
        frames: (f, H, W, 3) uint8.
        borders: the numbers of the frames that are the first after a border.

    Raises:
        ValueError: there is no border, or nothing elsewhere.
    """
    at = np.zeros(len(frames) - 1, bool)
    at[[border - 1 for border in borders]] = True
    if at.all() or not at.any():
        raise ValueError(f"got {at.sum()} borders in {len(frames)} frames, expected some, and frames beside them")
    change = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
    return float(change[at].mean()), float(change[~at].mean())


# ---- embeddings -----------------------------------------------------------------------------------------------------


def frame_consistency(embeddings: np.ndarray) -> float:
    """FC: the mean cosine of consecutive frames' embeddings (f, d), x100.

    Raises:
        ValueError: fewer than two frames.
    """
    if len(embeddings) < 2:
        raise ValueError(f"got {len(embeddings)} frame, expected at least 2: frame consistency compares neighbours")
    unit = _normalise(embeddings)
    return float(100 * (unit[1:] * unit[:-1]).sum(-1).mean())


def clip_score(image_embeddings: np.ndarray, text_embedding: np.ndarray) -> float:
    """CS: the mean cosine of frames' embeddings (f, d) and their caption's (d,), x100."""
    return float(100 * (_normalise(image_embeddings) @ _normalise(text_embedding)).mean())


def top1(image_embeddings: np.ndarray, text_embeddings: np.ndarray) -> int:
    """Index of the caption, of (k, d), whose embedding is nearest to the mean of a video's frames (f, d)."""
    return int((_normalise(text_embeddings) @ _normalise(image_embeddings).mean(0)).argmax())


def _normalise(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True).clip(min=1e-12)


# ---- intervals ------------------------------------------------------------------------------------------------------


def bootstrap_interval(
    videos: Sequence[Any],
    statistic: Callable[[list[Any]], float] = np.mean,
    level: float = 0.95,
    rounds: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap: where `statistic` lies in `level` of the samples drawn, with replacement, from the videos.

    Args:
        videos: what is known of each: a number for the mean, `Matches` for `average_precision`.

    Raises:
        ValueError: there is no video.
    """
    if not len(videos):
        raise ValueError("no videos: an interval is undefined")
    rng = np.random.default_rng(seed)
    draws = [statistic([videos[i] for i in rng.integers(len(videos), size=len(videos))]) for _ in range(rounds)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
