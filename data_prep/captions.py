"""Captions of clips, from a file: HD-VILA's own text of what is said, or what a captioner made of the frames."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from followyourpose.data import hdvila

Captions = str | list[tuple[int, str]]  # of a whole clip; or (frame, what it shows)


def read_captions(file: Path, clips: set[str]) -> dict[str, Captions]:
    """The captions of these clips, by name.

    Args:
        file: .csv, as `followyourpose.data.hdvila.read_captions` reads it; or lines of {"clip_id", "text"}, as
            HD-VILA's hdvila_clip_text_100m.jsonl has them, or {"clip_id", "caption"}.

    Raises:
        ValueError: it is no such file.
    """
    if file.suffix.lower() == ".csv":
        return {clip: said for (_, clip), said in hdvila.read_captions(file).items() if clip in clips}
    try:
        return dict(_lines(file, clips))
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error


def _lines(file: Path, clips: set[str]) -> Iterator[tuple[str, Captions]]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                clip, text = row["clip_id"].removesuffix(".mp4"), row["caption"] if "caption" in row else row["text"]
                if clip in clips:
                    yield clip, str(text)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{file}: line {number}: expected an object with clip_id and text or caption"
                ) from error


def shifted(said: Sequence[tuple[int, str]], skipped: int, frames: int) -> list[dict[str, int | str]]:
    """Captions of frames, when the clip's first `skipped` are cut off and `frames` are left; the nearest if none is."""
    moved = [(frame - skipped, text) for frame, text in said]
    inside = [(frame, text) for frame, text in moved if 0 <= frame < frames]
    nearest = min(moved, key=lambda pair: abs(pair[0] - frames / 2))
    return [{"frame": max(0, frame), "caption": text} for frame, text in inside or [nearest]]
