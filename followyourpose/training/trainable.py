"""Patterns -> parameters: the weights that a run trains."""

import re
from collections.abc import Sequence

from torch import nn


def select_trainable(module: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Parameter]:
    """Freeze `module` except for the parameters whose name matches a pattern, and return those by name.

    Args:
        patterns: regular expressions, searched in names such as
            "unet.mid_block.attentions.0.transformer_blocks.0.attn_temp.to_q.weight".

    Raises:
        ValueError: a pattern matches no parameter, so that a typo does not train nothing in silence.
    """
    named = dict(module.named_parameters())
    chosen: set[str] = set()
    for pattern in patterns:
        try:
            matching = {name for name in named if re.search(pattern, name)}
        except re.error as error:
            raise ValueError(f"trainable: {pattern!r} is not a regular expression ({error})") from error
        if not matching:
            raise ValueError(
                f"trainable: {pattern!r} matches none of the {len(named)} parameters, such as {min(named)}"
            )
        chosen |= matching
    for name, parameter in named.items():
        parameter.requires_grad_(name in chosen)
    return {name: parameter for name, parameter in named.items() if name in chosen}
