"""Encoding of a data set, once for all runs that share its VAE and text encoder (the files: data/latent_cache.py).

To resume, run the same command again: a shard that is there is whole, and is not encoded anew.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from followyourpose.common.checks import counted
from followyourpose.common.files import LOCK, atomic_file, locked, read_json
from followyourpose.common.tensors import read_tensors, write_tensors
from followyourpose.config import TrainConfig, locate
from followyourpose.data.batch import Source, place, to_pixels
from followyourpose.data.latent_cache import (
    CHECKSUMS,
    LABELS,
    PLAN,
    TEXTS,
    LatentCache,
    Plan,
    checksums,
    label_checksum,
    missing_shards,
    read_plan,
)
from followyourpose.data.remote import missing_copies
from followyourpose.training.checks import check_inputs
from followyourpose.training.components import fingerprint, load_components, load_scheduler, load_tokenizer
from followyourpose.training.feed import open_source
from followyourpose.training.objectives import Denoise, Objective

GEOMETRY = "center crop, no flip"
SHARD_SAMPLES, SHARD_BYTES = 1000, 512 * 2**20  # a shard holds at most so much, but at least one sample
BATCH_PIXELS, BATCH_CAPTIONS = 2**19, 64  # encoded at a time: 128 frames of 64 x 64, 2 of 512 x 512


def make_cache(config: TrainConfig) -> Path:
    """Encode the data of a run as `train` does before its first step, and return the folder.

    Raises:
        ValueError: the run cannot use a cache, the folder holds another one, another command is writing it, the data do
            not fit, or the disk is full.
    """
    check_cacheable(config)
    check_inputs(config)
    state = PartialState(cpu=not torch.accelerator.is_available())
    parts = load_components(config, ("vae", "text_encoder"))
    objective = Denoise(parts, load_tokenizer(config.init), load_scheduler(config.init), config).to(state.device)
    return cached_source(config, objective, state).folder


def cached_source(config: TrainConfig, objective: Denoise, state: PartialState) -> LatentCache:
    """Open the encoded data set of a run; its missing shards are encoded first, by all processes together.

    Once it is whole the data need not be there; where they are, they must have as many samples as the cache. Errors are
    those of `make_cache`.
    """
    data, folder = config.data, locate(config.data.cache)
    identity = identity_of(config, objective)
    if (folder / PLAN).exists():
        _check_identity(folder, identity)
    if locate(data.path).exists() or missing_shards(folder):
        source = open_source(data)
        writes = state.process_index == 0 and missing_shards(folder)
        with locked(folder) if writes else nullcontext():
            if writes and not (folder / PLAN).exists():
                _write_plan(folder, source, identity, objective)
            state.wait_for_everyone()
            _check_number(folder, len(source), data.limit)
            _write_shards(folder, source, objective, state)
            state.wait_for_everyone()
    return LatentCache(folder, data.limit)


def source_at_hand(config: TrainConfig, objective: Objective, shapes: Path | None = None) -> Source | None:
    """Open the data of a run without writing anything: its cache, where that is whole, else the data.

    None: the data are missing, or are remote shards that no run has copied yet. A cache is not compared with networks
    that are `shapes` alone. Errors are those of `make_cache`.
    """
    data = config.data
    if data.cache:
        folder = locate(data.cache)
        if (folder / PLAN).exists() and shapes is None:
            _check_identity(folder, identity_of(config, objective))
        if not missing_shards(folder):
            return LatentCache(folder, data.limit)
    if "://" in data.path:
        return None if missing_copies(data.path, data.download) else open_source(data)
    return open_source(data) if "{" in data.path or locate(data.path).exists() else None


# ---- identity --------------------------------------------------------------------------------------------------------


def check_cacheable(config: TrainConfig) -> None:
    """Raise a ValueError unless the run names a cache; the schema checks what a cache can serve."""
    if config.data.cache is None:
        raise ValueError("data.cache: got None, expected the folder of an encoded data set")


def identity_of(config: TrainConfig, objective: Denoise) -> dict[str, str | int]:
    """Settings and networks that the content of a cache depends on; paths are as in the config, so a cache can move."""
    data = config.data
    return {
        "data.path": data.path,
        "data.kind": data.kind,
        "data.height": data.height,
        "data.width": data.width,
        "geometry": GEOMETRY,
        "vae": fingerprint(objective.parts["vae"]),
        "text_encoder": fingerprint(objective.parts["text_encoder"]),
        "tokenizer": len(objective.tokenizer),
    }


def _check_identity(folder: Path, identity: dict[str, str | int]) -> None:
    stored = read_plan(folder).identity
    for key, value in identity.items():
        if value != stored.get(key):
            raise ValueError(
                f"{folder}: {key}: got {value!r}, expected {stored.get(key)!r}, as it was encoded; "
                "choose another data.cache, or the settings it was made with"
            )


def _check_number(folder: Path, samples: int, limit: int | None) -> None:
    stored = sum(read_plan(folder).latents)
    part = limit is not None and samples < stored and not missing_shards(folder)  # a whole cache can serve a part
    if samples != stored and not part:
        raise ValueError(
            f"{folder}: data.limit: got {counted(samples, 'sample')} ({limit=}), expected {stored}, as it was encoded; "
            "choose another data.cache, or the data it was made of"
        )


# ---- writing ---------------------------------------------------------------------------------------------------------


def _write_plan(folder: Path, source: Source, identity: dict[str, str | int], objective: Denoise) -> None:
    """Write the labels of all samples, and then the plan of the shards."""
    known = (TEXTS, LABELS, LOCK)
    if folder.exists() and any(p.name not in known and p.suffix != ".partial" for p in folder.iterdir()):
        raise ValueError(f"{folder}: is not empty and holds no encoded data set; choose another data.cache")
    captions: dict[str, int] = {}
    caption_of, frames = [], []
    for index in tqdm(range(len(source)), "labels", mininterval=5):
        try:
            texts = [source.label(index, [frame])[0] for frame in range(source.num_frames(index))]
        except (ValueError, OSError):
            texts = [""]  # one frame, which is bad when a run reads it
        caption_of += [captions.setdefault(caption, len(captions)) for caption in texts]
        frames.append(len(texts))
    data = objective.config.data
    one = _encode(torch.zeros(3, 1, data.height, data.width), objective)
    latents = _portions([one.nbytes * count for count in frames])
    text = _portions([_states([""], objective).nbytes] * len(captions))
    names = [source.name(index) for index in range(len(source))]
    texts = json.dumps({"captions": list(captions), "names": names}, indent=0).encode()
    labels = {"captions": torch.tensor(caption_of), "frames": torch.tensor(frames)}
    _write(folder / LABELS, labels, {TEXTS: sha256(texts).hexdigest()})
    _write(folder / TEXTS, texts)
    _write(folder / PLAN, json.dumps(asdict(Plan(identity, latents, text)), indent=1).encode())


def _portions(sizes: Sequence[int]) -> list[int]:
    """Divide items of these sizes in bytes among shards; return the number of items in each."""
    portions, room = [], 0
    for size in sizes:
        if not portions or portions[-1] == SHARD_SAMPLES or size > room:
            portions.append(0)
            room = SHARD_BYTES
        portions[-1] += 1
        room -= size
    return portions


def _write_shards(folder: Path, source: Source, objective: Denoise, state: PartialState) -> None:
    """Write this process's part of the missing shards."""
    captions = read_json(folder / TEXTS)["captions"]
    counts = read_tensors(folder / LABELS)[0]["frames"].tolist()
    own = read_plan(folder).shards()[state.process_index :: state.num_processes]
    own = [(name, items) for name, items in own if not (folder / name).exists()]
    for name, items in tqdm(own, "shards", disable=True if state.process_index or not own else None):
        if name.startswith("text"):
            states = _states([captions[i] for i in items], objective)
            _write(folder / name, {"text": states, CHECKSUMS: checksums(states)})
        else:
            content = _latents(source, items, [counts[i] for i in items], objective)
            labels = label_checksum(content["people"].numpy(), content["keypoints"].numpy())
            _write(folder / name, content, {LABELS: labels})


def _latents(source: Source, samples: Sequence[int], counts: Sequence[int], objective: Denoise) -> dict[str, Tensor]:
    """Content of a shard of latents (see data/latent_cache.py), with so many frames of each sample."""
    data = objective.config.data
    at_once = max(1, BATCH_PIXELS // (data.height * data.width))
    moments, people, keypoints, waiting = [], [], [np.zeros((0, 17, 3), np.float32)], []
    for number, (index, count) in enumerate(zip(samples, counts, strict=True), 1):
        clip, persons = _read(source, index, count, (data.height, data.width))
        people += [-1 if persons is None else len(persons)] * count
        keypoints += [] if persons is None else [persons] * count
        waiting.append(clip)
        if sum(clip.shape[1] for clip in waiting) >= at_once or number == len(samples):
            moments += [_encode(pixels, objective) for pixels in torch.cat(waiting, dim=1).split(at_once, dim=1)]
            waiting = []
    encoded = torch.cat(moments).contiguous()
    return {
        "moments": encoded,
        CHECKSUMS: checksums(encoded),
        "people": torch.tensor(people, dtype=torch.int64),
        "keypoints": torch.from_numpy(np.concatenate(keypoints)),
    }


def _read(source: Source, index: int, count: int, size: tuple[int, int]) -> tuple[Tensor, np.ndarray | None]:
    """Read all frames of a sample as pixels (3, f, H, W), and its people (p, 17, 3); NaN if it cannot be read."""
    try:
        people = source.label(index, [0])[1]
        frames, people = place(source.read(index, range(count)), people, size)
        return to_pixels(frames), people
    except (ValueError, OSError):
        return torch.full((3, count, *size), torch.nan), None


def _encode(pixels: Tensor, objective: Denoise) -> Tensor:
    """Encode pixels (3, f, H, W) as posteriors (f, 2c, h, w), half precision."""
    moments = objective.moments(pixels[None].to(next(objective.parameters()).device))[0]
    return rearrange(moments, "c f h w -> f c h w").to("cpu", torch.float16)


@torch.no_grad()
def _states(captions: Sequence[str], objective: Denoise) -> Tensor:
    """Encode captions as the text encoder's last hidden states (n, l, d), half precision."""
    device = next(objective.parameters()).device
    batches = [captions[first : first + BATCH_CAPTIONS] for first in range(0, len(captions), BATCH_CAPTIONS)]
    return torch.cat([objective.encode_text(batch, device).to("cpu", torch.float16) for batch in batches])


def _write(path: Path, content: bytes | dict[str, Tensor], facts: dict[str, str] | None = None) -> None:
    try:
        with atomic_file(path) as partial:
            if isinstance(content, bytes):
                partial.write_bytes(content)
            else:
                write_tensors(partial, content, "cache", facts)
    except OSError as error:
        raise ValueError(
            f"{path.parent}: {path.name} cannot be written ({error.strerror or error}); whole files stay, "
            "and the same command goes on from there"
        ) from error
