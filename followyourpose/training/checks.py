"""Checks of a run's settings against this machine; those of single settings stand in config/training.py."""

from importlib.util import find_spec

import torch

from followyourpose.config import TrainConfig

PRECISIONS = {"fp32": "no", "fp16": "fp16", "bf16": "bf16", "no": "no"}  # mixed_precision -> accelerate's name of it
SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}  # -> diffusers' name


def check_machine(config: TrainConfig) -> None:
    """Raise a ValueError where this machine lacks what a setting needs."""
    if config.optim.name == "adamw8bit" and not (find_spec("bitsandbytes") and torch.cuda.is_available()):
        raise ValueError(
            "optim.name: got 'adamw8bit', which needs a CUDA GPU and `pip install \"followyourpose[bnb]\"`"
        )
