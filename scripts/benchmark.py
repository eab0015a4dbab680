"""Speed and memory of training and of generation, measured with random weights.

Nothing is kept but the table and the files of --json and --plot.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from followyourpose.common.files import atomic_write
from scripts import benchmark_count, benchmark_generate, benchmark_memory, benchmark_train
from scripts.benchmark_parts import LOW_MEMORY, SIZES
from scripts.benchmark_systems import GROUPS, VARIANTS, possible

EXAMPLES = {
    "train": """examples:
  python -m scripts.benchmark train --size tiny --json outputs/benchmark.json
  python -m scripts.benchmark train --size sd14 --height 64 --width 64 --frames 1 --steps 2 --variants pixels cached
""",
    "generate": """examples:
  python -m scripts.benchmark generate --size tiny --json outputs/benchmark.json --plot outputs/benchmark.png
  python -m scripts.benchmark generate --size sd14 --frames 4 --height 256 --width 256 --steps 3 --variants memory
  python -m scripts.benchmark generate --size sd14 --height 512 --width 512 --dtype bfloat16 --count
""",
    "memory": """examples:
  python -m scripts.benchmark memory
  python -m scripts.benchmark memory --frames 24 --height 768 --width 768 --variants ours low-memory
""",
}
SHAPE = {"--height": "height in pixels", "--width": "width in pixels", "--frames": "number of frames"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmark",
        description=__doc__,
        epilog="examples:\n" + "".join(text.partition("\n")[2] for text in EXAMPLES.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_train(verbs)
    _add_generate(verbs)
    _add_memory(verbs)
    return parser


def _add_train(verbs: Any) -> None:
    verb = _verb(
        verbs, "train", "samples per second, peak memory and waiting for data",
        f"{benchmark_train.__doc__}\nMemory is the GPU's peak; on a CPU, the growth of the process after its first "
        "step.\nRatios are to the first variant.",
    )  # fmt: skip
    verb.set_defaults(call=benchmark_train.benchmark_train)
    verb.add_argument("--stage", choices=("stage1", "stage2"), default="stage2", help="stage (default: stage2)")
    for flag, text in {**SHAPE, "--frames": "frames of a clip, in stage 2", "--batch-size": "clips of a step"}.items():
        verb.add_argument(flag, type=int, metavar="N", help=f"{text} (default: the shipped config's)")
    verb.add_argument("--steps", type=int, default=10, metavar="N", help="measured optimiser steps (default: 10)")
    verb.add_argument("--warm-up", type=int, default=2, metavar="N", help="steps before those (default: 2)")
    names = [name for name in benchmark_train.VARIANTS if name != "fp16" or torch.cuda.is_available()]
    _variants(verb, names, f"of {', '.join(names)}; fp16 needs a GPU")


def _add_generate(verbs: Any) -> None:
    verb = _verb(
        verbs, "generate", "seconds and FLOPs per denoising step, and peak memory",
        f"{benchmark_generate.__doc__}\nMemory is the GPU's peak; on a CPU, the growth of the process, weights "
        "included: of steps, and of\nthe decoding after them. The floor is the FLOPs of a step over the speed of a "
        "large matrix product.",
    )  # fmt: skip
    verb.set_defaults(call=benchmark_generate.benchmark_generate)
    _shape(verb, {"--height": 64, "--width": 64, "--frames": 8})
    verb.add_argument("--steps", type=int, default=9, metavar="N", help="denoising steps (default: 9)")
    verb.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32",
        help="type of the weights (default: float32)",
    )  # fmt: skip
    verb.add_argument(
        "--count", dest="call", action="store_const", const=benchmark_count.benchmark_count,
        help="count a step's kernels, bytes and FLOPs by kind, as on a GPU, and measure nothing; no GPU is needed",
    )  # fmt: skip
    verb.add_argument(
        "--profile", dest="call", action="store_const", const=benchmark_generate.benchmark_profile,
        help="print the kernels of two steps that take the most time, and measure nothing else",
    )  # fmt: skip
    verb.add_argument("--plot", type=Path, metavar="FILE", help='draw the ratios there (needs the "eval" extra)')
    names = possible(VARIANTS)
    _variants(
        verb, names, f"of {', '.join(names)}; the first is what the others are compared with; memory: those that "
        "lower it", list(GROUPS),
    )  # fmt: skip


def _add_memory(verbs: Any) -> None:
    verb = _verb(verbs, "memory", "peak memory by setting, counted and not measured", benchmark_memory.__doc__)
    verb.set_defaults(call=benchmark_memory.benchmark_memory, size="sd14")
    _shape(verb, {"--frames": 16, "--height": 512, "--width": 512})
    _variants(verb, list(LOW_MEMORY), f"of {', '.join(LOW_MEMORY)}")


def _verb(verbs: Any, name: str, help: str, description: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name, help=help, description=description, epilog=EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verb.add_argument(
        "--size", choices=SIZES, default="tiny", help="the puppets' networks, or SD 1.4's (default: %(default)s)"
    )
    verb.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    return verb


def _shape(verb: argparse.ArgumentParser, defaults: dict[str, int]) -> None:
    for flag, default in defaults.items():
        verb.add_argument(flag, type=int, default=default, metavar="N", help=f"{SHAPE[flag]} (default: {default})")


def _variants(verb: argparse.ArgumentParser, names: list[str], help: str, groups: Sequence[str] = ()) -> None:
    verb.add_argument(
        "--variants", nargs="+", choices=[*names, *groups], default=names, metavar="NAME", help=f"{help} (default: all)"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        result = options.call(options)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(options.json, json.dumps(result, indent=2) + "\n")
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
