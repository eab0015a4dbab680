"""Drawing styles: the puppet world drawn in another way. The embedded default was trained on none of them.

Shapes: f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Style:
    """A style: the end of its captions, and the function that redraws frames (f, H, W, 3), each by itself."""

    suffix: str
    draw: Callable[[np.ndarray], np.ndarray]


# Lightness from 0 to 1 -> the blueprint's colour.
_LIGHTNESS = (0.0, 0.35, 0.7, 1.0)
_BLUES = np.array([(8, 24, 80), (24, 95, 180), (110, 180, 240), (240, 247, 255)])
_LINE = np.array((250, 252, 255))


def blueprint(frames: np.ndarray) -> np.ndarray:
    """Blue from dark to light in place of all colours, and white lines along the edges between them.

    Args:
        frames: (f, H, W, 3) uint8 RGB.

    Returns:
        Frames of the same shape and type.
    """
    drawn = []
    for frame in frames:
        lab = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)  # lightness from 0 to 100, and two hues
        padded = np.pad(lab, ((0, 1), (0, 1), (0, 0)), mode="edge")
        steps = np.stack([padded[:-1, 1:] - lab, padded[1:, :-1] - lab])  # to the right, and down
        contrast = np.sqrt(np.square(steps).sum((0, 3)))[..., None]
        ink = 0.7 * np.clip(contrast / 40, 0, 1)
        paper = np.stack([np.interp(lab[..., 0] / 100, _LIGHTNESS, blues) for blues in _BLUES.T], -1)
        drawn.append(((1 - ink) * paper + ink * _LINE).round().astype(np.uint8))
    return np.stack(drawn)


STYLES: dict[str, Style] = {"blueprint": Style(", as a blueprint", blueprint)}
