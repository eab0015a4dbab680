"""Rows of a manifest in lines of JSON, each a sample or several."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from followyourpose.common.files import LARGEST_JSON
from followyourpose.data.labels import Dropped

BEYOND = "beyond what JSON may hold here"  # numbers of thousands of digits, or of no end; brackets a thousand deep


def json_rows(file: Path, expected: str, dropped: Dropped) -> Iterator[tuple[str, Any]]:
    """Yield the place ("FILE: line 3") and the content of each line; only a line feed ends one.

    Args:
        expected: a line in messages.
        dropped: counts the lines that are JSON, but cannot be read.

    Raises:
        ValueError: the file cannot be read, or a line is not JSON in UTF-8; the message has the file and the line.
    """
    number = 0
    try:
        with open(file, "rb") as lines:
            while line := lines.readline(LARGEST_JSON + 1):
                number += 1
                where = f"{file}: line {number}"
                if len(line) > LARGEST_JSON:
                    raise ValueError(f"{where}: longer than {LARGEST_JSON:,} bytes")
                try:
                    row = json.loads(line.decode("utf-8-sig"))
                except (UnicodeDecodeError, json.JSONDecodeError) as error:
                    raise ValueError(f"{where}: expected {expected} ({error})") from error
                except (ValueError, RecursionError):
                    dropped.add(BEYOND, where)
                else:
                    yield where, row
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
