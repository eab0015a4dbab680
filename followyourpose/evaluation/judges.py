"""Who looks at videos, a CLIP and whoever finds people, and what they see of one beside what it was to show.

Letters: f frames, p people, k prompts, H W pixels, d embedding width. Frames are (f, H, W, 3) uint8 RGB; people are
(17, 3): x, y in pixels of the frame, confidence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from followyourpose.common.device import torch_device
from followyourpose.config import EvaluateConfig, locate
from followyourpose.evaluation.features import ClipFeatures
from followyourpose.evaluation.metrics import top1
from followyourpose.evaluation.samples import Sample
from followyourpose.pose.estimate import WEIGHTS, open_estimator
from followyourpose.pose.similarity import object_keypoint_similarity
from followyourpose.pose.skeleton import NUM_JOINTS
from followyourpose.puppets.backgrounds import BACKGROUNDS
from followyourpose.puppets.characters import CHARACTERS
from followyourpose.puppets.world import caption

_NOBODY = np.full((NUM_JOINTS, 3), (-1e6, -1e6, 0.0), np.float32)


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
    """What the judges see of one video, beside what it was to show; a ValueError says why something is unknown.

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
        """Who was found for whom, (p, 17, 3) twice, of all frames; who was missed is far away, without confidence."""
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
        named = pairs[top1(self.images, self.judges.texts([caption(*pair) for pair in pairs]))]
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
    """For each person there who was found for them, most alike first, nobody twice; `_NOBODY` where none is left."""
    alike = np.array([[object_keypoint_similarity(a, b) for a in found] for b in there]).reshape(len(there), len(found))
    chosen = [_NOBODY] * len(there)
    for _ in range(min(alike.shape)):
        row, column = np.unravel_index(alike.argmax(), alike.shape)
        chosen[row] = found[column]
        alike[row], alike[:, column] = -1, -1
    return list(zip(chosen, there, strict=True))
