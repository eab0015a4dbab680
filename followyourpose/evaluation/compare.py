"""Comparison of videos with real frames and with the chance baseline, by the same CLIP and pose estimator.

Real frames are the ceiling of a metric; the model's videos without a skeleton are what chance gives.
"""

from pathlib import Path
from typing import Any

from followyourpose.config import EvaluateConfig
from followyourpose.evaluation import metrics
from followyourpose.evaluation.draw import drawn_sets, flicker_of_stage_2, load_before, load_model, side_of
from followyourpose.evaluation.evaluators import Evaluators, open_evaluators
from followyourpose.evaluation.measure import Measured, measure, ratio
from followyourpose.evaluation.report import Report, write_report
from followyourpose.evaluation.samples import Collection, fitted, puppets
from followyourpose.generation.sharing import KeptArrays


def compare_videos(config: EvaluateConfig, collection: Collection | None, folder: Path, kept: KeptArrays) -> None:
    """Measure a collection (None: puppets), drawn by the model where it has no videos; write the report.

    Processes draw together, and the first one measures.
    """
    evaluators = open_evaluators(config) if kept.processes.first else None
    if collection is not None and collection.videos is not None:
        sets, more = {"": collection.videos}, {}
    else:
        collection, sets, more = draw(config, collection, kept)
    if evaluators is None:
        return
    if collection.real is not None:
        sets["real"] = collection.real
    write_report(folder, config, compare(collection, sets, evaluators, more))


def draw(
    config: EvaluateConfig, wanted: Collection | None, kept: KeptArrays
) -> tuple[Collection, dict[str, Any], dict[str, Any]]:
    """Draw a collection, or puppets: return it at the model's size, the sets of videos, and the flicker of stage 2."""
    pipe = load_model(config)
    side = side_of(pipe)
    if wanted is None:
        collection = puppets(config, side, side)
    else:
        collection = fitted(wanted, side, side, config.num_frames)
    sets = drawn_sets(pipe, collection.samples, config, kept)
    more = {}
    if config.image_model is not None:
        few = collection.samples[: config.flicker_videos]
        before, videos = load_before(config, pipe), sets[""][: config.flicker_videos]
        more = flicker_of_stage_2(pipe, before, few, config, videos, kept)
    return collection, sets, more


def compare(collection: Collection, sets: dict[str, Any], evaluators: Evaluators, more: dict[str, Any]) -> Report:
    """Measure sets of videos of the same samples.

    Args:
        sets: name -> a video of each sample: "", the videos to evaluate; "real" and "no_pose", to compare them with.
        more: further numbers of the report.
    """
    measured = {
        name: measure(videos, collection.samples, evaluators, None if name == "real" else collection.real)
        for name, videos in sets.items()
    }
    evaluated = measured[""]
    results = {**evaluated.summary(), "n": len(collection.samples), **evaluated.intervals()}
    for suffix, other in measured.items():
        if suffix:
            results |= {f"{name}_{suffix}".replace("@0.1", ""): value for name, value in other.summary().items()}
    if "real" in measured:
        results |= _shares("pck_ratio", evaluated, measured["real"])
        if "no_pose" in measured:
            results |= _shares("pck_no_pose_ratio", measured["no_pose"], measured["real"])
    return Report(collection, sets[""], measured, results | more)


def _shares(name: str, of: Measured, real: Measured) -> dict[str, Any]:
    """PCK as a share of that of real frames, with its interval; over the videos for which both are defined."""
    pairs = [pair for pair in zip(of.values["pck@0.1"], real.values["pck@0.1"], strict=True) if None not in pair]
    return {name: ratio(pairs), f"{name}_ci95": metrics.bootstrap_interval(pairs, ratio)} if pairs else {}
