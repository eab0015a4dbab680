"""LoRA files: read in every form that is met, and checked layer by layer, before anything is loaded into a pipeline.

A layer's LoRA is A (rank, inputs) and B (outputs, rank); those of convolutions have kernels behind.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from torch import Tensor, nn

from followyourpose.models.weights import read_state_dict
from followyourpose.pipeline.lycoris import needs_conversion, to_lora

# Width of a LoRA's text -> its base.
TEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


def read_lora(
    source: Path | Mapping[str, Tensor], name: str, networks: Mapping[str, nn.Module]
) -> dict[str, Tensor] | None:
    """Return a LoRA's weights in a form that diffusers reads; None: its file is in one already.

    Of other forms there are pickles, files of 2023 with the UNet's layers alone (`save_attn_procs`), and those that
    lycoris.py lists.

    Args:
        name: of the file, for messages; networks: the pipeline's, by name.

    Raises:
        ValueError: it cannot be read, or does not fit the networks.
    """
    weights = read_state_dict(source) if isinstance(source, Path) else dict(source)
    if needs_conversion(weights):
        return to_lora(name, weights, networks)
    if weights and all(".processor." in key and not key.startswith("unet.") for key in weights):
        return {f"unet.{key}": weight for key, weight in weights.items()}
    return None if isinstance(source, Path) and source.suffix == ".safetensors" else weights


def check_lora(name: str, state_dict: Mapping[str, Tensor], parts: Mapping[str, nn.Module]) -> None:
    """Raise a ValueError, with a layer and its shapes, unless every layer of a LoRA fits the layer of that name.

    Args:
        name: of the file, for messages.
        state_dict: of diffusers' `lora_state_dict`: "unet.mid_block...", "text_encoder.text_model...".
        parts: the pipeline's networks by name.
    """
    weights = {part: _peft_names(part, state_dict) for part in parts}
    foreign = sorted({key.partition(".")[0] for key in state_dict} - parts.keys())
    if not any(weights.values()):
        names = ", ".join(list(state_dict)[:2]) or "no weights"
        raise ValueError(f"{name}: got no LoRA for this model ({names}), expected one of Stable Diffusion 1.x")
    for part, module in parts.items():
        layers = dict(module.named_modules())
        for layer, which, got in _layers(weights[part]):
            # transformers 5 has no prefix text_model
            expected = _expected(layers.get(layer, layers.get(layer.removeprefix("text_model."))), which, got)
            if got != expected:
                fitting = "no such layer" if expected is None else f"shape {expected}"
                raise ValueError(
                    f"{name}: got a LoRA for another base{_base(weights)}: {part}.{layer}: got lora_{which} of shape "
                    f"{got}, expected {fitting} in this {type(module).__name__}"
                )
    if broken := [key for key, weight in state_dict.items() if not weight.isfinite().all()]:
        raise ValueError(f"{name}: got NaN or infinity in {broken[0]}")
    if foreign:
        raise ValueError(f"{name}: got a LoRA for another base, with layers of {', '.join(foreign)}")


def _peft_names(part: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of one network by peft's names, LAYER.lora_A.weight and LAYER.lora_B.weight."""
    own = {key.removeprefix(f"{part}."): value for key, value in state_dict.items() if key.startswith(f"{part}.")}
    if not own:
        return {}
    if part == "unet":
        return own if any(".lora_A." in key for key in own) else convert_unet_state_dict_to_peft(own)
    return convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))


def _layers(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield layer, A or B, and shape of every weight of a LoRA."""
    for key, tensor in weights.items():
        for which in "AB":
            if key.endswith(f".lora_{which}.weight"):
                yield key.removesuffix(f".lora_{which}.weight"), which, tuple(tensor.shape)


def _expected(layer: nn.Module | None, which: str, got: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape that A or B of a layer must have, at its rank; None: there is no such layer."""
    weight = getattr(getattr(layer, "base_layer", layer), "weight", None)  # under a LoRA, its base layer
    if weight is None:
        return None
    kernel = weight.shape[2:]
    return (*got[:1], *weight.shape[1:]) if which == "A" else (weight.shape[0], *got[1:2], *(1 for _ in kernel))


def _base(weights: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Return a LoRA's base, from the width of its text, as a part of a message."""
    for layer, which, shape in _layers(weights["unet"]):
        if which == "A" and layer.endswith(("attn2.to_k", "attn2.to_v")):
            known = TEXT_WIDTHS.get(shape[1])
            return f" (its text is {shape[1]} wide{f', as in {known}' if known else ''})"
    return ""
