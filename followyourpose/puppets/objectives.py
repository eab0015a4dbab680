"""Losses that only the puppet world needs: of its autoencoder, its CLIP and its keypoint detector.

Shapes: b images, p people, H W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from followyourpose.data.batch import Batch
from followyourpose.training.objectives import Objective, person_boxes


class Autoencode(Objective):
    """Loss of an AutoencoderKL: absolute and squared error, sharp edges, and a slight pull to a standard normal.

    Pixels in a person's box count fourfold: backgrounds are large and easy, and would settle all colours.
    """

    needs = ("vae",)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        pixels = batch.pixels[:, :, 0]
        posterior = self.parts["vae"].encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=pixels.device)
        error = self.parts["vae"].decode(posterior.mean + posterior.std * noise).sample - pixels
        weight = 1 + 3 * person_boxes(batch.people, *pixels.shape[-2:])
        weight = weight / weight.mean()
        edges = sum((weight.narrow(d, 0, error.shape[d] - 1) * error.diff(dim=d).abs()).mean() for d in (-1, -2))
        return (weight * (error.abs() + 0.3 * error.square())).mean() + edges + self.config.kl * posterior.kl().mean()


class Contrast(Objective):
    """Loss of a CLIP: symmetric cross-entropy of images and captions of a batch (Radford et al. 2021).

    Where a caption occurs twice in a batch, both images are right.
    """

    needs = ("clip",)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        pixels = batch.pixels[:, :, 0]
        output = self.parts["clip"](input_ids=self.tokens(batch.captions, pixels.device), pixel_values=pixels)
        same = torch.tensor([[float(a == b) for b in batch.captions] for a in batch.captions], device=pixels.device)
        target = same / same.sum(1, keepdim=True)
        logits = output.logits_per_image
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Locate(Objective):
    """Loss of the puppets' keypoint detector, on images that are rotated and scaled at random.

    Held-out motions put limbs where no image of the data has them; rotated images do.
    """

    needs = ("detector",)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        angle, scale = 2 * torch.rand(2, len(batch.pixels), generator=generator, device=batch.pixels.device) - 1
        images, people = rotate_and_scale(batch.pixels[:, :, 0], batch.people, 30 * angle, 1 + 0.25 * scale)
        return self.parts["detector"].loss(images, people)


def rotate_and_scale(images: Tensor, people: Tensor, angle: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate images (b, 3, H, W) and keypoints (b, p, 17, 3) about the centre, by (b,) degrees, and scale them.

    Pixels from outside an image repeat its border; keypoints that leave it get confidence 0.
    """
    height, width = images.shape[-2:]
    cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    rotation = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))  # of x, y, where y points down
    center = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=images.device)
    xy = torch.einsum("bij,bpkj->bpki", scale[:, None, None] * rotation, people[..., :2] - center) + center
    inside = ((xy >= 0) & (xy <= 2 * center)).all(-1)
    # The grid is the inverse map, from a pixel to its source, in units of half the image's size.
    half = torch.tensor([width / 2, height / 2], device=images.device)
    back = rotation.mT / scale[:, None, None] * half / half[:, None]
    grid = F.affine_grid(F.pad(back, (0, 1)), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return images, torch.cat([xy, (people[..., 2] * inside)[..., None]], -1)
