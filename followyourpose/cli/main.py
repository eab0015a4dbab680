"""The console command: `followyourpose VERB [CONFIG] [key=value ...]` -> a config -> one call.

Exit codes: 0 done, 2 bad input (one line on stderr says what), 130 interrupted.
"""

import argparse
import dataclasses
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from followyourpose.config import (
    EvaluateConfig,
    GenerateConfig,
    PoseConfig,
    StudyConfig,
    TrainConfig,
    build_config,
    load_config,
    locate,
)

SAMPLE_CONFIG = "configs/puppet/generate.yaml"
DEMO_CONFIG = "configs/puppet/demo.yaml"
PASSWORD = "FOLLOWYOURPOSE_PASSWORD"  # in the environment: on the command line every user of the machine could read it
EXPECTED_ERRORS = (ValueError, OSError)  # what bad input raises; anything else is a bug and keeps its traceback


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; `arguments` None takes those of the process. Returns the exit code."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of torchvision, which nothing here uses
    try:
        options.call(options)
    except EXPECTED_ERRORS as error:
        if options.debug:
            raise
        print(f"followyourpose: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"followyourpose: interrupted {stop}".rstrip(), file=sys.stderr)
        return 130
    return 0


# ---- the verbs: each imports, late, the one thing that it calls ------------------------------------------------------


def _generate(options: argparse.Namespace) -> None:
    config = _config(GenerateConfig, options.arguments, default=SAMPLE_CONFIG)
    from followyourpose.generation.generate import generate

    generate(config)


def _train(options: argparse.Namespace) -> None:
    config = _config(TrainConfig, options.arguments)
    from followyourpose.training.loop import train

    train(config, dry_run=options.dry_run)
    print(config.output)


def _cache(options: argparse.Namespace) -> None:
    config = _config(TrainConfig, options.arguments)
    from followyourpose.training.cache import make_cache

    print(make_cache(config))


def _evaluate(options: argparse.Namespace) -> None:
    config = _config(EvaluateConfig, options.arguments)
    if config.modes:
        from followyourpose.evaluation.long_videos import compare_modes as evaluate
    else:
        from followyourpose.evaluation.evaluate import evaluate

    print(evaluate(config))


def _study_make(options: argparse.Namespace) -> None:
    config = _config(StudyConfig, options.arguments)
    from followyourpose.study.make import make_study

    print(make_study(config))


def _study_score(options: argparse.Namespace) -> None:
    from followyourpose.study.score import score_study

    print(score_study(options.key, options.answers, options.output))


def _demo(options: argparse.Namespace) -> None:
    import signal

    if options.arguments or options.checkpoint is None:
        config = _config(GenerateConfig, options.arguments, default=DEMO_CONFIG)
    else:
        config = build_config(GenerateConfig, {"prompt": "an astronaut on the moon"})
    config = dataclasses.replace(config, model=options.checkpoint or config.model)
    from followyourpose.web.app import serve
    from followyourpose.web.requests import Limits

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the temporary folder is emptied then too
    serve(config, Limits(num_frames=options.max_frames), options.host, options.port, os.environ.get(PASSWORD) or None)


def _puppets(options: argparse.Namespace) -> None:
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
        size=options.size,
        clip_frames=options.clip_frames,
        split=options.split,
        style=options.style,
    )
    print(options.out)


def _extract_pose(options: argparse.Namespace) -> None:
    flags = {name: getattr(options, name) for name in _pose_flags()}
    given = {name: value for name, value in flags.items() if value is not None}
    config = build_config(PoseConfig, given, name="command line")
    from followyourpose.generation.extract_pose import extract_pose

    extract_pose(options.video, options.output, config)
    print(options.output)


def _convert_weights(options: argparse.Namespace) -> None:
    from followyourpose.models.weights import convert_weights

    convert_weights(options.source, options.target, pose_encoder=options.pose_encoder, to=options.to)
    print(options.target)


def _export(options: argparse.Namespace) -> None:
    from followyourpose.training.components import export

    export(options.run, options.out)
    print(options.out)


def _inspect(options: argparse.Namespace) -> None:
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
    """The config of a verb: its file, or `default`, or the dataclass's defaults; then the key=value overrides."""
    file, overrides = (None, arguments) if not arguments or "=" in arguments[0] else (arguments[0], arguments[1:])
    file = file or default
    if file is None:
        return build_config(schema, {}, overrides, "no CONFIG file was given")
    return load_config(schema, locate(file), overrides)


# ---- the manual ------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"followyourpose: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    # Suppressed, for a verb within a verb would set its own default: `parser` has the only one.
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    parser = _Parser(
        prog="followyourpose",
        description="Follow Your Pose: pose-guided text-to-video generation (arXiv 2304.01186).",
        epilog="examples:\n  followyourpose generate\n  followyourpose train configs/puppet/stage1.yaml seed=1\n\n"
        "`followyourpose VERB --help` is the manual of a verb: every key, its default and its unit.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"followyourpose {_version()}")
    parser.set_defaults(debug=False)
    add = _adder(parser, common)
    _add_config_verbs(add)
    _add_extract_pose(add)
    _add_puppets(add)
    _add_convert_weights(add)
    _add_export(add)
    _add_inspect(add)
    _add_study(add, common)
    _add_demo(add)
    return parser


def _adder(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> Callable[..., argparse.ArgumentParser]:
    """A function that adds verbs to a parser."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)

    def add(
        name: str, call: Callable[[argparse.Namespace], None] | None, help: str, about: str, *examples: str
    ) -> argparse.ArgumentParser:
        lines = "".join(f"\n  {example}" for example in examples)
        verb = verbs.add_parser(
            name, help=help, description=about, parents=[common], epilog=f"examples:{lines}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        verb.set_defaults(call=call)
        return verb

    return add


def _add_config_verbs(add: Callable[..., argparse.ArgumentParser]) -> None:
    def add_config(
        name: str, call: Callable[..., None], schema: type, help: str, about: str, *examples: str
    ) -> argparse.ArgumentParser:
        keys = f"keys of CONFIG, and their defaults:\n\n{manual(schema)}"
        verb = add(name, call, help, f"{about}\n\n{keys}", *examples)
        verb.usage = f"followyourpose {name} [-h] [--debug] [CONFIG] [key=value ...]"
        what = "a YAML file, and values that replace its own"
        verb.add_argument("arguments", nargs="*", metavar="CONFIG, key=value", help=what)
        return verb

    add_config(
        "generate", _generate, GenerateConfig, "videos from prompts and a skeleton",
        "Writes a video for each prompt with each skeleton and each seed: mp4, gif, contact sheet, and mp4 beside the\n"
        "skeleton; index.html shows them all. Where an entry of a list of skeletons is a list of keypoints .json,\n"
        f"their people are in one frame. Without CONFIG it runs {SAMPLE_CONFIG}.",
        "followyourpose generate",
        'followyourpose generate configs/puppet/generate.yaml prompt="a robot in the desert" skeleton=my.mp4 seed=3',
        'followyourpose generate prompt="[a boy, two pandas in the snow]" "skeleton=[a.mp4, [b.json, c.json]]"',
        'followyourpose generate lora=checkpoints/puppet-lora-blueprint style="as a blueprint"',
    )  # fmt: skip
    train = add_config(
        "train", _train, TrainConfig, "train a stage; the same command resumes it",
        "Trains what CONFIG names and writes the run to its `output` folder; to resume, run the same command again.\n"
        "SIGTERM and Ctrl-C save the step under way, then stop.\n\n"
        "1 GPU:    followyourpose train CONFIG\n"
        "8 GPUs:   accelerate launch --multi_gpu --num_processes 8 scripts/train.py CONFIG\n"
        "2 nodes:  torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 \\\n"
        "              scripts/train.py CONFIG        (on each; configs/sd14/train.slurm does it under Slurm)",
        "followyourpose train configs/puppet/stage1.yaml",
        "followyourpose train configs/sd14/stage2.yaml output=runs/stage2 optim.learning_rate=1e-5 --dry-run",
    )  # fmt: skip
    train.usage = train.usage.replace("[--debug]", "[--debug] [--dry-run]")
    train.add_argument(
        "--dry-run", action="store_true", help="print settings, trainable parameters, data and memory, and stop"
    )
    add_config(
        "cache", _cache, TrainConfig, "encode a run's data once; the same command resumes it",
        "Writes the VAE's latents and the text encoder's states of CONFIG's data to the folder `data.cache`.\n"
        "`train` does so too before its first step. Several processes share it: torchrun -m followyourpose cache.\n"
        "A cache holds one view of each sample: data.crop has to be center, data.flip 0.",
        "followyourpose cache configs/puppet/base.yaml",
        "followyourpose cache configs/sd14/stage1.yaml data.cache=data/laion-pose-sd14 data.crop=center data.flip=0",
    )  # fmt: skip
    add_config(
        "evaluate", _evaluate, EvaluateConfig, "measure text, pose and frame consistency",
        "Judges videos by CLIP and by who finds people in them, and writes metrics.json, the table metrics.md, a row\n"
        "per video (videos.parquet), plots and the worst cases. `videos` is one of:\n\n"
        "null        what `model` draws of held-out puppets (the default)\n"
        "a folder of generate\n"
        "            its .mp4 files against its prompts and skeletons\n"
        "a manifest  a .jsonl file, or the folder of a manifest.jsonl, with a line for each video of any system:\n"
        '            {"video": "a.mp4", "prompt": "a robot in the desert", "skeleton": "dance.json"}\n'
        "            The skeleton is keypoints as extract-pose writes them, or drawn with such a .json beside it.\n"
        '            More keys: "frames", a list: the skeleton\'s frames that the video follows, if not all;\n'
        '            "real", a video of real people in the skeleton\'s poses, for what can be reached; "seed".\n'
        '            Where no line has a "video", `model` draws them. Paths are relative to the manifest.',
        "followyourpose evaluate configs/puppet/evaluate.yaml",
        "followyourpose evaluate configs/puppet/benchmark.yaml num_videos=64 model=checkpoints/mine",
        "followyourpose evaluate videos=outputs/my-run",
        "followyourpose evaluate videos=mine/manifest.jsonl clip=checkpoints/clip-vit-base-patch32 backend=rtmlib",
        "followyourpose evaluate configs/puppet/long_video.yaml",
    )  # fmt: skip


def _add_extract_pose(add: Callable[..., argparse.ArgumentParser]) -> None:
    verb = add(
        "extract-pose", _extract_pose, "a video of people to the video of their skeletons",
        "Writes skeleton.mp4, keypoints.json (what generate takes as skeleton=) and overlay.mp4, to check them.\n"
        "VIDEO may also be a gif, an image or a folder of images; generate does the same with pose.source=raw.",
        "followyourpose extract-pose dance.mp4 -o outputs/dance --backend rtmlib --people 1 --smooth 7",
        "followyourpose extract-pose dance.mp4 -o outputs/dance --backend mmpose --boxes checkpoints/yolox.onnx",
    )  # fmt: skip
    verb.add_argument("video", type=Path, metavar="VIDEO", help="what shows people")
    verb.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="a new folder to write")
    for name, help in _pose_flags().items():
        verb.add_argument(f"--{name.replace('_', '-')}", metavar="X", help=help)


def _pose_flags() -> dict[str, str]:
    """The keys of PoseConfig that are flags too, and their help."""
    comments = _comments(PoseConfig)
    return {
        field.name: f"{comments[field.name]} (default: {field.default})"
        for field in dataclasses.fields(PoseConfig)
        if field.name != "source"
    }


def _add_puppets(add: Callable[..., argparse.ArgumentParser]) -> None:
    verb = add(
        "puppets", _puppets, "write a data set of the puppet world",
        "Renders captioned images and clips with exact keypoints: OUT/images (stage 1), OUT/clips (stage 2).",
        "followyourpose puppets data/puppets --images 20000 --clips 2000",
        "followyourpose puppets data/held-out --images 0 --clips 64 --seed 1 --split held-out",
        "followyourpose puppets data/puppet-blueprint --images 6000 --seed 2 --style blueprint",
        "followyourpose puppets data/puppet-bench-1 --benchmark puppet-bench-1 --clips 64",
    )  # fmt: skip
    verb.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    numbers = (
        ("--images", 0, "number of images"), ("--clips", 0, "number of clips"), ("--seed", 0, "of the scenes"),
        ("--size", 64, "height and width in pixels"), ("--clip-frames", 24, "frames per clip"),
    )  # fmt: skip
    for flag, default, help in numbers:
        verb.add_argument(flag, type=int, default=default, metavar="N", help=f"{help} (default: {default})")
    verb.add_argument(
        "--split", default="training", choices=("training", "held-out", "all"),
        help="pairs of a character and a place, and motions: training's, the ones kept from it, or all",
    )  # fmt: skip
    verb.add_argument("--style", metavar="NAME", help="draw all in a style, and say so in captions: blueprint")
    what = "write a benchmark's prompts, skeletons, seeds and real frames instead, for any system and for evaluate's"
    verb.add_argument("--benchmark", metavar="NAME", help=f"{what} `videos`: puppet-bench-1, or its first --clips")


def _add_convert_weights(add: Callable[..., argparse.ArgumentParser]) -> None:
    verb = add(
        "convert-weights", _convert_weights, "between the released checkpoint and our folders",
        "Converts a released checkpoint to a folder that generate loads, or back.",
        "followyourpose convert-weights downloads/follow-your-pose checkpoints/follow-your-pose",
        "followyourpose convert-weights checkpoints/follow-your-pose released --to released",
    )  # fmt: skip
    verb.add_argument("source", type=Path, metavar="SOURCE", help="what to convert")
    verb.add_argument("target", type=Path, metavar="TARGET", help="the folder to write")
    verb.add_argument("--pose-encoder", type=Path, metavar="PATH", help="the pose encoder's weights, where apart")
    verb.add_argument("--to", choices=("ours", "released"), default="ours", help="the layout to write (default: ours)")


def _add_export(add: Callable[..., argparse.ArgumentParser]) -> None:
    verb = add(
        "export", _export, "make a pipeline's folder of a training run",
        "Puts what a run trained into its model and writes that as a folder that generate loads. Of a run that trains\n"
        "a LoRA it writes the LoRA alone, as generate and diffusers load it.",
        "followyourpose export runs/puppet-stage2 checkpoints/mine",
        "followyourpose export runs/puppet-stage1 checkpoints/images-only",
    )  # fmt: skip
    verb.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    verb.add_argument("out", type=Path, metavar="OUT", help="the folder to write")


def _add_study(add: Callable[..., argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    make = (
        "followyourpose study make systems.ours=outputs/ours systems.controlnet=outputs/controlnet output=studies/one",
        'followyourpose study make study.yaml manifest=prompts.jsonl questions="[quality, text, pose]"',
    )
    score = (
        "followyourpose study score studies/one/key.json answers-*.csv",
        "followyourpose study score studies/one/key.json answers/*.csv -o studies/one/score.json",
    )
    study = add(
        "study", None, "ask raters which system's videos they prefer",
        "A user study: a page that raters open, and percentages of the files that they send back.", make[0], score[0],
    )  # fmt: skip
    add = _adder(study, common)
    verb = add(
        "make", _study_make, "write the page",
        "Writes index.html and videos/ for the raters, and key.json, which says which video is whose, for you. Videos\n"
        "of one name are shown side by side, in random order, with prompt and skeleton from the manifest, or from the\n"
        "record of a run of generate. The page needs no server: send it with videos/, or serve both.\n\n"
        f"keys of CONFIG, and their defaults:\n\n{manual(StudyConfig)}",
        *make,
    )  # fmt: skip
    verb.usage = "followyourpose study make [-h] [--debug] [CONFIG] [key=value ...]"
    what = "a YAML file, and values that replace its own"
    verb.add_argument("arguments", nargs="*", metavar="CONFIG, key=value", help=what)
    verb = add(
        "score", _study_score, "percentages of the answers",
        "Prints how often each system was chosen, by question, with 95 % Wilson intervals. An answer that is not of\n"
        "this study, or is there twice, and a file that was cut off are refused, with their line.",
        *score,
    )  # fmt: skip
    verb.add_argument("key", type=Path, metavar="KEY", help="the key.json that make wrote")
    verb.add_argument("answers", type=Path, nargs="+", metavar="CSV", help="the files that raters downloaded")
    verb.add_argument("-o", "--output", type=Path, metavar="JSON", help="a new file to write the numbers to, too")


def _add_demo(add: Callable[..., argparse.ArgumentParser]) -> None:
    verb = add(
        "demo", _demo, "a web page that generates",
        "Opens a page that generates videos and extracts skeletons, and has an HTTP API: pip install -e '.[demo]'\n"
        "CONFIG is one of generate: what the controls show at first; its prompts are suggestions, its LoRAs a choice.\n"
        f"Without it they are {DEMO_CONFIG}'s or, of another checkpoint, generate's defaults.\n"
        f"Where the environment has a {PASSWORD}, the page asks for it.",
        "followyourpose demo",
        "followyourpose demo configs/sd14/generate.yaml dtype=float16 --port 8000 --max-frames 128",
        f"{PASSWORD}=... followyourpose demo --checkpoint checkpoints/mine --host 0.0.0.0",
    )  # fmt: skip
    verb.usage = "followyourpose demo [-h] [--debug] [options] [CONFIG] [key=value ...]"
    verb.add_argument("arguments", nargs="*", metavar="CONFIG, key=value", help="as for generate")
    verb.add_argument("--checkpoint", metavar="DIR", help="the model, in place of CONFIG's")
    verb.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1, this machine)")
    verb.add_argument("--port", type=int, default=7860, metavar="P", help="the port to listen on (default: 7860)")
    verb.add_argument("--max-frames", type=int, default=64, metavar="N", help="most frames of one video (default: 64)")


def _add_inspect(add: Callable[..., argparse.ArgumentParser]) -> None:
    verb = add(
        "inspect", _inspect, "look at a data set, or list what weights hold",
        "Of a data set it writes a picture of random samples, with skeletons and captions, and prints counts, sizes,\n"
        "which joints are seen, and what was dropped. Of weights it counts the tensors and parameters of a folder's\n"
        ".safetensors files, and lists every tensor of a single file.",
        "followyourpose inspect data/laion-pose --sheet samples.png",
        "followyourpose inspect data/hdvila --samples 8 --seed 1",
        "followyourpose inspect checkpoints/puppet",
    )  # fmt: skip
    what = "stage-1 shards, a folder with a manifest, HD-VILA's parts; or weights: a folder, or a .safetensors file"
    verb.add_argument("path", type=Path, metavar="PATH", help=what)
    verb.add_argument("--sheet", type=Path, metavar="PNG", help="the picture (default: outputs/NAME-samples.png)")
    verb.add_argument("--samples", type=int, default=16, metavar="N", help="on the picture (default: 16)")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of samples (default: 0)")


def manual(schema: type, prefix: str = "") -> str:
    """One line per key of a config dataclass: key, default, and the comment that stands beside it in the source."""
    comments, lines = _comments(schema), []
    for field in dataclasses.fields(schema):
        factory = field.default_factory
        if dataclasses.is_dataclass(factory):
            lines.append(manual(factory, f"{prefix}{field.name}."))
            continue
        default = field.default if factory is dataclasses.MISSING else factory()
        text = "(required)" if default == "???" else default if default and default is not True else json.dumps(default)
        comment = comments.get(field.name, "").replace("None", "null")
        lines.append(f"  {prefix + field.name:<34} {text!s:<24} {comment}".rstrip())
    return "\n".join(lines)


def _comments(schema: type) -> dict[str, str]:
    """Key of a config dataclass, inherited ones too -> the comment beside it."""
    source = "".join(inspect.getsource(cls) for cls in schema.__mro__ if dataclasses.is_dataclass(cls))
    return dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE))


def _version() -> str:
    try:
        return version("followyourpose")
    except PackageNotFoundError:
        return "(not installed)"
