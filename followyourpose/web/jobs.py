"""Jobs of the page: a config -> `generate`, on one loaded model, with progress reports.

Jobs take turns. Each runs in its own thread, so that it can be watched and cancelled. Frames are (f, H, W, 3) uint8
RGB: f frames, H W pixels.
"""

import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from followyourpose.common.pictures import contact_sheet, evenly, to_uint8
from followyourpose.config import GenerateConfig
from followyourpose.data.transforms import cover
from followyourpose.generation.extract_pose import extract_pose
from followyourpose.generation.generate import generate, load_pipeline
from followyourpose.generation.sampling import scheduler
from followyourpose.generation.skeletons import check_drawn, open_skeleton
from followyourpose.web.requests import Limits, without_folder

if TYPE_CHECKING:
    import torch

    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

PICTURE_SIDE = 128  # pixels of a frame in the preview
PICTURE_FRAMES = 4  # frames in the live preview
PICTURE_SHARE = 0.1  # fraction of the time that the live preview may take
LAST_STEP = 30  # seconds that a cancelled job may take to end


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
        pipe = self._loaded(replace(config, lora=None))
        size = (pipe.unet.config.sample_size or 64) * pipe.vae_scale_factor
        self.height, self.width = config.height or size, config.width or size

    def preview(self, config: GenerateConfig) -> tuple[np.ndarray, list[int]]:
        """Return the driving frames, small, on one picture (H, W, 3) uint8 RGB, and their numbers in the source.

        A raw video is shown as it is: people are looked for when the job runs.

        Raises:
            ValueError: as `open_skeleton` and `check_drawn`; the message has no folder.
        """
        with without_folder(config.skeleton):
            source = open_skeleton(config)
            check_drawn(source)
            frames = to_uint8(source.frames(self.height, self.width))
        scale = min(1, PICTURE_SIDE / max(self.height, self.width))
        small = max(1, round(self.height * scale)), max(1, round(self.width * scale))
        return contact_sheet(cover(frames.shape[1:3], small).of_frames(frames), len(frames)), source.indices

    def generate(self, owner: str, config: GenerateConfig) -> Iterator[Report | Path]:
        """Yield reports and, last, the folder that `generate` wrote, which is removed when the iterator is closed.

        Closing the iterator before its end cancels the job, as `cancel` does.

        Raises:
            ValueError: as `generate`; the message has no folder. Cancelled: by its owner.
        """
        reports: queue.Queue[Report | Path | Exception] = queue.Queue()
        cancelled = threading.Event()
        self._running[cancelled] = owner
        threading.Thread(target=self._work, args=(config, cancelled, reports.put), daemon=True).start()
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
                shutil.rmtree(latest, ignore_errors=True)

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

    @contextmanager
    def extracted(self, video: Path) -> Iterator[Path]:
        """Yield the folder that extract-pose writes of an uploaded video; it exists while entered.

        Raises:
            ValueError: as `extract_pose`; the message has no folder.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            with without_folder(video):
                extract_pose(video, folder, self.config.pose)
            yield Path(folder)

    def _work(self, config: GenerateConfig, cancelled: threading.Event, report: Callable[[Any], None]) -> None:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            with self._turn, without_folder(config.skeleton):
                progress = _Progress(config, cancelled, report)
                pipe = self._loaded(config)
                generate(replace(config, output=str(folder)), pipe, progress)
            if cancelled.is_set():
                raise Cancelled
        except Exception as error:  # of any kind: raised in the waiting thread
            shutil.rmtree(folder, ignore_errors=True)
            report(error)
        else:
            report(folder)

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
