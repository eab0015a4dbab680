"""The console command: `followyourpose VERB [CONFIG] [key=value ...]` -> a config -> one call.

Exit codes: 0 done, 2 bad input (one line on stderr), 130 interrupted.
"""

import argparse
import dataclasses
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from followyourpose.cli import verbs
from followyourpose.cli.manual import manual, shown_default
from followyourpose.common.device import prepare_threads, torchvision_mismatch
from followyourpose.config import (
    EvaluateConfig,
    EvaluatePoseConfig,
    GenerateConfig,
    PoseConfig,
    StudyConfig,
    TrainConfig,
)
from followyourpose.config.comments import help_texts

EXPECTED_ERRORS = (ValueError, OSError)  # raised by bad input; anything else is a bug and keeps its traceback

Add = Callable[..., argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; `arguments` None takes those of the process. Return the exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of torchvision, which nothing here uses
    prepare_threads()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal's encoding lacks is printed as \\xe9
            stream.reconfigure(errors="backslashreplace")
    try:
        options = parsed(arguments)
        options.call(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, such as `| head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except EXPECTED_ERRORS as error:
        if options.debug:
            raise
        print(f"followyourpose: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except (ImportError, RuntimeError) as error:
        if options.debug or (fault := torchvision_mismatch()) is None:
            raise
        print(f"followyourpose: error: {fault} ({_one_line(error)[:200]})", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"followyourpose: interrupted {stop}".rstrip(), file=sys.stderr)
        return 130
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command; key=value settings may stand anywhere, also behind a flag, where argparse leaves them over."""
    parser = _parser()
    options, left = parser.parse_known_args(arguments)
    if left and not (hasattr(options, "arguments") and not any(text.startswith("-") for text in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        options.arguments += left
    return options


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode()  # half an emoji in a name cannot be printed


# ---- parsers ---------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        text = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()
        self.exit(2, f"followyourpose: error: {text} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="followyourpose",
        description="Follow Your Pose: pose-guided text-to-video generation (arXiv 2304.01186).",
        epilog="examples:\n  followyourpose generate\n  followyourpose train configs/puppet/stage1.yaml seed=1\n\n"
        "`followyourpose VERB --help` is the manual of a verb: every key, its default and its unit.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"followyourpose {_version()}")
    parser.set_defaults(debug=False)
    add = _adder(parser)
    for verb in (
        _add_generate, _add_train, _add_cache, _add_evaluate, _add_evaluate_pose, _add_extract_pose, _add_pose,
        _add_puppets, _add_convert_weights, _add_configs, _add_download, _add_export, _add_inspect, _add_study,
        _add_demo, _add_comfyui,
    ):  # fmt: skip
        verb(add)
    return parser


def _adder(parser: argparse.ArgumentParser) -> Add:
    """Return a function that adds verbs to a parser."""
    group = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)

    def add(
        name: str, call: Callable[[argparse.Namespace], None] | None, help: str, about: str, *examples: str
    ) -> argparse.ArgumentParser:
        lines = "".join(f"\n  {example}" for example in examples)
        verb = group.add_parser(
            name, help=help, description=about, epilog=f"examples:{lines}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        # Suppressed, for a verb within a verb would set its own default: the first parser has the only one.
        verb.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show an error's traceback")
        verb.set_defaults(call=call)
        return verb

    return add


def _add_config(
    add: Add, name: str, call: Callable[..., None], schema: type, help: str, about: str, *examples: str,
    options: str = "",
) -> argparse.ArgumentParser:  # fmt: skip
    """Add a verb that takes a config file and `key=value` settings."""
    verb = add(name, call, help, f"{about}\n\nkeys of CONFIG, and their defaults:\n\n{manual(schema)}", *examples)
    verb.usage = f"{verb.prog} [-h] [--debug] {options}[CONFIG] [key=value ...]"
    what = "a YAML file, and values that replace its own"
    verb.add_argument("arguments", nargs="*", metavar="CONFIG, key=value", help=what)
    return verb


def _add_generate(add: Add) -> None:
    _add_config(
        add, "generate", verbs.generate, GenerateConfig, "videos from prompts and a skeleton",
        "Writes a video for each prompt, skeleton and seed: mp4, gif, contact sheet, and mp4 beside the skeleton;\n"
        "index.html shows them all. Where an entry of a list of skeletons is a list of keypoints .json, their people\n"
        f"are in one frame. Without CONFIG it runs {verbs.SAMPLE_CONFIG}.",
        "followyourpose generate",
        'followyourpose generate configs/puppet/generate.yaml prompt="a robot in the desert" skeleton=my.mp4 seed=3',
        'followyourpose generate prompt="[a boy, two pandas in the snow]" "skeleton=[a.mp4, [b.json, c.json]]"',
        'followyourpose generate lora=checkpoints/puppet-lora-blueprint style="as a blueprint"',
    )  # fmt: skip


def _add_train(add: Add) -> None:
    train = _add_config(
        add, "train", verbs.train, TrainConfig, "train a stage; the same command resumes it",
        "Trains as CONFIG describes and writes the run to its `output` folder; to resume, run the same command again.\n"
        "SIGTERM and Ctrl-C save the step under way, then stop.\n\n"
        "1 GPU:    followyourpose train CONFIG\n"
        "8 GPUs:   accelerate launch --multi_gpu --num_processes 8 -m scripts.train CONFIG\n"
        "2 nodes:  torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 \\\n"
        "              -m scripts.train CONFIG        (on each; configs/sd14/train.slurm does it under Slurm)",
        "followyourpose train configs/puppet/stage1.yaml",
        "followyourpose train configs/sd14/stage2.yaml output=runs/stage2 optim.learning_rate=1e-5 --dry-run",
        options="[--dry-run] ",
    )  # fmt: skip
    train.add_argument(
        "--dry-run", action="store_true", help="print settings, trainable parameters, data and memory, and stop"
    )


def _add_cache(add: Add) -> None:
    _add_config(
        add, "cache", verbs.cache, TrainConfig, "encode a run's data once; the same command resumes it",
        "Writes the VAE's latents and the text encoder's states of CONFIG's data to the folder `data.cache`.\n"
        "`train` does so too before its first step. Several processes share it: torchrun -m followyourpose cache.\n"
        "A cache holds one view of each sample: data.crop has to be center, data.flip 0.",
        "followyourpose cache configs/puppet/base.yaml",
        "followyourpose cache configs/sd14/stage1.yaml data.cache=data/laion-pose-sd14 data.crop=center data.flip=0",
    )  # fmt: skip


def _add_evaluate(add: Add) -> None:
    _add_config(
        add, "evaluate", verbs.evaluate, EvaluateConfig, "measure text, pose and frame consistency",
        "Measures videos by CLIP and by a pose estimator, and writes metrics.json, the table metrics.md, a row per\n"
        "video (videos.parquet), plots and the worst cases. `videos` is one of:\n\n"
        "null        videos that `model` draws of held-out puppets (the default)\n"
        "a folder of generate\n"
        "            its .mp4 files against its prompts and skeletons\n"
        "a manifest  a .jsonl file, or the folder of a manifest.jsonl, with a line for each video of any system:\n"
        '            {"video": "a.mp4", "prompt": "a robot in the desert", "skeleton": "dance.json"}\n'
        "            The skeleton is keypoints as extract-pose writes them, or drawn with such a .json beside it.\n"
        '            More keys: "frames", a list: the skeleton\'s frames that the video follows, if not all;\n'
        '            "real", a video of real people in the skeleton\'s poses, as an upper bound; "seed".\n'
        '            Where no line has a "video", `model` draws them. Paths are relative to the manifest.',
        "followyourpose evaluate configs/puppet/evaluate.yaml",
        "followyourpose evaluate configs/puppet/benchmark.yaml num_videos=64 model=checkpoints/mine",
        "followyourpose evaluate videos=outputs/my-run",
        "followyourpose evaluate videos=mine/manifest.jsonl clip=checkpoints/clip-vit-base-patch32 backend=rtmlib",
        "followyourpose evaluate configs/puppet/long_video.yaml",
    )  # fmt: skip


def _add_evaluate_pose(add: Add) -> None:
    _add_config(
        add, "evaluate-pose", verbs.evaluate_pose, EvaluatePoseConfig, "measure pose estimators on people",
        "Measures pose estimators on images with COCO's keypoint annotations (average precision and recall by\n"
        "pycocotools, PCK, people missed and doubled), in a video (frames with nobody, jitter before and after\n"
        "smoothing), and their time and memory; writes metrics.json and the tables, metrics.md. One that is not\n"
        "installed, or whose weights cannot be had, is reported as not measured. A keypoints .json holds COCO's\n"
        "results for the images, or a frame for each image or frame of the video, in any format.",
        "followyourpose evaluate-pose video=dance.mp4",
        "followyourpose evaluate-pose annotations=val.json images=coco/val2017 estimators=[light,rtmlib,mine.json]",
        'followyourpose evaluate-pose annotations=a.json "estimators=[light:light-heavy, mmpose:hrnet:yolox]"',
    )  # fmt: skip


def _add_extract_pose(add: Add) -> None:
    verb = add(
        "extract-pose", verbs.extract_pose, "a video of people to the video of their skeletons",
        "Writes skeleton.mp4, keypoints.json (which generate takes as skeleton=) and overlay.mp4, to check them.\n"
        "VIDEO may also be a gif, an image or a folder of images; generate does the same with pose.source=raw.",
        "followyourpose extract-pose dance.mp4 -o outputs/dance --people 1 --smooth 7",
        "followyourpose extract-pose crowd.mp4 -o outputs/crowd --backend rtmlib",
        "followyourpose extract-pose dance.mp4 -o outputs/dance --backend mmpose --boxes yolox",
    )  # fmt: skip
    verb.add_argument("video", type=Path, metavar="VIDEO", help="a video of people")
    verb.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="a new folder to write")
    texts = help_texts(PoseConfig)
    for field in dataclasses.fields(PoseConfig):
        if field.name != "source":
            text = f"{texts[field.name]} (default: {shown_default(field)})".replace("None", "null")
            verb.add_argument(f"--{field.name.replace('_', '-')}", metavar="X", help=text)


def _add_pose(add: Add) -> None:
    convert = (
        "followyourpose pose convert openpose-folder dance.json --size 1280x720",
        "followyourpose pose convert person_keypoints.json dance.json --images '*video1*'",
        "followyourpose pose convert keypoints.json dance.coco.json",
    )
    edit = (
        'followyourpose pose edit keypoints.json better.json "set left_wrist 10:14 x=120 y=80" "hide nose 3"',
        'followyourpose pose edit keypoints.json better.json "copy left_wrist 10:14 from=9 person=0" moves.txt',
    )
    pose = add("pose", None, "keypoints of other tools, and edits of keypoints", "Keypoints.", convert[0], edit[0])
    add = _adder(pose)
    verb = add(
        "convert", verbs.pose_convert, "between the formats of tools",
        "Reads keypoints of OpenPose (18 or 25 joints; a file, or a folder of one per frame), ControlNet and DWPose,\n"
        "COCO, MMPose and MediaPipe; the content shows which.\n"
        "generate takes these keypoints too. OUT is keypoints.json as extract-pose writes it, NAME.openpose.json or a\n"
        "folder for OpenPose and ControlNet, NAME.coco.json for COCO, or NAME.mp4 for a drawn skeleton.",
        *convert,
    )  # fmt: skip
    _add_pose_files(verb)
    verb.add_argument("--images", metavar="PATTERN", help="of a COCO file: names of the images to take (default: all)")
    verb = add(
        "edit", verbs.pose_edit, "move single joints",
        "Makes moves one after the other; frames are counted from 0, and A:B ends before B:\n\n"
        "set JOINT FRAMES x=X y=Y        place a joint, in pixels (confidence=C: default 1)\n"
        "shift JOINT FRAMES x=DX y=DY    move it by pixels\n"
        "hide JOINT FRAMES               make it unseen\n"
        "copy JOINT FRAMES from=FRAME    place it as in another frame\n\n"
        "JOINT is one of COCO's, several with commas, or all; person=N chooses among several people.",
        *edit,
    )  # fmt: skip
    _add_pose_files(verb)
    verb.add_argument("moves", nargs="+", metavar="MOVE", help="a move, or a text file with a move a line")


def _add_pose_files(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("source", type=Path, metavar="IN", help="keypoints: a .json file, or a folder of them")
    verb.add_argument("target", type=Path, metavar="OUT", help="a new file or folder")
    verb.add_argument("--to", metavar="FORMAT", help="keypoints, openpose, coco or video (default: as OUT is named)")
    verb.add_argument("--size", metavar="WxH", help="of the frames in pixels, where IN has no size")
    verb.add_argument("--fps", type=float, metavar="N", help="frames per second (default: IN's, or else 8)")


def _add_puppets(add: Add) -> None:
    verb = add(
        "puppets", verbs.puppets, "write a data set of the puppet world",
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
        help="pairs of a character and a place, and motions: training's, the held-out ones, or all",
    )  # fmt: skip
    verb.add_argument("--style", metavar="NAME", help="draw all in a style, and name it in captions: blueprint")
    what = "write a benchmark's prompts, skeletons, seeds and real frames instead, for any system and for evaluate's"
    verb.add_argument("--benchmark", metavar="NAME", help=f"{what} `videos`: puppet-bench-1, or its first --clips")


def _add_convert_weights(add: Add) -> None:
    verb = add(
        "convert-weights", verbs.convert_weights, "between the released checkpoint and our folders",
        "Converts a released checkpoint to a folder that generate loads, or back. SOURCE is the authors' repository,\n"
        "a folder of one of its checkpoints, or a file of weights; the last two need --base.",
        "followyourpose convert-weights downloads/FollowYourPose_v1 checkpoints/follow-your-pose",
        "followyourpose convert-weights pytorch_model.bin checkpoints/mine --base CompVis/stable-diffusion-v1-4",
        "followyourpose convert-weights checkpoints/follow-your-pose released --to released",
    )  # fmt: skip
    verb.add_argument("source", type=Path, metavar="SOURCE", help="the checkpoint to convert")
    verb.add_argument("target", type=Path, metavar="TARGET", help="the folder to write")
    verb.add_argument("--pose-encoder", type=Path, metavar="PATH", help="the pose encoder's weights, where apart")
    what = "Stable Diffusion 1.4, a folder or hub id, for what SOURCE lacks"
    verb.add_argument("--base", metavar="MODEL", help=what)
    verb.add_argument("--to", choices=("ours", "released"), default="ours", help="the layout to write (default: ours)")


def _add_configs(add: Add) -> None:
    verb = add(
        "configs", verbs.configs, "list, show and copy the shipped configs",
        "Without a NAME it lists them; with one it prints that one. With --to it copies them into a folder.",
        "followyourpose configs",
        "followyourpose configs sd14/stage1 --to my-configs",
    )  # fmt: skip
    verb.add_argument("name", nargs="?", metavar="NAME", help="such as puppet/generate")
    verb.add_argument("--to", type=Path, metavar="FOLDER", help="where copies are written; nothing is overwritten")


def _add_download(add: Add) -> None:
    verb = add(
        "download", verbs.download, "bring weights that others made",
        "Without a NAME it lists what there is. A download that was interrupted goes on; sizes and checksums are\n"
        "compared. HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE act as everywhere.",
        "followyourpose download",
        "followyourpose download released",
        "followyourpose download sd15 clip-b32 --dry-run",
    )  # fmt: skip
    verb.add_argument("names", nargs="*", metavar="NAME", help="a name of the list")
    verb.add_argument("--to", type=Path, metavar="FOLDER", help="in place of checkpoints/")
    verb.add_argument("--dry-run", action="store_true", help="list files and sizes, and take none")


def _add_export(add: Add) -> None:
    verb = add(
        "export", verbs.export, "make a pipeline's folder of a training run",
        "Puts the weights that a run trained into its model and writes that as a folder that generate loads. Of a run\n"
        "that trains a LoRA it writes the LoRA alone, as generate and diffusers load it.",
        "followyourpose export runs/puppet-stage2 checkpoints/mine",
        "followyourpose export runs/puppet-stage1 checkpoints/images-only",
    )  # fmt: skip
    verb.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    verb.add_argument("out", type=Path, metavar="OUT", help="the folder to write")


def _add_inspect(add: Add) -> None:
    verb = add(
        "inspect", verbs.inspect, "look at a data set, or list the tensors of weights",
        "Of a data set it writes a picture of random samples, with skeletons and captions, and prints counts, sizes,\n"
        "visible joints, and the samples that were dropped. Of weights it counts the tensors and parameters of a\n"
        "folder's .safetensors files, and lists every tensor of a single file.",
        "followyourpose inspect data/laion-pose --sheet samples.png",
        "followyourpose inspect data/hdvila --samples 8 --seed 1",
        "followyourpose inspect checkpoints/puppet",
    )  # fmt: skip
    what = "stage-1 shards, a folder with a manifest, HD-VILA's parts; or weights: a folder, or a .safetensors file"
    verb.add_argument("path", type=Path, metavar="PATH", help=what)
    verb.add_argument("--sheet", type=Path, metavar="PNG", help="the picture (default: outputs/NAME-samples.png)")
    verb.add_argument("--samples", type=int, default=16, metavar="N", help="number on the picture (default: 16)")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of samples (default: 0)")


def _add_study(add: Add) -> None:
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
    add = _adder(study)
    _add_config(
        add, "make", verbs.study_make, StudyConfig, "write the page",
        "Writes index.html and videos/ for the raters, and key.json, which maps videos to systems, for you. Videos\n"
        "of one name are shown side by side, in random order, with prompt and skeleton from the manifest, or from the\n"
        "record of a run of generate. The page needs no server: send it with videos/, or serve both.",
        *make,
    )  # fmt: skip
    verb = add(
        "score", verbs.study_score, "percentages of the answers",
        "Prints how often each system was chosen, by question, with 95 % Wilson intervals. An answer that is not of\n"
        "this study, or is there twice, and a file that was cut off are refused, with their line.",
        *score,
    )  # fmt: skip
    verb.add_argument("key", type=Path, metavar="KEY", help="the key.json that make wrote")
    verb.add_argument("answers", type=Path, nargs="+", metavar="CSV", help="the files that raters downloaded")
    verb.add_argument("-o", "--output", type=Path, metavar="JSON", help="a new file to write the numbers to, too")


def _add_demo(add: Add) -> None:
    verb = add(
        "demo", verbs.demo, "a web page that generates",
        "Opens a page that generates videos and extracts skeletons, and has an HTTP API: pip install -e '.[demo]'\n"
        "CONFIG is one of generate: first values of the controls; its prompts are suggestions, its LoRAs a choice.\n"
        f"Without it they are {verbs.DEMO_CONFIG}'s or, of another checkpoint, generate's defaults.\n"
        f"Where the environment has a {verbs.PASSWORD}, the page asks for it.",
        "followyourpose demo",
        "followyourpose demo configs/sd14/generate.yaml dtype=float16 --port 8000 --max-frames 128",
        f"{verbs.PASSWORD}=... followyourpose demo --checkpoint checkpoints/mine --host 0.0.0.0",
        "followyourpose demo --space my-space",
    )  # fmt: skip
    verb.usage = "followyourpose demo [-h] [--debug] [options] [CONFIG] [key=value ...]"
    verb.add_argument("arguments", nargs="*", metavar="CONFIG, key=value", help="as for generate")
    verb.add_argument("--checkpoint", metavar="DIR", help="the model, in place of CONFIG's")
    what = "write the page as a hosted Gradio Space there, instead of opening it; upload the folder as it is"
    verb.add_argument("--space", type=Path, metavar="FOLDER", help=what)
    verb.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1, this machine)")
    verb.add_argument("--port", type=int, default=7860, metavar="P", help="the port to listen on (default: 7860)")
    verb.add_argument("--max-frames", type=int, default=64, metavar="N", help="most frames of one video (default: 64)")


def _add_comfyui(add: Add) -> None:
    examples = (
        "followyourpose comfyui install ComfyUI",
        "followyourpose comfyui install ComfyUI/custom_nodes",
    )
    comfyui = add("comfyui", None, "nodes for ComfyUI", "Nodes for ComfyUI.", *examples)
    verb = _adder(comfyui)(
        "install", verbs.comfyui_install, "add the nodes",
        "Writes the nodes and three example workflows into ComfyUI's custom_nodes; then start ComfyUI anew. This\n"
        "package has to be in ComfyUI's Python. An earlier version is renewed; nothing else is overwritten.",
        *examples,
    )  # fmt: skip
    verb.add_argument("folder", type=Path, metavar="FOLDER", help="ComfyUI's folder, or its custom_nodes")


def _version() -> str:
    try:
        return version("followyourpose")
    except PackageNotFoundError:
        return "(not installed)"
