"""Parts of every script: a --help that is the manual, the flags that choose the workers, errors in one line."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.scale import RUNNERS
from followyourpose.common.device import usable_cores


def parser(name: str, about: str, *examples: str) -> argparse.ArgumentParser:
    """Return a parser of `python -m data_prep.NAME`; its help is `about`, the flags and the examples."""
    return argparse.ArgumentParser(
        prog=f"python -m data_prep.{name}",
        description=about,
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_runner(flags: argparse.ArgumentParser) -> None:
    """Add the flags of `scale.run`."""
    group = flags.add_argument_group("workers")
    group.add_argument(
        "--runner", choices=RUNNERS, default="local",
        help="local: processes; ray: actors on the cluster at RAY_ADDRESS, or on one started here; slurm: processes, "
        "for this array task's range (default: local)",
    )  # fmt: skip
    cores = usable_cores()
    group.add_argument(
        "--workers", type=int, default=cores, metavar="N", help=f"processes or actors (default: the cores, {cores})"
    )
    group.add_argument("--gpus", type=float, default=0, metavar="N", help="GPUs per Ray actor (default: 0)")


def runner_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values of these flags, as arguments of `scale.run`."""
    return {"runner": options.runner, "workers": options.workers, "gpus": options.gpus}


def is_last(options: argparse.Namespace, result: Path) -> bool:
    """Whether no other task is at work, so that the result of all units can be written; else print when it can."""
    if options.runner == "slurm":
        print(f"when all tasks are done, write {result}: run the same command without --runner slurm")
    return options.runner != "slurm"


def start(name: str, main: Callable[[], None]) -> None:
    """Run a script and exit: 0 done, 2 bad input (one line on stderr), 130 interrupted."""
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, such as `| head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        line = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
        print(f"{name}: error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
