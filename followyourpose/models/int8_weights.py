"""Weights stored as 8-bit integers with a scale per output channel, and computed with in their own dtype.

diffusers' layerwise casting stores 8 bits too, but as floats with three bits of fraction, which is less exact. torchao,
quanto and bitsandbytes, in diffusers, take linear layers only, a third of this UNet's weights.
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
    """Return the layers of a model that `keep_in_int8` converts."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def keep_in_int8(model: nn.Module) -> None:
    """Convert the weights of a model's linear layers and convolutions to 8 bits, in place and for good.

    Raises:
        ValueError: a weight is not finite; no integer would show it.
    """
    model.requires_grad_(False)  # integers have no gradient
    for layer in int8_layers(model):
        if not layer.weight.isfinite().all():
            raise ValueError(f"{type(layer).__name__} {tuple(layer.weight.shape)}: got weights with NaN or infinity")
        register_parametrization(layer, "weight", Int8(), unsafe=True)  # unsafe: the parts have another dtype
