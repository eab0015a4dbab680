"""Both data sets of the puppet world: `python -m data_prep.puppets OUT ...` is `followyourpose puppets OUT ...`."""

import sys

from followyourpose.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["puppets", *sys.argv[1:]]))
