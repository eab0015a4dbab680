"""Files that a run adds to its model: `lora` and `embeddings` of a config -> a pipeline that has them in itself.

LoRAs are merged into the weights, but for those whose weight changes along the video, and people's: they stay beside
the weights, under names by which calls scale them.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from followyourpose.config import ConfigError, EmbeddingEntry, GenerateConfig, LoraEntry, build_config, find_model
from followyourpose.models.loading import EMBEDDING_NAME, LORA_NAME, weights_file

if TYPE_CHECKING:
    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

Entry = TypeVar("Entry", LoraEntry, EmbeddingEntry)


def open_loras(entries: Any, name: str = "lora") -> list[LoraEntry]:
    """Return the LoRAs of a run, in order, with their files: a path, a mapping, or a list of these; None: none.

    Raises:
        ConfigError: an entry is neither, or a file is missing; the message begins with `name`.
    """
    return _opened(name, entries, LoraEntry, LORA_NAME)


def kept_loras(config: GenerateConfig) -> dict[str, LoraEntry]:
    """Return the LoRAs of a run that stay beside the weights, by their names in the pipeline.

    Raises:
        ConfigError: as `open_loras`.
    """
    named = {}
    for setting, entries in lora_settings(config).items():
        beginning = re.sub(r"\W+", "_", setting)  # people[0].lora: people_0_lora
        for i, lora in enumerate(open_loras(entries, setting)):
            if setting != "lora" or isinstance(lora.weight, Mapping):
                named[f"{beginning}_{i}"] = lora
    return named


def lora_settings(config: GenerateConfig) -> dict[str, Any]:
    """Return the settings of a run that give LoRAs, people's among them, as they are written: name -> entries."""
    people = enumerate(config.people if isinstance(config.people, list) else [])
    return {"lora": config.lora} | {f"people[{number}].lora": person.get("lora") for number, person in people}


def lora_scales(config: GenerateConfig, person: int | None = None) -> dict[str, Any]:
    """Return the scales of the kept LoRAs of the whole video, or of a person's, as the pipeline's calls take them."""
    beginning = "lora_" if person is None else f"people_{person}_lora_"
    return {name: lora.weight for name, lora in kept_loras(config).items() if name.startswith(beginning)}


def open_embeddings(entries: Any) -> list[EmbeddingEntry]:
    """Return the textual inversions of a run likewise.

    Raises:
        ConfigError: an entry is neither, or a file is missing.
    """
    return _opened("embeddings", entries, EmbeddingEntry, EMBEDDING_NAME)


def _opened(name: str, entries: Any, schema: type[Entry], usual: str) -> list[Entry]:
    if not isinstance(entries, list):
        entries = [] if entries is None else [entries]
    found = []
    for index, entry in enumerate(entries):
        key = f"{name}[{index}]"
        if not isinstance(entry, schema):
            entry = build_config(schema, entry if isinstance(entry, Mapping) else {"path": entry}, name=key)
        try:
            found.append(replace(entry, path=str(weights_file(find_model(entry.path, key), usual))))
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
    return found


def add_embeddings(pipe: "FollowYourPosePipeline", embeddings: list[EmbeddingEntry]) -> None:
    """Add the words of textual inversions to a pipeline's vocabulary, in place, and print them.

    Raises:
        ValueError: a file holds no embedding, or one of another width, or its word is in the vocabulary already.
    """
    for embedding in embeddings:
        before = set(pipe.tokenizer.get_added_vocab())
        pipe.load_textual_inversion(embedding.path, token=embedding.word)
        words = sorted(set(pipe.tokenizer.get_added_vocab()) - before, key=len)
        print(f"{embedding.path}: in prompts it is {words[0]}")


def add_loras(pipe: "FollowYourPosePipeline", config: GenerateConfig) -> None:
    """Add the LoRAs of a run to a pipeline, in place: in its weights or, where calls scale them, beside these.

    Raises:
        ValueError: as `apply_loras`; or one can act neither by frame nor by person.
    """
    from followyourpose.models.adapters import check_mapped  # late: settings are checked without PyTorch

    apply_loras(pipe, [lora for lora in open_loras(config.lora) if not isinstance(lora.weight, Mapping)])
    kept = kept_loras(config)
    for name, lora in kept.items():
        pipe.load_lora_weights(lora.path, adapter_name=name)
        try:
            check_mapped(pipe.unet, [name])
        except ValueError as error:
            raise ValueError(str(error).replace(name, lora.path, 1)) from error
    if kept:
        pipe.set_adapters(list(kept))


def apply_loras(pipe: "FollowYourPosePipeline", loras: list[LoraEntry]) -> None:
    """Add LoRAs, times their weights, to a pipeline's own weights, in place: steps take no longer than without them.

    Raises:
        ValueError: a file holds no LoRA, or one for another base; the message names the file, the layer and the shapes.
    """
    for lora in loras:
        pipe.load_lora_weights(lora.path)
        pipe.fuse_lora(lora_scale=lora.weight)
        pipe.unload_lora_weights()
