"""Requests of clients: uploads and settings within limits -> a config, and the YAML file of that config."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from followyourpose.common.checks import check_at_least
from followyourpose.config import REPOSITORY, ConfigError, GenerateConfig, build_config, written
from followyourpose.data.video_io import probe, stream_frames
from followyourpose.data.video_readers import VideoInfo
from followyourpose.pipeline.schedule import along, texts_by_number
from followyourpose.pose.formats import read_any
from followyourpose.pose.formats.read import FPS

# Suffix of an upload -> its signature: at which byte, one of which. A suffix alone decides nothing: of a playlist that
# is called .mp4, the reader would open whatever the playlist names.
_MOVIE = (4, (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"))
_MATROSKA = (0, (b"\x1a\x45\xdf\xa3",))
SIGNATURES = {
    ".mp4": _MOVIE, ".mov": _MOVIE, ".m4v": _MOVIE, ".mkv": _MATROSKA, ".webm": _MATROSKA, ".avi": (0, (b"RIFF",)),
    ".gif": (0, (b"GIF8",)), ".json": (0, (b"{", b"[")),
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """Limits of one client's requests; the page states them."""

    upload_megabytes: int = 50
    upload_json_megabytes: int = 20  # of keypoints
    upload_seconds: int = 120  # length of an uploaded video
    upload_frames: int = 3000
    upload_side: int = 1920  # pixels of its longer side
    upload_decoding_seconds: int = 30  # time to decode an upload
    num_frames: int = 64  # of a result
    num_inference_steps: int = 100
    prompt_characters: int = 1000  # a model reads far fewer, which the page counts
    waiting: int = 16  # jobs in the queue, of all clients
    kept_minutes: int = 60  # age at which uploads and results are removed
    client_megabytes: int = 500  # uploads and results of a client (an address) that are kept
    total_megabytes: int = 4000  # files of all clients

    def summary(self) -> str:
        """Return the limits in a few sentences, for the page."""
        return (
            f"Uploads: {', '.join(SIGNATURES)}, up to {self.upload_megabytes} MB ({self.upload_json_megabytes} MB of "
            f".json), {self.upload_seconds} seconds, {self.upload_frames} frames and {self.upload_side} pixels a side, "
            f"decoded within {self.upload_decoding_seconds} seconds. Results: up to {self.num_frames} frames. "
            f"At most {self.waiting} jobs wait. Files are removed after "
            f"{self.kept_minutes} minutes; a client may have {self.client_megabytes} MB at a time."
        )


def configure(base: GenerateConfig, limits: Limits, **settings: Any) -> GenerateConfig:
    """Return `base` with the settings of a client. An upload among them is not checked here.

    Args:
        settings: keys of a config; nested ones with `_` in place of the dot (crop_left). The prompt may be lines by
            frame, and people are lines by track id.

    Raises:
        ValueError: a setting has the wrong type, is out of range, or is beyond the limits.
    """
    for key in ("prompt", "negative_prompt", "people"):
        text, most = str(settings.get(key, "")), limits.prompt_characters
        if len(text) > most:
            raise ConfigError(f"{key}: got {len(text)} characters, expected at most {most}")
        if re.search("[\ud800-\udfff]", text):
            raise ConfigError(f"{key}: got half of a character, expected Unicode text")
    for key in ("num_frames", "num_inference_steps"):
        if isinstance(value := settings.get(key), int):
            check_at_least(key, value, 1, getattr(limits, key))
    if isinstance(prompt := settings.get("prompt"), str):
        settings["prompt"] = along("prompt", prompt)
    sentences = texts_by_number("people", settings.get("people") or "")
    settings["people"] = {track: text for track, text in sentences.items() if text} or None
    values = asdict(base) | {"num_videos_per_prompt": 1}
    for key, value in settings.items():
        if key in values:
            values[key] = value
        else:
            node = next(name for name in values if key.startswith(f"{name}_") and isinstance(values[name], dict))
            values[node][key.removeprefix(f"{node}_")] = value
    return build_config(GenerateConfig, values, name="request")


def check_upload(path: Path, limits: Limits) -> VideoInfo:
    """Decode a file from its first frame to its last, and return its size.

    Raises:
        ValueError: its content is not of the kind that its name claims, cannot be decoded, or is beyond the limits. The
            message has the file's name and no folder.
    """
    suffix, size = path.suffix.lower(), path.stat().st_size / 1e6
    largest = limits.upload_json_megabytes if suffix == ".json" else limits.upload_megabytes
    start, signatures = SIGNATURES.get(suffix, (0, ()))
    with path.open("rb") as file:
        head = file.read(16).removeprefix(b"\xef\xbb\xbf").lstrip() if suffix == ".json" else file.read(16)
    if not head[start:].startswith(signatures):
        raise ValueError(f"{path.name}: is empty, damaged, or not one of {', '.join(SIGNATURES)}")
    with without_folder(path):
        _check_limit(path, size, "megabytes", largest)
        if suffix == ".json":
            info = _keypoints_info(path, limits)
        else:
            info = probe(path)
        _check_limit(path, info.num_frames / (info.fps or 1), "seconds", limits.upload_seconds)
        _check_limit(path, info.num_frames, "frames", limits.upload_frames)
        _check_limit(path, max(info.height, info.width), "pixels on its longer side", limits.upload_side)
        if suffix != ".json":
            for _ in stream_frames(path):
                pass
    return info


def _keypoints_info(path: Path, limits: Limits) -> VideoInfo:
    """Return the size of anybody's keypoints; of those without one, which a control has to give, the largest."""
    reading = read_any(path)
    if reading.size is not None:
        clip = reading.clip()
        return VideoInfo(len(clip.frames), clip.fps, clip.height, clip.width)
    side = limits.upload_side
    return VideoInfo(len(reading.layout.frames), reading.layout.fps or FPS, side, side)


def _check_limit(path: Path, got: float, unit: str, most: int) -> None:
    if got > most:
        raise ValueError(f"{path}: got {got:.10g} {unit}, expected at most {most}")


@contextmanager
def without_folder(path: str | Path | None) -> Iterator[None]:
    """Name files in error messages, `path` among them, without their folders."""
    try:
        yield
    except ValueError as error:
        message = str(error) if path is None else str(error).replace(str(path), Path(path).name)
        kind = type(error) if isinstance(error, ConfigError) else ValueError
        raise kind(public(message)) from error


def public(message: str) -> str:
    """Return a message without the folders of this machine, which are not for clients."""
    for folder in map(str, (tempfile.gettempdir(), Path.cwd(), REPOSITORY, Path.home())):  # spaces in them too
        message = message.replace(f"{folder}{os.sep}", os.sep)
    return re.sub(r"(?<![\w:/.])(?:[A-Za-z]:)?[/\\](?:[^/\\\s:;,'\"]+[/\\])*(?=[^/\\\s:;,'\"])", "", message)


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
