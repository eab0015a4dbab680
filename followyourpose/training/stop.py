"""Stopping in good order: SIGTERM and SIGINT set a flag that the loop reads after each step."""

import signal
import threading
from types import FrameType

import torch
from accelerate import Accelerator


class StopSignal:
    """Context in which a first SIGTERM or SIGINT only sets `received`; a second one acts as it does outside.

    So a pre-empted machine, or a person at the keyboard, gets a checkpoint of the step that was under way.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.received, self._before = accelerator, False, {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def agreed(self) -> bool:
        """Whether any process received a signal; the same in all, which therefore have to call this together."""
        if self.accelerator.num_processes == 1:
            return self.received
        received = torch.tensor(float(self.received), device=self.accelerator.device)
        return self.accelerator.reduce(received, "sum").item() > 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
