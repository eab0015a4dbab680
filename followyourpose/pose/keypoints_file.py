"""Keypoints of a clip as JSON: who stands where in every frame.

    {"width": W, "height": H, "fps": fps,
     "frames": [[{"keypoints": [[x, y, confidence], ... 17], "id": 0}, ... people], ... frames]}

x and y are in pixels of a W x H frame, confidence in [0, 1], joints in the order of `skeleton.JOINTS`. Who has the same
id is the same person; a file may leave all ids out.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.pose.skeleton import NUM_JOINTS


@dataclass(frozen=True)
class ClipKeypoints:
    """The people in every frame of a clip.

    Attributes:
        width, height: of the frames, in pixels; fps: frames per second.
        frames: per frame one array (17, 3) per person: x, y in pixels, confidence in [0, 1]. A frame may have nobody.
        ids: per frame one number per person, the same from frame to frame; None: nobody said who is who.
    """

    width: int
    height: int
    fps: float
    frames: list[list[np.ndarray]]
    ids: list[list[int]] | None = None


def write_keypoints(path: str | Path, clip: ClipKeypoints) -> None:
    """Writes the JSON file; coordinates keep three decimals. It appears only when complete.

    Raises:
        ValueError: the clip would not be read back; the message names the place.
    """
    frames = [
        [{"keypoints": np.asarray(person, float).round(3).tolist()} for person in people] for people in clip.frames
    ]
    if clip.ids is not None:
        for people, ids in zip(frames, clip.ids, strict=True):
            for person, number in zip(people, ids, strict=True):
                person["id"] = number
    content = {"width": clip.width, "height": clip.height, "fps": clip.fps, "frames": frames}
    _parse(content, str(path))
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content))
    partial.replace(path)


def read_keypoints(path: str | Path) -> ClipKeypoints:
    """Reads the JSON file.

    Raises:
        ValueError: it is missing, no JSON, or not of the form above; the message names the file and the place in it.
    """
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    return _parse(content, str(path))


def _parse(content: Any, place: str) -> ClipKeypoints:
    _keys(content, ("width", "height", "fps", "frames"), place)
    for key, kinds in (("width", int), ("height", int), ("fps", (int, float))):
        value = content[key]
        if not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ValueError(f"{place}: {key}: got {value!r}, expected a number above 0")
    frames, ids = [], []
    for f, people in enumerate(_list(content["frames"], f"{place}: frames")):
        at = f"{place}: frames[{f}]"
        frames.append([_person(person, f"{at}[{p}]") for p, person in enumerate(_list(people, at))])
        ids.append([person.get("id") for person in people])
    if not frames:
        raise ValueError(f"{place}: frames: got none, expected at least one")
    known = all(number is not None for people in ids for number in people)
    return ClipKeypoints(content["width"], content["height"], float(content["fps"]), frames, ids if known else None)


def _person(person: Any, place: str) -> np.ndarray:
    named = isinstance(person, dict) and "id" in person
    _keys(person, ("keypoints", "id") if named else ("keypoints",), place)
    if named and (not isinstance(person["id"], int) or isinstance(person["id"], bool)):
        raise ValueError(f"{place}.id: got {person['id']!r}, expected a whole number")
    try:
        joints = np.array(person["keypoints"], np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place}.keypoints: got no table of numbers, expected {NUM_JOINTS} x [x, y, conf]") from error
    if joints.shape != (NUM_JOINTS, 3):
        raise ValueError(f"{place}.keypoints: got shape {joints.shape}, expected ({NUM_JOINTS}, 3)")
    if not np.isfinite(joints).all():
        raise ValueError(f"{place}.keypoints: got a number that is not finite")
    if joints[:, 2].min() < 0 or joints[:, 2].max() > 1:
        raise ValueError(f"{place}.keypoints: got a confidence outside of [0, 1]")
    return joints


def _keys(content: Any, expected: tuple[str, ...], place: str) -> None:
    got = sorted(content) if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or set(got) != set(expected):
        raise ValueError(f"{place}: got {got}, expected a mapping with {', '.join(expected)}")


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{place}: got {type(value).__name__}, expected a list")
    return value
