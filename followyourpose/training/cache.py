"""Latents computed once: a data set whose clips are the VAE's posterior moments, held in memory."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from followyourpose.data.batch import Source, to_pixels


class CachedMoments:
    """Encodes every frame of a source, and then serves moments where the source serves pixels.

    Of several processes each encodes its part, and gets the others'.

    Args:
        source: any source of `followyourpose.data.batch`.
        encode: pixels (b, 3, f, H, W) in [-1, 1] -> moments (b, 2c, f, h, w).
        state: which process this is, of how many.
        size: (H, W) that the frames must have.
        frames: encoded at a time.

    Raises:
        ValueError: a clip has another size; it is named.
    """

    def __init__(
        self,
        source: Source,
        encode: Callable[[Tensor], Tensor],
        state: PartialState,
        size: tuple[int, int],
        frames: int = 32,
    ) -> None:
        self.source = source
        self.moments: list[Tensor] = []  # per clip (2c, f, h, w), half precision
        bounds = [len(source) * k // state.num_processes for k in (state.process_index, state.process_index + 1)]
        waiting: list[np.ndarray] = []
        for index in tqdm(range(*bounds), "encoding", disable=not state.is_main_process, mininterval=5):
            clip = source.read(index, range(source.num_frames(index)))
            if clip.shape[1:3] != size:
                raise ValueError(f"clip {index} ({source.name(index)}) is {clip.shape[1:3]}, expected {size} pixels")
            waiting.append(clip)
            if sum(map(len, waiting)) >= frames or index + 1 == bounds[1]:
                self._encode(waiting, encode)
                waiting = []
        self.moments = gather_object(self.moments)

    def _encode(self, clips: Sequence[np.ndarray], encode: Callable[[Tensor], Tensor]) -> None:
        moments = encode(to_pixels(np.concatenate(clips))[None])[0].to("cpu", torch.float16)
        # Cloned, because a view would be saved and shared with all the others of its batch.
        self.moments += [part.clone() for part in moments.split([len(clip) for clip in clips], dim=1)]

    def __len__(self) -> int:
        return len(self.source)

    def num_frames(self, index: int) -> int:
        return self.moments[index].shape[1]

    def name(self, index: int) -> str:
        return self.source.name(index)

    def label(self, index: int, frames: Sequence[int]) -> tuple[str, np.ndarray | None]:
        return self.source.label(index, frames)

    def read(self, index: int, frames: Sequence[int]) -> Tensor:
        return self.moments[index][:, list(frames)]
