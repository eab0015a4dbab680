"""Samples to evaluate: videos with their prompts and poses, and held-out puppet scenes as a source of them.

Letters: f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB, people (17, 3): x, y in pixels, confidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from followyourpose.common.checks import counted
from followyourpose.config import EvaluateConfig
from followyourpose.data.transforms import Geometry, cover
from followyourpose.data.video_io import probe, read_frames
from followyourpose.evaluation.metrics import body_mask
from followyourpose.pose.render import render_skeleton
from followyourpose.pose.skeleton import NUM_JOINTS
from followyourpose.puppets.benchmark import BENCHMARKS, benchmark_scenes, held_out_scenes
from followyourpose.puppets.world import Scene, render_scene


@dataclass(frozen=True)
class Sample:
    """Prompt and poses of one video; where the poses are unknown, all that needs them raises a ValueError."""

    name: str  # of the video
    prompt: str  # its text
    seed: int  # of its initial noise
    people: Sequence[Sequence[np.ndarray]] | None  # per frame one (17, 3) per person; None: the poses are unknown
    size: tuple[int, int]  # height and width in pixels of the frames that the people are on
    scene: Scene | None = None  # of the puppet world; None: of another

    @property
    def skeleton(self) -> np.ndarray:
        """The people's skeletons (f, H, W, 3) uint8."""
        return np.stack([render_skeleton(people, *self.size) for people in self.on(*self.size)])

    def on(self, height: int, width: int) -> list[list[np.ndarray]]:
        """Return the people on frames of another size, (17, 3) each."""
        if self.people is None:
            raise ValueError("it has no skeleton with keypoints")
        scale = np.array([width / self.size[1], height / self.size[0], 1.0])
        # Half a pixel on either side, since a pixel's centre is at its integer coordinates.
        centre = np.array([0.5, 0.5, 0.0]) * (scale != 1).any()
        return [[((person + centre) * scale - centre).astype(np.float32) for person in each] for each in self.people]

    def bodies(self, height: int, width: int) -> np.ndarray:
        """Return the people's silhouettes on frames of that size, (f, height, width) bool."""
        people = self.on(height, width)
        if self.scene is not None:  # the world has the places of hidden joints, and the body is there too
            people = [[np.column_stack([person[:, :2], np.ones(NUM_JOINTS)]) for person in each] for each in people]
        return np.stack([body_mask(each, height, width) for each in people])


class VideoFile(NamedTuple):
    """A video to read: a file or folder, which frames of it (None: all), and how they are resized (None: not)."""

    path: Path
    numbers: Sequence[int] | None = None
    geometry: Geometry | None = None


@dataclass(eq=False)
class VideoFiles(Sequence):
    """Videos in files, each (f, H, W, 3) uint8 and read at every access."""

    files: Sequence[VideoFile]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        file = self.files[index]
        frames = read_frames(file.path, slice(None) if file.numbers is None else file.numbers)
        return frames if file.geometry is None else file.geometry.of_frames(frames)


@dataclass(frozen=True)
class Collection:
    """Samples and their videos, (f, H, W, 3) uint8 each."""

    samples: list[Sample]
    videos: Sequence[np.ndarray] | None = None  # the videos to evaluate; None: the model draws them
    real: Sequence[np.ndarray] | None = None  # real frames in the same poses; None: there are none


def puppets(config: EvaluateConfig, height: int, width: int) -> Collection:
    """Return held-out scenes of one person with their real frames, those of `benchmark` or drawn from `seed`."""
    if config.benchmark is None:
        scenes = held_out_scenes(config.seed, config.num_videos)
    else:
        scenes = benchmark_scenes(config.benchmark, config.num_videos)
    samples, real = [], []
    for number, scene in enumerate(scenes):
        frames, people = render_scene(scene, config.num_frames, height, width)
        seed, shown = config.seed + number, [list(each) for each in people]
        samples.append(Sample(f"{number:04d}", scene.caption, seed, shown, (height, width), scene))
        real.append(frames)
    return Collection(samples, real=real)


def of_benchmark(collection: Collection, name: str) -> Collection:
    """Return a collection whose samples have their benchmark's scenes, found by their seeds.

    Raises:
        ValueError: a sample is none of that benchmark, or as `benchmark_scenes`.
    """
    scenes = dict(enumerate(benchmark_scenes(name), BENCHMARKS[name].seed))
    samples = []
    for sample in collection.samples:
        scene = scenes.get(sample.seed)
        if scene is None or scene.caption != sample.prompt:
            raise ValueError(
                f"{sample.name}: got {sample.prompt!r} with seed {sample.seed}, expected a prompt of {name} with its "
                "seed; for other videos, set benchmark=null"
            )
        samples.append(replace(sample, scene=scene))
    return replace(collection, samples=samples)


def check_lengths(collection: Collection, num_frames: int) -> None:
    """Raise a ValueError unless each sample has a skeleton of `num_frames` or more."""
    for sample in collection.samples:
        if (count := len(sample.on(*sample.size))) < num_frames:
            got = counted(count, "frame")
            raise ValueError(f"{sample.name}: its skeleton has {got}, expected num_frames, {num_frames}")


def fitted(collection: Collection, height: int, width: int, num_frames: int) -> Collection:
    """Return samples to draw at a model's size: their first frames, cut and resized as `generate` does it."""
    samples, real = [], []
    for number, sample in enumerate(collection.samples):
        geometry = cover(sample.size, (height, width))
        shown = sample.on(*sample.size)[:num_frames]
        people = [[geometry.of_keypoints(person) for person in people] for people in shown]
        samples.append(replace(sample, people=people, size=(height, width)))
        if collection.real is not None:
            file = collection.real.files[number]
            info = probe(file.path)
            real_geometry = cover((info.height, info.width), (height, width))
            real.append(VideoFile(file.path, file.numbers[:num_frames], real_geometry))
    return Collection(samples, real=VideoFiles(real) if real else None)
