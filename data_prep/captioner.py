"""Captioner: any image-to-text model of transformers (BLIP, BLIP-2, Florence-2, GIT, LLaVA, Qwen-VL, ...)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KINDS

from followyourpose.common.device import torch_device
from followyourpose.hub.resolve import resolve

QUESTION = "Describe this picture in one sentence."  # to a model that chats, where no prompt is given


class Captioner:
    """Model with its processor, on the GPU where there is one.

    Args:
        model: a folder, a name of the registry or a hub id.
        prompt: the question to a model that chats, Florence-2's task, or the beginning of BLIP's captions; "": the
            usual one.
        most: tokens of a caption.

    Raises:
        ValueError: there is no such model, it makes no text of images, or it cannot be read.
    """

    def __init__(self, model: str, prompt: str = "", most: int = 40) -> None:
        folder = resolve(model, "--model")
        self.device = torch_device(None)
        precision = torch.float32 if self.device == "cpu" else "auto"  # processors are slow at halves
        try:
            kind = AutoConfig.from_pretrained(folder).model_type
            if kind not in KINDS:
                raise ValueError(f"got a model of type {kind}, expected one from images to text, as blip or qwen2_5_vl")
            self.processor = AutoProcessor.from_pretrained(folder)
            network = AutoModelForImageTextToText.from_pretrained(folder, dtype=precision)
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(f"--model: {model}: {str(error).strip().partition(chr(10))[0]}") from error
        self.network = network.eval().to(self.device)
        self.prompt, self.most = prompt, most

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray]) -> list[str]:
        """Return a caption in one line, without the prompt, for each of the images (H, W, 3) uint8 RGB.

        Raises:
            ValueError: the GPU's memory is too small for so many.
        """
        inputs = self._inputs([Image.fromarray(image) for image in images]).to(self.device, self.network.dtype)
        try:
            tokens = self.network.generate(**inputs, max_new_tokens=self.most, do_sample=False)
        except torch.OutOfMemoryError as error:
            raise ValueError(f"--batch: the GPU's memory is too small for {len(images)} images at a time") from error
        captions = self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        prompts = [""] * len(captions)
        if "input_ids" in inputs:  # decoders repeat them
            prompts = self.processor.tokenizer.batch_decode(inputs["input_ids"], skip_special_tokens=True)
        pairs = zip(captions, prompts, strict=True)
        return [" ".join(caption.strip().removeprefix(prompt.strip()).split()) for caption, prompt in pairs]

    def _inputs(self, images: list[Image.Image]) -> Any:
        if getattr(self.processor, "chat_template", None):
            text = {"type": "text", "text": self.prompt or QUESTION}
            chats = [[{"role": "user", "content": [{"type": "image", "image": image}, text]}] for image in images]
            return self.processor.apply_chat_template(
                chats, add_generation_prompt=True, tokenize=True, return_dict=True,
                processor_kwargs={"padding": True, "padding_side": "left", "return_tensors": "pt"},
            )  # fmt: skip
        text = [self.prompt] * len(images) if self.prompt else None
        return self.processor(images=images, text=text, return_tensors="pt")
