"""Pipelines with random weights that `python -m scripts.benchmark generate` compares: ours by setting, and others'.

f frames   H W pixels
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import ControlNetModel, DiffusionPipeline
from torch import Tensor

from followyourpose.config import SamplingConfig
from followyourpose.generation.sampling import prepare, sampling_arguments
from followyourpose.models import loading
from followyourpose.pipeline.image_model import load_image_model
from followyourpose.pipeline.pipeline import FollowYourPosePipeline
from followyourpose.pipeline.skeletons import skeleton_tensor
from scripts.baseline_objectives import new_adapter, new_controlnet, new_motion
from scripts.baseline_pipelines import (
    Parts,
    adapter_pipeline,
    animatediff_pipeline,
    attend_to_first_frame,
    controlnet_pipeline,
    to_images,
)
from scripts.benchmark_parts import LOW_MEMORY
from scripts.plain_path import plain_step

PROMPT = "a person"
GUIDANCE = 7.5
LONG = 50  # denoising steps of a video


@dataclass(frozen=True)
class Shape:
    """Shape of a video, f frames of H x W pixels, and the device and the weights' type that it is generated with."""

    frames: int
    height: int
    width: int
    dtype: str
    device: str

    @property
    def skeleton(self) -> np.ndarray:
        """Random skeleton frames (f, H, W, 3) uint8; the time does not depend on their content."""
        return np.random.default_rng(0).integers(0, 256, (self.frames, self.height, self.width, 3), np.uint8)

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that all pipelines take."""
        return {"height": self.height, "width": self.width, "guidance_scale": GUIDANCE}


Call = tuple[DiffusionPipeline, dict[str, Any]]  # a pipeline, and the arguments of a call


def ours(folder: Path, shape: Shape, attention: str = "native", **settings: Any) -> Call:
    """This repository's pipeline, under settings of `SamplingConfig` and with an attention backend."""
    config = SamplingConfig(**{"dtype": shape.dtype} | settings)
    pipe = FollowYourPosePipeline.from_image_model(folder, dtype=getattr(torch, config.dtype))
    prepare(pipe, config, torch.device(shape.device))
    pipe.unet.set_attention_backend(attention)
    return pipe, {"prompt": PROMPT, "skeleton": shape.skeleton, **shape.settings, **sampling_arguments(config)}


def channels_first(folder: Path, shape: Shape) -> Call:
    """This repository's pipeline with the memory format of a CPU on a GPU too."""
    with mock.patch.object(loading, "CHANNELS_LAST", ()):
        return ours(folder, shape)


def plain(folder: Path, shape: Shape) -> Call:
    """This repository's pipeline without its exact savings: see plain_path.py."""
    pipe, arguments = ours(folder, shape)
    skeleton = skeleton_tensor(arguments["skeleton"]).to(shape.device, pipe.unet.dtype)
    with torch.no_grad():
        text = torch.cat(pipe.encode_prompt(PROMPT)[::-1])

    def predict(latents: Tensor, timestep: Tensor, *_: Any) -> Tensor:
        prediction = plain_step(pipe.unet, pipe.pose_encoder, latents, timestep, text, skeleton)
        unconditional, conditional = prediction.chunk(2)
        return unconditional + GUIDANCE * (conditional - unconditional)

    pipe.predict = predict
    return pipe, arguments


def controlnet(folder: Path, shape: Shape, across_frames: bool = False) -> Call:
    """ControlNet, frame by frame, or with Text2Video-Zero's attention across frames."""
    parts = _image_model(folder, shape)
    pipe = controlnet_pipeline(parts, _controlnet(parts, shape))
    if across_frames:
        attend_to_first_frame(pipe)
    return _by_frame(pipe, shape)


def t2i_adapter(folder: Path, shape: Shape) -> Call:
    """T2I-Adapter, frame by frame."""
    parts = _image_model(folder, shape)
    adapter = new_adapter(parts["unet"], parts["vae"]).to(getattr(torch, shape.dtype))
    return _by_frame(adapter_pipeline(parts, adapter), shape)


def animatediff(folder: Path, shape: Shape) -> Call:
    """AnimateDiff with ControlNet."""
    parts = _image_model(folder, shape)
    motion = new_motion(parts["unet"]).to(getattr(torch, shape.dtype))
    pipe = animatediff_pipeline(parts, motion, _controlnet(parts, shape))
    frames = {"num_frames": shape.frames, "conditioning_frames": to_images(shape.skeleton)}
    return pipe.to(shape.device), {"prompt": PROMPT, **frames, **shape.settings}


def _image_model(folder: Path, shape: Shape) -> Parts:
    return load_image_model(folder, getattr(torch, shape.dtype))


def _controlnet(parts: Parts, shape: Shape) -> ControlNetModel:
    return new_controlnet(parts["unet"], parts["vae"]).to(getattr(torch, shape.dtype))


def _by_frame(pipe: DiffusionPipeline, shape: Shape) -> Call:
    arguments = {"prompt": [PROMPT] * shape.frames, "image": to_images(shape.skeleton), **shape.settings}
    return pipe.to(shape.device), arguments


@dataclass(frozen=True)
class Variant:
    """A pipeline to measure.

    Attributes:
        make: function of a model's folder and a shape that returns the call.
        varies: whether its denoising steps differ; their mean is reported then, not their median.
        steps: number of denoising steps of a video.
        gpu: whether it needs a GPU.
    """

    make: Callable[[Path, Shape], Call]
    varies: bool = False
    steps: int = LONG
    gpu: bool = False


VARIANTS = {
    "plain": Variant(plain),
    **{name: Variant(partial(ours, **settings)) for name, settings in LOW_MEMORY.items()},
    "compile": Variant(partial(ours, compile="full")),
    "compile-bf16": Variant(partial(ours, compile="full", dtype="bfloat16")),
    "compile-regional": Variant(partial(ours, compile="regional")),
    "channels-first": Variant(channels_first, gpu=True),
    "attention-auto": Variant(partial(ours, attention="auto"), gpu=True),
    "tf32": Variant(partial(ours, tf32=True, dtype="float32"), gpu=True),
    "offload-model": Variant(partial(ours, offload="model"), gpu=True),
    "offload-group": Variant(partial(ours, offload="group"), gpu=True),
    "guidance-half": Variant(partial(ours, guidance_end=0.5), varies=True),
    "reuse-2": Variant(partial(ours, cache_interval=2), varies=True),
    "fast": Variant(partial(ours, scheduler="dpm++", cache_interval=2), varies=True, steps=20),
    "animatediff-controlnet": Variant(animatediff),
    "text2video-zero-controlnet": Variant(partial(controlnet, across_frames=True)),
    "controlnet-per-frame": Variant(controlnet),
    "t2i-adapter-per-frame": Variant(t2i_adapter),
}
GROUPS = {"memory": (*LOW_MEMORY, "offload-model", "offload-group")}  # name -> the variants that it stands for


def possible(names: Iterable[str]) -> list[str]:
    """Return the variants that can be measured on this machine; groups are replaced by their variants."""
    single = [each for name in names for each in GROUPS.get(name, (name,))]
    return [name for name in dict.fromkeys(single) if torch.cuda.is_available() or not VARIANTS[name].gpu]
