"""`benchmark.py train`: samples per second, memory and waiting for data of the ways to train.

Every variant is a short run of `followyourpose.training.loop.train` in a process of its own, and what is printed comes
from the run's own log.
"""

import argparse
import cProfile
import json
import pstats
import shutil
import statistics
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from followyourpose.config import REPOSITORY, TrainConfig, load_config
from followyourpose.puppets.dataset import write_dataset
from followyourpose.training.cache import make_cache
from followyourpose.training.loop import train
from scripts.benchmark_parts import SIZES, PeakMemory, device_name, in_new_process, write_model

SAMPLES = 16  # of the data set
# Each changes one thing of the first, but for the last, which changes all that save something.
VARIANTS = {
    "pixels": [],
    "cached": ["data.cache=CACHE"],
    "checkpointing": ["gradient_checkpointing=true"],
    "bf16": ["mixed_precision=bf16"],
    "fp16": ["mixed_precision=fp16"],
    "cached-checkpointing-bf16": ["data.cache=CACHE", "gradient_checkpointing=true", "mixed_precision=bf16"],
}
# Where a step's time goes: what a person would call it -> the function that does it.
PARTS = {
    "VAE": ("autoencoder_kl.py", "encode"),
    "text encoder": ("modeling_clip.py", "forward"),
    "pose encoder": ("pose_encoder.py", "forward"),
    "UNet forward": ("unet.py", "forward"),
    "backward": ("accelerator.py", "backward"),
    "optimiser": ("adamw.py", "step"),
    "data": ("batch.py", "__getitem__"),
}
COLUMNS = "{:<28}{:>12}{:>8}{:>12}{:>8}{:>12}"


def benchmark_train(options: argparse.Namespace) -> dict[str, Any]:
    """Runs every variant, prints a row for each, and returns what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        base = _settings(options, Path(folder))
        write_model(options.size, Path(base.init))
        kind = {base.data.kind: SAMPLES}
        write_dataset(folder, **kind, size=max(base.data.height, base.data.width), clip_frames=2 * base.data.num_frames)
        data = base.data
        shape = {"clips": base.optim.batch_size, "frames": data.num_frames, "height": data.height, "width": data.width}
        result = {"size": options.size, "stage": options.stage, "steps": options.steps, "batch": shape,
                  "device": device_name(), "torch": torch.__version__, "variants": {}}  # fmt: skip
        print(f"{options.size} {options.stage} on {result['device']}, batch {shape}; medians of {options.steps} steps")
        print(COLUMNS.format("variant", "samples/s", "ratio", "memory/MB", "ratio", "data wait"))
        for name in options.variants:
            result["variants"][name] = row = measure(_settings(options, Path(folder), VARIANTS[name]), options.warm_up)
            first = next(iter(result["variants"].values()))
            for key in ("samples_per_s", "memory_mb"):
                row[f"{key}_ratio"] = row[key] / first[key]
            print(
                COLUMNS.format(
                    name, f"{row['samples_per_s']:.2f}", f"{row['samples_per_s_ratio']:.2f}",
                    f"{row['memory_mb']:.0f}", f"{row['memory_mb_ratio']:.2f}", f"{row['data_wait']:.0%}",
                ), flush=True,
            )  # fmt: skip
        pixels, cached = (result["variants"].get(name) for name in ("pixels", "cached"))
        slow = pixels and cached and cached["samples_per_s"] < 2 * pixels["samples_per_s"]
        if slow and not torch.cuda.is_available():  # calls to a GPU return before they are done, and cannot be timed so
            result["profile"] = _explain(_settings(options, Path(folder)))
    return result


def _explain(config: TrainConfig) -> dict[str, float]:
    """Prints and returns where the time of a step on pixels goes, and so what a cache can save of it."""
    seconds = in_new_process(_profile, config)
    shares = {name: value / sum(seconds.values()) for name, value in seconds.items()}
    most = 1 / (1 - shares["VAE"] - shares["text encoder"] - shares["data"])
    print("a step on pixels: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005))
    print(f"so a cache, which saves VAE, text encoder and data, can make it at most {most:.2f} times as fast")
    return shares


def _settings(options: argparse.Namespace, folder: Path, overrides: list[str] = ()) -> TrainConfig:
    """The shipped config of a stage, on a model and data in `folder`, without what a variant may turn on."""
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
    reset += ["data.crop=center", "data.flip=0", "data.min_size=0"]  # as a cache has it; and small pictures will do
    overrides = [text.replace("CACHE", str(folder / "cache")) for text in overrides]
    return load_config(TrainConfig, file, [*reset, *paths, *length, *chosen, *overrides])


def measure(config: TrainConfig, warm_up: int) -> dict[str, float]:
    """Trains in a new process; a cache is made in another one before, so that it does not count."""
    if config.data.cache:
        in_new_process(make_cache, config)
    memory = in_new_process(_train, config)
    run = Path(config.output)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()][warm_up:]
    shutil.rmtree(run)
    return {
        "samples_per_s": statistics.median(row["clips_per_s"] for row in rows),
        "memory_mb": memory / 2**20,
        "data_wait": statistics.median(row["data_wait"] for row in rows),
    }


def _train(config: TrainConfig) -> int:
    """Trains, and returns the peak memory in bytes: the device's, or what this process grew by."""
    log = Path(config.output) / "log.jsonl"
    memory = PeakMemory(log.exists)  # loading a model takes more than training it
    _run(config)
    return memory.lap()


def _profile(config: TrainConfig) -> dict[str, float]:
    """Trains under a profiler, and returns the seconds spent in each of PARTS."""
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
