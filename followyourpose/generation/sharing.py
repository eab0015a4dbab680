"""Processes that share the videos of a run: those that `accelerate launch` or `torchrun` started, on any machines.

All run the same code. Each draws its part of the videos or, where these are fewer than processes, its part of each
video's windows. The first process records and cleans up. What is finished lies in the run's folder, which all see.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from followyourpose.common.files import atomic_file, printable
from followyourpose.generation.unfinished import FOLDER, unfinished_run

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # longest wait for another process, which may draw many videos more than this one


class Processes:
    """This process among those that a launcher started; without one, it is the first of one."""

    def __init__(self) -> None:
        launched = os.environ if "MASTER_ADDR" in os.environ else {}
        self.rank, self.count = int(launched.get("RANK", 0)), int(launched.get("WORLD_SIZE", 1))
        self.first = self.rank == 0
        self._stdout = sys.stdout
        if self.count > 1:
            import torch.distributed

            if not torch.distributed.is_initialized():  # by way of the CPU, for any kind of GPU and any number of them
                torch.distributed.init_process_group("gloo", timeout=PATIENCE)

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of items."""
        return items[self.rank :: self.count]

    def agree(self, value: T) -> T:
        """Return the first process's value."""
        if self.count == 1:
            return value
        import torch.distributed

        values = [value]
        with _lost_reported():
            torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            import torch.distributed

            with _lost_reported():
                torch.distributed.barrier()

    def print(self, line: str) -> None:
        """Print a line, whichever process this is."""
        with nullcontext() if self.first else redirect_stdout(self._stdout):
            print(printable(line), flush=self.count > 1)

    @contextmanager
    def run(self, folder: Path, settings: dict[str, Any]) -> Iterator[Path]:
        """Yield the folder for unfinished files of a run that all processes share; see `unfinished_run`.

        It is there when the first process has made it, and goes when that one ends the run. Others print nothing.
        """
        if self.first:
            with unfinished_run(folder, settings) as work:
                self.wait()
                yield work
            return
        with redirect_stdout(None):
            self.wait()
            yield folder / FOLDER

    def map_windows(
        self, predict: "Callable[[Any, Tensor], Tensor]", groups: Sequence[Any], inputs: "Iterator[Tensor]"
    ) -> "Iterator[Tensor]":
        """Yield the noise (n, c, T, h, w) of each group's latents (n, c, T, h, w), each predicted by one process.

        In place of `map` of a pipeline (`FollowYourPosePipeline.map_windows`): all processes get the same numbers.
        """
        import torch

        inputs = list(inputs)
        own = {i: predict(groups[i], inputs[i]) for i in self.part(range(len(groups)))}
        for i, x in enumerate(inputs):
            noise = own.get(i, torch.empty_like(x)).to("cpu", x.dtype).contiguous()
            with _lost_reported():
                torch.distributed.broadcast(noise.view(torch.uint8), src=i % self.count)  # gloo lacks some dtypes
            yield noise.to(x.device)


@contextmanager
def _lost_reported() -> Iterator[None]:
    """Turn gloo's error of a lost connection into one line."""
    try:
        yield
    except RuntimeError as error:
        raise ChildProcessError("another process of the run has ended early; the same command goes on") from error


@dataclass(eq=False)
class KeptArrays:
    """Arrays of a run that are computed by all processes, and kept in its folder for unfinished files."""

    processes: Processes
    work: Path

    def __call__(self, name: str, compute: Callable[[T], np.ndarray], items: Sequence[T]) -> list[np.ndarray]:
        """Return an array (...,) of each item: from its file, NAME-00000.npy and so on, where that is there."""
        files = [self.work / f"{name}-{number:05d}.npy" for number in range(len(items))]
        for file, item in self.processes.part(list(zip(files, items, strict=True))):
            if not file.exists():
                array = compute(item)
                with atomic_file(file) as partial, partial.open("wb") as stream:
                    np.save(stream, array)
        self.processes.wait()
        arrays = [np.load(file) for file in files]
        self.processes.wait()  # the first one may remove them when the run ends
        return arrays
