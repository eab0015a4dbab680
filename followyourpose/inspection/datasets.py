"""`followyourpose inspect` of a data set: counts, sizes, visible joints, and a picture of random samples.

Shapes: p people, H W pixels. Keypoints (p, 17, 3): x, y in pixels, confidence.
"""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from followyourpose.common.checks import counted
from followyourpose.common.pictures import caption, grid, write_picture
from followyourpose.data.batch import place
from followyourpose.data.labels import SEEN
from followyourpose.data.prepared import add_up, stats_files, summary
from followyourpose.data.sources import DataSet, layout_of, open_data
from followyourpose.data.video_clips import VideoClips
from followyourpose.pose.render import render_skeleton
from followyourpose.pose.skeleton import JOINTS

MEASURED = 500  # samples that are read and measured at most; counts are of all
_TILE, _COLUMNS, _LINES = 192, 4, 3  # pixels, frames in a row, lines of a caption


def is_dataset(path: str | Path) -> bool:
    """Return whether `path` is a shard, or a folder in a layout that training reads."""
    return layout_of(path) is not None


def describe_data(path: str | Path, sheet: str | Path, samples: int = 16, seed: int = 0) -> str:
    """Write a picture of random samples with skeletons and captions, and return the numbers of a data set as text.

    Args:
        sheet: the .png to write.
        samples: number on the picture.
        seed: of the choice of samples.

    Raises:
        ValueError: the readers of training find no sample, or the picture cannot be written.
    """
    path, sheet = Path(path), Path(sheet)
    if sheet.suffix != ".png" or samples < 1:
        got = counted(samples, "sample")
        raise ValueError(f"{sheet}: got this name and {got}, expected a name that ends in .png and at least 1 sample")
    source = open_data(path)
    order = np.random.default_rng(seed).permutation(len(source))[: max(MEASURED, samples)].tolist()
    found, tiles = _Numbers(), []
    for index in tqdm(order, "samples", leave=False, disable=None):
        try:
            frames, text, people = _read(source, index)
        except (ValueError, OSError) as error:
            found.unreadable.append(f"{source.name(index)} ({' '.join(str(error).split())})")
            continue
        found.add(source.num_frames(index), frames, text, people)
        if len(tiles) < samples:
            tiles.append(_tile(frames, text, people))
    lines = [f"{path}: {counted(len(source), 'clip' if isinstance(source, VideoClips) else 'image')}"]
    lines += [f"left out when read: {source.dropped}"]
    if files := stats_files(path):
        lines += [f"when it was prepared: {summary(add_up(files))}"]
    lines += found.lines(len(order))
    if tiles:
        width = max(tile.shape[1] for tile in tiles)
        padded = [np.pad(t, ((0, 0), (0, width - t.shape[1]), (0, 0)), constant_values=255) for t in tiles]
        write_picture(sheet, grid(padded, max(1, _COLUMNS * _TILE // width)))
        lines += [f"picture of {counted(len(tiles), 'sample')}: {sheet}"]
    return "\n".join(lines)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read(source: DataSet, index: int) -> tuple[list[np.ndarray], str, np.ndarray | None]:
    """Return the image, or a clip's first, middle and last frame, (H, W, 3) each; the caption; the people, or None."""
    last = source.num_frames(index) - 1
    chosen = sorted({0, last // 2, last})
    text, people = source.label(index, [last // 2])
    return list(source.read(index, chosen)), text, people


# ---- numbers ---------------------------------------------------------------------------------------------------------


@dataclass
class _Numbers:
    """Numbers of the samples that were read."""

    lengths: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    captions: set[str] = field(default_factory=set)
    people: Counter[int] = field(default_factory=Counter)  # number of people -> images
    seen: np.ndarray = field(default_factory=lambda: np.zeros(len(JOINTS), int))  # per joint the people who show it
    unreadable: list[str] = field(default_factory=list)

    def add(self, length: int, frames: Sequence[np.ndarray], text: str, people: np.ndarray | None) -> None:
        self.lengths.append(length)
        self.sizes.append(frames[0].shape[:2])
        self.words.append(len(text.split()))
        self.captions.add(text)
        if people is not None:
            seen = people[..., 2] >= SEEN
            self.people[int(seen.any(-1).sum())] += 1
            self.seen += seen.sum(0)

    def lines(self, measured: int) -> list[str]:
        """Return one line per kind of number."""
        lines = [f"measured on {counted(measured, 'sample')}, {len(self.unreadable)} of them unreadable"]
        lines += [f"  {name}" for name in self.unreadable[:3]]
        if not self.lengths:
            return lines
        heights, widths = zip(*self.sizes, strict=True)
        lines += [f"width {_range(widths)}, height {_range(heights)} pixels"]
        if max(self.lengths) > 1:
            lines += [f"{_range(self.lengths)} frames"]
        lines += [f"captions of {_range(self.words)} words, {len(self.captions):,} different ones"]
        if self.people:
            counts = ", ".join(f"{count} in {counted(n, 'image')}" for count, n in sorted(self.people.items()))
            everyone = sum(count * images for count, images in self.people.items())
            joints = zip(JOINTS, self.seen / max(1, everyone), strict=True)
            lines += [f"people: {counts}"]
            lines += textwrap.wrap("joints seen: " + ", ".join(f"{name} {share:.0%}" for name, share in joints), 100)
        return lines


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} to {max(numbers)} (median {np.median(numbers):.0f})"


# ---- the picture -----------------------------------------------------------------------------------------------------


def _tile(frames: Sequence[np.ndarray], text: str, people: np.ndarray | None) -> np.ndarray:
    """Draw a sample: its frames side by side, each in a square, the skeletons over them, the caption below."""
    row = np.full((_TILE, len(frames) * _TILE, 3), 255, np.uint8)
    for column, frame in enumerate(frames):
        picture = _fitted(frame, people)
        left = column * _TILE
        row[-picture.shape[0] :, left : left + picture.shape[1]] = picture
    return np.concatenate([row, caption(text, row.shape[1], _LINES)])


def _fitted(frame: np.ndarray, people: np.ndarray | None) -> np.ndarray:
    """Draw a frame (H, W, 3) as large as fits into a tile, with the skeletons of people (p, 17, 3) over it."""
    scale = (_TILE - 4) / max(frame.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in frame.shape[:2])
    frames, people = place(frame[None], people, size)
    skeleton = render_skeleton([] if people is None else list(people), *size)
    return np.where(skeleton.any(-1, keepdims=True), skeleton, frames[0])
