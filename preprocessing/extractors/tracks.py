"""The `tracks` column: points drawn on frame 0 and followed by one of three trackers."""

import argparse
import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from mtjax import records
from mtjax.command.errors import InputError
from mtjax.data import columns
from preprocessing.extraction import flags
from preprocessing.extraction.shards import Failure
from preprocessing.extractors import points
from preprocessing.videos import video_clip

BACKENDS = {"lk": "track_lk.LucasKanade", "cotracker3": "track_cotracker.CoTracker3", "tapir": "track_tapir.Tapir"}
# A lost point's guess is kept near the frame: it goes into a network, which a far coordinate would only upset.
NEAREST, FARTHEST = -1.0, 2.0


class Tracker(Protocol):
    """A backend. Picklable.

    Attributes:
      name: of the backend; the column is called after it.
      parameters, weights, licence, batch_size, short_side: as in `shards.Extractor`.
    """

    name: str
    parameters: Mapping[str, Any]
    weights: str
    licence: str
    batch_size: int
    short_side: int

    def track(self, videos: Sequence[np.ndarray], points: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Follows the points of each video from frame 0 on.

        Args:
          videos: uint8 [t h w 3] each, t the same, h and w their own.
          points: float32 [n 2] each, n the same: (x, y) in pixels of frame 0, pixel centres at whole numbers.

        Returns:
          For each video float32 [t n 2] in the same pixels, and bool [t n]: True where occluded.
        """


def make_tracker(backend: str, **options) -> Tracker:
    """`lk`, `cotracker3` or `tapir`, with the options of its constructor; imports nothing of the other two.

    Raises:
      backends.MissingBackend: a package or a checkpoint is missing; says what to install.
    """
    module, _, name = BACKENDS[backend].partition(".")
    return getattr(importlib.import_module(f"preprocessing.extractors.{module}"), name)(**options)


@dataclasses.dataclass(frozen=True)
class Tracks:
    """Extracts the records of a `tracks` column (a `shards.Extractor`).

    A record: `tracks` [frames points 3] = x / W, y / H, occluded (1 occluded, 0 visible); `size_px` int32 (W, H) of the
    video, upright; `fps` of the video; `times_s` [frames]; and `partial`, when damaged videos are allowed.

    Attributes:
      frames, num_points: T and N.
      substeps: frames tracked per frame kept. A tracker that goes from frame to frame loses what moves far in between.
      sampling, box: see `points.sample`.
      masks: for sampling "mask": the column that holds them, in its field `mask` [h w].
      dtype: "float16" resolves 1/2048 of the frame, a pixel at full HD; "float32" everything.
      short_side: to decode at; -1 leaves it to the tracker, 0 keeps the video's.
      partial: records say whether their video is damaged.
      name: of the column; "" calls it after the backend.
    """

    tracker: Tracker
    frames: int = 32
    num_points: int = 60
    substeps: int = 1
    sampling: str = "shi_tomasi"
    box: tuple[float, float, float, float] = points.WHOLE_FRAME
    masks: columns.Column | None = None
    dtype: str = "float16"
    short_side: int = -1
    partial: bool = False
    name: str = ""

    fps: ClassVar[float] = 0.0  # the number of frames is fixed
    window: ClassVar[int] = 1

    def __post_init__(self):
        if self.sampling not in points.SAMPLINGS or (self.sampling == "mask") != (self.masks is not None):
            raise InputError(f"sampling {self.sampling!r} is not of {points.SAMPLINGS}, or masks do not go with it")
        if min(self.frames, self.num_points, self.substeps) < 1:
            counts = (self.frames, self.num_points, self.substeps)
            raise InputError(f"frames, points and substeps must be at least 1, got {counts}")
        if self.short_side < 0:
            object.__setattr__(self, "short_side", self.tracker.short_side)
        if not self.name:
            object.__setattr__(self, "name", f"tracks.{self.tracker.name}")

    @property
    def num_frames(self) -> int:
        """Frames to decode: every `substeps`-th of them is one of the `frames` evenly spaced ones."""
        return (self.frames - 1) * self.substeps + 1

    @property
    def schema(self) -> dict[str, records.Feature]:
        fields = {
            "tracks": records.Feature(self.dtype, (self.frames, self.num_points, 3)),
            "size_px": records.Feature("int32", (2,)),
            "fps": records.Feature("float32"),
            "times_s": records.Feature("float32", (self.frames,)),
        }
        return fields | ({"partial": records.Feature("uint8")} if self.partial else {})

    @property
    def parameters(self) -> dict[str, Any]:
        of_points = {"sampling": self.sampling, "box": list(self.box)}
        of_frames = {"short_side": self.short_side, "substeps": self.substeps}
        if self.masks is not None:
            of_points["masks"] = f"{self.masks.spec.name} {self.masks.fingerprint}"
        return {"backend": self.tracker.name, **of_frames, **of_points, "tracker": dict(self.tracker.parameters)}

    @property
    def weights(self) -> str:
        return self.tracker.weights

    @property
    def licence(self) -> str:
        return self.tracker.licence

    @property
    def batch_size(self) -> int:
        return self.tracker.batch_size

    def extract(self, clip_ids: Sequence[str], clips: Sequence[video_clip.Clip]) -> list[Mapping[str, Any] | Failure]:
        """See `shards.Extractor`."""
        outcomes: list[Any] = []
        for clip_id, clip in zip(clip_ids, clips, strict=True):
            try:
                outcomes.append(self._points(clip_id, clip.frames[0]))
            except points.PointsError as e:
                outcomes.append(Failure("points", str(e)))
        rows = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, Failure)]
        tracked = self.tracker.track([clips[i].frames for i in rows], [outcomes[i] for i in rows]) if rows else []
        for i, (xy_px, occluded) in zip(rows, tracked, strict=True):
            finite = np.isfinite(xy_px).all()
            outcomes[i] = (
                self._record(clips[i], xy_px, occluded) if finite else Failure("track", "positions not finite")
            )
        return outcomes

    def _points(self, clip_id: str, frame: np.ndarray) -> np.ndarray:
        mask = None
        if self.masks is not None:
            if clip_id not in self.masks:
                raise points.PointsError(f"column {self.masks.spec.name!r} has no mask for this clip")
            mask = self.masks.read(self.masks.rows([clip_id]).tolist())[0]["mask"]
        return points.sample(self.sampling, frame, self.num_points, clip_id, box=self.box, mask=mask)

    def _record(self, clip: video_clip.Clip, xy_px: np.ndarray, occluded: np.ndarray) -> dict[str, Any]:
        xy_px, occluded = xy_px[:: self.substeps], occluded[:: self.substeps]
        size = np.array(clip.size_px)
        scale = size / clip.frames.shape[2:0:-1]
        unit = ((xy_px + 0.5) * scale - 0.5) / size  # shrinking kept the corners of the frame, not the pixels' centres
        tracks = np.concatenate([unit.clip(NEAREST, FARTHEST), occluded[..., None]], axis=-1)
        values = {
            "tracks": tracks.astype(self.dtype),
            "size_px": size.astype(np.int32),
            "fps": np.float32(clip.fps),
            "times_s": clip.times_s[:: self.substeps],
        }
        return values | ({"partial": np.uint8(clip.partial)} if self.partial else {})


HELP = "point tracks"
AFTER = ""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """See `kinds.Kind`."""
    add = parser.add_argument
    add("--backend", choices=tuple(BACKENDS), default="lk")
    add("--name", default="", help="of the column; default tracks.BACKEND")
    add("--frames", type=int, default=32)
    add("--points", type=int, default=60)
    add("--substeps", type=int, default=1, help="frames tracked per frame kept: more follow faster motion")
    add("--sampling", choices=points.SAMPLINGS, default="shi_tomasi", help="of the points on frame 0")
    add(
        "--box",
        type=flags.box,
        default=points.WHOLE_FRAME,
        metavar="x0,y0,x1,y1",
        help="where, in fractions of the frame",
    )
    add("--mask_column", default="mask", help="with --sampling=mask: the column with the field `mask` [h w]")
    add("--dtype", choices=("float16", "float32"), default="float16")
    add("--short_side", type=int, default=-1, help="to decode at; 0 keeps the video's, -1 leaves it to the backend")
    add("--checkpoint", help="path, hf:owner/repository/file or https address; default: the authors'")
    add("--device", help="PyTorch's; default cuda where there is one")
    add("--batch_size", type=int, help="clips at once")


def from_flags(args: argparse.Namespace) -> Tracks:
    """See `kinds.Kind`."""
    options = flags.network_options(args, f"--backend={args.backend}", args.backend != "lk")
    return Tracks(
        make_tracker(args.backend, **options),
        frames=args.frames,
        num_points=args.points,
        substeps=args.substeps,
        sampling=args.sampling,
        box=args.box,
        masks=columns.Column(args.root, args.mask_column) if args.sampling == "mask" else None,
        dtype=args.dtype,
        short_side=args.short_side,
        partial=args.allow_partial,
        name=args.name,
    )


def flags_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """See `kinds.Kind`. Numbers of frames and points are in the column's schema; a mask is of the dataset alone, so that points of
    a video without one are sampled by default."""
    made = {k: parameters[k] for k in ("backend", "short_side", "substeps")}
    if parameters["sampling"] == "mask":
        return made
    return made | {"sampling": parameters["sampling"], "box": tuple(parameters["box"])}
