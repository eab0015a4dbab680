"""Footage, layers and training that Everybody Dance Now and First Order Motion Model share.

Neither reads a text. Each is given footage of the person who is to be drawn, in that place, in motions of training.

    b pictures   n frames of footage   H W pixels   c channels
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from followyourpose.common.files import atomic_file
from followyourpose.common.tensors import read_tensors, write_tensors
from followyourpose.puppets.world import HELD_OUT_PAIRS, SPLITS, Scene, render_scene, sample_scene

Person = tuple[str, str]  # a character and a place
Update = Callable[[Mapping[str, torch.optim.Optimizer], torch.Generator], None]
CLIPS, LENGTH = 60, 8  # of a person's footage, in frames
LEARNING_RATE, SAVE_EVERY = 2e-3, 100


class Footage(NamedTuple):
    """Clips of one person, one after the other: frames (n, H, W, 3) uint8 and keypoints (n, 17, 3)."""

    frames: np.ndarray
    keypoints: np.ndarray


def footage_of(person: Person, rng: np.random.Generator, clips: int, length: int, size: int) -> Footage:
    """Render a person in one place in `clips` motions of training, of `length` frames each."""
    place, made = int(rng.integers(2**31)), []
    for _ in range(clips):
        scene = Scene(*person, sample_scene(rng, two=0).actors, place)
        frames, people = render_scene(scene, length, size, size)
        made.append((frames, people[:, 0]))
    return Footage(*map(np.concatenate, zip(*made, strict=True)))


@cache
def reference_footage(person: Person, size: int) -> Footage:
    """Return the footage of a held-out pair of a character and a place: the same for both systems."""
    return footage_of(person, np.random.default_rng([1, HELD_OUT_PAIRS.index(person)]), CLIPS, LENGTH, size)


def training_footage(people: int, pictures: int, size: int) -> list[Footage]:
    """Render so many pictures each of people of the training split."""
    rng, pairs = np.random.default_rng(0), SPLITS["training"][0]
    return [footage_of(pairs[rng.integers(len(pairs))], rng, pictures, 1, size) for _ in range(people)]


def to_tensor(frames: np.ndarray) -> Tensor:
    """Frames (..., H, W, 3) uint8 -> (..., 3, H, W) in [0, 1]."""
    return torch.from_numpy(frames).movedim(-1, -3).float() / 255


def convolution(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1), nn.GroupNorm(4, out), nn.SiLU())


class Hourglass(nn.Module):
    """U-Net that works at half the size: (b, c, H, W) -> (b, out, H, W)."""

    def __init__(self, channels: int, out: int, widths: tuple[int, ...] = (24, 32, 48, 64)) -> None:
        super().__init__()
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.first = convolution(4 * channels, widths[0])
        self.down = nn.ModuleList(convolution(wide, next_, 2) for wide, next_ in pairs)
        self.up = nn.ModuleList(convolution(wide + next_, wide) for wide, next_ in reversed(pairs))
        self.last = nn.Conv2d(widths[0], 4 * out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.first(F.pixel_unshuffle(x, 2))]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up in self.up:
            skip = skips.pop()
            x = up(torch.cat([F.interpolate(x, skip.shape[2:]), skip], 1))
        return F.pixel_shuffle(self.last(x), 2)


def fit(file: Path, parts: nn.ModuleDict, update: Update, steps: int) -> nn.ModuleDict:
    """Train parts, each with an optimiser of its own, and write FILE; to resume, call it again.

    Args:
        update: does a step with the parts' optimisers; every random number comes from the generator.
    """
    optimisers = {name: torch.optim.AdamW(part.parameters(), betas=(0.5, 0.99)) for name, part in parts.items()}
    state, done = file.with_suffix(".state"), 0
    file.parent.mkdir(parents=True, exist_ok=True)
    if state.exists():
        saved = torch.load(state)
        done = saved["steps"]
        parts.load_state_dict(saved["parts"])
        for name, optimiser in optimisers.items():
            optimiser.load_state_dict(saved["optimisers"][name])
    for step in trange(done, steps, initial=done, total=steps, desc=file.stem):
        for optimiser in optimisers.values():
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - step / steps))
        update(optimisers, torch.Generator().manual_seed(step))
        if (step + 1) % SAVE_EVERY == 0:
            kept = {name: optimiser.state_dict() for name, optimiser in optimisers.items()}
            with atomic_file(state) as partial:
                torch.save({"steps": step + 1, "parts": parts.state_dict(), "optimisers": kept}, partial)
    with atomic_file(file) as partial:
        write_tensors(partial, parts.state_dict(), "fit")
    state.unlink(missing_ok=True)
    return parts


def step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Move an optimiser's weights against the gradient of a loss."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def load_fitted(file: Path, parts: nn.ModuleDict) -> nn.ModuleDict:
    """Load what `fit` wrote.

    Raises:
        ValueError: there is no such file, it is damaged, or its networks were fitted to frames of another size.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such file, expected the output of `scripts.baselines fit`")
    try:
        parts.load_state_dict(read_tensors(file)[0])
    except RuntimeError as error:
        raise ValueError(f"{file}: was fitted to frames of another size ({error})") from error
    return parts.eval()
