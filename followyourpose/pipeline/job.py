"""The denoising job of a call: its noise, its windows, and the conditions of each window, encoded once.

b videos   f frames of the video   c channels   h w latent height and width   t text tokens   d text width
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from followyourpose.common.checks import check_multiple
from followyourpose.models.unet import TextCache, VideoUNet
from followyourpose.pipeline.call import Call
from followyourpose.pipeline.condition import Condition
from followyourpose.pipeline.inputs import check_skeleton, freenoise, initial_noise
from followyourpose.pipeline.windows import LongVideo, Window

# The pose features of up to so many batches of windows that are denoised together are kept for the next step; those of
# a longer video are computed at each step, so that memory does not grow with the length.
KEPT_BATCHES = 4


class DenoisingPipeline(Protocol):
    """The part of a pipeline that its calls and their denoising need; `FollowYourPosePipeline` has it."""

    unet: VideoUNet
    scheduler: Any
    vae_scale_factor: int
    _interrupt: bool

    @property
    def interrupt(self) -> bool:
        """Whether the denoising ends after the current step."""

    @property
    def _execution_device(self) -> torch.device: ...

    def progress_bar(self, *, total: int) -> AbstractContextManager[Any]:
        """Return a bar of so many steps."""

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings of prompts and negative prompts, (n, t, d) both."""

    def encode_text(
        self, prompt_embeds: Tensor, negative_prompt_embeds: Tensor, count: int, per_prompt: int, guided: bool
    ) -> TextCache:
        """Return every layer's keys and values for the texts of b videos."""

    def encode_pose(
        self,
        skeleton: Tensor,
        count: int,
        per_prompt: int,
        guided: bool,
        pose_guidance: Any,
        pose_scale: float,
    ) -> list[Tensor]:
        """Return the pose features of b videos, of skeletons (n, 3, f, H, W)."""

    def predict(
        self, latents: Tensor, timestep: Tensor, condition: Condition, guidance_scale: float, step: int, steps: int
    ) -> Tensor:
        """Return the noise (b, c, f, h, w) of latents (b, c, f, h, w) at a timestep."""


class Conditioning:
    """Text and pose of a call's windows: each prompt and each window's skeleton is encoded once, and then repeated."""

    def __init__(
        self,
        pipe: DenoisingPipeline,
        call: Call,
        skeleton: Callable[[Window], Tensor] | None,
        count: int,
        kept: int,
    ) -> None:
        self.pipe, self.call, self.skeleton, self.count = pipe, call, skeleton, count
        self.features = lru_cache(maxsize=kept)(self._features)

    def text(self, prompt_embeds: Tensor, negative_prompt_embeds: Tensor) -> TextCache:
        """Project embeddings (n, t, d) to every layer's keys and values, for b videos."""
        call = self.call
        videos = (self.count, call.num_videos_per_prompt, call.guided)
        return self.pipe.encode_text(prompt_embeds, negative_prompt_embeds, *videos)

    def of(self, group: tuple[Window, ...], keys_values: TextCache) -> Condition:
        """Return the condition of windows that go through the network in one batch."""
        call, n = self.call, len(group)
        text = [[(self._join([k] * n), self._join([v] * n)) for k, v in block] for block in keys_values]
        intervals = (call.guidance_start, call.guidance_end), (call.pose_start, call.pose_end)
        return Condition(text, self.features(group), *intervals, call.cache_interval)

    def _features(self, group: tuple[Window, ...]) -> list[Tensor] | None:
        if self.skeleton is None:
            return None
        call = self.call
        how = (self.count, call.num_videos_per_prompt, call.guided, call.pose_guidance, call.pose_scale)
        each = [self.pipe.encode_pose(self.skeleton(window), *how) for window in group]
        return [self._join(level) for level in zip(*each, strict=True)]

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        """Join the conditions of several windows, each with both halves of guidance, by half and then by window."""
        if len(parts) == 1:
            return parts[0]
        halves = zip(*(part.chunk(1 + self.call.guided) for part in parts), strict=True)
        return torch.cat([window for half in halves for window in half])


@dataclass
class Job:
    """A call, prepared for the denoising of its b videos.

    Attributes:
        noise: initial latents (b, c, f, h, w) of variance 1.
        windows: frames that go through the network at a time, `batch` windows of them where they are denoised
            `together`.
        embeds: of the prompts and of the negative prompts, (n, t, d) both.
        keys_values: every layer's for the text of `embeds`.
        step_arguments: of the call, those that the scheduler's step takes.
    """

    call: Call
    noise: Tensor
    windows: list[Window]
    batch: int
    together: bool
    conditioning: Conditioning
    embeds: tuple[Tensor, Tensor]
    keys_values: TextCache
    step_arguments: dict[str, Any]


def prepare(pipe: DenoisingPipeline, call: Call) -> Job:
    """Check the arguments of a call against its pipeline, and encode its prompts.

    Raises:
        ValueError: as a call.
    """
    height, width = _size(pipe, call)
    skeleton, skeletons, num_frames = check_skeleton(call.skeleton, call.num_frames, height, width)
    long_video = LongVideo("full") if call.long_video is None else call.long_video
    windows = long_video.windows(num_frames)
    embeds = pipe.encode_prompt(
        call.prompt, call.negative_prompt if call.guided else None, call.prompt_embeds, call.negative_prompt_embeds
    )
    counts = {len(embeds[0]), skeletons}
    if len(counts - {1}) > 1:
        raise ValueError(f"skeleton: got {skeletons} for {len(embeds[0])} prompts, expected 1 or as many")
    count, factor = max(counts), pipe.vae_scale_factor
    b = count * call.num_videos_per_prompt
    noise = _noise(pipe, call, (b, pipe.unet.config.in_channels, num_frames, height // factor, width // factor))
    if long_video.mode == "freenoise":
        noise = freenoise(noise, windows, call.generator)
    batches = -(-len(windows) // long_video.batch)
    kept = batches if long_video.together and batches <= KEPT_BATCHES else 1
    conditioning = Conditioning(pipe, call, skeleton, count, kept)
    accepted = inspect.signature(pipe.scheduler.step).parameters
    pipe._interrupt = False
    return Job(
        call=call,
        noise=noise.to(pipe._execution_device),
        windows=windows,
        batch=long_video.batch,
        together=long_video.together,
        conditioning=conditioning,
        embeds=embeds,
        keys_values=conditioning.text(*embeds),
        step_arguments={key: getattr(call, key) for key in ("eta", "generator") if key in accepted},
    )


def _size(pipe: DenoisingPipeline, call: Call) -> tuple[int, int]:
    """Return height and width in pixels, checked.

    The UNet rounds odd sizes up on its way down, the pose encoder rounds them down: with a pose all must divide.
    """
    factor, levels = pipe.vae_scale_factor, len(pipe.unet.config.block_out_channels)
    divisor = factor if call.skeleton is None else factor * 2 ** (levels - 1)
    default = (pipe.unet.config.sample_size or 64) * factor
    height, width = (default if side is None else side for side in (call.height, call.width))
    check_multiple("height", height, divisor, "pixels")
    check_multiple("width", width, divisor, "pixels")
    return height, width


def _noise(pipe: DenoisingPipeline, call: Call, shape: tuple[int, int, int, int, int]) -> Tensor:
    """Return the initial noise (b, c, f, h, w): the latents of the call, or drawn."""
    if call.latents is None:
        return initial_noise(shape, call.noise, call.generator, pipe._execution_device)
    if call.latents.shape != shape:
        raise ValueError(f"latents: got {tuple(call.latents.shape)}, expected {shape}")
    return call.latents
