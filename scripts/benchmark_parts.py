"""What the benchmarks share: models with random weights, the device's name, and a process's peak memory."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from followyourpose.config import REPOSITORY

SIZES = {"tiny": "puppet", "sd14": "sd14"}  # -> the configs that are measured
MODEL = REPOSITORY / "configs" / "puppet" / "model"
# What lowers memory, after what it lowers: the settings, and `attention`.
LOW_MEMORY: dict[str, dict[str, Any]] = {
    "ours": {},
    "bf16": {"dtype": "bfloat16"},
    "int8-weights": {"weights": "int8"},
    "float8-weights": {"weights": "float8"},
    "decode-1": {"decode_chunk_size": 1},
    "vae-tiling": {"vae_tiling": True},
    "attention-scores": {"attention": "_native_math"},
    "attention-chunk": {"attention": "_native_math", "attention_chunk": 256},
    "low-memory": {"dtype": "bfloat16", "weights": "int8", "decode_chunk_size": 1, "vae_tiling": True},
}


def networks(size: str) -> dict[str, torch.nn.Module]:
    """An image model's networks with random weights: the puppets', or those of Stable Diffusion 1.4."""
    if size != "tiny":
        return _sd14()
    return {
        "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(MODEL / "vae")),
        "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(MODEL / "text_encoder")),
        "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(MODEL / "unet")),
    }


def write_model(size: str, folder: Path) -> None:
    """Writes such an image model as a diffusers folder."""
    shutil.copytree(MODEL, folder)
    torch.manual_seed(0)
    if size != "tiny":
        file = folder / "tokenizer" / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 77}))
    for name, network in networks(size).items():
        shutil.rmtree(folder / name)
        network.half().save_pretrained(folder / name)


def _sd14() -> dict[str, torch.nn.Module]:
    """Stable Diffusion 1.4's VAE, text encoder and image UNet with random weights, by their folders' names."""
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, sample_size=512,
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=77,
    )  # fmt: skip
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # diffusers' own defaults are 1.x's
    return {"vae": vae, "text_encoder": CLIPTextModel(text), "unet": unet}


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


class PeakMemory:
    """Watches how much memory is taken at most: of the GPU, or what this process's resident memory grew by.

    Args:
        counts: whether what is taken at the moment counts; of a GPU's, all does.
        every: seconds between two looks.
    """

    def __init__(self, counts: Callable[[], bool] = lambda: True, every: float = 0.01) -> None:
        self._counts, self._process, self._peak = counts, psutil.Process(), 0
        self._before = self._process.memory_info().rss
        threading.Thread(target=self._watch, args=(every,), daemon=True).start()

    def lap(self) -> int:
        """The most since this was last asked, in bytes."""
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            return peak
        self._look()  # no lap is too short for one look
        peak, self._peak = self._peak, 0
        return peak

    def _watch(self, every: float) -> None:
        while True:
            self._look()
            time.sleep(every)

    def _look(self) -> None:
        if self._counts():
            self._peak = max(self._peak, self._process.memory_info().rss - self._before)


def in_new_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """What `call` returns in a process of its own, which has nothing of this one's memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()
