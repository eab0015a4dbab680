"""Chains of runs and their export: each stage trains its own part, and the whole loads as a pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from followyourpose import FollowYourPosePipeline, VideoUNet
from followyourpose.training.components import export
from followyourpose.training.loop import train
from followyourpose.training.run_dir import trained_weights
from tests.runs import BASE, RELEASED_NAMES, SIZE, STAGE1, STAGE2, all_weights, interrupt, settings


def test_a_run_of_an_image_unet_exports_as_stable_diffusion(world: Path, tmp_path: Path) -> None:
    init = f"init={world / 'image-model'}"
    run = train(settings(world, tmp_path / "run", BASE, init, "optim.ema_decay=0.5"))
    pipe = StableDiffusionPipeline.from_pretrained(export(run, tmp_path / "out"), torch_dtype=torch.float16)
    average = load_file(run / "weights_ema.safetensors")  # it is what an export takes, where there is one
    assert not torch.equal(
        average["unet.conv_in.weight"], load_file(run / "weights.safetensors")["unet.conv_in.weight"]
    )
    assert {f"unet.{name}" for name in pipe.unet.state_dict()} == average.keys()
    for name, tensor in pipe.unet.state_dict().items():
        assert torch.equal(tensor, average[f"unet.{name}"].half())


def test_an_image_model_that_trains_on_images_goes_on_as_one(world: Path, tmp_path: Path) -> None:
    """It is not inflated: layers over time, trained on single frames, would be no identities any more."""
    init = f"init={world / 'image-model'}"
    run = train(settings(world, tmp_path / "run", BASE, init, "scratch=[]", "steps=1"))
    again = train(settings(world, tmp_path / "again", BASE, f"init={run}", "scratch=[]", "steps=1"))
    pipe = StableDiffusionPipeline.from_pretrained(export(again, tmp_path / "out"), torch_dtype=torch.float16)
    weights = trained_weights(again)
    assert {f"unet.{name}" for name in pipe.unet.state_dict()} == weights.keys()
    assert all(torch.equal(tensor, weights[f"unet.{name}"].half()) for name, tensor in pipe.unet.state_dict().items())
    first = trained_weights(run)
    assert max((weights[name] - first[name]).abs().max() for name in weights) < 0.01  # it went on from there


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_stage_exports_as_our_pipeline(tmp_path: Path, stage: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(stage)
    pipe = FollowYourPosePipeline.from_pretrained(export(run, tmp_path / "out", torch.float32))
    for name, tensor in trained_weights(run).items():
        component, _, parameter = name.partition(".")
        assert torch.equal(getattr(pipe, component).state_dict()[parameter], tensor)
    pipe.set_progress_bar_config(disable=True)
    skeleton = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    videos = pipe("a cat", skeleton, height=SIZE, width=SIZE, num_inference_steps=1).videos
    assert videos.shape == (1, 2, SIZE, SIZE, 3)


def test_a_chain_of_runs_from_an_image_unet_exports_what_each_trained(world: Path, tmp_path: Path) -> None:
    """Base, stage 1, stage 2, as the embedded default is made; each run stores only its own part."""
    runs, init = {}, world / "image-model"
    for name, stage in (("base", BASE), ("stage1", STAGE1), ("stage2", STAGE2)):
        runs[name] = init = train(settings(world, tmp_path / name, stage, f"init={init}"))
    expected = {}
    for run in runs.values():  # a later run's weights take the place of an earlier one's
        expected |= trained_weights(run)
    weights = all_weights(export(runs["stage2"], tmp_path / "out", torch.float32))
    assert expected.keys() <= weights.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    image_model = export(runs["base"], tmp_path / "image-model")  # no path of this machine is in either
    configs = [file.read_text() for out in (tmp_path / "out", image_model) for file in out.rglob("*.json")]
    assert len(configs) > 8 and not any(str(tmp_path.parent) in content for content in configs)


def test_an_export_overwrites_nothing(tmp_path: Path, stage1: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ValueError, match="out: is there already"):
        export(stage1, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_unfinished_run_is_neither_exported_nor_built_upon(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    interrupt(monkeypatch, step=1)
    with pytest.raises(KeyboardInterrupt):
        train(settings(world, run, STAGE1, "save_every=1"))
    with pytest.raises(ValueError, match="run: the run has not finished"):
        export(run, tmp_path / "out")
    with pytest.raises(ValueError, match="run: the run has not finished"):
        train(settings(world, tmp_path / "next", STAGE2, f"init={run}"))
    assert not (tmp_path / "out").exists() and not (tmp_path / "next").exists()


def test_an_ablations_network_stays_so_in_later_runs(world: Path, tmp_path: Path) -> None:
    network = ("network.pose_fusion=concat", "network.clip_norm=false", r"trainable=[^pose_encoder\., pose_concat]")
    first = train(settings(world, tmp_path / "first", STAGE1, f"init={world / 'image-model'}", *network))
    second = train(settings(world, tmp_path / "second", STAGE2, f"init={first}"))
    pipe = FollowYourPosePipeline.from_pretrained(export(second, tmp_path / "out", torch.float32))
    assert pipe.unet.config.pose_fusion == "concat" and not pipe.unet.config.clip_norm
    weights = pipe.unet.state_dict()
    trained = {name: tensor for name, tensor in trained_weights(first).items() if "pose_concat" in name}
    assert trained and all(torch.equal(weights[name.removeprefix("unet.")], tensor) for name, tensor in trained.items())


def test_a_folder_without_a_run_is_not_exported(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="video-model: is no run"):
        export(world / "video-model", tmp_path / "out")


def test_stage_1_changes_only_the_pose_encoder(world: Path, tmp_path: Path, stage1: Path) -> None:
    trained = load_file(stage1 / "weights.safetensors")
    assert trained and all(name.startswith("pose_encoder.") for name in trained)
    before = all_weights(world / "video-model")
    after = all_weights(export(stage1, tmp_path / "out", torch.float32))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and changed <= trained.keys()
    assert all(torch.equal(after[name], trained[name]) for name in trained)


def test_stage_2_trains_the_released_names_and_nothing_else(
    world: Path, tmp_path: Path, stage1: Path, stage2: Path
) -> None:
    names = VideoUNet.from_pretrained(world / "video-model" / "unet").state_dict()
    expected = {f"unet.{name}" for name in names if any(f".{part}." in name for part in RELEASED_NAMES)}
    trained = load_file(stage2 / "weights.safetensors")
    assert trained.keys() == expected
    before = all_weights(export(stage1, tmp_path / "before", torch.float32))
    after = all_weights(export(stage2, tmp_path / "after", torch.float32))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= expected
    for part in RELEASED_NAMES:
        assert any(f".{part}." in name for name in changed)
    assert not any(name.startswith("pose_encoder.") for name in changed)


def test_stage_1_on_the_image_model_inflates_it_unchanged(world: Path, tmp_path: Path) -> None:
    init = f"init={world / 'image-model'}"
    out = export(train(settings(world, tmp_path / "run", STAGE1, init)), tmp_path / "out", torch.float32)
    before, after = all_weights(world / "image-model"), all_weights(out)
    assert all(torch.equal(after[name], before[name]) for name in before)
