"""Threads that do not spin, the accelerator of each process, and types that every device has."""

import logging
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from followyourpose import FollowYourPosePipeline
from followyourpose.common.device import hide_torchvision_hints, torch_device, torch_dtype, usable_cores, use_threads
from followyourpose.config import GenerateConfig, SamplingConfig, TrainConfig
from followyourpose.generation.generate import sample
from followyourpose.generation.sampling import SCHEDULERS, scheduler
from followyourpose.pipeline.condition import Condition

PREPARED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "THP_MEM_ALLOC_ENABLE")


# ---- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_NUM_THREADS": "3"}])
@pytest.mark.parametrize(
    "prepare", ["from followyourpose.cli.main import main; main(['configs'])", "followyourpose.prepare_process()"]
)
def test_threads_sleep_before_torch_is_there(given: dict[str, str], prepare: str) -> None:
    code = (
        f"import os, sys, followyourpose\n{prepare}\n"
        f"assert 'torch' not in sys.modules\nprint(*(os.environ.get(name) for name in {PREPARED}))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in PREPARED} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    expected = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000", "OMP_NUM_THREADS": str(usable_cores())}
    expected["THP_MEM_ALLOC_ENABLE"] = "1"
    if "OMP_WAIT_POLICY" in given:
        expected["GOMP_SPINCOUNT"] = "None"
    assert done.stdout.splitlines()[-1].split() == list((expected | given).values())


def test_the_package_hides_the_hint_at_torchvision_alone(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("transformers.utils.import_utils")
    logger.addHandler(caplog.handler)  # transformers' loggers do not propagate
    hide_torchvision_hints()
    logger.error("`CLIPImageProcessor` requires torchvision (not installed); falling back")
    logger.error("another")
    logger.removeHandler(caplog.handler)
    assert set(caplog.messages) == {"another"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_cores_are_those_of_the_affinity_and_of_the_containers_limit(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert usable_cores(tmp_path) == cores


def test_videos_are_the_same_for_one_thread_and_two(pipe: FollowYourPosePipeline) -> None:
    """To the byte, or to one step of 255 on processors whose kernels sum by thread (AMD's)."""
    config = GenerateConfig(prompt="a cat", num_inference_steps=2, guidance_scale=2.0)
    before, skeleton = torch.get_num_threads(), np.full((3, 32, 32, 3), 100, np.uint8)
    videos = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        videos.append(sample(pipe, config, "a cat", skeleton, seed=0))
    torch.set_num_threads(before)
    np.testing.assert_allclose(*(video.astype(int) for video in videos), rtol=0, atol=1)


def test_threads_are_at_least_one_and_of_this_process() -> None:
    before = torch.get_num_threads()
    use_threads(None)
    assert torch.get_num_threads() == before
    use_threads(before + 1)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)
    for schema in (SamplingConfig, partial(TrainConfig, steps=1)):
        with pytest.raises(ValueError, match="threads: got 0, expected at least 1"):
            schema(threads=0)


# ---- device and dtype ------------------------------------------------------------------------------------------------


def test_each_process_of_a_launcher_has_its_own_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type="xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)  # there is none here
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert torch_device(None) == "xpu" and torch_device("cpu") == "cpu"
    for rank, name in enumerate(("xpu:0", "xpu:1", "xpu:0")):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert torch_device(None) == name


def test_dtype_auto_is_float32_on_a_cpu_and_half_of_it_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_dtype("auto", "cpu") == torch.float32 and torch_dtype("float16", "cpu") == torch.float16
    assert torch_dtype("auto", "mps") == torch.float16 and torch_dtype("auto", "xpu:1") == torch.bfloat16
    for has, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        assert torch_dtype("auto", "cuda:0") == dtype


class Seen(TorchDispatchMode):
    """Dtypes of the tensors on the meta device, and dimensions of the convolutions there."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()
        self.convolved: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN201
        result = func(*args, **(kwargs or {}))
        self.dtypes |= {x.dtype for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.is_meta}
        if "convolution" in str(func):
            self.convolved.add(args[1].ndim - 2)
        return result


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_device_needs_neither_float64_nor_three_dimensional_convolutions(
    pipe: FollowYourPosePipeline, name: str
) -> None:
    """Apple's MPS has no float64, and its 3-D convolutions are young; meta stands for any device."""
    for network in (pipe.unet, pipe.pose_encoder, pipe.vae, pipe.text_encoder):
        nn.Module.to(network, "meta")
    steps, f, side = scheduler(name, pipe.scheduler), 3, pipe.unet.config.sample_size
    with torch.no_grad(), Seen() as seen:
        steps.set_timesteps(2, device="cpu")
        embeds = pipe.text_encoder(torch.zeros(1, 4, dtype=torch.long, device="meta")).last_hidden_state
        text = pipe.encode_text(embeds, embeds, 1, 1, guided=True)
        skeleton = torch.zeros(1, 3, f, side * pipe.vae_scale_factor, side * pipe.vae_scale_factor)
        condition = Condition(text, pipe.encode_pose(skeleton.to("meta"), 1, 1, guided=True))
        latents = torch.zeros(1, 4, f, side, side, device="meta")
        for i, timestep in enumerate(steps.timesteps):
            x = steps.scale_model_input(latents, timestep)
            noise = pipe.predict(x, timestep, condition, 2.0, i, 2)
            generator = torch.Generator("cpu")
            extra = {"generator": generator} if name in ("euler", "lcm") else {}
            latents = steps.step(noise, timestep, latents, **extra).prev_sample
        pipe.vae.decode(latents[:, :, 0])
    assert torch.float64 not in seen.dtypes and seen.dtypes
    assert max(seen.convolved) == 2
