"""Training: a stage is a file, only what is named learns, and the same command goes on as if nothing had happened."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import PartialState
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor, nn

from followyourpose import FollowYourPosePipeline, VideoUNet
from followyourpose.config import TrainConfig, build_config, load_config, save_config
from followyourpose.data.batch import Batch, to_pixels
from followyourpose.data.image_pose import ImagePoseShards
from followyourpose.data.video_clips import VideoClips
from followyourpose.puppets.dataset import write_dataset
from followyourpose.training import loop
from followyourpose.training.cache import CachedMoments
from followyourpose.training.components import export, load_component, load_components, load_scheduler
from followyourpose.training.loop import build_objective, train
from followyourpose.training.objectives import Denoise
from followyourpose.training.run_dir import RunDir, trained_weights
from followyourpose.training.trainable import select_trainable
from tests.tiny import DDIM, TEXT_WIDTH, write_image_model

REPOSITORY = Path(__file__).resolve().parents[1]
SIZE = 16  # pixels; latents have half of it
RELEASED_NAMES = ("attn1.to_q", "attn2.to_q", "attn_temp", "conv_temporal")  # what the authors' stage 2 trains

STAGE1 = {"trainable": [r"^pose_encoder\."], "data": {"skeleton": True}, "optim": {"learning_rate": 1e-2}}
STAGE2 = {
    "trainable": [rf"^unet\..*{name.replace('.', '[.]')}" for name in RELEASED_NAMES],
    "data": {"kind": "clips", "num_frames": 3, "stride": [1, 2]},
    "optim": {"learning_rate": 1e-2},
}
BASE = {"scratch": ["unet"], "trainable": [r"^unet\."], "prompt_dropout": 0.5}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `image-model`, `video-model` (the same, inflated), `data/images` and `data/clips`."""
    folder = tmp_path_factory.mktemp("world")
    write_image_model(folder / "image-model")
    torch.manual_seed(0)
    FollowYourPosePipeline.from_image_model(folder / "image-model").save_pretrained(folder / "video-model")
    write_dataset(folder / "data", images=7, clips=3, size=SIZE, clip_frames=6)
    return folder


def settings(world: Path, output: Path, stage: dict, *overrides: str) -> TrainConfig:
    """A small run of `stage`; an override is key=value, as on the command line."""
    content = {"init": str(world / "video-model"), "output": str(output), "steps": 2, "log_every": 1} | stage
    kind = stage.get("data", {}).get("kind", "images")
    content["data"] = {"path": str(world / "data" / kind), "height": SIZE, "width": SIZE} | stage.get("data", {})
    content["optim"] = {"batch_size": 2} | stage.get("optim", {})
    return build_config(TrainConfig, content, overrides)


@pytest.fixture(scope="module")
def stage1(world: Path) -> Path:
    """A finished run of stage 1."""
    return train(settings(world, world / "runs" / "stage1", STAGE1))


@pytest.fixture(scope="module")
def stage2(world: Path, stage1: Path) -> Path:
    """A finished run of stage 2, on top of `stage1`."""
    return train(settings(world, world / "runs" / "stage2", STAGE2, f"init={stage1}"))


def all_weights(folder: Path) -> dict[str, Tensor]:
    """Every weight of a pipeline folder as "component.parameter"."""
    files = [file for file in sorted(folder.glob("*/*.safetensors"))]
    return {f"{file.parent.name}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Lets a run die in the middle of a step, once."""
    optimize = loop._optimize

    def dies(*arguments) -> float:
        if arguments[-1] == step:
            monkeypatch.setattr(loop, "_optimize", optimize)
            raise KeyboardInterrupt
        return optimize(*arguments)

    monkeypatch.setattr(loop, "_optimize", dies)


def assert_same_run(first: Path, second: Path) -> None:
    """Bit for bit the same weights, moving average and optimiser state."""
    for name in ("weights.safetensors", "weights_ema.safetensors"):
        assert (first / name).exists() == (second / name).exists()
        if (first / name).exists():
            assert (first / name).read_bytes() == (second / name).read_bytes()
    (one,), (other,) = first.glob("checkpoint-*/state.pt"), second.glob("checkpoint-*/state.pt")
    one, other = torch.load(one, weights_only=True), torch.load(other, weights_only=True)
    assert one["step"] == other["step"] and one["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
    for state, twin in zip(*(run["optimizer"]["state"].values() for run in (one, other)), strict=True):
        assert all(torch.equal(state[name], twin[name]) for name in ("step", "exp_avg", "exp_avg_sq"))


# ---- patterns -> parameters ------------------------------------------------------------------------------------------


def network() -> nn.ModuleDict:
    return nn.ModuleDict({"unet": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "vae": nn.Linear(2, 2)})


def test_only_what_a_pattern_matches_is_trainable():
    module = network()
    chosen = select_trainable(module, [r"^unet\.1\.", r"vae\.bias"])
    assert set(chosen) == {"unet.1.weight", "unet.1.bias", "vae.bias"}
    assert {name for name, parameter in module.named_parameters() if parameter.requires_grad} == set(chosen)
    assert all(chosen[name] is parameter for name, parameter in module.named_parameters() if name in chosen)


def test_an_unmatched_pattern_is_an_error():
    with pytest.raises(
        ValueError, match=r"trainable: '\^unett' matches none of the 6 parameters, such as unet\.0\.bias"
    ):
        select_trainable(network(), [r"^unet\.", "^unett"])


def test_a_pattern_that_is_no_regular_expression_is_an_error():
    with pytest.raises(ValueError, match=r"trainable: 'unet\(' is not a regular expression"):
        select_trainable(network(), ["unet("])


# ---- the same command resumes ----------------------------------------------------------------------------------------

RICH = [
    "optim.ema_decay=0.9", "optim.gradient_accumulation_steps=2", "optim.schedule=cosine", "optim.warmup_steps=2",
    "prompt_dropout=0.3", "noise_bias=0.5",
]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [(STAGE1, []), (STAGE2, RICH), (STAGE2, ["data.cache=true", "data.workers=1"]), (BASE, RICH)],
    ids=["stage1", "stage2-rich", "stage2-cached", "base-rich"],
)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: dict, overrides: list[str]
) -> None:
    overrides = [*overrides, "steps=4", "save_every=2"]
    unbroken = train(settings(world, tmp_path / "unbroken", stage, *overrides))
    interrupt(monkeypatch, step=3)
    again = settings(world, tmp_path / "broken", stage, *overrides)
    with pytest.raises(KeyboardInterrupt):
        train(again)
    assert [p.name for p in RunDir(again).checkpoints()] == ["checkpoint-0000002"]
    assert_same_run(train(again), unbroken)


@pytest.mark.parametrize("overrides", [[], ["optim.ema_decay=0.9", "optim.gradient_accumulation_steps=2"]])
def test_a_run_made_longer_equals_a_long_one(world: Path, tmp_path: Path, overrides: list[str]) -> None:
    unbroken = train(settings(world, tmp_path / "unbroken", STAGE1, *overrides, "steps=4"))
    train(settings(world, tmp_path / "longer", STAGE1, *overrides, "steps=2"))
    assert_same_run(train(settings(world, tmp_path / "longer", STAGE1, *overrides, "steps=4")), unbroken)


def test_the_command_of_a_finished_run_changes_nothing(world: Path, stage1: Path) -> None:
    before = contents(stage1)
    assert train(settings(world, stage1, STAGE1)) == stage1
    assert contents(stage1) == before


def test_a_run_made_longer_follows_the_longer_schedule(world: Path, tmp_path: Path) -> None:
    """A linear schedule ends at 0; going on from there must not be with that rate."""
    weights = []
    for steps in (2, 3):
        run = train(settings(world, tmp_path / "run", STAGE1, "optim.schedule=linear", f"steps={steps}"))
        weights.append(load_file(run / "weights.safetensors"))
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_killed_just_before_its_end_is_finished_by_its_command(world: Path, tmp_path: Path, stage1: Path) -> None:
    shutil.copytree(stage1, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").unlink()
    assert_same_run(train(settings(world, tmp_path / "run", STAGE1)), stage1)


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 1), ("optim.learning_rate", 0.1), ("data.limit", 3), ("trainable", "[conv_out]")]
)
def test_another_runs_folder_is_refused_by_key(world: Path, stage1: Path, key: str, value: object) -> None:
    before = contents(stage1)
    with pytest.raises(ValueError, match=f"holds a run with {key}: "):
        train(settings(world, stage1, STAGE1, f"{key}={value}"))
    assert contents(stage1) == before


def test_a_folder_of_other_files_is_refused(world: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        train(settings(world, tmp_path, STAGE1))
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_a_half_written_checkpoint_is_ignored(world: Path, tmp_path: Path, stage1: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(stage1, run)
    for step in (3, 4):
        (run / f"checkpoint-000000{step}.partial").mkdir()
        (run / f"checkpoint-000000{step}.partial" / "weights.safetensors").write_bytes(b"half")
    config = settings(world, run, STAGE1, "steps=4")
    assert [p.name for p in RunDir(config).checkpoints()] == ["checkpoint-0000002"]
    assert_same_run(train(config), train(settings(world, tmp_path / "unbroken", STAGE1, "steps=4")))


def test_only_the_newest_checkpoint_is_kept(world: Path, tmp_path: Path) -> None:
    run = train(settings(world, tmp_path / "run", STAGE1, "steps=3", "save_every=1"))
    assert [p.name for p in run.glob("checkpoint-*")] == ["checkpoint-0000003"]
    assert (run / "weights.safetensors").read_bytes() == (run / "checkpoint-0000003/weights.safetensors").read_bytes()


def test_a_run_writes_its_settings_and_a_line_per_interval(world: Path, tmp_path: Path) -> None:
    config = settings(world, tmp_path / "run", STAGE1, "steps=4", "log_every=2", "optim.warmup_steps=4")
    rows = [json.loads(line) for line in (train(config) / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4] and all(0 < row["loss"] < 10 for row in rows)
    np.testing.assert_allclose([row["lr"] for row in rows], [0.5e-2, 1e-2])  # a constant rate warms up too
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == asdict(config)


def test_the_loss_in_the_log_is_a_mean_after_a_resume_too(world: Path, tmp_path: Path) -> None:
    train(settings(world, tmp_path / "each", STAGE1, "steps=4"))
    each = [json.loads(line)["loss"] for line in (tmp_path / "each" / "log.jsonl").read_text().splitlines()]
    train(settings(world, tmp_path / "run", STAGE1, "steps=1", "log_every=4"))
    train(settings(world, tmp_path / "run", STAGE1, "steps=4", "log_every=4"))
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert row["loss"] == pytest.approx(np.mean(each[1:]))


# ---- a run that cannot start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("objective=denoize", "objective: got 'denoize', expected one of denoise, autoencode"),
        ("data.kind=image", "data.kind: got 'image', expected one of images, clips"),
        ("optim.schedule=cosin", "optim.schedule: got 'cosin', expected one of constant"),
        ("mixed_precision=fp8", "mixed_precision: got 'fp8', expected one of no, fp16, bf16"),
        ("steps=0", "steps: got 0, expected at least 1"),
        ("optim.batch_size=0", "optim.batch_size: got 0, expected at least 1"),
        ("data.stride=[2,1]", r"data.stride: got \[2, 1\], expected"),
        ("scratch=[unte]", "scratch: got 'unte', expected a network that this run uses: vae, text_encoder, unet"),
        ("trainable=[attn3]", "trainable: 'attn3' matches none"),
        ("init=nowhere", "nowhere: neither a run"),
        ("data.path=nowhere", "nowhere: holds no .tar shard"),
        ("data.num_frames=2", "has 1 frames, expected at least 2"),
        ("data.height=32 data.cache=true", r"is \(16, 16\), expected \(32, 16\) pixels"),
        ("data.num_frames=2 data.cache=true", "has 1 frames, expected at least 2"),
    ],
)
def test_what_cannot_start_says_why_and_leaves_no_folder(
    world: Path, tmp_path: Path, override: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        train(settings(world, tmp_path / "run", STAGE1, *override.split()))
    assert not (tmp_path / "run").exists()


# ---- the stages ------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("folder", ["puppet", "sd14"])
def test_the_shipped_stages_train_what_the_paper_says(world: Path, folder: str) -> None:
    parts = load_components(world / "video-model", ("vae", "text_encoder", "unet", "pose_encoder"))
    patterns = {
        stage: yaml.safe_load((REPOSITORY / "configs" / folder / f"{stage}.yaml").read_text())["trainable"]
        for stage in ("stage1", "stage2")
    }
    pose = {f"pose_encoder.{name}" for name, _ in parts["pose_encoder"].named_parameters()}
    assert select_trainable(parts, patterns["stage1"]).keys() == pose
    unet = {f"unet.{name}" for name, _ in parts["unet"].named_parameters()}
    released = {name for name in unet if any(f".{part}." in name for part in RELEASED_NAMES)}
    assert select_trainable(parts, patterns["stage2"]).keys() == released


def test_stage_1_on_the_image_model_inflates_it_unchanged(world: Path, tmp_path: Path) -> None:
    init = f"init={world / 'image-model'}"
    out = export(train(settings(world, tmp_path / "run", STAGE1, init)), tmp_path / "out", torch.float32)
    before, after = all_weights(world / "image-model"), all_weights(out)
    assert all(torch.equal(after[name], before[name]) for name in before)


# ---- export ----------------------------------------------------------------------------------------------------------


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


def test_a_folder_without_a_run_is_not_exported(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="video-model: no run is there"):
        export(world / "video-model", tmp_path / "out")


# ---- the objective ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [ImagePoseShards, VideoClips])
def test_cached_latents_equal_those_of_the_pixels(world: Path, source: type) -> None:
    kind = "images" if source is ImagePoseShards else "clips"
    vae = load_component(world / "video-model", "vae")
    objective = Denoise(nn.ModuleDict({"vae": vae}), None, DDIMScheduler(**DDIM), None)
    data = source(world / "data" / kind)
    cached = CachedMoments(data, objective.moments, PartialState(), (SIZE, SIZE), frames=4)  # several groups of clips
    assert len(cached) == len(data)
    for index in range(len(data)):
        frames = [0] if kind == "images" else [1, 4]
        assert cached.num_frames(index) == data.num_frames(index)
        assert cached.label(index, frames)[0] == data.label(index, frames)[0]
        exact = objective.moments(to_pixels(data.read(index, frames))[None])[0]
        torch.testing.assert_close(cached.read(index, frames).float(), exact, rtol=1e-3, atol=1e-4)


def test_cached_and_uncached_runs_agree_up_to_half_precision(world: Path, tmp_path: Path) -> None:
    runs = [train(settings(world, tmp_path / str(cache), STAGE1, f"data.cache={cache}")) for cache in (True, False)]
    losses = [json.loads((run / "log.jsonl").read_text().splitlines()[0])["loss"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def loss_of(objective: Denoise, captions: list[str]) -> float:
    """The loss of one fixed batch, with fixed random numbers, under these captions."""
    pixels = torch.rand(len(captions), 3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return objective(Batch(captions, pixels), torch.Generator().manual_seed(1)).item()


def test_dropped_captions_do_not_matter_and_kept_ones_do(world: Path, tmp_path: Path) -> None:
    one, other = ["a cat", "a dog"], ["dog", "can do"]
    for dropout, matter in ((0.0, True), (1.0, False)):
        objective = build_objective(settings(world, tmp_path / "run", STAGE2, f"prompt_dropout={dropout}"))
        assert (loss_of(objective, one) != loss_of(objective, other)) == matter
    assert loss_of(objective, one) == loss_of(objective, ["", ""])


def test_a_share_of_the_clips_has_one_noise_for_all_frames(world: Path, tmp_path: Path) -> None:
    def shared(share: float) -> float:
        objective = build_objective(settings(world, tmp_path / "run", STAGE2, f"shared_noise={share}"))
        noise = objective._noise((400, 1, 3, 2, 2), torch.Generator().manual_seed(0), torch.device("cpu"))
        assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
        return (noise[:, :, 0] == noise[:, :, 2]).flatten(1).all(1).float().mean().item()

    assert shared(0.0) == 0 and shared(1.0) == 1 and 0.4 < shared(0.5) < 0.6


def test_errors_count_more_where_a_person_is(world: Path, tmp_path: Path) -> None:
    objective = build_objective(settings(world, tmp_path / "run", STAGE1, "person_weight=4"))
    people = torch.zeros(1, 2, 17, 3)
    people[:, 0, :, :2], people[:, 0, :, 2] = torch.tensor([0.0, 0.0]), 1  # in the corner; a second one is not there
    weight = objective._importance(Batch(["a cat"], people=people), (8, 8))
    assert weight.shape == (1, 1, 1, 8, 8) and weight.mean() == pytest.approx(1)
    assert weight[..., 0, 0] / weight[..., 7, 7] == pytest.approx(4)
    with pytest.raises(ValueError, match="person_weight: got 2.0, expected 1: the data has no keypoints"):
        train(settings(world, tmp_path / "run", STAGE2, "person_weight=2"))
    assert not (tmp_path / "run").exists()


class Oracle(nn.Module):
    """Knows the clean latents, and predicts from the noisy ones what a scheduler config asks for."""

    def __init__(self, scheduler: DDIMScheduler, clean: Tensor, kind: str) -> None:
        super().__init__()
        self.alphas, self.clean, self.kind = scheduler.alphas_cumprod, clean, kind

    def forward(self, noisy: Tensor, timestep: Tensor, text: Tensor, features: None) -> Tensor:
        assert text.shape[2] == TEXT_WIDTH and features is None
        alpha = self.alphas[timestep].reshape(-1, 1, 1, 1, 1)
        noise = (noisy - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        return noise if self.kind == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * self.clean


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_target_is_what_the_schedulers_config_says(world: Path, tmp_path: Path, kind: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(world / "video-model", model)
    DDIMScheduler(**DDIM, prediction_type=kind).save_pretrained(model / "scheduler")
    assert load_scheduler(model).config.prediction_type == kind
    objective = build_objective(settings(world, tmp_path / "run", STAGE2, f"init={model}"))
    mean = torch.randn(4, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    batch = Batch(["a cat"] * 4, moments=torch.cat([mean, torch.full_like(mean, -30)], 1))  # no variance
    clean = mean * objective.parts["vae"].config.scaling_factor
    for predicted in ("epsilon", "v_prediction"):
        objective.parts["unet"] = Oracle(objective.scheduler, clean, predicted)
        loss = objective(batch, torch.Generator().manual_seed(0)).item()
        assert (loss < 1e-6) == (predicted == kind) and (loss > 1e-2) == (predicted != kind)


# ---- several processes -----------------------------------------------------------------------------------------------


def test_two_processes_write_one_run(world: Path, tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "run.yaml"
    save_config(settings(world, run, STAGE1, "data.cache=true", "optim.ema_decay=0.9"), file)
    # `accelerate launch --cpu` starts a single process whatever it is told; torchrun starts what accelerate then joins.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*launch, str(REPOSITORY / "scripts" / "train.py"), str(file)],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoint-0000002", "config.yaml", "log.jsonl", "weights.safetensors", "weights_ema.safetensors",
    ]  # fmt: skip
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    batch = load_config(TrainConfig, file).optim.batch_size
    assert [(row["step"], row["clips"]) for row in rows] == [(1, 2 * batch), (2, 4 * batch)]
    trained = load_file(run / "weights.safetensors")
    assert trained and all(
        name.startswith("pose_encoder.") and tensor.isfinite().all() for name, tensor in trained.items()
    )
