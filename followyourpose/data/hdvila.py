"""HD-VILA-100M (Xue et al., CVPR 2022): its layout on disk, with captions as the released code keeps them."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from followyourpose.data.labels import Dropped
from followyourpose.data.manifest import json_rows

CAPTION_EVERY = 64  # frames from one captioned frame of a clip to the next, as the released code captioned them
COLUMNS = ("part_id", "clip_id", "caption")

Captions = list[tuple[int, str]]  # (frame, its caption)
Clip = tuple[str, str]  # the part's folder, and the clip's name without .mp4


def hdvila_clips(folder: Path, dropped: Dropped, captions: str | Path | None = None) -> Iterator[tuple[Path, Captions]]:
    """Yield every clip that the metadata or the captions name: `folder`/part_N/video_clips/CLIP.mp4 and its captions.

    The metadata are hdvila_part*.jsonl beside the parts: {"video_id", "url", "clip": [{"clip_id", "span"}]} per line.
    The captions are a CSV of part_id, clip_id and caption; a clip's k-th row describes its frame 64k.

    Args:
        dropped: counts the lines of the metadata that cannot be read.
        captions: the CSV; None: the one in `folder`.

    Raises:
        ValueError: there is no CSV, or several, or a file is not as above.
    """
    captioned = read_captions(_captions_file(folder, captions))
    for part, clip in dict.fromkeys([*_read_metadata(folder, dropped), *captioned]):
        yield folder / part / "video_clips" / f"{clip}.mp4", captioned.get((part, clip), [])


def _captions_file(folder: Path, captions: str | Path | None) -> Path:
    if captions is not None:
        return Path(captions)
    files = sorted(folder.glob("*.csv"))
    if len(files) != 1:
        raise ValueError(
            f"{folder}: holds no manifest.jsonl and {len(files)} .csv files; expected the one, or HD-VILA's parts "
            f"with a .csv of {', '.join(COLUMNS)} (data.captions, where it lies elsewhere)"
        )
    return files[0]


def read_captions(file: Path) -> dict[Clip, Captions]:
    """Read a CSV of captions: those of each clip, by the part's folder and the clip's name.

    Raises:
        ValueError: it is not as above.
    """
    captioned: dict[Clip, Captions] = {}
    try:
        with open(file, newline="", encoding="utf-8-sig") as text:
            rows = csv.DictReader(text, strict=True)
            if missing := sorted(set(COLUMNS) - set(rows.fieldnames or ())):
                raise ValueError(f"{file}: got columns {rows.fieldnames}, expected also {', '.join(missing)}")
            for row in rows:
                if any(row.get(None, ())):
                    raise ValueError(
                        f"{file}: line {rows.line_num}: got {len(rows.fieldnames) + len(row[None])} fields, expected "
                        f"{len(rows.fieldnames)}; a caption with a comma needs quotes"
                    )
                clip = captioned.setdefault(clip_place(row["part_id"] or "", row["clip_id"] or ""), [])
                clip.append((CAPTION_EVERY * len(clip), row["caption"] or ""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: not a readable CSV of captions ({error})") from error
    return captioned


def _read_metadata(folder: Path, dropped: Dropped) -> Iterator[Clip]:
    expected = "an object with clip: [{clip_id}]"
    for file in sorted(folder.glob("hdvila_part*.jsonl")):
        part = file.stem.removeprefix("hdvila_part")
        for where, row in json_rows(file, dropped):
            try:
                yield from [clip_place(part, clip["clip_id"]) for clip in row["clip"]]
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{where}: expected {expected}") from error


def clip_place(part: str, clip: str) -> Clip:
    """Return a part's folder and a clip's name: part 3 is also written part3, part_3 and 03, a clip with .mp4."""
    number = re.fullmatch(r"(?:part)?_?0*(\d+)", part.strip())
    return f"part_{number[1]}" if number else part.strip(), clip.strip().removesuffix(".mp4")
