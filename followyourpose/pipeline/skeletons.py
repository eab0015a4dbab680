"""Skeletons of a call, in every form that they are given in, brought to one.

n skeletons   f frames of the skeleton   T frames of a window   H W pixels
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from followyourpose.pipeline.windows import Window

Frames = np.ndarray | Tensor
SkeletonFrames = Callable[[Sequence[int]], Frames]  # the frames with these numbers, rendered on demand
SkeletonFile = str | Path
Images = Sequence[Image.Image] | Sequence[Sequence[Image.Image]]
Skeleton = Frames | SkeletonFrames | SkeletonFile | Images

FORMS = (
    "a path, a list of PIL images, bytes or numbers in [0, 1] (f, H, W, 3) or (n, f, H, W, 3) as a numpy array, or a "
    "floating-point tensor (3, f, H, W) or (n, 3, f, H, W) in [0, 1]"
)


def skeleton_tensor(
    skeleton: Frames | SkeletonFile | Images, height: int | None = None, width: int | None = None
) -> Tensor:
    """Return skeletons as (n, 3, f, H, W) in [0, 1], RGB on black.

    Args:
        skeleton: a video, a gif, an image, a folder of images or a keypoints .json, by its path; a list of f PIL
            images, or n such lists; a numpy array (f, H, W, 3) or (n, f, H, W, 3), of bytes or of numbers in [0, 1]; or
            a floating-point tensor (3, f, H, W) or (n, 3, f, H, W) in [0, 1].
        height: pixels to which a file's frames are resized, to cover them; what covers more is cut off at the sides.
            None: as they are. Other forms have their size.
        width: likewise.

    Raises:
        ValueError: another type, shape or range, or a file that cannot be read.
    """
    if isinstance(skeleton, SkeletonFile):
        read, frames = skeleton_file(skeleton, height, width)
        skeleton = read(range(frames))
    return _tensor(skeleton_clips(skeleton))


def check_skeleton(
    skeleton: Skeleton | None, num_frames: int | None, height: int, width: int
) -> tuple[Callable[[Window], Tensor] | None, int, int]:
    """Return the reader of a window's skeletons, (n, 3, T, H, W) in [0, 1], n, and f: 1 where nothing gives it.

    Without a skeleton the reader is None, and n is 1. Of a file, `num_frames` takes the first ones.

    Raises:
        ValueError: not a skeleton, or one of another length or size than the video.
    """
    if skeleton is None:
        return None, 1, num_frames or 1
    read: SkeletonFrames
    if callable(skeleton):
        if num_frames is None:
            raise ValueError("num_frames: got none, expected a number: a skeleton that is a function has no length")
        read, frames = skeleton, num_frames
    elif isinstance(skeleton, SkeletonFile):
        read, frames = skeleton_file(skeleton, height, width)
        frames = frames if num_frames is None else min(frames, num_frames)
    else:
        read, frames = _slices(skeleton_clips(skeleton))
    if num_frames is not None and frames != num_frames:
        raise ValueError(f"skeleton: got {frames} frames, expected num_frames, {num_frames}")
    first = skeleton_tensor(read([0]))
    n, size = len(first), tuple(first.shape[3:])
    if size != (height, width):
        raise ValueError(
            f"skeleton: got {size[0]} x {size[1]} pixels, expected height x width, {height} x {width}; resize it, or "
            "give its height and width"
        )

    def skeletons(window: Window) -> Tensor:
        part = skeleton_tensor(read(window))
        if part.shape != (n, 3, len(window), height, width):
            raise ValueError(
                f"skeleton: got {tuple(part.shape)} for {len(window)} frames, expected "
                f"{(n, 3, len(window), height, width)}"
            )
        return part.contiguous()  # one memory layout, whatever is given: another one may be rounded otherwise

    return skeletons, n, frames


def skeleton_file(
    source: SkeletonFile, height: int | None = None, width: int | None = None
) -> tuple[SkeletonFrames, int]:
    """Return the reader of a file's frames, (f, height, width, 3) bytes, and their number.

    Raises:
        ValueError: it is missing or cannot be read; the message names it.
    """
    from followyourpose.data.transforms import cover  # late: callers that pass arrays need no codecs
    from followyourpose.data.video_io import probe, read_frames
    from followyourpose.pose.formats import is_keypoints
    from followyourpose.pose.render import render_skeleton

    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(f"skeleton: {path}: no such file or folder")
    if not is_keypoints(path):
        info = probe(path)
        drawn = cover((info.height, info.width), (height or info.height, width or info.width))
        return lambda numbers: drawn.of_frames(read_frames(path, numbers)), info.num_frames
    people, size = _people(path, height, width)

    def render(numbers: Sequence[int]) -> np.ndarray:
        return np.stack([render_skeleton(people[number], *size) for number in numbers])

    return render, len(people)


def keypoints_file(path: SkeletonFile, height: int, width: int) -> list[list[np.ndarray]]:
    """Read a keypoints file of any tool: per frame one (17, 3) per person, x and y in pixels of height x width.

    Raises:
        ValueError: it is missing or cannot be read; the message names it.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"skeleton: {path}: no such file or folder")
    return _people(path, height, width)[0]


def _people(path: Path, height: int | None, width: int | None) -> tuple[list[list[np.ndarray]], tuple[int, int]]:
    """Return the people in each frame of a keypoints file, resized to cover height x width, and that size."""
    from followyourpose.data.transforms import cover
    from followyourpose.pose.formats import read_any

    clip = read_any(path).clip()
    size = (height or clip.height, width or clip.width)
    geometry = cover((clip.height, clip.width), size)
    return [[geometry.of_keypoints(person) for person in people] for people in clip.frames], size


def skeleton_clips(skeleton: Any) -> Frames:
    """Return skeletons as a numpy array (n, f, H, W, 3), or as a tensor (n, 3, f, H, W) in [0, 1], as they are given.

    Raises:
        ValueError: another type, shape or range.
    """
    got = type(skeleton).__name__
    if isinstance(skeleton, np.ndarray | Tensor):
        got += f" {tuple(skeleton.shape)} {skeleton.dtype}"
    if isinstance(skeleton, list | tuple):
        skeleton = _array(skeleton)
    if isinstance(skeleton, np.ndarray) and skeleton.ndim in (4, 5) and skeleton.shape[-1] == 3 and skeleton.size:
        clips = skeleton if skeleton.ndim == 5 else skeleton[None]
        if clips.dtype == np.uint8:
            return clips
        if np.issubdtype(clips.dtype, np.floating):
            low, high = clips.min(), clips.max()
            if 0 <= low and high <= 1:
                return clips
            got = f"values in [{low:.3g}, {high:.3g}]"
    if isinstance(skeleton, Tensor) and skeleton.is_floating_point() and skeleton.ndim in (4, 5):
        tensors = skeleton if skeleton.ndim == 5 else skeleton[None]
        if tensors.shape[1] == 3 and tensors.numel():
            low, high = tensors.aminmax()
            if 0 <= low and high <= 1:
                return tensors
            got = f"values in [{low:.3g}, {high:.3g}]"
    raise ValueError(f"skeleton: got {got}, expected {FORMS}")


def _array(images: Sequence[Any]) -> np.ndarray | None:
    """Return PIL images, or lists of them, as bytes (f, H, W, 3) or (n, f, H, W, 3); None: they are none."""
    from followyourpose.data.images import BLACK, shown

    def one(image: Any) -> np.ndarray | None:
        return shown(image, BLACK) if isinstance(image, Image.Image) else None

    clips = [_array(each) if isinstance(each, list | tuple) else one(each) for each in images]
    known = [clip for clip in clips if clip is not None]
    if not clips or len(known) < len(clips):
        return None
    if len(shapes := {clip.shape for clip in known}) > 1:
        raise ValueError(f"skeleton: got images of {' and '.join(map(str, sorted(shapes)))}, expected one size")
    return np.stack(known)


def _slices(clips: Frames) -> tuple[SkeletonFrames, int]:
    axis = 1 if isinstance(clips, np.ndarray) else 2

    def read(window: Sequence[int]) -> Frames:
        return clips[(slice(None),) * axis + (list(window),)]

    return read, clips.shape[axis]


def _tensor(clips: Frames) -> Tensor:
    if isinstance(clips, Tensor):
        return clips
    frames = rearrange(torch.from_numpy(np.require(clips, requirements=["C", "W"])), "n f h w c -> n c f h w")
    return frames if frames.is_floating_point() else frames / 255
