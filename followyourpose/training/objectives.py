"""Objectives: batch -> loss. Each names the networks it needs, and the loop is the same for all.

Shapes: b clips, f frames, c latent channels, l tokens, d text width, p people, H W pixels, h w latent size.
"""

from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from einops import rearrange
from torch import Tensor, nn
from transformers import CLIPTokenizer

from followyourpose.config import TrainConfig
from followyourpose.data.batch import Batch
from followyourpose.training.components import load_components

# Names in configs -> "module:class". The puppet world's objectives build on this file, so they are imported late.
OBJECTIVES = {
    "denoise": "followyourpose.training.objectives:Denoise",
    "autoencode": "followyourpose.puppets.objectives:Autoencode",
    "decode": "followyourpose.puppets.objectives:Decode",
    "contrast": "followyourpose.puppets.objectives:Contrast",
    "locate": "followyourpose.puppets.objectives:Locate",
}


def objective_class(name: str) -> type["Objective"]:
    """Return the class of an objective by its name in configs."""
    module, _, cls = OBJECTIVES[name].partition(":")
    return getattr(import_module(module), cls)


class Objective(nn.Module):
    """Networks, and the loss that trains some of them.

    `forward(batch, generator)` returns the loss; every random number comes from `generator`, so that a resumed run
    repeats what an uninterrupted one would have done.
    """

    needs: tuple[str, ...] = ()

    @classmethod
    def load(cls, config: TrainConfig, shapes: Path | None = None) -> nn.ModuleDict:
        """Load the networks of a run, by name, as they are before it trains; `shapes` is as for `load_components`.

        Raises:
            ValueError: `scratch` names a network that the run does not use, or one cannot be loaded.
        """
        needs = [name for name in cls.needs if name != "pose_encoder" or config.data.skeleton]
        if unused := sorted(set(config.scratch) - set(needs)):
            raise ValueError(f"scratch: got {unused[0]!r}, expected a network that this run uses: {', '.join(needs)}")
        return load_components(config, needs, shapes)

    def __init__(self, parts: nn.ModuleDict, tokenizer: CLIPTokenizer, scheduler: DDIMScheduler, config: TrainConfig):
        super().__init__()
        self.parts, self.tokenizer, self.scheduler, self.config = parts, tokenizer, scheduler, config

    def tokens(self, captions: list[str], device: torch.device) -> Tensor:
        """Token ids (b, l), padded or cut to the text encoder's length."""
        return self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)


class Denoise(Objective):
    """Latent diffusion loss: mean squared error of the predicted noise or velocity, as the scheduler's config has it.

    With `change_weight` the part of an error that differs from its mean over the frames weighs so much more than the
    mean: what should stand still moves least of all, and a mean squared error hardly sees it.
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
        difference = prediction.float() - target.float()
        error = difference.square()
        if self.config.change_weight != 1:
            changes = difference - difference.mean(2, keepdim=True)
            error = error + (self.config.change_weight - 1) * changes.square()
        if self.config.min_snr_gamma is not None:
            error = error * self._snr_weight(timestep, self.config.min_snr_gamma)
        if self.config.person_weight != 1:
            error = error * self._person_weight(batch, latents.shape[-2:])
        return error.mean()

    # ---- network and inputs

    def predict(self, noisy: Tensor, timestep: Tensor, text: Tensor, skeleton: Tensor | None) -> Tensor:
        """Predict (b, c, f, h, w) from latents (b, c, f, h, w) at timesteps (b,).

        Args:
            text: (b, l, d); skeleton: (b, 3, f, H, W) in [0, 1], None: unposed.
        """
        unet = self.parts["unet"]
        if isinstance(unet, UNet2DConditionModel):  # the base model is trained in the image model's own class
            return unet(noisy[:, :, 0], timestep, text).sample[:, :, None]
        return unet(noisy, timestep, text, None if skeleton is None else self.parts["pose_encoder"](skeleton))

    @torch.no_grad()
    def latents(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Sample the VAE's posterior, scaled to about unit variance: (b, c, f, h, w)."""
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
        """Text encoder's last hidden state (b, l, d); some captions are dropped, for classifier-free guidance."""
        draws = torch.rand(len(batch.captions), generator=generator, device=device).tolist()
        dropped = [draw < self.config.prompt_dropout for draw in draws]
        captions = ["" if drop else caption for drop, caption in zip(dropped, batch.captions, strict=True)]
        trained = next(self.parts["text_encoder"].parameters()).requires_grad
        if batch.text is None or trained:  # cached states are those of the encoder before training
            states = self.encode_text(captions, device)
        elif any(dropped):
            flags = torch.tensor(dropped, device=device)[:, None, None]
            states = torch.where(flags, self.encode_text([""], device), batch.text.float())
        else:
            states = batch.text.float()
        return self._shuffle_prefixes(states, captions, generator) if self.config.prefix_shuffle else states

    def _shuffle_prefixes(self, states: Tensor, captions: list[str], generator: torch.Generator) -> Tensor:
        """Encode the words behind a random position after another caption, in a share `prefix_shuffle` of (b, l, d).

        In a text encoder each word's state, the end token's most of all, depends on all words before it, so a network
        can learn the pairs of its captions by heart. With mixed prefixes it has to read each word in its place.
        """
        tokens = self.tokens(captions, states.device)
        chance, place = torch.rand(2, len(tokens), generator=generator, device=tokens.device)
        other = torch.randperm(len(tokens), generator=generator, device=tokens.device)
        ends = (tokens == self.tokenizer.eos_token_id).int().argmax(1)
        shortest = torch.minimum(ends, ends[other])
        first = 2 + (place * (shortest - 1)).long()  # first token with another state: from the second word to the end
        own = torch.arange(tokens.shape[1], device=tokens.device) < first[:, None]
        own |= ((chance >= self.config.prefix_shuffle) | (shortest < 2))[:, None]
        mixed = self.parts["text_encoder"](torch.where(own, tokens[other], tokens)).last_hidden_state
        return torch.where(own[..., None], states, mixed)

    def encode_text(self, captions: list[str], device: torch.device) -> Tensor:
        """Captions -> the text encoder's last hidden state (b, l, d)."""
        return self.parts["text_encoder"](self.tokens(captions, device)).last_hidden_state

    # ---- noise, timesteps and weights

    def _noise(self, shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
        """Noise (b, c, f, h, w); in a share `shared_noise` of the clips all frames have the first one's."""
        noise = torch.randn(shape, generator=generator, device=device)
        if self.config.noise_offset:  # Guttenberg 2023, "Diffusion with offset noise"
            offset = torch.randn((*shape[:2], 1, 1, 1), generator=generator, device=device)
            noise = noise + self.config.noise_offset * offset
        if self.config.shared_noise:
            shared = torch.rand(shape[0], generator=generator, device=device) < self.config.shared_noise
            noise = torch.where(shared[:, None, None, None, None], noise[:, :, :1], noise)
        return noise

    def _timesteps(self, clips: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """One timestep per clip, uniform, but for a share `noise_bias` that is drawn from the noisier half."""
        total = self.scheduler.config.num_train_timesteps
        uniform, biased = torch.rand(2, clips, generator=generator, device=device)
        noisier = biased < self.config.noise_bias
        return torch.where(noisier, (1 + uniform) / 2, uniform).mul(total).long().clamp(max=total - 1)

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
        """Weights of positions (b, 1, 1, h, w) with a mean of 1: `person_weight` times as large where a person is."""
        if batch.people is None:
            raise ValueError(f"person_weight: got {self.config.person_weight}, expected 1: the data has no keypoints")
        data = self.config.data
        people = F.adaptive_avg_pool2d(person_boxes(batch.people, data.height, data.width), size)
        weight = 1 + (self.config.person_weight - 1) * people
        return (weight / weight.mean())[:, :, None]


def person_boxes(people: Tensor, height: int, width: int, margin: float = 0.1) -> Tensor:
    """Keypoints (b, p, 17, 3) in pixels -> boxes around people (b, 1, H, W): 1 inside of one, else 0.

    Args:
        margin: around the joints, as a share of the height.
    """
    xy, seen = people[..., :2], people[..., 2:] > 0
    low = xy.masked_fill(~seen, torch.inf).amin(2) - margin * height  # (b, p, 2)
    high = xy.masked_fill(~seen, -torch.inf).amax(2) + margin * height
    x = torch.arange(width, device=people.device)
    y = torch.arange(height, device=people.device)
    inside_x = (x >= low[..., :1]) & (x <= high[..., :1])  # (b, p, W)
    inside_y = (y >= low[..., 1:]) & (y <= high[..., 1:])
    return (inside_y[..., :, None] & inside_x[..., None, :]).any(1, keepdim=True).float()
