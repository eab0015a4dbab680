"""A run's folder: the settings, checkpoints and log in it are those of one run, whatever happens to it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from followyourpose import VideoUNet
from followyourpose.common.files import locked
from followyourpose.common.tensors import write_tensors
from followyourpose.training import reports, run_dir
from followyourpose.training.components import export
from followyourpose.training.loop import train
from tests.runs import (
    STAGE1,
    STAGE2,
    assert_same_run,
    contents,
    interrupt,
    log_of,
    settings,
)


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


def flip(file: Path) -> None:
    """Flip a bit in the middle of a file, where its numbers are."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def other_shape(file: Path) -> None:
    if file.suffix == ".pt":
        state = torch.load(file, weights_only=True)
        state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
        torch.save(state, file)
    else:
        weights = load_file(file)
        write_tensors(file, weights | {min(weights): torch.zeros(3)}, "run")


AVERAGED = ["save_every=1", "keep_checkpoints=2", "optim.ema_decay=0.9", "trackers=[]"]


@pytest.fixture(scope="module")
def averaged(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `run`, with checkpoints of its two steps, and of `unbroken`, the same with a third."""
    folder = tmp_path_factory.mktemp("averaged")
    train(settings(world, folder / "run", STAGE1, *AVERAGED, "steps=2"))
    train(settings(world, folder / "unbroken", STAGE1, *AVERAGED, "steps=3"))
    return folder


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink, other_shape])
@pytest.mark.parametrize("file", ["weights.safetensors", "weights_ema.safetensors", "state.pt"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_goes_on(
    world: Path, tmp_path: Path, averaged: Path, capsys: pytest.CaptureFixture, file: str, damage: Callable
) -> None:
    run = tmp_path / "run"
    shutil.copytree(averaged / "run", run)
    damage(run / "checkpoint-0000002" / file)
    train(settings(world, run, STAGE1, *AVERAGED, "steps=3"))
    out = capsys.readouterr().out
    assert "checkpoint-0000002: cannot be read, and is left out" in out and "going on from step 1" in out
    assert_same_run(run, averaged / "unbroken")
    names = ["checkpoint-0000002", "checkpoint-0000002.unreadable", "checkpoint-0000003"]
    assert sorted(path.name for path in run.glob("checkpoint-*")) == names


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "is not the state of that step"),
        ({"step": 1}, "is not the state of that step"),
        ({"step": 2}, "its state has no "),
        (None, "state.pt: cannot be read"),
    ],
)
def test_a_state_of_another_form_is_one_line(
    world: Path, tmp_path: Path, stage1: Path, content: object, reason: str
) -> None:
    shutil.copytree(stage1, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint-0000002" / "state.pt"
    torch.save(content, file) if content else file.write_text("text")
    with pytest.raises(ValueError, match=f"checkpoint-0000002: cannot be read .*{reason}.*, and no older one either"):
        train(settings(world, tmp_path / "run", STAGE1, "steps=3"))


def test_folders_named_like_checkpoints_are_no_checkpoints(world: Path, tmp_path: Path, averaged: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(averaged / "run", run)
    for name in ("checkpoint-best", "checkpoint-0000009", "checkpoint-2"):
        (run / name).mkdir()
    (run / "checkpoint-0000008").write_text("a file")
    train(settings(world, run, STAGE1, *AVERAGED, "steps=3"))
    assert_same_run(run, averaged / "unbroken")
    assert {"checkpoint-best", "checkpoint-2", "checkpoint-0000009.unreadable"} < {path.name for path in run.iterdir()}


def test_a_run_of_an_earlier_version_goes_on(world: Path, tmp_path: Path, averaged: Path) -> None:
    """Files without checksums, and with the names of partial files of then."""
    run = tmp_path / "run"
    shutil.copytree(averaged / "run", run)
    for file in run.rglob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            facts = json.loads(stored.metadata()["run"])
        del facts["sha256"]
        save_file(load_file(file), file, {"run": json.dumps(facts)})
    (run / "checkpoint-0000003.partial").mkdir()
    (run / "config.yaml.partial").touch()
    train(settings(world, run, STAGE1, *AVERAGED, "steps=3"))
    assert_same_run(run, averaged / "unbroken")


@pytest.mark.parametrize(
    ("damage", "file"),
    [(flip, "weights_ema.safetensors"), (cut, "weights_ema.safetensors"), (Path.unlink, "weights_ema.safetensors")],
)
def test_damaged_weights_of_a_finished_run_are_named_and_written_again_by_its_command(
    world: Path, tmp_path: Path, averaged: Path, damage: Callable, file: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(averaged / "run", run)
    damage(run / file)
    for use in (
        lambda: export(run, tmp_path / "out"),
        lambda: train(settings(world, tmp_path / "next", STAGE2, f"init={run}")),
    ):
        with pytest.raises(ValueError, match=rf"{file}: (is damaged|cannot be read).*; run the train command"):
            use()
    assert not (tmp_path / "out").exists() and not (tmp_path / "next").exists()
    train(settings(world, run, STAGE1, *AVERAGED, "steps=2"))
    export(run, tmp_path / "out")


def test_one_command_at_a_time_trains_a_run(world: Path, tmp_path: Path, averaged: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(averaged / "run", run)
    before = contents(run)
    config = settings(world, run, STAGE1, *AVERAGED, "steps=3")
    with locked(run), pytest.raises(ValueError, match="run: another command is writing there"):
        train(config)
    assert contents(run) == before
    for name in (".checkpoint-0000003.7.partial", ".log.jsonl.7.partial"):  # of a command that was killed
        (run / name).mkdir()
    train(config)
    assert not list(run.glob(".*"))


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
    """Steps after the last checkpoint were logged before the kill, and are logged again, but stand in the log once."""
    overrides = ["steps=4", "save_every=2"]
    unbroken = log_of(train(settings(world, tmp_path / "unbroken", STAGE1, *overrides)))
    interrupt(monkeypatch, step=3)
    with pytest.raises(KeyboardInterrupt):
        train(settings(world, tmp_path / "run", STAGE1, *overrides))
    with open(tmp_path / "run" / "log.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')  # cut off by the kill
    broken = log_of(train(settings(world, tmp_path / "run", STAGE1, *overrides)))
    assert [(row["step"], row["clips"], row["loss"]) for row in broken] == [
        (row["step"], row["clips"], row["loss"]) for row in unbroken
    ]


def test_a_run_that_dies_before_its_first_checkpoint_logs_every_step_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(world, tmp_path / "run", STAGE1, "steps=3", "trackers=[tensorboard]")
    interrupt(monkeypatch, step=2)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert [row["step"] for row in log_of(tmp_path / "run")] == [1, 2]
    assert [row["step"] for row in log_of(train(config))] == [1, 2, 3]
    events = EventAccumulator(str(tmp_path / "run" / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


def test_lines_of_the_log_that_are_no_rows_are_left_out(world: Path, tmp_path: Path, averaged: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(averaged / "run", run)
    with open(run / "log.jsonl", "ab") as file:
        file.write(b'[1, 2]\n\xff\xfe\n{"step": "x"}\n{"loss": 1}\n' + b"[" * 10000 + b"\n{")
    train(settings(world, run, STAGE1, *AVERAGED, "steps=3"))
    assert [row["step"] for row in log_of(run)] == [1, 2, 3]


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
def test_a_full_disk_is_reported_with_the_file_and_the_runs_folder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, place: object, function: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place, function, full)
    with pytest.raises(ValueError, match=f"run: {file} cannot be written .*No space left.*; the last checkpoint is "):
        train(settings(world, tmp_path / "run", STAGE1, "steps=1"))


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
    """Their folder may change, but with more or fewer samples their order would be another."""
    shutil.copytree(world / "data" / "clips", tmp_path / "clips")
    again = [f"init={stage1}", f"data.path={tmp_path / 'clips'}", "steps=3"]
    shutil.copytree(stage2, tmp_path / "run")
    lines = (tmp_path / "clips" / "manifest.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "clips" / "manifest.jsonl").write_text("".join(lines[:2]))
    with pytest.raises(ValueError, match="data.path: got 2 samples in .*clips, expected 3, with which .*run began"):
        train(settings(world, tmp_path / "run", STAGE2, *again))
    (tmp_path / "clips" / "manifest.jsonl").write_text("".join(lines))
    train(settings(world, tmp_path / "run", STAGE2, *again))


def test_a_run_that_goes_on_prints_the_settings_that_changed(
    world: Path, tmp_path: Path, stage1: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(stage1, tmp_path / "run")
    train(settings(world, tmp_path / "run", STAGE1, "steps=3", "log_every=3"))
    assert "run: going on from step 2 with steps: 2 -> 3; log_every: 1 -> 3\n" in capsys.readouterr().out


def test_the_command_of_a_finished_run_changes_nothing(world: Path, stage1: Path) -> None:
    before = contents(stage1)
    assert train(settings(world, stage1, STAGE1)) == stage1
    assert contents(stage1) == before


def test_a_run_killed_just_before_its_end_is_finished_by_its_command(world: Path, tmp_path: Path, stage1: Path) -> None:
    shutil.copytree(stage1, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").unlink()
    assert_same_run(train(settings(world, tmp_path / "run", STAGE1)), stage1)
