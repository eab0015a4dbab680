"""The benchmark's plain path: the network's result without its savings."""

import torch

from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import VideoUNet
from scripts.plain_path import plain_step


@torch.no_grad()
def test_exact_savings_change_nothing(tiny_unet: VideoUNet, tiny_pose_encoder: PoseEncoder) -> None:
    for frames in (1, 2, 5):
        latents, skeleton = torch.randn(2, 4, frames, 8, 8), torch.rand(2, 3, frames, 64, 64)
        text, timestep = torch.randn(4, 5, 12), torch.tensor(501)
        features = [torch.cat([x, x]) for x in tiny_pose_encoder(skeleton)]
        saved = tiny_unet(latents, timestep, tiny_unet.encode_text(text), features)
        plain = plain_step(tiny_unet, tiny_pose_encoder, latents, timestep, text, skeleton)
        torch.testing.assert_close(saved, plain, rtol=1e-5, atol=1e-5)
