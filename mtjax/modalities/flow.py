"""Clips of optical flow, stored as two grey JPEG a field (motionfit.md §2)."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mtjax.command.errors import InputError
from mtjax.data import recipes
from mtjax.data.recipes import Made, Recipe
from mtjax.lookup import ConfigError
from mtjax.modalities import flow_bytes
from mtjax.modalities.video_clips import VideoClips

if TYPE_CHECKING:
    from mtjax.types import Batch, RandomKey

NORMALIZE = ("bytes", "unit")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow(VideoClips):
    """The `data` section for clips of optical flow: `flow` float32 [b t h w 2], the motion along x and y; with several clips
    a video [b k t h w 2]. See `VideoClips`.

    The values are those of `preprocessing.extract flow`, in pixels of the column's images: bringing these to `resize` does
    not change them, as in MARS. In a mirror image motion along x has the other sign.

    Attributes:
      column: e.g. "flow.tvl1"; field: of its images, which are in `<field>_x` and `<field>_y`.
      normalize: "bytes" gives byte - 127.5, where no motion is -0.5 (see `flow_bytes`); "unit" divides this by 127.5.
    """

    output: ClassVar[str] = "flow"
    colours: ClassVar[str] = "GRAY"
    channels: ClassVar[int] = 2
    empty: ClassVar[int] = flow_bytes.STILL

    column: str = "flow.dis"
    field: str = "flow"
    normalize: str = "bytes"

    def __post_init__(self):
        super().__post_init__()
        if self.normalize not in NORMALIZE:
            raise InputError(f"config.data.normalize={self.normalize!r}: must be one of {NORMALIZE}")

    @property
    def fields(self) -> tuple[str, ...]:
        return f"{self.field}_x", f"{self.field}_y"

    def raw_video(self, made: Made) -> Recipe:
        """Flow as that of the training column was computed, else by the defaults of `preprocessing.extract flow`. Flow between all
        images of another column is taken at the rate at which those were extracted.

        Raises:
          ConfigError: those images had no rate, or nothing is known of it.
        """

        def to_batch(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
            axes = {f"{self.field}_{axis}": record[f"flow_{axis}"] for axis in "xy"}
            return self.views_of(axes | {"times_s": record["times_s"]})

        recipe = recipes.extraction(made, self.column, "flow", to_batch)
        if not recipe.parameters or recipe.parameters.get("fps"):
            return recipe
        source = recipe.parameters.get("images", "").partition(" ")[0]
        if rate := made.get(source, {}).get("parameters", {}).get("fps", 0):
            return dataclasses.replace(recipe, flags={"fps": float(rate)})
        raise ConfigError(
            f"column {self.column!r} is flow between all images of column {source!r}, whose rate is not known; for raw videos "
            "train on flow of `preprocessing.extract flow --fps=…`"
        )

    def prepare(self, batch: "Batch", *, train: bool, key: "RandomKey | None" = None) -> "Batch":
        """Bytes → normalised float32; in training with mirror images of whole videos."""
        import jax  # not for reader processes
        import jax.numpy as jnp

        flow = batch["flow"].astype(jnp.float32) - flow_bytes.CENTRE
        if train and self.augmentation.flip:
            mirrored = flow[..., ::-1, :] * jnp.array([-1.0, 1.0])  # the byte 255 - x
            chosen = jax.random.uniform(key, (len(flow),)) < self.augmentation.flip
            flow = jnp.where(chosen.reshape(-1, *(1,) * (flow.ndim - 1)), mirrored, flow)
        return dict(batch) | {"flow": flow / flow_bytes.CENTRE if self.normalize == "unit" else flow}
