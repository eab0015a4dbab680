"""Prompts along a video: the text encoder's states of each frame, spherically interpolated between two prompts.

n prompts   s states along the video   t text tokens   d text width
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from followyourpose.pipeline.schedule import Blend, blends, values_of

Prompt = str | Mapping[int, str]  # one for the whole video, or one from each of these frames on
TextScales = tuple[tuple[str, float], ...]  # of the LoRAs that a text is encoded with, by their names


@dataclass(frozen=True, eq=False)
class Texts:
    """Encoded prompts, and which of their states each frame of the video has.

    Attributes:
        embeds: (n, t, d), or (n, s, t, d) where a prompt changes along the video.
        states: of each frame, its index among the s; None: the prompts do not change.
        scales: of each prompt, the LoRAs of each of its states; empty: no LoRA has a scale by frame or person.
    """

    embeds: Tensor
    states: tuple[int, ...] | None = None
    scales: tuple[tuple[TextScales, ...], ...] = ()


def encode_along(
    prompts: Sequence[Prompt], num_frames: int, transition: int, encode: Callable[[list[str], TextScales], Tensor],
    scales: Sequence[Sequence[TextScales]] = (),
) -> Texts:  # fmt: skip
    """Encode prompts, each text of them once for each of its LoRAs' scales.

    Args:
        num_frames: of the video; transition: of them, those between two prompts, see schedule.py.
        encode: of texts, with LoRAs, to states (texts, t, d).
        scales: of each prompt, the LoRAs of each frame; empty: none has a scale by frame or person.
    """
    texts = [values_of(prompt) for prompt in prompts]
    of_frames = scales or [[()] * num_frames] * len(prompts)
    states = [
        zip(blends(prompt, range(num_frames), transition), own, strict=True)
        for prompt, own in zip(prompts, of_frames, strict=True)
    ]
    along = list(zip(*states, strict=True))
    distinct = {state: number for number, state in enumerate(dict.fromkeys(along))}
    encoded = {
        own: encode([text for each in texts for text in each], own).split([len(each) for each in texts])
        for own in dict.fromkeys(own for state in distinct for _, own in state)
    }

    def embedded(prompt: int, blend: Blend, own: TextScales) -> Tensor:
        a, b, share = blend
        return slerp(encoded[own][prompt][a], encoded[own][prompt][b], share)

    embeds = torch.stack(
        [torch.stack([embedded(i, *each) for i, each in enumerate(state)]) for state in distinct], dim=1
    )
    used = tuple(zip(*([own for _, own in state] for state in distinct), strict=True)) if scales else ()
    if len(distinct) == 1 and not any(isinstance(prompt, Mapping) for prompt in prompts):
        return Texts(embeds[:, 0], scales=used)
    return Texts(embeds, tuple(distinct[state] for state in along), used)


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
