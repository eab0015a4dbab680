"""Skeletons of a run: videos, gifs, folders of frames or keypoints files -> skeleton frames at the run's size.

A raw video becomes a skeleton when its people have been found (`SkeletonInput.found`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.checks import parse_size
from followyourpose.common.pictures import evenly
from followyourpose.config import ConfigError, GenerateConfig, RetargetConfig, locate
from followyourpose.data.transforms import Geometry, cover, frame_indices
from followyourpose.data.video_io import probe, read_frames, stream_frames
from followyourpose.data.video_readers import ACCEPTED
from followyourpose.pose.formats import is_keypoints, read_any
from followyourpose.pose.keypoints_file import ClipKeypoints
from followyourpose.pose.recognise import COLOURS, LOOKED_AT, Drawing, drawing_of
from followyourpose.pose.render import render_skeleton
from followyourpose.pose.retarget import retarget

SAMPLE = Path(__file__).resolve().parents[1] / "assets" / "dance.mp4"
_TOLD, _DARK = 0.02, 64  # least share of a skeleton cut off that is worth a line; brightest black of a drawn video


class RawVideoError(ConfigError):
    """A raw video in place of a skeleton."""


@dataclass(frozen=True)
class SkeletonInput:
    """Frames of a skeleton that a run uses; made by `open_skeleton`, which checks them."""

    path: Path  # the source
    indices: list[int]  # numbers of its frames, in the order of the run's
    size: tuple[int, int]  # height and width of the source in pixels
    config: GenerateConfig  # of the run: crop of the source, and drawing style of keypoints
    # of the source's frames, from the number `first` on; None: the source's frames are skeletons
    keypoints: ClipKeypoints | None = None
    first: int = 0
    others: tuple["SkeletonInput", ...] = ()  # keypoints that are drawn into the same frames

    @property
    def name(self) -> str:
        """Names of the files or, of those of extract-pose, of their folders."""
        paths = [each.path.absolute() for each in (self, *self.others)]
        return " + ".join(path.parent.name if path.stem in ("keypoints", "skeleton") else path.stem for path in paths)

    def record(self) -> dict[str, Any]:
        """Return the entry in a run's record: name, files, and the numbers of the frames used, in order."""
        files = [str(each.path) for each in (self, *self.others)]
        return {"name": self.name, "files": files, "frames": self.indices}

    @property
    def span(self) -> range:
        """Frames of the source from the first that is used to the last."""
        return range(min(self.indices), max(self.indices) + 1)

    def found(self, people: ClipKeypoints) -> "SkeletonInput":
        """Return the skeleton of a raw video, with the people found in its `span`."""
        return replace(self, keypoints=_retargeted(people, self.config), first=self.span.start)

    def geometry(self, height: int, width: int) -> Geometry:
        """Return the crop and resize of the source to frames of that size."""
        return cover(self.size, (height, width), **vars(self.config.crop), pad=self.config.fit == "pad")

    def frames(self, height: int, width: int, numbers: Sequence[int] | None = None) -> np.ndarray:
        """Return skeleton frames (f, height, width, 3) RGB: keypoints drawn, or frames resized, at that size.

        They are bytes or, where `skeleton_resize` is bilinear, numbers in [0, 1], which that leaves unrounded.

        Args:
            numbers: of the run's frames, from 0; None: all.

        Raises:
            ValueError: a frame cannot be read.
        """
        numbers = range(len(self.indices)) if numbers is None else numbers
        if self.keypoints is not None:
            sure, style = self.config.pose.min_confidence, self.config.pose.style
            shown = self.people(height, width, numbers)
            return np.stack([render_skeleton(people, height, width, sure, style=style) for people in shown])
        geometry = self.geometry(height, width)
        chunks = stream_frames(self.path, [self.indices[number] for number in numbers])
        if self.config.skeleton_resize == "bilinear":
            parts = [geometry.of_frames(chunk / np.float32(255), "bilinear").clip(0, 1) for chunk in chunks]
        else:
            parts = [geometry.of_frames(chunk) for chunk in chunks]
        return np.concatenate(parts)

    def people(self, height: int, width: int, numbers: Sequence[int]) -> list[list[np.ndarray]]:
        """Return the people of frames, those of `others` included, by the frames' numbers.

        Each is (17, 3): x and y in pixels of height x width, confidence.
        """
        geometry = self.geometry(height, width)
        used = [self.keypoints.frames[self.indices[number] - self.first] for number in numbers]
        own = [[geometry.of_keypoints(person) for person in people] for people in used]
        scenes = [own, *(each.people(height, width, numbers) for each in self.others)]
        return [[person for people in frame for person in people] for frame in zip(*scenes, strict=True)]


def frames_used(config: GenerateConfig, total: int) -> list[int]:
    """Return the numbers of the frames that a run uses of a source of so many; errors as `frame_indices`."""
    return frame_indices(total, config.temporal_offset, config.stride, config.num_frames, config.skeleton_end)


def open_skeletons(config: GenerateConfig) -> list[SkeletonInput]:
    """Open every skeleton of a run: a path, or a list of paths and of lists of keypoints files for one frame.

    Raises:
        ValueError: as `open_skeleton`, or `config.skeleton` is none of these, or people for one frame are no keypoints.
    """
    entries = config.skeleton if isinstance(config.skeleton, list) else [config.skeleton]
    if isinstance(config.people, list):
        if config.skeleton is not None:
            raise ConfigError(f"skeleton: got {config.skeleton!r}, expected none: each of `people` has one")
        entries = [[person["skeleton"] for person in config.people]]
        for number, path in enumerate(entries[0]):
            if not str(path).lower().endswith(".json"):
                raise ConfigError(f"people[{number}].skeleton: got {path!r}, expected keypoints of this person (.json)")
    if not entries:
        raise ConfigError("skeleton: got an empty list, expected a path or a list of paths")
    return [
        _together(config, index, entry) if isinstance(entry, list) else open_skeleton(replace(config, skeleton=entry))
        for index, entry in enumerate(entries)
    ]


def _together(config: GenerateConfig, index: int, paths: list[str]) -> SkeletonInput:
    wrong = [path for path in paths if not path.lower().endswith(".json")]
    if wrong or not paths or config.pose.source == "raw":
        got = f"{wrong[0]!r}" if wrong else "an empty list" if not paths else "pose.source raw"
        raise ConfigError(f"skeleton[{index}]: got {got}, expected keypoints .json files, to draw them into one frame")
    first, *others = (open_skeleton(replace(config, skeleton=path)) for path in paths)
    return replace(first, others=tuple(others))


def open_skeleton(config: GenerateConfig) -> SkeletonInput:
    """Open a skeleton, `config.skeleton` or, where that is None, the shipped sample, and check its frames and crop.

    Raises:
        ValueError: the file is missing, unreadable or of the wrong type, has too few frames, or is cropped away, or
            cannot be retargeted; the message names the file.
    """
    raw = config.pose.source == "raw"
    if raw and config.skeleton is None:
        raise ConfigError("skeleton: got none, expected a video of people, since pose.source is raw")
    path = SAMPLE if config.skeleton is None else locate(config.skeleton)
    if not path.exists():
        raise ValueError(f"skeleton: {path}: no such file or folder, expected {ACCEPTED}, or a keypoints .json")
    keypoints = _keypoints(path, config) if not raw and is_keypoints(path) else None
    if keypoints is None and not raw and config.retarget != RetargetConfig():
        raise ConfigError(f"retarget: {path} is drawn already, expected a keypoints .json, or pose.source raw")
    if keypoints is None:
        info = probe(path)
        total, size = info.num_frames, (info.height, info.width)
    else:
        total, size = len(keypoints.frames), (keypoints.height, keypoints.width)
    try:
        indices = frames_used(config, total)
        cover(size, size, **vars(config.crop))
    except ValueError as error:
        raise ValueError(f"skeleton: {path}: {error}") from error
    # The people of a raw video are not found yet; retargeting nobody checks the settings now.
    people = keypoints or ClipKeypoints(size[1], size[0], 1.0, [[]])
    retargeted = _retargeted(people, config)
    return SkeletonInput(path, indices, size, config, None if keypoints is None else retargeted)


def check_drawn(source: SkeletonInput) -> None:
    """Refuse a raw video, and print a line about a skeleton in other colours than the released model's.

    Raises:
        RawVideoError: the frames are no lines on black.
    """
    pose = source.config.pose
    if source.keypoints is not None or pose.source == "raw" or source.path == SAMPLE:
        return
    used = sorted(set(source.indices))
    chosen = tuple(used[number] for number in evenly(len(used), LOOKED_AT))
    drawing = _drawing(source.path, source.path.stat().st_mtime_ns, chosen)
    if drawing == "raw":
        raise RawVideoError(
            f"skeleton: {source.path}: got a raw video, expected limbs on black; with pose.source=raw its people are "
            "found first"
        )
    if drawing in COLOURS and pose.style != "openpose":
        print(
            f"{source.path}: a skeleton in {COLOURS[drawing]}; the released model and the embedded one were trained "
            "with MMPose's. To convert it, give its keypoints (.json), or the video of people with pose.source=raw"
        )


def print_cut_off(source: SkeletonInput, height: int, width: int) -> None:
    """Print a line where frames of that size show less of a skeleton than its source does."""
    if (share := cut_off(source, height, width)) >= _TOLD:
        print(
            f"{source.name}: frames of {height} x {width} pixels cut {share:.0%} of the skeleton off; fit=pad keeps all"
        )


def cut_off(source: SkeletonInput, height: int, width: int) -> float:
    """Return the share of a drawn skeleton, in [0, 1], that lies beside frames of that size; 0: nothing is drawn."""
    if source.others:
        return max(cut_off(each, height, width) for each in (replace(source, others=()), *source.others))
    whole = replace(source, config=replace(source.config, fit="pad", skeleton_resize="area"))
    kept, all_of_it = source.geometry(height, width), whole.geometry(height, width)
    scale = all_of_it.resized_height / kept.resized_height
    top, left = round(kept.y * scale) - all_of_it.y, round(kept.x * scale) - all_of_it.x
    drawn = whole.frames(height, width, evenly(len(source.indices))).max(-1) > _DARK
    inside = drawn[:, top : top + round(height * scale), left : left + round(width * scale)]
    return 1 - inside.sum() / drawn.sum() if drawn.any() else 0.0


@lru_cache(maxsize=64)
def _drawing(path: Path, changed: int, numbers: tuple[int, ...]) -> Drawing:
    """Recognise the drawing in frames of a file, once for each time of its change."""
    return drawing_of(read_frames(path, numbers))


def _retargeted(people: ClipKeypoints, config: GenerateConfig) -> ClipKeypoints:
    if config.retarget == RetargetConfig():
        return people
    reference = None if config.retarget.reference is None else _keypoints(locate(config.retarget.reference), config)
    return retarget(people, reference, config.retarget.scale, config.retarget.limbs)


def _keypoints(path: Path, config: GenerateConfig) -> ClipKeypoints:
    """Return the keypoints of any tool; print a line about those that are not this package's."""
    reading = read_any(path)
    if reading.own is None:
        print(reading.summary)
    given = None if config.skeleton_size is None else parse_size("skeleton_size", config.skeleton_size)
    return reading.clip(reading.size or given)
