"""What a call of the pipeline asks for, checked, and gathered for the denoising loop.

b videos   f frames of the video   T frames of a window   c channels   h w latent height and width   t d text
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from torch import Tensor

from followyourpose.common.checks import check_at_least, check_choice, check_interval, check_scale
from followyourpose.models.unet import TextCache
from followyourpose.pipeline.condition import Condition
from followyourpose.pipeline.inputs import (
    Generators,
    Noise,
    PoseGuidance,
    SkeletonFrames,
    check_size,
    check_skeleton,
    freenoise,
    initial_noise,
)
from followyourpose.pipeline.windows import LongVideo, Window

if TYPE_CHECKING:
    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

CALLBACK_TENSORS = ("latents", "prompt_embeds", "negative_prompt_embeds")
Callback = Callable[["FollowYourPosePipeline", int, Tensor, dict[str, Any]], dict[str, Any] | None]
# Windows that are denoised together come round at every step. The pose features of so many batches of them are kept;
# those of a longer video are computed at each step, since memory is to be that of one window whatever the length.
KEPT_BATCHES = 4


@dataclass
class Job:
    """All that the denoising of b videos needs, beside the pipeline.

    Attributes:
        noise: initial latents (b, c, f, h, w) of variance 1.
        windows: what goes through the network at a time, `batch` of them where they are denoised `together`.
        embeds: of the prompts and of the negative prompts, (prompts, t, d) both.
        keys_values: every layer's for the text of `embeds`; text: embeds -> these, for those that a callback changed.
        condition: windows that go through the network in one batch, and keys and values -> their condition.
        generator: that of the noise, and of schedulers that draw more of it with each step.
        callback: see `callback_on_step_end` of a call; callback_inputs: the tensors that it gets.
    """

    noise: Tensor
    windows: list[Window]
    batch: int
    together: bool
    embeds: tuple[Tensor, Tensor]
    keys_values: TextCache
    text: Callable[[Tensor, Tensor], TextCache]
    condition: Callable[[tuple[Window, ...], TextCache], Condition]
    num_inference_steps: int
    guidance_scale: float
    step_arguments: dict[str, Any]
    generator: Generators
    callback: Callback | None
    callback_inputs: Sequence[str]


def prepare(
    pipe: "FollowYourPosePipeline",
    *,
    prompt: str | list[str] | None,
    skeleton: np.ndarray | Tensor | SkeletonFrames | None,
    num_frames: int | None,
    height: int | None,
    width: int | None,
    num_inference_steps: int,
    guidance_scale: float,
    negative_prompt: str | list[str] | None,
    guidance_start: float,
    guidance_end: float,
    pose_guidance: PoseGuidance,
    pose_scale: float,
    pose_start: float,
    pose_end: float,
    cache_interval: int,
    noise: Noise,
    num_videos_per_prompt: int,
    generator: Generators,
    latents: Tensor | None,
    prompt_embeds: Tensor | None,
    negative_prompt_embeds: Tensor | None,
    eta: float,
    long_video: LongVideo | None,
    callback_on_step_end: Callback | None,
    callback_on_step_end_tensor_inputs: Sequence[str],
) -> Job:
    """Checks the arguments of a call, `latents` (b, c, f, h, w) among them, and gathers what the denoising needs.

    Raises:
        ValueError: as a call.
    """
    check_choice("pose_guidance", pose_guidance, get_args(PoseGuidance))
    check_choice("noise", noise, get_args(Noise))
    for name in callback_on_step_end_tensor_inputs:
        check_choice("callback_on_step_end_tensor_inputs", name, CALLBACK_TENSORS)
    check_at_least("num_inference_steps", num_inference_steps)
    check_at_least("num_videos_per_prompt", num_videos_per_prompt)
    check_at_least("cache_interval", cache_interval)
    check_scale("pose_scale", pose_scale)
    check_interval("guidance", guidance_start, guidance_end)
    check_interval("pose", pose_start, pose_end)
    device, guided = pipe._execution_device, guidance_scale > 1

    # The UNet rounds odd sizes up on its way down, the pose encoder rounds them down: with a pose all must divide.
    factor, levels = pipe.vae_scale_factor, len(pipe.unet.config.block_out_channels)
    divisor = factor if skeleton is None else factor * 2 ** (levels - 1)
    default = (pipe.unet.config.sample_size or 64) * factor
    height = check_size("height", default if height is None else height, divisor)
    width = check_size("width", default if width is None else width, divisor)
    skeleton, skeletons, num_frames = check_skeleton(skeleton, num_frames, height, width)
    long_video = LongVideo("full") if long_video is None else long_video
    windows = long_video.windows(num_frames)

    # Conditions: each prompt, and each skeleton of a window, is encoded once; only the results are repeated.
    embeds = pipe.encode_prompt(prompt, negative_prompt if guided else None, prompt_embeds, negative_prompt_embeds)
    counts = {len(embeds[0]), skeletons}
    if len(counts - {1}) > 1:
        raise ValueError(f"skeleton: got {skeletons} for {len(embeds[0])} prompts, expected 1 or as many")
    count, halves = max(counts), 1 + guided

    def text(prompt_embeds: Tensor, negative_prompt_embeds: Tensor) -> TextCache:
        return pipe.encode_text(prompt_embeds, negative_prompt_embeds, count, num_videos_per_prompt, guided)

    batches = -(-len(windows) // long_video.batch)

    @lru_cache(maxsize=batches if long_video.together and batches <= KEPT_BATCHES else 1)
    def features(group: tuple[Window, ...]) -> list[Tensor] | None:
        if skeleton is None:
            return None
        how = (count, num_videos_per_prompt, guided, pose_guidance, pose_scale)
        each = [pipe.encode_pose(skeleton(window), *how) for window in group]
        return [_join(level, halves) for level in zip(*each, strict=True)]

    def condition(group: tuple[Window, ...], keys_values: TextCache) -> Condition:
        repeated = [[tuple(_join([x] * len(group), halves) for x in pair) for pair in block] for block in keys_values]
        intervals = (guidance_start, guidance_end), (pose_start, pose_end)
        return Condition(repeated, features(group), *intervals, cache_interval)

    # Noise, and what the scheduler takes of the settings.
    b = count * num_videos_per_prompt
    shape = (b, pipe.unet.config.in_channels, num_frames, height // factor, width // factor)
    if latents is None:
        latents = initial_noise(shape, noise, generator, device)
    elif latents.shape != shape:
        raise ValueError(f"latents: got {tuple(latents.shape)}, expected {shape}")
    if long_video.mode == "freenoise":
        latents = freenoise(latents, windows, generator)
    accepted = inspect.signature(pipe.scheduler.step).parameters
    pipe._interrupt = False
    return Job(
        noise=latents.to(device),
        windows=windows,
        batch=long_video.batch,
        together=long_video.together,
        embeds=embeds,
        keys_values=text(*embeds),
        text=text,
        condition=condition,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        step_arguments={k: v for k, v in {"eta": eta, "generator": generator}.items() if k in accepted},
        generator=generator,
        callback=callback_on_step_end,
        callback_inputs=callback_on_step_end_tensor_inputs,
    )


def _join(parts: Sequence[Tensor], halves: int) -> Tensor:
    """The halves of guidance of several parts, each (halves * b, ...), by half and then by part."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([half for each in zip(*(part.chunk(halves) for part in parts), strict=True) for half in each])
