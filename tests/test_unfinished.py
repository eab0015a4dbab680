"""An interrupted generation: whatever stops it, and wherever, the same command goes on to the same files."""

import builtins
import errno
import io
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from followyourpose import FollowYourPosePipeline
from followyourpose.cli.main import main
from followyourpose.common.files import LOCK, locked
from followyourpose.config import GenerateConfig, save_config
from followyourpose.data.video_io import VideoError, probe, write_video
from followyourpose.generation import unfinished
from followyourpose.generation.generate import generate, load_pipeline
from followyourpose.generation.outputs import FORMS
from followyourpose.generation.unfinished import UnfinishedVideo, unfinished_run
from followyourpose.pipeline.denoise import StreamState
from followyourpose.pipeline.windows import LongVideo
from followyourpose.puppets.world import render_scene, sample_scene
from tests.poses import PUPPETS
from tests.processes import forks

PARTS = {"paper": 4, "blend": 3, "freenoise": 3, "full": 1}  # of a video, each of which is kept
SIZE = (32, 32)  # of the frames in pixels


@pytest.fixture
def model(world: Path) -> Path:
    """A pipeline's folder with random weights; its videos are 32 x 32 pixels."""
    return world / "video-model"


def config(model: Path, folder: Path | None, mode: str = "paper", **changes: Any) -> GenerateConfig:
    """Two videos of 9 frames, in windows of 4."""
    output = folder and str(folder)
    settings = {"prompt": ["a cat", "a dog"], "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 1.0}
    long_video = LongVideo(mode=mode, window=4)
    settings |= {"model": str(model), "long_video": long_video, "output": output, "enlarge": 2}
    return GenerateConfig(**settings | changes)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a finished run but for run.json and index.html, which have the time that it took."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    files = {file for video in record["videos"] for file in video["files"]}
    poses = {str(file.relative_to(folder)) for file in folder.glob("pose/**/*") if file.is_file()}
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"run.json", "index.html", *files, *poses}
    return {name: (folder / name).read_bytes() for name in sorted(files | poses)}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[GenerateConfig], dict[str, bytes]]:
    """Gives the files of a run that nothing interrupts, for each mode drawn once."""
    folder, known = tmp_path_factory.mktemp("unbroken"), {}

    def files(run: GenerateConfig) -> dict[str, bytes]:
        mode = run.long_video.mode
        if mode not in known:
            known[mode] = content(generate(config(Path(run.model), folder / mode, mode)))
        return known[mode]

    return files


# ---- kills -----------------------------------------------------------------------------------------------------------


def stop_at(file: Path, number: int, count: int, moment: str) -> None:
    """Run a config, and stop at the n-th time that a part is kept: before its state is written, or right after that."""
    torch.set_num_threads(1)  # a fork has none of the threads that OpenMP counts on
    keep, write, left = UnfinishedVideo.keep, unfinished.atomic_file, iter(range(count - 1))

    def stop(*_: Any) -> None:
        os.kill(os.getpid(), number)

    def counted(*arguments: Any) -> None:
        last = next(left, None) is None
        unfinished.atomic_file = stop if last and moment == "before" else write
        keep(*arguments)
        if last:
            stop()

    UnfinishedVideo.keep = counted
    sys.stderr = open(file.with_suffix(".err"), "w", encoding="utf-8")
    sys.exit(main(["generate", str(file)]))


def stopped(run: GenerateConfig, *how: Any, file: str = "run.yaml") -> tuple[int, str]:
    """Exit code and last words of a run that a signal stops, see `stop_at`."""
    path = Path(run.output).with_name(file)
    save_config(run, path)
    process = forks().Process(target=stop_at, args=(path, *how))
    process.start()
    process.join(300)
    return process.exitcode, path.with_suffix(".err").read_text(encoding="utf-8")


def frames_shown(video: Path, expected: int) -> int:
    """Frames of a preview, which ffmpeg, a process of its own, may be about to end."""
    for _ in range(200):
        try:
            if (number := probe(video).num_frames) >= expected:
                return number
        except VideoError:
            pass
        time.sleep(0.05)
    return 0


EVERYDAY = [("paper", 6, "after"), ("blend", 2, "after")]
MATRIX = [
    (mode, count, moment)
    for mode, parts in PARTS.items()
    for count in range(1, 2 * parts + 1)
    for moment in ("before", "after")
]


@pytest.mark.parametrize(
    ("mode", "count", "moment"),
    [pytest.param(*each, marks=[] if each in EVERYDAY else pytest.mark.kills) for each in MATRIX],
)
def test_a_killed_generation_goes_on_to_the_same_files(
    model: Path, unbroken: Callable, tmp_path: Path, mode: str, count: int, moment: str
) -> None:
    run = config(model, tmp_path / "run", mode)
    assert stopped(run, int(signal.SIGKILL), count, moment)[0] == -signal.SIGKILL
    work, name = tmp_path / "run" / "unfinished", "00-a-cat" if count <= PARTS[mode] else "01-a-dog"
    if (work / name / "state.safetensors").exists():
        state = UnfinishedVideo(work, name).resume(SIZE)
        assert state.frames > 0 and frames_shown(work / f"{name}.mp4", state.frames) >= state.frames
    else:
        assert moment == "before" and count in (1, PARTS[mode] + 1)  # the first part of a video was not kept yet
    assert content(generate(run)) == unbroken(run)


def test_a_signal_reports_the_way_to_go_on(model: Path, unbroken: Callable, tmp_path: Path) -> None:
    run = config(model, tmp_path / "run")
    code, errors = stopped(run, int(signal.SIGTERM), 2, "after")
    assert code == 130
    assert f"to go on, run the same command again with output={run.output}" in errors
    assert "Traceback" not in errors
    assert content(generate(run)) == unbroken(run)


# ---- every moment ----------------------------------------------------------------------------------------------------

CHANGES = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync")  # functions of os


def folders_before_each_change(run: GenerateConfig, pipe: FollowYourPosePipeline, folder: Path) -> list[Path]:
    """Run a config, and copy its output before each change of a file into a folder of its own: as a kill leaves it.

    Of copies that are alike, the first is kept.
    """
    source, copies, last = Path(run.output), [], None

    def watched(function: Callable) -> Callable:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal last
            reads = function is real_open and not set("wax+") & set(str((*arguments, named.get("mode", "r"))[1]))
            now = [(str(path), path.stat().st_size if path.is_file() else 0) for path in sorted(source.rglob("*"))]
            if now and now != last and not reads:
                last = now
                with pytest.MonkeyPatch.context() as plain:
                    for module, name, real in watching:
                        plain.setattr(module, name, real)
                    copies.append(shutil.copytree(source, folder / f"{len(copies):04d}"))
            return function(*arguments, **named)

        return call

    real_open = open
    watching = [(os, name, getattr(os, name)) for name in CHANGES]
    watching += [(builtins, "open", real_open), (io, "open", real_open)]
    with pytest.MonkeyPatch.context() as patch:
        for module, name, real in watching:
            patch.setattr(module, name, watched(real))
        generate(run, pipe)
    return copies


def finished(run: GenerateConfig, pipe: FollowYourPosePipeline) -> dict[str, bytes]:
    """Let the same command go on, unless it had ended but for its process; return the files."""
    left = [path for name in ("unfinished", LOCK) if (path := Path(run.output) / name).exists()]
    return content(generate(run, pipe) if left or not (Path(run.output) / "run.json").exists() else Path(run.output))


def after_the_last_window(copies: list[Path], frames: int) -> list[Path]:
    """Return the changes of the first video's last part and later ones."""

    def done(copy: Path) -> bool:
        kept = len(list((copy / "unfinished" / "00-a-cat" / "frames").glob("*.png")))
        return kept == frames or (copy / "00-a-cat.mp4").exists()

    return [copy for copy in copies if done(copy)]


EVERY = [("paper", 15), ("full", 30), *(pytest.param(mode, 1, marks=pytest.mark.kills) for mode in PARTS)]


@pytest.mark.parametrize(("mode", "every"), EVERY)
def test_a_generation_goes_on_from_every_change_of_a_file(model: Path, tmp_path: Path, mode: str, every: int) -> None:
    def run(folder: Path) -> GenerateConfig:
        return config(model, folder, mode, num_frames=6, num_inference_steps=1, enlarge=1)

    pipe = load_pipeline(run(tmp_path))
    copies = folders_before_each_change(run(tmp_path / "run"), pipe, tmp_path / "copies")
    expected = content(tmp_path / "run")
    if every > 1:
        copies = after_the_last_window(copies, 6)
    assert len(copies) > 20
    for copy in [*copies[::every], copies[-1]]:
        assert finished(run(copy), pipe) == expected, copy


@pytest.mark.kills
def test_a_run_from_raw_videos_goes_on_from_every_change_of_a_file(model: Path, tmp_path: Path) -> None:
    videos = [str(tmp_path / f"{seed}.mp4") for seed in range(2)]
    for seed, video in enumerate(videos):
        write_video(video, render_scene(sample_scene(np.random.default_rng(seed), two=0), 2, 64, 64)[0], fps=8)
    changes = {"prompt": "a cat", "skeleton": videos, "num_frames": 2, "num_inference_steps": 1, "enlarge": 1}

    def run(folder: Path) -> GenerateConfig:
        return config(model, folder, "full", **changes, pose=PUPPETS)

    pipe = load_pipeline(run(tmp_path))
    copies = folders_before_each_change(run(tmp_path / "run"), pipe, tmp_path / "copies")
    expected = content(tmp_path / "run")
    assert any(name.startswith("pose/") for name in expected)
    for copy in copies:
        assert finished(run(copy), pipe) == expected, copy


# ---- errors ----------------------------------------------------------------------------------------------------------


def failing(run: GenerateConfig, count: int, error: BaseException, raised: type[BaseException] | None = None) -> str:
    """Run a config until so many parts are kept, then let it fail; return the message."""
    keep, left = UnfinishedVideo.keep, iter(range(count))

    def fail(*arguments: Any) -> None:
        if next(left, None) is None:
            raise error
        keep(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnfinishedVideo, "keep", fail)
        with pytest.raises(raised or type(error)) as caught:
            generate(run)
    return str(caught.value)


def test_a_run_under_a_name_of_its_own_goes_on_when_it_is_named(
    model: Path, unbroken: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = failing(config(model, None), 2, KeyboardInterrupt()).partition("output=")[2].rstrip(")")
    run = config(model, Path(output))
    assert output.startswith("outputs/") and content(generate(run)) == unbroken(run)


def test_what_is_finished_survives_an_error(
    model: Path, unbroken: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = config(model, tmp_path / "run")
    failing(run, 5, MemoryError())
    assert f"to go on, run the same command again with output={run.output}" in capsys.readouterr().out
    files = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert len(files) == len(FORMS) and files.items() <= unbroken(run).items()
    assert UnfinishedVideo(tmp_path / "run" / "unfinished", "01-a-dog").resume(SIZE).frames == 4


def test_a_full_disk_names_the_folder_and_the_run_goes_on(model: Path, unbroken: Callable, tmp_path: Path) -> None:
    run = config(model, tmp_path / "run")
    message = failing(run, 5, OSError(errno.ENOSPC, "No space left on device"), ValueError)
    assert message.startswith(f"{run.output}: the disk is full (") and "\n" not in message
    assert content(generate(run)) == unbroken(run)


def test_other_settings_are_refused_and_named(model: Path, tmp_path: Path) -> None:
    failing(config(model, tmp_path / "run"), 1, KeyboardInterrupt())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"unfinished run with long_video\.window: 4, got 5; seed: 0, got 1; choose"):
        generate(config(model, tmp_path / "run", seed=1, long_video=LongVideo("paper", window=5)))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_second_run_on_the_same_output_is_refused(model: Path, tmp_path: Path) -> None:
    run = config(model, tmp_path / "run", num_frames=4)
    with locked(tmp_path / "run"), pytest.raises(ValueError, match="run: another command is writing there"):
        generate(run)
    assert generate(run).exists()


# ---- damage ----------------------------------------------------------------------------------------------------------


def picture(height: int, width: int) -> bytes:
    """A black .png file."""
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


STATE, FRAME = "00-a-cat/state.safetensors", "00-a-cat/frames/000001.png"
DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {  # file, and its content -> another; None: a folder
    "empty": (STATE, lambda _: b""),
    "cut": (STATE, lambda old: old[: len(old) // 2]),
    "null": (STATE, lambda _: b"null"),
    "nested": (STATE, lambda _: b"[" * 100_000),
    "flipped": (STATE, lambda old: old[:-40] + bytes([old[-40] ^ 1]) + old[-39:]),
    "a long header": (STATE, lambda old: b"\xff" * 8 + old[8:]),
    "another state": (STATE, lambda old: save({}, {"frames": "2"})),
    "a folder": (STATE, lambda _: None),
    "an empty frame": (FRAME, lambda _: b""),
    "a cut frame": (FRAME, lambda old: old[: len(old) // 2]),
    "a flipped frame": (FRAME, lambda old: old[:60] + bytes([old[60] ^ 1]) + old[61:]),
    "a frame of another size": (FRAME, lambda _: picture(3, 3)),
    "a folder for a frame": (FRAME, lambda _: None),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_video_with_a_damaged_file_begins_anew(tmp_path: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    video = UnfinishedVideo(tmp_path, "00-a-cat")
    frames = np.random.default_rng(0).integers(256, size=(3, 6, 4, 3), dtype=np.uint8)
    video.keep(frames, StreamState(3, torch.ones(2, 3), torch.Generator().get_state()[None]))
    video.preview.touch()
    file, change = DAMAGE[name]
    damaged = change((tmp_path / file).read_bytes())
    (tmp_path / file).unlink()
    (tmp_path / file).mkdir() if damaged is None else (tmp_path / file).write_bytes(damaged)
    assert video.resume((6, 4)) == StreamState() and not list(tmp_path.iterdir())
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{video.folder}: damaged (") and line.endswith("so this video begins anew")


def test_a_run_with_a_damaged_file_ends_in_the_same_files(
    model: Path, unbroken: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = config(model, tmp_path / "run")
    failing(run, 5, KeyboardInterrupt())
    (tmp_path / "run" / "unfinished" / "01-a-dog" / "state.safetensors").write_bytes(b"")
    assert content(generate(run)) == unbroken(run)
    assert capsys.readouterr().out.count("01-a-dog: damaged (") == 1


def test_damaged_keypoints_of_a_raw_video_are_found_anew(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_video(tmp_path / "raw.mp4", render_scene(sample_scene(np.random.default_rng(1), two=0), 2, 64, 64)[0], fps=8)
    raw = {"skeleton": str(tmp_path / "raw.mp4"), "pose": PUPPETS, "num_frames": 2, "prompt": "a cat"}
    whole = content(generate(config(model, tmp_path / "whole", "full", **raw)))
    run = config(model, tmp_path / "run", "full", **raw)
    settings = {key: value for key, value in asdict(run).items() if key != "output"}
    for number, damaged in enumerate((b"", b"[" * 100_000)):
        output = tmp_path / str(number)
        (output / "unfinished" / "pose").mkdir(parents=True)
        (output / "unfinished" / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        (output / "unfinished" / "pose" / "keypoints.json").write_bytes(damaged)
        assert content(generate(replace(run, output=str(output)))) == whole
        assert "so its people are looked for anew" in capsys.readouterr().out


@pytest.mark.parametrize("damaged", ["", "null", "[" * 100_000, '{"seed": ', "[1, 2]", '"seed"'])
def test_damaged_settings_of_an_unfinished_run_are_named(tmp_path: Path, damaged: str) -> None:
    stored = tmp_path / "run" / "unfinished" / "settings.json"
    stored.parent.mkdir(parents=True)
    stored.write_text(damaged, encoding="utf-8")
    with pytest.raises(ValueError, match=r"unfinished/settings\.json: ") as error, unfinished_run(tmp_path / "run", {}):
        pass
    assert "\n" not in str(error.value) and stored.read_text(encoding="utf-8") == damaged


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
        assert json.loads((work / "settings.json").read_text(encoding="utf-8")) == {"seed": 1}
    assert not list((tmp_path / "run").iterdir())


def test_a_users_folder_of_that_name_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "unfinished" / "symphony.txt"
    mine.parent.mkdir()
    mine.touch()
    with pytest.raises(ValueError, match="is there already"), unfinished_run(tmp_path, {}):
        pass
    assert mine.exists()


def test_a_run_that_a_kill_left_before_its_last_step_is_no_finished_one(tmp_path: Path) -> None:
    """Its record is there, and all but the lock or an empty folder is removed: the same settings go on, others not."""
    for left in ("unfinished", LOCK):
        folder = tmp_path / left
        folder.mkdir()
        (folder / "run.json").write_text('{"settings": {"seed": 1, "height": 64}}', encoding="utf-8")
        (folder / left).touch() if left == LOCK else (folder / left).mkdir()
        with pytest.raises(ValueError, match="seed: 1, got 2"), unfinished_run(folder, {"seed": 2, "height": None}):
            pass
        with unfinished_run(folder, {"seed": 1, "height": None}):
            pass
        assert [path.name for path in folder.iterdir()] == ["run.json"]
        with pytest.raises(ValueError, match="is there already"), unfinished_run(folder, {"seed": 1, "height": None}):
            pass


def test_signals_are_as_before_when_the_run_is_over(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), unfinished_run(tmp_path / "run", {}):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(256, size=(5, 6, 4, 3), dtype=np.uint8)
    state = StreamState(3, torch.randn(2, 1, 4, 2, 3, 3).to(torch.bfloat16), torch.Generator().get_state()[None])
    video = UnfinishedVideo(tmp_path, "00-a-cat")
    assert video.resume((6, 4)) == StreamState()
    video.keep(frames[:3], state)
    back = UnfinishedVideo(tmp_path, "00-a-cat").resume((6, 4))
    assert back.frames == 3 and torch.equal(back.known, state.known) and torch.equal(back.random, state.random)
    state.frames, state.known = 5, torch.zeros(2, 1, 4, 0, 3, 3)  # nothing is left to remember
    video.keep(frames[3:], state)
    np.testing.assert_array_equal(video.frames(range(5)), frames)
    assert video.resume((6, 4)).known.shape == (2, 1, 4, 0, 3, 3)
