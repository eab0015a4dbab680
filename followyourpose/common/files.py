"""Files and folders that are written whole or not at all, their names, and text that is read within limits."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LARGEST_JSON = 200_000_000  # bytes


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to fill; it takes the target's name when all went well, and is removed when not.

    Raises:
        ValueError: the target is a file, has something in it, or cannot be made. Raised before anything is done.
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


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a path to write; its content takes the target's name, on the disk, when all went well."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
        sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write(target: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8."""
    with atomic_file(target) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk, where the system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path, most: int = LARGEST_JSON) -> str:
    """Return the text of a UTF-8 file, with or without a byte-order mark.

    Raises:
        ValueError: the file cannot be read, is larger than `most` bytes or is not UTF-8; the message names it.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > most:
        raise ValueError(f"{path}: cannot be read (larger than {most:,} bytes)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: cannot be read (not UTF-8 text: {error.reason} at byte {error.start})") from error


def read_json(path: Path, most: int = LARGEST_JSON) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: as `read_text`, or the text is not JSON or nested too deeply; the message names the file.
    """
    try:
        return json.loads(read_text(path, most))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    except RecursionError:
        raise ValueError(f"{path}: not a JSON file that can be read (nested too deeply)") from None


def slug(text: str) -> str:
    """Return a prompt as part of a file's name: "an-astronaut-on-the-moon"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or "video"
