"""The pose encoder: equal to the released one, zero at its start, and with errors for other inputs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import VideoUNet
from followyourpose.models.weights import from_released


def test_features_equal_the_released_ones(
    goldens: Path, golden_config: dict[str, Any], golden_weights: dict[str, Tensor]
) -> None:
    _, pose_encoder = from_released(golden_config, {k: v.double() for k, v in golden_weights.items()})
    case = load_file(goldens / "tiny_a_adapter.safetensors")
    for i in range(2):
        skeleton = (case[f"skeleton{i}_u8"].double() / 255).transpose(1, 2)
        with torch.no_grad():
            for level, feature in enumerate(pose_encoder(skeleton)):
                torch.testing.assert_close(feature, case[f"feat{i}_{level}_fp64"], rtol=0, atol=1e-9)


def test_full_size_names_and_shapes_are_the_released_ones(goldens: Path) -> None:
    expected = json.loads((goldens / "original_pose_encoder_keys.json").read_text())
    with torch.device("meta"):
        weights = PoseEncoder().state_dict()
    got = {name: list(weight.shape) for name, weight in weights.items() if not name.startswith("zero_convs.")}
    assert got == expected


def test_untrained_encoder_leaves_the_image_model_unchanged(
    tiny_unet: VideoUNet, clip: Callable[..., tuple[Tensor, Tensor, Tensor]]
) -> None:
    features = PoseEncoder(block_out_channels=[8, 16])(torch.rand(2, 3, 3, 64, 64))
    assert all(feature.abs().max() == 0 for feature in features)
    with torch.no_grad():
        assert torch.equal(tiny_unet(*clip(), features), tiny_unet(*clip()))


def test_zero_start_still_learns() -> None:
    pose_encoder = PoseEncoder(block_out_channels=[8, 16])
    sum(feature.sum() for feature in pose_encoder(torch.rand(1, 3, 1, 64, 64))).backward()
    assert all(conv.weight.grad.abs().max() > 0 for conv in pose_encoder.zero_convs)


def test_downscale_is_the_vaes() -> None:
    pose_encoder = PoseEncoder(block_out_channels=[8, 12, 12], layers_per_level=1, downscale=4)
    shapes = [tuple(feature.shape) for feature in pose_encoder(torch.rand(2, 3, 5, 32, 64))]
    assert shapes == [(2, 8, 5, 8, 16), (2, 12, 5, 4, 8), (2, 12, 5, 2, 4)]


def test_frames_do_not_see_one_another(tiny_pose_encoder: PoseEncoder) -> None:
    skeleton = torch.rand(1, 3, 2, 32, 32)
    with torch.no_grad():
        together, alone = tiny_pose_encoder(skeleton), tiny_pose_encoder(skeleton[:, :, 1:])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[:, :, 1:], b)


@pytest.mark.parametrize(
    ("skeleton", "message"),
    [
        (torch.zeros(1, 3, 2, 32, 32, dtype=torch.uint8), r"got torch.uint8, expected floating point in \[0, 1\]"),
        (torch.zeros(1, 3, 2, 32, 24), "got 32 x 24 pixels, expected multiples of 16"),
        (torch.zeros(1, 2, 3, 32, 32), r"got \(1, 2, 3, 32, 32\), expected \(b, 3, f, H, W\)"),
        (torch.zeros(1, 3, 32, 32), r"got \(1, 3, 32, 32\), expected \(b, 3, f, H, W\)"),
    ],
)
def test_a_skeleton_that_does_not_fit_is_refused(
    skeleton: Tensor, message: str, tiny_pose_encoder: PoseEncoder
) -> None:
    with pytest.raises(ValueError, match=f"skeleton: {message}"):
        tiny_pose_encoder(skeleton)


def test_saved_encoder_loads_again(tiny_pose_encoder: PoseEncoder, tmp_path: Path) -> None:
    tiny_pose_encoder.save_pretrained(tmp_path)
    again = PoseEncoder.from_pretrained(tmp_path)
    torch.testing.assert_close(again.state_dict(), tiny_pose_encoder.state_dict(), rtol=0, atol=0)
