"""The data of a run, as a stream of batches that outlives bad samples and dead workers.

What a step gets depends only on how many samples were seen before it: not on the workers, nor on what happened to them.
"""

import gc
import json
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import DataLoader

from followyourpose.config import DataConfig, TrainConfig, locate
from followyourpose.data.batch import Batch, Clips, EndlessBatches, Source, collate
from followyourpose.data.image_folder import MANIFESTS, ImagePoseFolder
from followyourpose.data.image_pose import ImagePoseShards
from followyourpose.data.labels import Rules
from followyourpose.data.remote import is_pattern, missing_copies, shard_files
from followyourpose.data.video_clips import VideoClips
from followyourpose.pose.render import render_skeleton
from followyourpose.pose.skeleton import flip_keypoints

_FAILURES = 3  # of the workers on one batch, and the run stops
_LOOK = 5.0  # seconds between two looks whether the workers are alive
_ENOUGH = 50  # samples, before their bad share says something


def open_source(config: DataConfig) -> Source:
    """The data that `config` names; which layout it has is recognised from what lies there.

    Raises:
        ValueError: a setting is out of range, or there is nothing to train on; the message says what was dropped.
    """
    if config.kind == "clips":
        return VideoClips(locate(config.path), config.limit, config.captions and locate(config.captions))
    rules = Rules(config.min_keypoints, config.min_caption, config.min_size)
    if is_pattern(config.path):
        pattern = config.path if "://" in config.path else str(_locate_pattern(config.path))
        return ImagePoseShards(shard_files(pattern, config.download), config.limit, rules)
    folder = locate(config.path)
    kind = ImagePoseFolder if any((folder / name).is_file() for name in MANIFESTS) else ImagePoseShards
    return kind(folder, config.limit, rules)


def is_at_hand(config: DataConfig) -> bool:
    """Whether `open_source` would copy no remote shard."""
    return "://" not in config.path or not missing_copies(config.path, config.download)


def _locate_pattern(pattern: str) -> Path:
    """As `locate`, for what has braces: by the folder before the first of them."""
    folder, brace, rest = pattern.partition("{")
    head, slash, name = folder.rpartition("/")
    return locate(head + slash) / (name + brace + rest)


class Feed(Iterator[Batch]):
    """Batches without end, in an order that `EndlessBatches` gives, read by worker processes.

    A worker that dies, or lets the run wait longer than `timeout`, does no harm: all are started anew at the batch that
    was waited for. Samples that cannot be read are told once each and counted.

    Args:
        clips: what is read; its `seed` is the order's too.
        batch: samples per process and batch.
        start: samples that all processes together saw before.
        rank, ranks: which process this is, of how many.
        workers: processes that read; 0 reads in this one, and then nothing can be waited for.
        timeout: seconds.
        max_bad: the share of the samples tried so far that may be bad, once there are 50.
        name: what messages call the data.
        on_bad: is given one line per bad sample, and when workers are started anew; None: nobody is told.
        bad_file: gets a line {"name", "reason"} per bad sample, as soon as its folder is there: a run that cannot start
            leaves none. What it lists already is neither told nor listed again.

    Attributes:
        position: samples that all processes together have seen, `start` included: where a resumed run starts.
        bad: name -> reason, of the samples that could not be read.

    Raises:
        ValueError: on iteration, too many samples are bad.
        RuntimeError: on iteration, the workers failed three times on one batch; its samples are named.
    """

    def __init__(
        self, clips: Clips, batch: int, start: int = 0, rank: int = 0, ranks: int = 1, workers: int = 0,
        timeout: float = 120.0, max_bad: float = 0.1, name: str = "data",
        on_bad: Callable[[str], None] | None = None, bad_file: Path | None = None,
    ) -> None:  # fmt: skip
        self.clips, self.batch, self.position, self.rank, self.ranks = clips, batch, start, rank, ranks
        self.workers, self.timeout, self.max_bad, self.name = workers, timeout, max_bad, name
        self.on_bad, self.bad_file = on_bad, bad_file
        self.bad: dict[str, str] = {}
        self._unwritten: list[str] = []
        self._seen = np.zeros(len(clips), bool)  # which samples the order has asked for, and how many,
        self._tried = self._failed = 0  # and how many of these were bad
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
        """Ends the workers; the next batch would start new ones."""
        self._write()
        for process in self._processes:
            process.kill()  # one that hangs would not listen to less
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
            except ValueError as error:  # from a worker it comes with a traceback; its last line says it all
                reason = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
                raise ValueError(f"{self.name}: {reason}") from error
            except (RuntimeError, OSError, EOFError) as error:  # what a loader raises whose workers are gone
                if not self.workers or str(error).startswith("Caught"):  # raised by the reading itself
                    raise
                problems.append(" ".join(str(error).split()) or type(error).__name__)
            self.close()
            self._tell(f"data workers started anew at sample {self.position} ({problems[-1]})")
        names = ", ".join(self.clips.source.name(index) for index, _ in keys)
        raise RuntimeError(f"the data workers failed {_FAILURES} times ({problems[-1]}) on the batch of {names}")

    def _open(self) -> None:
        before = set(multiprocessing.active_children())
        # What is garbage here, and has threads, as a video reader has, would be waited for in vain in a forked worker.
        gc.collect()
        gc.freeze()
        self._loader = iter(
            DataLoader(
                self.clips, batch_sampler=self._batches(), collate_fn=collate, num_workers=self.workers,
                timeout=min(_LOOK, self.timeout) if self.workers else 0, worker_init_fn=_start_worker,
            )
        )  # fmt: skip
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
        self._tell(f"bad sample {name}: {reason}")

    def _written(self) -> set[str]:
        """The samples that another process of the run has told, or this one before it was stopped."""
        if self.bad_file is None or not self.bad_file.exists():
            return set()
        return {json.loads(line)["name"] for line in self.bad_file.read_text().splitlines() if line.endswith("}")}

    def _write(self) -> None:
        if self._unwritten and self.bad_file is not None and self.bad_file.parent.is_dir():
            lines, self._unwritten = "".join(self._unwritten), []
            try:
                with open(self.bad_file, "a") as file:
                    file.write(lines)
            except OSError as error:
                raise ValueError(f"{self.bad_file}: cannot be written ({error})") from error

    def _judge(self, keys: list[tuple[int, int]]) -> None:
        """Counts only what the order asked for: what came in the place of a bad sample would be counted too often."""
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

    def _tell(self, line: str) -> None:
        if self.on_bad is not None:
            self.on_bad(line)


def open_feed(
    config: TrainConfig, source: Source, start: int = 0, rank: int = 0, ranks: int = 1,
    on_bad: Callable[[str], None] | None = print, bad_file: Path | None = None,
) -> Feed:  # fmt: skip
    """A run's feed: what `config` says of frames, geometry, skeletons and workers; the rest is as `Feed` has it."""
    data = config.data
    clips = Clips(
        source, data.num_frames, data.stride, (data.height, data.width), render_skeleton if data.skeleton else None,
        flip_keypoints, data.crop, data.flip, config.seed,
    )  # fmt: skip
    return Feed(
        clips, config.optim.batch_size, start, rank, ranks, data.workers, data.timeout, data.max_bad, data.path,
        on_bad, bad_file,
    )  # fmt: skip


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the run still needs its batches
    cv2.setNumThreads(0)  # a forked process has not the threads that OpenCV believes to have


def _silence_torch() -> None:
    """Takes back torch's handler of SIGCHLD: it would raise a worker's death in the middle of a training step.

    The feed asks for the workers itself, when it waits for a batch.
    """
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGCHLD)
        if getattr(handler, "__module__", "") == "torch.utils.data._utils.signal_handling":
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
