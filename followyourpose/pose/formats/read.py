"""Keypoints of any tool: its file, or folder of a file per frame, is recognised by content and read as a clip.

Shapes: people are (17, 3): x, y in pixels, confidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.checks import counted
from followyourpose.common.files import natural_order
from followyourpose.pose.formats.coco import read_annotations, read_results
from followyourpose.pose.formats.layout import Layout
from followyourpose.pose.formats.mediapipe import MEDIAPIPE, read_landmarks
from followyourpose.pose.formats.mmpose import read_frames, read_video
from followyourpose.pose.formats.openpose import read_openpose
from followyourpose.pose.keypoints_file import ClipKeypoints, load_keypoints, parse_keypoints

FPS = 8.0  # frames per second, where a file has no rate
TOOLS = "extract-pose, OpenPose, ControlNet, DWPose, COCO, MMPose or MediaPipe"
_OWN_KEYS = {"width", "height", "fps", "frames"}
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_SHARES = 2.0  # a clip whose coordinates are mostly below is in shares of its frame


def read_any(path: str | Path, images: str | None = None) -> "Reading":
    """Read anybody's keypoints: a .json file, or a folder of such files, a frame each, in the natural order of names.

    Args:
        images: of a COCO file, a pattern of the names of the images to take, such as *video1*; None: all.

    Raises:
        ValueError: it cannot be read, is of no known tool, or damaged; the message names the file and the place in it.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() == ".json" and file.name[0] != "."]
        files.sort(key=lambda file: natural_order(file.name))
    if not files:
        raise ValueError(f"{path}: holds no .json files, expected one of keypoints for each frame")
    if len(files) > 1:
        return Reading(path, _joined([_layout(load_keypoints(file), file, images) for file in files], files))
    content = load_keypoints(files[0])
    if (layout := _layout(content, files[0], images)) is not None:
        return Reading(path, layout)
    if isinstance(content, dict) and content.keys() & _OWN_KEYS:
        clip = parse_keypoints(content, str(files[0]))
        frames = [[(person, None) for person in people] for people in clip.frames]
        return Reading(path, Layout("extract-pose", frames, (clip.width, clip.height), clip.fps), clip)
    got = f"a mapping with {', '.join(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
    raise ValueError(f"{files[0]}: got {got[:80]}, expected keypoints of {TOOLS}")


def is_keypoints(path: Path) -> bool:
    """Whether a path is named as keypoints are: a .json, or a folder of .json files without pictures."""
    if not path.is_dir():
        return path.suffix.lower() == ".json"
    suffixes = {file.suffix.lower() for file in path.iterdir() if file.name[0] != "."}
    return ".json" in suffixes and not suffixes & _IMAGES


@dataclass(frozen=True)
class Reading:
    """Keypoints that were read, and whose size may be missing."""

    path: Path  # the file or folder
    layout: Layout  # its content
    own: ClipKeypoints | None = None  # the clip, where the file is one of this package; None: it is another tool's

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the frames in pixels; None: they have to be given to `clip`."""
        return self.layout.size

    def clip(self, size: tuple[int, int] | None = None, fps: float | None = None) -> ClipKeypoints:
        """Return the clip.

        Args:
            size: width and height in pixels, for a file that has none.
            fps: frames per second; None: the file's, or else 8.

        Raises:
            ValueError: the size is missing, is not the file's, or most joints lie outside of it.
        """
        if self.size is None and size is None:
            raise ValueError(
                f"{self.path}: {self.layout.tool} keypoints without the size of their frames; give it, as in generate "
                f"skeleton_size=1280x720, or pose convert {self.path} keypoints.json --size 1280x720"
            )
        width, height = self.size or size
        if size not in (None, (width, height)):
            raise ValueError(f"{self.path}: size: got {size[0]}x{size[1]}, but the file has its own, {width}x{height}")
        fps = fps or self.layout.fps or FPS
        if self.own is not None:
            return replace(self.own, fps=fps)
        people = [[each for each in people if each[0][:, 2].any()] for people in self.layout.frames]
        scale = np.array([width, height, 1.0] if self._in_shares() else [1.0, 1.0, 1.0], np.float32)
        rows = [[{"keypoints": person * scale} for person, _ in each] for each in people]
        clip = parse_keypoints({"width": width, "height": height, "fps": fps, "frames": rows}, str(self.path))
        if self.layout.tool != MEDIAPIPE:  # which places joints outside of the frame, too
            _check_inside(clip, str(self.path))
        ids = [[number for _, number in each] for each in people]
        known = any(ids) and all(number is not None for numbers in ids for number in numbers)
        return replace(clip, ids=ids if known else None)

    @property
    def summary(self) -> str:
        """One line: the tool, the counts, and what is lost."""
        people = [sum(bool(person[:, 2].any()) for person, _ in each) for each in self.layout.frames]
        text = f"{self.path}: {self.layout.tool}, {counted(len(people), 'frame')}, {counted(sum(people), 'pose')}"
        if empty := people.count(0):
            text += f"; nobody in {empty:,} of the frames"
        if self.layout.lost:
            text += f"; left out: {', '.join(sorted(self.layout.lost))}"
        return text

    def _in_shares(self) -> bool:
        """Whether coordinates are shares of the frame, and not pixels."""
        seen = _seen([person for people in self.layout.frames for person, _ in people])
        if self.layout.pixels or not len(seen) or np.median(np.abs(seen)) > _SHARES:
            return False
        if self.layout.tool != MEDIAPIPE and (seen < 0).mean() > 0.25:
            raise ValueError(
                f"{self.path}: got x and y from {seen.min():.3g} to {seen.max():.3g}, expected pixels, or shares of "
                "the frame from 0 to 1 (OpenPose's --keypoint_scale 0 or 3)"
            )
        return True


def _layout(content: Any, file: Path, images: str | None) -> Layout | None:
    """Return the content of a file of another tool; None: it is of none."""
    place, first = str(file), None
    if isinstance(content, dict):
        if "annotations" in content and "images" in content:
            return read_annotations(content, place, images)
        if "people" in content:
            return read_openpose([content], place)
        if "instance_info" in content:
            return read_video(content["instance_info"], f"{place}: instance_info", content.get("meta_info"))
        if "predictions" in content:
            return read_frames(content["predictions"], f"{place}: predictions")
    elif isinstance(content, list):
        first = next((each for each in content if each), None)
    if isinstance(first, dict):
        if "people" in first:
            return read_openpose(content, place)
        if "instances" in first or "frame_id" in first:
            return read_video(content, place)
        if "image_id" in first and "keypoints" in first:
            return read_results(content, place)
        if "keypoints" in first:
            return read_frames([content], place)
    return read_landmarks(content, place)


def _joined(layouts: Sequence[Layout | None], files: Sequence[Path]) -> Layout:
    """Return the frames of a folder's files, one after the other; one without anybody may be of any tool."""
    known = [(layout, file) for layout, file in zip(layouts, files, strict=True) if layout is not None]
    if not known:
        raise ValueError(f"{files[0].parent}: got {len(files)} files of no known tool, expected keypoints of {TOOLS}")
    (first, first_file), frames, lost = known[0], [], set()
    for layout, file in zip(layouts, files, strict=True):
        if layout is None:
            if load_keypoints(file) != []:
                raise ValueError(f"{file}: got no keypoints, expected {first.tool}'s as in {first_file.name}")
            layout = replace(first, frames=[[]])
        for key in ("tool", "size"):
            if getattr(layout, key) != getattr(first, key):
                raise ValueError(
                    f"{file}: {key}: got {getattr(layout, key)}, expected {getattr(first, key)} as in {first_file.name}"
                )
        frames += layout.frames
        lost |= layout.lost
    return replace(first, frames=frames, lost=lost)


def _check_inside(clip: ClipKeypoints, place: str) -> None:
    """Refuse the size of another video: more than half of the joints lie outside of it."""
    seen = _seen([person for people in clip.frames for person in people])
    outside = ((seen < -1) | (seen > (clip.width, clip.height))).any(-1)
    if len(seen) and outside.mean() > 0.5:
        raise ValueError(
            f"{place}: {outside.sum()} of {len(seen)} joints lie outside of {clip.width} x {clip.height} pixels, up to "
            f"{seen[:, 0].max():.0f}, {seen[:, 1].max():.0f}; expected the size of their video"
        )


def _seen(people: Sequence[np.ndarray]) -> np.ndarray:
    """Return x and y of all joints that are seen, (n, 2), of people (17, 3)."""
    joints = [person[person[:, 2] > 0, :2] for person in people]
    return np.concatenate(joints) if joints else np.zeros((0, 2), np.float32)
