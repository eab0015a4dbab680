"""Shards by a brace-expanded pattern: local files, or URLs that are copied to a local folder once.

fsspec's own file cache was tried in place of the copies made here: three processes copied one shard three times, where
a lock makes it one, and its `simplecache` takes the half file of a killed process for the whole.
"""

import hashlib
import os
import platform
from pathlib import Path

from filelock import FileLock

from followyourpose.common.checks import check_installed


def is_pattern(path: str) -> bool:
    """Whether `path` names shards themselves, and not the folder in which they lie."""
    return "://" in path or "{" in path or path.endswith(".tar")


def shard_files(pattern: str, download: str | Path) -> list[Path]:
    """Return the local files of "shards/{00000..00011}.tar" or "https://host/{00000..00011}.tar" (http, s3, ...).

    A remote shard is copied into the folder `download` by the first process that needs it.

    Raises:
        ValueError: a local shard is missing, a remote one cannot be copied, or a package is not installed.
    """
    names = _expand(pattern)
    if "://" in pattern:
        return [_fetch(url, Path(download)) for url in names]
    files = [Path(name).expanduser() for name in names]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise ValueError(f"{pattern}: {len(missing)} of its {len(files)} shards not found, such as {missing[0]}")
    return files


def missing_copies(pattern: str, download: str | Path) -> list[str]:
    """Return the URLs of the remote shards that `shard_files` would copy.

    Raises:
        ValueError: a package is not installed, or the braces do not match.
    """
    return [url for url in _expand(pattern) if not _copy_of(url, Path(download)).exists()]


def _expand(pattern: str) -> list[str]:
    if "://" in pattern:
        check_installed(pattern, "data", "fsspec")
    if "{" not in pattern:
        return [pattern]
    check_installed(pattern, "data", "braceexpand")
    from braceexpand import UnbalancedBracesError, braceexpand

    try:
        return list(braceexpand(pattern))
    except UnbalancedBracesError as error:
        raise ValueError(f"{pattern}: its braces do not match") from error


def _copy_of(url: str, folder: Path) -> Path:
    # Shards of different data sets have the same names: the address is part of the copy's name.
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{url.split('?')[0].rsplit('/', 1)[-1]}"


def _fetch(url: str, folder: Path) -> Path:
    target = _copy_of(url, folder)
    if target.exists():
        return target
    import fsspec

    # The machine is part of the name, as machines that share a folder may not see one another's locks.
    partial = target.with_name(f".{target.name}.{platform.node()}.{os.getpid()}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.exists():  # another process may have copied it meanwhile
                files, path = fsspec.core.url_to_fs(url)
                files.get_file(path, str(partial))
                os.replace(partial, target)
    except Exception as error:  # each protocol has errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{url}: cannot be copied to {folder} ({reason})") from error
    finally:
        if partial.exists():
            partial.unlink()
    return target
