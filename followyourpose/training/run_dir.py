"""A run's folder: all that a run writes, and all that it resumes from.

config.yaml                   the run's settings, every default included
log.jsonl                     one line per `log_every` steps
first-batch.png               the first batch as the networks see it, with captions
bad.jsonl                     samples that could not be used, one line each with the reason
run/                          the trackers' files, such as TensorBoard's
validation/                   videos drawn on the way, STEP-PROMPT.mp4
checkpoint-STEP/              weights, moving average and optimiser state; the newest `keep_checkpoints` stay
checkpoint-STEP.unreadable/   one that the disk lost: the run went on from the one before
weights.safetensors           trained weights of a finished run, by component and parameter name
weights_ema.safetensors       their moving average, where the run keeps one

A file of weights carries in its metadata the run's settings and, per network, a fingerprint of the frozen weights: a
part that was trained means something only on top of them.
"""

import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from followyourpose.common.files import atomic_file, atomic_write, sync_file, sync_folder
from followyourpose.common.tensors import read_facts, read_tensors, write_tensors
from followyourpose.config import TrainConfig, save_config
from followyourpose.training.checks import CONFIG, WEIGHTS, changed_settings, config_of

# Raised by the loading of state.pt. Nothing else in a checkpoint is read without a check of its own.
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError)
LOG, BAD, FIRST_BATCH, VALIDATION = "log.jsonl", "bad.jsonl", "first-batch.png", "validation"
AVERAGE, STATE = "weights_ema.safetensors", "state.pt"
_CHECKPOINT = re.compile(r"checkpoint-\d{7,}")  # -STEP

Stored = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]  # weights, moving average and state


class RunDir:
    """The folder `config.output`: a new run, or the one that is there if it is of the same settings.

    Nothing is written before the first step's log or checkpoint: a command that could not start can be corrected.

    Raises:
        ValueError: the folder holds a run of other settings (every key that differs is named), or other files.
    """

    def __init__(self, config: TrainConfig, main: bool = True) -> None:
        self.path, self.config = Path(config.output), config
        self.main = main  # whether this process writes, and not another of the run
        self.changes = changed_settings(config)  # "key: before -> now" for each that has changed, and may
        self._has_config = False  # of this command: settings that may change are those of the last one
        self._unreadable: dict[Path, ValueError] = {}
        self._newest: Stored | None = None  # read already

    # ---- checkpoints

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first, without the unreadable ones that have been found."""
        found = [path for path in self.path.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name)]
        return sorted(set(found) - self._unreadable.keys(), key=lambda path: int(path.name.split("-")[1]))

    def set_aside_unreadable(self, check: Callable[[Stored], None] = lambda stored: None) -> list[Path]:
        """Leave out checkpoints newer than the newest readable one, and return them.

        Checkpoints are whole when they get their names; but a disk may lose what it held. They are renamed to
        checkpoint-STEP.unreadable when the next checkpoint is written, and until then nothing is changed.

        Args:
            check: raises a ValueError for a checkpoint that does not fit the run.
        """
        for checkpoint in reversed(self.checkpoints()):
            try:
                self._newest = self._read(checkpoint)
                check(self._newest)
                break
            except ValueError as error:
                self._unreadable[checkpoint] = error
        return list(self._unreadable)

    def load(self, frozen: dict[str, str]) -> Stored | None:
        """Return the newest checkpoint's weights, moving average and state; None where there is none yet.

        Args:
            frozen: fingerprints, by network, of the weights that the run does not train.

        Raises:
            ValueError: the checkpoint was trained on top of other weights, or all of them were left out.
        """
        checkpoints = self.checkpoints()
        if not checkpoints and self._unreadable:
            newest, error = next(iter(self._unreadable.items()))
            raise ValueError(f"{newest}: cannot be read ({error}), and no older one either; choose another output")
        if not checkpoints:
            return None
        check_frozen(checkpoints[-1] / WEIGHTS, frozen, self.config.init)
        stored, self._newest = self._newest or self._read(checkpoints[-1]), None
        return stored

    def _read(self, checkpoint: Path) -> Stored:
        """Load a checkpoint; a ValueError names its first file that is missing or damaged."""
        weights, average = read_tensors(checkpoint / WEIGHTS)[0], {}
        if self.config.optim.ema_decay:
            average = read_tensors(checkpoint / AVERAGE)[0]
        file = checkpoint / STATE
        try:
            with zipfile.ZipFile(file) as content:  # torch.load compares no checksums
                if (damaged := content.testzip()) is not None:
                    raise ValueError(f"{damaged} is damaged")
            state = torch.load(file, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            raise ValueError(f"{file}: cannot be read ({' '.join(str(error).split())})") from error
        if not isinstance(state, dict) or state.get("step") != int(checkpoint.name.split("-")[1]):
            raise ValueError(f"{file}: is not the state of that step")
        return weights, average, state

    def save(
        self, weights: dict[str, Tensor], average: dict[str, Tensor], frozen: dict[str, str], state: dict[str, Any]
    ) -> None:
        """Write a checkpoint under a temporary name, rename it, and only then remove the oldest ones.

        Raises:
            ValueError: it cannot be written, as on a full disk; the earlier ones stay.
        """
        target = self.path / f"checkpoint-{state['step']:07d}"
        if not self.main or target in self.checkpoints():  # the same step of the same run is the same checkpoint
            return
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        settings = {key: value for key, value in asdict(self.config).items() if key != "output"}
        facts = {"config": settings, "frozen": frozen}
        try:
            self._write_config()
            for damaged in self._unreadable:
                _rename(damaged, damaged.with_suffix(".unreadable"))
            self._unreadable = {}
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write_tensors(partial / WEIGHTS, weights, "run", facts)
            if average:
                write_tensors(partial / AVERAGE, average, "run", facts)
            torch.save(state, partial / STATE)
            for written in partial.iterdir():
                sync_file(written)
            _rename(partial, target)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise ValueError(f"{target}: {self._unwritable(error)}") from error
        for old in self.checkpoints()[: -self.config.keep_checkpoints]:
            shutil.rmtree(old)

    def finish(self) -> None:
        """Copy the newest checkpoint's weights to where those of a finished run lie; errors as of `log`."""
        if self.main:
            # weights.safetensors comes last: where it is, the run has finished.
            for file in sorted(self.checkpoints()[-1].glob("*.safetensors"), reverse=True):
                with self.writing(file.name), atomic_file(self.path / file.name) as partial:
                    shutil.copyfile(file, partial)

    # ---- log

    def log(self, row: dict[str, float | None]) -> None:
        """Add a line to the log; a ValueError where it cannot be written."""
        if self.main:
            with self.writing(LOG):
                self._write_config()
                with open(self.path / LOG, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")

    def rewind_log(self, step: int) -> None:
        """Take back the lines after `step`: a run that goes on from there logs them once more.

        Lines that a kill cut off, or that are no rows for another reason, go too.

        Raises:
            ValueError: it cannot be read or written.
        """
        log = self.path / LOG
        if self.main and log.exists():
            with self.writing(LOG):
                before = log.read_bytes()
                rows = b"".join(line + b"\n" for line in before.split(b"\n") if _step_of(line) <= step)
                if rows != before:
                    atomic_write(log, rows)

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Turn the error of a file that cannot be written, as on a full disk, into one line.

        Raises:
            ValueError: names the file, the folder and the last checkpoint.
        """
        try:
            yield
        except OSError as error:
            raise ValueError(f"{self.path}: {name} {self._unwritable(error)}") from error

    def _unwritable(self, error: Exception) -> str:
        last = self.checkpoints()[-1:] or ["none"]
        return f"cannot be written ({error}); the last checkpoint is {last[0]}"

    def _write_config(self) -> None:
        if not self._has_config:
            self.path.mkdir(parents=True, exist_ok=True)
            save_config(self.config, self.path / CONFIG)
            self._has_config = True


def trained_weights(run: Path) -> dict[str, Tensor]:
    """Return the trained weights of a finished run: its moving average if it keeps one, else the last ones.

    Raises:
        ValueError: the run has not finished, or a file is missing or damaged.
    """
    if not (run / WEIGHTS).exists():
        raise ValueError(f"{run}: the run has not finished (no {WEIGHTS}); run its train command again")
    averaged = config_of(run).optim.ema_decay
    try:
        return read_tensors(run / AVERAGE if averaged else run / WEIGHTS)[0]
    except ValueError as error:
        raise ValueError(f"{error}; run the train command of {run} again, which copies it from a checkpoint") from error


def check_frozen(weights: Path, frozen: dict[str, str], init: str) -> None:
    """Check that a run's weights were trained on top of networks with these fingerprints.

    Raises:
        ValueError: a network of `init` is another one.
    """
    before = read_facts(weights).get("frozen", {})
    for name in before.keys() & frozen.keys():
        if before[name] != frozen[name]:
            raise ValueError(
                f"{weights}: was trained on top of another {name} than that of init: {init} "
                f"(fingerprint {before[name]}, got {frozen[name]})"
            )


def _step_of(line: bytes) -> float:
    """Step of a line of the log; infinite for a line that is no row."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")


def _rename(path: Path, target: Path) -> Path:
    """Rename a file or folder, on the disk too, and return its new path."""
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(path, target)
    sync_folder(target.parent)
    return target
