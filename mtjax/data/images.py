"""Stored images, which may be damaged."""

import contextlib
import io
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from mtjax.records import CorruptRecord


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
