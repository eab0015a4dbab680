"""Content of another tool's keypoints file, and checks of the values in it.

Letters: j joints of a tool. Joints are (j, 3), people (17, 3): x and y, in pixels or shares of the frame, confidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from followyourpose.pose.skeleton import JOINTS

Person = tuple[np.ndarray, int | None]  # (17, 3), and the number of the track; None: unknown
# Number of joints of sets that begin with COCO's 17 -> their other parts: COCO, Halpe, COCO-WholeBody, Halpe's whole.
_BEGIN_WITH_COCO = {17: (), 26: ("feet",), 133: ("feet", "face", "hands"), 136: ("feet", "face", "hands")}
_PARTS = {"face": "face", "hand": "hands", "foot": "feet", "animals": "animals"}  # word in a key -> what it holds
_SIZES = (("canvas_width", "canvas_height"), ("image_width", "image_height"), ("width", "height"))


@dataclass
class Layout:
    """Content of a file, in the tool's own units."""

    tool: str  # its name, for messages
    frames: list[list[Person]]  # per frame its people
    # width and height of the frames in pixels, and `fps` their rate; None: the file has none
    size: tuple[int, int] | None = None
    fps: float | None = None
    # all files of the tool are in pixels; or else the numbers show whether they are shares of the frame
    pixels: bool = False
    lost: set[str] = field(default_factory=set)  # parts that COCO-17 lacks, such as hands


def joints_of(values: Any, place: str) -> np.ndarray:
    """Return a list [x, y, confidence, ...] as joints (j, 3); None and an empty list are no joints."""
    numbers = table([] if values is None else values, place)
    if numbers.size % 3:
        raise ValueError(f"{place}: got {numbers.size} numbers, expected x, y, confidence of each joint")
    return numbers.reshape(-1, 3)


def table(values: Any, place: str) -> np.ndarray:
    """Return lists of numbers as an array, of the shape that they have, such as (j, 3); null is NaN."""
    try:
        return np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{place}: got no table of numbers, expected x, y, confidence of each joint") from error


def as_coco(joints: np.ndarray, names: Sequence[str] | None, place: str, lost: set[str]) -> np.ndarray:
    """Return joints (j, 3) as COCO's (17, 3): by their names or, without any, by their number; a missing one is unseen.

    Raises:
        ValueError: there are other joints than COCO's.
    """
    if names is None and len(joints) in _BEGIN_WITH_COCO:
        if joints[17:, 2].any():
            lost.update(_BEGIN_WITH_COCO[len(joints)])
        return cleaned(joints[:17])
    if names is None or len(names) != len(joints) or not set(JOINTS[5:]) <= set(names):
        expected = " or ".join(map(str, _BEGIN_WITH_COCO)) if names is None else f"{len(names)}, COCO's among them"
        raise ValueError(f"{place}: got {len(joints)} joints, expected {expected}")
    padded = np.concatenate([joints, np.zeros((1, 3))])
    return cleaned(padded[[names.index(joint) if joint in names else -1 for joint in JOINTS]])


def cleaned(joints: np.ndarray) -> np.ndarray:
    """Return joints (17, 3) with confidences in [0, 1]; one with a number that is none, or beyond bounds, is unseen."""
    with np.errstate(invalid="ignore"):
        usable = (np.abs(joints) < 1e9).all(-1, keepdims=True)  # NaN is not
    clean = np.where(usable, joints, 0.0)
    clean[:, 2] = clean[:, 2].clip(0, 1)
    return clean.astype(np.float32)


def note_lost(lost: set[str], content: Mapping[str, Any]) -> None:
    """Add the parts beyond the body for which the keys of a mapping have numbers."""
    for key, value in content.items():
        part = next((part for word, part in _PARTS.items() if word in key), None)
        if part and isinstance(value, list) and any(isinstance(each, list | tuple | dict) or each for each in value):
            lost.add(part)


def size_of(content: Mapping[str, Any], place: str) -> tuple[int, int] | None:
    """Return width and height in pixels, under any of the names that tools give them; None: there are none."""
    for keys in _SIZES:
        if all(content.get(key) is not None for key in keys):
            width, height = (whole(content[key], f"{place}: {key}") for key in keys)
            return width, height
    return None


def whole(value: Any, place: str) -> int:
    """Return a whole number, which may be written 3.0, or raise a ValueError."""
    if (number := track(value)) is None:
        raise ValueError(f"{place}: got {value!r:.80}, expected a whole number")
    return number


def track(value: Any) -> int | None:
    """Return the number of a track, written 3, 3.0 or [3]; None: it is none."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and abs(value) < 1e15 and value == int(value) else None


def mapped(value: Any, place: str) -> Mapping[str, Any]:
    """Return a mapping, or raise a ValueError."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{place}: got {type(value).__name__}, expected a mapping")
    return value
