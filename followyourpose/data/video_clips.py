"""Stage-2 data: captioned video clips without poses, a folder with a manifest (as HD-VILA's are prepared)."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from followyourpose.data.video_io import probe, read_frames


class VideoClips:
    """Random access to the frames of the videos in `path`/manifest.jsonl: one {"video", "caption"} per line.

    No reader is kept: each read opens its video, so that the object can be used from several processes.

    Raises:
        ValueError: there is no manifest, it is empty, a line of it is not such an object, or a video is missing.
    """

    def __init__(self, path: str | Path, limit: int | None = None) -> None:
        manifest = Path(path) / "manifest.jsonl"
        if not manifest.is_file():
            raise ValueError(f"{manifest}: not found; expected a folder of clips with a manifest.jsonl")
        self.clips: list[tuple[Path, str]] = []
        for number, line in enumerate(manifest.read_text().splitlines()[:limit], 1):
            try:
                row = json.loads(line)
                self.clips.append((Path(path) / row["video"], row["caption"]))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{manifest}: line {number}: expected an object with video and caption") from error
            if not self.clips[-1][0].is_file():
                raise ValueError(f"{manifest}: line {number}: {self.clips[-1][0]} not found")
        if not self.clips:
            raise ValueError(f"{manifest}: names no clip (limit: {limit}), expected at least one")
        self._lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def num_frames(self, index: int) -> int:
        if index not in self._lengths:
            self._lengths[index] = probe(self.clips[index][0]).num_frames
        return self._lengths[index]

    def label(self, index: int) -> tuple[str, None]:
        """The caption; clips have no keypoints."""
        return self.clips[index][1], None

    def read(self, index: int, frames: Sequence[int]) -> np.ndarray:
        """The frames at these indices, (f, H, W, 3) uint8 RGB."""
        return read_frames(self.clips[index][0], frames)
