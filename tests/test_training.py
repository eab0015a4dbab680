"""Training: a stage is a file, only named parameters learn, and the same command goes on as if it had not stopped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from followyourpose.cli.main import main
from followyourpose.config import REPOSITORY, TrainConfig, load_config, locate, save_config
from followyourpose.data.batch import Batch
from followyourpose.data.video_io import VideoError, read_frames
from followyourpose.training import loop, validation
from followyourpose.training.checks import SHAPES, shapes_of
from followyourpose.training.components import load_components
from followyourpose.training.loop import build_objective, train
from followyourpose.training.objectives import Denoise
from followyourpose.training.plan import memory
from followyourpose.training.run_dir import RunDir, trained_weights
from followyourpose.training.trainable import select_trainable
from tests.runs import (
    BASE,
    LORA,
    RELEASED_NAMES,
    SIZE,
    STAGE1,
    STAGE2,
    assert_same_run,
    interrupt,
    log_of,
    settings,
)


@pytest.fixture
def any_precision() -> Iterator[None]:
    """Precision of a test's own: accelerate has one per process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


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
    "prompt_dropout=0.3", "prefix_shuffle=0.3", "noise_bias=0.5",
]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [
        (STAGE1, []), (STAGE2, RICH), (STAGE2, ["data.cache=CACHE", "data.workers=1"]), (BASE, RICH), (LORA, RICH),
        (STAGE1, ["mixed_precision=bf16"]),
    ],
    ids=["stage1", "stage2-rich", "stage2-cached", "base-rich", "lora-rich", "bf16"],
)  # fmt: skip
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_precision: None, stage: dict,
    overrides: list[str],
) -> None:  # fmt: skip
    overrides = [each.replace("CACHE", str(tmp_path / "cache")) for each in (*overrides, "steps=3", "save_every=2")]
    unbroken = train(settings(world, tmp_path / "unbroken", stage, *overrides))
    interrupt(monkeypatch, step=2)
    again = settings(world, tmp_path / "broken", stage, *overrides)
    with pytest.raises(KeyboardInterrupt):
        train(again)
    assert [p.name for p in RunDir(again).checkpoints()] == ["checkpoint-0000002"]
    assert_same_run(train(again), unbroken)


def test_a_run_made_longer_equals_a_long_one(world: Path, tmp_path: Path) -> None:
    overrides = ["optim.ema_decay=0.9", "optim.gradient_accumulation_steps=2"]
    unbroken = train(settings(world, tmp_path / "unbroken", STAGE1, *overrides, "steps=2"))
    train(settings(world, tmp_path / "longer", STAGE1, *overrides, "steps=1"))
    assert_same_run(train(settings(world, tmp_path / "longer", STAGE1, *overrides, "steps=2")), unbroken)


def test_bf16_computes_in_half_and_keeps_the_weights_whole(
    world: Path, tmp_path: Path, stage1: Path, any_precision: None
) -> None:
    half = trained_weights(train(settings(world, tmp_path / "run", STAGE1, "mixed_precision=bf16")))
    whole = trained_weights(stage1)
    assert all(tensor.dtype == torch.float32 for tensor in half.values())
    assert any(not torch.equal(half[name], whole[name]) for name in whole)
    assert all(torch.allclose(half[name], whole[name], atol=0.03) for name in whole)  # three steps of 0.01


class Scaled(Accelerator):
    """Scaled losses and skipped steps, as accelerate's in fp16, where no GPU can compute in it."""

    native_amp = mixed_precision = None

    def __init__(self, **settings) -> None:
        super().__init__(**settings | {"mixed_precision": "no"})
        self.scaler = torch.amp.GradScaler("cpu", growth_interval=4)

    def prepare(self, *parts) -> tuple:
        prepared = super().prepare(*parts)
        self.native_amp, self.mixed_precision = True, "fp16"
        return prepared


def test_fp16s_loss_scale_falls_at_a_bad_step_and_is_resumed(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, bad = Denoise.latents, []

    def infinite_once(self: Denoise, batch: Batch, generator: torch.Generator) -> Tensor:
        return latents(self, batch, generator) * (bad.pop() if bad else 1.0)

    monkeypatch.setattr(Denoise, "latents", infinite_once)
    monkeypatch.setattr(loop, "Accelerator", Scaled)
    overrides = ["steps=4", "save_every=2", "mixed_precision=fp16"]
    bad.append(float("inf"))
    unbroken = train(settings(world, tmp_path / "unbroken", STAGE1, *overrides))
    bad.append(float("inf"))
    interrupt(monkeypatch, step=3)
    with pytest.raises(KeyboardInterrupt):
        train(settings(world, tmp_path / "broken", STAGE1, *overrides))
    broken = train(settings(world, tmp_path / "broken", STAGE1, *overrides))
    assert_same_run(broken, unbroken)
    scales = [torch.load(run / "checkpoint-0000004" / "state.pt")["scaler"] for run in (unbroken, broken)]
    assert scales[0] == scales[1] and scales[0]["scale"] == 2**15 and scales[0]["_growth_tracker"] == 3
    assert [row["skipped"] for row in log_of(broken)] == [1, 0, 0, 0]


def test_a_compiled_run_is_the_same_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage1: Path
) -> None:
    compiled = []

    def count(call, *_, **__):
        def counted(*arguments, **named):
            compiled.append(call)
            return call(*arguments, **named)

        return counted

    monkeypatch.setattr(torch, "compile", count)
    weights = trained_weights(train(settings(world, tmp_path / "run", STAGE1, "compile=full")))
    assert len(compiled) == 2, "once per step"
    assert all(torch.equal(weights[name], tensor) for name, tensor in trained_weights(stage1).items())


def test_a_run_made_longer_follows_the_longer_schedule(world: Path, tmp_path: Path) -> None:
    """A linear schedule ends at 0; a run that goes on must not keep that rate."""
    weights = []
    for steps in (1, 2):
        run = train(settings(world, tmp_path / "run", STAGE1, "optim.schedule=linear", f"steps={steps}"))
        weights.append(load_file(run / "weights.safetensors"))
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_signal_saves_the_step_under_way_and_the_same_command_goes_on(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, optimize = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)), loop._optimize
    signals = {1: signal.SIGTERM, 2: signal.SIGINT}

    def signalled(*arguments) -> tuple[float, float]:
        if number := signals.pop(arguments[3].step, None):
            os.kill(os.getpid(), number)
        return optimize(*arguments)

    monkeypatch.setattr(loop, "_optimize", signalled)
    for step in (2, 3):
        with pytest.raises(KeyboardInterrupt, match=f"saved at step {step}; to go on, run the same command again"):
            train(settings(world, tmp_path / "run", STAGE1, "steps=4", "save_every=1000"))
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    run = train(settings(world, tmp_path / "run", STAGE1, "steps=4", "save_every=1000"))
    assert_same_run(run, train(settings(world, tmp_path / "unbroken", STAGE1, "steps=4", "save_every=1000")))


def test_steps_without_a_finite_gradient_are_skipped_counted_and_at_last_stop_the_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {1, 3, 4}
    latents, calls = Denoise.latents, iter(range(100))

    def sometimes_infinite(self: Denoise, batch: Batch, generator: torch.Generator) -> Tensor:
        return latents(self, batch, generator) * (float("inf") if next(calls) in bad else 1.0)

    monkeypatch.setattr(Denoise, "latents", sometimes_infinite)
    run = train(settings(world, tmp_path / "run", STAGE1, "steps=6", "optim.ema_decay=0.9", "optim.max_skipped=3"))
    assert [row["skipped"] for row in log_of(run)] == [0, 1, 0, 1, 2, 0]
    assert [row["skipped_in_all"] for row in log_of(run)] == [0, 1, 1, 2, 3, 3]
    assert [row["loss"] is None for row in log_of(run)] == [False, True, False, True, True, False]
    assert all(tensor.isfinite().all() for tensor in trained_weights(run).values())
    train(settings(world, run, STAGE1, "steps=7", "optim.ema_decay=0.9", "optim.max_skipped=3"))
    assert log_of(run)[-1]["skipped_in_all"] == 3, "a run that goes on counts on"
    bad |= set(range(100))
    with pytest.raises(ValueError, match="3 steps in a row had no finite gradient .*lower optim.learning_rate"):
        train(settings(world, tmp_path / "other", STAGE1, "steps=6", "optim.max_skipped=3"))


# ---- reports -------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train(settings(world, tmp_path / "run", STAGE2, "optim.ema_decay=0.9"), dry_run=True)
    out = capsys.readouterr().out
    assert "optim:\n" in out and "  ema_decay: 0.9\n" in out
    for pattern in STAGE2["trainable"]:
        assert re.search(rf"{re.escape(pattern)}: [1-9]\d* tensors, [\d,]+ parameters", out)
    assert "data: 3 samples in " in out and "activations: " in out and "in all: " in out
    assert not (tmp_path / "run").exists()


def test_a_dry_run_copies_no_remote_shard(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    remote = ["data.path=http://127.0.0.1:9/{0..2}.tar", f"data.download={tmp_path / 'copies'}"]
    train(settings(world, tmp_path / "run", STAGE1, *remote), dry_run=True)
    assert "data: http://127.0.0.1:9/{0..2}.tar, which the run copies to " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sd14/stage2", "puppet/stage2"])
def test_a_dry_run_needs_neither_weights_nor_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    init = f"outputs/{name.replace('stage2', 'stage1')}"
    if locate(init).exists():
        pytest.skip(f"{init} is there")
    assert main(["train", name, "--dry-run", "data.path=mine", "mixed_precision=no", "trackers=[]"]) == 0
    out = capsys.readouterr().out
    assert f"init: {init} is not there yet; its networks are counted by the configs in " in out
    assert "attn_temp: " in out and "data: mine, not there yet; its size is unknown" in out and "activations" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("init", "folder"),
    [
        ("sd15", SHAPES),
        ("CompVis/stable-diffusion-v1-4", SHAPES),
        ("outputs/sd14/stage1", SHAPES),
        ("outputs/puppet/base", REPOSITORY / "configs/puppet/model"),
        ("checkpoints/puppet-base", None),
        ("no/model", None),
    ],
)
def test_shapes_of_a_start_that_is_not_there_are_known(init: str, folder: Path | None, tmp_path: Path) -> None:
    if folder is not None and locate(init).exists():
        pytest.skip(f"{init} is there")
    assert (found := shapes_of(init)) == folder or found.resolve() == folder


@pytest.mark.parametrize("stage", [STAGE1, STAGE2, BASE], ids=["stage1", "stage2", "base"])
def test_the_activations_of_a_dry_run_are_those_that_autograd_keeps(world: Path, tmp_path: Path, stage: dict) -> None:
    config = settings(world, tmp_path / "run", stage)
    objective = build_objective(config)
    select_trainable(objective.parts, config.trainable)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    frames = config.data.num_frames
    batch = Batch(["a cat"] * 2, torch.zeros(2, 3, frames, SIZE, SIZE))
    batch.skeleton = torch.zeros(2, 3, frames, SIZE, SIZE) if config.data.skeleton else None
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective(batch, torch.Generator().manual_seed(0))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    loss.backward()
    assert memory(config, objective)["activations"] == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(("stage", "trained"), [("stage1", 81_161_600), ("stage2", 86_335_680)])
def test_a_full_size_stage_needs_what_its_comments_say(stage: str, trained: int) -> None:
    """Stable Diffusion 1.4's shapes, without numbers."""
    file = REPOSITORY / "configs" / "sd14" / f"{stage}.yaml"
    config = load_config(TrainConfig, file)
    with torch.device("meta"):
        objective = build_objective(config, shapes=SHAPES)
    weights = select_trainable(objective.parts, config.trainable)
    assert sum(parameter.numel() for parameter in weights.values()) == trained
    of_a_checkpoint = 4 * trained * (3 + (config.optim.ema_decay is not None))  # itself, Adam's moments, the average
    in_all = memory(config, objective)["in all"]
    for line, size in (("save_every", of_a_checkpoint), ("batch_size", in_all)):
        said = float(re.search(rf"{line}: .* (\d+\.\d) GB", file.read_text())[1])
        assert said == pytest.approx(size / 1e9, abs=0.06), f"{line}: got {said}, expected {size / 1e9:.2f}"


def test_validation_videos_come_from_fixed_noise_and_leave_the_run_as_it_is(world: Path, tmp_path: Path) -> None:
    overrides = ["steps=4", "optim.ema_decay=0.9"]
    shown = ["validation.every=2", "validation.prompts=[a cat, a dog]", "validation.num_inference_steps=2"]
    shown += ["validation.num_frames=2"]
    plain = train(settings(world, tmp_path / "plain", STAGE1, *overrides))
    run = train(settings(world, tmp_path / "run", STAGE1, *overrides, *shown))
    assert sorted(file.name for file in (run / "validation").iterdir()) == [
        "0000002-a-cat.mp4", "0000002-a-dog.mp4", "0000004-a-cat.mp4", "0000004-a-dog.mp4",
    ]  # fmt: skip
    assert read_frames(run / "validation" / "0000002-a-cat.mp4").shape == (2, SIZE, 2 * SIZE, 3)  # beside the skeleton
    for name, tensor in load_file(plain / "weights.safetensors").items():
        assert torch.equal(tensor, load_file(run / "weights.safetensors")[name])


def test_a_validation_video_that_cannot_be_written_ends_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(path: Path, *_: object) -> None:
        raise VideoError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(validation, "write_video", full)
    shown = ["validation.every=2", "validation.prompts=[a cat]", "validation.num_inference_steps=1"]
    run = train(settings(world, tmp_path / "run", STAGE1, *shown, "validation.num_frames=1"))
    assert (run / "weights.safetensors").exists()
    assert "validation: " in (out := capsys.readouterr().out) and "0000002-a-cat.mp4: cannot be written" in out


@pytest.mark.parametrize("cached", [False, True])
def test_the_first_batch_is_a_picture(world: Path, tmp_path: Path, cached: bool) -> None:
    overrides = [f"data.cache={tmp_path / 'cache'}"] if cached else []
    picture = np.asarray(Image.open(train(settings(world, tmp_path / "run", STAGE1, *overrides)) / "first-batch.png"))
    assert picture.shape[1] == 2 * 8 * SIZE and picture.shape[0] > 2 * 8 * SIZE  # enlarged; two rows and captions
    assert picture.std() > 20


def test_losses_go_to_the_tracker(world: Path, stage1: Path) -> None:
    events = EventAccumulator(str(stage1 / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]


# ---- a run that cannot start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("objective=denoize", "objective: got 'denoize', expected one of denoise, autoencode"),
        ("data.kind=image", "data.kind: got 'image', expected one of images, clips"),
        ("optim.schedule=cosin", "optim.schedule: got 'cosin', expected one of constant"),
        ("mixed_precision=fp8", "mixed_precision: got 'fp8', expected one of fp32, fp16, bf16"),
        ("steps=0", "steps: got 0, expected at least 1"),
        ("optim.name=adamw8bit", r'optim.name: got .* CUDA GPU and `pip install -e "\.\[bnb\]"`'),
        ("trackers=[wnadb]", "trackers: got 'wnadb', expected one of all, aim"),
        ("trackers=[clearml]", "trackers: clearml is not installed; pip install clearml"),
        ("data.height=15", "data.height: got 15 pixels, expected a multiple of 2; the nearest: 14 or 16"),
        ("optim.batch_size=0", "optim.batch_size: got 0, expected at least 1"),
        ("data.stride=[2,1]", r"data.stride: got \[2, 1\], expected"),
        ("scratch=[unte]", "scratch: got 'unte', expected a network that this run uses: vae, text_encoder, unet"),
        ("trainable=[attn3]", "trainable: 'attn3' matches none"),
        ("init=nowhere", "nowhere: no such (file or )?folder"),
        ("data.path=nowhere", "data.path: nowhere: no such file or folder"),
        ("data.num_frames=2", "has 1 frames, expected at least 2"),
    ],
)
def test_a_run_that_cannot_start_gives_the_reason_and_leaves_no_folder(
    world: Path, tmp_path: Path, override: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        train(settings(world, tmp_path / "run", STAGE1, *override.split()))
    assert not (tmp_path / "run").exists()


# ---- the stages ------------------------------------------------------------------------------------------------------


def test_stage_2_trains_from_hd_vilas_own_layout(world: Path, tmp_path: Path) -> None:
    """part_N/video_clips, the metadata of the spans, and the released code's captions, one for 64 frames."""
    data, rows, clips = tmp_path / "hdvila", ["part_id,clip_id,caption"], []
    for index, video in enumerate(sorted((world / "data" / "clips").glob("*.mp4"))):
        folder, name = data / f"part_{index % 2}" / "video_clips", f"video.{index}.mp4"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / name)
        rows += [f"{index % 2},{name},a cat", f"{index % 2},{name},a dog"]
        clips.append({"clip_id": name, "span": ["00:00:01.000", "00:00:02.000"]})
    (data / "captions.csv").write_text("\n".join(rows) + "\n")
    for part in range(2):
        line = {"video_id": "video", "url": "", "clip": clips[part::2]}
        (data / f"hdvila_part{part}.jsonl").write_text(json.dumps(line) + "\n")
    run = train(settings(world, tmp_path / "run", STAGE2, f"data.path={data}", "data.workers=1"))
    assert trained_weights(run).keys() and not (run / "bad.jsonl").exists()


def test_a_tree_with_corrupt_clips_trains_and_names_each_once(world: Path, tmp_path: Path) -> None:
    """In one run, in the next one that goes on from it, and over epochs."""
    videos = [video.read_bytes() for video in sorted((world / "data" / "clips").glob("*.mp4"))]
    folder, rows = tmp_path / "hdvila" / "part_0" / "video_clips", ["part_id,clip_id,caption"]
    folder.mkdir(parents=True)
    bad = {3: videos[0][: len(videos[0]) // 2], 7: b"", 11: b"404: not found\n" * 100}
    for number in range(20):
        (folder / f"{number:02d}.mp4").write_bytes(bad.get(number, videos[number % len(videos)]))
        rows.append(f"0,{number:02d}.mp4,a cat")
    (tmp_path / "hdvila" / "captions.csv").write_text("\n".join(rows) + "\n")
    data = [f"data.path={tmp_path / 'hdvila'}", "data.num_frames=2", "data.workers=1"]
    for steps in (3, 5):  # an epoch takes 2.5
        overrides = [*data, "optim.batch_size=8", f"steps={steps}", "trainable=[attn_temp]"]
        run = train(settings(world, tmp_path / "run", STAGE2, *overrides))
    named = [json.loads(line)["name"] for line in (run / "bad.jsonl").read_text().splitlines()]
    assert sorted(Path(name).name for name in named) == ["03.mp4", "07.mp4", "11.mp4"]
    assert all(tensor.isfinite().all() for tensor in trained_weights(run).values())


@pytest.mark.parametrize("folder", ["puppet", "sd14"])
def test_the_shipped_stages_train_the_papers_parameters(world: Path, tmp_path: Path, folder: str) -> None:
    parts = load_components(settings(world, tmp_path, STAGE2), ("vae", "text_encoder", "unet", "pose_encoder"))
    patterns = {
        stage: yaml.safe_load((REPOSITORY / "configs" / folder / f"{stage}.yaml").read_text())["trainable"]
        for stage in ("stage1", "stage2")
    }
    pose = {f"pose_encoder.{name}" for name, _ in parts["pose_encoder"].named_parameters()}
    assert select_trainable(parts, patterns["stage1"]).keys() == pose
    unet = {f"unet.{name}" for name, _ in parts["unet"].named_parameters()}
    released = {name for name in unet if any(f".{part}." in name for part in RELEASED_NAMES)}
    assert select_trainable(parts, patterns["stage2"]).keys() == released


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_every_value_of_the_full_size_stages_is_the_papers_or_has_a_comment(stage: str) -> None:
    lines = (REPOSITORY / "configs" / "sd14" / f"{stage}.yaml").read_text().splitlines()
    papers = {"output", "init", "path", "kind", "height", "width", "num_frames", "skeleton", "steps"}
    papers |= {"trainable"} if stage == "stage1" else set()
    for line in lines:
        key, _, value = line.strip().removeprefix("- ").partition(": ")
        if value and not line.startswith("#") and key not in papers:
            assert "  # " in line, f"{key} has no comment"


# ---- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_sharded_training_is_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(ValueError, match=f"got {kind}, expected plain data parallel .* sharding it would save little"):
        loop._check_distribution(SimpleNamespace(distributed_type=DistributedType[kind], num_processes=2))


def test_one_process_of_several_is_no_run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `accelerate launch --cpu --num_processes N`, where no process is given N."""
    for key, value in (("ACCELERATE_USE_CPU", "True"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    command = "use torchrun --nproc_per_node N -m scripts.train CONFIG"
    with pytest.raises(ValueError, match=f"^accelerate launch --cpu starts one process .*; {command}$"):
        train(settings(world, tmp_path / "run", STAGE1))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_write_one_run_and_a_signal_to_their_launcher_saves_it(world: Path, tmp_path: Path) -> None:
    run, file, stage = tmp_path / "run", tmp_path / "run.yaml", [f"data.cache={tmp_path / 'cache'}", "trackers=[]"]
    stage += ["optim.ema_decay=0.9", "save_every=100000"]
    save_config(settings(world, run, STAGE1, *stage, "steps=100000"), file)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen(
        [*command, "-m", "scripts.train", str(file)],
        cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(1200):
            if (run / "log.jsonl").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    finally:
        process.kill()
    (checkpoint,) = run.glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    train(settings(world, run, STAGE1, *stage, f"steps={step}"))  # one process finishes it
    assert sorted(p.name for p in run.iterdir()) == [
        checkpoint.name, "config.yaml", "first-batch.png", "log.jsonl", "weights.safetensors",
        "weights_ema.safetensors",
    ]  # fmt: skip
    batch = load_config(TrainConfig, file).optim.batch_size
    assert [(row["step"], row["clips"]) for row in log_of(run)] == [(n, 2 * n * batch) for n in range(1, step + 1)]
    trained = load_file(run / "weights.safetensors")
    assert trained and all(
        name.startswith("pose_encoder.") and tensor.isfinite().all() for name, tensor in trained.items()
    )
