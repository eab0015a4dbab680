"""Words of a prompt as a tokenizer reads them: their tokens, and those that a small model has never seen."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_CLOSED = 10_000  # tokens: a vocabulary of fewer holds whole the words of its captions; CLIP's own, 49,408, builds any
_WORD = r"[^\W_]+(?:['’]\w+)?|[^\w\s!-/:-@\[-`{-~]+"  # a run of letters and digits, or of signs such as emoji


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as the text encoder gets it.

    Attributes:
        tokens: of the prompt, without those of start and end; room: the most that are read.
        unknown: words that no caption of the training had, each once; empty for a tokenizer that builds any word.
        ignored: the end of the prompt, which is not read.
    """

    tokens: int
    room: int
    unknown: list[str]
    ignored: str


def read_prompt(tokenizer: "CLIPTokenizer", prompt: str, taught: Collection[str] = ()) -> ReadPrompt:
    """Return how a prompt is read.

    Args:
        taught: further words that are known, of a LoRA for instance.
    """
    ids, room = tokenizer(prompt).input_ids[1:-1], tokenizer.model_max_length - 2
    text = prompt
    for inversion in tokenizer.get_added_vocab():  # such as <hero>
        text = re.sub(re.escape(inversion), " ", text, flags=re.IGNORECASE)
    words = list(dict.fromkeys(re.findall(_WORD, text))) if len(tokenizer) < _CLOSED else []
    known = {word.lower() for word in taught}
    return ReadPrompt(
        len(ids),
        room,
        [word for word in words if word.lower() not in known and not _whole(tokenizer, word)],
        tokenizer.decode(ids[room:]).strip(),
    )


def _whole(tokenizer: "CLIPTokenizer", word: str) -> bool:
    """Whether a word is one token of several letters, or the article; every single letter is a token."""
    return word.lower() == "a" or len(word) > 1 and len(tokenizer.tokenize(word)) == 1
