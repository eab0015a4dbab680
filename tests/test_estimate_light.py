"""BlazePose on real people: found in every frame, once each, and nobody where nobody is."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from followyourpose.config import PoseConfig
from followyourpose.data.video_io import read_frames, write_video
from followyourpose.generation.extract_pose import extract_pose
from followyourpose.pose.estimate import open_estimator
from followyourpose.pose.estimate_light import LightPose, Region
from followyourpose.pose.similarity import object_keypoint_similarity
from followyourpose.pose.skeleton import flip_keypoints

DANCE, HIKE, STREET = "musepose_dance.mp4", "genl_hike.mp4", "mmpose_demo_street.mp4"


@pytest.fixture(scope="module")
def find(light: Path) -> Callable[[np.ndarray], list[list[np.ndarray]]]:
    return open_estimator("light", light)


@pytest.fixture(scope="module")
def dancer(material: Path) -> np.ndarray:
    """A dancer, (10, 480, 270, 3), every eighth frame of a video: the steps are large."""
    frames = read_frames(material / DANCE, range(0, 80, 8))
    return np.stack([cv2.resize(frame, (270, 480), interpolation=cv2.INTER_AREA) for frame in frames])


def alike(found: np.ndarray, expected: np.ndarray) -> float:
    return object_keypoint_similarity(found, np.concatenate([expected[:, :2], np.ones((17, 1))], 1))


# ---- geometry, without the networks ----------------------------------------------------------------------------------


def test_a_region_follows_another_over_the_shorter_turn() -> None:
    region = Region(0, 0, 10, np.pi - 0.1).towards(Region(4, 8, 20, -np.pi + 0.1), 0.5)
    np.testing.assert_allclose(region, (2, 4, 15, np.pi), atol=1e-6)


# ---- people ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "frames"), [(DANCE, 96), (HIKE, 240)])  # of 1080 x 1920 and 512 x 512 pixels
def test_nobody_is_missed_and_nobody_doubled_in_seconds_of_video(
    material: Path, light: Path, tmp_path: Path, name: str, frames: int, capsys: pytest.CaptureFixture
) -> None:
    clip = extract_pose(material / name, tmp_path / "out", PoseConfig(weights=str(light)), range(frames))
    assert len(clip.frames) == frames
    assert {len(people) for people in clip.frames} == {1} and {ids[0] for ids in clip.ids} == {0}
    assert f"1 person in {len(clip.frames)} frames\n" in capsys.readouterr().out


def test_people_of_coco_are_found_in_their_boxes(material: Path, light: Path) -> None:
    labels = json.loads((material / "coco" / "test_coco.json").read_text(encoding="utf-8"))
    similar = []
    for image in labels["images"]:
        frame = read_frames(material / "coco" / image["file_name"])
        people = [each for each in labels["annotations"] if each["image_id"] == image["id"]]
        for person in [each for each in people if each["num_keypoints"] >= 8]:
            x, y, width, height = person["bbox"]
            find = open_estimator("light", light, boxes=lambda _, box=(x, y, x + width, y + height): np.array([box]))
            ((found,),) = find(frame)
            similar.append(object_keypoint_similarity(found, np.reshape(person["keypoints"], (17, 3))))
    assert len(similar) == 12 and np.mean(similar) > 0.7 and sum(each > 0.5 for each in similar) >= 11


def test_a_mirrored_person_has_mirrored_joints(find: Callable, dancer: np.ndarray) -> None:
    for (pose,), (mirrored,) in zip(find(dancer), find(np.ascontiguousarray(dancer[:, :, ::-1])), strict=True):
        assert alike(flip_keypoints(mirrored, 270), pose) > 0.9


def test_a_person_and_the_mirror_image_are_two(find: Callable, dancer: np.ndarray) -> None:
    beside = np.concatenate([dancer, dancer[:, :, ::-1]], 2)
    for people in find(beside):
        left, right = sorted(people, key=lambda pose: pose[:, 0].mean())
        assert alike(flip_keypoints(right, 540), left) > 0.9


def test_a_still_gives_one_pose_that_holds_still(find: Callable, dancer: np.ndarray) -> None:
    found = np.stack([pose for (pose,) in find(np.stack([dancer[3]] * 8))])
    height = np.ptp(found[0, :, 1])
    assert np.linalg.norm(found[1:] - found[0], axis=-1).max() < 0.03 * height
    assert np.linalg.norm(found[-1] - found[-2], axis=-1).max() < 0.01 * height


def test_the_size_of_a_video_does_not_matter(find: Callable, material: Path, dancer: np.ndarray) -> None:
    large = read_frames(material / DANCE, range(0, 80, 8))
    for (pose,), (small,) in zip(find(large), find(dancer), strict=True):
        assert alike(small * (4, 4, 1), pose) > 0.9


def test_half_a_body_is_found_with_its_legs_unsure(find: Callable, dancer: np.ndarray) -> None:
    whole = [pose for (pose,) in find(dancer)]
    for (half,), pose in zip(find(np.ascontiguousarray(dancer[:, :240])), whole, strict=True):
        assert np.linalg.norm(half[:11, :2] - pose[:11, :2], axis=-1).mean() < 0.05 * np.ptp(pose[:, 1])
        assert half[13:, 2].max() < 0.3


def test_a_person_who_leaves_and_comes_back_is_found_again(find: Callable, dancer: np.ndarray) -> None:
    """Walks out to the right, and in from the left; the ground stays."""
    ground = np.concatenate([dancer[0, :, :40]] * 12, 1)
    frames = []
    for step, x in enumerate([150, 300, 430, 600, 600, -300, -300, -150, 0, 150]):
        frame, person = ground.copy(), dancer[step]
        low, high = max(0, x), min(480, x + 270)
        if low < high:
            frame[:, low:high] = person[:, low - x : high - x]
        frames.append(frame)
    counts = [len(people) for people in find(np.stack(frames))]
    assert counts[:2] == [1, 1] and counts[3:7] == [0] * 4 and counts[-2:] == [1, 1]


def test_each_of_ten_people_is_found_once(find: Callable, dancer: np.ndarray) -> None:
    row = np.concatenate(dancer, 1)  # (480, 2700, 3)
    for people in find(np.stack([row, row])):
        assert sorted(int(pose[:, 0].mean() // 270) for pose in people) == list(range(10))


def test_one_of_ten_people_is_kept_where_one_is_asked_for(light: Path, dancer: np.ndarray, tmp_path: Path) -> None:
    row = np.concatenate([*dancer[:9, :240:2, ::2], dancer[9, :120, :270]], 1)  # the last one is larger
    write_video(tmp_path / "row.mp4", np.stack([row] * 4), 8)
    clip = extract_pose(tmp_path / "row.mp4", tmp_path / "out", PoseConfig(weights=str(light), people=1))
    assert [len(people) for people in clip.frames] == [1] * 4


def test_the_largest_of_a_crowd_are_found(find: Callable, material: Path) -> None:
    assert all(1 <= len(people) <= 6 for people in find(read_frames(material / STREET)))


def test_a_cut_begins_anew(find: Callable, dancer: np.ndarray, material: Path) -> None:
    hike = np.stack([cv2.resize(frame, (480, 480))[:, 100:370] for frame in read_frames(material / HIKE, [0, 60])])
    cut = find(np.stack([dancer[0], hike[0], dancer[5], hike[1]]))
    for (pose,), (alone,) in zip(cut[::2], find(dancer[[0, 5]]), strict=True):
        assert alike(pose, alone) > 0.9


# ---- nobody ----------------------------------------------------------------------------------------------------------


def test_nobody_is_found_where_nobody_is(find: Callable, dancer: np.ndarray, material: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 120, 160, 3), np.uint8)
    blurred = np.stack([cv2.resize(frame[:8, :8], (160, 120)) for frame in noise])
    for frames in (np.zeros_like(noise), np.full_like(noise, 255), noise, blurred):
        assert find(frames) == [[], []]
    street = read_frames(material / STREET)[:, :100]  # houses
    meadow = dancer[:, 300:, 190:]
    for frames in (street, meadow):
        assert find(np.ascontiguousarray(frames)) == [[]] * len(frames)


def test_frames_of_any_shape_are_searched(find: Callable) -> None:
    for shape in ((1, 1), (1, 900), (900, 1), (3, 5), (64, 64)):
        assert find(np.full((2, *shape, 3), 127, np.uint8)) == [[], []]


# ---- files -----------------------------------------------------------------------------------------------------------


def test_files_that_are_no_such_networks_are_named(light: Path, tmp_path: Path) -> None:
    for name, content in (("pose_detection.tflite", b"TFL3"), ("pose_landmark_full.tflite", b"")):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="pose_detection.tflite: cannot be read as a LiteRT network"):
        LightPose(tmp_path / "pose_landmark_full.tflite")
    detector = light.with_name("pose_detection.tflite")
    (tmp_path / "pose_detection.tflite").write_bytes(detector.read_bytes())
    (tmp_path / "pose_landmark_full.tflite").write_bytes(detector.read_bytes())
    with pytest.raises(ValueError, match=r"pose_landmark_full.tflite: got input \(1, 224, 224, 3\) .*expected"):
        LightPose(tmp_path / "pose_landmark_full.tflite")
    (tmp_path / "pose_detection.tflite").unlink()
    with pytest.raises(ValueError, match="no such file; `followyourpose download light` brings it"):
        LightPose(tmp_path / "pose_landmark_full.tflite")
