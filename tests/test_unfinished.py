"""A generation that is interrupted, however it is: what stays, and that it goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from followyourpose.config import GenerateConfig, save_config
from followyourpose.data.video_io import VideoError, probe
from followyourpose.generation.generate import FORMS, generate
from followyourpose.generation.unfinished import UnfinishedVideo, unfinished_run
from followyourpose.pipeline.denoise import StreamState
from followyourpose.pipeline.windows import LongVideo
from tests.tiny import write_image_model

PARTS = {"paper": 5, "blend": 3}  # of a video, each of which is kept


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder with random weights; its videos are 32 x 32 pixels."""
    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

    folder = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    FollowYourPosePipeline.from_image_model(write_image_model(folder / "image")).save_pretrained(folder / "model")
    return folder / "model"


def config(model: Path, folder: Path | None, mode: str = "paper", **changes: Any) -> GenerateConfig:
    """Two videos of 11 frames, in windows of 4."""
    output = folder and str(folder)
    settings = {"prompt": ["a cat", "a dog"], "num_frames": 11, "num_inference_steps": 2, "enlarge": 2}
    long_video = LongVideo(mode=mode, window=4)
    return GenerateConfig(**{"model": str(model), "long_video": long_video, "output": output} | settings | changes)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a finished run, but for the time that it took."""
    record = json.loads((folder / "run.json").read_text())
    files = {file for video in record["videos"] for file in video["files"]}
    assert {path.name for path in folder.iterdir()} == {"run.json", "index.html", *files}  # both tell that time
    return {name: (folder / name).read_bytes() for name in files}


@pytest.fixture(scope="module")
def unbroken(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What a run that nothing interrupts writes, by mode."""
    folder = tmp_path_factory.mktemp("unbroken")
    return {mode: content(generate(config(model, folder / mode, mode))) for mode in PARTS}


# Runs a config, and is stopped at the n-th time that something is kept: when its frames are written but not yet its
# state, or right after that.
STOPPED = """
import os, signal, sys
from pathlib import Path
from followyourpose.generation import unfinished
from followyourpose.cli.main import main
file, number, count, moment = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
keep, replace = unfinished.UnfinishedVideo.keep, os.replace
def stop():
    os.kill(os.getpid(), number)
def counted(*arguments):
    global count
    count -= 1
    if count == 0 and moment == "before":
        unfinished.os.replace = lambda *_: stop()
    keep(*arguments)
    if count == 0:
        stop()
unfinished.UnfinishedVideo.keep = counted
sys.exit(main(["generate", file]))
"""


def stopped(run: GenerateConfig, file: Path, number: int, count: int, moment: str) -> subprocess.CompletedProcess:
    save_config(run, file)
    command = [sys.executable, "-c", STOPPED, str(file), str(int(number)), str(count), moment]
    return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300)


def frames_shown(video: Path, expected: int) -> int:
    """Of a file that ffmpeg, which was not killed, may be about to end."""
    for _ in range(200):
        try:
            if (number := probe(video).num_frames) >= expected:
                return number
        except VideoError:
            pass
        time.sleep(0.05)
    return 0


@pytest.mark.parametrize(
    ("mode", "count", "moment"),
    [
        ("paper", 1, "after"),
        ("paper", 3, "before"),
        ("paper", 7, "after"),
        ("blend", 2, "after"),
        ("blend", 6, "after"),
    ],
)
def test_a_killed_generation_goes_on_to_the_same_files(
    model: Path, unbroken: dict[str, dict[str, bytes]], tmp_path: Path, mode: str, count: int, moment: str
) -> None:
    run = config(model, tmp_path / "run", mode)
    assert stopped(run, tmp_path / "run.yaml", signal.SIGKILL, count, moment).returncode == -signal.SIGKILL
    work, name = tmp_path / "run" / "unfinished", "00-a-cat" if count <= PARTS[mode] else "01-a-dog"
    state = UnfinishedVideo(work, name).state()
    assert state.frames > 0
    assert frames_shown(work / f"{name}.mp4", state.frames) >= state.frames
    assert content(generate(run)) == unbroken[mode]


def test_a_signal_says_how_to_go_on(model: Path, unbroken: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    run = config(model, tmp_path / "run")
    result = stopped(run, tmp_path / "run.yaml", signal.SIGTERM, 2, "after")
    assert result.returncode == 130
    assert f"to go on, run the same command again with output={run.output}" in result.stderr
    assert "Traceback" not in result.stderr
    assert content(generate(run)) == unbroken["paper"]


def failing(run: GenerateConfig, count: int, error: type[BaseException]) -> str:
    """Runs a config until so many parts are kept, and then has it fail; gives the message."""
    keep, left = UnfinishedVideo.keep, iter(range(count))

    def fail(*arguments: Any) -> None:
        if next(left, None) is None:
            raise error
        keep(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnfinishedVideo, "keep", fail)
        with pytest.raises(error) as raised:
            generate(run)
    return str(raised.value)


def test_a_run_under_a_name_of_its_own_goes_on_when_it_is_named(
    model: Path, unbroken: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = failing(config(model, None), 2, KeyboardInterrupt).partition("output=")[2].rstrip(")")
    assert output.startswith("outputs/") and content(generate(config(model, Path(output)))) == unbroken["paper"]


def test_what_is_finished_survives_an_error(
    model: Path, unbroken: dict[str, dict[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = config(model, tmp_path / "run")
    failing(run, 6, MemoryError)
    assert f"to go on, run the same command again with output={run.output}" in capsys.readouterr().out
    files = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert len(files) == len(FORMS) and files.items() <= unbroken["paper"].items()
    assert UnfinishedVideo(tmp_path / "run" / "unfinished", "01-a-dog").state().frames == 4


def test_other_settings_are_refused_and_named(model: Path, tmp_path: Path) -> None:
    failing(config(model, tmp_path / "run"), 1, KeyboardInterrupt)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"unfinished run with long_video\.window: 4, got 5; seed: 0, got 1; choose"):
        generate(config(model, tmp_path / "run", seed=1, long_video=LongVideo("paper", window=5)))
    assert sorted(tmp_path.rglob("*")) == before


# ---- the folder, without a model -------------------------------------------------------------------------------------


def test_a_run_that_fails_before_anything_is_finished_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(RuntimeError), unfinished_run(tmp_path / name, {}) as work:
            (work / "pose").mkdir()
            raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_what_a_kill_left_before_the_first_part_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run" / "unfinished").mkdir(parents=True)
    with unfinished_run(tmp_path / "run", {"seed": 1}) as work:
        assert json.loads((work / "settings.json").read_text()) == {"seed": 1}
    assert not list((tmp_path / "run").iterdir())


def test_signals_are_as_before_when_the_run_is_over(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), unfinished_run(tmp_path / "run", {}):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(256, size=(5, 6, 4, 3), dtype=np.uint8)
    state = StreamState(3, torch.randn(2, 1, 4, 2, 3, 3).to(torch.bfloat16), torch.Generator().get_state()[None])
    video = UnfinishedVideo(tmp_path, "00-a-cat")
    assert video.state() == StreamState()
    video.keep(frames[:3], state)
    back = UnfinishedVideo(tmp_path, "00-a-cat").state()
    assert back.frames == 3 and torch.equal(back.known, state.known) and torch.equal(back.random, state.random)
    state.frames, state.known = 5, None
    video.keep(frames[3:], state)
    np.testing.assert_array_equal(video.frames(range(5)), frames)
    assert video.state().known is None
