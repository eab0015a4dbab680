"""Source -> sample -> batch: which frames of a clip are taken, and how clips become tensors.

Shapes: b clips, f frames, p people, H W pixels, h w latent size, c latent channels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

Render = Callable[[Sequence[np.ndarray], int, int], np.ndarray]  # people (17, 3), H, W -> (H, W, 3) uint8


class Source(Protocol):
    """What a data set is to the loop: labelled clips, of which any frames can be read."""

    def __len__(self) -> int: ...
    def num_frames(self, index: int) -> int: ...
    def label(self, index: int) -> tuple[str, np.ndarray | None]: ...
    def read(self, index: int, frames: Sequence[int]) -> np.ndarray | Tensor: ...


@dataclass
class Batch:
    """What a training step sees.

    Attributes:
        captions: b strings.
        pixels: (b, 3, f, H, W) in [-1, 1]; None when `moments` is given.
        moments: (b, 2c, f, h, w), mean and log variance of the VAE's posterior, computed before; or None.
        skeleton: (b, 3, f, H, W) in [0, 1]; None means unposed.
        people: (b, p, 17, 3) keypoints of the first frame in pixels, confidence 0 where there is no person; or None.
    """

    captions: list[str]
    pixels: Tensor | None = None
    moments: Tensor | None = None
    skeleton: Tensor | None = None
    people: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Batch(**moved)


def to_pixels(frames: np.ndarray) -> Tensor:
    """Frames (f, H, W, 3) uint8 -> (3, f, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def to_skeleton(frames: np.ndarray) -> Tensor:
    """Frames (f, H, W, 3) uint8 -> (3, f, H, W) in [0, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255


class Clips(Dataset):
    """Takes `num_frames` frames of a source's clip, with a random start and stride.

    Indexed by (index, draw): the same pair gives the same sample, whichever worker reads it.

    Args:
        stride: lowest and highest distance of two frames, in frames; lowered where a clip is too short for it.
        size: (H, W) that the frames must have.
        render: draws keypoints as a skeleton; None leaves the clip unposed.

    Raises:
        ValueError: on access, a clip with fewer than `num_frames` frames or another size; it is named by its caption.
    """

    def __init__(
        self, source: Source, num_frames: int, stride: Sequence[int], size: tuple[int, int], render: Render | None
    ) -> None:
        self.source, self.num_frames, self.stride, self.size, self.render = source, num_frames, stride, size, render

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        index, draw = key
        caption, people = self.source.label(index)
        frames = self._choose(index, caption, np.random.default_rng((index, draw)))
        content = self.source.read(index, frames)
        sample = {"caption": caption, "people": people}
        if isinstance(content, Tensor):
            sample["moments"] = content
        else:
            if content.shape[1:3] != self.size:
                raise ValueError(f"clip {index} ({caption!r}) is {content.shape[1:3]}, expected {self.size} pixels")
            sample["pixels"] = to_pixels(content)
        if self.render is not None:
            if people is None:
                raise ValueError(f"clip {index} ({caption!r}) has no keypoints, and data.skeleton asks for a skeleton")
            sample["skeleton"] = to_skeleton(self.render(list(people), *self.size)[None])
        return sample

    def _choose(self, index: int, caption: str, rng: np.random.Generator) -> list[int]:
        total = self.source.num_frames(index)
        if total < self.num_frames:
            raise ValueError(f"clip {index} ({caption!r}) has {total} frames, expected at least {self.num_frames}")
        widest = (total - 1) // (self.num_frames - 1) if self.num_frames > 1 else 1
        stride = int(rng.integers(min(self.stride[0], widest), min(self.stride[1], widest) + 1))
        start = int(rng.integers(total - stride * (self.num_frames - 1)))
        return [start + stride * k for k in range(self.num_frames)]


def collate(samples: Sequence[dict]) -> Batch:
    """Samples -> a batch; people are padded to the largest number in it with confidence 0."""
    stacked = {
        name: torch.stack([sample[name] for sample in samples])
        for name in ("pixels", "moments", "skeleton")
        if name in samples[0]
    }
    people = None
    if samples[0]["people"] is not None:
        most = max(1, *(len(sample["people"]) for sample in samples))
        people = torch.zeros(len(samples), most, 17, 3)
        for row, sample in zip(people, samples, strict=True):
            row[: len(sample["people"])] = torch.from_numpy(sample["people"])
    return Batch([sample["caption"] for sample in samples], people=people, **stacked)


class EndlessBatches(Sampler):
    """Batches of (index, draw) without end: every epoch a new order, and every process its own part of each batch.

    The ranks' parts of an epoch are disjoint, and together all of it. Where the order begins is a number, so that a
    resumed run goes on exactly where it stopped.

    Args:
        length: of the data set; batch: samples per process and batch; start: the first batch's number.
    """

    def __init__(self, length: int, batch: int, seed: int, start: int = 0, rank: int = 0, ranks: int = 1) -> None:
        self.length, self.batch, self.seed = length, batch, seed
        self.start, self.rank, self.ranks = start, rank, ranks

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, np.ndarray] = {}
        number = self.start
        while True:
            first = (number * self.ranks + self.rank) * self.batch
            keys = []
            for position in range(first, first + self.batch):
                epoch, place = divmod(position, self.length)
                if epoch not in orders:
                    orders = {e: o for e, o in orders.items() if e == epoch - 1}
                    orders[epoch] = np.random.default_rng((self.seed, epoch)).permutation(self.length)
                keys.append((int(orders[epoch][place]), epoch))
            yield keys
            number += 1
