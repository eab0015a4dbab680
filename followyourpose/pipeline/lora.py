"""Which LoRA files fit a pipeline: of the same base, layer by layer, or else what does not fit is named.

n adapted layers; a layer's LoRA is A (rank, inputs) and B (outputs, rank), of convolutions with kernels behind.
"""

from collections.abc import Iterator, Mapping

from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from torch import Tensor, nn

# The width of a model's text -> whose LoRA it is.
TEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


def check_lora(name: str, state_dict: Mapping[str, Tensor], parts: Mapping[str, nn.Module]) -> None:
    """Passes when every layer of a LoRA fits the layer of that name.

    Args:
        name: of the file, for messages.
        state_dict: as `lora_state_dict` of diffusers gives it, "unet.mid_block...", "text_encoder.text_model...".
        parts: the pipeline's networks by name.

    Raises:
        ValueError: it holds no LoRA for these networks, or is one for another base: which layer has which shapes.
    """
    weights = {part: _peft_names(part, state_dict) for part in parts}
    foreign = sorted({key.partition(".")[0] for key in state_dict} - parts.keys())
    if not any(weights.values()):
        got = ", ".join(list(state_dict)[:2]) or "no weights"
        raise ValueError(f"{name}: got no LoRA for this model ({got}), expected one of Stable Diffusion 1.x")
    for part, module in parts.items():
        layers = dict(module.named_modules())
        for layer, which, got in _layers(weights[part]):
            # transformers 5 has no prefix text_model
            expected = _expected(layers.get(layer, layers.get(layer.removeprefix("text_model."))), which, got)
            if got != expected:
                there = "no such layer" if expected is None else f"shape {expected}"
                raise ValueError(
                    f"{name}: got a LoRA for another base{_base(weights)}: {part}.{layer}: got lora_{which} of shape "
                    f"{got}, expected {there} in this {type(module).__name__}"
                )
    if foreign:
        raise ValueError(f"{name}: got a LoRA for another base, with layers of {', '.join(foreign)}")


def _peft_names(part: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of one network by peft's names, LAYER.lora_A.weight and LAYER.lora_B.weight."""
    own = {key.removeprefix(f"{part}."): value for key, value in state_dict.items() if key.startswith(f"{part}.")}
    if not own:
        return {}
    if part == "unet":
        return own if any(".lora_A." in key for key in own) else convert_unet_state_dict_to_peft(own)
    return convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))


def _layers(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Layer, A or B, and shape of every weight of a LoRA."""
    for key, tensor in weights.items():
        for which in "AB":
            if key.endswith(f".lora_{which}.weight"):
                yield key.removesuffix(f".lora_{which}.weight"), which, tuple(tensor.shape)


def _expected(layer: nn.Module | None, which: str, got: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that A or B of a layer must have, at the rank that it has; None where there is no such layer."""
    weight = getattr(getattr(layer, "base_layer", layer), "weight", None)  # the base, where a LoRA lies on it already
    if weight is None:
        return None
    kernel = weight.shape[2:]
    return (*got[:1], *weight.shape[1:]) if which == "A" else (weight.shape[0], *got[1:2], *(1 for _ in kernel))


def _base(weights: Mapping[str, Mapping[str, Tensor]]) -> str:
    """What the width of a LoRA's text tells of its base, as a part of a message."""
    for layer, which, shape in _layers(weights["unet"]):
        if which == "A" and layer.endswith(("attn2.to_k", "attn2.to_v")):
            known = TEXT_WIDTHS.get(shape[1])
            return f" (its text is {shape[1]} wide{f', as in {known}' if known else ''})"
    return ""
