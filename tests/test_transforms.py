"""Sampling and geometry: which frames are taken, and that pixels and keypoints move together."""

import numpy as np
import pytest

from followyourpose.data.transforms import cover, frame_indices


def test_indices_start_at_the_offset_and_keep_the_stride() -> None:
    assert frame_indices(20, offset=3, stride=4, count=5) == [3, 7, 11, 15, 19]


@pytest.mark.parametrize(
    ("end", "expected"),
    [("loop", [1, 3, 5, 1, 3, 5, 1]), ("pingpong", [1, 3, 5, 3, 1, 3, 5]), ("hold", [1, 3, 5, 5, 5, 5, 5])],
)
def test_ends_continue_a_clip_that_is_too_short(end: str, expected: list[int]) -> None:
    assert frame_indices(6, offset=1, stride=2, count=7, end=end) == expected
    assert frame_indices(1, offset=0, stride=1, count=3, end=end) == [0, 0, 0]


@pytest.mark.parametrize("end", ["loop", "pingpong", "hold"])
def test_ends_change_nothing_where_there_are_enough_frames(end: str) -> None:
    assert frame_indices(20, 2, 3, 5, end) == frame_indices(20, 2, 3, 5)


def test_too_short_says_its_length_and_the_largest_that_fits() -> None:
    with pytest.raises(ValueError, match=r"has 10 frames.*16 needed.*num_frames up to 4 \(or stride up to 1\)"):
        frame_indices(10, offset=0, stride=3, count=6)
    assert len(frame_indices(10, 0, 3, 4)) == 4 and frame_indices(10, 0, 1, 6)
    with pytest.raises(ValueError, match="has 10 frames.*num_frames up to 8, or"):  # no stride would do
        frame_indices(10, offset=2, stride=1, count=9)


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("temporal_offset", (10, -1, 1, 2)),
        ("temporal_offset", (10, 10, 1, 2)),
        ("stride", (10, 0, 0, 2)),
        ("num_frames", (10, 0, 1, 0)),
        ("skeleton_end", (10, 0, 1, 2, "bounce")),
    ],
)
def test_numbers_out_of_range_are_named(key: str, arguments: tuple) -> None:
    with pytest.raises(ValueError, match=key):
        frame_indices(*arguments)


def test_the_same_size_changes_no_pixel() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), np.uint8)
    np.testing.assert_array_equal(cover((6, 8), (6, 8)).of_frames(frames), frames)


def test_crops_cut_the_side_that_they_name() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 10, 12, 3), np.uint8)
    geometry = cover((10, 12), (6, 6), left=1, right=5, top=3, bottom=1)
    np.testing.assert_array_equal(geometry.of_frames(frames), frames[:, 3:9, 1:7])


@pytest.mark.parametrize(("source", "target"), [((90, 160), (64, 64)), ((160, 90), (64, 64)), ((33, 47), (96, 64))])
def test_the_target_is_covered_from_the_middle_at_the_same_aspect(source: tuple, target: tuple) -> None:
    geometry = cover(source, target)
    assert geometry.of_frames(np.zeros((1, *source, 3), np.uint8)).shape == (1, *target, 3)
    scales = geometry.resized_height / source[0], geometry.resized_width / source[1]
    assert scales[0] == pytest.approx(scales[1], rel=0.02)
    assert abs(2 * geometry.x + geometry.width - geometry.resized_width) <= 1
    assert abs(2 * geometry.y + geometry.height - geometry.resized_height) <= 1


@pytest.mark.parametrize("target", [(64, 64), (200, 120)])
def test_keypoints_move_with_the_pixels(target: tuple[int, int]) -> None:
    frames = np.zeros((1, 120, 160, 3), np.uint8)
    frames[0, 50:61, 70:81] = 255  # a square around (75, 55)
    geometry = cover((120, 160), target, left=10, top=4, bottom=6)
    rows, columns = np.nonzero(geometry.of_frames(frames)[0, ..., 0] > 127)
    keypoints = np.tile(np.array([75.0, 55.0, 0.5]), (1, 17, 1))
    moved = geometry.of_keypoints(keypoints)
    np.testing.assert_allclose(moved[0, 0], [columns.mean(), rows.mean(), 0.5], atol=0.5)
    assert keypoints[0, 0, 0] == 75.0  # what was given is not changed


def test_a_crop_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves nothing"):
        cover((10, 12), (6, 6), left=6, right=6)
    with pytest.raises(ValueError, match=r"crop\.top"):
        cover((10, 12), (6, 6), top=-1)
