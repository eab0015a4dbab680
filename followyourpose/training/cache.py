"""Encodes a data set once, for all runs that share its VAE and text encoder (the files: data/latent_cache.py).

To resume, run the same command again: a shard that is there is whole, and is not encoded anew.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from einops import rearrange
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from followyourpose.config import TrainConfig, locate
from followyourpose.data.batch import Source, to_pixels
from followyourpose.data.latent_cache import CAPTIONS, LABELS, PLAN, LatentCache, Plan, missing_shards, read_plan
from followyourpose.data.sources import open_source
from followyourpose.training.components import load_components, load_scheduler, load_tokenizer
from followyourpose.training.objectives import Denoise

GEOMETRY = "center crop, no flip"
SHARD_SAMPLES, SHARD_BYTES = 1000, 512 * 2**20  # a shard holds at most so much, but at least one sample
BATCH_PIXELS, BATCH_CAPTIONS = 2**19, 64  # encoded at a time: 128 frames of 64 x 64, 2 of 512 x 512


def make_cache(config: TrainConfig) -> Path:
    """Encodes the data of a run as `train` would before its first step, and returns the folder.

    Raises:
        ValueError: the run cannot use a cache, the folder holds another one, the data do not fit, or the disk is full.
    """
    check_cacheable(config)
    state = PartialState(cpu=not torch.accelerator.is_available())
    parts = load_components(config.init, ("vae", "text_encoder"))
    objective = Denoise(parts, load_tokenizer(config.init), load_scheduler(config.init), config).to(state.device)
    return cached_source(config, objective, state).folder


def cached_source(config: TrainConfig, objective: Denoise, state: PartialState) -> LatentCache:
    """The encoded data set of a run; what is missing of it is encoded first, by all processes together.

    Once it is whole the data itself need not be there; where it is, it must have as many samples as the cache.

    Raises:
        ValueError: as `make_cache`.
    """
    check_cacheable(config)
    data, folder = config.data, locate(config.data.cache)
    identity = identity_of(config, objective)
    if (folder / PLAN).exists():
        _check_identity(folder, identity)
    if locate(data.path).exists() or missing_shards(folder):
        source = open_source(data.kind, locate(data.path), data.limit)
        if state.process_index == 0 and not (folder / PLAN).exists():
            _write_plan(folder, source, identity, objective)
        state.wait_for_everyone()
        _check_number(folder, len(source), data.limit)
        _write_shards(folder, source, objective, state)
        state.wait_for_everyone()
    return LatentCache(folder, data.limit)


# ---- what a cache depends on -----------------------------------------------------------------------------------------


def check_cacheable(config: TrainConfig) -> None:
    """Stops a run that a cache cannot serve.

    Raises:
        ValueError: no folder is named, the run does not denoise, or it starts with a random VAE or text encoder.
    """
    folder = config.data.cache
    if folder is None or folder.lower() in ("true", "false"):
        raise ValueError(f"data.cache: got {folder}, expected the folder of an encoded data set")
    if config.objective != "denoise":
        raise ValueError(f"data.cache: got {folder}, which is for objective denoise; this one is {config.objective}")
    if random := {"vae", "text_encoder"} & set(config.scratch):
        raise ValueError(f"data.cache: got {folder}, but {min(random)} is among scratch, so every run has another one")


def identity_of(config: TrainConfig, objective: Denoise) -> dict[str, str | int]:
    """What the contents of a cache depend on. Paths are as the configuration has them, so a cache can be moved."""
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


def fingerprint(module: nn.Module) -> str:
    """A hash of a network's names, shapes and some values of every tensor, to half precision.

    As the cache holds half precision, a network and its half precision export count as the same.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        some = tensor.flatten()[:: max(1, tensor.numel() // 64)]
        digest.update(f"{name} {tuple(tensor.shape)} ".encode() + some.half().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


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
            f"{folder}: data.limit: got {samples} samples ({limit=}), expected {stored}, as it was encoded; "
            "choose another data.cache, or the data it was made of"
        )


# ---- writing ---------------------------------------------------------------------------------------------------------


def _write_plan(folder: Path, source: Source, identity: dict[str, str | int], objective: Denoise) -> None:
    """Writes the labels of all samples, and then which shard is to hold what: all but the encoding itself."""
    known = (CAPTIONS, LABELS)
    if folder.exists() and any(p.name not in known and p.suffix != ".partial" for p in folder.iterdir()):
        raise ValueError(f"{folder}: is not empty and holds no encoded data set; choose another data.cache")
    frame = _moments(source, range(1), [1], objective)  # stops here, with nothing written, if the data do not fit
    captions: dict[str, int] = {}
    caption_of, frames, people, keypoints = [], [], [], [torch.zeros(0, 17, 3)]
    for index in tqdm(range(len(source)), "labels", mininterval=5):
        caption, first = source.label(index)
        caption_of.append(captions.setdefault(caption, len(captions)))
        frames.append(source.num_frames(index))
        of_frames = [] if first is None else [first] * frames[-1]
        people += [len(of_frame) for of_frame in of_frames] or [-1] * frames[-1]
        keypoints += [torch.from_numpy(of_frame).float() for of_frame in of_frames]
    labels = {"captions": torch.tensor(caption_of), "frames": torch.tensor(frames), "people": torch.tensor(people),
              "keypoints": torch.cat(keypoints)}  # fmt: skip
    _write(folder / LABELS, save(labels))
    _write(folder / CAPTIONS, json.dumps(list(captions), indent=0).encode())
    latents = _portions([frame.nbytes * count for count in frames])
    text = _portions([_states([""], objective).nbytes] * len(captions))
    _write(folder / PLAN, json.dumps(asdict(Plan(identity, latents, text)), indent=1).encode())


def _portions(sizes: Sequence[int]) -> list[int]:
    """How many consecutive items of these sizes in bytes each shard takes."""
    portions, room = [], 0
    for size in sizes:
        if not portions or portions[-1] == SHARD_SAMPLES or size > room:
            portions.append(0)
            room = SHARD_BYTES
        portions[-1] += 1
        room -= size
    return portions


def _write_shards(folder: Path, source: Source, objective: Denoise, state: PartialState) -> None:
    """Writes this process's part of the shards that are missing."""
    captions = json.loads((folder / CAPTIONS).read_text())
    own = read_plan(folder).shards()[state.process_index :: state.num_processes]
    own = [(name, items) for name, items in own if not (folder / name).exists()]
    for name, items in tqdm(own, "shards", disable=state.process_index > 0 or not own):
        if name.startswith("text"):
            content = {"text": _states([captions[i] for i in items], objective)}
        else:
            content = {"moments": _moments(source, items, [source.num_frames(i) for i in items], objective)}
        _write(folder / name, save(content))


def _moments(source: Source, samples: Sequence[int], frames: Sequence[int], objective: Denoise) -> Tensor:
    """The posteriors (n, 2c, h, w) of so many frames of each sample, one after the other, half precision."""
    data, device = objective.config.data, next(objective.parameters()).device
    size = (data.height, data.width)
    at_once = max(1, BATCH_PIXELS // (size[0] * size[1]))
    parts, waiting = [], []
    for number, (index, count) in enumerate(zip(samples, frames, strict=True), 1):
        clip = source.read(index, range(count))
        if clip.shape[1:3] != size:
            raise ValueError(f"clip {index} ({source.label(index)[0]!r}) is {clip.shape[1:3]}, expected {size} pixels")
        waiting.append(clip)
        if sum(map(len, waiting)) >= at_once or number == len(samples):
            for pixels in to_pixels(np.concatenate(waiting)).split(at_once, dim=1):
                moments = objective.moments(pixels[None].to(device))[0]
                parts.append(rearrange(moments, "c f h w -> f c h w").to("cpu", torch.float16))
            waiting = []
    return torch.cat(parts).contiguous()


def _states(captions: Sequence[str], objective: Denoise) -> Tensor:
    """The text encoder's last hidden states (n, l, d), half precision."""
    device = next(objective.parameters()).device
    batches = [captions[first : first + BATCH_CAPTIONS] for first in range(0, len(captions), BATCH_CAPTIONS)]
    return torch.cat([objective.encode_text(batch, device).to("cpu", torch.float16) for batch in batches])


def _write(path: Path, content: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ValueError(
            f"{path.parent}: {path.name} cannot be written ({error.strerror}); what is whole stays, "
            "and the same command goes on from there"
        ) from error
