"""Two modalities of the same clips: what the student sees, and what its teacher sees beside it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtjax import lookup
from mtjax.data.columns import Column
from mtjax.data.pipeline import Data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined(Data):
    """The `data` section for a student whose frozen teacher looks at another column (`tasks/distill.py`).

    Batches hold what both modalities give; the teacher's `observed` is called `taught`. Whatever is not about a column
    (root, splits, few-shot choice, cache) is said here once.

    Attributes:
      student, watched: `name` and keywords of two modalities, e.g. {"name": "frames.Frames", "size": 64} and
        {"name": "pose.Pose", "column": "pose"}.
    """

    student: Mapping[str, Any]
    watched: Mapping[str, Any]

    def __post_init__(self):
        super().__post_init__()
        if self.teacher:
            raise ValueError("config.data.teacher: a column of soft labels and data.watched exclude each other")
        shared = {f.name for f in dataclasses.fields(Data)} - {"cache"}
        for part in ("student", "watched"):
            if wrong := sorted(shared & set(getattr(self, part))):
                raise ValueError(f"config.data.{part}: {wrong} belong into config.data itself")

    @functools.cached_property
    def parts(self) -> tuple[Data, Data]:
        shared = {"root": self.root, "cache": self.cache}
        return tuple(
            lookup.build("data", shared | dict(getattr(self, part)), where=f"data.{part}")
            for part in ("student", "watched")
        )

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.column_names)

    @functools.cached_property
    def columns(self) -> tuple[Column, ...]:
        return tuple(column for part in self.parts for column in part.columns)

    def element_spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        student, watched = (part.element_spec() for part in self.parts)
        return self._merge(student, watched)

    def decode(self, values: list[tuple[dict, ...] | None], seeds: np.ndarray | None) -> dict[str, np.ndarray]:
        first = len(self.parts[0].column_names)
        student = self.parts[0].decode([v and v[:first] for v in values], seeds)
        return self._merge(student, self.parts[1].decode([v and v[first:] for v in values], seeds))

    def prepare(self, batch, *, train: bool, key=None):
        import jax  # not for reader processes

        student_key, watched_key = (None, None) if key is None else jax.random.split(key)
        watched = set(self._merge({}, self.parts[1].element_spec()))
        seen = self.parts[0].prepare({k: v for k, v in batch.items() if k not in watched}, train=train, key=student_key)
        beside = {("observed" if k == "taught" else k): v for k, v in batch.items() if k in watched}
        return self._merge(seen, self.parts[1].prepare(beside, train=train, key=watched_key))

    def _merge(self, student: Mapping[str, Any], watched: Mapping[str, Any]) -> dict[str, Any]:
        renamed = {("taught" if k == "observed" else k): v for k, v in watched.items()}
        if both := sorted(set(student) & set(renamed)):
            raise ValueError(f"config.data: student and watched both give {both}")
        return dict(student) | renamed
