"""Sampling of a clip's frames, and crops and resizes that move pixels and keypoints by the same geometry.

Shapes: f frames, p people, H W pixels. Frames (f, H, W, 3) uint8; keypoints (..., 17, 3): x, y in pixels (a pixel's
centre is at its integer coordinates), confidence. Sampling is in frames, cropping in pixels of the source.
"""

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from followyourpose.common.checks import counted
from followyourpose.data.labels import SEEN

ENDS = ("stop", "loop", "pingpong", "hold")
Resize = Literal["area", "bilinear"]  # of larger frames: means of areas, or between the four nearest pixels of each


def frame_indices(total: int, offset: int, stride: int, count: int, end: str = "stop") -> list[int]:
    """Return the indices of `count` frames out of `total`: offset, offset + stride, offset + 2 stride, ...

    Args:
        end: one of ENDS, the continuation after the last of them: "stop" (none: too few frames are an error), "loop"
            (from `offset` again), "pingpong" (backwards and forwards again) or "hold" (the last frame stays).

    Raises:
        ValueError: no frame is left after `offset`, or, with "stop", there are too few; the message has their number
            and the settings that would fit.
    """
    if offset >= total:
        raise ValueError(
            f"the clip has {counted(total, 'frame')}, too short for temporal_offset {offset}: at most {total - 1}"
        )
    there = range(offset, total, stride)
    if end == "stop" and count > len(there):
        fits = f"num_frames up to {len(there)}"
        if count <= total - offset:
            fits += f" (or stride up to {(total - 1 - offset) // (count - 1)})"
        raise ValueError(
            f"the clip has {counted(total, 'frame')}, too short for temporal_offset {offset} + num_frames {count} at "
            f"stride {stride}: {offset + stride * (count - 1) + 1 - total} more needed; expected {fits}, or "
            "skeleton_end loop, pingpong or hold"
        )
    order = list(there)
    if end == "hold":
        order += [order[-1]] * (count - len(order))
    elif end == "pingpong":
        order += order[-2:0:-1]
    return [order[i % len(order)] for i in range(count)]


@dataclass(frozen=True)
class Geometry:
    """Crop of the source, resize, and crop of the result; made by `cover` and `fit`.

    Attributes:
        left, top, box_height, box_width: the first crop, in pixels of the source.
        resized_height, resized_width: its size after the resize.
        x, y: corner of the target in the resized box; below 0 where the target is larger.
        height, width: of the target.
    """

    left: int
    top: int
    box_height: int
    box_width: int
    resized_height: int
    resized_width: int
    x: int
    y: int
    height: int
    width: int

    def of_frames(self, frames: np.ndarray, resize: Resize = "area") -> np.ndarray:
        """Return frames (f, H, W, 3) of the source, bytes or numbers, as (f, height, width, 3) of the same type."""
        boxes = frames[:, self.top : self.top + self.box_height, self.left : self.left + self.box_width]
        shrinks = self.resized_height < self.box_height
        mode = cv2.INTER_AREA if shrinks and resize == "area" else cv2.INTER_LINEAR
        size = (self.resized_width, self.resized_height)
        resized = [cv2.resize(np.ascontiguousarray(box), size, interpolation=mode) for box in boxes]
        top, left = max(self.y, 0), max(self.x, 0)
        kept = np.stack([box[top : self.y + self.height, left : self.x + self.width] for box in resized])
        if kept.shape[1:3] == (self.height, self.width):
            return kept
        padded = np.zeros((len(kept), self.height, self.width, 3), kept.dtype)
        padded[:, top - self.y : top - self.y + kept.shape[1], left - self.x : left - self.x + kept.shape[2]] = kept
        return padded

    def of_keypoints(self, keypoints: np.ndarray) -> np.ndarray:
        """Return keypoints (..., 17, 3) of the source as those of the target; some may then lie outside of it."""
        scale = np.array([self.resized_width / self.box_width, self.resized_height / self.box_height])
        moved = np.array(keypoints, np.float32)
        # (x + 0.5 - left) * scale - its place - 0.5: from pixel centres to lengths and back; exact where nothing moves
        shift = (0.5 - np.array([self.left, self.top])) * scale - (self.x, self.y) - 0.5
        moved[..., :2] = moved[..., :2] * scale + shift
        return moved


def cover(
    source: tuple[int, int], target: tuple[int, int], left: int = 0, right: int = 0, top: int = 0, bottom: int = 0,
    pad: bool = False,
) -> Geometry:  # fmt: skip
    """Return the geometry that cuts off the sides, resizes the rest to cover the target, and takes its middle.

    Its halves of pixels are rounded as by torchvision's Resize and CenterCrop, which the released code uses.

    Args:
        source, target: height and width in pixels. The aspect ratio of the source is kept.
        left, right, top, bottom: pixels of the source cut off first.
        pad: resize the rest to fit into the target instead, with black around it.

    Raises:
        ValueError: nothing is left after the cuts.
    """
    (source_height, source_width), (height, width) = source, target
    box_height, box_width = source_height - top - bottom, source_width - left - right
    if box_height < 1 or box_width < 1:
        raise ValueError(
            f"the clip is {source_width} x {source_height} pixels: crop left {left}, right {right}, top {top}, "
            f"bottom {bottom} leaves nothing of it"
        )
    choose = min if pad else max
    resized_height = max(1, choose(height, box_height * width // box_width))
    resized_width = max(1, choose(width, box_width * height // box_height))
    x, y = round((resized_width - width) / 2), round((resized_height - height) / 2)
    return Geometry(left, top, box_height, box_width, resized_height, resized_width, x, y, height, width)


def fit(
    source: tuple[int, int],
    target: tuple[int, int],
    people: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> Geometry:
    """Return the geometry of `cover`, moved to the people: to all of them if they fit, else to the largest.

    Args:
        source, target: height and width in pixels.
        people: (p, 17, 3) in pixels of the source; None: there are none.
        rng: draws the target's place among those that keep the people; None takes the one nearest to the middle.
    """
    geometry = cover(source, target)
    low, high = _boxes(geometry.of_keypoints(people)) if people is not None else (np.zeros((0, 2)), np.zeros((0, 2)))
    places = []
    for axis, (middle, length, whole) in enumerate(
        ((geometry.x, geometry.width, geometry.resized_width), (geometry.y, geometry.height, geometry.resized_height))
    ):
        first, last = _places(low[:, axis] + middle, high[:, axis] + middle, length, whole)
        places.append(min(max(middle, first), last) if rng is None else int(rng.integers(first, last + 1)))
    return replace(geometry, x=places[0], y=places[1])


def _boxes(people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lowest and highest x, y of each person's seen joints, (p, 2) both; the largest person first."""
    seen = people[..., 2:] >= SEEN
    people, seen = people[seen.any((1, 2))], seen[seen.any((1, 2))]
    low = np.where(seen, people[..., :2], np.inf).min(1)
    high = np.where(seen, people[..., :2], -np.inf).max(1)
    largest_first = np.argsort(-(high - low).prod(1), kind="stable")
    return low[largest_first], high[largest_first]


def _places(low: np.ndarray, high: np.ndarray, length: int, whole: int) -> tuple[int, int]:
    """Return the first and last start of a target of `length` pixels in `whole`, for boxes (p,) along one axis."""
    room = whole - length
    if len(low) == 0:
        return 0, room
    if high.max() - low.min() > length - 1:
        low, high = low[:1], high[:1]  # not all fit: the largest person
    # A joint at x is inside from x - 0.5 to x + 0.5. Where even one person does not fit, the two ends change places,
    # and every target between them is full of that person.
    ends = sorted((np.floor(low.min() + 0.5), np.ceil(high.max() + 0.5 - length)))
    return int(np.clip(ends[0], 0, room)), int(np.clip(ends[1], 0, room))
