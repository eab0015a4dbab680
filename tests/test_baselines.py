"""Other systems train by the loop on the image model, and draw a benchmark's videos."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from followyourpose.evaluation.sources import read_collection
from followyourpose.puppets.benchmark import write_benchmark
from followyourpose.puppets.world import HELD_OUT_PAIRS
from followyourpose.training.loop import train
from followyourpose.training.run_dir import trained_weights
from scripts import baselines
from scripts.baseline_objectives import OBJECTIVES, export_network
from scripts.baseline_systems import (
    SYSTEMS,
    TUNING,
    WITHOUT_NOISE,
    MutualSelfAttention,
    Sampling,
    Task,
    _noise,
    _pose_in_conditional_half,
)
from scripts.baselines import FITTED
from tests.runs import SIZE, settings

IMAGES = {"data": {"skeleton": True}, "optim": {"learning_rate": 1e-2}}
STAGES = {
    "controlnet": {**IMAGES, "trainable": [r"^controlnet\."]},
    "t2i-adapter": {**IMAGES, "trainable": [r"^adapter\."]},
    "animatediff": {
        "data": {"kind": "clips", "num_frames": 3},
        "optim": {"learning_rate": 1e-2},
        "trainable": [r"^unet\..*motion_modules"],
    },
}


def trained_part(name: str) -> str:
    """Name of the part that a run trains."""
    return STAGES[name]["trainable"][0].strip("^").split(r"\.")[0]


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short run of every network."""
    folder = tmp_path_factory.mktemp("baselines")
    for name, stage in STAGES.items():
        config = settings(world, folder / name, stage, f"init={world / 'image-model'}", "steps=2")
        train(config, kind=OBJECTIVES[name])
    return folder


def task(seed: int = 0, prompt: str = "a cat") -> Task:
    noise = np.random.default_rng(seed).integers(0, 256, (2, 3, SIZE, SIZE, 3), np.uint8)
    person = HELD_OUT_PAIRS[seed]
    keypoints = np.random.default_rng(seed).uniform(0, SIZE, (3, 17, 3))
    return Task(prompt, noise[0], seed, (noise[1], "a dog"), person, keypoints)


@pytest.fixture(scope="module")
def weights(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the exported network of each run."""
    folder = tmp_path_factory.mktemp("baseline-weights")
    for name in STAGES:
        export_network(name, runs / name, folder / name)
    return folder


@pytest.mark.parametrize("name", STAGES)
def test_a_run_trains_its_network_alone(name: str, runs: Path) -> None:
    prefix = trained_part(name)
    weights = trained_weights(runs / name)
    assert weights and all(key.startswith(f"{prefix}.") for key in weights)


@pytest.mark.parametrize("name", STAGES)
def test_an_export_holds_what_was_trained_and_nothing_else_is_taken_for_it(
    name: str, runs: Path, weights: Path, tmp_path: Path
) -> None:
    (file,) = (weights / name).glob("*.safetensors")
    exported, trained = load_file(file), trained_weights(runs / name)
    assert all(value.dtype == torch.float16 for value in exported.values())
    prefix = f"{trained_part(name)}."
    for key, value in trained.items():
        torch.testing.assert_close(exported[key.removeprefix(prefix)], value.half())
    other = next(system for system in STAGES if system != name)
    with pytest.raises(ValueError, match="not those of"):
        export_network(other, runs / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "tune-a-video")) for name in SYSTEMS if name not in FITTED],
)
def test_a_system_draws_the_frames_of_its_skeleton_and_repeats_itself(
    name: str, world: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.baseline_systems.STEPS", 2)
    monkeypatch.setitem(TUNING, "steps", 1)
    draw = SYSTEMS[name](world / "image-model", weights)
    (frames,) = draw([task()])
    assert frames.shape == (3, SIZE, SIZE, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, draw([task()])[0])
    together = draw([task(1, "can do"), task()])
    assert not np.array_equal(frames, together[0])
    np.testing.assert_allclose(together[1].astype(int), frames, atol=1)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_benchmark_is_drawn_as_a_folder_that_evaluate_takes(
    jobs: int, world: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_benchmark(tmp_path / "bench", "puppet-bench-1", 3, size=SIZE)
    command = ["draw", "t2i-adapter", tmp_path / "bench", tmp_path / "out", "--count", 3, "--batch-size", 2]
    command += ["--jobs", jobs, "--base", world / "image-model", "--weights", weights]
    monkeypatch.setattr("sys.argv", ["baselines.py", *map(str, command)])
    baselines.main()
    collection = read_collection(tmp_path / "out")
    assert [sample.seed for sample in collection.samples] == [1000, 1001, 1002]
    assert all(video.shape == (8, SIZE, SIZE, 3) for video in collection.videos)
    assert all(real.shape == (8, SIZE, SIZE, 3) for real in collection.real)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["noise=white"], "noise: .*white"),
        (["guidance=2"], "guidance"),
        (["--count", "0"], "--count: got 0, expected at least 1"),
        (["--batch-size", "-1"], "--batch-size: got -1, expected at least 1"),
        (["--jobs", "0"], "--jobs: got 0, expected at least 1"),
        (
            ["--weights", "nowhere"],
            "nowhere.controlnet: no such folder, expected the output of `scripts.baselines export`",
        ),
        ([], "nothing.manifest.jsonl: no such file, expected the output of `followyourpose puppets --benchmark`"),
    ],
)
def test_a_benchmark_that_cannot_be_drawn_is_one_error(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if flags:
        write_benchmark(tmp_path / "nothing", "puppet-bench-1", 1, size=SIZE)
    monkeypatch.setattr("sys.argv", ["x", "draw", "controlnet", f"{tmp_path}/nothing", f"{tmp_path}/out", *flags])
    with pytest.raises(SystemExit, match=message):
        baselines.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", WITHOUT_NOISE)
def test_settings_of_noise_are_refused_where_there_is_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["x", "draw", name, str(tmp_path), str(tmp_path / "out"), "noise=shared"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match=f"{name}: got noise=shared, expected no settings"):
        baselines.main()


def test_noise_of_frames_is_one_or_each_its_own() -> None:
    pipe = SimpleNamespace(vae_scale_factor=2, vae=SimpleNamespace(config=SimpleNamespace(latent_channels=4)))
    shared = _noise(pipe, task())
    own = _noise(pipe, replace(task(), sampling=Sampling(noise="independent")))
    assert shared.shape == own.shape == (1, 4, 3, SIZE // 2, SIZE // 2)
    assert torch.equal(shared[:, :, 0], shared[:, :, 1]) and not torch.equal(own[:, :, 0], own[:, :, 1])


@pytest.mark.parametrize("name", ["controlnet", "t2i-adapter", "animatediff"])
def test_the_unconditional_half_has_no_pose_where_settings_say_so(
    name: str, world: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.baseline_systems.STEPS", 1)
    monkeypatch.setattr("scripts.baseline_systems.GUIDANCE", 1e-6 + 1)  # both halves are run
    given = []

    def spied(unet: object, args: tuple, kwargs: dict) -> tuple:
        args, kwargs = _pose_in_conditional_half(unet, args, kwargs)
        for key, value in kwargs.items():
            if "additional_residual" in key and value is not None:
                given.extend([value] if isinstance(value, torch.Tensor) else value)  # the network empties the list
        return args, kwargs

    monkeypatch.setattr("scripts.baseline_systems._pose_in_conditional_half", spied)
    draw = SYSTEMS[name](world / "image-model", weights)
    draw([replace(task(), sampling=Sampling(pose_guidance="conditional"))])
    assert given and all(not each[: len(each) // 2].any() for each in given)
    assert any(each[len(each) // 2 :].any() for each in given)
    count = len(given)
    draw([task()])
    assert len(given) == count  # the next call, with the pose in both halves, is as it was


def test_mutual_attention_gathers_from_the_first_frame_after_its_step() -> None:
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    attention, x = Attention(8, heads=2, dim_head=4), torch.randn(6, 5, 8)
    plain = attention(x)
    attention.set_processor(MutualSelfAttention(3))
    outputs = [attention(x) for _ in range(6)]
    assert all(torch.equal(each, plain) for each in outputs[:4])
    assert torch.equal(outputs[5], outputs[4]) and not torch.equal(outputs[4], plain)
    torch.testing.assert_close(outputs[4][[0, 3]], plain[[0, 3]])  # the first frame of each half sees itself
