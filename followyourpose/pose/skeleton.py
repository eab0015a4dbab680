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

# MMPose's colours for COCO (its coco.py), which the released checkpoint was trained with: the person's left is green,
# the right orange, what is in the middle blue.
LEFT, RIGHT, MIDDLE = (0, 255, 0), (255, 128, 0), (51, 153, 255)  # RGB
_BODY = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
JOINT_COLORS = tuple(
    MIDDLE if name.split("_")[-1] not in _BODY else LEFT if name.startswith("left") else RIGHT for name in JOINTS
)
# (from, to, RGB); drawn in this order.
LIMBS = tuple(
    (JOINT[start], JOINT[end], color)
    for start, end, color in (
        ("left_ankle", "left_knee", LEFT),
        ("left_knee", "left_hip", LEFT),
        ("right_ankle", "right_knee", RIGHT),
        ("right_knee", "right_hip", RIGHT),
        ("left_hip", "right_hip", MIDDLE),
        ("left_shoulder", "left_hip", MIDDLE),
        ("right_shoulder", "right_hip", MIDDLE),
        ("left_shoulder", "right_shoulder", MIDDLE),
        ("left_shoulder", "left_elbow", LEFT),
        ("right_shoulder", "right_elbow", RIGHT),
        ("left_elbow", "left_wrist", LEFT),
        ("right_elbow", "right_wrist", RIGHT),
        ("left_eye", "right_eye", MIDDLE),
        ("nose", "left_eye", MIDDLE),
        ("nose", "right_eye", MIDDLE),
        ("left_eye", "left_ear", MIDDLE),
        ("right_eye", "right_ear", MIDDLE),
        ("left_ear", "left_shoulder", MIDDLE),
        ("right_ear", "right_shoulder", MIDDLE),
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
