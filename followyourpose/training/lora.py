"""LoRA (Hu et al. 2021, arXiv 2106.09685): low-rank additions to a frozen UNet, trained by the one loop.

A layer W with a LoRA computes W x + alpha / rank * B A x, where A starts random and B at zero.
"""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from peft import LoraConfig as PeftConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from followyourpose.config import LoraConfig
from followyourpose.models.unet import VideoUNet
from followyourpose.training.trainable import matched

_ADAPTER = "default"  # peft's name of the LoRA


def add_lora(unet: UNet2DConditionModel | VideoUNet, config: LoraConfig) -> None:
    """Add a LoRA to a UNet, in place; its parameters are named ...to_q.lora_A.default.weight and ...lora_B....

    Raises:
        ValueError: a pattern of `config.targets` matches no linear layer or convolution.
    """
    layers = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    chosen = matched("lora.targets", config.targets, layers, "layers")
    if not chosen:
        raise ValueError("lora.targets: got none, expected regular expressions on names of layers")
    alpha = config.rank if config.alpha is None else config.alpha
    unet.add_adapter(PeftConfig(r=config.rank, lora_alpha=alpha, target_modules=sorted(chosen)), _ADAPTER)


def merge_lora(unet: UNet2DConditionModel | VideoUNet) -> None:
    """Add a UNet's LoRA to the weights below it, in place, and remove it."""
    unet.fuse_lora()
    unet.unload_lora()


def save_lora(
    weights: dict[str, Tensor], config: LoraConfig, folder: Path, base: dict[str, str], dtype: torch.dtype
) -> None:
    """Write a run's weights as a LoRA file of diffusers' format, `folder`/pytorch_lora_weights.safetensors.

    B is scaled by alpha / rank: a file without alpha is read as one whose alpha is the rank.

    Args:
        weights: by names such as "unet.mid_block...to_q.lora_A.default.weight".
        base: the file's metadata, about the model that it was trained on.
        dtype: of the file.
    """
    scale = 1.0 if config.alpha is None else config.alpha / config.rank
    scaled = {name: tensor * scale if ".lora_B." in name else tensor for name, tensor in weights.items()}
    stored = {name.replace(f".{_ADAPTER}.", "."): tensor.to(dtype).contiguous() for name, tensor in scaled.items()}
    save_file(stored, folder / LORA_WEIGHT_NAME_SAFE, {"format": "pt", **base})
