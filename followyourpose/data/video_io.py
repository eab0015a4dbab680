"""Frames in and out of files: videos, gifs and folders of images, always (f, H, W, 3) uint8 RGB."""

import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import GifImagePlugin, Image, ImageChops

from followyourpose.common.files import atomic_file
from followyourpose.data.images import BLACK, UNREADABLE
from followyourpose.data.video_readers import Reader, VideoError, VideoInfo, reader_for

_CHUNK_BYTES = 2**27  # of frames in memory at a time, when a video is read from its beginning to its end


# ---- reading --------------------------------------------------------------------------------------------------------


def probe(path: str | Path) -> VideoInfo:
    """Return the number of frames, frame rate and size of a video, a gif, an image or a folder of images.

    Raises:
        VideoError: the file is missing, of a type that is not accepted, unreadable, or without frames.
    """
    with _opened(path) as reader:
        return reader.info


def read_frames(path: str | Path, indices: Sequence[int] | slice = slice(None), ground: int = BLACK) -> np.ndarray:
    """Read frames, in the order of `indices` (repeats are fine), as (f, H, W, 3) uint8 RGB.

    Args:
        path: a video, a gif, an image, or a folder of them in natural order (2.png before 10.png).
        indices: from 0; a slice is taken of all frames.
        ground: grey from 0 to 255 under what is transparent: BLACK for skeletons, WHITE for photographs.

    Raises:
        VideoError: as `probe`; or an index is beyond the frames there are.
    """
    with _opened(path, ground) as reader:
        total = reader.info.num_frames
        wanted = list(range(total)[indices]) if isinstance(indices, slice) else [int(i) for i in indices]
        beyond = [i for i in wanted if not 0 <= i < total]
        if beyond or not wanted:
            raise VideoError(f"{path}: got frames {beyond or 'none'}, expected numbers from 0 to {total - 1}")
        return reader.frames(wanted)


def stream_frames(
    path: str | Path, frames: Sequence[int] | None = None, at_most: int = 32, ground: int = BLACK
) -> Iterator[np.ndarray]:
    """Yield frames in the order of `frames`, in chunks (f, H, W, 3) uint8 RGB of at most `at_most`, in constant memory.

    Args:
        frames: indices of frames that there are; None: all.
        ground: as of `read_frames`.

    Raises:
        VideoError: as `read_frames`.
    """
    with _opened(path, ground) as reader:  # one for all chunks: another would decode anew from the key frame before
        size = max(1, min(at_most, _CHUNK_BYTES // (3 * reader.info.height * reader.info.width)))
        rest = range(reader.info.num_frames) if frames is None else frames
        while rest:
            yield reader.frames(list(rest[:size]))
            rest = rest[size:]


@contextmanager
def _opened(path: str | Path, ground: int = BLACK) -> Iterator[Reader]:
    """Yield the reader of a path, for this process and thread; its errors become one line."""
    kind = reader_for(Path(path))
    try:
        with closing(kind(Path(path), ground)) as reader:
            yield reader
    except VideoError:
        raise
    except Exception as error:
        if not isinstance(error, UNREADABLE) and type(error).__module__ != "av.error":
            raise
        raise VideoError(f"{path}: cannot be read as frames ({' '.join(str(error).split())[:120]})") from error


# ---- writing --------------------------------------------------------------------------------------------------------


def write_video(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Write (f, H, W, 3) uint8 RGB as `video_writer` does, with its errors."""
    _check_frames(path, frames)
    with video_writer(path, *frames.shape[1:3], fps) as write:
        write(frames)


@contextmanager
def video_writer(path: str | Path, height: int, width: int, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends frames (f, H, W, 3) uint8 RGB to an mp4 that browsers play.

    It is H.264 in yuv420p, its index first. That needs even sizes: an odd one gains a copy of its last row or column.
    The file appears only once it is whole.

    Raises:
        VideoError: the frames or `fps` are not as above, the name does not end in .mp4, or the place cannot be written.
    """
    _check_place(path, ".mp4", fps)
    with _whole(path) as partial, _encoder(path, partial, height, width, fps, "-movflags", "+faststart") as write:
        yield write


@contextmanager
def growing_video(path: str | Path, height: int, width: int, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function as `video_writer` does, for a file that can be played at any moment, also of a killed process.

    Every frame (f, H, W, 3) uint8 RGB is a fragment of its own, encoded without looking ahead, in a larger file.

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
    """Yield a function that encodes frames into `file`; messages name `path`.

    ffmpeg is started here since imageio-ffmpeg's own writer ignores its errors: a full disk would leave half a file.
    """
    more = (0, height % 2), (0, width % 2), (0, 0)
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width + width % 2}x{height + height % 2}", "-r", str(Fraction(fps).limit_denominator()), "-i", "-",
        "-an", "-vcodec", "libx264", "-pix_fmt", "yuv420p", "-crf", "16", *options, "-f", "mp4", str(file),
    ]  # fmt: skip
    # A process group of its own: Ctrl-C is for this process, which then ends the file.
    group = {} if sys.platform == "win32" else {"process_group": 0}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, **group) as ffmpeg,
    ):

        def write(frames: np.ndarray) -> None:
            _check_frames(path, frames, height, width)
            for frame in frames:
                padded = np.pad(frame, more, mode="edge") if height % 2 or width % 2 else frame
                ffmpeg.stdin.write(np.ascontiguousarray(padded))

        try:
            yield write
            ffmpeg.stdin.close()
        except BrokenPipeError:  # ffmpeg has ended: its errors have the reason
            with suppress(BrokenPipeError):
                ffmpeg.stdin.close()
        if ffmpeg.wait():
            errors.seek(0)
            first = errors.read().decode(errors="replace").strip().partition("\n")[0]
            raise VideoError(f"{path}: cannot be written ({first.rpartition(': ')[2] or 'ffmpeg failed'})")


def write_gif(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Write (f, H, W, 3) uint8 RGB as `gif_writer` does, with its errors."""
    _check_frames(path, frames)
    with gif_writer(path, *frames.shape[1:3], fps) as write:
        write(frames)


@contextmanager
def gif_writer(path: str | Path, height: int, width: int, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends frames (f, H, W, 3) uint8 RGB to a gif that repeats for ever.

    Equal frames are stored once and shown longer; of others the box that changes is stored, in colours of its own.
    Nothing but the last frame is kept in memory, where Pillow's own writer keeps them all.

    Raises:
        VideoError: the frames or `fps` are not as above, the name does not end in .gif, or the place cannot be written.
    """
    _check_place(path, ".gif", fps)
    with _whole(path) as partial, open(partial, "wb") as file:
        file.write(b"GIF89a" + struct.pack("<HH3x", width, height) + b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")
        shown, box, times = None, (0, 0, width, height), 0  # the last frame, the box of its change, its repeats

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
def _whole(path: str | Path) -> Iterator[Path]:
    """Yield a path to write; it takes the name `path` at the end, or is removed after an error."""
    try:
        with atomic_file(Path(path)) as partial:
            partial.touch()  # a folder that cannot be written is an error here, and not in ffmpeg's many lines
            yield partial
    except OSError as error:
        raise VideoError(f"{path}: cannot be written ({error.strerror or ' '.join(str(error).split())})") from error
