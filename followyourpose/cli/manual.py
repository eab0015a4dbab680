"""Help made from the config schemas: key, default, and the comment that stands beside the key in the source."""

import dataclasses
import json

from omegaconf import MISSING

from followyourpose.config.comments import help_texts


def manual(schema: type, prefix: str = "") -> str:
    """Return a line for each key of a config dataclass, nested ones included."""
    texts, lines = help_texts(schema), []
    for field in dataclasses.fields(schema):
        factory = field.default_factory
        if dataclasses.is_dataclass(factory):
            lines.append(manual(factory, f"{prefix}{field.name}."))
        else:
            text = texts[field.name].replace("None", "null")
            lines.append(f"  {prefix + field.name:<34} {shown_default(field):<24} {text}".rstrip())
    return "\n".join(lines)


def shown_default(field: dataclasses.Field) -> str:
    """Return a default as it would stand in a config file."""
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value == MISSING:
        return "(required)"
    return value if value and isinstance(value, str) else json.dumps(value)
