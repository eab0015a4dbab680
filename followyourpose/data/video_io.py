"""Frames in and out of files: videos, gifs and folders of images, always (f, H, W, 3) uint8 RGB.

A reader lives for one call only: decord's hangs in a forked worker and must not be shared by threads.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TypeVar

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageSequence

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
ACCEPTED = f"a video ({', '.join(VIDEO_SUFFIXES)}), a .gif, or a folder of images ({', '.join(IMAGE_SUFFIXES)})"


class VideoError(ValueError):
    """A file that cannot be read or written as frames; the message is one line and names the file."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file of frames holds: `fps` in frames per second (None: a folder of images says nothing about time)."""

    num_frames: int
    fps: float | None
    height: int
    width: int


# ---- reading --------------------------------------------------------------------------------------------------------


def probe(path: str | Path) -> VideoInfo:
    """Number of frames, frame rate and size in pixels of a video, a gif or a folder of images.

    Raises:
        VideoError: the file is missing, of a type that is not accepted, unreadable, or without frames.
    """
    return _with_reader(Path(path), lambda reader: reader.info)


def read_frames(path: str | Path, indices: Sequence[int] | slice = slice(None)) -> np.ndarray:
    """Reads frames, in the order of `indices` (repeats are fine), as (f, H, W, 3) uint8 RGB.

    Args:
        path: a video, a gif or a folder of images, which are taken in natural order (2.png before 10.png).
        indices: from 0; a slice is taken of all frames.

    Raises:
        VideoError: as `probe`; or an index is beyond the frames there are.
    """
    path = Path(path)

    def read(reader: "_Reader") -> np.ndarray:
        total = reader.info.num_frames
        wanted = list(range(total)[indices]) if isinstance(indices, slice) else [int(i) for i in indices]
        beyond = [i for i in wanted if not 0 <= i < total]
        if beyond or not wanted:
            raise VideoError(f"{path}: frames {beyond or 'none'} asked for, expected numbers from 0 to {total - 1}")
        return reader.frames(wanted)

    return _with_reader(path, read)


class _Reader(Protocol):
    """One way to read one path: opens it, tells what is there, and gives the frames (f, H, W, 3) at valid indices."""

    info: VideoInfo

    def __init__(self, path: Path) -> None: ...

    def frames(self, indices: list[int]) -> np.ndarray: ...

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        """What the library behind it raises for a file that it cannot read."""


class _Folder:
    def __init__(self, path: Path) -> None:
        self.files = sorted((f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
        if not self.files:
            raise VideoError(f"{path}: no frames in this folder, expected images ({', '.join(IMAGE_SUFFIXES)})")
        height, width = _read_image(self.files[0]).shape[:2]
        self.info = VideoInfo(len(self.files), None, height, width)

    def frames(self, indices: list[int]) -> np.ndarray:
        images = {i: _read_image(self.files[i]) for i in set(indices)}
        for index, image in images.items():
            if image.shape[:2] != (self.info.height, self.info.width):
                raise VideoError(
                    f"{self.files[index]}: got {image.shape[1]} x {image.shape[0]} pixels, expected "
                    f"{self.info.width} x {self.info.height} as in {self.files[0].name}"
                )
        return np.stack([images[i] for i in indices])

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        return OSError, SyntaxError  # Pillow has both for a damaged image


class _Gif:
    def __init__(self, path: Path) -> None:
        self.path = path
        with Image.open(path) as image:
            durations = [frame.info.get("duration", 0) for frame in ImageSequence.Iterator(image)]  # milliseconds
            fps = 1000 * len(durations) / sum(durations) if sum(durations) else 10.0  # no time given: as browsers do
            self.info = VideoInfo(len(durations), fps, image.height, image.width)

    def frames(self, indices: list[int]) -> np.ndarray:
        with Image.open(self.path) as image:
            images = {i: _to_rgb(f) for i, f in enumerate(ImageSequence.Iterator(image)) if i in set(indices)}
        return np.stack([images[i] for i in indices])

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        return OSError, SyntaxError, EOFError


class _Decord:
    def __init__(self, path: Path) -> None:
        import decord

        self.video = decord.VideoReader(str(path), num_threads=1)
        if len(self.video) == 0:
            raise RuntimeError("no frames")
        if self.video.get_frame_timestamp(0)[0] < 0:
            raise RuntimeError("an edit list hides its first frames")  # decord would count from the hidden ones
        height, width, channels = self.video[0].shape
        if channels != 3:
            raise RuntimeError("rotated frames")  # decord's are garbage then
        self.info = VideoInfo(len(self.video), float(self.video.get_avg_fps()), height, width)

    def frames(self, indices: list[int]) -> np.ndarray:
        return self.video.get_batch(indices).asnumpy()

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        import decord

        return RuntimeError, decord.DECORDError, IndexError


class _PyAV:
    def __init__(self, path: Path) -> None:
        import av

        self.path = path
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            fps = float(stream.average_rate or 0) or None
            packets = [p for p in container.demux(stream) if p.pts is not None and not p.is_discard]
        self.times = sorted(packet.pts for packet in packets)  # of the frames that are shown
        if not self.times:
            raise IndexError("no frames")
        self.info = VideoInfo(len(self.times), fps, *self.frames([0]).shape[1:3])

    def frames(self, indices: list[int]) -> np.ndarray:
        import av

        missing, images = {self.times[i] for i in indices}, {}
        with av.open(str(self.path)) as container:
            stream = container.streams.video[0]
            container.seek(min(missing), stream=stream)  # to the key frame before it
            for frame in container.decode(stream):
                if frame.pts in missing:
                    missing.remove(frame.pts)
                    images[frame.pts] = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                if not missing:
                    return np.stack([images[self.times[i]] for i in indices])
        raise IndexError(f"{len(missing)} frames cannot be decoded")

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        import av

        return av.error.FFmpegError, IndexError, OSError


Result = TypeVar("Result")


def _with_reader(path: Path, use: Callable[[_Reader], Result]) -> Result:
    """What `use` makes of the first reader that can read `path`."""
    problems = []
    for reader in _readers_for(path):
        try:
            return use(reader(path))
        except VideoError:
            raise
        except reader.errors() as error:
            problems.append(f"{reader.__name__[1:]}: {' '.join(str(error).split())[:120]}")
    if problems[-1].startswith("Decord"):
        problems.append("the package av, not installed here, reads more kinds")
    raise VideoError(f"{path}: cannot be read as frames ({'; '.join(problems)})")


def _readers_for(path: Path) -> list[type[_Reader]]:
    if not path.exists():
        raise VideoError(f"{path}: no such file or folder, expected {ACCEPTED}")
    if path.is_dir():
        return [_Folder]
    if path.suffix.lower() == ".gif":
        return [_Gif]
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise VideoError(f"{path}: not a type of file that is read here, expected {ACCEPTED}")
    _check_container(path)
    readers = [reader for package, reader in (("decord", _Decord), ("av", _PyAV)) if find_spec(package)]
    if not readers:
        raise VideoError(f"{path}: no video reader is installed, expected the package decord or av")
    return readers


def _check_container(path: Path) -> None:
    """Refuses what is plainly no whole video, before decord does so with lines of its own on stderr."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] in (b"RIFF", b"\x1a\x45\xdf\xa3"):  # avi; mkv and webm
            return
        if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            raise VideoError(f"{path}: cannot be read as frames ({'not a video' if size else 'an empty file'})")
        at, kinds = 0, set()
        while at + 8 <= size:  # the boxes of an mp4: a length, a kind, a body
            file.seek(at)
            length, kind = int.from_bytes(file.read(4)), file.read(4)
            length = int.from_bytes(file.read(8)) if length == 1 else length or size - at
            kinds.add(kind)
            at += max(length, 8)
    if b"moov" not in kinds:
        raise VideoError(f"{path}: cannot be read as frames (the file is cut short: it has no index of frames)")


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts 2.png before 10.png: runs of digits count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]


def _to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8; what is transparent becomes black, the ground on which skeletons are drawn."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _read_image(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return _to_rgb(image)


# ---- writing --------------------------------------------------------------------------------------------------------


def write_video(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Writes (f, H, W, 3) uint8 RGB as an mp4 that browsers play: H.264, yuv420p, its index first.

    yuv420p needs even sizes: an odd one gains a copy of its last row or column. The file appears only when complete.

    Raises:
        VideoError: the frames or `fps` are not as above, the name does not end in .mp4, or the place cannot be written.
    """
    _check_frames(path, frames, fps, ".mp4")
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with _complete_or_absent(path) as partial:
        writer = imageio_ffmpeg.write_frames(
            str(partial), frames.shape[2:0:-1], fps=fps, codec="libx264", pix_fmt_out="yuv420p", macro_block_size=1,
            quality=None, ffmpeg_log_level="error", output_params=["-crf", "16", "-movflags", "+faststart"],
        )  # fmt: skip
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
        writer.close()


def write_gif(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Writes (f, H, W, 3) uint8 RGB as a gif that repeats for ever; frames alike are stored once and shown longer.

    Raises:
        VideoError: the frames or `fps` are not as above, the name does not end in .gif, or the place cannot be written.
    """
    _check_frames(path, frames, fps, ".gif")
    first, *others = (Image.fromarray(frame) for frame in frames)
    with _complete_or_absent(path) as partial:
        first.save(partial, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)


def _check_frames(path: str | Path, frames: np.ndarray, fps: float, suffix: str) -> None:
    if Path(path).suffix.lower() != suffix:
        raise VideoError(f"{path}: expected a name that ends in {suffix}")
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise VideoError(f"{path}: got frames {frames.shape} {frames.dtype}, expected at least one, (f, H, W, 3) uint8")
    if not fps > 0:
        raise VideoError(f"{path}: got {fps} frames per second, expected more than 0")


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
