"""Values along a video: texts and numbers by frame, {0: first, 16: second}, pure functions on frame numbers.

A value holds from its frame on. Where the `transition` is n frames, the n frames from the next value's on lie between
the two, in even steps: frame 16 + i has the share (i + 1) / (n + 1) of the second value. A plain value holds always.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TypeVar

from followyourpose.common.checks import check_at_least

Value = TypeVar("Value")
_NUMBER = re.compile(r"^[ \t]*(\d{1,9})[ \t]*:(?!\d)", re.MULTILINE)
Numbers = float | Mapping[int, float]  # one for the whole video, or one from each of these frames on
Blend = tuple[int, int, float]  # indices of two of a schedule's values, and the share of the second


def check_schedule(name: str, value: Any, num_frames: int | None = None, transition: int = 0) -> None:
    """Raise a ValueError unless a schedule begins at frame 0 and each of its frames is in the video.

    Args:
        num_frames: of the video; None: unknown yet.
        transition: frames between two values; the next value has to be reached before another one follows.
    """
    if not isinstance(value, Mapping):
        return
    frames = list(value)
    for frame in frames:
        if not isinstance(frame, int) or isinstance(frame, bool) or frame < 0:
            raise ValueError(f"{name}: got frame {frame!r}, expected whole numbers from 0, as {{0: ..., 16: ...}}")
    if 0 not in frames:
        begin = f"frame {min(frames)}" if frames else "nothing"
        raise ValueError(f"{name}: begins at {begin}, expected a value for frame 0")
    if num_frames is not None and max(frames) >= num_frames:
        raise ValueError(f"{name}: got frame {max(frames)}, expected at most {num_frames - 1}, the video's last")
    check_at_least("transition", transition, 0)
    for before, after in zip(sorted(frames), sorted(frames)[1:], strict=False):
        if before and after - before < transition:
            raise ValueError(
                f"{name}: got frames {before} and {after}, expected them {transition} apart or more, as transition is"
            )


def texts_by_number(name: str, text: str) -> dict[int, str]:
    """Return the texts behind the numbers with which lines begin, "0: a cat" and "16: a dog"; before the first: 0's.

    Raises:
        ValueError: a number is there twice.
    """
    before, *parts = _NUMBER.split(text)
    parts = ["0", before, *parts] if before.strip() else parts
    texts: dict[int, str] = {}
    for number, part in zip(map(int, parts[::2]), parts[1::2], strict=True):
        if number in texts:
            raise ValueError(f"{name}: got {number}: twice, expected each number once")
        texts[number] = part.strip()
    return texts


def along(name: str, text: str) -> str | dict[int, str]:
    """Return a text or, where lines begin with the frames from which they hold, texts by frame; errors as above."""
    return texts_by_number(name, text) if _NUMBER.search(text) else text


def lines_of(texts: str | Mapping[int, str]) -> str:
    """Return a text, or texts by frame, as `along` takes them."""
    return texts if isinstance(texts, str) else "\n".join(f"{number}: {texts[number]}" for number in sorted(texts))


def values_of(schedule: Value | Mapping[int, Value]) -> list[Value]:
    """Return the values of a schedule in the order of their frames; of a plain value, this one."""
    return [schedule[frame] for frame in sorted(schedule)] if isinstance(schedule, Mapping) else [schedule]


def blends(schedule: Any, frames: Sequence[int], transition: int = 0) -> list[Blend]:
    """Return for each frame which of `values_of` it has, and how much of the one that follows."""
    if not isinstance(schedule, Mapping):
        return [(0, 0, 0.0)] * len(frames)
    starts = sorted(schedule)

    def blend(frame: int) -> Blend:
        index = bisect_right(starts, frame) - 1
        passed = frame - starts[index] + 1
        return (index - 1, index, passed / (transition + 1)) if index and passed <= transition else (index, index, 0.0)

    return [blend(frame) for frame in frames]


def numbers(schedule: Numbers, frames: Sequence[int], transition: int = 0) -> list[float]:
    """Return the number of each frame, between two values in a straight line."""
    values = values_of(schedule)
    return [values[a] + share * (values[b] - values[a]) for a, b, share in blends(schedule, frames, transition)]


def highest(schedule: Numbers) -> float:
    """Return the highest number of a schedule; a plain number is its own."""
    return max(values_of(schedule))


def check_numbers(name: str, schedule: Any, check: Any) -> None:
    """Check a number, or each of a schedule's, with `check(name, number)`.

    Raises:
        ValueError: no number, or as `check`.
    """
    for number in values_of(schedule):
        if not isinstance(number, Real) or isinstance(number, bool):
            raise ValueError(f"{name}: got {number!r:.60}, expected a number, or numbers by frame, {{0: 1.0, 16: 0.3}}")
        check(name, number)
