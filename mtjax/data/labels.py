"""Where the labels of clips come from: the catalog, or a column of pseudo labels that `mtjax.cluster` wrote."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtjax.command.errors import InputError
from mtjax.data.catalog import UNLABELLED, Catalog
from mtjax.data.columns import Column


@dataclasses.dataclass(frozen=True)
class CatalogLabels:
    """The catalog's own labels. `classes`: those to keep, renumbered in this order; () keeps all."""

    catalog: Catalog
    classes: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes or self.catalog.class_names

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [clips]."""
        if not self.classes:
            return self.catalog.labels()
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index.get(c.label, UNLABELLED) for c in self.catalog.clips], np.int32)


@dataclasses.dataclass(frozen=True)
class PseudoLabels:
    """Clusters as labels: of each clip the one that covers most of it (`main_label`).

    Raises:
      ValueError: the column is not one of `mtjax.cluster`, or a label is not among its class names.
    """

    catalog: Catalog
    column: Column

    def __post_init__(self):
        name, schema = self.column.spec.name, self.column.spec.schema
        if not {"label", "start_s"} <= set(schema) or "class_names" not in self.column.spec.parameters:
            raise InputError(
                f"config.data.pseudo={name!r}: has {sorted(schema)}; `mtjax cluster` makes columns of pseudo labels"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.column.spec.parameters["class_names"])

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [clips]. Reads the column once."""
        at = self.column.rows(c.id for c in self.catalog.clips)
        labels = np.full(len(at), UNLABELLED, np.int32)
        has = np.flatnonzero(at >= 0)
        for row, record in zip(has, self.column.scan(at[has]), strict=True):
            self._check(record, self.catalog.clips[row].id)
            labels[row] = main_label(record)
        return labels

    def _check(self, record: Mapping[str, Any], clip_id: str) -> None:
        of_clip = np.asarray(record["label"])
        outside = of_clip[(of_clip < 0) | (of_clip >= len(self.class_names))]
        if len(outside) or not len(of_clip):
            found = f"has label {outside[0]}" if len(outside) else "has no label"
            raise InputError(
                f"config.data.pseudo={self.column.spec.name!r}: clip {clip_id!r} {found}, but the column names "
                f"{len(self.class_names)} classes; make it again with `mtjax cluster --overwrite`"
            )


LabelSource = CatalogLabels | PseudoLabels


def main_label(record: Mapping[str, Any]) -> int:
    """The label that most of a clip has: of its segments, each counted by how long it is, to a millisecond. The last one, whose
    end no column says, counts as long as the others in the mean; of equal labels the first wins."""
    label = np.asarray(record["label"])
    length = np.round(np.diff(np.asarray(record["start_s"], np.float64)), 3)
    length = np.append(length, length.mean() if len(length) else 1.0)
    values, first, number = np.unique(label, return_index=True, return_inverse=True)
    covered = np.bincount(number, length).round(3)
    best = np.flatnonzero(covered == covered.max())
    return int(values[best[np.argmin(first[best])]])
