"""From a dataset root to arrays: which clips a run uses, what is known of them, how their columns are joined."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from mtjax import records
from mtjax.data import catalog as catalogs
from mtjax.data.columns import Column

MISSING = ("drop", "mask")
ON_CORRUPT = ("raise", "skip")
CACHES = ("none", "device")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The `data` section that every modality shares; a modality adds its columns, `decode` and `prepare`.

    Attributes:
      root: dataset folder.
      generate: arguments of a procedural dataset made at `root` on first use, `{}` for none.
      train: split to train on. val: split to select on; "" holds out `holdout` of train instead.
      holdout: share of the training clips kept aside as split "val"; 0.0 disables. Taken before `k_shot` or `shots` say which
        labels are used, after `fraction`.
      classes: class names to keep, renumbered in this order; () keeps all.
      fraction, k_shot: of the labelled training clips (see `catalog.reduce`); subset_seed: of that choice and the holdout.
      shots: file that lists the labelled training clips instead (`catalog.listed`); "" for none.
      unlabelled: splits whose clips are trained on as well, without their labels, for a teacher to label: with
        ("train", "val") and k_shot=2 two clips a class have a label and all clips a teacher.
      teacher: column with the field `probs` [classes] that `mtjax.predict` wrote; "" for none.
      balance: repeat labelled clips of rare classes so that an epoch sees every class about equally often.
      missing: "drop" clips without a record, or "mask": keep them with nothing visible.
      on_corrupt: "raise" at a damaged record, or "skip": count it and give it no weight.
      cache: "device" keeps the whole split on the device and shuffles inside jit; "none" reads from disk.
      workers: reader processes; 0 reads in a thread, which is faster unless `decode` does real work.
    """

    root: str
    generate: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: str = "train"
    val: str = ""
    holdout: float = 0.0
    classes: tuple[str, ...] = ()
    fraction: float = 1.0
    k_shot: int = 0
    subset_seed: int = 0
    shots: str = ""
    unlabelled: tuple[str, ...] = ()
    teacher: str = ""
    balance: bool = False
    missing: str = "drop"
    on_corrupt: str = "raise"
    cache: str = "none"
    workers: int = 0

    def __post_init__(self):
        for field, known in (("missing", MISSING), ("on_corrupt", ON_CORRUPT), ("cache", CACHES)):
            if getattr(self, field) not in known:
                raise ValueError(f"config.data.{field}={getattr(self, field)!r}: must be one of {known}")
        if self.val and self.holdout:
            raise ValueError(f"config.data: val={self.val!r} and holdout={self.holdout} exclude each other")
        if self.shots and (self.k_shot or self.fraction != 1.0):
            raise ValueError("config.data: shots lists the labelled clips, so k_shot and fraction have to be 0 and 1.0")

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

    def alone(self, record: dict[str, Any]) -> dict[str, np.ndarray]:
        """One record from outside of any dataset (a raw video) → decoded arrays with b = 1."""
        return self.decode([(record,)], None)

    def prepare(self, batch, *, train: bool, key=None):
        """On the device, inside jit: from decoded arrays to what models read. `key` is None unless `train`."""
        return batch

    # What is shared.

    def check(self) -> None:
        """Raises ValueError when a column is not what this section says it is."""
        self.element_spec()
        _ = self.teacher_column

    @property
    def present(self) -> bool:
        """False in a dry run on a machine without the dataset."""
        return (Path(self.root) / "dataset.json").is_file()

    @functools.cached_property
    def catalog(self) -> catalogs.Catalog:
        return catalogs.Catalog.load(self.root)

    @functools.cached_property
    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(self.root, name) for name in self.column_names)

    @property
    def needed(self) -> tuple[Column, ...]:
        """Those of `columns` without whose record nothing is known of a clip (`missing`)."""
        return self.columns

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes or self.catalog.class_names

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [clips]: index into `class_names`, -1 for none."""
        if not self.classes:
            return self.catalog.labels()
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index.get(c.label, catalogs.UNLABELLED) for c in self.catalog.clips], np.int32)

    @functools.cached_property
    def targets(self) -> np.ndarray:
        """float32 [clips, targets]; width 0 for a dataset without regression targets."""
        width = max((len(c.targets) for c in self.catalog.clips), default=0)
        wrong = [c.id for c in self.catalog.clips if len(c.targets) not in (0, width)]
        if wrong:
            raise catalogs.CatalogError(f"{self.root}: clips {wrong[:3]} have another number of targets than {width}")
        return np.array([c.targets or (np.nan,) * width for c in self.catalog.clips], np.float32).reshape(
            -1 if width else len(self.catalog.clips), width
        )

    @functools.cached_property
    def teacher_column(self) -> Column | None:
        """Raises ValueError when its soft labels are not over this dataset's classes."""
        if not self.teacher:
            return None
        column = Column(self.root, self.teacher)
        of_probs = column.spec.schema.get("probs")
        told = column.spec.parameters.get("class_names", list(self.class_names))
        if of_probs is None or of_probs.shape != (len(self.class_names),) or list(told) != list(self.class_names):
            raise ValueError(
                f"config.data.teacher={self.teacher!r}: needs a field `probs` [{len(self.class_names)}] over the classes of "
                f"{self.root}, found {column.spec.schema} over {list(told)[:5]} …"
            )
        return column

    @functools.cached_property
    def fingerprint(self) -> dict[str, str]:
        """Of everything that training reads: the catalog and each column's content."""
        read = [*self.columns, *([self.teacher_column] if self.teacher else [])]
        return {"catalog": self.catalog.fingerprint} | {c.spec.name: c.fingerprint for c in read}

    @functools.cached_property
    def _chosen(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64, sorted: the training clips, those among them whose label is used, the validation clips."""
        whole, others = self.catalog_rows(self.train), np.array([], np.int64)
        if self.unlabelled:
            of_splits = [catalogs.select(self.catalog, split, classes=self.classes) for split in self.unlabelled]
            others = self._with_records(np.unique(np.concatenate(of_splits)), "+".join(self.unlabelled))
        val = self.catalog_rows(self.val) if self.val else np.array([], np.int64)
        first = bool(self.k_shot or self.shots or self.unlabelled)
        if self.holdout and first:
            pool, val = catalogs.hold_out(self.catalog, np.union1d(whole, others), self.holdout, self.subset_seed)
            whole, others = np.intersect1d(whole, pool), np.intersect1d(others, pool)
        labelled = self._labelled(whole)
        if self.holdout and not first:
            labelled, val = catalogs.hold_out(self.catalog, labelled, self.holdout, self.subset_seed)
        return np.union1d(labelled, others), labelled, val

    def _labelled(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows`, training clips, whose label is used."""
        if not self.shots:
            return catalogs.reduce(
                self.catalog, rows, fraction=self.fraction, k_shot=self.k_shot, seed=self.subset_seed
            )
        wanted = self._with_records(catalogs.listed(self.catalog, self.shots), self.train)
        if outside := [self.catalog.clips[r].id for r in np.setdiff1d(wanted, rows)]:
            raise catalogs.CatalogError(
                f"{self.shots}: {len(outside)} clips are not in split {self.train!r} (or held out): {outside[:3]}"
            )
        return wanted

    @functools.cached_property
    def training_labels(self) -> np.ndarray:
        """int32 [clips]: `labels`, -1 for the clips whose label training must not see."""
        train, labelled, _ = self._chosen
        labels = self.labels.copy()
        labels[np.setdiff1d(train, labelled)] = catalogs.UNLABELLED
        return labels

    def rows(self, split: str) -> np.ndarray:
        """int64 [n], sorted: the clips of "train", "val", or any split of the catalog that the columns allow."""
        if split == "train":
            return self._chosen[0]
        if split == "val" and (self.holdout or self.val not in ("", "val")):
            return self._chosen[2]
        return self.catalog_rows(split)

    def catalog_rows(self, name: str) -> np.ndarray:
        """int64 [n], sorted: a split as the catalog has it, whatever part of it this run trains or selects on."""
        return self._with_records(catalogs.select(self.catalog, name, classes=self.classes), name)

    def only_selects(self, split: str) -> bool:
        """Whether training sees this split's clips and, as the config says, none of their labels: the validation split
        of a student that a teacher labels."""
        return bool(self.val) and self.val in self.unlabelled and split in ("val", self.val)

    def _with_records(self, rows: np.ndarray, split: str) -> np.ndarray:
        ids = [self.catalog.clips[r].id for r in rows]
        present = np.all([c.rows(ids) >= 0 for c in self.needed], axis=0)
        if not present.all():
            gone = [i for i, p in zip(ids, present, strict=True) if not p]
            what = "dropped" if self.missing == "drop" else "kept with nothing visible"
            logging.warning("%s: %d of %d clips have no record in %s and are %s: %s …",
                            split, len(gone), len(ids), self.column_names, what, gone[:3])  # fmt: skip
        kept = rows[present] if self.missing == "drop" else rows
        if not len(kept):
            raise catalogs.CatalogError(f"{self.root}: no clip of split {split!r} has a record in {self.column_names}")
        return kept

    def training_clips(self) -> np.ndarray:
        """int64 [n]: rows of one epoch, repeated where `balance` asks for it."""
        rows = self.rows("train")
        if not self.balance:
            return rows
        labels = self.training_labels[rows]
        known = labels[labels >= 0]
        most = np.bincount(known).max(initial=0)
        return np.concatenate([rows[labels < 0], *(np.resize(rows[labels == c], most) for c in np.unique(known))])

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

    def fake(self, batch: int, num_classes: int) -> dict[str, np.ndarray]:
        """Random decoded arrays of the right shapes, for `--dry_run` on a machine without the data."""
        rng = np.random.default_rng(0)
        arrays = {k: rng.random((batch, *shape)).astype(dtype) for k, (shape, dtype) in self.element_spec().items()}
        return arrays | {
            "clip": np.arange(batch, dtype=np.int32),
            "label": np.arange(batch, dtype=np.int32) % num_classes,
            "target": np.zeros((batch, num_classes), np.float32),
            "valid": np.ones(batch, bool),
            "teacher": np.full((batch, num_classes), 1 / num_classes, np.float32),
            "taught": np.ones(batch, bool),
        }
