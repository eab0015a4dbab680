"""Doors of diffusers' pipelines and networks: each does here what it does there (its own tests are not installed)."""

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, EulerDiscreteScheduler, attention_backend
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback
from diffusers.models import attention_dispatch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor

import followyourpose
from followyourpose import FollowYourPosePipeline, PoseEncoder, VideoUNet
from followyourpose.config import GenerateConfig
from followyourpose.data.video_io import write_video
from followyourpose.generation.generate import load_pipeline
from followyourpose.pipeline.pipeline import rescaled
from followyourpose.pipeline.windows import LongVideo
from followyourpose.pose.keypoints_file import ClipKeypoints, write_keypoints
from tests import tiny

FAST = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent"}
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


@pytest.fixture(scope="module")
def folder(acting: FollowYourPosePipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `acting`."""
    place = tmp_path_factory.mktemp("saved") / "video"
    acting.save_pretrained(place)
    return place


@pytest.fixture
def skeleton() -> np.ndarray:
    """Three frames of a white bar on black, bytes (3, 32, 32, 3)."""
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[4:28, 10 + 4 * i : 13 + 4 * i] = 255
    return frames


def noise(b: int = 1, f: int = 3) -> Tensor:
    return torch.randn(b, 4, f, 16, 16, generator=torch.Generator().manual_seed(0))


def lora(
    scale: float = 1.0, layer: str = f"unet.{BLOCK}.attn1.to_q", inputs: int = 8, outputs: int = 8
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    down, up = torch.randn(2, inputs, generator=generator), torch.randn(outputs, 2, generator=generator)
    return {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": scale * up}


# ---- callbacks -------------------------------------------------------------------------------------------------------


def test_a_callback_reads_and_sets_what_acts_at_the_next_step(pipe: FollowYourPosePipeline) -> None:
    seen = []

    def raise_guidance(pipe: FollowYourPosePipeline, _: int, __: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
        seen.append((pipe.guidance_scale, pipe.do_classifier_free_guidance, pipe.num_timesteps, pipe.clip_skip))
        pipe._guidance_scale += 1.0
        return tensors

    out = pipe("a cat", latents=noise(f=1), callback_on_step_end=raise_guidance, clip_skip=1, **FAST).videos
    assert seen == [(4.0 + i, True, 3, 1) for i in range(3)] and pipe.guidance_scale == 7.0
    assert not torch.equal(out, pipe("a cat", latents=noise(f=1), clip_skip=1, **FAST).videos)
    assert pipe.guidance_scale == 4.0 and pipe.clip_skip == 1 and pipe.cross_attention_kwargs is None
    pipe("a cat", **FAST | {"guidance_scale": 1.0})
    assert not pipe.do_classifier_free_guidance and pipe.guidance_rescale == 0 and not pipe.interrupt


def test_guidance_may_be_another_one_at_every_step(pipe: FollowYourPosePipeline) -> None:
    """The dynamic guidance of diffusers' documentation: equal to guidance in an interval of the steps."""

    def end(pipe: FollowYourPosePipeline, step: int, _: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
        if step == int(pipe.num_timesteps * 0.4):
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
            pipe._guidance_scale = 0.0
        return tensors

    prompts = ["a cat", "a dog"]  # of which `chunk` leaves the last alone: theirs would be both halves
    inputs = {"callback_on_step_end": end, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    out = pipe(prompts, latents=noise(2, 1), **FAST, **inputs).videos
    assert torch.equal(out, pipe(prompts, latents=noise(2, 1), **FAST, guidance_end=0.6).videos)


@pytest.mark.parametrize("together", [False, True])
def test_diffusers_callback_ends_guidance(pipe: FollowYourPosePipeline, together: bool) -> None:
    callback = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    callback = MultiPipelineCallbacks([callback]) if together else callback
    halves = []
    pipe.unet.conv_out.register_forward_hook(lambda _, inputs, __: halves.append(len(inputs[0])))
    out = pipe("a cat", latents=noise(f=1), callback_on_step_end=callback, **FAST).videos
    assert halves == [2, 2, 1]
    assert torch.equal(out, pipe("a cat", latents=noise(f=1), guidance_end=0.6, **FAST).videos)


def test_what_a_callback_sets_begins_anew_in_every_window(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    scales = []

    def end(pipe: FollowYourPosePipeline, step: int, _: Tensor, tensors: dict[str, Tensor]) -> None:
        scales.append(pipe.guidance_scale)
        pipe._guidance_scale = 1.0

    long_video = LongVideo("paper", window=2, overlap=1)
    pipe("a cat", skeleton, long_video=long_video, callback_on_step_end=end, **FAST)
    assert scales == [4.0, 1.0, 1.0] * 2


@pytest.mark.parametrize(
    ("guidance", "change", "message"),
    [
        (1.0, {}, "guidance_scale: a callback set 7 in a call without guidance, expected at most 1"),
        (4.0, {"latents": torch.zeros(1, 4, 2, 16, 16)}, r"latents: a callback gave \(1, 4, 2, 16, 16\), expected"),
        (4.0, {"prompt_embeds": torch.zeros(3, 12, 24)}, r"prompt_embeds: a callback gave \(3, 12, 24\), expected"),
    ],
)
def test_what_a_callback_cannot_set_is_named(
    pipe: FollowYourPosePipeline, guidance: float, change: dict[str, Tensor], message: str
) -> None:
    def callback(pipe: FollowYourPosePipeline, *_: Any) -> dict[str, Tensor]:
        pipe._guidance_scale = 7.0
        return change

    with pytest.raises(ValueError, match=message):
        pipe("a cat", callback_on_step_end=callback, **FAST | {"guidance_scale": guidance})


# ---- arguments -------------------------------------------------------------------------------------------------------


def test_timesteps_are_those_of_the_call(pipe: FollowYourPosePipeline) -> None:
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    generator = torch.Generator
    given = pipe("a cat", timesteps=[900, 500, 100], generator=generator().manual_seed(0), **FAST).videos
    assert pipe.scheduler.timesteps.tolist() == [900, 500, 100] and pipe.num_timesteps == 3
    assert not torch.equal(given, pipe("a cat", generator=generator().manual_seed(0), **FAST).videos)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert pipe("a cat", timesteps=torch.tensor([900, 100]), **FAST).videos.isfinite().all()
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match=r"timesteps: got \[100, 900\], which DDPMScheduler cannot take"):
        pipe("a cat", timesteps=[100, 900], **FAST)


def test_clip_skip_takes_an_earlier_layer_of_the_text_encoder(pipe: FollowYourPosePipeline) -> None:
    whole, same, skipped = (pipe.encode_prompt("a cat", clip_skip=skip)[0] for skip in (None, 0, 1))
    torch.testing.assert_close(whole, same)
    hidden = pipe.text_encoder(
        pipe.tokenizer("a cat", padding="max_length", return_tensors="pt").input_ids, output_hidden_states=True
    ).hidden_states[-2]
    norm = next(module for name, module in pipe.text_encoder.named_modules() if name.endswith("final_layer_norm"))
    torch.testing.assert_close(skipped, norm(hidden))
    video = pipe("a cat", latents=noise(f=1), clip_skip=1, **FAST).videos
    assert not torch.equal(video, pipe("a cat", latents=noise(f=1), **FAST).videos)


def test_cross_attention_scale_multiplies_loras(pipe: FollowYourPosePipeline) -> None:
    def run(scale: float | None = None) -> Tensor:
        arguments = {} if scale is None else {"cross_attention_kwargs": {"scale": scale}}
        return pipe("a cat", latents=noise(f=1), **FAST, **arguments).videos

    text = "text_encoder.encoder.layers.0.self_attn.q_proj"
    bare = run()
    pipe.load_lora_weights(lora() | lora(layer=text, inputs=tiny.TEXT_WIDTH, outputs=tiny.TEXT_WIDTH), adapter_name="a")
    full = run()
    torch.testing.assert_close(run(0.0), bare)
    assert torch.equal(run(1.0), full)
    half = run(0.5)
    pipe.set_adapters("a", 0.5)
    torch.testing.assert_close(half, run())
    assert not torch.allclose(half, full, atol=1e-3)
    run(0.0)
    assert torch.equal(run(), half)  # 0 too is undone


def test_a_callback_may_change_the_scale_of_loras(pipe: FollowYourPosePipeline) -> None:
    def end(pipe: FollowYourPosePipeline, *_: Any) -> None:
        pipe._cross_attention_kwargs = {"scale": 0.0}

    pipe.load_lora_weights(lora(layer=f"unet.{BLOCK}.attn2.to_k", inputs=24) | lora())
    full = pipe("a cat", latents=noise(f=1), **FAST).videos
    assert not torch.equal(full, pipe("a cat", latents=noise(f=1), callback_on_step_end=end, **FAST).videos)
    assert torch.equal(full, pipe("a cat", latents=noise(f=1), **FAST).videos)


def test_rescaled_guidance_has_the_conditional_deviation(pipe: FollowYourPosePipeline) -> None:
    guided, conditional = 5 * noise(2), noise(2).flip(2) + 3
    whole = rescaled(guided, conditional, 1.0)
    torch.testing.assert_close(whole.std((1, 2, 3, 4)), conditional.std((1, 2, 3, 4)))
    torch.testing.assert_close(rescaled(guided, conditional, 0.25), 0.25 * whole + 0.75 * guided)
    torch.testing.assert_close(rescaled(guided, conditional, 0.7), rescale_noise_cfg(guided, conditional, 0.7))
    videos = [pipe("a cat", latents=noise(f=1), guidance_rescale=share, **FAST).videos for share in (0.0, 0.7)]
    assert not torch.equal(*videos)


def test_skeletons_of_any_form_are_one(pipe: FollowYourPosePipeline, skeleton: np.ndarray, tmp_path: Path) -> None:
    for i, frame in enumerate(skeleton):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    images = [Image.fromarray(frame) for frame in skeleton]
    forms = [skeleton, skeleton / np.float32(255), images, [images], tmp_path, str(tmp_path)]
    tensors = [followyourpose.skeleton_tensor(form) for form in forms]
    assert tensors[0].shape == (1, 3, 3, 32, 32)
    videos = [pipe("a cat", form, latents=noise(), **FAST).videos for form in forms]
    for tensor, video in zip(tensors, videos, strict=True):
        torch.testing.assert_close(tensor.float(), tensors[0], rtol=0, atol=1e-7)
        torch.testing.assert_close(video, videos[0], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"skeleton: got images of \(8, 8, 3\) and \(32, 32, 3\), expected one size"):
        followyourpose.skeleton_tensor([*images, Image.new("RGB", (8, 8))])


def test_a_skeleton_file_covers_the_size_of_the_call(pipe: FollowYourPosePipeline, tmp_path: Path) -> None:
    frames = np.zeros((5, 64, 96, 3), np.uint8)
    frames[:, :, 40:56] = 255
    write_video(tmp_path / "dance.mp4", frames, 8)
    person = np.array([[48, 8 + 3 * joint, 1] for joint in range(17)], np.float32)
    write_keypoints(tmp_path / "dance.json", ClipKeypoints(96, 64, 8, [[person]] * 5))
    for name in ("dance.mp4", "dance.json"):
        tensor = followyourpose.skeleton_tensor(tmp_path / name, 32, 32)
        assert tensor.shape == (1, 3, 5, 32, 32)
        assert tensor[..., 16].mean() > 0.1 > tensor[..., 2].mean()  # the middle of the file is the middle here
        assert pipe("a cat", tmp_path / name, **FAST).videos.shape[2] == 5
        assert pipe("a cat", tmp_path / name, num_frames=2, **FAST).videos.shape[2] == 2
        with pytest.raises(ValueError, match="skeleton: got 5 frames, expected num_frames, 6"):
            pipe("a cat", tmp_path / name, num_frames=6, **FAST)


def test_frames_are_the_videos(pipe: FollowYourPosePipeline) -> None:
    out = pipe("a cat", **FAST)
    assert out.frames is out.videos


def test_vae_slices_and_tiles(pipe: FollowYourPosePipeline) -> None:
    whole = pipe.decode(noise())
    pipe.enable_vae_slicing()
    assert pipe.vae.use_slicing
    np.testing.assert_allclose(pipe.decode(noise()), whole, atol=1e-5)
    pipe.enable_vae_tiling()
    assert pipe.vae.use_tiling
    pipe.disable_vae_slicing()
    pipe.disable_vae_tiling()
    assert not (pipe.vae.use_slicing or pipe.vae.use_tiling)


def test_a_vae_may_have_no_shift(pipe: FollowYourPosePipeline) -> None:
    expected = pipe.decode(noise())
    del pipe.vae._internal_dict
    pipe.vae.register_to_config(scaling_factor=0.18215, block_out_channels=(8, 8))
    np.testing.assert_array_equal(pipe.decode(noise()), expected)


# ---- attention -------------------------------------------------------------------------------------------------------


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends of all attentions that are computed, in order."""
    backends, registry = [], attention_dispatch._AttentionBackendRegistry
    for name, function in list(registry._backends.items()):

        def spy(*args: Any, name: Any = name, function: Callable[..., Tensor] = function, **kwargs: Any) -> Tensor:
            backends.append(name.value)
            return function(*args, **kwargs)

        monkeypatch.setitem(registry._backends, name, spy)
    return backends


def test_the_context_chooses_the_backend_where_none_is_set(tiny_unet: VideoUNet, clip: Any, used: list[str]) -> None:
    def run() -> set[str]:
        used.clear()
        tiny_unet(*clip())
        return set(used)

    assert run() == {"native"}
    with attention_backend("_native_math"):
        assert run() == {"_native_math"}
        tiny_unet.set_attention_backend("native")
        assert run() == {"native"}
        tiny_unet.reset_attention_backend()
        assert run() == {"_native_math"}
    assert run() == {"native"}
    tiny_unet.set_use_memory_efficient_attention_xformers(False)
    assert run() == {"native"}
    with pytest.raises(ValueError, match="attention backend: got 'xformers', which does not run here"):
        tiny_unet.enable_xformers_memory_efficient_attention()


@pytest.mark.parametrize(("attention", "backend"), [(None, "_native_math"), ("native", "native")])
def test_the_environment_chooses_the_backend_where_a_config_names_none(
    folder: Path, used: list[str], monkeypatch: pytest.MonkeyPatch, attention: str | None, backend: str
) -> None:
    """Set what DIFFUSERS_ATTN_BACKEND sets when diffusers is imported."""
    chosen = attention_dispatch.AttentionBackendName("_native_math")
    monkeypatch.setattr(attention_dispatch._AttentionBackendRegistry, "_active_backend", chosen)
    pipe = load_pipeline(GenerateConfig(model=str(folder), device="cpu", attention=attention))
    used.clear()
    pipe("a cat", latents=noise(f=1), **FAST)
    assert set(used) == {backend}


# ---- offload ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
def test_group_offload_changes_nothing(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray, tmp_path: Path, level: str, disk: bool
) -> None:
    arguments = FAST | {"output_type": "np", "cache_interval": 2}
    expected = pipe("a cat", skeleton, latents=noise(), **arguments).videos
    place = tmp_path / "weights"
    (place / "unet").mkdir(parents=True)
    (place / "unet" / "group_of_an_earlier_process.safetensors").write_bytes(b"")
    pipe.enable_group_offload(
        torch.device("cpu"), offload_type=level, num_blocks_per_group=1, offload_to_disk_path=place if disk else None
    )
    for _ in range(2):
        np.testing.assert_allclose(pipe("a cat", skeleton, latents=noise(), **arguments).videos, expected, atol=1e-5)
    names = [file.parent.name for file in place.rglob("*.safetensors")]
    assert set(names) == ({"unet", "vae", "text_encoder", "pose_encoder"} if disk else {"unet"})
    if disk:
        with pytest.raises(ValueError, match="the given weights: unet is offloaded to a disk, expected LoRAs to be"):
            pipe.load_lora_weights(lora())


def test_blocks_that_are_offloaded_together_run_together(pipe: FollowYourPosePipeline) -> None:
    expected = pipe("a cat", latents=noise(f=1), **FAST).videos
    pipe.enable_group_offload(torch.device("cpu"), offload_type="block_level", num_blocks_per_group=2)
    torch.testing.assert_close(pipe("a cat", latents=noise(f=1), **FAST).videos, expected)
    with pytest.raises(ValueError, match="deep: blocks are offloaded 2 at a time, expected num_blocks_per_group=1"):
        pipe("a cat", latents=noise(f=1), cache_interval=2, **FAST)


def test_sequential_offload_changes_nothing(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    if not torch.cuda.is_available():
        pytest.skip("accelerate's sequential offload needs a GPU")
    expected = pipe.to("cuda")("a cat", skeleton, latents=noise(), **FAST).videos
    pipe.to("cpu").enable_sequential_cpu_offload()
    torch.testing.assert_close(pipe("a cat", skeleton, latents=noise(), **FAST).videos, expected, rtol=0, atol=1e-4)


# ---- LoRAs -----------------------------------------------------------------------------------------------------------


def test_adapters_may_have_a_scale_for_each_block(pipe: FollowYourPosePipeline) -> None:
    layers = {
        "conv_in": 1.0, "down_blocks.0.attentions.0.proj_in": 0.1, "down_blocks.0.attentions.1.proj_in": 0.2,
        "down_blocks.1.resnets.0.conv1": 1.0, "mid_block.attentions.0.proj_in": 0.4,
        "up_blocks.1.attentions.2.proj_in": 0.7, "up_blocks.1.resnets.0.conv1": 0.5, "up_blocks.0.resnets.0.conv1": 0.3,
    }  # fmt: skip
    weights = {}
    for layer in layers:
        shape = pipe.unet.get_submodule(layer).weight.shape
        weights |= {f"unet.{layer}.lora_A.weight": torch.randn(2, *shape[1:])}
        weights |= {f"unet.{layer}.lora_B.weight": torch.randn(shape[0], 2, 1, 1)}
    pipe.load_lora_weights(weights, adapter_name="a")
    scales = {"down": {"block_0": [0.1, 0.2]}, "mid": 0.4, "up": {"block_0": 0.3, "block_1": [0.5, 0.6, 0.7]}}
    pipe.set_adapters("a", {"unet": scales, "text_encoder": 0.5})
    assert {layer: pipe.unet.get_submodule(layer).scaling["a"] for layer in layers} == layers
    assert pipe("a cat", **FAST).videos.isfinite().all()
    pipe.set_adapters(["a"], [{"unet": {"down": 0.5}}])
    assert pipe.unet.get_submodule("down_blocks.1.resnets.0.conv1").scaling["a"] == 0.5
    assert pipe.unet.get_submodule("mid_block.attentions.0.proj_in").scaling["a"] == 1.0
    pipe.set_adapters("a", 0.25)
    assert {pipe.unet.get_submodule(layer).scaling["a"] for layer in layers} == {0.25}


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"middle": 1.0}, "weights: got 'middle', expected down, mid, up"),
        ({"down": {"block_7": 1.0}}, "weights: down: got 'block_7', expected block_0 to block_1"),
        ({"up": {"block_1": [1.0, 2.0]}}, r"weights: up.block_1: got \[1.0, 2.0\], expected a number, or 3 of them"),
        ({"mid": "much"}, "weights: mid: got 'much', expected a number, or 1 of them"),
    ],
)
def test_scales_that_fit_no_block_are_named(pipe: FollowYourPosePipeline, scales: dict[str, Any], message: str) -> None:
    pipe.load_lora_weights(lora(), adapter_name="a")
    with pytest.raises(ValueError, match=message):
        pipe.set_adapters("a", {"unet": scales})


def test_several_adapters_add_up_and_go_again(pipe: FollowYourPosePipeline) -> None:
    bare = pipe("a cat", latents=noise(f=1), **FAST).videos
    pipe.load_lora_weights(lora(), adapter_name="a")
    pipe.load_lora_weights(lora(-1.0), adapter_name="b")
    pipe.set_adapters(["a", "b"], [0.5, 0.5])
    torch.testing.assert_close(pipe("a cat", latents=noise(f=1), **FAST).videos, bare, rtol=0, atol=1e-4)
    pipe.delete_adapters("b")
    pipe.set_adapters("a")
    assert not torch.allclose(pipe("a cat", latents=noise(f=1), **FAST).videos, bare, atol=1e-3)
    pipe.disable_lora()
    torch.testing.assert_close(pipe("a cat", latents=noise(f=1), **FAST).videos, bare)
    pipe.enable_lora()
    pipe.fuse_lora(lora_scale=0.5)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(pipe("a cat", latents=noise(f=1), **FAST).videos, bare, rtol=0, atol=1e-4)


# ---- components, saving, loading -------------------------------------------------------------------------------------


def test_a_pipeline_without_some_parts_does_what_it_can(
    folder: Path, acting: FollowYourPosePipeline, tmp_path: Path
) -> None:
    text = FollowYourPosePipeline.from_pretrained(folder, unet=None, vae=None, pose_encoder=None)
    embeds = text.encode_prompt("a cat")
    assert all(torch.equal(a, b) for a, b in zip(embeds, acting.encode_prompt("a cat"), strict=True))
    with pytest.raises(ValueError, match="unet: got a pipeline without one, expected one for these arguments"):
        text("a cat")
    rest = FollowYourPosePipeline.from_pretrained(folder, text_encoder=None, tokenizer=None, vae=None)
    rest.set_progress_bar_config(disable=True)
    arguments = FAST | {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1], "latents": noise(f=1)}
    expected = FollowYourPosePipeline(**copy.deepcopy(acting.components))("a cat", **FAST, latents=noise(f=1)).videos
    assert torch.equal(rest(**arguments).videos, expected)
    with pytest.raises(ValueError, match="vae: got a pipeline without one"):
        rest(**arguments | {"output_type": "np"})
    rest.save_pretrained(tmp_path)
    again = FollowYourPosePipeline.from_pretrained(tmp_path)
    assert again.vae is None and again.tokenizer is None and again.vae_scale_factor == 2
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again(**arguments).videos, expected)


def test_diffusers_finds_the_pipelines_class(folder: Path, acting: FollowYourPosePipeline) -> None:
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert type(pipe) is FollowYourPosePipeline and type(pipe.unet) is VideoUNet
    assert all(torch.equal(a, b) for a, b in zip(pipe.unet.parameters(), acting.unet.parameters(), strict=True))


def test_parameters_are_named_as_in_diffusers() -> None:
    for method in (
        "from_pretrained", "save_pretrained", "load_lora_weights", "load_textual_inversion", "push_to_hub", "to",
        "enable_group_offload", "set_adapters", "load_lora_into_unet", "load_lora_into_text_encoder",
    ):  # fmt: skip
        theirs = inspect.signature(getattr(diffusers.StableDiffusionPipeline, method)).parameters
        ours = inspect.signature(getattr(FollowYourPosePipeline, method)).parameters
        for place, (name, parameter) in enumerate(theirs.items()):
            if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and name not in ours:
                extra = [each.kind for each in list(ours.values())[min(place, len(ours) - 2) :]]
                assert inspect.Parameter.VAR_KEYWORD in extra, f"{method}: {name}"
        first = next(name for name in theirs if name != "self")
        assert first in ours or first in ("args", "state_dict")


def test_networks_are_saved_and_averaged_as_diffusers_networks(tiny_unet: VideoUNet, clip: Any, tmp_path: Path) -> None:
    for variant, shard in ((None, "5GB"), ("fp16", "5GB"), (None, "20KB")):
        place = tmp_path / f"{variant}-{shard}"
        tiny_unet.save_pretrained(save_directory=place, variant=variant, max_shard_size=shard)
        again = VideoUNet.from_pretrained(pretrained_model_name_or_path=place, variant=variant)
        assert torch.equal(again(*clip()), tiny_unet(*clip()))
    average = EMAModel(tiny_unet.parameters(), model_cls=VideoUNet, model_config=tiny_unet.config)
    average.step(tiny_unet.parameters())
    average.save_pretrained(tmp_path / "average")
    again = EMAModel.from_pretrained(tmp_path / "average", VideoUNet)
    assert again.optimization_step == 1
    assert all(torch.equal(a, b) for a, b in zip(again.shadow_params, tiny_unet.parameters(), strict=True))
    assert isinstance(VideoUNet.from_config(str(tmp_path / "average")), VideoUNet)
    assert issubclass(PoseEncoder, diffusers.ModelMixin)


@pytest.mark.slow
def test_repeated_blocks_can_be_compiled(tiny_unet: VideoUNet, clip: Any) -> None:
    expected = tiny_unet(*clip())
    tiny_unet.compile_repeated_blocks(backend="eager", fullgraph=True)
    torch.testing.assert_close(tiny_unet(*clip()), expected)


def test_the_package_lists_its_public_names() -> None:
    assert set(followyourpose.__all__) <= set(dir(followyourpose))
