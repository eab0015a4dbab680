"""A run that is killed at any moment, while it writes a checkpoint included, goes on as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from followyourpose.config import save_config
from followyourpose.training.loop import train
from tests.runs import STAGE1, assert_same_run, log_of, settings

# Each attempt is a fork of a process that has imported everything: a new one would spend its time on imports. One
# thread, in the unbroken run too: sums that are split otherwise are rounded otherwise. Every attempt may write one
# checkpoint at least; after that, every second one is killed while it writes the next, the others at a random moment.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from followyourpose.config import TrainConfig, load_config
from followyourpose.training.loop import train
config, kills = load_config(TrainConfig, sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
moment, moments = random.Random(0), []

def checkpoints():
    return [path.name for path in Path(config.output).glob("checkpoint-*")]

def partials(child):
    return list(Path(config.output).glob(f".checkpoint-*.{child}.partial"))

def wait_until(child, happened):
    while not happened():
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended by itself"
        time.sleep(0.0003)

while len(moments) < kills:
    before, writing = max(checkpoints(), default=""), len(moments) % 2 == 0
    child = os.fork()
    if child == 0:
        train(config)
        os._exit(0)
    for _ in range(1 if writing else moment.randint(1, 4)):
        wait_until(child, lambda: max(checkpoints(), default="") > before)
        before = max(checkpoints())
    if writing:
        wait_until(child, lambda: partials(child))
    time.sleep(moment.uniform(0, 0.003 if writing else 0.05))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "it ended by itself"
    moments.append({"newest": max(checkpoints()), "torn": len(partials(child))})
train(config)
print(json.dumps(moments))
"""


@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.kills)])
def test_kills_change_nothing(world: Path, tmp_path: Path, kills: int) -> None:
    overrides = [f"steps={6 * kills}", "save_every=1", "log_every=1", "optim.ema_decay=0.9", "trackers=[]"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    unbroken, killed = train(settings(world, tmp_path / "unbroken", STAGE1, *overrides)), tmp_path / "killed"
    torch.set_num_threads(threads)
    save_config(settings(world, killed, STAGE1, *overrides), tmp_path / "run.yaml")
    command = [sys.executable, "-c", KILLER, str(tmp_path / "run.yaml"), str(kills)]
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    moments = json.loads(result.stdout.splitlines()[-1])
    newest = [moment["newest"] for moment in moments]
    assert len(set(newest)) == kills and newest == sorted(newest), "every attempt went on from the last one"
    assert sum(moment["torn"] for moment in moments) >= kills / 4, "some were killed while they wrote a checkpoint"
    assert [(row["step"], row["loss"]) for row in log_of(killed)] == [
        (row["step"], row["loss"]) for row in log_of(unbroken)
    ]
    assert_same_run(killed, unbroken)
    assert "going on from step" in result.stdout
