"""Checks of a run before anything is loaded: its start, its data, its packages and its output folder.

They take less than a second: no network is read, and PyTorch is imported only to look for a GPU.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from followyourpose.common.checks import check_choice, check_installed, check_multiple, flat
from followyourpose.common.files import LOCK, read_json, read_text
from followyourpose.config import REPOSITORY, TrainConfig, find_model, load_config, locate
from followyourpose.hub.registry import DOWNLOADS
from followyourpose.models.loading import model_kind

PRECISIONS = {"fp32": "no", "fp16": "fp16", "bf16": "bf16", "no": "no"}  # mixed_precision -> accelerate's name of it
SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}  # -> diffusers' name
TRACKERS = ("all", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")
BASES = ("sd14", "sd15")  # downloads of Stable Diffusion 1.x, whose networks have the shapes in SHAPES
SHAPES = REPOSITORY / "configs" / "sd14" / "model"
CONFIG, WEIGHTS = "config.yaml", "weights.safetensors"  # in a run's folder; weights only once it has finished

# Settings that may change when a run goes on: how long, how fast, what it writes and shows. Everything else has a part
# in what is learned, and must be as it was.
_FREE = (
    "output", "steps", "save_every", "keep_checkpoints", "log_every", "trackers", "validation.", "compile",
    "threads", "gradient_checkpointing", "optim.max_skipped", "data.path", "data.cache", "data.workers", "data.timeout",
    "data.max_bad", "data.download",
)  # fmt: skip


def check_inputs(config: TrainConfig, dry_run: bool = False) -> None:
    """Check the start of a run, its data and the packages that it needs, without loading them.

    Args:
        dry_run: the data, and weights whose shapes are known, need not be there.

    Raises:
        ValueError: names the setting or the folder.
    """
    init = shapes_of(config.init) if dry_run else None
    for folder in chain(init or config.init):
        if is_run(folder) and not (folder / WEIGHTS).is_file():
            raise ValueError(f"{folder}: the run has not finished (no {WEIGHTS}); run its train command again")
    _check_sizes(config, root_folder(init or config.init))
    _check_data(config, dry_run)
    _check_packages(config)


# ---- data and packages -----------------------------------------------------------------------------------------------


def _check_sizes(config: TrainConfig, root: Path) -> None:
    vae = root / "vae" / "config.json"
    if config.objective in ("denoise", "decode") and vae.is_file():
        factor = 2 ** (len(read_json(vae)["block_out_channels"]) - 1)
        for key in ("height", "width"):
            check_multiple(f"data.{key}", getattr(config.data, key), factor, "pixels")


def _check_data(config: TrainConfig, dry_run: bool) -> None:
    data, skeleton = config.data, config.validation.skeleton
    # A run needs its data no more once its cache is whole.
    encoded = dry_run or data.cache is not None and locate(data.cache).is_dir()
    if "://" in data.path:
        if not encoded:
            check_installed(f"data.path: {data.path}", "data", "fsspec", "braceexpand")
    elif "{" not in data.path and not encoded and not locate(data.path).exists():
        raise ValueError(f"data.path: {data.path}: no such file or folder")
    if config.validation.every and skeleton is not None and not locate(skeleton).exists():
        raise ValueError(f"validation.skeleton: {skeleton}: no such file or folder")


def _check_packages(config: TrainConfig) -> None:
    if config.optim.name == "adamw8bit":
        import torch

        if not (find_spec("bitsandbytes") and torch.cuda.is_available()):
            raise ValueError('optim.name: got adamw8bit, which needs a CUDA GPU and `pip install -e ".[bnb]"`')
    for tracker in config.trackers:
        check_choice("trackers", tracker, TRACKERS)
        if tracker != "all" and find_spec(tracker) is None:
            raise ValueError(f"trackers: {tracker} is not installed; pip install {tracker}, or leave it out")


# ---- output and start ------------------------------------------------------------------------------------------------


def changed_settings(config: TrainConfig) -> list[str]:
    """Return "key: before -> now" for each setting that differs from that of the run in `config.output`, and may.

    Raises:
        ValueError: the folder holds a run of other settings (every key that differs is named), or other files.
    """
    folder = Path(config.output)
    if not is_run(folder):
        if folder.exists() and any(p.suffix != ".partial" and p.name != LOCK for p in folder.iterdir()):
            raise ValueError(f"{folder}: is not empty and holds no run; choose another output")
        return []
    before, now = flat(asdict(config_of(folder))), flat(asdict(config))
    changed = [key for key in now if before[key] != now[key] and key != "output"]
    if differ := [key for key in changed if not key.startswith(_FREE)]:
        changes = "; ".join(f"{key}: {before[key]}, got {now[key]}" for key in differ)
        raise ValueError(
            f"{folder}: holds a run with {changes}; choose another output, or the settings it was started with"
        )
    return [f"{key}: {before[key]} -> {now[key]}" for key in changed]


def shapes_of(init: str) -> Path | None:
    """Return the folder of configs with the shapes of an `init` that is not there; None: it is there, or is unknown.

    Known are Stable Diffusion 1.x, by each of its names, and the runs of the shipped configs.
    """
    if locate(init).exists():
        return None
    for download in (DOWNLOADS[name] for name in BASES):
        folder = f"checkpoints/{download.path}"
        if init in (download.name, folder, *(source.place for source in download.sources)):
            return None if locate(folder).exists() else SHAPES
    for file in sorted((SHAPES.parents[1]).rglob("*.yaml")):
        text = read_text(file)
        if re.search(rf"^output: {re.escape(init)}$", text, re.MULTILINE):
            start = re.search(r"^init: (.+)$", text, re.MULTILINE)[1]
            return locate(start) if locate(start).exists() else shapes_of(start)
    return None


def is_run(folder: str | Path) -> bool:
    """Whether a folder is a run's, finished or not."""
    return (Path(folder) / CONFIG).is_file()


def config_of(run: str | Path) -> TrainConfig:
    """Return the settings of a run, which are not to be changed: a file of the same content is parsed once.

    Raises:
        ConfigError: as `load_config`.
    """
    file = Path(run) / CONFIG
    try:
        return _config_of(file, read_text(file))
    except ValueError:
        return load_config(TrainConfig, file)


@lru_cache(64)
def _config_of(file: Path, content: str) -> TrainConfig:
    return load_config(TrainConfig, file)


def chain(folder: str | Path) -> Iterator[Path]:
    """Yield a folder, its `init`, the `init` of that, and so on: runs, the newest first, and then a pipeline folder.

    Raises:
        ValueError: a run starts from itself.
    """
    seen: list[Path] = []
    folder = find_model(folder, "init")
    while is_run(folder):
        if folder.resolve() in seen:
            raise ValueError(f"{folder}: the run starts from itself, by `init` of its config.yaml")
        seen.append(folder.resolve())
        yield folder
        folder = find_model(config_of(folder).init, "init")
    yield folder


def root_folder(folder: str | Path) -> Path:
    """Return the pipeline folder at the start of a chain of runs.

    Raises:
        ValueError: the folder is neither a run nor a pipeline folder.
    """
    *_, folder = chain(folder)
    if model_kind(folder) == "file":
        raise ValueError(f"{folder}: is a file, expected a run's or a pipeline's folder")
    return folder
