"""Videos -> numbers of each, and of all with their intervals: every metric is a line of METRICS.

Letters: v videos, f frames, p people, H W pixels, d embedding width. Frames are (f, H, W, 3) uint8 RGB, people (17, 3):
x, y in pixels of the frame, confidence.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from followyourpose.config import EvaluateConfig, locate
from followyourpose.evaluation import metrics
from followyourpose.evaluation.features import ClipFeatures
from followyourpose.evaluation.samples import Sample
from followyourpose.pose.estimate import WEIGHTS, open_estimator, torch_device
from followyourpose.pose.similarity import object_keypoint_similarity
from followyourpose.pose.skeleton import NUM_JOINTS
from followyourpose.puppets.backgrounds import BACKGROUNDS
from followyourpose.puppets.characters import CHARACTERS
from followyourpose.puppets.world import caption


class Judges:
    """Who looks at videos: a CLIP, and whoever finds people.

    Args:
        clip: its embeddings of captions are kept, and computed once.
        find: frames -> per frame one (17, 3) per person, such as a `PoseEstimator`.
    """

    def __init__(self, clip: ClipFeatures, find: Callable[[np.ndarray], list[list[np.ndarray]]]) -> None:
        self.clip, self.find = clip, find
        self._texts: dict[str, np.ndarray] = {}

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """The embeddings (k, d) of k prompts.

        Raises:
            ValueError: they are not finite.
        """
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._texts))
        if new:
            self._texts |= zip(new, _finite(self.clip.captions(new), f"the prompt {new[0]!r}"), strict=True)
        return np.stack([self._texts[prompt] for prompt in prompts])

    def see(self, sample: Sample, frames: np.ndarray, real: np.ndarray | None = None) -> "View":
        """What they see in frames (f, H, W, 3) uint8 that are to show the sample.

        Args:
            real: frames (f, H, W, 3) uint8 of the same poses, to compare with.

        Raises:
            ValueError: CLIP's features are not finite.
        """
        images = _finite(self.clip.images(frames), sample.name)
        return View(self, sample, frames, images, self.texts([sample.prompt])[0], self.find(frames), real)


def open_judges(config: EvaluateConfig) -> Judges:
    """The judges that a configuration names, on its device.

    Raises:
        ValueError: one of them cannot be read.
    """
    find = open_estimator(
        config.backend, locate(config.detector or WEIGHTS[config.backend]),
        *(path and locate(path) for path in (config.detector_config, config.boxes)), device=config.device,
    )  # fmt: skip
    return Judges(ClipFeatures(locate(config.clip), torch_device(config.device)), find)


def _finite(features: np.ndarray, of: str) -> np.ndarray:
    if not np.isfinite(features).all():
        raise ValueError(f"clip: its features of {of} are not finite: its weights are broken, or it overflows")
    return features


@dataclass(frozen=True)
class View:
    """What the judges see of one video, beside what it was to show. Where that is unknown, it is a ValueError.

    Attributes:
        frames: (f, H, W, 3) uint8.
        images: the frames' embeddings (f, d); text: the prompt's (d,).
        found: per frame the people found, (17, 3) each.
        compared: frames (f, H, W, 3) uint8 of the same poses; None: there are none.
    """

    judges: Judges
    sample: Sample
    frames: np.ndarray
    images: np.ndarray
    text: np.ndarray
    found: list[list[np.ndarray]]
    compared: np.ndarray | None = None

    @cached_property
    def people(self) -> list[list[np.ndarray]]:
        """Per frame the people that are to be there, (17, 3) each; those of whom no joint is visible left out."""
        people = [_visible(each) for each in self.sample.on(*self.frames.shape[1:3])]
        if not any(people):
            raise ValueError("its skeleton shows nobody")
        return people

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Who was found for whom, (p, 17, 3) twice, of all frames; joints of nobody are infinitely far away."""
        pairs = [pair for found, there in zip(self.found, self.people, strict=True) for pair in _pairs(found, there)]
        found, there = zip(*pairs, strict=True)
        return np.stack(found), np.stack(there)

    @property
    def missed(self) -> float:
        """The share of the frames that are to show somebody in which nobody was found."""
        found = [bool(found) for found, there in zip(self.found, self.people, strict=True) if there]
        return 1 - sum(found) / len(found)

    @cached_property
    def names(self) -> tuple[bool, bool]:
        """Whether the nearest caption, of all of one person, names the right character, and the right background."""
        if self.sample.scene is None:
            raise ValueError("it is not of the puppet world")
        pairs = [(character, background) for character in CHARACTERS for background in BACKGROUNDS]
        named = pairs[metrics.top1(self.images, self.judges.texts([caption(*pair) for pair in pairs]))]
        return named[0] == self.sample.scene.character, named[1] == self.sample.scene.background

    @cached_property
    def real(self) -> "View":
        """The real frames, as the judges see them."""
        if self.compared is None:
            raise ValueError("it has no real frames to be compared with")
        return self.judges.see(self.sample, self.compared)


def _visible(people: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [person for person in people if (person[:, 2] > 0).any()]


def _pairs(found: Sequence[np.ndarray], there: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each person there who was found for them, most alike first; nobody is twice, and infinity is nobody."""
    nobody = np.full((NUM_JOINTS, 3), np.inf)
    alike = np.array([[object_keypoint_similarity(a, b) for a in found] for b in there]).reshape(len(there), len(found))
    chosen = [nobody] * len(there)
    for _ in range(min(alike.shape)):
        row, column = np.unravel_index(alike.argmax(), alike.shape)
        chosen[row] = found[column]
        alike[row], alike[:, column] = -1, -1
    return list(zip(chosen, there, strict=True))


# ---- the metrics ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A number of a set of videos.

    Attributes:
        definition: what it is, for a reader.
        of: what has to be known of one video; a ValueError says why it is undefined.
        over: the number, from what is known of several videos.
    """

    definition: str
    of: Callable[[View], Any]
    over: Callable[[list[Any]], float] = np.mean


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
            f"{name}_ci95": metrics.bootstrap_interval(self.defined(name), metric.over) if defined is not None else None
            for (name, metric), defined in zip(METRICS.items(), self.summary().values(), strict=True)
        }

    def rows(self) -> list[dict[str, float | None]]:
        """Each video's own numbers, by metric; None where one is undefined."""
        columns = {
            name: [None if value is None else _over(metric, [value]) for value in self.values[name]]
            for name, metric in METRICS.items()
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _over(metric: Metric, values: list[Any]) -> float | None:
    """The number of these videos; None: there are none, or it is undefined for so few."""
    try:
        return float(metric.over(values)) if values else None
    except ValueError:
        return None


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
