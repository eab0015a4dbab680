"""Weights kept as whole numbers of 8 bits with a scale per output channel, and computed with in their own dtype.

diffusers' casting by layer keeps weights in 8 bits too, but as floats with three bits of fraction, which is less exact.
Through it torchao, quanto and bitsandbytes take linear layers only, a third of this UNet's weights.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization


class Int8(nn.Module):
    """A weight (c_out, ...) as `whole` (c_out, ...), from -127 to 127, times `scale` (c_out, 1, ...)."""

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True) / 127
        scale = torch.where(scale > 0, scale, 1)
        return (weight.float() / scale.float()).round().clamp(-127, 127).to(torch.int8), scale

    def forward(self, whole: Tensor, scale: Tensor) -> Tensor:
        return whole * scale


def int8_layers(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """The layers of a model whose weights `keep_in_int8` takes."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def keep_in_int8(model: nn.Module) -> None:
    """Brings the weights of linear layers and convolutions of a model to 8 bits, in place and for good."""
    model.requires_grad_(False)  # whole numbers have no gradient
    for layer in int8_layers(model):
        register_parametrization(layer, "weight", Int8(), unsafe=True)  # unsafe: the parts have another dtype
