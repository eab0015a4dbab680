"""Readers of frames from images, animations and videos, behind one interface.

Frames are (f, H, W, 3) uint8 RGB. Images that follow one another, such as those of a folder, have one size.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from followyourpose.common.files import natural_order
from followyourpose.data.images import frames_of, hidden_frames, read_image, shown
from followyourpose.data.video_decoder import VideoDecoder, VideoError, VideoInfo

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
ACCEPTED = f"a video ({', '.join(VIDEO_SUFFIXES)}), a .gif, an image or a folder of them ({', '.join(IMAGE_SUFFIXES)})"
_FPS = 10.0  # of an animation without durations, as in browsers


class _Folder:
    """Images of a folder in natural order; hidden files, such as macOS leaves beside others, are none."""

    def __init__(self, path: Path, ground: int) -> None:
        self.ground = ground
        files = (file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        files = (file for file in files if file.name[0] != "." and file.is_file())
        self.files = sorted(files, key=lambda file: natural_order(file.name))
        if not self.files:
            raise VideoError(f"{path}: no frames in this folder, expected images ({', '.join(IMAGE_SUFFIXES)})")
        height, width = self._read(self.files[0]).shape[:2]
        self.info = VideoInfo(len(self.files), None, height, width)

    def frames(self, indices: list[int]) -> np.ndarray:
        images = {i: self._read(self.files[i]) for i in set(indices)}
        for index, image in images.items():
            if image.shape[:2] != (self.info.height, self.info.width):
                raise VideoError(
                    f"{self.files[index]}: got {image.shape[1]} x {image.shape[0]} pixels, expected "
                    f"{self.info.width} x {self.info.height} as in {self.files[0].name}"
                )
        return np.stack([images[i] for i in indices])

    def close(self) -> None:
        pass

    def _read(self, file: Path) -> np.ndarray:
        try:
            return read_image(file, str(file), self.ground)[0]
        except ValueError as error:
            raise VideoError(f"{file}: cannot be read as a frame ({str(error).removeprefix(f'{file}: ')})") from error


class _Image:
    """Image or animation of any name; frames are decoded one after the other, each from the last."""

    def __init__(self, path: Path, ground: int) -> None:
        self.image, self.ground, fps = Image.open(path), ground, None
        self.hidden = hidden_frames(self.image)
        total = frames_of(self.image)
        if total > 1 or self.image.format == "GIF":
            duration = self._duration(path)
            fps = total / duration if duration else _FPS
        height, width = self.frames([0]).shape[1:3]
        self.info = VideoInfo(total, fps, height, width)

    def frames(self, indices: list[int]) -> np.ndarray:
        images = {}
        for index in sorted(set(indices)):
            self.image.seek(self.hidden + index)
            images[index] = shown(self.image, self.ground)
        return np.stack([images[i] for i in indices])

    def close(self) -> None:
        self.image.close()

    def _duration(self, path: Path) -> float:
        """Return the seconds of all frames."""
        if self.image.format == "GIF":  # Pillow would decode every frame
            import av

            with av.open(str(path)) as container:
                return float(sum(packet.duration * packet.time_base for packet in container.demux() if packet.size))
        milliseconds = 0.0
        for frame in range(self.hidden, self.image.n_frames):
            self.image.seek(frame)
            self.image.load()  # WebP's and AVIF's durations are read with the pixels
            milliseconds += self.image.info.get("duration", 0)
        return milliseconds / 1000


# Of one path, over a `ground`, the grey from 0 to 255 under what is transparent: its `info`, and `frames` at indices.
Reader = _Folder | _Image | VideoDecoder


def reader_for(path: Path) -> type[Reader]:
    """Return the reader of a path's kind of file.

    Raises:
        VideoError: the file is missing, of a type that is not accepted, or plainly broken.
    """
    if not path.exists():
        raise VideoError(f"{path}: no such file or folder, expected {ACCEPTED}")
    if path.is_dir():
        return _Folder
    if path.suffix.lower() in (".gif", *IMAGE_SUFFIXES):
        return _Image
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise VideoError(f"{path}: not an accepted type of file, expected {ACCEPTED}")
    _check_container(path)
    return VideoDecoder


def _check_container(path: Path) -> None:
    """Refuse a file that is plainly no whole video with a reason in plain English."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] == b"\x1a\x45\xdf\xa3" or head[:4] == b"RIFF" and head[8:] == b"AVI ":  # mkv and webm; avi
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
