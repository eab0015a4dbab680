"""`python -m scripts.train [CONFIG] [key=value ...]` is `followyourpose train`, for launchers of several processes.

accelerate launch --multi_gpu --num_processes 8 -m scripts.train CONFIG
torchrun --nproc_per_node 2 -m scripts.train CONFIG
"""

import sys

from followyourpose.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
