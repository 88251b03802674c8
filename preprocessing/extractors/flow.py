"""The `flow` column: how far each pixel moves from a frame to the next, as two grey JPEG images a pair of frames."""

import argparse
import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import simplejpeg

from mtjax import records
from mtjax.command.errors import InputError
from mtjax.modalities import flow_bytes
from preprocessing.extraction import flags
from preprocessing.extraction.shards import Failure
from preprocessing.extractors.frames import MAX_BYTES, check_size
from preprocessing.videos import video_clip

METHODS = {"dis": "flow_opencv.Dis", "tvl1": "flow_opencv.TvL1", "raft": "flow_raft.Raft"}
FPS = 25.0  # of videos (motionfit.md §2)
LEAST_QUALITY = 61  # below it JPEG's quantisation moves the byte of no motion, and what stands still would creep


class Method(Protocol):
    """A way to find flow. Picklable.

    Attributes:
      name: of the method; the column is called after it.
      parameters, weights, licence: as in `shards.Extractor`.
    """

    name: str
    parameters: Mapping[str, Any]
    weights: str
    licence: str

    def fields(self, frames: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """From each frame to the next: n frames uint8 [h w 3] → n - 1 times float32 [h w 2], (x, y) in pixels."""


def make_method(method: str, **options) -> Method:
    """`dis`, `tvl1` or `raft`, with the options of its constructor; imports nothing of the others.

    Raises:
      backends.MissingBackend: a package or a checkpoint is missing; says what to install.
    """
    module, _, name = METHODS[method].partition(".")
    return getattr(importlib.import_module(f"preprocessing.extractors.{module}"), name)(**options)


@dataclasses.dataclass(frozen=True)
class Flows:
    """Extracts the records of a `flow` column (a `shards.Extractor`); motionfit.md §2.

    A record of t frames: `flow_x` and `flow_y`, t - 1 grey JPEG images of `flow_bytes` each, in pixels of what it was computed on;
    `times_s` [t - 1] of each pair's first frame; `size_px` int32 (W, H) of the video, upright; `fps` of the video; and
    `partial`, when damaged videos are allowed. An axis an image, and not both in one, because JPEG would blur the second
    as it blurs colour; and each opens in any viewer.

    Attributes:
      fps: frames a second; those of a slower video repeat, and between two of the same nothing moves. 0 takes the images
        of a column as they are.
      short_side: to compute at; 0 keeps the video's. Flow is in pixels, so it is smaller in smaller frames.
      size: (width, height) that the images are then brought to, which leaves their values; see `frames.Frames`.
      quality: JPEG's, from LEAST_QUALITY to 100.
      partial: records say whether their video is damaged.
      name: of the column; "" calls it after the method.
    """

    method: Method
    fps: float = FPS
    short_side: int = 256
    size: tuple[int, int] | None = None
    quality: int = 95
    partial: bool = False
    name: str = ""

    num_frames: ClassVar[int] = 0  # as many as the rate gives
    batch_size: ClassVar[int] = 1  # clip; the batches of pairs are within it
    window: ClassVar[int] = 2

    def __post_init__(self):
        if not (0 <= self.fps < 1000 and self.short_side >= 0 and LEAST_QUALITY <= self.quality <= 100):
            raise InputError(
                f"fps {self.fps} and short_side {self.short_side} must be at least 0, quality {self.quality} in "
                f"{LEAST_QUALITY}..100"
            )
        check_size(self.size)
        if not self.name:
            object.__setattr__(self, "name", f"flow.{self.method.name}")

    @property
    def schema(self) -> dict[str, records.Feature]:
        fields = {
            "flow_x": records.Feature("jpeg", (-1,)),
            "flow_y": records.Feature("jpeg", (-1,)),
            "times_s": records.Feature("float32", (-1,)),
            "size_px": records.Feature("int32", (2,)),
            "fps": records.Feature("float32"),
        }
        return fields | ({"partial": records.Feature("uint8")} if self.partial else {})

    @property
    def parameters(self) -> dict[str, Any]:
        made = {"method": self.method.name, "fps": self.fps, "short_side": self.short_side, "quality": self.quality}
        made |= {"size": list(self.size)} if self.size else {}
        return {"version": 1, "limit_px": flow_bytes.LIMIT_PX, **made, "solver": dict(self.method.parameters)}

    @property
    def weights(self) -> str:
        return self.method.weights

    @property
    def licence(self) -> str:
        return self.method.licence

    def extract(self, clip_ids: Sequence[str], clips: Sequence[video_clip.Clip]) -> list[Mapping[str, Any] | Failure]:
        """See `shards.Extractor`."""
        return [self._record(clip) for clip in clips]

    def _record(self, clip: video_clip.Clip) -> dict[str, Any] | Failure:
        if len(clip.frames) < 2:
            rate = f" at {self.fps:g} a second" if self.fps else ""
            return Failure("flow", f"{len(clip.frames)} frame{rate}; flow needs 2")
        images: dict[str, list[bytes]] = {"flow_x": [], "flow_y": []}
        size = 0
        for stored in self._stored(clip):
            for axis, field in enumerate(images):
                plane = np.ascontiguousarray(stored[..., axis : axis + 1])
                images[field].append(simplejpeg.encode_jpeg(plane, quality=self.quality, colorspace="GRAY"))
                size += len(images[field][-1])
            if size > MAX_BYTES:
                return Failure("flow", f"more than {MAX_BYTES} bytes of images, too many for a record")
        values = images | {
            "times_s": clip.times_s[:-1],
            "size_px": np.array(clip.size_px, np.int32),
            "fps": np.float32(clip.fps),
        }
        return values | ({"partial": np.uint8(clip.partial)} if self.partial else {})

    def _stored(self, clip: video_clip.Clip) -> Iterator[np.ndarray]:
        """uint8 [h w 2] of each pair. A frame that repeats has its time again: the pair is still, and not computed."""
        _, first, number = np.unique(clip.times_s, return_index=True, return_inverse=True)
        fields = self.method.fields([clip.frames[i] for i in first])
        shape = self.size[::-1] if self.size else clip.frames.shape[1:3]
        still = np.full((*shape, 2), flow_bytes.STILL, np.uint8)
        for moves in np.diff(number):
            yield flow_bytes.to_bytes(video_clip.stretch(next(fields), self.size)) if moves else still


HELP = "motion from frame to frame"
AFTER = "how much moves: mtjax data coverage {root} --column={column}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """See `kinds.Kind`."""
    add = parser.add_argument
    add("--method", choices=tuple(METHODS), default="dis", help="dis is fast, tvl1 the papers', raft wants a GPU")
    add("--name", default="", help="of the column; default flow.METHOD")
    add("--fps", type=float, default=0.0, help=f"frames a second; 0: {FPS:g} of a video, all images of a column")
    add("--short_side", type=int, default=256, help="to compute at; 0 keeps the video's")
    add("--size", type=flags.size, metavar="WxH", help="store it at exactly this, e.g. 171x128; the values stay")
    add("--quality", type=int, default=95, help=f"of the JPEGs, {LEAST_QUALITY} to 100")
    add("--checkpoint", help="of raft: path, hf:owner/repository/file or https address; default: torchvision's")
    add("--device", help="of raft: PyTorch's; default cuda where there is one")
    add("--batch_size", type=int, help="of raft: pairs at once")


def from_flags(args: argparse.Namespace) -> Flows:
    """See `kinds.Kind`."""
    options = flags.network_options(args, f"--method={args.method}", args.method == "raft")
    return Flows(
        make_method(args.method, **options),
        fps=args.fps or (0.0 if args.images else FPS),
        short_side=args.short_side,
        size=args.size,
        quality=args.quality,
        partial=args.allow_partial,
        name=args.name,
    )


def flags_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """See `kinds.Kind`."""
    made = {k: parameters[k] for k in ("method", "fps", "short_side", "quality")}
    return made | ({"size": tuple(parameters["size"])} if "size" in parameters else {})
