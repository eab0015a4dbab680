"""Puppet detector: frame -> 17 keypoints, by heatmaps. It measures the puppet model and reads poses from videos.

Heatmaps as targets follow Tompson et al. (2014, arXiv 1406.2984); the net is a U-Net of four scales.
Letters: n frames, p people, H W pixels. Images are in [-1, 1]; keypoints are x, y in pixels and a confidence.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from followyourpose.common.pictures import check_frames
from followyourpose.pose.skeleton import NUM_JOINTS

STRIDE = 2  # pixels per heatmap cell; cell i has its centre at pixel STRIDE * i + 0.5
_MULTIPLE = 16  # the coarsest scale is H/16 x W/16


class PuppetDetector(ModelMixin, ConfigMixin):
    """Locations of a person's joints; of several people, joint by joint the most confident one.

    Args:
        size: longer side in pixels of the network's input; `detect` resizes frames to it.
        channels: of the four scales, H/2 to H/16. The defaults make 1.1 M parameters.
        sigma: width of the target gaussians in pixels.
    """

    @register_to_config
    def __init__(self, size: int = 64, channels: tuple[int, ...] = (24, 48, 96, 160), sigma: float = 2.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(6, channels[0], 5, stride=STRIDE, padding=2)
        self.down = nn.ModuleList(_Residual(c) for c in channels)
        self.narrow = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(channels[:-1], channels[1:], strict=True)
        )
        self.widen = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(channels[:-1], channels[1:], strict=True))
        self.up = nn.ModuleList(_Residual(c) for c in channels[:-1])
        self.head = nn.Conv2d(channels[0], NUM_JOINTS, 1)
        nn.init.constant_(self.head.bias, -4.0)  # prior: almost every cell is empty

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (n, 3, H, W) in [-1, 1] -> heatmap logits (n, 17, ceil(H/2), ceil(W/2))."""
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE), mode="replicate")
        # A far limb is darker than a near one by a factor: in the logarithm, the same step for every colour.
        h, skips = self.stem(torch.cat([images, (images / 2 + 0.55).clamp(min=0.05).log()], 1)), []
        for index, block in enumerate(self.down):
            h = block(h)
            if index < len(self.narrow):
                skips.append(h)
                h = self.narrow[index](h)
        for widen, block, skip in zip(reversed(self.widen), reversed(self.up), reversed(skips), strict=True):
            h = block(skip + F.interpolate(widen(h), scale_factor=2.0, mode="nearest"))
        return self.head(h)[..., : math.ceil(height / STRIDE), : math.ceil(width / STRIDE)]

    def loss(self, images: torch.Tensor, people: torch.Tensor) -> torch.Tensor:
        """Scalar `keypoint_loss` of images (n, 3, H, W) in [-1, 1] with people (n, p, 17, 3)."""
        return keypoint_loss(self(images), people, images.shape[-2:], self.config.sigma)

    @torch.no_grad()
    def detect(self, frames: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Frames (n, H, W, 3) uint8 of any size -> keypoints (n, 17, 3): x, y in pixels of the frame, confidence.

        Raises:
            ValueError: the frames are not (n, H, W, 3) uint8.
        """
        check_frames(frames)
        height, width = frames.shape[1:3]
        ratio = self.config.size / max(height, width)
        size = max(1, round(height * ratio)), max(1, round(width * ratio))
        keypoints = np.zeros((len(frames), NUM_JOINTS, 3), np.float32)
        for start in range(0, len(frames), batch_size):
            chunk = torch.from_numpy(frames[start : start + batch_size].copy()).to(self.device).movedim(-1, 1)
            images = chunk.float() / 127.5 - 1
            if size != (height, width):
                images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
            found = decode_heatmaps(self(images.to(self.dtype)).float())
            keypoints[start : start + batch_size] = found.cpu().numpy()
        # A pixel's centre is at its integer coordinates, hence half a pixel on either side of the scaling.
        scale = np.array([width / size[1], height / size[0]], np.float32)
        keypoints[..., :2] = (keypoints[..., :2] + 0.5) * scale - 0.5
        return keypoints


def keypoint_loss(
    logits: torch.Tensor, keypoints: torch.Tensor, size: tuple[int, int], sigma: float = 2.0
) -> torch.Tensor:
    """Binary cross-entropy of heatmaps, summed over cells, averaged over joints and frames; a scalar.

    Args:
        logits: (n, 17, h, w), h = ceil(H/2), w = ceil(W/2).
        keypoints: (n, p, 17, 3), x, y in pixels; a joint with confidence 0 is absent: its heatmap is empty. Frames
            with fewer people are padded with zeros.
        size: height and width in pixels of the frames.
        sigma: of the target gaussians, in pixels.

    Raises:
        ValueError: the keypoints are not (n, p, 17, 3), or the logits are not of frames of that size.
    """
    n, expected = len(logits), tuple(math.ceil(side / STRIDE) for side in size)
    if tuple(logits.shape[1:]) != (NUM_JOINTS, *expected):
        raise ValueError(f"logits are {tuple(logits.shape)}, expected {(n, NUM_JOINTS, *expected)} for size {size}")
    if keypoints.ndim != 4 or len(keypoints) != n or tuple(keypoints.shape[2:]) != (NUM_JOINTS, 3):
        raise ValueError(f"keypoints are {tuple(keypoints.shape)}, expected ({n}, people, {NUM_JOINTS}, 3)")
    target = target_heatmaps(keypoints, size, sigma).to(logits)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum((-1, -2)).mean()


def target_heatmaps(keypoints: torch.Tensor, size: tuple[int, int], sigma: float = 2.0) -> torch.Tensor:
    """Keypoints (n, p, 17, 3) -> (n, 17, h, w) in [0, 1]: the maximum over people of gaussians of `sigma` pixels."""
    keypoints = keypoints.float()
    y, x = (STRIDE * torch.arange(math.ceil(s / STRIDE), device=keypoints.device) + 0.5 for s in size)
    dx = (x - keypoints[..., 0, None]).square()[..., None, :]  # (n, p, 17, 1, w)
    dy = (y - keypoints[..., 1, None]).square()[..., :, None]  # (n, p, 17, h, 1)
    seen = (keypoints[..., 2] > 0)[..., None, None]
    heat = torch.where(seen, torch.exp(-(dx + dy) / (2 * sigma**2)), 0.0)
    return heat.amax(1) if keypoints.shape[1] else heat.sum(1)  # nobody has no maximum


def decode_heatmaps(logits: torch.Tensor) -> torch.Tensor:
    """Logits (n, 17, h, w) -> keypoints (n, 17, 3): the refined peak, and its probability as confidence.

    The refinement is a soft-argmax: the mean of the cells at most 2 from the peak, weighted by their probability.
    """
    width = logits.shape[-1]
    heat = logits.sigmoid()
    confidence, peak = heat.flatten(2).max(-1)  # (n, 17)
    rows, columns = (torch.arange(side, device=logits.device) for side in logits.shape[-2:])
    near_y = ((rows - (peak // width)[..., None]).abs() <= 2)[..., :, None]
    near_x = ((columns - (peak % width)[..., None]).abs() <= 2)[..., None, :]
    weight = heat * near_y * near_x
    total = weight.sum((-1, -2)).clamp(min=1e-12)
    x = (weight * columns).sum((-1, -2)) / total
    y = (weight * rows[:, None]).sum((-1, -2)) / total
    return torch.stack([STRIDE * x + 0.5, STRIDE * y + 0.5, confidence], -1)


class _Residual(nn.Module):
    """Residual block of two 3x3 convolutions with group normalisation: (n, c, h, w) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(math.gcd(8, channels), channels) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(h))))))
