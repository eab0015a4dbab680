"""The jobs behind the page: what a client asks for -> a config within the limits -> `generate`, on one loaded model.

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
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from followyourpose.config import ConfigError, GenerateConfig
from followyourpose.data.transforms import cover
from followyourpose.data.video_io import probe, stream_frames
from followyourpose.data.video_readers import VideoError, VideoInfo
from followyourpose.extract_pose import extract_pose
from followyourpose.generate import contact_sheet, generate, load_pipeline
from followyourpose.long_video import LongVideo
from followyourpose.pose.keypoints_file import read_keypoints
from followyourpose.sampling import scheduler
from followyourpose.skeleton_input import open_skeleton

if TYPE_CHECKING:
    import torch

    from followyourpose.pipeline import FollowYourPosePipeline

# What may be uploaded -> how such a file begins: at which byte, with which of these. A suffix alone decides nothing:
# a playlist that is called .mp4 would have its reader open whatever the playlist names.
_MOVIE = (4, (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"))
_MATROSKA = (0, (b"\x1a\x45\xdf\xa3",))
SIGNATURES = {
    ".mp4": _MOVIE, ".mov": _MOVIE, ".m4v": _MOVIE, ".mkv": _MATROSKA, ".webm": _MATROSKA, ".avi": (0, (b"RIFF",)),
    ".gif": (0, (b"GIF8",)), ".json": (0, (b"{",)),
}  # fmt: skip
PICTURE_SIDE = 128  # pixels of a frame in the preview
PICTURE_FRAMES = 4  # in the live preview, of the frames under way
PICTURE_SHARE = 0.1  # of the time that the live preview may take


# ---- what a client may ask for ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What one client may ask for: the page states it, and every request is held to it."""

    upload_megabytes: int = 50
    upload_seconds: int = 120  # length of an uploaded video
    upload_frames: int = 3000
    upload_side: int = 1920  # pixels of its longer side
    num_frames: int = 64  # of a result
    num_inference_steps: int = 100
    prompt_characters: int = 1000
    waiting: int = 16  # jobs in the queue, of all clients
    kept_minutes: int = 60  # from when uploads and results are removed

    def stated(self) -> str:
        """The limits in a sentence or two, for the page."""
        return (
            f"Uploads: {', '.join(SIGNATURES)}, up to {self.upload_megabytes} MB, {self.upload_seconds} seconds, "
            f"{self.upload_frames} frames and {self.upload_side} pixels a side. Results: up to {self.num_frames} "
            f"frames. Prompts: up to {self.prompt_characters} characters. At most {self.waiting} jobs wait. Files are "
            f"removed after {self.kept_minutes} minutes."
        )


def configure(base: GenerateConfig, limits: Limits, **asked: Any) -> GenerateConfig:
    """`base` with what a client asks for.

    Args:
        asked: keys of a config; those of nested ones with `_` in place of the dot (crop_left), and `lora` as there.

    Raises:
        ValueError: something is beyond the limits, or the skeleton is not what it should be.
    """
    for key in ("prompt", "negative_prompt"):
        if len(text := asked.get(key, "")) > limits.prompt_characters:
            most = limits.prompt_characters
            raise ConfigError(f"{key}: got {len(text)} characters, expected at most {most}")
    for key in ("num_frames", "num_inference_steps"):
        if (value := asked.get(key, 1)) > (most := getattr(limits, key)):
            raise ConfigError(f"{key}: got {value}, expected at most {most}")
    if asked.get("skeleton") is not None:
        check_upload(Path(asked["skeleton"]), limits)
    known = {field.name for field in fields(base)}
    changes: dict[str, Any] = {}
    for key, value in asked.items():
        if key in known:
            changes[key] = value
            continue
        name = next(name for name in known if key.startswith(f"{name}_") and is_dataclass(getattr(base, name)))
        before = changes.get(name, getattr(base, name))
        changes[name] = replace(before, **{key.removeprefix(f"{name}_"): value})
    return replace(base, num_videos_per_prompt=1, **changes)


@lru_cache(maxsize=256)
def check_upload(path: Path, limits: Limits) -> VideoInfo:
    """Decodes a file from its first frame to its last, and tells what it holds.

    Raises:
        VideoError: it is of another kind than its name says, cannot be decoded, or is beyond the limits. The message
            has the file's name and no folder.
    """
    start, beginnings = SIGNATURES.get(path.suffix.lower(), (0, ()))
    with path.open("rb") as file:
        head = file.read(16).lstrip() if path.suffix.lower() == ".json" else file.read(16)
    if not head[start:].startswith(beginnings):
        raise VideoError(
            f"{path.name}: is empty, damaged, or none of the kinds that can be read: {', '.join(SIGNATURES)}"
        )
    try:
        if path.suffix.lower() == ".json":
            keypoints = read_keypoints(path)
            info = VideoInfo(len(keypoints.frames), keypoints.fps, keypoints.height, keypoints.width)
        else:
            info = probe(path)
        found = {
            "upload_megabytes": path.stat().st_size / 1e6,
            "upload_seconds": info.num_frames / (info.fps or 1),
            "upload_frames": info.num_frames,
            "upload_side": max(info.height, info.width),
        }
        for name, value in found.items():
            if value > (most := getattr(limits, name)):
                what = name.removeprefix("upload_").replace("side", "pixels on its longer side")
                raise VideoError(f"{path.name}: got {value:.10g} {what}, expected at most {most}")
        if path.suffix.lower() != ".json":
            for _ in stream_frames(path):
                pass
    except ValueError as error:
        raise VideoError(str(error).replace(str(path), path.name)) from error
    return info


def recipe(config: GenerateConfig, skeleton: str | None) -> str:
    """The YAML file that makes the same video by `followyourpose generate`: all that is not a default.

    Args:
        skeleton: its name on the client's side; None: the sample's.
    """
    defaults = asdict(GenerateConfig(prompt=None))
    settings = asdict(replace(config, skeleton=skeleton, output=None))
    return yaml.safe_dump(_escaped(_changed(settings, defaults)), sort_keys=False, allow_unicode=True)


def _changed(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    changed = {}
    for key, value in settings.items():
        if value != defaults[key]:
            nested = isinstance(value, dict) and isinstance(defaults[key], dict) and defaults[key]
            changed[key] = _changed(value, defaults[key]) if nested else value
    return changed


def _escaped(value: Any) -> Any:
    """Texts as the loader of configs has to find them: to it, ${ begins an interpolation."""
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


# ---- jobs ------------------------------------------------------------------------------------------------------------


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

    def cancel(self, owner: str) -> None:
        """Ends the jobs of an owner, at their next denoising step."""
        for cancelled, whose in list(self._running.items()):
            if whose == owner:
                cancelled.set()

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
        plan = LongVideo(**vars(config.long_video))
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
