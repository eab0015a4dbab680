"""Requests of clients: uploads and settings within limits -> a config, and the YAML file of that config."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from followyourpose.common.checks import check_at_least
from followyourpose.config import ConfigError, GenerateConfig, written
from followyourpose.data.video_io import probe, stream_frames
from followyourpose.data.video_readers import VideoInfo
from followyourpose.pose.keypoints_file import read_keypoints

# Suffix of an upload -> its signature: at which byte, one of which. A suffix alone decides nothing: of a playlist that
# is called .mp4, the reader would open whatever the playlist names.
_MOVIE = (4, (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"))
_MATROSKA = (0, (b"\x1a\x45\xdf\xa3",))
SIGNATURES = {
    ".mp4": _MOVIE, ".mov": _MOVIE, ".m4v": _MOVIE, ".mkv": _MATROSKA, ".webm": _MATROSKA, ".avi": (0, (b"RIFF",)),
    ".gif": (0, (b"GIF8",)), ".json": (0, (b"{",)),
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """Limits of one client's requests; the page states them."""

    upload_megabytes: int = 50
    upload_seconds: int = 120  # length of an uploaded video
    upload_frames: int = 3000
    upload_side: int = 1920  # pixels of its longer side
    num_frames: int = 64  # of a result
    num_inference_steps: int = 100
    prompt_characters: int = 1000
    waiting: int = 16  # jobs in the queue, of all clients
    kept_minutes: int = 60  # age at which uploads and results are removed

    def summary(self) -> str:
        """Return the limits in a few sentences, for the page."""
        return (
            f"Uploads: {', '.join(SIGNATURES)}, up to {self.upload_megabytes} MB, {self.upload_seconds} seconds, "
            f"{self.upload_frames} frames and {self.upload_side} pixels a side. Results: up to {self.num_frames} "
            f"frames. Prompts: up to {self.prompt_characters} characters. At most {self.waiting} jobs wait. Files are "
            f"removed after {self.kept_minutes} minutes."
        )


def configure(base: GenerateConfig, limits: Limits, **settings: Any) -> GenerateConfig:
    """Return `base` with the settings of a client.

    Args:
        settings: keys of a config; nested ones with `_` in place of the dot (crop_left).

    Raises:
        ValueError: a setting is out of range or beyond the limits, or the skeleton cannot be used.
    """
    for key in ("prompt", "negative_prompt"):
        if len(text := settings.get(key, "")) > (most := limits.prompt_characters):
            raise ConfigError(f"{key}: got {len(text)} characters, expected at most {most}")
    for key in ("num_frames", "num_inference_steps"):
        check_at_least(key, settings.get(key, 1), 1, getattr(limits, key))
    if settings.get("skeleton") is not None:
        check_upload(Path(settings["skeleton"]), limits)
    nodes = [name for name, value in vars(base).items() if is_dataclass(value)]
    changes: dict[str, Any] = {}
    for key, value in settings.items():
        if hasattr(base, key):
            changes[key] = value
        else:
            node = next(name for name in nodes if key.startswith(f"{name}_"))
            before = changes.get(node, getattr(base, node))
            changes[node] = replace(before, **{key.removeprefix(f"{node}_"): value})
    return replace(base, num_videos_per_prompt=1, **changes)


@lru_cache(maxsize=256)
def check_upload(path: Path, limits: Limits) -> VideoInfo:
    """Decode a file from its first frame to its last, and return its size.

    Raises:
        ValueError: its content is not of the kind that its name claims, cannot be decoded, or is beyond the limits. The
            message has the file's name and no folder.
    """
    suffix = path.suffix.lower()
    start, signatures = SIGNATURES.get(suffix, (0, ()))
    with path.open("rb") as file:
        head = file.read(16).removeprefix(b"\xef\xbb\xbf").lstrip() if suffix == ".json" else file.read(16)
    if not head[start:].startswith(signatures):
        raise ValueError(f"{path.name}: is empty, damaged, or not one of {', '.join(SIGNATURES)}")
    with without_folder(path):
        if suffix == ".json":
            keypoints = read_keypoints(path)
            info = VideoInfo(len(keypoints.frames), keypoints.fps, keypoints.height, keypoints.width)
        else:
            info = probe(path)
        for got, unit, most in (
            (path.stat().st_size / 1e6, "megabytes", limits.upload_megabytes),
            (info.num_frames / (info.fps or 1), "seconds", limits.upload_seconds),
            (info.num_frames, "frames", limits.upload_frames),
            (max(info.height, info.width), "pixels on its longer side", limits.upload_side),
        ):
            if got > most:
                raise ValueError(f"{path}: got {got:.10g} {unit}, expected at most {most}")
        if suffix != ".json":
            for _ in stream_frames(path):
                pass
    return info


@contextmanager
def without_folder(path: str | Path | None) -> Iterator[None]:
    """Replace a path in error messages by the file's name: the server's folders are not for clients."""
    try:
        yield
    except ValueError as error:
        if path is None or str(path) not in str(error):
            raise
        raise ValueError(str(error).replace(str(path), Path(path).name)) from error


def recipe(config: GenerateConfig, skeleton: str | None) -> str:
    """Return the YAML file that makes the same video by `followyourpose generate`: prompt and changed settings.

    Args:
        skeleton: its name on the client's side; None: the sample's.
    """
    defaults = asdict(GenerateConfig(prompt="")) | {"prompt": None}
    settings = written(asdict(replace(config, skeleton=skeleton, output=None)), GenerateConfig)
    return yaml.safe_dump(_changed(settings, defaults), sort_keys=False, allow_unicode=True)


def _changed(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the defaults, those of nested nodes too."""
    return {
        key: _changed(value, defaults[key]) if isinstance(value, dict) and defaults[key] else value
        for key, value in settings.items()
        if value != defaults[key]
    }
