"""Features that a frozen network computed: one vector a clip, or one for each of several views of it."""

import dataclasses
import functools
from typing import Any

import numpy as np

from mtjax.command.errors import InputError
from mtjax.modalities.one_column import OneColumn

VIEWS = ("centre", "random", "all")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features(OneColumn):
    """The `data` section for frozen features. Batches hold `features` float32 [b d] (in training with
    `views="all"` [b views d]) and `observed` bool [b], False for a clip without a record.

    Attributes:
      column: as `mtjax.predict` wrote it, e.g. "xclip.embedding"; field: its field [d], or [views d] with the centre view
        first (`--copies`).
      views: what training sees: the "centre" view, a "random" one each time, or "all" of a clip together, whose losses are
        averaged. Evaluation takes the centre view.
    """

    column: str = "xclip.embedding"
    field: str = "embedding"
    views: str = "centre"

    def __post_init__(self):
        super().__post_init__()
        if self.views not in VIEWS:
            raise InputError(f"config.data.views={self.views!r}: must be one of {VIEWS}")

    @functools.cached_property
    def stored_shape(self) -> tuple[int, int]:
        """(views, d)."""
        feature = self.feature
        if len(feature.shape) not in (1, 2) or feature.ragged:
            raise InputError(
                f"config.data.field={self.field!r}: features are [d] or [views d], the column has {feature}"
            )
        return (1, *feature.shape)[-2:]

    def element_spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        if not self.present:
            raise InputError(
                "data.name='features.Features' has no dry run without the dataset: the column says the width"
            )
        return {"features": (self.stored_shape, np.dtype(np.float32)), "observed": ((), np.dtype(bool))}

    def decode(self, values: list[tuple[dict, ...] | None], seeds: np.ndarray | None) -> dict[str, np.ndarray]:
        out = np.zeros((len(values), *self.stored_shape), np.float32)
        for i, record in enumerate(values):
            if record is not None:
                out[i] = record[0][self.field]
        return {"features": out, "observed": np.array([v is not None for v in values], bool)}

    def prepare(self, batch, *, train: bool, key=None):
        import jax  # not for reader processes

        views = batch["features"]
        if train and self.views == "all":
            return batch
        index = jax.numpy.zeros(len(views), "int32")
        if train and self.views == "random":
            index = jax.random.randint(key, (len(views),), 0, views.shape[1])
        chosen = jax.numpy.take_along_axis(views, index[:, None, None], axis=1)[:, 0]
        return dict(batch) | {"features": chosen}
