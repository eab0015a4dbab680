"""Stable Diffusion 1.x from a diffusers folder or one file of weights, as the components of a pipeline."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint
from transformers import CLIPTextModel, CLIPTokenizer

from followyourpose.common.files import read_json
from followyourpose.hub.places import place_of
from followyourpose.hub.registry import DOWNLOADS
from followyourpose.models.loading import load_network, quiet, weights_file
from followyourpose.models.unet import VideoUNet

EXPECTED = "expected Stable Diffusion 1.x"
MARKERS = {  # files of each component's folder beside its weights, one of which must be there
    "vae": ("config.json",),
    "text_encoder": ("config.json",),
    "tokenizer": ("vocab.json", "tokenizer.json"),
    "unet": ("config.json",),
    "scheduler": ("scheduler_config.json",),
}
BASES = ("sd15", "sd14")  # downloads of Stable Diffusion 1.x, whose configs and tokenizer serve all of its single files
VAE_NAME = "diffusion_pytorch_model.safetensors"
# Settings that a scheduler config of 2022 lacks; diffusers' DDIM would fill in those of pixels, not of latents.
LATENT_DDIM = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


def load_image_model(path: str | Path, dtype: torch.dtype, config: str | Path | None = None) -> dict[str, Any]:
    """Load vae, text_encoder, tokenizer, unet (the image model's) and scheduler (a DDIM) of Stable Diffusion 1.x.

    Args:
        path: a diffusers folder, or a single .safetensors or .ckpt file.
        dtype: of the loaded weights.
        config: for a single file, a diffusers folder with its configs and tokenizer; None: `base_configs`, and where
            there are none diffusers takes those of Stable Diffusion 1.5 from its cache or the hub.

    Raises:
        ValueError: nothing is there, a component is missing or broken, or it is no Stable Diffusion 1.x.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path, dtype)
    if path.is_file():
        return _load_file(path, dtype, base_configs() if config is None else Path(config))
    raise ValueError(f"{path}: no such folder or file, {EXPECTED}")


def base_configs() -> Path | None:
    """Return a folder of Stable Diffusion 1.x that has been downloaded, for its configs and tokenizer; None: none."""
    folders = [place_of(DOWNLOADS[name]) for name in BASES]
    return next((folder for folder in folders if (folder / "unet" / "config.json").is_file()), None)


def _check_folder(folder: Path) -> None:
    """Raise a ValueError that names the folder and the component unless all are there, of Stable Diffusion 1.x."""
    check_components(folder, MARKERS)
    check_unet(folder)


def _load_folder(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    _check_folder(folder)
    unet = load_network(folder / "unet", UNet2DConditionModel, torch_dtype=dtype)
    return load_frame(folder, dtype) | {"unet": unet}


def load_frame(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Load what surrounds the UNet in a diffusers folder: vae, text_encoder, tokenizer, and scheduler as a DDIM.

    Raises:
        ValueError: a component is missing or broken; the message names the folder.
    """
    check_components(folder, [name for name in MARKERS if name != "unet"])
    return {
        "vae": load_network(folder / "vae", AutoencoderKL, torch_dtype=dtype),
        "text_encoder": load_network(folder / "text_encoder", CLIPTextModel, dtype=dtype),
        "tokenizer": load_tokenizer(folder),
        "scheduler": load_scheduler(folder),
    }


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Load the tokenizer of a diffusers folder; its prompts are no longer than its text encoder has positions.

    Raises:
        ValueError: it is missing or broken.
    """
    tokenizer = _read(folder / "tokenizer", CLIPTokenizer.from_pretrained)
    positions = read_json(folder / "text_encoder" / "config.json").get("max_position_embeddings", 77)
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)  # endless without a tokenizer_config.json
    return tokenizer


def load_scheduler(folder: Path) -> DDIMScheduler:
    """Load the noise schedule of a diffusers folder, whichever scheduler it is written for, as a DDIM.

    Raises:
        ValueError: it is missing or broken.
    """
    return _ddim(_read(folder / "scheduler", DDIMScheduler.load_config))


def vae_scale_factor(vae: AutoencoderKL) -> int:
    """Return the VAE's factor from latents to pixels."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def load_vae(path: Path, like: AutoencoderKL) -> AutoencoderKL:
    """Load a VAE that can take the place of another one, in its dtype.

    Args:
        path: a diffusers folder of a VAE, or of a model with one, or a single file, to which the config of `like` goes.

    Raises:
        ValueError: nothing is there, or it cannot be read, or its latents are others than those of `like`.
    """
    folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
    if (folder / "config.json").is_file():
        vae = load_network(folder, AutoencoderKL, torch_dtype=like.dtype)
    else:
        file = weights_file(path, VAE_NAME)
        with TemporaryDirectory() as configs:
            like.save_config(configs)
            vae = _read(file, AutoencoderKL.from_single_file, config=configs, torch_dtype=like.dtype)
    for key in ("latent_channels", "scaling_factor"):
        if vae.config[key] != like.config[key]:
            raise ValueError(
                f"{path}: {key}: got {vae.config[key]}, expected {like.config[key]}: a VAE for another base"
            )
    if (got := vae_scale_factor(vae)) != (expected := vae_scale_factor(like)):
        raise ValueError(f"{path}: got a factor of {got} from latents to pixels, expected {expected}")
    return vae.eval()


def check_components(folder: Path, names: Iterable[str]) -> None:
    """Raise a ValueError that names the folder and the component unless each of `names` is there."""
    for name in names:
        if not any((folder / name / file).is_file() for file in MARKERS[name]):
            raise ValueError(
                f"{folder}: component {name!r} is missing; expected {name}/{' or '.join(MARKERS[name])} there"
            )


def _load_file(file: Path, dtype: torch.dtype, config: Path | None) -> dict[str, Any]:
    checkpoint = _read(file, load_single_file_checkpoint)
    if not any(name.startswith("model.diffusion_model.") for name in checkpoint):
        names = ", ".join(list(checkpoint)[:3]) or "none"
        raise ValueError(f"{file}: got no weights model.diffusion_model.* (its weights: {names}), {EXPECTED}")
    kind = infer_diffusers_model_type(checkpoint)
    del checkpoint  # some gigabytes, which the pipeline below reads again
    if kind != "v1":
        raise ValueError(f"{file}: got a model of diffusers' type {kind!r}, {EXPECTED}")
    if config is not None:
        _check_folder(config)
    pipe = _read(
        file,
        StableDiffusionPipeline.from_single_file,
        "" if config else "; its configs and tokenizer: `config`, or `followyourpose download sd15`, or the hub",
        config=None if config is None else str(config),
        torch_dtype=dtype,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    parts = {name: getattr(pipe, name) for name in MARKERS}
    return parts | {"scheduler": _ddim(dict(pipe.scheduler.config))}


def check_unet(folder: Path) -> None:
    """Raise a ValueError that names the config file unless the UNet of a diffusers folder is Stable Diffusion 1.x's."""
    file, config = folder / "unet" / "config.json", _read(folder / "unet", UNet2DConditionModel.load_config)
    kind = config.get("_class_name", UNet2DConditionModel.__name__)
    if kind != UNet2DConditionModel.__name__:
        raise ValueError(f"{file}: got a {kind}, expected Stable Diffusion 1.x's {UNet2DConditionModel.__name__}")
    try:
        with init_empty_weights():  # before gigabytes are read
            unet = VideoUNet.from_config(dict(config))
        if (inputs := unet.config.in_channels) != (outputs := unet.config.out_channels):
            kind = " (a model for inpainting)" if inputs == 9 else ""
            raise ValueError(f"in_channels: got {inputs}{kind}, expected {outputs}, those of the latents")
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:  # the latter from values of other types
        raise ValueError(f"{file}: {error}; {EXPECTED}") from error


def _ddim(config: Mapping[str, Any]) -> DDIMScheduler:
    return DDIMScheduler.from_config({**LATENT_DDIM, **config})


def _read(path: Path, load: Callable[..., Any], hint: str = "", **kwargs: Any) -> Any:
    """Call `load` with the path; its errors become one line that names the path."""
    try:
        with quiet():
            return load(str(path), **kwargs)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path}: cannot be read as {EXPECTED.removeprefix('expected ')} ({reason}){hint}") from error
