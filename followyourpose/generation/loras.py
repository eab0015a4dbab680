"""LoRAs of a run: `lora` of a config -> files and weights -> a pipeline that has them in its own weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from followyourpose.config import ConfigError, LoraEntry, find_model

if TYPE_CHECKING:
    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt")
USUAL_NAME = "pytorch_lora_weights.safetensors"  # diffusers'


@dataclass(frozen=True)
class LoraInput:
    """A file of LoRA weights, and the factor of its additions."""

    path: Path
    weight: float = 1.0


def open_loras(entries: Any) -> list[LoraInput]:
    """Return the LoRAs of a run, in order: a path, a mapping with `path` and `weight`, or a list of these; None: none.

    Raises:
        ConfigError: an entry is neither, a weight is no number, or a file is missing.
    """
    if not isinstance(entries, list):
        entries = [] if entries is None else [entries]
    return [_open(*each) for each in enumerate(entries)]


def _open(index: int, entry: Any) -> LoraInput:
    key = f"lora[{index}]"
    fields = vars(entry) if isinstance(entry, LoraEntry) else entry if isinstance(entry, dict) else {"path": entry}
    if unknown := sorted(map(str, fields.keys() - {"path", "weight"})):
        raise ConfigError(f"{key}: unknown key {unknown[0]}, expected path and weight")
    path, weight = fields.get("path"), fields.get("weight", 1.0)
    if not isinstance(path, str):
        raise ConfigError(f"{key}: got {entry!r}, expected a path or {{path: ..., weight: 0.8}}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not np.isfinite(weight):
        raise ConfigError(f"{key}: got weight {weight!r}, expected a number")
    return LoraInput(_file(find_model(path, key), key), float(weight))


def _file(path: Path, key: str) -> Path:
    """Return the file at a path, or the one file of weights in the folder there."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"{key}: {path}: no such file, expected a LoRA ({', '.join(SUFFIXES)}) or its folder")
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    chosen = [file for file in found if file.name == USUAL_NAME] or found
    if len(chosen) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ConfigError(f"{key}: {path}: got {names}, expected one file of weights, or one called {USUAL_NAME}")
    return chosen[0]


def apply_loras(pipe: "FollowYourPosePipeline", loras: list[LoraInput]) -> None:
    """Add LoRAs, times their weights, to a pipeline's own weights, in place: steps take no longer than without them.

    Raises:
        ValueError: a file holds no LoRA, or one for another base; the message names the file, the layer and the shapes.
    """
    for lora in loras:
        pipe.load_lora_weights(lora.path)
        pipe.fuse_lora(lora_scale=lora.weight)
        pipe.unload_lora_weights()
