"""Checks of single values, for settings and for arguments alike: what was got, and what was expected."""

from collections.abc import Sequence


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Passes when `value` is one of the choices; else a ValueError names them."""
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(choices)}")


def check_at_least(name: str, value: int, least: int = 1) -> None:
    """Passes when `value` is no less than that; else a ValueError says so."""
    if value < least:
        raise ValueError(f"{name}: got {value}, expected at least {least}")


def check_scale(name: str, value: float) -> None:
    """Passes when `value` is a factor of 0 or more; else a ValueError says so."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}: got {value}, expected a finite number, at least 0")


def check_interval(name: str, start: float, end: float) -> None:
    """Passes when the shares lie in [0, 1], in order; else a ValueError names `name`_start and `name`_end."""
    if not 0 <= start <= end <= 1:
        raise ValueError(
            f"{name}_start, {name}_end: got {start} and {end}, expected shares of the denoising steps with "
            "0 <= start <= end <= 1"
        )
