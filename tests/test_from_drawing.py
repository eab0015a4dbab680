"""Drawn skeletons as keypoints: below 1 % of the height on our own drawings, and whoever is not drawn is not found."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from followyourpose.data.video_io import read_frames, write_video
from followyourpose.pose.from_drawing import has_swapped_colors, people_of_drawing
from followyourpose.pose.render import render_skeleton
from followyourpose.pose.skeleton import JOINT, MIRROR, STYLES
from tests.poses import person


def dancing(size: int, x: float = 0.5) -> list[np.ndarray]:
    """Poses (17, 3) in a frame of that size: arms that hang, cross, rise and hide the face; legs apart and crossed."""
    poses = [person(size * x, 0.95 * size, 0.85 * size, 1.0) for _ in range(5)]
    moves = [
        {},
        {"left_wrist": (-0.12, -0.55), "right_wrist": (0.12, -0.6), "left_knee": (0.2, -0.3), "left_ankle": (0.22, 0)},
        {"left_elbow": (0.2, -0.95), "left_wrist": (0.12, -1.1), "right_elbow": (-0.28, -0.8)},
        {"right_elbow": (-0.22, -0.75), "right_wrist": (-0.03, -0.88), "left_ankle": (-0.14, -0.05)},
        {"left_elbow": (0.22, -0.7), "left_wrist": (0.1, -0.6), "right_ankle": (-0.25, -0.1)},
    ]
    for pose, move in zip(poses, moves, strict=True):
        for joint, place in move.items():
            pose[JOINT[joint], :2] = np.array(place) * 0.85 * size + (size * x, 0.95 * size)
    return poses


def errors(frames: Sequence[np.ndarray], poses: Sequence[np.ndarray], swapped: bool = False) -> np.ndarray:
    """Distances of the joints that are seen, in percent of the frame's height."""
    found = [people_of_drawing(frame, swapped) for frame in frames]
    assert [len(people) for people in found] == [1] * len(poses)
    for (pose,), true in zip(found, poses, strict=True):
        assert ((pose[:, 2] > 0) == (true[:, 2] > 0)).all()
    distances = [
        np.linalg.norm(pose[:, :2] - true[:, :2], axis=1)[true[:, 2] > 0]
        for (pose,), true in zip(found, poses, strict=True)
    ]
    return 100 * np.concatenate(distances) / frames[0].shape[0]


@pytest.mark.parametrize("size", [128, 256, 640])
def test_our_own_drawings_give_their_joints_to_one_percent(size: int) -> None:
    poses = dancing(size)
    got = errors([render_skeleton([pose], size, size) for pose in poses], poses)
    assert got.mean() < 0.6 and np.quantile(got, 0.95) < 3


def test_compression_costs_little(tmp_path: Path) -> None:
    poses = dancing(256)
    write_video(tmp_path / "a.mp4", np.stack([render_skeleton([pose], 256, 256) for pose in poses]), 8)
    assert errors(read_frames(tmp_path / "a.mp4"), poses).mean() < 1


def test_swapped_colours_are_recognised_and_read() -> None:
    poses = dancing(256)[:2]
    ours, old = ([render_skeleton([pose], 256, 256, style=style) for pose in poses] for style in ("coco", "coco_bgr"))
    assert not has_swapped_colors(ours) and has_swapped_colors(old)
    assert errors(old, poses, swapped=True).mean() < 0.6


def test_a_person_from_behind_has_the_left_on_the_left() -> None:
    poses = [pose[MIRROR] for pose in dancing(256)[:2]]
    assert errors([render_skeleton([pose], 256, 256) for pose in poses], poses).mean() < 0.6


def test_joints_that_are_not_drawn_are_unseen() -> None:
    poses = dancing(256)[:2]
    for pose in poses:
        pose[[JOINT["left_elbow"], JOINT["left_wrist"], JOINT["right_ankle"]], 2] = 0
    assert errors([render_skeleton([pose], 256, 256) for pose in poses], poses).mean() < 2


def test_people_side_by_side_are_told_apart() -> None:
    for left, right in zip(dancing(512, 0.25)[:2], dancing(512, 0.75)[1:3], strict=True):
        found = sorted(people_of_drawing(render_skeleton([right, left], 512, 512), False), key=lambda each: each[0, 0])
        for pose, true in zip(found, (left, right), strict=True):
            assert np.linalg.norm(pose[:, :2] - true[:, :2], axis=1).mean() < 5


def test_people_who_touch_and_other_drawings_are_left_out() -> None:
    pair = [dancing(256, 0.45)[2], dancing(256, 0.55)[1]]
    assert people_of_drawing(render_skeleton(pair, 256, 256), False) == []
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    blobs = cv2.resize(noise[:6, :8], (128, 96))
    for frame in (np.zeros_like(noise), np.full_like(noise, 255), noise, blobs, noise[:1, :1]):
        assert people_of_drawing(frame, False) == []


def test_the_authors_skeleton_is_found_whole(material: Path) -> None:
    """Without truth: drawn again, its lines are nowhere far from the frame's."""
    frames = read_frames(material / "fyp_vis_ikun_pose1.MOV", [0, 40, 80, 120])
    assert has_swapped_colors(frames)
    for frame in frames:
        (pose,) = people_of_drawing(frame, True)
        assert (pose[:, 2] > 0).all()
        again = np.zeros(frame.shape[:2], np.uint8)
        for start, end, _ in STYLES["coco"].limbs:
            cv2.line(again, *pose[[start, end], :2].round().astype(int).tolist(), 255, 12)
        lit = frame.max(-1) > 128
        away = cv2.distanceTransform(255 - again, cv2.DIST_L2, 5)[lit]
        assert away.mean() < 0.0005 * frame.shape[0] and np.quantile(away, 0.99) < 0.01 * frame.shape[0]
