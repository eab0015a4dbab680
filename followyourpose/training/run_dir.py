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
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from followyourpose.common.files import atomic_file, atomic_write, sync_file, sync_folder
from followyourpose.config import TrainConfig, load_config, save_config

# Settings that may change when a run goes on: how long, how fast, what it writes and shows. Everything else has a part
# in what is learned, and must be as it was.
_FREE = (
    "output", "steps", "save_every", "keep_checkpoints", "log_every", "trackers", "validation.", "compile",
    "gradient_checkpointing", "optim.max_skipped", "data.path", "data.cache", "data.workers", "data.timeout",
    "data.max_bad", "data.download",
)  # fmt: skip
_UNREADABLE = (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError)  # raised by loading
LOG, BAD, FIRST_BATCH, VALIDATION = "log.jsonl", "bad.jsonl", "first-batch.png", "validation"
WEIGHTS, AVERAGE, STATE = "weights.safetensors", "weights_ema.safetensors", "state.pt"


class RunDir:
    """The folder `config.output`: a new run, or the one that is there if it is of the same settings.

    Nothing is written before the first step's log or checkpoint: a command that could not start can be corrected.

    Attributes:
        main: whether this process writes, and not another of the run.
        changes: "key: before -> now" for each setting that has changed, and may.

    Raises:
        ValueError: the folder holds a run of other settings (every key that differs is named), or other files.
    """

    def __init__(self, config: TrainConfig, main: bool = True) -> None:
        self.path, self.main, self.config = Path(config.output), main, config
        self.changes: list[str] = []
        self._has_config = False  # of this command: settings that may change are those of the last one
        stored = self.path / "config.yaml"
        if stored.exists():
            before, now = _flat(asdict(load_config(TrainConfig, stored))), _flat(asdict(config))
            changed = [key for key in now if before[key] != now[key] and key != "output"]
            if differ := [key for key in changed if not key.startswith(_FREE)]:
                changes = "; ".join(f"{key}: {before[key]}, got {now[key]}" for key in differ)
                raise ValueError(
                    f"{self.path}: holds a run with {changes}; "
                    "choose another output, or the settings it was started with"
                )
            self.changes = [f"{key}: {before[key]} -> {now[key]}" for key in changed]
        elif self.path.exists() and any(p.suffix != ".partial" for p in self.path.iterdir()):
            raise ValueError(f"{self.path}: is not empty and holds no run; choose another output")

    # ---- checkpoints

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = [p for p in self.path.glob("checkpoint-*") if not p.suffix]
        return sorted(found, key=lambda p: int(p.name.split("-")[1]))

    def set_aside_unreadable(self) -> list[Path]:
        """Rename checkpoints newer than the newest readable one to checkpoint-STEP.unreadable, and return those.

        Checkpoints are whole when they get their names; but a disk may lose what it held.

        Raises:
            ValueError: none of them can be read; then nothing is renamed.
        """
        unreadable: dict[Path, Exception] = {}
        for checkpoint in reversed(self.checkpoints()):
            try:
                _read(checkpoint)
            except _UNREADABLE as error:
                unreadable[checkpoint] = error
            else:
                return [_rename(path, path.with_suffix(".unreadable")) for path in unreadable]
        if unreadable:
            newest, error = next(iter(unreadable.items()))
            raise ValueError(f"{newest}: cannot be read ({error}), and no older one either; choose another output")
        return []

    def load(self, frozen: dict[str, str]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest checkpoint's weights, moving average and state; None where there is none yet.

        Args:
            frozen: fingerprints, by network, of the weights that the run does not train.

        Raises:
            ValueError: the checkpoint was trained on top of other weights.
        """
        checkpoints = self.checkpoints()
        if not checkpoints:
            return None
        check_frozen(checkpoints[-1] / WEIGHTS, frozen, self.config.init)
        return _read(checkpoints[-1])

    def save(
        self, weights: dict[str, Tensor], average: dict[str, Tensor], frozen: dict[str, str], state: dict[str, Any]
    ) -> None:
        """Write a checkpoint under a temporary name, rename it, and only then remove the oldest ones.

        Raises:
            ValueError: it cannot be written, as on a full disk; the earlier ones stay.
        """
        target = self.path / f"checkpoint-{state['step']:07d}"
        if not self.main or target.exists():  # the same step of the same run is the same checkpoint
            return
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        settings = {key: value for key, value in asdict(self.config).items() if key != "output"}
        metadata = {"run": json.dumps({"config": settings, "frozen": frozen}, sort_keys=True)}
        try:
            self._write_config()
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _save_weights(weights, partial / WEIGHTS, metadata)
            if average:
                _save_weights(average, partial / AVERAGE, metadata)
            torch.save(state, partial / STATE)
            for written in partial.iterdir():
                sync_file(written)
            _rename(partial, target)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise ValueError(f"{target}: {self._unwritable(error)}") from error
        for old in self.checkpoints()[: -self.config.keep_checkpoints]:
            shutil.rmtree(old)

    def finish(self) -> None:
        """Copy the newest checkpoint's weights to where those of a finished run lie.

        Raises:
            ValueError: they cannot be written.
        """
        if self.main:
            # weights.safetensors comes last: where it is, the run has finished.
            for file in sorted(self.checkpoints()[-1].glob("*.safetensors"), reverse=True):
                with self.writing(file.name), atomic_file(self.path / file.name) as partial:
                    shutil.copyfile(file, partial)

    # ---- log

    def log(self, row: dict[str, float | None]) -> None:
        """Add a line to the log.

        Raises:
            ValueError: it cannot be written.
        """
        if self.main:
            with self.writing(LOG):
                self._write_config()
                with open(self.path / LOG, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")

    def rewind_log(self, step: int) -> None:
        """Take back the lines after `step`: a run that goes on from there logs them once more.

        Raises:
            ValueError: it cannot be written.
        """
        log = self.path / LOG
        if self.main and log.exists():
            rows = [line for line in log.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            with self.writing(LOG):
                atomic_write(log, "".join(f"{line}\n" for line in rows))

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
            save_config(self.config, self.path / "config.yaml")
            self._has_config = True


def trained_weights(run: Path) -> dict[str, Tensor]:
    """Return the trained weights of a finished run: its moving average if it keeps one, else the last ones.

    Raises:
        ValueError: the run has not finished.
    """
    if not (run / WEIGHTS).exists():
        raise ValueError(f"{run}: the run has not finished (no {WEIGHTS}); run its train command again")
    return load_file(run / AVERAGE if (run / AVERAGE).exists() else run / WEIGHTS)


def check_frozen(weights: Path, frozen: dict[str, str], init: str) -> None:
    """Check that a run's weights were trained on top of networks with these fingerprints.

    Raises:
        ValueError: a network of `init` is another one.
    """
    with safe_open(weights, "pt") as file:
        before = json.loads((file.metadata() or {}).get("run", "{}")).get("frozen", {})
    for name in before.keys() & frozen.keys():
        if before[name] != frozen[name]:
            raise ValueError(
                f"{weights}: was trained on top of another {name} than that of init: {init} "
                f"(fingerprint {before[name]}, got {frozen[name]})"
            )


def is_run(folder: str | Path) -> bool:
    """Whether a folder is a run's, finished or not."""
    return (Path(folder) / "config.yaml").is_file()


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key: {"optim": {"betas": x}} -> {"optim.betas": x}."""
    flat = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _step_of(line: str) -> float:
    """Step of a line of the log; infinite for a line that a kill cut off."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")


def _read(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Load a checkpoint's weights, moving average and state."""
    average = checkpoint / AVERAGE
    state = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    return load_file(checkpoint / WEIGHTS), load_file(average) if average.exists() else {}, state


def _rename(path: Path, target: Path) -> Path:
    """Rename a file or folder, on the disk too, and return its new path."""
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(path, target)
    sync_folder(target.parent)
    return target


def _save_weights(weights: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, path, metadata)
