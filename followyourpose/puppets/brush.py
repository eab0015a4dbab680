"""A brush: anti-aliased shapes on a larger canvas, in the coordinates of the final frame."""

from collections.abc import Sequence

import cv2
import numpy as np

Color = tuple[int, int, int]
Point = Sequence[float]
_SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates: 1/16 pixel


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

    def frame(self) -> np.ndarray:
        """The canvas at the frame's size, (H, W, 3) uint8: each pixel the mean of its area."""
        height, width = (side // self.scale for side in self.canvas.shape[:2])
        return cv2.resize(self.canvas, (width, height), interpolation=cv2.INTER_AREA)

    def _fixed(self, points: np.ndarray | Sequence[Point]) -> np.ndarray:
        return np.round(np.asarray(points, float) * self.scale * 2**_SHIFT).astype(np.int32)

    def capsule(self, start: Point, end: Point, width: float, color: Color, end_width: float | None = None) -> None:
        """A limb: round at both ends, `width` wide at its start and `end_width` at its end (None: the same)."""
        end_width = width if end_width is None else end_width
        self.disc(start, width / 2, color)
        self.disc(end, end_width / 2, color)
        (x0, y0), (x1, y1) = start, end
        length = max(np.hypot(x1 - x0, y1 - y0), 1e-6)
        normal = np.array([-(y1 - y0), x1 - x0]) / length / 2
        start, end = np.asarray(start), np.asarray(end)
        self.polygon(
            [start + normal * width, end + normal * end_width, end - normal * end_width, start - normal * width], color
        )

    def disc(self, center: Point, radius: float, color: Color) -> None:
        self.ellipse(center, (radius, radius), color)

    def ellipse(self, center: Point, radii: tuple[float, float], color: Color, angle: float = 0.0) -> None:
        """An ellipse with axes of `radii`, turned clockwise by `angle` degrees."""
        axes = [max(1, int(v)) for v in self._fixed(radii)]
        xy = self._fixed(center).tolist()
        cv2.ellipse(self.canvas, xy, axes, angle, 0, 360, color, -1, cv2.LINE_AA, _SHIFT)

    def polygon(self, points: Sequence[Point] | np.ndarray, color: Color) -> None:
        cv2.fillPoly(self.canvas, [self._fixed(points)], color, cv2.LINE_AA, _SHIFT)

    def rectangle(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color)

    def gradient(self, top: float, bottom: float, above: Color, below: Color) -> None:
        """Fill the rows from `top` to `bottom` with a vertical blend of two colours."""
        first, last = round(top * self.scale), round(bottom * self.scale)
        share = np.linspace(0, 1, max(last - first, 1))[:, None]
        rows = (1 - share) * np.asarray(above) + share * np.asarray(below)
        self.canvas[first:last] = rows[: last - first, None].astype(np.uint8)
