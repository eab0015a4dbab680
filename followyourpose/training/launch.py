"""`accelerate launch --cpu --num_processes N`: accelerate starts one process of N and leaves the others to mpirun."""

import argparse
import os
import sys

import psutil


def start_all_processes() -> None:
    """Where this is the one process of several that accelerate started, gives way to torchrun, which starts them all.

    How many they are to be, accelerate tells no process: it is read from the launcher's command line.
    """
    if not is_one_of_several():
        return
    parser = argparse.ArgumentParser(add_help=False)
    for flag in ("--num_processes", "--num_machines"):
        parser.add_argument(flag, flag.replace("_", "-"), dest=flag[2:], type=int, default=1)
    options, _ = parser.parse_known_args(psutil.Process(os.getppid()).cmdline())
    if options.num_processes > 1 and options.num_machines == 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(options.num_processes)]
        os.execv(sys.executable, [sys.executable, *torchrun, *sys.argv])


def is_one_of_several() -> bool:
    """Whether accelerate was told of several processes on CPUs, and has left it to others to start them."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    return on_cpu and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ
