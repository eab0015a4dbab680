"""What a call of the pipeline gets: sizes, skeletons and noise, checked and brought to one form.

b videos   n skeletons   f frames   c channels   h w latent height and width   H W pixels
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange, repeat
from torch import Tensor

Noise = Literal["independent", "mixed", "shared"]


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Passes when `value` is one of the choices; else a ValueError names them."""
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(choices)}")


def check_positive(name: str, value: int) -> None:
    """Passes when `value` is 1 or more; else a ValueError says so."""
    if value < 1:
        raise ValueError(f"{name}: got {value}, expected at least 1")


def check_scale(name: str, value: float) -> None:
    """Passes when `value` is a factor of 0 or more; else a ValueError says so."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}: got {value}, expected a finite number, at least 0")


def check_interval(name: str, start: float, end: float) -> None:
    """Passes when the shares lie in [0, 1], in order; else a ValueError names `name`_start and `name`_end."""
    if not 0 <= start <= end <= 1:
        raise ValueError(
            f"{name}_start, {name}_end: got {start} and {end}, expected shares of the denoising steps with "
            "0 <= start <= end <= 1"
        )


def check_size(name: str, value: int, divisor: int) -> int:
    """Gives `value`, in pixels, back when it is a multiple; else a ValueError names the nearest ones."""
    if value < 1 or value % divisor:
        below, above = value // divisor * divisor, (value // divisor + 1) * divisor
        near = f"{below} or {above}" if below > 0 else str(max(above, divisor))
        raise ValueError(f"{name}: got {value} pixels, expected a multiple of {divisor}; the nearest: {near}")
    return value


def check_skeleton(
    skeleton: np.ndarray | Tensor | None, num_frames: int | None, height: int, width: int
) -> tuple[Tensor | None, int]:
    """Gives skeletons as (n, 3, f, H, W) in [0, 1], None if there are none, and f: 1 where nothing says it.

    Raises:
        ValueError: not a skeleton, or one of another length or size than the video.
    """
    if num_frames is not None:
        check_positive("num_frames", num_frames)
    if skeleton is None:
        return None, num_frames or 1
    skeleton = skeleton_tensor(skeleton)
    frames, size = skeleton.shape[2], tuple(skeleton.shape[3:])
    if num_frames is not None and frames != num_frames:
        raise ValueError(f"skeleton: got {frames} frames, expected num_frames, {num_frames}")
    if size != (height, width):
        raise ValueError(
            f"skeleton: got {size[0]} x {size[1]} pixels, expected height x width, {height} x {width}; resize it, or "
            "give its height and width"
        )
    return skeleton, frames


def skeleton_tensor(skeleton: np.ndarray | Tensor) -> Tensor:
    """Brings skeletons to (n, 3, f, H, W) in [0, 1]; see `FollowYourPosePipeline.__call__` for what may come.

    Raises:
        ValueError: another type, shape or range.
    """
    got = f"{type(skeleton).__name__} {tuple(getattr(skeleton, 'shape', ()))} {getattr(skeleton, 'dtype', '')}".strip()
    if isinstance(skeleton, np.ndarray) and skeleton.dtype == np.uint8 and skeleton.ndim in (4, 5):
        clips = skeleton if skeleton.ndim == 5 else skeleton[None]
        if clips.shape[-1] == 3:
            return rearrange(torch.from_numpy(np.ascontiguousarray(clips)), "n f h w c -> n c f h w") / 255
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


def initial_noise(
    shape: tuple[int, int, int, int, int],
    noise: Noise,
    generator: torch.Generator | list[torch.Generator] | None,
    device: torch.device,
) -> Tensor:
    """Draws noise (b, c, f, h, w) in fp32, every frame N(0, 1), that is the same for all frames to a chosen share.

    "independent" shares nothing between frames, as released. "shared" repeats one frame's noise. "mixed" is PYoCo's
    mixed noise model (Ge et al. 2023, arXiv 2305.10474) with alpha = 1:
    a shared part of variance alpha^2 / (1 + alpha^2) plus an independent part of variance 1 / (1 + alpha^2).
    """
    if isinstance(generator, list) and len(generator) != shape[0]:
        raise ValueError(f"generator: got a list of {len(generator)}, expected one per video, {shape[0]}")
    if noise == "independent":
        return randn_tensor(shape, generator, device)
    b, c, f, h, w = shape
    shared = repeat(randn_tensor((b, c, 1, h, w), generator, device), "b c 1 h w -> b c f h w", f=f)
    if noise == "shared":
        return shared
    alpha = 1.0
    return (alpha * shared + randn_tensor(shape, generator, device)) / (1 + alpha**2) ** 0.5
