"""Prompts along a video: the text encoder's states of each frame, spherically interpolated between two prompts.

n prompts   s states along the video   t text tokens   d text width
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from followyourpose.pipeline.schedule import blends, values_of

Prompt = str | Mapping[int, str]  # one for the whole video, or one from each of these frames on


@dataclass(frozen=True, eq=False)
class Texts:
    """Encoded prompts, and which of their states each frame of the video has.

    Attributes:
        embeds: (n, t, d), or (n, s, t, d) where a prompt changes along the video.
        states: of each frame, its index among the s; None: the prompts do not change.
    """

    embeds: Tensor
    states: tuple[int, ...] | None = None


def encode_along(
    prompts: Sequence[Prompt], num_frames: int, transition: int, encode: Callable[[list[str]], Tensor]
) -> Texts:
    """Encode prompts, each text of them once.

    Args:
        num_frames: of the video; transition: of them, those between two prompts, see schedule.py.
        encode: of texts, to states (texts, t, d).
    """
    texts = [values_of(prompt) for prompt in prompts]
    embeds = list(encode([text for each in texts for text in each]).split([len(each) for each in texts]))
    if not any(isinstance(prompt, Mapping) for prompt in prompts):
        return Texts(torch.cat(embeds))
    along = list(zip(*(blends(prompt, range(num_frames), transition) for prompt in prompts), strict=True))
    distinct = {blend: state for state, blend in enumerate(dict.fromkeys(along))}
    states = [
        torch.stack([slerp(own[a], own[b], share) for own, (a, b, share) in zip(embeds, blend, strict=True)])
        for blend in distinct
    ]
    return Texts(torch.stack(states, dim=1), tuple(distinct[blend] for blend in along))


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Interpolate vectors (..., d) along the arc between them, and their lengths in a straight line (Shoemake 1985).

    At share 0 and 1 these are the vectors themselves; parallel ones are interpolated in a straight line.
    """
    if share in (0, 1):
        return second if share else first
    a, b = first.float(), second.float()
    lengths = a.norm(dim=-1, keepdim=True).lerp(b.norm(dim=-1, keepdim=True), share)
    a, b = torch.nn.functional.normalize(a, dim=-1), torch.nn.functional.normalize(b, dim=-1)
    angle = torch.acos((a * b).sum(-1, keepdim=True).clamp(-1, 1))
    sine = angle.sin()
    arc = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / sine.clamp(min=1e-4)
    straight = torch.nn.functional.normalize(a.lerp(b, share), dim=-1)
    return (lengths * torch.where(sine < 1e-4, straight, arc)).to(first.dtype)
