"""Layout of the data in a folder, and its reader: shards, manifests of images or clips, HD-VILA's parts, latents."""

from pathlib import Path
from typing import Literal

from followyourpose.common.files import json_lines
from followyourpose.data.image_folder import MANIFESTS, ImagePoseFolder
from followyourpose.data.image_pose import ImagePoseShards
from followyourpose.data.labels import PAPER, Rules
from followyourpose.data.latent_cache import PLAN
from followyourpose.data.remote import is_pattern, shard_files
from followyourpose.data.video_clips import VideoClips

Layout = Literal["shards", "images", "clips", "latents"]
DataSet = ImagePoseShards | ImagePoseFolder | VideoClips


def layout_of(path: str | Path) -> Layout | None:
    """Return the layout of the data at `path`, a folder, a shard or a pattern of shards; None: there is none.

    Raises:
        ValueError: the first line of a manifest cannot be read.
    """
    path, folder = str(path), Path(path)
    if is_pattern(path):
        return "shards" if "://" in path or "{" in path or folder.is_file() else None
    if (folder / PLAN).is_file():
        return "latents"
    if (folder / MANIFESTS[0]).is_file():
        row = next(json_lines(folder / MANIFESTS[0]), (0, None))[1]
        return "clips" if isinstance(row, dict) and "video" in row else "images"
    if (folder / MANIFESTS[1]).is_file():
        return "images"
    if any(folder.glob("*.tar")):
        return "shards"
    return "clips" if any(folder.glob("part_*/video_clips")) else None


def open_data(
    path: str | Path, kind: Literal["images", "clips"] | None = None, limit: int | None = None, rules: Rules = PAPER,
    captions: str | Path | None = None, download: str | Path | None = None,
) -> DataSet:  # fmt: skip
    """Open the data at `path`.

    Args:
        path: a folder, a shard, or a pattern of shards (see `shard_files`).
        kind: expected content; None: as the layout says.
        limit: use only so many samples, from the first; None: all.
        rules: requirements on images.
        captions: CSV of HD-VILA's captions; None: the one in the folder.
        download: folder for copies of remote shards; None: only local ones are read.

    Raises:
        ValueError: there is no sample; the message counts those that were left out, by reason.
    """
    if (Path(path) / PLAN).is_file():
        raise ValueError(f"{path}: holds encoded latents, expected the images or clips that they were made of")
    if kind is None:
        kind = "clips" if layout_of(path) in ("clips", None) else "images"
    if kind == "clips":
        return VideoClips(path, limit, captions)
    if is_pattern(str(path)):
        if "://" in str(path) and download is None:
            raise ValueError(f"{path}: expected local shards")
        return ImagePoseShards(shard_files(str(path), download), limit, rules)
    has_manifest = any((Path(path) / name).is_file() for name in MANIFESTS)
    return (ImagePoseFolder if has_manifest else ImagePoseShards)(path, limit, rules)
