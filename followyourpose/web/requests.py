"""What a client of the page may ask for: uploads and settings within limits -> a config, and the YAML of that."""

from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from followyourpose.config import ConfigError, GenerateConfig
from followyourpose.data.video_io import probe, stream_frames
from followyourpose.data.video_readers import VideoError, VideoInfo
from followyourpose.pose.keypoints_file import read_keypoints

# What may be uploaded -> how such a file begins: at which byte, with which of these. A suffix alone decides nothing:
# a playlist that is called .mp4 would have its reader open whatever the playlist names.
_MOVIE = (4, (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"))
_MATROSKA = (0, (b"\x1a\x45\xdf\xa3",))
SIGNATURES = {
    ".mp4": _MOVIE, ".mov": _MOVIE, ".m4v": _MOVIE, ".mkv": _MATROSKA, ".webm": _MATROSKA, ".avi": (0, (b"RIFF",)),
    ".gif": (0, (b"GIF8",)), ".json": (0, (b"{",)),
}  # fmt: skip


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
