"""Prompts as they are read: a small vocabulary knows its captions' words alone, and a long prompt loses its end."""

import copy

import pytest
from transformers import CLIPTokenizer

from followyourpose.config import REPOSITORY
from followyourpose.pipeline.words import read_prompt
from followyourpose.puppets.world import captions


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    """The embedded default's."""
    return CLIPTokenizer.from_pretrained(REPOSITORY / "checkpoints" / "puppet" / "tokenizer")


def test_every_caption_of_the_world_is_known_and_read_whole(tokenizer: CLIPTokenizer) -> None:
    for caption in captions():
        reading = read_prompt(tokenizer, caption)
        assert not reading.unknown and not reading.ignored and reading.tokens <= reading.room == 18


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a unicorn on Mars, a unicorn", ["unicorn", "Mars"]),
        ("An Astronaut on the MOON!", []),
        ("2 pandas x 🦄", ["2", "x", "🦄"]),
        ("a panda's forest", ["panda's"]),
        ("a panda, as a blueprint", ["blueprint"]),
        ("", []),
    ],
)
def test_words_beyond_the_captions_are_named(tokenizer: CLIPTokenizer, prompt: str, unknown: list[str]) -> None:
    assert read_prompt(tokenizer, prompt).unknown == unknown


def test_a_word_that_a_lora_taught_is_known(tokenizer: CLIPTokenizer) -> None:
    assert not read_prompt(tokenizer, "a panda, as a Blueprint", taught=["blueprint"]).unknown


def test_a_word_of_a_textual_inversion_is_known(tokenizer: CLIPTokenizer) -> None:
    more = copy.deepcopy(tokenizer)
    more.add_tokens("<hero>")
    assert read_prompt(more, "a panda as <HERO>").unknown == []
    assert read_prompt(tokenizer, "a panda as <HERO>").unknown == ["HERO"]


def test_the_end_of_a_long_prompt_is_ignored_by_name(tokenizer: CLIPTokenizer) -> None:
    reading = read_prompt(tokenizer, f"{'a panda ' * 9}in the forest")
    assert (reading.tokens, reading.ignored) == (21, "in the forest")
