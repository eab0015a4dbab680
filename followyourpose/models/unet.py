"""The video UNet of Follow Your Pose (arXiv 2304.01186): Stable Diffusion 1.x's UNet, inflated in time, with a pose.

Modules carry diffusers' names for Stable Diffusion 1.x plus `attn_temp`, `norm_temp` and `conv_temporal`: weights load
by name. With one frame, no pose features and the new layers at their start this is the image UNet.

A clip may be predicted for several texts at once, as guidance does; see blocks.py.

    b clips   f frames   c channels   h w latent height and width   t text tokens   d text width   g texts per clip
"""

import inspect
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from torch import Tensor, nn

from followyourpose.common.checks import check_choice
from followyourpose.models.adapters import BlockScales
from followyourpose.models.attention import AttentionSettings, TextContext
from followyourpose.models.blocks import DownBlock, MidBlock, ResnetBlock, Transformer, TransformerBlock, UpBlock
from followyourpose.models.compiling import Compiling
from followyourpose.models.group_norm import ClipGroupNorm
from followyourpose.models.loading import StrictLoading, blocks_per_group

TextCache = list[list[TextContext]]  # per block in the order of the forward pass, then per attention of that block


def block_levels(levels: int) -> list[int]:
    """Return the level of each block of a `TextCache`: down, middle, up."""
    return [*range(levels), levels - 1, *reversed(range(levels))]


def text_count(text: Tensor | TextCache) -> int:
    """Return the number of texts in (n, t, d), or in its `VideoUNet.encode_text`."""
    return len(text if isinstance(text, Tensor) else text[len(text) // 2][0][0])  # the middle block has attention


class VideoUNet(StrictLoading, AttentionSettings, BlockScales, Compiling, ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts a clip's noise from noisy latents, time, text and, where given, pose features.

    The arguments are diffusers' for `UNet2DConditionModel`, so a Stable Diffusion 1.x `unet/config.json` can be read.
    `attention_head_dim` is, as in Stable Diffusion 1.x, the NUMBER of heads, one for all levels or one per level.
    `temporal_rank` is the rank of the temporal convolutions. The defaults of the last three settings are the paper's
    network; their other values are its ablations: norms per frame in the residual blocks, frames that attend to
    themselves alone, and `pose_fusion` "concat" in place of "add".
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ResnetBlock", "Transformer"]
    _repeated_blocks = _no_split_modules

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
        heads = _heads(attention_head_dim, levels)
        down_attention = _has_attention("down_block_types", down_block_types, levels)
        up_attention = _has_attention("up_block_types", up_block_types, levels)
        check_choice("pose_fusion", pose_fusion, ("add", "concat"))
        for key, value in (("layers_per_block", layers_per_block), ("cross_attention_dim", cross_attention_dim)):
            if not isinstance(value, int):
                raise ValueError(f"{key}: got {value!r}, expected one whole number for all blocks")
        time_channels = 4 * channels[0]

        def resnet(c_in: int, c_out: int) -> ResnetBlock:
            return ResnetBlock(c_in, c_out, time_channels, norm_num_groups, norm_eps)

        def transformers(count: int, level: int) -> list[Transformer]:
            args = (channels[level], cross_attention_dim, heads[level], norm_num_groups, temporal_rank)
            return [Transformer(*args) for _ in range(count)]

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
    def from_config(cls, config: dict[str, Any] | str | PathLike[str], **kwargs: Any) -> Any:
        """Build the network from a diffusers UNet config, or from the folder of one.

        With `return_unused_kwargs` it returns the network and the settings that are none of a network's.

        Raises:
            ValueError: a setting of another architecture, e.g. of Stable Diffusion 2 or SDXL; the message names it.
        """
        settings: dict[str, Any] = config if isinstance(config, dict) else dict(cls.load_config(config))
        theirs = dict(inspect.signature(UNet2DConditionModel.__init__).parameters)
        for key in inspect.signature(cls.__init__).parameters:
            theirs.pop(key, None)
        # Settings that are missing here have, in Stable Diffusion 1.x, diffusers' default.
        for key in theirs.keys() & settings.keys():
            expected = theirs[key].default
            if (settings[key] or None) != (expected or None):
                raise ValueError(f"{key}: got {settings[key]!r}, expected {expected!r}, as Stable Diffusion 1.x has it")
        return super().from_config({key: value for key, value in settings.items() if key not in theirs}, **kwargs)

    @apply_forward_hook  # under model offload, brings the weights to the device as `forward` does
    def encode_text(self, text: Tensor) -> TextCache:
        """Project text (b, t, d) to every layer's keys and values, which `forward` takes in place of the text.

        One prompt needs this once, not at every denoising step, and again after any change of the weights. Of blocks
        that are offloaded as a whole, whose weights are there only while they run, each projects the text itself.
        """
        blocks = [*self.down_blocks, self.mid_block, *self.up_blocks]
        if blocks_per_group(self.down_blocks[0]):
            return [[(text,)] * len(block.attentions) for block in blocks]
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
        """Predict the noise (b, c, f, h, w) of latents (b, c, f, h, w), or (g b, c, f, h, w) for g texts per clip.

        Args:
            latents: noisy latents (b, c, f, h, w).
            timestep: () or (b,), one time per clip, shared by its frames.
            text: (g b, t, d), or its `encode_text`, shared by a clip's frames: a first text for each of the b clips,
                then a second for each, as [unconditional, conditional] under guidance.
            features: the pose encoder's, one (g b, c_i, f, h / 2^i, w / 2^i) per level; None adds no pose.
            deep: features that enter the last up block from below, (g b f, c, h, w), of another call: between
                neighbouring steps they hardly change (DeepCache, Ma et al. 2023, arXiv 2312.00858). None computes them.
            return_deep: return (noise, deep).

        Raises:
            ValueError: shapes that do not fit the network or one another.
        """
        timestep = torch.as_tensor(timestep, device=latents.device)
        self._check_shapes(latents, timestep, text, features, deep)
        frames, levels = latents.shape[2], len(self.down_blocks)
        text = self.encode_text(text) if isinstance(text, Tensor) else text
        levelled: Sequence[Tensor | None] = [None] * levels if features is None else features

        # The sinusoid is made in fp32 whatever the weights are, as the released weights saw it.
        width, flip, shift = self.config.block_out_channels[0], self.config.flip_sin_to_cos, self.config.freq_shift
        time = get_timestep_embedding(timestep.reshape(-1), width, flip, shift)
        time = F.silu(self.time_embedding(time.to(latents.dtype)))  # (1 or b, 4 c_0)

        x = self.conv_in(rearrange(latents, "b c f h w -> (b f) c h w"))
        skips = [x]
        x, new_skips = self.down_blocks[0](x, time, text[0], frames, levelled[0])
        skips += new_skips
        if deep is None:
            deep = self._below_first_level(x, time, text, frames, levelled, skips)
        x = self.up_blocks[-1](deep, time, text[-1], frames, skips[: self.config.layers_per_block + 1])
        x = self.conv_out(self.conv_norm_out(x, frames))
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
        """Run the lower levels: the first down block's output (b f) c h w -> the last up block's input (b f) c h w."""
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
        if deep is not None and (together := blocks_per_group(self.down_blocks[0])) > 1:
            raise ValueError(f"deep: blocks are offloaded {together} at a time, expected num_blocks_per_group=1")
        if deep is not None and (len(deep), *deep.shape[2:]) != (texts * f, h, w):
            raise ValueError(f"deep: got {tuple(deep.shape)}, expected ({texts * f}, c, {h}, {w}); compute it again")
        if features is None:
            return
        if h % 2 ** (levels - 1) or w % 2 ** (levels - 1):
            raise ValueError(f"latents: got {h} x {w}, expected multiples of {2 ** (levels - 1)} when a pose is given")
        expected = [(texts, c, f, h >> i, w >> i) for i, c in enumerate(channels)]
        if [tuple(feature.shape) for feature in features] != expected:
            raise ValueError(f"features: got {[tuple(x.shape) for x in features]}, expected {expected}")


def _heads(attention_head_dim: int | Sequence[int], levels: int) -> list[int]:
    """Return the number of heads of each level."""
    heads = [attention_head_dim] * levels if isinstance(attention_head_dim, int) else list(attention_head_dim)
    if len(heads) != levels:
        raise ValueError(f"attention_head_dim: got {heads}, expected one number or one per level ({levels})")
    return heads


def _has_attention(key: str, block_types: Sequence[str], levels: int) -> list[bool]:
    plain = {"down_block_types": "DownBlock2D", "up_block_types": "UpBlock2D"}[key]
    if len(block_types) != levels or not set(block_types) <= {plain, f"CrossAttn{plain}"}:
        raise ValueError(f"{key}: got {list(block_types)}, expected {levels} of {plain} or CrossAttn{plain}")
    return [name != plain for name in block_types]
