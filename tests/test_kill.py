"""A run that is killed at any moment, while it writes a checkpoint included, goes on as if nothing had happened."""

import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from followyourpose.config import save_config
from tests.runs import STAGE1, log_of, settings

KILLS, STEPS = 20, 400
# Each attempt is a fork of a process that has imported everything: a new one would spend its time on imports. One
# thread, in the unbroken run too: sums that are split otherwise are rounded otherwise.
KILLER = """
import os, random, signal, sys, time
import torch
from followyourpose.config import TrainConfig, load_config
from followyourpose.training.loop import train
file, kills = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
moment, killed = random.Random(0), 0
while True:
    child = os.fork()
    if child == 0:
        train(load_config(TrainConfig, file))
        os._exit(0)
    deadline = time.monotonic() + moment.uniform(0.05, 1.5)
    while killed < kills and time.monotonic() < deadline:
        time.sleep(0.002)
    if killed == kills:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "it ended by itself"
    killed += 1
"""


def test_twenty_kills_change_nothing(world: Path, tmp_path: Path) -> None:
    overrides = [f"steps={STEPS}", "save_every=1", "log_every=10", "optim.ema_decay=0.9", "trackers=[]"]
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    for run, kills in (unbroken, 0), (killed, KILLS):
        save_config(settings(world, run, STAGE1, *overrides), tmp_path / "run.yaml")
        command = [sys.executable, "-c", KILLER, str(tmp_path / "run.yaml"), str(kills)]
        result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stderr[-3000:]
    assert [(row["step"], row["loss"]) for row in log_of(killed)] == [
        (row["step"], row["loss"]) for row in log_of(unbroken)
    ]
    for name in ("weights.safetensors", "weights_ema.safetensors"):
        own, other = load_file(killed / name), load_file(unbroken / name)
        assert own.keys() == other.keys() and all((own[key] == other[key]).all() for key in own)
    assert "going on from step" in result.stdout
