"""LoRAs of a run: `lora` of a config -> files and weights -> a pipeline that has them in its own weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from followyourpose.config import ConfigError, LoraEntry, find_model
from followyourpose.models.loading import LORA_NAME, weights_file

if TYPE_CHECKING:
    from followyourpose.pipeline.pipeline import FollowYourPosePipeline


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
    try:
        return LoraInput(weights_file(find_model(path, key), LORA_NAME), float(weight))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def apply_loras(pipe: "FollowYourPosePipeline", loras: list[LoraInput]) -> None:
    """Add LoRAs, times their weights, to a pipeline's own weights, in place: steps take no longer than without them.

    Raises:
        ValueError: a file holds no LoRA, or one for another base; the message names the file, the layer and the shapes.
    """
    for lora in loras:
        pipe.load_lora_weights(lora.path)
        pipe.fuse_lora(lora_scale=lora.weight)
        pipe.unload_lora_weights()
