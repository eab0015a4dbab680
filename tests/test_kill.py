"""A run that is killed at any moment, while it writes a checkpoint included, goes on as if nothing had happened."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from followyourpose.config import TrainConfig
from followyourpose.training.loop import train
from tests.processes import forks
from tests.runs import STAGE1, assert_same_run, log_of, settings


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Forks have one thread, and so has the unbroken run: sums that are split otherwise are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def attempt(config: TrainConfig) -> None:
    torch.set_num_threads(1)
    train(config)


def kill(config: TrainConfig, kills: int) -> list[tuple[str, int]]:
    """Start a run again and again and kill it; return its newest checkpoint and the torn ones after each time.

    Every attempt may write one checkpoint at least; after that, every second one is killed while it writes the next,
    the others at a random moment.
    """
    moment, moments = random.Random(0), []

    def newest() -> str:
        return max((path.name for path in Path(config.output).glob("checkpoint-*")), default="")

    while len(moments) < kills:
        before, writing = newest(), len(moments) % 2 == 0
        process = forks().Process(target=attempt, args=(config,))
        process.start()

        def torn(child: int | None = process.pid) -> list[Path]:
            return list(Path(config.output).glob(f".checkpoint-*.{child}.partial"))

        def wait_until(happened: Callable[[], object], process: BaseProcess = process) -> None:
            while not happened():
                assert process.exitcode is None, "it ended by itself"
                time.sleep(0.0003)

        for _ in range(1 if writing else moment.randint(1, 4)):
            wait_until(lambda before=before: newest() > before)
            before = newest()
        if writing:
            wait_until(torn)
        time.sleep(moment.uniform(0, 0.003 if writing else 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended by itself"
        moments.append((newest(), len(torn())))
    return moments


@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.kills)])
def test_kills_change_nothing(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture, kills: int) -> None:
    overrides = [f"steps={6 * kills}", "save_every=1", "log_every=1", "optim.ema_decay=0.9", "trackers=[]"]
    unbroken = train(settings(world, tmp_path / "unbroken", STAGE1, *overrides))
    config = settings(world, tmp_path / "killed", STAGE1, *overrides)
    moments = kill(config, kills)
    capsys.readouterr()
    killed = train(config)
    newest = [name for name, _ in moments]
    assert len(set(newest)) == kills and newest == sorted(newest), "every attempt went on from the last one"
    assert sum(torn for _, torn in moments) >= kills / 4, "some were killed while they wrote a checkpoint"
    assert [(row["step"], row["loss"]) for row in log_of(killed)] == [
        (row["step"], row["loss"]) for row in log_of(unbroken)
    ]
    assert_same_run(killed, unbroken)
    assert "going on from step" in capsys.readouterr().out
