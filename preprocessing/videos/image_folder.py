"""Decoding: a folder of images, the frames of one clip, → the same as of a video. Jester is published so."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from preprocessing.videos.source_files import IMAGE_SUFFIXES, image_files
from preprocessing.videos.video_clip import Clip, Part, assembled, choose, prepared
from preprocessing.videos.video_file import Limits, VideoError

FORMATS = ("BMP", "JPEG", "PNG", "WEBP")  # Pillow's names; by content, whatever a file is called


def decode(folder: Path, part: Part, *, image_fps: float, short_side: int, limits: Limits, allow_partial: bool) -> Clip:
    """As `video.decode` of a video of these images: image i is shown at i / `image_fps` seconds.

    Raises:
      VideoError: no images, no rate, beyond a limit, or an image that is damaged or of another size than the first.
    """
    if not image_fps > 0:
        raise VideoError("open", "a folder of images has no frame rate: give --image_fps, or fps in the catalog")
    files = image_files(folder)
    if not files:
        raise VideoError("open", f"a folder without images of suffix {' '.join(IMAGE_SUFFIXES)}")
    limits.check("max_bytes", sum(_size(f) for f in files), "bytes of the images:")
    damage = ""
    try:
        return _clip(files, part, image_fps, short_side, limits)
    except VideoError as e:
        if e.stage != "decode" or not allow_partial:
            raise
        damage = e.reason
    whole = _images_before_damage(files, limits)
    if not whole:
        raise VideoError("decode", damage)
    clip = _clip(whole, part, image_fps, short_side, limits)
    clip.partial = True
    return clip


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as e:
        raise VideoError("open", f"{file.name}: {e.strerror or e}") from None


def _clip(files: Sequence[Path], part: Part, image_fps: float, short_side: int, limits: Limits) -> Clip:
    indices, times_s, fps = choose(np.arange(len(files)) / image_fps, part, limits)
    kept: dict[int, tuple] = {}
    for i in sorted(set(indices)):
        pixels = _read(files[i], limits)
        kept[i] = prepared(pixels, short_side, pixels.shape[1::-1])
        if kept[i][2] != kept[indices[0]][2]:
            first = "{}x{}".format(*kept[indices[0]][2])
            raise VideoError(
                "decode", f"{files[i].name} is {pixels.shape[1]}x{pixels.shape[0]}, the first image {first}"
            )
        limits.check("max_clip_bytes", len(indices) * kept[i][0].nbytes, f"bytes of {len(indices)} frames:")
    return assembled(kept, indices, times_s, fps, limits)


def _images_before_damage(files: Sequence[Path], limits: Limits) -> list[Path]:
    size = None
    for i, file in enumerate(files):
        try:
            shape = _read(file, limits).shape
        except VideoError as e:
            if e.stage != "decode":
                raise
            return list(files[:i])
        if shape != (size := size or shape):
            return list(files[:i])
    return list(files)


def _read(file: Path, limits: Limits) -> np.ndarray:
    """RGB uint8 [h w 3], upright. The size is checked before a pixel is decoded."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            limits.check("max_pixels", width * height, f"pixels of the {width}x{height} image {file.name}:")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except VideoError:
        raise
    except Image.DecompressionBombError as e:
        raise VideoError("limits", f"{file.name}: {e}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, MemoryError) as e:
        raise VideoError("decode", f"damaged: {file.name} is no image, or a broken one ({e!s:.200})") from None
