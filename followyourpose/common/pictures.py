"""Pictures of clips: contact sheets, captions, enlarged and reduced frames, and values of [0, 1] as bytes.

Shapes: f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB, pictures (H, W, 3) uint8 RGB.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from followyourpose.common.files import atomic_file, errors_named

SHEET_FRAMES, SHEET_COLUMNS = 16, 8
LINE, _LETTER = 14, 6  # pixels: height of a line of text, width of a letter on average


def check_frames(frames: np.ndarray, name: str = "frames", least: int = 0) -> None:
    """Raise a ValueError unless frames are (f, H, W, 3) uint8, at least so many."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) < least:
        number = f" with f >= {least}" if least else ""
        raise ValueError(f"{name}: got {frames.shape} {frames.dtype}, expected (f, H, W, 3) uint8{number}")


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Return values in [0, 1], such as frames (..., H, W, 3), as bytes; bytes stay as they are."""
    return values if values.dtype == np.uint8 else (values * 255).round().astype(np.uint8)


def evenly(total: int, at_most: int = SHEET_FRAMES) -> np.ndarray:
    """Return the numbers (n,) of at most so many frames of `total`, evenly spaced from the first to the last."""
    return np.linspace(0, total - 1, min(total, at_most)).round().astype(int)


def enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """Return frames (f, H, W, 3) enlarged by a whole factor, by bicubic interpolation."""
    if factor == 1:
        return frames
    return np.stack([cv2.resize(f, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) for f in frames])


def reduced(picture: np.ndarray, height: int) -> np.ndarray:
    """Return a picture (H, W, 3) at most `height` pixels high, in its own proportions; a lower one stays as it is."""
    if picture.shape[0] <= height:
        return picture
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def contact_sheet(frames: np.ndarray, at_most: int = SHEET_FRAMES) -> np.ndarray:
    """Return a picture (H, W, 3) of at most so many frames, evenly spaced, in reading order, 8 in a row, bordered."""
    chosen = np.pad(frames[evenly(len(frames), at_most)], ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255)
    return grid(chosen, SHEET_COLUMNS)


def grid(tiles: Sequence[np.ndarray] | np.ndarray, columns: int) -> np.ndarray:
    """Return pictures of one size as one (H, W, 3), in reading order; empty places are white."""
    columns = min(len(tiles), columns)
    padded = np.pad(np.asarray(tiles), ((0, -len(tiles) % columns), (0, 0), (0, 0), (0, 0)), constant_values=255)
    rows = padded.reshape(-1, columns, *padded.shape[1:])
    return rows.transpose(0, 2, 1, 3, 4).reshape(-1, columns * padded.shape[2], 3)


def stack(strips: Sequence[np.ndarray], background: int = 0) -> np.ndarray:
    """Return pictures one below the other, (H, W, 3); the right of narrower ones has the background's brightness."""
    width = max(strip.shape[1] for strip in strips)
    missing = [((0, 0), (0, width - strip.shape[1]), (0, 0)) for strip in strips]
    padded = [np.pad(strip, each, constant_values=background) for strip, each in zip(strips, missing, strict=True)]
    return np.concatenate(padded)


def caption(text: str, width: int, lines: int | None = None) -> np.ndarray:
    """Return a strip of black text on white, (H, width, 3), of 14 pixels per line, to put above or below a picture.

    Args:
        lines: number of lines; a longer text is cut, and ends in "..."; None: as many as the text takes, at least 1.
    """
    wrapped = textwrap.wrap(text, max(8, width // _LETTER), max_lines=lines, placeholder=" ...")
    strip = Image.new("RGB", (width, LINE * (max(1, len(wrapped)) if lines is None else lines)), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(LINE - 3)  # Pillow's own: other scripts become boxes
    for number, line in enumerate(wrapped):
        draw.text((2, number * LINE), line, "black", font)
    return np.asarray(strip)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture (H, W, 3) as a .png file, whole or not at all; its folder is made where there is none.

    Raises:
        ValueError: the place cannot be written; the message names it.
    """
    with errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            Image.fromarray(picture).save(partial, "PNG")
