"""Verbs that take a config: generate, train, cache, evaluate, evaluate-pose, study, demo."""

from pathlib import Path

from followyourpose.cli import verbs
from followyourpose.cli.parser import Add, add_config, adder
from followyourpose.config import EvaluateConfig, EvaluatePoseConfig, GenerateConfig, StudyConfig, TrainConfig


def _add_generate(add: Add) -> None:
    add_config(
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
    train = add_config(
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
    add_config(
        add, "cache", verbs.cache, TrainConfig, "encode a run's data once; the same command resumes it",
        "Writes the VAE's latents and the text encoder's states of CONFIG's data to the folder `data.cache`.\n"
        "`train` does so too before its first step. Several processes share it: torchrun -m followyourpose cache.\n"
        "A cache holds one view of each sample: data.crop has to be center, data.flip 0.",
        "followyourpose cache configs/puppet/base.yaml",
        "followyourpose cache configs/sd14/stage1.yaml data.cache=data/laion-pose-sd14 data.crop=center data.flip=0",
    )  # fmt: skip


def _add_evaluate(add: Add) -> None:
    add_config(
        add, "evaluate", verbs.evaluate, EvaluateConfig, "measure text, pose and frame consistency",
        "Measures videos by CLIP and by a pose estimator, and writes metrics.json, the table metrics.md, a row per\n"
        "video (videos.parquet), plots and the worst cases. `videos` is one of:\n\n"
        "null        videos that `model` draws of held-out puppets (the default)\n"
        "a folder of generate\n"
        "            its .mp4 files against its prompts and skeletons\n"
        "a manifest  a .jsonl file, or the folder of a manifest.jsonl, with a line for each video of any system:\n"
        '            {"video": "a.mp4", "prompt": "a robot in the desert", "skeleton": "dance.json"}\n'
        "            The skeleton is keypoints of any tool, or a list of them, or drawn with a .json beside it.\n"
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
    add_config(
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
    add = adder(study)
    add_config(
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


VERBS = (
    _add_generate, _add_train, _add_cache, _add_evaluate, _add_evaluate_pose, _add_study, _add_demo,
)  # fmt: skip
