"""The COCO-17 skeleton as data: joints, limbs, their colours, and what a mirror does to them.

Keypoints are arrays (17, 3): x and y in pixels, x to the right and y down, and a confidence in [0, 1]. "Left" is the
person's own left.
"""

import numpy as np

JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
JOINT = {name: index for index, name in enumerate(JOINTS)}
NUM_JOINTS = len(JOINTS)

# Each limb has its own colour, so that a network can tell left from right and arm from leg by colour alone.
# (from, to, RGB); drawn in this order.
LIMBS = tuple(
    (JOINT[start], JOINT[end], color)
    for start, end, color in (
        ("left_shoulder", "right_shoulder", (255, 60, 60)),
        ("left_hip", "right_hip", (120, 120, 255)),
        ("left_shoulder", "left_hip", (0, 190, 140)),
        ("right_shoulder", "right_hip", (0, 140, 190)),
        ("right_hip", "right_knee", (0, 120, 255)),
        ("right_knee", "right_ankle", (60, 0, 255)),
        ("left_hip", "left_knee", (0, 255, 120)),
        ("left_knee", "left_ankle", (0, 255, 255)),
        ("right_shoulder", "right_elbow", (255, 130, 0)),
        ("right_elbow", "right_wrist", (255, 230, 0)),
        ("left_shoulder", "left_elbow", (150, 255, 0)),
        ("left_elbow", "left_wrist", (0, 255, 0)),
        ("nose", "left_eye", (255, 0, 255)),
        ("nose", "right_eye", (200, 0, 255)),
        ("left_eye", "left_ear", (255, 0, 170)),
        ("right_eye", "right_ear", (255, 0, 90)),
    )
)

# Index of the joint that each joint becomes in a mirror: left and right change places.
MIRROR = np.array(
    [JOINT[n.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")] for n in JOINTS]
)


def flip_keypoints(keypoints: np.ndarray, width: int) -> np.ndarray:
    """Keypoints (..., 17, 3) of the mirrored image: x is reflected in `width` pixels, left and right joints swap."""
    flipped = keypoints[..., MIRROR, :].copy()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped


def body_height(keypoints: np.ndarray) -> float:
    """Height in pixels of the box around the joints (17, 3) that have a confidence above 0; 0.0 when none has."""
    y = keypoints[keypoints[:, 2] > 0, 1]
    return float(y.max() - y.min()) if len(y) else 0.0
