"""Units of work, shards or videos: the files of one appear whole, and last of all its marker.

A unit gives the same bytes on every machine and in every run, so a killed run loses nothing and doubles nothing.
"""

import glob
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from followyourpose.common.files import read_json


def is_done(marker: Path, settings: dict[str, Any]) -> bool:
    """Whether a unit's marker, a JSON file with its `settings`, is there.

    Raises:
        ValueError: it is there with other settings (the first that differs is named), or cannot be read.
    """
    if not marker.is_file():
        return False
    try:
        then = dict(read_json(marker)["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{marker}: cannot be read ({error}); delete it to have its unit done again") from error
    for key, value in json.loads(json.dumps(settings)).items():
        if then.get(key) != value:
            raise ValueError(
                f"{marker}: {key}: was done with {then.get(key)!r}, got {value!r} now; take the settings of before, or "
                "another folder, or delete this file to have its unit done again"
            )
    return True


def write_marker(marker: Path, content: dict[str, Any]) -> None:
    """Write a unit's marker; `content` has the `settings`."""
    marker.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def new_files(out: Path, marker: str) -> Iterator[Path]:
    """Yield an empty folder for a unit's files; at the end they go to the same places under `out`.

    Args:
        marker: place of the marker, which is among the files and comes to `out` last.

    Raises:
        ValueError: something cannot be written, or the unit's input cannot be read.
    """
    name = f".{marker.replace('/', '-')}"
    # Its own name for each process: if two runs do one unit after all, one stops, and neither spoils the files.
    folder = out / f"{name}{_owner(os.getpid())}"
    try:
        for left in out.glob(f"{glob.escape(name)}.*.partial"):
            shutil.rmtree(left)  # of a killed run
        folder.mkdir(parents=True)
        yield folder
        files = [file for file in folder.rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: (file == folder / marker, file)):
            with open(file, "rb+") as content:
                os.fsync(content.fileno())  # the marker must not reach the disk before the rest
            target = out / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    except OSError as error:
        place = out if error.filename is None or folder.name in str(error.filename) else error.filename
        raise ValueError(f"{place}: cannot be read or written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_orphans(out: Path) -> None:
    """Remove the folders that killed processes of this machine left in `out`; those of other machines may be alive."""
    for folder in out.glob(".*.partial"):
        pid = folder.name.split(".")[-2]
        if re.fullmatch(r"\d{1,9}", pid) and folder.name.endswith(_owner(pid)) and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _owner(pid: int | str) -> str:
    return f".{platform.node()}.{pid}.partial"
