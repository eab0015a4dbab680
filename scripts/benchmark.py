"""Measures how fast training and generation are and how much memory they take, with random weights.

Nothing is kept but the table and the files of --json and --plot.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of scripts/, whose names would hide packages

import torch

from scripts import benchmark_generate, benchmark_memory, benchmark_train
from scripts.benchmark_parts import LOW_MEMORY, SIZES

TRAIN_EXAMPLES = """examples:
  python scripts/benchmark.py train --size tiny --json outputs/benchmark.json
  python scripts/benchmark.py train --size sd14 --height 64 --width 64 --frames 1 --steps 2 --variants pixels cached
"""
GENERATE_EXAMPLES = """examples:
  python scripts/benchmark.py generate --size tiny --json outputs/benchmark.json --plot outputs/benchmark.png
  python scripts/benchmark.py generate --size sd14 --frames 4 --height 256 --width 256 --steps 3 --variants memory
"""
MEMORY_EXAMPLES = """examples:
  python scripts/benchmark.py memory
  python scripts/benchmark.py memory --frames 24 --height 768 --width 768 --variants ours low-memory
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=TRAIN_EXAMPLES + "".join(text.partition("\n")[2] for text in (GENERATE_EXAMPLES, MEMORY_EXAMPLES)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = parser.add_subparsers(title="what to measure", metavar="VERB", required=True)
    train = _verb(
        verbs, "train", "samples per second, peak memory and waiting for data", TRAIN_EXAMPLES,
        f"{benchmark_train.__doc__}\nMemory is the GPU's peak; on a CPU, what the process grew by, after "
        "its first step.\nRatios are to the first variant.",
    )  # fmt: skip
    train.set_defaults(call=benchmark_train.benchmark_train)
    train.add_argument(
        "--stage", choices=("stage1", "stage2"), default="stage2", help="what is trained (default: stage2)"
    )
    for flag, help in (("--height", "pixels"), ("--width", "pixels"), ("--frames", "frames per clip, in stage 2"),
                       ("--batch-size", "clips per step")):  # fmt: skip
        train.add_argument(flag, type=int, metavar="N", help=f"{help} (default: the shipped config's)")
    train.add_argument("--steps", type=int, default=10, metavar="N", help="measured optimiser steps (default: 10)")
    train.add_argument("--warm-up", type=int, default=2, metavar="N", help="steps before those (default: 2)")
    possible = [name for name in benchmark_train.VARIANTS if name != "fp16" or torch.cuda.is_available()]
    _variants(train, possible, f"of {', '.join(possible)}; fp16 needs a GPU")

    generate = _verb(
        verbs, "generate", "seconds and FLOPs per denoising step, and peak memory", GENERATE_EXAMPLES,
        f"{benchmark_generate.__doc__}\nMemory is the GPU's peak; on a CPU, what the process grew by, weights "
        "included: of steps, and of\ndecoding after them. The floor is the FLOPs of a step over the speed of a large "
        "matrix product.",
    )  # fmt: skip
    generate.set_defaults(call=benchmark_generate.benchmark_generate)
    for flag, default, help in (("--height", 64, "pixels"), ("--width", 64, "pixels"), ("--frames", 8, "frames"),
                                ("--steps", 9, "denoising steps")):  # fmt: skip
        generate.add_argument(flag, type=int, default=default, metavar="N", help=f"{help} (default: {default})")
    generate.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="of the weights (default: float32)",
    )
    generate.add_argument("--plot", type=Path, metavar="FILE", help='draw the ratios there (needs the "eval" extra)')
    possible, groups = benchmark_generate.possible(benchmark_generate.VARIANTS), list(benchmark_generate.GROUPS)
    _variants(
        generate, possible, f"of {', '.join(possible)}; the first is what the others are compared with; memory: those "
        "that lower it", groups,
    )  # fmt: skip

    memory = _verb(verbs, "memory", "peak memory by setting, counted and not measured", MEMORY_EXAMPLES,
                   benchmark_memory.__doc__)  # fmt: skip
    memory.set_defaults(call=benchmark_memory.benchmark_memory, size="sd14")
    for flag, default, help in (("--frames", 16, "frames"), ("--height", 512, "pixels"), ("--width", 512, "pixels")):
        memory.add_argument(flag, type=int, default=default, metavar="N", help=f"{help} (default: {default})")
    _variants(memory, list(LOW_MEMORY), f"of {', '.join(LOW_MEMORY)}")
    return parser


def _verb(verbs: Any, name: str, help: str, examples: str, description: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name, help=help, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verb.add_argument(
        "--size", choices=SIZES, default="tiny", help="the puppets' networks, or SD 1.4's (default: %(default)s)"
    )
    verb.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    return verb


def _variants(verb: argparse.ArgumentParser, possible: list[str], help: str, groups: Sequence[str] = ()) -> None:
    verb.add_argument(
        "--variants", nargs="+", choices=[*possible, *groups], default=possible, metavar="NAME",
        help=f"{help} (default: all)",
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    result = options.call(options)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
