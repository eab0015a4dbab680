"""Tracks: people keep their identity, gaps are filled, jitter goes and motion stays, the largest are kept."""

import sys

import numpy as np
import pytest

from followyourpose.pose.similarity import box_overlap
from followyourpose.pose.skeleton import JOINT
from followyourpose.pose.track import Track, check_smoothing, fill_gaps, largest, link, per_frame, smooth
from tests.poses import person, walking


def frames_of(*people: np.ndarray) -> list[list[np.ndarray]]:
    """Poses (n, 17, 3) of several people -> the people per frame, in a random order."""
    rng = np.random.default_rng(0)
    return [[poses[i] for poses in rng.permutation(np.array(people))] for i in range(len(people[0]))]


# ---- link ------------------------------------------------------------------------------------------------------------


def test_people_keep_their_identity_whatever_order_they_come_in() -> None:
    people = [walking(20, x) for x in (30, 90, 150)]
    tracks = link(frames_of(*people))
    assert len(tracks) == 3 and all(track.start == 0 for track in tracks)
    found = sorted((track.poses for track in tracks), key=lambda poses: poses[0, 0, 0])
    np.testing.assert_array_equal(found, people)


def test_people_who_pass_each_other_keep_their_identity() -> None:
    """One near and one far: where they cross, their sizes differ."""
    near, far = walking(40, 20, 2.0, height=90), walking(40, 100, -2.0, height=45)
    tracks = link(frames_of(near, far))
    assert len(tracks) == 2
    assert {track.poses[0, 0, 0] for track in tracks} == {near[0, 0, 0], far[0, 0, 0]}
    for track in tracks:
        assert (np.abs(np.diff(track.poses[:, 0, 0])) == 2.0).all()


def test_a_fast_jump_is_still_the_same_person() -> None:
    """A fifth of the height in one frame: the poses are not alike, but their boxes overlap."""
    assert len(link([[person(50)], [person(66)]])) == 1
    assert len(link([[person(50)], [person(150)]])) == 2


@pytest.mark.parametrize(("gap", "tracks"), [(1, 1), (5, 1), (6, 2)])
def test_somebody_missing_for_a_few_frames_comes_back_as_the_same(gap: int, tracks: int) -> None:
    poses = walking(20, speed=0.5)
    frames = [[pose] for pose in poses]
    frames[4 : 4 + gap] = [[]] * gap
    found = link(frames, max_gap=5)
    assert len(found) == tracks
    if tracks == 1:
        assert len(found[0].poses) == 20 and (found[0].poses[4 : 4 + gap] == 0).all()


def test_frames_without_people_have_no_tracks() -> None:
    assert link([[], []]) == [] and link([]) == []


def test_joints_that_are_not_seen_are_not_compared() -> None:
    first, second = person(50), person(51)
    second[8:, :2], second[8:, 2] = 0.0, 0.1
    assert len(link([[first], [second]])) == 1
    unseen = person(50, confidence=0.1)
    assert len(link([[unseen], [unseen]])) == 2


def test_the_overlap_of_boxes() -> None:
    square = np.array([[0.0, 0.0], [9.0, 9.0]])  # 10 pixels wide and high
    assert box_overlap(square, square) == 1.0
    assert box_overlap(square, square + (5, 0)) == pytest.approx(50 / 150)
    assert box_overlap(square, square + 20) == 0.0


# ---- gaps ------------------------------------------------------------------------------------------------------------


def test_short_gaps_are_filled_on_a_line_and_long_ones_stay() -> None:
    poses = walking(20)
    elbow, knee = JOINT["left_elbow"], JOINT["left_knee"]
    holed = poses.copy()
    holed[3:6, elbow] = holed[3:6, knee] = holed[6:10, knee] = 0
    filled = fill_gaps(Track(0, holed), max_gap=3).poses
    np.testing.assert_allclose(filled[:, elbow], poses[:, elbow], atol=1e-4)  # it moves on a line
    np.testing.assert_array_equal(filled[:, knee], holed[:, knee])
    np.testing.assert_array_equal(np.delete(filled, [elbow], 1), np.delete(holed, [elbow], 1))


def test_nothing_is_filled_in_before_the_first_and_after_the_last_time_a_joint_is_seen() -> None:
    poses = walking(10)
    poses[:3, 0] = poses[8:, 0] = 0
    np.testing.assert_array_equal(fill_gaps(Track(0, poses), max_gap=5).poses, poses)


def test_a_person_lost_and_found_is_filled_in_whole() -> None:
    frames = [[pose] for pose in walking(12)]
    frames[5:8] = [[], [], []]
    (track,) = [fill_gaps(track) for track in link(frames)]
    people, _ = per_frame([track], 12)
    assert [len(each) for each in people] == [1] * 12


# ---- smoothing -------------------------------------------------------------------------------------------------------


def test_smoothing_keeps_uniform_and_accelerated_motion() -> None:
    pytest.importorskip("scipy")
    t = np.arange(30.0)
    poses = np.stack([person(50 + 2 * i - 0.05 * i**2, feet=95 + 0.02 * i**2) for i in t])
    np.testing.assert_allclose(smooth(Track(0, poses), 7).poses, poses, atol=1e-3)


def test_smoothing_takes_jitter_away() -> None:
    pytest.importorskip("scipy")
    poses = walking(60)
    shaken = poses.copy()
    shaken[..., :2] += np.random.default_rng(0).normal(0, 1, (60, 17, 2))

    def error(track: np.ndarray) -> float:
        return float(np.sqrt(np.square(track - poses)[..., :2].mean()))

    smoothed = smooth(Track(0, shaken), 7).poses
    assert error(smoothed) < 0.75 * error(shaken)
    np.testing.assert_array_equal(smoothed[..., 2], shaken[..., 2])


def test_smoothing_does_not_reach_over_frames_in_which_a_joint_is_not_seen() -> None:
    pytest.importorskip("scipy")
    poses = walking(30)
    poses[15:, :, 0] += 100  # elsewhere, after it was lost
    poses[12:15] = 0
    smoothed = smooth(Track(0, poses), 9).poses
    np.testing.assert_array_equal(smoothed[:12], smooth(Track(0, poses[:12]), 9).poses)
    np.testing.assert_array_equal(smoothed[12:15], 0)
    np.testing.assert_array_equal(smoothed[15:], smooth(Track(0, poses[15:]), 9).poses)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_tracks_shorter_than_the_window_are_smoothed_with_a_shorter_one(length: int) -> None:
    pytest.importorskip("scipy")
    poses = walking(length)
    assert smooth(Track(0, poses), 9).poses.shape == poses.shape


def test_only_smoothing_needs_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    track = Track(0, walking(9))
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert smooth(track, 0) is track
    for needs_scipy in (lambda: smooth(track, 5), lambda: check_smoothing(5)):
        with pytest.raises(ValueError, match=r'smooth: scipy is not installed; pip install -e "\.\[pose\]"'):
            needs_scipy()


# ---- the largest -----------------------------------------------------------------------------------------------------


def test_the_largest_people_are_kept() -> None:
    tracks = [Track(0, walking(10, x, height=height)) for x, height in ((20, 40), (60, 80), (140, 60))]
    (only,) = largest(tracks, 1)
    np.testing.assert_array_equal(only.poses, tracks[1].poses)
    np.testing.assert_array_equal([track.poses for track in largest(tracks, 2)], [tracks[1].poses, tracks[2].poses])
    assert len(largest(tracks, 5)) == 3 and largest([], 1) == []


def test_somebody_lost_for_long_and_found_again_stays_the_largest() -> None:
    first, second = Track(0, walking(10)), Track(30, walking(5))
    other = Track(0, walking(40, 150, height=40))
    people, ids = per_frame(largest([first, other, second], 1), 40)
    assert [len(each) for each in people] == [1] * 40
    assert [number for (number,) in ids] == [0] * 10 + [1] * 20 + [2] * 5 + [1] * 5


# ---- back to frames --------------------------------------------------------------------------------------------------


def test_frames_hold_the_people_seen_in_them() -> None:
    first, second = Track(0, walking(3)), Track(2, walking(2, 120))
    first.poses[1, :, 2] = 0.1
    people, ids = per_frame([first, second], 5)
    assert ids == [[0], [], [0, 1], [1], []]
    np.testing.assert_array_equal(people[2], [first.poses[2], second.poses[0]])
