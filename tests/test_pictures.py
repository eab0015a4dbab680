"""Pictures of clips: sizes, captions, and files that are whole or absent."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from followyourpose.common.pictures import (
    LINE,
    caption,
    contact_sheet,
    enlarge,
    grid,
    reduced,
    stack,
    to_uint8,
    write_picture,
)


def test_values_become_the_nearest_bytes() -> None:
    np.testing.assert_array_equal(to_uint8(np.array([0, 0.2499, 0.5, 1])), [0, 64, 128, 255])


def test_enlarging_keeps_flat_colours() -> None:
    frames = np.full((2, 4, 6, 3), 77, np.uint8)
    np.testing.assert_array_equal(enlarge(frames, 3), np.full((2, 12, 18, 3), 77))


def test_a_reduced_picture_keeps_its_proportions() -> None:
    assert reduced(np.zeros((40, 60, 3), np.uint8), 20).shape == (20, 30, 3)
    assert reduced(np.zeros((10, 60, 3), np.uint8), 20).shape == (10, 60, 3)


@pytest.mark.parametrize(
    ("count", "size"), [(1, (12, 12)), (8, (12, 96)), (11, (24, 96)), (16, (24, 96)), (99, (24, 96))]
)
def test_contact_sheets_have_at_most_two_rows(count: int, size: tuple[int, int]) -> None:
    assert contact_sheet(np.zeros((count, 8, 8, 3), np.uint8)).shape[:2] == size


def test_a_grid_is_in_reading_order_and_ends_in_white() -> None:
    tiles = [np.full((1, 2, 3), number, np.uint8) for number in range(5)]
    assert grid(tiles, 3)[..., 0].tolist() == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 255, 255]]


def test_strips_of_different_widths_are_stacked() -> None:
    strips = [np.full((1, width, 3), 9, np.uint8) for width in (1, 2)]
    assert stack(strips, background=255)[..., 0].tolist() == [[9, 255], [9, 9]]


def test_a_caption_takes_the_lines_that_it_needs_or_those_it_has() -> None:
    text = "a panda in the forest " * 9
    assert caption("", 96).shape == (LINE, 96, 3)
    assert caption(text, 96).shape[0] > 9 * LINE and caption(text, 96, lines=2).shape[0] == 2 * LINE
    assert caption("a panda", 96).min() < 128


def test_a_picture_that_cannot_be_written_names_its_place(tmp_path: Path) -> None:
    write_picture(tmp_path / "new" / "a.png", np.full((3, 4, 3), 7, np.uint8))
    assert Image.open(tmp_path / "new" / "a.png").size == (4, 3)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="b.png: cannot be written"):
        write_picture(tmp_path / "file" / "b.png", np.zeros((1, 1, 3), np.uint8))
