"""Layouts of models that people have: each is loaded as the plain folder is, or ends in one line."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from followyourpose import FollowYourPosePipeline
from followyourpose.cli.main import main
from followyourpose.config import ConfigError, EmbeddingEntry, GenerateConfig, build_config
from followyourpose.generation.generate import load_pipeline
from followyourpose.generation.loras import open_embeddings
from followyourpose.hub import places
from followyourpose.hub.download import snapshot
from followyourpose.hub.files import needed_files
from followyourpose.hub.registry import DOWNLOADS
from followyourpose.models.loading import load_network
from followyourpose.pipeline.bring import bring
from followyourpose.pose.estimate import check_estimator
from followyourpose.training.components import export, load_component
from followyourpose.training.loop import train
from followyourpose.training.run_dir import trained_weights
from tests import tiny
from tests.hub import Hub, commit_of, running_hub, use_hub
from tests.runs import STAGE1, settings

FAST = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent"}
LORA = "unet.mid_block.attentions.0.proj_in"


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 1.x folder."""
    return tiny.write_image_model(tmp_path_factory.mktemp("models") / "image")


@pytest.fixture(scope="module")
def video_model(image_model: Path) -> Path:
    """The same, inflated, with a pose encoder."""
    folder = image_model.parent / "video"
    FollowYourPosePipeline.from_image_model(image_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def single_file(image_model: Path) -> Path:
    """The image model as one file."""
    return tiny.write_single_file(image_model, image_model.parent / "image.safetensors")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on localhost, with an empty cache."""
    with running_hub() as hub:
        use_hub(monkeypatch, hub, tmp_path / "home" / "hub")
        yield hub


@pytest.fixture
def silent(capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A test in which nothing but progress bars is printed on stderr, and nothing logged."""
    yield
    lines = capfd.readouterr().err.replace("\r", "\n").split("\n")
    assert not [line for line in lines if line.strip() and not re.search(r"it/s\]|s/it\]|\?it", line)]
    assert not caplog.get_records("call")


def video(pipe: FollowYourPosePipeline) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return pipe("a cat", latents=latents, **FAST).videos


def half_precision(folder: Path) -> None:
    """Leave a folder the fp16 variants of its weights alone."""
    for file in list(folder.rglob("*.safetensors")):
        weights = {name: tensor.half() for name, tensor in load_file(file).items()}
        save_file(weights, file.with_name(f"{file.stem}.fp16.safetensors"), {"format": "pt"})
        file.unlink()


def pickles(folder: Path) -> None:
    """Leave a folder pickles alone, as in 2022."""
    for file in list(folder.rglob("*.safetensors")):
        name = "pytorch_model.bin" if file.stem == "model" else f"{file.stem}.bin"  # transformers', diffusers'
        torch.save(load_file(file), file.with_name(name))
        file.unlink()


def as_in_2022(folder: Path) -> None:
    """Leave a folder neither tokenizer_config.json nor a weight that transformers has since dropped."""
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    weights = folder / "text_encoder" / "model.safetensors"
    positions = {"text_model.embeddings.position_ids": torch.arange(tiny.TOKENS)[None]}
    save_file(load_file(weights) | positions, weights, {"format": "pt"})


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [half_precision, pickles, as_in_2022])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_folder_of_another_layout_is_loaded_without_a_word(
    image_model: Path, video_model: Path, tmp_path: Path, change: Callable[[Path], None], kind: str, silent: None
) -> None:
    source, load = {
        "image": (image_model, FollowYourPosePipeline.from_image_model),
        "video": (video_model, FollowYourPosePipeline.from_pretrained),
    }[kind]
    folder = shutil.copytree(source, tmp_path / "model")
    change(folder)
    pipe = load(folder)
    assert pipe.unet.dtype == torch.float32
    tolerance = 5e-3 if change is half_precision else 0
    torch.testing.assert_close(video(pipe), video(load(source)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_casts_are_made_without_a_word(image_model: Path, single_file: Path, dtype: torch.dtype, silent: None) -> None:
    for source in (image_model, single_file):
        pipe = FollowYourPosePipeline.from_image_model(source, dtype=dtype, config=image_model)
        assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.pose_encoder, pipe.text_encoder)} == {dtype}
        pipe.to(torch.float16)


def test_a_variant_is_loaded_where_it_is_asked_for(video_model: Path, tmp_path: Path) -> None:
    pipe = FollowYourPosePipeline.from_pretrained(video_model)
    with torch.no_grad():
        pipe.unet.conv_in.weight.zero_()
    pipe.save_pretrained(tmp_path, variant="other")
    assert not FollowYourPosePipeline.from_pretrained(tmp_path, variant="other").unet.conv_in.weight.any()
    assert not FollowYourPosePipeline.from_pretrained(tmp_path).unet.conv_in.weight.any()  # the only one
    shutil.copytree(video_model, tmp_path, dirs_exist_ok=True)
    assert FollowYourPosePipeline.from_pretrained(tmp_path).unet.conv_in.weight.any()
    with pytest.raises(ValueError, match="variant=none"):
        FollowYourPosePipeline.from_pretrained(tmp_path, variant="none")


def test_a_tokenizer_without_a_limit_has_another(video_model: Path, image_model: Path, tmp_path: Path) -> None:
    for source, load in (
        (image_model, FollowYourPosePipeline.from_image_model), (video_model, FollowYourPosePipeline.from_pretrained),
    ):  # fmt: skip
        folder = shutil.copytree(source, tmp_path / source.name)
        (folder / "tokenizer" / "tokenizer_config.json").unlink()
        assert load(folder).encode_prompt("a cat " * 20)[0].shape == (1, tiny.TOKENS, tiny.TEXT_WIDTH)


@pytest.mark.parametrize(("channels", "kind"), [(9, r" \(a model for inpainting\)"), (8, "")])
def test_a_model_of_other_inputs_is_refused(image_model: Path, tmp_path: Path, channels: int, kind: str) -> None:
    folder = shutil.copytree(image_model, tmp_path / "model")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": channels}))
    with pytest.raises(ValueError, match=f"model/unet/config.json: in_channels: got {channels}{kind}, expected 4"):
        FollowYourPosePipeline.from_image_model(folder)


# ---- single files ----------------------------------------------------------------------------------------------------


def test_a_single_file_takes_the_configs_that_are_there(
    single_file: Path, image_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: None
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = video(FollowYourPosePipeline.from_image_model(image_model))
    with pytest.raises(ValueError, match="image.safetensors: .*; its configs and tokenizer: `config`, or"):
        FollowYourPosePipeline.from_image_model(single_file)
    settings = {"model": str(single_file), "prompt": "a cat", "device": "cpu"}
    given = load_pipeline(build_config(GenerateConfig, settings | {"config": str(image_model)}))
    torch.testing.assert_close(video(given), expected, rtol=0, atol=0)
    shutil.copytree(image_model, tmp_path / "checkpoints" / "stable-diffusion-v1-4")
    for found in (
        FollowYourPosePipeline.from_image_model(single_file),
        load_pipeline(build_config(GenerateConfig, settings)),
    ):
        torch.testing.assert_close(video(found), expected, rtol=0, atol=0)


# ---- the hub ---------------------------------------------------------------------------------------------------------


def test_hub_ids_and_registry_names_are_models(
    hub: Hub, image_model: Path, video_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: None
) -> None:
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(video_model, tmp_path / "other")
    half_precision(other)
    hub.add("lab/image", image_model)
    hub.add("lab/video", video_model)
    hub.add("lab/video", other, "small")
    image = FollowYourPosePipeline.from_image_model("lab/image")
    plain = FollowYourPosePipeline.from_pretrained("lab/video")
    torch.testing.assert_close(video(image), video(plain), rtol=0, atol=0)
    for name, given in (
        ("lab/video@small", {}), ("lab/video", {"revision": "small"}), ("lab/video@small", {"variant": "fp16"}),
    ):  # fmt: skip
        pipe = FollowYourPosePipeline.from_pretrained(name, **given)
        assert torch.equal(pipe.unet.conv_in.weight, plain.unet.conv_in.weight.half().float())
    assert any(commit_of("lab/video", "small") in path for _, path, _ in hub.requests)
    FollowYourPosePipeline.from_image_model("lab/image", revision="main", variant="fp16")  # has plain weights alone
    with pytest.raises(ValueError, match="from_pretrained: sd15 is not there yet; `followyourpose download sd15`"):
        FollowYourPosePipeline.from_pretrained("sd15")
    shutil.copytree(image_model, tmp_path / "checkpoints" / "stable-diffusion-v1-5")
    assert torch.equal(video(FollowYourPosePipeline.from_image_model("sd15")), video(image))
    with pytest.raises(ValueError, match="'pose_encoder' is missing .* StableDiffusionPipeline"):
        FollowYourPosePipeline.from_pretrained("sd15")
    with pytest.raises(ValueError, match="lab/none: no such file or folder, and as a hub id lab/none: no such"):
        FollowYourPosePipeline.from_pretrained("lab/none")


def test_a_pushed_pipeline_has_a_card_and_comes_back(hub: Hub, video_model: Path, tmp_path: Path) -> None:
    hub.uploads = tmp_path / "uploads"
    pipe = FollowYourPosePipeline.from_pretrained(video_model)
    pipe.push_to_hub("dancer", token="secret")
    card = (hub.uploads / "me" / "dancer" / "README.md").read_text()
    assert 'from_pretrained("me/dancer")' in card and "pipeline_tag: text-to-video" in card
    assert torch.equal(video(FollowYourPosePipeline.from_pretrained("me/dancer")), video(pipe))
    card = hub.uploads / "me" / "walker" / "README.md"
    card.parent.mkdir()
    card.write_text("My own card.")
    pipe.save_pretrained(tmp_path / "walker", push_to_hub=True, token="secret")
    assert card.read_text() == "My own card." and (card.parent / "model_index.json").is_file()


def test_a_stage_starts_from_a_name_of_the_hub(
    hub: Hub, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a repository as it lies there: one variant, another scheduler, a tokenizer without a limit."""
    repository = shutil.copytree(world / "image-model", tmp_path / "repository")
    as_in_2022(repository)
    half_precision(repository)
    PNDMScheduler(skip_prk_steps=True, steps_offset=1).save_pretrained(repository / "scheduler")
    hub.add("stable-diffusion-v1-5/stable-diffusion-v1-5", repository)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "CHECKPOINTS", tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="init: sd15 is not there yet; `followyourpose download sd15` brings it to"):
        train(settings(world, tmp_path / "run", STAGE1, "init=sd15"))
    by_id = load_component("stable-diffusion-v1-5/stable-diffusion-v1-5", "unet")
    bring(DOWNLOADS["sd15"], places.CHECKPOINTS)
    run = train(settings(world, tmp_path / "run", STAGE1, "init=sd15"))
    assert all(name.startswith("pose_encoder.") for name in trained_weights(run))
    pipe = FollowYourPosePipeline.from_pretrained(export(run, tmp_path / "pipeline", torch.float32))
    image = load_network(world / "image-model" / "unet", UNet2DConditionModel)
    for unet in (pipe.unet, by_id):
        weights = unet.state_dict()
        assert all(torch.equal(weights[name], weight.half().float()) for name, weight in image.state_dict().items())
    assert not pipe.scheduler.config.clip_sample and pipe.scheduler.config.steps_offset == 1


def test_a_pose_network_of_the_hub_is_a_repository_or_its_file(hub: Hub) -> None:
    detector = places.REPOSITORY / "checkpoints" / "puppet-eval" / "detector"
    hub.add("lab/detector", detector)
    found = check_estimator("puppet", "lab/detector").weights
    assert (found / "config.json").read_bytes() == (detector / "config.json").read_bytes()
    with pytest.raises(
        ValueError, match="boxes: .*: no such file or folder, and as a hub id lab/detector: has no file"
    ):
        check_estimator("rtmlib", boxes="lab/detector/yolox.onnx")


def test_a_single_file_takes_the_configs_of_the_hub(hub: Hub, single_file: Path, image_model: Path) -> None:
    hub.add("stable-diffusion-v1-5/stable-diffusion-v1-5", image_model)
    pipe = FollowYourPosePipeline.from_image_model(single_file)
    assert torch.equal(video(pipe), video(FollowYourPosePipeline.from_image_model(image_model)))


def test_diffusers_downloads_where_its_own_arguments_are_given(
    video_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def download(name: str, **arguments: Any) -> str:
        asked[name] = arguments
        return str(video_model)

    monkeypatch.setattr(FollowYourPosePipeline, "download", download)
    pipe = FollowYourPosePipeline.from_pretrained("lab/video", token="secret", revision="small")
    assert pipe.unet.dtype == torch.float32
    assert asked["lab/video"]["token"] == "secret" and asked["lab/video"]["revision"] == "small"


def test_a_folder_of_the_hubs_cache_is_a_model(hub: Hub, image_model: Path, video_model: Path) -> None:
    hub.add("lab/image", image_model)
    hub.add("lab/video", video_model)
    for name, load in (
        ("lab/image", FollowYourPosePipeline.from_image_model), ("lab/video", FollowYourPosePipeline.from_pretrained),
    ):  # fmt: skip
        root = snapshot(name).parents[1]
        assert root.name == f"models--{name.replace('/', '--')}"
        assert torch.equal(video(load(root)), video(load(name)))


def test_a_lora_of_the_hub_is_a_file_of_a_repository(hub: Hub, video_model: Path, tmp_path: Path, silent: None) -> None:
    repository = tmp_path / "loras"
    (repository / "more").mkdir(parents=True)
    weights = {f"{LORA}.lora_A.weight": torch.randn(2, 16, 1, 1), f"{LORA}.lora_B.weight": torch.randn(16, 2, 1, 1)}
    for file in ("toy.safetensors", "more/other.safetensors"):
        save_file(weights, repository / file)
    (repository / "README.md").write_text("A toy.")
    hub.add("lab/toy", repository)
    hub.add("lab/toy", repository, "v1")
    for source, given in (
        ("lab/toy", {}), ("lab/toy@v1", {}), ("lab/toy/toy.safetensors@v1", {}),
        ("lab/toy", {"weight_name": "toy.safetensors"}),
        ("lab/toy", {"weight_name": "other.safetensors", "subfolder": "more", "revision": "v1"}),
        (repository, {"weight_name": "toy.safetensors"}), (str(repository / "more"), {}),
    ):  # fmt: skip
        pipe = FollowYourPosePipeline.from_pretrained(video_model)
        pipe.load_lora_weights(source, adapter_name="toy", **given)
        assert pipe.get_list_adapters() == {"unet": ["toy"]}
    shutil.copy(repository / "toy.safetensors", repository / "train.safetensors")
    hub.add("lab/toy", repository, "v2")
    with pytest.raises(ValueError, match="lora: lab/toy@v2: .*none of the files of a model, among .*toy.safetensors"):
        pipe.load_lora_weights("lab/toy@v2")
    with pytest.raises(ValueError, match=f"lora: {tmp_path}/none: no such file or folder"):
        pipe.load_lora_weights(tmp_path / "none")


def test_one_file_with_a_name_of_its_own_is_needed() -> None:
    assert needed_files(["toy.safetensors", "README.md", "toy.pt", "images/a.png"]) == ["toy.safetensors"]
    assert needed_files(["a.pt", "b.pt"]) == []
    assert needed_files(["unet/model.bin", "toy.safetensors"]) == ["unet/model.bin"]


# ---- textual inversions ----------------------------------------------------------------------------------------------


def embedding(folder: Path, form: str, vectors: Tensor) -> Path:
    """Write an embedding in one of the forms, with the word <hero> where it has one."""
    content: dict[str, Any] = {
        "diffusers": {"<hero>": vectors},
        "of one vector": {"<hero>": vectors[0]},
        "a1111": {
            "string_to_token": {"*": torch.tensor(265)},
            "string_to_param": {"*": vectors.clone().requires_grad_()},
            "name": "<hero>", "step": 500, "sd_checkpoint": "7460a6fa", "sd_checkpoint_name": None,
        },
        "a1111, early": {"string_to_param": nn.ParameterDict({"*": nn.Parameter(vectors)}), "name": "<hero>"},
        "a1111, safetensors": {"emb_params": vectors},
    }[form]  # fmt: skip
    file = folder / ("<hero>.safetensors" if form == "a1111, safetensors" else "hero.pt")
    save_file(content, file) if file.suffix == ".safetensors" else torch.save(content, file)
    return file


@pytest.mark.parametrize("form", ["diffusers", "of one vector", "a1111", "a1111, early", "a1111, safetensors"])
def test_an_embedding_of_any_form_adds_its_word(video_model: Path, tmp_path: Path, form: str, silent: None) -> None:
    vectors = torch.randn(1 if form == "of one vector" else 3, tiny.TEXT_WIDTH)
    file = embedding(tmp_path, form, vectors)
    pipe = FollowYourPosePipeline.from_pretrained(video_model)
    before = pipe.encode_prompt("a <hero>")[0]
    pipe.load_textual_inversion(file)
    ids = pipe.tokenizer(pipe.maybe_convert_prompt("a <hero>", pipe.tokenizer)).input_ids[2:-1]
    torch.testing.assert_close(pipe.text_encoder.get_input_embeddings().weight[ids], vectors)
    assert not torch.equal(pipe.encode_prompt("a <hero>")[0], before)
    pipe.load_textual_inversion([file, {"<Other>": vectors}], token=["<again>", None])
    for word in ("<again>", "<Other>"):
        ids = pipe.tokenizer(pipe.maybe_convert_prompt(f"a {word} cat", pipe.tokenizer)).input_ids
        torch.testing.assert_close(pipe.text_encoder.get_input_embeddings().weight[ids[2 : 2 + len(vectors)]], vectors)


@pytest.mark.parametrize(
    ("content", "word", "message"),
    [
        ({"<x>": torch.zeros(1, 768)}, None, "got vectors of width 768, expected 24: an embedding for another base"),
        (
            {"<x>": torch.zeros(1, 24)},
            "cat",
            "the word 'cat' is in the tokenizer's vocabulary already",
        ),
        (
            {"<x>": torch.zeros(1, 24)},
            "Dog",
            "the word 'Dog' is in the tokenizer's vocabulary already",
        ),
        ({"<x>": torch.zeros(1, 24)}, "two words", "got the word 'two words', expected one without spaces"),
        ({"<x>": torch.full((1, 24), torch.nan)}, None, "got NaN or infinity"),
        ({"clip_g": torch.zeros(1, 1280), "clip_l": torch.zeros(1, 768)}, None, "got clip_g, clip_l, expected the one"),
        ({"conv.weight": torch.zeros(1, 2, 3)}, None, "got conv.weight, expected the one embedding of a word"),
        (torch.zeros(1, 24), None, "got a Tensor, expected the embedding of a word"),
        (b"no pickle", None, "cannot be read as an embedding"),
    ],
)
def test_an_embedding_that_does_not_fit_is_named(
    video_model: Path, tmp_path: Path, content: Any, word: str | None, message: str
) -> None:
    file = tmp_path / "hero.pt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    pipe = FollowYourPosePipeline.from_pretrained(video_model)
    size = len(pipe.tokenizer)
    with pytest.raises(ValueError, match=f"hero.pt: {message}") as error:
        pipe.load_textual_inversion(file, token=word)
    assert "\n" not in str(error.value) and len(pipe.tokenizer) == size


def test_two_embeddings_of_one_word_are_refused(video_model: Path) -> None:
    pipe = FollowYourPosePipeline.from_pretrained(video_model)
    with pytest.raises(ValueError, match="the given vectors: the word '<X>' is in the tokenizer's vocabulary already"):
        pipe.load_textual_inversion([torch.zeros(1, 24), torch.ones(1, 24)], token=["<x>", "<X>"])
    with pytest.raises(ValueError, match="token: got 1 for 2 textual inversions, expected one each"):
        pipe.load_textual_inversion([torch.zeros(1, 24), torch.ones(1, 24)], token=["<x>"])


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ("FILE", [None]),
        ({"path": "FILE", "word": "<x>"}, ["<x>"]),
        (["FILE", {"path": "FILE", "word": "<x>"}], [None, "<x>"]),
        (None, []),
    ],
)
def test_embeddings_of_a_config_are_files_and_words(tmp_path: Path, entries: Any, expected: list[str | None]) -> None:
    file = tmp_path / "hero.pt"
    file.touch()
    given = json.loads(json.dumps(entries).replace("FILE", str(file)))
    config = build_config(GenerateConfig, {"prompt": "a cat", "embeddings": given})
    assert open_embeddings(config.embeddings) == [EmbeddingEntry(str(file), word) for word in expected]
    assert open_embeddings(EmbeddingEntry(str(file))) == [EmbeddingEntry(str(file))]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("none.pt", r"embeddings\[0\]: none.pt: no such file or folder"),
        ([{"word": "<x>"}], r"embeddings\[0\]: no value for path"),
        ([{"path": __file__, "weight": 1}], r"embeddings\[0\]: unknown key weight; the nearest is word"),
        ([{"path": __file__, "word": " "}], "embeddings word: got ' ', expected text"),
    ],
)
def test_entries_that_are_no_embedding_are_named(entries: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_embeddings(entries)


# ---- another VAE -----------------------------------------------------------------------------------------------------


@pytest.fixture
def brighter(image_model: Path, tmp_path: Path) -> dict[str, Path]:
    """A VAE with another decoder, as a folder, inside a model's folder, and as a file of the original names."""
    vae = AutoencoderKL.from_pretrained(image_model / "vae")
    with torch.no_grad():
        vae.decoder.conv_out.bias += 0.1
    vae.save_pretrained(tmp_path / "alone")
    vae.save_pretrained(tmp_path / "model" / "vae")
    weights = {
        tiny._original_vae_name(name): tiny._original_vae_tensor(name, tensor).contiguous()
        for name, tensor in vae.state_dict().items()
    }
    save_file(weights, tmp_path / "vae.safetensors")
    return {"folder": tmp_path / "alone", "model": tmp_path / "model", "file": tmp_path / "vae.safetensors"}


@pytest.mark.parametrize("form", ["folder", "model", "file"])
def test_a_vae_of_any_form_takes_the_models_place(
    video_model: Path, brighter: dict[str, Path], form: str, silent: None
) -> None:
    settings = {"model": str(video_model), "prompt": "a cat", "device": "cpu"}
    plain, changed = (
        load_pipeline(build_config(GenerateConfig, settings | more)) for more in ({}, {"vae": str(brighter[form])})
    )
    latents = torch.randn(1, 4, 1, 16, 16)
    differences = changed.decode(latents, output_type="np") - plain.decode(latents, output_type="np")
    inside = differences[(differences > 0) & (differences < 0.0499)]
    assert np.abs(differences.max() - 0.05) < 1e-5 and (differences >= 0).all() and len(inside) < differences.size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scaling_factor": 0.13}, "scaling_factor: got 0.13, expected 0.18215: a VAE for another base"),
        ({"latent_channels": 16}, "latent_channels: got 16, expected 4: a VAE for another base"),
    ],
)
def test_a_vae_of_other_latents_is_refused(
    video_model: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    AutoencoderKL.from_config(dict(tiny.vae().config) | change).save_pretrained(tmp_path / "other")
    pipe = FollowYourPosePipeline.from_pretrained(video_model)
    with pytest.raises(ValueError, match=f"other: {message}"):
        pipe.load_vae(tmp_path / "other")
    tiny.vae((8, 8, 8)).save_pretrained(tmp_path / "coarse")
    with pytest.raises(ValueError, match="coarse: got a factor of 4 from latents to pixels, expected 2"):
        pipe.load_vae(tmp_path / "coarse")


# ---- the command line ------------------------------------------------------------------------------------------------


def test_additions_come_from_the_command_line(
    video_model: Path, brighter: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    file = embedding(tmp_path, "a1111", torch.randn(2, tiny.TEXT_WIDTH))
    common = ["generate", "prompt=a <hero>", f"model={video_model}", "device=cpu", "num_frames=2"]
    common.append("num_inference_steps=1")
    assert main([*common, f"embeddings={file}", f"vae={brighter['file']}", f"output={tmp_path / 'out'}"]) == 0
    assert "hero.pt: in prompts it is <hero>" in capfd.readouterr().out
    assert main([*common, f"embeddings={{path: {file}, word: cat}}", f"output={tmp_path / 'none'}"]) == 2
    assert "hero.pt: the word 'cat' is in the tokenizer's vocabulary already" in capfd.readouterr().err
    assert main([*common, "vae=none", f"output={tmp_path / 'none'}"]) == 2
    assert "error: vae: none: no such file or folder" in capfd.readouterr().err
    assert not (tmp_path / "none").exists()
