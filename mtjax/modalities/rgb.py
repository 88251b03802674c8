"""RGB clips of consecutive frames, as 3D networks see them (motionfit.md §2); `frames` is for networks of spread frames."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mtjax.command.errors import InputError
from mtjax.data import recipes
from mtjax.data.recipes import Made, Recipe
from mtjax.modalities.video_clips import VideoClips

if TYPE_CHECKING:
    from mtjax.types import Batch, RandomKey

# Of Kinetics-400, of values 0 to 1, as torchvision's video models take them.
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
RATE = 25.0  # frames a second of a raw video where the training column does not say
NORMALIZE = ("kinetics", "unit", "clip", "background")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rgb(VideoClips):
    """The `data` section for RGB clips: `frames` float32 [b t h w 3]; with several clips a video [b k t h w 3]. See
    `VideoClips`. Images stored at `resize`, `preprocessing.extract frames --size=171x128`, are read fastest.

    Attributes:
      column: e.g. "frames"; field: the list of JPEG images in it.
      normalize: "kinetics" subtracts Kinetics-400's mean and divides by its deviation; "unit" leaves 0 to 1, as VCOP;
        "clip" takes mean and deviation from each clip itself, so that light and contrast tell nothing; "background" first takes
        away each pixel's mean over the clip, so that what stands still vanishes (for a camera that does).
    """

    output: ClassVar[str] = "frames"
    colours: ClassVar[str] = "RGB"
    channels: ClassVar[int] = 3
    empty: ClassVar[int] = 0

    column: str = "frames"
    field: str = "frames"
    normalize: str = "kinetics"

    def __post_init__(self):
        super().__post_init__()
        if self.normalize not in NORMALIZE:
            raise InputError(f"config.data.normalize={self.normalize!r}: must be one of {NORMALIZE}")

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def raw_video(self, made: Made) -> Recipe:
        """Images as those of the training column were extracted, else RATE a second. Clips are the views of evaluation."""

        def to_batch(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
            return self.views_of({self.field: record["frames"], "times_s": record["times_s"]})

        ours = recipes.extraction(made, self.column, "frames", to_batch)
        return ours if ours.parameters else dataclasses.replace(ours, flags={"fps": RATE})

    def prepare(self, batch: "Batch", *, train: bool, key: "RandomKey | None" = None) -> "Batch":
        """Bytes → normalised float32; in training with mirror images of whole videos."""
        import jax  # not for reader processes
        import jax.numpy as jnp

        from mtjax.modalities import frame_transforms

        frames = batch["frames"]
        if train and self.augmentation.flip:
            chosen = jax.random.uniform(key, (len(frames),)) < self.augmentation.flip
            frames = jnp.where(chosen.reshape(-1, *(1,) * (frames.ndim - 1)), frames[..., ::-1, :], frames)
        frames = frames.astype(jnp.float32) / 255.0
        if self.normalize == "kinetics":
            frames = (frames - jnp.array(MEAN)) / jnp.array(STD)
        elif self.normalize != "unit":
            frames = frame_transforms.standardised(frames, without_still=self.normalize == "background")
        return dict(batch) | {"frames": frames}
