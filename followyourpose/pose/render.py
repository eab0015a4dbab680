"""Keypoints -> skeleton frames: MMPose's coloured limbs on black, the form in which the network sees a pose."""

from collections.abc import Sequence

import cv2
import numpy as np

from followyourpose.pose.skeleton import JOINT_COLORS, LIMBS, NUM_JOINTS

_SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates: 1/16 pixel
_CANVAS = 256  # smaller frames are drawn at about this size and reduced: a limb may be thinner than a pixel


def render_skeleton(
    people: Sequence[np.ndarray], height: int, width: int, min_confidence: float = 0.3, thickness: float | None = None
) -> np.ndarray:
    """Draws people's skeletons as (H, W, 3) uint8 RGB on black.

    Args:
        people: one array (17, 3) per person: x, y in pixels of the frame to draw, and confidence in [0, 1]. An empty
            sequence gives a black frame.
        height, width: size of the frame in pixels.
        min_confidence: joints below it, and the limbs that end in them, are left out.
        thickness: of the limbs, in pixels; None takes 1/50 of the longer side.

    Raises:
        ValueError: a person's array is not (17, 3).
    """
    scale = max(1, round(_CANVAS / max(height, width)))
    frame = np.zeros((height * scale, width * scale, 3), np.uint8)
    stroke = max(1, round(max(frame.shape) / 50 if thickness is None else thickness * scale))
    for person in people:
        person = np.asarray(person, np.float32)
        if person.shape != (NUM_JOINTS, 3):
            raise ValueError(f"a person's keypoints have shape {person.shape}, expected ({NUM_JOINTS}, 3)")
        seen = person[:, 2] >= min_confidence
        # Far outside the frame OpenCV's fixed-point numbers would overflow; the drawn part does not change.
        xy = (np.clip(person[:, :2], -1e4, 1e4) + 0.5) * scale - 0.5
        xy = np.round(xy * 2**_SHIFT).astype(int)
        for start, end, color in LIMBS:
            if seen[start] and seen[end]:
                cv2.line(frame, xy[start].tolist(), xy[end].tolist(), color, stroke, cv2.LINE_AA, _SHIFT)
        for joint in np.flatnonzero(seen):
            radius = int(stroke * 0.9 * 2**_SHIFT)
            cv2.circle(frame, xy[joint].tolist(), radius, JOINT_COLORS[joint], -1, cv2.LINE_AA, _SHIFT)
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) if scale > 1 else frame
