"""Page of results: every system and ablation of `python -m scripts.reproduce`, side by side."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.files import read_json
from followyourpose.common.tables import markdown_table
from followyourpose.evaluation.metrics.intervals import bootstrap_interval

OURS, OURS_BOTH = "follow-your-pose", "follow-your-pose-both"
SYSTEMS = {
    OURS: "Follow Your Pose (ours)",
    OURS_BOTH: "ours, `pose_guidance=both`",
    "controlnet": "ControlNet, per frame",
    "t2i-adapter": "T2I-Adapter, per frame",
    "text2video-zero": "Text2Video-Zero with ControlNet",
    "masactrl": "MasaCtrl with T2I-Adapter",
    "animatediff": "AnimateDiff with ControlNet",
    "tune-a-video": "Tune-A-Video",
}
POSE = {
    "pose-residual": "added to the hidden states at 4 levels (the paper's)",
    "pose-concat": "concatenated with the hidden states at 4 levels",
    "pose-3-levels": "added at the 3 finest levels",
    "pose-2-levels": "added at the 2 finest levels",
    "pose-1-level": "added at the finest level",
}
TIME = {
    "time-paper": "the paper's",
    "time-no-cross-frame": "frames attend to themselves only",
    "time-no-attention": "without temporal attention",
    "time-no-convolution": "without temporal convolution",
    "time-norm-per-frame": "group norms per frame",
    "pose-residual": "without stage 2",
}
STAGES = {
    "pose-residual": "stage 1 alone",
    "time-paper": "both stages, one after the other",
    "one-stage": "the weights of both in one stage, on stage 1's images",
}
METRICS = {  # key of metrics.json -> head of its column, digits, factor
    "cs": ("CS", 1, 1),
    "pa": ("PA", 1, 100),
    "pck@0.1": ("PCK@0.1", 1, 100),
    "fc": ("FC", 2, 1),
    "flicker": ("flicker", 2, 1),
    "character_accuracy": ("character", 0, 100),
    "background_accuracy": ("place", 0, 100),
}
HEAD = ["", *(head for head, *_ in METRICS.values())]
SECTIONS = {
    "How the pose gets in": POSE,
    "How frames stay consistent": TIME,
    "Two stages or one": STAGES,
}
TABLE1 = """# Results on puppets

{count:,} of the 1,024 videos of `puppet-bench-1`: motions, and pairs of a character and a place, that no system was
trained on; 8 frames of 64 x 64 pixels. Every system stands on the same base model (`checkpoints/puppet-base`), was
trained on the same puppets with the budget of our stages, starts from the same noise in all frames and takes 20 DDIM
steps at guidance 2. Ours has the pose in the conditional half of guidance only; with `pose_guidance=both`, and in the
other systems, both halves have it. In brackets are 95 % intervals by bootstrap over videos.

CS is the cosine of frame and caption by the puppets' CLIP, FC that of consecutive frames, x100; PA is average precision
by OKS, PCK@0.1 the share of joints within a tenth of the body's height, in %; flicker is the mean change of the
background from frame to frame, of 255; character and place are the shares of videos in which CLIP recognises those of
the caption, in %. `followyourpose evaluate` writes every number's definition.
"""
ABLATIONS = """# Ablations

Each of these is trained with a small budget, {stage1} steps of 16 images for stage 1 and {stage2} of 4 clips for
stage 2, and differs from the paper in one setting. All draw the videos above again, each frame from noise of its own,
where the layers that keep frames consistent have the most to do.
"""
DIFFERENCES = "Paired difference from row 1 over the same videos (PA of single videos), with its 95 % interval:"
Judged = Mapping[str, Mapping[str, Any]]  # system -> its metrics.json
Videos = Mapping[str, Mapping[str, Mapping[int, float]]]  # system -> metric -> seed -> the single video's number


def read_judged(folder: Path) -> tuple[Judged, Videos]:
    """Read the systems' evaluations, a folder each under this one; the numbers of single videos need pyarrow."""
    judged = {file.parent.name: read_json(file) for file in folder.glob("*/metrics.json")}
    videos: dict[str, dict[str, dict[int, float]]] = {}
    if find_spec("pyarrow"):
        from pyarrow import parquet

        for file in folder.glob("*/videos.parquet"):
            rows = [row for row in parquet.read_table(file).to_pylist() if not row["set"]]
            videos[file.parent.name] = {
                key: {row["seed"]: row[key] for row in rows if row[key] is not None} for key in METRICS
            }
    return judged, videos


def results_page(judged: Judged, videos: Videos, steps: Mapping[str, int]) -> str:
    """Return the page in Markdown, without the systems that were not evaluated.

    Args:
        steps: stage -> number of steps of each of its ablations.
    """
    page = [TABLE1.format(count=judged[OURS]["n"]), *_section(judged, videos, SYSTEMS, real=True)]
    ablations = [(title, rows) for title, rows in SECTIONS.items() if rows.keys() <= judged.keys()]
    if ablations:
        page.append(ABLATIONS.format_map(steps))
    for title, rows in ablations:
        page += [f"## {title}\n", *_section(judged, videos, rows)]
    return "\n".join(page)


def _section(judged: Judged, videos: Videos, rows: Mapping[str, str], real: bool = False) -> list[str]:
    parts = [_table(judged, rows, real), ""]
    if len(found := {name: label for name, label in rows.items() if name in videos}) > 1:
        parts += [DIFFERENCES, "", _differences(videos, found), ""]
    return parts


def _table(judged: Judged, rows: Mapping[str, str], real: bool) -> str:
    lines = []
    for name, label in rows.items():
        if name in judged:
            n = judged[name]["n"]
            few = "" if n == judged[OURS]["n"] else f", the first {n}"
            lines.append([f"{label}{few}", *(_cell(judged[name], key) for key in METRICS)])
    if real:
        first = next(iter(judged[name] for name in rows if name in judged))
        lines.append(["real frames", *(_number(first, key, _real(key)) for key in METRICS)])
    return markdown_table(HEAD, lines)


def _differences(videos: Videos, rows: Mapping[str, str]) -> str:
    """Return the paired difference of every row from the first."""
    (first, _), *others = rows.items()
    return markdown_table(
        HEAD,
        [
            [label, *(_difference(key, videos[name][key], videos[first][key]) for key in METRICS)]
            for name, label in others
        ],
    )


def _difference(key: str, here: Mapping[int, float], there: Mapping[int, float]) -> str:
    _, digits, factor = METRICS[key]
    more = sorted(factor * (here[seed] - there[seed]) for seed in here.keys() & there.keys())
    if not more:
        return ""
    low, high = bootstrap_interval(more)
    return f"{np.mean(more):+z.{digits}f} ({low:+z.{digits}f} to {high:+z.{digits}f})"


def _real(key: str) -> str:
    return f"{key}_real".replace("@0.1", "")


def _cell(numbers: Mapping[str, Any], key: str) -> str:
    interval = numbers.get(f"{key}_ci95")
    if interval is None:
        return _number(numbers, key, key)
    _, digits, factor = METRICS[key]
    low, high = (factor * end for end in interval)
    return f"{_number(numbers, key, key)} ({low:.{digits}f} to {high:.{digits}f})"


def _number(numbers: Mapping[str, Any], key: str, name: str) -> str:
    _, digits, factor = METRICS[key]
    return "" if numbers.get(name) is None else f"{factor * numbers[name]:.{digits}f}"
