"""Sampling and geometry: the choice of frames, and that pixels and keypoints move together."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from followyourpose.config import GenerateConfig, build_config
from followyourpose.data.transforms import Geometry, cover, fit, frame_indices


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


def test_a_clip_that_is_too_short_is_refused_with_its_length_and_the_largest_that_fits() -> None:
    with pytest.raises(ValueError, match=r"has 10 frames.*6 more needed.*num_frames up to 4 \(or stride up to 1\)"):
        frame_indices(10, offset=0, stride=3, count=6)
    assert len(frame_indices(10, 0, 3, 4)) == 4 and frame_indices(10, 0, 1, 6)
    with pytest.raises(ValueError, match="has 10 frames.*num_frames up to 8, or"):  # no stride would do
        frame_indices(10, offset=2, stride=1, count=9)


@pytest.mark.parametrize(
    ("key", "value"),
    [("temporal_offset", -1), ("stride", 0), ("num_frames", 0), ("skeleton_end", "bounce"), ("crop", {"top": -1})],
)
def test_settings_out_of_range_are_named(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        build_config(GenerateConfig, {"prompt": "a", key: value})


def test_a_clip_of_one_frame_is_counted_in_the_singular() -> None:
    with pytest.raises(ValueError, match="has 1 frame, too short for temporal_offset 1: at most 0"):
        frame_indices(1, offset=1, stride=1, count=1)


def test_the_same_size_changes_no_pixel() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), np.uint8)
    np.testing.assert_array_equal(cover((6, 8), (6, 8)).of_frames(frames), frames)


@pytest.mark.parametrize("size", [(5, 7), (20, 30)])
def test_a_bilinear_resize_is_torch_s_without_antialiasing(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).random((2, 12, 18, 3), np.float32)
    pixels = torch.from_numpy(frames).movedim(-1, 1)
    expected = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=False).movedim(1, -1).numpy()
    geometry = Geometry(0, 0, 12, 18, *size, 0, 0, *size)
    np.testing.assert_allclose(geometry.of_frames(frames, "bilinear"), expected, atol=1e-6)
    assert size[0] > 12 or np.abs(geometry.of_frames(frames) - expected).max() > 0.1  # means of areas are others


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


@pytest.mark.parametrize("target", [(60, 90), (90, 60), (33, 20)])
def test_padding_shows_all_of_the_source_in_the_middle_of_black(target: tuple[int, int]) -> None:
    white = cover((100, 50), target, pad=True).of_frames(np.full((1, 100, 50, 3), 255, np.uint8))[0, ..., 0]
    rows, columns = white.any(1), white.any(0)
    assert white.shape == target and (white[rows][:, columns] == 255).all()
    assert rows.sum() == pytest.approx(2 * columns.sum(), abs=1) and (rows.all() or columns.all())
    for side in (rows, columns):
        assert abs(np.argmax(side) - np.argmax(side[::-1])) <= 1


@pytest.mark.parametrize(("target", "pad"), [((64, 64), False), ((200, 120), False), ((64, 200), True)])
def test_keypoints_move_with_the_pixels(target: tuple[int, int], pad: bool) -> None:
    frames = np.zeros((1, 120, 160, 3), np.uint8)
    frames[0, 50:61, 70:81] = 255  # a square around (75, 55)
    geometry = cover((120, 160), target, left=10, top=4, bottom=6, pad=pad)
    rows, columns = np.nonzero(geometry.of_frames(frames)[0, ..., 0] > 127)
    keypoints = np.tile(np.array([75.0, 55.0, 0.5]), (1, 17, 1))
    moved = geometry.of_keypoints(keypoints)
    np.testing.assert_allclose(moved[0, 0], [columns.mean(), rows.mean(), 0.5], atol=0.5)
    assert keypoints[0, 0, 0] == 75.0  # the argument is not changed


def test_a_crop_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves nothing"):
        cover((10, 12), (6, 6), left=6, right=6)


# ---- the crop and the people -----------------------------------------------------------------------------------------


def person(x: tuple[float, float], y: tuple[float, float]) -> np.ndarray:
    """Keypoints (17, 3) that fill a box; the last joint is far off, but hardly seen."""
    places = np.stack([np.linspace(*x, 17), np.linspace(*y, 17), np.ones(17)], -1)
    places[8] = [1e3, -1e3, 0.2]
    return places


def inside(geometry, people: np.ndarray) -> np.ndarray:
    """Return the mask of joints within the target."""
    xy = geometry.of_keypoints(people)[..., :2]
    return ((xy >= -0.5) & (xy <= np.array([geometry.width, geometry.height]) - 0.5)).all(-1)


@pytest.mark.parametrize("source", [(60, 200), (200, 60)])
@pytest.mark.parametrize("seed", range(20))
def test_a_crop_keeps_the_person(source: tuple[int, int], seed: int) -> None:
    """Random or not, wherever the person stands, as long as it is no larger than the target."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, np.array(source[::-1]) - 45)
    people = person((corner[0], corner[0] + 44), (corner[1], corner[1] + 40))[None]
    for target in ((32, 32), (60, 60), (96, 96)):
        for draws in (None, rng):
            geometry = fit(source, target, people, draws)
            assert inside(geometry, people)[0, np.arange(17) != 8].all()
            assert 0 <= geometry.x <= geometry.resized_width - geometry.width
            assert 0 <= geometry.y <= geometry.resized_height - geometry.height


def test_without_need_the_crop_stays_in_the_middle() -> None:
    for people in (None, np.zeros((0, 17, 3)), person((90, 110), (20, 40))[None]):
        assert fit((60, 200), (60, 60), people) == cover((60, 200), (60, 60))
    moved = fit((60, 200), (60, 60), person((60, 100), (20, 40))[None])
    assert moved.x == 60  # from 70, as little as needed


def test_a_random_crop_takes_every_place_that_keeps_the_person() -> None:
    rng = np.random.default_rng(0)
    free = {fit((60, 70), (60, 60), None, rng).x for _ in range(200)}
    kept = {fit((60, 70), (60, 60), person((4, 20), (0, 59))[None], rng).x for _ in range(200)}
    assert free == set(range(11)) and kept == set(range(5))


def test_of_people_who_do_not_all_fit_the_largest_is_kept() -> None:
    people = np.stack([person((0, 20), (30, 50)), person((150, 190), (10, 50))])
    assert fit((60, 200), (60, 60), people).x == 131  # the joint at 190 is the last inside
    assert fit((60, 200), (60, 60), people[::-1]).x == 131


def test_of_a_person_who_does_not_fit_a_full_target_is_kept() -> None:
    rng = np.random.default_rng(0)
    people = person((100, 190), (10, 50))[None]
    assert fit((60, 200), (60, 60), people).x == 100
    assert {fit((60, 200), (60, 60), people, rng).x for _ in range(300)} == set(range(100, 132))


def test_keypoints_of_the_target_size_are_exactly_what_they_were() -> None:
    people = np.random.default_rng(0).random((3, 17, 3)).astype(np.float32) * 63
    np.testing.assert_array_equal(fit((64, 64), (64, 64), people).of_keypoints(people), people)
