"""Files that a run adds to its model: `lora` and `embeddings` of a config -> a pipeline that has them in itself."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from followyourpose.config import ConfigError, EmbeddingEntry, LoraEntry, find_model
from followyourpose.models.loading import EMBEDDING_NAME, LORA_NAME, weights_file

if TYPE_CHECKING:
    from followyourpose.pipeline.pipeline import FollowYourPosePipeline


@dataclass(frozen=True)
class LoraInput:
    """A file of LoRA weights, and the factor of its additions."""

    path: Path
    weight: float = 1.0


@dataclass(frozen=True)
class EmbeddingInput:
    """A file of a textual inversion, and the word that stands for it in prompts; None: the file's own."""

    path: Path
    word: str | None = None


def open_loras(entries: Any) -> list[LoraInput]:
    """Return the LoRAs of a run, in order: a path, a mapping with `path` and `weight`, or a list of these; None: none.

    Raises:
        ConfigError: an entry is neither, a weight is no number, or a file is missing.
    """
    found = []
    for key, path, fields in _entries("lora", entries, LoraEntry, "weight: 0.8", LORA_NAME):
        weight = fields.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not np.isfinite(weight):
            raise ConfigError(f"{key}: got weight {weight!r}, expected a number")
        found.append(LoraInput(path, float(weight)))
    return found


def open_embeddings(entries: Any) -> list[EmbeddingInput]:
    """Return the textual inversions of a run: a path, a mapping with `path` and `word`, or a list of these; None: none.

    Raises:
        ConfigError: an entry is neither, a word is no text, or a file is missing.
    """
    found = []
    for key, path, fields in _entries("embeddings", entries, EmbeddingEntry, "word: <hero>", EMBEDDING_NAME):
        word = fields.get("word")
        if word is not None and (not isinstance(word, str) or not word.strip()):
            raise ConfigError(f"{key}: got word {word!r}, expected text")
        found.append(EmbeddingInput(path, word))
    return found


def _entries(
    name: str, entries: Any, schema: type, example: str, usual: str
) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Yield the key of each entry of a setting, its file, and its fields."""
    if not isinstance(entries, list):
        entries = [] if entries is None else [entries]
    known = [field.name for field in dataclasses.fields(schema)]
    for index, entry in enumerate(entries):
        key = f"{name}[{index}]"
        fields = vars(entry) if isinstance(entry, schema) else entry if isinstance(entry, dict) else {"path": entry}
        if unknown := sorted(map(str, fields.keys() - set(known))):
            raise ConfigError(f"{key}: unknown key {unknown[0]}, expected {' and '.join(known)}")
        if not isinstance(path := fields.get("path"), str):
            raise ConfigError(f"{key}: got {entry!r}, expected a path or {{path: ..., {example}}}")
        try:
            file = weights_file(find_model(path, key), usual)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
        yield key, file, fields


def add_embeddings(pipe: "FollowYourPosePipeline", embeddings: list[EmbeddingInput]) -> None:
    """Add the words of textual inversions to a pipeline's vocabulary, in place, and print them.

    Raises:
        ValueError: a file holds no embedding, or one of another width, or its word is in the vocabulary already.
    """
    for embedding in embeddings:
        before = set(pipe.tokenizer.get_added_vocab())
        pipe.load_textual_inversion(embedding.path, token=embedding.word)
        words = sorted(set(pipe.tokenizer.get_added_vocab()) - before, key=len)
        print(f"{embedding.path}: in prompts it is {words[0]}")


def apply_loras(pipe: "FollowYourPosePipeline", loras: list[LoraInput]) -> None:
    """Add LoRAs, times their weights, to a pipeline's own weights, in place: steps take no longer than without them.

    Raises:
        ValueError: a file holds no LoRA, or one for another base; the message names the file, the layer and the shapes.
    """
    for lora in loras:
        pipe.load_lora_weights(lora.path)
        pipe.fuse_lora(lora_scale=lora.weight)
        pipe.unload_lora_weights()
