"""Fixtures of several test files: tiny networks and runs, and numbers of the authors' released network."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from followyourpose import FollowYourPosePipeline
from followyourpose.hub import places
from followyourpose.hub.registry import DOWNLOADS
from followyourpose.hub.resolve import fetched
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import VideoUNet
from followyourpose.puppets.dataset import write_dataset
from tests.runs import SIZE, STAGE1, STAGE2, settings
from tests.tiny import identity_start, write_image_model

REPOSITORY = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # see conftest.py
    torch.set_num_threads(1)

# Keys of diffusers' UNet2DConditionModel; two levels, so that every kind of block occurs once on the way down and up.
TINY = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 2,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}


def shared(name: str, content: str) -> Path:
    """The folder of that name beside the repository, or its variable's; skips the test where there is none."""
    variable = f"FOLLOWYOURPOSE_{name.upper()}"
    folder = Path(os.environ.get(variable, REPOSITORY.parent / "shared" / name))
    if not folder.is_dir():
        pytest.skip(f"no {content} at {folder}; set {variable} to their folder")
    return folder


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of numbers computed with the authors' released network on small random weights."""
    return shared("goldens", "reference numbers")


@pytest.fixture(scope="session")
def golden_config(goldens: Path) -> dict[str, Any]:
    """The diffusers UNet config of the reference network."""
    return json.loads((goldens / "tiny_a_config.json").read_text())


@pytest.fixture(scope="session")
def golden_weights(goldens: Path) -> dict[str, Tensor]:
    """The reference network's weights in the released layout, fp32."""
    return load_file(goldens / "tiny_a_weights.safetensors")


@pytest.fixture(scope="session")
def material() -> Path:
    """The folder of real footage of people, with annotations; its README has the sources."""
    return shared("material", "footage of people")


@pytest.fixture(scope="session")
def light() -> Path:
    """BlazePose's landmark network, its detector beside it, out of the wheel, once for each user's cache."""
    pytest.importorskip("ai_edge_litert", reason="backend light needs LiteRT: pip install -e '.[pose]'")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "followyourpose"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE")
        patch.setattr(places, "CHECKPOINTS", cache / "checkpoints")
        patch.setitem(DOWNLOADS, "light", replace(DOWNLOADS["light"], sources=DOWNLOADS["light"].sources[1:]))
        try:
            return fetched("light")
        except ValueError as error:
            pytest.skip(f"BlazePose's weights cannot be had here: {error}")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with image-model, video-model (the same, inflated), data/images and data/clips; not to be changed."""
    folder = tmp_path_factory.mktemp("world")
    write_image_model(folder / "image-model")
    torch.manual_seed(0)
    FollowYourPosePipeline.from_image_model(folder / "image-model").save_pretrained(folder / "video-model")
    write_dataset(folder / "data", images=7, clips=3, size=SIZE, clip_frames=6)
    return folder


@pytest.fixture(scope="session")
def stage1(world: Path) -> Path:
    """A finished run of stage 1; not to be changed."""
    from followyourpose.training.loop import train  # late: most test files need none of it

    return train(settings(world, world / "runs" / "stage1", STAGE1))


@pytest.fixture(scope="session")
def stage2(world: Path, stage1: Path) -> Path:
    """A finished run of stage 2, on top of `stage1`; not to be changed."""
    from followyourpose.training.loop import train

    return train(settings(world, world / "runs" / "stage2", STAGE2, f"init={stage1}"))


def write_acting(folder: Path, layers: int) -> FollowYourPosePipeline:
    pipe = FollowYourPosePipeline.from_image_model(write_image_model(folder / "image", layers))
    randomise(pipe.unet)
    randomise(pipe.pose_encoder)
    return pipe


@pytest.fixture(scope="session")
def acting(tmp_path_factory: pytest.TempPathFactory) -> FollowYourPosePipeline:
    """A tiny pipeline in which the pose and every layer act, for 32 x 32 pixels; not to be changed."""
    return write_acting(tmp_path_factory.mktemp("model"), layers=2)


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> FollowYourPosePipeline:
    """The same with a layer less per level, to take the place of `acting` where depth is of no matter."""
    return write_acting(tmp_path_factory.mktemp("model"), layers=1)


@pytest.fixture
def pipe(acting: FollowYourPosePipeline) -> FollowYourPosePipeline:
    """The same, fresh for every test; a test file that needs another model has its own."""
    pipe = FollowYourPosePipeline(**copy.deepcopy(acting.components))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def tiny_config() -> dict[str, Any]:
    """A diffusers UNet config of two levels, 8 and 16 channels wide."""
    return dict(TINY)


@pytest.fixture
def tiny_unet() -> VideoUNet:
    """A video UNet of two levels in which every weight is random, so that no layer is an identity."""
    return randomise(VideoUNet.from_config(TINY))


@pytest.fixture
def tiny_pose_encoder() -> PoseEncoder:
    """A pose encoder for `tiny_unet` (VAE factor 8) whose features are not zero."""
    torch.manual_seed(1)
    pose_encoder = PoseEncoder(block_out_channels=TINY["block_out_channels"])
    identity_start(pose_encoder)
    return pose_encoder


@pytest.fixture
def clip() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Gives random latents (b, 4, f, 8, 8), timesteps (b,) and text (b, 5, 12) for `tiny_unet`."""

    def make(b: int = 2, f: int = 3, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(2)
        latents = torch.randn(b, 4, f, size, size, generator=generator)
        return latents, torch.arange(b) * 400 + 100, torch.randn(b, 5, 12, generator=generator)

    return make


@torch.no_grad()
def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Gives every weight of a model some noise, in place, so that nothing that starts at zero stays unseen."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model
