"""Safetensors files with a checksum: damage is an error when they are read, and not other weights.

Their metadata has one key, whose value is JSON: facts about the tensors, and as `sha256` the checksum of names, types,
shapes, values and facts. Files of other programs, and of earlier versions, have none, and are read without that check.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CHECKSUM = "sha256"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], key: str, facts: Mapping[str, Any] | None = None) -> None:
    """Write tensors as a safetensors file with a checksum and, under `key` in its metadata, facts about them.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts = {**(facts or {}), CHECKSUM: _checksum(tensors, facts or {})}
    try:
        save_file(tensors, path, {key: json.dumps(facts, sort_keys=True)})  # one key: of several the order is random
    except SafetensorError as error:
        raise OSError(str(error)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a safetensors file, and the facts in its metadata.

    Raises:
        ValueError: the file is missing, cut off or damaged; the message names it.
    """
    with _opened(path) as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, _facts(file.metadata())
    checksum = facts.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(tensors, facts):
        raise ValueError(f"{path}: is damaged, its checksum is that of another content")
    return tensors, facts


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts in the metadata of a safetensors file, without a check of its tensors.

    Raises:
        ValueError: the file is missing, cut off or damaged; the message names it.
    """
    with _opened(path) as file:
        return _facts(file.metadata())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


def _facts(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    for value in (metadata or {}).values():
        try:
            facts = json.loads(value)
        except ValueError:  # another program's
            continue
        if isinstance(facts, dict):
            return facts
    return {}


def _checksum(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
