"""Decoding of a video as ffmpeg and players show it: in display order, upright, in square pixels, over one ground.

Frames are (f, H, W, 3) uint8 RGB. PyAV decodes, and ffmpeg's own filters convert, so that pixels equal ffmpeg's.
decord2 3.4 was tried in its place: it takes as long (78 and 76 ms of CPU for 8 of 240 frames of 512 x 288), gives other
frames of open groups of pictures, and has neither order of display nor rotation nor pixel shape nor transparency.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from followyourpose.common.checks import counted
from followyourpose.data.images import flatten

if TYPE_CHECKING:
    import av

_SQUARE = 0.01  # by so much pixels may differ from squares and are taken for such: encoders round the shape
_LONGEST_PIXEL = 16  # times as wide as high, or as high as wide
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own leave the transparency away


class VideoError(ValueError):
    """A file that cannot be read or written as frames; the message is one line and names the file."""


@dataclass(frozen=True)
class VideoInfo:
    """Number of frames, frames per second (None for images, which have no time), and size in pixels."""

    num_frames: int
    fps: float | None
    height: int
    width: int


class VideoDecoder:
    """Frames of a video's best stream by their numbers, in the order of display.

    Frames are found by their times; where a file has no reliable ones, all are decoded from the first on.

    Raises:
        VideoError: the file holds no video, or one that cannot be shown.
        av.error.FFmpegError, IndexError, OSError: the file cannot be decoded.
    """

    def __init__(self, path: Path, ground: int) -> None:
        self.path = path
        self._open()
        self.display = _Display(path, self.stream.sample_aspect_ratio, ground)
        self.times = self._times()
        self._open()
        try:
            first = self.frames([0]) if self.times else None
        except IndexError:  # the file begins behind a key frame
            first = None
        total = len(self.times)
        if first is None:
            self.times, total = [], sum(1 for _ in self._decode(None))
            first = self.frames([0])
        self.info = VideoInfo(total, float(self.stream.average_rate or 0) or None, *first.shape[1:3])

    def close(self) -> None:
        self.container.close()

    def frames(self, indices: list[int]) -> np.ndarray:
        """Return the frames (f, H, W, 3) at these indices; an IndexError where one of them cannot be decoded."""
        first, last = min(indices), max(indices)
        goes_on = 0 < first == self.next or not self.times and 0 < self.next <= first
        if not goes_on:
            self.decoded, self.next = self._decode(self.times[first] if self.times else None), 0
        images = self._pick(indices)
        if len(images) < len(set(indices)) and self.times:  # frames that refer to others before their key frame
            self.decoded = self._decode(None)
            images = self._pick(indices)
        if missing := len(set(indices)) - len(images):
            raise IndexError(f"{counted(missing, 'frame')} cannot be decoded")
        self.next = last + 1
        return np.stack([images[i] for i in indices])

    def _pick(self, indices: list[int]) -> dict[int, np.ndarray]:
        """Return the images (H, W, 3) at these indices, of the frames still to come."""
        number_of = {self.times[i]: i for i in indices} if self.times else {}
        images: dict[int, np.ndarray] = {}
        for position, frame in enumerate(self.decoded, self.next):
            number = number_of.get(frame.pts) if self.times else position
            if number in indices:
                images[number] = self.display(frame)
            if len(images) == len(set(indices)):
                break
        return images

    def _open(self) -> None:
        import av

        self.container = av.open(str(self.path), metadata_errors="replace")
        self.stream = _best(self.path, self.container)
        self.decoded: Iterator[av.VideoFrame] = iter(())  # the frames from number `next` on
        self.next = 0

    def _times(self) -> list[int]:
        """Return the time of each frame that is shown, in order; none where frames can only be counted.

        Where frames are stored in another order than they are shown, times in the order of the file are no times of
        display. AVI files have no others, and some that such were copied into.
        """
        reordered = bool(self.stream.codec_context.has_b_frames)
        if reordered and self.container.format.name == "avi":
            return []
        packets = [packet for packet in self.container.demux(self.stream) if packet.size]
        times = [packet.pts for packet in packets if not packet.is_discard]
        if None in times or len(set(times)) < len(times) or reordered and times == sorted(times):
            return []
        return sorted(times)

    def _decode(self, time: int | None) -> Iterator["av.VideoFrame"]:
        """Yield the decoded frames from the key frame before a time on; None: from the first."""
        import av

        if time is None:
            self.close()
            self._open()
        else:
            self.container.seek(time, stream=self.stream)
        name = _ALPHA_DECODERS.get(self.stream.codec_context.name)
        if name is None or self.stream.metadata.get("alpha_mode") != "1":
            return self.container.decode(self.stream)
        decoder = av.CodecContext.create(name, "r")
        return (frame for packet in self.container.demux(self.stream) for frame in decoder.decode(packet))


def _best(path: Path, container: "av.container.InputContainer") -> "av.VideoStream":
    """Return the stream that ffmpeg would show: the default and largest one that is no cover picture."""
    from av.stream import Disposition

    if not container.streams.video:
        kinds = ", ".join(stream.type for stream in container.streams) or "nothing"
        raise VideoError(f"{path}: holds no video, only {kinds}")
    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    if not streams:
        raise VideoError(f"{path}: holds video of a codec that FFmpeg does not have")

    def score(stream: "av.VideoStream") -> tuple[bool, int]:
        default = 5_000_000 * bool(stream.disposition & Disposition.default)
        return not stream.disposition & Disposition.attached_pic, default + stream.width * stream.height

    return max(streams, key=score)


class _Display:
    """Converter of decoded frames to images (H, W, 3) as they are shown, all in the size of the first.

    Args:
        path: the video in messages.
        pixel: width by height of a pixel; None: a square.
        ground: grey under what is transparent.
    """

    def __init__(self, path: Path, pixel: Fraction | None, ground: int) -> None:
        self.path, self.pixel, self.ground = path, float(pixel or 1), ground
        if not 1 / _LONGEST_PIXEL <= self.pixel <= _LONGEST_PIXEL:
            raise VideoError(f"{path}: pixels {self.pixel:g} times as wide as high, expected at most {_LONGEST_PIXEL}")
        self.size: tuple[int, int] | None = None  # width and height in square pixels, before frames are turned
        self.graphs: dict[tuple, av.filter.Graph] = {}

    def __call__(self, frame: "av.VideoFrame") -> np.ndarray:
        self.size = self.size or self._size(frame)
        kind = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range)
        if kind not in self.graphs:
            self.graphs[kind] = self._graph(frame)
        self.graphs[kind].push(frame)
        pixels = self.graphs[kind].pull()
        # Threads of a conversion would be missing in a forked process.
        image = pixels.to_ndarray(format=pixels.format.name, threads=1)
        if image.shape[2] == 4:
            image = np.asarray(flatten(Image.fromarray(image), self.ground))
        return self._turned(image, frame)

    def _size(self, frame: "av.VideoFrame") -> tuple[int, int]:
        if abs(self.pixel - 1) < _SQUARE:
            return frame.width, frame.height
        return round(frame.width * max(1, self.pixel)), round(frame.height / min(1, self.pixel))

    def _graph(self, frame: "av.VideoFrame") -> "av.filter.Graph":
        import av.filter

        has_alpha = frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)
        graph = av.filter.Graph()
        graph.threads = 1
        nodes = [
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
        ]
        if (frame.width, frame.height) != self.size:
            nodes.append(graph.add("scale", f"{self.size[0]}:{self.size[1]}"))
        nodes.append(graph.add("format", f"pix_fmts={'rgba' if has_alpha else 'rgb24'}"))
        nodes.append(graph.add("buffersink"))
        for node, following in zip(nodes, nodes[1:], strict=False):
            node.link_to(following)
        graph.configure()
        return graph

    def _turned(self, image: np.ndarray, frame: "av.VideoFrame") -> np.ndarray:
        """Return an image (H, W, 3) turned and mirrored as the frame's display matrix says.

        Raises:
            VideoError: it is turned by other than a quarter of a circle.
        """
        matrix = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
        if matrix is None:
            return image
        # The first two rows of three: a column x goes to (x_x, x_y), a row y to (y_x, y_y).
        x_x, x_y, _, y_x, y_y = struct.unpack("5i", matrix[:20])
        if abs(x_y) > abs(x_x):
            image, x_x, y_y, x_y, y_x = image.transpose(1, 0, 2), y_x, x_y, x_x, y_y
        if max(abs(x_y), abs(y_x)) > 0.02 * min(abs(x_x), abs(y_y)):
            raise VideoError(f"{self.path}: frames turned by {abs(frame.rotation)} degrees, expected a multiple of 90")
        return image[:: -1 if y_y < 0 else 1, :: -1 if x_x < 0 else 1]
