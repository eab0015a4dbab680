"""pose convert and pose edit from the command line: keypoints and drawn skeletons in, any format out, or one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from followyourpose.cli.main import main
from followyourpose.data.video_io import probe, read_frames, write_video
from followyourpose.pose.formats import read_any
from followyourpose.pose.keypoints_file import ClipKeypoints, read_keypoints, write_keypoints
from followyourpose.pose.recognise import drawing_of
from followyourpose.pose.render import render_skeleton
from followyourpose.pose.skeleton import JOINT
from tests.poses import walking

CLIP = ClipKeypoints(160, 120, 12.0, [[pose] for pose in walking(4, 60, 4.0, 90)], [[3]] * 4)


@pytest.fixture
def keypoints(tmp_path: Path) -> Path:
    write_keypoints(tmp_path / "keypoints.json", CLIP)
    return tmp_path / "keypoints.json"


def drawn(path: Path, style: str = "coco") -> Path:
    write_video(path, np.stack([render_skeleton(people, 120, 160, style=style) for people in CLIP.frames]), 12)
    return path


def test_keypoints_become_any_format_and_come_back(
    keypoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("a.coco.json", "a.openpose.json", "openpose"):
        assert main(["pose", "convert", str(keypoints), str(tmp_path / name)]) == 0
        assert main(["pose", "convert", str(tmp_path / name), str(tmp_path / f"back-{name}.json"), "--fps", "12"]) == 0
        back = read_keypoints(tmp_path / f"back-{name}.json")
        assert (back.width, back.height, back.fps, back.ids) == (160, 120, 12.0, CLIP.ids)
        np.testing.assert_allclose(np.stack(back.frames)[..., :2], np.stack(CLIP.frames)[..., :2], atol=0.5)
    out = capsys.readouterr().out
    assert "ControlNet, 4 frames, 4 poses" in out and "does not hold the frame rate" in out


def test_openpose_without_a_size_takes_the_given_one(tmp_path: Path) -> None:
    row = {"people": [{"pose_keypoints_2d": [30.0, 40.0, 0.9] * 18}]}
    (tmp_path / "a.json").write_text(json.dumps(row))
    assert main(["pose", "convert", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--size", "64x48"]) == 0
    assert (read_keypoints(tmp_path / "b.json").width, read_keypoints(tmp_path / "b.json").fps) == (64, 8.0)


def test_keypoints_become_a_drawn_skeleton(keypoints: Path, tmp_path: Path) -> None:
    assert main(["pose", "convert", str(keypoints), str(tmp_path / "a.mp4")]) == 0
    info = probe(tmp_path / "a.mp4")
    assert (info.num_frames, info.fps, info.width, info.height) == (4, 12.0, 160, 120)
    assert drawing_of(read_frames(tmp_path / "a.mp4")) == "coco"


def test_a_drawn_skeleton_becomes_keypoints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["pose", "convert", str(drawn(tmp_path / "a.mp4")), str(tmp_path / "a.json")]) == 0
    assert "drawn in MMPose's colours, 4 frames, 4 poses" in capsys.readouterr().out
    clip = read_keypoints(tmp_path / "a.json")
    assert (clip.width, clip.height, clip.fps, clip.ids) == (160, 120, 12.0, [[0]] * 4)
    distance = np.linalg.norm((np.stack(clip.frames) - np.stack(CLIP.frames))[..., :2], axis=-1)
    assert distance.mean() < 0.01 * 120


def test_moves_are_made_from_arguments_and_files(
    keypoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "moves.txt").write_text("hide nose 0:2  # covered by a hat\n\nshift all 3 x=5\n")
    move = "set left_wrist 1 x=12 y=34"
    assert main(["pose", "edit", str(keypoints), str(tmp_path / "b.json"), move, str(tmp_path / "moves.txt")]) == 0
    assert "3 moves of 20 joints" in capsys.readouterr().out
    clip = read_any(tmp_path / "b.json").clip()
    assert clip.frames[1][0][JOINT["left_wrist"]].tolist() == [12, 34, 1]
    assert [people[0][0, 2] > 0 for people in clip.frames] == [False, False, True, True]
    np.testing.assert_allclose(clip.frames[3][0][:, 0], CLIP.frames[3][0][:, 0] + 5, atol=1e-3)
    assert clip.ids == CLIP.ids


@pytest.mark.parametrize(
    ("source", "arguments", "reason"),
    [
        ("openpose.mp4", [], "openpose.mp4: got a drawing in OpenPose's colours, expected keypoints, or limbs in"),
        ("raw.mp4", [], "raw.mp4: got a raw video, for extract-pose, expected"),
        ("black.mp4", [], "black.mp4: got black frames, expected"),
        ("coco.mp4", ["--size", "64x64"], "coco.mp4: size: got 64x64, but its own is 160x120"),
        ("touching.mp4", [], "touching.mp4: no skeleton can be read; people have to be drawn whole, and apart"),
        ("none.mp4", [], "none.mp4: no such file or folder, expected keypoints, or a video"),
        ("notes.txt", [], "notes.txt: "),
    ],
)
def test_a_source_that_cannot_be_read_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, source: str, arguments: list[str], reason: str
) -> None:
    (tmp_path / "notes.txt").write_text("x")
    rng = np.random.default_rng(0)
    noise = np.kron(rng.integers(60, 256, (2, 12, 16, 3), np.uint8), np.ones((1, 10, 10, 1), np.uint8))
    for name, make in (
        ("openpose.mp4", lambda path: drawn(path, "openpose")),
        ("coco.mp4", drawn),
        ("raw.mp4", lambda path: write_video(path, noise, 8)),
        ("black.mp4", lambda path: write_video(path, np.zeros_like(noise), 8)),
    ):
        if source == name:
            make(tmp_path / name)
    if source == "touching.mp4":
        pair = [CLIP.frames[0][0], CLIP.frames[0][0] + np.float32([12, 4, 0])]
        write_video(tmp_path / source, np.stack([render_skeleton(pair, 120, 160)] * 2), 8)
    assert main(["pose", "convert", str(tmp_path / source), str(tmp_path / "out.json"), *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert reason in error and not (tmp_path / "out.json").exists()
