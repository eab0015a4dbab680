"""Memory of a video by setting, counted on tensors that have shapes but no data, for `benchmark memory`.

Nothing is computed: any size takes seconds, on any machine. The memory that kernels take beside their results and that
an allocator leaves unused is not counted; `generate --variants memory` measures with both.
"""

import argparse
import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTokenizer

from followyourpose.common.device import torch_dtype
from followyourpose.config import SamplingConfig
from followyourpose.generation.sampling import prepare
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import VideoUNet
from followyourpose.pipeline.condition import Condition
from followyourpose.pipeline.pipeline import FollowYourPosePipeline, vae_scale_factor
from scripts.benchmark_parts import LOW_MEMORY, MODEL, Table, networks


@dataclass(frozen=True)
class Counted:
    """Bytes of the weights, and peaks while a video is denoised and decoded, the weights included."""

    weights: int
    denoising: int
    decoding: int


class LiveMemory(TorchDispatchMode):
    """Bytes of the living tensors that were made in this mode."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self._peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1  # checks of values pass
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self._known:
                self._known.add(storage._cdata)
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        self._peak = max(self._peak, self.bytes)
        return result

    def lap(self) -> int:
        """Return the peak since the last call."""
        peak, self._peak = self._peak, self.bytes
        return peak

    def _forget(self, storage: int, size: int) -> None:
        self._known.remove(storage)
        self.bytes -= size


class FusedAttention(TorchFunctionMode):
    """Attention as on a GPU: scores are kept only where the backend needs them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and torch.backends.cuda.flash_sdp_enabled():
            q, k, v = (*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs))[:3]
            return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
        return func(*args, **kwargs)


def benchmark_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Count the bytes for every setting, print a row for each, and return the numbers."""
    shape = (options.frames, options.height, options.width)
    print(f"{options.size}, {' x '.join(map(str, shape))}, with guidance; GB, the weights included in all")
    table, rows = Table(["setting", *(field.name for field in fields(Counted))], 20), {}
    for name in options.variants:
        rows[name] = asdict(count(options.size, shape, LOW_MEMORY[name]))
        table.add(name, *(f"{value / 1e9:.2f}" for value in rows[name].values()))
    return {"size": options.size, "shape": shape, "settings": rows}


def count(size: str, shape: tuple[int, int, int], settings: Mapping[str, Any]) -> Counted:
    """Count the bytes for a video of the shape (f, H, W)."""
    with LiveMemory() as memory, FusedAttention(), torch.no_grad():
        pipe, config = pipeline_without_data(size, settings)
        gc.collect()
        weights, _ = memory.bytes, memory.lap()
        latents, condition = inputs_without_data(pipe, shape)
        pipe.predict(latents, torch.tensor(0), condition, guidance_scale=2.0)
        denoising = memory.lap()
        pipe.decode(latents, config.decode_chunk_size, "pt")
        return Counted(weights, denoising, decoding=memory.lap())


def pipeline_without_data(size: str, settings: Mapping[str, Any]) -> tuple[FollowYourPosePipeline, SamplingConfig]:
    """Return a pipeline of the meta device, under settings of `SamplingConfig` and an attention backend."""
    settings = dict(settings)
    attention, config = settings.pop("attention", "native"), SamplingConfig(**settings)
    with torch.device("meta"):
        parts = networks(size)
        unet = VideoUNet.from_config(dict(parts["unet"].config))
        downscale = vae_scale_factor(parts["vae"])
        pose_encoder = PoseEncoder(block_out_channels=unet.config.block_out_channels, downscale=downscale)
    parts |= {"unet": unet, "pose_encoder": pose_encoder}
    for network in parts.values():
        nn.Module.to(network, torch_dtype(config.dtype, "cpu"))
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    pipe = FollowYourPosePipeline(**parts, tokenizer=tokenizer, scheduler=DDIMScheduler())
    prepare(pipe, config, torch.device("meta"))
    pipe.unet.set_attention_backend(attention)
    return pipe, config


def inputs_without_data(pipe: FollowYourPosePipeline, shape: tuple[int, int, int]) -> tuple[Tensor, Condition]:
    """Return latents and condition of one video of the shape (f, H, W), with guidance."""
    f, height, width = shape
    config, factor = pipe.unet.config, pipe.vae_scale_factor
    with torch.device("meta"):
        tokens = pipe.text_encoder.config.max_position_embeddings
        embeds = torch.empty(1, tokens, config.cross_attention_dim, dtype=pipe.unet.dtype)
        text = pipe.encode_text(embeds, embeds, 1, 1, guided=True)
        features = pipe.encode_pose(torch.empty(1, 3, *shape), 1, 1, guided=True)
        latents = torch.empty(1, config.in_channels, f, height // factor, width // factor, dtype=pipe.unet.dtype)
    return latents, Condition(text, features)
