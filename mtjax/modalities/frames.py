"""RGB frames of a clip, stored as JPEG: drawn and cropped on the host, changed in colour on the device."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from PIL import Image

from mtjax.command.errors import InputError
from mtjax.command.ranges import NotNegative, Positive, Range, Share
from mtjax.data import recipes
from mtjax.data.recipes import Made, Recipe
from mtjax.modalities import images
from mtjax.modalities.one_column import OneColumn
from mtjax.modalities.ragged import stack
from mtjax.records import CorruptRecord

if TYPE_CHECKING:
    from mtjax.types import Batch, RandomKey

MIDDLE = (0.5, 0.5)
NORMALIZE = ("imagenet", "clip", "background")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a training clip; 0.0 disables each. `Frames.short_side` cuts at random besides.

    Attributes:
      flip: probability of the mirror image. Never for labels with a direction.
      jitter: probability, for each frame, that its colours change by up to `brightness`, `contrast`, `saturation`
        (relative) and `hue` (share of the circle). grayscale: probability that a clip loses its colours.
      invert: probability that a clip turns into its negative: a figure may be lighter or darker than what is behind it.
    """

    flip: Share = 0.0
    jitter: Share = 0.0
    brightness: NotNegative = 0.4
    contrast: NotNegative = 0.4
    saturation: NotNegative = 0.2
    hue: Annotated[float, Range(0.0, 0.5)] = 0.1
    grayscale: Share = 0.0
    invert: Share = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames(OneColumn):
    """The `data` section for RGB clips (motion_guidance.md §3). Batches hold

    - `frames` float32 [b t h w 3], normalised;
    - `observed` bool [b]: False for a clip without a record.

    Attributes:
      column: e.g. "frames"; field: the list of JPEG images in it.
      frames: t. Evaluation takes the middle of t equal parts, training a random frame of each; shorter clips repeat.
      size: h = w in pixels.
      short_side: images count as if their short side had this many pixels: a square of `size` is cut from the middle, or
        at random in training. `size` itself leaves no choice along the short side.
      cache: with "device" every frame of the split lies there, cut to its middle square and scaled to `short_side`; frames
        and squares are then drawn inside jit. For small datasets: clips × frames × short_side² × 3 bytes. What is scaled
        first and cut then differs at the square's edge by what a pixel outside weighs in.
      normalize: "imagenet" subtracts ImageNet's mean of each colour and divides by its standard deviation, as X-CLIP's weights
        expect; "clip" takes mean and deviation from each clip itself, for training from random weights; "background" does so
        after taking away each pixel's mean over the clip, so that what stands still vanishes (for a camera that does).
      augment: keywords of `Augment`.
    """

    augments: ClassVar[type] = Augment

    column: str = "frames"
    field: str = "frames"
    frames: Positive = 8
    size: Positive = 224
    short_side: Positive = 256
    normalize: str = "imagenet"

    def __post_init__(self):
        super().__post_init__()
        if self.normalize not in NORMALIZE:
            raise InputError(f"config.data.normalize={self.normalize!r}: must be one of {NORMALIZE}")
        if self.short_side < self.size:
            raise InputError(f"config.data.short_side={self.short_side}: must be at least size={self.size}")

    def element_spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        if self.present and self.feature.dtype != "jpeg":
            raise InputError(
                f"config.data.field={self.field!r}: column {self.column!r} has no JPEG images there, but {self.feature}"
            )
        observed = {"observed": ((), np.dtype(bool))}
        if self.cache == "device":
            shape = (self.stored_frames, self.short_side, self.short_side, 3)
            return {"frames": (shape, np.dtype(np.uint8)), "length": ((), np.dtype(np.int32))} | observed
        return {"frames": ((self.frames, self.size, self.size, 3), np.dtype(np.uint8))} | observed

    @functools.cached_property
    def stored_frames(self) -> int:
        """Of the longest clip; read once, since an index knows bytes and not images."""
        if not self.present:
            return self.frames
        return max(len(record[self.field]) for record in self.columns[0].scan(block=64))

    def decode(self, values: list[tuple[dict, ...] | None], seeds: np.ndarray | None) -> dict[str, np.ndarray]:
        """
        Raises:
          CorruptRecord: an image cannot be decoded, or a record has none.
        """
        observed = {"observed": np.array([v is not None for v in values], bool)}
        if self.cache == "device":
            whole = [
                v and np.stack([cut(i, self.short_side, self.short_side, MIDDLE) for i in self._images(v)])
                for v in values
            ]
            frames, length = stack(whole, self.element_spec()["frames"][0], np.uint8)
            return {"frames": frames, "length": length} | observed
        out = np.zeros((len(values), self.frames, self.size, self.size, 3), np.uint8)
        for i, record in enumerate(values):
            if record is None:
                continue
            rng = None if seeds is None else np.random.default_rng(seeds[i])
            stored = self._images(record)
            corner = MIDDLE if rng is None else tuple(rng.random(2))
            for t, index in enumerate(frame_indices(len(stored), self.frames, rng)):
                out[i, t] = cut(stored[index], self.size, self.short_side, corner)
        return {"frames": out} | observed

    def raw_video(self, made: Made) -> Recipe:
        """Images as those of the training column were extracted."""

        def to_batch(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
            return self.decode([({self.field: record["frames"]},)], None)

        return recipes.extraction(made, self.column, "frames", to_batch)

    def _images(self, record: tuple[dict, ...]) -> Sequence[bytes]:
        if stored := record[0][self.field]:
            return stored
        raise CorruptRecord(f"column {self.column!r}, field {self.field!r}: a clip without an image")

    def prepare(self, batch: "Batch", *, train: bool, key: "RandomKey | None" = None) -> "Batch":
        from mtjax.modalities import frame_transforms  # JAX: not for reader processes

        return frame_transforms.prepare(self, batch, key if train else None)


def frame_indices(stored: int, wanted: int, rng: np.random.Generator | None) -> np.ndarray:
    """Which of a clip's `stored` frames to take, int64 [wanted], by X-CLIP's rule (motion_guidance.md §3).

    With `rng` a random frame of each of `wanted` equal parts, else the middle of each. A clip with fewer frames than
    `wanted` starts again at its beginning.
    """
    length = max(stored, wanted)
    if rng is None:
        indices = (2 * np.arange(wanted) + 1) * length // (2 * wanted)
    else:
        edges = np.arange(wanted + 1) * length // wanted
        indices = rng.integers(edges[:-1], edges[1:])
    return indices % stored


def cut(jpeg: bytes, size: int, short_side: int, corner: tuple[float, float]) -> np.ndarray:
    """uint8 [size size 3]: a square of size / short_side of the image's short side, scaled to `size` with antialiasing.

    Args:
      corner: (x, y) in [0, 1], where between its two ends the square lies; 0.5 is the middle.

    Raises:
      CorruptRecord: not an image.
    """
    with images.opened(jpeg) as image:
        side = min(image.size) * size / short_side
        left, top = ((extent - side) * at for extent, at in zip(image.size, corner, strict=True))
        return np.asarray(
            image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        )
