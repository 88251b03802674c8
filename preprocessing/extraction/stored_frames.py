"""The images of a column in place of videos: for datasets that have no video files, or whose frames were kept instead."""

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import simplejpeg

from mtjax import records
from mtjax.data import columns
from mtjax.data.catalog import Clip
from preprocessing.extraction import shards
from preprocessing.videos import video_clip
from preprocessing.videos.video_file import Limits, VideoError

FIELD = "frames"
FPS = 25.0  # where nothing says it: FFmpeg's own assumption for raw streams


@dataclasses.dataclass(frozen=True)
class StoredFrames:
    """Takes clips from a column with the field `frames` of JPEG images (a `shards.Source`).

    An extractor gets what it would of a video of these images: as many as it wants, evenly spaced or at its rate; with
    `num_frames` and `fps` 0 all of them. Times, size and rate are the record's where it has them.

    Attributes:
      column: e.g. of `preprocessing.extract frames`. limits: of what a clip may cost, as for videos.

    Raises:
      ColumnError: the column has no such field.
    """

    column: columns.Column
    limits: Limits = dataclasses.field(default_factory=Limits)

    def __post_init__(self):
        schema = self.column.spec.schema
        if FIELD not in schema or schema[FIELD].dtype != "jpeg":
            raise columns.ColumnError(
                f"column {self.column.spec.name!r} has no JPEG images in a field {FIELD!r}; it has {sorted(schema)}"
            )

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"images": f"{self.column.spec.name} {self.column.fingerprint}"}

    def decoded(self, clips: Sequence[Clip], extractor: shards.Extractor) -> Generator[shards.Decoded, None, None]:
        """See `shards.Source`."""
        for clip in clips:
            try:
                yield clip, self._decode(clip, extractor)
            except VideoError as e:
                yield clip, e

    def identity(self, clip: Clip) -> dict[str, str]:
        """Nothing but what `parameters` say."""
        return {}

    def _decode(self, clip: Clip, extractor: shards.Extractor) -> video_clip.Clip:
        rows = self.column.rows([clip.id])
        if rows[0] < 0:
            raise VideoError("open", f"column {self.column.spec.name!r} has no images of this clip")
        try:
            [record] = self.column.read(rows)
        except records.RecordError as e:
            raise VideoError("open", str(e)) from None
        images, rate = record[FIELD], float(record.get("fps", 0)) or clip.fps or FPS
        times_s = np.asarray(record.get("times_s", np.arange(len(images)) / rate), np.float64)
        if not images or len(times_s) != len(images):
            raise VideoError("decode", f"{len(images)} images at {len(times_s)} times")
        wanted = self._pick(times_s, extractor)
        frames = self._frames([images[i] for i in wanted], extractor.short_side)
        source_px = _decode_jpeg(images[0], self.limits).shape[1::-1]
        size_px = tuple(np.asarray(record.get("size_px", source_px)).tolist())
        partial = bool(record.get("partial", False))
        return video_clip.Clip(frames, times_s[wanted].astype(np.float32), rate, size_px, source_px, partial)

    def _pick(self, times_s: np.ndarray, extractor: shards.Extractor) -> np.ndarray:
        self.limits.check("max_frames", len(times_s), "frames:")
        if not (extractor.num_frames or extractor.fps):
            return np.arange(len(times_s))
        return video_clip.Part(0.0, 0.0, extractor.num_frames, extractor.fps).pick(times_s, self.limits)

    def _frames(self, images: Sequence[bytes], short_side: int) -> np.ndarray:
        """uint8 [t h w 3]."""
        first = video_clip.shrink(_decode_jpeg(images[0], self.limits), short_side)
        self.limits.check("max_clip_bytes", len(images) * first.nbytes, f"bytes of {len(images)} frames:")
        frames = np.empty((len(images), *first.shape), np.uint8)
        for i, image in enumerate(images):
            frame = video_clip.shrink(_decode_jpeg(image, self.limits), short_side)
            if frame.shape != first.shape:
                raise VideoError("decode", f"images of {first.shape[1::-1]} and of {frame.shape[1::-1]} pixels")
            frames[i] = frame
        return frames


def _decode_jpeg(image: bytes, limits: Limits) -> np.ndarray:
    """uint8 [h w 3]. Its header is looked at first: a thousand bytes may ask for gigabytes."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(image)
        limits.check("max_pixels", width * height, f"pixels of a {width}x{height} image:")
        return simplejpeg.decode_jpeg(image, colorspace="RGB")
    except VideoError:
        raise
    except (ValueError, MemoryError) as e:
        raise VideoError("decode", f"an image of {len(image)} bytes cannot be decoded: {e}") from None
