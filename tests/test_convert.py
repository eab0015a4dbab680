"""The released checkpoint on disk, in every layout that people have, becomes a folder that generate loads, and back."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor

from followyourpose import FollowYourPosePipeline, PoseEncoder, VideoUNet
from followyourpose.cli.main import main
from followyourpose.models.weights import VIDEO_SETTINGS, read_state_dict, split, to_released
from followyourpose.pipeline.convert import BASE, convert_weights, write_weights
from tests.released import STATE, write_full_size, write_released


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[VideoUNet, PoseEncoder]]:
    folder = tmp_path_factory.mktemp("released") / "FollowYourPose_v1"
    return folder, write_released(folder)


@pytest.fixture
def repository(released: tuple[Path, tuple[VideoUNet, PoseEncoder]]) -> Path:
    """The released repository as it lies on the hub, small."""
    return released[0]


@pytest.fixture
def networks(released: tuple[Path, tuple[VideoUNet, PoseEncoder]]) -> tuple[VideoUNet, PoseEncoder]:
    """The two networks whose weights it holds."""
    return released[1]


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    torch.testing.assert_close(dict(a), dict(b), rtol=0, atol=0)


def assert_converted(folder: Path, networks: tuple[VideoUNet, PoseEncoder]) -> None:
    """Check a converted folder: the networks' weights bit for bit, every component, safetensors alone, DDIM, a card."""
    pipe = FollowYourPosePipeline.from_pretrained(folder)
    assert_same(pipe.unet.state_dict(), networks[0].state_dict())
    assert_same(pipe.pose_encoder.state_dict(), networks[1].state_dict())
    assert isinstance(pipe.scheduler, DDIMScheduler) and pipe.scheduler.config.steps_offset == 1
    assert not [file for file in folder.rglob("*") if file.suffix in (".bin", ".pth", ".pkl")]
    assert (
        "sha256 " in (folder / "README.md").read_text() and "license: creativeml" in (folder / "README.md").read_text()
    )
    pipe.set_progress_bar_config(disable=True)
    skeleton = np.zeros((2, 128, 128, 3), np.uint8)
    assert pipe("a cat", skeleton, num_inference_steps=1).videos.shape == (1, 2, 128, 128, 3)


@pytest.mark.parametrize("layout", ["repository", "state", "state elsewhere", "file", "safetensors", "several GPUs"])
def test_every_layout_becomes_a_folder_that_generates(
    repository: Path, networks: tuple[VideoUNet, PoseEncoder], tmp_path: Path, layout: str
) -> None:
    weights, base = repository / STATE / "pytorch_model.bin", None
    source = {"repository": repository, "state": repository / STATE, "file": weights}.get(layout)
    if source is None:
        source = tmp_path / "state"
        source.mkdir()
        state_dict = read_state_dict(weights)
        if layout == "safetensors":
            write_weights(source / "model.safetensors", state_dict)
        elif layout == "several GPUs":
            torch.save({f"module.{name}": weight for name, weight in state_dict.items()}, source / "pytorch_model.bin")
        else:
            shutil.copy(weights, source)
    if layout not in ("repository", "state"):
        base = repository / BASE
        with pytest.raises(ValueError, match="has the two networks alone; expected --base"):
            convert_weights(source, tmp_path / "ours")
    convert_weights(source, tmp_path / "ours", base=base)
    assert_converted(tmp_path / "ours", networks)


def test_the_command_takes_a_base(
    repository: Path, networks: tuple[VideoUNet, PoseEncoder], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    state, ours = str(repository / STATE / "pytorch_model.bin"), str(tmp_path / "ours")
    assert main(["convert-weights", state, ours]) == 2
    assert "expected --base, a folder or hub id of Stable Diffusion 1.4" in capsys.readouterr().err
    assert main(["convert-weights", state, ours, "--base", str(repository / BASE)]) == 0
    assert_converted(tmp_path / "ours", networks)


def test_folders_round_trip(repository: Path, networks: tuple[VideoUNet, PoseEncoder], tmp_path: Path) -> None:
    convert_weights(repository, tmp_path / "ours")
    convert_weights(tmp_path / "ours", tmp_path / "back", to="released")
    expected = to_released(*networks)
    assert_same(read_state_dict(tmp_path / "back" / "unet" / "diffusion_pytorch_model.bin"), expected)
    assert_same(read_state_dict(tmp_path / "back" / "pose_encoder.pth"), split(expected)[1])
    config = json.loads((tmp_path / "back" / "unet" / "config.json").read_text())
    assert config["down_block_types"] == ["CrossAttnDownBlock3D", "DownBlock3D"] and not config.keys() & VIDEO_SETTINGS
    torch.save(split(expected)[0], tmp_path / "back" / "unet" / "diffusion_pytorch_model.bin")  # the pose encoder apart
    convert_weights(tmp_path / "back", tmp_path / "again")
    assert_converted(tmp_path / "again", networks)


def test_nothing_is_overwritten_and_nothing_is_left_half_written(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    with pytest.raises(ValueError, match="there: is there already"):
        convert_weights(repository, tmp_path / "there")
    state = tmp_path / "state"
    state.mkdir()
    torch.save({"conv_in.weight": torch.ones(1)}, state / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no skeleton_adapter.* weights and no pose_encoder.pth"):
        convert_weights(state, tmp_path / "new", base=repository / BASE)
    with pytest.raises(ValueError, match="pytorch_model.bin: got weights that do not fit VideoUNet: .* missing"):
        pose_encoder = repository / "pose_encoder.pth"
        convert_weights(state, tmp_path / "new", pose_encoder, base=repository / BASE)
    with pytest.raises(ValueError, match="component 'vae' is missing"):
        convert_weights(state, tmp_path / "new", base=tmp_path / "there")
    with pytest.raises(ValueError, match="has no unet/ and no checkpoints with model.safetensors or pytorch_model.bin"):
        convert_weights(tmp_path / "there", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "there"]


def test_weights_are_written_as_safetensors_writes_them(tmp_path: Path) -> None:
    weights = {
        "a.b": torch.randn(3, 4),
        "c": torch.randn(5).half(),
        "d": torch.randn(2, 2).bfloat16(),
        "e": torch.zeros(0),
    }
    write_weights(tmp_path / "a.safetensors", weights)
    assert_same(load_file(tmp_path / "a.safetensors"), weights)
    with pytest.raises(ValueError, match="i: got torch.int64"):
        write_weights(tmp_path / "b.safetensors", {"i": torch.ones(1, dtype=torch.long)})


@pytest.mark.slow
@pytest.mark.skipif(
    "FOLLOWYOURPOSE_FULL_SIZE" not in os.environ, reason="12 GB of disk and minutes; set FOLLOWYOURPOSE_FULL_SIZE"
)
def test_full_size_needs_little_more_memory_than_the_file(tmp_path: Path) -> None:
    """The real shapes with random weights: convert, then generate 2 frames of 256 px."""
    write_full_size(tmp_path / "FollowYourPose_v1")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    command = [sys.executable, "-m", "followyourpose"]
    subprocess.run([*command, "convert-weights", "FollowYourPose_v1", "ours"], cwd=tmp_path, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    size = (tmp_path / "FollowYourPose_v1" / STATE / "pytorch_model.bin").stat().st_size
    print(f"peak {peak / 1e9:.2f} GB for a file of {size / 1e9:.2f} GB (before: {before})")
    assert peak < 1.3 * size
    small = ("num_frames=2", "height=256", "width=256", "num_inference_steps=1", "prompt=a cat", "output=out")
    subprocess.run([*command, "generate", "sd14/generate", "model=ours", *small], cwd=tmp_path, check=True)
