"""evaluate-pose: COCO's judge counts people found, missed and doubled; jitter is what smoothing takes away."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from followyourpose.cli.main import main
from followyourpose.config import EvaluatePoseConfig, build_config
from followyourpose.data.video_io import write_video
from followyourpose.evaluation.evaluate_pose import evaluate_pose, steadiness
from followyourpose.evaluation.metrics import jitter
from followyourpose.pose.formats.coco import coco_annotations
from followyourpose.pose.keypoints_file import ClipKeypoints, write_keypoints
from followyourpose.puppets.world import render_scene, sample_scene
from tests.poses import person, walking

SIZE = 160
PEOPLE = [[person(45, 150, 120), person(110, 150, 130)], [person(80, 140, 100)], []]


def annotated(folder: Path, **changes: Any) -> Path:
    """Write three images with two people, one and nobody, and their annotations; return the latter's file."""
    content = coco_annotations(ClipKeypoints(SIZE, SIZE, 8.0, PEOPLE))
    for image in content["images"]:
        Image.new("RGB", (SIZE, SIZE)).save(folder / image["file_name"])
    (folder / "truth.json").write_text(json.dumps(content | changes))
    return folder / "truth.json"


def results(file: Path, people: list[list[np.ndarray]]) -> Path:
    rows = [
        {"image_id": image + 1, "category_id": 1, "score": 1.0, "keypoints": np.ravel(pose).tolist()}
        for image, poses in enumerate(people)
        for pose in poses
    ]
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def numbers(folder: Path, **settings: Any) -> dict[str, Any]:
    evaluate_pose(build_config(EvaluatePoseConfig, {"output": str(folder), **settings}))
    return json.loads((folder / "metrics.json").read_text())


def accuracy(folder: Path, people: list[list[np.ndarray]]) -> dict[str, Any]:
    """Numbers of people who were found, by COCO's judge."""
    truth, found = annotated(folder), results(folder / "found.json", people)
    content = numbers(folder / "out", annotations=str(truth), estimators=[str(found)])
    assert content["about"] == {"images": 3, "people": 3}
    return content["accuracy"][str(found)]


# ---- annotated images ------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def judge() -> None:
    pytest.importorskip("pycocotools", reason="the judge of COCO: pip install -e '.[pose]'")


def test_the_annotated_people_themselves_are_perfect(tmp_path: Path) -> None:
    got = accuracy(tmp_path, PEOPLE)
    assert (got["ap"], got["ap50"], got["ar"], got["pck@0.1"]) == (1.0, 1.0, 1.0, 1.0)
    assert (got["missed"], got["doubled"], got["others"]) == (0, 0, 0)
    assert "| 3 people in 3 images " in (tmp_path / "out" / "metrics.md").read_text()


def test_people_are_missed_doubled_or_nobody_annotated(tmp_path: Path) -> None:
    near = person(80, 140, 100, confidence=0.5) + np.float32([1, 0, 0])
    got = accuracy(tmp_path, [PEOPLE[0][:1], [PEOPLE[1][0], near], [person(80, 140, 60)]])
    assert (got["missed"], got["doubled"], got["others"]) == (1, 1, 1)
    assert got["pck@0.1"] == pytest.approx(2 / 3)


def test_joints_count_as_near_by_the_side_of_their_persons_box(tmp_path: Path) -> None:
    off = [[pose.copy() for pose in poses] for poses in PEOPLE]
    side = np.ptp(off[1][0][:, 1])
    off[1][0][0, 0] += 0.09 * side
    off[1][0][1, 0] += 0.11 * side
    assert accuracy(tmp_path, off)["pck@0.1"] == pytest.approx(50 / 51)


def test_nobody_found_is_everybody_missed(tmp_path: Path) -> None:
    clip = ClipKeypoints(SIZE, SIZE, 8.0, [[], [], []])
    write_keypoints(tmp_path / "nobody.json", clip)
    content = numbers(
        tmp_path / "out", annotations=str(annotated(tmp_path)), estimators=[str(tmp_path / "nobody.json")]
    )
    (got,) = content["accuracy"].values()
    assert (got["ap"], got["ar"], got["pck@0.1"], got["missed"]) == (0, 0, 0, 3)


def test_a_backend_runs_beside_one_that_cannot_be_had(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    frames, people = render_scene(sample_scene(np.random.default_rng(5), two=0), 4, 64, 64)
    clip = ClipKeypoints(64, 64, 8.0, [[pose for pose in poses if (pose[:, 2] > 0).any()] for poses in people[:1]])
    content = coco_annotations(clip)
    Image.fromarray(frames[0]).save(tmp_path / content["images"][0]["file_name"])
    (tmp_path / "a.json").write_text(json.dumps(content))
    write_video(tmp_path / "a.mp4", frames, 8)
    settings = [f"annotations={tmp_path / 'a.json'}", f"video={tmp_path / 'a.mp4'}", f"output={tmp_path / 'out'}"]
    assert main(["evaluate-pose", *settings, "estimators=[puppet, light:none.tflite]", "smooth=0"]) == 0
    got = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert got["accuracy"]["puppet"]["missed"] == 0 and got["steadiness"]["puppet"]["nobody"] == 0
    assert got["accuracy"]["puppet"]["ms"] > 0 and got["accuracy"]["puppet"]["memory"] > 1
    assert "none.tflite" in got["not_measured"]["light:none.tflite"]
    assert "light:none.tflite is not measured: " in capsys.readouterr().out


def test_real_people_of_coco_are_found_by_blazepose(material: Path, light: Path, tmp_path: Path) -> None:
    content = numbers(
        tmp_path / "out", annotations=str(material / "coco" / "test_coco.json"), estimators=[f"light:{light}"]
    )
    (got,) = content["accuracy"].values()
    assert content["about"]["people"] == 12
    assert got["ap50"] > 0.5 and got["missed"] <= 5 and got["doubled"] == 0 and got["others"] <= 1


# ---- a video ---------------------------------------------------------------------------------------------------------


def test_a_joint_of_even_speed_has_no_jitter() -> None:
    poses = np.stack([person(x=20 + 2 * t) for t in range(9)])
    assert jitter(poses).max() < 1e-4
    poses[4, 0, 1] += 3.0
    poses[6:, 3, 2] = 0  # unseen from there on
    lengths = np.sort(jitter(poses))
    assert len(lengths) == 16 * 7 + 4 and lengths[-3:].round(3).tolist() == [3.0, 3.0, 6.0]


def test_smoothing_takes_jitter_away() -> None:
    pytest.importorskip("scipy", reason="smoothing needs SciPy: pip install -e '.[pose]'")
    shaking = walking(40) + np.random.default_rng(0).normal(0, 1, (40, 17, 3)) * [1, 1, 0]
    got = steadiness([[pose] for pose in shaking.astype(np.float32)] + [[]], 200, 7)
    assert got["tracks"] == 1 and got["nobody"] == 1
    assert got["smoothed"] < 0.5 * got["jitter"] and 5 < got["jitter"] < 30
    assert steadiness([[], []], 200, 7) == {"tracks": 0, "nobody": 2, "jitter": None, "smoothed": None}


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "annotations, video: got neither"),
        ({"annotations": "TRUTH", "estimators": []}, "estimators: got none, expected one or more"),
        ({"annotations": "TRUTH", "estimators": ["ligth"]}, "estimators: got 'ligth', expected one of light, puppet"),
        ({"annotations": "TRUTH", "estimators": ["none.json"]}, "none.json: cannot be read"),
        ({"annotations": "TRUTH", "estimators": ["light:none.tflite"]}, "estimators: light:none.tflite: weights: none"),
        ({"annotations": "TRUTH", "smooth": 4}, "smooth: got 4, expected 0, or an odd number"),
        ({"annotations": "TRUTH", "images": "elsewhere"}, "000000.png: no such file; give its folder, images="),
        ({"annotations": "none.json"}, "none.json: cannot be read"),
        ({"video": "none.mp4"}, "none.mp4: no such file"),
        ({"annotations": "TRUTH", "estimators": ["TWO"]}, "two.json: got 2 frames, expected COCO's results of 3 image"),
        ({"annotations": "TRUTH", "estimators": ["LARGE"]}, "large.json: size: got 160x160, but the file has its own"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_in_one_line(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    names = {"TRUTH": annotated(tmp_path), "TWO": tmp_path / "two.json", "LARGE": tmp_path / "large.json"}
    write_keypoints(names["TWO"], ClipKeypoints(SIZE, SIZE, 8.0, PEOPLE[:2]))
    write_keypoints(names["LARGE"], ClipKeypoints(SIZE, 999, 8.0, PEOPLE))
    given = {
        key: [str(names.get(each, each)) for each in value] if isinstance(value, list) else names.get(value, value)
        for key, value in settings.items()
    }
    given = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    with pytest.raises(ValueError) as error:
        numbers(tmp_path / "out", **given)
    assert reason in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("categories", [{"id": 1, "keypoints": ["nose"]}], "categories: got 0 with the 17 joints of COCO"),
        ("images", {"a": 1}, "images: got dict, expected a list"),
        ("annotations", [{"category_id": 1, "image_id": 9}], "annotations[0].image_id: got 9, expected the id"),
        ("annotations", [{"category_id": 1, "image_id": 1, "keypoints": [1, 2, 2]}], "got 1 joints, expected 17"),
        (
            "annotations",
            [{"category_id": 1, "image_id": 1, "keypoints": [1, 2, 2] * 17, "bbox": [1]}],
            "annotations[0].bbox: got [1], expected four numbers",
        ),
    ],
)
def test_annotations_that_are_none_are_named(tmp_path: Path, key: str, value: Any, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        numbers(tmp_path / "out", annotations=str(annotated(tmp_path, **{key: value})), estimators=["light"])
    assert reason in str(error.value)
