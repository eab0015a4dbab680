"""Parts of all benchmarks: models with random weights, the device's name, a process's peak memory, printed tables."""

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import psutil
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from followyourpose.common.files import atomic_write, read_json
from followyourpose.config import REPOSITORY

SIZES = {"tiny": "puppet", "sd14": "sd14"}  # -> folder of configs
MODEL = REPOSITORY / "configs" / "puppet" / "model"
# Settings, and the attention backend, that lower memory; each after the one that it lowers.
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
    """Return an image model's networks with random weights: the puppets', or those of Stable Diffusion 1.4."""
    model = MODEL.parents[1] / SIZES[size] / "model"
    return {
        "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(model / "vae")),
        "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(model / "text_encoder")),
        "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(model / "unet")),
    }


def write_model(size: str, folder: Path) -> None:
    """Write an image model with random weights as a diffusers folder."""
    shutil.copytree(MODEL, folder)
    torch.manual_seed(0)
    if size != "tiny":
        file = folder / "tokenizer" / "tokenizer_config.json"
        atomic_write(file, json.dumps(read_json(file) | {"model_max_length": 77}))
    for name, network in networks(size).items():
        shutil.rmtree(folder / name)
        network.half().save_pretrained(folder / name)


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


class PeakMemory:
    """Peak memory, while it is entered, of the GPU, or the growth of this process's resident memory.

    Args:
        counts: whether the present memory of a process counts; a GPU's always does.
        every: seconds between two samples.
    """

    def __init__(self, counts: Callable[[], bool] = lambda: True, every: float = 0.01) -> None:
        self._counts, self._process, self._peak = counts, psutil.Process(), 0
        self._before = self._process.memory_info().rss
        self._every, self._done = every, threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def lap(self) -> int:
        """Return the peak since the last call, in bytes."""
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            return peak
        self._look()  # the shortest lap has one sample
        peak, self._peak = self._peak, 0
        return peak

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            self._look()

    def _look(self) -> None:
        if self._counts():
            self._peak = max(self._peak, self._process.memory_info().rss - self._before)


def in_new_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of `call` in a process of its own, which shares no memory with this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


class Table:
    """A table on stdout that grows row by row: a wide first column, the others aligned right under their heads."""

    def __init__(self, heads: Sequence[str], first: int = 28) -> None:
        self._format = f"{{:<{first}}}" + "".join(f"{{:>{max(8, len(head) + 2)}}}" for head in heads[1:])
        self.add(*heads)

    def add(self, *cells: str) -> None:
        """Print a row of as many cells as there are heads."""
        print(self._format.format(*cells), flush=True)
