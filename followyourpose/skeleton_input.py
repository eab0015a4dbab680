"""The skeleton of a run: a video, gif, folder of frames or keypoints file -> skeleton frames at the run's size."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from followyourpose.config import CropConfig, GenerateConfig, locate
from followyourpose.data.transforms import cover, frame_indices
from followyourpose.data.video_io import ACCEPTED, probe, read_frames
from followyourpose.pose.keypoints_file import ClipKeypoints, read_keypoints
from followyourpose.pose.render import render_skeleton

SAMPLE = Path(__file__).parent / "assets" / "dance.mp4"
_CHUNK = 32  # frames of the source in memory at a time


@dataclass(frozen=True)
class SkeletonInput:
    """The frames of a skeleton that a run uses; made by `open_skeleton`, which checks them.

    Attributes:
        path: where they come from; indices: which frames of it, in order.
        size: height and width of the source in pixels; crop: what is cut off its sides.
        keypoints: of a keypoints file; None for frames that are skeletons already.
    """

    path: Path
    indices: list[int]
    size: tuple[int, int]
    crop: CropConfig
    keypoints: ClipKeypoints | None = None

    def frames(self, height: int, width: int) -> np.ndarray:
        """Skeleton frames (f, height, width, 3) uint8 RGB: keypoints are drawn at that size, frames are resized to it.

        Raises:
            ValueError: a frame cannot be read.
        """
        geometry = cover(self.size, (height, width), **vars(self.crop))
        if self.keypoints is not None:
            moved = [[geometry.of_keypoints(person) for person in self.keypoints.frames[i]] for i in self.indices]
            return np.stack([render_skeleton(people, height, width) for people in moved])
        chunks = [self.indices[i : i + _CHUNK] for i in range(0, len(self.indices), _CHUNK)]
        return np.concatenate([geometry.of_frames(read_frames(self.path, chunk)) for chunk in chunks])


def open_skeleton(config: GenerateConfig) -> SkeletonInput:
    """Finds the skeleton of a run, the shipped sample where `config.skeleton` is None, and checks what is asked of it.

    Raises:
        ValueError: the file is missing, unreadable or of the wrong type, has too few frames, or is cropped away; the
            message names the file.
    """
    path = SAMPLE if config.skeleton is None else locate(config.skeleton)
    if not path.exists():
        raise ValueError(f"skeleton: {path}: no such file or folder, expected {ACCEPTED}, or a keypoints .json")
    keypoints = read_keypoints(path) if path.suffix.lower() == ".json" else None
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
    return SkeletonInput(path, indices, size, config.crop, keypoints)
