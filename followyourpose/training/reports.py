"""Reports of a run while it trains: log, trackers, first batch and validation videos."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict

from accelerate import Accelerator

from followyourpose.config import TrainConfig
from followyourpose.data.batch import Batch
from followyourpose.training.first_batch import draw_first_batch
from followyourpose.training.objectives import Objective
from followyourpose.training.run_dir import FIRST_BATCH, VALIDATION, RunDir
from followyourpose.training.state import TrainState
from followyourpose.training.validation import Validation


class Reports:
    """Writes a run's reports after its steps, and measures the time that they take."""

    def __init__(
        self, config: TrainConfig, run: RunDir, accelerator: Accelerator, objective: Objective, state: TrainState
    ) -> None:
        self.config, self.run, self.accelerator, self.objective, self.state = config, run, accelerator, objective, state
        self.validation = Validation(config, objective, run.path / VALIDATION) if config.validation.every else None
        self.first = state.step + 1
        self._restart_clock()

    def timed(self, feed: Iterator[Batch]) -> Batch:
        """Return the next batch; the wait for it is counted."""
        began = time.monotonic()
        batch = next(feed)
        self._waited += time.monotonic() - began
        return batch

    def report(self, batch: Batch, norm: float) -> dict[str, float | None] | None:
        """Write the reports that are due after a step, and return the log's row, where there is one.

        Args:
            batch: the step's first; norm: of its gradient.
        """
        step, accelerator, row = self.state.step, self.accelerator, None
        if step == self.first and accelerator.is_main_process:  # not before: a run may fail at its first step
            settings = {key: str(value) for key, value in asdict(self.config).items()}
            rewind = {"tensorboard": {"purge_step": step}}  # of steps that a stopped command showed already
            with self.run.writing("run"):
                accelerator.init_trackers("run", settings, rewind)
            if step == 1:
                with self.run.writing(FIRST_BATCH):
                    draw_first_batch(batch, self.objective, self.run.path / FIRST_BATCH)
        if step % self.config.log_every == 0:
            row = self._row(norm)
            self.run.log(row)
            accelerator.log({key: value for key, value in row.items() if value is not None}, step)
        if self.validation and step % self.config.validation.every == 0 and accelerator.is_main_process:
            with self.state.averaged():
                self.validation.draw(step, accelerator)
        return row

    def _row(self, norm: float) -> dict[str, float | None]:
        counters, passed = self.state.counters, time.monotonic() - self._began
        losses = counters["losses"]
        row = {
            "clips_per_s": round((counters["samples"] - self._samples) / passed, 2),
            "data_wait": round(self._waited / passed, 4),  # share of the time
            "step": self.state.step,
            "clips": counters["samples"],
            "loss": sum(losses) / len(losses) if losses else None,  # None: all steps were skipped
            "lr": self.state.schedule.get_last_lr()[0],
            "gradient_norm": norm if math.isfinite(norm) else None,
            "skipped": counters["skipped"],  # steps in a row, up to this one
            "skipped_in_all": counters["skipped_in_all"],
        }
        counters["losses"] = []
        self._restart_clock()
        return row

    def _restart_clock(self) -> None:
        self._began, self._waited, self._samples = time.monotonic(), 0.0, self.state.counters["samples"]
