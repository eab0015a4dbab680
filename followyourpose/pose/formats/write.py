"""Clips of keypoints as files of another tool: OpenPose's and ControlNet's JSON, and COCO's annotations."""

import json
from pathlib import Path

from followyourpose.common.files import atomic_write, new_folder
from followyourpose.pose.formats.coco import coco_annotations
from followyourpose.pose.formats.openpose import openpose_frames
from followyourpose.pose.keypoints_file import ClipKeypoints, write_keypoints

FORMATS = ("keypoints", "openpose", "coco")


def format_of(path: Path) -> str:
    """Return the format that a name asks for.

    NAME.openpose.json and a folder are OpenPose's, NAME.coco.json is COCO's, and any other .json this package's own.

    Raises:
        ValueError: it is no such name.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if not suffixes:
        return "openpose"
    if suffixes[-1] != ".json":
        raise ValueError(f"{path}: expected a .json file or a folder, a name without a suffix")
    return suffixes[0][1:] if len(suffixes) == 2 and suffixes[0][1:] in FORMATS else "keypoints"


def write_any(path: Path, clip: ClipKeypoints, kind: str) -> str:
    """Write a clip in a format, of FORMATS, and return what that format cannot hold; "" for nothing.

    OpenPose's goes to a folder of a file per frame, as OpenPose writes them, or, where the name ends in .json, to one
    file with a list of frames, as ControlNet writes them.

    Raises:
        ValueError: the clip is not valid, or the place is taken or cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is there already, and nothing is overwritten")
    if kind == "keypoints":
        write_keypoints(path, clip)
        return ""
    if kind == "coco":
        atomic_write(path, json.dumps(coco_annotations(clip)))
        return "the frame rate; confidences become labelled, hidden or visible"
    frames = openpose_frames(clip)
    if path.suffix.lower() == ".json":
        atomic_write(path, json.dumps(frames[0] if len(frames) == 1 else frames))
    else:
        with new_folder(path) as folder:
            for number, frame in enumerate(frames):
                (folder / f"{path.name}_{number:012d}_keypoints.json").write_text(json.dumps(frame), encoding="utf-8")
    return "the frame rate"
