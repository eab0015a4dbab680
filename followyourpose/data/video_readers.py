"""Readers of frames from images, gifs and videos, behind one interface.

Frames are (f, H, W, 3) uint8 RGB. Videos are decoded by PyAV alone: decord2 3.4 takes as long (78 and 76 ms of CPU for
8 of 240 frames of 512 x 288), refuses widths of 16, 32, 48, 96 and 144, and gives neither the rotation nor the shape of
the pixels nor the transparency of a video.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageSequence

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
ACCEPTED = f"a video ({', '.join(VIDEO_SUFFIXES)}), a .gif, an image or a folder of them ({', '.join(IMAGE_SUFFIXES)})"


class VideoError(ValueError):
    """A file that cannot be read or written as frames; the message is one line and names the file."""


@dataclass(frozen=True)
class VideoInfo:
    """Number of frames, frames per second (None for images, which have no time), and size in pixels."""

    num_frames: int
    fps: float | None
    height: int
    width: int


class Reader(Protocol):
    """Reader of one path: its `info`, and the frames (f, H, W, 3) at valid indices."""

    info: VideoInfo

    def __init__(self, path: Path) -> None: ...

    def frames(self, indices: list[int]) -> np.ndarray: ...

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        """Return the errors of the library behind it for a file that it cannot read."""


class _Images:
    def __init__(self, path: Path) -> None:
        files = [path] if path.is_file() else path.iterdir()
        self.files = sorted((f for f in files if f.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
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
        self.image = Image.open(path)  # kept open: its frames are decoded one after the other, each from the last
        durations = [frame.info.get("duration", 0) for frame in ImageSequence.Iterator(self.image)]  # milliseconds
        fps = 1000 * len(durations) / sum(durations) if sum(durations) else 10.0  # no time given: as browsers do
        self.info = VideoInfo(len(durations), fps, self.image.height, self.image.width)

    def frames(self, indices: list[int]) -> np.ndarray:
        images = {}
        for index in sorted(set(indices)):
            self.image.seek(index)
            images[index] = _to_rgb(self.image)
        return np.stack([images[i] for i in indices])

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        return OSError, SyntaxError, EOFError


class _Video:
    def __init__(self, path: Path) -> None:
        import av

        self.path = path
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: holds no video, only {', '.join(s.type for s in container.streams)}")
            stream = container.streams.video[0]
            fps = float(stream.average_rate or 0) or None
            packets = [p for p in container.demux(stream) if p.pts is not None and not p.is_discard]
        self.times = sorted(packet.pts for packet in packets)  # of the frames that are shown
        if not self.times:
            raise IndexError("no frames")
        self.container = av.open(str(path))
        self.decoded, self.next = iter(()), 0  # frames from the one of this number on
        self.info = VideoInfo(len(self.times), fps, *self.frames([0]).shape[1:3])

    def frames(self, indices: list[int]) -> np.ndarray:
        if min(indices) != self.next or not min(indices):
            self.container.seek(self.times[min(indices)], stream=self.container.streams.video[0])
            self.decoded = self.container.decode(video=0)  # from the key frame before it
        self.next = max(indices) + 1
        missing, images = {self.times[i] for i in indices}, {}
        for frame in self.decoded:
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


def reader_for(path: Path) -> type[Reader]:
    """Return the reader of a path's kind of file.

    Raises:
        VideoError: the file is missing, of a type that is not accepted, or plainly broken.
    """
    if not path.exists():
        raise VideoError(f"{path}: no such file or folder, expected {ACCEPTED}")
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return _Images
    if path.suffix.lower() == ".gif":
        return _Gif
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise VideoError(f"{path}: not an accepted type of file, expected {ACCEPTED}")
    _check_container(path)
    return _Video


def _check_container(path: Path) -> None:
    """Refuse a file that is plainly no whole video with a reason in plain English."""
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
    """Return the key that sorts 2.png before 10.png: runs of digits count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Return an image as (H, W, 3) uint8; transparency becomes black, the ground on which skeletons are drawn."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _read_image(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return _to_rgb(image)
