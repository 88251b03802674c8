"""What modalities share that read one field of one column and change it at random in training."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from mtjax.command.errors import InputError
from mtjax.data.pipeline import Data
from mtjax.lookup import check_keywords
from mtjax.records import Feature


@dataclasses.dataclass(frozen=True)
class Unchanged:
    """No random changes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneColumn(Data):
    """The part of the `data` section about one column.

    Attributes:
      column, field: where it is. augment: keywords of `augments`, the modality's own class of random changes.
    """

    augments: ClassVar[type] = Unchanged

    column: str
    field: str
    augment: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        check_keywords(self.augments, self.augment, "data.augment")

    @property
    def augmentation(self) -> Any:
        """An instance of `augments`."""
        return self.augments(**self.augment)

    @property
    def column_names(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def feature(self) -> Feature:
        """Of the field, as the column says. Raises ValueError when there is none."""
        schema = self.columns[0].spec.schema
        if self.field not in schema:
            raise InputError(f"config.data.field={self.field!r}: column {self.column!r} has {sorted(schema)}")
        return schema[self.field]
