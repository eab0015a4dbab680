"""Similarity of two poses: COCO's object keypoint similarity, and the overlap of their boxes.

Keypoints are (17, 3): x, y in pixels and a confidence.
"""

import numpy as np

# Deviation of COCO's annotators per joint, as a share of the person's scale (COCO's keypoint evaluation).
OKS_SIGMAS = np.array([
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062,
    0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
])  # fmt: skip


def object_keypoint_similarity(predicted: np.ndarray, target: np.ndarray) -> float:
    """OKS of two poses (17, 3), in [0, 1]: the mean over the target's joints of exp(-distance^2 / (2 s^2 (2 sigma)^2)).

    s^2 is the person's area. Without a segmentation it is taken as 0.53 (the share of a person's box that is person)
    of the box around the target's joints; the shorter side counts as at least a third of the longer, since a body
    seen from the side has almost no area otherwise.

    Raises:
        ValueError: no target joint has a confidence above 0.
    """
    seen = target[:, 2] > 0
    if not seen.any():
        raise ValueError("no target joint has a confidence above 0: OKS is undefined")
    sides = np.ptp(target[seen, :2], axis=0).astype(np.float64)
    sides = np.maximum(sides, max(sides.max() / 3, 1.0))
    squared = np.square(predicted[seen, :2] - target[seen, :2], dtype=np.float64).sum(-1)
    return float(np.exp(-squared / (2 * 0.53 * sides.prod() * (2 * OKS_SIGMAS[seen]) ** 2)).mean())


def best_pairs(similarity: np.ndarray) -> dict[int, int]:
    """Return row -> column of a table (p, q): the most similar pair first, then the next of what is left, and so on."""
    pairs: dict[int, int] = {}
    for row, column in sorted(np.ndindex(similarity.shape), key=lambda pair: -similarity[pair]):
        if row not in pairs and column not in pairs.values():
            pairs[row] = column
    return pairs


def box_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of the boxes around two sets of points (j, 2), in [0, 1]; a point covers one pixel."""
    low, high = (np.stack([reduce(points, 0) for points in (first, second)]) for reduce in (np.min, np.max))
    area = (high - low + 1).prod(-1)
    shared = np.clip(high.min(0) - low.max(0) + 1, 0, None).prod()
    return float(shared / (area.sum() - shared))
