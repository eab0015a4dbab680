"""The COCO-17 skeleton as data: joints, limbs, drawing styles, mirroring.

Keypoints are arrays (17, 3): x and y in pixels, x to the right and y down, and a confidence in [0, 1]. "Left" is the
person's own left.
"""

import colorsys
from dataclasses import dataclass

import numpy as np

JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
JOINT = {name: index for index, name in enumerate(JOINTS)}
NUM_JOINTS = len(JOINTS)
SEEN = 0.3  # confidence from which a joint counts as seen, and is drawn

# MMPose's colours for COCO (its coco.py): the person's left is green, the right orange, the middle blue. Before 1.0 its
# pictures had red and blue swapped, as the authors' own skeleton video has: style coco_bgr.
LEFT, RIGHT, MIDDLE = (0, 255, 0), (255, 128, 0), (51, 153, 255)  # RGB
_BODY = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
JOINT_COLORS = tuple(
    MIDDLE if name.split("_")[-1] not in _BODY else LEFT if name.startswith("left") else RIGHT for name in JOINTS
)
# (from, to, RGB), in drawing order.
LIMBS = tuple(
    (JOINT[start], JOINT[end], color)
    for start, end, color in (
        ("left_ankle", "left_knee", LEFT), ("left_knee", "left_hip", LEFT),
        ("right_ankle", "right_knee", RIGHT), ("right_knee", "right_hip", RIGHT),
        ("left_hip", "right_hip", MIDDLE),
        ("left_shoulder", "left_hip", MIDDLE), ("right_shoulder", "right_hip", MIDDLE),
        ("left_shoulder", "right_shoulder", MIDDLE),
        ("left_shoulder", "left_elbow", LEFT), ("right_shoulder", "right_elbow", RIGHT),
        ("left_elbow", "left_wrist", LEFT), ("right_elbow", "right_wrist", RIGHT),
        ("left_eye", "right_eye", MIDDLE), ("nose", "left_eye", MIDDLE), ("nose", "right_eye", MIDDLE),
        ("left_eye", "left_ear", MIDDLE), ("right_eye", "right_ear", MIDDLE),
        ("left_ear", "left_shoulder", MIDDLE), ("right_ear", "right_shoulder", MIDDLE),
    )
)  # fmt: skip

# OpenPose's 18 joints: COCO's, and a neck midway between the shoulders.
BODY_18 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
_NECK = (JOINT["left_shoulder"], JOINT["right_shoulder"])
_OPENPOSE_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
_RAINBOW = tuple(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / 18, 1.0, 1.0)) for i in range(18))


@dataclass(frozen=True)
class Style:
    """Drawing style of a skeleton: limbs in their order, joints on top."""

    # (j, 2) indices of the two COCO joints that a drawn joint lies midway between; equal for a COCO joint
    between: np.ndarray
    joint_colors: tuple[tuple[int, int, int], ...]  # (j, 3) RGB
    limbs: tuple[tuple[int, int, tuple[int, int, int]], ...]  # (from, to, RGB), indices of drawn joints
    limb_widths: int  # the frame's longer side, in widths of a limb
    radius: float  # radius of a joint, in widths of a limb


_OWN = np.stack([np.arange(NUM_JOINTS)] * 2, 1)
STYLES = {
    "coco": Style(_OWN, JOINT_COLORS, LIMBS, 50, 0.9),
    "coco_bgr": Style(
        _OWN, tuple(color[::-1] for color in JOINT_COLORS), tuple((a, b, color[::-1]) for a, b, color in LIMBS), 50, 0.9
    ),
    # The training data of ControlNet's OpenPose models: joints in rainbow colours, limbs at 0.6 of their brightness.
    "openpose": Style(
        np.array([_NECK if name == "neck" else (JOINT[name],) * 2 for name in BODY_18]),
        _RAINBOW,
        tuple((a, b, tuple(round(0.6 * c) for c in _RAINBOW[i])) for i, (a, b) in enumerate(_OPENPOSE_LIMBS)),
        64,
        0.5,
    ),
}

# Index of each joint's mirror image: left and right change places.
MIRROR = np.array(
    [JOINT[n.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")] for n in JOINTS]
)


def flip_keypoints(keypoints: np.ndarray, width: int) -> np.ndarray:
    """Mirror keypoints (..., 17, 3) of an image `width` pixels wide: x is reflected, left and right joints swap."""
    flipped = keypoints[..., MIRROR, :].copy()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped


def body_height(keypoints: np.ndarray) -> float:
    """Height in pixels of the box around the joints (17, 3) with a confidence above 0; 0.0 without any."""
    y = keypoints[keypoints[:, 2] > 0, 1]
    return float(y.max() - y.min()) if len(y) else 0.0
