"""Everybody Dance Now, small: a network for each person, from skeletons to frames (Chan et al. 2019, arXiv 1808.07371).

As in the paper, frames come in pairs: each is made from its skeleton, the skeleton before and the frame made before,
and a discriminator sees both (section 4.1, temporal smoothing). Left out: the face network, the perceptual loss, for
which an L1 distance stands, and the normalisation of poses, since puppets share one build.

    b pairs   H W pixels
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from followyourpose.common.files import slug
from followyourpose.common.pictures import to_uint8
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.world import HELD_OUT_PAIRS, caption
from scripts.baseline_people import (
    LENGTH,
    Hourglass,
    Person,
    convolution,
    fit,
    load_fitted,
    reference_footage,
    step,
    to_tensor,
)

STEPS, BATCH = 300, 4
ADVERSARIAL = 0.02  # weight of the adversarial loss; L1 has 1
PLACE = 4  # channels of the learned constant, from which the place is drawn


class Generator(nn.Module):
    """Frame from two skeletons and the frame before, each (b, 3, H, W) in [0, 1], as the result is."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.place = nn.Parameter(0.1 * torch.randn(PLACE, size, size))
        self.network = Hourglass(9 + PLACE, 3)

    def forward(self, skeleton: Tensor, skeleton_before: Tensor, frame_before: Tensor) -> Tensor:
        place = self.place.expand(len(skeleton), -1, -1, -1)
        return self.network(torch.cat([skeleton, skeleton_before, frame_before, place], 1)).sigmoid()


class Discriminator(nn.Module):
    """Realness of patches of two frames in their skeletons, each (b, 6, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(convolution(48, 32), convolution(32, 64, 2), nn.Conv2d(64, 1, 3, padding=1))

    def forward(self, skeletons: Tensor, frames: Tensor) -> Tensor:
        return self.network(F.pixel_unshuffle(torch.cat([skeletons, frames], 1), 2))


def networks(size: int) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"generator": Generator(size), "discriminator": Discriminator()})


def weights_of(folder: Path, person: Person) -> Path:
    return folder / "everybody-dance-now" / f"{slug(caption(*person))}.safetensors"


def fit_people(folder: Path, people: Sequence[Person] = HELD_OUT_PAIRS, steps: int = STEPS, size: int = 128) -> None:
    """Train a network for each person that has none in the folder."""
    for person in people:
        if not weights_of(folder, person).exists():
            fit_person(weights_of(folder, person), person, steps, size)


def fit_person(file: Path, person: Person, steps: int, size: int) -> None:
    footage = reference_footage(person, size)
    frames = to_tensor(footage.frames).unflatten(0, (-1, LENGTH))
    skeletons = to_tensor(_skeletons(footage.keypoints, size)).unflatten(0, (-1, LENGTH))
    parts = networks(size)
    generator, discriminator = parts["generator"], parts["discriminator"]

    def update(optimisers: dict[str, torch.optim.Optimizer], rng: torch.Generator) -> None:
        clip = torch.randint(len(frames), (BATCH,), generator=rng)
        at = torch.randint(LENGTH - 1, (BATCH,), generator=rng)
        real = torch.cat([frames[clip, at], frames[clip, at + 1]], 1)
        poses = torch.cat([skeletons[clip, at], skeletons[clip, at + 1]], 1)
        made = torch.cat(_rollout(generator, [poses[:, :3], poses[:, 3:]]), 1)
        # least squares (Mao et al. 2017): 1 is real, 0 is made
        judged = discriminator(poses, real), discriminator(poses, made.detach())
        step(optimisers["discriminator"], (judged[0] - 1).square().mean() + judged[1].square().mean())
        fooled = (discriminator(poses, made) - 1).square().mean()
        step(optimisers["generator"], F.l1_loss(made, real) + ADVERSARIAL * fooled)

    fit(file, parts, update, steps)


def _rollout(generator: Generator, skeletons: Sequence[Tensor]) -> list[Tensor]:
    """Make frames one after the other; before the first there is black."""
    made = [torch.zeros_like(skeletons[0])]
    for before, now in zip([made[0], *skeletons], skeletons, strict=False):
        made.append(generator(now, before, made[-1]))
    return made[1:]


def _skeletons(keypoints: np.ndarray, size: int) -> np.ndarray:
    return np.stack([render_skeleton([person], size, size) for person in keypoints])


@torch.no_grad()
def dance(folder: Path, person: Person, skeleton: np.ndarray) -> np.ndarray:
    """Frames (f, H, W, 3) uint8 of a person whose network lies in the folder, in rendered poses of that shape."""
    generator = load_fitted(weights_of(folder, person), networks(skeleton.shape[1]))["generator"]
    return to_uint8(torch.cat(_rollout(generator, to_tensor(skeleton).split(1))).movedim(1, -1).numpy())
