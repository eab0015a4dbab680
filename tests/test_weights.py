"""The released layout: read and written bit for bit, and errors for networks that it cannot hold."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor

from followyourpose.models.pose_encoder import PoseEncoder, identity_start, zero_start
from followyourpose.models.unet import VideoUNet
from followyourpose.models.weights import (
    PREFIX,
    VIDEO_SETTINGS,
    convert_weights,
    from_released,
    merge,
    read_state_dict,
    split,
    to_released,
)


class FollowYourPosePipeline(DiffusionPipeline):
    """A pipeline of the least that diffusers needs to load our folders."""

    def __init__(self, unet: VideoUNet, pose_encoder: PoseEncoder, scheduler: DDIMScheduler):
        super().__init__()
        self.register_modules(unet=unet, pose_encoder=pose_encoder, scheduler=scheduler)


@pytest.fixture
def released(tiny_unet: VideoUNet, tiny_pose_encoder: PoseEncoder, tmp_path: Path) -> Path:
    """A folder in the released layout: the pose encoder only in its own file, 3-D block names, a scheduler beside."""
    state_dict = to_released(tiny_unet, tiny_pose_encoder)
    unet_weights, pose_weights = split(state_dict)
    config = {key: value for key, value in tiny_unet.config.items() if key not in VIDEO_SETTINGS}
    config["down_block_types"] = ["CrossAttnDownBlock3D", "DownBlock3D"]
    config["up_block_types"] = ["UpBlock3D", "CrossAttnUpBlock3D"]
    folder = tmp_path / "released"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    torch.save(unet_weights, folder / "unet" / "diffusion_pytorch_model.bin")
    torch.save(pose_weights, folder / "pose_encoder.pth")
    DDIMScheduler(steps_offset=1).save_pretrained(folder / "scheduler")
    return folder


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


def test_folders_round_trip(
    released: Path, tiny_unet: VideoUNet, tiny_pose_encoder: PoseEncoder, tmp_path: Path
) -> None:
    convert_weights(released, tmp_path / "ours")
    assert_same(VideoUNet.from_pretrained(tmp_path / "ours" / "unet").state_dict(), tiny_unet.state_dict())
    encoder = PoseEncoder.from_pretrained(tmp_path / "ours" / "pose_encoder")
    assert_same(encoder.state_dict(), tiny_pose_encoder.state_dict())

    convert_weights(tmp_path / "ours", tmp_path / "back", to="released")
    expected = to_released(tiny_unet, tiny_pose_encoder)
    assert_same(read_state_dict(tmp_path / "back" / "unet" / "diffusion_pytorch_model.bin"), expected)
    assert_same(read_state_dict(tmp_path / "back" / "pose_encoder.pth"), split(expected)[1])
    config = json.loads((tmp_path / "back" / "unet" / "config.json").read_text())
    assert config["down_block_types"] == ["CrossAttnDownBlock3D", "DownBlock3D"]
    convert_weights(tmp_path / "back", tmp_path / "again")
    assert (tmp_path / "again" / "scheduler" / "scheduler_config.json").is_file()


def test_converted_folder_loads_as_a_pipeline_and_saves_the_same(released: Path, tmp_path: Path) -> None:
    convert_weights(released, tmp_path / "ours")
    pipeline = FollowYourPosePipeline.from_pretrained(tmp_path / "ours")
    assert isinstance(pipeline.unet, VideoUNet) and isinstance(pipeline.pose_encoder, PoseEncoder)
    pipeline.save_pretrained(tmp_path / "saved")
    names = ("unet", "pose_encoder", "scheduler")
    ours, saved = (json.loads((tmp_path / x / "model_index.json").read_text()) for x in ("ours", "saved"))
    assert {name: ours[name] for name in names} == {name: saved[name] for name in names}


def test_nothing_is_overwritten_and_nothing_is_left_half_written(released: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    with pytest.raises(ValueError, match="there: is there already"):
        convert_weights(released, tmp_path / "there")
    (released / "pose_encoder.pth").unlink()
    with pytest.raises(ValueError, match="no skeleton_adapter.* weights and no pose_encoder.pth"):
        convert_weights(released, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["released", "there"]
