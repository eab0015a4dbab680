"""Rows of a manifest in lines of JSON, each a sample or several."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from followyourpose.common.files import json_lines
from followyourpose.data.labels import Dropped

BEYOND = "beyond what JSON may hold here"  # numbers of thousands of digits, or of no end; brackets a thousand deep


def json_rows(file: Path, dropped: Dropped) -> Iterator[tuple[str, Any]]:
    """Yield the place ("FILE: line 3") and the content of each line; errors as of `json_lines`.

    Args:
        dropped: counts the lines that are JSON, but cannot be read.
    """
    for number, row in json_lines(file, beyond=lambda number: dropped.add(BEYOND, f"{file}: line {number}")):
        yield f"{file}: line {number}", row
