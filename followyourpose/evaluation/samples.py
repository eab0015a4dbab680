"""What is judged: videos, what each was to show, and the puppet world as a source of them.

Letters: v videos, f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB, people (17, 3): x, y in pixels, confidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

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
    """What one video is to show.

    Attributes:
        name: of the video; prompt: its text; seed: of the noise that it starts from.
        people: per frame one (17, 3) per person; None: nothing is known of poses.
        size: height and width of the frames that they are on, in pixels.
        scene: of the puppet world; None: of another.
    """

    name: str
    prompt: str
    seed: int
    people: Sequence[Sequence[np.ndarray]] | None
    size: tuple[int, int]
    scene: Scene | None = None

    @property
    def skeleton(self) -> np.ndarray:
        """The people's skeletons (f, H, W, 3) uint8.

        Raises:
            ValueError: nothing is known of poses.
        """
        return np.stack([render_skeleton(people, *self.size) for people in self.on(*self.size)])

    def on(self, height: int, width: int) -> list[list[np.ndarray]]:
        """The people on frames of another size, (17, 3) each.

        Raises:
            ValueError: nothing is known of poses.
        """
        if self.people is None:
            raise ValueError("it has no skeleton with keypoints")
        scale = np.array([width / self.size[1], height / self.size[0], 1.0])
        # Half a pixel on either side, since a pixel's centre is at its integer coordinates.
        centre = np.array([0.5, 0.5, 0.0]) * (scale != 1).any()
        return [[((person + centre) * scale - centre).astype(np.float32) for person in each] for each in self.people]

    def bodies(self, height: int, width: int) -> np.ndarray:
        """Where the people are on frames of that size, (f, height, width) bool.

        Raises:
            ValueError: nothing is known of poses.
        """
        people = self.on(height, width)
        if self.scene is not None:  # the world knows where hidden joints are, and the body is there too
            people = [[np.column_stack([person[:, :2], np.ones(NUM_JOINTS)]) for person in each] for each in people]
        return np.stack([body_mask(each, height, width) for each in people])


class VideoFile(NamedTuple):
    """A video to read: a file or folder, which frames of it (None: all), and how they are resized (None: not)."""

    path: Path
    numbers: Sequence[int] | None = None
    geometry: Geometry | None = None


class VideoFiles(Sequence):
    """Videos in files, each (f, H, W, 3) uint8 and read whenever it is asked for; a slice is such a sequence too."""

    def __init__(self, files: Sequence[VideoFile]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int | slice) -> "np.ndarray | VideoFiles":
        if isinstance(index, slice):
            return VideoFiles(self.files[index])
        file = self.files[index]
        frames = read_frames(file.path, slice(None) if file.numbers is None else file.numbers)
        return frames if file.geometry is None else file.geometry.of_frames(frames)


@dataclass(frozen=True)
class Collection:
    """Samples with what there is of each; a video is (f, H, W, 3) uint8.

    Attributes:
        videos: what is judged; None: it is still to be drawn.
        real: real frames in the same poses; None: there are none.
    """

    samples: list[Sample]
    videos: Sequence[np.ndarray] | None = None
    real: Sequence[np.ndarray] | None = None


def puppets(config: EvaluateConfig, height: int, width: int) -> Collection:
    """`num_videos` held-out scenes of one person, those of `benchmark` or drawn from `seed`, with their real frames.

    Raises:
        ValueError: see `benchmark_scenes`.
    """
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
    """The same with the scenes that its samples are of, which their seeds tell.

    Raises:
        ValueError: a sample is none of that benchmark, or see `benchmark_scenes`.
    """
    scenes = dict(enumerate(benchmark_scenes(name), BENCHMARKS[name].seed))
    samples = []
    for sample in collection.samples:
        scene = scenes.get(sample.seed)
        if scene is None or scene.caption != sample.prompt:
            raise ValueError(
                f"{sample.name}: got {sample.prompt!r} with seed {sample.seed}, expected a prompt of {name} with its "
                "seed; of other videos, set benchmark=null"
            )
        samples.append(replace(sample, scene=scene))
    return replace(collection, samples=samples)


def fitted(collection: Collection, height: int, width: int, num_frames: int) -> Collection:
    """What is to be drawn, at the size of who draws it: as `generate` cuts and resizes skeletons, their first frames.

    Raises:
        ValueError: a sample has no skeleton, or too short a one.
    """
    samples, real = [], []
    for number, sample in enumerate(collection.samples):
        shown = sample.on(*sample.size)
        if len(shown) < num_frames:
            raise ValueError(f"{sample.name}: its skeleton has {len(shown)} frames, expected num_frames, {num_frames}")
        geometry = cover(sample.size, (height, width))
        people = [[geometry.of_keypoints(person) for person in people] for people in shown[:num_frames]]
        samples.append(replace(sample, people=people, size=(height, width)))
        if collection.real is not None:
            file = collection.real.files[number]
            numbers = range(num_frames) if file.numbers is None else file.numbers[:num_frames]
            info = probe(file.path)
            real.append(VideoFile(file.path, numbers, cover((info.height, info.width), (height, width))))
    return Collection(samples, real=VideoFiles(real) if real else None)
