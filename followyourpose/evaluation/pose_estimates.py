"""People that a pose estimator finds in images and in a video, with its time and memory, or that a file holds.

An estimator runs in a process of its own, so that its memory is its own.
Letters: n frames, H W pixels. People are (17, 3): x, y in pixels, confidence.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from tqdm import tqdm

from followyourpose.common.checks import counted
from followyourpose.data.images import WHITE
from followyourpose.data.video_io import probe, read_frames, stream_frames
from followyourpose.pose.estimate import Networks, PoseEstimator, check_estimator, open_estimator
from followyourpose.pose.formats import read_any
from followyourpose.pose.formats.coco import people_by_image
from followyourpose.pose.keypoints_file import load_keypoints

DEFINITIONS = {
    "ms": "milliseconds per image or frame, after a first one that does not count",
    "memory": "MB by which the estimator's process grew: its networks, a few frames and all",
}
People = list[np.ndarray]  # (17, 3) each, of an image or a frame


class NotMeasured(ValueError):
    """An estimator that is not installed, or whose weights cannot be had."""


class Found(NamedTuple):
    """People per image and per frame of the video, None: not looked at; and what finding them took, see `DEFINITIONS`,
    nothing for those of a file."""

    images: list[People] | None
    frames: list[People] | None
    image_costs: dict[str, float] = {}
    frame_costs: dict[str, float] = {}


def find_people(entry: str, device: str | None, images: dict[int, Path], video: Path | None) -> Found:
    """Return the people that a backend, BACKEND:WEIGHTS or BACKEND:WEIGHTS:BOXES finds in images and in a video.

    Raises:
        NotMeasured: see there.
        ValueError: its networks or an image cannot be read.
    """
    backend, weights, boxes = (*entry.split(":", 2), None, None)[:3]
    try:
        networks = check_estimator(backend, weights, None, boxes)
    except ValueError as error:
        raise NotMeasured(str(error)) from error
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_run, entry, backend, networks, device, list(images.values()), video).result()


def _run(
    entry: str, backend: str, networks: Networks, device: str | None, images: Sequence[Path], video: Path | None
) -> Found:
    with _memory() as grown:
        find = open_estimator(backend, *networks, device=device)
        first = read_frames(images[0], ground=WHITE) if images else read_frames(video, [0], ground=WHITE)
        find(first)  # what a network does once is no part of its speed
        results: list[tuple[list[People] | None, dict[str, float]]] = []
        for chunks, total in (
            ((read_frames(image, ground=WHITE) for image in images), len(images)),
            (stream_frames(video, ground=WHITE) if video else [], probe(video).num_frames if video else 0),
        ):
            people, milliseconds = _timed(find, chunks, total, entry) if total else (None, 0.0)
            results.append((people, {"ms": milliseconds, "memory": grown[0] / 1e6}))
    (of_images, image_costs), (of_frames, frame_costs) = results
    return Found(of_images, of_frames, image_costs, frame_costs)


def _timed(find: PoseEstimator, chunks: Iterable[np.ndarray], total: int, name: str) -> tuple[list[People], float]:
    """Return the people of each frame of chunks (n, H, W, 3), and the milliseconds that finding them took per frame."""
    found, seconds = [], 0.0
    with tqdm(total=total, desc=name, unit="frame") as bar:
        for chunk in chunks:
            start = time.perf_counter()
            found += find(chunk)
            seconds += time.perf_counter() - start
            bar.update(len(chunk))
    return found, 1000 * seconds / total


@contextmanager
def _memory(every: float = 0.01) -> Iterator[list[int]]:
    """Yield a list of the bytes by which this process has grown at most, looked at `every` seconds."""
    process, done, grown = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(every):
            grown[0] = max(grown[0], process.memory_info().rss - before)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield grown
    finally:
        done.set()


def read_people(path: Path, images: dict[int, Path], video: Path | None) -> Found:
    """Return the people of a keypoints file: COCO's results by image, or those of as many frames as there are.

    Raises:
        ValueError: it cannot be read, or is of other images or frames.
    """
    content = load_keypoints(path)
    if isinstance(content, list) and any(isinstance(row, dict) and "image_id" in row for row in content):
        by_image = people_by_image(content, str(path), set(), {}, flags=False)
        if strange := by_image.keys() - images.keys():
            raise ValueError(f"{path}: got image_id {min(map(str, strange))}, expected those of the annotations")
        return Found([[person for person, _ in by_image.get(number, [])] for number in images], None)
    reading = read_any(path)
    total, info = len(reading.layout.frames), video and probe(video)
    if info and total == info.num_frames:
        return Found(None, reading.clip((info.width, info.height)).frames)
    infos = [probe(image) for image in images.values()] if total == len(images) else []
    sizes = {(info.width, info.height) for info in infos}
    if len(sizes) == 1:
        return Found(reading.clip(sizes.pop()).frames, None)
    expected = f"COCO's results of {counted(len(images), 'image')}" if images else f"the {info.num_frames} of {video}"
    raise ValueError(f"{path}: got {counted(total, 'frame')}, expected {expected}")
