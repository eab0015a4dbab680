"""The config of the released code's settings gives that code's inputs: frames, skeleton and noise."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from followyourpose.config import GenerateConfig, load_config
from followyourpose.generation.skeletons import open_skeleton
from followyourpose.pipeline.inputs import initial_noise

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "sd14" / "released.yaml"


def test_its_values_are_the_released_ones() -> None:
    config = load_config(GenerateConfig, CONFIG)
    assert (config.num_frames, config.stride, config.temporal_offset, config.seed) == (32, 5, 0, 33)
    assert (config.height, config.width, config.skeleton_resize) == (512, 512, "bilinear")
    assert (config.num_inference_steps, config.guidance_scale, config.scheduler) == (50, 12.5, "ddim")
    assert (config.pose_guidance, config.noise, config.dtype, config.negative_prompt) == (
        "both", "independent", "float32", ""
    )  # fmt: skip
    assert config.long_video.windows(config.num_frames) == [tuple(range(32))]
    whole = ("pose_scale", "pose_end", "guidance_end", "cache_interval")
    assert [getattr(config, key) for key in whole] == [1, 1, 1, 1] and config.weights == "full"


def test_the_noise_is_one_draw_for_all_frames() -> None:
    shape, cpu = (1, 4, 32, 64, 64), torch.device("cpu")
    noise = initial_noise(shape, load_config(GenerateConfig, CONFIG).noise, torch.Generator().manual_seed(33), cpu)
    assert torch.equal(noise, torch.randn(shape, generator=torch.Generator().manual_seed(33)))


@pytest.mark.parametrize(("case", "stride", "num_frames"), [("0", 5, 3), ("1", 4, 2)])
def test_a_skeleton_is_the_released_codes(
    goldens: Path, tmp_path: Path, case: str, stride: int, num_frames: int
) -> None:
    reference = load_file(goldens / "skeleton_preproc.safetensors")
    for number, frame in enumerate(reference[f"frames{case}_u8"].numpy()):
        Image.fromarray(frame).save(tmp_path / f"{number:02d}.png")
    changes = [f"skeleton={tmp_path}", f"stride={stride}", f"num_frames={num_frames}"]
    config = load_config(GenerateConfig, CONFIG, changes)
    frames = torch.from_numpy(open_skeleton(config).frames(config.height, config.width))
    skeleton: Tensor = frames.movedim(-1, 1)[None, ..., 3::16, 5::16]
    torch.testing.assert_close(skeleton, reference[f"skeleton{case}_sub"], rtol=0, atol=2e-6)
