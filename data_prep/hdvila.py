"""HD-VILA-100M (Xue et al., CVPR 2022): its metadata and downloaded videos -> captioned clips, the data of stage 2.

A unit of work is a video. Its clips become OUT/part_N/video_clips/CLIP.mp4, as HD-VILA names them; the counts, which
come last and mark the video as done, OUT/part_N/stats/VIDEO_stats.json. At the end OUT/manifest.jsonl lists all clips
with their captions. To go on after any stop, or to take new captions, run the same command again.

Captions come from --captions, or else from "text" in the metadata's clips; a clip without one is listed, and training
leaves it out. METADATA is a file hdvila_partN.jsonl, or a folder of them. VIDEOS holds VIDEO_ID.mp4 (or .webm, .mkv,
...), also in folders.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from data_prep.captions import read_captions, shifted
from data_prep.command import add_runner, is_last, parser, runner_of, start
from data_prep.ffmpeg import Look, cut, look
from data_prep.scale import run
from data_prep.units import is_done, new_files, remove_orphans, write_marker
from followyourpose.common.checks import check_at_least, is_text
from followyourpose.common.files import read_json
from followyourpose.data.hdvila import clip_place
from followyourpose.data.labels import Dropped
from followyourpose.data.prepared import STATS, add_up, summary
from followyourpose.data.video_readers import VIDEO_SUFFIXES


@dataclass(frozen=True)
class Rules:
    """Limits of the clips that are kept."""

    min_frames: int = 32  # fewest frames; stage 2 takes 8, up to 4 apart
    max_jump: float = 8.0  # scene score, in per cent, from which a new scene begins; a clip keeps its longest scene
    min_motion: float = 0.1  # least mean change of luma from frame to frame, in per cent
    short_side: int = 512  # largest smaller side, in pixels

    def check(self) -> None:
        """Raise a ValueError with the name of the flag where a number is out of range."""
        for name, value in asdict(self).items():
            check_at_least(f"--{name.replace('_', '-')}", value, 2 if name in ("min_frames", "short_side") else 0)


@dataclass(frozen=True)
class Video:
    """Downloaded video and the place of its line in the metadata: a hundred million clips do not fit in memory."""

    part: str
    id: str
    file: Path
    metadata: Path
    offset: int

    @property
    def stats(self) -> str:
        """Place of its stats file in OUT."""
        return f"{self.part}/stats/{self.id}{STATS}"

    def line(self) -> bytes:
        """Read its line of the metadata."""
        with open(self.metadata, "rb") as file:
            file.seek(self.offset)
            return file.readline()


@dataclass(frozen=True)
class Cutting:
    """Job that cuts videos into clips in the folder `out`."""

    out: Path
    rules: Rules = field(default_factory=Rules)

    def settings(self, video: Video) -> dict[str, Any]:
        """Everything that a video's clips depend on, for its stats file."""
        line = hashlib.sha256(video.line().strip()).hexdigest()[:16]
        return {**asdict(self.rules), "bytes of the video": video.file.stat().st_size, "hash of the metadata": line}

    def is_done(self, video: Video) -> bool:
        return is_done(self.out / video.stats, self.settings(video))

    def open(self) -> Callable[[Video], None]:
        return partial(cut_video, job=self)


def cut_video(video: Video, job: Cutting) -> None:
    """Cut a video: its clips and its stats file, all of them or none.

    Raises:
        ValueError: the clips cannot be written.
    """
    spans, repeated = _spans(json.loads(video.line()))
    read = len(spans) + repeated
    stats: dict[str, Any] = {"settings": job.settings(video), "read": read, "kept": 0, "cut at scenes": 0}
    dropped = Counter({"with a clip_id of another clip": repeated} if repeated else {})
    clips: list[dict[str, Any]] = []
    try:
        seen = look(video.file)
    except ValueError as error:
        seen, stats["error"] = None, str(error)
        dropped["in a video that cannot be decoded"] = len(spans)
    for name, start_time, end_time, text in spans if seen else ():
        if not (isfinite(start_time) and isfinite(end_time)):
            dropped["with a span that is no time"] += 1
            continue
        first, end = seen.frames(start_time, end_time)
        scene, reason = _judge(seen, first, end, job.rules)
        if reason:
            dropped[reason] += 1
            continue
        stats["cut at scenes"] += scene != (first, end)
        clips.append({"clip": name, "skipped": scene[0] - first, "frames": list(scene), "text": text})
    stats |= {"kept": len(clips), "dropped": dict(sorted(dropped.items())), "clips": clips}
    with new_files(job.out, video.stats) as folder:
        targets = [folder / video.part / "video_clips" / f"{clip['clip']}.mp4" for clip in clips]
        for place in (folder / video.part / "video_clips", (folder / video.stats).parent):
            place.mkdir(parents=True)
        try:
            cut(video.file, [clip["frames"] for clip in clips], targets, job.rules.short_side)
        except ValueError as error:  # it was decoded a moment ago: the fault is the disk's, not the video's
            raise ValueError(f"{video.file}: its clips cannot be written to {job.out} ({error})") from error
        write_marker(folder / video.stats, stats)


def _judge(seen: Look, first: int, end: int, rules: Rules) -> tuple[tuple[int, int], str | None]:
    """Return the span of a clip's longest scene, and the reason to drop the clip; None keeps it."""
    if first >= end:
        return (first, end), "beyond the video's end"
    scene = seen.longest_scene(first, end, rules.max_jump)
    if scene[1] - scene[0] < rules.min_frames:
        return scene, "too short" if end - first < rules.min_frames else "with too short scenes"
    return scene, "nearly still" if seen.motion(*scene) < rules.min_motion else None


# ---- metadata --------------------------------------------------------------------------------------------------------


def find_videos(metadata: Path, videos: Path) -> tuple[list[Video], int]:
    """Return the metadata's videos that are there, in its order, and the number of the missing ones.

    Raises:
        ValueError: there is no metadata, or a line of it is not HD-VILA's; file and line are named.
    """
    files = sorted(metadata.glob("hdvila_part*.jsonl")) if metadata.is_dir() else [metadata]
    if not files:
        raise ValueError(f"{metadata}: holds no hdvila_partN.jsonl, expected HD-VILA's metadata")
    files_there = sorted((file for file in videos.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES), reverse=True)
    there = {file.stem: file for file in files_there}  # of files of one name, the first
    found: dict[tuple[str, str], Video] = {}
    missing = 0
    for file in files:
        part, _ = clip_place(file.stem.removeprefix("hdvila_part"), "")
        for offset, video_id in _lines(file):
            if video_id in there:
                found.setdefault((part, video_id), Video(part, video_id, there[video_id], file, offset))
            else:
                missing += 1
    return list(found.values()), missing


def _lines(file: Path) -> Iterator[tuple[int, str | None]]:
    """Yield the offset of each line of the metadata and its video, None where it cannot be used; all are checked."""
    offset = 0
    with open(file, "rb") as lines:  # bytes: a line of JSON ends at \n alone
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                _spans(row)
                yield offset, _file_name(row["video_id"])
            except RecursionError:
                print(f"{file}: line {number}: nested too deeply; left out", file=sys.stderr)
                yield offset, None
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{file}: line {number}: expected video_id and clip: [{{clip_id, span: [start, end]}}] ({error})"
                ) from error
            offset += len(line)


def _spans(row: Mapping[str, Any]) -> tuple[list[tuple[str, float, float, str]], int]:
    """Return each clip's name, start and end in seconds, and text ("" without one), and the number of repeated names.

    A clip may be listed twice; of different clips with one name, the first is used.
    """
    spans: dict[str, tuple[str, float, float, str]] = {}
    repeated = 0
    for clip in row["clip"]:
        name = _file_name(clip_place("", clip["clip_id"])[1])
        first, end = (_seconds(time) for time in clip["span"])
        span = (name, first, end, str(clip.get("text") or ""))
        repeated += spans.setdefault(name, span) != span
    return list(spans.values()), repeated


def _seconds(time: str | float) -> float:
    """Parse "00:01:02.345", or a number of seconds; a number beyond all bounds is infinite."""
    hours, minutes, seconds = ([0, 0, *str(time).split(":")])[-3:]
    return 3600 * float(hours) + 60 * float(minutes) + float(seconds)


def _file_name(name: str) -> str:
    if not name or Path(name).name != name or name.startswith(".") or not name.isprintable():
        raise ValueError(f"{name!r} cannot name a file")
    return name


# ---- manifest --------------------------------------------------------------------------------------------------------


def write_manifest(out: Path, videos: Sequence[Video], captions: Path | None) -> None:
    """List the clips of all done videos, in the metadata's order, with their captions.

    Raises:
        ValueError: the captions cannot be read, or the list cannot be written.
    """
    rows = [
        (video.part, clip)
        for video in videos
        if (out / video.stats).is_file()
        for clip in read_json(out / video.stats)["clips"]
    ]
    dropped = Dropped()
    given = {} if captions is None else read_captions(captions, {(part, clip["clip"]) for part, clip in rows})
    with new_files(out, "manifest.jsonl") as folder, open(folder / "manifest.jsonl", "w", encoding="utf-8") as file:
        for part, clip in rows:
            place, (first, end) = f"{part}/video_clips/{clip['clip']}.mp4", clip["frames"]
            caption = given.get((part, clip["clip"]), clip["text"])
            if caption and isinstance(caption[0], tuple):
                caption = shifted(caption, clip["skipped"], end - first)
            elif isinstance(caption, str) and not is_text(caption):
                dropped.add("with half a character", place)
                caption = ""
            file.write(json.dumps({"video": place, "caption": caption}) + "\n")
    if dropped:
        print(f"{out}: captions left out: {dropped}")


# ---- the command -----------------------------------------------------------------------------------------------------


def _flags() -> argparse.ArgumentParser:
    flags = parser(
        "hdvila",
        __doc__,
        "python -m data_prep.hdvila hdvila_part0.jsonl videos data/hdvila --captions hdvila_clip_text_100m.jsonl",
        "sbatch --array=0-99 --wrap 'python -m data_prep.hdvila metadata videos data/hdvila --runner slurm'",
    )
    flags.add_argument("metadata", type=Path, metavar="METADATA", help="hdvila_partN.jsonl, or a folder of them")
    flags.add_argument("videos", type=Path, metavar="VIDEOS", help="the folder of downloaded videos")
    flags.add_argument("out", type=Path, metavar="OUT", help="the folder to write; data.path of stage 2")
    flags.add_argument(
        "--captions", type=Path, metavar="FILE",
        help="a .jsonl of clip_id and text (HD-VILA's speech) or caption, or of video and caption (data_prep.caption), "
        "or a .csv of part_id, clip_id and caption, with the k-th row of a clip for its frame 64 k",
    )  # fmt: skip
    usual = Rules()
    for flag, unit, about in (
        ("min-frames", "FRAMES", "shorter clips are dropped"),
        ("max-jump", "PER_CENT", "of luma, from frame to frame, where a scene ends; a clip keeps its longest"),
        ("min-motion", "PER_CENT", "mean change of luma from frame to frame; stiller clips are dropped"),
        ("short-side", "PIXELS", "the smaller side of larger videos is shrunk to this"),
    ):
        value = getattr(usual, flag.replace("-", "_"))
        flags.add_argument(
            f"--{flag}", type=type(value), default=value, metavar=unit, help=f"{about} (default: {value})"
        )
    add_runner(flags)
    return flags


def main(arguments: Sequence[str] | None = None) -> None:
    """Cut a folder of videos; `arguments` None: those of the process."""
    options = _flags().parse_args(arguments)
    rules = Rules(options.min_frames, options.max_jump, options.min_motion, options.short_side)
    rules.check()
    if options.captions is not None and not options.captions.is_file():
        raise ValueError(f"{options.captions}: no such file, expected captions")
    if options.captions is not None and options.runner != "slurm":
        read_captions(options.captions, set())  # refused now, not after the work
    videos, missing = find_videos(options.metadata.absolute(), options.videos.absolute())
    total = len(videos) + missing
    print(f"{total} {'video' if total == 1 else 'videos'} in the metadata, {missing} of them not in {options.videos}")
    if not videos:
        raise ValueError(
            f"{options.videos}: holds none of the videos of {options.metadata}, expected VIDEO_ID.mp4 files"
        )
    job = Cutting(options.out.absolute(), rules)
    remove_orphans(job.out)
    run(job, videos, **runner_of(options))
    if is_last(options, options.out / "manifest.jsonl"):
        write_manifest(options.out, videos, options.captions)
    done = [options.out / video.stats for video in videos]
    print(f"{options.out}: clips: {summary(add_up(file for file in done if file.is_file()))}")


if __name__ == "__main__":
    start("hdvila", main)
