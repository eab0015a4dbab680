"""The repository of the released checkpoint as it lies on the hub: small, or at full size with random weights."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import VideoUNet
from followyourpose.models.weights import split, to_released
from followyourpose.pipeline.convert import BASE
from tests.fixtures import randomise
from tests.tiny import DDIM, identity_start, image_unet, vae, write_image_model

STATE = "followyourpose_checkpoint-1000"
_PICKLES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "pytorch_model"}


def write_released(folder: Path) -> tuple[VideoUNet, PoseEncoder]:
    """Write it small, Stable Diffusion in pickles beside a state of accelerate, and return the two networks in it."""
    base = write_image_model(folder / BASE)
    vae((8, 8, 8, 8)).save_pretrained(base / "vae")
    for part, name in _PICKLES.items():
        (weights,) = (base / part).glob("*.safetensors")
        torch.save(load_file(weights), base / part / f"{name}.bin")
        weights.unlink()
    settings = {key: value for key, value in DDIM.items() if key != "clip_sample"}
    PNDMScheduler(**settings, skip_prk_steps=True).save_pretrained(base / "scheduler")
    torch.manual_seed(0)
    unet = randomise(VideoUNet.from_config(dict(image_unet().config)))
    pose_encoder = PoseEncoder(block_out_channels=unet.config.block_out_channels)
    identity_start(pose_encoder)
    state_dict = to_released(unet, pose_encoder)
    (folder / STATE).mkdir()
    torch.save(state_dict, folder / STATE / "pytorch_model.bin")
    torch.save({"state": {}}, folder / STATE / "optimizer.bin")
    (folder / STATE / "random_states_0.pkl").write_bytes(b"not to be read")
    torch.save(split(state_dict)[1], folder / "pose_encoder.pth")
    return unet, pose_encoder


def write_full_size(folder: Path) -> None:
    """Write it at Stable Diffusion 1.4's shapes, with random weights."""
    base = write_image_model(folder / BASE)
    levels = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=levels[0], up_block_types=levels[1],
        layers_per_block=2, latent_channels=4, sample_size=512,
    ).save_pretrained(base / "vae")  # fmt: skip
    vocabulary = len(json.loads((base / "tokenizer" / "vocab.json").read_text()))
    CLIPTextModel(CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=77, bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1,
    )).save_pretrained(base / "text_encoder")  # fmt: skip
    config = {
        "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
        "cross_attention_dim": 768, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    }  # fmt: skip
    (base / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel", **config}))
    unet = VideoUNet.from_config(config)
    pose_encoder = PoseEncoder(block_out_channels=config["block_out_channels"])
    identity_start(pose_encoder)
    (folder / STATE).mkdir()
    torch.save(to_released(unet, pose_encoder), folder / STATE / "pytorch_model.bin")
