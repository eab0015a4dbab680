"""Which data set `data.kind` names."""

from pathlib import Path

from followyourpose.data.batch import Source
from followyourpose.data.image_pose import ImagePoseShards
from followyourpose.data.video_clips import VideoClips

SOURCES = {"images": ImagePoseShards, "clips": VideoClips}


def open_source(kind: str, path: Path, limit: int | None = None) -> Source:
    """Opens the images or clips of a folder.

    Raises:
        ValueError: the kind is unknown, or the folder holds no such data.
    """
    if kind not in SOURCES:
        raise ValueError(f"data.kind: got {kind!r}, expected one of {', '.join(SOURCES)}")
    return SOURCES[kind](path, limit)
