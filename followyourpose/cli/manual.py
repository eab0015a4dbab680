"""Help made from the config schemas: key, default, and the comment that stands beside the key in the source."""

import ast
import dataclasses
import inspect
import io
import json
import tokenize
from functools import cache
from textwrap import dedent

from omegaconf import MISSING


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


@cache
def help_texts(schema: type) -> dict[str, str]:
    """Return the comment on the lines of each key of a config dataclass, inherited keys included."""
    texts: dict[str, str] = {}
    for cls in reversed(schema.__mro__):
        if dataclasses.is_dataclass(cls):
            source = dedent(inspect.getsource(cls))
            comments = {
                token.start[0]: token.string.lstrip("# ")
                for token in tokenize.generate_tokens(io.StringIO(source).readline)
                if token.type == tokenize.COMMENT
            }
            for node in ast.parse(source).body[0].body:
                if isinstance(node, ast.AnnAssign):
                    lines = range(node.lineno, node.end_lineno + 1)
                    texts[node.target.id] = " ".join(comments[line] for line in lines if line in comments)
    return texts
