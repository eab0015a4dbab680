"""Textual inversion files (Gal et al. 2022, arXiv 2208.01618) -> a word and its vectors, in every form that is met.

diffusers      {word: vector (d,) or vectors (n, d)}
AUTOMATIC1111  .pt: {"string_to_param": {"*": vectors (n, d)}, "name": word, ...}
               .safetensors: {"emb_params": vectors (n, d)}, whose word is the file's name
"""

import pickle
import re
from collections.abc import Collection, Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


def read_embedding(source: Path | Mapping[str, Any], word: str | None = None) -> tuple[str, Tensor]:
    """Return the word of an embedding, or the one that is given in its place, and its vectors (n, d).

    Raises:
        ValueError: the file cannot be read, or has none of the forms above; the message names it.
    """
    name = str(source) if isinstance(source, Path) else "the given embedding"
    content = _read(source) if isinstance(source, Path) else source
    own, vectors = (source.stem if isinstance(source, Path) else None), None
    if "string_to_param" in content:
        own, vectors = content.get("name") or own, next(iter(dict(content["string_to_param"]).values()), None)
    elif content.keys() == {"emb_params"}:
        vectors = content["emb_params"]
    elif len(content) == 1:
        own, vectors = next(iter(content.items()))
    if not isinstance(vectors, Tensor) or vectors.ndim not in (1, 2):
        keys = ", ".join(map(str, list(content)[:3])) or "nothing"
        raise ValueError(f"{name}: got {keys}, expected the one embedding of a word, of Stable Diffusion 1.x")
    if not (word or own):
        raise ValueError(f"{name}: has no word of its own, expected one for it")
    return str(word or own), vectors.detach().reshape(-1, vectors.shape[-1])


def check_embedding(name: str, word: str, vectors: Tensor, width: int, vocabulary: Collection[str]) -> None:
    """Raise a ValueError unless vectors (n, d) are finite, as wide as the text encoder's, and their word is a new one.

    Args:
        name: of the file, for messages.
        width: d of the text encoder; vocabulary: of the tokenizer, in small letters: it does not tell A from a.
    """
    if vectors.shape[1] != width:
        raise ValueError(
            f"{name}: got vectors of width {vectors.shape[1]}, expected {width}: an embedding for another base"
        )
    if not vectors.isfinite().all():
        raise ValueError(f"{name}: got NaN or infinity")
    if not word.strip() or any(letter.isspace() for letter in word):
        raise ValueError(f"{name}: got the word {word!r}, expected one without spaces")
    for each in (word, *(f"{word}_{i}" for i in range(1, len(vectors)))):
        # A whole word of the vocabulary ends in </w>; it would be changed in every prompt.
        if {each.lower(), f"{each.lower()}</w>"} & set(vocabulary):
            raise ValueError(f"{name}: the word {each!r} is in the tokenizer's vocabulary already, expected another")


def with_all_vectors(prompt: str, words: Collection[str]) -> str:
    """Put behind each word of an embedding of several vectors those that stand for the others: hero hero_1 hero_2.

    Args:
        words: that have been added to the tokenizer, which does not tell A from a.
    """
    known = {word.lower() for word in words}
    chains = {}
    for word in known:
        numbers = takewhile(lambda i, word=word: f"{word}_{i}" in known, count(1))  # type: ignore[misc]
        if others := [f"{word}_{i}" for i in numbers]:
            chains[word] = " ".join([word, *others])
    if not chains:
        return prompt
    longest_first = "|".join(map(re.escape, sorted(chains, key=len, reverse=True)))
    return re.sub(rf"({longest_first})(?!_\d)", lambda match: chains[match[0].lower()], prompt, flags=re.IGNORECASE)


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        # AUTOMATIC1111's early files hold this class; nothing else is executed.
        with torch.serialization.safe_globals([nn.ParameterDict, nn.modules.container.ParameterDict, set]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file}: cannot be read as an embedding ({reason})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: got a {type(content).__name__}, expected the embedding of a word")
    return content
