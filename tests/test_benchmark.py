"""The benchmark: tables of the variants of training and of generation, and the same as JSON."""

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from followyourpose.config import REPOSITORY
from followyourpose.training.cache import check_cacheable
from scripts import benchmark, benchmark_generate, benchmark_train
from scripts.benchmark_count import Kernels
from scripts.benchmark_count import count as count_step
from scripts.benchmark_memory import Counted, count
from scripts.benchmark_parts import LOW_MEMORY, SIZES
from scripts.benchmark_systems import possible
from tests.tiny import write_image_model


def start_thread(*arguments: Any) -> tuple[threading.Thread, Connection]:
    """A variant beside this thread, in place of a process."""
    here, there = Pipe()

    def work() -> None:
        with there:  # an error closes it, so that nobody waits
            benchmark_generate._work(there, *arguments)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, here


@pytest.fixture(params=["here", pytest.param("processes", marks=pytest.mark.slow)])
def run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> Callable[..., str]:
    """The program, which returns its table; whole, with a process per variant, or in this process on a tiny model."""
    monkeypatch.chdir(tmp_path)

    def whole(*arguments: str) -> str:
        command = [sys.executable, "-m", "scripts.benchmark", *arguments]
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        result = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def here(*arguments: str) -> str:
        monkeypatch.setattr(benchmark_generate, "_start", start_thread)
        monkeypatch.setattr(benchmark_generate, "measure_peak", partial(benchmark_generate.measure_peak, size=256))
        for module in (benchmark_generate, benchmark_train):
            monkeypatch.setattr(module, "in_new_process", lambda call, *inputs: call(*inputs))
            monkeypatch.setattr(module, "write_model", lambda size, folder: write_image_model(folder))
        monkeypatch.setattr(benchmark_train, "SAMPLES", 4)
        benchmark.main(arguments)
        return capfd.readouterr().out

    whole.measures_memory, here.measures_memory = True, False  # what this process grows by depends on its past
    return {"processes": whole, "here": here}[request.param]


def test_training_is_measured_by_variant(run: Callable[..., str], tmp_path: Path) -> None:
    small = ["--size", "tiny", "--steps", "2", "--warm-up", "1", "--batch-size", "1", "--frames", "2"]
    small += ["--height", "64", "--width", "64"]
    table = run("train", *small, "--variants", "pixels", "cached", "--json", "out/train.json")
    result = json.loads((tmp_path / "out" / "train.json").read_text())
    assert result["size"] == "tiny" and result["steps"] == 2
    assert result["batch"] == {"clips": 1, "frames": 2, "height": 64, "width": 64}
    assert list(result["variants"]) == ["pixels", "cached"]
    for name, row in result["variants"].items():
        assert row["samples_per_s"] > 0 and 0 <= row["data_wait"] <= 1
        assert row["memory_mb"] > 0 or not run.measures_memory
        assert f"\n{name} " in table
    pixels, cached = result["variants"].values()
    assert pixels["samples_per_s_ratio"] == 1 and (pixels["memory_mb_ratio"] == 1 or not run.measures_memory)
    assert cached["samples_per_s_ratio"] == cached["samples_per_s"] / pixels["samples_per_s"]
    if not torch.cuda.is_available():  # a cache that gains less than twofold is explained by where the time goes
        assert ("profile" in result) == (cached["samples_per_s_ratio"] < 2)
    if "profile" in result:
        assert abs(sum(result["profile"].values()) - 1) < 1e-6
        assert all(result["profile"][part] > 0 for part in ("VAE", "text encoder", "UNet forward", "backward", "data"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_variant_with_a_cache_can_have_one_and_small_pictures_do(size: str, stage: str, tmp_path: Path) -> None:
    none = dict.fromkeys(("height", "width", "batch_size", "frames"))
    options = argparse.Namespace(size=size, stage=stage, warm_up=1, steps=1, **none)
    config = benchmark_train._settings(options, tmp_path, benchmark_train.VARIANTS["cached"])
    check_cacheable(config)
    assert config.data.min_size == 0


def test_generation_is_measured_beside_other_systems(run: Callable[..., str], tmp_path: Path) -> None:
    small = ["--size", "tiny", "--steps", "2", "--frames", "2"]
    files = ["--json", "out/generate.json", "--plot", "out/generate.png"]
    names = ["plain", "ours", *([] if run.measures_memory else ["reuse-2", "t2i-adapter-per-frame"])]
    table = run("generate", *small, *files, "--variants", *names)
    result = json.loads((tmp_path / "out" / "generate.json").read_text())
    assert list(result["variants"]) == names and result["peak_tflops"] > 0
    assert result["shape"] == {
        "frames": 2, "height": 64, "width": 64, "dtype": "float32", "device": result["shape"]["device"]
    }  # fmt: skip
    for name, row in result["variants"].items():
        assert all(row[key] > 0 for key in ("step_s", "end_to_end_s", "flop", "ratio"))
        assert row["memory"] == max(row["step_memory"], row["decode_memory"])
        assert row["memory"] > 0 or not run.measures_memory
        assert f"\n{name} " in table
    assert result["variants"]["plain"]["ratio"] == 1
    flops = [row["flop"] for row in result["variants"].values()]
    assert flops[:3] == sorted(set(flops[:3]), reverse=True), "each saves some"
    assert Image.open(tmp_path / "out" / "generate.png").width > 500
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def counted(shape: tuple[int, int, int], *names: str) -> dict[str, Counted]:
    return {name: count("tiny", shape, LOW_MEMORY[name]) for name in names}


def test_memory_is_counted_by_setting() -> None:
    rows = counted((4, 64, 64), "ours", "bf16", "decode-1")
    plain = rows["ours"]
    assert plain.weights < min(plain.denoising, plain.decoding)
    assert rows["bf16"].weights == pytest.approx(plain.weights / 2, rel=1e-3)
    assert rows["bf16"].denoising < plain.denoising and rows["decode-1"].decoding < plain.decoding


@pytest.mark.slow
def test_all_settings_together_need_less_memory_than_each() -> None:
    lower = {"bf16": "denoising", "int8-weights": "denoising", "float8-weights": "weights", "decode-1": "decoding"}
    rows = counted((4, 256, 256), "ours", "low-memory", "attention-scores", "attention-chunk", *lower)
    for name, phase in lower.items():
        numbers = [getattr(rows[each], phase) for each in ("low-memory", name, "ours")]
        assert numbers == sorted(set(numbers)), name
    assert rows["ours"].denoising < rows["attention-chunk"].denoising < rows["attention-scores"].denoising


def test_a_step_at_full_size_stays_below_its_ceilings() -> None:
    """Numbers for a GPU: 1,471 kernels and 71.45 GB with the channels first, 381 of them around convolutions."""
    step = count_step("sd14", (8, 512, 512), "bfloat16")
    assert step.kernels.total() <= 1_100 and step.bytes.total() <= 56e9
    assert step.kernels["copy"] <= 50 and step.reads == 0
    assert step.flop.total() == pytest.approx(15.0e12, rel=0.01)


def test_words_of_two_people_cost_little() -> None:
    plain, two = (count_step("sd14", (8, 512, 512), "bfloat16", people=people) for people in (0, 2))
    assert two.bytes.total() <= 1.15 * plain.bytes.total() and two.flop.total() <= 1.01 * plain.flop.total()
    assert two.kernels.total() <= 1.15 * plain.kernels.total() and two.reads == 0


def test_a_count_has_the_copies_that_a_gpu_makes() -> None:
    """cuDNN computes halves with the channels last: it turns images, weights and result, or nothing."""
    convolution, x = torch.nn.Conv2d(4, 8, 3).to("meta", torch.half), torch.empty(2, 4, 8, 8).to("meta", torch.half)
    with Kernels() as first:
        convolution(x)
    convolution, x = (each.to(memory_format=torch.channels_last) for each in (convolution, x))
    with Kernels() as last:
        convolution(x)
    assert first.kernels == {"copy": 3, "convolution": 1, "addition": 1}
    assert last.kernels == {"convolution": 1, "addition": 1} and last.flop == first.flop


def test_counts_are_printed_by_kind_and_layout(run: Callable[..., str], tmp_path: Path) -> None:
    table = run("generate", "--size", "tiny", "--count", "--json", "out/count.json")
    layouts = json.loads((tmp_path / "out" / "count.json").read_text())["layouts"]
    assert [row["reads"] for row in layouts.values()] == [0, 0, 0]
    kernels = [row["kernels"] for row in layouts.values()]
    assert kernels[0] == min(kernels) and "\nconvolution " in table


def test_a_group_stands_for_the_variants_that_can_be_measured_here() -> None:
    names = possible(["memory", "plain"])
    assert names[0] == "ours" and names[-1] == "plain" and {"int8-weights", "decode-1"} < set(names)
    assert ("offload-model" in names) == torch.cuda.is_available()


@pytest.mark.parametrize("verb", ["train", "generate", "memory"])
def test_the_help_is_the_manual(verb: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        benchmark.main([verb, "--help"])
    out = capsys.readouterr().out
    assert out.partition("examples:")[2].count(f"python -m scripts.benchmark {verb}") >= 2
    for flag in ("--size", "--height", "--width", "--frames", "--variants", "--json"):
        assert flag in out
