"""Words of prompts on which a model of a small vocabulary was never trained, and those on which it was."""

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from followyourpose.common.files import printable

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

_END = "</w>"  # of a word's last token


def print_unknown_words(prompts: Sequence[str], pipe: "FollowYourPosePipeline", taught: Collection[str] = ()) -> None:
    """Print a line for each prompt with words on which a model of a small vocabulary was never trained.

    Below these, a line lists words on which it was.

    Args:
        taught: words that are known all the same: a LoRA's, by its name.
    """
    from followyourpose.pipeline.words import read_prompt

    unknown = {prompt: read_prompt(pipe.tokenizer, prompt, taught).unknown for prompt in prompts}
    for prompt, words in unknown.items():
        if words:
            never = f"this model was never trained on {', '.join(words)}; expect nonsense there"
            print(printable(f"{prompt!r:.80}: {never}"))
    if any(unknown.values()):
        print(printable(f"words that it has learned, among others: {', '.join(learned_words(pipe.tokenizer))}"))


def learned_words(tokenizer: "CLIPTokenizer") -> list[str]:
    """Return words that a small vocabulary holds whole, in its order, without those that also end a longer word."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ends = {pair[1] for pair in model["merges"]}
    words = [token.removesuffix(_END) for token in model["vocab"] if token.endswith(_END) and token not in ends]
    return [word for word in words if len(word) > 1]
