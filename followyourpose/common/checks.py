"""Checks of single values, of settings and arguments alike: each error names what was got and what was expected."""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import isfinite
from typing import Any


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise a ValueError that names the choices unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(choices)}")


def is_text(text: str) -> bool:
    """Whether a string is Unicode text: JSON may hold half a character, such as half an emoji."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def check_unicode(name: str, text: str) -> None:
    """Raise a ValueError where text holds half of a surrogate pair, which UTF-8 and tokenizers refuse."""
    if not is_text(text):
        raise ValueError(f"{name}: got {text!r:.80}, expected text in Unicode, without halves of surrogate pairs")


def check_installed(name: str, extra: str, *packages: str, then: str = "") -> None:
    """Raise a ValueError with the command that installs an extra of this package unless all packages are there.

    None of them is imported, so that this takes no time. `then` is appended to the command.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise ValueError(f'{name}: {", ".join(missing)} {are} not installed; pip install -e ".[{extra}]"{then}')


def check_at_least(name: str, value: float, least: float = 1, most: float | None = None) -> None:
    """Raise a ValueError unless least <= value, and value <= most where there is a limit."""
    if not value >= least:
        raise ValueError(f"{name}: got {value}, expected at least {least}")
    if most is not None and not value <= most:
        raise ValueError(f"{name}: got {value}, expected at most {most}")


def check_bounds(settings: Any, prefix: str = "", **bounds: int | tuple[int, int]) -> None:
    """Raise a ValueError unless each named setting that has a number is at least its bound, or within its two."""
    for key, bound in bounds.items():
        least, most = bound if isinstance(bound, tuple) else (bound, None)
        value = getattr(settings, key)
        if value is not None and not isinstance(value, str):  # neither null nor a required one that is not given
            check_at_least(f"{prefix}{key}", value, least, most)


def check_multiple(name: str, value: int, divisor: int, unit: str) -> None:
    """Raise a ValueError that names the nearest multiples unless `value` is a multiple of `divisor`, above 0."""
    if value < 1 or value % divisor:
        below = value // divisor * divisor
        near = f"{below} or {below + divisor}" if below > 0 else str(divisor)
        raise ValueError(f"{name}: got {value} {unit}, expected a multiple of {divisor}; the nearest: {near}")


def check_above_zero(name: str, value: float, unit: str = "a finite number") -> None:
    """Raise a ValueError unless `value` is finite and above 0."""
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{name}: got {value}, expected {unit} above 0")


def check_finite(name: str, value: float) -> None:
    """Raise a ValueError unless `value` is a finite number."""
    if not isfinite(value):
        raise ValueError(f"{name}: got {value}, expected a finite number")


def check_share(name: str, value: float) -> None:
    """Raise a ValueError unless `value` lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: got {value}, expected a share from 0 to 1")


def check_scale(name: str, value: float) -> None:
    """Raise a ValueError unless `value` is a finite factor of 0 or more."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}: got {value}, expected a finite number, at least 0")


def check_window(name: str, frames: int) -> None:
    """Raise a ValueError unless `frames` is 0 or a filter's window over time: an odd number from 3."""
    if frames != 0 and (frames < 3 or frames % 2 == 0):
        raise ValueError(f"{name}: got {frames}, expected 0, or an odd number of frames from 3")


def parse_size(name: str, text: str) -> tuple[int, int]:
    """Return width and height of text such as 1280x720."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text.strip())
    if match is None:
        raise ValueError(f"{name}: got {text!r:.80}, expected WIDTHxHEIGHT in pixels, such as 1280x720")
    return int(match[1]), int(match[2])


def check_interval(name: str, start: float, end: float) -> None:
    """Raise a ValueError that names `name`_start and `name`_end unless 0 <= start <= end <= 1."""
    if not 0 <= start <= end <= 1:
        raise ValueError(
            f"{name}_start, {name}_end: got {start} and {end}, expected shares of the denoising steps with "
            "0 <= start <= end <= 1"
        )


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key, to compare them: {"crop": {"left": 1}} -> {"crop.left": 1}."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def counted(count: int, noun: str) -> str:
    """Return a count with its noun in agreement: "1 frame", "2,000 frames"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
