"""Savings of time: their effect on the result, and one compilation of a compiled UNet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from followyourpose import FollowYourPosePipeline, VideoUNet
from followyourpose.models.int8_weights import keep_in_int8
from followyourpose.pipeline.condition import Condition
from tests.fixtures import randomise

Run = Callable[..., Tensor]


@pytest.fixture
def run(pipe: FollowYourPosePipeline) -> Run:
    """Return a function that generates three frames in ten steps from one noise: latents (1, 4, 3, 8, 8)."""
    skeleton = np.zeros((3, 16, 16, 3), np.uint8)
    skeleton[:, 2:14, 5:7] = (255, 80, 0)
    noise = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    arguments = {"skeleton": skeleton, "latents": noise, "num_inference_steps": 10, "guidance_scale": 4.0}
    arguments |= {"num_frames": 3, "height": 16, "width": 16, "output_type": "latent"}

    def generate(**changes: Any) -> Tensor:
        return pipe("a cat", **arguments | changes).videos

    return generate


def rows_of(module: torch.nn.Module) -> list[int]:
    """Return a list that will hold the batch of every call of a module."""
    rows = []
    module.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    return rows


# ---- strength of the pose --------------------------------------------------------------------------------------------


def test_pose_scale_multiplies_the_features(pipe: FollowYourPosePipeline, run: Run) -> None:
    assert torch.equal(run(pose_scale=0.0), run(skeleton=None))
    twice = run(pose_scale=2.0)
    assert not torch.allclose(twice, run(), atol=1e-2)
    for weights in pipe.pose_encoder.zero_convs.parameters():
        weights.data *= 2
    torch.testing.assert_close(twice, run(), rtol=1e-4, atol=1e-4)


def test_pose_acts_in_its_interval_only(pipe: FollowYourPosePipeline, run: Run) -> None:
    assert torch.equal(run(pose_start=0.5, pose_end=0.5), run(skeleton=None))
    acts = []
    block = pipe.unet.down_blocks[0]
    block.register_forward_pre_hook(lambda _, inputs: acts.append(bool(inputs[4].abs().max() > 0)))
    run(pose_start=0.2, pose_end=0.5)
    assert acts == [False] * 2 + [True] * 3 + [False] * 5


# ---- guidance in an interval -----------------------------------------------------------------------------------------


def test_outside_its_interval_guidance_costs_nothing(pipe: FollowYourPosePipeline, run: Run) -> None:
    rows = rows_of(pipe.unet.conv_out)
    run(guidance_start=0.1, guidance_end=0.4)
    assert rows == [3] + [6] * 3 + [3] * 6


def test_guidance_outside_of_every_step_is_the_conditional_prediction(run: Run) -> None:
    none = run(guidance_start=1.0)
    torch.testing.assert_close(none, run(guidance_scale=1.0), rtol=1e-5, atol=1e-5)
    one_sided = run(guidance_start=1.0, pose_guidance="conditional")
    torch.testing.assert_close(one_sided, none, rtol=1e-5, atol=1e-5)


# ---- reused deep features -------------------------------------------------------------------------------------------


def test_one_step_of_an_interval_is_a_full_one(pipe: FollowYourPosePipeline, run: Run) -> None:
    full, all_steps = rows_of(pipe.unet.mid_block), rows_of(pipe.unet.conv_out)
    run(cache_interval=3)
    assert len(full) == 4 and len(all_steps) == 10
    full.clear()
    run(cache_interval=3, guidance_end=0.4)  # steps 4 and 5 have no unconditional half, which step 3 had
    assert full == [6, 6, 3, 3, 3]


def test_caching_changes_less_the_less_it_skips(run: Run) -> None:
    plain = run()
    errors = [(run(cache_interval=n) - plain).square().mean().item() for n in (1, 2, 5)]
    assert errors[0] == 0 < errors[1] < errors[2]


def test_deep_features_stay_with_their_condition(pipe: FollowYourPosePipeline, run: Run) -> None:
    first, second = Condition([], None, cache_interval=2), Condition([], None, cache_interval=2)
    first.deep = torch.zeros(6, 8, 4, 4)
    assert first.deep_at(step=1, rows=6) is first.deep
    assert first.deep_at(step=2, rows=6) is None and first.deep_at(step=1, rows=3) is None
    assert second.deep_at(step=1, rows=6) is None
    assert torch.equal(run(cache_interval=2), run(cache_interval=2))  # nothing of the first video


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pose_scale": -1.0}, "pose_scale: got -1.0, expected a finite number, at least 0"),
        ({"pose_scale": float("nan")}, "pose_scale: got nan"),
        ({"pose_start": 0.6, "pose_end": 0.5}, "pose_start, pose_end: got 0.6 and 0.5, expected shares"),
        ({"guidance_end": 1.5}, "guidance_start, guidance_end: got 0.0 and 1.5"),
        ({"cache_interval": 0}, "cache_interval: got 0, expected at least 1"),
    ],
)
def test_strengths_out_of_range_are_named(run: Run, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**changes)


# ---- compilation, run by .ci/run ------------------------------------------------------------------------------------


@pytest.fixture
def graphs(pipe: FollowYourPosePipeline) -> list[int]:
    """Compile the UNet as `pipe.compile` does, without code generation; return a list that gets every graph's size."""
    sizes = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        sizes.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    compile_module = pipe.unet.compile
    pipe.unet.compile = lambda **settings: compile_module(backend=count, **settings)
    pipe.compile()
    return sizes


@pytest.mark.slow
def test_windows_share_one_graph(pipe: FollowYourPosePipeline, run: Run, graphs: list[int]) -> None:
    for window in range(3):
        skeleton = np.random.default_rng(window).integers(0, 255, (3, 16, 16, 3), np.uint8)
        noise = torch.randn(1, 4, 3, 8, 8)
        run(skeleton=skeleton, latents=noise, num_inference_steps=4, guidance_scale=4.0 + window, pose_end=0.5)
    assert len(graphs) == 1  # fullgraph makes a break an error


@pytest.mark.slow
def test_compiled_steps_that_reuse_deep_features_are_a_second_graph(
    pipe: FollowYourPosePipeline, run: Run, graphs: list[int]
) -> None:
    compiled = run(cache_interval=2)
    assert len(graphs) == 2 and graphs[1] < graphs[0]
    pipe.unet._compiled_call_impl = None
    torch.testing.assert_close(compiled, run(cache_interval=2), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiled_with_another_sampler_is_one_graph(pipe: FollowYourPosePipeline, run: Run, graphs: list[int]) -> None:
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    run(num_inference_steps=3)
    assert len(graphs) == 1


@pytest.mark.slow
def test_weights_in_8_bits_compile_to_one_graph(pipe: FollowYourPosePipeline, run: Run, graphs: list[int]) -> None:
    keep_in_int8(pipe.unet)
    compiled = run(num_inference_steps=3)
    assert len(graphs) == 1
    pipe.unet._compiled_call_impl = None
    torch.testing.assert_close(compiled, run(num_inference_steps=3), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_regions_of_stable_diffusion_are_few_graphs(clip: Callable[..., Any]) -> None:
    """One graph for each shape of a residual block or transformer, at other timesteps too; a break is an error."""
    widths = {"block_out_channels": (8, 16, 32, 32), "norm_num_groups": 4, "cross_attention_dim": 12}
    unet, graphs = randomise(VideoUNet(**widths, attention_head_dim=2, temporal_rank=4)), []
    latents, _, text = clip(b=1)
    inputs = latents, text.repeat(2, 1, 1)
    unet.set_attention_backend("auto")
    torch._dynamo.reset()
    with torch.no_grad():
        expected = unet(inputs[0], torch.tensor(7), inputs[1])
        unet.compile_repeated_blocks(backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True)
        for timestep in (7, 8):
            got = unet(inputs[0], torch.tensor(timestep), inputs[1])
            assert 10 < len(graphs) <= 20
            if timestep == 7:
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_second_start_finds_its_code_on_the_disk(
    tiny_unet: VideoUNet, clip: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    counters = torch._dynamo.utils.counters
    block, x, time = tiny_unet.down_blocks[0].resnets[0], torch.randn(3, 8, 8, 8), torch.randn(1, 32)
    found = []
    for _ in range(2):
        torch._dynamo.reset()
        counters.clear()
        tiny_unet.compile_as("regional")
        with torch.no_grad():
            block(x, time, 3)
        found.append(tuple(counters["inductor"][f"fxgraph_cache_{kind}"] for kind in ("miss", "hit")))
    assert found == [(1, 0), (0, 1)] and list((tmp_path / "followyourpose" / "compiled").iterdir())


@pytest.mark.slow
def test_compiled_training_has_the_same_gradients(tiny_config: dict[str, Any], clip: Callable[..., Any]) -> None:
    torch._dynamo.reset()
    unet = randomise(VideoUNet.from_config({**tiny_config, "layers_per_block": 1}))
    gradients = []
    for compiled in (False, True):
        if compiled:
            unet.compile(backend="aot_eager", fullgraph=True)
        unet.zero_grad()
        unet(*clip()).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in unet.parameters()])
    torch.testing.assert_close(*gradients)
