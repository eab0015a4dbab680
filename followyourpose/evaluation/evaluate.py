"""`followyourpose evaluate`: what a model, a run or any system drew, against what it was to show -> a folder.

All sets of frames are judged by the same detector and the same CLIP: what is judged, the real frames (the most that can
be reached) and, of what is drawn for this, what the model draws without a skeleton (what chance reaches).
"""

import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from followyourpose.config import ConfigError, EvaluateConfig, locate
from followyourpose.evaluation import metrics
from followyourpose.evaluation.draw import drawn_sets, flicker_of_stage_2, load_before, load_model, side_of
from followyourpose.evaluation.judges import Judges, open_judges
from followyourpose.evaluation.measure import Measured, measure, ratio
from followyourpose.evaluation.report import Report, write_report
from followyourpose.evaluation.samples import Collection, fitted, of_benchmark, puppets
from followyourpose.evaluation.sources import read_collection
from followyourpose.puppets.benchmark import BENCHMARKS


def evaluate(config: EvaluateConfig) -> Path:
    """Measures `config.videos`, or what the model draws, and writes the results into a folder (see report.py).

    The folder is `config.output`, or a new one under outputs/; it is returned. What is wrong with videos, skeletons and
    prompts is told before a model is read.

    Raises:
        ValueError: the folder has results already, a setting, a video or a skeleton cannot be used, or a model cannot
            be read.
    """
    folder = check(config)
    collection = None if config.videos is None else read_collection(locate(config.videos))
    if collection is not None and config.benchmark is not None:
        collection = of_benchmark(collection, config.benchmark)
    judges = open_judges(config)
    if collection is not None and collection.videos is not None:
        sets, more = {"": collection.videos}, {}
    else:
        collection, sets, more = draw(config, collection)
    if collection.real is not None:
        sets["real"] = collection.real
    report = compare(collection, sets, judges, more)
    write_report(folder, config, report)
    return folder


def check(config: EvaluateConfig) -> Path:
    """The folder that the results go to, if it has none and the settings can be used.

    Raises:
        ValueError: not so; the message names the folder or the key.
    """
    folder = Path(config.output or f"outputs/evaluate-{time.strftime('%Y%m%d-%H%M%S')}")
    if (folder / "metrics.json").exists():
        raise ValueError(f"{folder}: holds a metrics.json; give another `output`, results are never overwritten")
    if config.benchmark is not None:
        for key in ("seed", "num_frames"):
            if (got := getattr(config, key)) != (fixed := getattr(BENCHMARKS[config.benchmark], key)):
                raise ConfigError(f"{key}: got {got}, expected {fixed}, that of {config.benchmark}")
    return folder


def draw(config: EvaluateConfig, asked: Collection | None) -> tuple[Collection, dict[str, Any], dict[str, Any]]:
    """Draws what is asked for, or puppets: what was drawn, the sets of videos, and what is known of stage 2."""
    pipe = load_model(config)
    side = side_of(pipe)
    if asked is None:
        collection = puppets(config, side, side)
    else:
        collection = fitted(asked, side, side, config.num_frames)
    sets = drawn_sets(pipe, collection.samples, config)
    more = {}
    if config.image_model is not None:
        few = collection.samples[: config.flicker_videos]
        more = flicker_of_stage_2(pipe, load_before(config, pipe), few, config, sets[""][: config.flicker_videos])
    return collection, sets, more


def compare(collection: Collection, sets: dict[str, Any], judges: Judges, more: dict[str, Any]) -> Report:
    """Measures sets of videos of the same samples.

    Args:
        sets: name -> a video of each sample: "" is what is judged; "real" and "no_pose" what it is compared with.
        more: numbers that are known already.
    """
    measured = {}
    with tqdm(total=len(sets) * len(collection.samples), unit="video", desc="measure") as bar:
        for name, videos in sets.items():
            real = None if name == "real" else collection.real
            measured[name] = measure(videos, collection.samples, judges, real, bar.update)
    drawn = measured[""]
    results = {**drawn.summary(), "n": len(collection.samples), **drawn.intervals()}
    for suffix, other in measured.items():
        if suffix:
            results |= {f"{name}_{suffix}".replace("@0.1", ""): value for name, value in other.summary().items()}
    if "real" in measured:
        results |= _shares("pck_ratio", drawn, measured["real"])
        if "no_pose" in measured:
            results |= _shares("pck_no_pose_ratio", measured["no_pose"], measured["real"])
    return Report(collection, sets[""], measured, results | more)


def _shares(name: str, of: Measured, real: Measured) -> dict[str, Any]:
    """PCK as a share of real frames', and its interval; of videos where both are defined, if there are any."""
    pairs = [pair for pair in zip(of.values["pck@0.1"], real.values["pck@0.1"], strict=True) if None not in pair]
    return {name: ratio(pairs), f"{name}_ci95": metrics.bootstrap_interval(pairs, ratio)} if pairs else {}
