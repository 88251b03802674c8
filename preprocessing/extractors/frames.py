"""The `frames` column: the pictures of a clip as JPEG at training size, so that no video is decoded while training."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import simplejpeg

from mtjax import records
from mtjax.command.errors import InputError
from preprocessing.extraction import flags
from preprocessing.extraction.shards import Failure
from preprocessing.videos import video_clip

MAX_BYTES = records.MAX_RECORD_BYTES // 2  # protobuf ends at 2 GB; well below it, a record is still read in one piece


@dataclasses.dataclass(frozen=True)
class Frames:
    """Extracts the records of a `frames` column (a `shards.Extractor`).

    A record: `frames`, JPEG images of one size; `times_s` [t]; `size_px` int32 (W, H) of the video, upright; `fps` of the
    video; and `partial`, when damaged videos are allowed.

    Attributes:
      num_frames: evenly spaced, with `fps` 0. fps: above 0, frames a second instead.
      short_side: of the images; smaller videos keep their size, and 0 is the video's.
      size: (width, height) that the images are then brought to, whatever their aspect: what `data.resize` of `rgb.Rgb` asks
        for, so that training only cuts. None keeps theirs.
      quality: JPEG's, 1 to 100.
      partial: records say whether their video is damaged.
      name: of the column.
    """

    num_frames: int = 32
    fps: float = 0.0
    short_side: int = 256
    size: tuple[int, int] | None = None
    quality: int = 90
    partial: bool = False
    name: str = "frames"

    weights: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    batch_size: ClassVar[int] = 1
    window: ClassVar[int] = 1

    def __post_init__(self):
        if not (self.num_frames >= 1 and 0 <= self.fps < 1000 and 1 <= self.quality <= 100 and self.short_side >= 0):
            raise InputError(
                f"frames {self.num_frames} must be at least 1, fps {self.fps} and short_side {self.short_side} at least 0, "
                f"quality {self.quality} in 1..100"
            )
        check_size(self.size)

    @property
    def schema(self) -> dict[str, records.Feature]:
        fields = {
            "frames": records.Feature("jpeg", (-1,)),
            "times_s": records.Feature("float32", (-1,)),
            "size_px": records.Feature("int32", (2,)),
            "fps": records.Feature("float32"),
        }
        return fields | ({"partial": records.Feature("uint8")} if self.partial else {})

    @property
    def parameters(self) -> dict[str, Any]:
        spacing = {"fps": self.fps} if self.fps else {"frames": self.num_frames}
        size = {"size": list(self.size)} if self.size else {}
        return {"version": 1, "short_side": self.short_side, "quality": self.quality} | spacing | size

    def extract(self, clip_ids: Sequence[str], clips: Sequence[video_clip.Clip]) -> list[Mapping[str, Any] | Failure]:
        """See `shards.Extractor`."""
        return [self._record(clip) for clip in clips]

    def _record(self, clip: video_clip.Clip) -> dict[str, Any] | Failure:
        stored = (np.ascontiguousarray(video_clip.stretch(f, self.size)) for f in clip.frames)
        images = [simplejpeg.encode_jpeg(f, quality=self.quality) for f in stored]
        if (size := sum(map(len, images))) > MAX_BYTES:
            return Failure("frames", f"{len(images)} images of {size} bytes in all, more than {MAX_BYTES} for a record")
        values = {
            "frames": images,
            "times_s": clip.times_s,
            "size_px": np.array(clip.size_px, np.int32),
            "fps": np.float32(clip.fps),
        }
        return values | ({"partial": np.uint8(clip.partial)} if self.partial else {})


def check_size(size: tuple[int, int] | None) -> None:
    """Raises ValueError for an image without a pixel."""
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise InputError(f"size {size} must be (width, height), at least 1 each")


HELP = "JPEG images"
AFTER = ""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """See `kinds.Kind`."""
    spacing = parser.add_mutually_exclusive_group()
    spacing.add_argument("--frames", type=int, default=32, help="evenly spaced in time")
    spacing.add_argument("--fps", type=float, default=0.0, help="instead: so many a second")
    add = parser.add_argument
    add("--name", default="frames", help="of the column")
    add("--short_side", type=int, default=256, help="of the images; 0 keeps the video's")
    add("--size", type=flags.size, metavar="WxH", help="bring them to exactly this, e.g. 171x128")
    add("--quality", type=int, default=90, help="of the JPEGs, 1 to 100")


def from_flags(args: argparse.Namespace) -> Frames:
    """See `kinds.Kind`."""
    return Frames(
        num_frames=args.frames,
        fps=args.fps,
        short_side=args.short_side,
        size=args.size,
        quality=args.quality,
        partial=args.allow_partial,
        name=args.name,
    )


def flags_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """See `kinds.Kind`."""
    made = {k: parameters[k] for k in ("frames", "fps", "short_side", "quality") if k in parameters}
    return made | ({"size": tuple(parameters["size"])} if "size" in parameters else {})
