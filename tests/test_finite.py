"""NaN and infinity, wherever they come from: one line that names the place and the settings, never a black video."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from followyourpose import FollowYourPosePipeline
from followyourpose.models.int8_weights import keep_in_int8
from followyourpose.pipeline.call import Call
from followyourpose.pipeline.denoise import StateError, StreamState
from followyourpose.pipeline.finite import FiniteLatents
from followyourpose.pipeline.job import prepare
from followyourpose.pipeline.windows import LongVideo

SKELETON = np.full((3, 16, 16, 3), 200, np.uint8)
SETTINGS = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": 16, "width": 16, "output_type": "latent"}
PAPER = LongVideo("paper", window=2, overlap=1)
NAN, INFINITY = float("nan"), float("inf")


def refusal(pipe: FollowYourPosePipeline, **arguments: Any) -> str:
    """Return the one line of the error of a call."""
    with pytest.raises(ValueError) as error:
        pipe(**{"prompt": "a cat", "skeleton": SKELETON} | SETTINGS | arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def spoil(pipe: FollowYourPosePipeline, step: int, value: float) -> None:
    """Let the predictions from a step on hold a value that is not finite."""
    predict = pipe.predict

    def spoiled(latents: Tensor, timestep: Tensor, condition: Any, scale: float, i: int, steps: int) -> Tensor:
        prediction = predict(latents, timestep, condition, scale, i, steps)
        prediction[0, 0, -1, 0, 0] += value if i >= step else 0
        return prediction

    pipe.predict = spoiled


# ---- latents --------------------------------------------------------------------------------------------------------


def test_guidance_that_leaves_the_range_is_named_with_its_step(pipe: FollowYourPosePipeline) -> None:
    message = refusal(pipe, guidance_scale=3e38)
    assert message.startswith("the latents are not finite after step 2 of 3: lower guidance_scale (3e+38); ")
    message = refusal(pipe, pose_scale=3e38, guidance_scale=1.0)
    assert "of 3: lower pose_scale (3e+38); lower the weights of LoRAs" in message
    assert "pose_scale" not in refusal(pipe, guidance_scale=3e38, skeleton=None, num_frames=2)


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("mode", ["full", "paper", "blend", "freenoise"])
def test_the_first_step_that_leaves_the_range_is_named_in_every_mode(
    pipe: FollowYourPosePipeline, mode: str, value: float
) -> None:
    spoil(pipe, 1, value)
    assert "not finite after step 2 of 3" in refusal(pipe, long_video=LongVideo(mode, window=2))


def test_finished_windows_of_a_stream_come_before_the_error(pipe: FollowYourPosePipeline) -> None:
    state, seen = StreamState(), []

    def stop(pipe: FollowYourPosePipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
        seen.append(step)
        return {"latents": tensors["latents"] * NAN} if len(seen) == 5 else {}

    parts = pipe.stream("a cat", SKELETON, long_video=PAPER, state=state, callback_on_step_end=stop, **SETTINGS)
    assert next(parts).shape[2] == 2
    with pytest.raises(ValueError, match="not finite after step 3 of 3"):  # the callback's own step is the second one
        next(parts)
    assert state.frames == 2 and state.known.isfinite().all()


def test_latents_of_the_last_callback_are_checked_too(pipe: FollowYourPosePipeline) -> None:
    last = lambda pipe, step, timestep, tensors: {"latents": tensors["latents"] * NAN} if step == 2 else {}  # noqa: E731
    assert "not finite after step 3 of 3" in refusal(pipe, callback_on_step_end=last)


def test_on_a_gpu_the_steps_are_read_at_the_end(pipe: FollowYourPosePipeline) -> None:
    finite = FiniteLatents(prepare(pipe, Call("a cat", SKELETON, **SETTINGS)))
    finite.at_once = False
    for step, value in enumerate((1.0, NAN, INFINITY)):
        finite.note(torch.tensor([value]), step)
    with pytest.raises(ValueError, match="not finite after step 2 of 3"):
        finite.check()
    finite.check()  # nothing since


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["unet", "pose_encoder"])
def test_a_weight_that_is_not_finite_is_named(pipe: FollowYourPosePipeline, part: str) -> None:
    getattr(pipe, part).conv_in.weight.data[0, 0, 0, 0] = NAN
    assert f"step 1 of 3: {part}.conv_in.weight is not finite: the model is damaged, or the weight" in refusal(pipe)


def test_integers_do_not_hide_a_weight_that_is_not_finite(pipe: FollowYourPosePipeline) -> None:
    pipe.unet.conv_in.weight.data[0, 0, 0, 0] = NAN
    with pytest.raises(ValueError, match=r"Conv2d \(8, 4, 3, 3\): got weights with NaN or infinity"):
        keep_in_int8(pipe.unet)


@pytest.mark.parametrize("value", [NAN, INFINITY])
def test_a_lora_that_is_not_finite_is_refused(pipe: FollowYourPosePipeline, tmp_path: Path, value: float) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weights = {f"{layer}.lora_A.weight": torch.ones(2, 16), f"{layer}.lora_B.weight": torch.full((16, 2), value)}
    save_file(weights, tmp_path / "style.safetensors")
    with pytest.raises(ValueError, match=r"style.safetensors: got NaN or infinity in unet\.mid_block.*lora_B"):
        pipe.load_lora_weights(tmp_path / "style.safetensors")
    assert not pipe.get_list_adapters()


# ---- inputs and pixels ----------------------------------------------------------------------------------------------


def test_inputs_that_are_not_finite_are_named(pipe: FollowYourPosePipeline) -> None:
    cat, empty = pipe.encode_prompt("a cat")
    latents = torch.full((1, 4, 3, 8, 8), INFINITY)
    assert refusal(pipe, latents=latents).startswith("latents: got NaN or infinity")
    assert refusal(pipe, prompt=None, prompt_embeds=cat * NAN).startswith("prompt_embeds: got NaN or infinity")
    message = refusal(pipe, prompt=None, prompt_embeds=cat, negative_prompt_embeds=empty * NAN)
    assert message.startswith("negative_prompt_embeds: got NaN or infinity")
    pipe.text_encoder.get_input_embeddings().weight.data *= NAN
    assert refusal(pipe).startswith("prompt: got NaN or infinity (torch.float32)")
    assert "skeleton: got values in [nan, nan]" in refusal(pipe, skeleton=torch.full((3, 3, 16, 16), NAN))


def test_embeddings_beyond_half_precision_are_named(pipe: FollowYourPosePipeline) -> None:
    cat, _ = pipe.encode_prompt("a cat")
    pipe.to(torch.float16)
    message = refusal(pipe, prompt=None, prompt_embeds=cat.float() * 1e6)
    assert message.startswith("prompt_embeds: got NaN or infinity (torch.float16)")


@pytest.mark.parametrize("output_type", ["np", "pt", "pil"])
def test_a_vae_that_leaves_the_range_is_named(pipe: FollowYourPosePipeline, output_type: str) -> None:
    pipe.vae.decoder.conv_out.bias.data[0] = NAN
    message = refusal(pipe, output_type=output_type)
    assert message == "the VAE gives pixels that are not finite in torch.float32: the model is damaged"
    with pytest.raises(ValueError, match="latents: got NaN or infinity"):
        pipe.decode(torch.full((1, 4, 1, 8, 8), NAN))


# ---- states of streams ----------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(pipe: FollowYourPosePipeline) -> tuple[Callable[..., Any], StreamState]:
    """A function that opens a stream at a state, and the state after the first of its two parts."""

    def stream(state: StreamState, **changes: Any) -> Any:
        settings = {"long_video": PAPER, "generator": torch.Generator().manual_seed(0)} | SETTINGS | changes
        return pipe.stream("a cat", SKELETON, state=state, **settings)

    state = StreamState()
    next(stream(state))
    return stream, state


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"frames": 1}, "state: got 1 finished frames, expected the end of a window"),
        ({"frames": 4}, "state: got 4 finished frames"),
        ({"frames": -1}, "state: got -1 finished frames"),
        ({"frames": 0}, r"state: got known latents \(3, 1, 4, 1, 8, 8\), expected \(3, 1, 4, 0, 8, 8\)"),
        ({"known": None}, r"state: got known latents None, expected \(3, 1, 4, 1, 8, 8\)"),
        ({"known": torch.zeros(3, 1, 4, 1, 4, 4)}, "state: got known latents"),
        ({"known": torch.full((3, 1, 4, 1, 8, 8), NAN)}, "state: got known latents with NaN or infinity"),
        ({"random": torch.zeros(2, 5056, dtype=torch.uint8)}, "generator: got 1, expected 2, as when the stream began"),
        ({"random": torch.zeros(1, 7, dtype=torch.uint8)}, "state: got states that no generator has"),
        ({"random": torch.zeros(1, 5056)}, "state: got states that no generator has"),
    ],
)
def test_a_damaged_state_is_refused_before_the_first_part(
    stopped: tuple[Callable[..., Any], StreamState], damage: dict[str, Any], message: str
) -> None:
    stream, state = stopped
    for name, value in damage.items():
        setattr(state, name, value)
    with pytest.raises(StateError, match=message):
        stream(state)


def test_a_state_of_other_arguments_is_refused(stopped: tuple[Callable[..., Any], StreamState]) -> None:
    stream, state = stopped
    with pytest.raises(StateError, match="state: got known latents"):
        stream(copy.deepcopy(state), num_inference_steps=2)
    with pytest.raises(StateError, match="generator: got 0, expected 1"):
        stream(copy.deepcopy(state), generator=None)
    with pytest.raises(StateError, match="state: got known latents .* expected"):
        stream(copy.deepcopy(state), long_video=LongVideo("blend", window=2))
