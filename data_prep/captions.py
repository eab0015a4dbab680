"""Captions of clips, from a file: HD-VILA's own transcripts of the speech, or descriptions of the picture."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from followyourpose.common.files import json_lines
from followyourpose.data import hdvila
from followyourpose.data.hdvila import Clip

# Of a whole clip; (frame of its span in the video, caption); or a manifest's: frames of the clip as it was cut.
Captions = str | list[tuple[int, str]] | list[dict[str, Any]]


def read_captions(file: Path, clips: set[Clip]) -> dict[Clip, Captions]:
    """Read the captions of these clips.

    Args:
        file: .csv, as `followyourpose.data.hdvila.read_captions` reads it; or lines of {"clip_id", "text"}, as in
            HD-VILA's hdvila_clip_text_100m.jsonl, {"clip_id", "caption"}, or {"video", "caption"}, a manifest's.

    Raises:
        ValueError: it is no such file.
    """
    if file.suffix.lower() == ".csv":
        captions = hdvila.read_captions(file)
        of_any_part = {name: each for (_, name), each in captions.items()}  # where the metadata name the part otherwise
        return {clip: captions.get(clip, of_any_part[clip[1]]) for clip in clips if clip[1] in of_any_part}
    by_name = defaultdict(list)
    for clip in clips:
        by_name[clip] = [clip]
        by_name[clip[1]].append(clip)
    return {clip: text for name, text in _lines(file) for clip in by_name.get(name, ())}


def _lines(file: Path) -> Iterator[tuple[str | Clip, Captions]]:
    """Yield the clip or, where the part is not named, its name, and the captions of each line."""
    for number, row in json_lines(file):
        try:
            text = row["caption"] if "caption" in row else row["text"]
            text = "" if text is None else text if isinstance(text, list) else str(text)
            if "video" in row:
                yield (PurePosixPath(row["video"]).parts[0], PurePosixPath(row["video"]).stem), text
            else:
                yield row["clip_id"].removesuffix(".mp4"), text
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(
                f"{file}: line {number}: expected an object with clip_id and text or caption, or video and caption"
            ) from error


def shifted(captions: Sequence[tuple[int, str]], skipped: int, frames: int) -> list[dict[str, int | str]]:
    """Captions of frames in a clip cut down to `frames` frames behind the first `skipped`; without any, the nearest."""
    moved = [(frame - skipped, text) for frame, text in captions]
    inside = [(frame, text) for frame, text in moved if 0 <= frame < frames]
    nearest = min(moved, key=lambda pair: abs(pair[0] - frames / 2))
    return [{"frame": max(0, frame), "caption": text} for frame, text in inside or [nearest]]
