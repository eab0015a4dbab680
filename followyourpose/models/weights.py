"""Our folders <-> the layout of the weights released with Follow Your Pose (arXiv 2304.01186).

    ours      unet/ and pose_encoder/ as written by `save_pretrained`, and model_index.json for our pipeline
    released  unet/config.json, unet/diffusion_pytorch_model.bin (the pose encoder inside, as `skeleton_adapter.*`) and
              pose_encoder.pth (the pose encoder alone)

Both name the weights alike; the released pose encoder lacks our last 1x1 convolutions, so they become identities.
"""

import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import __version__ as diffusers_version
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from followyourpose.common.checks import check_choice
from followyourpose.common.files import atomic_write, new_folder, read_json
from followyourpose.models.loading import INDEX, load_every_weight
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import VideoUNet

StateDict = dict[str, Tensor]
Layout = Literal["ours", "released"]

PREFIX = "skeleton_adapter."
UNET_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# Settings of ours -> the only value that the released code has.
VIDEO_SETTINGS = {"temporal_rank": 160, "clip_norm": True, "cross_frame_attention": True, "pose_fusion": "add"}
COMPONENTS = {  # of a Stable Diffusion folder, beside the UNet -> library and class
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}


def from_released(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> tuple[VideoUNet, PoseEncoder]:
    """Build both networks from a diffusers UNet config and released weights, which include `skeleton_adapter.*`.

    The networks have the weights' dtype and share no memory with them.

    Raises:
        ValueError: the config is not Stable Diffusion 1.x's, or a weight is missing, extra or of another shape.
    """
    # The released config has "CrossAttnDownBlock3D" where Stable Diffusion's has "...2D".
    config = {key: _replace_in_names(value, "3D", "2D") for key, value in config.items()}
    unet_weights, pose_weights = split(state_dict)
    dtype = state_dict["conv_in.weight"].dtype if "conv_in.weight" in state_dict else torch.float32
    with torch.device("meta"):  # every weight is loaded, so none needs a start
        unet = VideoUNet.from_config(config)
        pose_encoder = PoseEncoder(block_out_channels=unet.config.block_out_channels)
    for i, c in enumerate(unet.config.block_out_channels):
        pose_weights |= {
            f"zero_convs.{i}.weight": torch.eye(c)[..., None, None],
            f"zero_convs.{i}.bias": torch.zeros(c),
        }
    for model, weights in ((unet, unet_weights), (pose_encoder, pose_weights)):
        model.to_empty(device="cpu")
        if model.dtype != dtype:
            model.to(dtype)
        load_every_weight(model, weights, "released weights")
    return unet, pose_encoder


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
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: cannot be read as weights ({reason})") from error
    if not isinstance(state_dict, dict) or not all(isinstance(x, Tensor) for x in state_dict.values()):
        raise ValueError(f"{path}: got a {type(state_dict).__name__}, expected a state dict, a tensor by name")
    return dict(state_dict)


def convert_weights(source: Path, target: Path, pose_encoder: Path | None = None, to: Layout = "ours") -> None:
    """Convert a folder of weights, `source`, to a new folder, `target`, which appears only when it is complete.

    VAE, text encoder, tokenizer and scheduler are copied where the source has them.

    Args:
        source: a folder in the other layout; or, to "ours", the UNet's file, of the size of Stable Diffusion 1.x.
        target: a new or an empty folder.
        pose_encoder: a separate `pose_encoder.pth`, in place of any in `source`; None takes the source's own.
        to: the layout of the target.

    Raises:
        ValueError: the target is not empty, or the source is not in the other layout.
    """
    source, target = Path(source), Path(target)
    check_choice("to", to, get_args(Layout))
    if to == "released" and pose_encoder is not None:
        raise ValueError(f"pose_encoder: got {pose_encoder}, expected none: a folder of ours has its own pose encoder")
    with new_folder(target) as folder:
        if to == "ours":
            config, state_dict = _read_released(source, pose_encoder)
            try:
                unet, encoder = from_released(config, state_dict)
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from error
            unet.save_pretrained(folder / "unet")
            encoder.save_pretrained(folder / "pose_encoder")
        else:
            _require_folders(source, "unet", "pose_encoder")
            unet = VideoUNet.from_pretrained(source / "unet")
            encoder = PoseEncoder.from_pretrained(source / "pose_encoder")
            _write_released(folder, unet, encoder)
        carried = [name for name in COMPONENTS if (source / name).is_dir()]
        for name in carried:
            shutil.copytree(source / name, folder / name)
        if to == "ours":
            _write_model_index(source, folder, carried)


def _read_released(source: Path, pose_encoder: Path | None) -> tuple[dict[str, Any], StateDict]:
    if source.is_file():
        config, state_dict, folder = {}, read_state_dict(source), source.parent
    else:
        _require_folders(source, "unet")
        files = [source / "unet" / name for name in UNET_FILES if (source / "unet" / name).is_file()]
        if not files or not (source / "unet" / "config.json").is_file():
            raise ValueError(f"{source / 'unet'}: expected config.json and {' or '.join(UNET_FILES)}")
        config = read_json(source / "unet" / "config.json")
        state_dict, folder = read_state_dict(files[0]), source
    inside = any(name.startswith(PREFIX) for name in state_dict)
    if pose_encoder is None and not inside:
        pose_encoder = folder / "pose_encoder.pth"
        if not pose_encoder.is_file():
            raise ValueError(f"{source}: has no {PREFIX}* weights and no {pose_encoder.name}; give pose_encoder")
    if pose_encoder is not None:
        state_dict = merge(state_dict, read_state_dict(Path(pose_encoder)))
    return config, state_dict


def _write_released(folder: Path, unet: VideoUNet, pose_encoder: PoseEncoder) -> None:
    state_dict = to_released(unet, pose_encoder)
    config = {k: _replace_in_names(v, "2D", "3D") for k, v in unet.config.items() if not k.startswith("_")}
    config = {key: value for key, value in config.items() if key not in VIDEO_SETTINGS}
    (folder / "unet").mkdir()
    config = {"_class_name": "UNet3DConditionModel", **config}
    atomic_write(folder / "unet" / "config.json", json.dumps(config, indent=2) + "\n")
    torch.save(state_dict, folder / "unet" / "diffusion_pytorch_model.bin")
    torch.save(split(state_dict)[1], folder / "pose_encoder.pth")


def _write_model_index(source: Path, folder: Path, carried: list[str]) -> None:
    # diffusers imports a component's module by the name written here and writes the same when it saves.
    given = read_json(source / INDEX) if (source / INDEX).is_file() else {}
    index = {
        "_class_name": "FollowYourPosePipeline",
        "_diffusers_version": diffusers_version,
        **{name: given.get(name, COMPONENTS[name]) for name in carried},
        "unet": [VideoUNet.__module__, VideoUNet.__name__],
        "pose_encoder": [PoseEncoder.__module__, PoseEncoder.__name__],
    }
    atomic_write(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _replace_in_names(value: Any, old: str, new: str) -> Any:
    if isinstance(value, list | tuple):
        return [_replace_in_names(item, old, new) for item in value]
    return value.replace(f"Block{old}", f"Block{new}") if isinstance(value, str) else value


def _require_folders(source: Path, *names: str) -> None:
    for name in names:
        if not (source / name).is_dir():
            raise ValueError(f"{source}: has no folder {name}/")
