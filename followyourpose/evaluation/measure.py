"""Videos -> numbers of each, and of all with their intervals: every metric is a line of METRICS.

Letters: v videos, f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from followyourpose.evaluation import metrics
from followyourpose.evaluation.judges import Judges, View
from followyourpose.evaluation.samples import Sample


@dataclass(frozen=True)
class Metric:
    """A number of a set of videos.

    Attributes:
        definition: what it is, for a reader.
        of: what has to be known of one video; a ValueError says why it is undefined.
        over: the number, from what is known of several videos.
        of_each: whether a single video has it, and several an interval; not so what only a set of many has.
    """

    definition: str
    of: Callable[[View], Any]
    over: Callable[[list[Any]], float] = np.mean
    of_each: bool = True


METRICS = {
    "cs": Metric(
        "cosine of a frame's and its caption's CLIP embedding, x100, mean over frames",
        lambda view: metrics.clip_score(view.images, view.text),
    ),
    "pa": Metric(
        "average precision (OKS .50:.05:.95) of the detected skeletons against the driving ones",
        lambda view: metrics.match_people(view.found, view.people),
        metrics.average_precision,
    ),
    "pck@0.1": Metric(
        "share of joints detected within 0.1 body heights of the driving ones",
        lambda view: metrics.pck(*view.pairs, 0.1),
    ),
    "pck@0.05": Metric(
        "the same within 0.05 body heights",
        lambda view: metrics.pck(*view.pairs, 0.05),
    ),
    "missed": Metric(
        "share of the frames that are to show somebody in which nobody was found: misses of PA and PCK",
        lambda view: view.missed,
    ),
    "fc": Metric(
        "cosine of consecutive frames' CLIP embeddings, x100",
        lambda view: metrics.frame_consistency(view.images),
    ),
    "fc_all": Metric(
        "the same of all pairs of frames",
        lambda view: metrics.frame_consistency(view.images, "all"),
    ),
    "fc_first": Metric(
        "the same of the first frame and each other one",
        lambda view: metrics.frame_consistency(view.images, "first"),
    ),
    "background_consistency": Metric(
        "VBench's: cosine of a frame's CLIP embedding and the first's, and the one before, mean",
        lambda view: metrics.background_consistency(view.images),
    ),
    "temporal_flickering": Metric(
        "VBench's: 1 - mean change of all pixels from a frame to the next, of 255; 1 is a still",
        lambda view: metrics.temporal_flickering(view.frames),
    ),
    "ssim": Metric(
        "structural similarity to the real frames in the same poses",
        lambda view: metrics.ssim(view.frames, view.real.frames),
    ),
    "frechet": Metric(
        "Fréchet distance of the frames' CLIP embeddings and those of the real frames (FID, by CLIP)",
        lambda view: (view.images, view.real.images),
        lambda pairs: metrics.frechet_distance(*(np.concatenate(side) for side in zip(*pairs, strict=True))),
        of_each=False,
    ),
    "flicker": Metric(
        "mean change of background pixels from a frame to the next, of 255",
        lambda view: flicker(view.sample, view.frames),
    ),
    "character_accuracy": Metric(
        "share of videos whose nearest caption, of all of one person, names the right character",
        lambda view: view.names[0],
    ),
    "background_accuracy": Metric(
        "the same for the background",
        lambda view: view.names[1],
    ),
}
DEFINITIONS = {name: metric.definition for name, metric in METRICS.items()}


class Measured:
    """What was measured on v videos.

    Attributes:
        values: metric -> what is known of each video, None where it is undefined.
        undefined: metric -> why it is undefined -> for how many videos.
        sizes: frames, height and width of each video.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {name: [] for name in METRICS}
        self.sizes: list[tuple[int, int, int]] = []
        self.undefined: dict[str, dict[str, int]] = {}

    def add(self, view: View) -> None:
        """Measures one more video."""
        self.sizes.append(view.frames.shape[:3])
        for name, metric in METRICS.items():
            try:
                value = metric.of(view)
            except ValueError as error:
                value, why = None, self.undefined.setdefault(name, Counter())
                why[str(error)] += 1
            self.values[name].append(value)

    def defined(self, name: str) -> list[Any]:
        """What is known of the videos for which a metric is defined."""
        return [value for value in self.values[name] if value is not None]

    def summary(self) -> dict[str, float | None]:
        """One number per metric; None where it is defined for no video."""
        return {name: _over(metric, self.defined(name)) for name, metric in METRICS.items()}

    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """The 95 % bootstrap interval over videos of each number, by the metric's name and _ci95."""
        return {
            f"{name}_ci95": metrics.bootstrap_interval(self.defined(name), metric.over)
            if metric.of_each and number is not None
            else None
            for (name, metric), number in zip(METRICS.items(), self.summary().values(), strict=True)
        }

    def rows(self) -> list[dict[str, float | None]]:
        """Each video's own numbers, by metric; None where one is undefined."""
        columns = {
            name: [None if value is None else _over(metric, [value]) for value in self.values[name]]
            for name, metric in METRICS.items()
            if metric.of_each
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _over(metric: Metric, values: list[Any]) -> float | None:
    """The number of these videos; None: there are none, it is undefined for so few, or not finite."""
    try:
        number = float(metric.over(values)) if values else np.nan
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def measure(
    videos: Sequence[np.ndarray],
    samples: Sequence[Sample],
    judges: Judges,
    real: Sequence[np.ndarray] | None = None,
    advance: Callable[[int], Any] = lambda videos: None,
) -> Measured:
    """Compares v videos, (f, H, W, 3) uint8 each, with what they are to show.

    Args:
        real: of each video, real frames (f, H, W, 3) uint8 of the same poses.
        advance: is told how many videos are done, for a progress bar.

    Raises:
        ValueError: CLIP's features of a video are not finite; the message names it.
    """
    measured = Measured()
    for number, sample in enumerate(samples):
        measured.add(judges.see(sample, videos[number], None if real is None else real[number]))
        advance(1)
    return measured


def flicker(sample: Sample, frames: np.ndarray) -> float:
    """Background flicker of frames (f, H, W, 3) uint8 that are to show the sample.

    Raises:
        ValueError: as `metrics.flicker`; or nothing is known of poses.
    """
    return metrics.flicker(frames, sample.bodies(*frames.shape[1:3]))


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The sum of the first numbers over the sum of the second ones."""
    above, below = np.sum(pairs, axis=0)
    return float(above / max(below, 1e-12))
