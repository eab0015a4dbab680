"""The data of a run, as a stream of batches that outlives bad samples and dead workers.

The batch of a step depends only on how many samples were seen before it, and not on the workers.
"""

import copy
import gc
import json
import multiprocessing
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader

from followyourpose.common.files import errors_named
from followyourpose.config import DataConfig, TrainConfig, locate
from followyourpose.data.batch import Batch, Clips, EndlessBatches, Source, collate
from followyourpose.data.labels import Rules
from followyourpose.data.remote import is_pattern
from followyourpose.data.sources import open_data
from followyourpose.pose.render import render_skeleton
from followyourpose.pose.skeleton import flip_keypoints
from followyourpose.training.checks import is_run

# Forked workers share the index of a data set, captions and all, and start in 0.1 s. From a forkserver or spawned they
# take 2.5 s, at every restart too, and a copy each: of 1 million samples two of them need 500 MB in place of 130.
_START = "fork" if sys.platform == "linux" else None  # None: the platform's
_FAILURES = 3  # failures of the workers on one batch that stop the run
_CHECK = 5.0  # seconds between two checks that the workers are alive
_ENOUGH = 50  # samples from which on their bad share is judged


def open_source(config: DataConfig) -> Source:
    """Open the data that `config` names; their layout is recognised from the files there.

    Raises:
        ValueError: there is nothing to train on; the message counts the samples that were dropped, by reason.
    """
    rules = Rules(config.min_keypoints, config.min_caption, config.min_size)
    pattern = config.kind == "images" and is_pattern(config.path)
    path = _locate_pattern(config.path) if pattern else locate(config.path)
    captions = config.captions and locate(config.captions)
    return open_data(path, config.kind, config.limit, rules, captions, config.download)


def _locate_pattern(pattern: str) -> str | Path:
    """Locate a pattern of local shards by the folder before its first brace."""
    if "://" in pattern:
        return pattern
    folder, brace, rest = pattern.partition("{")
    head, slash, name = folder.rpartition("/")
    return locate(head + slash) / (name + brace + rest)


@dataclass(eq=False)
class Feed(Iterator[Batch]):
    """Batches without end, in the order of `EndlessBatches`, read by worker processes.

    When a worker dies, or a batch takes longer than `timeout`, all workers are started anew at that batch. Samples that
    cannot be read are counted, and reported once each.

    Raises:
        ValueError: on iteration, too many samples are bad.
        RuntimeError: on iteration, the workers failed three times on one batch; its samples are named.
    """

    clips: Clips  # the samples; its `seed` is the order's too
    batch: int  # samples per process and batch
    position: int = 0  # samples that all processes together have seen: at first those of the command before
    rank: int = 0  # number of this process
    ranks: int = 1  # number of processes
    workers: int = 0  # processes that read; 0: this one reads, without a timeout
    timeout: float = 120.0  # seconds
    max_bad: float = 0.1  # largest share of bad samples among those tried, once there are 50
    name: str = "data"  # name of the data in messages
    on_bad: Callable[[str], None] | None = None  # called with a line per bad sample and restart of the workers
    # gets a line {"name", "reason"} per bad sample, once its folder is a run's: a run that cannot start leaves none;
    # samples that it lists already are neither reported nor listed again
    bad_file: Path | None = None
    bad: dict[str, str] = field(default_factory=dict, init=False)  # name -> reason, of those that could not be read

    def __post_init__(self) -> None:
        self._unwritten: list[str] = []
        self._seen = np.zeros(len(self.clips), bool)  # samples that have had their turn in the order;
        self._tried = self._failed = 0  # their number, and that of the bad ones among them
        self._order = iter(self._batches())
        self._loader: Iterator[Batch] | None = None
        self._processes: set[multiprocessing.Process] = set()

    def __next__(self) -> Batch:
        keys = next(self._order)
        batch = self._read(keys)
        self.position += self.batch * self.ranks
        for name, reason in batch.bad:
            self._note(name, reason)
        self._write()
        self._judge(keys)
        return batch

    def close(self) -> None:
        """End the workers; the next batch would start new ones."""
        self._write()
        for process in self._processes:
            process.kill()  # nothing less ends one that hangs
        self._processes, self._loader = set(), None

    # ---- workers

    def _batches(self) -> EndlessBatches:
        return EndlessBatches(len(self.clips), self.batch, self.clips.seed, self.position, self.rank, self.ranks)

    def _read(self, keys: list[tuple[int, int]]) -> Batch:
        problems: list[str] = []
        while len(problems) < _FAILURES:
            try:
                if self._loader is None:
                    self._open()
                return self._wait()
            except ValueError as error:  # from a worker it comes with a traceback, and ends with the message
                reason = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
                raise ValueError(f"{self.name}: {reason}") from error
            except (RuntimeError, OSError, EOFError) as error:  # raised by a loader whose workers are gone
                if not self.workers or str(error).startswith("Caught"):  # raised by the reading itself
                    raise
                problems.append(" ".join(str(error).split()) or type(error).__name__)
            self.close()
            self._report(f"data workers started anew at sample {self.position} ({problems[-1]})")
        names = ", ".join(self.clips.source.name(index) for index, _ in keys)
        raise RuntimeError(f"the data workers failed {_FAILURES} times ({problems[-1]}) on the batch of {names}")

    def _open(self) -> None:
        before = set(multiprocessing.active_children())
        processes: dict[str, Any] = {}
        if self.workers:
            processes = {"timeout": min(_CHECK, self.timeout), "multiprocessing_context": _without_lock()}
            # Garbage with threads, as video readers are, would block a forked worker that frees it: it has no threads.
            gc.collect()
            gc.freeze()
        with warnings.catch_warnings():  # of a fork beside threads: a worker uses none of their locks
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            loader = DataLoader(
                self.clips, batch_sampler=self._batches(), collate_fn=collate, num_workers=self.workers,
                worker_init_fn=_start_worker, **processes,
            )  # fmt: skip
            self._loader = iter(loader)
        gc.unfreeze()
        self._processes = set(multiprocessing.active_children()) - before
        _silence_torch()

    def _wait(self) -> Batch:
        end = time.monotonic() + self.timeout
        while True:
            try:
                return next(self._loader)
            except RuntimeError as error:
                if "timed out" not in str(error) or time.monotonic() >= end:
                    raise

    # ---- bad samples

    def _note(self, name: str, reason: str) -> None:
        if name in self.bad:
            return
        self.bad[name] = reason
        if name in self._written():
            return
        self._unwritten.append(json.dumps({"name": name, "reason": reason}) + "\n")
        self._report(f"bad sample {name}: {reason}")

    def _written(self) -> set[str]:
        """Samples that another process of the run, or an earlier command of it, has reported."""
        if self.bad_file is None or not self.bad_file.exists():
            return set()
        names = set()
        for line in self.bad_file.read_bytes().split(b"\n"):
            with suppress(ValueError, KeyError, TypeError):  # a line that a kill cut off
                names.add(json.loads(line)["name"])
        return names

    def _write(self) -> None:
        if self._unwritten and self.bad_file is not None and is_run(self.bad_file.parent):
            lines, self._unwritten = "".join(self._unwritten), []
            with errors_named(self.bad_file), open(self.bad_file, "ab+") as file:
                file.seek(max(0, file.tell() - 1))
                cut = file.read() not in (b"", b"\n")  # the last line, by a kill
                file.write(b"\n" * cut + lines.encode())

    def _judge(self, keys: list[tuple[int, int]]) -> None:
        """Stop the run when too many samples are bad; replacements of bad samples do not count as tried."""
        for index, _ in keys:
            if not self._seen[index]:
                self._seen[index] = True
                self._tried += 1
                self._failed += self.clips.source.name(index) in self.bad
        if self._tried >= _ENOUGH and self._failed > self.max_bad * self._tried:
            first = "; ".join(f"{name}: {reason}" for name, reason in list(self.bad.items())[:3])
            raise ValueError(
                f"{self.name}: {self._failed} of the {self._tried} samples tried cannot be read, more than "
                f"data.max_bad ({self.max_bad}) allows, such as {first}"
            )

    def _report(self, line: str) -> None:
        if self.on_bad is not None:
            self.on_bad(line)


def open_feed(
    config: TrainConfig, source: Source, start: int = 0, rank: int = 0, ranks: int = 1,
    on_bad: Callable[[str], None] | None = print, bad_file: Path | None = None,
) -> Feed:  # fmt: skip
    """Open a run's feed, with the geometry, skeletons and workers of `config`; the other arguments are Feed's."""
    data = config.data
    clips = Clips(
        source, data.num_frames, data.stride, (data.height, data.width), render_skeleton if data.skeleton else None,
        flip_keypoints, data.crop, data.flip, config.seed,
    )  # fmt: skip
    return Feed(
        clips, config.optim.batch_size, start, rank, ranks, data.workers, data.timeout, data.max_bad, data.path,
        on_bad, bad_file,
    )  # fmt: skip


class _Flag:
    """The event that ends workers, without the lock of `multiprocessing.Event`, which a killed worker may hold."""

    def __init__(self) -> None:
        self._value = multiprocessing.RawValue("b", 0)

    def set(self) -> None:
        self._value.value = 1

    def is_set(self) -> bool:
        return bool(self._value.value)


def _without_lock() -> Any:
    """Return the workers' multiprocessing context, with a `_Flag` as its event."""
    context = copy.copy(multiprocessing.get_context(_START))
    context.Event = _Flag
    return context


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the run still needs its batches
    cv2.setNumThreads(0)  # a forked process has not the threads of OpenCV


def _silence_torch() -> None:
    """Remove torch's handler of SIGCHLD: it would raise a worker's death in the middle of a training step.

    The feed notices that death when it waits for a batch.
    """
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGCHLD)
        if getattr(handler, "__module__", "") == "torch.utils.data._utils.signal_handling":
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
