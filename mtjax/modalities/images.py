"""Stored images, which may be damaged."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from mtjax.records import CorruptRecord

JPEG = b"\xff\xd8"
MAX_PIXELS = 1 << 26  # a thousand bytes may ask for gigabytes


@contextlib.contextmanager
def opened(encoded: bytes) -> Iterator[Image.Image]:
    """An image to be decoded inside of `with`.

    Raises:
      CorruptRecord: there, too: it is no image, or a broken one.
    """
    try:
        yield Image.open(io.BytesIO(encoded))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as e:
        raise CorruptRecord(f"an image of {len(encoded)} bytes cannot be decoded: {e}") from None


def decode(encoded: bytes, colours: str, *, at_least: tuple[int, int]) -> np.ndarray:
    """uint8 [h w 3] for "RGB", [h w 1] for "GRAY". A JPEG larger than `at_least` (h, w) may come smaller, down
    to that, from its decoder, which is faster than decoding all of it.

    Raises:
      CorruptRecord: it is no image, or a broken one.
    """
    if encoded[:2] == JPEG:
        height, width = at_least
        try:
            there = simplejpeg.decode_jpeg_header(encoded)[:2]
            if there[0] * there[1] > MAX_PIXELS:
                raise CorruptRecord(f"{there[1]}x{there[0]} pixels, more than {MAX_PIXELS}")
            return simplejpeg.decode_jpeg(encoded, colours, min_height=height, min_width=width)
        except ValueError as e:
            raise CorruptRecord(f"an image of {len(encoded)} bytes cannot be decoded: {e}") from None
    with opened(encoded) as image:
        pixels = np.asarray(image.convert({"GRAY": "L"}.get(colours, colours)))
        return pixels.reshape(*pixels.shape[:2], -1)


def resized(pixels: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """uint8 [h w c]: a box (left, top, right, bottom) of an image, brought to `size` (w, h) with antialiasing."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    out = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box))
    return out.reshape(*out.shape[:2], -1)


def decode_for(encoded: bytes, colours: str, resize: tuple[int, int]) -> np.ndarray:
    """uint8 [h w 3] or, for "GRAY", [h w 1]: an image to take squares from; of more than twice `resize` (h, w), it is as small
    as the JPEG decoder makes it by itself.

    Raises:
      CorruptRecord: not an image.
    """
    return decode(encoded, colours, at_least=(2 * resize[0], 2 * resize[1]))


def cut_square(pixels: np.ndarray, resize: tuple[int, int], size: int, top: int, left: int) -> np.ndarray:
    """uint8 [size size c]: the square at (top, left) of an image [h w c] brought to `resize` (h, w). An image of that size is
    only cut; another one is scaled with antialiasing."""
    height, width = pixels.shape[:2]
    if (height, width) == tuple(resize):
        return pixels[top : top + size, left : left + size]
    x, y = width / resize[1], height / resize[0]
    box = (left * x, top * y, min((left + size) * x, width), min((top + size) * y, height))
    return resized(pixels, (size, size), box)
