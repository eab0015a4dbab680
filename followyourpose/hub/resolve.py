"""Names of models -> local folders and files: a registry name, a path, or a hub id, in this order."""

import re
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from followyourpose.hub import places
from followyourpose.hub.download import DownloadError, fetch, hub_file, snapshot
from followyourpose.hub.places import locate, place_of
from followyourpose.hub.registry import DOWNLOADS

_HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*?)(?P<file>/[\w./ -]+)?(@(?P<revision>[\w./-]+))?")


def resolve(name: str | Path, key: str, variant: str | None = None) -> Path:
    """Return the folder or file that a setting names; a hub id is downloaded to the hub's cache, once.

    Args:
        name: a name of the registry ("sd15"), a path, "owner/name", "owner/name/file", either with "@revision".
        key: the setting, for messages.
        variant: of the weights, such as "fp16".

    Raises:
        ValueError: none of the three leads anywhere; the message names what was tried.
    """
    text = str(name)
    path = locate(text)
    if (download := DOWNLOADS.get(text)) is not None:
        if (there := place_of(download)).exists():
            return there
        if not path.exists():
            raise ValueError(f"{key}: {text} is not there yet; `followyourpose download {text}` brings it to {there}")
    if path.exists():
        return _of_cache(path)
    if (match := _HUB_ID.fullmatch(text)) is None:
        raise ValueError(f"{key}: {text}: no such file or folder, and no name of `followyourpose download`")
    repository, file, revision = match["repository"], match["file"], match["revision"]
    try:
        return _from_hub(repository, file, revision, variant)
    except DownloadError as error:
        raise ValueError(f"{key}: {text}: no such file or folder, and as a hub id {error}") from error


def is_hub_id(name: str | Path) -> bool:
    """Whether a name can only be a hub id: no path leads there, and no download has the name."""
    text = str(name)
    return text not in DOWNLOADS and not locate(text).exists() and _HUB_ID.fullmatch(text) is not None


def fetched(name: str | Path) -> Path:
    """Return the file or folder of a name of the registry, downloaded where it is missing; another path as it is.

    For downloads of some megabytes: larger ones take a command of their own. Of several processes one downloads.

    Raises:
        ValueError: the download did not come about.
    """
    if (download := DOWNLOADS.get(str(name))) is None:
        return locate(name)
    if not (there := place_of(download)).exists():
        places.CHECKPOINTS.mkdir(parents=True, exist_ok=True)
        with FileLock(places.CHECKPOINTS / f".{download.name}.lock"):
            if not there.exists():
                fetch(download, places.CHECKPOINTS)
    return there


@lru_cache
def _from_hub(repository: str, file: str | None, revision: str | None, variant: str | None) -> Path:
    """Ask the hub once for each name in a process."""
    return hub_file(repository, file[1:], revision) if file else snapshot(repository, revision, variant)


def _of_cache(path: Path) -> Path:
    """Return the snapshot of a repository's folder in the hub's cache, other paths as they are."""
    reference = path / "refs" / "main"
    if not (path / "snapshots").is_dir() or not reference.is_file():
        return path
    return path / "snapshots" / reference.read_text(encoding="utf-8").strip()
