"""The ways to join windows, compared on long videos of the same scenes and the same noise -> metrics.json.

v videos   f frames   H W pixels
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from followyourpose.config import EvaluateConfig
from followyourpose.evaluation import metrics
from followyourpose.evaluation.draw import generate, load_model, side_of
from followyourpose.evaluation.evaluate import check
from followyourpose.evaluation.judges import Judges, open_judges
from followyourpose.evaluation.measure import DEFINITIONS, measure, ratio
from followyourpose.evaluation.report import write_metrics, write_samples
from followyourpose.evaluation.samples import Sample, puppets

BORDER_JUMP = "mean change of pixels from a frame to the next at the borders of windows, over that elsewhere"
SHOWN = ("pck@0.1", "cs", "fc", "flicker", "border_jump")


def compare_modes(config: EvaluateConfig) -> Path:
    """Generates `num_videos` of `num_frames` in each of `modes`, and writes metrics.json and samples.png into a folder.

    On the picture are the first mode's videos. The folder is `config.output`, or a new one under outputs/.

    Raises:
        ValueError: as `evaluate`; or the video has no border between two windows.
    """
    folder, borders = check(config), window_borders(config)
    judges, pipe = open_judges(config), load_model(config)
    collection = puppets(config, side_of(pipe), side_of(pipe))
    samples, results, first = collection.samples, {}, None
    with tqdm(total=len(config.modes) * len(samples), unit="video", desc="generate") as bar:
        for mode in config.modes:
            one = replace(config, long_video=replace(config.long_video, mode=mode))
            videos = generate(pipe, samples, one, config.noise, advance=bar.update)
            first = videos if first is None else first
            results[mode] = measure_long(videos, samples, borders, judges)
    results["real"] = measure_long(collection.real, samples, borders, judges)
    content = {"modes": results, "borders": borders, "n": len(samples)}
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(folder, collection, first)
    write_metrics(folder, config, content, {**DEFINITIONS, "border_jump": BORDER_JUMP})
    print(format_modes(results, len(samples)))
    return folder


def window_borders(config: EvaluateConfig) -> list[int]:
    """The frames with which the next window's own ones begin; those of `paper`, for all modes alike.

    Raises:
        ValueError: there are none, since the video is one window.
    """
    windows = replace(config.long_video, mode="paper").windows(config.num_frames)
    if len(windows) == 1:
        raise ValueError(f"num_frames: got {config.num_frames}, one window, expected more than {len(windows[0])}")
    return [window[-1] + 1 for window in windows[:-1]]


def measure_long(
    videos: Sequence[np.ndarray], samples: Sequence[Sample], borders: Sequence[int], judges: Judges
) -> dict[str, Any]:
    """What `measure` measures of videos, (f, H, W, 3) uint8 each, and the jump at the borders, with their intervals."""
    measured = measure(videos, samples, judges)
    changes = [metrics.border_change(video, borders) for video in videos]
    jump = {"border_jump": ratio(changes), "border_jump_ci95": metrics.bootstrap_interval(changes, ratio)}
    return {**measured.summary(), **measured.intervals(), **jump}


def format_modes(results: dict[str, dict[str, Any]], count: int) -> str:
    """The results as text: a line per mode, and one of the real frames."""
    lines = [f"{'':12}" + "".join(f"{name:>14}" for name in SHOWN) + f"   over {count} videos"]
    lines += [f"{mode:12}" + "".join(f"{numbers[name]:14.3f}" for name in SHOWN) for mode, numbers in results.items()]
    return "\n".join(lines)
