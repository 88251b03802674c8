"""Point tracks: long trajectories of points, or of joints, of one clip."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from mtjax.command.errors import InputError
from mtjax.command.ranges import NotNegative, Positive, Range, Share
from mtjax.data import recipes
from mtjax.data.recipes import Made, Recipe
from mtjax.modalities.one_column import OneColumn
from mtjax.modalities.ragged import stack
from mtjax.modalities.skeletons import mirror_order

if TYPE_CHECKING:
    from mtjax.types import Batch, RandomKey

RESAMPLE = ("nearest", "linear", "pad")
NORMALIZE = ("none", "clip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a training clip, the same for all its frames; 0.0 disables each.

    Attributes:
      rotate_deg: largest angle in the image plane. scale: largest relative change of size.
      stretch: largest relative change of the aspect. shift: largest translation, in the units of the tracks.
      time_crop: largest share of the clip's duration cut away (then resampled linearly to the same number of frames).
      time_warp: strength of a smooth change of speed within the clip; 0.5 lets the speed vary between about half and 1.5.
      noise: standard deviation of a jitter of each position. drop_points: probability of hiding a point altogether.
      mirror: probability of a left–right mirror image. Never for labels with a direction (Jester, SSv2: movt.md §5).
    """

    rotate_deg: NotNegative = 0.0
    scale: Annotated[float, Range(0.0, below=1.0)] = 0.0
    stretch: Annotated[float, Range(0.0, below=1.0)] = 0.0
    shift: NotNegative = 0.0
    time_crop: Annotated[float, Range(0.0, below=1.0)] = 0.0
    time_warp: NotNegative = 0.0
    noise: NotNegative = 0.0
    drop_points: Share = 0.0
    mirror: Share = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tracks(OneColumn):
    """The `data` section for point tracks (movt.md §1). Batches hold

    - `tracks` float32 [b t n 3]: x, y (as stored, or normalised) and occluded (1.0) or visible (0.0);
    - `frame_valid` bool [b t] and `point_valid` bool [b n]: False for padding.

    Attributes:
      column: e.g. "tracks" or "tracks.lk"; field: which of its fields.
      frames: t after resampling. resample: "nearest" repeats or skips frames (round(linspace(0, m-1, t)), the paper's
        sampling), "linear" interpolates between them, "pad" keeps the clip's own frames and masks the rest.
      points: n. A column with more gives a subset drawn for each clip by its number; with fewer is padded and masked.
      normalize: "clip" subtracts the mean of a clip's visible positions and divides by their root mean square distance
        from it; "none" keeps the column's coordinates ([0, 1] of the image where it was extracted by us).
      augment: keywords of `Augment`.
    """

    augments: ClassVar[type] = Augment

    column: str = "tracks"
    field: str = "tracks"
    frames: Positive = 32
    points: Positive = 60
    resample: str = "nearest"
    normalize: str = "none"

    def __post_init__(self):
        super().__post_init__()
        for field, known in (("resample", RESAMPLE), ("normalize", NORMALIZE)):
            if getattr(self, field) not in known:
                raise InputError(f"config.data.{field}={getattr(self, field)!r}: must be one of {known}")
        if self.resample == "pad" and (self.augmentation.time_crop or self.augmentation.time_warp):
            raise InputError("config.data.augment.time_crop and time_warp need data.resample='nearest' or 'linear'")

    @functools.cached_property
    def stored_shape(self) -> tuple[int, int, np.dtype]:
        """(frames, points, dtype) that hold any clip of the column."""
        column, feature = self.columns[0], self.feature
        if len(feature.shape) != 3 or feature.shape[2] != 3:
            raise InputError(
                f"column {self.column!r}, field {self.field!r}: tracks have shape (t, n, 3), found {feature.shape}"
            )
        frames, points = column.longest(self.field), feature.shape[1]
        if self.resample == "pad" and frames > self.frames:
            raise InputError(
                f"config.data.frames={self.frames}: column {self.column!r} has clips of up to {frames} frames"
            )
        return frames, points, np.dtype(feature.dtype)

    @property
    def mirror_order(self) -> tuple[int, ...]:
        """For ordered points with names (joints): which point becomes which in a mirror image."""
        points = self.element_spec()["tracks"][0][1]
        names = self.catalog.info.get("joint_names", ()) if self.present else ()
        return mirror_order(tuple(names)) if len(names) == points else tuple(range(points))

    def element_spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        asked = self.frames, self.points, np.dtype(np.float32)
        frames, points, dtype = self.stored_shape if self.present else asked
        return {"tracks": ((frames, points, 3), dtype), "length": ((), np.int32)}

    def decode(self, values: list[tuple[dict, ...] | None], seeds: np.ndarray | None) -> dict[str, np.ndarray]:
        """Stacks clips, padding with zeros at the end; `length` int32 [b] is 0 where there is no data."""
        frames, points, dtype = self.stored_shape
        clips = [record and record[0][self.field] for record in values]
        tracks, length = stack(clips, (frames, points, 3), dtype)
        return {"tracks": tracks, "length": length}

    def raw_video(self, made: Made) -> Recipe:
        """Tracks of as many frames and points as the model reads, followed as those of the training column were."""

        def to_batch(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
            tracks = np.asarray(record["tracks"])
            return {"tracks": tracks[None], "length": np.array([len(tracks)], np.int32)}

        flags = {"frames": self.frames, "points": self.points}
        return recipes.extraction(made, self.column, "tracks", to_batch, flags=flags, overlay="tracks")

    def prepare(self, batch: "Batch", *, train: bool, key: "RandomKey | None" = None) -> "Batch":
        from mtjax.modalities import track_transforms  # JAX: not for reader processes

        return track_transforms.prepare(self, batch, key if train else None)
