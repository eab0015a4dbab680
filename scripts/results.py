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
    "first-order-motion": "First Order Motion Model, of one picture",
    "everybody-dance-now": "Everybody Dance Now, of footage",
}
FROM_NOISE = ("controlnet", "t2i-adapter", "text2video-zero", "masactrl", "animatediff")  # of the other systems
SHARED = {name: SYSTEMS[name] for name in (OURS, *FROM_NOISE)}
NOISE = {
    **{f"{name}-independent": f"{label}, independent noise" for name, label in SHARED.items()},
    **{name: f"{label}, shared noise" for name, label in SHARED.items()},
}
HALF = {
    OURS: f"{SYSTEMS[OURS]}, pose in the conditional half",
    **{f"{name}-conditional": f"{SYSTEMS[name]}, pose in the conditional half" for name in FROM_NOISE},
    OURS_BOTH: f"{SYSTEMS[OURS]}, in both halves",
    **{name: f"{SYSTEMS[name]}, in both halves" for name in FROM_NOISE},
}
PAPER = {  # system -> CS, QU, PA, FC in the paper's Table 1
    "First Order Motion Model": (22.93, 0.8, 11.7, 81.25),
    "Everybody Dance Now": (23.04, 1.3, 13.7, 79.83),
    "Tune-A-Video": (23.57, 23.81, 27.74, 93.78),
    "ControlNet": (22.31, 6.69, 33.23, 54.35),
    "T2I-Adapter": (22.42, 8.27, 33.47, 53.86),
    "MasaCtrl": (23.64, 19.17, 33.19, 87.64),
    "Follow Your Pose": (24.09, 39.96, 34.92, 93.36),
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
TABLE1 = """# Results on puppets{first}

{count:,} of the 1,024 videos of `puppet-bench-2`: motions, and pairs of a character and a place, that no system was
trained on; 8 frames of 128 x 128 pixels. Every system stands on the same base model (`checkpoints/puppet-base`), was
trained on the same puppets with the budget of our stages, starts from the same noise in all frames and takes 20 DDIM
steps at guidance 2. Ours has the pose in the conditional half of guidance only; with `pose_guidance=both`, and in the
other systems, both halves have it. In brackets are 95 % intervals by bootstrap over videos.
{copying}
CS is the cosine of frame and caption by the puppets' CLIP, FC that of consecutive frames, x100; PA is average precision
by OKS, PCK@0.1 the share of joints within a tenth of the body's height, in %; flicker is the mean change of the
background from frame to frame, of 255; character and place are the shares of videos in which CLIP recognises those of
the caption, in %. `followyourpose evaluate` writes every number's definition.
"""
COPYING = """
Two systems are of another kind: they read no text, and copy a person whom they are shown, in that place. Everybody
Dance Now trains a network for each of the 12 held-out pairs on its footage, 60 clips of 8 frames in motions of
training, so it alone was trained on these pairs; First Order Motion Model is trained on 4,096 pictures of the pairs and
motions of training, and warps one picture of that footage. Their CS, character and place are of what they were shown.
"""
VARIANTS = """# {title}

{count:,} videos of the benchmark, the first ones. {text}
"""
NOISE_TEXT = """Each frame starts from noise of its own, as in the paper's comparison, or
all frames from the same noise, as each system is shipped here."""
HALF_TEXT = """Ours has the pose in the conditional half of guidance only; the others,
by their authors, in both halves. Here each system has it either way."""
PAPER_TEXT = """# The paper's own Table 1

For the order of the systems alone: these are of real videos, another CLIP and another pose estimator, so their values
say nothing of those above. QU is the quality that raters saw.
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
    copying = COPYING if {"first-order-motion", "everybody-dance-now"} & judged.keys() else ""
    count = judged[OURS]["n"]
    first = "" if count == 1024 else f", {count} videos"
    page = [TABLE1.format(count=count, first=first, copying=copying), *_section(judged, videos, SYSTEMS, real=True)]
    page += _variants("Noise of its own in every frame", NOISE_TEXT, judged, videos, NOISE)
    page += _variants("The pose in one half of guidance", HALF_TEXT, judged, videos, HALF)
    page += [PAPER_TEXT, paper_table(), ""]
    ablations = [(title, rows) for title, rows in SECTIONS.items() if rows.keys() <= judged.keys()]
    if ablations:
        page.append(ABLATIONS.format_map(steps))
    for title, rows in ablations:
        page += [f"## {title}\n", *_section(judged, videos, rows)]
    return "\n".join(page)


def _variants(title: str, text: str, judged: Judged, videos: Videos, rows: Mapping[str, str]) -> list[str]:
    """Return a section of systems in two settings each; none where only Table 1's setting was evaluated."""
    systems = {name: label for name, label in rows.items() if name in judged}
    if systems.keys() <= SYSTEMS.keys():
        return []
    head = VARIANTS.format(title=title, text=text, count=judged[next(iter(systems))]["n"])
    return [head, *_section(judged, videos, systems)]


def paper_table() -> str:
    """Return the numbers of the paper's Table 1, in its order."""
    return markdown_table(["", "CS", "QU", "PA", "FC"], [[name, *map(str, row)] for name, row in PAPER.items()])


def _section(judged: Judged, videos: Videos, rows: Mapping[str, str], real: bool = False) -> list[str]:
    parts = [_table(judged, rows, real), ""]
    if len(found := {name: label for name, label in rows.items() if name in videos}) > 1:
        parts += [DIFFERENCES, "", _differences(videos, found), ""]
    return parts


def _table(judged: Judged, rows: Mapping[str, str], real: bool) -> str:
    lines, most = [], next(judged[name]["n"] for name in rows if name in judged)
    for name, label in rows.items():
        if name in judged:
            n = judged[name]["n"]
            few = "" if n == most else f", the first {n}"
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
