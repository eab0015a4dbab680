"""Window plans of long videos: their frames, their weights, and the order of their noise."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from followyourpose.pipeline.windows import LongVideo, blend_weights, freenoise_order, plan_windows

PLANS = [
    (frames, window, overlap, anchor)
    for frames in (1, 2, 5, 16, 17, 31, 100)
    for window in (1, 2, 3, 8, 16)
    for overlap in (0, 1, 4, 8, 15)
    for anchor in (False, True)
    if window <= frames and overlap < max(window - anchor, 1) and (window > 1 or not anchor or frames == 1)
]


@pytest.mark.parametrize(("frames", "window", "overlap", "anchor"), PLANS)
def test_windows_are_equally_long_cover_every_frame_and_share_enough(
    frames: int, window: int, overlap: int, anchor: bool
) -> None:
    windows = plan_windows(frames, window, overlap, anchor)
    assert {frame for each in windows for frame in each} == set(range(frames))
    assert all(len(each) == window for each in windows)
    own = [windows[0], *(each[anchor:] for each in windows[1:])]
    assert all(each == tuple(range(each[0], each[-1] + 1)) for each in own)
    shared = [before[-1] + 1 - after[0] for before, after in pairwise(own)]
    assert all(number == overlap for number in shared[:-1]) and all(number >= overlap for number in shared)
    if anchor:
        assert all(each[0] == 0 and each[1] > 1 for each in windows[1:])


@pytest.mark.parametrize(("frames", "window", "overlap", "anchor"), PLANS)
def test_blend_weights_sum_to_one(frames: int, window: int, overlap: int, anchor: bool) -> None:
    windows = plan_windows(frames, window, overlap, anchor)
    weights = blend_weights(windows)
    assert weights.shape == (len(windows), window)
    totals = np.zeros(frames)
    np.add.at(totals, np.array(windows), weights)
    np.testing.assert_allclose(totals, 1)
    assert (weights[1:, anchor:] > 0).all() and (not anchor or (weights[1:, 0] == 0).all())


def test_blend_weights_rise_and_fall() -> None:
    weights = blend_weights(plan_windows(12, 8, 4))
    np.testing.assert_allclose(weights[0], [1, 1, 1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5])
    np.testing.assert_allclose(weights[1], weights[0, ::-1])


def test_one_window_counts_fully() -> None:
    assert (blend_weights(plan_windows(5, 5, 2)) == 1).all()


def test_the_defaults_are_sixteen_frames_that_share_half() -> None:
    assert LongVideo().windows(5) == [tuple(range(5))]
    assert LongVideo().windows(24) == [tuple(range(16)), tuple(range(8, 24))]
    assert LongVideo("full").windows(100) == [tuple(range(100))]
    assert LongVideo(anchor=True).windows(24) == [tuple(range(16)), (0, *range(9, 24))]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "blends"}, "long_video.mode: got 'blends', expected one of paper, blend, freenoise, full"),
        ({"window": 0}, "long_video.window: got 0 frames, expected at least 1"),
        ({"window": 41}, "long_video.window: got 41 frames, expected at most those of the video, 40"),
        ({"window": 8, "overlap": 8}, "long_video.overlap: got 8 frames, expected at least 0 and less than the window"),
        ({"overlap": -1}, "long_video.overlap: got -1 frames"),
        ({"window": 8, "overlap": 7, "anchor": True}, "less than the window without its anchor, 7"),
        ({"window": 1, "anchor": True}, "long_video.window: got 1 frame, expected at least 2"),
        ({"batch": 0}, "long_video.batch: got 0, expected at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        LongVideo(**settings).windows(40)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("frames", "window", "overlap"), [(16, 16, 8), (40, 16, 8), (37, 16, 4), (20, 8, 7), (9, 1, 0)]
)
def test_freenoise_reuses_the_first_window_and_never_twice_in_one(frames: int, window: int, overlap: int) -> None:
    rng = np.random.default_rng(0)
    windows = plan_windows(frames, window, overlap)
    order = freenoise_order(windows, rng.permutation)
    assert len(order) == frames and order[:window] == list(range(window))
    assert max(Counter(order).values()) - min(Counter(order).values()) <= 1 + frames // window
    for each in windows[:-1] if frames > window else windows:
        assert sorted(order[frame] for frame in each) == list(range(window))


def test_freenoise_shuffles_only_within_a_stretch() -> None:
    order = freenoise_order(plan_windows(64, 16, 8), lambda count: list(reversed(range(count))))
    assert order[16:32] == [*reversed(range(8)), *reversed(range(8, 16))]
    assert order[32:48] == list(range(16))
