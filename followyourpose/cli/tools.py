"""Verbs that take files: poses, puppets, weights, configs, downloads, data sets, and the nodes of ComfyUI."""

import argparse
import dataclasses
from pathlib import Path

from followyourpose.cli import verbs
from followyourpose.cli.manual import shown_default
from followyourpose.cli.parser import Add, adder
from followyourpose.config import PoseConfig
from followyourpose.config.comments import help_texts


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
        "followyourpose pose convert skeleton.mp4 keypoints.json",
    )
    edit = (
        'followyourpose pose edit keypoints.json better.json "set left_wrist 10:14 x=120 y=80" "hide nose 3"',
        'followyourpose pose edit keypoints.json better.json "copy left_wrist 10:14 from=9 person=0" moves.txt',
    )
    pose = add("pose", None, "keypoints of other tools, and edits of keypoints", "Keypoints.", convert[0], edit[0])
    add = adder(pose)
    verb = add(
        "convert", verbs.pose_convert, "between the formats of tools",
        "Reads keypoints of OpenPose (18 or 25 joints; a file, or a folder of one per frame), ControlNet and DWPose,\n"
        "COCO, MMPose and MediaPipe, or a video of skeletons drawn in MMPose's colours; the content shows which.\n"
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
    verb.add_argument(
        "source", type=Path, metavar="IN", help="keypoints: .json, or a folder of them; or drawn, a video"
    )
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
        "followyourpose puppets data/puppet-bench-2 --benchmark puppet-bench-2 --clips 64",
    )  # fmt: skip
    verb.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    numbers = (
        ("--images", 0, "number of images"), ("--clips", 0, "number of clips"), ("--seed", 0, "of the scenes"),
        ("--clip-frames", 24, "frames per clip"),
    )  # fmt: skip
    for flag, default, help in numbers:
        verb.add_argument(flag, type=int, default=default, metavar="N", help=f"{help} (default: {default})")
    verb.add_argument(
        "--size", type=int, metavar="N", help="height and width in pixels (default: 128, or a benchmark's)"
    )
    verb.add_argument(
        "--split", default="training", choices=("training", "held-out", "all"),
        help="pairs of a character and a place, and motions: training's, the held-out ones, or all",
    )  # fmt: skip
    verb.add_argument("--style", metavar="NAME", help="draw all in a style, and name it in captions: blueprint")
    what = "write a benchmark's prompts, skeletons, seeds and real frames instead, for any system and for evaluate's"
    verb.add_argument("--benchmark", metavar="NAME", help=f"{what} `videos`: puppet-bench-2, or its first --clips")


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
    verb.add_argument(
        "--to", type=Path, metavar="FOLDER", help="in place of a clone's checkpoints/, or of the user's cache"
    )
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


def _add_comfyui(add: Add) -> None:
    examples = ("followyourpose comfyui install ComfyUI", "followyourpose comfyui install ComfyUI/custom_nodes")
    comfyui = add("comfyui", None, "nodes for ComfyUI", "Nodes for ComfyUI.", *examples)
    verb = adder(comfyui)(
        "install", verbs.comfyui_install, "add the nodes",
        "Writes the nodes and three example workflows into ComfyUI's custom_nodes; then start ComfyUI anew. This\n"
        "package has to be in ComfyUI's Python. An earlier version is renewed; nothing else is overwritten.",
        *examples,
    )  # fmt: skip
    verb.add_argument("folder", type=Path, metavar="FOLDER", help="ComfyUI's folder, or its custom_nodes")


VERBS = (
    _add_extract_pose, _add_pose, _add_puppets, _add_convert_weights, _add_configs, _add_download, _add_export,
    _add_inspect, _add_comfyui,
)  # fmt: skip
