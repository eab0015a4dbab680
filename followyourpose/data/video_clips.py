"""Stage-2 data: captioned video clips without poses, in a folder with a manifest or in HD-VILA-100M's layout."""

import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from followyourpose.common.checks import is_text
from followyourpose.data.hdvila import Captions, hdvila_clips
from followyourpose.data.images import WHITE
from followyourpose.data.labels import NO_TEXT, STRINGS, Dropped
from followyourpose.data.manifest import BEYOND, json_rows
from followyourpose.data.video_io import probe, read_frames


class VideoClips:
    """Random access to the frames of captioned videos.

    `path` is a folder with a manifest.jsonl of {"video", "caption"} lines, where the caption is a string or a list of
    {"frame", "caption"}; or HD-VILA's own layout (see `hdvila_clips`), which `captions`, its CSV, implies. No reader is
    kept: each read opens its video, so that several processes can use the object.

    Args:
        limit: use only so many clips, from the first; None: all.

    Raises:
        ValueError: neither layout is there, a line of the manifest is not such an object, or no clip is left.
    """

    def __init__(self, path: str | Path, limit: int | None = None, captions: str | Path | None = None) -> None:
        path = Path(path)
        manifest = path / "manifest.jsonl"
        files = cache(lambda folder: frozenset(os.listdir(folder)) if folder.is_dir() else frozenset())
        self.dropped = Dropped()  # clips left out, by reason
        is_listed = manifest.is_file() and captions is None
        found = _listed(manifest, self.dropped) if is_listed else hdvila_clips(path, self.dropped, captions)
        clips: list[str] = []
        for video, texts in found:
            if limit is not None and len(clips) >= limit:
                break
            texts = sorted((frame, text.strip()) for frame, text in texts if text.strip())
            if not texts:
                self.dropped.add("without a caption", str(video))
            elif not all(is_text(text) for _, text in texts):
                self.dropped.add(NO_TEXT, str(video))
            elif video.name not in files(video.parent):
                self.dropped.add("without a file", str(video))
            else:
                clips.append(json.dumps([str(video), texts]))
        if not clips:
            raise ValueError(f"{path}: no clip, expected at least one (limit: {limit}; {self.dropped})")
        self._clips = np.array(clips, STRINGS)
        self._lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._clips)

    def num_frames(self, index: int) -> int:
        if index not in self._lengths:
            self._lengths[index] = probe(self.name(index)).num_frames
        return self._lengths[index]

    def name(self, index: int) -> str:
        """Return the video's path."""
        return self._clip(index)[0]

    def label(self, index: int, frames: Sequence[int]) -> tuple[str, None]:
        """Return the caption nearest to the middle of `frames`, of two the earlier; clips have no keypoints."""
        middle = (frames[0] + frames[-1]) / 2
        return min(self._clip(index)[1], key=lambda text: abs(text[0] - middle))[1], None

    def read(self, index: int, frames: Sequence[int]) -> np.ndarray:
        """Return the frames at these indices, (f, H, W, 3) uint8 RGB."""
        return read_frames(self.name(index), frames, WHITE)

    def _clip(self, index: int) -> tuple[str, Captions]:
        return json.loads(self._clips[index])


def _listed(manifest: Path, dropped: Dropped) -> Iterator[tuple[Path, Captions]]:
    expected = "an object with video and caption"
    for where, row in json_rows(manifest, dropped):
        try:
            caption = row["caption"]
            rows = [{"frame": 0, "caption": caption}] if isinstance(caption, str) else caption
            video, texts = manifest.parent / row["video"], [(int(each["frame"]), each["caption"] + "") for each in rows]
        except OverflowError:  # an infinite frame
            dropped.add(BEYOND, where)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where}: expected {expected}") from error
        else:
            yield video, texts
