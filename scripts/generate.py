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

    if "--runner" in sys.argv:
        start("generate", on_ray)
    else:
        from followyourpose.cli.main import main as followyourpose

        sys.exit(followyourpose(["generate", *sys.argv[1:]]))


def on_ray() -> None:
    """Draw the videos by actors on the cluster that RAY_ADDRESS names, or on one that is started here."""
    from data_prep.scale import run
    from followyourpose.config import GenerateConfig, load_config
    from followyourpose.generation.generate import generate

    flags = argparse.ArgumentParser(prog="python -m scripts.generate")
    flags.add_argument("config", type=Path, metavar="CONFIG")
    flags.add_argument("settings", nargs="*", metavar="key=value")
    flags.add_argument("--runner", choices=["ray"])
    flags.add_argument("--workers", type=int, default=1, help="actors (default: 1)")
    flags.add_argument("--gpus", type=float, default=0, help="GPUs of each (default: 0)")
    options = flags.parse_intermixed_args()
    config = load_config(GenerateConfig, options.config, options.settings)
    generate(config, runner=partial(run, runner=options.runner, workers=options.workers, gpus=options.gpus))


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of scripts/, where the file is started as such
    main()
