"""The released checkpoint on disk (arXiv 2304.01186) -> a folder that generate loads, and back.

    repository  stable-diffusion-v1-4/ beside a folder of a checkpoint with pytorch_model.bin, as it lies on the hub
    state       such a folder, or a file of weights alone: all but the two networks comes from a base
    released    unet/config.json and diffusion_pytorch_model.bin, pose_encoder.pth, Stable Diffusion's other folders
    ours        as written by `save_pretrained`

Weights are read by memory map and written one after the other, so that no copy of them is made in memory.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from followyourpose.common.checks import check_choice
from followyourpose.common.files import atomic_write, new_folder, read_json
from followyourpose.models.loading import check_weights
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import VideoUNet
from followyourpose.models.weights import (
    PREFIX,
    VIDEO_SETTINGS,
    StateDict,
    hollow_networks,
    merge,
    read_state_dict,
    rename_blocks,
    split,
    to_released,
)
from followyourpose.pipeline.image_model import MARKERS, check_components, load_frame
from followyourpose.pipeline.pipeline import FollowYourPosePipeline

Layout = Literal["ours", "released"]

BASE = "stable-diffusion-v1-4"  # the base's folder in the released repository
STATES = ("model.safetensors", "pytorch_model.bin")  # weights in a folder of accelerate
UNETS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # names in a safetensors file
_CARD = """---
license: creativeml-openrail-m
---

# Follow Your Pose, converted

Weights of [Follow Your Pose](https://arxiv.org/abs/2304.01186) as its authors released them, on Stable Diffusion 1.4
and under its licence, converted by `followyourpose convert-weights` from

    {source}
    sha256 {checksum}
"""


class Source(NamedTuple):
    """Parts of a released checkpoint: its weights, the folder of its base, and a pose encoder apart or None."""

    weights: Path
    base: Path
    pose_encoder: Path | None


def convert_weights(
    source: Path,
    target: Path,
    pose_encoder: Path | None = None,
    to: Layout = "ours",
    base: Path | None = None,
) -> None:
    """Convert weights, `source`, to a new folder, `target`, which appears only when it is complete.

    Args:
        source: weights in the other layout; to "ours" any of the three at the top of this file.
        target: a new or an empty folder.
        pose_encoder: a separate `pose_encoder.pth`, in place of any in `source`; None takes the source's own.
        to: the layout of the target.
        base: a diffusers folder of Stable Diffusion 1.4, for what `source` lacks.

    Raises:
        ValueError: the target is not empty, or the source is not in the other layout, or it is incomplete.
    """
    source, target = Path(source), Path(target)
    check_choice("to", to, get_args(Layout))
    if to == "released":
        if pose_encoder is not None:
            raise ValueError(f"pose_encoder: got {pose_encoder}, expected none: our folder has its own pose encoder")
        with new_folder(target) as folder:
            _write_released(source, folder)
        return
    found = find_source(source, base, pose_encoder)
    check_components(found.base, MARKERS)  # before gigabytes are read
    with new_folder(target) as folder:
        _write_ours(found, folder)


def find_source(source: Path, base: Path | None = None, pose_encoder: Path | None = None) -> Source:
    """Return the parts of a released checkpoint, whichever layout it has.

    Raises:
        ValueError: it has none of them, or all but the two networks is missing and no base is given.
    """
    if source.is_file():
        weights, beside = source, source.parent
    elif not source.is_dir():
        raise ValueError(f"{source}: no such file or folder, expected the released checkpoint")
    elif (source / "unet").is_dir():
        files = [source / "unet" / name for name in UNETS if (source / "unet" / name).is_file()]
        if not files:
            raise ValueError(f"{source / 'unet'}: expected config.json and {' or '.join(UNETS)}")
        weights, beside, base = files[0], source, base or source
    else:
        states = [source / name for name in STATES if (source / name).is_file()]
        states = states or [file for name in STATES for file in sorted(source.glob(f"*checkpoint*/{name}"))]
        if len(states) != 1:
            raise ValueError(
                f"{source}: has no unet/ and {len(states) or 'no'} checkpoints with {' or '.join(STATES)}, expected one"
            )
        weights, beside = states[0], source
        bases = (source / BASE, source.parent / BASE)
        base = base or next((folder for folder in bases if folder.is_dir()), None)
    if base is None:
        raise ValueError(
            f"{source}: has the two networks alone; expected --base, a folder or hub id of Stable Diffusion 1.4"
        )
    if pose_encoder is None and (beside / "pose_encoder.pth").is_file():
        pose_encoder = beside / "pose_encoder.pth"
    return Source(weights, base, pose_encoder)


def _write_ours(source: Source, folder: Path) -> None:
    networks = _write_networks(source, folder)  # frees the weights before the base's other components are loaded
    components = load_frame(source.base, torch.float32)
    for name, component in components.items():
        component.save_pretrained(folder / name)
    FollowYourPosePipeline(**components, **networks).save_config(folder)
    card = _CARD.format(source=f"{source.weights.parent.name}/{source.weights.name}", checksum=_sha256(source.weights))
    atomic_write(folder / "README.md", card)


def _write_networks(source: Source, folder: Path) -> dict[str, Any]:
    """Write unet/ and pose_encoder/, and return both networks without memory for their weights."""
    state_dict = read_state_dict(source.weights)
    state_dict = {name.removeprefix("module."): weight for name, weight in state_dict.items()}  # of several GPUs
    inside = any(name.startswith(PREFIX) for name in state_dict)
    if source.pose_encoder is not None and not inside:
        state_dict = merge(state_dict, read_state_dict(source.pose_encoder))
    elif not inside:
        raise ValueError(f"{source.weights}: has no {PREFIX}* weights and no pose_encoder.pth; give pose_encoder")
    config = read_json(source.base / "unet" / "config.json")
    try:
        networks = hollow_networks(config, state_dict)
        for model, weights in networks:
            check_weights(model, weights, str(source.weights))
    except ValueError as error:
        raise ValueError(f"{source.weights}: {str(error).removeprefix(f'{source.weights}: ')}") from error
    written: dict[str, Any] = dict(zip(("unet", "pose_encoder"), networks, strict=True))
    for name, (model, weights) in written.items():
        (folder / name).mkdir()
        model.save_config(folder / name)
        write_weights(folder / name / UNETS[0], weights)
    return {name: model for name, (model, _) in written.items()}


def _write_released(source: Path, folder: Path) -> None:
    for name in ("unet", "pose_encoder"):
        if not (source / name).is_dir():
            raise ValueError(f"{source}: has no folder {name}/")
    unet = VideoUNet.from_pretrained(source / "unet")
    state_dict: StateDict = to_released(unet, PoseEncoder.from_pretrained(source / "pose_encoder"))
    config = {k: rename_blocks(v, "2D", "3D") for k, v in unet.config.items() if not k.startswith("_")}
    config = {key: value for key, value in config.items() if key not in VIDEO_SETTINGS}
    components = load_frame(source, torch.float32)
    for name, component in components.items():
        component.save_pretrained(folder / name)
    (folder / "unet").mkdir()
    config = {"_class_name": "UNet3DConditionModel", **config}
    atomic_write(folder / "unet" / "config.json", json.dumps(config, indent=2) + "\n")
    torch.save(state_dict, folder / "unet" / UNETS[1])
    torch.save(split(state_dict)[1], folder / "pose_encoder.pth")


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a safetensors file tensor by tensor: safetensors' own writer holds a second copy of all of them.

    The format is a header's length, the header as JSON, and the tensors' bytes one after the other.

    Raises:
        ValueError: a tensor's type is not float32, float16 or bfloat16.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in weights.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name}: got {tensor.dtype}, expected float32, float16 or bfloat16")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in weights.values():
            file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
