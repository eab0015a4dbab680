"""extract-pose: a video of people -> skeletons, keypoints and an overlay, all of them or none."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from followyourpose.cli.main import main
from followyourpose.common.files import new_folder
from followyourpose.config import GenerateConfig, PoseConfig, load_config, locate
from followyourpose.data.video_io import probe, read_frames, write_video
from followyourpose.evaluation.metrics import pck
from followyourpose.generation.extract_pose import extract_pose
from followyourpose.generation.generate import load_pipeline, sample
from followyourpose.pose.detector import PuppetDetector
from followyourpose.pose.estimate import WEIGHTS, PoseEstimator
from followyourpose.pose.keypoints_file import read_keypoints
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.world import render_scene, sample_scene
from tests.poses import person, walking

PUPPET = PoseConfig(backend="puppet")
FILES = {"skeleton.mp4", "keypoints.json", "overlay.mp4"}


def video_of(path: Path, frames: int = 12, height: int = 100, width: int = 160) -> Path:
    """A video whose frames grow brighter with their number."""
    clip = np.broadcast_to((20 * np.arange(frames, dtype=np.uint8))[:, None, None, None], (frames, height, width, 3))
    write_video(path, clip, fps=12.5)
    return path


@pytest.fixture
def finding(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let every backend find given people per frame; a frame's brightness is its number."""

    def find(people: list[list[np.ndarray]]) -> None:
        def found(frames: np.ndarray) -> list[np.ndarray]:
            numbers = np.round(frames.mean((1, 2, 3)) / 20).astype(int)
            return [np.reshape(people[number], (-1, 17, 3)) for number in numbers]

        monkeypatch.setattr(
            "followyourpose.generation.extract_pose.open_estimator", lambda *_, **__: PoseEstimator(found)
        )

    return find


def test_a_puppet_video_gives_the_poses_that_it_was_drawn_from(tmp_path: Path) -> None:
    found, truth = [], []
    for seed in range(6):
        frames, people = render_scene(sample_scene(np.random.default_rng(seed), two=0), 16, 128, 128)
        write_video(tmp_path / f"{seed}.mp4", frames, fps=8)
        clip = extract_pose(tmp_path / f"{seed}.mp4", tmp_path / str(seed), replace(PUPPET, people=1))
        found += [each[0] if each else np.zeros((17, 3)) for each in clip.frames]
        truth += list(people[:, 0])
    assert pck(np.stack(found), np.stack(truth)) > 0.9


@pytest.mark.slow
def test_a_raw_video_drives_the_embedded_default_as_well_as_true_skeletons_do(tmp_path: Path) -> None:
    """Videos driven by poses found in a video are as near to the true poses, within a tenth."""
    config = load_config(GenerateConfig, locate("configs/puppet/generate.yaml"), ["num_inference_steps=10"])
    pipe = load_pipeline(config)
    pipe.set_progress_bar_config(disable=True)
    detector = PuppetDetector.from_pretrained(locate(WEIGHTS["puppet"])).eval()
    rng, correct = np.random.default_rng(0), []
    for index in range(8):
        scene = sample_scene(rng, two=0)
        frames, people = render_scene(scene, 4, 128, 128)
        write_video(tmp_path / f"{index}.mp4", frames, fps=8)
        clip = extract_pose(tmp_path / f"{index}.mp4", tmp_path / str(index), replace(PUPPET, people=1))
        for poses in (people, clip.frames):
            skeleton = np.stack([render_skeleton(each, 128, 128) for each in poses])
            drawn = detector.detect(sample(pipe, config, scene.caption, skeleton, seed=0))
            correct.append(pck(drawn, people[:, 0]))
    true, found = np.reshape(correct, (8, 2)).mean(0)
    assert true > 0.4 and found > 0.9 * true, (true, found)


def test_the_command_writes_skeleton_keypoints_and_overlay(
    tmp_path: Path, finding: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    poses = walking(12)
    finding([[pose] for pose in poses])
    assert (
        main(["extract-pose", str(video_of(tmp_path / "v.mp4")), "-o", str(tmp_path / "out"), "--backend", "puppet"])
        == 0
    )
    out, err = capsys.readouterr()
    assert out == f"1 person in 12 frames\n{tmp_path / 'out'}\n" and "finding people" in err and "12/12" in err
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES
    clip = read_keypoints(tmp_path / "out" / "keypoints.json")
    assert (clip.width, clip.height, clip.fps, clip.ids) == (160, 100, 12.5, [[0]] * 12)
    np.testing.assert_allclose(np.stack([each[0] for each in clip.frames]), poses, atol=1e-3)
    for name in ("skeleton.mp4", "overlay.mp4"):
        info = probe(tmp_path / "out" / name)
        assert (info.num_frames, info.fps, info.height, info.width) == (12, 12.5, 100, 160)
    skeleton, laid = (read_frames(tmp_path / "out" / name) for name in ("skeleton.mp4", "overlay.mp4"))
    expected = np.stack([render_skeleton([pose], 100, 160) for pose in poses])
    assert np.abs(skeleton.astype(int) - expected).mean() < 3
    empty = expected.max(-1) == 0
    for index in range(12):
        assert np.abs(laid[index][empty[index]].astype(int) - 20 * index).mean() < 3  # the frame it was found in


def test_people_are_numbered_in_the_overlay_alone_and_named_by_their_tracks(
    tmp_path: Path, finding: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    frames = [list(pair) for pair in zip(walking(12), walking(12, 110, height=50), strict=True)]
    finding([[], *frames[1:6], *(pair[:1] for pair in frames[6:])])
    clip = extract_pose(video_of(tmp_path / "v.mp4"), tmp_path / "out", replace(PUPPET, max_gap=0))
    assert "2 people in 12 frames; nobody in 1 of them; track ids: 0 (in 11), 1 (in 5)\n" in capsys.readouterr().out
    skeleton, laid = (read_frames(tmp_path / "out" / name)[3] for name in ("skeleton.mp4", "overlay.mp4"))
    for pose in clip.frames[3]:  # the places of the numbers, right of the heads
        x, y = np.round((pose[:5, 0].max() + 8, pose[:5, 1].mean())).astype(int)
        number = np.s_[y - 5 : y + 5, x - 3 : x + 4]
        assert skeleton[number].mean() < 10 and np.ptp(laid[number].astype(int).sum(-1)) > 200


def test_flags_reach_the_settings_of_that_name(tmp_path: Path, finding: Callable[..., None]) -> None:
    main_person, other = walking(12), walking(12, 110, height=50)
    frames = [[first, second] for first, second in zip(main_person, other, strict=True)]
    frames[5] = [other[5]]
    finding(frames)
    flags = ["--backend", "puppet", "--people", "1", "--max-gap", "2", "--style", "openpose", "--min-confidence", "0.5"]
    assert main(["extract-pose", str(video_of(tmp_path / "v.mp4")), "-o", str(tmp_path / "out"), *flags]) == 0
    clip = read_keypoints(tmp_path / "out" / "keypoints.json")
    assert [len(each) for each in clip.frames] == [1] * 12
    np.testing.assert_allclose(clip.frames[5][0][:5], main_person[5, :5], atol=1e-2)  # filled in
    skeleton = read_frames(tmp_path / "out" / "skeleton.mp4")
    expected = np.stack([render_skeleton(each, 100, 160, style="openpose") for each in clip.frames])
    assert np.abs(skeleton.astype(int) - expected).mean() < 3


def test_smoothing_makes_a_shaking_skeleton_steady(tmp_path: Path, finding: Callable[..., None]) -> None:
    pytest.importorskip("scipy")
    poses = walking(12)
    shaken = poses + np.random.default_rng(0).normal(0, 1, poses.shape) * (1, 1, 0)
    finding([[pose] for pose in shaken])
    clip = extract_pose(video_of(tmp_path / "v.mp4"), tmp_path / "out", replace(PUPPET, smooth=7))
    smooth = np.stack([each[0] for each in clip.frames])
    assert np.abs(smooth - poses).mean() < 0.8 * np.abs(shaken - poses).mean()


def test_a_video_without_people_gives_a_black_skeleton_and_a_hint(
    tmp_path: Path, finding: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    finding([[]] * 12)
    clip = extract_pose(video_of(tmp_path / "v.mp4"), tmp_path / "out", PUPPET)
    assert clip.frames == [[]] * 12
    assert read_frames(tmp_path / "out" / "skeleton.mp4").max() < 5
    assert "nobody was found in 12 frames, so the skeleton is black" in capsys.readouterr().out
    finding([[]] * 4 + [[person()]] * 8)
    extract_pose(tmp_path / "v.mp4", tmp_path / "some", PUPPET)
    assert capsys.readouterr().out == "1 person in 12 frames; nobody in 4 of them\n"


def test_a_range_of_frames_is_searched_alone(tmp_path: Path, finding: Callable[..., None]) -> None:
    poses = walking(12)
    finding([[pose] for pose in poses])
    clip = extract_pose(video_of(tmp_path / "v.mp4"), tmp_path / "out", PUPPET, range(3, 7))
    np.testing.assert_allclose(np.stack([each[0] for each in clip.frames]), poses[3:7], atol=1e-3)
    laid = read_frames(tmp_path / "out" / "overlay.mp4")
    np.testing.assert_allclose(laid[:, 0, 0].mean(-1), [60, 80, 100, 120], atol=3)


def test_few_frames_are_in_memory_at_a_time(
    tmp_path: Path, finding: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding([[person()]] * 12)
    monkeypatch.setattr("followyourpose.data.video_io._CHUNK_BYTES", 2 * 3 * 100 * 160)
    largest = []
    monkeypatch.setattr(
        PoseEstimator, "__call__", lambda self, frames: largest.append(len(frames)) or [[person()]] * len(frames)
    )
    extract_pose(video_of(tmp_path / "v.mp4"), tmp_path / "out", PUPPET)
    assert largest == [2] * 6


def test_images_have_poses_too(tmp_path: Path, finding: Callable[..., None]) -> None:
    from PIL import Image

    finding([[person()]])
    Image.fromarray(np.zeros((47, 63, 3), np.uint8)).save(tmp_path / "one.png")
    clip = extract_pose(tmp_path / "one.png", tmp_path / "out", PUPPET)
    assert (clip.width, clip.height, len(clip.frames)) == (63, 47, 1)
    assert probe(tmp_path / "out" / "skeleton.mp4").width == 64  # H.264 wants an even size


def test_a_failure_leaves_nothing_behind(tmp_path: Path, finding: Callable[..., None]) -> None:
    video = video_of(tmp_path / "v.mp4")
    finding([[person()]] * 3)  # frame 3 is an error
    with pytest.raises(IndexError):
        extract_pose(video, tmp_path / "out", PUPPET)
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]


def test_results_are_never_overwritten(tmp_path: Path, finding: Callable[..., None]) -> None:
    finding([[]] * 12)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(ValueError, match="is there already"):
        extract_pose(video_of(tmp_path / "v.mp4"), tmp_path / "out", PUPPET)


@pytest.mark.parametrize("reads", ["cat > /dev/null", ":"])
def test_a_full_disk_names_the_file_and_leaves_nothing(
    tmp_path: Path, finding: Callable[..., None], monkeypatch: pytest.MonkeyPatch, reads: str
) -> None:
    """ffmpeg ends with an error, after all frames or at once."""
    video = video_of(tmp_path / "v.mp4")
    finding([[person()]] * 12)
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{reads}\necho '[mp4] Error writing: No space left on device' >&2\nexit 228\n")
    program.chmod(0o700)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(program))
    with pytest.raises(ValueError, match=r"\.mp4: cannot be written \(No space left on device\)$"):
        extract_pose(video, tmp_path / "out", PUPPET)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ffmpeg", "v.mp4"]


def test_a_second_extraction_into_the_same_folder_is_refused(tmp_path: Path, finding: Callable[..., None]) -> None:
    video = video_of(tmp_path / "v.mp4")
    finding([[person()]] * 12)
    with new_folder(tmp_path / "out"), pytest.raises(ValueError, match="out: another command is writing there"):
        extract_pose(video, tmp_path / "out", PUPPET)


def test_folders_of_killed_extractions_are_removed(tmp_path: Path, finding: Callable[..., None]) -> None:
    video = video_of(tmp_path / "v.mp4")
    finding([[person()]] * 12)
    (tmp_path / ".out.4194305.partial").mkdir()
    (tmp_path / ".out.lock").touch()
    extract_pose(video, tmp_path / "out", PUPPET)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "v.mp4"]


def test_missing_packages_and_files_are_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = video_of(tmp_path / "v.mp4")
    monkeypatch.setattr("followyourpose.common.checks.find_spec", lambda _: None)
    for changes, reason in (
        ({"smooth": 5}, r'smooth: scipy is not installed; pip install -e "\.\[pose\]"'),
        ({"backend": "rtmlib", "weights": __file__}, r'backend rtmlib: rtmlib.*; pip install -e "\.\[pose\]"'),
        ({"backend": "mmpose", "weights": __file__}, r'backend mmpose: mmengine.*; pip install -e "\.\[mmpose\]"'),
        ({"backend": "rtmlib", "weights": "none.onnx"}, "weights: none.onnx: no such file"),
    ):
        with pytest.raises(ValueError, match=reason):
            extract_pose(video, tmp_path / "out", replace(PUPPET, **changes))
    assert list(tmp_path.iterdir()) == [video]
