"""`python -m scripts.generate [CONFIG] [key=value ...]` is `followyourpose generate`, installed or not, on many GPUs.

accelerate launch --multi_gpu --num_processes 8 -m scripts.generate CONFIG output=FOLDER
python -m scripts.generate --runner ray --workers 8 --gpus 1 CONFIG output=FOLDER
"""

import argparse
import sys
from functools import partial
from pathlib import Path


def main() -> None:
    """Draw the videos in this process and those that a launcher started, or by Ray's actors."""
    from data_prep.command import start
    from data_prep.scale import run
    from followyourpose.cli.main import main as followyourpose
    from followyourpose.cli.verbs import generate

    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--runner", choices=["ray"])
    flags.add_argument("--workers", type=int, default=1)
    flags.add_argument("--gpus", type=float, default=0)
    options, arguments = flags.parse_known_args()
    if options.runner is None:
        sys.exit(followyourpose(["generate", *arguments]))
    runner = partial(run, runner="ray", workers=options.workers, gpus=options.gpus)
    start("generate", partial(generate, argparse.Namespace(arguments=arguments), runner))


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of scripts/, where the file is started as such
    main()
