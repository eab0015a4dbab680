"""First Order Motion Model, small: a picture of a person is warped (Siarohin et al. 2019, arXiv 2003.00196).

Sparse motions, one a bone and one of the resting place, are first-order: a point and a 2 x 2 Jacobian each (eq. 4). The
dense motion is their mixture, by masks that a network learns beside an occlusion map (section 3.2); a second network
paints what is occluded. Unlike in the paper keypoints are given: a benchmark drives by skeletons, and a detector of
unsupervised keypoints would not find in a drawing what it finds in a picture. So a Jacobian is that of its bone: turned
and stretched with it, and as thick as the person is tall. An L1 distance at three sizes replaces the perceptual loss.

    b pictures   k bones   H W pixels   coordinates x, y in [-1, 1], as of `grid_sample`
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from followyourpose.common.pictures import to_uint8
from followyourpose.pose.skeleton import JOINT
from scripts.baseline_people import (
    Hourglass,
    Person,
    fit,
    load_fitted,
    reference_footage,
    step,
    to_tensor,
    training_footage,
)

STEPS, BATCH, PEOPLE, PICTURES = 1000, 4, 512, 8
WIDTH = 0.12  # of a bone's heat map
SHORTEST = 0.06  # length of a bone, below which it has no direction
SHOULDERS, HIPS = ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip")
BONES = (  # from the mean of these joints to the mean of those
    (HIPS, SHOULDERS), (SHOULDERS, ("nose",)),
    *(
        ((f"{side}_{start}",), (f"{side}_{end}",))
        for side in ("left", "right")
        for start, end in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
    ),
)  # fmt: skip


def bones_of(keypoints: np.ndarray, size: int) -> Tensor:
    """Keypoints (b, 17, 3) in pixels of a square picture -> both ends of each bone, (b, k, 2, 2)."""
    points = (2 * torch.from_numpy(np.asarray(keypoints, np.float32))[..., :2] + 1) / size - 1
    ends = [[points[:, [JOINT[name] for name in end]].mean(1) for end in bone] for bone in BONES]
    return torch.stack([torch.stack(bone, 1) for bone in ends], 1)


def sparse_motions(source: Tensor, driving: Tensor, grid: Tensor) -> Tensor:
    """Points of the source, (b, k, H, W, 2), from which a bone's motion comes to the driving grid (H, W, 2): eq. 4."""

    def frames(bones: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        start, along = bones[:, :, 0], bones[:, :, 1] - bones[:, :, 0]
        length = along.norm(dim=-1, keepdim=True)
        axis = along / length.clamp(min=1e-6)
        return start, length.clamp(min=SHORTEST), torch.stack([axis, axis.flip(-1) * axis.new_tensor([-1, 1])], -1)

    (start, length, axes), (start_d, length_d, axes_d) = frames(source), frames(driving)
    thickness = (length.sum(1, keepdim=True) / length_d.sum(1, keepdim=True)).expand_as(length)
    scale = torch.cat([length / length_d, thickness], -1)
    jacobian = axes @ torch.diag_embed(scale) @ axes_d.mT
    offset = grid - start_d[:, :, None, None]
    return start[:, :, None, None] + torch.einsum("bkij,bkhwj->bkhwi", jacobian, offset)


def heat_maps(bones: Tensor, grid: Tensor) -> Tensor:
    """Nearness of the grid (H, W, 2) to each bone, (b, k, H, W): 1 on it, a Gaussian around."""
    start, along = bones[:, :, None, None, 0], (bones[:, :, 1] - bones[:, :, 0])[:, :, None, None]
    offset = grid - start
    share = (offset * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True).clamp(min=1e-6)
    return (-(offset - share.clamp(0, 1) * along).square().sum(-1) / (2 * WIDTH**2)).exp()


class Warp(nn.Module):
    """Source pictures (b, 3, H, W) in [0, 1], their bones and the driving ones -> pictures in the driving poses."""

    def __init__(self) -> None:
        super().__init__()
        motions = len(BONES) + 1
        self.dense_motion = Hourglass(4 * motions - 1, motions + 1)
        self.generator = Hourglass(4, 3)

    def forward(self, picture: Tensor, source: Tensor, driving: Tensor) -> Tensor:
        small = F.avg_pool2d(picture, 2)  # as in the paper, motion is found at a smaller size
        grid = F.affine_grid(torch.eye(2, 3)[None], [1, 1, *small.shape[2:]], align_corners=False)[0]
        moved = torch.cat([grid.expand(len(small), 1, -1, -1, -1), sparse_motions(source, driving, grid)], 1)
        warped = _sampled(small, moved.flatten(1, 2)).unflatten(2, moved.shape[1:3])  # b 3 k+1 h w
        near = heat_maps(driving, grid) - heat_maps(source, grid)
        masks = self.dense_motion(torch.cat([near, warped.flatten(1, 2)], 1))
        flow = (masks[:, :-1].softmax(1)[..., None] * moved).sum(1).movedim(-1, 1)
        flow, seen = F.interpolate(torch.cat([flow, masks[:, -1:]], 1), scale_factor=2, mode="bilinear").split(
            [2, 1], 1
        )
        kept = seen.sigmoid() * _sampled(picture, flow.movedim(1, -1))
        return kept + (1 - seen.sigmoid()) * self.generator(torch.cat([kept, seen.sigmoid()], 1)).sigmoid()


def _sampled(picture: Tensor, flow: Tensor) -> Tensor:
    return F.grid_sample(picture, flow, padding_mode="border", align_corners=False)


def networks() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"warp": Warp()})


def weights_of(folder: Path) -> Path:
    return folder / "first-order-motion" / "weights.safetensors"


def fit_warp(folder: Path, steps: int = STEPS, size: int = 128, people: int = PEOPLE) -> None:
    """Train on pairs of pictures of one person in one place, unless the folder has the network."""
    if weights_of(folder).exists():
        return
    footage = training_footage(people, PICTURES, size)
    frames = torch.stack([to_tensor(each.frames) for each in footage])
    bones = torch.stack([bones_of(each.keypoints, size) for each in footage])
    parts = networks()

    def update(optimisers: dict[str, torch.optim.Optimizer], rng: torch.Generator) -> None:
        person = torch.randint(people, (BATCH,), generator=rng)
        source, driving = torch.randint(PICTURES, (2, BATCH), generator=rng)
        made = parts["warp"](frames[person, source], bones[person, source], bones[person, driving])
        real = frames[person, driving]
        sides = (1, 2, 4)
        step(optimisers["warp"], sum(F.l1_loss(F.avg_pool2d(made, side), F.avg_pool2d(real, side)) for side in sides))

    fit(weights_of(folder), parts, update, steps)


@torch.no_grad()
def warp(folder: Path, person: Person, keypoints: np.ndarray, size: int) -> np.ndarray:
    """Frames (f, H, W, 3) uint8 of a person in poses (f, 17, 3), from the footage's picture nearest to the first."""
    footage = reference_footage(person, size)
    network = load_fitted(weights_of(folder), networks())["warp"]
    distances = np.linalg.norm(footage.keypoints[..., :2] - keypoints[0, :, :2], axis=-1).mean(1)
    at = np.full(len(keypoints), distances.argmin())
    source, driving = bones_of(footage.keypoints[at], size), bones_of(keypoints, size)
    made = network(to_tensor(footage.frames[at]), source, driving)
    return to_uint8(made.movedim(1, -1).numpy())
