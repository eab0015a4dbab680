"""A run's folder: all that a run writes, and all that it resumes from.

config.yaml                   the run's settings, every default included
log.jsonl                     one line per `log_every` steps
checkpoint-STEP/              weights, moving average and optimiser state; only the newest is kept
weights.safetensors           what a finished run trained, by component and parameter name
weights_ema.safetensors       its moving average, where the run keeps one
"""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from followyourpose.config import TrainConfig, load_config, save_config

# What may change when a run goes on: how long, and how often it writes. Everything else must be as it was.
_FREE = ("output", "steps", "save_every", "log_every")


class RunDir:
    """Opens `config.output`: a new run, or the one that is there if its settings are the same.

    Nothing is written before the first step's log or checkpoint: a command that could not start can be corrected.

    Raises:
        ValueError: the folder holds another run's settings (the first differing key is named), or other files.
    """

    def __init__(self, config: TrainConfig, main: bool = True) -> None:
        self.path, self.main, self.config = Path(config.output), main, config
        stored = self.path / "config.yaml"
        if stored.exists():
            before = _flat(asdict(load_config(TrainConfig, stored)))
            for key, value in _flat(asdict(config)).items():
                if key not in _FREE and before[key] != value:
                    raise ValueError(
                        f"{self.path}: holds a run with {key}: {before[key]}, got {value}; "
                        "choose another output, or the settings it was started with"
                    )
        elif self.path.exists() and any(p.suffix != ".partial" for p in self.path.iterdir()):
            raise ValueError(f"{self.path}: is not empty and holds no run; choose another output")

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = [p for p in self.path.glob("checkpoint-*") if p.suffix != ".partial"]
        return sorted(found, key=lambda p: int(p.name.split("-")[1]))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict] | None:
        """The newest checkpoint's weights, moving average and state; None where there is none yet."""
        checkpoints = self.checkpoints()
        if not checkpoints:
            return None
        newest = checkpoints[-1]
        average = newest / "weights_ema.safetensors"
        state = torch.load(newest / "state.pt", map_location="cpu", weights_only=True)
        return load_file(newest / "weights.safetensors"), load_file(average) if average.exists() else {}, state

    def save(self, weights: dict[str, Tensor], average: dict[str, Tensor], state: dict) -> None:
        """Writes a checkpoint under a temporary name, renames it, and only then removes the older ones."""
        if not self.main:
            return
        self._write_config()
        target = self.path / f"checkpoint-{state['step']:07d}"
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _save_weights(weights, partial / "weights.safetensors")
        if average:
            _save_weights(average, partial / "weights_ema.safetensors")
        torch.save(state, partial / "state.pt")
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        for old in self.checkpoints()[:-1]:
            shutil.rmtree(old)

    def finish(self) -> None:
        """Puts the newest checkpoint's weights where a finished run's are looked for."""
        if self.main:
            for file in self.checkpoints()[-1].glob("*.safetensors"):
                shutil.copyfile(file, self.path / f"{file.name}.partial")
                os.replace(self.path / f"{file.name}.partial", self.path / file.name)

    def log(self, row: dict[str, float]) -> None:
        if self.main:
            self._write_config()
            with open(self.path / "log.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")

    def _write_config(self) -> None:
        partial = self.path / "config.yaml.partial"
        self.path.mkdir(parents=True, exist_ok=True)
        save_config(self.config, partial)
        os.replace(partial, self.path / "config.yaml")


def trained_weights(run: Path) -> dict[str, Tensor]:
    """What a finished run trained: its moving average if it keeps one, else the last weights.

    Raises:
        ValueError: the run has not finished.
    """
    for name in ("weights_ema.safetensors", "weights.safetensors"):
        if (run / name).exists():
            return load_file(run / name)
    raise ValueError(f"{run}: the run has not finished (no weights.safetensors); run its train command again")


def is_run(folder: str | Path) -> bool:
    """Whether a folder is a run's, finished or not."""
    return (Path(folder) / "config.yaml").is_file()


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key: {"optim": {"betas": x}} -> {"optim.betas": x}."""
    flat = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _save_weights(weights: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, path)
