"""Encoded data set on disk, a source for training without the pictures.

cache.json                   data and networks of the encoding, and how many samples or captions each shard holds
texts.json                   the distinct captions, and the samples' names
labels.safetensors           frames (n,): of every sample; captions (n_frames,): the nearest one to every frame
latents-NUMBER.safetensors   moments (n_frames, 2c, h, w), half precision: the VAE's posterior of frame after frame, NaN
                             where a sample could not be read; people (n_frames,): number of people in a frame, -1
                             where it is unknown; keypoints (n_people, 17, 3), frame after frame
text-NUMBER.safetensors      text (n_captions, l, d), half precision: the text encoder's last hidden states

Every file has checksums: a shard's `checksums` (n,) are those of its rows of moments or text.

Shapes: f frames, p people, c latent channels, h w latent size, l tokens.
"""

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from followyourpose.common.files import read_json
from followyourpose.common.tensors import read_facts, read_tensors
from followyourpose.data.labels import STRINGS

PLAN, TEXTS, LABELS, CHECKSUMS = "cache.json", "texts.json", "labels.safetensors", "checksums"


@dataclass
class Plan:
    """Content of cache.json."""

    identity: dict[str, str | int]  # everything that the contents depend on, by configuration key or network
    latents: list[int]  # samples in each shard of latents
    text: list[int]  # distinct captions in each shard of text

    def shards(self) -> list[tuple[str, range]]:
        """Return every shard's name and its captions or samples; the text's shards come first."""
        return [
            (f"{kind}-{number:05d}.safetensors", range(end - count, end))
            for kind, counts in (("text", self.text), ("latents", self.latents))
            for number, (count, end) in enumerate(zip(counts, np.cumsum(counts).tolist(), strict=True))
        ]


def read_plan(folder: Path) -> Plan:
    """Read cache.json; a ValueError where it or the texts beside it are missing, or it is no such file."""
    try:
        plan = Plan(**read_json(folder / PLAN))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / PLAN}: cannot be read as an encoded data set's ({error})") from error
    if not (folder / TEXTS).is_file():
        raise ValueError(f"{folder}: no {TEXTS}: damaged, or of an earlier version; remove it, and encode it again")
    return plan


def missing_shards(folder: Path) -> list[str]:
    """Return the names of the shards that are still to be written; cache.json itself where there is none."""
    if not (folder / PLAN).is_file():
        return [PLAN]
    return [name for name, _ in read_plan(folder).shards() if not (folder / name).is_file()]


def checksums(rows: Tensor) -> Tensor:
    """Return the CRC-32 of each of n rows, (n,): a shard is too large to be read whole for a check of one."""
    return torch.tensor([zlib.crc32(row.contiguous().flatten().view(torch.uint8).numpy()) for row in rows])


def load_labels(shard: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of people in each frame (n_frames,) of a shard, and their keypoints (n_people, 17, 3).

    Raises:
        ValueError: the shard is damaged; the message names it.
    """
    try:
        with safe_open(shard, "np") as file:
            people, keypoints = file.get_tensor("people"), file.get_tensor("keypoints")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{shard}: cannot be read ({error}); remove it, and encode it again") from error
    if read_facts(shard).get(LABELS) != label_checksum(people, keypoints):
        raise ValueError(f"{shard}: is damaged, its checksum is that of other labels; remove it, and encode it again")
    return people, keypoints


def label_checksum(people: np.ndarray, keypoints: np.ndarray) -> str:
    """Return SHA-256 of a shard's people (n_frames,) and keypoints (n_people, 17, 3)."""
    return sha256(people.tobytes() + keypoints.tobytes()).hexdigest()


class LatentCache:
    """Random access to the samples of an encoded data set; nothing but the labels is kept in memory.

    Files are opened when first read, anew in every process, so that several processes can use the object.

    Args:
        folder: output of `followyourpose cache`.
        limit: use only so many samples, from the first; None: all.

    Raises:
        ValueError: the folder holds no encoded data set, or one that is not whole.
    """

    def __init__(self, folder: str | Path, limit: int | None = None) -> None:
        self.folder, plan = Path(folder), read_plan(Path(folder))
        if missing := missing_shards(self.folder):
            raise ValueError(f"{folder}: {missing[0]} is missing; run the command that encodes it again")
        labels, facts = read_tensors(self.folder / LABELS)
        texts = (self.folder / TEXTS).read_bytes()
        if facts.get(TEXTS) != sha256(texts).hexdigest():
            raise ValueError(f"{self.folder / TEXTS}: is damaged, its checksum is that of another content")
        self._captions, self._names = (np.array(each, STRINGS) for each in json.loads(texts).values())
        self._caption_of, frames = labels["captions"].numpy(), labels["frames"].numpy()
        self._frames, self._starts = frames[:limit], np.cumsum(frames) - frames  # a sample's first frame
        shards = [load_labels(self.folder / name) for name, _ in plan.shards() if name.startswith("latents")]
        self._people = np.concatenate([people for people, _ in shards])
        self._keypoints = np.concatenate([keypoints for _, keypoints in shards])
        self._first_people = np.cumsum(self._people.clip(0)) - self._people.clip(0)  # a frame's first person
        self._first_samples, self._first_captions = np.cumsum([0, *plan.latents]), np.cumsum([0, *plan.text])
        self.dropped: dict[str, int] = {}
        self._open: dict[tuple[int, str], safe_open] = {}

    def __getstate__(self) -> dict:
        return vars(self) | {"_open": {}}  # open files do not travel to a spawned process

    def __len__(self) -> int:
        return len(self._frames)

    def num_frames(self, index: int) -> int:
        return int(self._frames[index])

    def label(self, index: int, frames: Sequence[int]) -> tuple[str, np.ndarray | None]:
        """Return the caption in the middle of these frames, and keypoints (p, 17, 3) of the first; None: unknown."""
        start = self._starts[index]
        caption = self._captions[self._caption_of[start + (frames[0] + frames[-1]) // 2]]
        people, first = self._people[start + frames[0]], self._first_people[start + frames[0]]
        return caption, None if people < 0 else self._keypoints[first : first + people]

    def read(self, index: int, frames: Sequence[int]) -> dict[str, Tensor]:
        """Return {"moments": (2c, f, h, w) of the frames at these indices, "text": (l, d)}, half precision.

        Raises:
            ValueError: the sample could not be read when it was to be encoded.
        """
        shard = int(np.searchsorted(self._first_samples, index, side="right")) - 1
        start = int(self._starts[index] - self._starts[self._first_samples[shard]])
        moments = self._rows(f"latents-{shard:05d}.safetensors", "moments", [start + frame for frame in frames])
        if not moments.isfinite().all():
            raise ValueError("could not be read when the cache was made")
        caption = int(self._caption_of[self._starts[index] + (frames[0] + frames[-1]) // 2])
        shard = int(np.searchsorted(self._first_captions, caption, side="right")) - 1
        row = caption - int(self._first_captions[shard])
        text = self._rows(f"text-{shard:05d}.safetensors", "text", [row])
        return {"moments": moments.transpose(0, 1), "text": text[0]}

    def name(self, index: int) -> str:
        """Return the name that the data set gives a sample."""
        return self._names[index]

    def _rows(self, file: str, name: str, rows: list[int]) -> Tensor:
        """Read these rows of a shard's tensor, and no others."""
        key = (os.getpid(), file)
        try:
            if key not in self._open:
                self._open[key] = safe_open(self.folder / file, "pt")
            values = self._open[key].get_slice(name)[rows]
            stored = self._open[key].get_slice(CHECKSUMS)[rows]
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{self.folder / file}: cannot be read ({error})") from error
        if not torch.equal(checksums(values), stored):
            raise ValueError(f"{self.folder / file}: is damaged, a checksum is that of another content")
        return values
