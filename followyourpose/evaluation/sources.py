"""Collections of videos in files: a run of `generate`, or videos of any system with a manifest.

A manifest is a .jsonl file, or the folder of a manifest.jsonl, with a line for each video of any system:

    {"video": "a.mp4", "prompt": "a robot in the desert", "skeleton": "dance.json"}

video      a video or a folder of images, no gif, whose 256 colours would be measured too; where no line has one, the
           model draws them
prompt     the video's text
skeleton   keypoints in any format that generate takes, a list of them whose people are in one frame, or a video or
           folder of drawn skeletons with such a file beside it: x.json beside x.mp4, or keypoints.json beside
           skeleton.mp4. Without it metrics of poses are undefined
frames     the numbers of the skeleton's frames that drive the video's frames, from 0; without it all
real       frames of real people in that skeleton's poses, as many as it has: the ceiling of each metric
seed       of the model's initial noise

`video` and `prompt` are needed, paths are relative to the manifest. A skeleton has the shape of its video, but may have
another size.

Shapes: f frames. Frames are (f, H, W, 3) uint8 RGB, people (17, 3): x, y in pixels, confidence.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.checks import counted, is_text
from followyourpose.common.files import json_lines, read_json, slug
from followyourpose.config import GenerateConfig, build_config
from followyourpose.config.sampling import LARGEST_SEED
from followyourpose.data.video_io import probe
from followyourpose.data.video_readers import VideoInfo
from followyourpose.evaluation.samples import Collection, Sample, VideoFile, VideoFiles
from followyourpose.generation.outputs import printable
from followyourpose.generation.skeletons import SkeletonInput, open_skeletons
from followyourpose.pose.formats import is_keypoints, read_any
from followyourpose.pose.keypoints_file import ClipKeypoints, read_keypoints
from followyourpose.pose.skeleton import SEEN

MANIFEST, RUN = "manifest.jsonl", "run.json"
KEYS = ("video", "prompt", "skeleton", "frames", "real", "seed")


def read_collection(path: Path) -> Collection:
    """Return the videos of a run's folder, or of a manifest (the file, or its folder).

    Raises:
        ValueError: it is neither, it has no videos, or a line or a file of it cannot be used; the message names it.
    """
    if (path / RUN).is_file():
        return _run(path)
    manifest = path / MANIFEST if path.is_dir() else path
    if not manifest.is_file():
        what = "no such file or folder" if not path.exists() else f"holds neither {RUN} nor {MANIFEST}"
        raise ValueError(
            f"videos: {path}: {what}, expected the folder of a finished run of generate, or a manifest, which "
            'has a line {"video": ..., "prompt": ..., "skeleton": ...} for each video'
        )
    return _manifest(manifest)


# ---- a run of generate ----------------------------------------------------------------------------------------------


def _run(folder: Path) -> Collection:
    """Return a run's videos in their order: those of its first skeleton, of its second, ..."""
    record = read_json(folder / RUN)
    try:
        settings, videos = record["settings"], record["videos"]
        if "mp4" not in (outputs := settings.get("outputs", ["mp4"])):
            raise ValueError(f"outputs: got {outputs!r:.80}, expected mp4 among them")
        place = outputs.index("mp4")
        rows = [(folder / video["files"][place], _text(video["prompt"]), int(video["seed"])) for video in videos]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"{folder / RUN}: not the record of a run of generate ({error})") from error
    config = build_config(GenerateConfig, settings, name=str(folder / RUN))
    if not rows or config.height is None or config.width is None:
        raise ValueError(f"{folder / RUN}: a run without videos or their size, expected both")
    try:
        sources = [_with_people(source, folder, number) for number, source in enumerate(open_skeletons(config))]
    except ValueError as error:
        raise ValueError(f"{folder / RUN}: {error}") from error
    height, width = config.height * config.enlarge, config.width * config.enlarge
    samples = []
    for number, (file, prompt, seed) in enumerate(rows):
        source, info = sources[number * len(sources) // len(rows)], probe(file)
        even = {"height": height + height % 2, "width": width + width % 2}  # as in an .mp4
        expected = replace(info, num_frames=len(source.indices), **even)
        if info != expected:
            raise ValueError(f"{file}: has {_described(info)}, expected those of the run: {_described(expected)}")
        people = None
        if source.keypoints is not None:
            people = _drawn(source.people(height, width, range(info.num_frames)), config.pose.min_confidence)
        samples.append(Sample(printable(file.stem), prompt, seed, people, (info.height, info.width)))
    return Collection(samples, VideoFiles([VideoFile(file) for file, _, _ in rows]))


def _with_people(source: SkeletonInput, folder: Path, number: int) -> SkeletonInput:
    """Return a run's skeleton with its keypoints: its own, a raw video's from the run, or those beside a drawn one."""
    if source.config.pose.source == "raw":
        pose = folder / "pose"
        several = pose / f"{number:02d}-{slug(source.name)}"
        return source.found(read_keypoints((several if several.exists() else pose) / "keypoints.json"))
    if source.keypoints is not None or (file := _keypoints_of(source.path)) is None:
        return source
    clip, info = read_keypoints(file), probe(source.path)
    own = replace(info, num_frames=len(clip.frames), height=clip.height, width=clip.width)
    if own != info:
        raise ValueError(f"{file}: has {_described(own)}, expected those of {source.path}: {_described(info)}")
    return replace(source, keypoints=clip)


def _described(info: VideoInfo) -> str:
    return f"{counted(info.num_frames, 'frame')} of {info.width} x {info.height} pixels"


# ---- a manifest -----------------------------------------------------------------------------------------------------


def _manifest(manifest: Path) -> Collection:
    rows, numbers = [], []
    for number, row in json_lines(manifest):
        numbers.append(number)
        try:
            rows.append(_row(row, manifest.parent))
        except (ValueError, RecursionError) as error:  # the latter of a value too deep to be quoted
            raise ValueError(f"{manifest}: line {number}: {error}") from error
    if not rows:
        raise ValueError(f"{manifest}: no videos, expected a line for each")
    samples, videos, real = zip(*rows, strict=True)
    for key, files in (("video", videos), ("real", real)):
        if any(files) and not all(files):
            raise ValueError(f"{manifest}: line {numbers[files.index(None)]}: no {key}, but other lines have one")
    return Collection(list(samples), *(VideoFiles(files) if any(files) else None for files in (videos, real)))


def _row(row: Any, folder: Path) -> tuple[Sample, VideoFile | None, VideoFile | None]:
    """Return a line's sample, its video and its real frames, checked."""
    if not isinstance(row, dict) or set(row) - set(KEYS):
        got = ", ".join(sorted(set(row) - set(KEYS))) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"got {got}, expected an object with keys of {', '.join(KEYS)}")
    prompt, seed = _text(row.get("prompt")).strip(), row.get("seed", 0)
    if not prompt:
        raise ValueError(f"prompt: got {row['prompt']!r:.80}, expected the video's text")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed: got {seed!r:.80}, expected a whole number from 0 to {LARGEST_SEED}")
    video, real = (_path(row.get(key), key, folder) for key in ("video", "real"))
    if video and video.suffix.lower() == ".gif":
        raise ValueError(f"video: {video}: a gif's 256 colours would be measured too, expected a video or images")
    infos = {key: probe(path) for key, path in (("video", video), ("real", real)) if path}
    clip = _clips(row.get("skeleton"), folder, infos.get("video"))
    if clip is None and "video" not in infos:
        raise ValueError("got neither a video nor a skeleton to draw one from")
    total = len(clip.frames) if clip else (infos.get("real") or infos["video"]).num_frames
    numbers = _numbers(row, total)
    if video and infos["video"].num_frames != len(numbers):
        raise ValueError(
            f"{video} has {counted(infos['video'].num_frames, 'frame')}, its skeleton {len(numbers)} of {total}: "
            'expected the numbers of those that it follows as "frames", a list'
        )
    if real and infos["real"].num_frames != total:
        got = counted(infos["real"].num_frames, "frame")
        raise ValueError(f"{real} has {got}, expected those of the skeleton, {total}")
    size = (clip.height, clip.width) if clip else (infos["video"].height, infos["video"].width)
    for key, info in infos.items():
        _check_shape(row[key], info, size)
    people = None if clip is None else _drawn([clip.frames[number] for number in numbers], SEEN)
    name = row.get("video") or row["skeleton"]
    sample = Sample(printable(name if isinstance(name, str) else " + ".join(name)), prompt, seed, people, size)
    return sample, video and VideoFile(video), real and VideoFile(real, numbers)


def _text(prompt: Any) -> str:
    """Return a prompt, or raise a ValueError: it is no text, or has half a character, which no tokenizer takes."""
    if not isinstance(prompt, str) or not is_text(prompt):
        raise ValueError(f"prompt: got {prompt!r:.80}, expected the video's text")
    return prompt


def _path(value: Any, key: str, folder: Path) -> Path | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key}: got {value!r:.80}, expected a path")
    if value is not None and not (folder / value).exists():
        raise ValueError(f"{key}: {folder / value}: no such file or folder")
    return None if value is None else folder / value


def _numbers(row: dict[str, Any], total: int) -> list[int]:
    numbers = row.get("frames", list(range(total)))
    if not isinstance(numbers, list) or not numbers or any(type(n) is not int or not 0 <= n < total for n in numbers):
        raise ValueError(f"frames: got {numbers!r:.80}, expected a list of numbers from 0 to {total - 1}")
    return numbers


def _check_shape(name: str, info: VideoInfo, size: tuple[int, int]) -> None:
    """Raise a ValueError unless frames have the skeleton's shape to within a pixel."""
    if abs(info.height / size[0] * size[1] - info.width) > 1 and abs(info.width / size[1] * size[0] - info.height) > 1:
        raise ValueError(
            f"{name} is {info.width} x {info.height} pixels, its skeleton {size[1]} x {size[0]}, another shape: give "
            "keypoints in pixels of the video"
        )


def _clips(value: Any, folder: Path, video: VideoInfo | None) -> ClipKeypoints | None:
    """Return the keypoints of a path, or of all paths of a list together; None: there are none.

    Keypoints without a size have that of the video.
    """
    paths = [_path(each, "skeleton", folder) for each in (value if isinstance(value, list) else [value])]
    if None in paths or not paths:
        if value is not None:
            raise ValueError(f"skeleton: got {value!r:.80}, expected a path, or a list of paths")
        return None
    first, *others = (_clip(path, video) for path in paths)
    for other, path in zip(others, paths[1:], strict=True):
        sizes = [(len(clip.frames), clip.width, clip.height) for clip in (other, first)]
        if sizes[0] != sizes[1]:
            raise ValueError("skeleton: {} has {} frames of {} x {} pixels, {} {} of {} x {}".format(
                path, *sizes[0], paths[0], *sizes[1]
            ))  # fmt: skip
    together = zip(*(clip.frames for clip in (first, *others)), strict=True)
    return replace(first, frames=[[person for people in each for person in people] for each in together], ids=None)


def _clip(skeleton: Path, video: VideoInfo | None) -> ClipKeypoints:
    file = skeleton if is_keypoints(skeleton) else _keypoints_of(skeleton)
    if file is None:
        beside = skeleton.with_suffix(".json").name
        raise ValueError(
            f"skeleton: {skeleton} is drawn, expected its keypoints as {beside} beside it; pose convert reads them"
        )
    reading = read_any(file)
    return reading.clip(reading.size or video and (video.width, video.height))


def _keypoints_of(skeleton: Path) -> Path | None:
    """Return the keypoints file beside a drawn skeleton, or in its folder; None: there is none."""
    files = [skeleton.with_suffix(".json"), skeleton / "keypoints.json"]
    files += [skeleton.with_name("keypoints.json")] * (skeleton.stem == "skeleton")
    return next((file for file in files if file.is_file()), None)


def _drawn(people: Sequence[Sequence[np.ndarray]], least: float) -> list[list[np.ndarray]]:
    """Return people (17, 3) as they are drawn: without joints of less than `least` confidence."""
    joints = np.array([1.0, 1.0, 0.0], np.float32)
    return [[np.where(person[:, 2:] < least, person * joints, person) for person in each] for each in people]
