"""`python data_prep/puppets.py OUT [--images N] [--clips N] ...` is `followyourpose puppets`, installed or not."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of data_prep/, whose names would hide packages
    from followyourpose.cli.main import main

    sys.exit(main(["puppets", *sys.argv[1:]]))
