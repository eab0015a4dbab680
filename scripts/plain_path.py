"""Plain denoising step, the measure of the exact savings: the same weights and result, nothing saved.

The authors' released code computes it so, with PyTorch's attention: the pose encoder and the text's keys and values
at every step, all for both halves of guidance, and keys and values of two frames for every frame.

    b clips   f frames   c channels   h w latent height and width   l tokens of a frame   t text tokens   d text width
"""

from unittest import mock

import torch
from einops import rearrange
from torch import Tensor

from followyourpose.models.attention import CrossFrameAttention
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import VideoUNet


def plain_step(
    unet: VideoUNet, pose_encoder: PoseEncoder, latents: Tensor, timestep: Tensor, text: Tensor, skeleton: Tensor
) -> Tensor:
    """Predict the noise (2b, c, f, h, w) of latents (b, c, f, h, w) for texts (2b, t, d).

    Texts are [unconditional, conditional], the skeleton is (b, 3, f, H, W) in [0, 1].
    """
    with mock.patch.object(CrossFrameAttention, "forward", _first_and_previous_for_all):
        features = pose_encoder(torch.cat([skeleton, skeleton]))
        return unet(torch.cat([latents, latents]), timestep, text, features)


def _first_and_previous_for_all(self: CrossFrameAttention, x: Tensor, frames: int) -> Tensor:
    x_of_frame = rearrange(x, "(b f) l c -> b f l c", f=frames)
    first = x_of_frame[:, :1].expand_as(x_of_frame)
    previous = torch.cat([x_of_frame[:, :1], x_of_frame[:, :-1]], dim=1)
    context = rearrange(torch.cat([first, previous], dim=2), "b f l c -> (b f) l c")
    return self.attend(x, self.keys_values(context))
