"""The video UNet of Follow Your Pose (arXiv 2304.01186): Stable Diffusion 1.x's UNet, inflated in time, led by pose.

Modules carry diffusers' names for Stable Diffusion 1.x plus `attn_temp`, `norm_temp` and `conv_temporal`: weights load
by name. A clip travels as "(b f) c h w"; only the layers that mix frames regroup it. With one frame, no pose features
and the new layers at their start this is the image UNet.

A clip may be predicted for several texts at once, as guidance does. Until the first text is attended to, the network
computes the same for all of them, and does so once: from there on the batch is "(g b)", and written b like any other.

    b clips   f frames   c channels   h w latent height and width   l = h * w tokens   t text tokens   d text width
    g texts per clip
"""

import inspect
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange, repeat
from torch import Tensor, nn

from followyourpose.models.attention import (
    Attention,
    CrossFrameAttention,
    KeysValues,
    TemporalAttention,
    TextAttention,
    set_backend,
)
from followyourpose.models.loading import StrictLoading

TextCache = list[list[KeysValues]]  # per block in the order of the forward pass, then per attention of that block


def for_each_text(x: Tensor, n: int) -> Tensor:
    """Repeats what is the same for all texts of a clip, (b f, ...), until there are n of it: (g b f, ...)."""
    return x if len(x) == n else repeat(x, "n ... -> (g n) ...", g=n // len(x))


def text_count(text: Tensor | TextCache) -> int:
    """How many texts there are, in (n, t, d) or in what `VideoUNet.encode_text` made of it."""
    return len(text if isinstance(text, Tensor) else text[len(text) // 2][0][0])  # the middle block has attention


class ClipGroupNorm(nn.GroupNorm):
    """Group normalisation with statistics over all frames of a clip jointly: (b f) c h w -> the same."""

    whole_clip = True  # False: over each frame by itself

    def forward(self, x: Tensor, frames: int) -> Tensor:
        frames = frames if self.whole_clip else 1
        x = rearrange(x, "(b f) c h w -> b c f h w", f=frames)
        x = super().forward(x.contiguous())  # the copy pays: on a strided view the norm takes three times as long
        return rearrange(x, "b c f h w -> (b f) c h w")


class FrameConv(nn.Module):
    """Convolution over three neighbouring frames, zero beyond the clip, no bias: (b, c, f, l) -> (b, c_out, f, l)."""

    def __init__(self, c_in: int, c_out: int, std: float):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 3) * std)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.unsqueeze(-1), padding=(1, 0))


class LowRankTemporalConv(nn.Module):
    """up(down(x)) along the frames: (b f) l c -> the same; `up` starts at zero (stage 2 of the paper).

    The rank is the requested one, or half the width where the width is less than that, as in the released weights.
    """

    def __init__(self, channels: int, rank: int):
        super().__init__()
        rank = rank if rank <= channels else channels // 2
        self.down = FrameConv(channels, rank, std=1 / rank)
        self.up = FrameConv(rank, channels, std=0)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        # Read as (b, c, f, l), tokens are an image in channels-last memory: a 3 x 1 kernel needs no transposition.
        x = rearrange(x, "(b f) l c -> b c f l", f=frames)
        return rearrange(self.up(self.down(x)), "b c f l -> (b f) l c")


class PoseConcat(nn.Module):
    """What the residual is compared with: hidden state and pose feature (n, c, h, w) side by side, through a 1x1.

    It starts as the identity on the hidden state. The features start at zero, so their half may start at random.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 1)
        nn.init.dirac_(self.conv.weight[:, :channels])
        nn.init.zeros_(self.conv.bias)

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
        nn.init.zeros_(self.attn_temp.to_out[0].weight)
        nn.init.zeros_(self.attn_temp.to_out[0].bias)

    def forward(self, x: Tensor, text: KeysValues, frames: int) -> Tensor:  # (b f) l c
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
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)  # 1e-6 whatever norm_eps says: SD was trained so
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, text_channels, heads, temporal_rank)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def keys_values(self, text: Tensor) -> KeysValues:
        """Projects text (b, t, d) for this layer: two of (b, t, c)."""
        return self.transformer_blocks[0].attn2.keys_values(text)

    def forward(self, x: Tensor, text: KeysValues, frames: int) -> Tensor:
        tokens = rearrange(self.proj_in(self.norm(x)), "n c h w -> n (h w) c")
        tokens = self.transformer_blocks[0](tokens, text, frames)
        y = self.proj_out(rearrange(tokens, "n (h w) c -> n c h w", h=x.shape[2]))
        return for_each_text(x, len(y)) + y


class ResnetBlock(nn.Module):
    """Two convolutions per frame, the time (b, c) added between them, residual: (b f) c h w -> (b f) c_out h w."""

    def __init__(self, c_in: int, c_out: int, time_channels: int, groups: int, eps: float):
        super().__init__()
        self.norm1 = ClipGroupNorm(groups, c_in, eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, c_out)
        self.norm2 = ClipGroupNorm(groups, c_out, eps)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, frames: int) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x, frames)))
        time = repeat(self.time_emb_proj(F.silu(time)), "b c -> (b f) c 1 1", f=frames)
        y = y + for_each_text(time, len(y))
        y = self.conv2(F.silu(self.norm2(y, frames)))
        return self.conv_shortcut(x) + y


class Downsample(nn.Module):
    """Halves height and width, rounding up: (b f) c h w -> (b f) c h/2 w/2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Takes the nearest neighbours at `size`, twice the height and width but for what `Downsample` rounded up."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class Block(nn.Module):
    """Resnets, each followed by a transformer where the block has attention: one resolution on the way down or up."""

    def __init__(self, resnets: list[ResnetBlock], attentions: list[Transformer]):
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions)
        self.gradient_checkpointing = False  # switched by enable_gradient_checkpointing(), which is non-reentrant

    def run(self, layer: nn.Module, *args: Any) -> Tensor:
        """Calls a layer; under gradient checkpointing its activations are computed again on the way back."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(layer, *args)
        return layer(*args)

    def layer(self, i: int, x: Tensor, time: Tensor, text: list[KeysValues], frames: int) -> Tensor:
        """Runs resnet i and, where there is one, transformer i."""
        x = self.run(self.resnets[i], x, time, frames)
        return self.run(self.attentions[i], x, text[i], frames) if i < len(self.attentions) else x


class DownBlock(Block):
    """One resolution on the way down. The pose feature joins after the last layer, so the skip carries it too.

    The released code says "after the second layer" and forgets the pose under gradient checkpointing: with its two
    layers per block the place is the same, and here the sum stands outside of what is checkpointed.
    """

    def __init__(self, resnets: list[ResnetBlock], attentions: list[Transformer], downsample: bool, concat: bool):
        super().__init__(resnets, attentions)
        channels = resnets[-1].conv2.out_channels
        self.downsamplers = nn.ModuleList([Downsample(channels)] if downsample else [])
        self.pose_concat = PoseConcat(channels) if concat else None

    def forward(
        self, x: Tensor, time: Tensor, text: list[KeysValues], frames: int, feature: Tensor | None
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

    def forward(self, x: Tensor, time: Tensor, text: list[KeysValues], frames: int) -> Tensor:
        return self.layer(1, self.layer(0, x, time, text, frames), time, text, frames)


class UpBlock(Block):
    """One resolution on the way up. Takes its skips off the end of the list, and goes to the size of the next one."""

    def __init__(self, resnets: list[ResnetBlock], attentions: list[Transformer], upsample: bool):
        super().__init__(resnets, attentions)
        self.upsamplers = nn.ModuleList([Upsample(resnets[-1].conv2.out_channels)] if upsample else [])

    def forward(self, x: Tensor, time: Tensor, text: list[KeysValues], frames: int, skips: list[Tensor]) -> Tensor:
        for i in range(len(self.resnets)):
            skip = for_each_text(skips.pop(), len(x))
            x = self.layer(i, torch.cat([x, skip], dim=1), time, text, frames)
        for upsampler in self.upsamplers:
            x = upsampler(x, skips[-1].shape[-2:])
        return x


class VideoUNet(StrictLoading, ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts a clip's noise from noisy latents, time, text and, where given, pose features.

    The arguments are diffusers' for `UNet2DConditionModel`, so a Stable Diffusion 1.x `unet/config.json` can be read.
    `attention_head_dim` is, as in Stable Diffusion 1.x, the NUMBER of heads, one for all levels or one per level.
    `temporal_rank` is the rank of the temporal convolutions. The last three settings are the paper's network, and for
    ablations what it is compared with: norms of the residual blocks per frame, frames that attend to themselves alone,
    and `pose_fusion` "concat" in place of "add".
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ResnetBlock", "Transformer"]

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = 64,
        in_channels: int = 4,
        out_channels: int = 4,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: Sequence[str] = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types: Sequence[str] = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 768,
        attention_head_dim: int | Sequence[int] = 8,
        temporal_rank: int = 160,
        clip_norm: bool = True,
        cross_frame_attention: bool = True,
        pose_fusion: str = "add",
    ):
        super().__init__()
        channels, levels = list(block_out_channels), len(block_out_channels)
        heads = [attention_head_dim] * levels if isinstance(attention_head_dim, int) else list(attention_head_dim)
        down_attention = _has_attention("down_block_types", down_block_types, levels)
        up_attention = _has_attention("up_block_types", up_block_types, levels)
        if len(heads) != levels:
            raise ValueError(f"attention_head_dim: got {heads}, expected one number or one per level ({levels})")
        if pose_fusion not in ("add", "concat"):
            raise ValueError(f"pose_fusion: got {pose_fusion!r}, expected add or concat")
        for key, value in (("layers_per_block", layers_per_block), ("cross_attention_dim", cross_attention_dim)):
            if not isinstance(value, int):
                raise ValueError(f"{key}: got {value!r}, expected one whole number for all blocks")
        time_channels = 4 * channels[0]

        def resnet(c_in: int, c_out: int) -> ResnetBlock:
            return ResnetBlock(c_in, c_out, time_channels, norm_num_groups, norm_eps)

        def transformers(count: int, level: int) -> list[Transformer]:
            c = channels[level]
            return [
                Transformer(c, cross_attention_dim, heads[level], norm_num_groups, temporal_rank) for _ in range(count)
            ]

        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], time_channels)

        c, skips = channels[0], [channels[0]]  # width of the hidden state, widths of the skips stored so far
        self.down_blocks = nn.ModuleList()
        for level in range(levels):
            resnets = [resnet(c if i == 0 else channels[level], channels[level]) for i in range(layers_per_block)]
            attentions = transformers(layers_per_block * down_attention[level], level)
            last, c = level == levels - 1, channels[level]
            self.down_blocks.append(DownBlock(resnets, attentions, not last, pose_fusion == "concat"))
            skips += [c] * (layers_per_block + (not last))

        self.mid_block = MidBlock([resnet(c, c), resnet(c, c)], transformers(1, levels - 1))

        self.up_blocks = nn.ModuleList()
        for level in reversed(range(levels)):
            resnets = []
            for _ in range(layers_per_block + 1):
                resnets.append(resnet(c + skips.pop(), channels[level]))
                c = channels[level]
            attentions = transformers((layers_per_block + 1) * up_attention[levels - 1 - level], level)
            self.up_blocks.append(UpBlock(resnets, attentions, upsample=level > 0))

        self.conv_norm_out = ClipGroupNorm(norm_num_groups, c, norm_eps)
        self.conv_out = nn.Conv2d(c, out_channels, 3, padding=1)

        for module in self.modules():
            if isinstance(module, ClipGroupNorm):
                module.whole_clip = clip_norm
            elif isinstance(module, TransformerBlock):
                module.cross_frame = cross_frame_attention

    @classmethod
    def from_config(cls, config: dict[str, Any], **kwargs: Any) -> Self:
        """Builds the network from a diffusers UNet config.

        Raises:
            ValueError: the config asks for what this network does not have, e.g. that of Stable Diffusion 2 or SDXL.
        """
        theirs = dict(inspect.signature(UNet2DConditionModel.__init__).parameters)
        for key in inspect.signature(cls.__init__).parameters:
            theirs.pop(key, None)
        # What is no setting here has, in Stable Diffusion 1.x, the value that diffusers has as its default.
        for key in theirs.keys() & config.keys():
            expected = theirs[key].default
            if (config[key] or None) != (expected or None):
                raise ValueError(f"{key}: got {config[key]!r}, expected {expected!r}, as Stable Diffusion 1.x has it")
        return super().from_config({key: value for key, value in config.items() if key not in theirs}, **kwargs)

    def set_attention_backend(self, backend: str, dtype: torch.dtype | None = None) -> None:
        """Chooses what computes attention in this network, and only in this one: "native", "xformers", "flash", ...

        It is tried at once, on the GPU where there is one, in `dtype`; None means the dtype of the weights (give the
        other one when the network will run under autocast).

        Raises:
            ValueError: diffusers has no such backend, or it cannot run here.
        """
        device = torch.device("cuda") if torch.cuda.is_available() else self.device
        set_backend(self, backend, device, dtype or self.dtype)

    def set_attention_chunk(self, queries: int | None) -> None:
        """Lets so many queries attend at a time, at the same result; None: all.

        Where a backend keeps the scores in memory, this bounds them; the fused ones keep none.

        Raises:
            ValueError: a number below 1.
        """
        if queries is not None and queries < 1:
            raise ValueError(f"attention chunk: got {queries}, expected at least 1 query, or None")
        for attention in self.modules():
            if isinstance(attention, Attention):
                attention.chunk = queries

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles as `torch.nn.Module.compile` does; einops' calls stay whole: tracing them takes most of the time."""
        for call in (rearrange, repeat):
            torch.compiler.allow_in_graph(call)
        super().compile(*args, **kwargs)

    @apply_forward_hook  # under model offload, brings the weights to the device as `forward` does
    def encode_text(self, text: Tensor) -> TextCache:
        """Projects text (b, t, d) to every layer's keys and values, which `forward` takes in place of the text.

        One prompt needs this once, not at every denoising step. It is as old as the weights: after a LoRA is loaded or
        a weight is trained, project again.
        """
        blocks = [*self.down_blocks, self.mid_block, *self.up_blocks]
        return [[attention.keys_values(text) for attention in block.attentions] for block in blocks]

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor | int,
        text: Tensor | TextCache,
        features: Sequence[Tensor] | None = None,
        deep: Tensor | None = None,
        return_deep: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Predicts the noise (b, c, f, h, w) of latents (b, c, f, h, w), or (g b, c, f, h, w) for g texts per clip.

        Args:
            latents: noisy latents (b, c, f, h, w).
            timestep: () or (b,), one time per clip, shared by its frames.
            text: (g b, t, d), or what `encode_text` made of it, shared by a clip's frames: a first text for each of the
                b clips, then a second for each, as [unconditional, conditional] under guidance. Mostly g is 1.
            features: the pose encoder's, one (g b, c_i, f, h / 2^i, w / 2^i) per level; None adds no pose.
            deep: in place of all below the first level, what another call with these shapes gave: between neighbouring
                steps it hardly changes (DeepCache, Ma et al. 2023, arXiv 2312.00858). None computes it.
            return_deep: gives (noise, deep), where deep is what entered the last up block from below,
                (g b f, c, h, w).

        Raises:
            ValueError: shapes that do not fit the network or one another.
        """
        timestep = torch.as_tensor(timestep, device=latents.device)
        self._check_shapes(latents, timestep, text, features, deep)
        frames, levels = latents.shape[2], len(self.down_blocks)
        text = self.encode_text(text) if isinstance(text, Tensor) else text
        features = [None] * levels if features is None else features

        # The sinusoid is made in fp32 whatever the weights are, as the released weights saw it.
        width, flip, shift = self.config.block_out_channels[0], self.config.flip_sin_to_cos, self.config.freq_shift
        time = get_timestep_embedding(timestep.reshape(-1), width, flip, shift)
        time = self.time_embedding(time.to(latents.dtype))  # (1 or b, 4 c_0)

        x = self.conv_in(rearrange(latents, "b c f h w -> (b f) c h w"))
        skips = [x]
        x, new_skips = self.down_blocks[0](x, time, text[0], frames, features[0])
        skips += new_skips
        if deep is None:
            deep = self._below_first_level(x, time, text, frames, features, skips)
        x = self.up_blocks[-1](deep, time, text[-1], frames, skips[: self.config.layers_per_block + 1])
        x = self.conv_out(F.silu(self.conv_norm_out(x, frames)))
        noise = rearrange(x, "(b f) c h w -> b c f h w", f=frames)
        return (noise, deep) if return_deep else noise

    def _below_first_level(
        self,
        x: Tensor,
        time: Tensor,
        text: TextCache,
        frames: int,
        features: Sequence[Tensor | None],
        skips: list[Tensor],
    ) -> Tensor:
        """From what leaves the first down block, (b f) c h w, to what enters the last up block, (b f) c h w."""
        levels = len(self.down_blocks)
        for level in range(1, levels):
            x, new_skips = self.down_blocks[level](x, time, text[level], frames, features[level])
            skips += new_skips
        x = self.mid_block(x, time, text[levels], frames)
        for i in range(levels - 1):
            x = self.up_blocks[i](x, time, text[levels + 1 + i], frames, skips)
        return x

    def _check_shapes(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor | TextCache,
        features: Sequence[Tensor] | None,
        deep: Tensor | None,
    ) -> None:
        channels, levels, width = self.config.block_out_channels, len(self.down_blocks), self.config.cross_attention_dim
        if latents.ndim != 5 or latents.shape[1] != self.config.in_channels:
            raise ValueError(f"latents: got {tuple(latents.shape)}, expected (b, {self.config.in_channels}, f, h, w)")
        b, _, f, h, w = latents.shape
        if timestep.shape not in ((), (b,)):
            raise ValueError(f"timestep: got {tuple(timestep.shape)}, expected () or ({b},)")
        if isinstance(text, Tensor) and (text.ndim != 3 or text.shape[2] != width):
            raise ValueError(f"text: got {tuple(text.shape)}, expected (b, t, {width})")
        texts = text_count(text)
        if texts == 0 or texts % b:
            raise ValueError(f"text: got {texts} texts, expected one for each of {b} clips, or as many for each")
        if deep is not None and (len(deep), *deep.shape[2:]) != (texts * f, h, w):
            raise ValueError(f"deep: got {tuple(deep.shape)}, expected ({texts * f}, c, {h}, {w}); compute it again")
        if features is None:
            return
        if h % 2 ** (levels - 1) or w % 2 ** (levels - 1):
            raise ValueError(f"latents: got {h} x {w}, expected multiples of {2 ** (levels - 1)} when a pose is given")
        expected = [(texts, c, f, h >> i, w >> i) for i, c in enumerate(channels)]
        if [tuple(feature.shape) for feature in features] != expected:
            raise ValueError(f"features: got {[tuple(x.shape) for x in features]}, expected {expected}")


def _has_attention(key: str, block_types: Sequence[str], levels: int) -> list[bool]:
    plain = {"down_block_types": "DownBlock2D", "up_block_types": "UpBlock2D"}[key]
    if len(block_types) != levels or not set(block_types) <= {plain, f"CrossAttn{plain}"}:
        raise ValueError(f"{key}: got {list(block_types)}, expected {levels} of {plain} or CrossAttn{plain}")
    return [name != plain for name in block_types]
