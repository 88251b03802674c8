"""How much moves in a flow column: `mtjax data coverage`."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mtjax.data.catalog import Clip
from mtjax.data.columns import Column
from mtjax.modalities import flow_bytes, images
from mtjax.modalities.coverage import share
from mtjax.records import CorruptRecord

FIELDS = ("flow_x", "flow_y")
HEADER = (
    "clips",
    "with a record",
    "fields",
    "mean motion px",
    f"at ±{flow_bytes.LIMIT_PX:g} px",
    "clips that stand still",
)


@dataclasses.dataclass(frozen=True)
class Moving:
    """What one record shows.

    Attributes:
      fields: of the clip. mean_px: length of the motion, over the pixels of the middle field.
      at_limit: share of these pixels whose motion was cut off along x or y.
    """

    fields: int
    mean_px: float
    at_limit: float


def is_flow(column: Column) -> bool:
    """Whether this is a column of `preprocessing.extract flow`."""
    return all(field in column.spec.schema and column.spec.schema[field].dtype == "jpeg" for field in FIELDS)


def measure(column: Column) -> dict[str, Moving]:
    """Reads a flow column once, and decodes the middle field of each record: clip id → what it shows.

    Raises:
      CorruptRecord: an image cannot be decoded; names the clip.
    """
    moving: dict[str, Moving] = {}
    for row, clip_id in enumerate(column.ids.tolist()):
        [record] = column.read([row])
        try:
            moving[clip_id] = _measure([record[field] for field in FIELDS])
        except CorruptRecord as e:
            raise CorruptRecord(f"column {column.spec.name!r}: clip {clip_id!r}: {e}") from None
    return moving


def _measure(axes: Sequence[Sequence[bytes]]) -> Moving:
    if not axes[0] or len(axes[1]) != len(axes[0]):
        raise CorruptRecord(f"{len(axes[0])} and {len(axes[1])} images of the axes")
    planes = []
    for axis in axes:
        with images.opened(axis[len(axis) // 2]) as image:
            planes.append(np.asarray(image.convert("L")))
    stored = np.stack(planes, axis=-1)
    length_px = np.linalg.norm(flow_bytes.to_px(stored), axis=-1)
    cut_off = ((stored == 0) | (stored == 255)).any(axis=-1)
    return Moving(len(axes[0]), float(length_px.mean()), float(cut_off.mean()))


def row(clips: Sequence[Clip], moving: dict[str, Moving]) -> tuple[str, ...]:
    """The cells of HEADER for some clips; motion is the mean over the clips with a record."""
    there = [moving[c.id] for c in clips if c.id in moving]
    mean_px, at_limit = (np.mean([getattr(m, of) for m in there] or [0.0]) for of in ("mean_px", "at_limit"))
    return (
        str(len(clips)),
        share(len(there), len(clips)),
        str(sum(m.fields for m in there)),
        *((f"{mean_px:.2f}", f"{at_limit:.1%}") if there else ("–", "–")),
        str(sum(m.mean_px < flow_bytes.STEP_PX / 2 for m in there)),
    )
