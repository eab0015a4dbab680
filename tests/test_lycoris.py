"""LoRA files of every kind in the wild: each adds to the weights what its formula says, or is refused by name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from followyourpose import FollowYourPosePipeline
from followyourpose.generation.loras import apply_loras, open_loras
from tests.tiny import TEXT_WIDTH

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"  # 8 -> 8
KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"  # 24 -> 8
GATE = "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"  # 16 -> 128
CONV = "down_blocks.0.resnets.0.conv1"  # 8 -> 8, 3 x 3
POINT = "up_blocks.1.resnets.0.conv_shortcut"  # 24 -> 8, 1 x 1
TEXT = "encoder.layers.0.self_attn.q_proj"
RANK, ALPHA = 2, 1.0
SHAPES = {QUERY: (8, 8), KEY: (8, 24), GATE: (128, 16), CONV: (8, 8, 3, 3), POINT: (8, 24, 1, 1)}


def kohya(layer: str, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parts of one layer under kohya's names."""
    name = f"lora_te_text_model_{layer}" if layer == TEXT else f"lora_unet_{layer}"
    return {f"{name.replace('.', '_')}.{end}": part.clone() for end, part in parts.items()}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def applied(pipe: FollowYourPosePipeline, file: Path, weight: float = 1.0) -> dict[str, Tensor]:
    """Return what a file changes in the weights of UNet and text encoder."""
    networks = (pipe.unet, pipe.text_encoder)
    before = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in networks]
    apply_loras(pipe, open_loras({"path": str(file), "weight": weight}))
    changes = {}
    for network, old in zip(networks, before, strict=True):
        assert network.state_dict().keys() == old.keys()  # the layers are plain ones again
        changes |= {name: tensor - old[name] for name, tensor in network.state_dict().items()}
    return {name.removeprefix("text_model."): change for name, change in changes.items() if change.any()}


def assert_adds(
    pipe: FollowYourPosePipeline, tmp_path: Path, layer: str, parts: dict[str, Tensor], added: Tensor
) -> None:
    save_file(kohya(layer, parts), tmp_path / "style.safetensors")
    (change,) = applied(pipe, tmp_path / "style.safetensors", 0.5).items()
    assert change[0] == f"{layer}.weight"
    torch.testing.assert_close(change[1], 0.5 * added.reshape(change[1].shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", SHAPES)
def test_loha_adds_the_product_of_two_loras(pipe: FollowYourPosePipeline, tmp_path: Path, layer: str) -> None:
    out, *rest = SHAPES[layer]
    inputs = torch.Size(rest).numel()
    a, b, c, d = random(out, RANK), random(RANK, inputs), random(out, RANK) + 1, random(RANK, inputs) - 1
    parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(ALPHA)}
    assert_adds(pipe, tmp_path, layer, parts, ALPHA / RANK * (a @ b) * (c @ d))


def test_loha_of_a_convolution_may_have_a_core(pipe: FollowYourPosePipeline, tmp_path: Path) -> None:
    a, b, core = random(RANK, 8), random(RANK, 8) + 1, random(RANK, RANK, 3, 3)
    parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_t1": core, "hada_w2_a": b, "hada_w2_b": a, "hada_t2": core}
    first = torch.einsum("ijkl,jr,ip->prkl", core, b, a)
    assert_adds(pipe, tmp_path, CONV, parts, first * torch.einsum("ijkl,jr,ip->prkl", core, a, b))


@pytest.mark.parametrize("layer", SHAPES)
@pytest.mark.parametrize("whole", [True, False])
def test_lokr_adds_a_kronecker_product(pipe: FollowYourPosePipeline, tmp_path: Path, layer: str, whole: bool) -> None:
    out, inputs, *kernel = SHAPES[layer]
    small, large = random(2, 4), random(out // 2, inputs // 4, *kernel)
    parts, scale = {"lokr_w1": small, "lokr_w2": large, "alpha": torch.tensor(9e9)}, 1.0  # unused, for want of a rank
    if not whole:
        a, b = random(out // 2, RANK), random(RANK, large[0].numel())
        parts, scale = {"lokr_w1": small, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(ALPHA)}, ALPHA / RANK
        large = (a @ b).reshape(large.shape)
    product = torch.einsum("ab,cd...->acbd...", small, large).reshape(SHAPES[layer])
    assert_adds(pipe, tmp_path, layer, parts, scale * product)


def test_lokr_may_have_two_ranks_and_a_core(pipe: FollowYourPosePipeline, tmp_path: Path) -> None:
    a, b = random(2, RANK), random(RANK, 4)
    c, d, core = random(RANK, 4), random(RANK, 2), random(RANK, RANK, 3, 3)
    parts = {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2_a": c, "lokr_w2_b": d, "lokr_t2": core}
    large = torch.einsum("ijkl,jr,ip->prkl", core, d, c)
    product = torch.einsum("ab,cdkl->acbdkl", a @ b, large).reshape(SHAPES[CONV])
    assert_adds(pipe, tmp_path, CONV, parts, product)


@pytest.mark.parametrize("layer", [QUERY, KEY, CONV])
@pytest.mark.parametrize("on_input", [True, False])
def test_ia3_scales_the_weights(pipe: FollowYourPosePipeline, tmp_path: Path, layer: str, on_input: bool) -> None:
    weight = pipe.unet.get_submodule(layer).weight.detach()
    factors = random(weight.shape[int(on_input)])
    shape = [1, -1] if on_input else [-1, 1]
    shaped = factors.reshape(*shape, *(1 for _ in weight.shape[2:]))
    assert_adds(pipe, tmp_path, layer, {"weight": factors, "on_input": torch.tensor(on_input)}, weight * shaped)


@pytest.mark.parametrize("layer", [KEY, CONV])
def test_a_full_difference_is_added(pipe: FollowYourPosePipeline, tmp_path: Path, layer: str) -> None:
    difference = random(*SHAPES[layer])
    assert_adds(pipe, tmp_path, layer, {"diff": difference}, difference)


def test_a_convolutions_lora_may_have_a_core(pipe: FollowYourPosePipeline, tmp_path: Path) -> None:
    up, core, down = random(8, RANK, 1, 1), random(RANK, RANK, 3, 3), random(RANK, 8, 1, 1)
    parts = {"lora_up.weight": up, "lora_mid.weight": core, "lora_down.weight": down, "alpha": torch.tensor(ALPHA)}
    added = torch.einsum("pi,ijkl,jr->prkl", up.flatten(1), core, down.flatten(1))
    assert_adds(pipe, tmp_path, CONV, parts, ALPHA / RANK * added)


@pytest.mark.parametrize("layer", [QUERY, KEY, CONV])
@pytest.mark.parametrize("axis", [0, 1])
def test_dora_sets_the_norms_of_weights(pipe: FollowYourPosePipeline, tmp_path: Path, layer: str, axis: int) -> None:
    weight = pipe.unet.get_submodule(layer).weight.detach()
    out, inputs, *kernel = weight.shape
    down, up = random(RANK, inputs, *kernel), random(out, RANK, *(1 for _ in kernel))
    changed = weight + ALPHA / RANK * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    others = [i for i in range(weight.ndim) if i != axis]
    norm = changed.square().sum(others, keepdim=True).sqrt()
    scale = random(weight.shape[axis]).abs().reshape(norm.shape) + 0.5
    parts = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(ALPHA), "dora_scale": scale}
    assert_adds(pipe, tmp_path, layer, parts, scale * changed / norm - weight)


def test_dora_of_diffusers_is_peft_s(pipe: FollowYourPosePipeline, tmp_path: Path) -> None:
    weight = pipe.unet.get_submodule(QUERY).weight.detach()
    down, up, magnitude = random(RANK, 8), random(8, RANK), random(8).abs() + 0.5
    parts = {"lora_A.weight": down, "lora_B.weight": up, "lora_magnitude_vector.weight": magnitude}
    save_file({f"unet.{QUERY}.{end}": part for end, part in parts.items()}, tmp_path / "style.safetensors")
    changed = weight + up @ down
    expected = magnitude[:, None] * changed / changed.norm(dim=1, keepdim=True) - weight
    torch.testing.assert_close(applied(pipe, tmp_path / "style.safetensors"), {f"{QUERY}.weight": expected})


def test_kinds_may_be_mixed_and_reach_the_text_encoder(pipe: FollowYourPosePipeline, tmp_path: Path) -> None:
    down, up = random(RANK, TEXT_WIDTH), random(TEXT_WIDTH, RANK)
    weights = kohya(TEXT, {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(ALPHA)})
    weights |= kohya(KEY, {"diff": random(8, 24)})
    save_file(weights, tmp_path / "style.safetensors")
    changes = applied(pipe, tmp_path / "style.safetensors")
    torch.testing.assert_close(changes, {f"{KEY}.weight": random(8, 24), f"{TEXT}.weight": ALPHA / RANK * up @ down})


def test_another_adapter_may_lie_below(pipe: FollowYourPosePipeline) -> None:
    loha = kohya(QUERY, {f"hada_{kind}": random(8, 8) for kind in ("w1_a", "w1_b", "w2_a", "w2_b")})
    pipe.load_lora_weights(kohya(QUERY, {"diff": random(8, 8)}), adapter_name="full")
    pipe.load_lora_weights(loha, adapter_name="loha")
    assert pipe.get_list_adapters() == {"unet": ["full", "loha"]}
    pipe.set_adapters(["full", "loha"], [1.0, 0.5])
    assert pipe("a cat", num_inference_steps=1, output_type="latent").videos.isfinite().all()


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt"])
def test_layers_of_2023_have_no_prefix(pipe: FollowYourPosePipeline, tmp_path: Path, suffix: str) -> None:
    """As `save_attn_procs` wrote them."""
    down, up, place = random(RANK, 8), random(8, RANK), QUERY.removesuffix(".to_q")
    weights = {}
    for layer in ("to_q_lora", "to_out_lora"):
        weights |= {
            f"{place}.processor.{layer}.{end}.weight": part.clone() for end, part in (("down", down), ("up", up))
        }
    file = tmp_path / f"pytorch_lora_weights{suffix}"
    save_file(weights, file) if suffix == ".safetensors" else torch.save(weights, file)
    torch.testing.assert_close(
        applied(pipe, file), {f"{QUERY}.weight": up @ down, f"{place}.to_out.0.weight": up @ down}
    )


def test_a_pickle_of_kohya_is_one_too(pipe: FollowYourPosePipeline, tmp_path: Path) -> None:
    down, up = random(RANK, 8), random(8, RANK)
    parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(ALPHA)}
    torch.save(kohya(QUERY, parts), tmp_path / "style.pt")
    torch.testing.assert_close(applied(pipe, tmp_path / "style.pt"), {f"{QUERY}.weight": ALPHA / RANK * up @ down})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            kohya(QUERY, {"oft_diag": random(2, 4, 4)}),
            "attn1_to_q: got oft_diag, expected the weights of LoRA",
        ),
        (
            kohya(QUERY, {"diff": random(8, 8), "diff_b": random(8)}),
            "got diff, diff_b, expected the weights of LoRA",
        ),
        (kohya(QUERY, {"diff": random(4, 4)}), r"another base: .*_to_q: shape .* in a layer of shape \(8, 8\)"),
        (kohya("mid_block.resnets.7.conv1", {"diff": random(4)}), "lora_unet_mid_block_resnets_7_conv1: no such layer"),
        (
            kohya("conv_norm_out", {"w_norm": random(8)}),
            "conv_norm_out: got a ClipGroupNorm, expected a linear",
        ),
    ],
)
def test_a_kind_that_cannot_be_added_is_named(
    pipe: FollowYourPosePipeline, tmp_path: Path, weights: dict[str, Tensor], message: str
) -> None:
    save_file(weights, tmp_path / "style.safetensors")
    with pytest.raises(ValueError, match=f"style.safetensors: .*{message}") as error:
        apply_loras(pipe, open_loras(str(tmp_path / "style.safetensors")))
    assert "\n" not in str(error.value) and not pipe.get_list_adapters()


def test_no_line_is_printed(
    pipe: FollowYourPosePipeline, tmp_path: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    parts = {"lora_down.weight": random(RANK, 8), "lora_up.weight": random(8, RANK), "dora_scale": random(8, 1)}
    save_file(kohya(QUERY, parts), tmp_path / "style.safetensors")
    applied(pipe, tmp_path / "style.safetensors")
    assert capfd.readouterr() == ("", "") and not caplog.records
