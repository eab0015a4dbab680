"""Measures how fast training is, how much memory it takes and how long it waits for data, with random weights.

Every variant is a short run of `followyourpose.training.loop.train` in a process of its own, and what is printed comes
from the run's own log. Nothing is kept but the table and the file of --json.
"""

import argparse
import cProfile
import json
import pstats
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of scripts/, whose names would hide packages

import psutil
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from followyourpose.config import REPOSITORY, TrainConfig, load_config
from followyourpose.puppets.dataset import write_dataset
from followyourpose.training.cache import make_cache
from followyourpose.training.loop import train

SIZES = {"tiny": "puppet", "sd14": "sd14"}  # -> the configs that are measured
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
EXAMPLES = """examples:
  python scripts/benchmark.py train --size tiny --json outputs/benchmark.json
  python scripts/benchmark.py train --size sd14 --height 64 --width 64 --frames 1 --steps 2 --variants pixels cached
"""


# ---- train -----------------------------------------------------------------------------------------------------------


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
                  "device": _device(), "torch": torch.__version__, "variants": {}}  # fmt: skip
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
    seconds = _in_new_process(_profile, config)
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
    # Quoted, because YAML reads a bare no as false.
    reset = ["data.cache=null", "gradient_checkpointing=false", "mixed_precision=fp32"]
    overrides = [text.replace("CACHE", str(folder / "cache")) for text in overrides]
    return load_config(TrainConfig, file, [*reset, *paths, *length, *chosen, *overrides])


def measure(config: TrainConfig, warm_up: int) -> dict[str, float]:
    """Trains in a new process; a cache is made in another one before, so that it does not count."""
    if config.data.cache:
        _in_new_process(make_cache, config)
    memory = _in_new_process(_train, config)
    run = Path(config.output)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()][warm_up:]
    shutil.rmtree(run)
    return {
        "samples_per_s": statistics.median(row["clips_per_s"] for row in rows),
        "memory_mb": memory / 2**20,
        "data_wait": statistics.median(row["data_wait"] for row in rows),
    }


def _in_new_process(call: Callable, *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def _train(config: TrainConfig) -> int:
    """Trains, and returns the peak memory in bytes: the device's, or what this process grew by."""
    if torch.cuda.is_available():
        _run(config)
        return torch.cuda.max_memory_allocated()
    with _peak_growth(after=Path(config.output) / "log.jsonl") as peak:
        _run(config)
    return peak["bytes"]


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


@contextmanager
def _peak_growth(after: Path, every: float = 0.01):
    """Watches this process's resident memory once a file is there: loading a model takes more than training it."""
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    peak = {"bytes": 0}

    def watch() -> None:
        while not done.wait(every):
            if after.exists():
                peak["bytes"] = max(peak["bytes"], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


# ---- the model -------------------------------------------------------------------------------------------------------


def write_model(size: str, folder: Path) -> None:
    """Writes an image model with random weights: the puppets' networks, or those of Stable Diffusion 1.4."""
    model = REPOSITORY / "configs" / "puppet" / "model"
    shutil.copytree(model, folder)
    torch.manual_seed(0)
    if size == "tiny":
        networks = {
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(model / "vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(model / "text_encoder")),
            "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(model / "unet")),
        }
    else:
        networks = _stable_diffusion()
        file = folder / "tokenizer" / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 77}))
    for name, network in networks.items():
        shutil.rmtree(folder / name)
        network.half().save_pretrained(folder / name)


def _stable_diffusion() -> dict[str, torch.nn.Module]:
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, sample_size=512,
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=77,
    )  # fmt: skip
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # diffusers' own defaults are 1.x's
    return {"vae": vae, "text_encoder": CLIPTextModel(text), "unet": unet}


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


# ---- the command -----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(title="what to measure", metavar="VERB", required=True)
    verb = verbs.add_parser(
        "train", help="samples per second, peak memory and waiting for data, by variant",
        description=f"{__doc__}\nMemory is the GPU's peak; on a CPU, what the process grew by, after its first step.\n"
        "Ratios are to the first variant.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verb.set_defaults(call=benchmark_train)
    verb.add_argument(
        "--size", choices=SIZES, default="tiny", help="the puppets' networks, or SD 1.4's (default: tiny)"
    )
    verb.add_argument(
        "--stage", choices=("stage1", "stage2"), default="stage2", help="what is trained (default: stage2)"
    )
    for flag, help in (("--height", "pixels"), ("--width", "pixels"), ("--frames", "frames per clip, in stage 2"),
                       ("--batch-size", "clips per step")):  # fmt: skip
        verb.add_argument(flag, type=int, metavar="N", help=f"{help} (default: the shipped config's)")
    verb.add_argument("--steps", type=int, default=10, metavar="N", help="measured optimiser steps (default: 10)")
    verb.add_argument("--warm-up", type=int, default=2, metavar="N", help="steps before those (default: 2)")
    possible = [name for name in VARIANTS if name != "fp16" or torch.cuda.is_available()]
    verb.add_argument(
        "--variants", nargs="+", choices=possible, default=possible, metavar="NAME",
        help=f"of {', '.join(possible)}; fp16 needs a GPU (default: all)",
    )  # fmt: skip
    verb.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    return parser


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    result = options.call(options)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
