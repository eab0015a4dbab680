"""LyCORIS and DoRA files -> LoRAs: the addition to each layer's weight as one matrix, times an identity.

The additions to a weight W (o, i, *k), with s = alpha / rank:

    LoRA   s B A                            Hu et al. 2021, arXiv 2106.09685; with a core, s B core A
    LoHa   s (B1 A1) * (B2 A2)              Hyeon-Woo et al. 2022, arXiv 2108.06098
    LoKr   s kron(C, D)                     Yeh et al. 2024, arXiv 2309.14859
    IA3    W * l                            Liu et al. 2022, arXiv 2205.05638
    full   D
    DoRA   m (W + D) / |W + D| - W          Liu et al. 2024, arXiv 2402.09353; D is any of the above

Layers are named as kohya's scripts do, lora_unet_mid_block_..., and W is the one that is there when the file is loaded.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Parts = dict[str, Tensor]  # of one layer, by the end of their names

KINDS = "LoRA, DoRA, LoHa, LoKr, IA3 or full"
PREFIXES = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_text_model_", "lora_te1_text_model_", "lora_te_", "lora_te1_"),
}
_PLAIN = {"lora_up.weight", "lora_down.weight", "alpha"}


def needs_conversion(weights: Mapping[str, Tensor]) -> bool:
    """Whether a file has layers named as kohya's, of which one is no plain LoRA."""
    ours = [name for name in weights if name.startswith(("lora_unet_", "lora_te"))]
    return bool(ours) and any(name.partition(".")[2] not in _PLAIN for name in ours)


def to_lora(name: str, weights: Mapping[str, Tensor], networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return a file's weights as a LoRA of diffusers' names, NETWORK.LAYER.lora_A.weight and lora_B.weight.

    Args:
        name: of the file, for messages.
        networks: "unet" and "text_encoder", whose layers the names are looked up in.

    Raises:
        ValueError: a layer that the networks lack, of another shape, or of a kind that is none of the above.
    """
    layers: dict[str, Parts] = {}
    for key, weight in weights.items():
        layer, _, end = key.partition(".")
        layers.setdefault(layer, {})[end] = weight.float() if weight.is_floating_point() else weight
    places = {
        prefix + layer.removeprefix("text_model.").replace(".", "_"): (part, layer, module)
        for part, network in networks.items()
        for layer, module in network.named_modules()
        for prefix in PREFIXES[part]
    }
    lora: dict[str, Tensor] = {}
    for key, parts in layers.items():
        if key not in places:
            raise ValueError(f"{name}: got a LoRA for another base: {key}: no such layer in this model")
        part, layer, module = places[key]
        base = getattr(module, "base_layer", module)  # under a LoRA, its base layer
        if not isinstance(base, nn.Linear | nn.Conv2d):
            raise ValueError(f"{name}: {key}: got a {type(base).__name__}, expected a linear layer or a convolution")
        try:
            added = _added(parts, base.weight.detach().float())
        except RuntimeError as error:  # of shapes that do not go together
            raise ValueError(
                f"{name}: got a LoRA for another base: {key}: {str(error).splitlines()[0]}, in a layer of shape "
                f"{tuple(base.weight.shape)}"
            ) from error
        except ValueError as error:
            raise ValueError(f"{name}: {key}: {error}") from error
        a, b = _factors(added.to(base.weight.dtype))
        lora |= {f"{part}.{layer}.lora_A.weight": a, f"{part}.{layer}.lora_B.weight": b}
    return lora


def _added(parts: Parts, weight: Tensor) -> Tensor:
    """Return the addition (o, i, *k) of one layer's parts to its weight (o, i, *k)."""
    scale = parts.pop("dora_scale", None)
    build = next((build for names, build in _BUILDERS if names <= parts.keys() <= names | _OPTIONAL), None)
    if build is None:
        raise ValueError(f"got {', '.join(sorted(parts))}, expected the weights of {KINDS}")
    added = build(parts, weight).reshape(weight.shape)
    return added if scale is None else _decomposed(weight + added, scale) - weight


def _decomposed(weight: Tensor, scale: Tensor) -> Tensor:
    """Return a weight (o, i, *k) whose rows, or columns, have the norms of `scale`, (o, 1, ...) or (1, i, ...)."""
    axis = 0 if scale.ndim < 2 or len(scale) == len(weight) else 1
    others = [i for i in range(weight.ndim) if i != axis]
    norm = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    return weight * (scale.reshape(norm.shape) / norm)


def _scale(parts: Parts, rank: int) -> float:
    return float(parts["alpha"]) / rank if "alpha" in parts else 1.0


def _lora(parts: Parts, _: Tensor) -> Tensor:
    down, up = parts["lora_down.weight"], parts["lora_up.weight"]
    if (core := parts.get("lora_mid.weight")) is not None:
        return _scale(parts, len(down)) * _tucker(core, up.flatten(1).T, down.flatten(1))
    return _scale(parts, len(down)) * (up.flatten(1) @ down.flatten(1))


def _loha(parts: Parts, _: Tensor) -> Tensor:
    def factor(number: int) -> Tensor:
        a, b, core = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"], parts.get(f"hada_t{number}")
        return a @ b if core is None else _tucker(core, a, b)

    return _scale(parts, len(parts["hada_w1_b"])) * (factor(1) * factor(2))


def _lokr(parts: Parts, _: Tensor) -> Tensor:
    def factor(name: str) -> Tensor:
        if name in parts:
            return parts[name]
        a, b, core = parts[f"{name}_a"], parts[f"{name}_b"], parts.get("lokr_t2")
        return a @ b if core is None or name == "lokr_w1" else _tucker(core, a, b)

    small, large = factor("lokr_w1"), factor("lokr_w2")
    # Where both are whole there is no rank, and LyCORIS does not scale.
    ranks = [len(parts[name]) for name in ("lokr_w1_b", "lokr_w2_b") if name in parts]
    scale = _scale(parts, ranks[0]) if ranks else 1.0
    return scale * torch.kron(small.reshape(*small.shape, *(1 for _ in large.shape[2:])), large.contiguous())


def _ia3(parts: Parts, weight: Tensor) -> Tensor:
    shape = [1, -1] if parts["on_input"] else [-1, 1]
    return weight * parts["weight"].reshape(*shape, *(1 for _ in weight.shape[2:]))


def _full(parts: Parts, _: Tensor) -> Tensor:
    return parts["diff"]


def _tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return Tucker's product of a core (r, r, *k) with factors (r, o) and (r, i): (o, i, *k)."""
    return torch.einsum("rs...,ro,si->oi...", core, a, b)


_OPTIONAL = {"alpha", "lora_mid.weight", "hada_t1", "hada_t2", "lokr_t2"}
_LOKR = [{"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"}], [{"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}]
_BUILDERS: list[tuple[set[str], Callable[[Parts, Tensor], Tensor]]] = [
    ({"lora_up.weight", "lora_down.weight"}, _lora),
    ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}, _loha),
    *((first | second, _lokr) for first in _LOKR[0] for second in _LOKR[1]),
    ({"weight", "on_input"}, _ia3),
    ({"diff"}, _full),
]


def _factors(added: Tensor) -> tuple[Tensor, Tensor]:
    """Return A and B of a LoRA whose B A is exactly an addition (o, i, *k): one of them is an identity."""
    out, inputs, *kernel = added.shape
    if inputs < out and added[0, 0].numel() == 1:
        return torch.eye(inputs, dtype=added.dtype).reshape(inputs, inputs, *kernel), added
    return added, torch.eye(out, dtype=added.dtype).reshape(out, out, *(1 for _ in kernel))
