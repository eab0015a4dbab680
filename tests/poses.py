"""Poses for several test files: a standing person, clips of walking people, and how puppets are found."""

import numpy as np

from followyourpose.config import PoseConfig
from followyourpose.pose.skeleton import JOINT

PUPPETS = PoseConfig(source="raw", backend="puppet")

# A person 1 tall at x = 0, feet at y = 0, arms a little away from the body.
_RIGHT = {
    "eye": (-0.02, -0.95), "ear": (-0.05, -0.94), "shoulder": (-0.1, -0.82), "elbow": (-0.16, -0.65),
    "wrist": (-0.2, -0.48), "hip": (-0.07, -0.5), "knee": (-0.08, -0.27), "ankle": (-0.09, -0.03),
}  # fmt: skip


def person(x: float = 50.0, feet: float = 95.0, height: float = 80.0, confidence: float = 0.9) -> np.ndarray:
    """Pose (17, 3) of a person at x with the soles at y = `feet`, in pixels."""
    pose = np.zeros((17, 3), np.float32)
    pose[JOINT["nose"], :2] = (0.0, -0.92)
    for part, (dx, dy) in _RIGHT.items():
        pose[JOINT[f"right_{part}"], :2], pose[JOINT[f"left_{part}"], :2] = (dx, dy), (-dx, dy)
    pose[:, :2] = pose[:, :2] * height + (x, feet)
    pose[:, 2] = confidence
    return pose


def walking(frames: int, x: float = 50.0, speed: float = 1.5, height: float = 80.0) -> np.ndarray:
    """Poses (n, 17, 3) of a person walking to the right by `speed` pixels per frame with swinging arms and legs."""
    poses = np.stack([person(x + speed * i, height=height) for i in range(frames)])
    swing = 0.06 * height * np.sin(2 * np.pi * np.arange(frames) / 12)
    for name, sign in (("left_wrist", 1), ("right_wrist", -1), ("left_ankle", -1), ("right_ankle", 1)):
        poses[:, JOINT[name], 0] += sign * swing
    return poses
