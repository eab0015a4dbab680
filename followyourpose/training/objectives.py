"""Objectives: batch -> loss. Each names the networks it needs; the loop knows no more of them than that.

Shapes: b clips, f frames, c latent channels, l tokens, H W pixels, h w latent size.
"""

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from einops import rearrange
from torch import Tensor, nn
from transformers import CLIPTokenizer

from followyourpose.config import TrainConfig
from followyourpose.data.batch import Batch
from followyourpose.training.components import load_components


class Objective(nn.Module):
    """Networks, and the loss that trains some of them.

    `forward(batch, generator)` returns the loss; every random number it uses comes from `generator`, so that a resumed
    run repeats what an uninterrupted one would have done.
    """

    needs: tuple[str, ...] = ()

    @classmethod
    def load(cls, config: TrainConfig) -> nn.ModuleDict:
        """The networks of a run, by name, as they are before it trains.

        Raises:
            ValueError: `scratch` names a network that the run does not use, or one cannot be loaded.
        """
        needs = [name for name in cls.needs if name != "pose_encoder" or config.data.skeleton]
        if unused := sorted(set(config.scratch) - set(needs)):
            raise ValueError(f"scratch: got {unused[0]!r}, expected a network that this run uses: {', '.join(needs)}")
        return load_components(config, needs)

    def __init__(self, parts: nn.ModuleDict, tokenizer: CLIPTokenizer, scheduler: DDIMScheduler, config: TrainConfig):
        super().__init__()
        self.parts, self.tokenizer, self.scheduler, self.config = parts, tokenizer, scheduler, config

    def tokens(self, captions: list[str], device: torch.device) -> Tensor:
        """Token ids (b, l), padded or cut to the text encoder's length."""
        return self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)


class Denoise(Objective):
    """The latent diffusion loss: mean squared error of the predicted noise or velocity, as the scheduler's config says.

    Used by the base model and by both stages (paper, eq. 1 to 3). One frame and no skeleton make it the image model's.
    """

    needs = ("vae", "text_encoder", "unet", "pose_encoder")

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        latents = self.latents(batch, generator)
        device, clips = latents.device, len(latents)
        noise = self._noise(latents.shape, generator, device)
        timestep = self._timesteps(clips, generator, device)
        noisy = self.scheduler.add_noise(latents, noise, timestep)
        prediction = self.predict(noisy, timestep, self.text(batch, generator, device), batch.skeleton)
        kind = self.scheduler.config.prediction_type
        target = noise if kind == "epsilon" else self.scheduler.get_velocity(latents, noise, timestep)
        error = (prediction.float() - target.float()).square()
        if self.config.min_snr_gamma is not None:
            error = error * self._snr_weight(timestep, self.config.min_snr_gamma)
        if self.config.person_weight != 1:
            error = error * self._person_weight(batch, latents.shape[-2:])
        return error.mean()

    def _noise(self, shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
        """Noise (b, c, f, h, w); in a share `shared_noise` of the clips every frame has the first one's."""
        noise = torch.randn(shape, generator=generator, device=device)
        if self.config.noise_offset:  # Guttenberg 2023, "Diffusion with offset noise"
            offset = torch.randn((*shape[:2], 1, 1, 1), generator=generator, device=device)
            noise = noise + self.config.noise_offset * offset
        if self.config.shared_noise:
            shared = torch.rand(shape[0], generator=generator, device=device) < self.config.shared_noise
            noise = torch.where(shared[:, None, None, None, None], noise[:, :, :1], noise)
        return noise

    def _snr_weight(self, timestep: Tensor, gamma: float) -> Tensor:
        """Min-SNR weights (b, 1, 1, 1, 1) of timesteps (b,) (Hang et al. 2023, arXiv 2303.09556, section 3.4).

        An error of the clean latents weighs min(SNR, gamma); one of the noise is 1 / SNR times as much, one of the
        velocity 1 / (SNR + 1) times. At zero terminal SNR a velocity weighs nothing.
        """
        alpha = self.scheduler.alphas_cumprod.to(timestep.device)[timestep]
        snr = alpha / (1 - alpha)
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        weight = snr.clamp(max=gamma) / (snr + 1) if velocity else (gamma / snr).clamp(max=1)
        return weight[:, None, None, None, None]

    def _person_weight(self, batch: Batch, size: tuple[int, int]) -> Tensor:
        """Weights of places (b, 1, 1, h, w): `person_weight` where a person is, else 1; brought to a mean of 1."""
        if batch.people is None:
            raise ValueError(f"person_weight: got {self.config.person_weight}, expected 1: the data has no keypoints")
        data = self.config.data
        people = F.adaptive_avg_pool2d(_person_boxes(batch.people, data.height, data.width), size)
        weight = 1 + (self.config.person_weight - 1) * people
        return (weight / weight.mean())[:, :, None]

    def predict(self, noisy: Tensor, timestep: Tensor, text: Tensor, skeleton: Tensor | None) -> Tensor:
        """The prediction (b, c, f, h, w) for latents (b, c, f, h, w) at timesteps (b,).

        Args:
            text: (b, l, d); skeleton: (b, 3, f, H, W) in [0, 1], None: unposed.
        """
        unet = self.parts["unet"]
        if isinstance(unet, UNet2DConditionModel):  # the base model is trained in the image model's own class
            return unet(noisy[:, :, 0], timestep, text).sample[:, :, None]
        return unet(noisy, timestep, text, None if skeleton is None else self.parts["pose_encoder"](skeleton))

    @torch.no_grad()
    def latents(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """A sample of the VAE's posterior, scaled to about unit variance: (b, c, f, h, w)."""
        moments = self.moments(batch.pixels) if batch.moments is None else batch.moments.float()
        mean, log_variance = moments.chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        sample = mean + noise * (0.5 * log_variance.clamp(-30, 20)).exp()
        return sample * self.parts["vae"].config.scaling_factor

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> Tensor:
        """Pixels (b, 3, f, H, W) in [-1, 1] -> the posterior's mean and log variance, (b, 2c, f, h, w)."""
        frames = rearrange(pixels, "b c f H W -> (b f) c H W")
        moments = self.parts["vae"].encode(frames).latent_dist.parameters
        return rearrange(moments, "(b f) c h w -> b c f h w", b=len(pixels))

    def text(self, batch: Batch, generator: torch.Generator, device: torch.device) -> Tensor:
        """The text encoder's last hidden state (b, l, d); some captions are dropped, for classifier-free guidance."""
        draws = torch.rand(len(batch.captions), generator=generator, device=device).tolist()
        dropped = [draw < self.config.prompt_dropout for draw in draws]
        captions = ["" if drop else caption for drop, caption in zip(dropped, batch.captions, strict=True)]
        trained = next(self.parts["text_encoder"].parameters()).requires_grad
        if batch.text is None or trained:  # what a cache has of it is that of another one
            states = self.encode_text(captions, device)
        elif any(dropped):
            flags = torch.tensor(dropped, device=device)[:, None, None]
            states = torch.where(flags, self.encode_text([""], device), batch.text.float())
        else:
            states = batch.text.float()
        return self._shuffle_prefixes(states, captions, generator) if self.config.prefix_shuffle else states

    def _shuffle_prefixes(self, states: Tensor, captions: list[str], generator: torch.Generator) -> Tensor:
        """In a share `prefix_shuffle` of states (b, l, d), what follows a random word is as if after another caption.

        A text encoder tells later words, and the end token most of all, what stood before them. A network that listens
        there knows the pairs that it was trained on; where this cannot be trusted, it reads each word in its place.
        """
        tokens = self.tokens(captions, states.device)
        chance, place = torch.rand(2, len(tokens), generator=generator, device=tokens.device)
        other = torch.randperm(len(tokens), generator=generator, device=tokens.device)
        ends = (tokens == self.tokenizer.eos_token_id).int().argmax(1)
        shortest = torch.minimum(ends, ends[other])
        first = (
            2 + (place * (shortest - 1)).long()
        )  # the first token whose state is another: the second word ... the end
        own = torch.arange(tokens.shape[1], device=tokens.device) < first[:, None]
        own |= ((chance >= self.config.prefix_shuffle) | (shortest < 2))[:, None]
        mixed = self.parts["text_encoder"](torch.where(own, tokens[other], tokens)).last_hidden_state
        return torch.where(own[..., None], states, mixed)

    def encode_text(self, captions: list[str], device: torch.device) -> Tensor:
        """Captions -> the text encoder's last hidden state (b, l, d)."""
        return self.parts["text_encoder"](self.tokens(captions, device)).last_hidden_state

    def _timesteps(self, clips: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """One timestep per clip, uniform, but for a share `noise_bias` that is drawn from the noisier half."""
        total = self.scheduler.config.num_train_timesteps
        uniform, biased = torch.rand(2, clips, generator=generator, device=device)
        noisier = biased < self.config.noise_bias
        return torch.where(noisier, (1 + uniform) / 2, uniform).mul(total).long().clamp(max=total - 1)


class Autoencode(Objective):
    """Trains an AutoencoderKL: absolute and squared error, sharp edges, and a slight pull to a standard normal.

    Pixels in a person's box count fourfold: backgrounds are large and easy, and would settle all colours.
    """

    needs = ("vae",)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        pixels = batch.pixels[:, :, 0]
        posterior = self.parts["vae"].encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=pixels.device)
        error = self.parts["vae"].decode(posterior.mean + posterior.std * noise).sample - pixels
        weight = 1 + 3 * _person_boxes(batch.people, *pixels.shape[-2:])
        weight = weight / weight.mean()
        edges = sum((weight.narrow(d, 0, error.shape[d] - 1) * error.diff(dim=d).abs()).mean() for d in (-1, -2))
        return (weight * (error.abs() + 0.3 * error.square())).mean() + edges + self.config.kl * posterior.kl().mean()


def _person_boxes(people: Tensor, height: int, width: int, margin: float = 6.0) -> Tensor:
    """Where people are: keypoints (b, p, 17, 3) in pixels -> (b, 1, H, W), 1 in the box around one, else 0."""
    xy, seen = people[..., :2], people[..., 2:] > 0
    low = xy.masked_fill(~seen, torch.inf).amin(2) - margin  # (b, p, 2)
    high = xy.masked_fill(~seen, -torch.inf).amax(2) + margin
    x = torch.arange(width, device=people.device)
    y = torch.arange(height, device=people.device)
    inside_x = (x >= low[..., :1]) & (x <= high[..., :1])  # (b, p, W)
    inside_y = (y >= low[..., 1:]) & (y <= high[..., 1:])
    return (inside_y[..., :, None] & inside_x[..., None, :]).any(1, keepdim=True).float()


class Contrast(Objective):
    """Trains a CLIP: each image must find its caption among the batch's, and each caption its image.

    Symmetric cross-entropy (Radford et al. 2021); where a caption occurs twice in a batch, both images are right.
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
    """Trains the puppets' keypoint detector on images with known keypoints, turned and scaled at random.

    Motions that it never saw put limbs where no image of the data has them; turned images do.
    """

    needs = ("detector",)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        angle, scale = 2 * torch.rand(2, len(batch.pixels), generator=generator, device=batch.pixels.device) - 1
        images, people = turned(batch.pixels[:, :, 0], batch.people, 30 * angle, 1 + 0.25 * scale)
        return self.parts["detector"].loss(images, people)


def turned(images: Tensor, people: Tensor, angle: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Images (b, 3, H, W) and keypoints (b, p, 17, 3) turned by angles (b,) in degrees and enlarged, about the centre.

    What lay outside an image repeats its border; keypoints that leave it get confidence 0.
    """
    height, width = images.shape[-2:]
    cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    rotation = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))  # of x, y, where y points down
    center = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=images.device)
    xy = torch.einsum("bij,bpkj->bpki", scale[:, None, None] * rotation, people[..., :2] - center) + center
    inside = ((xy >= 0) & (xy <= 2 * center)).all(-1)
    # The grid asks the other way around: where each pixel comes from, in units of half the image's size.
    half = torch.tensor([width / 2, height / 2], device=images.device)
    back = rotation.mT / scale[:, None, None] * half / half[:, None]
    grid = F.affine_grid(F.pad(back, (0, 1)), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return images, torch.cat([xy, (people[..., 2] * inside)[..., None]], -1)


OBJECTIVES: dict[str, type[Objective]] = {
    "denoise": Denoise,
    "autoencode": Autoencode,
    "contrast": Contrast,
    "locate": Locate,
}
