"""Trains other systems on the puppets, and draws a benchmark's videos with them: a folder that `evaluate` takes.

python scripts/baselines.py draw controlnet data/puppet-bench-1 outputs/baselines/controlnet
followyourpose evaluate configs/puppet/benchmark.yaml videos=outputs/baselines/controlnet

python scripts/baselines.py train controlnet
python scripts/baselines.py export controlnet outputs/puppet/baselines/controlnet weights/controlnet
"""

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of scripts/, whose names would hide packages

import numpy as np
from tqdm import tqdm

from followyourpose.common.checks import check_at_least
from followyourpose.common.files import new_folder
from followyourpose.config import REPOSITORY, TrainConfig, load_config, locate
from followyourpose.pose.keypoints_file import read_keypoints
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.benchmark import BENCHMARKS, benchmark_scenes, write_images
from followyourpose.puppets.characters import CHARACTERS
from followyourpose.puppets.world import HELD_OUT_PAIRS, Scene, render_scene
from followyourpose.training.loop import train
from scripts.baseline_objectives import OBJECTIVES, export_network
from scripts.baseline_systems import SYSTEMS, Draw, Task

CONFIGS = REPOSITORY / "configs" / "puppet" / "baselines"
Row = dict[str, Any]  # of a benchmark's manifest


def train_system(options: argparse.Namespace) -> None:
    config = load_config(TrainConfig, CONFIGS / f"{options.system}.yaml", options.settings)
    print(train(config, kind=OBJECTIVES[options.system]))


def export_system(options: argparse.Namespace) -> None:
    print(export_network(options.system, options.run, options.out))


def draw_benchmark(options: argparse.Namespace) -> None:
    """Writes OUT: the benchmark's manifest.jsonl with a video, as a folder of .png, put to each line."""
    for flag, got in (("--count", options.count), ("--jobs", options.jobs), ("--batch-size", options.batch_size)):
        if got is not None:
            check_at_least(flag, got)
    manifest = options.benchmark / "manifest.jsonl"
    if not manifest.is_file():
        raise ValueError(f"{manifest}: no such file, expected what `followyourpose puppets --benchmark` wrote")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()][: options.count]
    videos = list(enumerate(zip(rows, benchmark_scenes(options.name, len(rows)), strict=True)))
    batches = [videos[start : start + options.batch_size] for start in range(0, len(videos), options.batch_size)]
    with new_folder(options.out) as folder, ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        draw = partial(_draw, (options.system, options.base, options.weights), options.benchmark, folder)
        for _ in tqdm((map if options.jobs == 1 else pool.map)(draw, batches), options.system, len(batches)):
            pass
        back = os.path.relpath(options.benchmark.resolve(), options.out.resolve())
        lines = []
        for number, row in enumerate(rows):
            files = {key: f"{back}/{row[key]}" for key in ("skeleton", "real")}
            lines.append(json.dumps({**row, **files, "video": _video(number)}) + "\n")
        (folder / "manifest.jsonl").write_text("".join(lines))
    print(options.out)


def _draw(
    system: tuple[str, Path, Path], benchmark: Path, folder: Path, videos: list[tuple[int, tuple[Row, Scene]]]
) -> None:
    drawn = _open(*system)([_task(row, scene, benchmark) for _, (row, scene) in videos])
    for (number, _), frames in zip(videos, drawn, strict=True):
        write_images(folder / _video(number), frames)


@cache
def _open(system: str, base: Path, weights: Path) -> Draw:
    return SYSTEMS[system](base, weights)


def _video(number: int) -> str:
    return f"videos/{number:04d}"


def _task(row: Row, scene: Scene, benchmark: Path) -> Task:
    clip = read_keypoints(benchmark / row["skeleton"])
    skeleton = np.stack([render_skeleton(people, clip.height, clip.width) for people in clip.frames])
    # The same motion by the next character that is at home there: what a system that edits videos may be given.
    names = list(CHARACTERS)
    others = names[names.index(scene.character) + 1 :] + names
    other = next(name for name in others if (name, scene.background) not in HELD_OUT_PAIRS)
    source = replace(scene, character=other)
    frames, _ = render_scene(source, len(clip.frames), clip.height, clip.width)
    return Task(row["prompt"], skeleton, row["seed"], (frames, source.caption))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(title="what to do", metavar="VERB", required=True)
    verb = verbs.add_parser("train", help="train a system's network, by the loop of the stages")
    verb.set_defaults(call=train_system)
    verb.add_argument("system", choices=OBJECTIVES)
    verb.add_argument(
        "settings", nargs="*", metavar="key=value", help="in place of configs/puppet/baselines/SYSTEM.yaml's"
    )
    verb = verbs.add_parser("export", help="write what a run trained as a folder that diffusers loads")
    verb.set_defaults(call=export_system)
    verb.add_argument("system", choices=OBJECTIVES)
    verb.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    verb.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    verb = verbs.add_parser("draw", help="draw the videos of a benchmark")
    verb.set_defaults(call=draw_benchmark)
    verb.add_argument("system", choices=SYSTEMS)
    verb.add_argument("benchmark", type=Path, metavar="BENCHMARK", help="what `puppets BENCHMARK --benchmark` wrote")
    verb.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    verb.add_argument("--name", default=next(iter(BENCHMARKS)), help="the benchmark's (default: %(default)s)")
    verb.add_argument("--count", type=int, metavar="N", help="the first N videos (default: all)")
    verb.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    verb.add_argument(
        "--batch-size", type=int, default=8, metavar="N",
        help="videos at a time in each, of the systems that can (default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--base", type=locate, default="checkpoints/puppet-base", metavar="DIR",
        help="the text-to-image model that all stand on (default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--weights", type=locate, default="checkpoints/puppet-baselines", metavar="DIR",
        help="where the trained systems were exported to, each under its name (default: %(default)s)",
    )  # fmt: skip
    return parser


def main() -> None:
    options = _parser().parse_args()
    try:
        options.call(options)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
