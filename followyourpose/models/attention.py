"""Attentions of the video UNet (arXiv 2304.01186): frames to frames, frames to text, positions over time.

b clips   f frames   c channels   l tokens of a frame   t text tokens
"""

from typing import Any, Literal

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from einops import rearrange
from torch import Tensor, nn

from followyourpose.common.checks import check_at_least
from followyourpose.models.fastest_attention import FAILURES, fastest_backend

KeysValues = tuple[Tensor, Tensor]  # keys and values of one attention, each (n, tokens, c)
# The same of a text, each (n, t, c), or the text itself, (n, t, d), to be projected; of a text that changes along the
# clip, (n, f, t, c or d). With p people's own texts: these, the people's, (n, p, t, c) or (n, p, f, t, c), and people's
# shares of the places, (n, p, f, l, 1).
TextContext = tuple[Tensor, ...]
MOST_HEADS = 2**16 - 1  # of one call on a GPU, whose grid of blocks has no more


def joined(parts: list[Tensor], dim: int) -> Tensor:
    """Join tensors of shape (n, l, ...) along a dimension; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V in heads of width d = channels / heads; subclasses pair queries with keys."""

    def __init__(self, channels: int, context_channels: int, heads: int):
        super().__init__()
        if channels % heads:
            raise ValueError(f"attention_head_dim: got {heads} heads, which do not divide {channels} channels")
        self.heads = heads
        # None: as diffusers' context or environment has it
        self.backend: AttentionBackendName | Literal["auto"] | None = None
        self.chunk: int | None = None  # queries at a time; None: all
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def keys_values(self, context: Tensor) -> KeysValues:
        """Project the context: (n, tokens, context_channels) -> keys and values, each (n, tokens, c)."""
        return self.to_k(context), self.to_v(context)

    def gather(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention of queries (n, l, c) over keys and values (n, tokens, c), in heads: (n, l, c)."""
        q, k, v = (rearrange(y, "n l (heads d) -> n l heads d", heads=self.heads) for y in (q, k, v))
        return rearrange(self.softmax(q, k, v), "n l heads d -> n l (heads d)")

    def softmax(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(q k^T / sqrt(d)) v of queries (n, l, heads, d): the same shape."""
        parts, backend = q.split(self.chunk or q.shape[1], 1), self.backend
        if backend == "auto" and torch.compiler.is_compiling():
            backend = AttentionBackendName.NATIVE  # nothing is measured in a graph
        elif backend == "auto":
            backend = fastest_backend((*parts[0].shape,), (*k.shape,), q.dtype, q.device)
        return joined([dispatch_attention_fn(part, k, v, backend=backend) for part in parts], dim=1)

    def attend(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        """Return the attention of tokens x (n, l, c) over keys and values (n, tokens, c), projected: (n, l, c)."""
        return self.to_out[0](self.gather(self.to_q(x), *keys_values))


class CrossFrameAttention(Attention):
    """Frame i attends to frame 0 and frame max(i - 1, 0): (b f) l c -> the same (stage 2 of the paper).

    For frames 0 and 1 both are frame 0, and softmax over a frame twice is softmax over it once: only later frames need
    the keys of two frames.
    """

    def forward(self, x: Tensor, frames: int) -> Tensor:
        q, k, v = (rearrange(y, "(b f) l c -> b f l c", f=frames) for y in (self.to_q(x), *self.keys_values(x)))
        parts = [self.gather(rearrange(q[:, :2], "b f l c -> b (f l) c"), k[:, 0], v[:, 0])]
        if frames > 2:
            parts.append(self.gather(q[:, 2:].flatten(0, 1), *(self.first_and_previous(y) for y in (k, v))))
        parts = [rearrange(y, "(b n) (f l) c -> b (n f) l c", b=len(q), l=x.shape[1]) for y in parts]
        return self.to_out[0](joined(parts, dim=1).flatten(0, 1))

    @staticmethod
    def first_and_previous(y: Tensor) -> Tensor:
        """Return the tokens of frames 0 and i - 1, side by side, for frames i from 2: b f l c -> (b (f - 2)) 2l c."""
        return torch.cat([y[:, :1].expand_as(y[:, 2:]), y[:, 1:-1]], dim=2).flatten(0, 1)


class TextAttention(Attention):
    """Every token of every frame attends to its clip's text: (b f) l c -> the same.

    In a person's places that person's text takes the scene's place: y + sum over people of share (y_person - y).
    """

    def forward(self, x: Tensor, text: TextContext, frames: int) -> Tensor:
        scene, people, shares = divided(text)
        q = self.to_q(x)
        y = total = self.over_text(q, scene, frames)
        for person in range(shares.shape[1] if people else 0):
            own = self.over_text(q, tuple(each[:, person] for each in people), frames)
            total = total + shares[:, person].flatten(0, 1) * (own - y)
        return self.to_out[0](total)

    def over_text(self, q: Tensor, text: TextContext, frames: int) -> Tensor:
        """Return the attention of queries (b f) l c over a text, in heads: the same shape."""
        keys, values = text if len(text) == 2 else self.keys_values(*text)
        if keys.ndim == 4:  # a text for each frame
            return self.gather(q, keys.flatten(0, 1), values.flatten(0, 1))
        q = rearrange(q, "(b f) l c -> b (f l) c", f=frames)  # one text for all frames: no copies
        return rearrange(self.gather(q, keys, values), "b (f l) c -> (b f) l c", f=frames)


def divided(text: TextContext) -> tuple[TextContext, TextContext, Tensor]:
    """Return a context's scene, (n, t, c) each, its people, (n, p, t, c) each, and their shares (n, p, f, l, 1).

    Without people the second is empty, and the third has no meaning.
    """
    if len(text) < 3:
        return text, (), text[0]
    half = len(text) // 2
    return text[:half], text[half:-1], text[-1]


class TemporalAttention(Attention):
    """Each position attends to itself in all frames, earlier and later ones: (b f) l c -> the same.

    A position is as good as a head of its own, and positions times heads lie in memory as the tokens do: no copies.
    """

    def forward(self, x: Tensor, frames: int) -> Tensor:
        q, k, v = (
            rearrange(y, "(b f) l (heads d) -> b f (l heads) d", f=frames, heads=self.heads)
            for y in (self.to_q(x), *self.keys_values(x))
        )
        parts = zip(*(y.split(MOST_HEADS, 2) for y in (q, k, v)), strict=True)
        y = joined([self.softmax(*part) for part in parts], dim=2)
        return self.to_out[0](rearrange(y, "b f (l heads) d -> (b f) l (heads d)", heads=self.heads))


class AttentionSettings:
    """Backend and chunks of all attentions of a diffusers network, and only of this one."""

    device: torch.device
    dtype: torch.dtype

    def set_attention_backend(self, backend: str, dtype: torch.dtype | None = None) -> None:
        """Set the attention backend: "native", "xformers", "flash", ..., or "auto", the fastest for each shape.

        It is tried at once, on the GPU where there is one; "auto" measures at the first call with a shape, and is the
        native one in a compiled network.

        Args:
            dtype: of the attention, under autocast not that of the weights; None: that of the weights.

        Raises:
            ValueError: diffusers has no such backend, or it cannot run here.
        """
        device = torch.device("cuda") if torch.cuda.is_available() else self.device
        set_backend(self, backend, device, dtype or self.dtype)

    def reset_attention_backend(self) -> None:
        """Leave the choice to diffusers: its `attention_backend` context, else DIFFUSERS_ATTN_BACKEND, else native."""
        for attention in attentions_of(self):
            attention.backend = None

    def set_use_memory_efficient_attention_xformers(self, valid: bool, attention_op: Any = None) -> None:
        """Set or reset xformers, as the methods of diffusers' pipelines and networks do.

        Raises:
            ValueError: xformers cannot run here, or an operator of it is chosen.
        """
        if attention_op is not None:
            raise ValueError(f"attention_op: got {attention_op!r}, expected none: diffusers chooses it")
        if valid:
            self.set_attention_backend("xformers")
        else:
            self.reset_attention_backend()

    def set_attention_chunk(self, queries: int | None) -> None:
        """Set the number of queries that attend at a time, at the same result; None: all.

        It bounds the scores in memory where a backend keeps them; the fused ones keep none.

        Raises:
            ValueError: a number below 1.
        """
        if queries is not None:
            check_at_least("attention chunk", queries)
        for attention in attentions_of(self):
            attention.chunk = queries


def attentions_of(model: Any) -> list[Attention]:
    """Return all attentions of a model."""
    return [module for module in model.modules() if isinstance(module, Attention)]


def set_backend(model: Any, backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """Set the attention backend of a model, after a trial with the widths of its heads.

    Raises:
        ValueError: diffusers has no such backend, or it cannot run here.
    """
    names = ["auto", *(name.value for name in AttentionBackendName)]
    if backend not in names:
        raise ValueError(f"attention backend: got {backend!r}, expected one of {', '.join(names)}")
    attentions, named = attentions_of(model), backend != "auto"
    for heads, c in {(attention.heads, attention.to_q.out_features) for attention in attentions if named}:
        probe = torch.zeros(1, 8, heads, c // heads, device=device, dtype=dtype)
        try:
            dispatch_attention_fn(probe, probe, probe, backend=AttentionBackendName(backend))
        except FAILURES as error:
            reason = error if torch.cuda.is_available() else "there is no CUDA device"
            raise ValueError(
                f"attention backend: got {backend!r}, which does not run here with {c // heads} channels per head, "
                f"{dtype}, on {device} (is its package installed?): {reason}"
            ) from error
    for attention in attentions:
        attention.backend = AttentionBackendName(backend) if named else "auto"
