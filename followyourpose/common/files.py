"""Files and folders that are written whole or not at all, their names, and text that is read within limits."""

import errno
import glob
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK = ".lock"  # in a folder in which a command is writing
LARGEST_JSON = 200_000_000  # bytes
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PARTIAL = re.compile(r"\..+\.\d+\.partial(\.\w+)?")  # of a file or folder that a process is writing


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other commands out of a folder, made where it is missing, and remove what killed ones left half written.

    The lock, the file `.lock` in the folder, ends with the process, however that ends. The folder stays only where
    something was written into it.

    Raises:
        ValueError: another command holds the lock, or the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with _held(folder / LOCK, folder), full_disk_reported(folder):
            for path in folder.rglob(".*.partial*"):
                if _PARTIAL.fullmatch(path.name):
                    _remove(path)
            yield
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()  # an empty one only


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to fill; it takes the target's name when all went well, and is removed when not.

    Raises:
        ValueError: the target is a file, has something in it, cannot be made, or another command is making it. Raised
            before anything is done.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with errors_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with _held(target.with_name(f".{target.name}.lock"), target):
        with errors_named(target):
            if target.exists() and (not target.is_dir() or any(target.iterdir())):
                raise ValueError(
                    f"{target}: is there already, expected a new or an empty folder; nothing is overwritten"
                )
            for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
                _remove(left)
            partial.mkdir()
        try:
            with full_disk_reported(target):
                yield partial
            if target.exists():
                target.rmdir()  # it is empty; were it filled meanwhile, this would stop
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def errors_named(path: Path, what: str = "written") -> Iterator[None]:
    """Turn the system's errors into a ValueError that names the file or folder: "PATH: cannot be written (reason)"."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: cannot be {what} ({error.strerror or error})") from error


@contextmanager
def full_disk_reported(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk, which names no file, into a ValueError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise ValueError(f"{folder}: cannot be written ({error.strerror})") from error


@contextmanager
def _held(file: Path, folder: Path) -> Iterator[None]:
    """Hold a lock file without waiting for it; its name goes with the lock, but stays where a process is killed."""
    lock = FileLock(file, blocking=False)
    with errors_named(folder):
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(
                f"{folder}: another command is writing there; wait until it has ended, or choose another folder"
            ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file; there filelock does it
            file.unlink(missing_ok=True)
        lock.release()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a path to write; its content takes the target's name, on the disk, when all went well."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        sync_file(partial)
        os.replace(partial, target)
        sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write(target: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8."""
    with atomic_file(target) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def sync_file(file: Path) -> None:
    """Put a file's content on the disk: a power cut would lose the part that the system still holds."""
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())


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
    with errors_named(path, "read"), open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path}: cannot be read (larger than {most:,} bytes)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: cannot be read (not UTF-8 text: {error.reason} at byte {error.start})") from error


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; errors as of `read_text` and `parse_json`, which name it."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str | bytes, name: str, convert: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return the content of JSON text.

    Args:
        name: what messages call the text.
        convert: applied to each mapping as soon as it is read, so that a large file becomes arrays on the way.

    Raises:
        ValueError: the text is not JSON, has a number of thousands of digits or is nested too deeply.
    """
    try:
        return json.loads(text, object_hook=convert)
    except ValueError as error:
        raise ValueError(f"{name}: not a JSON file ({error})") from error
    except RecursionError:
        raise ValueError(f"{name}: not a JSON file that can be read (nested too deeply)") from None


def json_lines(
    path: Path, most: int = LARGEST_JSON, beyond: Callable[[int], None] | None = None
) -> Iterator[tuple[int, Any]]:
    """Yield the number, from 1, and the content of each line of a file of JSON lines; blank lines are left out.

    Only a line feed ends a line. The text is UTF-8, with or without a byte-order mark.

    Args:
        beyond: called with the number of a line that is JSON but cannot be read, for its numbers of thousands of digits
            or its brackets a thousand deep; None: it is an error.

    Raises:
        ValueError: the file cannot be read, or a line is longer than `most` bytes or no JSON in UTF-8; the message
            names the file and the line.
    """
    number = 0
    with errors_named(path, "read"), open(path, "rb") as file:
        while line := file.readline(most + 1):
            number += 1
            if len(line) > most:
                raise ValueError(f"{path}: line {number}: not JSON (longer than {most:,} bytes)")
            try:
                if text := line.decode("utf-8-sig").strip():
                    yield number, json.loads(text)
            except (ValueError, RecursionError) as error:
                if beyond is None or isinstance(error, UnicodeDecodeError | json.JSONDecodeError):
                    deep = isinstance(error, RecursionError)
                    why = "that can be read (nested too deeply)" if deep else f"({error})"
                    raise ValueError(f"{path}: line {number}: not JSON {why}") from error
                beyond(number)


def slug(text: str) -> str:
    """Return a prompt as part of a file's name: "an-astronaut-on-the-moon"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or "video"


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return the key that sorts 2.png before 10.png: runs of digits count as numbers."""
    parts = re.split(r"([0-9]+)", name.lower())  # every second one is a number
    return [(int(part), "") if number % 2 else (-1, part) for number, part in enumerate(parts)], name


def printable(text: str) -> str:
    """Return text with U+FFFD in place of control characters and of surrogates, which UTF-8 does not have."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)
