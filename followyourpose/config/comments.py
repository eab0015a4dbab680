"""Help of settings: the comment that stands beside a key in the source of its schema."""

import ast
import dataclasses
import inspect
import io
import tokenize
from functools import cache
from textwrap import dedent


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
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                    texts[node.target.id] = " ".join(comments[line] for line in lines if line in comments)
    return texts
