"""Small stand-ins for the output of img2dataset and of a video downloader, for the tests of data preparation."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image

from data_prep.laion_pose import Annotation, annotate
from data_prep.scale import run
from followyourpose.puppets.world import render_scene, sample_scene
from tests.poses import person

REPOSITORY = Path(__file__).resolve().parents[1]


def run_script(name: str, *arguments: str | Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
    """Run `python -m data_prep.NAME ...` from the repository's root."""
    command = [sys.executable, "-m", f"data_prep.{name}", *map(str, arguments)]
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    done = subprocess.run(command, env=variables, cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    assert done.returncode == code, done.stdout + done.stderr
    return done


# ---- jobs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FixedAnnotation(Annotation):
    """Annotation by an estimator that finds the same person in every image, in `seconds` for images of one size."""

    seconds: float = 0.0

    def open(self) -> Callable[[Path], None]:
        return partial(annotate, job=self, estimator=self._find)

    def _find(self, frames: np.ndarray) -> list[list[np.ndarray]]:
        time.sleep(self.seconds)
        return [[person(x=30, feet=60, height=50)]] * len(frames)


@dataclass(frozen=True)
class FailingJob:
    """Job whose units cannot be done."""

    def is_done(self, unit: Any) -> bool:
        return False

    def open(self) -> Callable[[Any], None]:
        raise ValueError("no unit can be done")


# ---- images ----------------------------------------------------------------------------------------------------------


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def sample(key: str, image: bytes, caption: str = "a person") -> dict[str, bytes]:
    """Files of a sample as img2dataset writes them."""
    about = {"url": f"https://example.org/{key}.jpg", "key": key, "caption": caption, "status": "success"}
    return {"jpg": image, "json": json.dumps(about).encode(), "txt": caption.encode()}


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, files in samples.items():
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def write_downloads(folder: Path, images: int, per_shard: int) -> dict[str, np.ndarray]:
    """Write shards of puppets as img2dataset does, every tenth image without people; key -> true people (p, 17, 3)."""
    truth = {}
    for number, first in enumerate(range(0, images, per_shard)):
        samples = {}
        for index in range(first, min(images, first + per_shard)):
            key, scene = f"{number:05d}{index - first:04d}", sample_scene(np.random.default_rng((7, index)), two=0)
            frames, people = render_scene(scene, 1, 64, 96 if index % 3 == 0 else 64)
            truth[key] = people[0]
            if index % 10 == 9:
                frames, truth[key] = np.full_like(frames, 90), people[0, :0]
            samples[key] = sample(key, jpeg(frames[0]), scene.caption)
        write_tar(folder / f"{number:05d}.tar", samples)
        stats = {"count": per_shard + 5, "successes": len(samples), "failed_to_download": 5, "failed_to_resize": 0}
        (folder / f"{number:05d}_stats.json").write_text(json.dumps(stats | {"duration": 1.5}))
    return truth


# ---- videos ----------------------------------------------------------------------------------------------------------


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)], check=True)


def ramp(frames: int, height: int = 48, width: int = 64, step: int = 3) -> np.ndarray:
    """Frames (f, H, W, 3) with `step` times their number as brightness; a white corner marks their orientation."""
    clip = np.empty((frames, height, width, 3), np.uint8)
    clip[:] = (step * np.arange(frames))[:, None, None, None]
    clip[:, : height // 3, : width // 3] = 255
    return clip


def write_source(path: Path, frames: np.ndarray, fps: float, *options: str) -> Path:
    """Write a video of frames (f, H, W, 3), nearly lossless, in the codec and colour format of `options`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    options = options or ("-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuv420p", "-g", "12")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size]
    command += ["-r", str(fps), "-i", "-", *options, str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def write_metadata(file: Path, videos: dict[str, list[tuple]]) -> Path:
    """Write HD-VILA's metadata: video -> clips, each its start and end in seconds, and its text if it has one."""
    with open(file, "w", encoding="utf-8") as lines:
        for video, spans in videos.items():
            clips = []
            for index, (start, end, *text) in enumerate(spans):
                clip = {"clip_id": f"{video}.{index}.mp4", "span": [_time(start), _time(end)]}
                clips.append(clip | ({"text": text[0]} if text else {}))
            lines.write(json.dumps({"video_id": video, "url": f"https://example.org/{video}", "clip": clips}) + "\n")
    return file


def _time(seconds: float) -> str:
    return f"{int(seconds // 3600):02d}:{int(seconds % 3600 // 60):02d}:{seconds % 60:06.3f}"


if __name__ == "__main__":  # IN OUT SECONDS: `FixedAnnotation` by two workers
    from tests.downloads import FixedAnnotation as Job  # by its name, under which the workers find it

    job = Job(Path(sys.argv[2]), "fixed", seconds=float(sys.argv[3]))
    run(job, sorted(Path(sys.argv[1]).glob("*.tar")), workers=2)
