"""The released layout: read and written bit for bit, and errors for networks that it cannot hold."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from followyourpose.models.pose_encoder import PoseEncoder, zero_start
from followyourpose.models.unet import VideoUNet
from followyourpose.models.weights import (
    PREFIX,
    from_released,
    merge,
    read_state_dict,
    to_released,
)
from tests.tiny import identity_start


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    torch.testing.assert_close(dict(a), dict(b), rtol=0, atol=0)


def test_released_layout_round_trips(golden_config: dict[str, Any], golden_weights: dict[str, Tensor]) -> None:
    assert_same(to_released(*from_released(golden_config, golden_weights)), golden_weights)


def test_loaded_networks_share_no_memory_and_keep_the_dtype(
    tiny_unet: VideoUNet, tiny_pose_encoder: PoseEncoder
) -> None:
    weights = {name: weight.half() for name, weight in to_released(tiny_unet, tiny_pose_encoder).items()}
    unet, pose_encoder = from_released(tiny_unet.config, weights)
    assert unet.dtype == pose_encoder.dtype == torch.float16
    assert unet.conv_in.weight.data_ptr() != weights["conv_in.weight"].data_ptr()


def test_a_missing_weight_is_named(tiny_unet: VideoUNet, tiny_pose_encoder: PoseEncoder) -> None:
    weights = to_released(tiny_unet, tiny_pose_encoder)
    del weights[f"{PREFIX}body.3.block1.bias"]
    with pytest.raises(ValueError, match="released weights: .*PoseEncoder: 1 missing, e.g. body.3.block1.bias"):
        from_released(tiny_unet.config, weights)
    with pytest.raises(ValueError, match="released weights: .*VideoUNet: .* missing"):
        from_released(tiny_unet.config, {})


def test_a_trained_last_layer_cannot_go_back(tiny_unet: VideoUNet, tiny_pose_encoder: PoseEncoder) -> None:
    zero_start(tiny_pose_encoder)
    with pytest.raises(ValueError, match="zero_convs.0: .*exact only for"):
        to_released(tiny_unet, tiny_pose_encoder)


def test_a_network_the_released_code_cannot_build_cannot_go_back(
    tiny_config: dict[str, Any], tiny_unet: VideoUNet, tiny_pose_encoder: PoseEncoder
) -> None:
    with pytest.raises(ValueError, match="layers_per_block: got 1, but the released layout has 2"):
        to_released(VideoUNet.from_config({**tiny_config, "layers_per_block": 1}), tiny_pose_encoder)
    small = PoseEncoder(block_out_channels=[8, 16], downscale=4)
    identity_start(small)
    with pytest.raises(ValueError, match="downscale: got 4, but the released layout has 8"):
        to_released(tiny_unet, small)


def test_a_separate_pose_encoder_replaces_the_one_inside() -> None:
    one, two = torch.ones(1), 2 * torch.ones(1)
    assert merge({"a": one, f"{PREFIX}b": one, f"{PREFIX}c": one}, {"b": two}) == {"a": one, f"{PREFIX}b": two}


def test_a_file_that_is_no_state_dict_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pose_encoder.pth"
    torch.save([1, 2, 3], path)
    with pytest.raises(ValueError, match=r"pose_encoder.pth: got a list, expected a state dict"):
        read_state_dict(path)
    torch.save({"state_dict": {"a": torch.ones(1)}}, path)
    with pytest.raises(ValueError, match=r"pose_encoder.pth: got a dict, expected a state dict"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(ValueError, match=r"pose_encoder.pth: cannot be read as weights"):
        read_state_dict(path)
    path.write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"pose_encoder.pth: cannot be read as weights"):
        read_state_dict(path)
    with pytest.raises(ValueError, match=r"none.pth: no such file, expected weights"):
        read_state_dict(tmp_path / "none.pth")
