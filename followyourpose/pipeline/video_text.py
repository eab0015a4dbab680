"""Text of a call's videos, projected once: prompts along the video, people's words, and what of them acts in a window.

b videos   n prompts   p people   f frames   s states along the video   l tokens of a frame   t text tokens
d text width
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from followyourpose.models.attention import TextContext
from followyourpose.models.unet import TextCache, block_levels, text_count
from followyourpose.pipeline.call import Call
from followyourpose.pipeline.people import People, check_people, open_people
from followyourpose.pipeline.running import DenoisingPipeline
from followyourpose.pipeline.texts import Texts, encode_along
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
        people: People | None,
    ) -> None:  # fmt: skip
        """Keep the arguments; `videos` are the last ones of the pipeline's `encode_text`."""
        self.pipe, self.videos, self.states, self.people = pipe, videos, texts.states, people
        self.embeds = texts.embeds, negative_embeds
        self.kept = 1
        self._windows: dict[Window, tuple[TextCache, TextCache]] = {}  # text of the video, and of it the window's
        self.keys_values = self.project(*self.embeds)

    def project(self, prompt_embeds: Tensor, negative_prompt_embeds: Tensor) -> TextCache:
        """Project embeddings (n, [s,] t, d) to every layer's keys and values for b videos, people's behind them."""
        scene = self.pipe.encode_text(prompt_embeds, negative_prompt_embeds, *self.videos)
        if self.people is None:
            return scene
        people = self.pipe.unet.encode_text(self.people.texts.embeds.flatten(0, -3))
        rows, shape = text_count(scene), self.people.texts.embeds.shape[:-2]

        def joined(context: TextContext, own: TextContext) -> TextContext:
            return (*context, *(x.unflatten(0, shape).expand(rows, *shape, -1, -1) for x in own))

        return [list(map(joined, *blocks)) for blocks in zip(scene, people, strict=True)]

    def of_window(self, window: Window, keys_values: TextCache) -> TextCache:
        """Return the text of a window: of changing words each frame's, and people's shares of each level's places."""
        if self.states is None and self.people is None:
            return keys_values
        if window not in self._windows or self._windows[window][0] is not keys_values:
            if len(self._windows) >= self.kept:
                self._windows.clear()
            self._windows[window] = keys_values, self._of_window(window, keys_values)
        return self._windows[window][1]

    def _of_window(self, window: Window, keys_values: TextCache) -> TextCache:
        people, levels = self.people, len(self.pipe.unet.down_blocks)

        def part(context: TextContext, level: int) -> TextContext:
            if people is None:
                return tuple(_of_frames(x, self.states, window, 1) for x in context)
            half = len(context) // 2
            scene = (_of_frames(x, self.states, window, 1) for x in context[:half])
            own = (_of_frames(x, people.texts.states, window, 2) for x in context[half:])
            return (*scene, *own, shares[level])

        shares = [] if people is None else [self._for_rows(x, keys_values) for x in people.shares(window, levels)]
        return [
            [part(each, level) for each in block]
            for block, level in zip(keys_values, block_levels(levels), strict=True)
        ]

    def _for_rows(self, share: Tensor, keys_values: TextCache) -> Tensor:
        """Repeat people's shares (p, f, l, 1) for all rows of a text; in the unconditional half they are zero."""
        count, per_prompt, guided = self.videos
        unet, b = self.pipe.unet, count * per_prompt
        rows = share.to(self.pipe._execution_device, unet.dtype).expand(b, *share.shape)
        return torch.cat([torch.zeros_like(rows), rows]) if guided else rows


def encode_video_text(pipe: DenoisingPipeline, call: Call, count: int, size: tuple[int, int, int]) -> VideoText:
    """Encode a call's prompts, its negative ones and its people's words, each text once.

    Args:
        count: prompts, or skeletons where there are more.
        size: frames, height and width of the videos, in pixels.

    Raises:
        ValueError: embeddings of another shape, or people whose keypoints cannot be used.
    """
    how = call.clip_skip, pipe.cross_attention_scale

    def encode(texts: list[str]) -> Tensor:
        return pipe.encode_prompt(texts, None, None, None, *how)[0]

    negative, given = call.negative_prompt if call.guided else None, call.negative_prompt_embeds
    if any(isinstance(prompt, Mapping) for prompt in call.texts):
        texts = encode_along(call.texts, size[0], call.transition, encode)
        _, negative_embeds = pipe.encode_prompt(None, negative, texts.embeds[:, 0], given, *how)
        negative_embeds = negative_embeds[:, None].expand_as(texts.embeds)
    else:
        embeds, negative_embeds = pipe.encode_prompt(call.prompt, negative, call.prompt_embeds, given, *how)
        texts = Texts(embeds)
    people = None
    if call.people is not None:
        people = open_people(
            check_people(call.people, size[0], call.transition), size, pipe.vae_scale_factor, call.transition,
            call.scene_share, call.overlap, encode,
        )  # fmt: skip
    return VideoText(pipe, (count, call.num_videos_per_prompt, call.guided), texts, negative_embeds, people)


def _of_frames(x: Tensor, states: Sequence[int] | None, window: Window, dim: int) -> Tensor:
    """Return the states of a window's frames, along one dimension; None: the text is one for all frames."""
    if states is None:
        return x
    return x.index_select(dim, torch.tensor([states[frame] for frame in window], device=x.device))
