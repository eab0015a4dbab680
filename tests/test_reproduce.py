"""The reproduction of Table 1: its commands and their order, that it resumes, and the page that it writes."""

import argparse
import json
import re
from pathlib import Path

import pytest

from followyourpose.config import TrainConfig, load_config
from followyourpose.models.unet import VideoUNet
from followyourpose.training.components import as_video, load_component
from scripts import reproduce, results
from scripts.reproduce import ABLATIONS, CONFIGS, DRAWN, FITTED, OURS, OWN, STEPS, TRAINED, Reproduction, together

NUMBERS = {key: 0.5 for key in results.METRICS} | {f"{key}_ci95": [0.25, 0.75] for key in results.METRICS}
NUMBERS |= {f"{key}_real".replace("@0.1", ""): 1.0 for key in results.METRICS} | {"n": 64}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands; none is run, each leaves an empty output."""
    made = []

    def call(self: Reproduction, name: str, *arguments: object) -> None:
        command = [str(argument) for argument in arguments]
        made.append(command)
        if "cache" in command:
            return
        output = next((part.partition("=")[2] for part in command if part.startswith("output=")), None)
        if "evaluate" in command:
            Path(output).mkdir(parents=True)
            (Path(output) / "metrics.json").write_text(json.dumps(NUMBERS))
        elif output is not None:
            Path(output).mkdir(parents=True)
            (Path(output) / "weights.safetensors").touch()
        else:
            at = {"export": -1, "draw": 5, "puppets": 3, "fit": -1}
            Path(command[next(index for verb, index in at.items() if verb in command)]).mkdir(
                parents=True, exist_ok=True
            )

    monkeypatch.setattr(Reproduction, "call", call)
    return made


def run(out: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> str:
    monkeypatch.setattr("sys.argv", ["reproduce.py", str(out), "--jobs", "1", *flags])
    reproduce.main()
    return (out / "RESULTS.md").read_text()


def test_without_training_every_system_is_drawn_and_judged_once(
    calls: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = run(tmp_path / "out", monkeypatch)
    assert not any("train" in command for command in calls)
    drawn = [command for command in calls if "draw" in command]
    assert [command[3] for command in drawn] == [system for system, *_ in DRAWN.values()]
    for command, (system, *settings) in zip(drawn, DRAWN.values(), strict=True):
        assert command[6 : 6 + len(settings)] == settings
        assert ("puppet-baselines" in str(command)) == (system not in FITTED)
    fitted = [command for command in calls if "fit" in command]
    assert [command[3] for command in fitted] == list(FITTED) and calls.index(fitted[-1]) < calls.index(drawn[0])
    assert len([command for command in calls if "evaluate" in command]) == len(OWN) + len(DRAWN)
    assert all(label in page for label in results.SYSTEMS.values()) and "# Ablations" not in page
    assert all(label in page for label in (*results.NOISE.values(), *results.HALF.values(), *results.PAPER))
    before = len(calls)
    assert run(tmp_path / "out", monkeypatch) == page and len(calls) == before


def test_runs_that_others_start_from_are_trained_first(
    calls: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = run(tmp_path / "out", monkeypatch, "--train")
    made = [re.search(r"output=\S*runs/([\w-]+)", " ".join(c)).group(1) for c in calls if "trackers=[]" in c]
    assert sorted(made) == sorted([*ABLATIONS, *TRAINED])
    caches = [next(part for part in c if part.startswith("data.cache=")) for c in calls if "cache" in c]
    assert len(caches) == len(set(caches)) == 2  # each made once, before any that would make it
    assert max(calls.index(c) for c in calls if "cache" in c) < min(calls.index(c) for c in calls if "trackers=[]" in c)
    assert all(any(cache in c for cache in caches) for c in calls if "trackers=[]" in c)
    assert all(made.index(ablation.init) < made.index(name) for name, ablation in ABLATIONS.items() if ablation.init)
    judged = {path.parent.name for path in (tmp_path / "out").glob("judged/*/metrics.json")}
    assert judged == {*OWN, *DRAWN, *ABLATIONS}
    assert f"{STEPS['stage1']} steps of 16" in page
    for rows in (results.POSE, results.TIME, results.STAGES):
        assert all(label in page for label in rows.values())


def test_a_failure_names_its_log_and_the_others_are_finished(tmp_path: Path) -> None:
    options = argparse.Namespace(out=tmp_path, count=2, data=tmp_path, train=False, jobs=1)
    done = []
    with pytest.raises(RuntimeError, match=r"broken: failed, see .*broken.log: .*no-such-module"):
        together(1, [lambda: Reproduction(options).call("broken", "-m", "no-such-module"), lambda: done.append(1)])
    assert done == [1]


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_trains_something_of_every_pattern_that_it_names(name: str) -> None:
    ablation = ABLATIONS[name]
    config = load_config(TrainConfig, CONFIGS / f"{ablation.config}.yaml", list(ablation.settings))
    unet = as_video(load_component("checkpoints/puppet-base", "unet"), config.network.changes())
    assert isinstance(unet, VideoUNet) and STEPS[ablation.config] < config.steps
    pose_encoder = load_component("checkpoints/puppet", "pose_encoder")
    names = [f"unet.{key}" for key, _ in unet.named_parameters()]
    names += [f"pose_encoder.{key}" for key, _ in pose_encoder.named_parameters()]
    for pattern in config.trainable:
        assert any(re.search(pattern, each) for each in names), pattern


def test_a_cell_has_its_interval_and_is_empty_for_an_undefined_number() -> None:
    page = results.results_page({OURS: {**NUMBERS, "pa": None, "pa_ci95": None}}, {}, STEPS)
    (line,) = [line for line in page.splitlines() if line.startswith("| Follow Your Pose (ours)")]
    cells = [cell.strip() for cell in line.strip("|").split("|")][1:]
    assert cells[0] == "0.5 (0.2 to 0.8)" and cells[1] == "" and cells[2] == "50.0 (25.0 to 75.0)"


def test_a_row_of_fewer_videos_says_so() -> None:
    page = results.results_page({OURS: {**NUMBERS, "n": 1024}, "controlnet": NUMBERS}, {}, STEPS)
    assert "| ControlNet, per frame, the first 64 |" in page and "| Follow Your Pose (ours) |" in page


def test_a_difference_is_that_of_the_same_videos() -> None:
    """A video that one of two systems lacks is left out."""
    values = {
        OURS: {seed: 10.0 * seed for seed in range(8)},
        "controlnet": {seed: 10.0 * seed - 1 for seed in range(4)},
    }
    videos = {name: dict.fromkeys(results.METRICS, each) for name, each in values.items()}
    page = results.results_page({name: NUMBERS for name in values}, videos, STEPS)
    (line,) = [
        line for line in page.splitlines() if line.startswith("| ControlNet") and "+" not in line and "-1" in line
    ]
    assert line.split("|")[2].strip() == "-1.0 (-1.0 to -1.0)"
    assert line.split("|")[3].strip() == "-100.0 (-100.0 to -100.0)"
