"""Two modalities of the same clips: what the student sees, and what its teacher sees beside it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mtjax import lookup
from mtjax.command.errors import InputError
from mtjax.data.columns import Column
from mtjax.data.pipeline import Data

if TYPE_CHECKING:
    from mtjax.types import Batch, RandomKey

TIMES = ("centre_s", "in_order")  # of clips; drawn with the same seeds, they are the student's for both


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined(Data):
    """The `data` section for a student whose frozen teacher looks at another column (`tasks/distill.py`).

    Batches hold what both modalities give; the teacher's `observed` is called `taught`. A clip without a record in a watched
    column, or with a damaged one under on_corrupt="skip", stays, untaught: the student learns from and is scored on every clip
    that it can see. Whatever is not about a column
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
            raise InputError("config.data.teacher: a column of soft labels and data.watched exclude each other")
        shared = {f.name for f in dataclasses.fields(Data)} - {"cache"}
        for part in ("student", "watched"):
            if wrong := sorted(shared & set(getattr(self, part))):
                raise InputError(f"config.data.{part}: {wrong} belong into config.data itself")

    @functools.cached_property
    def parts(self) -> tuple[Data, Data]:
        shared = {"root": self.root, "cache": self.cache}
        return tuple(
            lookup.build("modalities", shared | dict(getattr(self, part)), where=f"data.{part}")
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
        return self._merge(student, watched) | {"recorded": ((), np.dtype(bool))}

    @property
    def needed(self) -> tuple[Column, ...]:
        return self.parts[0].columns

    def _values(self, clips: np.ndarray, valid: np.ndarray) -> tuple[list[Any], np.ndarray]:
        student, corrupt = self._records(self.parts[0].columns, clips, valid)
        watched, _ = self._records(self.parts[1].columns, clips, valid & ~corrupt)
        return list(zip(student, watched, strict=True)), corrupt

    def _decoded(self, clips: np.ndarray, values: list[Any], seeds: np.ndarray | None):
        """Of pairs: the records of the student's columns and of the watched ones, each None where one is missing."""
        student, watched = ([v and v[of] for v in values] for of in (0, 1))
        seen, damaged = self._by_policy(self.parts[0].decode, clips, student, seeds)
        beside, unseen = self._by_policy(self.parts[1].decode, clips, watched, seeds)
        recorded = np.array([v is not None for v in watched], bool) & ~unseen
        return self._merge(seen, beside) | {"recorded": recorded}, damaged

    def prepare(self, batch: "Batch", *, train: bool, key: "RandomKey | None" = None) -> "Batch":
        """Each modality sees its own arrays and what both share (clips, labels)."""
        import jax  # not for reader processes

        student_key, watched_key = (None, None) if key is None else jax.random.split(key)
        watched = set(self._merge({}, self.parts[1].element_spec()))
        shared = {k: v for k, v in batch.items() if k not in watched and k not in self.parts[0].element_spec()}
        seen = self.parts[0].prepare({k: v for k, v in batch.items() if k not in watched}, train=train, key=student_key)
        beside = {("observed" if k == "taught" else k): v for k, v in batch.items() if k in watched}
        beside = self.parts[1].prepare(shared | beside, train=train, key=watched_key)
        both = self._merge(seen, {k: v for k, v in beside.items() if k not in shared})
        # Not every modality has an `observed` of its own.
        return both | {"taught": both.get("taught", True) & both.pop("recorded")}

    def _merge(self, student: Mapping[str, Any], watched: Mapping[str, Any]) -> dict[str, Any]:
        renamed = {
            ("taught" if k == "observed" else k): v for k, v in watched.items() if k not in student or k not in TIMES
        }
        if both := sorted(set(student) & set(renamed)):
            raise InputError(f"config.data: student and watched both give {both}")
        return dict(student) | renamed
