"""Inflation (Follow Your Pose, arXiv 2304.01186): an image UNet's weights -> the video UNet, all used, nothing lost."""

from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from followyourpose.models.unet import VideoUNet

# What the video UNet has and the image UNet has not; it keeps its start, an identity.
NEW_LAYERS = ("attn_temp", "norm_temp", "conv_temporal", "pose_concat")


def inflate(unet: UNet2DConditionModel | VideoUNet, settings: Mapping[str, Any] | None = None) -> VideoUNet:
    """Makes the video UNet that, on one frame, is exactly the given image UNet. See `inflate_weights`.

    A video UNet keeps what it has learned, and gets these settings.
    """
    return inflate_weights(unet.config, unet.state_dict(), settings)


def inflate_weights(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor], settings: Mapping[str, Any] | None = None
) -> VideoUNet:
    """Makes the video UNet of an image UNet given as diffusers config and weights; it has the weights' dtype.

    Args:
        settings: of `VideoUNet`, in place of its defaults; None: the paper's network.

    The output projection of the temporal attention and `conv_temporal.up` start at zero, so both new layers start as
    identities. The temporal attention must: with a random output projection (or one copied from the image's
    self-attention) the network would be no image model any more before its first training step.

    Raises:
        ValueError: the config is not Stable Diffusion 1.x's, or a weight is missing, extra or of another shape.
    """
    config = {key: value for key, value in config.items() if key != "_use_default_values"}  # diffusers' note, void here
    unet = VideoUNet.from_config({**config, **(settings or {})})
    new = [name for name in unet.state_dict() if any(f".{layer}." in name for layer in NEW_LAYERS)]
    load_every_weight(unet, state_dict, "image UNet", may_miss=new)
    dtype = state_dict["conv_in.weight"].dtype
    return unet if dtype == unet.dtype else unet.to(dtype)


def load_every_weight(
    model: nn.Module, state_dict: Mapping[str, Tensor], source: str, may_miss: list[str] | None = None
) -> None:
    """Copies weights into a model by name, in place. `may_miss` names those that may keep their start; None is none.

    Raises:
        ValueError: a weight is missing, extra or of another shape; the message names `source` and the first keys.
    """
    own = model.state_dict()
    missing = own.keys() - state_dict.keys() - set(may_miss or [])
    extra = state_dict.keys() - own.keys()
    reshaped = [name for name in own.keys() & state_dict.keys() if own[name].shape != state_dict[name].shape]
    problems = []
    for problem, names in (("missing", missing), ("not expected", extra), ("of another shape", reshaped)):
        if names:
            problems.append(f"{len(names)} {problem}, e.g. {', '.join(sorted(names)[:3])}")
    if problems:
        raise ValueError(f"{source}: got weights that do not fit {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict(state_dict, strict=False)
