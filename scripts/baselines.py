"""Training of other systems on the puppets, and a benchmark's videos by them as a folder that `evaluate` takes.

python -m scripts.baselines draw controlnet data/puppet-bench-2 outputs/baselines/controlnet
followyourpose evaluate configs/puppet/benchmark.yaml videos=outputs/baselines/controlnet

python -m scripts.baselines fit everybody-dance-now weights        # or first-order-motion: minutes on one core

python -m scripts.baselines train controlnet
python -m scripts.baselines export controlnet outputs/puppet/baselines/controlnet weights/controlnet
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

import numpy as np
from tqdm import tqdm

from followyourpose.common.checks import check_at_least
from followyourpose.common.files import atomic_write, new_folder, read_text
from followyourpose.config import REPOSITORY, TrainConfig, build_config, load_config, locate
from followyourpose.pose.keypoints_file import read_keypoints
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.benchmark import BENCHMARKS, benchmark_scenes, write_images
from followyourpose.puppets.characters import CHARACTERS
from followyourpose.puppets.world import HELD_OUT_PAIRS, Scene, render_scene
from followyourpose.training.loop import train
from scripts.baseline_dance import fit_people
from scripts.baseline_objectives import OBJECTIVES, export_network
from scripts.baseline_systems import SYSTEMS, WITHOUT_NOISE, Draw, Sampling, Task
from scripts.baseline_warp import fit_warp

CONFIGS = REPOSITORY / "configs" / "puppet" / "baselines"
FITTED = {"first-order-motion": fit_warp, "everybody-dance-now": fit_people}
Row = dict[str, Any]  # of a benchmark's manifest.jsonl


def train_system(options: argparse.Namespace) -> None:
    config = load_config(TrainConfig, CONFIGS / f"{options.system}.yaml", options.settings)
    print(train(config, kind=OBJECTIVES[options.system]))


def export_system(options: argparse.Namespace) -> None:
    print(export_network(options.system, options.run, options.out))


def fit_system(options: argparse.Namespace) -> None:
    FITTED[options.system](options.weights)
    print(options.weights / options.system)


def draw_benchmark(options: argparse.Namespace) -> None:
    """Write OUT: the benchmark's manifest.jsonl with a video, a folder of .png, in each row."""
    for flag, got in (("--count", options.count), ("--jobs", options.jobs), ("--batch-size", options.batch_size)):
        if got is not None:
            check_at_least(flag, got)
    if options.settings and options.system in WITHOUT_NOISE:
        raise ValueError(f"{options.system}: got {options.settings[0]}, expected no settings")
    sampling = build_config(Sampling, {}, options.settings)
    manifest = options.benchmark / "manifest.jsonl"
    if not manifest.is_file():
        raise ValueError(f"{manifest}: no such file, expected the output of `followyourpose puppets --benchmark`")
    rows = [json.loads(line) for line in read_text(manifest).split("\n") if line][: options.count]
    videos = list(enumerate(zip(rows, benchmark_scenes(options.name, len(rows)), strict=True)))
    batches = [videos[start : start + options.batch_size] for start in range(0, len(videos), options.batch_size)]
    with new_folder(options.out) as folder, ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        draw = partial(_draw, (options.system, options.base, options.weights), sampling, options.benchmark, folder)
        for _ in tqdm((map if options.jobs == 1 else pool.map)(draw, batches), options.system, len(batches)):
            pass
        back = os.path.relpath(options.benchmark.resolve(), options.out.resolve())
        lines = []
        for number, row in enumerate(rows):
            files = {key: f"{back}/{row[key]}" for key in ("skeleton", "real")}
            lines.append(json.dumps({**row, **files, "video": _video(number)}) + "\n")
        atomic_write(folder / "manifest.jsonl", "".join(lines))
    print(options.out)


def _draw(
    system: tuple[str, Path, Path],
    sampling: Sampling,
    benchmark: Path,
    folder: Path,
    videos: list[tuple[int, tuple[Row, Scene]]],
) -> None:
    drawn = _open(*system)([_task(row, scene, benchmark, sampling) for _, (row, scene) in videos])
    for (number, _), frames in zip(videos, drawn, strict=True):
        write_images(folder / _video(number), frames)


@cache
def _open(system: str, base: Path, weights: Path) -> Draw:
    return SYSTEMS[system](base, weights)


def _video(number: int) -> str:
    return f"videos/{number:04d}"


def _task(row: Row, scene: Scene, benchmark: Path, sampling: Sampling) -> Task:
    clip = read_keypoints(benchmark / row["skeleton"])
    skeleton = np.stack([render_skeleton(people, clip.height, clip.width) for people in clip.frames])
    person, keypoints = (scene.character, scene.background), np.stack([people[0] for people in clip.frames])
    # Source for systems that edit videos: the same motion by the next character that is not held out there.
    names = list(CHARACTERS)
    others = names[names.index(scene.character) + 1 :] + names
    other = next(name for name in others if (name, scene.background) not in HELD_OUT_PAIRS)
    source = replace(scene, character=other)
    frames, _ = render_scene(source, len(clip.frames), clip.height, clip.width)
    return Task(row["prompt"], skeleton, row["seed"], (frames, source.caption), person, keypoints, sampling)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    verb = verbs.add_parser("train", help="train a system's network by the loop of the stages")
    verb.set_defaults(call=train_system)
    verb.add_argument("system", choices=OBJECTIVES)
    verb.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings in place of those in configs/puppet/baselines/SYSTEM.yaml",
    )
    verb = verbs.add_parser("export", help="write a run's network as a folder that diffusers loads")
    verb.set_defaults(call=export_system)
    verb.add_argument("system", choices=OBJECTIVES)
    verb.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    verb.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    verb = verbs.add_parser("fit", help="train a system that copies a person; again, to resume")
    verb.set_defaults(call=fit_system)
    verb.add_argument("system", choices=FITTED)
    verb.add_argument("weights", type=Path, metavar="WEIGHTS", help="folder to write in, under the system's name")
    verb = verbs.add_parser("draw", help="draw the videos of a benchmark")
    verb.set_defaults(call=draw_benchmark)
    verb.add_argument("system", choices=SYSTEMS)
    verb.add_argument(
        "benchmark", type=Path, metavar="BENCHMARK", help="output of `followyourpose puppets BENCHMARK --benchmark`"
    )
    verb.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    verb.add_argument(
        "settings", nargs="*", metavar="key=value",
        help="noise=independent, mixed or shared (the default); pose_guidance=conditional or both (the default)",
    )  # fmt: skip
    verb.add_argument("--name", default=next(iter(BENCHMARKS)), help="name of the benchmark (default: %(default)s)")
    verb.add_argument("--count", type=int, metavar="N", help="number of videos, the first (default: all)")
    verb.add_argument("--jobs", type=int, default=1, metavar="N", help="number of processes (default: %(default)s)")
    verb.add_argument(
        "--batch-size", type=int, default=8, metavar="N",
        help="videos of a batch in each process, for systems that draw batches (default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--base", type=locate, default="checkpoints/puppet-base", metavar="DIR",
        help="text-to-image model under every system (default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--weights", type=locate, default="checkpoints/puppet-baselines", metavar="DIR",
        help="folder of exported networks, each under its system's name (default: %(default)s)",
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
