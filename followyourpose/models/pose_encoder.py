"""The pose encoder of Follow Your Pose (arXiv 2304.01186, stage 1): a skeleton clip -> one feature map per level.

A light convolutional network, frame by frame. Modules carry the released weights' names, but for the 1x1 convolutions
`zero_convs`, which the released encoder does not have.

    b clips   f frames   c channels   H W pixels   h w latent height and width
"""

from collections.abc import Sequence

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor, nn

from followyourpose.models.loading import StrictLoading


class ResidualBlock(nn.Module):
    """x + block2(relu(block1(x))), after a 1x1 convolution where the width changes: n c h w -> n c_out h w."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.in_conv = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.block1 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.block2 = nn.Conv2d(c_out, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(x)
        return x + self.block2(F.relu(self.block1(x)))


class PoseEncoder(StrictLoading, ModelMixin, ConfigMixin):
    """Encodes a rendered skeleton clip as pose features for the UNet's down blocks; before training, they are zero.

    `block_out_channels` are the UNet's, `downscale` is the VAE's factor from pixels to latents, and every level has
    `layers_per_level` residual blocks, numbered throughout in `body`.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_level: int = 2,
        downscale: int = 8,
    ):
        super().__init__()
        channels = list(block_out_channels)
        self.conv_in = nn.Conv2d(in_channels * downscale**2, channels[0], 3, padding=1)
        self.body = nn.ModuleList()
        for c_in, c_out in zip([channels[0], *channels], channels, strict=False):
            self.body.extend(ResidualBlock(c_in if i == 0 else c_out, c_out) for i in range(layers_per_level))
        self.zero_convs = nn.ModuleList(nn.Conv2d(c, c, 1) for c in channels)
        zero_start(self)

    def forward(self, skeleton: Tensor) -> list[Tensor]:
        """Return a skeleton clip's features: level i is (b, c_i, f, H / downscale / 2^i, W / downscale / 2^i).

        Args:
            skeleton: rendered frames (b, 3, f, H, W) in [0, 1], RGB.

        Raises:
            ValueError: the skeleton is not floating point, has other channels, or a side that does not divide.
        """
        self._check_skeleton(skeleton)
        frames = skeleton.shape[2]
        x = F.pixel_unshuffle(rearrange(skeleton, "b c f h w -> (b f) c h w"), self.config.downscale)
        x = self.conv_in(x)
        features = []
        for level, zero_conv in enumerate(self.zero_convs):
            x = F.avg_pool2d(x, 2) if level > 0 else x
            for i in range(self.config.layers_per_level):
                x = self.body[level * self.config.layers_per_level + i](x)
            features.append(rearrange(zero_conv(x), "(b f) c h w -> b c f h w", f=frames))
        return features

    def _check_skeleton(self, skeleton: Tensor) -> None:
        channels, multiple = self.config.in_channels, self.config.downscale * 2 ** (len(self.zero_convs) - 1)
        if skeleton.ndim != 5 or skeleton.shape[1] != channels:
            raise ValueError(f"skeleton: got {tuple(skeleton.shape)}, expected (b, {channels}, f, H, W)")
        if not skeleton.is_floating_point():
            raise ValueError(f"skeleton: got {skeleton.dtype}, expected floating point in [0, 1]; divide bytes by 255")
        if skeleton.shape[3] % multiple or skeleton.shape[4] % multiple:
            raise ValueError(
                f"skeleton: got {skeleton.shape[3]} x {skeleton.shape[4]} pixels, expected multiples of {multiple}"
            )


def zero_start(pose_encoder: PoseEncoder) -> None:
    """Set the last convolution of every level to zero, in place: such an encoder leaves the UNet unchanged.

    The released encoder has no such layer, and disturbs the image model from its first step.
    """
    for parameter in pose_encoder.zero_convs.parameters():
        nn.init.zeros_(parameter)
