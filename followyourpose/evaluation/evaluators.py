"""Evaluator models, a CLIP and a pose estimator, and the features of a video that metrics are computed from.

Letters: f frames, p people, k prompts, H W pixels, d embedding width. Frames are (f, H, W, 3) uint8 RGB; people are
(17, 3): x, y in pixels of the frame, confidence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from followyourpose.common.device import torch_device
from followyourpose.config import EvaluateConfig, find_model
from followyourpose.evaluation.features import ClipFeatures
from followyourpose.evaluation.metrics import top1
from followyourpose.evaluation.samples import Sample
from followyourpose.pose.estimate import open_estimator
from followyourpose.pose.similarity import best_pairs, object_keypoint_similarity
from followyourpose.pose.skeleton import NUM_JOINTS
from followyourpose.puppets.backgrounds import BACKGROUNDS
from followyourpose.puppets.characters import CHARACTERS
from followyourpose.puppets.world import caption

_NOBODY = np.full((NUM_JOINTS, 3), (-1e6, -1e6, 0.0), np.float32)


@dataclass(eq=False)
class Evaluators:
    """A CLIP and a pose estimator."""

    clip: ClipFeatures  # its embeddings of captions are computed once and kept
    find: Callable[[np.ndarray], list[list[np.ndarray]]]  # frames -> one (17, 3) per person and frame
    _texts: dict[str, np.ndarray] = field(default_factory=dict, init=False)

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """Return the embeddings (k, d) of k prompts, or raise a ValueError where they are not finite."""
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._texts))
        if new:
            self._texts |= zip(new, _finite(self.clip.captions(new), f"the prompt {new[0]!r}"), strict=True)
        return np.stack([self._texts[prompt] for prompt in prompts])

    def features(self, sample: Sample, frames: np.ndarray, real: np.ndarray | None = None) -> "VideoFeatures":
        """Return the features of a sample's video, frames (f, H, W, 3) uint8.

        Args:
            real: real frames (f, H, W, 3) uint8 of the same poses, to compare with.

        Raises:
            ValueError: CLIP's features are not finite.
        """
        images = _finite(self.clip.images(frames), sample.name)
        return VideoFeatures(self, sample, frames, images, self.texts([sample.prompt])[0], self.find(frames), real)


def open_evaluators(config: EvaluateConfig) -> Evaluators:
    """Load the models that a configuration names onto its device; a ValueError where one cannot be read."""
    networks = (config.detector, config.detector_config, config.boxes)
    find = open_estimator(config.backend, *networks, config.device)
    return Evaluators(ClipFeatures(find_model(config.clip, "clip"), torch_device(config.device)), find)


def _finite(features: np.ndarray, of: str) -> np.ndarray:
    if not np.isfinite(features).all():
        raise ValueError(f"clip: its features of {of} are not finite: its weights are broken, or it overflows")
    return features


@dataclass(frozen=True)
class VideoFeatures:
    """Embeddings and detected people of a video, beside its sample; an undefined one raises a ValueError."""

    evaluators: Evaluators
    sample: Sample
    frames: np.ndarray  # (f, H, W, 3) uint8
    images: np.ndarray  # embeddings (f, d) of the frames
    text: np.ndarray  # embedding (d,) of the prompt
    found: list[list[np.ndarray]]  # per frame the detected people, (17, 3) each
    compared: np.ndarray | None = None  # real frames (f, H, W, 3) uint8 of the same poses; None: there are none

    @cached_property
    def people(self) -> list[list[np.ndarray]]:
        """Per frame the sample's people with a visible joint, (17, 3) each, on the video's frames."""
        everyone = self.sample.on(*self.frames.shape[1:3])
        people = [[person for person in each if (person[:, 2] > 0).any()] for each in everyone]
        if not any(people):
            raise ValueError("its skeleton shows nobody")
        return people

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Detections and the people they stand for, (p, 17, 3) twice, of all frames; a miss is far away, unseen."""
        pairs = [pair for found, there in zip(self.found, self.people, strict=True) for pair in _pairs(found, there)]
        found, there = zip(*pairs, strict=True)
        return np.stack(found), np.stack(there)

    @property
    def missed(self) -> float:
        """Share of the frames with people in which nobody was detected."""
        found = [bool(found) for found, there in zip(self.found, self.people, strict=True) if there]
        return 1 - sum(found) / len(found)

    @cached_property
    def names(self) -> tuple[bool, bool]:
        """Whether the nearest caption, of all of one person, names the right character, and the right background.

        Right are those of the sample's scene or, without one, of a prompt that is such a caption.
        """
        pairs = {caption(character, place): (character, place) for character in CHARACTERS for place in BACKGROUNDS}
        scene = self.sample.scene
        right = pairs.get(self.sample.prompt.lower()) if scene is None else (scene.character, scene.background)
        if right is None:
            raise ValueError("its prompt is no caption of one person of the puppet world")
        named = list(pairs.values())[top1(self.images, self.evaluators.texts(list(pairs)))]
        return named[0] == right[0], named[1] == right[1]

    @cached_property
    def real(self) -> "VideoFeatures":
        """Features of the real frames."""
        if self.compared is None:
            raise ValueError("it has no real frames to be compared with")
        return self.evaluators.features(self.sample, self.compared)


def _pairs(found: Sequence[np.ndarray], there: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pair each person there with a detection, the most similar pair first; `_NOBODY` where no detection is left."""
    alike = np.array([[object_keypoint_similarity(a, b) for a in found] for b in there]).reshape(len(there), len(found))
    chosen = best_pairs(alike)
    return [(found[chosen[i]] if i in chosen else _NOBODY, person) for i, person in enumerate(there)]
