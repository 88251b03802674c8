"""From a dataset root to arrays: which clips a run uses, what is known of them, how their columns are joined."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from mtjax import records
from mtjax.command.errors import InputError
from mtjax.command.ranges import Count
from mtjax.data.catalog import UNLABELLED
from mtjax.data.columns import Column
from mtjax.data.recipes import Made, Recipe
from mtjax.data.subset import Subset
from mtjax.lookup import ConfigError

if TYPE_CHECKING:
    from mtjax.types import Batch, RandomKey

ON_CORRUPT = ("raise", "skip")
CACHES = ("none", "device")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Subset):
    """The `data` section that every modality shares; a modality adds its columns, `decode` and `prepare`.

    Attributes beside those of `Subset`:
      generate: arguments of a procedural dataset made at `root` on first use, `{}` for none.
      teacher: column with the field `probs` [classes] that `mtjax.predict` wrote; "" for none.
      on_corrupt: "raise" at a damaged record, or "skip": count it and give it no weight.
      cache: "device" keeps the whole split on the device and shuffles inside jit; "none" reads from disk.
      workers: reader processes; 0 reads in a thread, which is faster unless `decode` does real work.
    """

    generate: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    teacher: str = ""
    on_corrupt: str = "raise"
    cache: str = "none"
    workers: Count = 0

    def __post_init__(self):
        super().__post_init__()
        for field, known in (("on_corrupt", ON_CORRUPT), ("cache", CACHES)):
            if getattr(self, field) not in known:
                raise InputError(f"config.data.{field}={getattr(self, field)!r}: must be one of {known}")

    # What a modality adds.

    @property
    def column_names(self) -> tuple[str, ...]:
        """Columns that `decode` needs."""
        raise TypeError(f"{type(self).__name__} names no columns")

    def element_spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Name → (shape without b, dtype) of what `decode` gives."""
        raise TypeError(f"{type(self).__name__} has no element_spec")

    def decode(self, values: list[tuple[dict, ...] | None], seeds: np.ndarray | None) -> dict[str, np.ndarray]:
        """Records → arrays with leading dimension b.

        Args:
          values: one tuple of records a clip, in the order of `column_names`; None: no data.
          seeds: uint64 [b] of whatever is drawn at random on the host; None outside training.
        """
        raise TypeError(f"{type(self).__name__} does not decode")

    def raw_video(self, made: Made) -> Recipe:
        """How a raw video, of which no dataset knows, becomes a batch of one.

        Args:
          made: what is known of the columns that the run was trained on.

        Raises:
          ConfigError: a video cannot give what this modality reads; says why.
        """
        raise ConfigError(f"{type(self).__name__} has no recipe for raw videos (`Data.raw_video`)")

    def prepare(self, batch: "Batch", *, train: bool, key: "RandomKey | None" = None) -> "Batch":
        """On the device, inside jit: from decoded arrays to what models read. `key` is None unless `train`."""
        return batch

    # What is shared.

    def check(self) -> None:
        """Raises ValueError when a column is not what this section says it is."""
        self.element_spec()
        _ = self.teacher_column
        if self.pseudo:
            _ = self.labels  # all of them: one that is no class must not wait until a step reads it

    @functools.cached_property
    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(self.root, name) for name in self.column_names)

    @property
    def needed(self) -> tuple[Column, ...]:
        """Those of `columns` without whose record nothing is known of a clip (`missing`)."""
        return self.columns

    @functools.cached_property
    def teacher_column(self) -> Column | None:
        """Raises ValueError when its soft labels are not over this dataset's classes."""
        if not self.teacher:
            return None
        column = Column(self.root, self.teacher)
        of_probs = column.spec.schema.get("probs")
        told = column.spec.parameters.get("class_names", list(self.class_names))
        if of_probs is None or of_probs.shape != (len(self.class_names),) or list(told) != list(self.class_names):
            raise InputError(
                f"config.data.teacher={self.teacher!r}: needs a field `probs` [{len(self.class_names)}] over the classes of "
                f"{self.root}, found {column.spec.schema} over {list(told)[:5]} …"
            )
        return column

    @functools.cached_property
    def fingerprint(self) -> dict[str, str]:
        """Of everything that training reads: the catalog and each column's content."""
        read = [*self.columns, *(c for c in (self.teacher_column, self.pseudo_column) if c is not None)]
        return {"catalog": self.catalog.fingerprint} | {c.spec.name: c.fingerprint for c in read}

    def read(
        self,
        clips: np.ndarray,
        valid: np.ndarray | None = None,
        *,
        train: bool = False,
        seeds: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Reads, verifies and decodes some clips.

        Args:
          clips: rows of the catalog, [b]. valid: bool [b]; False rows are padding and are not read.
          train: hides the labels that training must not see. seeds: see `decode`.

        Returns:
          what `decode` gives, and `clip` int32 [b], `label` int32 [b], `target` float32 [b, targets], `valid` bool [b];
          with a teacher `teacher` float32 [b, classes] and `taught` bool [b], False where its column has no record.
        """
        valid = np.ones(len(clips), bool) if valid is None else valid.copy()
        values, corrupt = self._values(clips, valid)
        decoded, undecodable = self._decoded(clips, values, seeds)
        valid &= ~(corrupt | undecodable)
        batch = decoded | {
            "clip": np.asarray(clips, np.int32),
            "label": (self.training_labels if train else self.labels)[clips],
            "target": self.targets[clips],
            "valid": valid,
        }
        if not self.teacher:
            return batch
        values, _ = self._records((self.teacher_column,), clips, valid)
        nothing = np.zeros(len(self.class_names), np.float32)
        return batch | {
            "teacher": np.stack([nothing if v is None else np.asarray(v[0]["probs"], np.float32) for v in values]),
            "taught": np.array([v is not None for v in values], bool),
        }

    def _values(self, clips: np.ndarray, valid: np.ndarray) -> tuple[list[Any], np.ndarray]:
        """What `decode` takes, and bool [b]: which clips have a damaged record."""
        return self._records(self.columns, clips, valid)

    def _records(
        self, read_from: tuple[Column, ...], clips: np.ndarray, valid: np.ndarray
    ) -> tuple[list[tuple[dict, ...] | None], np.ndarray]:
        """The joined records of each clip, None for padding and where one is missing; bool [b]: which were damaged."""
        ids = [self.catalog.clips[r].id for r in clips]
        located = [c.rows(ids) for c in read_from]
        wanted = valid & np.all([at >= 0 for at in located], axis=0)
        values: list[tuple[dict, ...] | None] = [None] * len(clips)
        corrupt = np.zeros(len(clips), bool)
        try:
            joined = [c.read(at[wanted]) for c, at in zip(read_from, located, strict=True)]
            for i, together in zip(np.flatnonzero(wanted), zip(*joined, strict=True), strict=True):
                values[i] = together
        except records.CorruptRecord:
            if self.on_corrupt == "raise":
                raise
            for i in np.flatnonzero(wanted):
                try:
                    values[i] = tuple(c.read(at[[i]])[0] for c, at in zip(read_from, located, strict=True))
                except records.CorruptRecord as e:
                    corrupt[i] = True
                    logging.warning("skipped (data.on_corrupt=skip): %s", e)
        return values, corrupt

    def _decoded(
        self, clips: np.ndarray, values: list[Any], seeds: np.ndarray | None
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What `decode` gives, and bool [b]: whose records passed their checksum and yet could not be decoded."""
        return self._by_policy(self.decode, clips, values, seeds)

    def _by_policy(
        self,
        decode: Callable[..., dict[str, np.ndarray]],
        clips: np.ndarray,
        values: list[Any],
        seeds: np.ndarray | None,
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        damaged = np.zeros(len(values), bool)
        try:
            return decode(values, seeds), damaged
        except records.CorruptRecord:
            for i in range(len(values)):
                try:
                    decode(values[i : i + 1], None if seeds is None else seeds[i : i + 1])
                except records.CorruptRecord as e:
                    message = f"{self.root}: clip {self.catalog.clips[clips[i]].id!r}: {e}"
                    if self.on_corrupt == "raise":
                        raise records.CorruptRecord(message) from None
                    damaged[i] = True
                    logging.warning("skipped (data.on_corrupt=skip): %s", message)
        return decode([None if bad else v for v, bad in zip(values, damaged, strict=True)], seeds), damaged

    def in_groups(self, clips: np.ndarray) -> list[tuple["Data", np.ndarray]]:
        """Some clips (rows of the catalog) in groups, and the data to read each with in evaluation: a modality whose clips need
        arrays of different sizes parts them here."""
        return [(self, clips)]

    def padding(self, batch: int) -> dict[str, np.ndarray]:
        """A batch of the right shapes that holds nothing; no record is read."""
        return self.read(np.zeros(batch, np.int64), np.zeros(batch, bool))

    def fake(self, batch: int, num_classes: int) -> dict[str, np.ndarray]:
        """Random decoded arrays of the right shapes, for `--dry_run` on a machine without the data."""
        rng = np.random.default_rng(0)
        arrays = {k: rng.random((batch, *shape)).astype(dtype) for k, (shape, dtype) in self.element_spec().items()}
        return completed(arrays, targets=num_classes) | {
            "clip": np.arange(batch, dtype=np.int32),
            "label": np.arange(batch, dtype=np.int32) % num_classes,
            "teacher": np.full((batch, num_classes), 1 / num_classes, np.float32),
            "taught": np.ones(batch, bool),
        }


def completed(arrays: Mapping[str, Any], *, targets: int, xp: Any = np) -> dict[str, Any]:
    """Decoded arrays with b ≥ 1 from outside of any dataset, and what else a batch has: an unknown clip and label, `targets`
    zeros. `xp` is `jax.numpy` inside jit."""
    b = next(iter(arrays.values())).shape[0]
    return dict(arrays) | {
        "clip": xp.zeros(b, xp.int32),
        "label": xp.full(b, UNLABELLED, xp.int32),
        "target": xp.zeros((b, targets), xp.float32),
        "valid": xp.ones(b, bool),
    }
