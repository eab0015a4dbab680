"""The denoising job of a call: its noise, its windows, and the condition of each window.

b videos   f frames of the video   c channels   h w latent height and width   t text tokens   d text width
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from followyourpose.common.checks import check_multiple
from followyourpose.models.adapters import LoraScale
from followyourpose.models.unet import TextCache
from followyourpose.pipeline.call import Call
from followyourpose.pipeline.condition import ALWAYS, Condition
from followyourpose.pipeline.inputs import freenoise, initial_noise
from followyourpose.pipeline.people import check_people, drawn
from followyourpose.pipeline.running import DenoisingPipeline
from followyourpose.pipeline.schedule import numbers
from followyourpose.pipeline.skeletons import check_skeleton
from followyourpose.pipeline.video_text import VideoText, encode_video_text
from followyourpose.pipeline.windows import LongVideo, Window

# The pose features of up to so many batches of windows that are denoised together are kept for the next step; those of
# a longer video are computed at each step, so that memory does not grow with the length.
KEPT_BATCHES = 4


@dataclass(eq=False)
class Job:
    """A call, prepared for the denoising of its b videos; each prompt and each window's skeleton is encoded once.

    Attributes:
        noise: initial latents (b, c, f, h, w) of variance 1.
        steps: denoising steps, as many as the scheduler makes of `num_inference_steps`.
        windows: frames that go through the network at a time, `long_video.batch` windows of them where they are
            denoised together.
        skeleton: the reader of a window's skeletons, (n, 3, T, H, W) in [0, 1]; None: no pose.
        count: prompts, or skeletons where there are more; b = count * num_videos_per_prompt.
        text: of prompts and people, and what of it acts in a window.
    """

    pipe: DenoisingPipeline
    call: Call
    long_video: LongVideo
    noise: Tensor
    steps: int
    windows: list[Window]
    skeleton: Callable[[Window], Tensor] | None
    count: int
    text: VideoText

    def __post_init__(self) -> None:
        batches = -(-len(self.windows) // self.long_video.batch)
        self.kept = batches if self.long_video.together and batches <= KEPT_BATCHES else 1
        self._features: dict[tuple[Window, ...], list[Tensor]] = {}
        self._zeros: list[Tensor] = []
        self.text.kept = self.kept * self.long_video.batch

    def condition(self, group: tuple[Window, ...], keys_values: TextCache) -> Condition:
        """Return the condition of windows that go through the network in one batch."""
        call = self.call
        texts, loras = zip(*(self.text.of_window(window, keys_values) for window in group), strict=True)
        text = [
            [tuple(map(self._join, zip(*contexts, strict=True))) for contexts in zip(*blocks, strict=True)]
            for blocks in zip(*texts, strict=True)
        ]
        guidance, pose = (call.guidance_start, call.guidance_end), (call.pose_start, call.pose_end)
        features = self._pose(group)
        no_pose = None if features is None or pose == ALWAYS else self._no_pose(features)
        return Condition(text, features, guidance, pose, call.cache_interval, no_pose, self._joined(loras))

    def guidance(self, group: tuple[Window, ...]) -> float | Tensor:
        """Return the guidance scale of windows: a number or, where it changes, of each frame, (rows, 1, f, 1, 1)."""
        scale = self.pipe.guidance_scale
        if not isinstance(scale, Mapping):
            return scale
        rows = [numbers(scale, window, self.call.transition) for window in group for _ in range(len(self.noise))]
        return torch.tensor(rows, dtype=self.pipe.unet.dtype, device=self.noise.device)[:, None, :, None, None]

    def step_arguments(self) -> dict[str, Any]:
        """Return the arguments of the call that the scheduler's step takes."""
        accepted = inspect.signature(self.pipe.scheduler.step).parameters
        return {key: getattr(self.call, key) for key in ("eta", "generator") if key in accepted}

    @property
    def _videos(self) -> tuple[int, int, bool]:
        return self.count, self.call.num_videos_per_prompt, self.call.guided

    def _pose(self, group: tuple[Window, ...]) -> list[Tensor] | None:
        """Return the pose features of windows, those of the last `kept` groups without another encoding."""
        if self.skeleton is None:
            return None
        if group not in self._features:
            if len(self._features) == self.kept:
                self._features.clear()
            each = [self._encode_pose(self.skeleton(window), window) for window in group]
            self._features[group] = [self._join(level) for level in zip(*each, strict=True)]
        return self._features[group]

    def _encode_pose(self, skeleton: Tensor, window: Window) -> list[Tensor]:
        call, scale = self.call, numbers(self.call.pose_scale, window, self.call.transition)
        scales: float | Tensor = scale[0]  # of all frames, or each frame's
        if len(set(scale)) > 1:
            scales = torch.tensor(scale, device=self.noise.device)[:, None, None]
        return self.pipe.encode_pose(skeleton, *self._videos, call.pose_guidance, scales)

    def _no_pose(self, features: list[Tensor]) -> list[Tensor]:
        """Return zeros like pose features, the same ones for all steps."""
        if [x.shape for x in self._zeros] != [x.shape for x in features]:
            self._zeros = [torch.zeros_like(x) for x in features]
        return self._zeros

    def _joined(self, windows: Sequence[dict[str, LoraScale]]) -> dict[str, LoraScale]:
        """Join the LoRAs' scales of several windows, and repeat their maps (f, h, w, 1) for all videos: (b f, ...)."""
        first, b = windows[0], len(self.noise)

        def level(name: str, number: int) -> Tensor:
            return torch.cat([each[name][number] for each in windows for _ in range(b)])  # type: ignore[index]

        return {
            name: [level(name, i) for i in range(len(scale))] if isinstance(scale, list) else scale
            for name, scale in first.items()
        }

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        """Join the conditions of several windows, each with both halves of guidance, by half and then by window."""
        if len(parts) == 1:
            return parts[0]
        halves = zip(*(part.chunk(1 + self.call.guided) for part in parts), strict=True)
        return torch.cat([window for half in halves for window in half])


def prepare(pipe: DenoisingPipeline, call: Call) -> Job:
    """Check the arguments of a call against its pipeline, and encode its prompts.

    Raises:
        ValueError: as a call.
    """
    _check_components(pipe, call)
    height, width = _size(pipe, call)
    set_timesteps(pipe.scheduler, call)
    pipe.begin(call, len(pipe.scheduler.timesteps))
    skeleton, skeletons, num_frames = _skeleton(call, height, width)
    call.check_frames(num_frames)
    if len({call.prompts, skeletons} - {1}) > 1:
        raise ValueError(f"skeleton: got {skeletons} for {call.prompts} prompts, expected 1 or as many")
    long_video = LongVideo("full") if call.long_video is None else call.long_video
    windows = long_video.windows(num_frames)
    count, factor = max(call.prompts, skeletons), pipe.vae_scale_factor
    b = count * call.num_videos_per_prompt
    shape = (b, pipe.unet.config.in_channels, num_frames, height // factor, width // factor)
    if isinstance(call.generator, list) and len(call.generator) != b:
        raise ValueError(f"generator: got a list of {len(call.generator)}, expected one per video, {b}")
    if call.latents is not None and call.latents.shape != shape:
        raise ValueError(f"latents: got {tuple(call.latents.shape)}, expected {shape}")
    text = encode_video_text(pipe, call, count, (num_frames, height, width))
    noise, device = call.latents, pipe._execution_device
    if noise is None:
        noise = initial_noise(shape, call.noise, call.generator, device)
    if long_video.mode == "freenoise":
        noise = freenoise(noise, windows, call.generator)
    pipe._interrupt = False
    noise, steps = noise.to(device), len(pipe.scheduler.timesteps)
    return Job(pipe, call, long_video, noise, steps, windows, skeleton, count, text)


def _skeleton(call: Call, height: int, width: int) -> tuple[Callable[[Window], Tensor] | None, int, int]:
    """Return the reader of a call's skeletons, as `check_skeleton`; where it has none, of its people drawn together."""
    if call.skeleton is not None or call.people is None:
        return check_skeleton(call.skeleton, call.num_frames, height, width)
    read, frames = drawn(check_people(call.people), call.num_frames, height, width)
    return check_skeleton(read, frames, height, width)


def set_timesteps(scheduler: Any, call: Call) -> None:
    """Set a scheduler's timesteps to a number of them, or to those that the call names.

    They stay on the CPU: a scheduler reads them at every step, and would wait there for all that a GPU has to do.

    Raises:
        ValueError: the scheduler takes no timesteps, or not these.
    """
    if call.timesteps is None:
        scheduler.set_timesteps(call.num_inference_steps)
        return
    name, timesteps = type(scheduler).__name__, [int(timestep) for timestep in call.timesteps]
    if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
        raise ValueError(f"timesteps: got {len(timesteps)}, expected none: {name} has its own; others take them")
    try:
        scheduler.set_timesteps(timesteps=timesteps)
    except (ValueError, TypeError, IndexError, AssertionError) as error:
        raise ValueError(f"timesteps: got {timesteps}, which {name} cannot take ({error})") from error


def _check_components(pipe: DenoisingPipeline, call: Call) -> None:
    """Raise a ValueError that names the first component that the call needs and the pipeline was loaded without."""
    needed = ["unet", "scheduler"]
    needed += ["tokenizer", "text_encoder"] if call.prompt_embeds is None else []
    needed += ["pose_encoder"] if call.skeleton is not None else []
    needed += ["vae"] if call.output_type != "latent" else []
    for name in needed:
        if getattr(pipe, name) is None:
            raise ValueError(f"{name}: got a pipeline without one, expected one for these arguments")


def _size(pipe: DenoisingPipeline, call: Call) -> tuple[int, int]:
    """Return height and width in pixels, checked.

    The UNet rounds odd sizes up on its way down, the pose encoder rounds them down: with a pose all must divide.
    """
    factor, levels = pipe.vae_scale_factor, len(pipe.unet.config.block_out_channels)
    divisor = factor if call.skeleton is None and call.people is None else factor * 2 ** (levels - 1)
    default = (pipe.unet.config.sample_size or 64) * factor
    height, width = (default if side is None else side for side in (call.height, call.width))
    check_multiple("height", height, divisor, "pixels")
    check_multiple("width", width, divisor, "pixels")
    return height, width
