"""HD-VILA-100M (Xue et al., CVPR 2022): its metadata and downloaded videos -> captioned clips, which stage 2 reads.

A unit of work is a video. Its clips become OUT/part_N/video_clips/CLIP.mp4, as HD-VILA names them; the counts, which
come last and say that the video is done, OUT/part_N/stats/VIDEO_stats.json. At the end OUT/manifest.jsonl lists all
clips with their captions. To go on after any stop, or to take new captions, run the same command again.

Captions come from --captions, or else from "text" in the metadata's clips; a clip without one is listed, and training
leaves it out. METADATA is a file hdvila_partN.jsonl, or a folder of them. VIDEOS holds VIDEO_ID.mp4 (or .webm, .mkv,
...), also in folders.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of data_prep/, whose names would hide packages

from data_prep.captions import read_captions, shifted
from data_prep.command import add_runner, parser, runner_of, start
from data_prep.ffmpeg import Look, cut, look
from data_prep.scale import run
from data_prep.units import is_done, new_files
from followyourpose.data.hdvila import clip_place
from followyourpose.data.prepared import STATS, add_up, tell
from followyourpose.data.video_readers import VIDEO_SUFFIXES


@dataclass(frozen=True)
class Rules:
    """Which clips are kept, and how they are written.

    Attributes:
        min_frames: frames that a clip must have; stage 2 takes 8, up to 4 apart.
        max_jump: a clip is cut down to its longest scene, which ends where luma jumps by so many per cent.
        min_motion: mean change of luma from frame to frame that a clip must have, in per cent.
        short_side: pixels that the smaller side has at most.
    """

    min_frames: int = 32
    max_jump: float = 8.0
    min_motion: float = 0.1
    short_side: int = 512

    def check(self) -> None:
        """Raises ValueError where a number is out of range; it is named as the flag."""
        for name, value in asdict(self).items():
            least = 2 if name in ("min_frames", "short_side") else 0
            if not value >= least:
                raise ValueError(f"--{name.replace('_', '-')}: got {value}, expected at least {least}")


@dataclass(frozen=True)
class Video:
    """A downloaded video, and where in the metadata its line is: a hundred million clips do not fit in memory."""

    part: str
    id: str
    file: Path
    metadata: Path
    offset: int

    @property
    def stats(self) -> str:
        """The place of its stats file in OUT."""
        return f"{self.part}/stats/{self.id}{STATS}"

    def line(self) -> bytes:
        """Its line of the metadata."""
        with open(self.metadata, "rb") as file:
            file.seek(self.offset)
            return file.readline()


@dataclass(frozen=True)
class Cutting:
    """The job: cuts videos into clips, and puts what comes of it into `out`."""

    out: Path
    rules: Rules = field(default_factory=Rules)

    def settings(self, video: Video) -> dict[str, Any]:
        """All that a video's clips depend on, for its stats file."""
        line = hashlib.sha256(video.line().strip()).hexdigest()[:16]
        return {**asdict(self.rules), "bytes of the video": video.file.stat().st_size, "hash of the metadata": line}

    def is_done(self, video: Video) -> bool:
        return is_done(self.out / video.stats, self.settings(video))

    def open(self) -> Callable[[Video], None]:
        return partial(cut_video, job=self)


def cut_video(video: Video, job: Cutting) -> None:
    """Does a video: its clips and its stats file, all of them or none.

    Raises:
        ValueError: the clips cannot be written.
    """
    spans = _spans(json.loads(video.line()))
    stats: dict[str, Any] = {"settings": job.settings(video), "read": len(spans), "kept": 0, "cut at scenes": 0}
    dropped: Counter[str] = Counter()
    clips: list[dict[str, Any]] = []
    try:
        seen = look(video.file)
    except ValueError as error:
        seen, stats["error"] = None, str(error)
        dropped["in a video that cannot be decoded"] = len(spans)
    for name, start_time, end_time, text in spans if seen else ():
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
        except ValueError as error:  # it could be decoded just now: it is the disk, and no fault of this video
            raise ValueError(f"{video.file}: its clips cannot be written to {job.out} ({error})") from error
        (folder / video.stats).write_text(json.dumps(stats, indent=2) + "\n")


def _judge(seen: Look, first: int, end: int, rules: Rules) -> tuple[tuple[int, int], str | None]:
    """The span of a clip's longest scene, and why the clip is left out; None keeps it."""
    if first >= end:
        return (first, end), "beyond the video's end"
    scene = seen.longest_scene(first, end, rules.max_jump)
    if scene[1] - scene[0] < rules.min_frames:
        return scene, "too short" if end - first < rules.min_frames else "with too short scenes"
    return scene, "nearly still" if seen.motion(*scene) < rules.min_motion else None


# ---- metadata --------------------------------------------------------------------------------------------------------


def find_videos(metadata: Path, videos: Path) -> tuple[list[Video], int]:
    """The videos of the metadata that are there, in its order, and how many are not.

    Raises:
        ValueError: there is no metadata, or a line of it is not as HD-VILA's; file and line are named.
    """
    files = sorted(metadata.glob("hdvila_part*.jsonl")) if metadata.is_dir() else [metadata]
    if not files:
        raise ValueError(f"{metadata}: holds no hdvila_partN.jsonl, expected HD-VILA's metadata")
    files_there = sorted((file for file in videos.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES), reverse=True)
    there = {file.stem: file for file in files_there}  # of several the first
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


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Where each line of the metadata begins, and its video; every line is checked."""
    offset = 0
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                _spans(row)
                yield offset, _file_name(row["video_id"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{file}: line {number}: expected video_id and clip: [{{clip_id, span: [start, end]}}] ({error})"
                ) from error
            offset += len(line)


def _spans(row: Mapping[str, Any]) -> list[tuple[str, float, float, str]]:
    """Each clip's name, start and end in seconds, and text ("" where there is none); a clip is listed once."""
    spans = {}
    for clip in row["clip"]:
        name = _file_name(clip_place("", clip["clip_id"])[1])
        first, end = (_seconds(time) for time in clip["span"])
        spans[name] = (name, first, end, str(clip.get("text") or ""))
    return list(spans.values())


def _seconds(time: str | float) -> float:
    """Of "00:01:02.345", or of a number."""
    hours, minutes, seconds = ([0, 0, *str(time).split(":")])[-3:]
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _file_name(name: str) -> str:
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"{name!r} is no name for a file")
    return name


# ---- manifest --------------------------------------------------------------------------------------------------------


def write_manifest(out: Path, videos: Sequence[Video], captions: Path | None) -> None:
    """Lists the clips of all videos that are done, in the metadata's order, with their captions.

    Raises:
        ValueError: the captions cannot be read, or the list cannot be written.
    """
    rows = [
        (f"{video.part}/video_clips/{clip['clip']}.mp4", clip)
        for video in videos
        if (out / video.stats).is_file()
        for clip in json.loads((out / video.stats).read_text())["clips"]
    ]
    said = {} if captions is None else read_captions(captions, {clip["clip"] for _, clip in rows})
    with new_files(out, "manifest.jsonl") as folder, open(folder / "manifest.jsonl", "w") as file:
        for place, clip in rows:
            first, end = clip["frames"]
            caption = said.get(clip["clip"], clip["text"])
            if not isinstance(caption, str):
                caption = shifted(caption, clip["skipped"], end - first)
            file.write(json.dumps({"video": place, "caption": caption}) + "\n")


# ---- the command -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Cuts a folder of videos; `arguments` None takes those of the process."""
    flags = parser(
        __doc__,
        "python data_prep/hdvila.py hdvila_part0.jsonl videos data/hdvila --captions hdvila_clip_text_100m.jsonl",
        "sbatch --array=0-99 --wrap 'python data_prep/hdvila.py metadata videos data/hdvila --runner slurm'",
    )
    flags.add_argument("metadata", type=Path, metavar="METADATA", help="hdvila_partN.jsonl, or a folder of them")
    flags.add_argument("videos", type=Path, metavar="VIDEOS", help="the folder of downloaded videos")
    flags.add_argument("out", type=Path, metavar="OUT", help="the folder to write; data.path of stage 2")
    flags.add_argument(
        "--captions", type=Path, metavar="FILE",
        help="a .jsonl of clip_id and text (HD-VILA's speech) or caption, or a .csv of part_id, clip_id and caption, "
        "whose k-th row of a clip is for its frame 64 k",
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
    options = flags.parse_args(arguments)
    rules = Rules(options.min_frames, options.max_jump, options.min_motion, options.short_side)
    rules.check()
    if options.captions is not None and not options.captions.is_file():
        raise ValueError(f"{options.captions}: no such file, expected captions")
    videos, missing = find_videos(options.metadata.absolute(), options.videos.absolute())
    print(f"{len(videos) + missing} videos in the metadata, {missing} of them not in {options.videos}")
    if not videos:
        raise ValueError(
            f"{options.videos}: holds none of the videos of {options.metadata}, expected VIDEO_ID.mp4 files"
        )
    run(Cutting(options.out.absolute(), rules), videos, **runner_of(options))
    if options.runner == "slurm":  # other tasks are still at work
        print(
            f"when all tasks are done, write {options.out / 'manifest.jsonl'}: the same command without --runner slurm"
        )
    else:
        write_manifest(options.out, videos, options.captions)
    done = [options.out / video.stats for video in videos]
    print(f"{options.out}: clips: {tell(add_up(file for file in done if file.is_file()))}")


if __name__ == "__main__":
    start(__file__, main)
