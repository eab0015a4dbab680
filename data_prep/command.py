"""What the scripts share: a --help that is the manual, the flags that choose who works, errors in one line."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.scale import RUNNERS, default_workers


def parser(about: str, *examples: str) -> argparse.ArgumentParser:
    """A parser whose help ends with the examples; `about` is the script's docstring."""
    return argparse.ArgumentParser(
        description=about,
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_runner(flags: argparse.ArgumentParser) -> None:
    """The flags for `scale.run`."""
    group = flags.add_argument_group("who works")
    group.add_argument(
        "--runner", choices=RUNNERS, default="local",
        help="local: processes; ray: actors on the cluster at RAY_ADDRESS, or on one started here; slurm: processes, "
        "for this array task's range (default: local)",
    )  # fmt: skip
    cores = default_workers()
    group.add_argument(
        "--workers", type=int, default=cores, metavar="N", help=f"processes or actors (default: the cores, {cores})"
    )
    group.add_argument("--gpus", type=float, default=0, metavar="N", help="GPUs per Ray actor (default: 0)")


def runner_of(options: argparse.Namespace) -> dict[str, Any]:
    """These flags' values, as `scale.run` takes them."""
    return {"runner": options.runner, "workers": options.workers, "gpus": options.gpus}


def start(name: str, main: Callable[[], None]) -> None:
    """Runs a script and leaves with its exit code: 0 done, 2 bad input (one line on stderr), 130 interrupted."""
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"{Path(name).stem}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{Path(name).stem}: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
