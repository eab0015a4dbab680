"""Brushes: anti-aliased shapes on a larger canvas, in the coordinates of the final frame."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

Color = tuple[int, int, int]
Point = Sequence[float]
_SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates: 1/16 pixel
FINE = 96  # least side of a frame, in pixels, that shows outlines, faces, hands and the depth of a place


class Brush:
    """Paints on a canvas (S*H, S*W, 3) uint8 RGB; all lengths and points are in pixels of the (H, W) frame.

    Args:
        canvas: painted in place.
        scale: S, width of a frame pixel in canvas pixels.
    """

    def __init__(self, canvas: np.ndarray, scale: int) -> None:
        self.canvas, self.scale = canvas, scale

    @classmethod
    def blank(cls, height: int, width: int, scale: int) -> "Brush":
        return cls(np.zeros((height * scale, width * scale, 3), np.uint8), scale)

    @property
    def fine(self) -> bool:
        """Whether the frame is large enough for details; below, they would be noise."""
        return min(self.canvas.shape[:2]) >= FINE * self.scale

    def frame(self) -> np.ndarray:
        """The canvas at the frame's size, (H, W, 3) uint8: each pixel the mean of its area."""
        height, width = (side // self.scale for side in self.canvas.shape[:2])
        return cv2.resize(self.canvas, (width, height), interpolation=cv2.INTER_AREA)

    def _fixed(self, point: Point) -> list[int]:
        scale = self.scale * 2**_SHIFT  # numbers of Python: for two of them NumPy takes three times as long
        return [round(float(value) * scale) for value in point]

    def _polygon(self, points: Sequence[Point] | np.ndarray) -> np.ndarray:
        return np.array([self._fixed(point) for point in points], np.int32)

    def capsule(self, start: Point, end: Point, width: float, color: Color, end_width: float | None = None) -> None:
        """A limb: round at both ends, `width` wide at its start and `end_width` at its end (None: the same)."""
        end_width = width if end_width is None else end_width
        self.disc(start, width / 2, color)
        self.disc(end, end_width / 2, color)
        (x0, y0), (x1, y1) = map(float, start), map(float, end)
        length = max(math.hypot(x1 - x0, y1 - y0), 1e-6)
        x, y = -(y1 - y0) / length / 2, (x1 - x0) / length / 2
        self.polygon(
            [(x0 + x * width, y0 + y * width), (x1 + x * end_width, y1 + y * end_width),
             (x1 - x * end_width, y1 - y * end_width), (x0 - x * width, y0 - y * width)], color
        )  # fmt: skip

    def disc(self, center: Point, radius: float, color: Color) -> None:
        self.ellipse(center, (radius, radius), color)

    def ellipse(self, center: Point, radii: tuple[float, float], color: Color, angle: float = 0.0) -> None:
        """An ellipse with axes of `radii`, turned clockwise by `angle` degrees."""
        axes = [max(1, int(v)) for v in self._fixed(radii)]
        cv2.ellipse(self.canvas, self._fixed(center), axes, angle, 0, 360, color, -1, cv2.LINE_AA, _SHIFT)

    def polygon(self, points: Sequence[Point] | np.ndarray, color: Color) -> None:
        cv2.fillPoly(self.canvas, [self._polygon(points)], color, cv2.LINE_AA, _SHIFT)

    def rectangle(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color)

    def gradient(self, top: float, bottom: float, above: Color, below: Color) -> None:
        """Fill the rows from `top` to `bottom` with a vertical blend of two colours."""
        first, last = round(top * self.scale), round(bottom * self.scale)
        share = np.linspace(0, 1, max(last - first, 1))[:, None]
        rows = (1 - share) * np.asarray(above) + share * np.asarray(below)
        self.canvas[first:last] = rows[: last - first, None].astype(np.uint8)

    def shade(self, center: Point, radii: tuple[float, float], light: float) -> None:
        """Multiply what lies within an ellipse, soft towards its rim, by `light`: below 1 a shadow, above 1 a glow."""
        (x, y), (rx, ry) = (np.asarray(v, float) * self.scale for v in (center, radii))
        left, top = max(int(x - rx), 0), max(int(y - ry), 0)
        region = self.canvas[top : max(int(y + ry) + 1, 0), left : max(int(x + rx) + 1, 0)]
        across = ((np.arange(region.shape[1]) + left - x) / rx) ** 2
        down = ((np.arange(region.shape[0]) + top - y) / ry) ** 2
        amount = np.clip(1.5 * (1 - down[:, None] - across), 0, 1)[..., None]
        region[:] = np.clip(region * (1 + (light - 1) * amount), 0, 255)


class Outline(Brush):
    """The same shapes, wider by `width` pixels on each side and all in one colour: drawn first, they are an outline."""

    def __init__(self, brush: Brush, width: float, color: Color) -> None:
        super().__init__(brush.canvas, brush.scale)
        self.width, self.color = width, color

    def ellipse(self, center: Point, radii: tuple[float, float], color: Color, angle: float = 0.0) -> None:
        super().ellipse(center, (radii[0] + self.width, radii[1] + self.width), self.color, angle)

    def polygon(self, points: Sequence[Point] | np.ndarray, color: Color) -> None:
        super().polygon(points, self.color)
        thickness = max(1, round(2 * self.width * self.scale))
        cv2.polylines(self.canvas, [self._polygon(points)], True, self.color, thickness, cv2.LINE_AA, _SHIFT)
