"""Labels of training images: the rules that they have to meet, their keypoints, and the count of what was left out.

Shapes: p people, H W pixels. Keypoints (p, 17, 3), COCO-17: x, y in pixels, confidence in [0, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from followyourpose.common.checks import is_text

# Strings of data sets lie in arrays, which forked workers share: after 400,000 captions were read, each worker held
# 8 MiB of its own, and 70 MiB where they were a list of objects.
STRINGS = np.dtypes.StringDType()
SEEN = 0.3  # the confidence from which a joint counts as seen (paper, section 4.1), and is drawn
NO_LABEL, NO_TEXT = "without a readable caption and keypoints", "with a caption that is no Unicode text"
_LARGEST = 2**20  # pixels of a side
_REMEMBERED, _SHOWN = 20, 3  # names of samples dropped for one reason: kept, and printed


class Dropped(dict[str, int]):
    """Number of samples left out, by reason; `names` has the first of each, and `str()` gives both."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        name = as_text(name)
        self[reason] = self.get(reason, 0) + 1
        names = self.names.setdefault(reason, [])
        if len(names) < _REMEMBERED:
            names.append(name)

    def __str__(self) -> str:
        parts = []
        for reason, count in self.items():
            names = self.names[reason][:_SHOWN] + ["..."] * (count > _SHOWN)
            parts.append(f"{count} {reason} ({', '.join(names)})")
        return "; ".join(parts) or "nothing dropped"


@dataclass(frozen=True)
class Rules:
    """Requirements on the images of stage 1 (paper, section 4.1)."""

    # a person counts only with more than this share of its joints seen, and an image needs one such; 0 keeps every
    # image, also without people
    min_keypoints: float = 0.5
    min_caption: int = 1  # characters of the caption
    min_size: int = 0  # pixels of the smaller side

    def against(self, caption: str, people: np.ndarray, size: tuple[int, int] | None) -> str | None:
        """Return the reason to leave out an image with this caption, people (p, 17, 3) and (H, W); None keeps it.

        A size that was not recorded (None) passes.
        """
        if not is_text(caption):
            return NO_TEXT
        if len(caption) < self.min_caption:
            return "with too short a caption"
        if size is not None and min(size) < self.min_size:
            return "too small"
        if self.min_keypoints > 0 and not ((people[..., 2] >= SEEN).mean(-1) > self.min_keypoints).any():
            return "without a person that is seen well enough"
        return None


PAPER = Rules()


def parse_people(label: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Return a label's people (p, 17, 3), those outside of the picture without confidence, and the recorded (H, W).

    Raises:
        ValueError: the label is not as LAION-Pose's are.
    """
    try:
        with np.errstate(over="ignore"):  # numbers that become infinite lie outside
            people = [np.asarray(person["keypoints"], np.float32).reshape(17, 3) for person in label["people"]]
        if label.get("width") is None or label.get("height") is None:
            size = None
        else:
            size = (int(label["height"]), int(label["width"]))
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    keypoints = np.stack(people) if people else np.zeros((0, 17, 3), np.float32)
    if size is None:
        return keypoints, None
    if not 1 <= min(size) <= max(size) <= _LARGEST:
        raise ValueError(f"width and height: got {size[1]} x {size[0]}, expected pixels")
    seen = keypoints[keypoints[..., 2] > 0, :2]
    if len(seen) and min(size) > 8 and -1 <= seen.min() and seen.max() <= 2:
        raise ValueError(f"keypoints: got x and y from {seen.min():g} to {seen.max():g}, expected pixels, not shares")
    return only_inside(keypoints, size), size


def as_text(name: str) -> str:
    """Return the name of a file, or of a tar's member, as text that can be written: names may be of any bytes."""
    return name.encode("utf-8", "backslashreplace").decode()


def rescaled(people: np.ndarray, recorded: tuple[int, int] | None, actual: tuple[int, int]) -> np.ndarray:
    """Move keypoints (p, 17, 3) from pixels of the `recorded` (H, W) to those of the `actual`; None: no other size.

    An image may have been shrunk since it was annotated.

    Raises:
        ValueError: the keypoints are of the picture on its side.
    """
    if recorded is None:
        return only_inside(people, actual)
    if recorded == actual:
        return people
    if recorded == actual[::-1]:
        size = f"{recorded[1]} x {recorded[0]}"
        raise ValueError(f"keypoints of {size} pixels, and a picture that is shown upright; annotate it again")
    scale = np.array(actual[::-1], np.float32) / np.array(recorded[::-1], np.float32)
    moved = people.copy()
    moved[..., :2] = (people[..., :2] + 0.5) * scale - 0.5  # a pixel's centre is at its integer coordinates
    return moved


def only_inside(people: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return keypoints (p, 17, 3) with confidence 0 where they lie outside of (H, W) or are not finite."""
    xy = people[..., :2]
    inside = ((xy >= -0.5) & (xy <= np.array(size[::-1]) - 0.5)).all(-1) & np.isfinite(people[..., 2])
    kept = np.nan_to_num(people, posinf=0.0, neginf=0.0)
    kept[..., 2] *= inside
    return kept
