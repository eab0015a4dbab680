"""The skeleton of a run: a video, gif, folder of frames or keypoints file -> skeleton frames at the run's size.

A raw video becomes one when its people have been found (`SkeletonInput.found`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from followyourpose.config import ConfigError, GenerateConfig, RetargetConfig, locate
from followyourpose.data.transforms import cover, frame_indices
from followyourpose.data.video_io import probe, read_frames
from followyourpose.data.video_readers import ACCEPTED
from followyourpose.pose.keypoints_file import ClipKeypoints, read_keypoints
from followyourpose.pose.render import render_skeleton
from followyourpose.pose.retarget import retarget

SAMPLE = Path(__file__).parent / "assets" / "dance.mp4"
_CHUNK = 32  # frames of the source in memory at a time


@dataclass(frozen=True)
class SkeletonInput:
    """The frames of a skeleton that a run uses; made by `open_skeleton`, which checks them.

    Attributes:
        path: where they come from; indices: which frames of it, in order.
        size: height and width of the source in pixels.
        config: of the run: what is cut off the source's sides, and how keypoints are drawn.
        keypoints: of the source's frames, from the number `first` on; None for frames that are skeletons already.
    """

    path: Path
    indices: list[int]
    size: tuple[int, int]
    config: GenerateConfig
    keypoints: ClipKeypoints | None = None
    first: int = 0

    @property
    def span(self) -> range:
        """The frames of the source from the first that is used to the last."""
        return range(min(self.indices), max(self.indices) + 1)

    def found(self, people: ClipKeypoints) -> "SkeletonInput":
        """That of a raw video, in whose `span` these people were found."""
        return replace(self, keypoints=_retargeted(people, self.config.retarget), first=self.span.start)

    def frames(self, height: int, width: int, numbers: Sequence[int] | None = None) -> np.ndarray:
        """Skeleton frames (f, height, width, 3) uint8 RGB: keypoints are drawn at that size, frames are resized to it.

        Args:
            numbers: which of the run's frames, from 0; None: all.

        Raises:
            ValueError: a frame cannot be read.
        """
        geometry = cover(self.size, (height, width), **vars(self.config.crop))
        indices = self.indices if numbers is None else [self.indices[number] for number in numbers]
        if self.keypoints is not None:
            sure, style = self.config.pose.min_confidence, self.config.pose.style
            used = [self.keypoints.frames[index - self.first] for index in indices]
            moved = [[geometry.of_keypoints(person) for person in people] for people in used]
            return np.stack([render_skeleton(people, height, width, sure, style=style) for people in moved])
        chunks = [indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK)]
        return np.concatenate([geometry.of_frames(read_frames(self.path, chunk)) for chunk in chunks])


def open_skeleton(config: GenerateConfig) -> SkeletonInput:
    """Finds the skeleton of a run, the shipped sample where `config.skeleton` is None, and checks what is asked of it.

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
    keypoints = read_keypoints(path) if path.suffix.lower() == ".json" and not raw else None
    if keypoints is None and not raw and config.retarget != RetargetConfig():
        raise ConfigError(f"retarget: {path} is drawn already, expected a keypoints .json, or pose.source raw")
    if keypoints is None:
        info = probe(path)
        total, size = info.num_frames, (info.height, info.width)
    else:
        total, size = len(keypoints.frames), (keypoints.height, keypoints.width)
    try:
        indices = frame_indices(total, config.temporal_offset, config.stride, config.num_frames, config.skeleton_end)
        cover(size, size, **vars(config.crop))
    except ValueError as error:
        raise ValueError(f"skeleton: {path}: {error}") from error
    # A raw video's people are not known yet; nobody can be retargeted too, and what is wrong is told now.
    people = keypoints or ClipKeypoints(size[1], size[0], 1.0, [[]])
    retargeted = _retargeted(people, config.retarget)
    return SkeletonInput(path, indices, size, config, None if keypoints is None else retargeted)


def _retargeted(people: ClipKeypoints, config: RetargetConfig) -> ClipKeypoints:
    if config == RetargetConfig():
        return people
    reference = None if config.reference is None else read_keypoints(locate(config.reference))
    return retarget(people, reference, config.scale, config.limbs)
