"""Group normalisation (Wu and He 2018, arXiv 1803.08494) that keeps channels_last memory on a GPU too.

PyTorch's own returns such images there with the channels first, which costs a copy at the norm and one at the
convolution after it. Triton's, in fused_norm.py, takes its place where it runs and no gradient is needed.
"""

import functools
import logging

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class GroupNorm(nn.GroupNorm):
    """Normalisation of each image by groups of channels: n c h w -> the same, in the same memory format."""

    silu = False  # whether SiLU follows

    def forward(self, x: Tensor) -> Tensor:
        if takes_fused(x):
            from followyourpose.models.fused_norm import fused_norm  # late: not every machine has Triton

            return fused_norm(x, self.num_groups, self.weight, self.bias, self.eps, self.silu)
        y = super().forward(x)
        return F.silu(y) if self.silu else y


class ClipGroupNorm(GroupNorm):
    """The same with statistics over all frames of a clip, then SiLU: (b f) c h w -> the same."""

    silu = True
    whole_clip = True  # False: statistics of each frame

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        frames = frames if self.whole_clip else 1
        x = rearrange(x, "(b f) c h w -> b c (f h) w", f=frames)  # one tall image: in channels_last a view
        return rearrange(super().forward(x), "b c (f h) w -> (b f) c h w", f=frames)


def takes_fused(x: Tensor) -> bool:
    """Whether Triton's norm takes images (n, c, h, w): on a GPU, in channels_last; a compiler fuses the plain one."""
    return (
        x.is_cuda
        and is_channels_last(x)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and _fused_runs(x.device)
    )


def is_channels_last(x: Tensor) -> bool:
    """Whether images (n, c, h, w) lie in memory in the order n h w c, and only in this one."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


@functools.cache
def _fused_runs(device: torch.device) -> bool:
    """Whether Triton's norm gives PyTorch's result on a device, tried once."""
    norm = nn.GroupNorm(4, 40, device=device)
    x = torch.randn(2, 40, 24, 8, device=device)
    try:
        from followyourpose.models.fused_norm import fused_norm

        y = fused_norm(x.to(memory_format=torch.channels_last), 4, norm.weight, norm.bias, norm.eps, silu=True)
        torch.testing.assert_close(y, F.silu(norm(x)), rtol=1e-4, atol=1e-4)
    except Exception as error:  # of a package, a driver, a compiler: whichever it is, PyTorch's norm has the result
        logger.warning(f"group norms on {device} copy, as Triton does not run: {str(error).strip().splitlines()[:1]}")
        return False
    return True
