"""The puppet benchmark: fixed lists of held-out prompts, motions and seeds, each with a name.

The first 64 videos of a list are its quick split. A list is drawn from its seed, as any evaluation's scenes are, and
compared with the digest recorded here: if a change of the world or of NumPy makes it another, it is refused.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from followyourpose.common.files import new_folder
from followyourpose.pose.keypoints_file import ClipKeypoints, write_keypoints
from followyourpose.puppets.world import Scene, render_scene, sample_scene

FPS = 8.0


@dataclass(frozen=True)
class Benchmark:
    """A list of `num_videos` scenes of `num_frames`, drawn from `seed`; video i starts from the noise of seed + i.

    Attributes:
        size: height and width in pixels of the real frames.
        digest: of the scenes, by the function of that name.
    """

    seed: int
    num_videos: int
    num_frames: int
    size: int
    digest: str


_SCENES = "41d4313d2d1f93f3605ee1cfab97f50ffa45df40fa5802ac1210c05f0cb4c107"
BENCHMARKS = {  # of the same scenes, which larger frames show in more detail
    "puppet-bench-2": Benchmark(1000, 1024, 8, 128, _SCENES),
    "puppet-bench-1": Benchmark(1000, 1024, 8, 64, _SCENES),
}


def held_out_scenes(seed: int, count: int) -> list[Scene]:
    """Scenes of one person: held-out motions, and held-out pairs of a character and a place.

    The scenes of a smaller count are the first ones of a larger count with the same seed.
    """
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, split="held-out", two=0) for _ in range(count)]


def benchmark_scenes(name: str, count: int | None = None) -> list[Scene]:
    """Return the first `count` scenes of a benchmark; None: all.

    Raises:
        ValueError: there is no such benchmark, it has fewer scenes, or they are others than its digest's.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark: got {name!r}, expected one of {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    count = benchmark.num_videos if count is None else count
    if not 1 <= count <= benchmark.num_videos:
        raise ValueError(f"{name}: got {count} videos, expected 1 to {benchmark.num_videos}")
    scenes = held_out_scenes(benchmark.seed, benchmark.num_videos)
    if (found := digest(scenes, benchmark.seed)) != benchmark.digest:
        raise ValueError(
            f"{name}: its scenes have SHA-256 {found[:12]}..., expected {benchmark.digest[:12]}...: with this NumPy "
            f"({np.__version__}) or this version of the world its numbers could not be compared with others"
        )
    return scenes[:count]


def digest(scenes: Sequence[Scene], seed: int) -> str:
    """SHA-256 of each video's seed, caption and scene, to the last digit."""
    rows = [[seed + number, scene.caption, asdict(scene)] for number, scene in enumerate(scenes)]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def write_benchmark(out: str | Path, name: str, count: int | None = None, size: int | None = None) -> Path:
    """Write a benchmark as a folder for any system, and for `evaluate`: manifest.jsonl, keypoints and real frames.

    A line is {"prompt", "skeleton", "real", "seed"}: keypoints as JSON and the rendered frames as a folder of .png.
    With a "video" added to each line `evaluate` measures a system's videos.

    Args:
        count: number of videos, the first ones; None: all.
        size: height and width in pixels; None: the benchmark's.

    Raises:
        ValueError: as `benchmark_scenes`; or the folder has something in it.
    """
    rows, scenes, benchmark = [], benchmark_scenes(name, count), BENCHMARKS[name]
    size = benchmark.size if size is None else size
    with new_folder(Path(out)) as folder:
        (folder / "skeletons").mkdir()
        for number, scene in enumerate(scenes):
            video, people = render_scene(scene, benchmark.num_frames, size, size)
            row = {"skeleton": f"skeletons/{number:04d}.json", "real": f"real/{number:04d}"}
            write_keypoints(folder / row["skeleton"], ClipKeypoints(size, size, FPS, [list(each) for each in people]))
            write_images(folder / row["real"], video)
            rows.append({"prompt": scene.caption, **row, "seed": benchmark.seed + number})
        (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Path(out)


def write_images(folder: Path, frames: np.ndarray) -> None:
    """Write frames (f, H, W, 3) uint8 RGB as 000.png, 001.png, ... into a new folder, as in a benchmark."""
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index:03d}.png")
