"""Inputs of a call of the pipeline: skeletons and noise, checked and brought to one form.

b videos   n skeletons   f frames   c channels   h w latent height and width   H W pixels
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange, repeat
from torch import Tensor

from followyourpose.pipeline.windows import Window, freenoise_order

Noise = Literal["independent", "mixed", "shared"]
PoseGuidance = Literal["both", "conditional"]
Generators = torch.Generator | list[torch.Generator] | None
SkeletonFrames = Callable[[Sequence[int]], np.ndarray | Tensor]  # the frames with these numbers, rendered on demand


def check_finite_tensor(name: str, tensor: Tensor) -> None:
    """Raise a ValueError unless every value of a tensor, of any shape (...,), is finite."""
    if not tensor.isfinite().all():
        raise ValueError(f"{name}: got NaN or infinity ({tensor.dtype}), expected finite numbers")


def check_texts(name: str, texts: Any) -> list[str]:
    """Return a text or a list of texts as a list.

    Raises:
        ValueError: neither of them; the message names it.
    """
    given = [texts] if isinstance(texts, str) else texts
    if not (isinstance(given, list) and given and all(isinstance(text, str) for text in given)):
        got = f"{texts!r:.60}" if isinstance(texts, list) else type(texts).__name__
        raise ValueError(f"{name}: got {got}, expected a string or a list of strings")
    return given


def check_skeleton(
    skeleton: np.ndarray | Tensor | SkeletonFrames | None, num_frames: int | None, height: int, width: int
) -> tuple[Callable[[Window], Tensor] | None, int, int]:
    """Return the reader of a window's skeletons, (n, 3, T, H, W) in [0, 1], n, and f: 1 where nothing gives it.

    Without a skeleton the reader is None, and n is 1.

    Raises:
        ValueError: not a skeleton, or one of another length or size than the video.
    """
    if skeleton is None:
        return None, 1, num_frames or 1
    if callable(skeleton):
        if num_frames is None:
            raise ValueError("num_frames: got none, expected a number: a skeleton that is a function has no length")
        read, frames = skeleton, num_frames
    else:
        clips = skeleton_clips(skeleton)
        axis = 1 if isinstance(clips, np.ndarray) else 2
        frames = clips.shape[axis]

        def read(window: Sequence[int]) -> np.ndarray | Tensor:
            return clips[(slice(None),) * axis + (list(window),)]

    first = skeleton_tensor(read([0]))
    if num_frames is not None and frames != num_frames:
        raise ValueError(f"skeleton: got {frames} frames, expected num_frames, {num_frames}")
    n, size = len(first), tuple(first.shape[3:])
    if size != (height, width):
        raise ValueError(
            f"skeleton: got {size[0]} x {size[1]} pixels, expected height x width, {height} x {width}; resize it, or "
            "give its height and width"
        )

    def skeletons(window: Window) -> Tensor:
        part = skeleton_tensor(read(window))
        if part.shape != (n, 3, len(window), height, width):
            raise ValueError(
                f"skeleton: got {tuple(part.shape)} for {len(window)} frames, expected "
                f"{(n, 3, len(window), height, width)}"
            )
        return part.contiguous()  # one memory layout, whatever is given: another one may be rounded otherwise

    return skeletons, n, frames


def skeleton_clips(skeleton: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """Return skeletons as bytes (n, f, H, W, 3) or as a tensor (n, 3, f, H, W) in [0, 1], whichever they are.

    Raises:
        ValueError: another type, shape or range.
    """
    got = f"{type(skeleton).__name__} {tuple(getattr(skeleton, 'shape', ()))} {getattr(skeleton, 'dtype', '')}".strip()
    if isinstance(skeleton, np.ndarray) and skeleton.dtype == np.uint8 and skeleton.ndim in (4, 5):
        frames = skeleton if skeleton.ndim == 5 else skeleton[None]
        if frames.shape[-1] == 3 and frames.size:
            return frames
    if isinstance(skeleton, Tensor) and skeleton.is_floating_point() and skeleton.ndim in (4, 5):
        clips = skeleton if skeleton.ndim == 5 else skeleton[None]
        if clips.shape[1] == 3 and clips.numel():
            low, high = clips.aminmax()
            if 0 <= low and high <= 1:
                return clips
            got = f"values in [{low:.3g}, {high:.3g}]"
    raise ValueError(
        f"skeleton: got {got}, expected bytes (f, H, W, 3) or (n, f, H, W, 3) as a numpy array, or a floating-point "
        "tensor (3, f, H, W) or (n, 3, f, H, W) in [0, 1]"
    )


def skeleton_tensor(skeleton: np.ndarray | Tensor) -> Tensor:
    """Return skeletons as (n, 3, f, H, W) in [0, 1]; see `Call` for their forms.

    Raises:
        ValueError: another type, shape or range.
    """
    clips = skeleton_clips(skeleton)
    if isinstance(clips, Tensor):
        return clips
    return rearrange(torch.from_numpy(np.ascontiguousarray(clips)), "n f h w c -> n c f h w") / 255


def initial_noise(
    shape: tuple[int, int, int, int, int], noise: Noise, generator: Generators, device: torch.device
) -> Tensor:
    """Draw noise (b, c, f, h, w) in fp32, every frame N(0, 1), of which the frames share a part.

    "independent" shares nothing between frames, as released. "shared" repeats one frame's noise. "mixed" is PYoCo's
    mixed noise model (Ge et al. 2023, arXiv 2305.10474) with alpha = 1:
    a shared part of variance alpha^2 / (1 + alpha^2) plus an independent part of variance 1 / (1 + alpha^2).
    """
    if noise == "independent":
        return randn_tensor(shape, generator, device)
    b, c, f, h, w = shape
    shared = repeat(randn_tensor((b, c, 1, h, w), generator, device), "b c 1 h w -> b c f h w", f=f)
    if noise == "shared":
        return shared
    alpha = 1.0
    return (alpha * shared + randn_tensor(shape, generator, device)) / (1 + alpha**2) ** 0.5


def freenoise(noise: Tensor, windows: Sequence[Window], generator: Generators) -> Tensor:
    """Return noise (b, c, f, h, w) that repeats the first window's frames, shuffled; see `freenoise_order`."""

    def order(generator: torch.Generator | None) -> list[int]:
        device = None if generator is None else generator.device
        return freenoise_order(
            windows, lambda count: torch.randperm(count, generator=generator, device=device).tolist()
        )

    if isinstance(generator, list):
        return torch.stack([video[:, order(each)] for video, each in zip(noise, generator, strict=True)])
    return noise[:, :, order(generator)]
