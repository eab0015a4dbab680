"""Edits of keypoints: each move does what it says, and a wrong one is named."""

import numpy as np
import pytest

from followyourpose.pose.edit import edit
from followyourpose.pose.keypoints_file import ClipKeypoints
from followyourpose.pose.skeleton import JOINT
from tests.poses import person, walking

WRIST = JOINT["left_wrist"]
POSES = walking(6)
ONE = ClipKeypoints(200, 100, 8, [[pose] for pose in POSES])
TWO = ClipKeypoints(200, 100, 8, [[person(30), person(120)], [person(120)], []], [[4, 7], [7], []])


def edited(clip: ClipKeypoints, *moves: str) -> np.ndarray:
    """The first person of each frame (n, 17, 3)."""
    return np.stack([people[0] for people in edit(clip, moves)[0].frames if people])


def test_set_places_a_joint_in_some_frames_and_nothing_else() -> None:
    found = edited(ONE, "set left_wrist 2:4 x=120 y=80")
    expected = POSES.copy()
    expected[2:4, WRIST] = (120, 80, 1)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.stack([people[0] for people in ONE.frames]), POSES)  # the input stays
    assert edited(ONE, "set left_wrist 2 x=5 confidence=0.4")[2, WRIST].tolist() == pytest.approx(
        [5, POSES[2, WRIST, 1], 0.4]
    )


def test_shift_moves_hide_hides_and_copy_copies() -> None:
    expected = POSES.copy()
    expected[1:, [WRIST, 0], :2] += (3, -2.5)
    np.testing.assert_allclose(edited(ONE, "shift left_wrist,nose 1: x=3 y=-2.5"), expected)
    expected = POSES.copy()
    expected[:, :, 2] = 0
    np.testing.assert_array_equal(edited(ONE, "hide all :"), expected)
    expected = POSES.copy()
    expected[:3, WRIST] = POSES[5, WRIST]
    np.testing.assert_array_equal(edited(ONE, "copy left_wrist :3 from=5"), expected)


def test_moves_are_made_one_after_the_other_and_counted() -> None:
    clip, count = edit(ONE, ["set left_wrist 0 x=10 y=10", "shift left_wrist 0:2 x=1", "copy left_wrist 1 from=0"])
    assert count == 4 and clip.frames[1][0][WRIST].tolist() == [11, 10, 1]


def test_one_of_several_people_is_chosen_by_id_or_place() -> None:
    clip, count = edit(TWO, ["set left_wrist : x=1 y=2 person=7"])
    assert count == 2 and [clip.frames[0][1][WRIST, 0], clip.frames[1][0][WRIST, 0]] == [1, 1]
    np.testing.assert_array_equal(clip.frames[0][0], TWO.frames[0][0])
    clip, _ = edit(ClipKeypoints(200, 100, 8, TWO.frames), ["set left_wrist 0 x=1 person=1"])
    assert clip.frames[0][1][WRIST, 0] == 1 and clip.frames[0][0][WRIST, 0] != 1


@pytest.mark.parametrize(
    ("move", "reason"),
    [
        ("move left_wrist 1 x=1", "got 'move', expected one of set, shift, hide, copy, as in \"set left_wrist 10:14"),
        ("set left_wrist", "expected set JOINT FRAMES"),
        ("set left_rist 1 x=1", "got joint 'left_rist', expected one of COCO's, or all; the nearest is left_wrist"),
        ("set left_wrist 1 z=1", "got 'z=1', expected x=, y=, confidence=, person="),
        ("hide left_wrist 1 x=1", "got 'x=1', expected person="),
        ("set left_wrist 1", "expected x= or y=, a number"),
        ("set left_wrist 1 x=far", "x: got 'far', expected a number"),
        ("set left_wrist 1 x=nan", "x: got 'nan', expected a number"),
        ("set left_wrist 1 x=1 confidence=2", "confidence: got 2, expected a number from 0 to 1"),
        ("set left_wrist one x=1", "got frames 'one', expected a number from 0, or A:B"),
        ("set left_wrist 3:3 x=1", "got frames 3:3, expected some of the 3 from 0 to 2"),
        ("set left_wrist 3 x=1", "got frames 3, expected some of the 3 from 0 to 2"),
        ("copy left_wrist 1", "expected from=, a number"),
        ("copy left_wrist 1 from=9", "from: got 9, expected a frame from 0 to 2"),
        ("copy left_wrist 1 from=2", "from: nobody is in frame 2"),
        ("copy left_wrist 1 from=0.5", "from: got '0.5', expected a whole number"),
        ("hide left_wrist 0", "frame 0 shows 2 people, expected person=N, one of 4, 7"),
        ("hide left_wrist 0 person=5", "nobody is in these frames"),
        ("hide left_wrist 2", "nobody is in these frames"),
    ],
)
def test_a_wrong_move_is_named_in_one_line(move: str, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        edit(TWO, [move])
    assert str(error.value).startswith(f"{move}: ") and reason in str(error.value) and "\n" not in str(error.value)
