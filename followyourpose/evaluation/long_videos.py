"""Modes of joining windows, compared on long videos of the same scenes and the same noise -> metrics.json.

v videos   f frames   H W pixels
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.checks import counted
from followyourpose.common.tables import markdown_table
from followyourpose.config import EvaluateConfig
from followyourpose.evaluation import metrics
from followyourpose.evaluation.draw import generate, load_model, side_of
from followyourpose.evaluation.evaluators import Evaluators, open_evaluators
from followyourpose.evaluation.measure import DEFINITIONS, measure, ratio
from followyourpose.evaluation.report import format_number, write_metrics, write_samples
from followyourpose.evaluation.samples import Sample, puppets
from followyourpose.generation.sharing import KeptArrays

BORDER_JUMP = "mean change of pixels from a frame to the next at the borders of windows, over that elsewhere"
SHOWN = ("pck@0.1", "cs", "fc", "flicker", "border_jump")


def compare_modes(config: EvaluateConfig, folder: Path, kept: KeptArrays) -> None:
    """Generate `num_videos` in each of `modes`; write metrics.json and samples.png, with the first mode's videos."""
    windows = replace(config.long_video, mode="paper").windows(config.num_frames)
    borders = [window[-1] + 1 for window in windows[:-1]]  # first frames of later windows' own ones, for all modes
    pipe = load_model(config)
    collection = puppets(config, side_of(pipe), side_of(pipe))
    samples, drawn = collection.samples, {}
    for mode in config.modes:
        one = replace(config, long_video=replace(config.long_video, mode=mode))
        drawn[mode] = generate(pipe, samples, one, config.noise, kept=kept)
    if not kept.processes.first:
        return
    evaluators, drawn["real"] = open_evaluators(config), collection.real
    results = {mode: measure_long(videos, samples, borders, evaluators) for mode, videos in drawn.items()}
    write_samples(folder, collection, drawn[config.modes[0]])
    content = {"modes": results, "borders": borders, "n": len(samples)}
    write_metrics(folder, config, content, {**DEFINITIONS, "border_jump": BORDER_JUMP})
    rows = [[mode, *(format_number(numbers[name]) for name in SHOWN)] for mode, numbers in results.items()]
    print(markdown_table([counted(len(samples), "video"), *SHOWN], rows, aligned=True))


def measure_long(
    videos: Sequence[np.ndarray], samples: Sequence[Sample], borders: Sequence[int], evaluators: Evaluators
) -> dict[str, Any]:
    """Return the metrics of videos, (f, H, W, 3) uint8 each, and the jump at the borders, with their intervals."""
    measured = measure(videos, samples, evaluators)
    changes = [metrics.border_change(video, borders) for video in videos]
    jump = {"border_jump": ratio(changes), "border_jump_ci95": metrics.bootstrap_interval(changes, ratio)}
    return {**measured.summary(), **measured.intervals(), **jump}
