"""Inflation (Follow Your Pose, arXiv 2304.01186): an image UNet's weights -> the video UNet, every weight used."""

from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor

from followyourpose.models.loading import load_every_weight
from followyourpose.models.unet import VideoUNet

# Layers that only the video UNet has; inflation leaves them at their start, an identity.
NEW_LAYERS = ("attn_temp", "norm_temp", "conv_temporal", "pose_concat")


def inflate(unet: UNet2DConditionModel | VideoUNet, settings: Mapping[str, Any] | None = None) -> VideoUNet:
    """Return the video UNet that, on one frame, is exactly the given image UNet; see `inflate_weights`.

    A video UNet keeps its trained weights and gets these settings.
    """
    return inflate_weights(unet.config, unet.state_dict(), settings)


def inflate_weights(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor], settings: Mapping[str, Any] | None = None
) -> VideoUNet:
    """Return the video UNet of an image UNet, given as diffusers config and weights, in the weights' dtype.

    The output projection of the temporal attention and `conv_temporal.up` start at zero, so both new layers start as
    identities. The temporal attention must: with a random output projection (or one copied from the image's
    self-attention) the network would be no image model any more before its first training step.

    Args:
        settings: of `VideoUNet`, in place of its defaults; None: the paper's network.

    Raises:
        ValueError: the config is not Stable Diffusion 1.x's, or a weight is missing, extra or of another shape.
    """
    config = {key: value for key, value in config.items() if key != "_use_default_values"}  # diffusers' note, void here
    unet = VideoUNet.from_config({**config, **(settings or {})})
    new = [name for name in unet.state_dict() if any(f".{layer}." in name for layer in NEW_LAYERS)]
    load_every_weight(unet, state_dict, "image UNet", may_miss=new)
    dtype = state_dict["conv_in.weight"].dtype
    return unet if dtype == unet.dtype else unet.to(dtype)
