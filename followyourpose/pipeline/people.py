"""Several people in one video, each with words of their own (regional text attention, without training).

A person's words reach the latents in a soft region around that person's body (pose/regions.py), the scene's the rest:
text attention is y + sum over people of share * (y of the person's words - y), see models/attention.py. Where a
person's words are the scene's, nothing changes.

p people   f frames   n prompts   s states along the video   t text tokens   d text width   h w latent height and width
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from followyourpose.common.checks import check_finite
from followyourpose.pipeline.lora_scales import LoraScales, check_lora_scales
from followyourpose.pipeline.schedule import Numbers, check_schedule
from followyourpose.pipeline.skeletons import SkeletonFrames, keypoints_file
from followyourpose.pipeline.texts import Prompt, Texts, TextScales, encode_along
from followyourpose.pose.regions import Overlap, only_person, shares
from followyourpose.pose.skeleton import NUM_JOINTS


@dataclass(frozen=True, eq=False)
class Person:
    """A person of a video, with words of their own.

    Attributes:
        prompt: the words, or words by frame, {0: "a panda", 16: "a robot"}.
        skeleton: a keypoints file of this person alone, of any tool, or keypoints (f, 17, 3): x and y in pixels of the
            video's height x width, confidence.
        depth: place from the viewer on; the person with the lowest hides the others. None: see `Call.overlap`.
        lora: LoRAs of this person's places, by the names under which the pipeline has them: a name, or names with
            their scales, {"hero": 0.8} or {"hero": {0: 1.0, 16: 0.3}}.
    """

    prompt: Prompt
    skeleton: str | Path | np.ndarray
    depth: float | None = None
    lora: str | Mapping[str, Numbers] | None = None

    @property
    def loras(self) -> Mapping[str, Numbers]:
        """The LoRAs' scales by their names."""
        return {self.lora: 1.0} if isinstance(self.lora, str) else self.lora or {}


@dataclass(frozen=True, eq=False)
class People:
    """The people of a call, on the latents of its video.

    Attributes:
        texts: encoded words of the p people.
        negatives: of each, the negative prompts with that person's LoRAs, (n, [s,] t, d); None: the scene's.
        frames: their keypoints (f, p, 17, 3) in pixels of the video.
        order: numbers from the viewer on, or the rule of overlaps, see `pose.regions.shares`.
        size: h w of the latents; factor: pixels of a latent's side.
        scene_share: of the scene's words in the people's places.
    """

    texts: Texts
    negatives: list[Tensor] | None
    frames: np.ndarray
    order: Overlap | tuple[float, ...]
    size: tuple[int, int]
    factor: int
    scene_share: float

    def shares(self, window: Sequence[int], levels: int) -> list[Tensor]:
        """Return people's shares of the places of a window's frames, (p, f, h_i, w_i) on each of the levels."""
        people = [list(self.frames[frame]) for frame in window]
        fine = torch.from_numpy(shares(people, *self.size, self.factor, self.order))
        return [torch.nn.functional.avg_pool2d(fine, 2**level) for level in range(levels)]


def check_people(people: Any, num_frames: int | None = None, transition: int = 0) -> list[Person]:
    """Return the people of a call, from `Person`s or mappings with the same keys.

    Raises:
        ValueError: something else, or a prompt or depth that cannot be used; the message has the person's number.
    """
    if not isinstance(people, Sequence) or isinstance(people, str) or not people:
        raise ValueError(f"people: got {people!r:.60}, expected a list of people, each with a prompt and a skeleton")
    given = []
    for number, person in enumerate(people):
        name = f"people[{number}]"
        if isinstance(person, Mapping):
            try:
                person = Person(**person)
            except TypeError as error:
                keys = ", ".join(map(str, person)) or "nothing"
                raise ValueError(
                    f"{name}: got {keys}, expected prompt, skeleton and, if need be, depth and lora"
                ) from error
        if not isinstance(person, Person):
            raise ValueError(f"{name}: got {type(person).__name__}, expected a Person, or a mapping like one")
        check_schedule(f"{name}.prompt", person.prompt, num_frames, transition)
        if person.depth is not None:
            check_finite(f"{name}.depth", person.depth)
        check_lora_scales(f"{name}.lora", person.loras, num_frames, transition)
        given.append(person)
    with_depth = sum(person.depth is not None for person in given)
    if with_depth not in (0, len(given)):
        raise ValueError(f"people: got a depth for {with_depth} of {len(given)}, expected one for all or for none")
    return given


def open_people(
    people: Sequence[Person], size: tuple[int, int, int], factor: int, loras: LoraScales, scene_share: float,
    overlap: Overlap, encode: Callable[[list[str], TextScales], Tensor],
    negatives: Callable[[Texts, int], Tensor],
) -> People:  # fmt: skip
    """Read the people of a call, (f, 17, 3) each, and encode their words, (p, [s,] t, d).

    Args:
        size: frames, height and width of the video, in pixels.
        factor, scene_share: as in `People`; encode: as in `encode_along`.
        loras: of the call, in which people have their own; negatives: of these texts, and a person's number, to the
            negative prompts as in `People`.

    Raises:
        ValueError: keypoints that cannot be read, are too short, have two people in a frame, or nobody in all of them.
    """
    frames = np.stack([_frames(f"people[{i}]", person.skeleton, *size) for i, person in enumerate(people)], axis=1)
    scales = [loras.of_text(size[0], i) for i in range(len(people))] if loras.names else []
    texts = encode_along([person.prompt for person in people], size[0], loras.transition, encode, scales)
    own = [negatives(texts, i) for i in range(len(people))] if scales else None
    depth = tuple(person.depth for person in people if person.depth is not None)
    latents = size[1] // factor, size[2] // factor
    return People(texts, own, frames, depth or overlap, latents, factor, scene_share)


def drawn(people: Sequence[Person], num_frames: int | None, height: int, width: int) -> tuple[SkeletonFrames, int]:
    """Return the reader of the people's skeletons, drawn together, and the number of frames that all of them have."""
    from followyourpose.pose.render import render_skeleton

    clips = [_frames(f"people[{i}]", p.skeleton, num_frames, height, width) for i, p in enumerate(people)]

    def read(numbers: Sequence[int]) -> np.ndarray:
        return np.stack([render_skeleton([clip[n] for clip in clips], height, width) for n in numbers])

    return read, min(map(len, clips))


def _frames(name: str, skeleton: Any, num_frames: int | None, height: int, width: int) -> np.ndarray:
    """Return a person's keypoints (f, 17, 3) in pixels of the video; those of a frame without the person are zero."""
    if isinstance(skeleton, str | Path):
        skeleton = only_person(f"{name}.skeleton: {skeleton}", keypoints_file(skeleton, height, width))
    if not isinstance(skeleton, np.ndarray) or skeleton.shape[1:] != (NUM_JOINTS, 3):
        got = f"shape {skeleton.shape}" if isinstance(skeleton, np.ndarray) else type(skeleton).__name__
        raise ValueError(f"{name}.skeleton: got {got}, expected a keypoints file, or an array (f, {NUM_JOINTS}, 3)")
    if num_frames is not None and len(skeleton) < num_frames:
        raise ValueError(f"{name}.skeleton: got {len(skeleton)} frames, expected {num_frames}, as the video has")
    used = skeleton[:num_frames]
    x, y, seen = used[..., 0], used[..., 1], used[..., 2] > 0
    if not (seen & (x >= 0) & (x < width) & (y >= 0) & (y < height)).any():
        raise ValueError(f"{name}.skeleton: nobody is in the picture, {width} x {height} pixels, in any frame")
    return used
