"""Retargeting: another body in the same motion. Limbs get new lengths, keep their directions, and stay connected."""

import numpy as np
import pytest

from followyourpose.pose.keypoints_file import ClipKeypoints
from followyourpose.pose.retarget import LIMBS, limb_lengths, retarget
from followyourpose.pose.skeleton import JOINT
from tests.poses import person, walking

LEG = [JOINT[f"{side}_{part}"] for side in ("left", "right") for part in ("knee", "ankle")]


def clip_of(*people: np.ndarray, width: int = 200, height: int = 100, ids: bool = True) -> ClipKeypoints:
    """Clip of people seen in all frames, (n, 17, 3) each."""
    frames = [[poses[i] for poses in people] for i in range(len(people[0]))]
    return ClipKeypoints(width, height, 8.0, frames, [list(range(len(people)))] * len(frames) if ids else None)


def poses_of(clip: ClipKeypoints, index: int = 0) -> np.ndarray:
    """Poses (n, 17, 3) of one person of a clip."""
    return np.stack([people[index] for people in clip.frames])


def direction(poses: np.ndarray, start: str, end: str) -> np.ndarray:
    """Unit vectors (n, 2) from one joint to another."""
    way = poses[:, JOINT[end], :2] - poses[:, JOINT[start], :2]
    return way / np.linalg.norm(way, axis=-1, keepdims=True)


def feet(poses: np.ndarray) -> np.ndarray:
    """Place (n, 2) of the feet: x between the ankles, y of the lower."""
    ankles = poses[:, [JOINT["left_ankle"], JOINT["right_ankle"]], :2]
    return np.stack([ankles[..., 0].mean(1), ankles[..., 1].max(1)], -1)


def test_without_a_change_nothing_changes() -> None:
    clip = clip_of(walking(10), walking(10, 120))
    for same in (retarget(clip), retarget(clip, limbs={"thigh": 1.0}), retarget(clip, reference=clip)):
        for index in range(2):
            np.testing.assert_allclose(poses_of(same, index), poses_of(clip, index), atol=1e-3)


def test_a_limb_gets_longer_in_its_direction_and_carries_the_limbs_behind_it() -> None:
    poses = walking(10)
    longer = poses_of(retarget(clip_of(poses), limbs={"shin": 1.5}))
    assert limb_lengths(longer)["shin"] == pytest.approx(1.5 * limb_lengths(poses)["shin"], rel=1e-3)
    for limb in set(LIMBS) - {"shin"}:
        assert limb_lengths(longer)[limb] == pytest.approx(limb_lengths(poses)[limb], rel=1e-3)
    for start, end in (("left_knee", "left_ankle"), ("right_hip", "right_knee"), ("right_elbow", "right_wrist")):
        np.testing.assert_allclose(direction(longer, start, end), direction(poses, start, end), atol=1e-3)
    np.testing.assert_array_equal(longer[..., 2], poses[..., 2])


def test_a_person_with_longer_legs_stands_on_the_same_place() -> None:
    poses = walking(10, speed=0)
    longer = poses_of(retarget(clip_of(poses), limbs={"shin": 1.5, "thigh": 1.5}))
    np.testing.assert_allclose(feet(longer)[0], feet(poses)[0], atol=1e-3)
    assert (longer[:, JOINT["nose"], 1] < poses[:, JOINT["nose"], 1] - 10).all()


def test_scale_makes_people_larger_about_their_feet_and_their_steps_with_them() -> None:
    poses = walking(10, speed=2.0)
    twice = poses_of(retarget(clip_of(poses), scale=2.0))
    stand = feet(poses)[0]
    np.testing.assert_allclose(twice[..., :2] - stand, 2 * (poses[..., :2] - stand), atol=1e-2)


def test_a_reference_gives_limbs_size_and_place() -> None:
    """The reference is half as tall, has long arms, and stands on the right of a frame of another size."""
    other = person(x=300, feet=390, height=160)
    for side in ("left", "right"):
        arm = [JOINT[f"{side}_{part}"] for part in ("shoulder", "elbow", "wrist")]
        other[arm[2], :2] += 0.5 * (other[arm[2], :2] - other[arm[1], :2])
    reference = clip_of(other[None], width=400, height=400)
    poses = walking(10, speed=0)
    moved = poses_of(retarget(clip_of(poses), reference))
    for limb, length in limb_lengths(moved).items():
        assert length == pytest.approx(limb_lengths(other[None])[limb] / 4, rel=1e-2), limb
    np.testing.assert_allclose(feet(moved)[0], feet(other[None])[0] / 4 + (50, 0), atol=0.1)  # in the square middle


def test_a_limb_that_the_reference_does_not_show_changes_as_the_others_do() -> None:
    other = person(height=160)
    other[LEG, 2] = 0
    poses = walking(10)
    moved = poses_of(retarget(clip_of(poses), clip_of(other[None])))
    for limb in ("thigh", "shin", "trunk"):
        assert limb_lengths(moved)[limb] == pytest.approx(2 * limb_lengths(poses)[limb], rel=1e-2)


def test_factors_come_on_top_of_a_reference() -> None:
    clip = clip_of(walking(10))
    moved = poses_of(retarget(clip, clip, limbs={"forearm": 1.3}))
    assert limb_lengths(moved)["forearm"] == pytest.approx(1.3 * limb_lengths(poses_of(clip))["forearm"], rel=1e-3)


def test_several_people_keep_their_places_beside_the_largest() -> None:
    clip = clip_of(walking(10, 40, height=80), walking(10, 120, height=60))
    reference = clip_of(person(x=70, height=80)[None])
    moved = retarget(clip, reference)
    shift = feet(poses_of(moved, 0))[0] - feet(poses_of(clip, 0))[0]
    np.testing.assert_allclose(shift, (30, 0), atol=0.1)
    np.testing.assert_allclose(feet(poses_of(moved, 1))[0] - feet(poses_of(clip, 1))[0], shift, atol=0.1)


def test_people_are_tracked_where_no_ids_are_given() -> None:
    clip = clip_of(walking(10, 40), walking(10, 150, height=50), ids=False)
    with_ids = retarget(clip_of(walking(10, 40), walking(10, 150, height=50)), scale=1.2)
    moved = retarget(clip, scale=1.2)
    assert moved.ids == [[0, 1]] * 10
    for index in range(2):
        np.testing.assert_array_equal(poses_of(moved, index), poses_of(with_ids, index))


def test_joints_that_are_lost_for_a_while_do_not_make_the_body_jump() -> None:
    """The hips, the root of the body, are not seen for some frames."""
    poses = walking(20)
    whole = poses_of(retarget(clip_of(poses), scale=1.5, limbs={"shin": 1.2}))
    lost = [JOINT["left_hip"], JOINT["right_hip"]]
    holed = poses.copy()
    holed[5:10, lost] = 0
    moved = poses_of(retarget(clip_of(holed), scale=1.5, limbs={"shin": 1.2}))
    upper = [JOINT["nose"], *(JOINT[f"{side}_{part}"] for side in ("left", "right") for part in ("elbow", "wrist"))]
    np.testing.assert_allclose(moved[:, upper], whole[:, upper], atol=0.5)
    assert (moved[5:10, lost, 2] == 0).all()


@pytest.mark.parametrize("seen", [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9], []])
def test_a_part_of_a_body_can_be_retargeted(seen: list[int]) -> None:
    poses = walking(6)
    poses[:, np.setdiff1d(np.arange(17), seen), 2] = 0
    moved = poses_of(retarget(clip_of(poses), clip_of(person()[None]), scale=1.5))
    assert np.isfinite(moved).all()
    np.testing.assert_array_equal(moved[..., 2], poses[..., 2])


def test_nobody_stays_nobody() -> None:
    empty = ClipKeypoints(100, 100, 8.0, [[], []])
    assert retarget(empty, clip_of(person()[None])).frames == [[], []]


def test_the_clip_itself_is_left_as_it_was() -> None:
    poses = walking(5)
    before = poses.copy()
    retarget(clip_of(poses), clip_of(person(height=40)[None]), scale=2.0)
    np.testing.assert_array_equal(poses, before)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"limbs": {"tigh": 1.1}}, "retarget.limbs: got 'tigh', .*the nearest is thigh"),
        ({"limbs": {"thigh": 0.0}}, "retarget.limbs.thigh: got 0.0, expected a finite number above 0"),
        ({"scale": float("nan")}, "retarget.scale: got nan"),
        ({"reference": ClipKeypoints(9, 9, 8.0, [[]])}, "retarget.reference: shows nobody"),
    ],
)
def test_what_cannot_be_done_is_named(wrong: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        retarget(clip_of(walking(3)), **wrong)
