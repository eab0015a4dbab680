"""Image files as they are shown: upright, over one ground, and with all of their range in 8 bits.

Shapes: H W pixels; images (H, W, 3) uint8 RGB.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

BLACK, WHITE = 0, 255  # grounds under what is transparent: skeletons are drawn on black, photographs put on white
UNREADABLE = (  # errors of Pillow, for damaged images
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, MemoryError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # formats whose further images are frames, and not pages or thumbnails
_ORIENTATION = 0x0112  # EXIF tag: 1 to 8
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def read_image(file: BinaryIO | Path, name: str, ground: int = WHITE) -> np.ndarray:
    """Read an image file as frames (1, H, W, 3).

    Args:
        name: the file in messages.
        ground: grey from 0 to 255 under what is transparent.

    Raises:
        ValueError: it cannot be decoded, or is an animation.
    """
    with _opened(file, name) as image:
        if (frames := frames_of(image)) > 1:
            raise ValueError(f"an animation of {frames} frames")
        return shown(image, ground)[None]


def image_size(file: BinaryIO | Path, name: str) -> tuple[int, int]:
    """Return (H, W) of an image file as it is shown, in most formats from its first bytes.

    Raises:
        ValueError: it is no image.
    """
    with _opened(file, name) as image:
        size = image.height, image.width
        return size[::-1] if _orientation(image) >= 5 else size  # on its side


def frames_of(image: Image.Image) -> int:
    """Return the number of frames of an open image; those of a format without animations are 1."""
    return getattr(image, "n_frames", 1) - hidden_frames(image) if image.format in ANIMATED else 1


def hidden_frames(image: Image.Image) -> int:
    """Return 1 for an animated PNG that begins with a picture for viewers without animations, else 0."""
    return int(image.info.get("default_image", False))


def shown(image: Image.Image, ground: int) -> np.ndarray:
    """Return the current frame of an open image (H, W, 3) as viewers show it, over a grey `ground`.

    Raises:
        ValueError: its numbers have no range that is known.
    """
    turn, image = _UPRIGHT.get(_orientation(image)), _in_eight_bits(image)
    return np.asarray(flatten(image if turn is None else image.transpose(turn), ground))


def flatten(image: Image.Image, ground: int) -> Image.Image:
    """Return an image of 8 bits as RGB; a grey `ground` is shown where it is transparent."""
    if image.has_transparency_data:
        below = Image.new("RGBA", image.size, (ground, ground, ground, 255))
        image = Image.alpha_composite(below, image.convert("RGBA"))
    return image.convert("RGB")


@contextmanager
def _opened(file: BinaryIO | Path, name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            yield image
    except UnidentifiedImageError as error:  # its message names an object in memory
        raise ValueError(f"{name}: not a readable image") from error
    except UNREADABLE as error:
        raise ValueError(f"{name}: not a readable image ({' '.join(str(error).split())})") from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an open image; 1, upright, where there is none that can be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except UNREADABLE:
        return 1


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Return an image with all of the range of its numbers in 8 bits, where Pillow would cut off all above 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    numbers = np.asarray(image, np.float64)
    highest = 1.0 if image.mode == "F" else 65535.0
    if not (numbers.min() >= 0 and numbers.max() <= highest):
        found = f"{numbers.min():g} to {numbers.max():g}"
        raise ValueError(f"pixels from {found}, expected whole numbers of 8 or 16 bits, or from 0 to 1")
    grey = Image.fromarray((numbers * (255 / highest)).round().astype(np.uint8))
    if isinstance(hidden := image.info.get("transparency"), int):  # the one grey that is transparent
        grey.putalpha(Image.fromarray(255 * (numbers != hidden).astype(np.uint8)))
    return grey
