"""Diffusers' pipelines of other systems, each on one frozen image model and a network of its own.

`parts` are those of `load_image_model`: vae, text_encoder, tokenizer, unet and scheduler.
"""

from typing import Any

import numpy as np
from diffusers import (
    AnimateDiffControlNetPipeline,
    ControlNetModel,
    MotionAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    T2IAdapter,
)
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import (
    CrossFrameAttnProcessor2_0,
)
from PIL import Image

Parts = dict[str, Any]
UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def controlnet_pipeline(parts: Parts, controlnet: ControlNetModel) -> StableDiffusionControlNetPipeline:
    """ControlNet, frame by frame (Zhang et al. 2023, arXiv 2302.05543)."""
    return StableDiffusionControlNetPipeline(**parts, controlnet=controlnet, **UNCHECKED)


def adapter_pipeline(parts: Parts, adapter: T2IAdapter) -> StableDiffusionAdapterPipeline:
    """T2I-Adapter, frame by frame (Mou et al. 2023, arXiv 2302.08453)."""
    return StableDiffusionAdapterPipeline(**parts, adapter=adapter, **UNCHECKED)


def animatediff_pipeline(
    parts: Parts, motion: MotionAdapter, controlnet: ControlNetModel
) -> AnimateDiffControlNetPipeline:
    """AnimateDiff with ControlNet (Guo et al. 2023, arXiv 2307.04725)."""
    return AnimateDiffControlNetPipeline(**parts, motion_adapter=motion, controlnet=controlnet)


def attend_to_first_frame(pipe: StableDiffusionControlNetPipeline, videos: int = 1) -> None:
    """Text2Video-Zero's attention: all frames of a video to its first (Khachatryan et al. 2023, arXiv 2303.13439).

    Args:
        videos: number of videos in a batch, with as many frames each.
    """
    for network in (pipe.unet, pipe.controlnet):
        network.set_attn_processor(CrossFrameAttnProcessor2_0(batch_size=2 * videos))  # two halves of guidance


def to_images(frames: np.ndarray) -> list[Image.Image]:
    """Frames (f, H, W, 3) uint8 as diffusers takes them."""
    return [Image.fromarray(frame) for frame in frames]
