"""Files of the page's clients: a verdict on each upload, reached in a process of its own, and quotas.

A hostile file may take its decoder's time or memory, or end it; the server goes on beside that process.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from followyourpose.data.video_readers import VideoInfo
from followyourpose.web.requests import Limits, check_upload

MEMORY = 3 * 2**30  # bytes of address space for the decoder of an upload
AT_ONCE = 2  # uploads that are decoded at a time
REMEMBERED = 1000  # verdicts


class ClientFiles:
    """Uploads and results of all clients.

    Args:
        folder: of all files.
        limits: of a client, and of all together.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self._lock, self._turns = threading.Lock(), threading.Semaphore(AT_ONCE)
        self._verdicts: dict[Path, Future[VideoInfo]] = {}
        self._entries: dict[tuple[str, str], tuple[float, float]] = {}  # client and file -> end of its time, bytes

    def check(self, upload: Path) -> VideoInfo:
        """Return the size of an upload; each is decoded once, in another process.

        Raises:
            ValueError: as `check_upload`, or decoding takes too long or too much memory.
        """
        with self._lock:
            first = upload not in self._verdicts
            verdict = self._verdicts.setdefault(upload, Future())
            if len(self._verdicts) > REMEMBERED:
                self._verdicts.pop(next(iter(self._verdicts)))
        if first:
            try:
                with self._turns:
                    verdict.set_result(_decoded_elsewhere(upload, self.limits))
            except (ValueError, OSError) as error:
                verdict.set_exception(error)
        return verdict.result()

    def check_quota(self, client: str, coming: float = 0) -> None:
        """Check that a client may have so many bytes more.

        Raises:
            ValueError: its files, or those of all clients, would exceed their quota.
        """
        with self._lock:
            now = time.monotonic()
            self._entries = {key: entry for key, entry in self._entries.items() if entry[0] > now}
            own = sum(size for (owner, _), (_, size) in self._entries.items() if owner == client)
        total, limits = size_of(self.folder), self.limits
        for whose, size, most in (("your", own, limits.client_megabytes), ("all", total, limits.total_megabytes)):
            if size + coming > most * 1e6:
                raise ValueError(
                    f"{whose} files: got {(size + coming) / 1e6:.0f} MB, expected at most {most} MB; they are removed "
                    f"after {limits.kept_minutes} minutes"
                )

    def add(self, client: str, file: str, size: float) -> None:
        """Count a file, or the folder of a result, for the time that it is kept."""
        with self._lock:
            self._entries[client, file] = (time.monotonic() + 60 * self.limits.kept_minutes, size)

    @contextmanager
    def arriving(self, client: str, size: float) -> Iterator[None]:
        """Count the bytes of a request while it arrives; errors as for `check_quota`."""
        self.check_quota(client, size)
        name = f"arriving {time.monotonic_ns()}"
        self.add(client, name, size)
        try:
            yield
        finally:
            with self._lock:
                self._entries.pop((client, name), None)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _decoded_elsewhere(upload: Path, limits: Limits) -> VideoInfo:
    """Run `check_upload` in a process that is ended after its time."""
    package = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    try:
        process = subprocess.run(
            [sys.executable, "-m", __name__, str(upload), json.dumps(asdict(limits))], env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=limits.upload_decoding_seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{upload.name}: takes longer than {limits.upload_decoding_seconds} seconds to decode; upload less"
        ) from None
    lines = process.stdout.decode(errors="replace").splitlines()
    if process.returncode or not lines:
        raise ValueError(f"{upload.name}: cannot be read (its decoder ended with {process.returncode})")
    verdict = json.loads(lines[-1])
    if "error" in verdict:
        raise ValueError(verdict["error"])
    return VideoInfo(**verdict)


def main(upload: Path, limits: Limits) -> None:
    """Print the verdict on an upload as JSON: its size, or an error. Memory is bounded where the system can do that."""
    with suppress(ImportError):  # Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        verdict = asdict(check_upload(upload, limits))
    except MemoryError:
        verdict = {"error": f"{upload.name}: needs too much memory to decode; upload less"}
    except ValueError as error:
        verdict = {"error": str(error)}
    print(json.dumps(verdict))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Limits(**json.loads(sys.argv[2])))
