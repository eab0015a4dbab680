"""MediaPipe's landmarks: 33 of a body, each x, y, z, visibility, as shares of the frame.

MediaPipe has no file of its own. A body is a list of landmarks, a frame a body or a list of bodies, also under
"pose_landmarks", "poseLandmarks", "landmarks" or "landmark"; a video is a list of frames, also under "frames" beside
"width", "height" and "fps". A landmark is {"x", "y", "z", "visibility"} or a list of these numbers.
"""

from typing import Any

import numpy as np

from followyourpose.pose.estimate_light import COCO
from followyourpose.pose.formats.layout import Layout, cleaned, note_lost, size_of, table

MEDIAPIPE = "MediaPipe"
LANDMARKS = 33
_KEYS = ("pose_landmarks", "poseLandmarks", "landmarks", "landmark")


def read_landmarks(content: Any, place: str) -> Layout | None:
    """Return the people of each frame; None: there are no landmarks."""
    layout, frames = Layout(MEDIAPIPE, []), content
    if isinstance(content, dict) and isinstance(content.get("frames"), list):
        layout.size, layout.fps, frames = size_of(content, place), content.get("fps"), content["frames"]
    elif isinstance(content, dict):
        layout.size, frames = size_of(content, place), [content]
    if not isinstance(frames, list):
        return None
    found = [_bodies(frame) for frame in ([frames] if _is_body(frames) else frames)]
    if None in found or not any(found):
        return None
    for number, bodies in enumerate(found):
        layout.frames.append([(_person(each, f"{place}: frame {number}[{p}]"), None) for p, each in enumerate(bodies)])
    for frame in frames:
        if isinstance(frame, dict):
            note_lost(layout.lost, frame)
    return layout


def _bodies(frame: Any) -> list[Any] | None:
    """Return a frame's bodies; None: it is no frame of landmarks."""
    if isinstance(frame, dict):
        frame = next((frame[key] for key in _KEYS if key in frame), 0)
        if isinstance(frame, dict):  # {"pose_landmarks": {"landmark": [...]}}
            frame = frame.get("landmark", 0)
    if frame is None or frame == []:
        return []
    if _is_body(frame):
        return [frame]
    return frame if isinstance(frame, list) and all(map(_is_body, frame)) else None


def _is_body(value: Any) -> bool:
    """Whether a value is a list of landmarks, numbers from x and y on."""
    return isinstance(value, list) and bool(value) and all(
        isinstance(each, list | tuple) and len(each) >= 2 and isinstance(each[0], int | float) for each in value
    )  # fmt: skip


def _person(body: Any, place: str) -> np.ndarray:
    """Return a body's COCO joints (17, 3)."""
    if len(body) != LANDMARKS:
        raise ValueError(f"{place}: got {len(body)} landmarks, expected the {LANDMARKS} of MediaPipe's body")
    numbers = table(body, place)
    seen = numbers[:, 3] if numbers.shape[1] > 3 else np.ones(LANDMARKS)
    return cleaned(np.column_stack([numbers[:, :2], seen])[COCO])
