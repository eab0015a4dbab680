"""The fastest attention backend for a shape, by measurement on the device, once for each shape.

n batch   l queries   t keys   d channels of a head
"""

import functools

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch.utils.benchmark import Timer

# How a backend fails that does not take a shape or a type, or lacks its package.
FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, NameError, ImportError)
CANDIDATES = ("native", "_native_cudnn", "_native_flash", "_native_efficient", "xformers")
Shape = tuple[int, int, int, int]


@functools.cache
def fastest_backend(q: Shape, k: Shape, dtype: torch.dtype, device: torch.device) -> AttentionBackendName:
    """Return the backend for queries (n, l, heads, d) and keys (n, t, heads, d); without CUDA the native one."""
    times = {AttentionBackendName.NATIVE: float("inf")}
    for name in map(AttentionBackendName, CANDIDATES if device.type == "cuda" else ()):
        try:
            times[name] = seconds(name, q, k, dtype, device)
        except FAILURES:  # it does not run here, or not with this shape
            continue
    return min(times, key=lambda name: times[name])


def seconds(backend: AttentionBackendName, q: Shape, k: Shape, dtype: torch.dtype, device: torch.device) -> float:
    """Return the seconds of one attention."""
    queries, keys = (torch.randn(shape, dtype=dtype, device=device) for shape in (q, k))
    call = functools.partial(dispatch_attention_fn, queries, keys, keys, backend=backend)
    return Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=0.02).median
