"""Tiny models for tests: a Stable Diffusion 1.x folder, and the same model as one file under its original names."""

import json
import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from followyourpose.models.pose_encoder import PoseEncoder

TEXT_WIDTH = 24
TOKENS = 12
DDIM = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def identity_start(pose_encoder: PoseEncoder) -> None:
    """Set the last convolution of every level to the identity, in place: the same as the released encoder's none."""
    for zero_conv in pose_encoder.zero_convs:
        torch.nn.init.dirac_(zero_conv.weight)
        torch.nn.init.zeros_(zero_conv.bias)


def image_unet(layers: int = 2) -> UNet2DConditionModel:
    """Stable Diffusion 1.x's UNet, small: latents of 16 x 16, two levels of `layers` layers on the way down."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=layers,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def vae(channels: tuple[int, ...] = (8, 8)) -> AutoencoderKL:
    """A VAE of factor 2^(levels - 1)."""
    levels = len(channels)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        scaling_factor=0.18215,
    )


def text_encoder(vocabulary: int) -> CLIPTextModel:
    """CLIP's text model, small; the last two tokens of the vocabulary are start and end."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return CLIPTextModel(config)


def write_tokenizer(folder: Path) -> int:
    """Writes a CLIP tokenizer that knows letters and a few syllables; gives the size of its vocabulary."""
    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("a", "n")]
    tokens = [*letters, *(f"{x}</w>" for x in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(tokens)


def write_image_model(folder: Path, layers: int = 2) -> Path:
    """Writes a whole Stable Diffusion 1.x folder with random weights; its VAE has factor 2, its images 32 pixels."""
    torch.manual_seed(0)
    vocabulary = write_tokenizer(folder / "tokenizer")
    image_unet(layers).save_pretrained(folder / "unet")
    vae().save_pretrained(folder / "vae")
    text_encoder(vocabulary).save_pretrained(folder / "text_encoder")
    DDIMScheduler(**DDIM).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


# ---- the original names ---------------------------------------------------------------------------------------------

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_single_file(folder: Path, path: Path) -> Path:
    """Writes the model of a diffusers folder as one safetensors file, as Stable Diffusion 1.x was first released."""
    weights = {}
    for name, tensor in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        weights["model.diffusion_model." + _original_unet_name(name)] = tensor
    for name, tensor in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        weights["first_stage_model." + _original_vae_name(name)] = _original_vae_tensor(name, tensor)
    for name, tensor in load_file(folder / "text_encoder" / "model.safetensors").items():
        name = name.removeprefix("text_model.")
        weights["cond_stage_model.transformer.text_model." + name] = tensor
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path


def _original_unet_name(name: str, layers: int = 2) -> str:
    for ours, original in UNET_ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, original)
    head, rest = re.match(r"((?:down|up)_blocks\.\d+\.\w+\.\d+|mid_block\.\w+\.\d+)\.(.*)", name).groups()
    block, *middle, kind, i = head.split(".")
    i = int(i)
    if kind == "resnets":
        rest = re.sub(r"^\w+", lambda match: RESNET[match[0]], rest)
    if block == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * i}.{rest}"
    level, within = int(middle[0]), {"resnets": 0, "attentions": 1}.get(kind)
    if block == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{1 + level * (layers + 1) + i}.{within}.{rest}"
    if kind == "upsamplers":
        return f"output_blocks.{level * (layers + 1) + layers}.{1 if level == 0 else 2}.{rest}"
    return f"output_blocks.{level * (layers + 1) + i}.{within}.{rest}"


def _original_vae_name(name: str, levels: int = 2) -> str:
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    pattern = rf"mid_block\.attentions\.0\.({'|'.join(VAE_ATTENTION)})"
    return re.sub(pattern, lambda m: f"mid.attn_1.{VAE_ATTENTION[m[1]]}", name)


def _original_vae_tensor(name: str, tensor: Tensor) -> Tensor:
    is_projection = ".attentions." in name and "group_norm" not in name and name.endswith("weight")
    return tensor[:, :, None, None] if is_projection else tensor  # there, attention projects by 1x1 convolutions
