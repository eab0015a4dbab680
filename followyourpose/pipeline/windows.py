"""Window plans of videos longer than the network was trained for: frames of each window, and their joints.

Pure functions on frame numbers; the denoising itself is in denoise.py. A window is the tuple of its frames' numbers,
and all windows of a video are equally long, so that a compiled network sees one shape.

paper      windows one after the other; frames that a window shares with the one before are set, at every denoising
           step, to their latents there at that step (Ma et al., AAAI 2024, arXiv 2304.01186, "noise reuse")
blend      all windows at every step; where they overlap, predictions are averaged with triangular weights
           (MultiDiffusion, Bar-Tal et al. 2023, arXiv 2302.08113, along time)
freenoise  as blend, from initial noise that repeats, shuffled (FreeNoise, Qiu et al. 2023, arXiv 2310.15169). FreeNoise
           itself joins its windows inside the temporal attention, with like weights; here whole predictions are joined,
           and the network is the same
full       the whole video in one window

Letters: F frames of the video, T frames of a window, o frames that neighbouring windows share at least, n windows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from followyourpose.common.checks import check_at_least, check_choice

Window = tuple[int, ...]  # the numbers of its T frames
Mode = Literal["paper", "blend", "freenoise", "full"]
MODES = get_args(Mode)
WINDOW = 16  # frames of a window by default, where the video has as many
MOST_FRAMES = 1_000_000


@dataclass(frozen=True)
class LongVideo:
    """Division of a long video into windows; a node of the configs too, so each comment is a line of `--help`."""

    mode: Mode = "blend"  # blend: windows averaged; freenoise: also shuffled noise; paper: in turn; full: one window
    window: int | None = None  # frames that the network sees at a time; None: 16, or all where there are fewer
    overlap: int | None = None  # frames that neighbouring windows share; None: half the window
    anchor: bool = False  # put frame 0 in front of every window, for cross-frame attention
    batch: int = 1  # windows that go through the network at a time, where they are denoised together

    def __post_init__(self) -> None:
        check_choice("long_video.mode", self.mode, MODES)
        check_at_least("long_video.batch", self.batch)

    @property
    def together(self) -> bool:
        """Whether all windows are denoised together, rather than one after the other."""
        return self.mode in ("blend", "freenoise")

    def windows(self, num_frames: int) -> list[Window]:
        """Return the windows of a video of F frames; see `plan_windows`.

        Raises:
            ValueError: a setting that does not fit the others or the video; the message names it.
        """
        if self.mode == "full":
            return plan_windows(num_frames, num_frames, 0)
        window = min(WINDOW, num_frames) if self.window is None else self.window
        # Half the window as in the paper, the anchor included.
        overlap = max(0, window // 2 - self.anchor) if self.overlap is None else self.overlap
        return plan_windows(num_frames, window, overlap, self.anchor)


def plan_windows(num_frames: int, window: int, overlap: int, anchor: bool = False) -> list[Window]:
    """Return the T frames of each window: every frame of the video is in one, and neighbours share `overlap` or more.

    Where windows do not divide the video, the last one is moved back, and shares more. With `anchor`, frame 0 precedes
    the T - 1 frames of every later window; it does not count as shared.

    Raises:
        ValueError: T or F below 1, T above F, o below 0 or not below a later window's length without its anchor.
    """
    check_at_least("num_frames", num_frames, 1, MOST_FRAMES)
    if window < 1:
        raise ValueError(f"long_video.window: got {window} frames, expected at least 1")
    if window > num_frames:
        raise ValueError(f"long_video.window: got {window} frames, expected at most those of the video, {num_frames}")
    own = window - anchor  # frames of a later window beside the anchor
    if not 0 <= overlap < max(own, 1):
        less = f"the window, {window}" if not anchor else f"the window without its anchor, {own}"
        raise ValueError(f"long_video.overlap: got {overlap} frames, expected at least 0 and less than {less}")
    windows = [tuple(range(window))]
    if window < num_frames and own < 1:
        raise ValueError(f"long_video.window: got {window} frame, expected at least 2, of which one is the anchor")
    while windows[-1][-1] < num_frames - 1:
        start = min(windows[-1][-1] + 1 - overlap, num_frames - own)
        windows.append((0,) * anchor + tuple(range(start, start + own)))
    return windows


def blend_weights(windows: Sequence[Window]) -> np.ndarray:
    """Return the weight of each window's prediction of each of its frames, (n, T): triangular, 1 in sum per frame.

    An anchor counts only in the first window: elsewhere it is there for attention.
    """
    length = len(windows[0])
    triangle = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)).astype(float)
    weights = np.tile(triangle, (len(windows), 1))
    for row, window in zip(weights[1:], windows[1:], strict=True):
        if len(window) > 1 and window[1] != window[0] + 1:
            row[0] = 0
    totals = np.zeros(max(map(max, windows)) + 1)
    np.add.at(totals, np.array(windows), weights)
    return weights / totals[np.array(windows)]


def freenoise_order(windows: Sequence[Window], permutation: Callable[[int], Sequence[int]]) -> list[int]:
    """Return, for each of the F frames, the frame of the first window with its initial noise (FreeNoise, section 3.2).

    The frames that a window adds to the one before have the noise of as many frames, T frames earlier, shuffled: within
    a window the noise differs, and distant windows have the same.

    Args:
        permutation: from a number, the numbers below it in random order.
    """
    length = len(windows[0])
    order = list(range(length))
    for before, window in zip(windows[:-1], windows[1:], strict=True):
        first = len(order) - length
        order += [order[first + i] for i in permutation(window[-1] - before[-1])]
    return order
