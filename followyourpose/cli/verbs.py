"""One function per verb: its parsed options -> a config -> one call, imported late so that `--help` is instant."""

import argparse
import dataclasses
import difflib
import os
import re
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

from followyourpose.common.checks import check_above_zero, check_choice, parse_size
from followyourpose.common.files import atomic_write
from followyourpose.config import (
    REPOSITORY,
    ConfigError,
    EvaluateConfig,
    EvaluatePoseConfig,
    GenerateConfig,
    PoseConfig,
    StudyConfig,
    TrainConfig,
    build_config,
    load_config,
    locate,
)
from followyourpose.hub import places

SAMPLE_CONFIG = "configs/puppet/generate.yaml"
DEMO_CONFIG = "configs/puppet/demo.yaml"
PASSWORD = "FOLLOWYOURPOSE_PASSWORD"  # in the environment: on the command line every user of the machine could read it


def generate(options: argparse.Namespace) -> None:
    """Videos from prompts and skeletons."""
    config = _config(GenerateConfig, options.arguments, default=SAMPLE_CONFIG)
    from followyourpose.generation.generate import generate

    generate(config)


def train(options: argparse.Namespace) -> None:
    """A training run, or its plan."""
    config = _config(TrainConfig, options.arguments)
    from followyourpose.training.checks import changed_settings, check_inputs

    changed_settings(config)  # before the seconds that networks take to be imported
    check_inputs(config, options.dry_run)
    from followyourpose.training.loop import train

    train(config, dry_run=options.dry_run)
    if not options.dry_run:
        print(config.output)


def cache(options: argparse.Namespace) -> None:
    """Encoded data of a run."""
    config = _config(TrainConfig, options.arguments)
    from followyourpose.training.checks import check_inputs

    check_inputs(config)
    from followyourpose.training.cache import make_cache

    print(make_cache(config))


def evaluate(options: argparse.Namespace) -> None:
    """Metrics of videos, or of the modes of long videos."""
    config = _config(EvaluateConfig, options.arguments)
    from followyourpose.evaluation.evaluate import evaluate

    print(evaluate(config))


def evaluate_pose(options: argparse.Namespace) -> None:
    """Metrics of pose estimators."""
    config = _config(EvaluatePoseConfig, options.arguments)
    from followyourpose.evaluation.evaluate_pose import evaluate_pose

    print(evaluate_pose(config))


def study_make(options: argparse.Namespace) -> None:
    """The page of a user study."""
    config = _config(StudyConfig, options.arguments)
    from followyourpose.study.make import make_study

    print(make_study(config))


def study_score(options: argparse.Namespace) -> None:
    """Percentages of raters' answers."""
    from followyourpose.study.score import score_study

    print(score_study(options.key, options.answers, options.output))


def demo(options: argparse.Namespace) -> None:
    """The web page."""
    import signal

    if options.arguments or options.checkpoint is None:
        config = _config(GenerateConfig, options.arguments, default=DEMO_CONFIG)
    else:
        config = build_config(GenerateConfig, {"prompt": "an astronaut on the moon"})
    config = dataclasses.replace(config, model=options.checkpoint or config.model)
    if options.space is not None:
        from followyourpose.web.space import write_space

        write_space(config, options.space)
        print(options.space)
        return
    from followyourpose.web.app import serve
    from followyourpose.web.requests import Limits

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the temporary folder is removed then too
    serve(config, Limits(num_frames=options.max_frames), options.host, options.port, os.environ.get(PASSWORD) or None)


def comfyui_install(options: argparse.Namespace) -> None:
    """The nodes of ComfyUI, in its folder."""
    from followyourpose.comfyui.install import install

    print(install(options.folder))


def puppets(options: argparse.Namespace) -> None:
    """Data sets and benchmarks of the puppet world."""
    if options.benchmark:
        from followyourpose.puppets.benchmark import write_benchmark

        print(write_benchmark(options.out, options.benchmark, options.clips or None, options.size))
        return
    from followyourpose.puppets.dataset import write_dataset

    write_dataset(
        options.out,
        images=options.images,
        clips=options.clips,
        seed=options.seed,
        size=128 if options.size is None else options.size,
        clip_frames=options.clip_frames,
        split=options.split,
        style=options.style,
    )
    print(options.out)


def extract_pose(options: argparse.Namespace) -> None:
    """Skeletons of a video of people."""
    flags = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(PoseConfig)}
    given = {name: value for name, value in flags.items() if value is not None}
    config = build_config(PoseConfig, given, name="command line")
    from followyourpose.generation.extract_pose import extract_pose

    extract_pose(options.video, options.output, config)
    print(options.output)


def pose_convert(options: argparse.Namespace) -> None:
    """Keypoints of another tool, or for one."""
    from followyourpose.generation.pose_files import convert_pose

    convert_pose(options.source, options.target, options.to, *_size_and_rate(options), options.images)
    print(options.target)


def pose_edit(options: argparse.Namespace) -> None:
    """Keypoints with joints moved."""
    from followyourpose.generation.pose_files import edit_pose

    edit_pose(options.source, options.target, options.moves, options.to, *_size_and_rate(options))
    print(options.target)


def _size_and_rate(options: argparse.Namespace) -> tuple[tuple[int, int] | None, float | None]:
    if options.fps is not None:
        check_above_zero("--fps", options.fps)
    return None if options.size is None else parse_size("--size", options.size), options.fps


def convert_weights(options: argparse.Namespace) -> None:
    """Weights from and to the released layout."""
    from followyourpose.hub.resolve import resolve
    from followyourpose.pipeline.convert import convert_weights

    base = None if options.base is None else resolve(options.base, "base")
    convert_weights(options.source, options.target, options.pose_encoder, options.to, base)
    print(options.target)


def configs(options: argparse.Namespace) -> None:
    """Shipped configs: a list, the text of one, or copies."""
    from followyourpose.common.tables import markdown_table

    shipped = _shipped()
    if options.name is not None:
        check_choice("configs", options.name, tuple(shipped))
    chosen = list(shipped) if options.name is None else [options.name]
    if options.to is not None:
        for name in chosen:
            target = options.to / f"{name}.yaml"
            if target.exists():
                raise ValueError(f"{target}: is there already, and nothing is overwritten")
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, shipped[name].read_bytes())
            print(target)
    elif options.name is None:
        rows = [(name, _use(file.read_text(encoding="utf-8"))) for name, file in shipped.items()]
        print(markdown_table(["name", "use"], rows, aligned=True))
    else:
        print(f"{shipped[options.name]}:", file=sys.stderr)  # apart, for the text may go to a file
        print(shipped[options.name].read_text(encoding="utf-8"), end="")


def _shipped() -> dict[str, Path]:
    """Return the shipped configs by name, such as puppet/generate."""
    home = REPOSITORY / "configs"
    return {file.relative_to(home).with_suffix("").as_posix(): file for file in sorted(home.rglob("*.yaml"))}


def _use(text: str) -> str:
    """Return the first sentence of the comment at the top of a config."""
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    comment = " ".join(line.lstrip("# ") for line in lines)
    return re.match(r".*?\.(?= |$)|.*", comment)[0]


def download(options: argparse.Namespace) -> None:
    """Models of others, by name."""
    from followyourpose.common.tables import markdown_table
    from followyourpose.hub.download import fetch
    from followyourpose.hub.registry import DOWNLOADS

    root = options.to or places.CHECKPOINTS
    if not options.names:
        rows = [
            [each.name, each.purpose, _bytes(each.size), each.licence, "there" if (root / each.path).exists() else ""]
            for each in DOWNLOADS.values()
        ]
        print(markdown_table(["name", "purpose", "size", "licence", f"in {root}"], rows, aligned=True))
        return
    for name in options.names:
        check_choice("download", name, tuple(DOWNLOADS))
    for each in [DOWNLOADS[name] for name in options.names]:
        if options.dry_run:
            print("\n".join(f"{_bytes(size):>10}  {name}" for name, size in fetch(each, root, dry_run=True)))
            continue
        from followyourpose.pipeline.bring import bring

        print(bring(each, root))


def _bytes(size: int | None) -> str:
    """Return a size as people write it."""
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def export(options: argparse.Namespace) -> None:
    """A pipeline's folder of a training run."""
    from followyourpose.training.components import export

    export(options.run, options.out)
    print(options.out)


def inspect(options: argparse.Namespace) -> None:
    """Contents of a data set or of weights."""
    path = locate(options.path)
    if path.suffix != ".safetensors":
        from followyourpose.inspection.datasets import describe_data, is_dataset

        if is_dataset(path):
            sheet = options.sheet or Path("outputs") / f"{path.absolute().name}-samples.png"
            print(describe_data(path, sheet, options.samples, options.seed))
            return
    from followyourpose.inspection.weights import describe

    print(describe(path))


def _config(schema: type, arguments: list[str], default: str | None = None) -> Any:
    """Return the config of a verb: its file, or `default`, or the schema's defaults; then the key=value overrides."""
    own = next((text for text in arguments if "=" not in text), None)
    overrides, file = [text for text in arguments if text is not own], own or default
    if file is None:
        return build_config(schema, {}, overrides, "no CONFIG file was given")
    named = REPOSITORY / "configs" / f"{file}.yaml"  # puppet/fast
    path = locate(file)
    if path.exists() or not named.is_file():
        try:
            return load_config(schema, path, overrides)
        except ConfigError as error:
            raise error if path.exists() else ConfigError(f"{error}{_meant(file, schema)}") from error
    return load_config(schema, named, overrides)


def _meant(file: str, schema: type) -> str:
    """Return the hint for a config that is not there: the nearest of the shipped ones, or the prompt that it may be."""
    prompt = f'prompt="{file}"' if " " in file.strip() else 'prompt="..."'
    name = file.removeprefix("configs/").removesuffix(".yaml")
    if near := difflib.get_close_matches(name, _shipped(), n=1, cutoff=0.7):
        return f"; the nearest shipped config is {near[0]}"
    if file.endswith(".yaml"):
        return ""
    listed = "; `followyourpose configs` lists the shipped ones"
    return f"; a prompt is written {prompt}{listed}" if hasattr(schema, "prompt") else listed
