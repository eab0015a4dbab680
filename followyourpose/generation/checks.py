"""Checks of a run of `generate` before anything is loaded: files, packages and sizes that its settings name.

They take a second or two: no network is read, diffusers is not imported, and PyTorch only to find a device.
"""

import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from followyourpose.common.checks import check_choice, check_installed, check_multiple
from followyourpose.common.device import machine_memory, torch_device
from followyourpose.common.files import read_json, read_text
from followyourpose.config import ConfigError, GenerateConfig, find_model, locate
from followyourpose.generation.loras import kept_loras, open_embeddings
from followyourpose.generation.people import Prompt, styled
from followyourpose.generation.unfinished import FOLDER
from followyourpose.hub import places
from followyourpose.hub.registry import DOWNLOADS
from followyourpose.models.loading import model_kind
from followyourpose.pipeline.bring import bring

if TYPE_CHECKING:
    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

LARGEST_WRITTEN = 16384  # pixels: the widest picture that H.264 takes
# Attention backends of diffusers that are packages of their own.
PACKAGES = {
    "flash": "flash_attn",
    "flash_varlen": "flash_attn",
    "sage": "sageattention",
    "sage_varlen": "sageattention",
}
# Bytes, less than what any run needs: of noise in memory, per latent pixel and frame, and of files, per written pixel.
NOISE_BYTES, FILE_BYTES = 4 * 4, 0.02
LARGEST_LIST = 10_000_000  # bytes of a file of prompts


def with_prompts(config: GenerateConfig) -> GenerateConfig:
    """Return the settings with the prompts of the .txt file that `prompt` names, one a line; others as they are.

    Raises:
        ConfigError: the file cannot be read, or has no line with text.
    """
    if not (isinstance(config.prompt, str) and config.prompt.lower().endswith(".txt")):
        return config
    try:
        lines = read_text(locate(config.prompt), LARGEST_LIST).splitlines()
    except ValueError as error:
        raise ConfigError(f"prompt: {error}") from error
    if not (prompts := [line.strip() for line in lines if line.strip()]):
        raise ConfigError(f"prompt: {config.prompt}: got no text, expected a prompt a line")
    return replace(config, prompt=prompts)


def check_settings(config: GenerateConfig) -> list[Prompt]:
    """Check what settings name, and return the prompts as a list, each with the style behind it.

    Raises:
        ValueError: names the setting, what was got and what was expected.
    """
    kept_loras(config)
    open_embeddings(config.embeddings)
    for key in ("vae", "config"):
        if (name := getattr(config, key)) is not None:
            find_model(name, key)
    _check_model(config)
    if config.attention is not None:
        _check_attention(config.attention)
    if config.device not in (None, "cpu"):
        torch_device(config.device)
    if "\0" in (config.output or ""):
        raise ConfigError(f"output: got {config.output!r}, expected a path without null characters")
    prompts = config.prompt if isinstance(config.prompt, list) else [config.prompt]
    return [styled(prompt, config.style) for prompt in prompts]


def check_space(config: GenerateConfig, folder: Path, size: tuple[int, int], videos: int) -> None:
    """Raise a ValueError where files cannot be as large as `size` is, or memory or disk cannot hold the result.

    Args:
        folder: the run's.
        size: height and width of the frames in pixels, before they are enlarged.
        videos: number of videos.
    """
    height, width = (side * config.enlarge for side in size)
    if max(height, 2 * width) > LARGEST_WRITTEN:
        raise ConfigError(
            f"height, width, enlarge: got files of {height} x {width} pixels, expected at most {LARGEST_WRITTEN} x "
            f"{LARGEST_WRITTEN // 2}"
        )
    noise = NOISE_BYTES * config.num_frames * size[0] * size[1] / 64
    if noise > (memory := machine_memory()):
        raise ConfigError(
            f"num_frames: got {config.num_frames} of {size[0]} x {size[1]} pixels, whose noise alone takes "
            f"{noise / 1e6:,.0f} MB of memory, expected at most {memory / 1e6:,.0f} MB"
        )
    files = FILE_BYTES * videos * config.num_frames * height * width
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    disk = shutil.disk_usage(there)
    if disk.total and files > disk.free and not (folder / FOLDER).exists():  # of a run that goes on, a part is there
        raise ConfigError(
            f"output: {folder}: got {videos} x {config.num_frames} frames of {height} x {width} pixels, which take "
            f"{files / 1e6:,.1f} MB or more, expected at most the disk's {disk.free / 1e6:,.1f} MB"
        )


def model_path(config: GenerateConfig) -> Path:
    """Return the model's folder or file, which `download` brings where it is a download that is not there yet.

    Raises:
        ValueError: it leads nowhere, or the download did not come about.
    """
    try:
        return find_model(config.model, "model")
    except ConfigError as error:
        if (download := DOWNLOADS.get(config.model)) is None:
            raise
        if not config.download:
            raise ConfigError(f"{error}, as does download=true") from error
    return bring(download, places.CHECKPOINTS)


def frame_size(config: GenerateConfig, pipe: "FollowYourPosePipeline | None") -> tuple[int, int]:
    """Return height and width of the frames in pixels, by default those that the model was trained at."""
    if pipe is None:
        size = (model_size(model_path(config)) or (512, 64))[0]
    else:
        size = (pipe.unet.config.sample_size or 64) * pipe.vae_scale_factor
    return config.height or size, config.width or size


def model_size(model: Path) -> tuple[int, int] | None:
    """Return a model's default height and width, and the number of pixels that divides both; None: unreadable.

    A single file is Stable Diffusion 1.x, whose sizes are known.
    """
    if model.is_file():
        return 512, 64
    try:
        unet, vae = (read_json(model / part / "config.json") for part in ("unet", "vae"))
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        return (unet.get("sample_size") or 64) * factor, factor * 2 ** (len(unet["block_out_channels"]) - 1)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # loading the model reports it


def _check_model(config: GenerateConfig) -> None:
    model = model_path(config)
    try:
        model_kind(model)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    if sizes := model_size(model):
        for key in ("height", "width"):
            check_multiple(key, getattr(config, key) or sizes[0], sizes[1], "pixels")


def _check_attention(name: str) -> None:
    """Refuse a backend that diffusers does not have, or whose package is missing.

    diffusers' list of names is read from its source, since its import takes seconds.
    """
    source = Path(find_spec("diffusers").origin).parent / "models" / "attention_dispatch.py"
    names = re.search(r"class AttentionBackendName\b.*?(?=\n\S)", source.read_text(encoding="utf-8"), re.DOTALL)
    if known := re.findall(r'^    \w+ = "(\w+)"$', names[0] if names else "", re.MULTILINE):
        check_choice("attention", name, ["auto", *known])
    if name == "xformers":
        check_installed("attention", "xformers", "xformers")
    elif (package := PACKAGES.get(name)) and find_spec(package) is None:
        raise ConfigError(f"attention: got {name!r}, but {package} is not installed")
