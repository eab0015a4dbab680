"""State of a running call, as diffusers' pipelines have it, and the part of a pipeline that its denoising needs.

Callbacks read the state, and what they set acts next.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import TextCache, VideoUNet
from followyourpose.pipeline.call import Call, check_lora_scale
from followyourpose.pipeline.schedule import Numbers, highest


class DenoisingPipeline(Protocol):
    """The part of a pipeline that its calls and their denoising need; `FollowYourPosePipeline` documents it."""

    unet: VideoUNet
    text_encoder: Any
    pose_encoder: PoseEncoder
    scheduler: Any
    vae_scale_factor: int
    guidance_scale: Numbers
    cross_attention_scale: float
    _interrupt: bool
    begin: Callable[[Call, int], None]
    encode_prompt: Callable[..., tuple[Tensor, Tensor]]
    encode_text: Callable[..., TextCache]
    encode_pose: Callable[..., list[Tensor]]
    predict: Callable[..., Tensor]
    map_windows: Callable[..., Iterator[Tensor]]
    progress_bar: Callable[..., Any]

    @property
    def _execution_device(self) -> torch.device: ...


class RunningCall:
    """Settings of the current or last call; before the first, the defaults.

    Callbacks set `_guidance_scale`, `_guidance_rescale`, `_cross_attention_kwargs` and `_interrupt`.
    """

    _guidance_scale: Numbers = Call.guidance_scale
    _guidance_rescale = Call.guidance_rescale
    _clip_skip: int | None = None
    _cross_attention_kwargs: Mapping[str, float] | None = None
    _num_timesteps = 0
    _interrupt = False
    map_windows: Callable[..., Iterator[Tensor]] = map  # the prediction of groups of windows, at every step

    def begin(self, call: Call, num_timesteps: int) -> None:
        """Take the settings of a call, anew for each window that is denoised by itself."""
        self._guidance_scale = call.guidance_scale
        self._guidance_rescale = call.guidance_rescale
        self._clip_skip = call.clip_skip
        self._cross_attention_kwargs = call.cross_attention_kwargs
        self._num_timesteps = num_timesteps

    @property
    def guidance_scale(self) -> Numbers:
        """The factor w of classifier-free guidance, or factors by frame; at 1 and below there is none."""
        return self._guidance_scale

    @property
    def guidance_rescale(self) -> float:
        """The share of the guided prediction that is brought back to the conditional one's deviation."""
        return self._guidance_rescale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether there is an unconditional half."""
        return highest(self._guidance_scale) > 1

    @property
    def clip_skip(self) -> int | None:
        """The number of last layers of the text encoder that are skipped; None: none."""
        return self._clip_skip

    @property
    def cross_attention_kwargs(self) -> Mapping[str, float] | None:
        """{"scale": factor of the loaded LoRAs}; None: 1."""
        return self._cross_attention_kwargs

    @property
    def cross_attention_scale(self) -> float:
        """The factor of the loaded LoRAs.

        Raises:
            ValueError: a callback set another key, or no number.
        """
        return check_lora_scale(self._cross_attention_kwargs)

    @property
    def num_timesteps(self) -> int:
        """The number of denoising steps."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `_interrupt`: the denoising ends after the current step."""
        return self._interrupt
