"""Stopping in good order: SIGTERM and SIGINT become a question that the loop asks after each step."""

import signal
import threading
from types import FrameType

import torch
from accelerate import Accelerator


class StopSignal:
    """While entered, the first SIGTERM or SIGINT only sets `asked`; a second one acts as it would have without this.

    So a pre-empted machine, or a person at the keyboard, gets a checkpoint of the step that was under way.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.asked, self._before = accelerator, False, {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def agreed(self) -> bool:
        """Whether any process was asked to stop; all get the same answer, so all must ask together."""
        if self.accelerator.num_processes == 1:
            return self.asked
        asked = torch.tensor(float(self.asked), device=self.accelerator.device)
        return self.accelerator.reduce(asked, "sum").item() > 0

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
