"""BlazePose (arXiv 2006.10204): a detector and a landmark network on LiteRT, for one or a few people.

A frame's people are looked for where the frame before had them (the landmarks give the next crop) and where the
detector finds somebody else. The networks are MediaPipe's, with 33 landmarks, of which COCO-17 is a part.
Letters: n frames, p people, H W pixels, a anchors. A region is a turned square: center x, center y, side, angle.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from followyourpose.pose.estimate_rtmlib import Boxes, open_boxes, to_bgr
from followyourpose.pose.similarity import box_overlap
from followyourpose.pose.skeleton import SEEN

DETECTOR = "pose_detection.tflite"  # beside a landmark network, whichever it is: lite, full or heavy
# COCO's joint -> BlazePose's: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
COCO = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
_HIPS, _ABOVE = 33, 34  # auxiliary landmarks: the middle of the hips, and the rim of a circle around the body
_STRIDES = ((8, 2), (16, 2), (32, 6))  # of the detector's grids, in pixels of its input, and anchors per cell
_SIDE = 224  # pixels of the detector's input, of which anchors are 1
_FOUND, _STILL_THERE, _SURE = 0.5, 0.5, 0.75  # least score of a detection, and of a person in a crop
_SAME = 0.3  # overlap from which two boxes are of one person
_NEAR = 0.15  # distance, in sides of a crop, below which two crops are of one person
_MARGIN = 1.25  # side of a crop over that of the circle's square
_MARGINS = (1.0, 1.25, 1.5)  # side of a crop over the longer side of a given box, all tried
_CUT = 20  # mean change of a pixel, of 255, from which a frame shows something else than the one before
_MOST_VIEWS = 16  # of a frame, in which people are looked for
_EVERY = 8  # frames between two searches for people who are small in the frame
_FOLLOW = 0.5  # share of the way that a crop follows its person from a frame to the next: less trembles less

Found = tuple[np.ndarray, "Region", float]  # pose (17, 3), region to look at in the next frame, score


class Region(NamedTuple):
    """A square crop: center in pixels, side in pixels, angle in radians by which it is turned clockwise."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    def towards(self, other: "Region", share: float) -> "Region":
        """Return the region that lies a share of the way to another."""
        turn = math.remainder(other.angle - self.angle, 2 * math.pi)
        place = (a + share * (b - a) for a, b in zip(self[:3], other[:3], strict=True))
        return Region(*place, self.angle + share * turn)

    def same(self, other: "Region") -> bool:
        """Whether two regions are of one person: their centers, the hips, nearly coincide."""
        return math.hypot(self.x - other.x, self.y - other.y) < _NEAR * max(self.side, other.side)

    def corners(self) -> np.ndarray:
        """Return the corners top left, top right, bottom left, (3, 2), which fix the crop's affine map."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        right, down = np.array([cos, sin]) * self.side / 2, np.array([-sin, cos]) * self.side / 2
        center = np.array([self.x, self.y])
        return np.stack([center - right - down, center + right - down, center - right + down])


class LightPose:
    """Poses of the people in frames.

    Args:
        weights: the .tflite file of a landmark network, with the detector beside it.
        boxes: as of `open_boxes`, in place of BlazePose's own detector; None: that one.

    Raises:
        ValueError: a file is missing, or is no such network.
    """

    def __init__(self, weights: Path, boxes: str | Path | Boxes | None = None) -> None:
        self.detector = _Network(weights.with_name(DETECTOR), (1, _SIDE, _SIDE, 3), (12, 1))
        self.landmarks = _Network(weights, (1, 256, 256, 3), (195, 1))
        self.anchors = _anchors()
        self.boxes = None if boxes is None else open_boxes(boxes, None)

    def __call__(self, frames: np.ndarray) -> list[np.ndarray]:
        """Frames (n, H, W, 3) uint8 RGB, one after the other -> for each the poses (p, 17, 3) found in it."""
        found, regions, last = [], list[Region](), None
        for number, frame in enumerate(frames):
            look = cv2.resize(frame, (16, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
            if last is not None and np.abs(look - last).mean() > _CUT:
                regions = []
            last = look
            people = self._people(frame, regions, near=number % _EVERY == 0 or not regions)
            if len(people) < len(regions):
                people = self._people(frame, regions, near=True)
            regions = [region for _, region, _ in people]
            found.append(np.array([pose for pose, *_ in people], np.float32).reshape(-1, 17, 3))
        return found

    def _people(self, frame: np.ndarray, before: Sequence[Region], near: bool) -> list[Found]:
        """Return the people in one frame (H, W, 3) uint8.

        Args:
            before: regions of the people in the frame before.
            near: look also for people who are small in the frame.
        """
        people: list[Found] = []
        for region in before:
            if found := self._in_region(frame, region):
                _add(people, (found[0], region.towards(found[1], _FOLLOW), found[2]))
        if self.boxes is not None:
            for box in self.boxes(to_bgr(frame[None])[0]):
                if not any(_overlap(box, pose, frame) > 0.5 for pose, *_ in people):
                    _add(people, self._in_box(frame, box))
            return people
        for view in _views(frame, near):
            for region in self._regions(frame, view):
                if not any(region.same(known) for _, known, _ in people):
                    _add(people, self._new(frame, region, sure=view.side < max(frame.shape)))
        return people

    def _regions(self, frame: np.ndarray, view: Region) -> list[Region]:
        """Return where BlazePose's detector sees people in a view of a frame (H, W, 3) uint8, the surest first."""
        image, back = _crop(frame, view, _SIDE)
        raw, logits = self.detector(image / np.float32(127.5) - 1)
        scores = 1 / (1 + np.exp(-logits[0, :, 0].clip(-80, 80)))
        found = np.flatnonzero(scores >= _FOUND)
        values = raw[0, found]
        centers = values[:, :2] + self.anchors[found]
        boxes = np.concatenate([centers - values[:, 2:4] / 2, centers + values[:, 2:4] / 2], 1)
        points = values[:, 4:8].reshape(-1, 2, 2) + self.anchors[found, None]  # hips, and the circle's rim
        return [
            _around_circle(*(pair @ back[:, :2].T + back[:, 2])) for pair in _suppressed(points, boxes, scores[found])
        ]

    def _new(self, frame: np.ndarray, region: Region, sure: bool) -> Found | None:
        """Return the person whom the detector sees in a region. In a part of a frame it sees people in patterns too:
        they have to be `sure`, in both looks, with hips inside the frame."""
        looks = list(self._twice(frame, region))
        if sure and not (0 <= region.x < frame.shape[1] and 0 <= region.y < frame.shape[0]):
            return None
        if sure and (len(looks) < 2 or min(score for *_, score in looks) < _SURE):
            return None
        return looks[0] if looks else None

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
        return max(found, key=lambda each: each[2] * _overlap(box, each[0], frame), default=None)

    def _in_region(self, frame: np.ndarray, region: Region) -> Found | None:
        """Return the pose (17, 3) in a crop, the region of the next crop and the score; None: nobody is there."""
        if not np.isfinite(region).all() or region.side < 1:
            return None
        image, back = _crop(frame, region, self.landmarks.side)
        points, score = self.landmarks(image / np.float32(255))
        if not score.item() >= _STILL_THERE:
            return None
        points = points.reshape(39, 5)
        xy = points[:, :2] @ back[:, :2].T + back[:, 2]
        confidence = 1 / (1 + np.exp(-points[:, 3:].clip(-80, 80))).min(1)  # the less of visible and present
        pose = np.concatenate([xy, confidence[:, None]], 1)[COCO].astype(np.float32)
        return pose, _around_circle(xy[_HIPS], xy[_ABOVE]), score.item()


class _Network:
    """A LiteRT network: an image (side, side, 3) float32 -> its outputs of given widths.

    Outputs are found by their last side: files of different origin have them in another order, and more of them.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], widths: tuple[int, ...]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        if not file.is_file():
            raise ValueError(f"{file}: no such file; `followyourpose download light` brings it")
        try:
            self.interpreter = Interpreter(str(file))
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{file}: cannot be read as a LiteRT network ({str(error).splitlines()[0]})") from error
        self.input, outputs = self.interpreter.get_input_details()[0], self.interpreter.get_output_details()
        got = tuple(int(side) for side in self.input["shape"])
        places = {int(each["shape"][-1]): each["index"] for each in outputs if len(each["shape"]) < len(shape)}
        if got != shape or not places.keys() >= set(widths):
            raise ValueError(
                f"{file}: got input {got} and outputs of {sorted(places)}, expected BlazePose's {shape} and {widths}"
            )
        self.side, self.outputs = shape[1], [places[width] for width in widths]

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        self.interpreter.set_tensor(self.input["index"], image[None])
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(index) for index in self.outputs]


def _views(frame: np.ndarray, near: bool) -> list[Region]:
    """Return the squares in which people are looked for: the whole frame, and squares of its shorter side along it."""
    height, width = frame.shape[:2]
    center, long, short = np.array([width, height]) / 2, max(height, width), min(height, width)
    views = [Region(*center, long)]
    if near and long > short:
        along = np.array([width >= height, height > width])
        steps = min(_MOST_VIEWS, math.ceil(2 * (long - short) / short) + 1)  # each shares half or more with the next
        views += [Region(*(center + along * shift), short) for shift in np.linspace(-1, 1, steps) * (long - short) / 2]
    return views


def _crop(frame: np.ndarray, region: Region, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a region out of a frame (H, W, 3): its image (size, size, 3), and the affine map (2, 3) back to the frame."""
    corners, target = region.corners(), np.float32([[0, 0], [size, 0], [0, size]])
    back = cv2.getAffineTransform(target, corners.astype(np.float32))
    if (shrink := int(region.side / size)) > 1:  # a warp takes single pixels, which flicker where many become one
        small = [max(1, side // shrink) for side in frame.shape[1::-1]]
        corners = (corners + 0.5) * small / frame.shape[1::-1] - 0.5
        frame = cv2.resize(frame, small, interpolation=cv2.INTER_AREA)
    there = cv2.getAffineTransform(corners.astype(np.float32), target)
    return cv2.warpAffine(frame, there, (size, size), flags=cv2.INTER_LINEAR), back


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


def _add(people: list[Found], found: Found | None) -> None:
    """Keep a person, once: crops of two people may slip onto one, and the one who was known stays."""
    if found is None:
        return
    pose, region, _ = found
    if not any(known.same(region) or box_overlap(pose[:, :2], other[:, :2]) > 2 * _SAME for other, known, _ in people):
        people.append(found)


def _around_circle(center: np.ndarray, rim: np.ndarray) -> Region:
    """Return the square around a circle, turned so that the rim's point is above the center."""
    x, y = rim - center
    return Region(float(center[0]), float(center[1]), float(2 * _MARGIN * np.hypot(x, y)), float(np.arctan2(x, -y)))


def _overlap(box: np.ndarray, pose: np.ndarray, frame: np.ndarray) -> float:
    """Return the overlap of a box with the seen joints of a pose (17, 3), moved into the frame (H, W, 3)."""
    seen = pose[pose[:, 2] >= SEEN]
    inside = (seen if len(seen) > 2 else pose)[:, :2].clip(0, frame.shape[1::-1])
    return box_overlap(np.reshape(box[:4], (2, 2)), inside)
