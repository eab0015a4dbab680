"""`benchmark.py generate`: how long a denoising step and a video take, and how much memory, by setting and system.

Every variant is a pipeline with random weights in a process of its own. It halts after each denoising step, and takes
turns with the first variant, step by step: what else the machine does meanwhile slows both. Ratios are to the first
variant's time beside it.

    f frames   H W pixels
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial, wraps
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
)
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import (
    CrossFrameAttnProcessor2_0,
)
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from followyourpose.config import SamplingConfig
from followyourpose.generation.sampling import prepare, sampling_arguments
from followyourpose.pipeline.image_model import load_image_model
from followyourpose.pipeline.inputs import skeleton_tensor
from followyourpose.pipeline.pipeline import FollowYourPosePipeline
from scripts.baseline_objectives import new_adapter, new_controlnet, new_motion
from scripts.benchmark_parts import LOW_MEMORY, PeakMemory, device_name, in_new_process, write_model
from scripts.plain_path import plain_step

PROMPT = "a person"
GUIDANCE = 7.5
LONG = 50  # denoising steps of a video
COLUMNS = "{:<26}{:>9}{:>8}{:>10}{:>9}{:>10}{:>10}{:>10}{:>10}{:>8}"


@dataclass(frozen=True)
class Shape:
    """What is generated: f frames of H x W pixels, on which device, with which weights."""

    frames: int
    height: int
    width: int
    dtype: str
    device: str

    @property
    def skeleton(self) -> np.ndarray:
        """Some skeleton, (f, H, W, 3) uint8; what it shows makes no difference to the time."""
        return np.random.default_rng(0).integers(0, 256, (self.frames, self.height, self.width, 3), np.uint8)


Call = tuple[DiffusionPipeline, dict[str, Any]]  # a pipeline, and the arguments of a call


# ---- systems ---------------------------------------------------------------------------------------------------------


def ours(folder: Path, shape: Shape, attention: str = "native", **settings: Any) -> Call:
    """This repository's pipeline, under settings of `SamplingConfig`, and with that attention."""
    config = SamplingConfig(**{"dtype": shape.dtype} | settings)
    pipe = FollowYourPosePipeline.from_image_model(folder, dtype=getattr(torch, config.dtype))
    prepare(pipe, config, torch.device(shape.device))
    pipe.unet.set_attention_backend(attention)
    return pipe, {"prompt": PROMPT, "skeleton": shape.skeleton, **_settings(shape), **sampling_arguments(config)}


def plain(folder: Path, shape: Shape) -> Call:
    """The same without its exact savings: see plain_path.py."""
    pipe, arguments = ours(folder, shape)
    skeleton = skeleton_tensor(arguments["skeleton"]).to(shape.device, pipe.unet.dtype)
    with torch.no_grad():
        text = torch.cat(pipe.encode_prompt(PROMPT)[::-1])

    def predict(latents: Tensor, timestep: Tensor, *_: Any) -> Tensor:
        prediction = plain_step(pipe.unet, pipe.pose_encoder, latents, timestep, text, skeleton)
        unconditional, conditional = prediction.chunk(2)
        return unconditional + GUIDANCE * (conditional - unconditional)

    pipe.predict = predict
    return pipe, arguments


def controlnet(folder: Path, shape: Shape, across_frames: bool = False) -> Call:
    """ControlNet, frame by frame; or with Text2Video-Zero's attention to the first frame (Khachatryan et al. 2023)."""
    parts = _image_model(folder, shape)
    pipe = StableDiffusionControlNetPipeline(
        **parts, controlnet=_controlnet(parts, shape), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    if across_frames:
        for network in (pipe.unet, pipe.controlnet):
            network.set_attn_processor(CrossFrameAttnProcessor2_0(batch_size=2))
    return pipe.to(shape.device), {"prompt": [PROMPT] * shape.frames, "image": _pictures(shape), **_settings(shape)}


def t2i_adapter(folder: Path, shape: Shape) -> Call:
    """T2I-Adapter, frame by frame (Mou et al. 2023)."""
    parts = _image_model(folder, shape)
    adapter = new_adapter(parts["unet"], parts["vae"]).to(getattr(torch, shape.dtype))
    pipe = StableDiffusionAdapterPipeline(
        **parts, adapter=adapter, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    return pipe.to(shape.device), {"prompt": [PROMPT] * shape.frames, "image": _pictures(shape), **_settings(shape)}


def animatediff(folder: Path, shape: Shape) -> Call:
    """AnimateDiff with ControlNet (Guo et al. 2023)."""
    parts = _image_model(folder, shape)
    motion = new_motion(parts["unet"]).to(getattr(torch, shape.dtype))
    pipe = AnimateDiffControlNetPipeline(**parts, motion_adapter=motion, controlnet=_controlnet(parts, shape))
    frames = {"num_frames": shape.frames, "conditioning_frames": _pictures(shape)}
    return pipe.to(shape.device), {"prompt": PROMPT, **frames, **_settings(shape)}


def _image_model(folder: Path, shape: Shape) -> dict[str, Any]:
    return load_image_model(folder, getattr(torch, shape.dtype))


def _controlnet(parts: dict[str, Any], shape: Shape) -> ControlNetModel:
    return new_controlnet(parts["unet"], parts["vae"]).to(getattr(torch, shape.dtype))


def _pictures(shape: Shape) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in shape.skeleton]


def _settings(shape: Shape) -> dict[str, Any]:
    return {"height": shape.height, "width": shape.width, "guidance_scale": GUIDANCE}


@dataclass(frozen=True)
class Variant:
    """What is measured.

    Attributes:
        make: a model's folder and a shape -> the call.
        varies: whether its steps differ from one another, so that their mean is told in place of their median.
        steps: how many of them a video takes.
        gpu: whether it needs one.
    """

    make: Callable[[Path, Shape], Call]
    varies: bool = False
    steps: int = LONG
    gpu: bool = False


VARIANTS = {
    "plain": Variant(plain),
    **{name: Variant(partial(ours, **settings)) for name, settings in LOW_MEMORY.items()},
    "compile": Variant(partial(ours, compile=True)),
    "compile-bf16": Variant(partial(ours, compile=True, dtype="bfloat16")),
    "offload-model": Variant(partial(ours, offload="model"), gpu=True),
    "offload-group": Variant(partial(ours, offload="group"), gpu=True),
    "guidance-half": Variant(partial(ours, guidance_end=0.5), varies=True),
    "reuse-2": Variant(partial(ours, cache_interval=2), varies=True),
    "fast": Variant(partial(ours, scheduler="dpm++", cache_interval=2), varies=True, steps=20),
    "animatediff-controlnet": Variant(animatediff),
    "text2video-zero-controlnet": Variant(partial(controlnet, across_frames=True)),
    "controlnet-per-frame": Variant(controlnet),
    "t2i-adapter-per-frame": Variant(t2i_adapter),
}
# Names that stand for several.
GROUPS = {"memory": (*LOW_MEMORY, "offload-model", "offload-group")}


def possible(names: Iterable[str]) -> list[str]:
    """Those of the variants that can be measured here; for the name of a group, what it stands for."""
    single = [each for name in names for each in GROUPS.get(name, (name,))]
    return [name for name in dict.fromkeys(single) if torch.cuda.is_available() or not VARIANTS[name].gpu]


# ---- measurement -----------------------------------------------------------------------------------------------------


def benchmark_generate(options: argparse.Namespace) -> dict[str, Any]:
    """Measures every variant beside the first, prints a row for each, and returns what was measured."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = Shape(options.frames, options.height, options.width, options.dtype, device)
    with tempfile.TemporaryDirectory() as folder:
        write_model(options.size, Path(folder) / "model")
        peak = in_new_process(measure_peak, shape)
        result = {"size": options.size, "shape": vars(shape), "steps": options.steps, "device": device_name(),
                  "torch": torch.__version__, "peak_tflops": peak / 1e12, "variants": {}}  # fmt: skip
        print(f"{options.size}, {shape.frames} x {shape.height} x {shape.width}, {shape.dtype}, {result['device']}; "
              f"medians of {options.steps} steps; a matrix product reaches {peak / 1e12:.2f} TFLOP/s")  # fmt: skip
        print(COLUMNS.format("variant", "s/step", "ratio", "TFLOP", "floor/s", "of peak", "GB/step", "GB/VAE",
                             "video/s", "ratio"))  # fmt: skip
        names = possible(options.variants)
        first = names[0]
        for name in names:
            twin, row = run_beside(first, name, Path(folder) / "model", shape, options.steps)
            row["ratio"], row["end_to_end_ratio"] = (twin[key] / row[key] for key in ("step_s", "end_to_end_s"))
            row["floor_s"] = row["flop"] / peak
            row["share_of_peak"] = row["floor_s"] / row["step_s"]
            result["variants"][name] = row
            print(
                COLUMNS.format(
                    name, f"{row['step_s']:.3f}", f"{row['ratio']:.2f}", f"{row['flop'] / 1e12:.3f}",
                    f"{row['floor_s']:.3f}", f"{row['share_of_peak']:.0%}", f"{row['step_memory'] / 1e9:.2f}",
                    f"{row['decode_memory'] / 1e9:.2f}", f"{row['end_to_end_s']:.1f}", f"{row['end_to_end_ratio']:.2f}",
                ), flush=True,
            )  # fmt: skip
    if options.plot:
        plot(result, options.plot)
    return result


def plot(result: dict[str, Any], file: Path) -> None:
    """Draws how many times as fast as the first each variant's denoising step is.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(f'{file}: cannot be drawn, expected matplotlib: pip install "followyourpose[eval]"') from error
    names = list(result["variants"])
    ratios = [row["ratio"] for row in result["variants"].values()]
    figure = Figure(figsize=(7, 0.4 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.bar_label(axes.barh(names, ratios), fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"denoising steps per second, {names[0]} = 1")
    shape = result["shape"]
    axes.set_title(f"{result['size']}, {shape['frames']} x {shape['height']} x {shape['width']}, {result['device']}")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def run_beside(first: str, name: str, model: Path, shape: Shape, steps: int) -> tuple[dict[str, float], ...]:
    """What was measured of two variants that take turns, a denoising step each; beside itself one runs alone."""
    names = [first] if first == name else [first, name]
    context, workers = get_context("spawn"), []
    for each in names:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, each, model, shape, steps), daemon=True)
        process.start()
        there.close()
        here.recv()  # the model is loaded and warm; one at a time, since loading takes the most memory
        workers.append((process, here))
    for _ in range(steps):
        for _, connection in workers:
            connection.send("step")
            connection.recv()
    rows = []
    for process, connection in workers:
        connection.send("end")
        rows.append(connection.recv())
        process.join()
    return rows[0], rows[-1]


def _work(connection: Connection, name: str, model: Path, shape: Shape, steps: int) -> None:
    """A variant's process: tells when it is warm, then does a denoising step whenever it is told to."""
    memory = PeakMemory()
    pipe, arguments = VARIANTS[name].make(model, shape)
    pipe.set_progress_bar_config(disable=True)
    warm_up = steps if VARIANTS[name].varies else 1
    with FlopCounterMode(display=False) as flops, torch.compiler.set_stance("force_eager"):
        pipe(**arguments, num_inference_steps=warm_up, output_type="latent")
    pipe(**arguments, num_inference_steps=1, output_type="latent")  # compiles, where that is asked for
    connection.send("warm")
    connection.recv()
    memory.lap()  # loading takes the most
    pace = Pace(connection, torch.cuda.synchronize if shape.device == "cuda" else lambda: None, memory.lap)
    pace.slow_down(pipe)
    pipe(**arguments, num_inference_steps=steps, output_type="np")
    after, decoding = pace.lap(), memory.lap()
    average = statistics.fmean if VARIANTS[name].varies else statistics.median
    step = average(pace.seconds[1:] or pace.seconds)
    before = max(pace.seconds[0] - step, 0.0)
    denoising = max(pace.memory)
    connection.send({"step_s": step, "end_to_end_s": before + VARIANTS[name].steps * step + after, "decode_s": after,
                     "flop": flops.get_total_flops() / warm_up, "memory": max(denoising, decoding),
                     "step_memory": denoising, "decode_memory": decoding})  # fmt: skip


class Pace:
    """Halts a pipeline after each step of its scheduler until it is told to go on; takes time and memory between."""

    def __init__(self, connection: Connection, synchronize: Callable[[], Any], peak: Callable[[], int]) -> None:
        self.connection, self.synchronize, self.peak = connection, synchronize, peak
        self.memory: list[int] = []
        self.seconds: list[float] = []
        self._started = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the pipeline last went on."""
        self.synchronize()
        return time.perf_counter() - self._started

    def slow_down(self, pipe: DiffusionPipeline) -> None:
        step = pipe.scheduler.step

        @wraps(step)  # pipelines ask for its signature
        def halting(*args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)
            self.seconds.append(self.lap())
            self.memory.append(self.peak())
            self.connection.send("done")
            self.connection.recv()
            self._started = time.perf_counter()
            return result

        pipe.scheduler.step = halting
        self._started = time.perf_counter()


def measure_peak(shape: Shape, size: int = 4096, times: int = 20) -> float:
    """The hardware's floating-point operations per second in a large matrix product, the best of some."""
    size = size if shape.device == "cuda" else size // 2
    a = torch.randn(size, size, dtype=getattr(torch, shape.dtype), device=shape.device)
    best = math.inf
    for _ in range(times):
        started = time.perf_counter()
        a @ a
        if shape.device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
