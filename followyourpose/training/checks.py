"""Checks of a run's settings against this machine; those of single settings stand in config/training.py."""

from importlib.util import find_spec

import torch

from followyourpose.config import TrainConfig

# mixed_precision -> accelerate's name of it; schedule -> diffusers', all after the warm-up.
PRECISIONS = {"fp32": "no", "fp16": "fp16", "bf16": "bf16", "no": "no"}
SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}


def check_machine(config: TrainConfig) -> None:
    """Raise a ValueError where a setting needs what this machine does not have."""
    if config.optim.name == "adamw8bit" and not (find_spec("bitsandbytes") and torch.cuda.is_available()):
        raise ValueError(
            "optim.name: got 'adamw8bit', which needs a CUDA GPU and `pip install \"followyourpose[bnb]\"`"
        )
