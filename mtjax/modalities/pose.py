"""Poses of one person a frame, turned into motion features on the device."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from mtjax import lookup
from mtjax.command.errors import InputError
from mtjax.command.ranges import Count, NotNegative, Positive, Range, Share
from mtjax.data import recipes
from mtjax.data.recipes import Made, Recipe
from mtjax.modalities.one_column import OneColumn
from mtjax.modalities.ragged import stack
from mtjax.modalities.skeletons import Skeleton

if TYPE_CHECKING:
    from mtjax.types import Batch, RandomKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a training clip; 0.0 disables each.

    Attributes:
      mirror: probability of the mirror image (left and right joints change places, x changes its sign).
      rotate_deg: largest angle in the image plane. scale: largest relative change of all velocities.
      speed: largest relative change of the speed at which a clip plays; frames are interpolated, what no longer fits is cut.
      time_crop: largest share of the clip's frames hidden at its ends. drop_joints: probability that a joint of a clip is hidden.
      noise: standard deviation added to velocities, in the unit that they have after `gain`.
    """

    mirror: Share = 0.0
    rotate_deg: NotNegative = 0.0
    scale: float = 0.0
    speed: Annotated[float, Range(0.0, below=1.0)] = 0.0
    time_crop: Annotated[float, Range(0.0, below=1.0)] = 0.0
    drop_joints: Share = 0.0
    noise: NotNegative = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pose(OneColumn):
    """The `data` section for body motion (motion_guidance.md §1). Batches hold

    - `motion` float32 [b t f]: vx, vy, speed of each joint (f = 3 × joints), 0 where a joint is not seen;
    - `row_valid` bool [b t] and `row_frame` int32 [b t]: whether a row is real, and the frame that it comes from;
    - `observed` bool [b]: False for a clip without any valid frame.

    Attributes:
      column: e.g. "pose" or "pose.vitpose_b"; field: which of its fields, [t joints 3] with x, y, score.
      skeleton: import path under `mtjax.data`, e.g. "skeletons.COCO_17".
      max_rows: t; longer clips are thinned out evenly after the differences were taken.
      min_score, min_visible, min_scale, scale: see `motion_features.motion`; `min_scale` is in the column's unit.
      gain: velocities and speeds are multiplied by it: the model's first layer adds a bias of about 0.15 (PyTorch's) before
        a LayerNorm, beside which motion in too large a unit would vanish.
      augment: keywords of `Augment`.
    """

    augments: ClassVar[type] = Augment

    column: str = "pose"
    field: str = "pose"
    skeleton: str = "skeletons.COCO_17"
    max_rows: Positive = 256
    min_score: float = 0.8
    min_visible: Count = 9
    min_scale: NotNegative = 8.0
    scale: bool = True
    gain: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.body, Skeleton):
            raise lookup.ConfigError(f"config.data.skeleton={self.skeleton!r} is not a Skeleton")

    @functools.cached_property
    def body(self) -> Skeleton:
        return lookup.resolve("modalities", self.skeleton)

    def element_spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        frames = self.stored_frames if self.present else self.max_rows
        return {"pose": ((frames, len(self.body), 3), np.float32), "length": ((), np.int32)}

    @functools.cached_property
    def stored_frames(self) -> int:
        """Frames that hold any clip; checks that the column's joints are the skeleton's."""
        shape, joints = self.feature.shape, self.body.joints
        if shape[1:] != (len(joints), 3):
            raise InputError(
                f"column {self.column!r}, field {self.field!r}: {self.skeleton} needs (t, {len(joints)}, 3), found {shape}"
            )
        named = tuple(self.catalog.info.get("joint_names", joints))
        if named != joints:
            raise InputError(
                f"{self.root}: its joints are {named}, those of config.data.skeleton={self.skeleton!r} {joints}"
            )
        return self.columns[0].longest(self.field)

    def decode(self, values: list[tuple[dict, ...] | None], seeds: np.ndarray | None) -> dict[str, np.ndarray]:
        clips = [record and record[0][self.field] for record in values]
        pose, length = stack(clips, (self.stored_frames, len(self.body), 3), np.float32)
        return {"pose": pose, "length": length}

    def raw_video(self, made: Made) -> Recipe:
        """
        Raises:
          ConfigError: the training column was not extracted by us: whose models would find these joints is not known.
        """

        def to_batch(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
            pose = np.asarray(record["pose"])
            return {"pose": pose[None], "length": np.array([len(pose)], np.int32)}

        recipe = recipes.extraction(made, self.column, "pose", to_batch)
        if not recipe.parameters:
            raise lookup.ConfigError(
                f"prediction on raw videos needs tracks, frames, or a pose column of `preprocessing.extract pose`; this run "
                f"reads Pose of {made.get(self.column, {}).get('producer', 'no column')}"
            )
        return recipe

    def prepare(self, batch: "Batch", *, train: bool, key: "RandomKey | None" = None) -> "Batch":
        from mtjax.modalities import motion_features  # JAX: not for reader processes

        return motion_features.prepare(self, batch, key if train else None)
