"""MMPose's predictions: of an image a list of people, of a video a list of frames.

    [{"keypoints": [[x, y], ...], "keypoint_scores": [...], "bbox": ...}]           MMPoseInferencer, an image
    [{"frame_id": 0, "instances": [people as above]}]                               MMPoseInferencer, a video
    {"meta_info": {"keypoint_id2name": ...}, "instance_info": [frames as above]}    its demo scripts
    {"predictions": [[people as above]]}                                            the inferencer's own result

They are in pixels and have no size. Joints are (j, 3), people (17, 3): x, y, confidence.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from followyourpose.common.files import natural_order
from followyourpose.pose.formats.layout import Layout, Person, as_coco, mapped, table, whole
from followyourpose.pose.keypoints_file import MOST_FRAMES, listed


def read_video(content: Any, place: str, about: Any = None) -> Layout:
    """Return the people of frames by their numbers; one that is left out shows nobody.

    Args:
        about: the data set whose joints they are; None: the number of joints shows it.
    """
    frames: dict[int, Any] = {}
    for index, frame in enumerate(listed(content, place)):
        at = f"{place}[{index}]"
        frame = mapped(frame, at)
        frames[whole(frame.get("frame_id", index), f"{at}.frame_id")] = frame.get("instances") or []
    first, last = min(frames, default=0), max(frames, default=-1)
    if last - first >= MOST_FRAMES:
        raise ValueError(f"{place}: got frames {first} to {last}, expected at most {MOST_FRAMES:,}")
    return read_frames([frames.get(number, []) for number in range(first, last + 1)], place, about)


def read_frames(content: Any, place: str, about: Any = None) -> Layout:
    """Return the people of frames, each a list of people."""
    layout, names = Layout("MMPose", [], pixels=True), _names(about)
    for number, people in enumerate(listed(content, place)):
        at = f"{place}: frame {number}"
        people = listed(people, at)
        layout.frames.append([_person(each, f"{at}[{p}]", names, layout.lost) for p, each in enumerate(people)])
    return layout


def _person(content: Any, place: str, names: Sequence[str] | None, lost: set[str]) -> Person:
    content = mapped(content, place)
    joints = table(content.get("keypoints"), f"{place}.keypoints")
    if joints.ndim != 2 or joints.shape[1] not in (2, 3):
        raise ValueError(f"{place}.keypoints: got shape {joints.shape}, expected a list of [x, y]")
    scores = table(content.get("keypoint_scores", [1.0] * len(joints)), f"{place}.keypoint_scores")
    if "keypoint_scores" in content or joints.shape[1] == 2:
        if joints.shape[1] != 2 or scores.shape != (len(joints),):
            raise ValueError(
                f"{place}: got keypoints {joints.shape}, scores {scores.shape}, expected [x, y] and a score"
            )
        joints = np.column_stack([joints, scores])
    return as_coco(joints, names, place, lost), None


def _names(about: Any) -> list[str] | None:
    """Return the names of a data set's joints, where its description has them."""
    names = about.get("keypoint_id2name") if isinstance(about, dict) else None
    return [str(names[key]) for key in sorted(names, key=natural_order)] if isinstance(names, dict) else None
