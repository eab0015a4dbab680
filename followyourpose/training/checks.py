"""What the settings of a run must fulfil, told before anything is loaded."""

from importlib.util import find_spec

import torch

from followyourpose.config import TrainConfig

# What a configuration says -> what accelerate calls it. YAML reads a bare no as False.
PRECISIONS = {"fp32": "no", "fp16": "fp16", "bf16": "bf16", "no": "no", "False": "no"}
SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}  # all after the warm-up
OPTIMIZERS = ("adamw", "adamw8bit")
LEAST_1 = (
    "steps", "save_every", "keep_checkpoints", "log_every",
    "optim.batch_size", "optim.gradient_accumulation_steps", "optim.max_skipped",
)  # fmt: skip
SHARES = ("prompt_dropout", "prefix_shuffle", "noise_bias", "shared_noise")


def check_settings(config: TrainConfig, objectives: tuple[str, ...]) -> None:
    """Passes when every setting that can be judged by itself is in order; those of `data` are the feed's to judge.

    Args:
        objectives: the values that there are for `objective`.

    Raises:
        ValueError: names the key, what was got and what was expected.
    """
    for key, known in (
        ("objective", objectives),
        ("optim.name", OPTIMIZERS),
        ("optim.schedule", SCHEDULES),
        ("mixed_precision", PRECISIONS),
    ):
        if (value := _value(config, key)) not in known:
            raise ValueError(f"{key}: got {value!r}, expected one of {', '.join(known)}")
    for key in LEAST_1:
        if (value := _value(config, key)) < 1:
            raise ValueError(f"{key}: got {value}, expected at least 1")
    for key in SHARES:
        if not 0 <= (value := _value(config, key)) <= 1:
            raise ValueError(f"{key}: got {value}, expected a share from 0 to 1")
    for key in ("data.cache", "gradient_checkpointing"):
        if (value := _value(config, key)) and config.objective != "denoise":
            raise ValueError(f"{key}: got {value}, which is for objective denoise; this one is {config.objective}")
    if (changes := config.network.changes()) and (config.objective != "denoise" or "unet" in config.scratch):
        raise ValueError(f"network: got {changes}, which is for a video UNet; this run trains none")
    _check_lora(config)
    if config.optim.name == "adamw8bit" and not (find_spec("bitsandbytes") and torch.cuda.is_available()):
        raise ValueError(
            "optim.name: got 'adamw8bit', which needs a CUDA GPU and `pip install \"followyourpose[bnb]\"`"
        )
    if config.validation.every > 0 and config.objective != "denoise":
        raise ValueError(f"validation.every: got {config.validation.every}, expected 0: only denoise draws videos")
    if config.validation.every > 0 and not config.validation.prompts:
        raise ValueError("validation.prompts: got none, expected one at least where validation.every is above 0")


def _check_lora(config: TrainConfig) -> None:
    rank, alpha = config.lora.rank, config.lora.alpha
    if rank is None:
        return
    if rank < 1:
        raise ValueError(f"lora.rank: got {rank}, expected at least 1, or null for no LoRA")
    if alpha is not None and not 0 < alpha < float("inf"):
        raise ValueError(f"lora.alpha: got {alpha}, expected a number above 0")
    if config.objective != "denoise" or "unet" in config.scratch:
        got = "unet is among scratch" if config.objective == "denoise" else f"the objective is {config.objective}"
        raise ValueError(f"lora.rank: got {rank}, expected a trained UNet to add to, but {got}")


def _value(config: TrainConfig, key: str):
    value = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
