"""`python -m scripts.evaluate [CONFIG] [key=value ...]` is `followyourpose evaluate`, installed or not.

accelerate launch --multi_gpu --num_processes 8 -m scripts.evaluate CONFIG output=FOLDER
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of scripts/, whose names would hide packages
    from followyourpose.cli.main import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))
