"""Stage-1 data (LAION-Pose): images with a caption and people's keypoints, in tar shards (as webdataset packs them)."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from followyourpose.common.files import LARGEST_JSON, parse_json
from followyourpose.data.images import image_size, read_image
from followyourpose.data.labels import NO_LABEL, PAPER, STRINGS, Dropped, Rules, as_text, parse_people, rescaled

IMAGES = ("jpg", "jpeg", "png", "webp")
_PARTS = ("image", "txt", "json")
_TWICE, _DOTTED = "with a key that comes twice", "with a dot in the key, which a dot ends"
_BLOCK = 512  # bytes of a block: a tar consists of blocks, the last of them zeros

Samples = dict[str, tuple[dict[str, tuple[int, int]], dict[str, bytes]]]  # key -> part -> offset, size; part -> text


class ImagePoseShards:
    """Random access to KEY.jpg (or png, webp), KEY.txt and KEY.json in tar shards; an image is a clip of one frame.

    KEY.json is {"width", "height", "people": [{"keypoints": [[x, y, confidence] * 17]}]}, in pixels of that size. The
    tars are read once, at construction, for the place of each member and for the labels that `rules` judge; they are
    opened anew for every read, so that several processes can use the object.

    Args:
        shards: a folder with .tar files, or the files themselves.
        limit: use only so many images, from the first; None: all.

    Raises:
        ValueError: there is no shard, or no image is left.
    """

    def __init__(self, shards: str | Path | Sequence[Path], limit: int | None = None, rules: Rules = PAPER) -> None:
        is_folder = isinstance(shards, str | Path)
        self.shards = sorted(Path(shards).glob("*.tar")) if is_folder else list(shards)
        if not self.shards:
            raise ValueError(f"{shards}: holds no .tar shard; expected a folder of stage-1 shards (KEY.jpg/.txt/.json)")
        self.dropped = Dropped()  # images left out, by reason; a shard cut off is used up to there, and counted too
        keys: list[str] = []
        places: list[tuple[int, ...]] = []
        for number, shard in enumerate(self.shards):
            if limit is not None and len(keys) >= limit:
                break
            for key, place in _good_images(shard, rules, self.dropped):
                keys.append(key)
                places.append((number, *place))
        if not keys[:limit]:
            raise ValueError(
                f"{shards if is_folder else self.shards[0].parent}: no image in its {len(self.shards)} shards, "
                f"expected at least one (limit: {limit}; {self.dropped})"
            )
        self._keys = np.array(keys[:limit], STRINGS)
        self._places = np.array(places[:limit])  # (n, 7): shard, then offset and size of image, caption and label

    def __len__(self) -> int:
        return len(self._keys)

    def num_frames(self, index: int) -> int:
        return 1

    def name(self, index: int) -> str:
        """Return the shard and the key."""
        return f"{self.shards[self._places[index, 0]]}: {self._keys[index]}"

    def label(self, index: int, frames: Sequence[int]) -> tuple[str, np.ndarray]:
        """Return the caption, and the keypoints (p, 17, 3): x, y in pixels of the image, and confidence."""
        people, size = parse_people(json.loads(self._part(index, "json")))
        actual = image_size(io.BytesIO(self._part(index, "image")), self.name(index))
        return _caption(self._part(index, "txt")), rescaled(people, size, actual)

    def read(self, index: int, frames: Sequence[int]) -> np.ndarray:
        """Return the image as frames (1, H, W, 3) uint8 RGB."""
        return read_image(io.BytesIO(self._part(index, "image")), self.name(index))

    def _part(self, index: int, part: str) -> bytes:
        shard, *places = self._places[index].tolist()
        offset, size = places[2 * _PARTS.index(part) :][:2]
        with open(self.shards[shard], "rb") as file:
            file.seek(offset)
            return file.read(size)


def _caption(text: bytes) -> str:
    return text.decode("utf-8-sig").strip()


def _good_images(shard: Path, rules: Rules, dropped: Dropped) -> Iterator[tuple[str, list[int]]]:
    """Yield each usable image of a shard: its key, and the offsets and sizes of its image, caption and label."""
    scan = scan_shard(shard)
    if not scan.whole:
        dropped.add("shards cut off or no tar", str(shard))
    for reason, name in scan.left_out:
        dropped.add(reason, f"{shard}: {name}")
    for key, (places, texts) in scan.samples.items():
        if missing := [part for part in _PARTS if part not in places]:
            reason = f"without {' and '.join(missing)}"
        else:
            try:
                people, size = parse_people(parse_json(texts["json"], key))
                reason = rules.against(_caption(texts["txt"]), people, size)
            except ValueError:
                reason = NO_LABEL
        if reason is None:
            yield as_text(key), [number for part in _PARTS for number in places[part]]
        else:
            dropped.add(reason, f"{shard}: {key}")


class Scan(NamedTuple):
    """Content of a shard."""

    samples: Samples  # places of the parts of each image, and its texts, by key
    whole: bool  # whether the shard has its end
    left_out: list[tuple[str, str]]  # reason and name of each image that belongs to no sample


def scan_shard(shard: Path) -> Scan:
    """Read where the images of a shard lie, and their texts.

    A key that comes again, as in tars that were put together, belongs to neither of its images: the parts of one could
    be taken for those of the other.
    """
    samples: Samples = {}
    repeats: Counter[tuple[str, str]] = Counter()  # of a key's parts
    dotted: list[tuple[str, str]] = []  # key and name of images that have more behind it
    whole = False
    with open(shard, "rb") as file:
        length = file.seek(0, 2)
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    folder, slash, name = member.name.rpartition("/")
                    key, _, part = name.partition(".")
                    key, part = folder + slash + key, "image" if part.lower() in IMAGES else part.lower()
                    if part not in _PARTS:
                        if name[0:1] != "." and part.rpartition(".")[2] in IMAGES:
                            dotted.append((key, member.name))
                        continue
                    if member.offset_data + member.size > length:
                        continue
                    places, texts = samples.setdefault(key, ({}, {}))
                    if part in places:
                        repeats[key, part] += 1
                    places[part] = (member.offset_data, member.size)
                    if part != "image":
                        file.seek(member.offset_data)
                        texts[part] = file.read(min(member.size, LARGEST_JSON))
                file.seek(tar.offset)
                whole = file.read(_BLOCK) == bytes(_BLOCK)  # tarfile takes any damage for the end
        except (tarfile.TarError, ValueError, OverflowError):
            pass
    left_out = [(_DOTTED, name) for key, name in dotted if key not in samples or "image" not in samples[key][0]]
    for key in dict.fromkeys(key for key, _ in repeats):
        left_out += [(_TWICE, key)] * (1 + max(repeats[key, part] for part in _PARTS))
        del samples[key]
    return Scan(samples, whole, left_out)
