"""The jobs behind the page: a config -> `generate`, on one loaded model, with reports on the way.

Jobs take turns. Each runs in a thread of its own, so that it can be watched and cancelled. Frames are (f, H, W, 3)
uint8 RGB: f frames, H W pixels.
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

from followyourpose.config import GenerateConfig
from followyourpose.data.transforms import cover
from followyourpose.generation.extract_pose import extract_pose
from followyourpose.generation.generate import contact_sheet, generate, load_pipeline
from followyourpose.generation.sampling import scheduler
from followyourpose.generation.skeletons import open_skeleton
from followyourpose.web.requests import Limits, check_upload

if TYPE_CHECKING:
    import torch

    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

PICTURE_SIDE = 128  # pixels of a frame in the preview
PICTURE_FRAMES = 4  # in the live preview, of the frames under way
LAST_STEP = 30  # seconds that a job may take to end when it is cancelled or the page is closed
PICTURE_SHARE = 0.1  # of the time that the live preview may take


class Cancelled(Exception):
    """A client has cancelled its job, or is gone."""


@dataclass(frozen=True)
class Report:
    """Where a job stands: steps done, steps in all, seconds left (None: not known yet).

    picture: the frames under way, decoded, as a contact sheet (H, W, 3) uint8 RGB; None: no new one.
    """

    done: int
    total: int
    seconds_left: float | None = None
    picture: np.ndarray | None = None


class Studio:
    """One loaded model for all clients, and the jobs that they have on it.

    Args:
        config: the model, how it runs, and the values that a client does not set.
        limits: of a client's requests.
        folder: for what jobs write; who makes it empties it.

    Raises:
        ValueError: as `load_pipeline`.
    """

    def __init__(self, config: GenerateConfig, limits: Limits, folder: Path) -> None:
        self.config, self.limits, self.folder = config, limits, folder
        self._turn = threading.Lock()
        self._running: dict[threading.Event, str] = {}  # what cancels a job -> whose it is
        self._pipe: FollowYourPosePipeline | None = None
        self._lora: Any = None  # what the pipeline has in its weights
        pipe = self._loaded(replace(config, lora=[]))
        size = (pipe.unet.config.sample_size or 64) * pipe.vae_scale_factor
        self.height, self.width = config.height or size, config.width or size

    def preview(self, config: GenerateConfig) -> tuple[np.ndarray, list[int]]:
        """The frames that the model gets, small, on one picture (H, W, 3) uint8 RGB, and their numbers in the source.

        Of a raw video they are the frames in which people will be looked for.

        Raises:
            ValueError: as `open_skeleton`; the message has no folder.
        """
        with _without_folder(config.skeleton):
            source = open_skeleton(config)
            frames = source.frames(self.height, self.width)
        scale = min(1, PICTURE_SIDE / max(self.height, self.width))
        small = max(1, round(self.height * scale)), max(1, round(self.width * scale))
        return contact_sheet(cover(frames.shape[1:3], small).of_frames(frames), len(frames)), source.indices

    def generate(self, owner: str, config: GenerateConfig) -> Iterator[Report | Path]:
        """Reports, and at the end the folder that `generate` wrote, which is removed when the iterator is closed.

        An iterator that is closed before its end cancels the job, as `cancel` does.

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
        """Ends the jobs of an owner, at their next denoising step, and waits up to so many seconds until they have."""
        theirs = [cancelled for cancelled, whose in list(self._running.items()) if whose == owner]
        for cancelled in theirs:
            cancelled.set()
        end = time.monotonic() + wait
        while time.monotonic() < end and any(cancelled in self._running for cancelled in theirs):
            time.sleep(0.05)

    def close(self) -> None:
        """Ends all jobs, and waits for the one under way, so that nothing is written any more."""
        for cancelled in list(self._running):
            cancelled.set()
        self._turn.acquire(timeout=LAST_STEP)

    @contextmanager
    def extracted(self, video: Path) -> Iterator[Path]:
        """Gives, while entered, the folder that extract-pose wrote of a video that was uploaded.

        Raises:
            ValueError: as `extract_pose`, or the video is beyond the limits; the message has no folder.
        """
        check_upload(video, self.limits)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            with _without_folder(video):
                extract_pose(video, folder, self.config.pose)
            yield Path(folder)

    def _work(self, config: GenerateConfig, cancelled: threading.Event, report: Callable[[Any], None]) -> None:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            with self._turn, _without_folder(config.skeleton):
                watch = _Watch(config, cancelled, report)
                pipe = self._loaded(config)
                generate(replace(config, output=str(folder)), pipe, watch)
            if cancelled.is_set():
                raise Cancelled
        except Exception as error:  # of whatever kind: it is raised where the job is waited for
            shutil.rmtree(folder, ignore_errors=True)
            report(error)
        else:
            report(folder)

    def _loaded(self, config: GenerateConfig) -> "FollowYourPosePipeline":
        """The model with the sampler and the LoRAs of a job. Only other LoRAs, which are merged, load it anew."""
        if self._pipe is None or self._lora != config.lora:
            self._pipe = None  # two would not fit where one does
            self._pipe = load_pipeline(config)
            self._pipe.set_progress_bar_config(disable=True)
            self._lora = config.lora
            self._scheduler = self._pipe.scheduler
        self._pipe.scheduler = scheduler(config.scheduler, self._scheduler)
        return self._pipe


class _Watch:
    """The callback of a job: reports each denoising step, with a picture now and then, and ends it when cancelled."""

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
            chosen = np.linspace(0, latents.shape[2] - 1, min(PICTURE_FRAMES, latents.shape[2])).round().astype(int)
            frames = pipe.decode(latents[:1, :, chosen.tolist()])[0]
            picture = contact_sheet((frames * 255).round().astype(np.uint8))
            self.next_picture = time.monotonic() + (time.monotonic() - now) / PICTURE_SHARE
        left = (now - self.start) / self.done * (self.total - self.done)
        self.report(Report(self.done, self.total, left, picture))

    def _check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled


@contextmanager
def _without_folder(path: str | Path | None) -> Iterator[None]:
    """Messages of errors inside name a file, and not the folder in which it lies here."""
    try:
        yield
    except ValueError as error:
        if path is None or str(path) not in str(error):
            raise
        raise ValueError(str(error).replace(str(path), Path(path).name)) from error
