"""The video UNet equals the authors' released network and, on one frame, diffusers' image UNet."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from safetensors.torch import load_file, save_file
from torch import Tensor

from followyourpose.models import fastest_attention, loading
from followyourpose.models.attention import Attention
from followyourpose.models.blocks import LowRankTemporalConv
from followyourpose.models.inflate import inflate
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import VideoUNet
from followyourpose.models.weights import from_released
from tests.fixtures import randomise

CASES = ["a_cfg", "a2_pair", "b_train", "c_oneframe", "c2_twoframes", "d_nonsquare", "d2_nondivisible_train"]
FP32_FLOOR = 2e-5  # the released network's own fp32 is 3e-6 away from its fp64

Clip = Callable[..., tuple[Tensor, Tensor, Tensor]]


@pytest.fixture(scope="module")
def networks(golden_config: dict[str, Any], golden_weights: dict[str, Tensor]) -> dict[torch.dtype, Any]:
    """The reference network, (VideoUNet, PoseEncoder) per dtype."""
    return {
        dtype: from_released(golden_config, {k: v.to(dtype) for k, v in golden_weights.items()})
        for dtype in (torch.float32, torch.float64)
    }


def skeleton_of(case: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Bytes (b, f, 3, H, W) -> skeleton (b, 3, f, H, W) in [0, 1]."""
    return (case["skeleton_u8"].to(dtype) / 255).transpose(1, 2)


@torch.no_grad()
def predict(networks: tuple[VideoUNet, PoseEncoder], case: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    unet, pose_encoder = networks
    features = pose_encoder(skeleton_of(case, dtype)) if "skeleton_u8" in case else None
    return unet(case["sample"].to(dtype), case["timestep"], case["encoder_hidden_states"].to(dtype), features)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_released_network(case: str, goldens: Path, networks: dict[torch.dtype, Any]) -> None:
    case = load_file(goldens / f"tiny_a_case_{case}.safetensors")
    exact = predict(networks[torch.float64], case, torch.float64)
    torch.testing.assert_close(exact, case["out_fp64"], rtol=0, atol=1e-9)
    single = predict(networks[torch.float32], case, torch.float32)
    torch.testing.assert_close(single, case["out_fp32"], rtol=0, atol=FP32_FLOOR)


def test_every_block_equals_the_released_one(goldens: Path, networks: dict[torch.dtype, Any]) -> None:
    case = load_file(goldens / "tiny_a_case_a2_pair.safetensors")
    expected = load_file(goldens / "tiny_a_intermediates_a2.safetensors")
    unet = networks[torch.float64][0]
    seen = {}
    names = ["time_embedding", "mid_block", *(f"{way}_blocks.{i}" for way in ("down", "up") for i in range(4))]
    block = "down_blocks.1.attentions.0.transformer_blocks.0"
    names += [f"{block}.attn1", f"{block}.attn2", f"{block}.ff"]
    hooks = [
        unet.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        for name in names
    ]
    predict(networks[torch.float64], case, torch.float64)
    for hook in hooks:
        hook.remove()
    for name in names:
        got = seen[name][0] if isinstance(seen[name], tuple) else seen[name]
        want = expected[f"{name}.out"]
        if want.ndim == 5:
            want = want.transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(got.float(), want, rtol=1e-5, atol=1e-5)


def test_training_step_has_the_released_gradients(
    goldens: Path, golden_config: dict[str, Any], golden_weights: dict[str, Tensor]
) -> None:
    step = load_file(goldens / "tiny_a_train_step.safetensors")
    facts = json.loads((goldens / "tiny_a_train_step.json").read_text())
    unet, _ = from_released(golden_config, {k: v.double() for k, v in golden_weights.items()})
    prediction = unet(step["noisy_latents"].double(), step["timestep"], step["encoder_hidden_states"].double())
    torch.testing.assert_close(prediction, step["model_pred_fp64"], rtol=0, atol=1e-9)
    loss = F.mse_loss(prediction, step["noise"].double())
    loss.backward()
    assert loss.item() == pytest.approx(facts["loss_fp64"], rel=1e-12)
    gradients = {name: parameter.grad for name, parameter in unet.named_parameters()}
    for name, norm in facts["grad_norms_fp64"].items():
        if not name.startswith("skeleton_adapter."):
            assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-8, abs=1e-12), name
    for name in (key for key in step if key.startswith("grad.")):
        torch.testing.assert_close(gradients[name.removeprefix("grad.")], step[name], rtol=0, atol=1e-9)


def ddim_scheduler(steps: int) -> DDIMScheduler:
    """The released scheduler's settings, which are those of Stable Diffusion 1.4."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def ddim_step(scheduler: DDIMScheduler, noise: Tensor, timestep: int, stride: int, latents: Tensor) -> Tensor:
    """One DDIM step with eta 0 whose fp32 square roots are rounded correctly.

    torch's own fp32 square root is off by one bit on some processors, which is more than the 1e-9 asked for here.
    """
    alphas = scheduler.alphas_cumprod.numpy()
    alpha = alphas[timestep]
    previous = alphas[max(timestep - stride, 0)]
    sqrt = [float(np.sqrt(x)) for x in (1 - alpha, alpha, previous, 1 - previous)]
    return sqrt[2] * (latents - sqrt[0] * noise) / sqrt[1] + sqrt[3] * noise


@pytest.mark.parametrize("steps", [5, 10])
def test_ddim_follows_the_released_trajectory(steps: int, goldens: Path, networks: dict[torch.dtype, Any]) -> None:
    case = load_file(goldens / f"tiny_a_pipeline_{steps}steps.safetensors")
    unet, pose_encoder = networks[torch.float64]
    scheduler = ddim_scheduler(steps)
    assert scheduler.timesteps.tolist() == case["timesteps"].tolist()
    with torch.no_grad():
        features = [x.repeat(2, 1, 1, 1, 1) for x in pose_encoder(skeleton_of(case, torch.float64))]
        text = unet.encode_text(case["text_embeddings"].double())
        latents = case["latents"].double()
        for i, timestep in enumerate(scheduler.timesteps):
            unconditional, conditional = unet(latents.repeat(2, 1, 1, 1, 1), timestep, text, features).chunk(2)
            noise = unconditional + 12.5 * (conditional - unconditional)
            expected = case[f"latents_after_step_{i:02d}_fp64"]
            std = expected.std().item()
            by_diffusers = scheduler.step(noise, timestep, latents).prev_sample
            torch.testing.assert_close(by_diffusers, expected, rtol=0, atol=1e-5 * std)
            latents = ddim_step(scheduler, noise, timestep.item(), 1000 // steps, latents)
            torch.testing.assert_close(latents, expected, rtol=0, atol=1e-9 * std)


def test_full_size_names_and_shapes_are_the_released_ones(goldens: Path) -> None:
    expected = json.loads((goldens / "original_unet_keys.json").read_text())
    expected = {name: tuple(shape) for name, shape in expected.items() if not name.startswith("skeleton_adapter.")}
    with torch.device("meta"):
        unet = VideoUNet()
    assert {name: tuple(weight.shape) for name, weight in unet.state_dict().items()} == expected


@pytest.mark.parametrize("size", [8, 7])
def test_single_frame_equals_the_image_unet(size: int, tiny_config: dict[str, Any], clip: Clip) -> None:
    image_unet = UNet2DConditionModel.from_config(tiny_config).double()
    latents, timestep, text = (x.double() if x.is_floating_point() else x for x in clip(f=1, size=size))
    with torch.no_grad():
        expected = image_unet(latents[:, :, 0], timestep, text).sample
        got = inflate(image_unet)(latents, timestep, text)[:, :, 0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_new_layers_start_as_identity(tiny_config: dict[str, Any]) -> None:
    block = VideoUNet.from_config(tiny_config).down_blocks[0].attentions[0].transformer_blocks[0]
    tokens = torch.randn(6, 10, 8)
    assert block.attn_temp(tokens, 3).abs().max() == 0
    assert block.conv_temporal(tokens, 3).abs().max() == 0


@pytest.mark.parametrize("width", [8, 64, 160, 192])
def test_temporal_convolution_equals_the_released_one(width: int, goldens: Path) -> None:
    case = load_file(goldens / "lora_ranks.safetensors")
    conv = LowRankTemporalConv(width, 160).double()
    conv.load_state_dict({f"{way}.weight": case[f"lora{width}.{way}.weight"] for way in ("down", "up")})
    x = case[f"lora{width}.in"].double()  # (b l) c f
    out = conv(x.permute(2, 0, 1), x.shape[2]).permute(1, 2, 0)  # as one clip: (b f) l c with b = 1
    torch.testing.assert_close(x + out, case[f"lora{width}.out_fp64"], rtol=0, atol=1e-9)


def test_clip_norm_mixes_frames(tiny_unet: VideoUNet) -> None:
    x = torch.randn(6, 8, 4, 4)
    norm = tiny_unet.down_blocks[0].resnets[0].norm1
    louder = x.clone()
    louder[2] *= 10  # last frame of the first clip
    before, after = norm(x, 3), norm(louder, 3)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[3:], after[3:])


def test_frame_i_sees_the_first_and_the_previous_frame_only(tiny_unet: VideoUNet) -> None:
    attention = tiny_unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    torch.nn.init.zeros_(attention.to_q.weight)  # then a frame sees itself only where it attends to itself
    x = torch.randn(4, 5, 8, requires_grad=True)
    seen = torch.stack([torch.autograd.grad(frame.sum(), x, retain_graph=True)[0] for frame in attention(x, 4)])
    seen = seen.abs().sum((2, 3)) > 0
    assert seen.tolist() == [
        [True, False, False, False],
        [True, False, False, False],
        [True, True, False, False],
        [True, False, True, False],
    ]


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("posed", [True, False])
@pytest.mark.parametrize(
    "down", [["CrossAttnDownBlock2D", "DownBlock2D"], ["DownBlock2D"] * 2, ["DownBlock2D", "CrossAttnDownBlock2D"]]
)
def test_several_texts_for_a_clip_equal_a_copy_of_it_for_each(
    down: list[str], posed: bool, frames: int, tiny_config: dict[str, Any], clip: Clip
) -> None:
    unet = randomise(VideoUNet.from_config({**tiny_config, "down_block_types": down})).double()
    latents, timestep, text = clip(f=frames)
    latents, text = latents.double(), torch.randn(6, 5, 12, dtype=torch.float64)
    features = (
        [torch.randn(6, 8 << i, frames, 8 >> i, 8 >> i, dtype=torch.float64) for i in range(2)] if posed else None
    )
    for time in (timestep, timestep[0]):
        copies = unet(latents.repeat(3, 1, 1, 1, 1), time.repeat(3) if time.ndim else time, text, features)
        torch.testing.assert_close(unet(latents, time, text, features), copies, rtol=0, atol=1e-12)


def test_layers_before_the_text_run_once_for_all_texts(tiny_unet: VideoUNet, clip: Clip) -> None:
    block, sizes = tiny_unet.down_blocks[0], {}
    layers = {"conv_in": tiny_unet.conv_in, "resnet": block.resnets[0].conv1}
    layers |= {name: getattr(block.attentions[0].transformer_blocks[0], name).to_q for name in ("attn1", "attn2")}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, inputs, __, name=name: sizes.update({name: inputs[0].numel()}))
    latents, timestep, text = clip(b=1)
    tiny_unet(latents, timestep, text.repeat(2, 1, 1))
    assert sizes["attn1"] == 3 * 64 * 8 and sizes["attn2"] == 2 * sizes["attn1"]
    assert sizes["conv_in"] == latents.numel() and sizes["resnet"] == 3 * 64 * 8


def test_no_frame_is_a_key_twice(tiny_unet: VideoUNet) -> None:
    attention, seen = tiny_unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1, []
    gather = attention.gather
    attention.gather = lambda q, k, v: seen.append((tuple(q.shape), tuple(k.shape))) or gather(q, k, v)
    attention(torch.randn(8, 5, 8), 4)
    assert seen == [((2, 10, 8), (2, 5, 8)), ((4, 5, 8), (4, 10, 8))]


def test_deep_features_of_the_same_step_change_nothing(tiny_unet: VideoUNet, clip: Clip) -> None:
    latents, timestep, text = clip()
    features = [torch.randn(4, 8 << i, 3, 8 >> i, 8 >> i) for i in range(2)]
    inputs = (latents, timestep, torch.cat([text, -text]), features)
    with torch.no_grad():
        noise, deep = tiny_unet(*inputs, return_deep=True)
        below = [*tiny_unet.down_blocks[1:], tiny_unet.mid_block, *tiny_unet.up_blocks[:-1]]
        for block in below:
            block.forward = None  # calling it is an error from here on
        torch.testing.assert_close(tiny_unet(*inputs, deep=deep), noise, rtol=0, atol=0)


def test_pose_acts_at_steps_that_reuse_deep_features(tiny_unet: VideoUNet, clip: Clip) -> None:
    latents, timestep, text = clip()
    features = [torch.randn(2, 8 << i, 3, 8 >> i, 8 >> i) for i in range(2)]
    with torch.no_grad():
        _, deep = tiny_unet(latents, timestep, text, features, return_deep=True)
        posed = tiny_unet(latents, timestep, text, features, deep)
        assert not torch.allclose(posed, tiny_unet(latents, timestep, text, None, deep), atol=1e-3)
    with pytest.raises(ValueError, match=r"deep: got \(6, 16, 8, 8\), expected \(3, c, 8, 8\)"):
        tiny_unet(latents[:1], timestep[:1], text[:1], None, deep)


@pytest.mark.parametrize("queries", [1, 7, 1000])
def test_attention_in_chunks_is_the_same(queries: int, tiny_unet: VideoUNet, clip: Clip) -> None:
    with torch.no_grad():
        whole = tiny_unet(*clip())
        tiny_unet.set_attention_chunk(queries)
        torch.testing.assert_close(tiny_unet(*clip()), whole, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="attention chunk: got 0, expected at least 1$"):
        tiny_unet.set_attention_chunk(0)


def test_text_projected_once_gives_the_same(tiny_unet: VideoUNet, clip: Clip) -> None:
    latents, timestep, text = clip()
    with torch.no_grad():
        torch.testing.assert_close(
            tiny_unet(latents, timestep, tiny_unet.encode_text(text)),
            tiny_unet(latents, timestep, text),
            rtol=0,
            atol=0,
        )


def test_checkpointing_keeps_the_pose_gradient(
    tiny_unet: VideoUNet, tiny_pose_encoder: PoseEncoder, clip: Clip
) -> None:
    latents, timestep, text = clip()
    skeleton = torch.rand(2, 3, 3, 64, 64)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            tiny_unet.enable_gradient_checkpointing()
        tiny_pose_encoder.zero_grad()
        tiny_unet.zero_grad()
        tiny_unet(latents, timestep, text, tiny_pose_encoder(skeleton)).square().mean().backward()
        modules = (tiny_unet, tiny_pose_encoder)
        gradients.append([parameter.grad.clone() for module in modules for parameter in module.parameters()])
    assert all(gradient.abs().max() > 0 for gradient in gradients[1][-8:])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-5)


def test_one_layer_per_block_still_takes_the_pose(tiny_config: dict[str, Any], clip: Clip) -> None:
    unet = VideoUNet.from_config({**tiny_config, "layers_per_block": 1})
    latents, timestep, text = clip()
    features = [torch.randn(2, 8, 3, 8, 8), torch.randn(2, 16, 3, 4, 4)]
    with torch.no_grad():
        bare = unet(latents, timestep, text)
        for level in range(2):
            only = [x if i == level else torch.zeros_like(x) for i, x in enumerate(features)]
            assert not torch.allclose(unet(latents, timestep, text, only), bare), level


@pytest.mark.parametrize(
    ("shapes", "size", "message"),
    [
        ([(2, 8, 3, 8, 8)], 8, "features: got"),
        ([(2, 8, 3, 8, 8), (2, 16, 3, 4, 2)], 8, "features: got"),
        ([(1, 8, 3, 8, 8), (1, 16, 3, 4, 4)], 8, "features: got"),
        ([(2, 8, 3, 7, 7), (2, 16, 3, 3, 3)], 7, "latents: got 7 x 7, expected multiples of 2"),
    ],
)
def test_features_that_do_not_fit_are_refused(
    shapes: list[tuple[int, ...]], size: int, message: str, tiny_unet: VideoUNet, clip: Clip
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_unet(*clip(size=size), [torch.zeros(shape) for shape in shapes])


def test_inputs_that_do_not_fit_are_refused(tiny_unet: VideoUNet, clip: Clip) -> None:
    latents, timestep, text = clip()
    with pytest.raises(ValueError, match=r"latents: got \(2, 4, 8, 8\), expected \(b, 4, f, h, w\)"):
        tiny_unet(latents[:, :, 0], timestep, text)
    with pytest.raises(ValueError, match=r"timestep: got \(1,\), expected \(\) or \(2,\)"):
        tiny_unet(latents, timestep[:1], text)
    with pytest.raises(ValueError, match=r"text: got \(2, 5, 8\), expected \(b, t, 12\)"):
        tiny_unet(latents, timestep, text[..., :8])
    for texts in (text[:1], torch.cat([text, text[:1]])):
        for given in (texts, tiny_unet.encode_text(texts)):
            with pytest.raises(ValueError, match=rf"text: got {len(texts)} texts, expected one for each of 2 clips"):
                tiny_unet(latents, timestep, given)


@pytest.mark.parametrize(
    "setting",
    [
        {"use_linear_projection": True},
        {"addition_embed_type": "text_time"},
        {"transformer_layers_per_block": [1, 2, 10]},
        {"class_embed_type": "timestep"},
        {"num_attention_heads": 8},
        {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]},
        {"up_block_types": ["UpBlock2D"]},
        {"layers_per_block": [1, 2]},
        {"attention_head_dim": 3},
        {"attention_head_dim": [2, 2, 2]},
    ],
)
def test_other_architectures_are_refused_by_key(setting: dict[str, Any], tiny_config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(setting))}: got .*"):
        VideoUNet.from_config({**tiny_config, **setting})


def test_a_full_diffusers_config_is_read(tiny_config: dict[str, Any]) -> None:
    unet = VideoUNet.from_config(UNet2DConditionModel.from_config(tiny_config).config)
    assert {key: unet.config[key] for key in tiny_config} == tiny_config


def test_saved_network_loads_again(tiny_unet: VideoUNet, tmp_path: Path) -> None:
    tiny_unet.save_pretrained(tmp_path)
    again = VideoUNet.from_pretrained(tmp_path)
    torch.testing.assert_close(again.state_dict(), tiny_unet.state_dict(), rtol=0, atol=0)


def test_image_weights_alone_are_refused(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    UNet2DConditionModel.from_config(tiny_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"got weights that do not fit VideoUNet: \d+ missing, e.g. "):
        VideoUNet.from_pretrained(tmp_path)


def test_kohya_lora_equals_a_manual_merge(tiny_unet: VideoUNet, clip: Clip, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    rank, alpha, file, merges = 2, 1.0, {}, {}
    for name in ("attn1.to_q", "attn2.to_k", "attn2.to_out.0", "ff.net.0.proj"):
        name = f"down_blocks.0.attentions.0.transformer_blocks.0.{name}"
        c_out, c_in = tiny_unet.get_submodule(name).weight.shape
        down = 0.3 * torch.randn(rank, c_in, generator=generator)
        up = 0.3 * torch.randn(c_out, rank, generator=generator)
        kohya = f"lora_unet_{name.replace('.', '_')}"
        file |= {
            f"{kohya}.lora_down.weight": down,
            f"{kohya}.lora_up.weight": up,
            f"{kohya}.alpha": torch.tensor(alpha),
        }
        merges[name] = alpha / rank * up @ down
    save_file(file, tmp_path / "lora.safetensors")

    with torch.no_grad():
        bare = tiny_unet(*clip())
        state_dict, alphas = StableDiffusionPipeline.lora_state_dict(str(tmp_path / "lora.safetensors"))[:2]
        tiny_unet.load_lora_adapter(state_dict, network_alphas=alphas, prefix="unet", adapter_name="style")
        loaded = tiny_unet(*clip())
        latents, timestep, text = clip()
        cached = tiny_unet(latents, timestep, tiny_unet.encode_text(text))
        tiny_unet.unload_lora()
        for name, change in merges.items():
            tiny_unet.get_submodule(name).weight += change
        merged = tiny_unet(*clip())
    assert not torch.allclose(loaded, bare, atol=1e-3)
    torch.testing.assert_close(loaded, merged, rtol=0, atol=1e-5)
    torch.testing.assert_close(cached, loaded, rtol=0, atol=0)


def test_attention_backend_is_this_networks_own(tiny_config: dict[str, Any]) -> None:
    first, second = VideoUNet.from_config(tiny_config), VideoUNet.from_config(tiny_config)
    default = _AttentionBackendRegistry.get_active_backend()
    first.set_attention_backend("_native_math")
    assert {m.backend for m in first.modules() if isinstance(m, Attention)} == {AttentionBackendName._NATIVE_MATH}
    assert {m.backend for m in second.modules() if isinstance(m, Attention)} == {None}  # diffusers' default
    assert _AttentionBackendRegistry.get_active_backend() == default
    first.reset_attention_backend()
    assert {m.backend for m in first.modules() if isinstance(m, Attention)} == {None}


@pytest.mark.skipif(torch.cuda.is_available(), reason="xformers may run where there is a GPU")
def test_backend_that_cannot_run_is_refused_with_a_reason(tiny_unet: VideoUNet) -> None:
    with pytest.raises(ValueError, match="attention backend: got 'xformers', which does not run here .*no CUDA device"):
        tiny_unet.set_attention_backend("xformers")
    with pytest.raises(ValueError, match="attention backend: got 'fast', expected one of .*native"):
        tiny_unet.set_attention_backend("fast")


def test_auto_is_the_fastest_backend_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"native": 3.0, "_native_cudnn": 1.0, "_native_flash": 2.0}

    def seconds(backend: AttentionBackendName, *_: Any) -> float:
        if backend.value not in times:
            raise RuntimeError("no kernel for this shape")
        return times[backend.value]

    monkeypatch.setattr(fastest_attention, "seconds", seconds)
    chosen = fastest_attention.fastest_backend((2, 64, 8, 40), (2, 77, 8, 40), torch.half, torch.device("cuda"))
    assert chosen.value == "_native_cudnn"


def test_auto_measures_nothing_on_a_cpu(tiny_unet: VideoUNet, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest_attention, "seconds", None)
    expected = tiny_unet(*clip())
    tiny_unet.set_attention_backend("auto")
    assert torch.equal(tiny_unet(*clip()), expected)


# ---- channels_last --------------------------------------------------------------------------------------------------


@pytest.fixture
def channels_last(monkeypatch: pytest.MonkeyPatch) -> Callable[[torch.nn.Module], torch.nn.Module]:
    """Move a network to this machine's CPU as to a GPU, where images are in channels_last."""
    monkeypatch.setattr(loading, "CHANNELS_LAST", ("cpu",))
    return lambda network: torch.nn.ModuleList([network]).to("cpu")[0]


def test_channels_last_gives_the_same(
    tiny_unet: VideoUNet, tiny_pose_encoder: PoseEncoder, clip: Clip, channels_last: Callable[..., Any]
) -> None:
    latents, timestep, text = clip()
    skeleton = torch.rand(2, 3, 3, 64, 64)
    results = []
    for change in (lambda network: network, channels_last):
        unet, pose_encoder = change(tiny_unet), change(tiny_pose_encoder)
        with torch.no_grad():
            features = pose_encoder(skeleton)
            results.append(unet(latents, timestep, text, features))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert all(x.is_contiguous(memory_format=torch.channels_last_3d) for x in features), "as the UNet reads them"


def test_channels_last_stays_on_the_way(tiny_unet: VideoUNet, clip: Clip, channels_last: Callable[..., Any]) -> None:
    kept = {}
    for name, module in channels_last(tiny_unet).named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.GroupNorm):
            module.register_forward_hook(
                lambda _, inputs, out, name=name: kept.update(
                    {name: [x.is_contiguous(memory_format=torch.channels_last) for x in (inputs[0], out)]}
                )
            )
    latents, timestep, text = clip()
    with torch.no_grad():
        tiny_unet(latents, timestep, text.repeat(2, 1, 1))
    assert not kept.pop("conv_in")[0], "latents come with the channels first"
    assert all(all(each) for each in kept.values()), kept
