"""OpenPose's keypoints, 18 or 25 joints, and ControlNet's, which are the same with the size of the picture.

    {"people": [{"pose_keypoints_2d": [x, y, confidence, ...]}], "canvas_width": W, "canvas_height": H}

is a frame. OpenPose writes a file for each and has no size; ControlNet and DWPose write one frame, or a list of them.
Both may hold shares of the frame in place of pixels. Joints are (j, 3), people (17, 3): x, y, confidence.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from followyourpose.pose.formats.layout import Layout, Person, as_coco, joints_of, mapped, note_lost, size_of, track
from followyourpose.pose.keypoints_file import ClipKeypoints, listed
from followyourpose.pose.skeleton import BODY_18, STYLES

BODY_25 = (*BODY_18[:8], "middle_hip", *BODY_18[8:], *(f"foot_{number}" for number in range(6)))


def read_openpose(content: Sequence[Any], place: str) -> Layout:
    """Return the content of frames."""
    layout, sizes = Layout("OpenPose", []), set()
    for number, frame in enumerate(content):
        at = f"{place}: frame {number}" if len(content) > 1 else place
        frame = mapped({} if frame is None else frame, at)
        note_lost(layout.lost, frame)
        people = listed(frame.get("people") or [], f"{at}: people")
        found = [_person(person, f"{at}: people[{index}]", layout.lost) for index, person in enumerate(people)]
        layout.frames.append([person for person in found if person])
        if size := size_of(frame, at):
            sizes.add(size)
    if len(sizes) > 1:
        shown = " and ".join(f"{width} x {height}" for width, height in sorted(sizes)[:2])
        raise ValueError(f"{place}: got frames of {shown} pixels, expected one size")
    if sizes:
        layout.tool, layout.size = "ControlNet", sizes.pop()
    return layout


def _person(content: Any, place: str, lost: set[str]) -> Person | None:
    """Return a person; None: it has no joints."""
    content = mapped(content, place)
    note_lost(lost, content)
    joints = joints_of(content.get("pose_keypoints_2d"), f"{place}: pose_keypoints_2d")
    if not joints.any():
        return None
    names = {len(names): names for names in (BODY_18, BODY_25)}.get(len(joints))
    if names is None:
        raise ValueError(f"{place}: pose_keypoints_2d: got {len(joints)} joints, expected OpenPose's 18 or 25")
    if joints[19:, 2].any():
        lost.add("feet")
    number = track(content.get("person_id"))
    return as_coco(joints, names, place, lost), None if number is None or number < 0 else number


def openpose_frames(clip: ClipKeypoints) -> list[dict[str, Any]]:
    """Return a clip as frames of 18 joints with the size of the picture, in pixels; unseen joints are zeros."""
    frames = []
    for index, people in enumerate(clip.frames):
        rows = []
        for number, person in enumerate(people):
            ends = np.asarray(person, np.float64)[STYLES["openpose"].between]  # (18, 2, 3)
            joints = np.column_stack([ends[..., :2].mean(1), ends[..., 2].min(1)])  # the neck is between the shoulders
            joints[joints[:, 2] == 0] = 0
            track_id = -1 if clip.ids is None else clip.ids[index][number]
            rows.append({"person_id": [track_id], "pose_keypoints_2d": joints.round(3).ravel().tolist()})
        frames.append({"version": 1.3, "people": rows, "canvas_width": clip.width, "canvas_height": clip.height})
    return frames
