"""Drawn skeletons: MMPose's and OpenPose's colours, the same at every size and every time."""

import numpy as np
import pytest

from followyourpose.pose.render import numbered, overlay, render_skeleton
from followyourpose.pose.skeleton import JOINT, LEFT, MIDDLE, RIGHT, STYLES
from tests.poses import person


def at(frame: np.ndarray, xy: np.ndarray) -> list[int]:
    x, y = np.round(xy).astype(int)
    return frame[y, x].tolist()


def between(pose: np.ndarray, first: str, second: str, share: float = 0.5) -> np.ndarray:
    return (1 - share) * pose[JOINT[first], :2] + share * pose[JOINT[second], :2]


BIG = person(x=256, feet=490, height=460)


def test_coco_has_mmposes_colours() -> None:
    frame = render_skeleton([BIG], 512, 512)
    assert at(frame, between(BIG, "left_hip", "left_knee")) == list(LEFT)
    assert at(frame, between(BIG, "right_elbow", "right_wrist")) == list(RIGHT)
    assert at(frame, between(BIG, "left_shoulder", "left_hip")) == list(MIDDLE)
    assert at(frame, BIG[JOINT["left_knee"], :2]) == list(LEFT)


def test_openpose_has_a_neck_and_the_colours_of_the_rainbow() -> None:
    frame = render_skeleton([BIG], 512, 512, style="openpose")
    neck = between(BIG, "left_shoulder", "right_shoulder")
    assert at(frame, neck) == [255, 85, 0] and at(frame, BIG[JOINT["nose"], :2]) == [255, 0, 0]
    assert at(frame, BIG[JOINT["left_hip"], :2]) == [0, 85, 255]
    assert at(frame, 0.5 * neck + 0.5 * BIG[JOINT["right_shoulder"], :2]) == [153, 0, 0]  # 0.6 of red
    assert at(frame, between(BIG, "left_hip", "right_hip")) == [0, 0, 0]  # the hips hang on the neck, not together


def test_the_neck_is_seen_where_both_shoulders_are() -> None:
    pose = BIG.copy()
    pose[JOINT["left_shoulder"], 2] = 0.1
    frame = render_skeleton([pose], 512, 512, style="openpose")
    assert at(frame, between(BIG, "left_shoulder", "right_shoulder")) == [0, 0, 0]


@pytest.mark.parametrize("style", STYLES)
def test_lines_are_as_thick_as_the_frame_is_large(style: str) -> None:
    """The same picture at twice the size, but for the edges."""
    small = render_skeleton([person(x=127.5, feet=245, height=230)], 256, 256, style=style)
    large = render_skeleton([person(x=255.5, feet=490.5, height=460)], 512, 512, style=style)
    halved = large.reshape(256, 2, 256, 2, 3).mean((1, 3))
    assert np.abs(halved - small).mean() < 3
    assert large.mean() == pytest.approx(small.mean(), rel=0.25)  # a line of OpenCV is up to a pixel thicker


@pytest.mark.parametrize("style", STYLES)
def test_edges_are_smooth_and_pictures_repeat(style: str) -> None:
    people = [BIG, person(x=100, feet=300, height=200)]
    frame = render_skeleton(people, 512, 512, style=style)
    assert len(np.unique(frame[..., 1])) > 50
    np.testing.assert_array_equal(frame, render_skeleton(people, 512, 512, style=style))


@pytest.mark.parametrize("style", STYLES)
def test_people_and_joints_are_drawn_only_where_they_are(style: str) -> None:
    assert render_skeleton([], 64, 48, style=style).shape == (64, 48, 3)
    assert render_skeleton([person(confidence=0.29)], 100, 100, style=style).max() == 0
    assert render_skeleton([person(confidence=0.29)], 100, 100, 0.2, style=style).max() > 0
    two = render_skeleton([person(30), person(120)], 100, 150, style=style)
    one, other = (render_skeleton([person(x)], 100, 150, style=style) for x in (30, 120))
    np.testing.assert_array_equal(two, np.maximum(one, other))


def test_another_style_is_refused() -> None:
    with pytest.raises(ValueError, match="style: got 'dots', expected one of coco, coco_bgr, openpose"):
        render_skeleton([], 8, 8, style="dots")


def test_an_overlay_shows_the_frame_where_nothing_is_drawn() -> None:
    frame = np.full((64, 64, 3), 100, np.uint8)
    skeleton = np.zeros_like(frame)
    skeleton[10, 10], skeleton[20, 20] = (0, 255, 0), (0, 0, 51)
    laid = overlay(frame, skeleton)
    assert laid.dtype == np.uint8 and laid[0, 0].tolist() == [100, 100, 100]
    assert laid[10, 10].tolist() == [0, 255, 0] and laid[20, 20].tolist() == [80, 80, 131]


def test_a_track_id_stands_beside_the_head_inside_of_the_frame_in_its_own_colour() -> None:
    frame, people = np.full((120, 160, 3), 90, np.uint8), [person(30), person(150), np.zeros((17, 3))]
    drawn = numbered(frame, people, [0, 11, 2])
    assert (frame == 90).all() and (drawn != frame).any()
    changed = (drawn != 90).any(-1)
    for pose, columns in ((people[0], slice(33, 50)), (people[1], slice(115, 148))):
        y = round(pose[:5, 1].mean())
        assert changed[y - 8 : y + 8, columns].sum() > 40
        changed[y - 8 : y + 8, columns] = False
    assert not changed.any()  # nor a number of nobody
    brightest = [drawn[:, side].reshape(-1, 3)[drawn[:, side].sum(-1).argmax()] for side in (slice(80), slice(80, 160))]
    assert (brightest[0] != brightest[1]).any()
