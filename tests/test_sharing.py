"""Videos that several processes draw: each by one of them, and together the bytes of one process's run."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from followyourpose import FollowYourPosePipeline
from followyourpose.config import GenerateConfig, save_config
from followyourpose.generation.generate import Drawing, generate
from followyourpose.generation.outputs import Shot
from followyourpose.pipeline.windows import LongVideo
from tests.processes import launch
from tests.runs import contents

REPOSITORY = Path(__file__).resolve().parents[1]
PROMPTS = ["a cat", "a dog", "a red cat"]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """The launched processes have one thread each: so has the run that they are compared with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings(world: Path, output: Path, **changes: Any) -> GenerateConfig:
    small = {"num_frames": 3, "num_inference_steps": 2, "guidance_scale": 2.0, "outputs": ["mp4", "sheet"]}
    model = str(world / "video-model")
    return GenerateConfig(**{"model": model, "prompt": PROMPTS, "output": str(output)} | small | changes)


def assert_same_run(run: Path, other: Path) -> None:
    files, others = contents(run), contents(other)
    records = [json.loads(each.pop("run.json")) for each in (files, others)]
    for record in records:
        del record["seconds"], record["settings"]["output"]
    assert records[0] == records[1]
    for each in (files, others):
        del each["index.html"]  # has the seconds
    assert files == others


def drawn_by(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a line "RANK NAME" for every video that a process draws."""
    finish = Drawing.finish

    def noted(self: Drawing, pipe: FollowYourPosePipeline, shot: Shot) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{os.environ.get('RANK', 0)} {shot.name}\n")
        finish(self, pipe, shot)

    monkeypatch.setattr(Drawing, "finish", noted)


def test_two_processes_give_the_bytes_of_one(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = generate(settings(world, tmp_path / "alone"))
    drawn_by(tmp_path / "log", monkeypatch)
    assert launch(generate, settings(world, tmp_path / "both")) == [0, 0]
    assert_same_run(tmp_path / "both", alone)
    lines = [line.split() for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    assert sorted(name for _, name in lines) == ["00-a-cat", "01-a-dog", "02-a-red-cat"]  # each is drawn once
    assert Counter(rank for rank, _ in lines) == {"0": 2, "1": 1}


def test_a_lost_process_is_made_up_for_by_the_same_command(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, run = generate(settings(world, tmp_path / "alone")), settings(world, tmp_path / "both")
    finish = Drawing.finish
    with monkeypatch.context() as patch:

        def dies(self: Drawing, *arguments: Any) -> None:
            if os.environ["RANK"] == "1":
                os._exit(9)
            finish(self, *arguments)

        patch.setattr(Drawing, "finish", dies)
        codes = launch(generate, run)
    assert codes[1] == 9 and codes[0] != 0 and not (tmp_path / "both" / "run.json").exists()
    assert (tmp_path / "both" / "00-a-cat.mp4").exists()  # the first process's own
    drawn_by(tmp_path / "log", monkeypatch)
    assert launch(generate, run) == [0, 0]
    assert_same_run(tmp_path / "both", alone)
    assert (tmp_path / "log").read_text(encoding="utf-8").split()[1::2] == ["01-a-dog"]


@pytest.mark.parametrize("changes", [{}, {"cache_interval": 2, "scheduler": "dpm++"}], ids=["ddim", "deepcache"])
def test_the_windows_of_one_long_video_are_shared(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    long = {"num_frames": 12, "long_video": LongVideo("blend", window=4, batch=2), "prompt": "a cat"} | changes
    alone = generate(settings(world, tmp_path / "alone", **long))
    predict = FollowYourPosePipeline.predict

    def noted(self: FollowYourPosePipeline, latents: torch.Tensor, *arguments: Any) -> torch.Tensor:
        with (tmp_path / f"windows-{os.environ['RANK']}").open("a", encoding="utf-8") as file:
            file.write("." * len(latents))
        return predict(self, latents, *arguments)

    monkeypatch.setattr(FollowYourPosePipeline, "predict", noted)
    assert launch(generate, settings(world, tmp_path / "both", **long)) == [0, 0]
    assert_same_run(tmp_path / "both", alone)
    counts = [len((tmp_path / f"windows-{rank}").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert counts == [6, 4]  # of 5 windows in 3 batches, in 2 steps


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torchrun", "ray"])
def test_scripts_generate_shares_videos_by_engines(world: Path, tmp_path: Path, engine: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="needs Ray: pip install -e '.[ray]'")
    alone = generate(settings(world, tmp_path / "alone"))
    save_config(settings(world, tmp_path / "both"), tmp_path / "run.yaml")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [sys.executable, "scripts/generate.py", "--runner", "ray", "--workers", "2"]
    command = [*launcher, "scripts/generate.py"] if engine == "torchrun" else command
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "run.yaml")], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_run(tmp_path / "both", alone)
