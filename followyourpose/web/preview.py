"""Preview of a job: the driving frames as the model gets them, and their people, each by a track id.

Pictures are (H, W, 3) uint8 RGB.
"""

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from followyourpose.common.pictures import contact_sheet, to_uint8
from followyourpose.config import GenerateConfig
from followyourpose.data.images import WHITE
from followyourpose.data.transforms import cover
from followyourpose.data.video_io import stream_frames
from followyourpose.generation.extract_pose import FPS, find_people
from followyourpose.generation.skeletons import SkeletonInput, check_drawn, cut_off, open_skeleton
from followyourpose.pose.keypoints_file import ClipKeypoints
from followyourpose.pose.render import numbered, overlay
from followyourpose.pose.skeleton import SEEN
from followyourpose.web.requests import without_folder

PICTURE_SIDE, CROWD_SIDE = 128, 480  # pixels of the longer side of a driving frame, and of one with its people
MOST_CROWDS = 3  # frames that together show everybody
MARGIN = 0.03  # of a picture, around a person's joints
FOUND = 8  # raw videos whose people are remembered

Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of the picture


class Crowd(NamedTuple):
    """A driving frame with its people: its number in the source, its picture, and the boxes of people by track id."""

    number: int
    picture: np.ndarray
    boxes: dict[int, Box]


class Preview(NamedTuple):
    """Driving frames of a job.

    Attributes:
        picture: all of them, small; numbers: in the source.
        cut: share of the skeleton that they cut off.
        crowds: of several people with track ids, few frames that show everybody; else none.
    """

    picture: np.ndarray
    numbers: list[int]
    cut: float
    crowds: list[Crowd]


@dataclass
class Previews:
    """Previews at the size of a studio's videos; of the latest raw videos the people are remembered."""

    height: int
    width: int
    _found: dict[tuple[str, range], ClipKeypoints] = field(default_factory=dict)
    _finding: threading.Lock = field(default_factory=threading.Lock)

    def of(self, config: GenerateConfig) -> Preview:
        """Return the preview of a job; of a raw video the frames have the skeletons of their people over them.

        Raises:
            ValueError: as `open_skeleton`, `check_drawn` and `extract_pose`; the message has no folder.
        """
        with without_folder(config.skeleton):
            video = open_skeleton(config)
            check_drawn(video)
            source = video.found(self._people(video)) if config.pose.source == "raw" else video
            size, small = (self.height, self.width), self._scaled(PICTURE_SIDE, at_most=1)
            picture = contact_sheet(cover(size, small).of_frames(_shown(video, source, size)), len(source.indices))
            return Preview(picture, source.indices, cut_off(source, *size), self._crowds(video, source))

    def _people(self, source: SkeletonInput) -> ClipKeypoints:
        """Return the people in the used frames of a raw video."""
        key = (str(source.path), source.span)
        with self._finding:
            if key not in self._found:
                chunks = stream_frames(source.path, source.span, ground=WHITE)
                self._found[key] = find_people(chunks, source.config.pose, source.size, FPS, lambda count: None)
                if len(self._found) > FOUND:
                    self._found.pop(next(iter(self._found)))
            return self._found[key]

    def _crowds(self, video: SkeletonInput, source: SkeletonInput) -> list[Crowd]:
        if source.keypoints is None or source.keypoints.ids is None:
            return []
        size, ids = self._scaled(CROWD_SIDE), source.keypoints.ids
        people = [
            dict(zip(ids[index - source.first], each, strict=True))
            for index, each in zip(source.indices, source.people(*size, range(len(source.indices))), strict=True)
        ]
        boxes = [{track: box for track, person in each.items() if (box := _box(person, size))} for each in people]
        missing, crowds = {track for each in boxes for track in each}, []
        while len(missing) > bool(not crowds) and len(crowds) < MOST_CROWDS:  # one person alone is no crowd
            number = max(range(len(boxes)), key=lambda i: len(boxes[i].keys() & missing))
            (frame,), each = _shown(video, source, size, [number]), people[number]
            picture = numbered(frame, list(each.values()), list(each))
            crowds.append(Crowd(source.indices[number], picture, boxes[number]))
            missing -= boxes[number].keys()
        return crowds

    def _scaled(self, side: int, at_most: float = np.inf) -> tuple[int, int]:
        """Return height and width of a video's frame whose longer side is so long."""
        scale = min(at_most, side / max(self.height, self.width))
        return max(1, round(self.height * scale)), max(1, round(self.width * scale))


def _shown(
    video: SkeletonInput, source: SkeletonInput, size: tuple[int, int], numbers: list[int] | None = None
) -> np.ndarray:
    """Return frames (f, H, W, 3) of a skeleton or, of a raw video, its own with the skeleton over them."""
    skeletons = to_uint8(source.frames(*size, numbers))
    if video is source:
        return skeletons
    frames = to_uint8(video.frames(*size, numbers))
    return np.stack([overlay(*pair) for pair in zip(frames, skeletons, strict=True)])


def _box(person: np.ndarray, size: tuple[int, int]) -> Box | None:
    """Return the box around a person's joints (17, 3) within a picture of this size; None: the picture shows none."""
    seen = person[person[:, 2] >= SEEN, :2] / size[::-1]
    seen = seen[((seen >= 0) & (seen < 1)).all(1)]
    if len(seen) == 0:
        return None
    left, top, right, bottom = *(seen.min(0) - MARGIN).clip(0), *(seen.max(0) + MARGIN).clip(max=1)
    return float(left), float(top), float(right), float(bottom)
