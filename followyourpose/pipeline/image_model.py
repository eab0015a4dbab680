"""Reads a Stable Diffusion 1.x model, a diffusers folder or one file of weights, as parts for Follow Your Pose."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint
from transformers import CLIPTextModel, CLIPTokenizer

from followyourpose.models.unet import VideoUNet

EXPECTED = "expected Stable Diffusion 1.x"
MARKERS = {  # what each component's folder must hold, beside weights
    "vae": ("config.json",),
    "text_encoder": ("config.json",),
    "tokenizer": ("vocab.json", "tokenizer.json"),
    "unet": ("config.json",),
    "scheduler": ("scheduler_config.json",),
}
# What a scheduler config of 2022 leaves unsaid, diffusers' DDIM would fill in for pixels, not for latents.
LATENT_DDIM = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


def load_image_model(path: str | Path, dtype: torch.dtype, config: str | Path | None = None) -> dict[str, Any]:
    """Loads vae, text_encoder, tokenizer, unet (the image model's) and scheduler (a DDIM) of Stable Diffusion 1.x.

    Args:
        path: a diffusers folder, or a single .safetensors or .ckpt file.
        dtype: of the loaded weights.
        config: for a single file, a diffusers folder that has its configs and tokenizer; None lets diffusers take
            those of Stable Diffusion 1.5 from its cache or the hub.

    Raises:
        ValueError: nothing is there, a component is missing or broken, or it is no Stable Diffusion 1.x.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path, dtype)
    if path.is_file():
        return _load_file(path, dtype, None if config is None else Path(config))
    raise ValueError(f"{path}: got nothing there, expected a folder or a file of Stable Diffusion 1.x")


def check_folder(folder: Path, names: Mapping[str, tuple[str, ...]]) -> None:
    """Passes when every component named has its folder with one of the files named.

    Raises:
        ValueError: names the folder and the missing component.
    """
    for name, files in names.items():
        if not any((folder / name / file).is_file() for file in files):
            raise ValueError(f"{folder}: component {name!r} is missing; expected {name}/{' or '.join(files)} there")


def _load_folder(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    check_folder(folder, MARKERS)
    _check_unet_config(folder / "unet" / "config.json", UNet2DConditionModel.load_config(folder / "unet"))
    return {
        "vae": _read(folder / "vae", _strict(AutoencoderKL), torch_dtype=dtype),
        "text_encoder": _read(folder / "text_encoder", _strict(CLIPTextModel), dtype=dtype),
        "tokenizer": _read(folder / "tokenizer", CLIPTokenizer.from_pretrained),
        "unet": _read(folder / "unet", _strict(UNet2DConditionModel), torch_dtype=dtype),
        "scheduler": _ddim(DDIMScheduler.load_config(folder / "scheduler")),
    }


def _load_file(file: Path, dtype: torch.dtype, config: Path | None) -> dict[str, Any]:
    checkpoint = _read(file, load_single_file_checkpoint)
    if not any(name.startswith("model.diffusion_model.") for name in checkpoint):
        names = ", ".join(list(checkpoint)[:3]) or "none"
        raise ValueError(f"{file}: got no weights model.diffusion_model.* (there are: {names}), {EXPECTED}")
    kind = infer_diffusers_model_type(checkpoint)
    del checkpoint  # some gigabytes, which the pipeline below reads once more
    if kind != "v1":
        raise ValueError(f"{file}: got a model of diffusers' type {kind!r}, {EXPECTED}")
    if config is not None:
        check_folder(config, MARKERS)
        _check_unet_config(config / "unet" / "config.json", UNet2DConditionModel.load_config(config / "unet"))
    pipe = _read(
        file,
        StableDiffusionPipeline.from_single_file,
        "" if config else "; without `config`, a folder with configs and tokenizer, those of the hub are needed",
        config=None if config is None else str(config),
        torch_dtype=dtype,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    parts = {name: getattr(pipe, name) for name in MARKERS}
    return parts | {"scheduler": _ddim(dict(pipe.scheduler.config))}


def _check_unet_config(file: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("_class_name", UNet2DConditionModel.__name__)
    if kind != UNet2DConditionModel.__name__:
        raise ValueError(f"{file}: got a {kind}, expected Stable Diffusion 1.x's {UNet2DConditionModel.__name__}")
    try:
        with init_empty_weights():  # the config alone can tell, before gigabytes are read
            VideoUNet.from_config(dict(config))
    except ValueError as error:
        raise ValueError(f"{file}: {error}; {EXPECTED}") from error


def _ddim(config: Mapping[str, Any]) -> DDIMScheduler:
    return DDIMScheduler.from_config({**LATENT_DDIM, **config})


def _strict(model: type) -> Callable[..., Any]:
    """A `from_pretrained` to which a weight that the model needs and the folder lacks is an error, not a warning."""

    def load(path: Path, **kwargs: Any) -> Any:
        loaded, info = model.from_pretrained(path, output_loading_info=True, **kwargs)
        for problem in ("missing_keys", "mismatched_keys"):
            if info[problem]:
                raise ValueError(f"{problem.replace('_', ' ')}, e.g. {sorted(map(str, info[problem]))[:3]}")
        return loaded

    return load


def _read(path: Path, load: Callable[..., Any], hint: str = "", **kwargs: Any) -> Any:
    """Calls `load`, and says in one line which file it was if it fails."""
    try:
        return load(str(path), **kwargs)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path}: cannot be read as {EXPECTED.removeprefix('expected ')} ({reason}){hint}") from error
