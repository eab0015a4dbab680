"""`python scripts/train.py [CONFIG] [key=value ...]` is `followyourpose train`, installed or not.

`accelerate launch scripts/train.py` starts it on several devices.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of scripts/, whose names would hide packages
    from followyourpose.cli.main import main
    from followyourpose.training.launch import start_all_processes

    start_all_processes()
    sys.exit(main(["train", *sys.argv[1:]]))
