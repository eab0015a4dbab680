"""Stage-1 data: images with a caption and people's keypoints, in tar shards as LAION-Pose is kept (webdataset)."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

_PARTS = ("jpg", "txt", "json")


class ImagePoseShards:
    """Random access to KEY.jpg, KEY.txt and KEY.json in every .tar of a folder; an image is a clip of one frame.

    The tars are read once, at construction, for where each member lies; they are opened anew for every read, so that
    the object can be used from several processes.

    Raises:
        ValueError: the folder holds no shard or no image, or a key lacks one of its three files.
    """

    def __init__(self, path: str | Path, limit: int | None = None) -> None:
        self.shards = sorted(Path(path).glob("*.tar"))
        if not self.shards:
            raise ValueError(f"{path}: holds no .tar shard; expected a folder of stage-1 shards (KEY.jpg/.txt/.json)")
        self.entries: list[tuple[int, str, dict[str, tuple[int, int]]]] = []  # (shard, key, part -> offset and size)
        for number, shard in enumerate(self.shards):
            if limit is not None and len(self.entries) >= limit:
                break
            self.entries += [(number, key, parts) for key, parts in _index(shard).items()]
        self.entries = self.entries[:limit]
        if not self.entries:
            raise ValueError(
                f"{path}: no image in its {len(self.shards)} shards (limit: {limit}), expected at least one"
            )

    def __len__(self) -> int:
        return len(self.entries)

    def num_frames(self, index: int) -> int:
        return 1

    def label(self, index: int) -> tuple[str, np.ndarray]:
        """The caption, and the people's keypoints (people, 17, 3): x, y in pixels of the image, and confidence."""
        try:
            label = json.loads(self._part(index, "json"))
            people = [np.asarray(person["keypoints"], np.float32).reshape(17, 3) for person in label["people"]]
            return self._part(index, "txt").decode().strip(), np.stack(people) if people else np.zeros((0, 17, 3), "f4")
        except (ValueError, KeyError, TypeError) as error:
            shard, key, _ = self.entries[index]
            raise ValueError(f"{self.shards[shard]}: {key} has no readable caption and keypoints ({error})") from error

    def read(self, index: int, frames: Sequence[int]) -> np.ndarray:
        """The image as frames (1, H, W, 3) uint8 RGB."""
        try:
            return np.array(Image.open(io.BytesIO(self._part(index, "jpg"))).convert("RGB"))[None]
        except (UnidentifiedImageError, OSError) as error:
            shard, key, _ = self.entries[index]
            raise ValueError(f"{self.shards[shard]}: {key}.jpg is not a readable image") from error

    def _part(self, index: int, part: str) -> bytes:
        shard, _, parts = self.entries[index]
        offset, size = parts[part]
        with open(self.shards[shard], "rb") as file:
            file.seek(offset)
            return file.read(size)


def _index(shard: Path) -> dict[str, dict[str, tuple[int, int]]]:
    keys: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                folder, slash, name = member.name.rpartition("/")
                key, _, part = name.partition(".")
                if part in _PARTS:
                    keys.setdefault(folder + slash + key, {})[part] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"{shard}: not a tar file ({error})") from error
    for key, parts in keys.items():
        if len(parts) < len(_PARTS):
            raise ValueError(f"{shard}: {key} has {sorted(parts)}, expected {sorted(_PARTS)}")
    return keys
