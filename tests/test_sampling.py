"""Settings of speed and memory: each reaches the pipeline, or is refused where it cannot be used."""

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from followyourpose.config import ConfigError, GenerateConfig, SamplingConfig, build_config
from followyourpose.generation.generate import load_pipeline, sample
from followyourpose.generation.sampling import ARGUMENTS, SCHEDULERS, memory_explained, prepare, scheduler
from followyourpose.pipeline.pipeline import FollowYourPosePipeline
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.world import render_scene, sample_scene
from scripts.benchmark_count import Kernels
from tests.tiny import DDIM

PUPPET = {"prompt": "a panda in the forest", "guidance_scale": 2.0, "noise": "shared", "device": "cpu"}
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to save memory of")


def psnr(video: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal to noise ratio in dB of two uint8 arrays of one shape."""
    return 20 * np.log10(255) - 10 * np.log10(np.square(video.astype(float) - reference).mean() + 1e-9)


def draw(skeleton: np.ndarray, **settings: Any) -> np.ndarray:
    """The embedded default's video of a skeleton (f, H, W, 3) with these settings, (f, H, W, 3) uint8."""
    config = GenerateConfig(**PUPPET | {"num_inference_steps": 5} | settings)
    pipe = load_pipeline(config)
    pipe.set_progress_bar_config(disable=True)
    return sample(pipe, config, config.prompt, skeleton, seed=0)


@pytest.fixture(scope="module")
def skeleton() -> np.ndarray:
    """Four frames of a puppet's skeleton, (4, 128, 128, 3)."""
    _, people = render_scene(sample_scene(np.random.default_rng(3), split="held-out", two=0), 4, 128, 128)
    return np.stack([render_skeleton(each, 128, 128) for each in people])


@pytest.fixture(scope="module")
def plain(skeleton: np.ndarray) -> np.ndarray:
    return draw(skeleton)


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"dtype": "bfloat16"}, 40),
        ({"attention_chunk": 16, "decode_chunk_size": 1}, 60),
        ({"weights": "int8"}, 40),
        ({"weights": "float8"}, 20),
        ({"cache_interval": 2}, 27),
        ({"scheduler": "dpm++"}, 30),
        ({"scheduler": "unipc"}, 26),
        ({"scheduler": "euler"}, 25),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_a_saving_keeps_the_video(
    settings: dict[str, Any], least: float, skeleton: np.ndarray, plain: np.ndarray
) -> None:
    """Peak signal to noise ratio in dB, to the video drawn without the saving."""
    assert psnr(draw(skeleton, **settings), plain) >= least


def test_lcm_draws_in_few_steps(skeleton: np.ndarray) -> None:
    video = draw(skeleton, scheduler="lcm", num_inference_steps=4, guidance_scale=1.5)
    assert video.shape == skeleton.shape and video.std() > 10


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("zero_snr", [True, False])
def test_a_scheduler_keeps_the_noise_schedule_of_training(name: str, zero_snr: bool) -> None:
    trained = {"prediction_type": "v_prediction"} if zero_snr else {}
    current = DDIMScheduler(**DDIM | trained, timestep_spacing="trailing", rescale_betas_zero_snr=zero_snr)
    chosen = scheduler(name, current)
    assert type(chosen).__name__ == SCHEDULERS[name][0]
    for key in ("prediction_type", "timestep_spacing", "beta_schedule", "beta_end", "rescale_betas_zero_snr"):
        assert chosen.config[key] == current.config[key], key
    chosen.set_timesteps(5)
    assert not zero_snr or chosen.timesteps[0] == 999  # there is nothing but noise where it starts


@pytest.mark.parametrize("name", SCHEDULERS)
def test_no_step_of_a_scheduler_waits_for_the_gpu(
    pipe: FollowYourPosePipeline, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of a tensor that lies there halts the program; on the meta device every read is seen.

    The network's reads are counted by `test_a_step_at_full_size_stays_below_its_ceilings`.
    """
    pipe.scheduler = scheduler(name, pipe.scheduler)
    monkeypatch.setattr(pipe.unet, "forward", lambda latents, *_, **__: latents)
    pipe.to("meta")
    embeds = torch.empty(1, 5, pipe.unet.config.cross_attention_dim, device="meta")
    arguments = {
        "prompt_embeds": embeds,
        "negative_prompt_embeds": embeds,
        "skeleton": np.zeros((3, 16, 16, 3), np.uint8),
    }
    arguments |= {"num_frames": 3, "height": 16, "width": 16, "guidance_scale": 2.0, "output_type": "latent"}
    reads = []
    for steps in (2, 5):
        with Kernels() as kernels:
            pipe(**arguments, num_inference_steps=steps)
        reads.append(kernels.reads)
    assert reads[0] == reads[1]


def test_models_that_a_scheduler_would_misread_are_refused() -> None:
    with pytest.raises(ConfigError, match="prediction_type is 'sample', expected epsilon or v_prediction"):
        scheduler("dpm++", DDIMScheduler(**DDIM, prediction_type="sample"))
    with pytest.raises(ConfigError, match="rescale_betas_zero_snr with .*'epsilon'.*expected v_prediction"):
        scheduler("ddim", DDIMScheduler(**DDIM, rescale_betas_zero_snr=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler": "heun"}, "scheduler: got 'heun', expected one of ddim, dpm\\+\\+, unipc, euler, lcm"),
        ({"dtype": "float64"}, "dtype: got 'float64', expected one of auto, float32"),
        ({"offload": "disk"}, "offload: got 'disk', expected one of none, model, group"),
        ({"weights": "int4"}, "weights: got 'int4', expected one of full, int8, float8"),
        ({"cache_interval": 0}, "cache_interval: got 0, expected at least 1"),
        ({"attention_chunk": 0}, "attention_chunk: got 0, expected at least 1"),
        ({"decode_chunk_size": 0}, "decode_chunk_size: got 0, expected at least 1"),
        ({"pose_end": 1.2}, "pose_start, pose_end: got 0.0 and 1.2, expected shares"),
        ({"guidance_start": 0.7, "guidance_end": 0.6}, "guidance_start, guidance_end: got 0.7 and 0.6"),
        ({"pose_scale": -0.1}, "pose_scale: got -0.1, expected a finite number"),
        (
            {"compile": "full", "weights": "float8"},
            "compile: got full with weights: float8.* weights: full or int8",
        ),
        (
            {"compile": "regional", "offload": "model"},
            "compile: got regional with offload: model.* expected offload: none",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(SamplingConfig, settings)


def test_every_setting_of_a_call_is_an_argument_of_the_pipeline() -> None:
    assert set(ARGUMENTS) <= inspect.signature(FollowYourPosePipeline.__call__).parameters.keys()
    defaults = {field.name: field.default for field in dataclasses.fields(SamplingConfig)}
    for name in ARGUMENTS:
        assert inspect.signature(FollowYourPosePipeline.__call__).parameters[name].default == defaults[name]


# ---- memory ----------------------------------------------------------------------------------------------------------


@needs_no_gpu
@pytest.mark.parametrize("offload", ["model", "group"])
def test_offload_without_a_gpu_is_refused(pipe: FollowYourPosePipeline, offload: str) -> None:
    with pytest.raises(ConfigError, match=f"offload: got '{offload}' on cpu"):
        prepare(pipe, SamplingConfig(offload=offload), torch.device("cpu"))


def test_savings_of_memory_are_switched_on(pipe: FollowYourPosePipeline) -> None:
    prepare(pipe, SamplingConfig(weights="float8", vae_tiling=True, attention_chunk=8), torch.device("cpu"))
    assert pipe.vae.use_tiling
    assert pipe.unet.mid_block.resnets[0].conv1.weight.dtype == torch.float8_e4m3fn
    assert pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.chunk == 8


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes."),
    ],
)
def test_lack_of_memory_names_the_settings_that_lower_it(pipe: FollowYourPosePipeline, error: Exception) -> None:
    with (
        pytest.raises(ConfigError, match=r"out of memory \(.*num_frames.*weights=int8 \(.* MB") as raised,
        memory_explained(pipe, SamplingConfig(decode_chunk_size=1)),
    ):
        raise error
    assert "vae_tiling=true" in str(raised.value) and "decode_chunk_size" not in str(raised.value)


def test_other_errors_pass(pipe: FollowYourPosePipeline) -> None:
    with pytest.raises(RuntimeError, match="shapes do not fit"), memory_explained(pipe, SamplingConfig()):
        raise RuntimeError("shapes do not fit")
