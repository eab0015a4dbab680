"""Group normalisation and SiLU of channels_last images in three Triton kernels: moments, factors, result.

Variances of parts of an image are joined as by Chan et al. (1979): no difference of large sums, whatever the mean is.

n images   r rows of an image, its pixels   c channels   g groups   p parts of an image, ROWS rows each
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CHANNELS = 64, 64  # of a tile


@triton.jit
def _moments(x, sums, squares, rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Sum a part's values (n, r, c), and the squares of their distances to its mean, by channel: two of (n, p, c)."""
    part, n = tl.program_id(0), tl.program_id(2).to(tl.int64)
    row = part * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (row < rows) & (channel < channels)[None, :]
    value = tl.load(x + (n * rows + row) * channels + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    total = tl.sum(value, 0)
    apart = tl.where(inside, value - (total / tl.minimum(ROWS, rows - part * ROWS))[None, :], 0.0)
    place = (n * tl.num_programs(0) + part) * channels + channel
    tl.store(sums + place, total, mask=channel < channels)
    tl.store(squares + place, tl.sum(apart * apart, 0), mask=channel < channels)


@triton.jit
def _factors(
    sums, squares, weight, bias, scale, shift, rows, channels, parts, eps,
    ROWS: tl.constexpr, PARTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Join the moments of a group: scale and shift (n, c) of y = x * scale + shift."""
    group, n, width = tl.program_id(0), tl.program_id(1), channels // tl.num_programs(0)
    channel = group * width + tl.arange(0, WIDTH)
    own = tl.arange(0, WIDTH) < width
    total = tl.zeros((PARTS, WIDTH), tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)[:, None]
        total += tl.load(sums + (n * parts + part) * channels + channel, mask=(part < parts) & own, other=0.0)
    mean = tl.sum(total) / (rows * width)
    square = tl.zeros((PARTS, WIDTH), tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)[:, None]
        place, inside = (n * parts + part) * channels + channel, (part < parts) & own
        count = tl.minimum(ROWS, rows - part * ROWS).to(tl.float32)
        apart = tl.load(sums + place, mask=inside, other=0.0) / count - mean
        square += tl.where(inside, tl.load(squares + place, mask=inside, other=0.0) + count * apart * apart, 0.0)
    factor = tl.load(weight + channel, mask=own).to(tl.float32) / tl.sqrt(tl.sum(square) / (rows * width) + eps)
    tl.store(scale + n * channels + channel, factor, mask=own)
    tl.store(shift + n * channels + channel, tl.load(bias + channel, mask=own).to(tl.float32) - mean * factor, mask=own)


@triton.jit
def _result(x, y, scale, shift, rows, channels, SILU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """y = x * scale + shift, times its sigmoid where SILU: (n, r, c) -> the same."""
    n = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    place, inside = (n * rows + row) * channels + channel, (row < rows) & (channel < channels)
    factor = n * channels + channel
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    value = value * tl.load(scale + factor, mask=channel < channels) + tl.load(shift + factor, mask=channel < channels)
    if SILU:
        value = value * tl.sigmoid(value)
    tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


def fused_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool) -> Tensor:
    """Normalise images (n, c, h, w) in channels_last memory: the same shape, memory and type."""
    n, c, h, w = x.shape
    y, rows, parts = torch.empty_like(x), h * w, triton.cdiv(h * w, ROWS)
    sums, squares = torch.empty(2, n, parts, c, device=x.device)
    scale, shift = torch.empty(2, n, c, device=x.device)
    tiles = (parts, triton.cdiv(c, CHANNELS), n)
    width = triton.next_power_of_2(c // groups)
    with torch.cuda.device_of(x):  # Triton launches on the current one
        _moments[tiles](x, sums, squares, rows, c, ROWS, CHANNELS)
        _factors[groups, n](sums, squares, weight, bias, scale, shift, rows, c, parts, eps, ROWS, 32, width)
        _result[tiles](x, y, scale, shift, rows, c, silu, ROWS, CHANNELS)
    return y
