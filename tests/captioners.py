"""Tiny random captioners: a BLIP, which takes no prompt or the beginning of a caption, and a LLaVA, which chats."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

WORDS = "a one the man woman dog robot dances walks jumps runs on in of red blue street forest moon hat".split()
IMAGE = "<image>"
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
TOKENS = {word: index for index, word in enumerate([*SPECIAL, *WORDS, IMAGE])}
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SQUARE = {"height": 16, "width": 16}
CHAT = (
    "{% for m in messages %}{% for c in m.content %}{{ '<image>' if c.type == 'image' else c.text }} {% endfor %}"
    "{% endfor %}"
)


def write_blip(folder: Path, seed: int = 0) -> Path:
    """Write a BLIP whose captions are words in a random order."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]), encoding="utf-8")
    ids = {"bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "pad_token_id": 0}
    text = (
        SMALL
        | ids
        | {
            "vocab_size": len(TOKENS) - 1,
            "encoder_hidden_size": 16,
            "initializer_range": 1.0,
            "tie_word_embeddings": False,
        }
    )
    vision = SMALL | {"image_size": 16, "patch_size": 8, "initializer_range": 1.0}
    torch.manual_seed(seed)
    network = BlipForConditionalGeneration(
        BlipConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    )
    network.save_pretrained(folder)
    processor = BlipProcessor(BlipImageProcessor(size=SQUARE), BertTokenizerFast(str(folder / "vocab.txt")))
    processor.save_pretrained(folder)
    return folder


def write_llava(folder: Path, seed: int = 0) -> Path:
    """Write a LLaVA with a chat template."""
    tokenizer = Tokenizer(models.WordLevel(TOKENS, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens={"image_token": IMAGE}, **special
    )
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=SQUARE)
    LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)  # fmt: skip
    vision = CLIPVisionConfig(**SMALL, image_size=16, patch_size=8, projection_dim=16, initializer_range=1.0)
    text = LlamaConfig(
        **SMALL, vocab_size=len(TOKENS), bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=1.0
    )
    torch.manual_seed(seed)
    network = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=TOKENS[IMAGE], vision_feature_layer=-1)
    )
    network.save_pretrained(folder)
    return folder
