"""Scales of loaded LoRAs: by block of the UNet, as diffusers' `set_adapters` takes them; of a call; by frame and place.

n images, the frames of all clips   h w height and width of a level, or 1
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Scales = float | Mapping[str, Any] | None  # None: 1
LoraScale = float | list[Tensor]  # one for all places, or a map (n, h, w, 1) of each level of the UNet
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
def scaled_loras(model: Any, scale: float = 1.0, own: Mapping[str, LoraScale] | None = None) -> Iterator[None]:
    """Multiply the scales of a model's active LoRAs for the duration of the block.

    Args:
        own: scales of LoRAs by their names, beside the one of all. Maps multiply what a LoRA adds to the images of a
            layer, at the layer's level; the keys and values of the text, which have no place, are left to the caller.
    """
    own = own or {}
    before = [] if scale == 1 and not own else [(*each, dict(each[1].scaling)) for each in _tuned(model)]
    try:
        for layer, module, scaling in before:
            for name in scaling.keys() & set(module.active_adapters):
                factor = own.get(name, 1.0)
                here = _at_layer(factor, layer, module) if isinstance(factor, list) else factor
                module.scaling[name] = scaling[name] * scale * here
        yield
    finally:
        for _, module, scaling in before:
            module.scaling.update(scaling)  # exactly as it was: to divide again would round, and not undo a 0


def active_loras(model: Any) -> set[str]:
    """Return the names of a model's active LoRAs."""
    return {name for _, module in _tuned(model) for name in module.scaling.keys() & set(module.active_adapters)}


def check_mapped(model: Any, names: Iterable[str]) -> None:
    """Raise a ValueError unless LoRAs can have maps as their scales, layer by layer.

    A time has no place before it meets an image, and DoRA's norm is that of the whole addition.
    """
    for name in names:
        for layer, module in _tuned(model):
            if name in module.scaling and layer.startswith("time_embedding."):
                raise ValueError(
                    f"{name}: got a LoRA of {layer}, which acts everywhere, expected none by frame or person"
                )
            if name in module.lora_variant:
                raise ValueError(f"{name}: got a DoRA ({layer}), expected a plain LoRA by frame or person")


def _at_layer(maps: list[Tensor], layer: str, module: Any) -> Tensor | float:
    """Return the map of a layer's level, in the shape of what the layer gives."""
    if layer.endswith(("attn2.to_k", "attn2.to_v")):
        return 1.0
    own = maps[_level(layer, len(maps))]
    if isinstance(module.get_base_layer(), nn.Conv2d):
        return own.movedim(-1, 1)  # n 1 h w
    return own if layer.endswith(".time_emb_proj") else own.flatten(1, 2)  # of tokens: n l 1


def _level(layer: str, levels: int) -> int:
    """Return the level of a layer's output: down_blocks.0.downsamplers.0.conv has that of block 1."""
    part, *rest = layer.split(".")
    if part == "mid_block":
        return levels - 1
    if part == "down_blocks":
        return int(rest[0]) + (rest[1] == "downsamplers")
    return levels - 1 - int(rest[0]) - (rest[1] == "upsamplers") if part == "up_blocks" else 0


def _tuned(model: Any) -> Iterator[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer  # late: a second that a model without LoRAs need not wait

    for name, module in [] if model is None else model.named_modules():  # a pipeline may lack its text encoder
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
