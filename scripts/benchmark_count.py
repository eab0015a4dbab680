"""Kernels, bytes and FLOPs of a denoising step on a GPU, counted on tensors that have shapes but no data.

Each operation counts as the kernels that PyTorch launches for it, with the bytes that they read and write; among them
are the copies that cuDNN makes around a convolution of channels first, and a norm of a strided tensor.
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from followyourpose.models import loading
from followyourpose.models.group_norm import GroupNorm, is_channels_last
from followyourpose.models.unet import TextCache, block_levels
from scripts.benchmark_memory import FusedAttention, inputs_without_data, pipeline_without_data
from scripts.benchmark_parts import Table

KINDS = {
    "convolution": ("convolution",), "linear": ("mm", "addmm", "bmm"),
    "attention": ("_scaled_dot_product_flash_attention",), "norm": ("native_layer_norm", "native_group_norm"),
    "activation": ("silu", "gelu", "mul"), "addition": ("add",), "copy": ("clone", "_to_copy", "copy_"),
    "join": ("cat",),
}  # fmt: skip
KIND = {operation: kind for kind, operations in KINDS.items() for operation in operations}
NO_KERNEL = ("empty", "empty_like", "empty_strided", "detach", "_unsafe_view")
# Images and norms on a GPU -> devices of channels_last, and whether Triton's norm runs.
LAYOUTS = {"channels_last": (("meta",), True), "PyTorch's norm": (("meta",), False), "channels first": ((), False)}


class Kernels(TorchDispatchMode):
    """Kernels, bytes and FLOPs by kind of the operations in this mode, and the reads that wait for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.kernels, self.bytes, self.flop, self.reads = Counter(), Counter(), Counter(), 0

    def add(self, kind: str, *tensors: Tensor, flop: int = 0) -> None:
        """Count a kernel that reads or writes each of these tensors."""
        self.kernels[kind] += 1
        self.bytes[kind] += sum(map(_bytes, tensors))
        self.flop[kind] += flop

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.is_meta]
        if given and (name == "_local_scalar_dense" or kwargs.get("device") == torch.device("cpu")):
            self.reads += 1
            return 1 if name == "_local_scalar_dense" else torch.ones(given[0].shape, dtype=given[0].dtype)
        result = func(*args, **kwargs)
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor) and x.is_meta]
        if func.is_view or name in NO_KERNEL or not made:
            return result
        if name == "convolution":
            result = self._convolve(*args[:3], result)
            made = [result]
        elif name == "native_group_norm":  # PyTorch's has the channels first
            result = (torch.empty(made[0].shape, dtype=made[0].dtype, device="meta"), *made[1:])
            self.add("norm", given[0])  # moments
            self.add("norm")  # factors of each channel
        if name in KINDS["norm"] and not given[0].is_contiguous():
            self.add("copy", given[0], given[0])
        flop = flop_registry.get(func.overloadpacket)
        self.add(KIND.get(name, "other"), *given, *made, flop=flop(*args, **kwargs, out_val=result) if flop else 0)
        return result

    def norm(self, plain: Callable[..., Tensor], fused: bool) -> Callable[..., Tensor]:
        """Return `GroupNorm.forward` as it is on a GPU: Triton's norm where it takes the image, else the plain one."""

        def forward(norm: GroupNorm, x: Tensor) -> Tensor:
            if not fused or not is_channels_last(x):
                return plain(norm, x)
            y = torch.empty_like(x)
            self.add("norm", x)  # moments
            self.add("norm")  # factors of each channel
            self.add("norm", x, y)
            return y

        return forward

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, result: Tensor) -> Tensor:
        """Count what lies around a convolution; return its result in the memory format that cuDNN gives it."""
        last = torch.channels_last in (suggest_memory_format(x), suggest_memory_format(weight))
        layout = torch.channels_last if last else torch.contiguous_format
        for tensor in (x, weight):
            if not tensor.is_contiguous(memory_format=layout):
                self.add("copy", tensor, tensor)
        if not last and x.element_size() == 2:  # cuDNN computes halves with the channels last
            for tensor in (x, weight, result):
                self.add("copy", tensor, tensor)
        if bias is not None:
            self.add("addition", result, result)
        return torch.empty_like(result, memory_format=layout)


def benchmark_count(options: argparse.Namespace) -> dict[str, Any]:
    """Count a denoising step by kind of kernel, print a row for each, and return the numbers."""
    shape = (options.frames, options.height, options.width)
    print(f"{options.size}, {' x '.join(map(str, shape))}, {options.dtype}, a step with guidance on a GPU, counted")
    table, result = Table(["kind", "kernels", "GB", "TFLOP"], 24), {}
    for layout in LAYOUTS:
        step = count(options.size, shape, options.dtype, layout)
        if not result:
            for kind in [*KINDS, "other"]:
                table.add(kind, *_cells(step.kernels[kind], step.bytes[kind], step.flop[kind]))
        sums = step.kernels.total(), step.bytes.total(), step.flop.total()
        table.add(layout, *_cells(*sums))
        result[layout] = dict(zip(("kernels", "bytes", "flop"), sums, strict=True)) | {"reads": step.reads}
    print(f"reads that wait for the GPU: {step.reads}")
    return {"size": options.size, "shape": shape, "dtype": options.dtype, "layouts": result}


def count(
    size: str, shape: tuple[int, int, int], dtype: str, layout: str = "channels_last", people: int = 0
) -> Kernels:
    """Count a denoising step of a video of the shape (f, H, W), without what is done once for a video.

    Args:
        people: number of people with words of their own.
    """
    devices, fused = LAYOUTS[layout]
    with Kernels() as kernels, FusedAttention(), torch.no_grad(), mock.patch.object(loading, "CHANNELS_LAST", devices):
        pipe, _ = pipeline_without_data(size, {"dtype": dtype})
        pipe.scheduler.set_timesteps(50)
        latents, condition = inputs_without_data(pipe, shape)
        if people:
            condition.text = with_people(condition.text, people, latents)
        timestep = pipe.scheduler.timesteps[0]
        kernels.clear()
        with mock.patch.object(GroupNorm, "forward", kernels.norm(GroupNorm.forward, fused)):
            prediction = pipe.predict(latents, timestep, condition, guidance_scale=2.0)
        pipe.scheduler.step(prediction, timestep, latents)
    return kernels


def with_people(text: TextCache, people: int, latents: Tensor) -> TextCache:
    """Return a text with p people's behind each layer's, (n, p, t, c), and shares (n, p, f, l, 1) of all places."""
    frames, places, levels = latents.shape[2], latents[0, 0, 0].numel(), len(text) // 2
    wider = []
    for block, level in zip(text, block_levels(levels), strict=True):
        wider.append([])
        for context in block:
            n = len(context[0])
            own = (x[:, None].expand(-1, people, -1, -1).contiguous() for x in context)
            wider[-1].append((*context, *own, context[0].new_empty(n, people, frames, places // 4**level, 1)))
    return wider


def _cells(kernels: int, size: int, flop: int) -> tuple[str, str, str]:
    return f"{kernels:,}", f"{size / 1e9:.2f}", f"{flop / 1e12:.2f}"


def _bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor, without those that `expand` repeats."""
    repeated = math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if not stride)
    return tensor.numel() * tensor.element_size() // max(repeated, 1)
