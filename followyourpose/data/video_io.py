"""Frames in and out of files: videos, gifs and folders of images, always (f, H, W, 3) uint8 RGB.

A reader lives for one call only: decord's hangs in a forked worker and must not be shared by threads.
"""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import imageio_ffmpeg
import numpy as np
from PIL import GifImagePlugin, Image, ImageChops

from followyourpose.data.video_readers import Reader, VideoError, VideoInfo, readers_for

_CHUNK_BYTES = 2**27  # of frames in memory at a time, when a video is read from its beginning to its end


# ---- reading --------------------------------------------------------------------------------------------------------


def probe(path: str | Path) -> VideoInfo:
    """Number of frames, frame rate and size in pixels of a video, a gif, an image or a folder of them.

    Raises:
        VideoError: the file is missing, of a type that is not accepted, unreadable, or without frames.
    """
    path = Path(path)
    return _with_reader(path, _thrifty_readers(path), lambda reader: reader.info)


def read_frames(path: str | Path, indices: Sequence[int] | slice = slice(None)) -> np.ndarray:
    """Reads frames, in the order of `indices` (repeats are fine), as (f, H, W, 3) uint8 RGB.

    Args:
        path: a video, a gif, an image, or a folder of them in natural order (2.png before 10.png).
        indices: from 0; a slice is taken of all frames.

    Raises:
        VideoError: as `probe`; or an index is beyond the frames there are.
    """
    path = Path(path)

    def read(reader: Reader) -> np.ndarray:
        total = reader.info.num_frames
        wanted = list(range(total)[indices]) if isinstance(indices, slice) else [int(i) for i in indices]
        beyond = [i for i in wanted if not 0 <= i < total]
        if beyond or not wanted:
            raise VideoError(f"{path}: frames {beyond or 'none'} asked for, expected numbers from 0 to {total - 1}")
        return reader.frames(wanted)

    return _with_reader(path, readers_for(path), read)


def stream_frames(path: str | Path, frames: range | None = None, at_most: int = 32) -> Iterator[np.ndarray]:
    """Frames in order, in chunks (f, H, W, 3) uint8 RGB of at most `at_most`: a video of any length in constant memory.

    Args:
        frames: which, one after the other; None: all.

    Raises:
        VideoError: as `read_frames`.
    """
    path, problems, rest = Path(path), [], frames
    for kind in _thrifty_readers(path):
        try:
            reader = kind(path)  # for all chunks: one made anew would seek, and decode from the key frame before
            size = max(1, min(at_most, _CHUNK_BYTES // (3 * reader.info.height * reader.info.width)))
            rest = range(reader.info.num_frames) if rest is None else rest
            while rest:
                yield reader.frames(list(rest[:size]))
                rest = rest[size:]
            return
        except kind.errors() as error:
            problems.append(_problem(kind, error))
    raise _unreadable(path, problems)


Result = TypeVar("Result")


def _thrifty_readers(path: Path) -> list[type[Reader]]:
    """As `readers_for`, but decord last: it decodes ahead of what it is asked for, without a bound."""
    return sorted(readers_for(path), key=lambda kind: kind.__name__ == "_Decord")


def _with_reader(path: Path, readers: list[type[Reader]], use: Callable[[Reader], Result]) -> Result:
    """What `use` makes of the first of the readers that can read `path`."""
    problems = []
    for reader in readers:
        try:
            return use(reader(path))
        except VideoError:
            raise
        except reader.errors() as error:
            problems.append(_problem(reader, error))
    raise _unreadable(path, problems)


def _problem(reader: type[Reader], error: Exception) -> str:
    return f"{reader.__name__[1:]}: {' '.join(str(error).split())[:120]}"


def _unreadable(path: Path, problems: list[str]) -> VideoError:
    if problems[-1].startswith("Decord"):
        problems = [*problems, "the package av, not installed here, reads more kinds"]
    return VideoError(f"{path}: cannot be read as frames ({'; '.join(problems)})")


# ---- writing --------------------------------------------------------------------------------------------------------


def write_video(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Writes (f, H, W, 3) uint8 RGB as `video_writer` does.

    Raises:
        VideoError: the frames or `fps` are not as above, the name does not end in .mp4, or the place cannot be written.
    """
    _check_frames(path, frames)
    with video_writer(path, *frames.shape[1:3], fps) as write:
        write(frames)


@contextmanager
def video_writer(path: str | Path, height: int, width: int, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives a function that appends frames (f, H, W, 3) uint8 RGB to an mp4 that browsers play.

    It is H.264 in yuv420p, its index first. That needs even sizes: an odd one gains a copy of its last row or column.
    The file appears when all went well, and only then.

    Raises:
        VideoError: the frames or `fps` are not as above, the name does not end in .mp4, or the place cannot be written.
    """
    _check_place(path, ".mp4", fps)
    with (
        _complete_or_absent(path) as partial,
        _encoder(path, partial, height, width, fps, "-movflags", "+faststart") as write,
    ):
        yield write


@contextmanager
def growing_video(path: str | Path, height: int, width: int, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """As `video_writer`, but the file is there at once and can be played at any moment, also of a process that is gone.

    Every frame of those given, (f, H, W, 3) uint8 RGB, is a fragment of its own, encoded without looking ahead: a
    larger file than `video_writer`'s.

    Raises:
        VideoError: as `video_writer`.
    """
    _check_place(path, ".mp4", fps)
    fragments = ("-tune", "zerolatency", "-movflags", "+empty_moov+default_base_moof+frag_every_frame")
    with _encoder(path, Path(path), height, width, fps, *fragments, "-flush_packets", "1") as write:
        yield write


@contextmanager
def _encoder(
    path: str | Path, file: Path, height: int, width: int, fps: float, *options: str
) -> Iterator[Callable[[np.ndarray], None]]:
    """Encodes frames into `file`; messages name `path`."""
    more = (0, height % 2), (0, width % 2), (0, 0)
    encoder = imageio_ffmpeg.write_frames(
        str(file), (width + width % 2, height + height % 2), fps=fps, codec="libx264", pix_fmt_out="yuv420p",
        macro_block_size=1, quality=None, ffmpeg_log_level="error", output_params=["-crf", "16", *options],
    )  # fmt: skip
    encoder.send(None)

    def write(frames: np.ndarray) -> None:
        _check_frames(path, frames, height, width)
        for frame in frames:
            padded = np.pad(frame, more, mode="edge") if height % 2 or width % 2 else frame
            encoder.send(np.ascontiguousarray(padded))

    try:
        yield write
    finally:
        encoder.close()


def write_gif(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Writes (f, H, W, 3) uint8 RGB as `gif_writer` does.

    Raises:
        VideoError: the frames or `fps` are not as above, the name does not end in .gif, or the place cannot be written.
    """
    _check_frames(path, frames)
    with gif_writer(path, *frames.shape[1:3], fps) as write:
        write(frames)


@contextmanager
def gif_writer(path: str | Path, height: int, width: int, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives a function that appends frames (f, H, W, 3) uint8 RGB to a gif that repeats for ever.

    Frames alike are stored once and shown longer; of others, the box that changes is stored, in colours of its own.
    Nothing but the last frame is kept in memory: Pillow's own writer keeps them all.

    Raises:
        VideoError: the frames or `fps` are not as above, the name does not end in .gif, or the place cannot be written.
    """
    _check_place(path, ".gif", fps)
    with _complete_or_absent(path) as partial, open(partial, "wb") as file:
        file.write(b"GIF89a" + struct.pack("<HH3x", width, height) + b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")
        shown, box, times = None, (0, 0, width, height), 0  # the last frame, what changed in it, how often it came

        def store() -> None:
            image = shown.crop(box).convert("P", palette=Image.Palette.ADAPTIVE)
            duration = times * round(1000 / fps)  # milliseconds
            file.writelines(GifImagePlugin.getdata(image, box[:2], duration=duration, include_color_table=True))

        def write(frames: np.ndarray) -> None:
            nonlocal shown, box, times
            _check_frames(path, frames, height, width)
            for image in map(Image.fromarray, frames):
                changed = ImageChops.difference(image, shown).getbbox() if shown else box
                if changed:
                    if shown:
                        store()
                    shown, box, times = image, changed, 0
                times += 1

        yield write
        if shown:
            store()
        file.write(b";")


def _check_place(path: str | Path, suffix: str, fps: float) -> None:
    if Path(path).suffix.lower() != suffix:
        raise VideoError(f"{path}: expected a name that ends in {suffix}")
    if not fps > 0:
        raise VideoError(f"{path}: got {fps} frames per second, expected more than 0")


def _check_frames(path: str | Path, frames: np.ndarray, height: int | None = None, width: int | None = None) -> None:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise VideoError(f"{path}: got frames {frames.shape} {frames.dtype}, expected at least one, (f, H, W, 3) uint8")
    if height is not None and frames.shape[1:3] != (height, width):
        raise VideoError(f"{path}: got frames {frames.shape}, expected (f, {height}, {width}, 3)")


@contextmanager
def _complete_or_absent(path: str | Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` at the end, or is removed where an error ends it."""
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        partial.touch()  # a place that cannot be written is told here, not in ffmpeg's many lines
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise VideoError(f"{path}: cannot be written ({error.strerror or ' '.join(str(error).split())})") from error
