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
from concurrent.futures import Future, ThreadPoolExecutor
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
        self._lock, self._decoders = threading.Lock(), ThreadPoolExecutor(AT_ONCE)
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._verdicts: dict[Path, Future[VideoInfo]] = {}
        self._entries: dict[tuple[str, str], tuple[float, float]] = {}  # client and file -> end of its time, bytes

    def close(self) -> None:
        """End the processes that decode."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        for process in list(self._processes):
            process.kill()

    def check(self, upload: Path) -> VideoInfo:
        """Return the size of an upload; waits for its verdict.

        Raises:
            ValueError: as `check_upload`, or decoding takes too long or too much memory.
        """
        return self.verdict(upload).result()

    def verdict(self, upload: Path) -> "Future[VideoInfo]":
        """Decode an upload in another process, each once; the future has what `check` returns or raises."""
        with self._lock:
            if upload not in self._verdicts:
                self._verdicts[upload] = self._decoders.submit(self._decode, upload)
                if len(self._verdicts) > REMEMBERED:
                    self._verdicts.pop(next(iter(self._verdicts)))
            return self._verdicts[upload]

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

    def _decode(self, upload: Path) -> VideoInfo:
        """Run `check_upload` in a process that is ended after its time."""
        package = str(Path(__file__).resolve().parents[2])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        seconds = self.limits.upload_decoding_seconds
        with subprocess.Popen(
            [sys.executable, "-m", __name__, str(upload), json.dumps(asdict(self.limits))], env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            self._processes.add(process)
            try:
                output, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                raise ValueError(f"{upload.name}: takes longer than {seconds} seconds to decode; upload less") from None
            finally:
                process.kill()
                self._processes.discard(process)
        lines = output.decode(errors="replace").splitlines()
        if process.returncode or not lines:
            raise ValueError(f"{upload.name}: cannot be read (its decoder ended with {process.returncode})")
        verdict = json.loads(lines[-1])
        if "error" in verdict:
            raise ValueError(verdict["error"])
        return VideoInfo(**verdict)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def main(upload: Path, limits: Limits) -> None:
    """Print the verdict on an upload as JSON: its size, or an error."""
    with suppress(ImportError):  # Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        seconds = 2 * limits.upload_decoding_seconds + 5  # a server that is killed leaves no decoder for long
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        verdict = asdict(check_upload(upload, limits))
    except MemoryError:
        verdict = {"error": f"{upload.name}: needs too much memory to decode; upload less"}
    except ValueError as error:
        verdict = {"error": str(error)}
    print(json.dumps(verdict))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Limits(**json.loads(sys.argv[2])))
