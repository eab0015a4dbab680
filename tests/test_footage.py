"""From footage of real people to puppets that move so, to training data, and to numbers: each step by its command."""

import json
from pathlib import Path

import numpy as np
import pytest

from followyourpose.cli.main import main
from followyourpose.data.video_clips import VideoClips
from followyourpose.pose.keypoints_file import read_keypoints
from tests.captioners import write_blip
from tests.downloads import ffmpeg, run_script, write_metadata
from tests.runs import log_of

FRAMES = 33
STARTS = {"musepose_dance": 3.0, "genl_hike": 0.0}  # seconds


@pytest.fixture(scope="module")
def footage(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a second of each video, small."""
    folder = tmp_path_factory.mktemp("footage")
    for name, start in STARTS.items():
        small = ("-vf", "scale=-2:320", "-frames:v", str(FRAMES), "-crf", "18", "-an")
        ffmpeg("-ss", str(start), "-i", material / f"{name}.mp4", *small, folder / f"{name}.mp4")
    return folder


@pytest.mark.slow
def test_people_drive_puppets_that_are_measured(footage: Path, light: Path, tmp_path: Path) -> None:
    for name in STARTS:
        flags = ["-o", str(tmp_path / name), "--weights", str(light), "--people", "1"]
        assert main(["extract-pose", str(footage / f"{name}.mp4"), *flags]) == 0
        assert all(len(people) == 1 for people in read_keypoints(tmp_path / name / "keypoints.json").frames)
    skeletons = ",".join(str(tmp_path / name / "keypoints.json") for name in STARTS)
    video = ["stride=4", "num_frames=8", "num_inference_steps=4", "enlarge=1"]
    puppet = ["prompt=a robot in the desert", "retarget.reference=followyourpose/assets/dance.json"]
    assert main(["generate", f"skeleton=[{skeletons}]", *puppet, *video, f"output={tmp_path / 'run'}"]) == 0
    assert len(list((tmp_path / "run").glob("*with-skeleton.mp4"))) == 2
    run = [f"videos={tmp_path / 'run'}", f"output={tmp_path / 'numbers'}"]
    assert main(["evaluate", "configs/puppet/evaluate.yaml", *run]) == 0
    numbers = json.loads((tmp_path / "numbers" / "metrics.json").read_text())
    assert numbers["n"] == 2 and np.isfinite([numbers[key] for key in ("cs", "pa", "fc")]).all()


@pytest.mark.slow
def test_people_in_captioned_clips_are_training_data(footage: Path, tmp_path: Path) -> None:
    metadata = write_metadata(tmp_path / "hdvila_part0.jsonl", {name: [(0, 2)] for name in STARTS})
    cut = [metadata, footage, tmp_path / "data", "--short-side", "64", "--min-frames", "29"]
    run_script("hdvila", *cut)
    blip = write_blip(tmp_path / "blip", seed=2)
    done = run_script(
        "caption", tmp_path / "data", tmp_path / "c.jsonl", "--model", blip, "--most", "4", "--workers", "1"
    )
    assert "2 of 2 files have a caption" in done.stdout
    run_script("hdvila", *cut, "--captions", tmp_path / "c.jsonl")
    clips = VideoClips(tmp_path / "data")
    assert len(clips) == 2 and all(len(clips.label(index, [0])[0].split()) <= 4 for index in range(2))
    run = ["init=checkpoints/puppet", "steps=1", "log_every=1", "optim.batch_size=1", f"output={tmp_path / 'run'}"]
    data = [f"data.path={tmp_path / 'data'}", "data.cache=null"]
    assert main(["train", "configs/puppet/stage2.yaml", *data, *run]) == 0
    assert len(log_of(tmp_path / "run")) == 1 and (tmp_path / "run" / "weights.safetensors").is_file()
