"""`followyourpose evaluate-pose`: accuracy, steadiness, speed and memory of pose estimators -> a folder."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.checks import check_installed, counted
from followyourpose.common.files import atomic_write, new_folder
from followyourpose.common.tables import markdown_table
from followyourpose.config import ConfigError, EvaluatePoseConfig, locate
from followyourpose.data.video_io import probe
from followyourpose.evaluation import pose_estimates, pose_judge
from followyourpose.evaluation.metrics import jitter
from followyourpose.generation.outputs import versions
from followyourpose.pose.track import check_smoothing, fill_gaps, link, smooth

_STEADINESS = {
    "tracks": "people who are followed from frame to frame; one who is lost for long is counted again",
    "nobody": "frames in which nobody was found",
    "jitter": "mean second difference of a joint over frames, in thousandths of the frame's height",
    "smoothed": "the same after the filter of `smooth` frames",
}
_PLACES = {"missed": 0, "doubled": 0, "others": 0, "tracks": 0, "nobody": 0, "ms": 0, "memory": 0, "jitter": 2} | {
    "smoothed": 2
}  # decimals of the tables; the others have three


def evaluate_pose(config: EvaluatePoseConfig) -> Path:
    """Measure pose estimators; print the tables and write them, metrics.md, and metrics.json to a new folder.

    The folder is `config.output`, or a new one under outputs/; it is returned. An estimator that is not installed, or
    whose weights cannot be had, is reported as not measured.

    Raises:
        ValueError: the annotations, the video or a keypoints file cannot be used, or no estimator can be measured.
    """
    truth, video = _annotated(config), None if config.video is None else locate(config.video)
    info = None if video is None else probe(video)
    check_smoothing(config.smooth)
    images = {} if truth is None else truth.images
    files = [entry for entry in config.estimators if entry.lower().endswith(".json")]
    given = {entry: pose_estimates.read_people(locate(entry), images, video) for entry in files}
    results: dict[str, Any] = {"accuracy": {}, "steadiness": {}, "not_measured": {}}
    target = Path(config.output or f"outputs/evaluate-pose-{time.strftime('%Y%m%d-%H%M%S')}").expanduser()
    with new_folder(target) as folder:
        for entry in config.estimators:
            try:
                found = given.get(entry) or pose_estimates.find_people(entry, config.device, images, video)
            except pose_estimates.NotMeasured as error:
                results["not_measured"][entry] = str(error)
                continue
            if found.images is not None:
                numbers = pose_judge.judge(truth, dict(zip(truth.images, found.images, strict=True)))
                results["accuracy"][entry] = numbers | found.image_costs
            if found.frames is not None:
                numbers = steadiness(found.frames, info.height, config.smooth)
                results["steadiness"][entry] = numbers | found.frame_costs
        if not results["accuracy"] and not results["steadiness"]:
            raise ConfigError(
                "; ".join(f"estimators: {entry}: {why}" for entry, why in results["not_measured"].items())
            )
        if truth is not None:
            results["about"] = {"images": len(truth.images), "people": truth.total}
        if info is not None:
            results["about"] = results.get("about", {}) | {"frames": info.num_frames}
        text = "\n\n".join(_tables(results))
        atomic_write(folder / "metrics.md", f"{text}\n")
        definitions = pose_judge.DEFINITIONS | _STEADINESS | pose_estimates.DEFINITIONS
        content = {**results, "definitions": definitions, "settings": asdict(config), "versions": versions()}
        atomic_write(folder / "metrics.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    print(text)
    return target


def steadiness(frames: Sequence[Sequence[np.ndarray]], height: int, window: int) -> dict[str, float | None]:
    """Return the steadiness of the people (17, 3) in the frames of a video, before and after smoothing.

    Args:
        height: of the frames, in pixels; window: of `smooth`.
    """
    tracks = [fill_gaps(track) for track in link(frames)]
    numbers = {}
    for key, length in (("jitter", 0), ("smoothed", window)):
        lengths = np.concatenate([np.zeros(0), *(jitter(smooth(track, length).poses) for track in tracks)])
        numbers[key] = float(1000 * lengths.mean() / height) if len(lengths) else None
    return {"tracks": len(tracks), "nobody": sum(not people for people in frames), **numbers}


def _annotated(config: EvaluatePoseConfig) -> pose_judge.Annotations | None:
    if config.annotations is None:
        return None
    check_installed("annotations", "pose", "pycocotools")
    file = locate(config.annotations)
    return pose_judge.read_annotated(file, file.parent if config.images is None else locate(config.images))


def _tables(results: dict[str, Any]) -> Iterator[str]:
    """Yield a table of accuracy, one of steadiness, and a line for each estimator that was not measured."""
    about = results["about"]
    heads = {
        "accuracy": f"{counted(about.get('people', 0), 'person')} in {counted(about.get('images', 0), 'image')}",
        "steadiness": counted(about.get("frames", 0), "frame"),
    }
    for part, head in heads.items():
        rows = results[part]
        if rows:
            keys = list(max(rows.values(), key=len))  # those of a file have no costs
            cells = [[entry, *(_cell(key, row.get(key)) for key in keys)] for entry, row in rows.items()]
            yield markdown_table([head.replace("persons", "people"), *keys], cells, aligned=True)
    if results["not_measured"]:
        yield "\n".join(f"{entry} is not measured: {why}" for entry, why in results["not_measured"].items())


def _cell(key: str, value: float | None) -> str:
    return "" if value is None else f"{value:,.{_PLACES.get(key, 3)}f}"
