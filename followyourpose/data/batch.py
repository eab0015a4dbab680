"""Source -> sample -> batch: the choice of a clip's frames, their placement, and the tensors of a batch.

Shapes: b clips, f frames, p people, H W pixels, h w latent size, c latent channels, l tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from followyourpose.data.labels import only_inside
from followyourpose.data.transforms import fit

_TRIES = 20  # samples that are tried in the place of one; with every second one bad, one in a million finds none

Render = Callable[[Sequence[np.ndarray], int, int], np.ndarray]  # people (17, 3), H, W -> (H, W, 3) uint8
Mirror = Callable[[np.ndarray, int], np.ndarray]  # keypoints (p, 17, 3), W -> those of the mirrored image


class Source(Protocol):
    """Labelled clips, of which any frames can be read.

    A sample that cannot be read raises ValueError or OSError, from any of the methods but `name`.
    """

    def __len__(self) -> int: ...

    def num_frames(self, index: int) -> int: ...

    def name(self, index: int) -> str:
        """Return the name of the sample in messages: its file, or its shard and key."""

    def label(self, index: int, frames: Sequence[int]) -> tuple[str, np.ndarray | None]:
        """Return the caption of these frames, and keypoints (p, 17, 3) in pixels of what `read` returns, or None."""

    def read(self, index: int, frames: Sequence[int]) -> np.ndarray | dict[str, Tensor]:
        """Return frames (f, H, W, 3) uint8 RGB of any size; or, already encoded, a sample's moments and text."""


@dataclass
class Batch:
    """Input of a training step.

    Attributes:
        captions: b strings.
        pixels: (b, 3, f, H, W) in [-1, 1]; None when `moments` is given.
        moments: (b, 2c, f, h, w), mean and log variance of the VAE's posterior, computed before; or None.
        text: (b, l, d), the text encoder's last hidden states of the captions, computed before; or None.
        skeleton: (b, 3, f, H, W) in [0, 1]; None means unposed.
        people: (b, p, 17, 3) keypoints of the first frame in pixels, confidence 0 where there is no person or the joint
            is outside of the frame; or None.
        names: b strings, the names of the samples in messages.
        bad: (name, reason) of each sample that could not be read while this batch was made; others are in their place.
    """

    captions: list[str]
    pixels: Tensor | None = None
    moments: Tensor | None = None
    text: Tensor | None = None
    skeleton: Tensor | None = None
    people: Tensor | None = None
    names: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    def to(self, device: torch.device) -> "Batch":
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Batch(**moved)


def _tensor(frames: np.ndarray) -> Tensor:
    """Return an array (...) as a tensor; pictures that Pillow has decoded may not be written, and are copied."""
    return torch.from_numpy(np.require(frames, requirements="W"))


def to_pixels(frames: np.ndarray) -> Tensor:
    """Return frames (f, H, W, 3) uint8 as pixels (3, f, H, W) in [-1, 1]."""
    return _tensor(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def to_skeleton(frames: np.ndarray) -> Tensor:
    """Return frames (f, H, W, 3) uint8 as a skeleton (3, f, H, W) in [0, 1]."""
    return _tensor(frames).permute(3, 0, 1, 2).float() / 255


@dataclass(eq=False)
class Clips(Dataset):
    """Samples of `num_frames` frames of a source's clips, with a random start and stride, in one size.

    Indexed by (index, draw): the same pair gives the same sample in every worker. A sample that cannot be read is
    replaced by another, which follows from that pair too.

    Frames of another size are resized to cover `size` and cropped, all frames of a clip alike; the keypoints move with
    them, and the skeleton is drawn afterwards. Moments are taken as they are: they cannot be cropped or mirrored.

    Raises:
        ValueError: on access, no sample could be read in many tries; the first is named with the reason.
    """

    source: Source
    num_frames: int
    stride: Sequence[int]  # lowest and highest distance of two frames, in frames; lowered where a clip is too short
    size: tuple[int, int]  # (H, W) of the samples
    render: Render | None  # draws keypoints as a skeleton; None leaves the clip unposed
    mirror: Mirror | None = None  # keypoints -> those of the mirrored image, where clips with keypoints are flipped
    crop: str = "center"  # the crop nearest to the middle that keeps the people, or "random", any that keeps them
    flip: float = 0.0  # probability that a clip is mirrored
    seed: int = 0

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        bad: list[tuple[str, str]] = []
        for index in self._candidates(*key):
            try:
                return self._sample(index, key[1]) | {"bad": bad}
            except (ValueError, OSError) as error:
                name = self.source.name(index)
                bad.append((name, " ".join(str(error).split()).removeprefix(f"{name}: ")))
        raise ValueError(f"none of {len(bad)} samples in a row can be read, such as {': '.join(bad[0])}")

    def _candidates(self, index: int, draw: int) -> Iterator[int]:
        yield index
        others = np.random.default_rng((self.seed, index, draw, 1)).permutation(len(self))
        yield from others[others != index][: _TRIES - 1].tolist()

    def _sample(self, index: int, draw: int) -> dict:
        rng = np.random.default_rng((self.seed, index, draw))
        frames = self._choose(index, rng)
        caption, people = self.source.label(index, frames)
        content = self.source.read(index, frames)
        sample = {"name": self.source.name(index), "caption": caption}
        if isinstance(content, dict):
            sample |= content
        else:
            content, people = place(content, people, self.size, rng if self.crop == "random" else None)
            if self.flip and rng.random() < self.flip:
                content = np.ascontiguousarray(content[:, :, ::-1])
                people = None if people is None else self.mirror(people, self.size[1])
            sample["pixels"] = to_pixels(content)
        if self.render is not None:
            if people is None:
                raise ValueError("has no keypoints, and data.skeleton needs them")
            sample["skeleton"] = to_skeleton(self.render(list(people), *self.size)[None])
        return sample | {"people": None if people is None else only_inside(people, self.size)}

    def _choose(self, index: int, rng: np.random.Generator) -> list[int]:
        total = self.source.num_frames(index)
        if total < self.num_frames:
            raise ValueError(f"has {total} frames, expected at least {self.num_frames}")
        widest = (total - 1) // (self.num_frames - 1) if self.num_frames > 1 else 1
        stride = int(rng.integers(min(self.stride[0], widest), min(self.stride[1], widest) + 1))
        start = int(rng.integers(total - stride * (self.num_frames - 1)))
        return [start + stride * k for k in range(self.num_frames)]


def place(
    frames: np.ndarray, people: np.ndarray | None, size: tuple[int, int], rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Bring frames (f, H, W, 3) and keypoints (p, 17, 3) to a size (H, W) by one geometry, which keeps the people.

    Args:
        rng: draws the crop; None takes the one nearest to the middle.
    """
    if frames.shape[1:3] == size:
        return frames, people
    geometry = fit(frames.shape[1:3], size, people, rng)
    return geometry.of_frames(frames), None if people is None else geometry.of_keypoints(people)


def collate(samples: Sequence[dict]) -> Batch:
    """Return samples as a batch; people are padded to the largest number in it with confidence 0."""
    stacked = {
        name: torch.stack([sample[name] for sample in samples])
        for name in ("pixels", "moments", "text", "skeleton")
        if name in samples[0]
    }
    people = None
    if samples[0]["people"] is not None:
        most = max(1, *(len(sample["people"]) for sample in samples))
        people = torch.zeros(len(samples), most, 17, 3)
        for row, sample in zip(people, samples, strict=True):
            row[: len(sample["people"])] = torch.from_numpy(sample["people"])
    names, captions = ([sample[key] for sample in samples] for key in ("name", "caption"))
    bad = [found for sample in samples for found in sample["bad"]]
    return Batch(captions, people=people, names=names, bad=bad, **stacked)


class EndlessBatches(Sampler):
    """Endless batches of (index, draw): every epoch a new order, and every process its own part of each batch.

    The ranks' parts of an epoch are disjoint, and together all of it. The start is counted in samples of all processes
    together, so that a resumed run goes on exactly where it stopped, also with another number of processes or another
    batch size.

    Args:
        length: of the data set; batch: samples per process and batch; start: samples that were seen before.
    """

    def __init__(self, length: int, batch: int, seed: int, start: int = 0, rank: int = 0, ranks: int = 1) -> None:
        self.length, self.batch, self.seed = length, batch, seed
        self.start, self.rank, self.ranks = start, rank, ranks

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, np.ndarray] = {}
        first = self.start + self.rank * self.batch
        while True:
            keys = []
            for position in range(first, first + self.batch):
                epoch, place = divmod(position, self.length)
                if epoch not in orders:
                    orders = {e: o for e, o in orders.items() if e == epoch - 1}
                    orders[epoch] = np.random.default_rng((self.seed, epoch)).permutation(self.length)
                keys.append((int(orders[epoch][place]), epoch))
            yield keys
            first += self.ranks * self.batch
