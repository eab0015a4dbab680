"""An interrupted run of `generate` or `evaluate`: what is finished is kept, and the same command goes on from there.

FOLDER/unfinished/              removed when the run is done
    settings.json               the run's settings, which must be the same when it goes on
    NAME.mp4                    preview: the finished frames of the video under way, playable at any moment
    NAME/frames/000000.png ...  the same frames, lossless; those beyond the state's number do not count
    NAME/state.safetensors      the stream's state behind these frames (pipeline.denoise.StreamState)
    NAME-00000.npy ...          of `evaluate`: batches of videos (generation.sharing.KeptArrays)

A kill between any two file operations leaves a folder in which the same command goes on: files take their names when
they are complete, a state is written after its frames, and the settings are removed last.

Shapes: f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB.
"""

import json
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from PIL import Image

from followyourpose.common.checks import flat
from followyourpose.common.files import DISK_FULL, LOCK, atomic_file, atomic_write, locked, printable, read_json
from followyourpose.data.images import UNREADABLE

if TYPE_CHECKING:
    from followyourpose.pipeline.denoise import StreamState

FOLDER, SETTINGS, RECORD = "unfinished", "settings.json", "run.json"
LEAST_SPACE = 2**20  # bytes: ffmpeg's errors have no number


class UnfinishedVideo:
    """Finished frames of a video and the state of its stream, under a name in a run's `unfinished` folder."""

    def __init__(self, work: Path, name: str) -> None:
        self.folder, self.preview = work / name, work / f"{name}.mp4"
        self._frames, self._state = self.folder / "frames", self.folder / "state.safetensors"

    def resume(self, size: tuple[int, int]) -> "StreamState":
        """Return the state to go on from: the beginning where nothing was kept.

        Where a file is damaged, one line reports it, all that was kept is removed, and the video begins anew.

        Args:
            size: height and width of the frames.
        """
        # Late: settings are checked without the seconds that torch takes.
        from followyourpose.common.tensors import read_tensors
        from followyourpose.pipeline.denoise import StreamState

        if not self._state.exists():
            return StreamState()
        try:
            tensors, facts = read_tensors(self._state)
            state = StreamState(int(facts["frames"]), tensors["known"], tensors["random"])
            for number in range(state.frames):
                if (got := self._read(number).shape) != (*size, 3):
                    raise ValueError(f"{self._frame(number).name}: got {got}, expected {(*size, 3)}")
            return state
        except MemoryError:
            raise
        except UNREADABLE as error:
            why = " ".join(str(error).split())[:200]
            print(printable(f"{self.folder}: damaged ({why}), so this video begins anew"))
            self.remove()
            return StreamState()

    def keep(self, frames: np.ndarray, state: "StreamState") -> None:
        """Add frames, and the state of the stream behind them; all of them or, where this is interrupted, none."""
        from followyourpose.common.tensors import write_tensors

        for folder in (self.folder, self._frames):  # not those above: a run that has ended is not begun again
            folder.mkdir(exist_ok=True)
        for number, frame in enumerate(frames, start=state.frames - len(frames)):
            Image.fromarray(frame).save(self._frame(number))
        with atomic_file(self._state) as partial:
            tensors = {"known": state.known, "random": state.random}
            write_tensors(partial, tensors, "stream", {"frames": state.frames})

    def frames(self, numbers: Sequence[int]) -> np.ndarray:
        """Return finished frames (f, H, W, 3) by their numbers."""
        return np.stack([self._read(number) for number in numbers])

    def remove(self) -> None:
        """Remove all that is kept of the video."""
        for path in (self.preview, self.folder):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _read(self, number: int) -> np.ndarray:
        with Image.open(self._frame(number)) as picture:
            return np.asarray(picture)

    def _frame(self, number: int) -> Path:
        return self._frames / f"{number:06d}.png"


@contextmanager
def unfinished_run(target: Path, settings: dict[str, Any]) -> Iterator[Path]:
    """Yield the folder for unfinished files in a run's folder; it is removed when all went well.

    When not, it stays if a part of a video is finished; else the run leaves nothing behind. SIGTERM acts as Ctrl-C.

    Args:
        settings: of the run, by name; nested ones have dotted names in messages.

    Raises:
        ValueError: the target is a file, has something in it that is no run of these settings, cannot be made, or
            another command is writing there: before anything is done. The disk is full.
        KeyboardInterrupt: as it came, with a message on how to go on.
    """
    work, settings = target / FOLDER, json.loads(json.dumps(settings))
    _check_target(target, settings)
    with locked(target):
        _check_target(target, settings)  # once more: another command may have ended between check and lock
        try:
            with _terminated_as_interrupted():
                work.mkdir(exist_ok=True)
                atomic_write(work / SETTINGS, json.dumps(settings, indent=2) + "\n")
                yield work
                _remove(work)
        except BaseException as error:
            _end(target, error)


def _end(target: Path, error: BaseException) -> NoReturn:
    """Raise the error that ended a run, with the way to go on; where nothing is finished, remove what the run left."""
    work, how = target / FOLDER, ""
    if any((*work.glob("*/state.safetensors"), *work.glob("*.npy"))) or _contents(target):
        how = f"what is finished is in {target}; to go on, run the same command again with output={target}"
    elif work.exists():
        _remove(work)
    if isinstance(error, KeyboardInterrupt) and how:
        raise KeyboardInterrupt(f"({how})") from error
    if how:
        print(printable(how))
    if isinstance(error, OSError) and (error.errno in DISK_FULL or shutil.disk_usage(target).free < LEAST_SPACE):
        raise ValueError(f"{target}: the disk is full ({' '.join(str(error).split())[:200]})") from error
    raise error


def _check_target(target: Path, settings: dict[str, Any]) -> None:
    """Raise a ValueError unless the target is new, empty, or holds an unfinished run of these settings."""
    if not target.exists():
        return
    work, others = target / FOLDER, _contents(target) if target.is_dir() else [target.name]
    kept = [path.name for path in work.iterdir()] if work.is_dir() else []
    if SETTINGS in kept:
        before = read_json(work / SETTINGS)
    elif RECORD in others and not kept and (work.exists() or (target / LOCK).exists()):
        before = _settings_of_record(target, settings)  # killed at its very end, after the settings were removed
    elif others or any(not name.startswith(".") for name in kept):
        raise ValueError(f"{target}: is there already, expected a new or an empty folder; nothing is overwritten")
    else:
        return
    if not isinstance(before, dict):
        raise ValueError(f"{work / SETTINGS}: expected an unfinished run's settings; choose another output")
    _check_same(target, before, settings)


def _settings_of_record(target: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings in a run's record as the run was given them: the record has the size that was chosen."""
    record = read_json(target / RECORD)
    found = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(found, dict):
        return None
    unset = {key: None for key in ("height", "width") if settings.get(key) is None}
    return {key: found.get(key) for key in settings} | unset


def _contents(target: Path) -> list[str]:
    """Return the names in a run's folder, but for those of unfinished files and of the lock."""
    return [path.name for path in target.iterdir() if path.name not in (FOLDER, LOCK)]


def _check_same(target: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise a ValueError that names the settings that differ."""
    before, now = flat(before), flat(now)
    differ = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if differ:
        changes = "; ".join(f"{key}: {before.get(key)!r}, got {now.get(key)!r}" for key in differ)
        raise ValueError(
            f"{target}: holds an unfinished run with {changes}; choose another output, or the settings it was "
            "started with"
        )


def _remove(work: Path) -> None:
    """Remove the folder of unfinished files, its settings last."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != SETTINGS:
            path.unlink()
    (work / SETTINGS).unlink(missing_ok=True)
    work.rmdir()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as SIGINT does."""
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers there only
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
