"""Texts and initial noise of a call of the pipeline.

b videos   f frames   c channels   h w latent height and width
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers.utils.torch_utils import randn_tensor
from einops import repeat
from torch import Tensor

from followyourpose.pipeline.windows import Window, freenoise_order

Noise = Literal["independent", "mixed", "shared"]
PoseGuidance = Literal["both", "conditional"]
Generators = torch.Generator | list[torch.Generator] | None


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
