"""Losses that only the puppet world needs: of its autoencoder, its CLIP and its keypoint detector.

Shapes: b images, c latent channels, p people, H W pixels, h w latent size.
"""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from followyourpose.config import TrainConfig
from followyourpose.data.batch import Batch
from followyourpose.puppets.styles import STYLES
from followyourpose.training.objectives import Denoise, Objective, person_boxes


class Autoencode(Objective):
    """Loss of an AutoencoderKL: distance of pixels and of edges, and a slight pull to a standard normal."""

    needs = ("vae",)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        pixels = batch.pixels[:, :, 0]
        posterior = self.parts["vae"].encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=pixels.device)
        decoded = self.parts["vae"].decode(posterior.mean + posterior.std * noise).sample
        return distance(decoded, pixels, batch.people) + self.config.kl * posterior.kl().mean()


class Decode(Denoise):
    """Loss of the autoencoder's decoder alone, on latents as sampling leaves them, with a critic for sharp edges.

    Most samples are noised to a random time and denoised again by the finished network, with their caption, their pose
    and guidance: its frames then are the answer to latents such as a video's. The others have some noise only, and some
    of them other colours or a style, as an autoencoder knows more than the network that it serves. The critic (Isola et
    al. 2017, arXiv 1611.07004) tells patches of real frames from decoded ones by a hinge loss, and its features are
    compared too (Wang et al. 2018, arXiv 1711.11585). Frames are decoded one by one, so what moves in one place must
    not change another: a background flickers where it does.
    """

    denoised, steps, guidance = 0.65, 4, 2.0  # share of samples; DDIM steps, and scale of guidance in them
    noise, restyled = 0.15, 0.4  # of the others: highest standard deviation of noise on latents, share with a style
    adversarial, features = 0.05, 0.2  # weights of the critic's verdict, and of the distance of its features
    stillness, tremor = 8.0, 0.03  # weight of `leak`; highest standard deviation of its noise

    @classmethod
    def load(cls, config: TrainConfig, shapes: Path | None = None) -> nn.ModuleDict:
        if not config.data.skeleton:
            raise ValueError("data.skeleton: got False, expected True: objective decode draws poses again")
        parts = super().load(config, shapes)
        parts["critic"] = Critic()
        return parts

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        device = batch.pixels.device
        draws = torch.rand(3, len(batch.captions), 1, 1, 1, 1, generator=generator, device=device)
        denoised, level = draws[0] < self.denoised, self.noise * draws[1]
        kept = (denoised | (draws[2] > self.restyled)).flatten().tolist()
        images = zip(batch.pixels[:, :, 0], kept, strict=True)
        pixels = torch.stack([image if keep else restyle(image, generator) for image, keep in images])
        batch = replace(batch, pixels=pixels[:, :, None])
        latents = self.latents(batch, generator)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        latents = torch.where(denoised, latents, latents + level * noise)
        chosen = denoised.flatten().nonzero().flatten().tolist()
        if chosen:
            part = replace(batch, captions=[batch.captions[i] for i in chosen], skeleton=batch.skeleton[chosen])
            latents[chosen] = self.sample_again(part, latents[chosen], noise[chosen], generator)
        decoded = self.decode(latents)

        critic = self.parts["critic"]
        judge = {name: weight.detach() for name, weight in critic.named_parameters()}  # it learns from its own loss
        verdict, features = functional_call(critic, judge, (decoded,))
        real, wanted = critic(pixels)
        fake, _ = critic(decoded.detach())
        apart = sum((a - b.detach()).abs().mean() for a, b in zip(features, wanted, strict=True))
        loss = distance(decoded, pixels, batch.people) - self.adversarial * verdict.mean() + self.features * apart
        half = len(latents) // 2 + 1  # what moves elsewhere is learned soon, and decoding is most of a step
        loss = loss + self.stillness * self.leak(latents[:half], decoded[:half], generator)
        return loss + F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, c, 1, h, w) -> images (b, 3, H, W)."""
        return self.parts["vae"].decode(latents[:, :, 0] / self.parts["vae"].config.scaling_factor).sample

    def leak(self, latents: Tensor, decoded: Tensor, generator: torch.Generator) -> Tensor:
        """Mean change of images (b, 3, H, W) more than a latent away from a box that gets another image's latents.

        Latents (b, c, 1, h, w) elsewhere get a little noise, as the same place has in the next frame of a video.
        """
        device, (height, width) = latents.device, latents.shape[-2:]
        draws = torch.rand(5, len(latents), 1, 1, generator=generator, device=device)
        rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
        inside = ((rows / height - draws[0]).abs() < 0.1 + 0.3 * draws[1]) & (
            (columns / width - draws[2]).abs() < 0.1 + 0.2 * draws[3]
        )
        box = inside[:, None, None].to(latents.dtype)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        other = box * latents.roll(1, 0) + (1 - box) * (latents + self.tremor * draws[4][:, None, None] * noise)
        far = 1 - F.interpolate(F.max_pool2d(box[:, :, 0], 3, 1, 1), decoded.shape[-2:])
        return (far * (self.decode(other) - decoded).abs()).sum() / (3 * far.sum()).clamp(min=1)

    @torch.no_grad()
    def sample_again(self, batch: Batch, latents: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Noise latents (b, c, 1, h, w) to a time from 0.1 to 1, and denoise them by DDIM."""
        last = self.scheduler.config.num_train_timesteps - 1
        start = (0.1 + 0.9 * torch.rand((), generator=generator, device=latents.device)).item()
        times = torch.linspace(start * last, 0, self.steps + 1)[:-1].long().tolist()
        alphas = self.scheduler.alphas_cumprod[times].tolist()
        text = self.encode_text(["", *batch.captions], latents.device)
        empty = text[:1].expand(len(latents), -1, -1)
        clean = latents
        for time, alpha in zip(times, alphas, strict=True):
            noisy = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
            at = torch.full((len(latents),), time, device=latents.device)
            free = self.predict(noisy, at, empty, None)
            guided = free + self.guidance * (self.predict(noisy, at, text[1:], batch.skeleton) - free)
            if self.scheduler.config.prediction_type == "epsilon":
                clean, noise = (noisy - (1 - alpha) ** 0.5 * guided) / alpha**0.5, guided
            else:
                clean = alpha**0.5 * noisy - (1 - alpha) ** 0.5 * guided
                noise = alpha**0.5 * guided + (1 - alpha) ** 0.5 * noisy
        return clean


class Critic(nn.Module):
    """Patches of images (b, 3, H, W) -> a number each, higher for real ones, and the features of three scales."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96)) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.GroupNorm(8, b) if a > 3 else nn.Identity(), nn.LeakyReLU(0.2))
            for a, b in zip((3, *widths[:-1]), widths, strict=True)
        )
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for scale in self.scales:
            images = scale(images)
            features.append(images)
        return self.head(images), features


def restyle(image: Tensor, generator: torch.Generator) -> Tensor:
    """Draw an image (3, H, W) in [-1, 1] in a style of STYLES or, as often, in colours turned about grey."""
    styles = [style.draw for style in STYLES.values()]
    index = int(torch.randint(2 * len(styles), (), generator=generator, device=generator.device))
    if index < len(styles):
        frame = ((image + 1) * 127.5).round().byte().movedim(0, -1).cpu().numpy()
        return (torch.from_numpy(styles[index](frame[None])[0]) / 127.5 - 1).movedim(-1, 0).to(image)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, device=generator.device))
    return torch.einsum("ij,jhw->ihw", turn.to(image), image).clamp(-1, 1)


def distance(images: Tensor, real: Tensor, people: Tensor) -> Tensor:
    """Absolute and squared error and that of the edges, of images (b, 3, H, W) in [-1, 1]; a scalar.

    Pixels in the box of one of the people (b, p, 17, 3) count fourfold: backgrounds are large and easy, and would
    settle all colours.
    """
    error = images - real
    weight = 1 + 3 * person_boxes(people, *images.shape[-2:])
    weight = weight / weight.mean()
    edges = sum((weight.narrow(d, 0, error.shape[d] - 1) * error.diff(dim=d).abs()).mean() for d in (-1, -2))
    return (weight * (error.abs() + 0.3 * error.square())).mean() + edges


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
