"""Motions of a puppet's body over time, from joint angles to COCO-17 joints in space.

Shapes: f frames. Space is right-handed to the eye: x to the right of the image, y down, z towards the viewer. Lengths
are in units of body height. A limb segment's direction is given by two angles: `swing` (forwards, about the x axis)
and `spread` (sideways, away from the body); both 0 means hanging straight down.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from followyourpose.pose.skeleton import JOINT, NUM_JOINTS

SEGMENTS = ("upper_arm", "forearm", "thigh", "shin")
LENGTH = {"upper_arm": 0.17, "forearm": 0.16, "thigh": 0.23, "shin": 0.23}
TORSO, NECK_TO_HEAD, HEAD_RADIUS = 0.29, 0.13, 0.115
SHOULDER, HIP = 0.115, 0.07  # half widths


@dataclass
class Pose:
    """A body over f frames, in degrees.

    Attributes:
        swing, spread: (f, 2, 4) angles of SEGMENTS on the left (index 0) and right (1) side.
        lean, tilt: (f,) of the torso, forwards and towards the person's left.
        hop: (f,) height of the feet above the ground, in body heights.
    """

    swing: np.ndarray
    spread: np.ndarray
    lean: np.ndarray
    tilt: np.ndarray
    hop: np.ndarray

    @classmethod
    def standing(cls, frames: int) -> "Pose":
        spread = np.tile(np.array([14.0, 8.0, 5.0, 3.0]), (frames, 2, 1))
        zeros = np.zeros(frames)
        return cls(np.zeros((frames, 2, 4)), spread, zeros, zeros.copy(), zeros.copy())

    def set(self, side: int, segment: str, swing: np.ndarray | float | None = None, spread=None) -> None:
        index = SEGMENTS.index(segment)
        if swing is not None:
            self.swing[:, side, index] = swing
        if spread is not None:
            self.spread[:, side, index] = spread


def joints_in_space(pose: Pose, yaw: float) -> tuple[np.ndarray, np.ndarray]:
    """Forward kinematics: the joints (f, 17, 3) and the head's centre (f, 3) of a body turned by `yaw` degrees.

    The origin is on the ground below the middle of the hips; the lower ankle stands on the ground unless the body hops.
    Yaw 0 faces the viewer, 90 looks to the right of the image.
    """
    frames = len(pose.lean)
    joints = np.zeros((frames, NUM_JOINTS, 3))
    lean, tilt = np.radians(pose.lean), np.radians(pose.tilt)
    up = np.stack([np.sin(tilt), -np.cos(tilt) * np.cos(lean), np.cos(tilt) * np.sin(lean)], -1)
    across = np.stack([np.cos(tilt), np.sin(tilt), np.zeros(frames)], -1)
    neck = up * TORSO
    head = neck + up * NECK_TO_HEAD
    forward = np.cross(across, up) * -1.0

    for name, sideways, height, depth in (
        ("nose", 0.0, -0.1, 1.0),
        ("left_eye", 0.4, 0.25, 0.85), ("right_eye", -0.4, 0.25, 0.85),
        ("left_ear", 0.95, 0.05, 0.0), ("right_ear", -0.95, 0.05, 0.0),
    ):  # fmt: skip
        joints[:, JOINT[name]] = head + HEAD_RADIUS * (sideways * across + height * up + depth * forward)
    for index, (side, sign) in enumerate((("left", 1.0), ("right", -1.0))):
        swing, spread = np.radians(pose.swing[:, index]), np.radians(pose.spread[:, index])
        direction = np.stack(
            [sign * np.sin(spread), np.cos(spread) * np.cos(swing), np.cos(spread) * np.sin(swing)], -1
        )  # (f, 4, 3)
        shoulder, hip = neck + sign * SHOULDER * across, sign * HIP * np.array([1.0, 0.0, 0.0])
        for root, name, chain in (
            (shoulder, "shoulder", (("upper_arm", "elbow"), ("forearm", "wrist"))),
            (np.tile(hip, (frames, 1)), "hip", (("thigh", "knee"), ("shin", "ankle"))),
        ):
            joints[:, JOINT[f"{side}_{name}"]] = point = root
            for segment, end in chain:
                point = point + LENGTH[segment] * direction[:, SEGMENTS.index(segment)]
                joints[:, JOINT[f"{side}_{end}"]] = point

    ground = joints[:, [JOINT["left_ankle"], JOINT["right_ankle"]], 1].max(1)
    drop = np.stack([np.zeros(frames), -ground - pose.hop, np.zeros(frames)], -1)
    turn = np.radians(yaw)
    rotation = np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]])
    return (joints + drop[:, None]) @ rotation, (head + drop) @ rotation


def _wave(t: np.ndarray, low: float, high: float, shift: float = 0.0) -> np.ndarray:
    return low + (high - low) * (0.5 + 0.5 * np.sin(2 * np.pi * (t + shift)))


def _stride(t: np.ndarray, reach: float, knee: float, arm: float, elbow: float) -> Pose:
    pose = Pose.standing(len(t))
    for side, shift in ((0, 0.0), (1, 0.5)):
        thigh = _wave(t, -reach, reach, shift)
        pose.set(side, "thigh", swing=thigh)
        pose.set(side, "shin", swing=thigh - _wave(t, 5, knee, shift + 0.25))
        upper = _wave(t, -arm, arm, shift + 0.5)
        pose.set(side, "upper_arm", swing=upper)
        pose.set(side, "forearm", swing=upper + elbow)
    return pose


def walk(t: np.ndarray, rng: np.random.Generator) -> Pose:
    pose = _stride(t, reach=rng.uniform(20, 32), knee=rng.uniform(30, 50), arm=rng.uniform(20, 35), elbow=20)
    pose.lean[:] = 3
    return pose


def run(t: np.ndarray, rng: np.random.Generator) -> Pose:
    pose = _stride(t, reach=rng.uniform(40, 55), knee=rng.uniform(85, 110), arm=rng.uniform(40, 55), elbow=80)
    pose.lean[:] = rng.uniform(8, 16)
    pose.hop[:] = _wave(2 * t, 0.0, 0.04)
    return pose


def march(t: np.ndarray, rng: np.random.Generator) -> Pose:
    pose = _stride(t, reach=10, knee=10, arm=rng.uniform(45, 60), elbow=10)
    for side, shift in ((0, 0.0), (1, 0.5)):
        lift = np.maximum(_wave(t, -80, 80, shift), 0)
        pose.set(side, "thigh", swing=lift)
        pose.set(side, "shin", swing=-0.1 * lift)
    return pose


def wave(t: np.ndarray, rng: np.random.Generator) -> Pose:
    pose, side = Pose.standing(len(t)), int(rng.integers(2))
    pose.set(side, "upper_arm", spread=rng.uniform(95, 140))
    pose.set(side, "forearm", spread=_wave(t, 130, 205))
    pose.tilt[:] = _wave(t, -4, 4)
    return pose


def dance(t: np.ndarray, rng: np.random.Generator) -> Pose:
    pose, phase = Pose.standing(len(t)), rng.uniform(0.3, 0.7)
    low, high = sorted(rng.uniform((10, 80), (60, 150)))
    for side, shift in ((0, 0.0), (1, phase)):
        upper = _wave(t, low, high, shift)
        pose.set(side, "upper_arm", spread=upper)
        pose.set(side, "forearm", spread=upper + _wave(t, -20, 80, shift + 0.2))
        thigh = _wave(t, 2, 26, shift)
        pose.set(side, "thigh", spread=thigh, swing=_wave(t, 0, 30, shift))
        pose.set(side, "shin", spread=thigh * 0.3, swing=_wave(t, -30, 0, shift))
    pose.tilt[:] = _wave(t, -12, 12)
    return pose


def jump(t: np.ndarray, rng: np.random.Generator) -> Pose:
    pose = Pose.standing(len(t))
    crouch, height = np.maximum(_wave(t, -1, 1), 0), rng.uniform(0.12, 0.2)
    pose.hop[:] = height * np.maximum(_wave(t, -1, 1, 0.5), 0)
    for side in (0, 1):
        pose.set(side, "thigh", swing=60 * crouch)
        pose.set(side, "shin", swing=-40 * crouch - 100 * pose.hop)
        pose.set(side, "upper_arm", swing=-30 * crouch, spread=_wave(t, 20, 160, 0.5))
        pose.set(side, "forearm", swing=-10 * crouch, spread=_wave(t, 20, 170, 0.5))
    pose.lean[:] = 25 * crouch
    return pose


def squat(t: np.ndarray, rng: np.random.Generator) -> Pose:
    pose, depth = Pose.standing(len(t)), _wave(t, 0, 1)
    spread = rng.uniform(15, 45)
    for side in (0, 1):
        pose.set(side, "thigh", swing=70 * depth, spread=8 + spread * depth)
        pose.set(side, "shin", swing=-35 * depth, spread=4)
        pose.set(side, "upper_arm", swing=0, spread=20 + 65 * depth)
        pose.set(side, "forearm", swing=0, spread=20 + 70 * depth)
    pose.lean[:] = 15 * depth
    return pose


def star_jump(t: np.ndarray, rng: np.random.Generator) -> Pose:
    pose, wide = Pose.standing(len(t)), _wave(t, 0, 1)
    pose.hop[:] = 0.05 * _wave(2 * t, 0, 1)
    for side in (0, 1):
        pose.set(side, "upper_arm", spread=15 + rng.uniform(110, 135) * wide)
        pose.set(side, "forearm", spread=10 + 145 * wide)
        pose.set(side, "thigh", spread=4 + 26 * wide)
        pose.set(side, "shin", spread=3 + 24 * wide)
    return pose


def clap(t: np.ndarray, rng: np.random.Generator) -> Pose:
    pose, height = Pose.standing(len(t)), rng.uniform(40, 150)
    for side in (0, 1):
        pose.set(side, "upper_arm", swing=height, spread=_wave(t, 0, 55))
        pose.set(side, "forearm", swing=height + 10, spread=_wave(t, -45, 45))
    return pose


def bow(t: np.ndarray, rng: np.random.Generator) -> Pose:
    pose, depth = Pose.standing(len(t)), _wave(t, 0, 1)
    pose.lean[:] = rng.uniform(40, 65) * depth
    for side in (0, 1):
        pose.set(side, "upper_arm", swing=-20 * depth, spread=12 + 30 * depth)
        pose.set(side, "forearm", swing=-20 * depth, spread=8 + 30 * depth)
    return pose


def kick(t: np.ndarray, rng: np.random.Generator) -> Pose:
    pose, side = Pose.standing(len(t)), int(rng.integers(2))
    lift = _wave(t, 0, 1)
    pose.set(side, "thigh", swing=rng.uniform(60, 95) * lift, spread=8 + 12 * lift)
    pose.set(side, "shin", swing=80 * lift - 50 * (1 - lift) * lift * 4)
    pose.set(side, "upper_arm", swing=-35 * lift, spread=20 + 20 * lift)
    pose.set(1 - side, "upper_arm", swing=35 * lift, spread=20 + 40 * lift)
    pose.lean[:] = -12 * lift
    return pose


def punch(t: np.ndarray, rng: np.random.Generator) -> Pose:
    pose, height = Pose.standing(len(t)), rng.uniform(75, 105)
    for side, shift in ((0, 0.0), (1, 0.5)):
        out = _wave(t, 0, 1, shift)
        pose.set(side, "upper_arm", swing=15 + (height - 15) * out, spread=15)
        pose.set(side, "forearm", swing=120 - (120 - height) * out, spread=5)
        pose.set(side, "thigh", swing=25 if side else -20, spread=8)
        pose.set(side, "shin", swing=5 if side else -30, spread=4)
    pose.lean[:] = 6
    return pose


def improvise(t: np.ndarray, rng: np.random.Generator) -> Pose:
    """Smooth random limbs: every angle is a random sum of two slow waves, in a range that a body can reach."""
    pose = Pose.standing(len(t))

    def drift(low: float, high: float) -> np.ndarray:
        weight, shift = rng.dirichlet((1.0, 1.0)), rng.uniform(size=2)
        return low + (high - low) * sum(
            w * _wave(k * t, 0, 1, s) for k, w, s in zip((1, 2), weight, shift, strict=True)
        )

    for side in (0, 1):
        upper, swing = drift(0, 165), drift(-50, 110) * rng.choice((0.0, 1.0))
        pose.set(side, "upper_arm", swing=swing, spread=upper)
        pose.set(side, "forearm", swing=swing + drift(0, 100), spread=upper + drift(-70, 90))
        thigh = drift(-30, 75) * rng.choice((0.0, 1.0))
        pose.set(side, "thigh", swing=thigh, spread=drift(0, 40))
        pose.set(side, "shin", swing=thigh - drift(0, 90), spread=drift(0, 20))
    pose.lean[:], pose.tilt[:] = drift(-5, 25), drift(-15, 15)
    return pose


Motion = Callable[[np.ndarray, np.random.Generator], Pose]
MOTIONS: dict[str, Motion] = {
    f.__name__: f
    for f in (walk, run, wave, dance, jump, squat, star_jump, clap, bow, improvise, march, kick, punch)
}  # fmt: skip
HELD_OUT_MOTIONS = ("march", "kick", "punch")
