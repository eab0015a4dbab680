"""LoRA: trained by the one loop, written in diffusers' format, and loaded only into a base that it fits."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from followyourpose import FollowYourPosePipeline
from followyourpose.config import ConfigError, GenerateConfig, LoraConfig, LoraEntry, build_config
from followyourpose.generation.loras import apply_loras, open_loras
from followyourpose.models.inflate import NEW_LAYERS
from followyourpose.training.components import export, fingerprint, load_component
from followyourpose.training.loop import build_objective, train
from followyourpose.training.lora import add_lora
from followyourpose.training.plan import memory
from followyourpose.training.run_dir import trained_weights
from tests.fixtures import randomise
from tests.runs import BASE, LORA, STAGE1, settings
from tests.tiny import TEXT_WIDTH

FILE = "pytorch_lora_weights.safetensors"
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


@pytest.fixture(scope="module", params=["image-model", "video-model"])
def run(world: Path, request: pytest.FixtureRequest) -> Path:
    """A finished run that trains a LoRA on the image model, or on the pipeline."""
    return train(settings(world, world / "runs" / request.param, LORA, f"init={world / request.param}"))


@pytest.fixture(scope="module")
def lora(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LoRA's exported file, in a new folder each time: a worker may come back to a run after the other one."""
    return export(run, tmp_path_factory.mktemp("exported") / f"{run.name}-lora") / FILE


def additions(run: Path) -> dict[str, Tensor]:
    """Return the additions of a run's LoRA, alpha / rank * B A, by the names of the weights that they are added to."""
    weights = trained_weights(run)
    layers = {name.partition(".lora_")[0] for name in weights}
    a, b = ({layer: weights[f"{layer}.lora_{which}.default.weight"] for layer in layers} for which in "AB")
    return {f"{layer.removeprefix('unet.')}.weight": 2 * b[layer] @ a[layer] for layer in layers}


def assert_added(before: dict[str, Tensor], after: dict[str, Tensor], added: dict[str, Tensor], factor: float = 1):
    """Assert that weights are those before plus a multiple of the additions, in half precision."""
    assert before.keys() == after.keys() and added.keys() <= before.keys()
    for name in before.keys() & added.keys():
        torch.testing.assert_close(after[name], before[name] + factor * added[name], rtol=2e-3, atol=2e-3)
    for name in before.keys() - added.keys():
        if not any(f".{layer}." in name for layer in NEW_LAYERS):  # inflation draws some of these at random
            assert torch.equal(after[name], before[name])


# ---- training --------------------------------------------------------------------------------------------------------


def test_a_run_stores_nothing_but_the_lora(run: Path):
    weights = trained_weights(run)
    assert len(weights) == 2 * len(additions(run)) and all(".lora_" in name for name in weights)
    assert not any("attn_temp" in name for name in weights)  # an image model has none
    assert all(tensor.any() for name, tensor in weights.items() if ".lora_B." in name)  # they start at zero


def test_a_lora_starts_as_identity(tiny_unet, clip):
    latents, timestep, text = clip()
    before = tiny_unet(latents, timestep, text)
    add_lora(tiny_unet, LoraConfig(rank=2, targets=["to_q$", r"conv1$"]))
    torch.testing.assert_close(tiny_unet(latents, timestep, text), before)


def test_a_fingerprint_does_not_see_a_lora(tiny_unet):
    before = fingerprint(tiny_unet)
    add_lora(tiny_unet, LoraConfig(rank=2))
    assert fingerprint(tiny_unet) == before
    randomise(tiny_unet)
    assert fingerprint(tiny_unet) != before


def test_a_run_on_top_of_a_lora_has_it_in_its_weights(world: Path, run: Path, tmp_path: Path):
    base = load_component(world / "video-model", "unet").state_dict()
    assert_added(base, load_component(run, "unet").state_dict(), additions(run))
    stage1 = train(settings(world, tmp_path / "stage1", STAGE1, f"init={run}"))
    pipe = FollowYourPosePipeline.from_pretrained(export(stage1, tmp_path / "exported", torch.float32))
    assert_added(base, pipe.unet.state_dict(), additions(run))


def test_memory_is_estimated_with_a_lora(world: Path, tmp_path: Path):
    plain, added = (
        memory(config, build_objective(config))
        for config in (settings(world, tmp_path / "run", stage) for stage in (STAGE1, LORA))
    )
    assert 0 < added["activations"] < plain["activations"] * 2


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ({"lora": {"rank": 0}}, "lora.rank: got 0, expected at least 1"),
        ({"lora": {"rank": 2, "alpha": 0.0}}, "lora.alpha: got 0.0, expected a number above 0"),
        ({"lora": {"rank": 2, "targets": ["attn3"]}}, "lora.targets: 'attn3' matches none of the"),
        ({"lora": {"rank": 2, "targets": ["("]}}, r"lora.targets: '\(' is not a regular expression"),
        ({"lora": {"rank": 2, "targets": []}}, "lora.targets: got none"),
        (
            {"trainable": ["lora", "^unet.*to_q"]},
            "trainable: got unet.*base_layer.weight, expected a LoRA's weights alone",
        ),
        ({"scratch": ["unet"]}, "lora.rank: got 2, expected a trained UNet, but unet is among scratch"),
        ({"objective": "autoencode"}, "lora.rank: got 2, which is for objective denoise; this one is autoencode"),
    ],
)
def test_settings_that_make_no_lora_are_named(world: Path, tmp_path: Path, stage: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        train(settings(world, tmp_path / "run", LORA | stage))
    assert not (tmp_path / "run").exists()


def test_a_run_cannot_go_on_with_another_lora(world: Path, tmp_path: Path):
    train(settings(world, tmp_path / "run", LORA))
    with pytest.raises(ValueError, match="lora.rank: 2, got 3"):
        train(settings(world, tmp_path / "run", LORA, "lora.rank=3", "steps=4"))
    with pytest.raises(ValueError, match="lora.rank: 2, got None"):
        train(settings(world, tmp_path / "run", LORA, "lora.rank=null", "steps=4"))


# ---- the file --------------------------------------------------------------------------------------------------------


def test_the_file_says_what_it_was_trained_on(world: Path, run: Path, lora: Path):
    with safe_open(lora, "pt") as file:
        facts = file.metadata()
    base = load_component(world / "video-model", "unet")
    assert facts["base_model"] == run.name and facts["base_fingerprint"] == fingerprint(base)
    assert {tensor.dtype for tensor in load_file(lora).values()} == {torch.float16}
    assert [file.name for file in lora.parent.iterdir()] == [FILE]


@pytest.mark.parametrize("kind", [FollowYourPosePipeline, StableDiffusionPipeline])
def test_the_file_does_in_both_pipelines_what_was_trained(world: Path, run: Path, lora: Path, kind: type):
    """The image model's own pipeline, in diffusers, loads it as the video pipeline does, wherever it was trained."""
    folder = world / ("video-model" if kind is FollowYourPosePipeline else "image-model")
    pipe = kind.from_pretrained(folder, **{} if kind is FollowYourPosePipeline else {"safety_checker": None})
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    pipe.load_lora_weights(lora.parent)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert_added(before, pipe.unet.state_dict(), additions(run))


def test_the_base_may_itself_be_a_run(world: Path, tmp_path: Path):
    base = train(settings(world, tmp_path / "base", BASE))
    run = train(settings(world, tmp_path / "lora", LORA, f"init={base}"))
    with safe_open(export(run, tmp_path / "exported") / FILE, "pt") as file:
        assert file.metadata()["base_model"] == "base"


# ---- into a pipeline -------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe(world: Path) -> FollowYourPosePipeline:
    return FollowYourPosePipeline.from_pretrained(world / "video-model")


def test_several_loras_count_as_their_weights_say(pipe: FollowYourPosePipeline, run: Path, lora: Path):
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    apply_loras(pipe, open_loras([{"path": str(lora), "weight": 0.75}, {"path": str(lora.parent), "weight": -0.25}]))
    assert_added(before, pipe.unet.state_dict(), additions(run), 0.5)
    assert not pipe.get_list_adapters()  # the layers are plain ones again


def test_a_lora_of_text_and_unet_goes_with_one_of_the_unet_alone(
    pipe: FollowYourPosePipeline, run: Path, lora: Path, tmp_path: Path
):
    layer, down, up = "encoder.layers.0.self_attn.q_proj", torch.randn(2, TEXT_WIDTH), torch.ones(TEXT_WIDTH, 2)
    name = f"text_encoder.text_model.{layer}"
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "text.safetensors")
    unet = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    text = {name: weight.clone() for name, weight in pipe.text_encoder.state_dict().items()}
    apply_loras(pipe, open_loras([{"path": str(tmp_path / "text.safetensors"), "weight": 0.5}, str(lora)]))
    assert_added(unet, pipe.unet.state_dict(), additions(run))
    name = next(name for name in text if name.endswith(f"{layer}.weight"))
    assert_added(text, pipe.text_encoder.state_dict(), {name: up @ down}, 0.5)


def test_a_kohya_lora_reaches_every_kind_of_layer(pipe: FollowYourPosePipeline, tmp_path: Path):
    """Convolutions too, which files with `conv_dim` have."""
    layers = [
        "down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.0.time_emb_proj", "down_blocks.0.attentions.0.proj_in",
        "down_blocks.0.downsamplers.0.conv", "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.2", "up_blocks.0.upsamplers.0.conv",
        "up_blocks.1.resnets.1.conv_shortcut", f"{BLOCK}.attn2.to_out.0",
    ]  # fmt: skip
    before, file, added = {k: v.clone() for k, v in pipe.unet.state_dict().items()}, {}, {}
    for layer in layers:
        weight, name = before[f"{layer}.weight"], f"lora_unet_{layer.replace('.', '_')}"
        down = torch.randn(2, *weight.shape[1:])
        up = torch.randn(weight.shape[0], 2, *(1 for _ in weight.shape[2:]))
        file |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
        added[f"{layer}.weight"] = 0.5 * torch.einsum("or,r...->o...", up.flatten(1), down)  # alpha / rank is a half
    save_file(file, tmp_path / "kohya.safetensors")
    apply_loras(pipe, open_loras(str(tmp_path / "kohya.safetensors")))
    assert_added(before, pipe.unet.state_dict(), added)


@pytest.mark.parametrize("entries", ["FILE", ["FOLDER"], {"path": "FILE"}, [{"path": "FILE", "weight": 1}]])
def test_a_path_is_a_lora_of_weight_1(entries: Any, tmp_path: Path):
    (tmp_path / "style.safetensors").touch()
    names = json.dumps(entries).replace("FILE", str(tmp_path / "style.safetensors")).replace("FOLDER", str(tmp_path))
    (only,) = open_loras(json.loads(names))
    assert only == LoraEntry(str(tmp_path / "style.safetensors"), 1.0)
    assert open_loras([]) == open_loras(None) == []
    assert open_loras(LoraEntry(str(tmp_path), 0.5)) == [LoraEntry(str(tmp_path / "style.safetensors"), 0.5)]


@pytest.mark.parametrize("given", ["{path: FILE, weight: 5e-1}", "[{path: FILE, weight: '.5'}]"])
def test_a_lora_of_the_command_line_has_its_weight(tmp_path: Path, given: str):
    """Also a file of an odd name, and a weight that YAML would take for text."""
    file = tmp_path / "a #1, b.safetensors"
    file.touch()
    text = given.replace("FILE", json.dumps(str(file)))
    config = build_config(GenerateConfig, {"prompt": "x"}, [f"lora={text}"])
    assert open_loras(config.lora) == [LoraEntry(str(file), 0.5)]
    again = build_config(GenerateConfig, json.loads(json.dumps(asdict(config))))
    assert again == config and open_loras(again.lora) == open_loras(config.lora)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        (
            "none.safetensors",
            r"lora\[0\]: none.safetensors: no such file or folder, and no name of `followyourpose download`",
        ),
        ([{"path": __file__}, {"path": "none"}], r"lora\[1\]: none: no such file"),
        ([str(Path(__file__).parent)], r"lora\[0\]: .*tests: got none, expected one file of weights"),
        ([5], r"lora\[0\]: path: got 5, expected text"),
        ([{"weight": 1}], r"lora\[0\]: no value for path"),
        ([{"path": __file__, "scale": 1}], r"lora\[0\]: unknown key scale; the nearest is path"),
        ([{"path": __file__, "weight": "much"}], r"lora\[0\]: weight: got 'much', expected a number"),
        ([{"path": __file__, "weight": float("nan")}], "lora weight: got nan, expected a finite number"),
    ],
)
def test_entries_that_are_no_lora_are_named(entries: Any, reason: str):
    with pytest.raises(ConfigError, match=reason):
        open_loras(entries)


def weights_of(layer: str, inputs: int, outputs: int, layout: str = "diffusers") -> dict[str, Tensor]:
    down, up = torch.zeros(4, inputs), torch.zeros(outputs, 4)
    if layout == "diffusers":
        return {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    layer = "lora_" + layer.replace(".", "_")
    return {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, f"{layer}.alpha": torch.tensor(4.0)}


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (
            f"{BLOCK}.attn2.to_k", (2048, 8),
            r" \(its text is 2048 wide, as in Stable Diffusion XL\): unet.down_blocks.0.*attn2.to_k: got lora_A of "
            r"shape \(4, 2048\), expected shape \(4, 24\) in this VideoUNet",
        ),
        (f"{BLOCK}.attn2.to_v", (1024, 8), r" \(its text is 1024 wide, as in Stable Diffusion 2.x\): .*expected .*24"),
        (f"{BLOCK}.attn2.to_v", (768, 8), r" \(its text is 768 wide, as in Stable Diffusion 1.x\): .*expected .*24"),
        (f"{BLOCK}.attn1.to_q", (8, 320), r": .*got lora_B of shape \(320, 4\), expected shape \(8, 4\)"),
        (
            "input_blocks.4.1.transformer_blocks.0.attn2.to_k", (2048, 8),
            r" \(its text is 2048 wide, as in Stable Diffusion XL\): .*expected no such layer in this VideoUNet",
        ),
        (BLOCK.replace("0", "9", 1) + ".attn1.to_q", (8, 8), ": unet.down_blocks.9.*expected no such layer in this"),
    ],
    ids=["xl", "2.x", "1.x on a smaller one", "other width", "xl in its first names", "other layers"],
)  # fmt: skip
def test_a_lora_for_another_base_names_the_layer_and_the_shapes(
    pipe: FollowYourPosePipeline, tmp_path: Path, layer: str, shape: tuple[int, int], reason: str, layout: str
):
    path = tmp_path / "other.safetensors"
    save_file(weights_of(f"unet.{layer}", *shape, layout), path)
    with pytest.raises(ValueError, match=f"other.safetensors: got a LoRA for another base{reason}"):
        apply_loras(pipe, open_loras(str(path)))
    assert not pipe.get_list_adapters()


TWO_ENCODERS = weights_of(f"unet.{BLOCK}.attn1.to_q", 8, 8) | weights_of("text_encoder_2.x", 8, 8)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"transformer.x.lora_A.weight": torch.zeros(4, 8)}, "got no LoRA for this model"),
        ({"conv_in.weight": torch.zeros(4)}, "got no LoRA for this model"),
        ({"lora_unet_mid_block.hada_w1_a": torch.zeros(4)}, "lora_unet_mid_block: got a MidBlock, expected a linear"),
        (TWO_ENCODERS, "got a LoRA for another base, with layers of text_encoder_2"),
        (b"no weights", "cannot be read as weights"),
    ],
)
def test_a_file_without_a_lora_for_this_model_is_named(
    pipe: FollowYourPosePipeline, tmp_path: Path, content: dict[str, Tensor] | bytes, reason: str
):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content) if isinstance(content, bytes) else save_file(content, path)
    with pytest.raises(ValueError, match=f"other.safetensors: {reason}"):
        apply_loras(pipe, open_loras(str(path)))
    assert not pipe.get_list_adapters()
