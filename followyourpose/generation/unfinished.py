"""A run of `generate` on its way: what is finished is kept, and the same command goes on from there.

FOLDER/unfinished/              removed when the run is done
    settings.json               the run's settings, which must be the same when it goes on
    NAME.mp4                    the finished frames of the video under way; it can be played at any moment
    NAME/frames/000000.png ...  the same frames, lossless; those beyond the state's number do not count
    NAME/state.safetensors      where their stream stands (denoising.StreamState), replaced when its frames are written

Shapes: f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB.
"""

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from followyourpose.data.video_io import read_frames

if TYPE_CHECKING:
    from followyourpose.pipeline.denoise import StreamState

FOLDER = "unfinished"


class UnfinishedVideo:
    """The finished frames of a video, and where its stream stands; in a run's `unfinished` folder, under a name."""

    def __init__(self, work: Path, name: str) -> None:
        self.folder, self.preview = work / name, work / f"{name}.mp4"
        self._frames, self._state = self.folder / "frames", self.folder / "state.safetensors"

    def state(self) -> "StreamState":
        """Where to go on: at the beginning, if nothing was kept."""
        from safetensors import safe_open  # late, as is torch: what is wrong is told before the seconds that it takes

        from followyourpose.pipeline.denoise import StreamState

        if not self._state.exists():
            return StreamState()
        with safe_open(self._state, "pt") as file:
            return StreamState(int(file.metadata()["frames"]), **{name: file.get_tensor(name) for name in file.keys()})

    def keep(self, frames: np.ndarray, state: "StreamState") -> None:
        """Adds the frames after which a stream stands there; all of them or, where this is interrupted, none."""
        from safetensors.torch import save_file

        self._frames.mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(frames, start=state.frames - len(frames)):
            Image.fromarray(frame).save(self._frames / f"{number:06d}.png")
        tensors = {"known": state.known, "random": state.random}
        partial = self._state.with_suffix(".partial")
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None},
            partial,
            {"frames": str(state.frames)},
        )
        os.replace(partial, self._state)

    def frames(self, numbers: Sequence[int]) -> np.ndarray:
        """Finished frames (f, H, W, 3), by their numbers."""
        return read_frames(self._frames, numbers)

    def remove(self) -> None:
        """Removes all of it: the video is elsewhere now."""
        self.preview.unlink(missing_ok=True)
        shutil.rmtree(self.folder)


@contextmanager
def unfinished_run(target: Path, settings: dict[str, Any]) -> Iterator[Path]:
    """Gives the folder for what is unfinished in a run's folder; it is removed when all went well.

    When not, it stays if a part of a video is finished; else the run leaves nothing behind. SIGTERM is as Ctrl-C.

    Args:
        settings: of the run, by name; nested ones have dotted names in messages.

    Raises:
        ValueError: the target is a file, has something in it that is no run of these settings, or cannot be made. Told
            before anything is done.
        KeyboardInterrupt: as it came, with a message that says how to go on.
    """
    work, there = target / FOLDER, target.exists()
    stored, settings = work / "settings.json", json.loads(json.dumps(settings))
    try:
        if stored.exists():
            check_settings(target, json.loads(stored.read_text()), settings)
        elif there and (not target.is_dir() or any(path != work for path in target.iterdir())):
            raise ValueError(f"{target}: is there already, expected a new or an empty folder; nothing is overwritten")
        work.mkdir(parents=True, exist_ok=True)
        partial = stored.with_suffix(".partial")
        partial.write_text(json.dumps(settings, indent=2) + "\n")
        os.replace(partial, stored)
    except OSError as error:
        raise ValueError(f"{target}: cannot be written ({error.strerror})") from error
    try:
        with _terminated_as_interrupted():
            yield work
        shutil.rmtree(work)
    except BaseException as error:
        if not any(work.glob("*/state.safetensors")) and not any(path != work for path in target.iterdir()):
            shutil.rmtree(work if there else target, ignore_errors=True)
            raise
        how = f"what is finished is in {target}; to go on, run the same command again with output={target}"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"({how})") from error
        print(how)
        raise


def check_settings(target: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Passes if both are the same; else a ValueError names what differs."""
    before, now = _flat(before), _flat(now)
    differ = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if differ:
        changes = "; ".join(f"{key}: {before.get(key)!r}, got {now.get(key)!r}" for key in differ)
        raise ValueError(
            f"{target}: holds an unfinished run with {changes}; choose another output, or the settings it was "
            "started with"
        )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name: {"crop": {"left": 1}} -> {"crop.left": 1}."""
    flat = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """While entered, SIGTERM raises KeyboardInterrupt, as SIGINT does."""
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers there only
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
