"""Recognition of drawn skeletons: no raw video is taken for one, none of ours is refused, and styles are told apart."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from followyourpose.config import ConfigError, GenerateConfig, PoseConfig
from followyourpose.data.video_io import probe, read_frames, write_gif, write_video
from followyourpose.generation.skeletons import SAMPLE, check_drawn, open_skeleton
from followyourpose.pose.recognise import drawing_of
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.world import render_scene, sample_scene
from tests.poses import person, walking

MATERIAL = {
    "fyp_vis_ikun_pose1.MOV": "coco",
    "genl_hike_openpose.mp4": "openpose",
    "t2vzero_dance1_corr.mp4": "openpose",
    "moore_anyone-video-1_kps.mp4": "wholebody",
    "musepose_dance.mp4": "raw",
    "genl_hike.mp4": "raw",
    "mmpose_demo_street.mp4": "raw",
}


def drawn(style: str, size: int, count: int = 1, frames: int = 4) -> np.ndarray:
    """Skeletons (f, size, size, 3) of people who walk side by side."""
    people = [walking(frames, size * (i + 0.5) / count, size / 60, 0.8 * size) for i in range(count)]
    for poses in people:
        poses[..., 1] += 0.97 * size - 95
    return np.stack([render_skeleton(list(each), size, size, style=style) for each in zip(*people, strict=True)])


@pytest.mark.parametrize("name", MATERIAL)
def test_every_moment_of_the_footage_is_recognised(material: Path, name: str) -> None:
    total = probe(material / name).num_frames
    frames = read_frames(material / name, range(0, total, max(1, total // 60)))
    for start in range(0, len(frames), 2):
        assert drawing_of(frames[start : start + 5]) == MATERIAL[name], start


def test_photographs_of_people_are_raw(material: Path) -> None:
    for image in sorted((material / "coco").glob("*.jpg")):
        assert drawing_of(read_frames(image)) == "raw"


def test_the_sample_is_in_the_colours_of_training() -> None:
    assert drawing_of(read_frames(SAMPLE)) == "coco"


@pytest.mark.parametrize("style", ["coco", "openpose"])
@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_our_own_drawings_are_recognised(style: str, size: int, tmp_path: Path) -> None:
    for count in (1, 2, 5):
        assert drawing_of(drawn(style, size, count)) == style, count
    write_video(tmp_path / "a.mp4", drawn(style, size), 8)
    assert drawing_of(read_frames(tmp_path / "a.mp4")) == style
    write_gif(tmp_path / "a.gif", drawn(style, size), 8)
    assert drawing_of(read_frames(tmp_path / "a.gif")) == style


def test_a_part_of_a_body_is_no_raw_video() -> None:
    for joints in (range(5), (5, 7, 9), (11, 13, 15), (5, 6, 11, 12)):
        pose = person(128, 250, 240, confidence=0.0)
        pose[list(joints), 2] = 1
        assert drawing_of(render_skeleton([pose], 256, 256)[None]) == "coco", joints
        assert drawing_of(render_skeleton([pose], 256, 256, style="openpose")[None]) in ("openpose", "other"), joints


def test_other_lines_on_black_and_nothing_at_all_are_no_raw_video() -> None:
    white = drawn("coco", 256).max(-1, keepdims=True).repeat(3, -1)
    assert drawing_of(white) == "other"
    assert drawing_of(np.zeros((2, 64, 64, 3), np.uint8)) == "empty"
    frames = drawn("coco", 64)
    frames[1:] = 0
    assert drawing_of(frames) == "coco"


def test_puppets_and_plain_pictures_are_raw() -> None:
    for seed in range(30):
        assert drawing_of(render_scene(sample_scene(np.random.default_rng(seed)), 2, 64, 64)[0]) == "raw", seed
    for grey in (40, 127, 255):
        assert drawing_of(np.full((1, 64, 64, 3), grey, np.uint8)) == "raw"
    assert drawing_of(np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)) == "raw"


def test_black_bars_and_darkness_make_no_drawing(material: Path) -> None:
    for name in ("musepose_dance.mp4", "genl_hike.mp4"):
        frames = np.stack([cv2.resize(frame, (144, 256)) for frame in read_frames(material / name, [0, 50, 100])])
        assert drawing_of(np.pad(frames, ((0, 0), (0, 0), (200, 200), (0, 0)))) == "raw"
        night = np.clip(255 * ((frames / 255) ** 2.2 - 0.15), 0, 255).astype(np.uint8)
        assert drawing_of(night) == "raw"
        y, x = np.mgrid[-1:1:256j, -1:1:144j]
        light = np.exp(-((x / 0.3) ** 2) - (y / 0.6) ** 2)[..., None] * (1, 0.2, 0.9)  # of a lamp on a stage
        assert drawing_of((frames * light).astype(np.uint8)) == "raw"


# ---- as a skeleton ---------------------------------------------------------------------------------------------------


def opened(path: Path, **pose: str) -> None:
    check_drawn(open_skeleton(GenerateConfig(prompt="", skeleton=str(path), num_frames=4, pose=PoseConfig(**pose))))


def test_a_raw_video_as_a_skeleton_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_video(tmp_path / "raw.mp4", render_scene(sample_scene(np.random.default_rng(0)), 4, 64, 64)[0], 8)
    with pytest.raises(ConfigError) as error:
        opened(tmp_path / "raw.mp4")
    assert str(error.value).startswith(f"skeleton: {tmp_path / 'raw.mp4'}: got a raw video")
    assert "pose.source=raw" in str(error.value) and "\n" not in str(error.value)
    opened(tmp_path / "raw.mp4", source="raw")
    assert capsys.readouterr().out == ""


def test_a_skeleton_in_other_colours_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_video(tmp_path / "o.mp4", drawn("openpose", 128), 8)
    opened(tmp_path / "o.mp4")
    line = capsys.readouterr().out
    assert line.startswith(f"{tmp_path / 'o.mp4'}: a skeleton in OpenPose's colours; ") and line.count("\n") == 1
    opened(tmp_path / "o.mp4", style="openpose")  # of a model that was trained with them
    write_video(tmp_path / "c.mp4", drawn("coco", 128), 8)
    opened(tmp_path / "c.mp4")
    assert capsys.readouterr().out == ""


def test_a_changed_file_is_looked_at_again(tmp_path: Path) -> None:
    for number, frames in enumerate((drawn("coco", 64), 255 - drawn("coco", 64), drawn("coco", 64))):
        write_video(tmp_path / "a.mp4", frames, 8)
        if number != 1:
            opened(tmp_path / "a.mp4")
            continue
        with pytest.raises(ConfigError, match="got a raw video"):
            opened(tmp_path / "a.mp4")
