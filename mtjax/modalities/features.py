"""Features that a frozen network computed: one vector a clip, or one for each of several views of it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mtjax.command.errors import InputError
from mtjax.command.ranges import Count
from mtjax.data.recipes import Made, Prediction, Recipe
from mtjax.lookup import ConfigError
from mtjax.modalities.one_column import OneColumn

if TYPE_CHECKING:
    from mtjax.types import Batch, RandomKey

PREDICT = "mtjax.predict"  # the producer
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
      width: d, checked against the column; 0 takes the column's. A dry run without the dataset needs it.
    """

    column: str = "xclip.embedding"
    field: str = "embedding"
    views: str = "centre"
    width: Count = 0

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
        if self.width not in (0, feature.shape[-1]):
            raise InputError(
                f"config.data.width={self.width}, but column {self.column!r} has features of {feature.shape[-1]}"
            )
        return (1, *feature.shape)[-2:]

    def element_spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        if not self.present and not self.width:
            raise InputError("config.data.width: without a dataset the width of the features has to be given here")
        shape = self.stored_shape if self.present else (1, self.width)
        return {"features": (shape, np.dtype(np.float32)), "observed": ((), np.dtype(bool))}

    def decode(self, values: list[tuple[dict, ...] | None], seeds: np.ndarray | None) -> dict[str, np.ndarray]:
        out = np.zeros((len(values), *self.stored_shape), np.float32)
        for i, record in enumerate(values):
            if record is not None:
                out[i] = record[0][self.field]
        return {"features": out, "observed": np.array([v is not None for v in values], bool)}

    def raw_video(self, made: Made) -> Recipe:
        """What the run predicts of the video whose prediction the training column is.

        Raises:
          ConfigError: the column is no prediction of a run of ours, or one of something else than the task's outputs.
        """
        facts = made.get(self.column, {})
        parameters = facts.get("parameters", {})
        if facts.get("producer") != PREDICT or "ask" in parameters:
            by = f"{facts.get('producer', 'nobody known')}" + (
                f", asked to {parameters['ask']}" if "ask" in parameters else ""
            )
            raise ConfigError(
                f"column {self.column!r} was made by {by}: prediction on raw videos needs features of `mtjax predict`, "
                "whose run computes those of the video"
            )

        def to_batch(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
            view = np.asarray(record[self.field], np.float32).reshape(1, 1, -1)
            return {"features": view, "observed": np.array([record.get("observed", True)], bool)}

        return Prediction(
            column=self.column,
            field=self.field,
            workdir=facts.get("origin", {}).get("workdir", ""),
            step=parameters["step"],
            weights=facts.get("weights", ""),
            to_batch=to_batch,
        )

    def prepare(self, batch: "Batch", *, train: bool, key: "RandomKey | None" = None) -> "Batch":
        import jax  # not for reader processes

        views = batch["features"]
        if train and self.views == "all":
            return batch
        index = jax.numpy.zeros(len(views), "int32")
        if train and self.views == "random":
            index = jax.random.randint(key, (len(views),), 0, views.shape[1])
        chosen = jax.numpy.take_along_axis(views, index[:, None, None], axis=1)[:, 0]
        return dict(batch) | {"features": chosen}
