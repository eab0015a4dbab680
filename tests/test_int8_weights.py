"""Weights in 8 bits: their rounding, their size, and the results of their layers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from followyourpose import VideoUNet
from followyourpose.models.int8_weights import int8_layers, keep_in_int8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [partial(nn.Linear, 6, 4), partial(nn.Conv2d, 3, 4, 3)], ids=["linear", "conv"])
def test_a_weight_moves_by_half_a_step_at_most(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    layer = make().to(dtype)
    with torch.no_grad():
        layer.weight *= torch.tensor([1, 1e-2, 100, 0]).reshape(-1, *[1] * (layer.weight.ndim - 1))
    before = layer.weight.detach().clone()
    keep_in_int8(layer)
    whole, scale = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    assert whole.dtype == torch.int8 and scale.shape == (4, *[1] * (before.ndim - 1))
    assert layer.weight.dtype == dtype and not layer.weight[3].any()
    rounding = 2 * 127 * torch.finfo(dtype).eps  # of the largest weights, in steps
    assert ((layer.weight - before).float().abs() <= (0.5 + rounding) * scale.float()).all()


def test_a_network_needs_a_quarter_and_computes_nearly_the_same(tiny_unet: VideoUNet, clip: Callable[..., Any]) -> None:
    def size() -> int:
        return sum(parameter.nbytes for parameter in tiny_unet.parameters())

    full, saved = size(), sum(3 * layer.weight.numel() for layer in int8_layers(tiny_unet))
    with torch.no_grad():
        before = tiny_unet(*clip())
        keep_in_int8(tiny_unet)
        after = tiny_unet(*clip())
    scales = sum(p.nbytes for name, p in tiny_unet.named_parameters() if name.endswith("original1"))
    assert size() == full - saved + scales and saved > 0.6 * full
    assert tiny_unet.dtype == torch.float32 and not any(p.requires_grad for p in tiny_unet.parameters())
    assert 0 < (after - before).square().mean() < 1e-3 * before.var()
