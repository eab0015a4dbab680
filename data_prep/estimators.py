"""Pose estimators by name."""

from typing import Protocol

import numpy as np

from followyourpose.config import locate

DETECTOR = "checkpoints/puppet-eval/detector"


class Estimator(Protocol):
    """Finds people: frames (n, H, W, 3) uint8 RGB -> for each a list of (17, 3): x, y in pixels, confidence."""

    def __call__(self, frames: np.ndarray) -> list[list[np.ndarray]]: ...


def open_estimator(backend: str = "puppet") -> Estimator:
    """The estimator of that name: `puppet`, which sees one puppet per image.

    Raises:
        ValueError: there is none of that name.
    """
    if backend != "puppet":
        raise ValueError(f"--backend: got {backend!r}, expected puppet")
    from followyourpose.pose.detector import PuppetDetector  # with torch: late

    detector = PuppetDetector.from_pretrained(locate(DETECTOR)).eval()
    return lambda frames: [[person] for person in detector.detect(frames)]
