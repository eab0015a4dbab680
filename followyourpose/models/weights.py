"""Our networks <-> the layout of the weights released with Follow Your Pose (arXiv 2304.01186).

Both name the weights alike: a released state dict holds the UNet's and, as `skeleton_adapter.*`, the pose encoder's.
The released pose encoder lacks our last 1x1 convolutions, so they become identities. Folders: pipeline/convert.py.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from followyourpose.models.loading import load_every_weight
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import VideoUNet

StateDict = dict[str, Tensor]

PREFIX = "skeleton_adapter."
# Settings of ours -> the only value that the released code has.
VIDEO_SETTINGS = {"temporal_rank": 160, "clip_norm": True, "cross_frame_attention": True, "pose_fusion": "add"}


def from_released(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> tuple[VideoUNet, PoseEncoder]:
    """Build both networks from a diffusers UNet config and released weights, which include `skeleton_adapter.*`.

    The networks have the weights' dtype and share no memory with them.

    Raises:
        ValueError: the config is not Stable Diffusion 1.x's, or a weight is missing, extra or of another shape.
    """
    dtype = state_dict["conv_in.weight"].dtype if "conv_in.weight" in state_dict else torch.float32
    (unet, unet_weights), (pose_encoder, pose_weights) = hollow_networks(config, state_dict)
    for model, weights in ((unet, unet_weights), (pose_encoder, pose_weights)):
        model.to_empty(device="cpu")
        if model.dtype != dtype:
            model.to(dtype)
        load_every_weight(model, weights, "released weights")
    return unet, pose_encoder


def hollow_networks(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor]
) -> tuple[tuple[VideoUNet, StateDict], tuple[PoseEncoder, StateDict]]:
    """Return both networks without memory for their weights, and the weights of each; arguments as `from_released`."""
    # The released config has "CrossAttnDownBlock3D" where Stable Diffusion's has "...2D".
    config = {key: rename_blocks(value, "3D", "2D") for key, value in config.items()}
    unet_weights, pose_weights = split(state_dict)
    with torch.device("meta"):  # every weight is loaded, so none needs a start
        unet = VideoUNet.from_config(config)
        pose_encoder = PoseEncoder(block_out_channels=unet.config.block_out_channels)
    dtype = next(iter(pose_weights.values())).dtype if pose_weights else torch.float32
    for i, c in enumerate(unet.config.block_out_channels):
        pose_weights |= {
            f"zero_convs.{i}.weight": torch.eye(c, dtype=dtype)[..., None, None],
            f"zero_convs.{i}.bias": torch.zeros(c, dtype=dtype),
        }
    return (unet, unet_weights), (pose_encoder, pose_weights)


def to_released(unet: VideoUNet, pose_encoder: PoseEncoder) -> StateDict:
    """Return both networks' weights in the released layout, with the same result in the authors' code.

    Raises:
        ValueError: the networks differ from the released code, so that no such weights exist.
    """
    for settings, key, expected in (
        (unet.config, "layers_per_block", 2),  # the released code adds the pose after the second layer
        *((unet.config, key, value) for key, value in VIDEO_SETTINGS.items()),
        (pose_encoder.config, "layers_per_level", 2),
        (pose_encoder.config, "downscale", 8),
    ):
        if settings[key] != expected:
            raise ValueError(f"{key}: got {settings[key]}, but the released layout has {expected} there")
    if getattr(unet, "peft_config", None):
        raise ValueError(f"got a UNet with LoRAs {sorted(unet.peft_config)}; fuse and unload them first")
    for i, conv in enumerate(pose_encoder.zero_convs):
        weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
        if bias.any() or not torch.equal(weight[:, :, 0, 0], torch.eye(len(weight)).to(weight)):
            raise ValueError(
                f"pose_encoder.zero_convs.{i}: got trained weights, but the released layout has no such layer and only "
                "an identity can be left out: the way back is exact only for a released pose encoder"
            )
    pose_weights = {k: v for k, v in pose_encoder.state_dict().items() if not k.startswith("zero_convs.")}
    return merge(unet.state_dict(), pose_weights)


def split(state_dict: Mapping[str, Tensor]) -> tuple[StateDict, StateDict]:
    """Divide released weights into the UNet's and the pose encoder's, the latter without prefix."""
    unet_weights = {k: v for k, v in state_dict.items() if not k.startswith(PREFIX)}
    return unet_weights, {k.removeprefix(PREFIX): v for k, v in state_dict.items() if k.startswith(PREFIX)}


def merge(unet_weights: Mapping[str, Tensor], pose_weights: Mapping[str, Tensor]) -> StateDict:
    """Return the UNet's weights with those of a separate pose encoder (`pose_encoder.pth`) in place of their own."""
    return split(unet_weights)[0] | {PREFIX + k: v for k, v in pose_weights.items()}


def read_state_dict(path: Path) -> StateDict:
    """Read weights from a safetensors file or a PyTorch pickle; of a pickle, tensors only, nothing is executed.

    Raises:
        ValueError: the file is missing, broken, or no state dict; the message names it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state_dict = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: cannot be read as weights ({reason})") from error
    if not isinstance(state_dict, dict) or not all(isinstance(x, Tensor) for x in state_dict.values()):
        raise ValueError(f"{path}: got a {type(state_dict).__name__}, expected a state dict, a tensor by name")
    return dict(state_dict)


def rename_blocks(value: Any, old: str, new: str) -> Any:
    """Return a config's value with the names of its blocks in the other layout, "2D" or "3D"."""
    if isinstance(value, list | tuple):
        return [rename_blocks(item, old, new) for item in value]
    return value.replace(f"Block{old}", f"Block{new}") if isinstance(value, str) else value
