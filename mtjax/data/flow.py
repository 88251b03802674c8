"""Optical flow of a clip, stored as two grey JPEG a field: clips drawn and cropped on the host (motionfit.md §2)."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from mtjax.data import clip_sampling, flow_bytes, images
from mtjax.data.one_column import OneColumn
from mtjax.records import CorruptRecord

NORMALIZE = ("bytes", "unit")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a training clip.

    Attributes:
      flip: probability of the mirror image of all clips of a video, in which motion along x has the other sign. 0.0
        disables. Never for labels with a direction.
    """

    flip: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow(OneColumn):
    """The `data` section for clips of optical flow. Batches hold

    - `flow` float32 [b t h w 2], the motion along x and y; with several clips a video [b k t h w 2];
    - `observed` bool [b]: False for a video without a record, of which `flow` shows one that stands still.

    The values are those of `preprocessing.extract flow`, in pixels of the column's images: bringing these to `resize` does
    not change them, as in MARS.

    Attributes:
      column: e.g. "flow.tvl1"; field: of its images, which are in `<field>_x` and `<field>_y`.
      frames: t, flow fields a clip; stride: from one of them to the next. Shorter videos are looped.
      clips: k in training, from independent random starts. views: k in evaluation, evenly spaced (`clip_sampling`); of one,
        the middle. With either above 1, batches have the dimension k.
      resize: (h, w) of a whole field, whatever that does to its aspect; size: h = w of what is cut out of it: in
        evaluation the middle, in training one square for each clip, the same in all its fields.
      normalize: "bytes" gives byte - 127.5, where no motion is -0.5 (see `flow_bytes`); "unit" divides this by 127.5.
      augment: keywords of `Augment`.
    """

    augments: ClassVar[type] = Augment

    column: str = "flow.dis"
    field: str = "flow"
    frames: int = 16
    stride: int = 1
    clips: int = 1
    views: int = 1
    resize: tuple[int, int] = (128, 171)
    size: int = 112
    normalize: str = "bytes"

    def __post_init__(self):
        super().__post_init__()
        if self.cache == "device":
            raise ValueError("config.data.cache='device': clips of flow are cut out while they are read; set 'none'")
        if self.normalize not in NORMALIZE:
            raise ValueError(f"config.data.normalize={self.normalize!r}: must be one of {NORMALIZE}")
        for name in ("frames", "stride", "clips", "views", "size"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"config.data.{name}={value}: must be at least 1")
        if len(self.resize) != 2 or min(self.resize) < self.size:
            raise ValueError(f"config.data.resize={self.resize}: must be (h, w), at least size={self.size} each")

    @property
    def fields(self) -> tuple[str, str]:
        return f"{self.field}_x", f"{self.field}_y"

    def element_spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Of evaluation; training has `clips` in place of `views`."""
        schema = self.columns[0].spec.schema if self.present else {}
        if self.present and any(schema.get(f) is None or schema[f].dtype != "jpeg" for f in self.fields):
            raise ValueError(
                f"config.data.field={self.field!r}: column {self.column!r} has no JPEG images in {self.fields}, but "
                f"{sorted(schema)}; a flow column is made by `python -m preprocessing.extract flow`"
            )
        return {"flow": (self._shape(self.views), np.dtype(np.uint8)), "observed": ((), np.dtype(bool))}

    def fake(self, batch: int, num_classes: int) -> dict[str, np.ndarray]:
        """As training sees it: a dry run is about a training step."""
        flow = np.full((batch, *self._shape(self.clips)), flow_bytes.STILL, np.uint8)
        return super().fake(batch, num_classes) | {"flow": flow}

    def _shape(self, clips: int) -> tuple[int, ...]:
        one = (self.frames, self.size, self.size, 2)
        return one if self.clips == self.views == 1 else (clips, *one)

    def decode(self, values: list[tuple[dict, ...] | None], seeds: np.ndarray | None) -> dict[str, np.ndarray]:
        """
        Raises:
          CorruptRecord: an image cannot be decoded, or a record has none, or more of one axis than of the other.
        """
        shape = self._shape(self.views if seeds is None else self.clips)
        out = np.full((len(values), *shape), flow_bytes.STILL, np.uint8)
        for i, record in enumerate(values):
            if record is not None:
                out[i] = self._clips(record[0], None if seeds is None else seeds[i]).reshape(shape)
        return {"flow": out, "observed": np.array([v is not None for v in values], bool)}

    def _clips(self, record: dict[str, Any], seed: np.uint64 | None) -> np.ndarray:
        """uint8 [k t h w 2]; only the images that are shown are decoded."""
        axes = [record[field] for field in self.fields]
        stored = len(axes[0])
        if not stored or len(axes[1]) != stored:
            raise CorruptRecord(
                f"column {self.column!r}: {stored} images of {self.fields[0]!r}, {len(axes[1])} of the other"
            )
        extent = clip_sampling.extent(self.frames, self.stride)
        room = np.array(self.resize) - self.size
        if seed is None:
            starts = clip_sampling.even_starts(stored, extent, self.views)
            corners = np.tile(np.round(room / 2).astype(np.int64), (self.views, 1))  # a half to even, as torchvision's
        else:
            rng = np.random.default_rng(seed)
            starts = clip_sampling.random_starts(stored, extent, self.clips, rng)
            corners = rng.integers(0, room + 1, (self.clips, 2))

        @functools.cache  # views overlap, and a short video comes again
        def shown(t: int, top: int, left: int) -> np.ndarray:
            return np.stack([cut(axis[t], self.resize, self.size, top, left) for axis in axes], axis=-1)

        clips = clip_sampling.items(starts, self.frames, self.stride, stored)
        return np.array(
            [[shown(t, *corner) for t in clip] for clip, corner in zip(clips.tolist(), corners.tolist(), strict=True)]
        )

    def prepare(self, batch, *, train: bool, key=None):
        import jax  # not for reader processes
        import jax.numpy as jnp

        flow = batch["flow"].astype(jnp.float32) - flow_bytes.CENTRE
        if train and self.augmentation.flip:
            mirrored = flow[..., ::-1, :] * jnp.array([-1.0, 1.0])  # the byte 255 - x
            chosen = jax.random.uniform(key, (len(flow),)) < self.augmentation.flip
            flow = jnp.where(chosen.reshape(-1, *(1,) * (flow.ndim - 1)), mirrored, flow)
        return dict(batch) | {"flow": flow / flow_bytes.CENTRE if self.normalize == "unit" else flow}


def cut(jpeg: bytes, resize: tuple[int, int], size: int, top: int, left: int) -> np.ndarray:
    """uint8 [size size]: the square at (top, left) of the grey image brought to `resize` (h, w) with antialiasing.

    Raises:
      CorruptRecord: not an image.
    """
    with images.opened(jpeg) as image:
        width, height = image.size
        x, y = width / resize[1], height / resize[0]
        box = (left * x, top * y, min((left + size) * x, width), min((top + size) * y, height))
        return np.asarray(image.convert("L").resize((size, size), Image.Resampling.BILINEAR, box))
