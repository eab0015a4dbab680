"""Results that appear whole or not at all, and their names."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Gives a folder to fill; it takes the target's name when all went well, and is removed when not.

    Raises:
        ValueError: the target is a file, has something in it, or cannot be made. Told before anything is done.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(f"{target}: is there already, expected a new or an empty folder; nothing is overwritten")
        partial.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"{target}: cannot be written ({error.strerror})") from error
    try:
        yield partial
        if target.exists():
            target.rmdir()  # it is empty; were it filled meanwhile, this would stop
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def slug(text: str) -> str:
    """A prompt as part of a file's name: "an-astronaut-on-the-moon"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or "video"
