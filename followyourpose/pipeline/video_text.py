"""Text of a call's videos, projected once: prompts along the video, people's words, LoRAs, and their parts in a window.

b videos   n prompts   p people   f frames   s states along the video   l tokens of a frame   t text tokens
d text width
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from followyourpose.models.adapters import LoraScale, scaled_loras
from followyourpose.models.attention import TextContext
from followyourpose.models.unet import TextCache, block_levels
from followyourpose.pipeline.call import Call
from followyourpose.pipeline.lora_scales import LoraScales, open_lora_scales
from followyourpose.pipeline.people import People, check_people, open_people
from followyourpose.pipeline.running import DenoisingPipeline
from followyourpose.pipeline.texts import Texts, TextScales, encode_along
from followyourpose.pipeline.windows import Window


class VideoText:
    """Encoded prompts and people of b videos.

    Attributes:
        embeds: of the prompts and of the negative prompts, (n, t, d) both or, where a prompt changes, (n, s, t, d).
        keys_values: these and the people's words, projected.
        kept: number of windows whose text is kept for the next step.
    """

    def __init__(
        self, pipe: DenoisingPipeline, videos: tuple[int, int, bool], texts: Texts, negative_embeds: Tensor,
        people: People | None, loras: LoraScales,
    ) -> None:  # fmt: skip
        """Keep the arguments; `videos` are the last ones of the pipeline's `encode_text`."""
        self.pipe, self.videos, self.texts, self.people, self.loras = pipe, videos, texts, people, loras
        self.embeds = texts.embeds, negative_embeds
        self.kept = 1
        # text of the video, and of it the window's with the scales of its LoRAs
        self._windows: dict[Window, tuple[TextCache, tuple[TextCache, dict[str, LoraScale]]]] = {}
        self.keys_values = self.project(*self.embeds)

    def project(self, prompt_embeds: Tensor, negative_prompt_embeds: Tensor) -> TextCache:
        """Project embeddings (n, [s,] t, d) to every layer's keys and values for b videos, people's behind them."""
        scene = self._projected(prompt_embeds, negative_prompt_embeds, self.texts.scales[:1])
        if self.people is None:
            return scene
        texts, own = self.people.texts, []
        for person, embeds in enumerate(texts.embeds):
            negative = negative_prompt_embeds if self.texts.states is None else negative_prompt_embeds[:, 0]
            negative = negative if texts.states is None else negative[:, None].expand(-1, len(embeds), -1, -1)
            negative = negative if self.people.negatives is None else self.people.negatives[person]
            own.append(self._projected(embeds.expand_as(negative), negative, texts.scales[person : person + 1]))

        def joined(*contexts: TextContext) -> TextContext:
            scene, *people = contexts
            return (*scene, *(torch.stack(each, dim=1) for each in zip(*people, strict=True)))

        return [list(map(joined, *blocks)) for blocks in zip(scene, *own, strict=True)]

    def _projected(self, embeds: Tensor, negative_embeds: Tensor, scales: Sequence[Sequence[TextScales]]) -> TextCache:
        """Project embeddings (n, [s,] t, d) for b videos, each state with its LoRAs; no `scales`: with all of them."""
        unet, states = self.pipe.unet, scales[0] if scales else [()]
        if len(set(states)) == 1:
            with scaled_loras(unet, own=dict(states[0])):
                return self.pipe.encode_text(embeds, negative_embeds, *self.videos)
        each = []
        for state, own in enumerate(states):
            with scaled_loras(unet, own=dict(own)):
                each.append(self.pipe.encode_text(embeds[:, state], negative_embeds[:, state], *self.videos))
        return [
            [
                tuple(torch.stack(x, dim=1) for x in zip(*contexts, strict=True))
                for contexts in zip(*blocks, strict=True)
            ]
            for blocks in zip(*each, strict=True)
        ]

    def of_window(self, window: Window, keys_values: TextCache) -> tuple[TextCache, dict[str, LoraScale]]:
        """Return the text of a window, of changing words each frame's, with people's shares of each level's places.

        Beside it are the LoRAs' scales, maps of the window's frames (f, h, w, 1) among them.
        """
        if self.texts.states is None and self.people is None and not self.loras.names:
            return keys_values, {}
        if window not in self._windows or self._windows[window][0] is not keys_values:
            if len(self._windows) >= self.kept:
                self._windows.clear()
            self._windows[window] = keys_values, self._of_window(window, keys_values)
        return self._windows[window][1]

    def _of_window(self, window: Window, keys_values: TextCache) -> tuple[TextCache, dict[str, LoraScale]]:
        people, unet, levels = self.people, self.pipe.unet, len(self.pipe.unet.down_blocks)
        count, per_prompt, guided = self.videos
        rows = count * per_prompt * (1 + guided)
        places = [torch.zeros(0, len(window), 1, 1)] * levels if people is None else people.shares(window, levels)
        places = [level.to(self.pipe._execution_device, unet.dtype) for level in places]

        def part(context: TextContext, level: int) -> TextContext:
            if people is None:
                return tuple(_of_frames(x, self.texts.states, window, 1) for x in context)
            half = len(context) // 2
            scene = (_of_frames(x, self.texts.states, window, 1) for x in context[:half])
            own = (_of_frames(x, people.texts.states, window, 2) for x in context[half:])
            shares = places[level].flatten(2)[..., None] * (1 - people.scene_share)
            return (*scene, *own, shares.expand(rows, *shares.shape))

        text = [
            [part(each, level) for each in block]
            for block, level in zip(keys_values, block_levels(levels), strict=True)
        ]
        return text, self.loras.of_window(window, places)


def encode_video_text(pipe: DenoisingPipeline, call: Call, count: int, size: tuple[int, int, int]) -> VideoText:
    """Encode a call's prompts, its negative ones and its people's words, each text once for each of its LoRAs' scales.

    Args:
        count: prompts, or skeletons where there are more.
        size: frames, height and width of the videos, in pixels.

    Raises:
        ValueError: embeddings of another shape, people whose keypoints cannot be used, or LoRAs that are not there.
    """
    how = call.clip_skip, pipe.cross_attention_scale
    given = [] if call.people is None else check_people(call.people, size[0], call.transition)
    loras = open_lora_scales(pipe, call.lora_scales, [person.loras for person in given], call.transition)
    negative = call.negative_prompt if call.guided else None

    def encode(texts: list[str], scales: TextScales, embeds: Tensor | None = None) -> Tensor:
        inputs = (texts, None, None, None) if embeds is None else (None, None, embeds, call.negative_prompt_embeds)
        with scaled_loras(pipe.text_encoder, own=dict(scales)):
            return pipe.encode_prompt(*inputs, *how)[0]

    def negatives(texts: Texts, prompts: Tensor, person: int = 0) -> Tensor:
        """Return the negative prompts (n, [s,] t, d) beside prompts (n, t, d), for the states of texts."""
        each = {}
        for own in texts.scales[person] if texts.scales else [()]:
            if own not in each:
                with scaled_loras(pipe.text_encoder, own=dict(own)):
                    each[own] = pipe.encode_prompt(None, negative, prompts, call.negative_prompt_embeds, *how)[1]
        states = texts.scales[person] if texts.scales else [()] * texts.embeds.shape[1]
        found = [each[own] for own in states]
        return found[0] if texts.states is None else torch.stack(found, dim=1)

    if loras.names or any(isinstance(prompt, Mapping) for prompt in call.texts):
        of_frames = [loras.of_text(size[0])] * call.prompts if loras.names else []
        prompts = call.texts or [""] * call.prompts  # of given embeddings
        texts = encode_along(prompts, size[0], call.transition, partial(encode, embeds=call.prompt_embeds), of_frames)
        first = texts.embeds if texts.states is None else texts.embeds[:, 0]
        negative_embeds = negatives(texts, first)
    else:
        first, negative_embeds = pipe.encode_prompt(
            call.prompt, negative, call.prompt_embeds, call.negative_prompt_embeds, *how
        )
        texts = Texts(first)
    people = None
    if given:
        people = open_people(
            given, size, pipe.vae_scale_factor, loras, call.scene_share, call.overlap, encode,
            lambda texts, person: negatives(texts, first, person),
        )  # fmt: skip
    videos = count, call.num_videos_per_prompt, call.guided
    return VideoText(pipe, videos, texts, negative_embeds, people, loras)


def _of_frames(x: Tensor, states: Sequence[int] | None, window: Window, dim: int) -> Tensor:
    """Return the states of a window's frames, along one dimension; None: the text is one for all frames."""
    if states is None:
        return x
    return x.index_select(dim, torch.tensor([states[frame] for frame in window], device=x.device))
