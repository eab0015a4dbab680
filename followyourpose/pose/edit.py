"""Moves of single joints in a clip's keypoints, written as text: "set left_wrist 10:14 x=120 y=80".

    set JOINT FRAMES x=X y=Y        place a joint, in pixels; x or y alone leaves the other, confidence=C may be given
    shift JOINT FRAMES x=DX y=DY    move it by pixels
    hide JOINT FRAMES               make it unseen
    copy JOINT FRAMES from=FRAME    place it as in another frame

JOINT is a name of COCO's, several with commas, or all. FRAMES is a number from 0, or A:B, the numbers from A up to
before B, where A and B may be left out. person=N chooses among several people: by id, or by place in a frame where the
clip has no ids.
"""

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from followyourpose.pose.keypoints_file import ClipKeypoints
from followyourpose.pose.skeleton import JOINT

# Values of each move: those that it must have, of which `set` and `shift` need one, and those that it may have.
VALUES = {
    "set": (("x", "y"), ("confidence",)),
    "shift": (("x", "y"), ()),
    "hide": ((), ()),
    "copy": (("from",), ()),
}
_EXAMPLE = '"set left_wrist 10:14 x=120 y=80"'


@dataclass(frozen=True)
class Move:
    """A move of some joints of a person."""

    text: str  # as it was written
    verb: str  # set, shift, hide or copy
    joints: list[int]  # their indices
    frames: range  # numbers of the frames
    values: dict[str, float]  # x, y, confidence, from
    person: int | None  # its number; None: the only one


def edit(clip: ClipKeypoints, moves: Sequence[str]) -> tuple[ClipKeypoints, int]:
    """Make moves, one after the other; return the new clip, and the number of joints that were moved.

    Raises:
        ValueError: a move is not as above, names a frame or a person that is not there, or leaves someone in doubt; the
            message begins with the move.
    """
    frames = [[np.array(person, np.float32) for person in people] for people in clip.frames]
    edited, count = replace(clip, frames=frames), 0
    for text in moves:
        move = parse_move(text, len(frames))
        people = [person for number in move.frames if (person := _person(edited, move, number)) is not None]
        if not people:
            raise ValueError(f"{text}: nobody is in these frames, expected {'them' if move.person is None else 'it'}")
        source = None
        if move.verb == "copy" and (source := _person(edited, move, int(move.values["from"]))) is None:
            raise ValueError(f"{text}: from: nobody is in frame {move.values['from']:.0f}")
        for person in people:
            _apply(move, person, source)
        count += len(people) * len(move.joints)
    return edited, count


def parse_move(text: str, total: int) -> Move:
    """Parse a move on a clip of `total` frames, with the errors of `edit`."""
    verb, *rest = text.split()
    if verb not in VALUES:
        raise ValueError(f"{text}: got {verb!r}, expected one of {', '.join(VALUES)}, as in {_EXAMPLE}")
    if len(rest) < 2:
        raise ValueError(f"{text}: expected {verb} JOINT FRAMES, as in {_EXAMPLE}")
    needed, allowed = VALUES[verb]
    values: dict[str, float] = {}
    for word in rest[2:]:
        key, _, value = word.partition("=")
        if key not in (*needed, *allowed, "person"):
            names = ", ".join(f"{each}=" for each in (*needed, *allowed, "person"))
            raise ValueError(f"{text}: got {word!r}, expected {names}")
        values[key] = _number(text, key, value, whole=key in ("from", "person"))
    if needed and not values.keys() & set(needed):
        raise ValueError(f"{text}: expected {' or '.join(f'{each}=' for each in needed)}, a number")
    if not 0 <= values.get("confidence", 1) <= 1:
        raise ValueError(f"{text}: confidence: got {values['confidence']:g}, expected a number from 0 to 1")
    if not 0 <= values.get("from", 0) < total:
        raise ValueError(f"{text}: from: got {values['from']:.0f}, expected a frame from 0 to {total - 1}")
    person = values.pop("person", None)
    return Move(text, verb, _joints(text, rest[0]), _frames(text, rest[1], total), values, person and int(person))


def _joints(text: str, names: str) -> list[int]:
    if names == "all":
        return list(JOINT.values())
    for name in names.split(","):
        if name not in JOINT:
            near = difflib.get_close_matches(name, JOINT, n=1, cutoff=0.0)[0]
            raise ValueError(f"{text}: got joint {name!r}, expected one of COCO's, or all; the nearest is {near}")
    return [JOINT[name] for name in names.split(",")]


def _frames(text: str, words: str, total: int) -> range:
    if not (match := re.fullmatch(r"(\d{1,9})|(\d{0,9}):(\d{0,9})", words)):
        raise ValueError(f"{text}: got frames {words!r}, expected a number from 0, or A:B")
    first = int(match[1] or match[2] or 0)
    end = first + 1 if match[1] else int(match[3] or total)
    if not first < end <= total:
        raise ValueError(f"{text}: got frames {words}, expected some of the {total} from 0 to {total - 1}")
    return range(first, end)


def _number(text: str, key: str, value: str, whole: bool) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not abs(number) < 1e6 or whole and number != int(number):
        raise ValueError(f"{text}: {key}: got {value!r:.80}, expected a {'whole ' * whole}number")
    return number


def _person(clip: ClipKeypoints, move: Move, frame: int) -> np.ndarray | None:
    """Return the person (17, 3) of a move in a frame, to be changed in place; None: it is not there."""
    people = clip.frames[frame]
    numbers = list(range(len(people))) if clip.ids is None else clip.ids[frame]
    if move.person is None and len(people) > 1:
        shown = ", ".join(map(str, numbers[:8]))
        raise ValueError(f"{move.text}: frame {frame} shows {len(people)} people, expected person=N, one of {shown}")
    if move.person is None:
        return people[0] if people else None
    return people[numbers.index(move.person)] if move.person in numbers else None


def _apply(move: Move, person: np.ndarray, source: np.ndarray | None) -> None:
    """Move joints of a person (17, 3) in place; `source` is the pose (17, 3) that `copy` takes them from."""
    for joint in move.joints:
        for axis, key in enumerate(("x", "y")):
            if key in move.values:
                person[joint, axis] = move.values[key] + (person[joint, axis] if move.verb == "shift" else 0)
        if move.verb == "set":
            person[joint, 2] = move.values.get("confidence", 1.0)
        elif move.verb == "hide":
            person[joint, 2] = 0.0
        elif source is not None:
            person[joint] = source[joint]
