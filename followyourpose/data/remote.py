"""Where shards lie: a brace-expanded pattern of local files, or of URLs that are copied to a local folder once."""

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_INSTALL = 'pip install "followyourpose[data]"'


def is_pattern(path: str) -> bool:
    """Whether `path` names shards themselves, and not the folder in which they lie."""
    return "://" in path or "{" in path or path.endswith(".tar")


def shard_files(pattern: str, download: str | Path) -> list[Path]:
    """The local files of "shards/{00000..00011}.tar" or "https://host/{00000..00011}.tar" (http, https, s3, ...).

    A remote shard is copied into the folder `download` the first time, by one of the processes that ask for it.

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
    """The URLs of the remote shards that `shard_files` would copy.

    Raises:
        ValueError: a package is not installed, or the braces do not match.
    """
    return [url for url in _expand(pattern) if not _copy_of(url, Path(download)).exists()]


def _expand(pattern: str) -> list[str]:
    try:
        from braceexpand import UnbalancedBracesError, braceexpand
    except ImportError as error:
        raise ValueError(f"{pattern}: patterns need the package braceexpand; {_INSTALL}") from error
    try:
        return list(braceexpand(pattern))
    except UnbalancedBracesError as error:
        raise ValueError(f"{pattern}: its braces do not match") from error


def _copy_of(url: str, folder: Path) -> Path:
    # Shards of different data sets have the same names: what came from another address must not be taken for it.
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{url.split('?')[0].rsplit('/', 1)[-1]}"


def _fetch(url: str, folder: Path) -> Path:
    target = _copy_of(url, folder)
    if target.exists():
        return target
    try:
        import fsspec
    except ImportError as error:
        raise ValueError(f"{url}: needs the package fsspec; {_INSTALL}") from error
    folder.mkdir(parents=True, exist_ok=True)
    # A name of its own, in case the folder is shared by machines that do not see one another's locks.
    partial = target.with_name(f".{target.name}.{platform.node()}.{os.getpid()}.partial")
    with _alone(target.with_name(f".{target.name}.lock")):
        if not target.exists():  # another process may have copied it meanwhile
            try:
                files, path = fsspec.core.url_to_fs(url)
                files.get_file(path, str(partial))
                os.replace(partial, target)
            except ImportError as error:
                raise ValueError(f"{url}: {error}; {_INSTALL}") from error
            except Exception as error:  # each protocol has errors of its own
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ValueError(f"{url}: cannot be copied to {folder} ({reason})") from error
            finally:
                partial.unlink(missing_ok=True)
    return target


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Lets one process of this machine at a time in; the lock goes with the process that holds it."""
    import fcntl

    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
