"""BlazePose (arXiv 2006.10204): a detector and a landmark network on LiteRT, for one or a few people.

A frame's people are looked for where the frame before had them (the landmarks give the next crop) and where the
detector finds somebody else. The networks are MediaPipe's, with 33 landmarks, of which COCO-17 is a part.
Letters: n frames, p people, H W pixels, a anchors. A region is a turned square: center x, center y, side, angle.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from followyourpose.pose.similarity import box_overlap
from followyourpose.pose.skeleton import SEEN

DETECTOR = "pose_detection.tflite"
LANDMARKS = "pose_landmark_{}.tflite"  # lite, full or heavy
# COCO's joint -> BlazePose's: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
COCO = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
_HIPS, _ABOVE = 33, 34  # auxiliary landmarks: the middle of the hips, and the rim of a circle around the body
_STRIDES = ((8, 2), (16, 2), (32, 6))  # of the detector's grids, in pixels of its input, and anchors per cell
_SIDE = 224  # pixels of the detector's input, of which anchors are 1
_FOUND, _STILL_THERE = 0.5, 0.5  # least score of a detection, and of a person in a crop
_SAME = 0.3  # overlap from which two boxes are of one person
_MARGIN = 1.25  # side of a crop over that of the circle's square
_MARGINS = (1.0, 1.25, 1.5)  # side of a crop over the longer side of a given box, all tried

Found = tuple[np.ndarray, "Region", float]  # pose (17, 3), region to look at in the next frame, score


class Region(NamedTuple):
    """A square crop: center in pixels, side in pixels, angle in radians by which it is turned clockwise."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    def corners(self) -> np.ndarray:
        """Return the corners top left, top right, bottom left, (3, 2), which fix the crop's affine map."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        right, down = np.array([cos, sin]) * self.side / 2, np.array([-sin, cos]) * self.side / 2
        center = np.array([self.x, self.y])
        return np.stack([center - right - down, center + right - down, center - right + down])


class LightPose:
    """Poses of the people in frames.

    Args:
        folder: holds pose_detection.tflite and pose_landmark_full.tflite (or lite, or heavy).
        boxes: a detector of boxes, frame (H, W, 3) uint8 RGB -> (p, 4), in place of BlazePose's own; None: its own.

    Raises:
        ValueError: a file is missing, or is no such network.
    """

    def __init__(self, folder: Path, variant: str = "full", boxes: Any = None) -> None:
        self.detector = _Network(folder / DETECTOR, (1, _SIDE, _SIDE, 3))
        self.landmarks = _Network(folder / LANDMARKS.format(variant), (1, 256, 256, 3))
        self.anchors = _anchors()
        self.boxes = boxes

    def __call__(self, frames: np.ndarray) -> list[np.ndarray]:
        """Frames (n, H, W, 3) uint8 RGB, one after the other -> for each the poses (p, 17, 3) found in it."""
        found, regions = [], list[Region]()
        for frame in frames:
            people = self.people(frame, regions)
            regions = [region for _, region in people]
            found.append(np.array([pose for pose, _ in people], np.float32).reshape(-1, 17, 3))
        return found

    def people(self, frame: np.ndarray, before: Sequence[Region] = ()) -> list[tuple[np.ndarray, Region]]:
        """Return the poses (17, 3) in one frame (H, W, 3) uint8, each with the region to look at in the next one.

        Args:
            before: regions of the people in the frame before.
        """
        people: list[Found] = []
        for region in before:
            self._add(people, self._in_region(frame, region))
        if self.boxes is not None:
            for box in self.boxes(frame):
                self._add(people, self._in_box(frame, box))
        else:
            for region in self.regions(frame):
                if not any(_inside(region, pose) for pose, *_ in people):
                    self._add(people, next(self._twice(frame, region), None))
        return [(pose, region) for pose, region, _ in people]

    def regions(self, frame: np.ndarray) -> list[Region]:
        """Return where BlazePose's detector sees people in a frame (H, W, 3) uint8, the surest first."""
        height, width = frame.shape[:2]
        scale = _SIDE / max(height, width)
        shift = (np.array([_SIDE, _SIDE]) - scale * np.array([width, height])) / 2
        image = cv2.warpAffine(frame, np.float32([[scale, 0, shift[0]], [0, scale, shift[1]]]), (_SIDE, _SIDE))
        raw, logits = self.detector(image[None] / np.float32(127.5) - 1)
        scores = 1 / (1 + np.exp(-logits[0, :, 0].clip(-80, 80)))
        sure = np.flatnonzero(scores >= _FOUND)
        values = raw[0, sure]
        centers = values[:, :2] + self.anchors[sure]
        boxes = np.concatenate([centers - values[:, 2:4] / 2, centers + values[:, 2:4] / 2], 1)
        points = values[:, 4:8].reshape(-1, 2, 2) + self.anchors[sure, None]  # middle of the hips, rim of the circle
        points = (_suppressed(points, boxes, scores[sure]) - shift) / scale
        return [_around_circle(hips, rim) for hips, rim in points]

    def _twice(self, frame: np.ndarray, region: Region) -> Iterator[Found]:
        """Yield the person in a crop, from the second look to the first: the landmarks in a crop give a better one."""
        first = self._in_region(frame, region)
        second = first and self._in_region(frame, first[1])
        yield from (found for found in (second, first) if found)

    def _in_box(self, frame: np.ndarray, box: np.ndarray) -> Found | None:
        """Return the person who fills a box (left, top, right, bottom) best; a box does not say how to crop."""
        left, top, right, bottom = box[:4]
        sides = (margin * max(right - left, bottom - top) for margin in _MARGINS)
        regions = [Region((left + right) / 2, (top + bottom) / 2, side) for side in sides]
        found = [each for region in regions for each in self._twice(frame, region)]
        corners, size = np.reshape(box[:4], (2, 2)), frame.shape[1::-1]
        return max(found, key=lambda each: each[2] * box_overlap(_seen(each[0], size), corners), default=None)

    def _in_region(self, frame: np.ndarray, region: Region) -> Found | None:
        """Return the pose (17, 3) in a crop, the region of the next crop and the score; None: nobody is there."""
        if not np.isfinite(region).all() or region.side < 1:
            return None
        size = self.landmarks.shape[1]
        target = np.float32([[0, 0], [size, 0], [0, size]])
        there = cv2.getAffineTransform(region.corners().astype(np.float32), target)
        crop = cv2.warpAffine(frame, there, (size, size), flags=cv2.INTER_LINEAR)
        outputs = {
            output.shape[-1]: output for output in self.landmarks(crop[None] / np.float32(255)) if output.ndim == 2
        }
        score = float(outputs[1][0, 0])
        if not score >= _STILL_THERE:
            return None
        points = outputs[195].reshape(39, 5)
        back = cv2.invertAffineTransform(there)
        xy = points[:, :2] @ back[:, :2].T + back[:, 2]
        confidence = 1 / (1 + np.exp(-points[:, 3:].clip(-80, 80))).min(1)  # the less of visible and present
        pose = np.concatenate([xy, confidence[:, None]], 1)[COCO].astype(np.float32)
        return pose, _around_circle(xy[_HIPS], xy[_ABOVE]), score

    @staticmethod
    def _add(people: list[Found], found: Found | None) -> None:
        """Keep a person, once: crops of two people may slip onto one."""
        if found is None:
            return
        for index, (pose, _, score) in enumerate(people):
            if box_overlap(pose[:, :2], found[0][:, :2]) >= 2 * _SAME:
                if found[2] > score:
                    people[index] = found
                return
        people.append(found)


class _Network:
    """A LiteRT network: float32 input of one shape -> outputs."""

    def __init__(self, file: Path, shape: tuple[int, ...]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        if not file.is_file():
            raise ValueError(f"{file}: no such file; `followyourpose download light` brings it")
        try:
            self.interpreter = Interpreter(str(file))
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{file}: cannot be read as a LiteRT network ({str(error).splitlines()[0]})") from error
        self.input = self.interpreter.get_input_details()[0]
        self.outputs = [output["index"] for output in self.interpreter.get_output_details()]
        self.shape = tuple(int(side) for side in self.input["shape"])
        if self.shape != shape:
            raise ValueError(f"{file}: takes an input of {self.shape}, expected BlazePose's {shape}")

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        self.interpreter.set_tensor(self.input["index"], image)
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(index) for index in self.outputs]


def _anchors() -> np.ndarray:
    """Return the centers (a, 2) of the detector's anchors in pixels of its input: a grid per stride, repeated."""
    grids = []
    for stride, repeats in _STRIDES:
        centers = (np.arange(_SIDE // stride) + 0.5) * stride
        grid = np.stack(np.meshgrid(centers, centers), -1).reshape(-1, 2)
        grids.append(grid.repeat(repeats, axis=0))
    return np.concatenate(grids).astype(np.float32)


def _suppressed(points: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return one pair of points (p, 2, 2) per person: the mean, weighted by score, of those whose boxes overlap."""
    rest, kept = list(np.argsort(-scores)), []
    while rest:
        same = [i for i in rest if box_overlap(boxes[rest[0]].reshape(2, 2), boxes[i].reshape(2, 2)) > _SAME]
        kept.append(np.average(points[same], axis=0, weights=scores[same]))
        rest = [i for i in rest if i not in same]
    return np.array(kept, np.float32).reshape(-1, 2, 2)


def _around_circle(center: np.ndarray, rim: np.ndarray) -> Region:
    """Return the square around a circle, turned so that the rim's point is above the center."""
    x, y = rim - center
    return Region(float(center[0]), float(center[1]), float(2 * _MARGIN * np.hypot(x, y)), float(np.arctan2(x, -y)))


def _seen(pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the seen joints (k, 2) of a pose (17, 3), moved into the picture of width and height `size`."""
    seen = pose[pose[:, 2] > SEEN]
    return (seen if len(seen) > 2 else pose)[:, :2].clip(0, size)


def _inside(region: Region, pose: np.ndarray) -> bool:
    """Whether a region is of a person who is found already: their boxes overlap, or their hips nearly coincide."""
    hips = pose[11:13, :2].mean(0)
    near = np.hypot(*(hips - (region.x, region.y))) < 0.15 * region.side
    square = region.corners()
    return (
        bool(near) or box_overlap(pose[:, :2], np.concatenate([square, square[1:2] + square[2:3] - square[:1]])) > 0.5
    )
