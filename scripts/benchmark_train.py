"""Samples per second, memory and waiting for data of the ways to train, for `benchmark train`.

Every variant is a short run of `followyourpose.training.loop.train` in a process of its own; the numbers come from the
run's log.
"""

import argparse
import cProfile
import json
import pstats
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from followyourpose.common.files import read_text
from followyourpose.config import REPOSITORY, TrainConfig, load_config
from followyourpose.puppets.dataset import write_dataset
from followyourpose.training.cache import make_cache
from followyourpose.training.loop import train
from scripts.benchmark_parts import SIZES, PeakMemory, Table, device_name, in_new_process, write_model

SAMPLES = 16  # of the data set
# Each differs from the first in one setting, the last in all that save something.
VARIANTS = {
    "pixels": [],
    "cached": ["data.cache=CACHE"],
    "checkpointing": ["gradient_checkpointing=true"],
    "bf16": ["mixed_precision=bf16"],
    "fp16": ["mixed_precision=fp16"],
    "cached-checkpointing-bf16": ["data.cache=CACHE", "gradient_checkpointing=true", "mixed_precision=bf16"],
}
# Parts of a step -> file and function.
PARTS = {
    "VAE": ("autoencoder_kl.py", "encode"),
    "text encoder": ("modeling_clip.py", "forward"),
    "pose encoder": ("pose_encoder.py", "forward"),
    "UNet forward": ("unet.py", "forward"),
    "backward": ("accelerator.py", "backward"),
    "optimiser": ("adamw.py", "step"),
    "data": ("batch.py", "__getitem__"),
}
HEADS = ("variant", "samples/s", "ratio", "memory/MB", "ratio", "data wait")


@dataclass(frozen=True)
class Measured:
    """Medians over a run's steps, and its peak memory: the device's, or the growth of the process."""

    samples_per_s: float
    memory_mb: float
    data_wait: float  # share of the step's time


@dataclass(frozen=True)
class Compared(Measured):
    """The numbers beside the first variant's."""

    samples_per_s_ratio: float
    memory_mb_ratio: float

    def cells(self) -> tuple[str, ...]:
        """Return the row's cells under HEADS, from the second on."""
        return (
            f"{self.samples_per_s:.2f}", f"{self.samples_per_s_ratio:.2f}", f"{self.memory_mb:.0f}",
            f"{self.memory_mb_ratio:.2f}", f"{self.data_wait:.0%}",
        )  # fmt: skip


def benchmark_train(options: argparse.Namespace) -> dict[str, Any]:
    """Train every variant, print a row for each, and return the numbers."""
    with tempfile.TemporaryDirectory() as folder:
        plain = _settings(options, Path(folder))
        shape = _write_inputs(options.size, plain, Path(folder))
        device = device_name()
        print(f"{options.size} {options.stage} on {device}, batch {shape}; medians of {options.steps} steps")
        table, rows = Table(HEADS), {}
        for name in options.variants:
            row = measure(_settings(options, Path(folder), VARIANTS[name]), options.warm_up)
            first = next(iter(rows.values()), row)
            rows[name] = Compared(
                **asdict(row), samples_per_s_ratio=row.samples_per_s / first.samples_per_s,
                memory_mb_ratio=row.memory_mb / first.memory_mb,
            )  # fmt: skip
            table.add(name, *rows[name].cells())
        result = {
            "size": options.size, "stage": options.stage, "steps": options.steps, "batch": shape, "device": device,
            "torch": torch.__version__, "variants": {name: asdict(row) for name, row in rows.items()},
        }  # fmt: skip
        # Calls to a GPU return before they are done, and cannot be timed by a profiler.
        if _cache_gains_little(rows) and not torch.cuda.is_available():
            result["profile"] = _explain(plain)
    return result


def _write_inputs(size: str, config: TrainConfig, folder: Path) -> dict[str, int]:
    """Write the model and the data of a config; return the shape of its batch."""
    data = config.data
    write_model(size, Path(config.init))
    write_dataset(folder, **{data.kind: SAMPLES}, size=max(data.height, data.width), clip_frames=2 * data.num_frames)
    return {"clips": config.optim.batch_size, "frames": data.num_frames, "height": data.height, "width": data.width}


def _cache_gains_little(rows: Mapping[str, Measured]) -> bool:
    pixels, cached = rows.get("pixels"), rows.get("cached")
    return bool(pixels and cached) and cached.samples_per_s < 2 * pixels.samples_per_s


def _explain(config: TrainConfig) -> dict[str, float]:
    """Print and return the parts' shares of a step on pixels, and so the most that a cache can save."""
    seconds = in_new_process(_profile, config)
    shares = {name: value / sum(seconds.values()) for name, value in seconds.items()}
    most = 1 / (1 - shares["VAE"] - shares["text encoder"] - shares["data"])
    print("a step on pixels: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005))
    print(f"so a cache, which saves VAE, text encoder and data, can make it at most {most:.2f} times as fast")
    return shares


def _settings(options: argparse.Namespace, folder: Path, overrides: list[str] = ()) -> TrainConfig:
    """Return the shipped config of a stage, on a model and data in `folder`, without the settings of the variants."""
    file = REPOSITORY / "configs" / SIZES[options.size] / f"{options.stage}.yaml"
    kind, steps = "images" if options.stage == "stage1" else "clips", options.warm_up + options.steps
    paths = [f"init={folder / 'model'}", f"output={folder / 'run'}", f"data.path={folder / kind}"]
    length = [f"steps={steps}", f"save_every={steps}", "log_every=1", "data.workers=0"]
    chosen = {
        "data.height": options.height, "data.width": options.width, "optim.batch_size": options.batch_size,
        "data.num_frames": options.frames if kind == "clips" else None,
    }  # fmt: skip
    chosen = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    reset = ["data.cache=null", "gradient_checkpointing=false", "mixed_precision=fp32"]
    reset += ["data.crop=center", "data.flip=0", "data.min_size=0"]  # as for a cache, and small pictures are allowed
    overrides = [text.replace("CACHE", str(folder / "cache")) for text in overrides]
    return load_config(TrainConfig, file, [*reset, *paths, *length, *chosen, *overrides])


def measure(config: TrainConfig, warm_up: int) -> Measured:
    """Train in a new process; a cache is made in another one before, so that it does not count."""
    if config.data.cache:
        in_new_process(make_cache, config)
    memory = in_new_process(_train, config)
    run = Path(config.output)
    rows = [json.loads(line) for line in read_text(run / "log.jsonl").split("\n") if line][warm_up:]
    shutil.rmtree(run)
    return Measured(
        samples_per_s=statistics.median(row["clips_per_s"] for row in rows),
        memory_mb=memory / 2**20,
        data_wait=statistics.median(row["data_wait"] for row in rows),
    )


def _train(config: TrainConfig) -> int:
    """Train, and return the peak memory in bytes."""
    log = Path(config.output) / "log.jsonl"
    with PeakMemory(log.exists) as memory:  # loading a model takes more than training it
        _run(config)
        return memory.lap()


def _profile(config: TrainConfig) -> dict[str, float]:
    """Train under a profiler, and return the seconds spent in each of PARTS."""
    with cProfile.Profile() as profiler:
        _run(config)
    calls = pstats.Stats(profiler).stats  # (file, line, function) -> (..., seconds with what it calls, callers)
    return {
        part: max(
            (call[3] for (path, _, name), call in calls.items() if (Path(path).name, name) == function), default=0
        )
        for part, function in PARTS.items()
    }


def _run(config: TrainConfig) -> None:
    with redirect_stdout(sys.stderr):  # the table has stdout for itself
        train(config)
