"""Scales of loaded LoRAs: one for each block of the UNet, as diffusers' `set_adapters` takes them, or one of a call."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Scales = float | Mapping[str, Any] | None  # None: 1
_BLOCKS = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}


class BlockScales:
    """A diffusers network of down, mid and up blocks, whose LoRAs may have a scale for each block."""

    config: Any

    def set_adapters(self, adapter_names: str | list[str], weights: Scales | list[Scales] = None) -> None:
        """Activate LoRAs, each with its scale.

        Args:
            adapter_names: one or several of the loaded ones.
            weights: one for all, or one each: a number, or {"down": ..., "mid": ..., "up": ...}, where "down" and "up"
                are a number or {"block_0": ...}, and a block's is a number or a list, one for each of its layers.
                1 for what is left out.

        Raises:
            ValueError: there is no such LoRA or block, or the numbers do not fit.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        each = weights if isinstance(weights, list) else [weights] * len(names)
        if len(each) != len(names):
            raise ValueError(f"weights: got {len(each)} for {len(names)} adapters, expected one for all, or one each")
        super().set_adapters(names, [1.0 if isinstance(scales, Mapping) else scales for scales in each])  # type: ignore[misc]  # of the mixin beside
        for name, scales in zip(names, each, strict=True):
            if isinstance(scales, Mapping):
                _check(scales, self.config.layers_per_block, len(self.config.block_out_channels))
                for layer, module in _tuned(self):
                    module.set_scale(name, _scale_of(layer, scales))


@contextmanager
def scaled_loras(model: Any, scale: float) -> Iterator[None]:
    """Multiply the scales of a model's active LoRAs for the duration of the block."""
    before = [] if scale == 1 else [(module, dict(module.scaling)) for _, module in _tuned(model)]
    try:
        for module, _ in before:
            for name in module.active_adapters:
                if name in module.scaling:
                    module.scaling[name] *= scale
        yield
    finally:
        for module, scaling in before:
            module.scaling.update(scaling)  # exactly as it was: to divide again would round, and not undo a 0


def _tuned(model: Any) -> Iterator[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer  # late: a second that a model without LoRAs need not wait

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module


def _scale_of(layer: str, scales: Mapping[str, Any]) -> float:
    """Return a layer's scale: down_blocks.1.attentions.0.proj_in has that of layer 0 of block 1 of "down"."""
    part, *rest = layer.split(".")
    scale = scales.get(_BLOCKS.get(part, ""), 1.0)
    if isinstance(scale, Mapping):
        scale = scale.get(f"block_{rest[0]}", 1.0)
    if isinstance(scale, Sequence):
        index = int(rest[1 if part == "mid_block" else 2])
        scale = scale[min(index, len(scale) - 1)]
    return float(scale)


def _check(scales: Mapping[str, Any], layers: int, levels: int) -> None:
    """Raise a ValueError that names the first block, or number of layers, that the network does not have."""
    for part, inner in scales.items():
        if part not in _BLOCKS.values():
            raise ValueError(f"weights: got {part!r}, expected {', '.join(_BLOCKS.values())}")
        count = {"down": layers, "mid": 1, "up": layers + 1}[part]
        blocks = inner if isinstance(inner, Mapping) and part != "mid" else {"": inner}
        for block, scale in blocks.items():
            if block and block not in [f"block_{i}" for i in range(levels)]:
                raise ValueError(f"weights: {part}: got {block!r}, expected block_0 to block_{levels - 1}")
            numbers = scale if isinstance(scale, list | tuple) else [scale]
            if len(numbers) not in (1, count) or not all(isinstance(number, int | float) for number in numbers):
                place = ".".join(filter(None, (part, block)))
                raise ValueError(f"weights: {place}: got {scale!r}, expected a number, or {count} of them")
