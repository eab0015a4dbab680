"""Training: a stage is a file, only what is named learns, and the same command goes on as if nothing had happened."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from followyourpose import FollowYourPosePipeline, VideoUNet
from followyourpose.config import TrainConfig, load_config, save_config
from followyourpose.data.batch import Batch
from followyourpose.data.video_io import VideoError, read_frames
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.puppets.dataset import write_dataset
from followyourpose.training import loop, reports, run_dir, validation
from followyourpose.training.components import as_video, export, load_component, load_components, load_scheduler
from followyourpose.training.loop import build_objective, train
from followyourpose.training.objectives import Denoise
from followyourpose.training.plan import memory
from followyourpose.training.run_dir import RunDir, trained_weights
from followyourpose.training.state import TrainState
from followyourpose.training.trainable import select_trainable
from scripts.benchmark_parts import networks as networks_of
from tests.runs import BASE, LORA, RELEASED_NAMES, SIZE, STAGE1, STAGE2, log_of, settings
from tests.tiny import DDIM, TEXT_WIDTH

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def stage1(world: Path) -> Path:
    """A finished run of stage 1."""
    return train(settings(world, world / "runs" / "stage1", STAGE1))


@pytest.fixture(scope="module")
def stage2(world: Path, stage1: Path) -> Path:
    """A finished run of stage 2, on top of `stage1`."""
    return train(settings(world, world / "runs" / "stage2", STAGE2, f"init={stage1}"))


@pytest.fixture
def any_precision() -> Iterator[None]:
    """Lets a test train in another precision than the others: accelerate knows one per process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def all_weights(folder: Path) -> dict[str, Tensor]:
    """Every weight of a pipeline folder as "component.parameter"."""
    files = [file for file in sorted(folder.glob("*/*.safetensors"))]
    return {f"{file.parent.name}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Lets a run die in the middle of a step, once."""
    optimize = loop._optimize

    def dies(config: TrainConfig, accelerator: Accelerator, model: nn.Module, state: TrainState, *rest) -> tuple:
        if state.step == step:
            monkeypatch.setattr(loop, "_optimize", optimize)
            raise KeyboardInterrupt
        return optimize(config, accelerator, model, state, *rest)

    monkeypatch.setattr(loop, "_optimize", dies)


def assert_same_run(first: Path, second: Path) -> None:
    """Bit for bit the same weights, moving average and optimiser state."""
    for name in ("weights.safetensors", "weights_ema.safetensors"):
        assert (first / name).exists() == (second / name).exists()
        if (first / name).exists():
            assert (first / name).read_bytes() == (second / name).read_bytes()
    one, other = (torch.load(max(run.glob("checkpoint-*/state.pt")), weights_only=True) for run in (first, second))
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
    overrides = [each.replace("CACHE", str(tmp_path / "cache")) for each in (*overrides, "steps=4", "save_every=2")]
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


def test_bf16_computes_in_half_and_keeps_the_weights_whole(
    world: Path, tmp_path: Path, stage1: Path, any_precision: None
) -> None:
    half = trained_weights(train(settings(world, tmp_path / "run", STAGE1, "mixed_precision=bf16")))
    whole = trained_weights(stage1)
    assert all(tensor.dtype == torch.float32 for tensor in half.values())
    assert any(not torch.equal(half[name], whole[name]) for name in whole)
    assert all(torch.allclose(half[name], whole[name], atol=0.03) for name in whole)  # three steps of 0.01


class Scaled(Accelerator):
    """Scales the loss and skips steps as accelerate does in fp16, where there is no GPU to compute in it."""

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
    weights = trained_weights(train(settings(world, tmp_path / "run", STAGE1, "compile=true")))
    assert len(compiled) == 2, "once per step"
    assert all(torch.equal(weights[name], tensor) for name, tensor in trained_weights(stage1).items())


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


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt"])
def test_a_checkpoint_that_the_disk_lost_is_set_aside_and_the_one_before_goes_on(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture, file: str
) -> None:
    overrides = ["save_every=1", "keep_checkpoints=2"]
    run = train(settings(world, tmp_path / "run", STAGE1, *overrides, "steps=3"))
    lost = run / "checkpoint-0000003" / file
    lost.write_bytes(lost.read_bytes()[: lost.stat().st_size // 2])
    train(settings(world, run, STAGE1, *overrides, "steps=4"))
    out = capsys.readouterr().out
    assert "checkpoint-0000003.unreadable: cannot be read, and is left out" in out and "on from step 2 with" in out
    assert_same_run(run, train(settings(world, tmp_path / "unbroken", STAGE1, *overrides, "steps=4")))
    names = ["checkpoint-0000003", "checkpoint-0000003.unreadable", "checkpoint-0000004"]
    assert sorted(path.name for path in run.glob("checkpoint-*")) == names


def test_a_run_of_which_the_disk_lost_every_checkpoint_does_not_begin_anew(
    world: Path, tmp_path: Path, stage1: Path
) -> None:
    shutil.copytree(stage1, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-0000002" / "state.pt").write_bytes(b"")
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match="checkpoint-0000002: cannot be read .*, and no older one either"):
        train(settings(world, tmp_path / "run", STAGE1, "steps=3"))
    assert contents(tmp_path / "run") == before


def test_only_the_newest_checkpoints_are_kept(world: Path, tmp_path: Path) -> None:
    run = train(settings(world, tmp_path / "run", STAGE1, "steps=4", "save_every=1", "keep_checkpoints=2"))
    assert sorted(p.name for p in run.glob("checkpoint-*")) == ["checkpoint-0000003", "checkpoint-0000004"]
    assert (run / "weights.safetensors").read_bytes() == (run / "checkpoint-0000004/weights.safetensors").read_bytes()


def test_a_run_writes_its_settings_and_a_line_per_interval(world: Path, tmp_path: Path) -> None:
    config = settings(world, tmp_path / "run", STAGE1, "steps=4", "log_every=2", "optim.warmup_steps=4")
    rows = [json.loads(line) for line in (train(config) / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4] and all(0 < row["loss"] < 10 for row in rows)
    np.testing.assert_allclose([row["lr"] for row in rows], [0.5e-2, 1e-2])  # a constant rate warms up too
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == asdict(config)


def test_the_loss_in_the_log_is_a_mean_after_a_resume_too(world: Path, tmp_path: Path) -> None:
    train(settings(world, tmp_path / "each", STAGE1, "steps=4"))
    train(settings(world, tmp_path / "run", STAGE1, "steps=1", "log_every=4"))
    train(settings(world, tmp_path / "run", STAGE1, "steps=4", "log_every=4"))
    (row,) = log_of(tmp_path / "run")
    assert row["loss"] == pytest.approx(np.mean([row["loss"] for row in log_of(tmp_path / "each")]))


def test_the_log_of_a_broken_run_is_that_of_an_unbroken_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps after the last checkpoint were logged before the kill, and are logged again: once is enough."""
    overrides = ["steps=5", "save_every=2"]
    unbroken = log_of(train(settings(world, tmp_path / "unbroken", STAGE1, *overrides)))
    interrupt(monkeypatch, step=3)
    with pytest.raises(KeyboardInterrupt):
        train(settings(world, tmp_path / "run", STAGE1, *overrides))
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # cut off by the kill
    broken = log_of(train(settings(world, tmp_path / "run", STAGE1, *overrides)))
    assert [(row["step"], row["clips"], row["loss"]) for row in broken] == [
        (row["step"], row["clips"], row["loss"]) for row in unbroken
    ]


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def full(state: dict, path: Path) -> None:
        if state["step"] == 2:
            raise OSError(28, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    config = settings(world, tmp_path / "run", STAGE1, "steps=3", "save_every=1")
    with pytest.raises(ValueError, match="checkpoint-0000002: cannot be written .*No space left.*checkpoint-0000001"):
        train(config)
    assert [p.name for p in tmp_path.glob("run/checkpoint-*")] == ["checkpoint-0000001"]
    monkeypatch.setattr(torch, "save", save)
    assert_same_run(train(config), train(settings(world, tmp_path / "unbroken", STAGE1, "steps=3", "save_every=1")))


@pytest.mark.parametrize(
    ("file", "place", "function"),
    [
        ("log.jsonl", run_dir, "save_config"),
        ("first-batch.png", reports, "draw_first_batch"),
        ("weights.safetensors", shutil, "copyfile"),
    ],
)
def test_a_full_disk_is_told_with_the_file_and_the_runs_folder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, place: object, function: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place, function, full)
    with pytest.raises(ValueError, match=f"run: {file} cannot be written .*No space left.*; the last checkpoint is "):
        train(settings(world, tmp_path / "run", STAGE1, "steps=1"))


def test_a_signal_saves_the_step_under_way_and_the_same_command_goes_on(world: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for number in (signal.SIGTERM, signal.SIGINT):
        timer = threading.Timer(1.5, os.kill, (os.getpid(), number))
        timer.start()
        with pytest.raises(KeyboardInterrupt, match=r"saved at step \d+; to go on, run the same command again"):
            train(settings(world, tmp_path / "run", STAGE1, "steps=100000", "save_every=1000000"))
        timer.cancel()
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    step = int(max((tmp_path / "run").glob("checkpoint-*")).name.split("-")[1])
    overrides = [f"steps={step + 3}", "save_every=1000"]
    unbroken = train(settings(world, tmp_path / "unbroken", STAGE1, *overrides))
    assert_same_run(train(settings(world, tmp_path / "run", STAGE1, *overrides)), unbroken)


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


# ---- what a checkpoint is for ----------------------------------------------------------------------------------------


def test_a_checkpoint_names_its_settings_and_the_weights_it_was_trained_on(world: Path, stage1: Path) -> None:
    with safe_open(stage1 / "weights.safetensors", "pt") as file:
        about = json.loads(file.metadata()["run"])
    assert about["config"]["trainable"] == STAGE1["trainable"]
    assert about["frozen"].keys() == {"vae", "text_encoder", "unet", "pose_encoder"}


def test_another_base_model_is_refused_on_resume_and_when_built_upon(world: Path, tmp_path: Path) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(world / "video-model", base)
    config = settings(world, run, STAGE1, f"init={base}")
    train(config)
    unet = VideoUNet.from_pretrained(base / "unet")
    with torch.no_grad():
        unet.conv_out.bias += 1
    unet.save_pretrained(base / "unet")
    for again in (
        lambda: train(settings(world, run, STAGE1, f"init={base}", "steps=3")),
        lambda: export(run, tmp_path / "out"),
        lambda: train(settings(world, tmp_path / "next", STAGE2, f"init={run}")),
    ):
        with pytest.raises(ValueError, match="was trained on top of another unet than that of init: "):
            again()


def test_a_changed_setting_is_refused_with_every_key_that_differs(world: Path, stage1: Path) -> None:
    with pytest.raises(ValueError, match="holds a run with optim.learning_rate: 0.01, got 0.5; seed: 0, got 4"):
        train(settings(world, stage1, STAGE1, "seed=4", "optim.learning_rate=0.5", "log_every=7"))


def test_other_data_is_refused_when_a_run_goes_on(world: Path, tmp_path: Path, stage2: Path, stage1: Path) -> None:
    """Where they lie may change, but with more or fewer samples their order would be another."""
    shutil.copytree(world / "data" / "clips", tmp_path / "clips")
    again = [f"init={stage1}", f"data.path={tmp_path / 'clips'}", "steps=3"]
    shutil.copytree(stage2, tmp_path / "run")
    lines = (tmp_path / "clips" / "manifest.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "clips" / "manifest.jsonl").write_text("".join(lines[:2]))
    with pytest.raises(ValueError, match="data.path: got 2 samples in .*clips, expected 3, with which .*run began"):
        train(settings(world, tmp_path / "run", STAGE2, *again))
    (tmp_path / "clips" / "manifest.jsonl").write_text("".join(lines))
    train(settings(world, tmp_path / "run", STAGE2, *again))


def test_a_run_that_goes_on_tells_what_may_change_and_did(
    world: Path, tmp_path: Path, stage1: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(stage1, tmp_path / "run")
    train(settings(world, tmp_path / "run", STAGE1, "steps=3", "log_every=3"))
    assert "run: going on from step 2 with steps: 2 -> 3; log_every: 1 -> 3\n" in capsys.readouterr().out


# ---- seeing it train -------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_the_plan_and_writes_nothing(
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
        networks = networks_of("sd14")
        networks["unet"] = as_video(networks["unet"])
        if config.data.skeleton:
            networks["pose_encoder"] = PoseEncoder(block_out_channels=networks["unet"].config.block_out_channels)
    if config.gradient_checkpointing:
        networks["unet"].enable_gradient_checkpointing()
    objective = Denoise(nn.ModuleDict(networks), SimpleNamespace(model_max_length=77), None, config)
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
        ("optim.name=adamw8bit", r'optim.name: got .* CUDA GPU and `pip install "followyourpose\[bnb\]"`'),
        ("optim.batch_size=0", "optim.batch_size: got 0, expected at least 1"),
        ("data.stride=[2,1]", r"data.stride: got \[2, 1\], expected"),
        ("scratch=[unte]", "scratch: got 'unte', expected a network that this run uses: vae, text_encoder, unet"),
        ("trainable=[attn3]", "trainable: 'attn3' matches none"),
        ("init=nowhere", "nowhere: neither a run"),
        ("data.path=nowhere", "nowhere: holds no .tar shard"),
        ("data.num_frames=2", "has 1 frames, expected at least 2"),
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


def test_a_tree_with_five_per_cent_corrupt_clips_trains_and_names_each_once(world: Path, tmp_path: Path) -> None:
    """In one run, in the next one that goes on from it, and over epochs."""
    write_dataset(tmp_path / "puppets", clips=3, size=64, clip_frames=4)
    videos = [video.read_bytes() for video in sorted((tmp_path / "puppets" / "clips").glob("*.mp4"))]
    folder, rows = tmp_path / "hdvila" / "part_0" / "video_clips", ["part_id,clip_id,caption"]
    folder.mkdir(parents=True)
    bad = {7: videos[0][: len(videos[0]) // 2], 23: b"", 41: b"404: not found\n" * 100}
    for number in range(60):
        (folder / f"{number:02d}.mp4").write_bytes(bad.get(number, videos[number % len(videos)]))
        rows.append(f"0,{number:02d}.mp4,a cat")
    (tmp_path / "hdvila" / "captions.csv").write_text("\n".join(rows) + "\n")
    data = [f"data.path={tmp_path / 'hdvila'}", "data.height=64", "data.width=64", "data.num_frames=2"]
    for steps in (8, 16):  # an epoch takes 7.5
        overrides = [*data, "data.workers=1", "optim.batch_size=8", f"steps={steps}", "trainable=[attn_temp]"]
        run = train(settings(world, tmp_path / "run", STAGE2, *overrides))
    named = [json.loads(line)["name"] for line in (run / "bad.jsonl").read_text().splitlines()]
    assert sorted(Path(name).name for name in named) == ["07.mp4", "23.mp4", "41.mp4"]
    assert all(tensor.isfinite().all() for tensor in trained_weights(run).values())


@pytest.mark.parametrize("folder", ["puppet", "sd14"])
def test_the_shipped_stages_train_what_the_paper_says(world: Path, tmp_path: Path, folder: str) -> None:
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
    image_model = export(runs["base"], tmp_path / "image-model")  # neither tells of the machine
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


# ---- the objective ---------------------------------------------------------------------------------------------------


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


def test_after_a_shuffled_prefix_the_words_stay_and_what_is_known_of_earlier_ones_changes(
    world: Path, tmp_path: Path
) -> None:
    captions, cpu = ["a cat", "a dog", "dog can do", "do", "cat can dog"] * 4, torch.device("cpu")
    objectives = [
        build_objective(settings(world, tmp_path / "run", STAGE2, f"prefix_shuffle={share}")) for share in (0.0, 1.0)
    ]
    own, shuffled = (each.text(Batch(captions), torch.Generator().manual_seed(0), cpu) for each in objectives)
    ends = [len(ids) - 1 for ids in objectives[0].tokenizer(captions).input_ids]
    same = (own == shuffled).all(2)
    firsts = [int(row.int().argmin()) for row in same]  # where the first state is that is another
    assert same[:, :2].all() and not same[:, -1].all()
    assert all(first <= end or row.all() for first, end, row in zip(firsts, ends, same, strict=True))
    assert len({first for first, row in zip(firsts, same, strict=True) if not row.all()}) > 1


def test_a_text_encoder_can_be_trained_too_and_reads_no_cached_text_then(world: Path, tmp_path: Path) -> None:
    both = (r"trainable=[^unet\., ^text_encoder\.]", "prefix_shuffle=0.5", f"init={world / 'image-model'}")
    run = train(settings(world, tmp_path / "run", BASE, *both, f"data.cache={tmp_path / 'cache'}"))
    before = load_component(world / "image-model", "text_encoder").state_dict()
    after = StableDiffusionPipeline.from_pretrained(export(run, tmp_path / "out", torch.float32)).text_encoder
    assert any(not torch.equal(tensor, before[name]) for name, tensor in after.state_dict().items())
    objective = build_objective(settings(world, tmp_path / "next", BASE, *both))
    own = objective.text(Batch(["a cat"]), torch.Generator().manual_seed(0), torch.device("cpu"))
    cached = Batch(["a cat"], text=torch.zeros_like(own))
    assert torch.equal(objective.text(cached, torch.Generator().manual_seed(0), torch.device("cpu")), own)


def test_without_captions_there_is_no_prefix_to_shuffle(world: Path, tmp_path: Path) -> None:
    objective = build_objective(settings(world, tmp_path / "run", STAGE2, "prefix_shuffle=1", "prompt_dropout=1"))
    text = objective.text(Batch(["a cat", "a dog"]), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert torch.equal(text, objective.encode_text(["", ""], torch.device("cpu")))


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
    weight = objective._person_weight(Batch(["a cat"], people=people), (8, 8))
    assert weight.shape == (1, 1, 1, 8, 8) and weight.mean() == pytest.approx(1)
    assert weight[..., 0, 0] / weight[..., 7, 7] == pytest.approx(4)
    with pytest.raises(ValueError, match="person_weight: got 2.0, expected 1: the data has no keypoints"):
        train(settings(world, tmp_path / "run", STAGE2, "person_weight=2"))
    assert not (tmp_path / "run").exists()


def test_min_snr_weighs_the_clean_latents_error_by_the_clipped_ratio(world: Path, tmp_path: Path) -> None:
    """Whatever is predicted, the weight of an error of the clean latents is min(SNR, gamma)."""
    objective = build_objective(settings(world, tmp_path / "run", STAGE2))
    timestep, gamma = torch.tensor([0, 300, 600, 999]), 5.0
    alpha = objective.scheduler.alphas_cumprod[timestep]
    snr = alpha / (1 - alpha)
    for kind, clean in (("epsilon", snr), ("v_prediction", snr + 1)):
        objective.scheduler.register_to_config(prediction_type=kind)
        weight = objective._snr_weight(timestep, gamma).flatten()
        torch.testing.assert_close(weight * clean, snr.clamp(max=gamma))
    objective.scheduler.alphas_cumprod[-1] = 0  # zero terminal SNR
    assert objective._snr_weight(timestep, gamma).flatten()[-1] == 0
    objective.scheduler.register_to_config(prediction_type="epsilon")
    assert objective._snr_weight(timestep, gamma).flatten()[-1] == 1


def test_offset_noise_shifts_a_channel_of_a_clip_as_a_whole(world: Path, tmp_path: Path) -> None:
    objective = build_objective(settings(world, tmp_path / "run", STAGE2, "noise_offset=0.5"))
    noise = objective._noise((300, 2, 4, 8, 8), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert noise.mean((2, 3, 4)).std() == pytest.approx(0.5, rel=0.1)


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


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_sharded_training_is_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(ValueError, match=f"got {kind}, expected plain data parallel .* sharding it would save little"):
        loop._check_distribution(SimpleNamespace(distributed_type=DistributedType[kind], num_processes=2))


def test_two_processes_write_one_run(world: Path, tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "run.yaml"
    save_config(settings(world, run, STAGE1, f"data.cache={tmp_path / 'cache'}", "optim.ema_decay=0.9"), file)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu"]
    result = subprocess.run(
        [*launch, str(REPOSITORY / "scripts" / "train.py"), str(file)],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoint-0000002", "config.yaml", "first-batch.png", "log.jsonl", "run", "weights.safetensors",
        "weights_ema.safetensors",
    ]  # fmt: skip
    rows = log_of(run)
    batch = load_config(TrainConfig, file).optim.batch_size
    assert [(row["step"], row["clips"]) for row in rows] == [(1, 2 * batch), (2, 4 * batch)]
    trained = load_file(run / "weights.safetensors")
    assert trained and all(
        name.startswith("pose_encoder.") and tensor.isfinite().all() for name, tensor in trained.items()
    )


def test_one_process_of_several_is_no_run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As accelerate leaves it, where nobody can know how many there should be."""
    for key, value in (("ACCELERATE_USE_CPU", "True"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    command = "use torchrun --nproc_per_node N -m scripts.train CONFIG"
    with pytest.raises(ValueError, match=f"^accelerate launch --cpu starts one process .*; {command}$"):
        train(settings(world, tmp_path / "run", STAGE1))
    assert not (tmp_path / "run").exists()


def test_a_signal_to_the_launcher_of_several_processes_saves_their_run(world: Path, tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "run.yaml"
    save_config(settings(world, run, STAGE1, "steps=100000", "save_every=100000"), file)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen(
        [*command, str(REPOSITORY / "scripts" / "train.py"), str(file)],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
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
    assert load_file(checkpoint / "weights.safetensors") and not list(run.glob("*.partial"))
