"""The first batch as a picture: frames as the networks see them, the skeleton beside and the caption below."""

import textwrap
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor

from followyourpose.data.batch import Batch
from followyourpose.training.objectives import Denoise, Objective

MOST_CLIPS, MOST_FRAMES = 8, 4
_LINE = 12  # pixels per line of a caption


@torch.no_grad()
def draw_first_batch(batch: Batch, objective: Objective, path: Path) -> None:
    """Write up to 8 clips, 4 frames of each, as a png; latents of a cache are decoded."""
    images, skeletons = _images(batch, objective)[:MOST_CLIPS, :, :MOST_FRAMES], batch.skeleton
    tiles = (images.clamp(-1, 1) + 1) / 2
    if skeletons is not None:
        tiles = torch.cat([skeletons[:MOST_CLIPS, :, :MOST_FRAMES].to(tiles), tiles], dim=-1)  # side by side
    rows = rearrange((tiles * 255).round().byte().cpu(), "b c f h w -> b h (f w) c").numpy()
    scale = max(1, 128 // images.shape[-1])
    rows = [np.kron(row, np.ones((scale, scale, 1), np.uint8)) for row in rows]
    picture = np.concatenate([_captioned(r, c) for r, c in zip(rows, batch.captions, strict=False)])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def _images(batch: Batch, objective: Objective) -> Tensor:
    """Frames (b, 3, f, H, W) of a batch, about [-1, 1]."""
    if batch.pixels is not None:
        return batch.pixels
    assert isinstance(objective, Denoise)  # no other takes moments
    vae = objective.parts["vae"]
    mean = batch.moments[:MOST_CLIPS, :, :MOST_FRAMES].to(vae.device).float().chunk(2, dim=1)[0]
    frames = vae.decode(rearrange(mean, "b c f h w -> (b f) c h w")).sample
    return rearrange(frames, "(b f) c h w -> b c f h w", b=len(mean))


def _captioned(row: np.ndarray, caption: str) -> np.ndarray:
    """Put a caption below a row (h, w, 3) uint8, in as many lines as it needs."""
    lines = textwrap.wrap(caption, max(16, row.shape[1] // 7)) or ["(no caption)"]
    strip = Image.new("RGB", (row.shape[1], _LINE * len(lines) + 4), "white")
    ImageDraw.Draw(strip).multiline_text((2, 1), "\n".join(lines), fill="black", spacing=1)
    return np.concatenate([row, np.asarray(strip)])
