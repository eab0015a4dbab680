"""Layers and blocks of the video UNet (Follow Your Pose, arXiv 2304.01186), under diffusers' names.

A clip travels as "(b f) c h w"; only the layers that mix frames regroup it. Where a clip has several texts, the layers
before the first text attention run once for all of them; from there on the batch is "(g b)", written b like any other.

    b clips   f frames   c channels   h w latent height and width   l = h * w tokens   t text tokens   d text width
    g texts per clip
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from einops import rearrange
from torch import Tensor, nn

from followyourpose.models.attention import (
    CrossFrameAttention,
    KeysValues,
    TemporalAttention,
    TextAttention,
    TextContext,
)
from followyourpose.models.group_norm import ClipGroupNorm, GroupNorm


def for_each_text(x: Tensor, n: int) -> Tensor:
    """Repeat a tensor that all texts of a clip share, (b f, ...), to n rows: (g b f, ...)."""
    return x if len(x) == n else torch.cat([x] * (n // len(x)))  # which keeps the memory layout


class FrameConv(nn.Module):
    """Convolution over three neighbouring frames, zero beyond the clip, no bias: (b, c, f, l) -> (b, c_out, f, l)."""

    def __init__(self, c_in: int, c_out: int, std: float):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 3) * std)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.unsqueeze(-1), padding=(1, 0))


class LowRankTemporalConv(nn.Module):
    """up(down(x)) along the frames: (b f) l c -> the same; `up` starts at zero (stage 2 of the paper).

    The rank is the requested one, or half the width where the width is smaller, as in the released weights.
    """

    def __init__(self, channels: int, rank: int):
        super().__init__()
        rank = rank if rank <= channels else channels // 2
        self.down = FrameConv(channels, rank, std=1 / rank)
        self.up = FrameConv(rank, channels, std=0)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        # As (b, c, f, l), tokens are an image in channels-last memory: a 3 x 1 kernel needs no transposition.
        x = rearrange(x, "(b f) l c -> b c f l", f=frames)
        return rearrange(self.up(self.down(x)), "b c f l -> (b f) l c")


class PoseConcat(nn.Module):
    """Fusion of the ablation, in place of a sum: hidden state and pose feature (n, c, h, w), joined by a 1x1.

    It starts as the identity on the hidden state. The features start at zero, so their half may start at random.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 1)
        nn.init.dirac_(self.conv.weight[:, :channels])
        nn.init.zeros_(self.conv.get_parameter("bias"))

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        return self.conv(torch.cat([x, feature], dim=1))


class TransformerBlock(nn.Module):
    """Cross-frame attention, text attention, feed-forward, temporal attention, temporal convolution, each residual.

    The last two are new in the video network and start as identities: their last layers start at zero.
    """

    cross_frame = True  # False: frames attend to themselves before the text

    def __init__(self, channels: int, text_channels: int, heads: int, temporal_rank: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = CrossFrameAttention(channels, channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = TextAttention(channels, text_channels, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, activation_fn="geglu")
        self.norm_temp = nn.LayerNorm(channels)
        self.attn_temp = TemporalAttention(channels, channels, heads)
        self.conv_temporal = LowRankTemporalConv(channels, temporal_rank)
        for parameter in self.attn_temp.to_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, text: TextContext, frames: int) -> Tensor:  # (b f) l c
        x = x + self.attn1(self.norm1(x), frames if self.cross_frame else 1)
        x = for_each_text(x, len(text[0]) * frames)
        x = x + self.attn2(self.norm2(x), text, frames)
        x = x + self.ff(self.norm3(x))
        x = x + self.attn_temp(self.norm_temp(x), frames)
        return x + self.conv_temporal(x, frames)


class Transformer(nn.Module):
    """One transformer block between two 1x1 convolutions, residual: (b f) c h w -> the same. Its norm is per frame."""

    def __init__(self, channels: int, text_channels: int, heads: int, groups: int, temporal_rank: int):
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=1e-6)  # 1e-6 whatever norm_eps is, as in Stable Diffusion
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, text_channels, heads, temporal_rank)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def keys_values(self, text: Tensor) -> KeysValues:
        """Project text (b, t, d) for this layer: keys and values, each (b, t, c)."""
        block: Any = self.transformer_blocks[0]
        return block.attn2.keys_values(text)

    def forward(self, x: Tensor, text: TextContext, frames: int) -> Tensor:
        tokens = rearrange(self.proj_in(self.norm(x)), "n c h w -> n (h w) c").contiguous()
        tokens = self.transformer_blocks[0](tokens, text, frames)
        y = self.proj_out(rearrange(tokens, "n (h w) c -> n c h w", h=x.shape[2]))
        return for_each_text(x, len(y)) + y


class ResnetBlock(nn.Module):
    """Two convolutions per frame, the time added between them, residual: (b f) c h w -> (b f) c_out h w.

    The time (1 or b, c_time) comes activated, once for all blocks. A LoRA of its projection may act by frame and place:
    then it is one for each image.
    """

    def __init__(self, c_in: int, c_out: int, time_channels: int, groups: int, eps: float):
        super().__init__()
        self.norm1 = ClipGroupNorm(groups, c_in, eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, c_out)
        self.norm2 = ClipGroupNorm(groups, c_out, eps)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, frames: int) -> Tensor:
        clips, time = len(time), self.time_emb_proj(time[:, None, None]).permute(0, 3, 1, 2)  # n c 1 1, or n c h w
        if len(time) > 1:
            time = for_each_text(time.repeat_interleave(frames, dim=0) if len(time) == clips else time, len(x))
        y = self.conv1(self.norm1(x, frames)) + time
        return self.conv_shortcut(x) + self.conv2(self.norm2(y, frames))


class Downsample(nn.Module):
    """Halves height and width, rounding up: (b f) c h w -> (b f) c h/2 w/2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest neighbours at `size`, the size of the next skip: (b f) c h w -> (b f) c *size."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class Block(nn.Module):
    """One resolution: resnets, each followed by a transformer where the block has attention."""

    def __init__(self, resnets: list[ResnetBlock], attentions: list[Transformer]):
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions)
        # set by diffusers' enable_gradient_checkpointing(), which is non-reentrant
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Tensor]

    def run(self, layer: nn.Module, *args: Any) -> Tensor:
        """Call a layer; under gradient checkpointing the backward pass computes its activations again."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(layer, *args)
        return layer(*args)

    def layer(self, i: int, x: Tensor, time: Tensor, text: list[TextContext], frames: int) -> Tensor:
        """Run resnet i and, where there is one, transformer i: (b f) c h w -> (b f) c_out h w."""
        x = self.run(self.resnets[i], x, time, frames)
        return self.run(self.attentions[i], x, text[i], frames) if i < len(self.attentions) else x


class DownBlock(Block):
    """One resolution on the way down. The pose feature joins after the last layer, so the skip carries it too.

    The released code adds it after the second layer, of two, and drops it under gradient checkpointing; here the sum is
    outside of the checkpointed layers.
    """

    def __init__(self, resnets: list[ResnetBlock], attentions: list[Transformer], downsample: bool, concat: bool):
        super().__init__(resnets, attentions)
        channels = resnets[-1].conv2.out_channels
        self.downsamplers = nn.ModuleList([Downsample(channels)] if downsample else [])
        self.pose_concat = PoseConcat(channels) if concat else None

    def forward(
        self, x: Tensor, time: Tensor, text: list[TextContext], frames: int, feature: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for i in range(len(self.resnets)):
            x = self.layer(i, x, time, text, frames)
            if feature is not None and i == len(self.resnets) - 1:
                feature = rearrange(feature, "b c f h w -> (b f) c h w")
                x = for_each_text(x, len(feature))
                x = x + feature if self.pose_concat is None else self.pose_concat(x, feature)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            skips.append(x)
        return x, skips


class MidBlock(Block):
    """The lowest resolution: resnet, transformer, resnet."""

    def forward(self, x: Tensor, time: Tensor, text: list[TextContext], frames: int) -> Tensor:
        return self.layer(1, self.layer(0, x, time, text, frames), time, text, frames)


class UpBlock(Block):
    """One resolution on the way up, from the skips at the end of the list to the size of the next one."""

    def __init__(self, resnets: list[ResnetBlock], attentions: list[Transformer], upsample: bool):
        super().__init__(resnets, attentions)
        self.upsamplers = nn.ModuleList([Upsample(resnets[-1].conv2.out_channels)] if upsample else [])

    def forward(self, x: Tensor, time: Tensor, text: list[TextContext], frames: int, skips: list[Tensor]) -> Tensor:
        for i in range(len(self.resnets)):
            skip = for_each_text(skips.pop(), len(x))
            x = self.layer(i, torch.cat([x, skip], dim=1), time, text, frames)
        for upsampler in self.upsamplers:
            x = upsampler(x, skips[-1].shape[-2:])
        return x
