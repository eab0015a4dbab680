"""Selection of LAION-Pose's images by the people found in them (paper, section 4.1).

Shapes: p people, H W pixels. Keypoints (p, 17, 3): x, y in pixels, confidence.
"""

from dataclasses import dataclass

import numpy as np

from followyourpose.data.labels import SEEN, Rules


@dataclass(frozen=True)
class Selection:
    """Limits of the images that are kept; people with at least one seen joint count."""

    min_keypoints: float = 0.5  # one person must have more than this share of its joints seen (the paper: 0.5)
    people: tuple[int, int] = (1, 8)  # fewest and most
    # smallest and largest share of the image for the box around the largest person's joints
    area: tuple[float, float] = (0.02, 1.0)
    min_size: int = 0  # least smaller side, in pixels

    def check(self) -> None:
        """Raise a ValueError with the name of the flag where a number is out of range."""
        for flag, values, ends in (
            ("min-keypoints", (self.min_keypoints,), (0, 1)), ("people", self.people, (0, np.inf)),
            ("area", self.area, (0, 1)), ("min-size", (self.min_size,), (0, np.inf)),
        ):  # fmt: skip
            if list(values) != sorted(values) or not ends[0] <= values[0] <= values[-1] <= ends[1]:
                raise ValueError(f"--{flag}: got {values}, expected numbers from {ends[0]} to {ends[1]}, in order")

    def against(self, caption: str, people: np.ndarray, size: tuple[int, int]) -> str | None:
        """Reason to drop an image (H, W) with this caption and people (p, 17, 3); None keeps it."""
        count, area = int((people[..., 2] >= SEEN).any(-1).sum()), largest_area(people, size)
        if count == 0 and self.people[0] > 0:
            return "without people"
        if not self.people[0] <= count <= self.people[1]:
            return "with too few people" if count < self.people[0] else "with too many people"
        if count and not self.area[0] <= area <= self.area[1]:
            return "with people too small" if area < self.area[0] else "with people too large"
        return Rules(self.min_keypoints, min_size=self.min_size).against(caption, people, size)


def largest_area(people: np.ndarray, size: tuple[int, int]) -> float:
    """Largest share of (H, W) among the boxes around the seen joints of people (p, 17, 3)."""
    boxes = [np.ptp(person[person[:, 2] >= SEEN, :2], axis=0) for person in people if (person[:, 2] >= SEEN).any()]
    return max((float(box.prod()) / (size[0] * size[1]) for box in boxes), default=0.0)
