"""The first batch as a picture: frames as the networks see them, the skeleton beside and the caption below."""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from followyourpose.common.pictures import caption, to_uint8, write_picture
from followyourpose.data.batch import Batch
from followyourpose.training.objectives import Objective

MOST_CLIPS, MOST_FRAMES = 8, 4


@torch.no_grad()
def draw_first_batch(batch: Batch, objective: Objective, path: Path) -> None:
    """Write up to 8 clips, 4 frames of each, as a png; latents of a cache are decoded."""
    tiles = (_images(batch, objective)[:MOST_CLIPS, :, :MOST_FRAMES].clamp(-1, 1) + 1) / 2
    scale = max(1, 128 // tiles.shape[-1])
    if batch.skeleton is not None:
        tiles = torch.cat([batch.skeleton[:MOST_CLIPS, :, :MOST_FRAMES].to(tiles), tiles], dim=-1)  # side by side
    rows = to_uint8(rearrange(tiles, "b c f h w -> b h (f w) c").cpu().numpy()).repeat(scale, 1).repeat(scale, 2)
    captions = [caption(text or "(no caption)", rows.shape[2]) for text in batch.captions]
    write_picture(path, np.concatenate([part for pair in zip(rows, captions, strict=False) for part in pair]))


def _images(batch: Batch, objective: Objective) -> Tensor:
    """Frames (b, 3, f, H, W) of a batch, about [-1, 1]."""
    if batch.pixels is not None:
        return batch.pixels
    vae = objective.parts["vae"]
    mean = batch.moments[:MOST_CLIPS, :, :MOST_FRAMES].to(vae.device).float().chunk(2, dim=1)[0]
    frames = vae.decode(rearrange(mean, "b c f h w -> (b f) c h w")).sample
    return rearrange(frames, "(b f) c h w -> b c f h w", b=len(mean))
