"""Jobs of the page, with progress reports: a config -> `generate`, on one loaded model; a video -> its skeletons.

Generations take turns. Each job runs in its own thread, so that it can be watched and cancelled. Frames are
(f, H, W, 3) uint8 RGB: f frames, H W pixels.
"""

import queue
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from followyourpose.common.files import slug
from followyourpose.common.pictures import contact_sheet, evenly, to_uint8
from followyourpose.config import GenerateConfig
from followyourpose.data.video_io import read_frames, write_video
from followyourpose.generation.extract_pose import draw_people, extract_pose
from followyourpose.generation.generate import generate, load_pipeline
from followyourpose.generation.outputs import FORMS
from followyourpose.generation.people import title
from followyourpose.generation.sampling import scheduler
from followyourpose.pipeline.words import ReadPrompt, read_prompt
from followyourpose.pose.keypoints_file import read_keypoints, write_keypoints
from followyourpose.pose.render import overlay
from followyourpose.web.controls import loras_of
from followyourpose.web.preview import Previews
from followyourpose.web.requests import Limits, without_folder

if TYPE_CHECKING:
    import torch

    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

OVER = "-skeleton-over.mp4"  # ending of the video under its skeleton, beside `FORMS`
PICTURE_FRAMES = 4  # frames in the live preview
PICTURE_SHARE = 0.1  # fraction of the time that the live preview may take
LAST_STEP = 30  # seconds that a cancelled job may take to end
TRIAL_FRAMES, TRIAL_STEPS = 4, 2  # of the short job that measures the speed


class Cancelled(Exception):
    """A job was cancelled by its client, or the client is gone."""


@dataclass(frozen=True)
class Report:
    """Progress of a job: steps done, steps in all, seconds left (None: unknown as yet).

    picture: decoded frames under way, as a contact sheet (H, W, 3) uint8 RGB; None: no new one.
    """

    done: int
    total: int
    seconds_left: float | None = None
    picture: np.ndarray | None = None


class Studio:
    """One loaded model for all clients, and their jobs.

    Args:
        config: the model, how it runs, and the values that no client sets.
        limits: of a client's requests.
        folder: for the files of jobs; the caller empties it.

    Raises:
        ValueError: as `load_pipeline`.
    """

    def __init__(self, config: GenerateConfig, limits: Limits, folder: Path) -> None:
        self.config, self.limits, self.folder = config, limits, folder
        self._turn = threading.Lock()
        self._running: dict[threading.Event, str] = {}  # event that cancels a job -> its owner
        self._pipe: FollowYourPosePipeline | None = None
        self._lora: Any = None  # merged into the weights
        self._pace: float | None = None  # seconds of a frame at a step, without guidance
        pipe = self._loaded(replace(config, lora=None))
        self._tokenizer = pipe.tokenizer
        size = (pipe.unet.config.sample_size or 64) * pipe.vae_scale_factor
        self.height, self.width = config.height or size, config.width or size
        self.preview = Previews(self.height, self.width).of

    def measure(self) -> None:
        """Learn the speed by a short job, for `estimate`; every later job corrects it."""
        with self._turn:
            short = {"num_frames": TRIAL_FRAMES, "num_inference_steps": TRIAL_STEPS}
            config = replace(self.config, prompt="", people=None, lora=None, **short)
            with self._timed(config):
                self._loaded(config)(
                    "", height=self.height, width=self.width, guidance_scale=config.guidance_scale, **short
                )  # fmt: skip

    def estimate(self, config: GenerateConfig) -> float | None:
        """Return the seconds that a job will take once it has its turn; None: unknown as yet."""
        return None if self._pace is None else self._pace * _work_of(config)

    def read(self, texts: Sequence[str], lora: str) -> tuple[ReadPrompt, dict[str, str]]:
        """Return how the longest of a job's texts is read with a LoRA by this name, with the unknown words of all, and
        words that another LoRA would add: word -> name. The words that a LoRA teaches are those of its name."""
        taught = {name: set(re.findall("[a-z]+", name.lower())) for name in loras_of(self.config)}
        readings = [read_prompt(self._tokenizer, text, taught.get(lora, ())) for text in texts]
        unknown = list(dict.fromkeys(word for each in readings for word in each.unknown))
        reading = replace(max(readings, key=lambda each: each.tokens), unknown=unknown)
        return reading, {
            word: name for word in reading.unknown for name, words in taught.items() if word.lower() in words
        }

    def generate(self, owner: str, config: GenerateConfig) -> Iterator[Report | Path]:
        """Yield reports and, last, the folder that `generate` wrote, which is removed when the iterator is closed.

        Beside its files is the video under its skeleton (OVER). Closing the iterator before its end cancels the job, as
        `cancel` does.

        Raises:
            ValueError: as `generate`; the message has no folder. Cancelled: by its owner.
        """

        def work(folder: Path, cancelled: threading.Event, report: Callable[[Any], None]) -> Path:
            with self._turn, without_folder(config.skeleton):
                progress = _Progress(config, cancelled, report)
                pipe = self._loaded(config)
                with self._timed(config):
                    generate(replace(config, output=str(folder)), pipe, progress)
            _rename(folder, config)
            return folder

        return self._job(owner, work)

    def extract(self, owner: str, video: Path) -> Iterator[Report | Path]:
        """Yield reports and, last, the folder that extract-pose writes of an uploaded video; otherwise as `generate`.

        Raises:
            ValueError: as `extract_pose`; the message has no folder. Cancelled: by its owner.
        """

        def work(folder: Path, cancelled: threading.Event, report: Callable[[Any], None]) -> Path:
            start = time.monotonic()

            def watch(done: int, total: int) -> None:
                if cancelled.is_set():
                    raise Cancelled
                report(Report(done, total, (time.monotonic() - start) / done * (total - done)))

            with without_folder(video):
                extract_pose(video, folder / "pose", self.config.pose, on_frames=watch)
            return folder / "pose"

        return self._job(owner, work)

    @contextmanager
    def chosen(self, video: Path, keypoints: Path, people: Collection[int]) -> Iterator[Path]:
        """Yield the folder of the same files with some of the people, by their numbers; it exists while entered."""
        clip = read_keypoints(keypoints)
        ids = clip.ids or [list(range(len(frame))) for frame in clip.frames]
        keep = [[i for i, number in enumerate(numbers) if number in people] for numbers in ids]
        frames = [[frame[i] for i in kept] for frame, kept in zip(clip.frames, keep, strict=True)]
        numbers = [[each[i] for i in kept] for each, kept in zip(ids, keep, strict=True)]
        clip = replace(clip, frames=frames, ids=numbers)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            write_keypoints(Path(folder) / "keypoints.json", clip)
            draw_people(video, range(len(clip.frames)), clip, self.config.pose, Path(folder))
            yield Path(folder)

    def cancel(self, owner: str, wait: float = 0) -> None:
        """End the jobs of an owner at their next denoising step, and wait up to `wait` seconds for them."""
        jobs = [cancelled for cancelled, client in list(self._running.items()) if client == owner]
        for cancelled in jobs:
            cancelled.set()
        end = time.monotonic() + wait
        while time.monotonic() < end and any(cancelled in self._running for cancelled in jobs):
            time.sleep(0.05)

    def close(self) -> None:
        """End all jobs, and wait for the one under way to write its last file."""
        for cancelled in list(self._running):
            cancelled.set()
        self._turn.acquire(timeout=LAST_STEP)

    def _job(
        self, owner: str, work: Callable[[Path, threading.Event, Callable[[Any], None]], Path]
    ) -> Iterator[Report | Path]:
        """Do work in a thread of its own: yield its reports and, last, the path that it returns."""
        reports: queue.Queue[Report | Path | Exception] = queue.Queue()
        cancelled, folder = threading.Event(), Path(tempfile.mkdtemp(dir=self.folder))
        self._running[cancelled] = owner

        def run() -> None:
            try:
                path = work(folder, cancelled, reports.put)
                if cancelled.is_set():
                    raise Cancelled
            except Exception as error:  # of any kind: raised in the waiting thread
                shutil.rmtree(folder, ignore_errors=True)
                reports.put(error)
            else:
                reports.put(path)

        threading.Thread(target=run, daemon=True).start()
        latest: Report | Path | Exception | None = None
        try:
            while not isinstance(latest, Path):
                if isinstance(latest := reports.get(), Exception):
                    raise latest
                yield latest
        finally:
            cancelled.set()
            del self._running[cancelled]
            if isinstance(latest, Path):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _timed(self, config: GenerateConfig) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._pace = (time.monotonic() - start) / _work_of(config)

    def _loaded(self, config: GenerateConfig) -> "FollowYourPosePipeline":
        """Return the model with sampler and LoRAs of a job. Only a change of LoRAs, which are merged, reloads it."""
        if self._pipe is None or self._lora != config.lora:
            self._pipe = None  # two may not fit into memory
            self._pipe = load_pipeline(config)
            self._pipe.set_progress_bar_config(disable=True)
            self._lora = config.lora
            self._scheduler = self._pipe.scheduler
        self._pipe.scheduler = scheduler(config.scheduler, self._scheduler)
        return self._pipe


def _work_of(config: GenerateConfig) -> int:
    """Return the number of frames that the network sees in a job, each once a step, and twice under guidance."""
    frames = sum(map(len, config.long_video.windows(config.num_frames)))
    return frames * config.num_inference_steps * (1 + (config.guidance_scale > 1))


def _rename(folder: Path, config: GenerateConfig) -> None:
    """Name the files of a result after prompt and seed, and write the video under its skeleton beside them."""
    name = f"{slug(title(config.prompt))}-{config.seed}"
    (pair,) = folder.glob(f"*{FORMS[-1]}")
    old = pair.name.removesuffix(FORMS[-1])
    for form in FORMS:
        (folder / f"{old}{form}").rename(folder / f"{name}{form}")
    skeleton, video = np.split(read_frames(folder / f"{name}{FORMS[-1]}"), 2, axis=2)
    over = np.stack([overlay(*both) for both in zip(video, skeleton, strict=True)])
    write_video(folder / f"{name}{OVER}", over, config.fps)


class _Progress:
    """Callback of a job: reports each denoising step, now and then with a picture, and ends a cancelled job."""

    def __init__(self, config: GenerateConfig, cancelled: threading.Event, report: Callable[[Report], None]) -> None:
        plan = config.long_video
        rounds = 1 if plan.together else len(plan.windows(config.num_frames))
        self.done, self.total = 0, rounds * config.num_inference_steps
        self.cancelled, self.report = cancelled, report
        self.start = self.next_picture = time.monotonic()
        self._check()
        report(Report(0, self.total))

    def __call__(
        self, pipe: "FollowYourPosePipeline", step: int, timestep: "torch.Tensor", tensors: dict[str, Any]
    ) -> None:
        self._check()
        self.done += 1
        now, picture = time.monotonic(), None
        if now >= self.next_picture:
            latents = tensors["latents"]
            chosen = evenly(latents.shape[2], PICTURE_FRAMES).tolist()
            picture = contact_sheet(to_uint8(pipe.decode(latents[:1, :, chosen])[0]))
            self.next_picture = time.monotonic() + (time.monotonic() - now) / PICTURE_SHARE
        left = (now - self.start) / self.done * (self.total - self.done)
        self.report(Report(self.done, self.total, left, picture))

    def _check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled
