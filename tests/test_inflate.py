"""Inflation: every image weight is used, and the new layers change nothing at first."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from followyourpose.models.inflate import NEW_LAYERS, inflate, inflate_weights
from followyourpose.models.unet import VideoUNet


def test_every_image_weight_is_used(tiny_config: dict[str, Any]) -> None:
    image_unet = UNet2DConditionModel.from_config(tiny_config)
    video_weights = inflate(image_unet).state_dict()
    image_weights = image_unet.state_dict()
    assert image_weights.keys() <= video_weights.keys()
    assert all(torch.equal(video_weights[name], weight) for name, weight in image_weights.items())
    new = video_weights.keys() - image_weights.keys()
    assert all(any(layer in name for layer in NEW_LAYERS) for name in new)


def test_a_frame_of_a_still_clip_equals_the_image_unet(
    tiny_config: dict[str, Any], clip: Callable[..., tuple[Tensor, Tensor, Tensor]]
) -> None:
    """Of equal frames, cross-frame attention and clip-wide norms are the image UNet's."""
    image_unet = UNet2DConditionModel.from_config(tiny_config)
    latents, timestep, text = clip(f=1)
    with torch.no_grad():
        expected = image_unet(latents[:, :, 0], timestep, text).sample
        got = inflate(image_unet)(latents.repeat(1, 1, 3, 1, 1), timestep, text)
    for frame in got.unbind(2):
        torch.testing.assert_close(frame, expected, rtol=0, atol=1e-5)


def test_with_nothing_over_time_each_frame_is_the_image_unets(
    tiny_config: dict[str, Any], clip: Callable[..., tuple[Tensor, Tensor, Tensor]]
) -> None:
    """With the two ablations together, before training, a clip is a batch of images."""
    image_unet = UNet2DConditionModel.from_config(tiny_config)
    unet = inflate(image_unet, {"clip_norm": False, "cross_frame_attention": False})
    latents, timestep, text = clip()
    with torch.no_grad():
        frames = [image_unet(frame, timestep, text).sample for frame in latents.unbind(2)]
        torch.testing.assert_close(unet(latents, timestep, text), torch.stack(frames, 2), rtol=0, atol=1e-5)


def test_pose_features_side_by_side_start_as_the_image_unet_too(
    tiny_config: dict[str, Any], clip: Callable[..., tuple[Tensor, Tensor, Tensor]]
) -> None:
    image_unet = UNet2DConditionModel.from_config(tiny_config)
    unet = inflate(image_unet, {"pose_fusion": "concat"})
    latents, timestep, text = clip(f=1)
    features = [torch.zeros(2, c, 1, 8 >> i, 8 >> i) for i, c in enumerate(unet.config.block_out_channels)]
    with torch.no_grad():
        expected = image_unet(latents[:, :, 0], timestep, text).sample
        unposed = unet(latents, timestep, text, features)
        posed = unet(latents, timestep, text, [feature + 1 for feature in features])
    torch.testing.assert_close(unposed[:, :, 0], expected, rtol=0, atol=1e-5)
    assert not torch.allclose(posed, unposed)


def test_a_video_unet_takes_settings_and_keeps_its_weights(tiny_unet: VideoUNet) -> None:
    unet = inflate(tiny_unet, {"cross_frame_attention": False})
    assert not unet.config.cross_frame_attention and unet.config.clip_norm
    assert all(torch.equal(unet.state_dict()[name], weight) for name, weight in tiny_unet.state_dict().items())
    with pytest.raises(ValueError, match="pose_fusion: got 'sum', expected one of add, concat"):
        inflate(tiny_unet, {"pose_fusion": "sum"})


def test_it_shares_no_memory_and_keeps_the_dtype(tiny_config: dict[str, Any]) -> None:
    image_unet = UNet2DConditionModel.from_config(tiny_config).to(torch.bfloat16)
    unet = inflate(image_unet)
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.bfloat16}
    assert unet.conv_in.weight.data_ptr() != image_unet.conv_in.weight.data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("conv_in.bias"), "1 missing, e.g. conv_in.bias"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "1 not expected, e.g. extra"),
        (lambda weights: weights.update({"conv_in.bias": torch.zeros(3)}), "1 of another shape, e.g. conv_in.bias"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    change: Callable[[dict[str, Tensor]], Any], message: str, tiny_config: dict[str, Any]
) -> None:
    weights = dict(UNet2DConditionModel.from_config(tiny_config).state_dict())
    change(weights)
    with pytest.raises(ValueError, match=f"image UNet: .*{message}"):
        inflate_weights(tiny_config, weights)


def test_stable_diffusion_2_is_refused(tiny_config: dict[str, Any]) -> None:
    image_unet = UNet2DConditionModel.from_config({**tiny_config, "use_linear_projection": True})
    with pytest.raises(ValueError, match="use_linear_projection: got True, expected False"):
        inflate(image_unet)
