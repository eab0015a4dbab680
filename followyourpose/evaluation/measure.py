"""Metrics of each video and of a set of videos, with intervals: every metric is an entry of METRICS.

Letters: v videos, f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from followyourpose.evaluation import metrics
from followyourpose.evaluation.evaluators import Evaluators, VideoFeatures
from followyourpose.evaluation.samples import Sample


@dataclass(frozen=True)
class Metric:
    """A number of a set of videos."""

    definition: str  # one line for a reader
    # a video's input of the metric; raises a ValueError with the reason where it is undefined
    of: Callable[[VideoFeatures], Any]
    over: Callable[[list[Any]], float] = np.mean  # the number, from the inputs of several videos
    of_each: bool = True  # whether single videos have it, and a set an interval; False for a metric of large sets only


METRICS = {
    "cs": Metric(
        "cosine of a frame's and its caption's CLIP embedding, x100, mean over frames",
        lambda v: metrics.clip_score(v.images, v.text),
    ),
    "pa": Metric(
        "average precision (OKS .50:.05:.95) of the detected skeletons against the driving ones",
        lambda v: metrics.match_people(v.found, v.people),
        metrics.average_precision,
    ),
    "pck@0.1": Metric(
        "share of joints detected within 0.1 body heights of the driving ones", lambda v: metrics.pck(*v.pairs, 0.1)
    ),
    "pck@0.05": Metric("the same within 0.05 body heights", lambda v: metrics.pck(*v.pairs, 0.05)),
    "missed": Metric(
        "share of the frames with people in which nobody is detected: misses of PA and PCK", lambda v: v.missed
    ),
    "fc": Metric("cosine of consecutive frames' CLIP embeddings, x100", lambda v: metrics.frame_consistency(v.images)),
    "fc_all": Metric("the same of all pairs of frames", lambda v: metrics.frame_consistency(v.images, "all")),
    "fc_first": Metric(
        "the same of the first frame and each other one", lambda v: metrics.frame_consistency(v.images, "first")
    ),
    "background_consistency": Metric(
        "VBench's: cosine of a frame's CLIP embedding and the first's, and the one before, mean",
        lambda v: metrics.background_consistency(v.images),
    ),
    "temporal_flickering": Metric(
        "VBench's: 1 - mean change of all pixels from a frame to the next, of 255; 1 is a still",
        lambda v: metrics.temporal_flickering(v.frames),
    ),
    "ssim": Metric(
        "structural similarity to the real frames in the same poses", lambda v: metrics.ssim(v.frames, v.real.frames)
    ),
    "sharpness": Metric(
        "mean step from a pixel to the next around the people, as a share of the real frames'",
        lambda v: metrics.sharpness(v.frames, v.real.frames, v.sample.bodies(*v.frames.shape[1:3])),
    ),
    "frechet": Metric(
        "Fréchet distance of the frames' CLIP embeddings and those of the real frames (FID, by CLIP)",
        lambda v: (v.images, v.real.images),
        lambda pairs: metrics.frechet_distance(*(np.concatenate(side) for side in zip(*pairs, strict=True))),
        of_each=False,
    ),
    "flicker": Metric(
        "mean change of background pixels from a frame to the next, of 255", lambda v: flicker(v.sample, v.frames)
    ),
    "character_accuracy": Metric(
        "share of videos whose nearest caption, of all of one person, names the right character", lambda v: v.names[0]
    ),
    "background_accuracy": Metric("the same for the background", lambda v: v.names[1]),
}
DEFINITIONS = {name: metric.definition for name, metric in METRICS.items()}


class Measured:
    """Metrics of v videos."""

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {name: [] for name in METRICS}  # each video's input, None where undefined
        self.sizes: list[tuple[int, int, int]] = []  # frames, height and width of each video
        self.undefined: dict[str, dict[str, int]] = {}  # metric -> reason -> number of videos

    def add(self, video: VideoFeatures) -> None:
        """Measure one more video."""
        self.sizes.append(video.frames.shape[:3])
        for name, metric in METRICS.items():
            try:
                value = metric.of(video)
            except ValueError as error:
                value = None
                self.undefined.setdefault(name, Counter())[str(error)] += 1
            self.values[name].append(value)

    def defined(self, name: str) -> list[Any]:
        """Return the inputs of the videos for which a metric is defined."""
        return [value for value in self.values[name] if value is not None]

    def summary(self) -> dict[str, float | None]:
        """Return one number per metric; None where it is defined for no video."""
        return {name: _over(metric, self.defined(name)) for name, metric in METRICS.items()}

    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """Return the 95 % bootstrap interval over videos of each number, by the metric's name and _ci95."""
        return {
            f"{name}_ci95": metrics.bootstrap_interval(self.defined(name), metric.over)
            if metric.of_each and number is not None
            else None
            for (name, metric), number in zip(METRICS.items(), self.summary().values(), strict=True)
        }

    def rows(self) -> list[dict[str, float | None]]:
        """Return each video's own numbers, by metric; None where one is undefined."""
        columns = {
            name: [None if value is None else _over(metric, [value]) for value in self.values[name]]
            for name, metric in METRICS.items()
            if metric.of_each
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _over(metric: Metric, values: list[Any]) -> float | None:
    """Return the number of several videos' inputs; None: there are none or too few, or it is not finite."""
    try:
        number = float(metric.over(values)) if values else np.nan
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def measure(
    videos: Sequence[np.ndarray],
    samples: Sequence[Sample],
    evaluators: Evaluators,
    real: Sequence[np.ndarray] | None = None,
) -> Measured:
    """Measure a video (f, H, W, 3) uint8 of each sample.

    Args:
        real: of each sample, real frames (f, H, W, 3) uint8 of the same poses.

    Raises:
        ValueError: CLIP's features of a video are not finite; the message names it.
    """
    measured = Measured()
    for number, sample in enumerate(tqdm(samples, "measure", unit="video")):
        measured.add(evaluators.features(sample, videos[number], None if real is None else real[number]))
    return measured


def flicker(sample: Sample, frames: np.ndarray) -> float:
    """Background flicker of a sample's video, frames (f, H, W, 3) uint8; errors as `metrics.flicker`."""
    return metrics.flicker(frames, sample.bodies(*frames.shape[1:3]))


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the sum of the first numbers over the sum of the second ones."""
    above, below = np.sum(pairs, axis=0)
    return float(above / max(below, 1e-12))
