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
    chosen = matched("trainable", patterns, sorted(named), "parameters")
    for name, parameter in named.items():
        parameter.requires_grad_(name in chosen)
    return {name: parameter for name, parameter in named.items() if name in chosen}


def matched(key: str, patterns: Sequence[str], names: Sequence[str], what: str) -> set[str]:
    """Return the names in which a pattern is found; a ValueError where one is found in none, or is no pattern.

    Args:
        key: the setting of the patterns, and `what` the names are of, for messages.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        try:
            matching = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise ValueError(f"{key}: {pattern!r} is not a regular expression ({error})") from error
        if not matching:
            raise ValueError(f"{key}: {pattern!r} matches none of the {len(names)} {what}, such as {names[0]}")
        chosen |= matching
    return chosen
