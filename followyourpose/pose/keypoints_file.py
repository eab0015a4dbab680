"""Keypoints of a clip as JSON: the people in every frame.

    {"width": W, "height": H, "fps": fps,
     "frames": [[{"keypoints": [[x, y, confidence], ... 17], "id": 0}, ... people], ... frames]}

x and y are in pixels of a W x H frame, confidence in [0, 1], joints in the order of `skeleton.JOINTS`. People with the
same id are one person; ids may be left out.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.files import atomic_write, parse_json, read_text
from followyourpose.pose.skeleton import NUM_JOINTS

_MOST_LISTS = 10_000_000  # of a file: its lists and mappings stay below a gigabyte in memory
MOST_FRAMES = 1_000_000
_MOST_PIXELS = 100_000


@dataclass(frozen=True)
class ClipKeypoints:
    """The people in every frame of a clip."""

    width: int  # of the frames, in pixels
    height: int
    fps: float  # frames per second
    # per frame one array (17, 3) per person: x, y in pixels, confidence in [0, 1]. A frame may be empty.
    frames: list[list[np.ndarray]]
    # per frame one number per person, the same from frame to frame; None: identities are unknown
    ids: list[list[int]] | None = None


def write_keypoints(path: str | Path, clip: ClipKeypoints) -> None:
    """Write the JSON file, whole or not at all; coordinates keep three decimals.

    Raises:
        ValueError: the clip could not be read back; the message names the place.
    """
    frames = [
        [{"keypoints": np.asarray(person, float).round(3).tolist()} for person in people] for people in clip.frames
    ]
    if clip.ids is not None:
        for people, ids in zip(frames, clip.ids, strict=True):
            for person, number in zip(people, ids, strict=True):
                person["id"] = number
    content = {"width": clip.width, "height": clip.height, "fps": clip.fps, "frames": frames}
    parse_keypoints(content, str(path))
    atomic_write(Path(path), json.dumps(content))


def read_keypoints(path: str | Path) -> ClipKeypoints:
    """Read the JSON file.

    Raises:
        ValueError: the file is missing, no JSON, too large or not of the form above; the message names the file and the
            place in it.
    """
    return parse_keypoints(load_keypoints(path), str(path))


def load_keypoints(path: str | Path) -> Any:
    """Return the content of a JSON file of anybody's keypoints, in which the numbers of a person are an array.

    Raises:
        ValueError: the file is missing, no JSON or too large; the message names it.
    """
    text = read_text(Path(path))
    lists = text.count("[") + text.count("{")
    if lists > _MOST_LISTS:
        raise ValueError(f"{path}: got {lists:,} lists and mappings, expected at most {_MOST_LISTS:,}")
    return parse_json(text, str(path), _compact)


def _compact(content: dict[str, Any]) -> Any:
    """Replace the lists of a person's keypoints by an array, a tenth of their size, and MediaPipe's landmarks by tuples
    x, y, z, visibility; whoever reads them checks them."""
    if "x" in content and "y" in content:
        return content["x"], content["y"], content.get("z", 0.0), content.get("visibility", 1.0)
    for key in content.keys() & {"keypoints", "pose_keypoints_2d"}:
        if isinstance(content[key], list):
            with suppress(ValueError, TypeError, OverflowError):
                content[key] = _float32(content[key])
    return content


def _float32(value: Any) -> np.ndarray:
    """Return nested lists as an array; numbers beyond its range are infinite, and refused where they are checked."""
    with np.errstate(over="ignore"):
        return np.asarray(value, np.float32)


def parse_keypoints(content: Any, place: str) -> ClipKeypoints:
    """Return the clip of a file's content.

    Raises:
        ValueError: it is not of the form above; the message begins with `place`.
    """
    _keys(content, ("width", "height", "fps", "frames"), place)
    for key, kinds, most in (("width", int, _MOST_PIXELS), ("height", int, _MOST_PIXELS), ("fps", (int, float), 1000)):
        value = content[key]
        if not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value <= most:
            raise ValueError(f"{place}: {key}: got {value!r:.80}, expected a number above 0, and at most {most:,}")
    total = len(listed(content["frames"], f"{place}: frames"))
    if not 0 < total <= MOST_FRAMES:
        raise ValueError(f"{place}: frames: got {total or 'none'}, expected at least one, at most {MOST_FRAMES:,}")
    frames, ids = [], []
    for f, people in enumerate(content["frames"]):
        at = f"{place}: frames[{f}]"
        frames.append([_person(person, f"{at}[{p}]") for p, person in enumerate(listed(people, at))])
        ids.append([person.get("id") for person in people])
    _check_pixels(frames, content["width"], content["height"], place)
    known = all(number is not None for people in ids for number in people)
    return ClipKeypoints(content["width"], content["height"], float(content["fps"]), frames, ids if known else None)


def _person(person: Any, place: str) -> np.ndarray:
    named = isinstance(person, dict) and "id" in person
    _keys(person, ("keypoints", "id") if named else ("keypoints",), place)
    if named and (not isinstance(person["id"], int) or isinstance(person["id"], bool)):
        raise ValueError(f"{place}.id: got {person['id']!r:.80}, expected a whole number")
    try:
        joints = _float32(person["keypoints"])
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{place}.keypoints: got no table of numbers, expected {NUM_JOINTS} x [x, y, conf]") from error
    if joints.shape != (NUM_JOINTS, 3):
        raise ValueError(f"{place}.keypoints: got shape {joints.shape}, expected ({NUM_JOINTS}, 3)")
    if not np.isfinite(joints).all():
        raise ValueError(f"{place}.keypoints: got a number that is not finite")
    if joints[:, 2].min() < 0 or joints[:, 2].max() > 1:
        raise ValueError(f"{place}.keypoints: got a confidence outside of [0, 1]")
    return joints


def _check_pixels(frames: list[list[np.ndarray]], width: int, height: int, place: str) -> None:
    """Refuse coordinates as shares of the frame: all people of a clip within two pixels of its corner."""
    seen = [person[person[:, 2] > 0, :2] for people in frames for person in people]
    seen = [joints for joints in seen if len(joints)]
    if seen and min(width, height) > 8 and all(-1 <= joints.min() and joints.max() <= 2 for joints in seen):
        raise ValueError(
            f"{place}: frames: got x and y from {min(joints.min() for joints in seen):g} to "
            f"{max(joints.max() for joints in seen):g}, expected pixels of a {width} x {height} frame; normalised "
            "coordinates have to be multiplied by its width and height"
        )


def _keys(content: Any, expected: tuple[str, ...], place: str) -> None:
    if not isinstance(content, dict) or content.keys() != set(expected):
        got = f"{sorted(content)!r:.80}" if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{place}: got {got}, expected a mapping with {', '.join(expected)}")


def listed(value: Any, place: str) -> list[Any]:
    """Return a list, or raise a ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"{place}: got {type(value).__name__}, expected a list")
    return value
