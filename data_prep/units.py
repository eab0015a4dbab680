"""A unit of work, a shard or a video: its files appear whole, and last of all the marker that says that it is done.

Whoever does a unit, and however often, writes the same bytes; so a killed run loses nothing and doubles nothing.
"""

import glob
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def is_done(marker: Path, settings: dict[str, Any]) -> bool:
    """Whether a unit's marker, a JSON file with its `settings`, is there.

    Raises:
        ValueError: it is there, but of other settings: the first that differs is named.
    """
    try:
        then = json.loads(marker.read_text())["settings"]
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{marker}: cannot be read ({error}); delete it to have its unit done again") from error
    for key, value in json.loads(json.dumps(settings)).items():
        if then.get(key) != value:
            raise ValueError(
                f"{marker}: {key}: was done with {then.get(key)!r}, asked for is {value!r}; take the settings of "
                "before, or another folder, or delete this file to have its unit done again"
            )
    return True


@contextmanager
def new_files(out: Path, marker: str) -> Iterator[Path]:
    """Gives an empty folder to write a unit's files to; at the end they go to the same places under `out`.

    Args:
        marker: the place of the marker, which is among the files and comes to `out` last.

    Raises:
        ValueError: something cannot be written, or what the unit is made of cannot be read.
    """
    name = f".{marker.replace('/', '-')}"
    # A name of its own: were two runs to do one unit after all, one would stop, and neither would spoil the files.
    folder = out / f"{name}.{platform.node()}.{os.getpid()}.partial"
    try:
        for left in out.glob(f"{glob.escape(name)}.*.partial"):
            shutil.rmtree(left)  # by a run that was killed
        folder.mkdir(parents=True)
        yield folder
        files = [file for file in folder.rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: (file == folder / marker, file)):
            target = out / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    except OSError as error:
        place = out if error.filename is None or folder.name in str(error.filename) else error.filename
        raise ValueError(f"{place}: cannot be read or written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
