"""The wheel works by itself: configs, embedded models and judges travel in it, whatever the working directory."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LARGEST = 60_000_000  # bytes


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, as pip installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(folder), str(REPOSITORY)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode and "Could not find a version" in result.stderr:
        pytest.skip("the build backend can be had from no index")
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < LARGEST
    with zipfile.ZipFile(wheel) as content:
        assert not [name for name in content.namelist() if name.endswith((".gif", ".png"))]
        content.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_an_installed_wheel_generates_evaluates_and_trains_in_any_folder(installed: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-m", "followyourpose", *arguments]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "puppet/stage1" in run("configs")
    (tmp_path / "custom_nodes").mkdir()
    run("comfyui", "install", "custom_nodes")
    assert len(list(tmp_path.glob("custom_nodes/*/example_workflows/*.json"))) == 3
    run("generate", "num_frames=2", "num_inference_steps=1", "output=run")
    assert (tmp_path / "run" / "index.html").exists() and len(list((tmp_path / "run").glob("*-sheet.png"))) == 3
    few = ("num_videos=1", "flicker_videos=1", "num_frames=2", "num_inference_steps=1", "without_skeleton=false")
    run("evaluate", "configs/puppet/evaluate.yaml", *few, "output=judged")
    assert (tmp_path / "judged" / "metrics.json").exists()
    run("puppets", "data/puppet", "--images", "4")
    stage1 = ("configs/puppet/stage1.yaml", "init=checkpoints/puppet-base", "steps=1", "optim.batch_size=2")
    run("train", *stage1, "data.cache=null", "output=trained")
    assert (tmp_path / "trained" / "weights.safetensors").exists()
