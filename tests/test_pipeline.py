"""The pipeline: the released trajectory, equal results of equal calls, loading, and errors of one line."""

import copy
import dataclasses
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from followyourpose import config
from followyourpose.models.loading import model_kind
from followyourpose.models.weights import from_released
from followyourpose.pipeline import inputs
from followyourpose.pipeline.call import Call
from followyourpose.pipeline.inputs import initial_noise
from followyourpose.pipeline.pipeline import Condition, FollowYourPosePipeline
from tests import tiny

FAST = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent"}

ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.fixture(scope="session")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 1.x folder; 32 x 32 pixels, latents of 16 x 16."""
    return tiny.write_image_model(tmp_path_factory.mktemp("models") / "image")


@pytest.fixture(scope="session")
def single_file(image_model: Path) -> Path:
    """The same model as one file."""
    return tiny.write_single_file(image_model, image_model.parent / "image.safetensors")


@pytest.fixture(scope="session")
def video_model(image_model: Path) -> Path:
    """A pipeline's folder in which no new layer is an identity and the pose features are not zero."""
    pipe = FollowYourPosePipeline.from_image_model(image_model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for model in (pipe.unet, pipe.pose_encoder):
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    folder = image_model.parent / "video"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(video_model: Path) -> FollowYourPosePipeline:
    """The pipeline of `video_model`, not to be changed."""
    return FollowYourPosePipeline.from_pretrained(video_model)


@pytest.fixture
def pipe(loaded: FollowYourPosePipeline) -> FollowYourPosePipeline:
    """The same, fresh for every test."""
    return quiet(FollowYourPosePipeline(**copy.deepcopy(loaded.components)))


@pytest.fixture
def skeleton() -> np.ndarray:
    """Three frames of lines on black, bytes (3, 32, 32, 3)."""
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[4:28, 10 + 4 * i : 13 + 4 * i] = (255, 80, 0)
        frame[12:14, 4:28] = (0, 200, 255)
    return frames


def quiet(pipe: FollowYourPosePipeline) -> FollowYourPosePipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(b: int = 1, f: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(b, 4, f, 16, 16, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def count_calls(module: torch.nn.Module) -> list[tuple[int, ...]]:
    """Return a list that will hold the input shape of every call of a module."""
    shapes = []
    module.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape)))
    return shapes


# ---- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 10])
def test_loop_follows_the_released_trajectory(
    goldens: Path,
    golden_config: dict[str, Any],
    golden_weights: dict[str, Tensor],
    loaded: FollowYourPosePipeline,
    steps: int,
) -> None:
    reference = load_file(goldens / f"tiny_a_pipeline_{steps}steps.safetensors")
    unet, pose_encoder = from_released(golden_config, golden_weights)
    parts = {"vae": tiny.vae((4, 4, 4, 4)), "unet": unet, "pose_encoder": pose_encoder}
    pipe = FollowYourPosePipeline(**copy.deepcopy(loaded.components) | parts)
    quiet(pipe).to(torch.float64)
    trajectory = []

    def keep(pipe: FollowYourPosePipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
        trajectory.append((timestep.item(), tensors["latents"].clone()))
        return {}

    negative, positive = reference["text_embeddings"].chunk(2)
    out = pipe(
        skeleton=reference["skeleton_u8"].movedim(2, 1).double() / 255,
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        latents=reference["latents"],
        num_inference_steps=steps,
        guidance_scale=12.5,
        output_type="latent",
        callback_on_step_end=keep,
    )
    assert [timestep for timestep, _ in trajectory] == reference["timesteps"].tolist()
    # The noise agrees to 1e-13; the reference's scheduler (diffusers 0.11) rounds its fp32 sqrt(1 - alpha) otherwise.
    tolerance = 2e-6 * reference["final_fp64"].std()
    for i, (_, latents) in enumerate(trajectory):
        assert (latents - reference[f"latents_after_step_{i:02d}_fp64"]).abs().max() < tolerance
    assert (out.videos - reference["final_fp64"]).abs().max() < tolerance


def test_one_unposed_frame_is_the_image_model(image_model: Path) -> None:
    latents = noise(f=1)
    settings = {"num_inference_steps": 3, "guidance_scale": 5.0, "negative_prompt": "dog"}
    ours = quiet(FollowYourPosePipeline.from_image_model(image_model))("a cat", latents=latents, **settings).videos
    theirs = quiet(StableDiffusionPipeline.from_pretrained(image_model))
    images = theirs("a cat", latents=latents[:, :, 0], output_type="np", **settings).images
    np.testing.assert_allclose(ours[:, 0], images, atol=1e-5)


def test_untrained_pose_encoder_changes_nothing(image_model: Path, skeleton: np.ndarray) -> None:
    pipe = quiet(FollowYourPosePipeline.from_image_model(image_model))
    posed = pipe("a cat", skeleton, latents=noise(), **FAST).videos
    assert torch.equal(posed, pipe("a cat", num_frames=3, latents=noise(), **FAST).videos)


def test_guidance_of_one_is_the_conditional_prediction(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    shapes = count_calls(pipe.unet.conv_out)
    out = pipe("a cat", skeleton, latents=noise(), **FAST | {"guidance_scale": 1.0}).videos
    assert shapes == [(3, 8, 16, 16)] * 2  # three frames
    near = pipe("a cat", skeleton, latents=noise(), negative_prompt="dog", **FAST | {"guidance_scale": 1 + 1e-7}).videos
    assert shapes[2:] == [(6, 8, 16, 16)] * 2
    assert close(out, near)


def test_conditional_pose_leaves_the_unconditional_half_unposed(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray
) -> None:
    cat, empty = pipe.encode_prompt("a cat")
    settings = FAST | {"num_inference_steps": 1, "guidance_scale": 1.0, "latents": noise()}
    posed = pipe(prompt_embeds=cat, skeleton=skeleton, **settings).videos
    unposed = pipe(prompt_embeds=empty, num_frames=3, **settings).videos
    settings["guidance_scale"] = 3.0
    out = pipe("a cat", skeleton, pose_guidance="conditional", **settings).videos
    assert close(out, unposed + 3 * (posed - unposed))  # one DDIM step is affine in the prediction
    assert not close(out, pipe("a cat", skeleton, pose_guidance="both", **settings).videos)


def test_several_prompts_equal_single_calls(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    prompts, latents = ["a cat", "a dog"], noise(b=4)
    together = pipe(
        prompts, skeleton, num_videos_per_prompt=2, negative_prompt=["x", "y"], latents=latents, **FAST
    ).videos
    alone = [
        pipe(prompts[i // 2], skeleton, negative_prompt="xy"[i // 2], latents=latents[i : i + 1], **FAST).videos
        for i in range(4)
    ]
    assert close(together, torch.cat(alone))


@pytest.mark.parametrize("prompts", [["a cat", "a dog"], "a cat"])
def test_several_skeletons_equal_single_calls(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray, prompts: str | list[str]
) -> None:
    skeletons, latents = np.stack([skeleton, skeleton[:, :, ::-1]]), noise(b=2)
    together = pipe(prompts, skeletons, latents=latents, **FAST).videos
    each = [prompts] * 2 if isinstance(prompts, str) else prompts
    alone = [pipe(each[i], skeletons[i], latents=latents[i : i + 1], **FAST).videos for i in range(2)]
    assert close(together, torch.cat(alone))


def test_skeleton_bytes_equal_skeleton_tensor(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    tensor = torch.from_numpy(skeleton).permute(3, 0, 1, 2) / 255
    outs = [pipe("a cat", x, latents=noise(), **FAST).videos for x in (skeleton, tensor, tensor[None])]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_pose_and_text_are_encoded_once(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    to_keys = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    pose, keys = count_calls(pipe.pose_encoder), count_calls(to_keys)
    pipe(["a cat", "a dog"], skeleton, num_videos_per_prompt=3, **FAST | {"num_inference_steps": 4})
    assert pose == [(1, 3, 3, 32, 32)]
    assert keys == [(4, tiny.TOKENS, tiny.TEXT_WIDTH)]  # two prompts and their negatives, not six videos


def test_seed_decides_the_result(pipe: FollowYourPosePipeline) -> None:
    def run(seed: int | list[int]) -> Tensor:
        seeds = [seed] if isinstance(seed, int) else seed
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        generator = generators[0] if isinstance(seed, int) else generators
        return pipe("a cat", num_frames=2, num_videos_per_prompt=len(seeds), generator=generator, **FAST).videos

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert close(run([1, 2]), torch.cat([run(1), run(2)]))


@pytest.mark.parametrize(("kind", "correlation"), [("independent", 0.0), ("mixed", 0.5), ("shared", 1.0)])
def test_initial_noise_shares_its_part_between_frames(kind: str, correlation: float) -> None:
    frames = initial_noise((2, 4, 3, 64, 64), kind, torch.Generator().manual_seed(0), torch.device("cpu"))
    frames = frames.movedim(2, 0).flatten(1)
    expected = torch.full((3, 3), correlation).fill_diagonal_(1.0)
    assert torch.allclose(torch.cov(frames), expected, atol=0.05)


@pytest.mark.parametrize(
    ("scheduler", "settings"),
    [
        (EulerDiscreteScheduler, {}),
        (EulerAncestralDiscreteScheduler, {}),
        (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
        (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
        (UniPCMultistepScheduler, {}),
        (PNDMScheduler, {"skip_prk_steps": True}),
        (DDIMScheduler, ZERO_SNR),
    ],
)
def test_other_schedulers_run(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray, scheduler: type, settings: dict[str, Any]
) -> None:
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **settings)
    generator = torch.Generator().manual_seed(0)
    out = pipe("a cat", skeleton, generator=generator, **FAST | {"num_inference_steps": 4}).videos
    assert out.shape == (1, 4, 3, 16, 16) and out.isfinite().all()


def test_eta_adds_noise_from_the_generator(pipe: FollowYourPosePipeline) -> None:
    def run(eta: float, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return pipe("a cat", latents=noise(f=1), eta=eta, generator=generator, **FAST).videos

    assert torch.equal(run(0.0, 1), run(0.0, 2))
    assert torch.equal(run(1.0, 1), run(1.0, 1)) and not torch.equal(run(1.0, 1), run(1.0, 2))


# ---- callbacks and outputs ------------------------------------------------------------------------------------------


def test_callback_can_edit_latents_and_prompts(pipe: FollowYourPosePipeline) -> None:
    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    dog, _ = pipe.encode_prompt("a dog")
    seen = []

    def edit(pipe: FollowYourPosePipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
        assert list(tensors) == names
        seen.append(step)
        return {"latents": noise(f=1, seed=9), "prompt_embeds": dog} if step == 0 else {}

    edited = pipe("a cat", callback_on_step_end=edit, callback_on_step_end_tensor_inputs=names, **FAST).videos
    assert seen == [0, 1]
    # The second and last step, by hand, from what the callback gave.
    timestep = pipe.scheduler.timesteps[1]
    condition = Condition(pipe.encode_text(*pipe.encode_prompt("a dog"), 1, 1, guided=True), features=None)
    prediction = pipe.predict(noise(f=1, seed=9), timestep, condition, FAST["guidance_scale"])
    assert close(edited, pipe.scheduler.step(prediction, timestep, noise(f=1, seed=9)).prev_sample)


def test_callback_can_end_the_denoising(pipe: FollowYourPosePipeline) -> None:
    steps = count_calls(pipe.unet)

    def stop(pipe: FollowYourPosePipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
        pipe._interrupt = step == 1
        return {}

    pipe("a cat", callback_on_step_end=stop, **FAST | {"num_inference_steps": 5})
    assert len(steps) == 2


def test_output_types_show_the_same_video(pipe: FollowYourPosePipeline) -> None:
    def run(kind: str) -> Any:
        return pipe(["a cat", "a dog"], latents=noise(b=2), num_frames=3, **FAST | {"output_type": kind}).videos

    array, tensor, images, latents = run("np"), run("pt"), run("pil"), run("latent")
    assert array.shape == (2, 3, 32, 32, 3) and array.dtype == np.float32
    assert array.min() >= 0 and array.max() <= 1
    assert tensor.shape == (2, 3, 3, 32, 32)
    np.testing.assert_array_equal(tensor.permute(0, 1, 3, 4, 2).numpy(), array)
    assert isinstance(images[1][2], Image.Image) and [len(video) for video in images] == [3, 3]
    assert np.abs(np.asarray(images[1][2]) / 255 - array[1, 2]).max() <= 0.5 / 255 + 1e-6
    assert latents.shape == (2, 4, 3, 16, 16)
    np.testing.assert_allclose(pipe.decode(latents, chunk_size=1), array, atol=1e-5)


def test_tuple_instead_of_result(pipe: FollowYourPosePipeline) -> None:
    (videos,) = pipe("a cat", return_dict=False, **FAST)
    assert videos.shape == (1, 4, 1, 16, 16)


def test_long_prompts_are_cut(pipe: FollowYourPosePipeline) -> None:
    start = "c d e f g h i j k l"  # with start and end, just the tokens there are
    short, _ = pipe.encode_prompt(start)
    long, _ = pipe.encode_prompt(start + " m n o p")
    assert torch.equal(short, long)


# ---- loading --------------------------------------------------------------------------------------------------------


def test_saving_and_loading_changes_nothing(pipe: FollowYourPosePipeline, skeleton: np.ndarray, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    again = quiet(FollowYourPosePipeline.from_pretrained(tmp_path / "saved"))
    outs = [p("a cat", skeleton, latents=noise(), **FAST).videos for p in (pipe, again)]
    assert torch.equal(*outs)
    again.save_pretrained(tmp_path / "copy")
    assert not any(str(tmp_path) in file.read_text() for file in (tmp_path / "copy").glob("**/*.json"))


def test_dtype_is_taken_by_every_model(video_model: Path, image_model: Path) -> None:
    loaded = FollowYourPosePipeline.from_pretrained(video_model, torch_dtype=torch.bfloat16)
    started = FollowYourPosePipeline.from_image_model(image_model, dtype=torch.bfloat16)
    for pipe in (loaded, started):
        models = (pipe.vae, pipe.text_encoder, pipe.unet, pipe.pose_encoder)
        assert {parameter.dtype for model in models for parameter in model.parameters()} == {torch.bfloat16}
    assert quiet(started)("a cat", np.zeros((2, 32, 32, 3), np.uint8), num_inference_steps=1).videos.shape[1] == 2


def test_single_file_loads_as_the_folder_does(single_file: Path, image_model: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.ckpt"
    torch.save({"state_dict": load_file(single_file)}, checkpoint)
    outs = []
    for path in (image_model, single_file, checkpoint):
        pipe = quiet(FollowYourPosePipeline.from_image_model(path, config=image_model))
        outs.append(pipe("a cat", latents=noise(), num_frames=3, **FAST).videos)
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_image_model_gets_ddim_whatever_its_scheduler(image_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(image_model, tmp_path / "model")
    settings = {k: v for k, v in tiny.DDIM.items() if k not in ("clip_sample", "set_alpha_to_one", "steps_offset")}
    PNDMScheduler(**settings, prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    path = folder / "scheduler" / "scheduler_config.json"
    said = {k: v for k, v in json.loads(path.read_text()).items() if k in {*settings, "_class_name", "prediction_type"}}
    path.write_text(json.dumps(said))
    config = FollowYourPosePipeline.from_image_model(folder).scheduler.config
    assert {k: config[k] for k in tiny.DDIM} == tiny.DDIM and config.prediction_type == "v_prediction"


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.mark.parametrize(
    "config",
    [
        {"use_linear_projection": True, "cross_attention_dim": 1024},  # Stable Diffusion 2
        {"addition_embed_type": "text_time", "transformer_layers_per_block": [1, 2]},  # SDXL
        {"_class_name": "VideoUNet"},
    ],
)
def test_folder_of_another_architecture_is_refused(image_model: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    folder = shutil.copytree(image_model, tmp_path / "model")
    change_json(folder / "unet" / "config.json", **config)
    with pytest.raises(ValueError, match=r"unet/config\.json: .* expected Stable Diffusion 1\.x"):
        FollowYourPosePipeline.from_image_model(folder)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight", (16, 1024)),
        ("conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias", (8,)),
        ("model.diffusion_model.input_blocks.0.0.weight", (8, 9, 3, 3)),
    ],
)
def test_file_of_another_architecture_is_refused(
    single_file: Path, image_model: Path, tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "other.safetensors"
    save_file(load_file(single_file) | {name: torch.zeros(shape)}, path)
    with pytest.raises(ValueError, match=r"other\.safetensors: got .* expected Stable Diffusion 1\.x"):
        FollowYourPosePipeline.from_image_model(path, config=image_model)


@pytest.mark.parametrize("name", ["text.safetensors", "text.ckpt", "lora.safetensors"])
def test_file_that_is_no_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("lora"):
        save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, path)
    else:
        path.write_text("no weights")
    with pytest.raises(ValueError, match=rf"{name}: .*Stable Diffusion 1\.x") as error:
        FollowYourPosePipeline.from_image_model(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["vae", "text_encoder", "tokenizer", "unet", "scheduler"])
def test_missing_component_of_an_image_model_is_named(image_model: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(image_model, tmp_path / "model")
    shutil.rmtree(folder / name)
    with pytest.raises(ValueError, match=f"model: component '{name}' is missing"):
        FollowYourPosePipeline.from_image_model(folder)


@pytest.mark.parametrize("name", ["vae", "text_encoder", "tokenizer", "unet", "pose_encoder", "scheduler"])
def test_missing_component_of_our_folder_is_named(video_model: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(video_model, tmp_path / "model")
    shutil.rmtree(folder / name)
    with pytest.raises(ValueError, match=f"model: component '{name}' is missing"):
        FollowYourPosePipeline.from_pretrained(folder)


def test_image_model_is_no_pipeline_of_ours(image_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'pose_encoder' is missing .* StableDiffusionPipeline"):
        FollowYourPosePipeline.from_pretrained(image_model)
    with pytest.raises(ValueError, match="model_index.json"):
        FollowYourPosePipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="path: .*nowhere: no such file or folder, and no name of `followyourpose dow"):
        FollowYourPosePipeline.from_image_model(tmp_path / "nowhere")


def test_the_kind_of_a_model_is_read_off_its_path(image_model: Path, video_model: Path, single_file: Path) -> None:
    assert [model_kind(path) for path in (video_model, image_model, single_file)] == ["pipeline", "image", "file"]
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        model_kind(image_model / "nowhere")
    with pytest.raises(ValueError, match="unet: has no model_index.json, expected a pipeline's or an image model's"):
        model_kind(image_model / "unet")
    with pytest.raises(ValueError, match=r"image.safetensors: is a file, expected a folder of FollowYourPosePipeline"):
        FollowYourPosePipeline.from_pretrained(single_file)


def test_missing_weight_of_an_image_model_is_named(image_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(image_model, tmp_path / "model")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k != "decoder.conv_in.weight"}, path)
    with pytest.raises(ValueError, match=r"vae: .*do not fit AutoencoderKL: 1 missing, e.g. decoder\.conv_in\.weight"):
        FollowYourPosePipeline.from_image_model(folder)


def test_pose_encoder_must_fit_the_vae(pipe: FollowYourPosePipeline) -> None:
    parts = pipe.components | {"vae": AutoencoderKL(**dict(tiny.vae((4, 4, 4)).config))}
    with pytest.raises(ValueError, match="downscale 2, expected the VAE's factor 4"):
        FollowYourPosePipeline(**parts)


# ---- LoRA, textual inversion, offload -------------------------------------------------------------------------------


def lora_file(path: Path, layout: str) -> Path:
    """Write a LoRA for one attention of the UNet and one of the text encoder, in kohya's or diffusers' layout."""
    generator = torch.Generator().manual_seed(5)
    unet, text = "mid_block.attentions.0.transformer_blocks.0.attn2", "text_model.encoder.layers.0.self_attn"
    names = {f"unet.{unet}.{layer}": 16 for layer in ("to_q", "to_out.0")}
    names |= {f"text_encoder.{text}.{layer}_proj": tiny.TEXT_WIDTH for layer in ("q", "k", "v", "out")}
    weights = {}
    for name, width in names.items():
        down, up = torch.randn(4, width, generator=generator), torch.randn(width, 4, generator=generator)
        if layout == "kohya":
            part, _, rest = name.partition(".")
            key = f"lora_{'te' if part == 'text_encoder' else part}_{rest.replace('.', '_')}"
            weights |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(4.0)}
        else:
            weights |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    save_file(weights, path)
    return path


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_lora_changes_the_video_until_it_is_unloaded(pipe: FollowYourPosePipeline, tmp_path: Path, layout: str) -> None:
    def run() -> tuple[Tensor, Tensor]:
        return pipe.encode_prompt("a cat")[0], pipe("a cat", latents=noise(f=2), num_frames=2, **FAST).videos

    text, video = run()
    pipe.load_lora_weights(lora_file(tmp_path / "lora.safetensors", layout), adapter_name="style")
    assert pipe.get_list_adapters() == {"unet": ["style"], "text_encoder": ["style"]}
    with_text, with_video = run()
    assert not close(text, with_text) and not close(video, with_video)
    pipe.unload_lora_weights()
    without = run()
    assert torch.equal(text, without[0]) and torch.equal(video, without[1])


def test_lora_of_another_model_is_refused(pipe: FollowYourPosePipeline, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(
        {"transformer.x.lora_A.weight": torch.zeros(4, 8), "transformer.x.lora_B.weight": torch.zeros(8, 4)}, path
    )
    with pytest.raises(ValueError, match="lora.safetensors: got no LoRA for this model"):
        pipe.load_lora_weights(path)


def test_textual_inversion_adds_a_word(pipe: FollowYourPosePipeline) -> None:
    vector = torch.randn(tiny.TEXT_WIDTH, generator=torch.Generator().manual_seed(7))
    before, _ = pipe.encode_prompt("a <hero>")
    pipe.load_textual_inversion({"<hero>": vector})
    after, _ = pipe.encode_prompt("a <hero>")
    assert not close(before, after)


def test_offload_changes_nothing(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    # Without a GPU the hooks run all the same, and bring the weights from the CPU to the CPU.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    straight = pipe.to(device)("a cat", skeleton, latents=noise(), num_inference_steps=2).videos
    pipe.enable_model_cpu_offload(device=device)
    for _ in range(2):
        offloaded = pipe("a cat", skeleton, latents=noise(), num_inference_steps=2).videos
        np.testing.assert_allclose(straight, offloaded, atol=1e-4)
    assert pipe.unet.device.type == "cpu"


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "own"), [(FollowYourPosePipeline.__call__, []), (FollowYourPosePipeline.stream, ["state"])]
)
def test_a_method_shows_and_documents_the_arguments_of_a_call(method: Any, own: list[str]) -> None:
    fields = {field.name: field for field in dataclasses.fields(Call)}
    shown = inspect.signature(method).parameters
    assert list(shown) == ["self", *fields, *own]
    assert all(shown[name].default == field.default for name, field in fields.items())
    assert all(f"\n    {name}: " in method.__doc__ for name in fields)
    assert shown["skeleton"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert shown["num_frames"].kind is inspect.Parameter.KEYWORD_ONLY


def test_settings_have_the_choices_of_a_call() -> None:
    assert config.Noise == inputs.Noise and config.PoseGuidance == inputs.PoseGuidance


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": 3}, "prompt: got int, expected a string"),
        ({"prompt": []}, r"prompt: got \[\], expected a string"),
        ({"prompt": ["a", 3]}, "prompt: got .* expected a string or a list of strings"),
        ({"prompt": None}, "neither of prompt and prompt_embeds"),
        ({"negative_prompt": 3}, "negative_prompt: got int"),
        ({"prompt": ["a", "b", "c"], "negative_prompt": ["d", "e"]}, "negative_prompt: got embeddings"),
        ({"height": 50}, "height: got 50 pixels, expected a multiple of 4; the nearest: 48 or 52"),
        ({"width": 3}, "width: got 3 pixels, expected a multiple of 4; the nearest: 4"),
        ({"height": 48}, "skeleton: got 32 x 32 pixels, expected height x width, 48 x 32"),
        ({"num_frames": 5}, "skeleton: got 3 frames, expected num_frames, 5"),
        ({"num_frames": 0}, "num_frames: got 0"),
        (
            {"skeleton": np.full((3, 32, 32, 3), 255.0)},
            r"skeleton: got values in \[255, 255\], expected a path",
        ),
        (
            {"skeleton": np.zeros((3, 32, 32, 3), np.int64)},
            r"skeleton: got ndarray .*int64, expected a path",
        ),
        ({"skeleton": [1, 2]}, "skeleton: got list, expected a path, a list of PIL images"),
        ({"skeleton": np.zeros((32, 32, 3), np.uint8)}, r"skeleton: got ndarray \(32, 32, 3\) uint8"),
        ({"skeleton": torch.full((3, 3, 32, 32), 255.0)}, r"skeleton: got values in \[255, 255\]"),
        ({"skeleton": "dance.mp4"}, "skeleton: dance.mp4: no such file or folder"),
        ({"prompt": ["a", "b", "c"], "skeleton": np.zeros((2, 3, 32, 32, 3), np.uint8)}, "skeleton: got 2 for 3"),
        ({"latents": torch.zeros(1, 4, 2, 16, 16)}, r"latents: got .* expected \(1, 4, 3, 16, 16\)"),
        ({"generator": [torch.Generator()] * 2}, "generator: got a list of 2, expected one per video, 1"),
        ({"num_inference_steps": 0}, "num_inference_steps: got 0"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt: got 0"),
        ({"output_type": "gif"}, "output_type: got 'gif', expected one of np, pt, pil, latent"),
        ({"pose_guidance": "none"}, "pose_guidance: got 'none'"),
        ({"noise": "pink"}, "noise: got 'pink'"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "callback_on_step_end_tensor_inputs: got 'noise'"),
        ({"num_frames": 2.5}, "num_frames: got 2.5, expected a whole number or None"),
        ({"num_frames": 10**12, "skeleton": None}, "num_frames: got 1000000000000, expected at most 1000000"),
        ({"num_inference_steps": None}, "num_inference_steps: got None, expected a whole number"),
        ({"num_inference_steps": 10**6}, "num_inference_steps"),
        ({"height": "32"}, "height: got '32', expected a whole number or None"),
        ({"guidance_scale": "high"}, "guidance_scale: got 'high', expected a number"),
        ({"guidance_scale": float("nan")}, "guidance_scale: got nan, expected a finite number"),
        ({"eta": -1}, "eta: got -1, expected a finite number, at least 0"),
        ({"guidance_rescale": 1.5}, "guidance_rescale: got 1.5, expected a share from 0 to 1"),
        ({"clip_skip": -1}, "clip_skip: got -1, expected at least 0"),
        ({"clip_skip": 2}, "clip_skip: got 2, expected at most 1"),
        ({"cross_attention_kwargs": {"gain": 2}}, "cross_attention_kwargs: got 'gain': 2, expected 'scale': a number"),
        ({"cross_attention_kwargs": 0.5}, "cross_attention_kwargs: got 0.5, expected {'scale': a number} or None"),
        ({"timesteps": [999, 500]}, "timesteps: got 2, expected none: DDIMScheduler has its own"),
        ({"timesteps": 5}, "timesteps: got 5, expected a list of timesteps or None"),
        ({"decode_chunk_size": 0}, "decode_chunk_size: got 0, expected at least 1"),
        ({"long_video": "paper"}, "long_video: got 'paper', expected a LongVideo or None"),
        ({"latents": np.zeros((1, 4, 3, 16, 16))}, "latents: got ndarray, expected a tensor or None"),
        ({"generator": 3}, "generator: expected a torch.Generator or a list of them"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 12, 8)}, r"prompt_embeds: got \(1, 12, 8\), expected"),
        (
            {"prompt": None, "prompt_embeds": torch.zeros(12, 24)},
            r"got \(12, 24\), expected \(n, t, 24\)",
        ),
    ],
)
def test_wrong_argument_is_named(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray, arguments: dict[str, Any], message: str
) -> None:
    ran = count_calls(pipe.unet)
    with pytest.raises(ValueError, match=message):
        pipe(**{"prompt": "a cat", "skeleton": skeleton} | FAST | arguments)
    assert not ran


def test_whole_numbers_serve_as_numbers(pipe: FollowYourPosePipeline) -> None:
    arguments = {"pose_start": 0, "pose_end": 1, "pose_scale": 1, "eta": 0, "negative_prompt": [], "prompt": ""}
    assert pipe(**FAST | arguments | {"guidance_scale": 0, "height": np.int64(32)}).videos.shape == (1, 4, 1, 16, 16)


def test_size_comes_from_the_model_unless_it_is_given(pipe: FollowYourPosePipeline) -> None:
    assert pipe("a cat", **FAST).videos.shape == (1, 4, 1, 16, 16)
    assert pipe("a cat", height=18, width=48, **FAST).videos.shape == (1, 4, 1, 9, 24)  # unposed
    wide = np.zeros((2, 16, 48, 3), np.uint8)
    assert pipe("a cat", wide, height=16, width=48, **FAST).videos.shape == (1, 4, 2, 8, 24)
