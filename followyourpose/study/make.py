"""`followyourpose study make`: a user study, the paper's QU, on a page where raters choose among systems' videos.

The page is blind: every video is encoded anew under a random name, and `key.json`, which the page never reads, maps the
names to systems. `score.py` computes percentages from the answers.
"""

import json
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tqdm import tqdm

from followyourpose.common.files import atomic_write, json_lines, new_folder, read_json
from followyourpose.config import ConfigError, Output, StudyConfig, locate
from followyourpose.data.video_io import probe, stream_frames, video_writer
from followyourpose.data.video_readers import VIDEO_SUFFIXES, VideoInfo
from followyourpose.pose.keypoints_file import read_keypoints
from followyourpose.pose.render import render_skeleton

PAGE = Path(__file__).with_name("page.html")
KEY = "key.json"
QUESTIONS = {
    "quality": "Which video has the best quality?",
    "text": "Which video fits the text best?",
    "pose": "Which video follows the skeleton best?",
    "consistency": "Which video is the steadiest from frame to frame?",
}
NEEDED = {"text": "prompt", "pose": "skeleton"}  # part of an item that a question is about
_FPS = 8.0  # of frames without a rate
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Clip:
    """A file of frames, or the skeletons of a keypoints .json."""

    path: Path
    half: bool = False  # take the left half of its frames: the skeleton in generate's `-with-skeleton.mp4`

    def open(self) -> tuple[VideoInfo, Iterator[np.ndarray]]:
        """Return the file's properties, and its frames in parts (f, H, W, 3) uint8 RGB."""
        if self.path.suffix.lower() == ".json":
            clip = read_keypoints(self.path)
            info = VideoInfo(len(clip.frames), clip.fps, clip.height, clip.width)
            return info, (render_skeleton(people, clip.height, clip.width)[None] for people in clip.frames)
        info = probe(self.path)
        if not self.half:
            return info, stream_frames(self.path)
        width = info.width // 2
        halves = (frames[:, :, :width] for frames in stream_frames(self.path))
        return VideoInfo(info.num_frames, info.fps, info.height, width), halves

    def write(self, target: Path, fps: float | None) -> float:
        """Write the frames as an mp4 at `fps` frames per second, None: at their own; return its length in seconds."""
        info, parts = self.open()
        fps = fps or info.fps or _FPS
        with video_writer(target, info.height, info.width, fps) as write:
            for frames in parts:
                write(frames)
        return info.num_frames / fps


@dataclass(frozen=True)
class Item:
    """The systems' videos of one prompt, which raters compare; `videos` is in the config's order."""

    name: str
    videos: dict[str, Clip]
    prompt: str | None
    skeleton: Clip | None


def make_study(config: StudyConfig) -> Path:
    """Write the page, index.html with videos/, and key.json into a new folder, and return it.

    Raises:
        ValueError: the systems' videos do not match, one cannot be read, a question's prompt or skeleton is missing, or
            the folder is there already; the message names the key, the file or the folder.
    """
    questions = read_questions(config.questions)
    items = match_videos(config)
    for question, part in NEEDED.items():
        bare = [item.name for item in items if not getattr(item, part)]
        if question in questions and bare:
            raise ConfigError(f"questions: {question} needs a {part}, and {_listed(bare)} has none; see manifest")
    folder = Path(config.output or f"outputs/study-{time.strftime('%Y%m%d-%H%M%S')}").expanduser()
    names = iter(lambda: f"v{secrets.token_hex(8)}", None)  # a letter first, as below
    clips: dict[str, Clip] = {}  # random name -> clip
    keys: dict[str, dict[str, Any]] = {}  # random name of an item -> its part of the key
    for item in items:
        videos = {next(names): system for system in config.systems}
        clips |= {name: item.videos[system] for name, system in videos.items()}
        skeleton = None if item.skeleton is None else next(names)
        if skeleton is not None:
            clips[skeleton] = item.skeleton
        keys[next(names)] = {"name": item.name, "prompt": item.prompt, "skeleton": skeleton, "videos": videos}
    study = f"s{secrets.token_hex(4)}"  # a letter first: no spreadsheet takes it for a number
    with new_folder(folder) as work:
        (work / "videos").mkdir()
        seconds = {
            name: clips[name].write(work / "videos" / f"{name}.mp4", config.fps)
            for name in tqdm(sorted(clips), unit="video")  # sorted: the files' times are blind too
        }
        content = {"study": study, "questions": questions, "systems": dict(config.systems), "items": keys}
        atomic_write(work / KEY, json.dumps(content, indent=2) + "\n")
        atomic_write(work / "index.html", study_page(study, questions, keys))
    if uneven := _uneven(keys, seconds):
        print(f"{len(uneven)} of {len(items)} are not equally long, the shorter wait on their last frame: {uneven[0]}")
    print(f"Give raters {folder / 'index.html'} with {folder / 'videos'}; keep {folder / KEY} to yourself.")
    return folder


def study_page(study: str, questions: dict[str, str], keys: dict[str, dict[str, Any]]) -> str:
    """Return the page as HTML: random names, questions and prompts, sorted by the random names."""
    items = [
        {"item": name, "prompt": key["prompt"], "skeleton": key["skeleton"], "videos": sorted(key["videos"])}
        for name, key in sorted(keys.items())
    ]
    listed = [{"name": name, "text": text} for name, text in questions.items()]
    data = json.dumps({"study": study, "questions": listed, "items": items})
    return PAGE.read_text(encoding="utf-8").replace("{{study}}", data.replace("<", "\\u003c"))  # text is never markup


def read_questions(questions: Sequence[str]) -> dict[str, str]:
    """Return name -> question, of names in `QUESTIONS` and of one's own questions, "name: Which one ...?".

    Raises:
        ConfigError: there is none, a name is unknown, repeated or no word, or a question is empty.
    """
    result: dict[str, str] = {}
    for entry in questions:
        name, own, text = (part.strip() for part in entry.partition(":"))
        if not own and name not in QUESTIONS or own and not text or not re.fullmatch(r"[\w-]+", name):
            known = ", ".join(QUESTIONS)
            raise ConfigError(f"questions: got {entry!r}, expected one of {known}, or your own as 'name: Which ...?'")
        if name in result:
            raise ConfigError(f"questions: {name} is there twice, expected each name once")
        result[name] = text or QUESTIONS[name]
    if not result:
        raise ConfigError("questions: got none, expected at least one")
    return result


# ---- videos of the same item ----------------------------------------------------------------------------------------


def match_videos(config: StudyConfig) -> list[Item]:
    """Return one item for each line of the manifest or, without one, for each name of a video in any folder.

    Raises:
        ConfigError: a folder has no videos or lacks some, prompts of an item differ, or the manifest cannot be used.
    """
    listed = None if config.manifest is None else _read_manifest(locate(config.manifest))
    found = {}  # system -> name of a video -> its item, with that system's video alone
    for system, path in config.systems.items():
        folder = locate(path)
        run = folder / "run.json"
        items = _of_run(system, run) if run.is_file() and listed is None else _of_folder(system, folder)
        found[system] = {item.name: item for item in items}
    names = listed or dict.fromkeys(sorted({name for items in found.values() for name in items}))
    lacks = {system: [name for name in names if name not in items] for system, items in found.items()}
    if any(lacks.values()):
        each = [f"{s} ({config.systems[s]}) lacks {_listed(missing)}" for s, missing in lacks.items() if missing]
        raise ConfigError(f"systems: expected the same videos in each folder, but {'; '.join(each)}")
    return [_join(name, [items[name] for items in found.values()], names[name]) for name in names]


def _join(name: str, parts: list[Item], listed: Item | None) -> Item:
    """Join the systems' items; prompt and skeleton are the manifest's, or else those of the runs."""
    videos = {system: clip for part in parts for system, clip in part.videos.items()}
    if listed is not None:
        return Item(name, videos, listed.prompt, listed.skeleton)
    prompts = list(dict.fromkeys(part.prompt for part in parts if part.prompt is not None))
    if len(prompts) > 1:
        raise ConfigError(f"systems: {name} has different prompts, {prompts[0]!r} and {prompts[1]!r}; give a manifest")
    skeleton = next((part.skeleton for part in parts if part.skeleton is not None), None)
    return Item(name, videos, prompts[0] if prompts else None, skeleton)


def _of_folder(system: str, folder: Path) -> list[Item]:
    """Return every video in a folder; a gif only where there is no video of its name."""
    if not folder.is_dir():
        raise ConfigError(f"systems.{system}: {folder}: no such folder")
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir(), key=lambda file: (file.suffix.lower() == ".gif", file.name)):
        if file.name.startswith(".") or file.suffix.lower() not in (*VIDEO_SUFFIXES, ".gif"):
            continue
        before = found.setdefault(file.stem, file)
        if before != file and file.suffix.lower() != ".gif":
            raise ConfigError(f"systems.{system}: {before} and {file.name} have one name, expected one of them")
    if not found:
        raise ConfigError(f"systems.{system}: {folder}: no video in it, expected files ({', '.join(VIDEO_SUFFIXES)})")
    return [Item(name, {system: Clip(file)}, None, None) for name, file in found.items()]


def _of_run(system: str, run: Path) -> list[Item]:
    """Return the videos of a run of generate, with their prompts and skeletons."""
    try:
        items, record = [], read_json(run)
        for made in record["videos"]:
            files = dict(zip(record.get("settings", {}).get("outputs", get_args(Output)), made["files"], strict=True))
            video, pair = run.parent / files["mp4"], files.get("with-skeleton")
            skeleton = None if pair is None else Clip(run.parent / pair, half=True)
            items.append(Item(video.stem, {system: Clip(video)}, made["prompt"] + "", skeleton))
        return items
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"systems.{system}: {run}: not the record of a run of generate ({error})") from error


def _read_manifest(path: Path) -> dict[str, Item]:
    """Return name of a video -> prompt and skeleton, of .jsonl lines {"video": ..., "prompt": ..., "skeleton": ...}."""
    items: dict[str, Item] = {}
    try:
        for number, row in json_lines(path):
            item = _listed_item(row, path.parent, f"{path}: line {number}")
            if item.name in items:
                raise ValueError(f"{path}: line {number}: {item.name} is there already, expected each video once")
            items[item.name] = item
    except ValueError as error:
        raise ConfigError(f"manifest: {error}") from error
    if not items:
        raise ConfigError(f"manifest: {path}: is empty, expected a line for each video")
    return items


def _listed_item(row: Any, folder: Path, place: str) -> Item:
    """Return a manifest's line as an item without videos."""
    try:
        video, prompt, skeleton = row["video"] + "", row.get("prompt"), row.get("skeleton")
        unknown = sorted(row.keys() - {"video", "prompt", "skeleton"})
        if unknown or not isinstance(prompt, str | None) or not isinstance(skeleton, str | None):
            raise TypeError(f"got {unknown or [prompt, skeleton]!s:.200}")
    except (KeyError, TypeError, AttributeError, RecursionError) as error:  # the last of a value too deep to be quoted
        what = '{"video": NAME, "prompt": TEXT, "skeleton": FILE}, of which the last two may be left out'
        raise ValueError(f"{place}: {error}; expected {what}") from error
    if skeleton is not None and not (folder / skeleton).exists():
        raise ValueError(f"{place}: {folder / skeleton}: no such file")
    file = Path(video)
    name = file.stem if file.suffix.lower() in (*VIDEO_SUFFIXES, ".gif") else file.name
    return Item(name, {}, prompt, None if skeleton is None else Clip(folder / skeleton))


# ---- small things ---------------------------------------------------------------------------------------------------


def _uneven(keys: dict[str, dict[str, Any]], seconds: dict[str, float]) -> list[str]:
    """Return the items whose videos differ in length, each with their lengths."""
    result = []
    for key in keys.values():
        lengths = {system: seconds[name] for name, system in key["videos"].items()}
        if key["skeleton"] is not None:
            lengths["skeleton"] = seconds[key["skeleton"]]
        if max(lengths.values()) - min(lengths.values()) > 0.05:
            each = ", ".join(f"{system} {length:.2f} s" for system, length in lengths.items())
            result.append(f"{key['name']} ({each})")
    return result


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
