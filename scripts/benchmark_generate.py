"""Time of a denoising step and of a video, and memory, by setting and system, for `benchmark generate`.

Every variant is a pipeline with random weights in a process of its own. It halts after each denoising step, and takes
turns with the first variant, step by step: other load on the machine slows both. Ratios are to the first variant's time
beside it.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch.utils.flop_counter import FlopCounterMode

from scripts.benchmark_parts import PeakMemory, Table, device_name, in_new_process, write_model
from scripts.benchmark_systems import VARIANTS, Shape, Variant, possible

HEADS = ("variant", "s/step", "ratio", "TFLOP", "floor/s", "of peak", "GB/step", "GB/VAE", "video/s", "ratio")


@dataclass(frozen=True)
class Measured:
    """Numbers of one variant: seconds of a step, a video and its decoding; FLOPs of a step; peak memory in bytes."""

    step_s: float
    end_to_end_s: float
    decode_s: float
    flop: float
    memory: int
    step_memory: int
    decode_memory: int


@dataclass(frozen=True)
class Compared(Measured):
    """The numbers beside the first variant's, and beside the FLOPs per second of a large matrix product."""

    ratio: float
    end_to_end_ratio: float
    floor_s: float
    share_of_peak: float

    @classmethod
    def of(cls, row: Measured, first: Measured, peak: float) -> "Compared":
        """Compare a variant with the first one, measured beside it."""
        floor = row.flop / peak
        return cls(
            **asdict(row), ratio=first.step_s / row.step_s, end_to_end_ratio=first.end_to_end_s / row.end_to_end_s,
            floor_s=floor, share_of_peak=floor / row.step_s,
        )  # fmt: skip

    def cells(self) -> tuple[str, ...]:
        """Return the row's cells under HEADS, from the second on."""
        return (
            f"{self.step_s:.3f}", f"{self.ratio:.2f}", f"{self.flop / 1e12:.3f}", f"{self.floor_s:.3f}",
            f"{self.share_of_peak:.0%}", f"{self.step_memory / 1e9:.2f}", f"{self.decode_memory / 1e9:.2f}",
            f"{self.end_to_end_s:.1f}", f"{self.end_to_end_ratio:.2f}",
        )  # fmt: skip


def benchmark_generate(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every variant beside the first, print a row for each, and return the numbers."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = Shape(options.frames, options.height, options.width, options.dtype, device)
    names, rows = possible(options.variants), {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_model(options.size, model)
        peak = in_new_process(measure_peak, shape)
        print(f"{options.size}, {shape.frames} x {shape.height} x {shape.width}, {shape.dtype}, {device_name()}; "
              f"medians of {options.steps} steps; a matrix product reaches {peak / 1e12:.2f} TFLOP/s")  # fmt: skip
        table = Table(HEADS)
        for name in names:
            first, row = run_beside(names[0], name, model, shape, options.steps)
            compared = Compared.of(row, first, peak)
            rows[name] = asdict(compared)
            table.add(name, *compared.cells())
    result = {
        "size": options.size, "shape": asdict(shape), "steps": options.steps, "device": device_name(),
        "torch": torch.__version__, "peak_tflops": peak / 1e12, "variants": rows,
    }  # fmt: skip
    if options.plot:
        plot(result, options.plot)
    return result


def benchmark_profile(options: argparse.Namespace) -> dict[str, Any]:
    """Profile the later half of a short video's steps, print the kernels that take most, and return their seconds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = Shape(options.frames, options.height, options.width, options.dtype, device)
    with tempfile.TemporaryDirectory() as folder:
        write_model(options.size, Path(folder) / "model")
        pipe, arguments = VARIANTS["ours"].make(Path(folder) / "model", shape)
        profiler = torch.profiler.profile(schedule=torch.profiler.schedule(wait=0, warmup=2, active=2, repeat=1))
        with profiler, after_each_step(pipe, profiler.step):
            pipe(**arguments, num_inference_steps=4, output_type="latent")
    events = profiler.key_averages()
    print(events.table(sort_by=f"self_{device}_time_total", row_limit=30, max_name_column_width=60))
    return {event.key: event.self_device_time_total / 1e6 for event in events}


def plot(result: dict[str, Any], file: Path) -> None:
    """Draw each variant's denoising steps per second, relative to the first.

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


# ---- measurement -----------------------------------------------------------------------------------------------------


def run_beside(first: str, name: str, model: Path, shape: Shape, steps: int) -> tuple[Measured, Measured]:
    """Return the numbers of two variants that take turns, a denoising step each; the first one runs alone."""
    names = [first] if first == name else [first, name]
    workers = []
    for each in names:
        process, connection = _start(each, model, shape, steps)
        connection.recv()  # the model is loaded and warm; one at a time, since loading takes the most memory
        workers.append((process, connection))
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


def _start(name: str, model: Path, shape: Shape, steps: int) -> tuple[Any, Connection]:
    """Start a variant's process; return it and the connection to it."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, name, model, shape, steps), daemon=True)
    process.start()
    there.close()
    return process, here


def _work(connection: Connection, name: str, model: Path, shape: Shape, steps: int) -> None:
    """A variant's process: report when it is warm, do a denoising step per message, and send the numbers."""
    with PeakMemory() as memory:
        connection.send(_measure(connection, memory, VARIANTS[name], model, shape, steps))


def _measure(
    connection: Connection, memory: PeakMemory, variant: Variant, model: Path, shape: Shape, steps: int
) -> Measured:
    pipe, arguments = variant.make(model, shape)
    pipe.set_progress_bar_config(disable=True)
    with torch.compiler.set_stance("force_eager"):
        flop = flop_of_a_step(pipe, arguments, steps if variant.varies else 2)
    pipe(**arguments, num_inference_steps=1, output_type="latent")  # compiles, where that is set
    connection.send("warm")
    connection.recv()
    memory.lap()  # loading takes the most
    pace = Pace(connection, torch.cuda.synchronize if shape.device == "cuda" else lambda: None, memory.lap)
    with after_each_step(pipe, pace.halt):
        pipe(**arguments, num_inference_steps=steps, output_type="np")
    after, decoding = pace.lap(), memory.lap()
    average = statistics.fmean if variant.varies else statistics.median
    step = average(pace.seconds[1:] or pace.seconds)
    before = max(pace.seconds[0] - step, 0.0)
    denoising = max(pace.memory)
    return Measured(
        step_s=step, end_to_end_s=before + variant.steps * step + after, decode_s=after,
        flop=flop, memory=max(denoising, decoding), step_memory=denoising,
        decode_memory=decoding,
    )  # fmt: skip


def flop_of_a_step(pipe: DiffusionPipeline, arguments: dict[str, Any], steps: int) -> float:
    """Return the mean FLOPs of the steps after the first one, with which all is encoded that a video needs once."""
    after = []
    with FlopCounterMode(display=False) as flops:
        with after_each_step(pipe, lambda: after.append(flops.get_total_flops())):
            pipe(**arguments, num_inference_steps=max(steps, 2), output_type="latent")
    return (after[-1] - after[0]) / (len(after) - 1)


@contextmanager
def after_each_step(pipe: DiffusionPipeline, call: Callable[[], Any]) -> Iterator[None]:
    """Make a pipeline call a function after each of its denoising steps, for the duration of the block."""
    step = pipe.scheduler.step

    @wraps(step)  # pipelines read its signature
    def step_and_call(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        call()
        return result

    pipe.scheduler.step = step_and_call
    try:
        yield
    finally:
        pipe.scheduler.step = step


class Pace:
    """Halts of a pipeline after each of its steps until the next message; time and memory between them."""

    def __init__(self, connection: Connection, synchronize: Callable[[], Any], peak: Callable[[], int]) -> None:
        self.connection, self.synchronize, self.peak = connection, synchronize, peak
        self.memory: list[int] = []
        self.seconds: list[float] = []
        self._started = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the pipeline last went on."""
        self.synchronize()
        return time.perf_counter() - self._started

    def halt(self) -> None:
        """Note time and memory, and wait for the next message."""
        self.seconds.append(self.lap())
        self.memory.append(self.peak())
        self.connection.send("done")
        self.connection.recv()
        self._started = time.perf_counter()
        self._started = time.perf_counter()


def measure_peak(shape: Shape, size: int | None = None, times: int = 20) -> float:
    """Return the hardware's floating-point operations per second in a large matrix product, the best of some.

    Args:
        size: rows and columns; None: 4096 on a GPU, 2048 on a CPU.
    """
    size = size or (4096 if shape.device == "cuda" else 2048)
    a = torch.randn(size, size, dtype=getattr(torch, shape.dtype), device=shape.device)
    best = math.inf
    for _ in range(times):
        started = time.perf_counter()
        a @ a
        if shape.device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
