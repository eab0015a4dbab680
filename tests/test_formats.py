"""Other tools' keypoints: recognised by content, read as COCO-17, and written so that they are read back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from followyourpose.pose.formats import format_of, is_keypoints, read_any, write_any
from followyourpose.pose.formats.mediapipe import COCO
from followyourpose.pose.formats.openpose import BODY_18, BODY_25
from followyourpose.pose.keypoints_file import ClipKeypoints, write_keypoints
from followyourpose.pose.skeleton import JOINT, JOINTS
from tests.poses import person, walking

SIZE = (320, 240)
POSES = walking(4, x=150, height=200) + np.array([0, 120, 0], np.float32)
ZEROS = [0, 0, 0]


def written(folder: Path, content: Any, name: str = "keypoints.json") -> Path:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder / name


def clip_of(path: Path, size: tuple[int, int] | None = SIZE) -> ClipKeypoints:
    return read_any(path).clip(size)


def openpose(pose: np.ndarray, names: tuple[str, ...] = BODY_18, **more: Any) -> dict[str, Any]:
    """A person of OpenPose's: joints by name, the neck and the hips' middle in between, feet a little below."""
    between = {
        "neck": (pose[JOINT["left_shoulder"]] + pose[JOINT["right_shoulder"]]) / 2,
        "middle_hip": (pose[JOINT["left_hip"]] + pose[JOINT["right_hip"]]) / 2,
    }
    joints = [pose[JOINT[name]] if name in JOINT else between.get(name, np.array([9, 9, 0.5])) for name in names]
    return {"person_id": [-1], "pose_keypoints_2d": np.concatenate(joints).tolist()} | more


def landmarks(pose: np.ndarray) -> list[dict[str, float]]:
    """A person of MediaPipe's, in shares of the frame."""
    points = np.zeros((33, 3))
    points[COCO] = pose / (*SIZE, 1)
    return [{"x": x, "y": y, "z": 0.1, "visibility": seen} for x, y, seen in points.tolist()]


def instance(pose: np.ndarray, joints: int = 17) -> dict[str, Any]:
    more = np.full((joints - 17, 3), 7.0)
    xy = np.concatenate([pose, more])
    return {"keypoints": xy[:, :2].tolist(), "keypoint_scores": xy[:, 2].clip(0, 1).tolist(), "bbox": [[0, 0, 9, 9]]}


def annotations(poses: list[np.ndarray], flag: float = 2, **more: Any) -> list[dict[str, Any]]:
    rows = []
    for number, pose in enumerate(poses):
        joints = np.column_stack([pose[:, :2], np.full(17, flag)])
        rows.append({"id": number, "image_id": number, "category_id": 1, "keypoints": joints.ravel().tolist()} | more)
    return rows


def images(count: int, **more: Any) -> list[dict[str, Any]]:
    size = {"width": SIZE[0], "height": SIZE[1]}
    return [{"id": i, "file_name": f"{i}.png"} | size | more for i in range(count)]


CANVAS = {"canvas_width": SIZE[0], "canvas_height": SIZE[1]}
SHARES = POSES / np.array([*SIZE, 1], np.float32)
NAMES = [*reversed(JOINTS), "head_top"]  # another order than COCO's
FILES = {
    "openpose 18": ({"version": 1.3, "people": [openpose(POSES[0])]}, "OpenPose", 1),
    "openpose 25": ({"people": [openpose(POSES[0], BODY_25)]}, "OpenPose", 1),
    "openpose, shares": ({"people": [openpose(SHARES[0])]}, "OpenPose", 1),
    "controlnet": ({"people": [openpose(SHARES[0])]} | CANVAS, "ControlNet", 1),
    "dwpose, a video": ([{"people": [openpose(pose)]} | CANVAS for pose in POSES], "ControlNet", 4),
    "coco": ({"images": images(4), "annotations": annotations(list(POSES))}, "COCO", 4),
    "coco's results": (annotations(list(POSES), 0.9, score=0.8), "COCO's results", 4),
    "alphapose": (
        [each | {"image_id": f"{i}.jpg"} for i, each in enumerate(annotations(list(POSES), 0.9))], "COCO's results", 4,
    ),
    "mmpose, an image": ([instance(POSES[0])], "MMPose", 1),
    "mmpose, a video": ([{"frame_id": i, "instances": [instance(pose)]} for i, pose in enumerate(POSES)], "MMPose", 4),
    "mmpose, a demo": (
        {
            "meta_info": {"dataset_name": "coco", "keypoint_id2name": dict(enumerate(JOINTS))},
            "instance_info": [{"frame_id": i + 1, "instances": [instance(pose)]} for i, pose in enumerate(POSES)],
        },
        "MMPose", 4,
    ),
    "mmpose, a result": ({"predictions": [[instance(pose)] for pose in POSES]}, "MMPose", 4),
    "mediapipe, an image": (landmarks(POSES[0]), "MediaPipe", 1),
    "mediapipe, a result": ({"pose_landmarks": [landmarks(POSES[0])]}, "MediaPipe", 1),
    "mediapipe, protobuf": ({"pose_landmarks": {"landmark": landmarks(POSES[0])}}, "MediaPipe", 1),
    "mediapipe, a video": ([landmarks(pose) for pose in POSES], "MediaPipe", 4),
    "mediapipe, lists": ([[[[*row.values()] for row in landmarks(pose)]] for pose in POSES], "MediaPipe", 4),
    "mediapipe, frames": (
        {"width": 320, "height": 240, "fps": 24, "frames": [{"landmarks": [landmarks(pose)]} for pose in POSES]},
        "MediaPipe", 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_recognised_and_read(tmp_path: Path, name: str) -> None:
    content, tool, count = FILES[name]
    reading = read_any(written(tmp_path, content))
    clip = reading.clip(reading.size or SIZE)
    assert reading.layout.tool == tool and (clip.width, clip.height) == SIZE
    assert [len(people) for people in clip.frames] == [1] * count
    for people, pose in zip(clip.frames, POSES, strict=False):
        np.testing.assert_allclose(people[0][:, :2], pose[:, :2], atol=0.01)
        assert (people[0][:, 2] > 0.8).all()


def test_a_folder_of_a_file_per_frame_is_a_clip_in_natural_order(tmp_path: Path) -> None:
    for number, pose in enumerate([*POSES, POSES[0]] * 3):
        names = BODY_25 if number % 2 else BODY_18  # files of both lengths
        written(tmp_path, {"people": [openpose(pose, names)]}, f"op/a_{number}_keypoints.json")
    written(tmp_path, {"people": []}, "op/a_15_keypoints.json")
    clip = clip_of(tmp_path / "op")
    assert len(clip.frames) == 16 and clip.frames[15] == []
    np.testing.assert_allclose(clip.frames[10][0], POSES[0], atol=1e-3)
    np.testing.assert_allclose(clip.frames[12][0], POSES[2], atol=1e-3)
    assert is_keypoints(tmp_path / "op")
    (tmp_path / "op" / "0.png").touch()
    assert not is_keypoints(tmp_path / "op")  # frames, with keypoints beside them


def test_images_of_mmpose_without_people_are_empty_frames(tmp_path: Path) -> None:
    for number, content in enumerate(([], [instance(POSES[0])], [])):
        written(tmp_path, content, f"mm/{number}.json")
    assert [len(people) for people in clip_of(tmp_path / "mm").frames] == [0, 1, 0]


def test_the_size_is_asked_for_where_the_file_has_none(tmp_path: Path) -> None:
    path = written(tmp_path, {"people": [openpose(POSES[0])]})
    with pytest.raises(ValueError, match=r"without the size of their frames; give it, .* --size 1280x720"):
        read_any(path).clip()
    with pytest.raises(ValueError, match="17 of 17 joints lie outside of 64 x 64 pixels, up to 190, .* of their video"):
        read_any(path).clip((64, 64))
    path = written(tmp_path, FILES["controlnet"][0])
    with pytest.raises(ValueError, match="size: got 64x64, but the file has its own, 320x240"):
        read_any(path).clip((64, 64))


def test_the_files_of_this_package_are_read_as_they_are(tmp_path: Path) -> None:
    clip = ClipKeypoints(*SIZE, 12.5, [[POSES[0], 0 * POSES[1]], []], [[3, 4], []])
    write_keypoints(tmp_path / "k.json", clip)
    (tmp_path / "skeleton.mp4").touch()
    for path in (tmp_path / "k.json", tmp_path):  # the folder of extract-pose, too
        read = read_any(path)
        assert read.own is not None and read.clip().ids == [[3, 4], []] and read.clip().fps == 12.5
        np.testing.assert_allclose(read.clip().frames[0], clip.frames[0], atol=1e-3)


@pytest.mark.parametrize(
    ("content", "lost"),
    [
        ({"people": [openpose(POSES[0], hand_left_keypoints_2d=[1, 2, 0.5] * 21)]}, "hands"),
        ({"people": [openpose(POSES[0], face_keypoints_2d=[1, 2, 0.5] * 70)]}, "face"),
        ({"people": [openpose(POSES[0], face_keypoints_2d=[0] * 210, hand_left_keypoints_2d=[])]}, ""),
        ({"people": [openpose(POSES[0], BODY_25)]}, "feet"),
        ({"images": images(1), "annotations": annotations([POSES[0]], lefthand_kpts=[5, 5, 1])}, "hands"),
        ([instance(POSES[0], 133)], "face, feet, hands"),
        ([instance(POSES[0], 26)], "feet"),
        ([{"pose_landmarks": landmarks(POSES[0]), "face_landmarks": landmarks(POSES[0])}], "face"),
    ],
)
def test_a_line_says_what_is_lost(tmp_path: Path, content: Any, lost: str) -> None:
    path = written(tmp_path, content)
    summary = read_any(path).summary
    assert "1 frame, 1 pose" in summary and summary.endswith(f"; left out: {lost}" if lost else "1 pose")


def test_joints_are_found_by_their_names(tmp_path: Path) -> None:
    """PoseTrack has other joints than COCO, in another order."""
    pose = np.concatenate([POSES[0][::-1], [[9, 9, 1]]])
    joints = np.column_stack([pose[:, :2], np.full(18, 2)]).ravel().tolist()
    row = {"image_id": 0, "category_id": 1, "keypoints": joints, "track_id": 7}
    content = {"images": images(1), "annotations": [row], "categories": [{"id": 1, "keypoints": NAMES}]}
    clip = clip_of(written(tmp_path, content))
    np.testing.assert_allclose(clip.frames[0][0][:, :2], POSES[0][:, :2], atol=1e-3)
    assert clip.ids == [[7]]


def test_images_of_several_sizes_are_chosen_by_name(tmp_path: Path) -> None:
    several = [*images(2), {"id": 2, "file_name": "b/large.jpg", "width": 999, "height": 999}]
    path = written(tmp_path, {"images": several, "annotations": annotations(list(POSES[:3]))})
    with pytest.raises(ValueError, match=r"3 images of several sizes \(.*\), expected those of one clip.* --images"):
        read_any(path)
    clip = read_any(path, "*large*").clip()
    assert (clip.width, len(clip.frames)) == (999, 1)
    np.testing.assert_allclose(clip.frames[0][0][:, :2], POSES[2][:, :2], atol=1e-3)
    with pytest.raises(ValueError, match="no image is named x"):
        read_any(path, "x")


def test_joints_without_numbers_are_unseen_and_empty_people_nobody(tmp_path: Path) -> None:
    broken = POSES[0].copy()
    broken[0], broken[1, 0], broken[2, 1], broken[3, 0] = np.nan, np.nan, np.inf, 1e300
    people = [openpose(broken), openpose(0 * POSES[0]), {"pose_keypoints_2d": []}, {}, {"pose_keypoints_2d": None}]
    people[0]["pose_keypoints_2d"][13] = None
    path = written(tmp_path, {"people": people})
    ((found,),) = clip_of(path).frames
    hidden = {0, 1, 2, 3, JOINT["right_wrist"]}
    assert set(np.flatnonzero(found[:, 2] == 0)) == hidden and np.isfinite(found).all()
    assert "1 frame, 1 pose" in read_any(path).summary


def test_joints_outside_stay_where_they_are(tmp_path: Path) -> None:
    pose = POSES[0].copy()
    pose[JOINT["left_ankle"], :2] = (-40, 500)
    ((found,),) = clip_of(written(tmp_path, {"people": [openpose(pose)]})).frames
    np.testing.assert_allclose(found, pose, atol=1e-3)
    ((found,),) = clip_of(written(tmp_path, landmarks(pose))).frames
    np.testing.assert_allclose(found, pose, atol=1e-3)


def test_frames_that_mmpose_leaves_out_show_nobody(tmp_path: Path) -> None:
    rows = [{"frame_id": i, "instances": [instance(POSES[0])]} for i in (5, 2)]
    assert [len(people) for people in clip_of(written(tmp_path, rows)).frames] == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": 1}, "got a mapping with a, expected keypoints of extract-pose, OpenPose, ControlNet, DWPose, COCO"),
        ([], "got a list, expected keypoints of"),
        (3, "got a int, expected keypoints of"),
        ({"width": 3}, "expected a mapping with width, height, fps, frames"),
        (
            {"people": [{"pose_keypoints_2d": [1, 2, 0.5] * 15}]},
            "people[0]: pose_keypoints_2d: got 15 joints, expected",
        ),
        ({"people": [{"pose_keypoints_2d": [1, 2]}]}, "got 2 numbers, expected x, y, confidence"),
        ({"people": [{"pose_keypoints_2d": "abc"}]}, "got no table of numbers"),
        ({"people": [3]}, "people[0]: got int, expected a mapping"),
        ({"people": {"a": 1}}, "people: got dict, expected a list"),
        ([{"people": []} | CANVAS, {"people": [], "canvas_width": 9, "canvas_height": 9}], "frames of 9 x 9 and 320 x"),
        (
            {"people": [], "canvas_width": "wide", "canvas_height": 9},
            "canvas_width: got 'wide', expected a whole number",
        ),
        ({"people": [openpose(2 * SHARES[0] - np.array([1, 1, 0]))]}, "expected pixels, or shares of the frame from 0"),
        ({"images": [], "annotations": []}, "no image, expected at least one"),
        ({"images": images(1), "annotations": [{"image_id": None}]}, "annotations[0].image_id: got None"),
        ({"images": images(1), "annotations": annotations([POSES[0]], keypoints=[1, 1, 2] * 14)}, "got 14 joints"),
        ([instance(POSES[0]) | {"keypoint_scores": [1]}], "expected [x, y] and"),
        ([instance(POSES[0]) | {"keypoints": [1, 2]}], "got shape (2,), expected a list of [x, y]"),
        ([{"frame_id": 0, "instances": []}, {"frame_id": 10**9, "instances": []}], "expected at most 1,000,000"),
        (landmarks(POSES[0])[:21], "got 21 landmarks, expected the 33 of MediaPipe's body"),
        ({"people": [openpose(POSES[0])]} | {"width": 0, "height": 9}, "width: got 0, expected a number above 0"),
        (annotations([SHARES[0]], 1.0), "expected pixels of a 320 x 240 frame; normalised coordinates"),
    ],
)
def test_a_file_of_none_of_these_is_refused_in_one_line(tmp_path: Path, content: Any, reason: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ValueError) as error:
        reading = read_any(path)
        reading.clip(reading.size or SIZE)
    message = str(error.value)
    assert str(path) in message and reason in message and "\n" not in message and len(message) < 500


def test_a_folder_of_several_tools_or_sizes_is_refused(tmp_path: Path) -> None:
    written(tmp_path, {"people": [openpose(POSES[0])]} | CANVAS, "k/0.json")
    other = written(tmp_path, {"people": []} | CANVAS | {"canvas_width": 9}, "k/1.json")
    with pytest.raises(ValueError, match=r"1\.json: size: got \(9, 240\), expected \(320, 240\) as in 0\.json"):
        read_any(tmp_path / "k")
    written(tmp_path, [instance(POSES[0])], "k/1.json")
    with pytest.raises(ValueError, match=r"1\.json: tool: got MMPose, expected ControlNet as in 0\.json"):
        read_any(tmp_path / "k")
    written(tmp_path, {"no": 1}, "k/1.json")
    with pytest.raises(ValueError, match=r"1\.json: got no keypoints, expected ControlNet's as in 0\.json"):
        read_any(tmp_path / "k")
    other.unlink()
    (tmp_path / "k" / "0.json").unlink()
    with pytest.raises(ValueError, match="holds no .json files"):
        read_any(tmp_path / "k")


# ---- writing ---------------------------------------------------------------------------------------------------------


def crowd() -> ClipKeypoints:
    """Two people, of whom one leaves, with hidden joints, and an empty frame."""
    second = person(60, 200, 120).astype(np.float32)
    second[JOINT["left_wrist"]] = 0
    return ClipKeypoints(*SIZE, 8.0, [[POSES[0], second], [POSES[1]], []], [[0, 5], [0], []])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.json", "keypoints"), ("op", "openpose"), ("a.openpose.json", "openpose"), ("a.coco.json", "coco")],
)
def test_a_round_trip_is_exact(tmp_path: Path, name: str, kind: str) -> None:
    assert format_of(tmp_path / name) == kind
    clip = crowd()
    write_any(tmp_path / name, clip, kind)
    back = read_any(tmp_path / name).clip()
    assert (back.width, back.height, back.fps, back.ids) == (*SIZE, 8.0, clip.ids)
    for people, found in zip(clip.frames, back.frames, strict=True):
        for pose, other in zip(people, found, strict=True):
            seen = pose[:, 2] > 0
            assert (seen == (other[:, 2] > 0)).all()
            assert np.abs(pose[seen, :2] - other[seen, :2]).max() < 0.01
            assert kind == "coco" or np.abs(pose[seen, 2] - other[seen, 2]).max() < 0.01


def test_openpose_gets_a_neck_between_the_shoulders(tmp_path: Path) -> None:
    write_any(tmp_path / "op", crowd(), "openpose")
    files = sorted(file.name for file in (tmp_path / "op").iterdir())
    assert files[0] == "op_000000000000_keypoints.json" and len(files) == 3
    people = json.loads((tmp_path / "op" / files[0]).read_text())["people"]
    joints = np.array(people[0]["pose_keypoints_2d"]).reshape(18, 3)
    shoulders = [JOINT["left_shoulder"], JOINT["right_shoulder"]]
    np.testing.assert_allclose(joints[1], POSES[0][shoulders].mean(0), atol=1e-3)
    assert np.array(people[1]["pose_keypoints_2d"]).reshape(18, 3)[7].tolist() == ZEROS  # the left wrist
    assert "hand_left_keypoints_2d" not in people[0] and people[1]["person_id"] == [5]


def test_pycocotools_takes_what_is_written(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    write_any(tmp_path / "a.json", crowd(), "coco")
    truth = coco.COCO(str(tmp_path / "a.json"))
    results = [
        {key: row[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 1.0}
        for row in truth.dataset["annotations"]
    ]
    scores = COCOeval(truth, truth.loadRes(results), "keypoints")
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    assert scores.stats[0] == pytest.approx(1.0)


def test_flags_of_coco_stay(tmp_path: Path) -> None:
    pose = POSES[0].copy()
    pose[:4, 2] = (0.2, 0.3, 0.5, 0.51)
    write_any(tmp_path / "a.json", ClipKeypoints(*SIZE, 8, [[pose]]), "coco")
    (row,) = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert np.array(row["keypoints"]).reshape(17, 3)[:4, 2].tolist() == [0, 1, 1, 2] and row["num_keypoints"] == 16
    ((found,),) = clip_of(tmp_path / "a.json").frames
    assert found[:4, 2].tolist() == [0, 0.5, 0.5, 1.0]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    written(tmp_path, "x", "a.json")
    with pytest.raises(ValueError, match=r"a\.json: is there already"):
        write_any(tmp_path / "a.json", crowd(), "coco")
    written(tmp_path, "x", "op/b.json")
    with pytest.raises(ValueError, match=r"op: is there already"):
        write_any(tmp_path / "op", crowd(), "openpose")
    with pytest.raises(ValueError, match=r"a\.csv: expected a \.json file or a folder"):
        format_of(tmp_path / "a.csv")


def test_the_real_annotations_of_coco_are_read_by_image() -> None:
    folder = Path(__file__).resolve().parents[2] / "shared" / "material" / "coco"
    if not folder.is_dir():
        pytest.skip(f"no real annotations at {folder}")
    clip = read_any(folder / "test_coco.json", "*000000000785*").clip()
    assert (clip.width, clip.height) == (640, 425) and len(clip.frames) == 1
    assert sum((pose[:, 2] > 0).sum() >= 8 for pose in clip.frames[0]) >= 1
